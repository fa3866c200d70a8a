//! Answers in the form that OSB defines: a status that the spec allows there, and JSON for people and platforms.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use store::StoreError;

/// Seconds after which a platform may ask for the operation again.
const RETRY_AFTER_SECS: &str = "1";

/// Any answer of the broker.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A body with its status.
    Body(StatusCode, Value),
    /// A refusal: `error` is one of the spec's codes, or none fits.
    Refused { status: StatusCode, error: Option<&'static str>, description: String },
}

impl Answer {
    pub(crate) fn ok(body: Value) -> Self {
        Self::Body(StatusCode::OK, body)
    }

    /// 202, with the operation to ask for.
    pub(crate) fn accepted(operation: &str) -> Self {
        Self::Body(StatusCode::ACCEPTED, json!({ "operation": operation }))
    }

    pub(crate) fn bad_request(description: impl Into<String>) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, description)
    }

    pub(crate) fn refused(status: StatusCode, description: impl Into<String>) -> Self {
        Self::Refused { status, error: None, description: description.into() }
    }

    /// OSB "Asynchronous Operations": the platform must ask for it.
    pub(crate) fn async_required() -> Self {
        Self::Refused {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            error: Some("AsyncRequired"),
            description: "accepts_incomplete: must be true, since this service is made asynchronously".into(),
        }
    }

    /// OSB "Maintenance Info": the platform has read another version of the catalog.
    pub(crate) fn maintenance_info(ours: &str, theirs: &str) -> Self {
        Self::Refused {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            error: Some("MaintenanceInfoConflict"),
            description: format!(
                "maintenance_info.version: must be {ours} as in the catalog, got {theirs:?}; read the catalog again"
            ),
        }
    }

    /// What is asked for is well said, and cannot be had.
    pub(crate) fn unprocessable(description: impl Into<String>) -> Self {
        Self::refused(StatusCode::UNPROCESSABLE_ENTITY, description)
    }

    /// OSB "Blocking Operations".
    pub(crate) fn concurrency() -> Self {
        Self::Refused {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            error: Some("ConcurrencyError"),
            description: "another operation of this instance is in progress; ask again when it has ended"
                .into(),
        }
    }
}

impl From<StoreError> for Answer {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %error, cause = ?error.source, "answering 503");
        Self::refused(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer; nothing was changed")
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self {
            Self::Body(status, body) => {
                let mut response = (status, Json(body)).into_response();
                if status == StatusCode::ACCEPTED {
                    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS));
                }
                response
            }
            Self::Refused { status, error, description } => {
                let body = match error {
                    Some(error) => json!({ "error": error, "description": description }),
                    None => json!({ "description": description }),
                };
                (status, Json(body)).into_response()
            }
        }
    }
}
