//! Where Cedar decides beside the rules, and guardrails above both.

use std::sync::Arc;

use api::{authz::Guardrail, pb};
use envoy_types::pb::{
    envoy::{
        config::core::v3::Metadata,
        service::auth::v3::{
            AttributeContext, CheckRequest,
            attribute_context::{HttpRequest, Request as WireRequest},
        },
    },
    google::protobuf::Timestamp,
};
use policy::Guardrails;
use sidecar::ext_authz::METADATA_NAMESPACE;

use super::*;

/// GETs are allowed by a rule; Cedar has its own mind about documents.
fn with_cedar(mode: pb::authz::Mode) -> Snapshot {
    let rule = pb::authz::Rule {
        id: "rule-0".into(),
        effect: pb::authz::Effect::Allow.into(),
        methods: vec!["GET".into()],
        ..Default::default()
    };
    let resource =
        pb::authz::cedar::Resource { path: "/docs/{d}".into(), entity: "Doc".into(), id: "{d}".into() };
    let policies = "
        @id(\"posts\") permit (principal in Group::\"dev\", action == Action::\"POST\", resource);
        @id(\"away\") forbid (principal, action, resource == Doc::\"secret\");
        @id(\"near\") forbid (principal, action, resource == Path::\"/near\")
            when { !context.address.isInRange(ip(\"10.0.0.0/8\")) || context.time < datetime(\"2026-01-01\") };
        @id(\"open\") forbid (principal, action, resource == Doc::\"missing\") when { resource.is_closed };";
    let wire = pb::authz::Policy {
        name: "i-1@3".into(),
        policy: "i-1".into(),
        rev: 3,
        rules: vec![rule],
        mode: mode.into(),
        anonymous: vec!["/healthz".into()],
        cedar: Some(pb::authz::Cedar {
            schema: "entity Doc = { is_closed: Bool };".into(),
            policies: policies.into(),
            resources: vec![resource],
            entities: String::new(),
        }),
        ..Default::default()
    };
    in_force(wire)
}

fn request(method: &str, path: &str, subject: Option<&str>, address: &str) -> CheckRequest {
    let mut record = Record::new("authn", &PolicyId { policy: "i-1".into(), rev: 3 }).truth("open");
    if let Some(subject) = subject {
        record = record.text("sub", subject).text("method", "jwt").texts("groups", ["dev"]);
    }
    let authn = Decision::Allow { record, headers: Vec::new(), remove: Vec::new() }.answer("");
    let headers = [("x-gatehouse-address".to_owned(), address.to_owned())].into();
    let http = HttpRequest { method: method.into(), path: path.into(), headers, ..Default::default() };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(WireRequest {
                time: Some(Timestamp { seconds: 1_800_000_000, nanos: 5 }),
                http: Some(http),
            }),
            context_extensions: [("policy".into(), "i-1".into()), ("rev".into(), "3".into())].into(),
            metadata_context: Some(Metadata {
                filter_metadata: [(METADATA_NAMESPACE.to_owned(), authn.dynamic_metadata.unwrap())].into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
    }
}

#[track_caller]
fn check(request: &CheckRequest, state: &Snapshot, expected: (DecisionResult, &str)) {
    let (decision, result) = decide(&Facts::read(request).unwrap(), state);
    let (Decision::Allow { record, .. } | Decision::Deny { record, .. }) = &decision else {
        panic!("{decision:?}");
    };
    assert_eq!((result, record.get("rule").unwrap()), expected);
}

#[test]
fn either_engine_allows_and_a_deny_of_either_stands() {
    use DecisionResult::{Allowed, CedarError, Denied, ShadowDenied};
    let enforce = &with_cedar(pb::authz::Mode::Enforce);
    let alice = |method: &str, path: &str| request(method, path, Some("alice"), "10.1.2.3");
    check(&alice("GET", "/x"), enforce, (Allowed, "rule-0"));
    check(&alice("POST", "/x"), enforce, (Allowed, "cedar:posts"));
    check(&alice("PUT", "/x"), enforce, (Denied, "default"));
    check(&alice("GET", "/docs/secret"), enforce, (Denied, "cedar:away"));
    check(&alice("POST", "/docs/secret"), enforce, (Denied, "cedar:away"));
    check(&alice("GET", "/docs/missing"), enforce, (CedarError, "cedar-error:open"));
    check(&alice("GET", "/near"), enforce, (Allowed, "rule-0"));
    check(&request("GET", "/near", Some("alice"), "192.0.2.1"), enforce, (Denied, "cedar:near"));
    check(&alice("TRACE", "/x"), enforce, (CedarError, "cedar-error:request"));
    let shadow = &with_cedar(pb::authz::Mode::Shadow);
    check(&alice("GET", "/docs/missing"), shadow, (ShadowDenied, "cedar-error:open"));
    let nowhere = request("GET", "/x", Some("alice"), "pipe");
    assert_eq!(decide(&Facts::read(&nowhere).unwrap(), enforce).1, DecisionResult::UnknownFacts);
}

#[test]
fn nobody_is_not_asked_about() {
    let enforce = &with_cedar(pb::authz::Mode::Enforce);
    let nobody = |path: &str| request("GET", path, None, "10.1.2.3");
    check(&nobody("/healthz"), enforce, (DecisionResult::Allowed, "anonymous"));
    check(&nobody("/x"), enforce, (DecisionResult::Denied, "unauthenticated"));
}

fn guardrail(name: &str, mode: pb::authz::Mode, path: &str) -> Guardrail {
    let rule = |effect: pb::authz::Effect| pb::authz::Rule {
        id: name.into(),
        effect: effect.into(),
        ..Default::default()
    };
    let deny = pb::authz::Rule { paths: vec![path.into()], ..rule(pb::authz::Effect::Deny) };
    let unless = pb::authz::Rule { networks: vec!["10.0.0.0/8".into()], ..rule(pb::authz::Effect::Allow) };
    let wire =
        pb::authz::Guardrail { name: name.into(), deny: Some(deny), unless: Some(unless), mode: mode.into() };
    wire.try_into().unwrap()
}

#[test]
fn a_guardrail_stands_above_what_every_service_says() {
    use DecisionResult::{Allowed, GuardrailDenied, ShadowDenied};
    let above = |mode| {
        let mut state = with_cedar(mode);
        state.guardrails = Arc::new(Guardrails::new(vec![
            guardrail("internal", pb::authz::Mode::Enforce, "/internal"),
            guardrail("health", pb::authz::Mode::Enforce, "/healthz"),
            guardrail("new", pb::authz::Mode::Shadow, "/new"),
        ]));
        state
    };
    let outside = |path: &str, subject| request("GET", path, subject, "192.0.2.1");
    for mode in [pb::authz::Mode::Enforce, pb::authz::Mode::Shadow] {
        let state = above(mode);
        check(&outside("/internal/x", Some("alice")), &state, (GuardrailDenied, "guardrail"));
        check(&outside("/healthz", None), &state, (GuardrailDenied, "guardrail"));
        check(&request("GET", "/internal/x", Some("alice"), "10.1.2.3"), &state, (Allowed, "rule-0"));
        check(&outside("/new", Some("alice")), &state, (ShadowDenied, "rule-0"));
    }
    let asked = outside("/new", Some("alice"));
    let (decision, _) = decide(&Facts::read(&asked).unwrap(), &above(pb::authz::Mode::Enforce));
    let record = decision.record().unwrap();
    assert_eq!((record.get("guardrail"), record.get("guardrail_mode")), (Some("new"), Some("shadow")));
    let nowhere = request("GET", "/x", Some("alice"), "");
    let (_, result) = decide(&Facts::read(&nowhere).unwrap(), &above(pb::authz::Mode::Enforce));
    assert_eq!(result, DecisionResult::UnknownFacts, "nobody passes whom a guardrail could have stopped");
}
