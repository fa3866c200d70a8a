//! What counters, lines and spans are told.

use api::{ResourceType, authn::PolicyId, pb};
use envoy_types::pb::{
    envoy::{
        config::core::v3::Metadata,
        service::auth::v3::{
            AttributeContext,
            attribute_context::{HttpRequest, Request as Asked},
        },
    },
    google::protobuf::Struct,
};
use prost::Message as _;
use runtime::SystemClock;
use serde_json::{Value, json};
use sidecar::{
    decision_log::DecisionLog,
    ext_authz::{METADATA_NAMESPACE, Record},
    testing::{Collector, attribute, hex},
    traces::Traces,
};
use xds::Handler as _;

use super::*;
use crate::Follower;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// With a policy that enforces and one that does not; neither allows anything.
fn service(observers: Observers) -> AuthzService {
    let state = Arc::new(State::default());
    let mut follower = Follower::new(Arc::clone(&state));
    for (policy, mode) in [("i-1", pb::authz::Mode::Enforce), ("i-2", pb::authz::Mode::Shadow)] {
        let name = format!("{policy}@3");
        let wire = pb::authz::Policy {
            name: name.clone(),
            policy: policy.into(),
            rev: 3,
            mode: mode.into(),
            ..Default::default()
        };
        follower.upsert(ResourceType::AuthzPolicy, &name, &wire.encode_to_vec()).unwrap();
    }
    follower.commit();
    AuthzService::new(state, Arc::new(SystemClock)).with_observers(observers)
}

/// What authentication leaves behind.
fn authn(policy: &str) -> Struct {
    let record = Record::new("authn", &PolicyId { policy: policy.into(), rev: 3 });
    let record = record.text("sub", "alice").text("iss", "https://id").text("tenant", "acme");
    let decision = Decision::Allow { record, headers: Vec::new(), remove: Vec::new() };
    decision.answer("").dynamic_metadata.unwrap()
}

fn check(policy: &str, path: &str, id: &str, traceparent: Option<&str>) -> CheckRequest {
    let headers =
        [("x-request-id", Some(id)), ("traceparent", traceparent), ("authorization", Some("Bearer x-1"))];
    let headers = headers.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.to_owned())));
    let http = HttpRequest {
        method: "POST".into(),
        host: "hello.example.test".into(),
        path: path.into(),
        headers: headers.collect(),
        ..Default::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Asked { http: Some(http), ..Default::default() }),
            context_extensions: [("policy".into(), policy.into()), ("rev".into(), "3".into())].into(),
            metadata_context: Some(Metadata {
                filter_metadata: [(METADATA_NAMESPACE.to_owned(), authn(policy))].into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
    }
}

#[tokio::test]
async fn a_line_tells_who_was_refused_what_by_which_rule_also_in_shadow() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decisions.jsonl");
    let (log, written) = DecisionLog::open(path.to_str().unwrap(), 0.0).unwrap();
    let service = service(Observers::new(Some(log), None));
    for (policy, path, id) in [("i-1", "/a?token=hidden", "r-1"), ("i-2", "/b", "r-2"), ("i-3", "/c", "r-3")]
    {
        service.check(Request::new(check(policy, path, id, None))).await.unwrap();
    }
    let mut registry = Registry::default();
    service.register(&mut registry);
    drop(service);
    written.await.unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(!text.contains("hidden") && !text.contains("x-1"), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut denied = json!({
        "time": lines[0]["time"], "id": "r-1", "by": "authz", "policy": "i-1", "rev": 3, "result": "denied",
        "status": 403, "reason": "the policy of this service does not allow it", "http_method": "POST",
        "effect": "deny", "rule": lines[0]["rule"], "mode": "enforce", "iss": "https://id", "sub": "alice",
        "tenant": "acme", "host": "hello.example.test", "path": "/a",
    });
    assert!(denied["rule"].is_string());
    assert_eq!(lines[0], denied);
    for (name, value) in [
        ("time", lines[1]["time"].clone()),
        ("id", json!("r-2")),
        ("policy", json!("i-2")),
        ("result", json!("shadow_denied")),
        ("status", json!(200)),
        ("mode", json!("shadow")),
        ("path", json!("/b")),
    ] {
        denied[name] = value;
    }
    denied.as_object_mut().unwrap().remove("reason");
    assert_eq!(lines[1], denied);
    assert_eq!(
        (&lines[2]["result"], &lines[2]["status"], &lines[2]["rule"]),
        (&json!("unknown_policy"), &json!(503), &Value::Null)
    );
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "gatehouse_authz_decisions_total{result=\"Denied\"} 1",
        "gatehouse_authz_decisions_total{result=\"ShadowDenied\"} 1",
        "gatehouse_authz_decisions_total{result=\"UnknownPolicy\"} 1",
        "gatehouse_authz_check_duration_seconds_count 3",
        "gatehouse_authz_decision_log_lines_total 3",
        "gatehouse_authz_policies 2",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_continues_the_sampled_trace_and_tells_no_secret() {
    let mut collector = Collector::serve().await;
    let traces = Traces::begin(&collector.url, "gatehouse-authz", "edge/1/authz").unwrap();
    let service = service(Observers::new(None, Some(traces.clone())));
    let sampled = format!("00-{TRACE}-{SPAN}-01");
    for text in [sampled.replace("-01", "-00"), sampled] {
        service.check(Request::new(check("i-2", "/?token=hidden", "r-1", Some(&text)))).await.unwrap();
    }
    let spans = collector.spans(1).await;
    traces.end().await;
    let all = format!("{spans:?}");
    assert!(!all.contains("x-1") && !all.contains("hidden"), "{all}");
    assert_eq!((spans.len(), spans[0].name.as_str()), (1, "authz check"));
    assert_eq!((hex(&spans[0].trace_id), hex(&spans[0].parent_span_id)), (TRACE.into(), SPAN.into()));
    for (name, value) in [
        ("gatehouse.policy", "i-2@3"),
        ("gatehouse.result", "shadow_denied"),
        ("gatehouse.effect", "deny"),
        ("gatehouse.mode", "shadow"),
        ("gatehouse.status", "200"),
        ("gatehouse.id", "r-1"),
    ] {
        assert_eq!(attribute(&spans[0], name).as_deref(), Some(value), "{name}");
    }
}
