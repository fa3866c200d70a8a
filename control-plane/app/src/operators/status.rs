//! Everything at a glance: services, nodes, what was refused, what waits.

use ads::Load;
use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use context::Sources;
use model::instance::Instance;
use serde_json::{Value, json};

use super::{Operators, store_is_away, unauthorized};

pub(super) async fn status(State(operators): State<Operators>, headers: HeaderMap) -> Response {
    let platforms = operators.platforms.borrow().clone();
    let issuers = operators.issuers.borrow().clone();
    let platform = broker::authorized(&headers, &platforms, &issuers);
    if platform.is_none() && operators.operator(&headers).is_none() {
        let challenge = "Basic realm=\"gatehouse\", charset=\"UTF-8\", Bearer realm=\"gatehouse\"";
        return unauthorized(challenge, "credentials of a platform or the token of an operator are needed");
    }
    // Others' services are not a platform's affair.
    let may_see = |instance: &&Instance| {
        platform.as_ref().is_none_or(|platform| platform.may_see(&instance.request.owner))
    };
    let read = async {
        let (instances, _) = operators.store.changed_since(0).await?;
        Ok((instances, operators.store.controls(&operators.group).await?))
    };
    let (instances, controls) = match read.await {
        Ok(found) => found,
        Err(error) => return store_is_away(&error),
    };
    let faults = operators.faults.get().clone();
    let loads = operators.hub.loads();
    let shown: Vec<_> = instances.iter().filter(|instance| !instance.gone).filter(may_see).collect();
    let services: Vec<_> = shown.iter().map(|instance| service(instance, loads.get(&instance.id))).collect();
    let refused: Vec<_> = (faults.services.iter())
        .filter(|(id, _)| platform.is_none() || shown.iter().any(|instance| instance.id == **id))
        .map(|(id, refusal)| json!({"instance": id, "revision": refusal.rev, "cause": refusal.cause}))
        .collect();
    let held: Vec<_> = faults.held.iter().map(|held| json!({"id": held.id, "why": held.why})).collect();
    let snapshot = operators.hub.snapshot(&operators.group);
    Json(json!({
        "generation": snapshot.map_or(0, |snapshot| snapshot.generation()),
        "templates": { "fault": faults.edge },
        "sources": operators.sources.as_ref().map(Sources::all),
        "held": held,
        "pause": controls.pause,
        "refused": refused,
        "services": services,
        "nodes": operators.hub.nodes(),
    }))
    .into_response()
}

pub(super) async fn sources(State(operators): State<Operators>) -> Response {
    Json(json!({ "sources": operators.sources.as_ref().map(Sources::all) })).into_response()
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
