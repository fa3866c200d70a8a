//! The Open Service Broker API 2.17 over HTTP: it checks what platforms ask for, writes it down with a job, and
//! reports how far the work is. It does none of the work.

mod bindings;
mod catalog;
mod cedar;
mod instances;

mod answer;
mod faults;
mod guard;
mod issuers;
mod openapi;
mod tenants;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, put},
};
use model::{UpstreamRule, faults::Faults, plan::Plan, platforms::Platforms};
use store::Store;
use tokio::sync::watch;

pub use catalog::{SERVICE_ID, STANDARD_PLAN_ID};
pub use guard::{Credentials, SignedIn, Tenants, authorized, same};
pub use issuers::Issuers;

/// What the broker needs.
#[derive(Debug, Clone)]
pub struct Broker {
    /// Where instances are written, with their jobs.
    pub store: Arc<dyn Store>,
    /// Who may ask, and for how much; from the next request on when it changes.
    pub platforms: watch::Receiver<Arc<Platforms>>,
    /// What is to go wrong on purpose.
    pub faults: watch::Receiver<Arc<Faults>>,
    /// Where upstreams may be.
    pub upstreams: UpstreamRule,
    /// Those that can be ordered here.
    pub plans: Arc<[Plan]>,
    /// Issuers whose keys are followed, here and for the fleet. A service that trusts another one could never let anybody
    /// in.
    pub issuers: watch::Receiver<Arc<Issuers>>,
    /// What else the fleet can check credentials with.
    pub edge: Arc<EdgeFacts>,
}

/// What services may ask for, since the edge has it.
#[derive(Debug, Clone, Default)]
pub struct EdgeFacts {
    /// The issuers who can be asked about their tokens.
    pub introspection: Vec<String>,
    /// Whether there is a listener that asks clients for certificates.
    pub asks_for_certificates: bool,
    /// Whether upstreams can be told by a signed token who sends a request.
    pub signs_identities: bool,
}

/// More than any service file, whose own bound is told by its name.
const MAX_BODY_BYTES: usize = 1024 * 1024;

impl Broker {
    /// The routes under `/v2`.
    pub fn router(self) -> Router {
        Router::new()
            .route("/v2/catalog", get(catalog::catalog))
            .route(
                "/v2/service_instances/{id}",
                put(instances::provision)
                    .patch(instances::update)
                    .delete(instances::deprovision)
                    .get(instances::fetch),
            )
            .route("/v2/service_instances/{id}/last_operation", get(instances::last_operation))
            .route(
                "/v2/service_instances/{id}/service_bindings/{binding}",
                put(bindings::bind).delete(bindings::unbind).get(bindings::fetch),
            )
            .route(
                "/v2/service_instances/{id}/service_bindings/{binding}/last_operation",
                get(bindings::last_operation),
            )
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            // Of those that are called at all: `MatchedPath` is known inside of a route only.
            .route_layer(middleware::from_fn_with_state(self.clone(), faults::inject))
            .layer(middleware::from_fn_with_state(self.clone(), guard::guard))
            // It tells nothing that is not public, and tools fetch it before they sign in.
            .route("/v2/openapi.json", get(openapi::openapi))
            .with_state(self)
    }
}

#[cfg(test)]
mod tests;
