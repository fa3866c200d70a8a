//! The same answers as JSON over HTTP, and what is in force, for people: `/json`, `/healthcheck`, `/rlconfig` of the
//! reference server.

use std::sync::Arc;

use api::descriptor_pool;
use axum::{
    Router,
    body::Bytes,
    extract::State as Given,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use envoy_types::pb::envoy::service::ratelimit::v3::{
    RateLimitRequest, RateLimitResponse, rate_limit_response::Code,
};
use prost_reflect::DynamicMessage;
use runtime::Readiness;

use crate::{config::Limit, service::RateLimitSidecar, state::State};

/// `/json`: a request as proto3-JSON, answered with 200 or 429. `/healthcheck`: 200 when everything is there that is
/// needed, 500 before.
pub fn router(service: RateLimitSidecar, readiness: Readiness) -> Router {
    Router::new()
        .route("/json", post(json).with_state(service))
        .route("/healthcheck", get(healthcheck).with_state(readiness))
}

/// `/rlconfig`: the limits in force, one a line.
pub fn shown(state: Arc<State>) -> Router {
    Router::new().route("/rlconfig", get(rlconfig)).with_state(state)
}

async fn healthcheck(Given(readiness): Given<Readiness>) -> impl IntoResponse {
    if readiness.pending().is_empty() {
        (StatusCode::OK, "OK")
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "")
    }
}

async fn json(Given(service): Given<RateLimitSidecar>, body: Bytes) -> Response {
    let request = match parsed(&body) {
        Ok(request) => request,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("error: {error}\n")).into_response(),
    };
    match service.answer(&request).await {
        Err(status) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("error: {}\n", status.message())).into_response()
        }
        Ok(answer) => {
            let over = answer.overall_code() == Code::OverLimit;
            let status = if over { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::OK };
            match written(&answer) {
                Ok(text) => (status, [(CONTENT_TYPE, "application/json")], text).into_response(),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
            }
        }
    }
}

fn parsed(body: &[u8]) -> Result<RateLimitRequest, String> {
    let message = descriptor_pool()
        .get_message_by_name("envoy.service.ratelimit.v3.RateLimitRequest")
        .ok_or("RateLimitRequest is not known")?;
    let mut reader = serde_json::Deserializer::from_slice(body);
    let dynamic = DynamicMessage::deserialize(message, &mut reader).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    dynamic.transcode_to().map_err(|error| error.to_string())
}

fn written(answer: &RateLimitResponse) -> Result<String, String> {
    let message = descriptor_pool()
        .get_message_by_name("envoy.service.ratelimit.v3.RateLimitResponse")
        .ok_or("RateLimitResponse is not known")?;
    let mut dynamic = DynamicMessage::new(message);
    dynamic.transcode_from(answer).map_err(|error| error.to_string())?;
    serde_json::to_string(&dynamic).map_err(|error| error.to_string())
}

async fn rlconfig(Given(state): Given<Arc<State>>) -> String {
    let domains = state.domains();
    let mut lines: Vec<String> =
        domains.values().flat_map(|domain| domain.limits().map(|limit| line(&domain.name, limit))).collect();
    lines.sort();
    lines.concat()
}

/// As the reference shows it, with what is ours after it.
fn line(domain: &str, limit: &Limit) -> String {
    let name = limit.labels.join(".");
    if limit.unlimited {
        return format!("{domain}.{name}: unlimited\n");
    }
    format!(
        "{domain}.{name}: unit={} requests_per_unit={}, shadow_mode: {}, quota_mode: {}, scope: {:?}, mode: {:?}, algorithm: {:?}\n",
        limit.unit.as_str_name(),
        limit.requests,
        limit.shadow,
        limit.quota,
        limit.scope,
        limit.mode,
        limit.terms.algorithm,
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runtime::SystemClock;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        config::tests::{ALL_KEYS, from_file},
        metrics::Metrics,
    };

    /// Status and body.
    async fn asked(url: &str, body: Option<&str>) -> (u16, String) {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
        let request = match body {
            Some(body) => client.post(url).body(body.to_owned()),
            None => client.get(url),
        };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    #[tokio::test]
    async fn json_is_answered_as_grpc_is_and_nonsense_is_told_so() {
        let state = Arc::new(State::default());
        state.replace([Arc::new(from_file(ALL_KEYS))]);
        let service = RateLimitSidecar::new(state.clone(), Arc::new(SystemClock), Metrics::default());
        let readiness = Readiness::new();
        let latch = readiness.latch("configuration");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let router = router(service, readiness).merge(shown(state));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let request = json!({"domain": "all", "descriptors": [{"entries": [{"key": "tokens", "value": "x"}], "hits_addend": "8"}]});
        let (status, body) = asked(&format!("{at}/json"), Some(&request.to_string())).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["overallCode"]), (200, &json!("OK")));
        assert_eq!(body["statuses"][0]["currentLimit"], json!({"requestsPerUnit": 8, "unit": "YEAR"}));
        let (status, body) = asked(&format!("{at}/json"), Some(&request.to_string())).await;
        assert_eq!(status, 429, "{body}");
        for (body, status) in [("{", 400), ("{\"domian\": 1}", 400), ("{\"domain\": \"\"}", 500)] {
            assert_eq!(asked(&format!("{at}/json"), Some(body)).await.0, status, "{body}");
        }
        assert_eq!(asked(&format!("{at}/healthcheck"), None).await.0, 500);
        drop(latch);
        assert_eq!(asked(&format!("{at}/healthcheck"), None).await, (200, "OK".into()));
        let (_, shown) = asked(&format!("{at}/rlconfig"), None).await;
        assert!(shown.contains("all.database_users: unit=SECOND requests_per_unit=500"), "{shown}");
        assert!(shown.contains("all.free: unlimited"), "{shown}");
    }
}
