//! What platforms have ordered, and who changed what.

use axum::{
    Extension, Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use model::{InstanceId, audit::Entry};
use serde_json::{Value, json};
use store::{Put, Write};
use uuid::Uuid;

use super::{Operator, Operators, refusal, store_is_away};

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

/// Forgets an instance, whatever state it is in: its routes leave the fleet, its hosts are free after the cool-down. What
/// it has outside of the fleet is left over, until a look around finds it.
pub(super) async fn purge(
    State(operators): State<Operators>,
    Extension(Operator(by)): Extension<Operator>,
    Path(id): Path<String>,
) -> Response {
    let unknown = || refusal(StatusCode::NOT_FOUND, &format!("id: no such service instance, got {id:?}"));
    let Ok(id) = id.parse::<InstanceId>() else { return unknown() };
    tracing::warn!(operator = by, instance = %id, "purged");
    loop {
        let mut instance = match operators.store.get(&id).await {
            Ok(Some(instance)) if !instance.gone => instance,
            Ok(_) => return unknown(),
            Err(error) => return store_is_away(&error),
        };
        // A new one, so that a job of the former has nothing to do any more.
        instance.purge(Uuid::new_v4().to_string(), &format!("purged by the operator {by}"));
        let entry = Entry::ended(&instance);
        match operators.store.put(Write { entry: Some(&entry), ..Write::of(&instance) }).await {
            Ok(Put::Conflict) => continue,
            Ok(_) => {}
            Err(error) => return store_is_away(&error),
        }
        return match operators.store.release(&id, &[]).await {
            Ok(()) => Json(json!({})).into_response(),
            Err(error) => store_is_away(&error),
        };
    }
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
