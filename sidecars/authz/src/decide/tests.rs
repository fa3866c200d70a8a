//! By the rules of a service, whoever authentication says it is.

mod engines;

use api::pb;
use envoy_types::pb::{
    envoy::{
        config::core::v3::Metadata,
        service::auth::v3::{
            AttributeContext, CheckRequest,
            attribute_context::{HttpRequest, Request as WireRequest},
            check_response::HttpResponse,
        },
    },
    google::protobuf::{Value, value::Kind},
};
use policy::Engine;
use sidecar::ext_authz::METADATA_NAMESPACE;

use super::*;

fn in_force(wire: pb::authz::Policy) -> Snapshot {
    let mut state = Snapshot::default();
    state.policies.insert("i-1@3".into(), Engine::new(wire.try_into().unwrap()).unwrap());
    state
}

fn snapshot(mode: pb::authz::Mode) -> Snapshot {
    let texts = |text: &str| vec![text.to_owned()];
    let rule = |id: &str, effect: pb::authz::Effect| pb::authz::Rule {
        id: id.into(),
        effect: effect.into(),
        ..Default::default()
    };
    let reads = pb::authz::Rule {
        methods: texts("GET"),
        scopes: texts("read:hello"),
        ..rule("rule-0", pb::authz::Effect::Allow)
    };
    let of_department = pb::authz::Rule {
        paths: texts("/sales"),
        claims: vec![pb::authz::Claim { name: "department".into(), values: texts("sales") }],
        ..rule("rule-1", pb::authz::Effect::Allow)
    };
    let outside =
        pb::authz::Rule { networks: texts("203.0.113.0/24"), ..rule("rule-2", pb::authz::Effect::Deny) };
    let wire = pb::authz::Policy {
        name: "i-1@3".into(),
        policy: "i-1".into(),
        rev: 3,
        rules: vec![reads, of_department, outside],
        mode: mode.into(),
        anonymous: texts("/healthz"),
        claims: texts("department"),
        ..Default::default()
    };
    in_force(wire)
}

/// What authentication leaves behind, written by the code that it uses.
fn authn(rev: u64, subject: Option<&str>, scopes: &[&str]) -> Struct {
    told(rev, subject, scopes, "i-1", true)
}

fn told(rev: u64, subject: Option<&str>, scopes: &[&str], policy: &str, is_open: bool) -> Struct {
    let mut record = Record::new(AUTHN, &PolicyId { policy: policy.into(), rev });
    if is_open {
        record = record.truth("open");
    }
    if let Some(subject) = subject {
        record = record.text("sub", subject).texts("scopes", scopes.iter().copied());
        record = record.lists("claims", [("department", [subject])]);
    }
    let response = Decision::Allow { record, headers: Vec::new(), remove: Vec::new() }.answer("");
    response.dynamic_metadata.unwrap()
}

fn check(mode: pb::authz::Mode, method: &str, path: &str, authn: Option<Struct>) -> (u16, DecisionResult) {
    from(Some("10.1.2.3"), mode, method, path, authn)
}

/// From this address.
fn from(
    address: Option<&str>,
    mode: pb::authz::Mode,
    method: &str,
    path: &str,
    authn: Option<Struct>,
) -> (u16, DecisionResult) {
    let headers = address.map(|address| ("x-gatehouse-address".to_owned(), address.to_owned()));
    let headers = headers.into_iter().collect();
    let http = HttpRequest { method: method.into(), path: path.into(), headers, ..Default::default() };
    let metadata = authn.map(|authn| Metadata {
        filter_metadata: [(METADATA_NAMESPACE.to_owned(), authn)].into(),
        ..Default::default()
    });
    let request = CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(WireRequest { http: Some(http), ..Default::default() }),
            context_extensions: [("policy".into(), "i-1".into()), ("rev".into(), "3".into())].into(),
            metadata_context: metadata,
            ..Default::default()
        }),
    };
    let (decision, result) = decide(&Facts::read(&request).unwrap(), &snapshot(mode));
    let status = match decision.answer("").http_response.unwrap() {
        HttpResponse::OkResponse(_) => 200,
        HttpResponse::DeniedResponse(denied) => u16::try_from(denied.status.unwrap().code).unwrap(),
        HttpResponse::ErrorResponse(_) => 503,
    };
    (status, result)
}

const ENFORCE: pb::authz::Mode = pb::authz::Mode::Enforce;

