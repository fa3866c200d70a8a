//! The operators' API: what runs where, and what does not.

use std::sync::Arc;

use ads::{Hub, Load};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use broker::Credentials;
use model::instance::Instance;
use serde_json::{Value, json};
use store::Store;

use crate::publisher::SharedFaults;

/// What the API reads.
#[derive(Clone)]
pub(crate) struct Operators {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) faults: SharedFaults,
    pub(crate) platforms: Arc<Vec<Credentials>>,
    pub(crate) group: String,
}

impl Operators {
    pub(crate) fn router(self) -> Router {
        Router::new().route("/api/status", get(status)).with_state(self)
    }
}

async fn status(State(operators): State<Operators>, headers: HeaderMap) -> Response {
    if broker::authorized(&headers, &operators.platforms).is_none() {
        return (StatusCode::UNAUTHORIZED, Json(json!({"description": "credentials are needed"})))
            .into_response();
    }
    let instances = match operators.store.changed_since(0).await {
        Ok((instances, _)) => instances,
        Err(error) => {
            tracing::error!(error = %error, cause = ?error.source, "the store does not answer");
            return (
                StatusCode::SERVICE_UNAVAILABLE,
                Json(json!({"description": "the store does not answer"})),
            )
                .into_response();
        }
    };
    let faults = operators.faults.get().clone();
    let loads = operators.hub.loads();
    let live = instances.iter().filter(|instance| !instance.gone);
    let services: Vec<_> = live.map(|instance| service(instance, loads.get(&instance.id))).collect();
    let refused: Vec<_> = (faults.services.iter())
        .map(|(id, refusal)| json!({"instance": id, "revision": refusal.rev, "cause": refusal.cause}))
        .collect();
    let snapshot = operators.hub.snapshot(&operators.group);
    Json(json!({
        "generation": snapshot.map_or(0, |snapshot| snapshot.generation()),
        "templates": { "fault": faults.edge, "held": faults.held },
        "refused": refused,
        "services": services,
        "nodes": operators.hub.nodes(),
    }))
    .into_response()
}

/// Without keys: a certificate is not part of it.
fn service(instance: &Instance, load: Option<&Load>) -> Value {
    let parameters = &instance.request.parameters;
    json!({
        "instance": instance.id,
        "service": parameters["service"],
        "hosts": parameters["hosts"],
        "revision": instance.revision,
        "live_revision": instance.proven.as_ref().map(|proven| proven.rev),
        "operation": instance.operation,
        // What the nodes report, since this replica started.
        "load": load,
    })
}
