//! What workers have to do, and what they have given up.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use model::{InstanceId, audit::Entry};
use queue::QueueError;
use serde_json::json;
use store::{Put, StoreError, Write};

use super::{Operator, Operators, refusal, store_is_away};

pub(super) async fn list(State(operators): State<Operators>) -> Response {
    let read = async { Ok((operators.queue.depth().await?, operators.queue.dead().await?)) };
    match read.await {
        Ok((depth, dead)) => Json(json!({ "depth": depth, "dead": dead })).into_response(),
        Err(error) => queue_is_away(&error),
    }
}

pub(super) async fn retry(
    State(operators): State<Operators>,
    Extension(Operator(by)): Extension<Operator>,
    Path(id): Path<String>,
) -> Response {
    tracing::warn!(operator = by, job = id, "a dead letter is handed out again");
    match operators.queue.revive(&id).await {
        Ok(true) => Json(json!({})).into_response(),
        Ok(false) => unknown(&id),
        Err(error) => queue_is_away(&error),
    }
}

/// Throws a dead letter away. Its operation has failed then, so that the platform may ask for another one.
pub(super) async fn discard(
    State(operators): State<Operators>,
    Extension(Operator(by)): Extension<Operator>,
    Path(id): Path<String>,
) -> Response {
    let dead = match operators.queue.dead().await {
        Ok(dead) => dead,
        Err(error) => return queue_is_away(&error),
    };
    let Some(letter) = dead.into_iter().find(|letter| letter.id == id) else { return unknown(&id) };
    tracing::warn!(operator = by, job = id, cause = letter.cause, "a dead letter is thrown away");
    // First the operation: after a crash here the letter is still there.
    if let Some(job) = letter.job
        && let Err(error) = fail(&operators, &job.instance, &id, &by).await
    {
        return store_is_away(&error);
    }
    match operators.queue.drop_dead(&id).await {
        Ok(_) => Json(json!({})).into_response(),
        Err(error) => queue_is_away(&error),
    }
}

/// Ends the operation, if it still is under way. What the fleet has proven to run stays published.
async fn fail(operators: &Operators, id: &InstanceId, operation: &str, by: &str) -> Result<(), StoreError> {
    loop {
        let Some(mut instance) = operators.store.get(id).await? else { return Ok(()) };
        if instance.operation.id != operation || !instance.operation.in_progress() {
            return Ok(());
        }
        instance.fail(None, format!("given up, and its job was dropped by the operator {by}"));
        let entry = Entry::ended(&instance);
        instance.settle();
        let write = Write { entry: Some(&entry), ..Write::of(&instance) };
        if operators.store.put(write).await? != Put::Conflict {
            return Ok(());
        }
    }
}

fn unknown(id: &str) -> Response {
    refusal(StatusCode::NOT_FOUND, &format!("id: no dead letter has it, got {id:?}"))
}

fn queue_is_away(error: &QueueError) -> Response {
    tracing::error!(error = %error, cause = ?error.source, "the queue does not answer");
    refusal(StatusCode::SERVICE_UNAVAILABLE, "the queue does not answer")
}
