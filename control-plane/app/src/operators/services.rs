//! What platforms have ordered, and who changed what.

use axum::{
    Json,
    extract::{Query, State},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use super::{Operators, store_is_away};

/// All service instances that are there, as a list for other control planes. OSB has none; this one has the shape that
/// the predecessor's first source read.
pub(super) async fn list(State(operators): State<Operators>) -> Response {
    let instances = match operators.store.changed_since(0).await {
        Ok((instances, _)) => instances,
        Err(error) => return store_is_away(&error),
    };
    let present = instances.into_iter().filter(|instance| !instance.gone).map(|instance| {
        json!({
            "instance_id": instance.id,
            "service_id": instance.request.service_id,
            "plan_id": instance.request.plan_id,
            "parameters": instance.request.parameters,
            "service_clusters": [instance.group()],
            "owner": instance.request.owner,
            "revision": instance.revision,
            "published": instance.published.as_ref().map(|published| published.rev),
        })
    });
    Json(present.collect::<Vec<Value>>()).into_response()
}

/// A page of the audit log, newest first.
pub(super) async fn audit(
    State(operators): State<Operators>,
    Query(query): Query<model::audit::Query>,
) -> Response {
    match operators.store.audit(&query).await {
        Ok(entries) => Json(json!({ "entries": entries })).into_response(),
        Err(error) => store_is_away(&error),
    }
}
