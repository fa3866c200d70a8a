//! What stands in a line, and what never does.

use std::time::UNIX_EPOCH;

use api::pb;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue},
    service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Request},
    },
};
use serde_json::{Value, json};
use sidecar::ext_authz::Record;

use super::*;
use crate::metrics::DecisionResult;

/// One that reads every place.
fn policy() -> Policy {
    use pb::authn::{method::Method as Wire, sender_constrained::Proof};
    let jwt = || pb::authn::Jwt {
        issuer: jwt::testing::ISSUER.into(),
        audiences: vec!["hello".into()],
        algorithms: vec!["ES256".into()],
        ..Default::default()
    };
    let bound = pb::authn::SenderConstrained { jwt: Some(jwt()), by: Proof::Dpop.into() };
    let methods = [
        Wire::Jwt(jwt()),
        Wire::ApiKey(crate::api_key::tests::wire()),
        Wire::Session(pb::authn::Session { cookie: "sid".into(), jwt: Some(jwt()) }),
        Wire::SenderConstrained(bound),
    ];
    let wire = pb::authn::Policy {
        name: "i-1@3".into(),
        policy: "i-1".into(),
        rev: 3,
        any: methods.map(|method| pb::authn::Method { method: Some(method) }).into(),
        ..Default::default()
    };
    Policy::new(api::authn::Policy::try_from(wire).unwrap(), b"").unwrap()
}

fn request(path: &str, headers: &[(&str, &str)]) -> CheckRequest {
    let header = |(name, value): &(&str, &str)| HeaderValue {
        key: (*name).into(),
        raw_value: value.as_bytes().to_vec(),
        ..Default::default()
    };
    let http = HttpRequest {
        method: "GET".into(),
        host: "hello.example.test".into(),
        path: path.into(),
        header_map: Some(HeaderMap { headers: headers.iter().map(header).collect() }),
        ..Default::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Request { http: Some(http), ..Default::default() }),
            context_extensions: [("policy".into(), "i-1".into()), ("rev".into(), "3".into())].into(),
            ..Default::default()
        }),
    }
}

fn denied() -> Decision {
    let id = PolicyId { policy: "i-1".into(), rev: 3 };
    let description = "the token has expired".into();
    Decision::Deny { record: Record::new("authn", &id), status: 401, description, challenge: None }
}

fn allowed() -> Decision {
    let id = PolicyId { policy: "i-1".into(), rev: 3 };
    let record =
        Record::new("authn", &id).text("sub", "alice").text("iss", "https://id").text("tenant", "acme");
    Decision::Allow { record, headers: Vec::new(), remove: Vec::new() }
}

const LABEL: Label = Label { method: "jwt", result: DecisionResult::InvalidCredential };

fn text(path: &str, headers: &[(&str, &str)], decision: &Decision) -> String {
    let request = request(path, headers);
    let facts = Facts::read(&request).unwrap();
    let text = line(&facts, Some(&policy()), decision, LABEL, UNIX_EPOCH);
    assert!(text.ends_with("}\n") && text.lines().count() == 1, "{text}");
    text
}

fn read(path: &str, headers: &[(&str, &str)], decision: &Decision) -> Value {
    serde_json::from_str(&text(path, headers, decision)).unwrap()
}

#[test]
fn a_line_tells_who_asked_for_what_and_what_became_of_it() {
    let token = jwt::testing::good();
    let hash = blake3::hash(token.as_bytes()).to_hex();
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("x-request-id", "r-1")];
    let mut expected = json!({
        "time": "1970-01-01T00:00:00Z", "id": "r-1", "policy": "i-1", "rev": 3, "method": "jwt",
        "result": "invalid_credential", "status": 401, "reason": "the token has expired",
        "kid": jwt::testing::header()["kid"], "credential": hash[..16],
        "host": "hello.example.test", "path": "/a",
    });
    assert_eq!(read("/a?token=secret", &headers, &denied()), expected);
    let fields = expected.as_object_mut().unwrap();
    fields.remove("reason");
    fields.extend(
        json!({"status": 200, "sub": "alice", "iss": "https://id", "tenant": "acme"})
            .as_object()
            .unwrap()
            .clone(),
    );
    assert_eq!(read("/a", &headers, &allowed()), expected);
}

