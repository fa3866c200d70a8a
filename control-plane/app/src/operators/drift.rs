//! How what exists outside of the fleet differs from what is wanted.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use model::{Host, InstanceId, audit::Entry};
use runtime::telemetry::chain;
use serde::Deserialize;
use serde_json::json;
use store::{Put, Write};
use worker::{Mending, ProviderError, Reconciler};

use super::{Operator, Operators, refusal, store_is_away};

/// What the last look around found.
pub(super) async fn last(State(operators): State<Operators>) -> Response {
    match operators.store.drift().await {
        Ok(drift) => Json(json!({ "drift": drift })).into_response(),
        Err(error) => store_is_away(&error),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Look {
    /// Whether what differs is put right.
    #[serde(default)]
    mend: bool,
}

/// Looks around now.
pub(super) async fn look(
    State(operators): State<Operators>,
    Extension(Operator(by)): Extension<Operator>,
    Json(Look { mend }): Json<Look>,
) -> Response {
    let Some(reconciler) = &operators.reconciler else { return no_worker() };
    tracing::warn!(operator = by, mend, "a look around");
    let mending = if mend { Mending::Mend } else { Mending::Report };
    let reconciler = reconciler.clone();
    // It goes on when nobody waits for its answer any more.
    let look = tokio::spawn(async move { reconciler.look(mending).await });
    let Ok(looked) = look.await else {
        return refusal(StatusCode::INTERNAL_SERVER_ERROR, "the look ended by itself");
    };
    match looked {
        Ok(Some(drift)) => Json(json!({ "drift": drift })).into_response(),
        Ok(None) => refusal(StatusCode::CONFLICT, "another process looks around just now"),
        Err(error) => store_is_away(&error),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Adoption {
    /// Names with records that Gatehouse did not make.
    #[serde(default)]
    hosts: Vec<Host>,
    /// The CDN's name of a distribution that Gatehouse did not make.
    #[serde(default)]
    distribution: Option<String>,
}

/// From now on these are the instance's to change: its next operation makes them what it wants.
pub(super) async fn adopt(
    State(operators): State<Operators>,
    Extension(Operator(by)): Extension<Operator>,
    Path(id): Path<String>,
    Json(adoption): Json<Adoption>,
) -> Response {
    let Some(reconciler) = &operators.reconciler else { return no_worker() };
    let id: InstanceId = match id.parse() {
        Ok(id) => id,
        Err(error) => {
            let error: model::InvalidInstanceId = error;
            return refusal(StatusCode::BAD_REQUEST, &error.to_string());
        }
    };
    tracing::warn!(operator = by, instance = %id, ?adoption, "adopting");
    for host in &adoption.hosts {
        if let Err(error) = reconciler.worker.dns.adopt(&id, host).await {
            return not_adopted(&error);
        }
    }
    match &adoption.distribution {
        None => Json(json!({})).into_response(),
        Some(name) => adopt_distribution(&operators, reconciler, &id, name, &by).await,
    }
}

async fn adopt_distribution(
    operators: &Operators,
    reconciler: &Reconciler,
    id: &InstanceId,
    name: &str,
    by: &str,
) -> Response {
    loop {
        let mut instance = match operators.store.get(id).await {
            Ok(Some(instance)) if !instance.gone => instance,
            Ok(_) => {
                return refusal(
                    StatusCode::NOT_FOUND,
                    "distribution: order the service first, so that it has an owner",
                );
            }
            Err(error) => return store_is_away(&error),
        };
        if instance.operation.in_progress() {
            return refusal(StatusCode::CONFLICT, "distribution: an operation is under way");
        }
        if let Some(known) = instance.distribution.as_ref().filter(|known| known.id != name) {
            return refusal(
                StatusCode::CONFLICT,
                &format!("distribution: the service has {} already", known.id),
            );
        }
        match reconciler.worker.cdn.adopt(id, name).await {
            Ok(adopted) => instance.distribution = Some(adopted),
            Err(error) => return not_adopted(&error),
        }
        instance.operation.description = format!("the distribution {name} was adopted by the operator {by}");
        let entry = Entry::ended(&instance);
        match operators.store.put(Write { entry: Some(&entry), ..Write::of(&instance) }).await {
            Ok(Put::Conflict) => {}
            Ok(_) => return Json(json!({})).into_response(),
            Err(error) => return store_is_away(&error),
        }
    }
}

fn no_worker() -> Response {
    refusal(StatusCode::CONFLICT, "this process does no work outside of the fleet; ask one that runs workers")
}

fn not_adopted(error: &ProviderError) -> Response {
    let status = if error.is_lasting { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_GATEWAY };
    refusal(status, &chain(error))
}
