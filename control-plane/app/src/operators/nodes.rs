//! Nodes: what each runs, and how that differs from what it should.

use ads::Difference;
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use resources::Key;
use serde_json::json;

use super::{
    Operators, refusal,
    resources::{diff as diff_of, find},
};

/// A node that lacks more is told of by counts.
const MAX_DIFFS: usize = 200;

pub(super) async fn list(State(operators): State<Operators>) -> Response {
    Json(json!({ "nodes": operators.hub.nodes() })).into_response()
}

pub(super) async fn one(State(operators): State<Operators>, Path(id): Path<String>) -> Response {
    match operators.hub.node(&id) {
        Some(node) => Json(json!(node)).into_response(),
        None => unknown(&operators, &id),
    }
}

pub(super) async fn diff(State(operators): State<Operators>, Path(id): Path<String>) -> Response {
    let Some(differences) = operators.hub.differences(&id) else { return unknown(&operators, &id) };
    let count = differences.len();
    let shown = differences.into_iter().take(MAX_DIFFS).map(|difference| {
        let Difference { kind, name, held, wanted, refused } = &difference;
        let key = Key { kind: *kind, name: name.as_str().into() };
        let version = |version: &Option<String>| find(&operators, &key, version.as_ref()?);
        let state = match (refused, wanted) {
            (Some(_), _) => "refused",
            (None, None) => "leaving",
            (None, Some(_)) => "waiting",
        };
        let diff = diff_of(version(held).as_ref(), version(wanted).as_ref());
        json!({
            "kind": kind.label(), "name": name, "state": state,
            "held": held, "wanted": wanted, "refused": refused, "diff": diff,
        })
    });
    Json(json!({ "node": id, "differences": count, "shown": shown.collect::<Vec<_>>() })).into_response()
}

fn unknown(operators: &Operators, id: &str) -> Response {
    let known = operators.hub.nodes().len();
    refusal(
        StatusCode::NOT_FOUND,
        &format!("node: none of the {known} nodes of this replica has the id {id:?}"),
    )
}
