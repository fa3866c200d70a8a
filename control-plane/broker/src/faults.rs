//! Answers that go wrong on purpose, where operators of a development machine have asked for it.

use std::time::Duration;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use model::faults::{Call, Effect};

use crate::{Broker, answer::Answer};

/// Does what is asked for, and then what is to go wrong.
pub(crate) async fn inject(State(broker): State<Broker>, request: Request, next: Next) -> Response {
    let effect = effect(&broker, &request);
    match effect {
        Some(Effect::Answer(status)) => answered(status),
        Some(Effect::AnswerAfterwards(status)) => {
            next.run(request).await;
            answered(status)
        }
        Some(Effect::DelaySecs(secs)) => {
            let response = next.run(request).await;
            tokio::time::sleep(Duration::from_secs(secs)).await;
            response
        }
        Some(Effect::Malformed(_)) => {
            let (parts, _) = next.run(request).await.into_parts();
            Response::from_parts(parts, "{\"operation\": ".into())
        }
        // Those of operations are the worker's.
        None | Some(Effect::NeverEnds(_) | Effect::Fails(_)) => next.run(request).await,
    }
}

fn effect(broker: &Broker, request: &Request) -> Option<Effect> {
    let call = call(request)?;
    let instance = request.uri().path().split('/').nth(3).unwrap_or_default();
    let effect = broker.faults.borrow().of_answer(call, instance)?;
    tracing::warn!(?call, instance, ?effect, "a fault that was asked for");
    Some(effect)
}

fn call(request: &Request) -> Option<Call> {
    let path = request.extensions().get::<MatchedPath>()?.as_str();
    let path = path.strip_prefix("/v2/")?;
    Some(match (request.method(), path.trim_start_matches("service_instances/{id}")) {
        (&Method::GET, "catalog") => Call::Catalog,
        (&Method::PUT, "") => Call::Provision,
        (&Method::PATCH, "") => Call::Update,
        (&Method::DELETE, "") => Call::Deprovision,
        (&Method::GET, "") => Call::Fetch,
        (&Method::GET, "/last_operation") => Call::LastOperation,
        (&Method::PUT, "/service_bindings/{binding}") => Call::Bind,
        (&Method::DELETE, "/service_bindings/{binding}") => Call::Unbind,
        (&Method::GET, "/service_bindings/{binding}") => Call::FetchBinding,
        (&Method::GET, "/service_bindings/{binding}/last_operation") => Call::LastBindingOperation,
        _ => return None,
    })
}

fn answered(status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Answer::refused(status, "a fault that was asked for").into_response()
}
