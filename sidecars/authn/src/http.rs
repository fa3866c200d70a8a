//! The same decisions for an `ext_authz` filter with an `http_service`, which can say and hear less: see
//! `docs/sidecar-operations.md`.
//!
//! This variant has no `context_extensions`. The control plane puts the policy before the path of the request, as the
//! filter's `path_prefix`: `/<policy>@<rev>/original`. A client adds to the end of that and to nothing else, and the first
//! `@` and the first `/original/` count, so nothing in its own path is ever read as a policy.

use std::{future::Future, io, path::Path, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header::HOST, request::Parts},
    response::Response,
    serve::Listener,
};
use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue as Header},
    service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Request as Asked},
    },
};
use sidecar::ext_authz::{Decision, Facts, refusal};
use tokio::net::TcpListener;

use crate::service::AuthnService;

/// Between the policy and the path of the request.
const ORIGINAL: &str = "/original/";
/// What tells an upstream who asks. Of these, whichever a decision does not set is taken off: this variant of the filter
/// sets headers, and leaves a client's own beside them.
const IDENTITY: [&str; 8] = [
    "x-gatehouse-method",
    "x-gatehouse-subject",
    "x-gatehouse-scopes",
    "x-gatehouse-issuer",
    "x-gatehouse-tenant",
    "x-gatehouse-groups",
    "x-gatehouse-credential",
    "x-gatehouse-identity",
];

/// Answers on a socket until the end, and then what is under way.
pub async fn serve_socket(
    service: Arc<AuthnService>,
    socket: &Path,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    serve(service, runtime::unix::bind(socket)?, end).await
}

/// The same on loopback; no other address, since nobody proves here who they are.
///
/// # Errors
/// Another address, or one that is taken.
pub async fn serve_loopback(
    service: Arc<AuthnService>,
    address: std::net::SocketAddr,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    if !address.ip().is_loopback() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "plain HTTP is served on loopback only"));
    }
    serve(service, TcpListener::bind(address).await?, end).await
}

async fn serve<L: Listener>(
    service: Arc<AuthnService>,
    listener: L,
    end: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()>
where
    L::Addr: std::fmt::Debug,
{
    let router = Router::new().fallback(answer).with_state(service);
    axum::serve(listener, router).with_graceful_shutdown(end).await
}

async fn answer(State(service): State<Arc<AuthnService>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let check = read(&parts);
    let of_call = parts.headers.get("traceparent").and_then(|value| value.to_str().ok());
    // There is an HTTP request in it, since it was put there.
    let Some(facts) = Facts::read(&check) else { return told(503, refusal(503, "no request", ""), None) };
    let id = facts.decision_id();
    written(service.decision(&facts, of_call).await, id)
}

/// The question as the other variant asks it.
fn read(parts: &Parts) -> CheckRequest {
    let (policy, path) = policy_and_path(&parts.uri);
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let header = |(name, value): (&axum::http::HeaderName, &HeaderValue)| Header {
        key: name.to_string(),
        raw_value: value.as_bytes().to_vec(),
        ..Default::default()
    };
    // Envoy says it itself, and whatever else stands there is none of its words.
    let scheme = match parts.headers.get("x-forwarded-proto").map(HeaderValue::as_bytes) {
        Some(b"http") => "http",
        _ => "https",
    };
    let http = HttpRequest {
        method: parts.method.to_string(),
        scheme: scheme.into(),
        host: host.or_else(|| parts.uri.host()).unwrap_or_default().to_owned(),
        path: path.to_owned(),
        header_map: Some(HeaderMap { headers: parts.headers.iter().map(header).collect() }),
        ..Default::default()
    };
    let named = |(policy, rev): (&str, &str)| {
        [("policy".to_owned(), policy.to_owned()), ("rev".to_owned(), rev.to_owned())].into()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Asked { http: Some(http), ..Default::default() }),
            context_extensions: policy.map(named).unwrap_or_default(),
            ..Default::default()
        }),
    }
}

