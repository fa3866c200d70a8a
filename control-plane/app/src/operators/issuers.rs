//! Whose keys are in force, and how old they are.

use ::keys::Refused;
use axum::{
    Extension, Json,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use serde_json::json;

use super::{Operator, Operators, refusal};

pub(super) async fn list(State(operators): State<Operators>) -> Response {
    Json(json!({ "issuers": operators.keys.all() })).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refresh {
    issuer: String,
}

/// Looks at an issuer's keys now. The list tells what came of it.
pub(super) async fn refresh(
    State(operators): State<Operators>,
    Extension(Operator(by)): Extension<Operator>,
    Query(Refresh { issuer }): Query<Refresh>,
) -> Response {
    tracing::info!(operator = by, issuer, "keys are asked for early");
    match operators.keys.refresh(&issuer) {
        Ok(()) => Json(json!({})).into_response(),
        Err(error) => {
            let status = match error {
                Refused::Unknown => StatusCode::NOT_FOUND,
                Refused::TooSoon { .. } | Refused::Busy => StatusCode::TOO_MANY_REQUESTS,
            };
            refusal(status, &format!("{error}, got {issuer:?}"))
        }
    }
}
