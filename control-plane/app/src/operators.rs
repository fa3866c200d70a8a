//! The operators' API: what runs where, what does not and why, and the few things that people decide.
//!
//! Operators sign in with a bearer token; whoever has a platform's credentials may read the status, since it answers
//! the question of a service's owner.

mod context;
mod controls;
mod drift;
mod issuers;
mod jobs;
mod nodes;
mod resources;
mod revocations;
mod services;
mod status;

use std::sync::{Arc, Mutex};

use ::context::Sources;
use ::keys::Keys;
use ::resources::History;
use ads::Hub;
use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use broker::{Credentials, Issuers};
use model::{context::Context, platforms::Platforms};
use queue::Queue;
use serde_json::json;
use store::{Store, StoreError};
use tokio::sync::watch;
use worker::Reconciler;

use crate::publisher::SharedFaults;

/// What the API reads and writes.
#[derive(Clone)]
pub(crate) struct Operators {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) faults: SharedFaults,
    /// `None` where this process renders nothing.
    pub(crate) sources: Option<Sources>,
    /// What templates see; also `None` there.
    pub(crate) contexts: Option<watch::Receiver<Arc<Context>>>,
    pub(crate) history: Arc<Mutex<History>>,
    pub(crate) platforms: watch::Receiver<Arc<Platforms>>,
    pub(crate) issuers: watch::Receiver<Arc<Issuers>>,
    /// What follows their keys.
    pub(crate) keys: Keys,
    /// Names and tokens of those who may decide.
    pub(crate) people: Arc<Vec<Credentials>>,
    pub(crate) group: String,
    /// `None` where this process does no work outside of the fleet.
    pub(crate) reconciler: Option<Reconciler>,
}

/// Who asks.
#[derive(Debug, Clone)]
struct Operator(String);

impl Operators {
    pub(crate) fn router(self) -> Router {
        let own = Router::new()
            .route("/api/nodes", get(nodes::list))
            .route("/api/nodes/{*id}", get(nodes::one))
            .route("/api/diff/{*id}", get(nodes::diff))
            .route("/api/resources", get(resources::list))
            .route("/api/resources/{kind}/{*name}", get(resources::one))
            .route("/api/jobs", get(jobs::list))
            .route("/api/jobs/{id}/retry", post(jobs::retry))
            .route("/api/jobs/{id}/drop", post(jobs::discard))
            .route("/api/audit", get(services::audit))
            .route("/api/drift", get(drift::last).post(drift::look))
            .route("/api/issuers", get(self::issuers::list))
            .route("/api/issuers/refresh", post(self::issuers::refresh))
            .route("/api/services/{id}/adopt", post(drift::adopt))
            .route("/api/services/{id}/purge", post(services::purge))
            .route("/v2/service_instances", get(services::list))
            .route("/api/revocations", get(revocations::list).post(revocations::revoke))
            .route("/api/revocations/{name}", get(revocations::one).delete(revocations::take_back))
            .route("/api/sources", get(status::sources))
            .route("/api/context", get(self::context::context))
            .route("/api/select", post(self::context::select))
            .route("/api/pause", post(controls::pause))
            .route("/api/resume", post(controls::resume))
            .route("/api/held/{id}/confirm", post(controls::confirm))
            .layer(middleware::from_fn_with_state(self.clone(), operators_only));
        Router::new().route("/api/status", get(status::status)).merge(own).with_state(self)
    }

    /// The operator whose token a request carries.
    fn operator(&self, headers: &HeaderMap) -> Option<Operator> {
        let (scheme, given) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        // All are compared, each in constant time.
        let is_given = |one: &Credentials| broker::same(one.password.as_bytes(), given.trim().as_bytes());
        let given = self.people.iter().fold(None, |found, one| if is_given(one) { Some(one) } else { found });
        given.map(|one| Operator(one.user.clone()))
    }
}

async fn operators_only(State(operators): State<Operators>, mut request: Request, next: Next) -> Response {
    match operators.operator(request.headers()) {
        Some(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        None => unauthorized("Bearer realm=\"gatehouse\"", "the token of an operator is needed"),
    }
}

fn unauthorized(challenge: &'static str, description: &str) -> Response {
    let mut response = refusal(StatusCode::UNAUTHORIZED, description);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

fn refusal(status: StatusCode, description: &str) -> Response {
    (status, Json(json!({ "description": description }))).into_response()
}

fn store_is_away(error: &StoreError) -> Response {
    tracing::error!(error = %error, cause = ?error.source, "the store does not answer");
    refusal(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer")
}