#[test]
fn a_rule_that_matches_allows() {
    let alice = authn(3, Some("alice"), &["read:hello"]);
    assert_eq!(check(ENFORCE, "GET", "/x", Some(alice.clone())), (200, DecisionResult::Allowed));
    assert_eq!(check(ENFORCE, "POST", "/x", Some(alice)), (403, DecisionResult::Denied));
}

#[test]
fn claims_are_those_that_authentication_has_carried() {
    let sales = authn(3, Some("sales"), &[]);
    assert_eq!(check(ENFORCE, "GET", "/sales", Some(sales)), (200, DecisionResult::Allowed));
    let other = authn(3, Some("it"), &[]);
    assert_eq!(check(ENFORCE, "GET", "/sales", Some(other)), (403, DecisionResult::Denied));
}

#[test]
fn a_client_that_is_nowhere_is_neither_allowed_nor_denied() {
    let alice = || Some(authn(3, Some("alice"), &["read:hello"]));
    let of = |address| from(address, ENFORCE, "GET", "/", alice());
    assert_eq!(of(Some("10.1.2.3")), (200, DecisionResult::Allowed));
    assert_eq!(of(Some("203.0.113.9")), (403, DecisionResult::Denied));
    assert_eq!(of(Some("::ffff:203.0.113.9")), (403, DecisionResult::Denied));
    for unknown in [None, Some(""), Some("10.1.2.3, 203.0.113.9")] {
        assert_eq!(of(unknown), (503, DecisionResult::UnknownFacts), "{unknown:?}");
    }
}

#[test]
fn a_missing_scope_is_named_in_the_challenge() {
    assert_eq!(check(ENFORCE, "GET", "/x", Some(authn(3, Some("bob"), &[]))), (403, DecisionResult::Denied));
    let challenge = insufficient_scope(&["read:hello"]).unwrap();
    assert_eq!(challenge, "Bearer realm=\"gatehouse\", error=\"insufficient_scope\", scope=\"read:hello\"");
    assert_eq!(insufficient_scope(&["a\"b"]), None);
}

#[test]
fn without_a_decision_of_authentication_nothing_passes() {
    assert_eq!(check(ENFORCE, "GET", "/healthz", None), (503, DecisionResult::NotAuthenticated));
    let other_revision = authn(2, Some("alice"), &["read:hello"]);
    assert_eq!(check(ENFORCE, "GET", "/x", Some(other_revision)), (503, DecisionResult::NotAuthenticated));
    let mut undecided = authn(3, Some("alice"), &["read:hello"]);
    if let Some(Kind::StructValue(own)) =
        undecided.fields.get_mut(AUTHN).and_then(|value| value.kind.as_mut())
    {
        own.fields.insert("decided".into(), Value { kind: Some(Kind::StringValue("true".into())) });
    }
    assert_eq!(check(ENFORCE, "GET", "/x", Some(undecided)), (503, DecisionResult::NotAuthenticated));
}

#[test]
fn an_anonymous_request_passes_on_anonymous_paths_only() {
    assert_eq!(check(ENFORCE, "GET", "/healthz", Some(authn(3, None, &[]))), (200, DecisionResult::Allowed));
    assert_eq!(check(ENFORCE, "GET", "/x", Some(authn(3, None, &[]))), (403, DecisionResult::Denied));
}

#[test]
fn which_paths_are_open_is_what_authentication_says_of_the_route() {
    let of_a_route = told(3, Some("bob"), &[], "i-1/1", false);
    assert_eq!(check(ENFORCE, "GET", "/healthz", Some(of_a_route)), (403, DecisionResult::Denied));
    let open = told(3, None, &[], "i-1/1", true);
    assert_eq!(check(ENFORCE, "GET", "/healthz", Some(open)), (200, DecisionResult::Allowed));
    let anothers = told(3, None, &[], "i-11", true);
    assert_eq!(check(ENFORCE, "GET", "/healthz", Some(anothers)), (503, DecisionResult::NotAuthenticated));
}

#[test]
fn shadow_mode_records_and_lets_pass_but_never_an_ambiguous_path() {
    let shadow = pb::authz::Mode::Shadow;
    let bob = authn(3, Some("bob"), &[]);
    assert_eq!(check(shadow, "GET", "/x", Some(bob.clone())), (200, DecisionResult::ShadowDenied));
    assert_eq!(check(shadow, "GET", "/;x/admin", Some(bob)), (400, DecisionResult::BadRequest));
}