/// Without a policy nobody passes.
fn policy_and_path(uri: &Uri) -> (Option<(&str, &str)>, &str) {
    let all = uri.path_and_query().map_or("", |path| path.as_str());
    let Some(at) = all.find(ORIGINAL) else { return (None, all) };
    let (prefix, path) = (&all[..at], &all[at + ORIGINAL.len() - 1..]);
    let policy = prefix.strip_prefix('/').and_then(|prefix| prefix.split_once('@'));
    // A client's own text before its first slash would end up here.
    (policy.filter(|(_, rev)| rev.bytes().all(|byte| byte.is_ascii_digit())), path)
}

fn written(decision: Decision, id: &str) -> Response {
    match decision {
        Decision::Allow { headers, remove, .. } => {
            let unset = IDENTITY.into_iter().filter(|name| headers.iter().all(|(set, _)| set != name));
            let remove: Vec<_> = remove.iter().map(String::as_str).chain(unset).collect();
            let mut response = Response::new(Body::empty());
            let all = headers.iter().map(|(name, value)| (*name, value.clone()));
            for (name, value) in all.chain([("x-envoy-auth-headers-to-remove", remove.join(","))]) {
                let Ok(value) = HeaderValue::from_str(&value) else {
                    return told(503, refusal(503, "an identity that is no header", id), None);
                };
                response.headers_mut().insert(name, value);
            }
            response
        }
        Decision::Deny { status, description, challenge, .. } => {
            told(status, refusal(status, &description, id), challenge)
        }
        Decision::Fault { description } => told(503, refusal(503, &description, id), None),
    }
}

fn told(status: u16, body: String, challenge: Option<String>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    if let Some(challenge) = challenge.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert("www-authenticate", challenge);
    }
    response
}

#[cfg(test)]
mod tests {
    use sidecar::ext_authz::Record;

    use super::*;

    #[track_caller]
    fn check(uri: &str, policy: Option<(&str, &str)>, path: &str) {
        assert_eq!(policy_and_path(&uri.parse().unwrap()), (policy, path), "{uri}");
    }

    #[test]
    fn the_policy_is_what_stands_before_and_nothing_that_a_client_sends() {
        let (ours, routed) = (Some(("i-1", "3")), Some(("i-1/api", "3")));
        check("/i-1@3/original/", ours, "/");
        check("/i-1/api@3/original/a?b=c", routed, "/a?b=c");
        check("/i-1@3/original/open@9/original/a", ours, "/open@9/original/a");
        check("/i-1@3/original//open@9/original/", ours, "//open@9/original/");
        check("/i-1@3/original/..//open@9/original/", ours, "/..//open@9/original/");
        check("/i-1@3/original/?x=/open@9/original/", ours, "/?x=/open@9/original/");
        // Paths that do not begin with a slash, which Envoy refuses anyway.
        check("/i-1@3/originalopen@9/original/a", None, "/a");
        check("/i-1@3/original4@9/original/a", None, "/a");
        check("/i-1@3/original*", None, "/i-1@3/original*");
        check("/i-1@39", None, "/i-1@39");
        check("/original/a", None, "/a");
        check("/a", None, "/a");
        check("*", None, "*");
    }

    #[test]
    fn what_an_answer_does_not_set_is_taken_off() {
        let id = api::authn::PolicyId { policy: "i-1".into(), rev: 3 };
        let decision = Decision::Allow {
            record: Record::new("authn", &id),
            headers: vec![("x-gatehouse-subject", "alice".into())],
            remove: vec!["x-api-key".into()],
        };
        let response = written(decision, "r-1");
        assert_eq!(response.headers()["x-gatehouse-subject"], "alice");
        let removed = response.headers()["x-envoy-auth-headers-to-remove"].to_str().unwrap();
        let removed: Vec<_> = removed.split(',').collect();
        assert!(removed.contains(&"x-api-key") && removed.contains(&"x-gatehouse-tenant"), "{removed:?}");
        assert!(!removed.contains(&"x-gatehouse-subject"), "removal is applied last");
    }
}
