//! What templates see and what comes of it for a node: so that a render elsewhere can be compared with what is live.

use ads::node_facts;
use api::ResourceType;
use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use context::Sources;
use model::{context::Service, node::Transport, revocation::LIST};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Operators, refusal};
use crate::issuers::with_keys;

/// A node, as its bootstrap describes it, and how it asks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    node: Value,
    #[serde(default)]
    transport: Transport,
}

const REDACTED: &str = "[redacted]";

pub(super) async fn context(State(operators): State<Operators>) -> Response {
    let Some(contexts) = &operators.contexts else { return renders_nothing() };
    let context = contexts.borrow().clone();
    let services = context.services.values().filter(|service| service.group == operators.group);
    let services: Vec<_> = services.map(|service| redacted(service)).collect();
    let values = operators.sources.as_ref().map(Sources::shown).unwrap_or_default();
    // Public keys, which a render elsewhere needs too.
    let mut values = with_keys(values, &operators.keys.sets().borrow());
    values.extend(context.values.get(LIST).map(|list| (LIST.to_owned(), list.clone())));
    Json(json!({ "context": values, "services": services })).into_response()
}

fn redacted(service: &Service) -> Service {
    let mut service = service.clone();
    if let Some(certificate) = &mut service.certificate {
        REDACTED.clone_into(&mut certificate.key);
    }
    service
}

/// The versions that a node gets now.
pub(super) async fn select(
    State(operators): State<Operators>,
    body: Result<Json<Asked>, JsonRejection>,
) -> Response {
    let Asked { node, transport } = match body {
        Ok(Json(asked)) => asked,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let facts = match node_facts(node, transport) {
        Ok(facts) => facts,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error),
    };
    let Some(selection) = operators.hub.select(&operators.group, &facts) else { return renders_nothing() };
    let mut snapshots = operators.hub.snapshots(&operators.group).into_iter();
    let found = snapshots.find(|(known, snapshot)| *known == selection && snapshot.generation() > 0);
    let Some((_, snapshot)) = found else {
        let what = format!("node: nothing is rendered for `{selection}`, since no such node is connected");
        return refusal(StatusCode::NOT_FOUND, &what);
    };
    let resources = ResourceType::ALL.iter().flat_map(|kind| snapshot.all(*kind)).map(|resource| {
        let key = &resource.key;
        json!({"kind": key.kind.label(), "name": &*key.name, "version": &*resource.version})
    });
    let resources: Vec<_> = resources.collect();
    Json(json!({ "selection": selection.to_string(), "resources": resources })).into_response()
}

fn renders_nothing() -> Response {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "this replica renders nothing, or has not begun to")
}
