//! What people decide: to stop the pushes for a while, and to let a change pass that was held. Written to the
//! store, so that all replicas do the same.

use axum::{
    Extension, Json,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use model::controls::{Controls, Pause};
use serde::Deserialize;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Operator, Operators, refusal, store_is_away};

/// The body of a pause.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reason {
    reason: String,
}

/// Somebody else decides at the same time; nobody does so more often.
const MAX_TRIES: usize = 5;

pub(super) async fn pause(
    State(operators): State<Operators>,
    Extension(Operator(by)): Extension<Operator>,
    body: Result<Json<Reason>, JsonRejection>,
) -> Response {
    let reason = match body {
        Ok(Json(Reason { reason })) if !reason.trim().is_empty() => reason,
        Ok(_) => return refusal(StatusCode::BAD_REQUEST, "reason: must say why, got nothing"),
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let since = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    tracing::warn!(operator = by, reason, "pushes are paused");
    let pause = Pause { by, reason, since };
    decide(&operators, |controls| controls.pause = Some(pause.clone())).await
}

pub(super) async fn resume(
    State(operators): State<Operators>,
    Extension(Operator(by)): Extension<Operator>,
) -> Response {
    tracing::warn!(operator = by, "pushes go on");
    decide(&operators, |controls| controls.pause = None).await
}

pub(super) async fn confirm(
    State(operators): State<Operators>,
    Extension(Operator(by)): Extension<Operator>,
    Path(id): Path<String>,
) -> Response {
    let held = operators.faults.get().held.clone();
    if !held.iter().any(|held| held.id.as_ref() == Some(&id)) {
        let known: Vec<_> = held.iter().filter_map(|held| held.id.clone()).collect();
        let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
        return refusal(StatusCode::NOT_FOUND, &format!("id: what is held is {known}, got {id:?}"));
    }
    tracing::warn!(operator = by, id, "a held change is confirmed");
    decide(&operators, |controls| controls.confirmed = Some(id.clone())).await
}

async fn decide(operators: &Operators, change: impl Fn(&mut Controls)) -> Response {
    let Operators { store, group, .. } = operators;
    for _ in 0..MAX_TRIES {
        let decided = async {
            let before = store.controls(group).await?;
            let mut after = before.clone();
            change(&mut after);
            Ok(store.decide(group, &before, &after).await?.then_some(after))
        };
        match decided.await {
            Ok(Some(after)) => return Json(json!(after)).into_response(),
            Ok(None) => {}
            Err(error) => return store_is_away(&error),
        }
    }
    refusal(StatusCode::CONFLICT, "others decide at the same time; try again")
}