#[test]
fn no_credential_stands_in_a_line() {
    let token = jwt::testing::good();
    let basic = BASE64_STANDARD.encode("alice:hunter2");
    let with = |scheme: &str, text: &str| format!("{scheme} {text}");
    for (name, value, secrets) in [
        ("authorization", with("Bearer", &token), token.split('.').collect::<Vec<_>>()),
        ("authorization", with("DPoP", &token), token.split('.').collect()),
        ("authorization", with("Basic", &basic), vec![basic.as_str(), "hunter2", "alice"]),
        ("authorization", with("Bearer", "opaque-1234567"), vec!["opaque-1234567"]),
        ("authorization", "unreadable-1234567".into(), vec!["unreadable"]),
        ("cookie", format!("theme=dark; sid={token}"), token.split('.').collect()),
        ("x-api-key", "gatehouse_0a_secret".into(), vec!["0a_secret", "secret"]),
    ] {
        for decision in [denied(), Decision::Fault { description: "x".into() }] {
            let text = text("/a?key=hidden-in-query#hidden-in-fragment", &[(name, &value)], &decision);
            for secret in secrets.iter().chain(&["hidden-in"]) {
                assert!(!text.contains(secret), "{secret} in {text}");
            }
        }
    }
}

#[test]
fn a_password_is_not_even_hashed() {
    let basic = format!("Basic {}", BASE64_STANDARD.encode("alice:hunter2"));
    let line = read("/", &[("authorization", &basic)], &denied());
    assert_eq!((&line["credential"], &line["kid"]), (&Value::Null, &Value::Null));
    let line = read("/", &[("x-api-key", "gatehouse_0a_secret")], &denied());
    assert_eq!(line["credential"].as_str().unwrap().len(), 16);
}

#[test]
fn whatever_a_client_sends_stays_on_its_line_and_in_its_field() {
    let path = "/a\n{\"status\":200}\u{7f}\u{9b}31m\u{1b}[0m\"";
    let line = text(path, &[], &denied());
    assert!(!line.trim_end().chars().any(char::is_control), "{line:?}");
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["path"], path);
    let long = "ä".repeat(3_000);
    let line = read(&long, &[], &denied());
    assert_eq!(line["path"].as_str().unwrap().len(), MAX_TEXT_BYTES);
}

#[tokio::test]
async fn refusals_are_all_written_and_of_what_passes_the_same_share_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decisions.jsonl");
    let metrics = Metrics::default();
    let logs: Vec<_> = [0.25, 0.0, 1.0]
        .map(|sample| DecisionLog::open(path.to_str().unwrap(), sample, &metrics).unwrap())
        .into();
    let ids = || (0..1_000).map(|at| format!("request-{at}"));
    let sampled = |log: &DecisionLog| ids().filter(|id| log.is_sampled(id)).count();
    assert!((200..300).contains(&sampled(&logs[0].0)), "{}", sampled(&logs[0].0));
    assert_eq!((sampled(&logs[1].0), sampled(&logs[2].0)), (0, 1_000));
    for at in 0..10 {
        let id = format!("r-{at}");
        let request = request("/", &[("x-request-id", &id)]);
        let facts = Facts::read(&request).unwrap();
        for decision in [allowed(), denied()] {
            logs[1].0.write(&facts, || None, &decision, LABEL, UNIX_EPOCH);
        }
    }
    for (log, task) in logs {
        drop(log);
        task.await.unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!((text.lines().count(), metrics.log_lines.get()), (10, 10));
    assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_full_queue_drops_and_counts() {
    let (queue, _never_read) = mpsc::channel(1);
    let metrics = Metrics::default();
    let (lines, dropped) = (metrics.log_lines.clone(), metrics.log_dropped.clone());
    let log = DecisionLog { queue, below: u64::MAX, lines, dropped };
    let request = request("/", &[]);
    for _ in 0..3 {
        log.write(&Facts::read(&request).unwrap(), || None, &denied(), LABEL, UNIX_EPOCH);
    }
    assert_eq!((metrics.log_lines.get(), metrics.log_dropped.get()), (1, 2));
}

#[test]
fn a_file_that_was_moved_away_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decisions.jsonl");
    let mut target = Target::file(&path).unwrap();
    target.write("one\n").unwrap();
    fs::rename(&path, folder.path().join("old")).unwrap();
    if let Target::File { looked, .. } = &mut target {
        *looked -= LOOK_AGAIN;
    }
    target.write("two\n").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    assert_eq!(fs::read_to_string(folder.path().join("old")).unwrap(), "one\n");
}
