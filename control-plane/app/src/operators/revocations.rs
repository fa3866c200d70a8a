//! What operators withdraw before its time, and how far the fleet has come with it.

use std::time::{SystemTime, UNIX_EPOCH};

use api::{ResourceType, pb, revocation};
use axum::{
    Extension, Json,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use model::revocation::{Revocation, Wanted, What};
use prost::Message as _;
use resources::{Key, Resource};
use serde_json::json;
use store::Revoke;

use super::{Operator, Operators, refusal, store_is_away};

/// Revokes something: from now on, whatever becomes of the fleet.
pub(super) async fn revoke(
    State(operators): State<Operators>,
    Extension(Operator(by)): Extension<Operator>,
    body: Result<Json<Wanted>, JsonRejection>,
) -> Response {
    let wanted = match body {
        Ok(Json(wanted)) => wanted,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let revocation = match wanted.checked(&by, now) {
        Ok(revocation) => revocation,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match operators.store.revoke(&revocation).await {
        Ok(Revoke::Stored { entries, widened }) => {
            // Not whom it is about: logs are read by more people than the audit log.
            tracing::warn!(operator = by, name = revocation.name, "revoked");
            if !widened.is_empty() {
                let names: Vec<_> = widened.iter().map(|entry| &entry.name).collect();
                tracing::warn!(?names, "the table of revocations is full: some became part of wider ones");
            }
            Json(json!({"name": revocation.name, "entries": entries, "widened": widened})).into_response()
        }
        Ok(Revoke::Full(full)) => refusal(StatusCode::CONFLICT, &full.to_string()),
        Err(error) => store_is_away(&error),
    }
}

/// All that is revoked, in the order of their names.
pub(super) async fn list(State(operators): State<Operators>) -> Response {
    match operators.store.revocations(None).await {
        Ok(all) => {
            let mut entries = all.map(|(entries, _)| entries).unwrap_or_default();
            entries.sort_by(|one, other| one.name.cmp(&other.name));
            Json(json!({ "revocations": entries })).into_response()
        }
        Err(error) => store_is_away(&error),
    }
}

/// One of them, or that there is none, and which of this replica's nodes know it.
pub(super) async fn one(State(operators): State<Operators>, Path(name): Path<String>) -> Response {
    let read = async {
        let entry = operators.store.revocation(&name).await?;
        Ok((entry, operators.store.controls(&operators.group).await?))
    };
    let (entry, controls) = match read.await {
        Ok(found) => found,
        Err(error) => return store_is_away(&error),
    };
    let key = Key { kind: ResourceType::AuthnRevocations, name: name.as_str().into() };
    let snapshot = operators.hub.snapshot(&operators.group).filter(|snapshot| snapshot.generation() > 0);
    let served = snapshot.as_ref().and_then(|snapshot| snapshot.find(key.kind, &name));
    let is_published = snapshot.is_some()
        && match (&entry, served) {
            (None, None) => true,
            (Some(entry), Some(served)) => says(served, entry),
            _ => false,
        };
    let (connected, holding) =
        operators.hub.holders(&operators.group, &key, served.map(|served| &served.version));
    Json(json!({
        "revocation": entry,
        // A replica that renders nothing has no nodes, and knows of nobody's.
        "serves": operators.contexts.is_some(),
        "published": is_published,
        "nodes": {"connected": connected, "acknowledged": if is_published { holding } else { 0 }},
        "pause": controls.pause,
    }))
    .into_response()
}

/// Whether what is served is this entry, and not what it was before.
fn says(served: &Resource, entry: &Revocation) -> bool {
    let wire = pb::authn::Revocations::decode(served.body.clone()).ok();
    let served = wire.and_then(|wire| revocation::Revocation::try_from(wire).ok());
    served.is_some_and(|served| {
        let since = match (&entry.what, served.what) {
            (What::Subject(wanted), revocation::Revoked::Subject { since, .. }) => since == wanted.since,
            (What::IssuerSince(wanted), revocation::Revoked::Issuer { since, .. }) => since == wanted.since,
            // All else is in the name.
            _ => true,
        };
        since && served.expires == entry.expires
    })
}

/// What was revoked is good again, as far as it is otherwise.
pub(super) async fn take_back(
    State(operators): State<Operators>,
    Extension(Operator(by)): Extension<Operator>,
    Path(name): Path<String>,
) -> Response {
    match operators.store.take_back(&name, &by).await {
        Ok(Some(revocation)) => {
            tracing::warn!(operator = by, name, "a revocation is taken back");
            Json(json!({ "revocation": revocation })).into_response()
        }
        Ok(None) => {
            refusal(StatusCode::NOT_FOUND, &format!("name: nothing of this name is revoked, got {name:?}"))
        }
        Err(error) => store_is_away(&error),
    }
}
