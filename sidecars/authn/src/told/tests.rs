//! What stands in a line of a credential, and what never does.

use std::time::{Duration, UNIX_EPOCH};

use api::{authn::PolicyId, pb};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue},
    service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Request},
    },
};
use serde_json::{Value, json};
use sidecar::{decision_log::line, ext_authz::Record, observers::Told};

use super::*;

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

fn text(path: &str, headers: &[(&str, &str)], decision: &Decision) -> String {
    let request = request(path, headers);
    let facts = Facts::read(&request).unwrap();
    let told = Told {
        by: "authn",
        facts: &facts,
        decision,
        result: "invalid_credential",
        is_refused_in_shadow: false,
        begun: UNIX_EPOCH,
        took: Duration::ZERO,
        of_call: None,
    };
    let text = line(&told, Line::of("jwt", &facts, Some(&policy()), decision));
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
        "time": "1970-01-01T00:00:00Z", "id": "r-1", "by": "authn", "policy": "i-1", "rev": 3, "method": "jwt",
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
