//! The engine by its sentences, and against the slow reference.

use std::net::IpAddr;

use api::{authz::Moment, pb::authz as wire};
use proptest::prelude::*;

use super::*;
use crate::{Identity, Outcome, testing};

fn texts(texts: &str) -> Vec<String> {
    texts.split_whitespace().map(str::to_owned).collect()
}

fn allow(change: impl FnOnce(&mut wire::Rule)) -> wire::Rule {
    let mut rule = wire::Rule { effect: wire::Effect::Allow.into(), ..Default::default() };
    change(&mut rule);
    rule
}

fn deny(change: impl FnOnce(&mut wire::Rule)) -> wire::Rule {
    wire::Rule { effect: wire::Effect::Deny.into(), ..allow(change) }
}

/// Their ids are `rule-0`, `rule-1`, …
fn policy(rules: Vec<wire::Rule>) -> Rules {
    with_default(wire::Effect::Deny, rules)
}

fn with_default(default: wire::Effect, rules: Vec<wire::Rule>) -> Rules {
    let numbered = rules.into_iter().enumerate();
    let wire = wire::Policy {
        name: "i@1".into(),
        policy: "i".into(),
        rev: 1,
        default_effect: default.into(),
        rules: numbered.map(|(at, rule)| wire::Rule { id: format!("rule-{at}"), ..rule }).collect(),
        anonymous: vec!["/healthz".into()],
        claims: vec!["department".into()],
        ..Default::default()
    };
    Rules::new(wire.try_into().unwrap())
}

fn alice() -> Identity<'static> {
    Identity {
        subject: "alice",
        issuer: "https://id.example.test/",
        tenant: "acme",
        method: "jwt",
        scopes: &["read"],
        groups: &["dev", "on call"],
        claims: &[],
    }
}

fn get(path: &str) -> Request<'_> {
    Request {
        method: "GET",
        host: "hello.example.test",
        path,
        address: Some(IpAddr::from([10, 1, 2, 3])),
        time: Moment(1_767_600_000),
        open: true,
        identity: Some(alice()),
    }
}

#[track_caller]
fn check(rules: &Rules, request: Request<'_>, expected: (Effect, &str)) {
    let decided = rules.decide(&request);
    assert_eq!((decided.effect, &*decided.rule), expected, "{request:?}");
}

const ALLOWED: (Effect, &str) = (Effect::Allow, "rule-0");
const DEFAULT: (Effect, &str) = (Effect::Deny, "default");

#[test]
fn a_rule_allows_what_matches_all_its_fields() {
    let rules = policy(vec![allow(|rule| {
        (rule.methods, rule.paths, rule.scopes) = (texts("GET HEAD"), texts("/docs"), texts("read"));
    })]);
    check(&rules, get("/docs/1?x=y"), ALLOWED);
    check(&rules, Request { method: "HEAD", ..get("/docs") }, ALLOWED);
    check(&rules, Request { method: "get", ..get("/docs") }, DEFAULT);
    check(&rules, get("/docsx"), DEFAULT);
    let powerless = Identity { scopes: &[], ..alice() };
    check(&rules, Request { identity: Some(powerless), ..get("/docs") }, DEFAULT);
}

#[test]
fn a_deny_wins_wherever_it_stands_and_the_first_of_equals_is_named() {
    let rules = policy(vec![
        allow(|_| ()),
        allow(|rule| rule.groups = texts("dev")),
        deny(|rule| rule.paths = texts("/admin")),
        deny(|rule| rule.paths = texts("/{any}")),
    ]);
    check(&rules, get("/"), ALLOWED);
    check(&rules, get("/admin/x"), (Effect::Deny, "rule-2"));
    check(&rules, get("/other"), (Effect::Deny, "rule-3"));
}

#[test]
fn a_path_is_compared_once_it_is_decoded() {
    let rules = policy(vec![allow(|_| ()), deny(|rule| rule.paths = texts("/@admin /%C3%BC"))]);
    for path in ["/@admin", "/%40admin", "/%40%61dmin/x", "/%c3%bc"] {
        check(&rules, get(path), (Effect::Deny, "rule-1"));
    }
    check(&rules, get("/%40admins"), ALLOWED);
}

#[test]
fn each_field_accepts_and_refuses() {
    type Change = fn(&mut wire::Rule);
    let with = |change: Change| policy(vec![allow(change)]);
    let hosts = with(|rule| rule.hosts = texts("*.example.test"));
    check(&hosts, get("/"), ALLOWED);
    check(&hosts, Request { host: "HELLO.example.TEST.:8443", ..get("/") }, ALLOWED);
    check(&hosts, Request { host: "example.test", ..get("/") }, DEFAULT);
    let groups = with(|rule| rule.groups = vec!["on call".into()]);
    check(&groups, get("/"), ALLOWED);
    check(&groups, Request { identity: Some(Identity { groups: &["on"], ..alice() }), ..get("/") }, DEFAULT);
    let auth = with(|rule| rule.auth = texts("mtls jwt"));
    check(&auth, get("/"), ALLOWED);
    check(&auth, Request { identity: Some(Identity { method: "basic", ..alice() }), ..get("/") }, DEFAULT);
    let networks = with(|rule| rule.networks = texts("10.0.0.0/8 fd00::/8"));
    check(&networks, get("/"), ALLOWED);
    check(&networks, Request { address: Some(IpAddr::from([11, 0, 0, 1])), ..get("/") }, DEFAULT);
    check(&networks, Request { address: None, ..get("/") }, DEFAULT);
    assert!(networks.matcher().needs_address() && !auth.matcher().needs_address());
    let time = with(|rule| {
        rule.time = Some(wire::Time { after: "2026-01-05T00:00:00Z".into(), ..Default::default() });
    });
    check(&time, get("/"), ALLOWED);
    check(&time, Request { time: Moment(1_767_500_000), ..get("/") }, DEFAULT);
}

#[test]
fn claims_are_the_identitys_own_and_those_that_are_carried() {
    let claim = |name: &str, values: &str| wire::Claim { name: name.into(), values: texts(values) };
    let rules = policy(vec![allow(|rule| {
        rule.claims = vec![claim("tenant", "acme other"), claim("department", "sales")];
    })]);
    let of = |name, values: &[&'static str]| {
        let claims = [(name, values.to_vec())];
        let request = Request { identity: Some(Identity { claims: &claims, ..alice() }), ..get("/") };
        let root = policy(vec![allow(|rule| rule.claims = vec![claim("sub", "root")])]);
        check(&root, request, DEFAULT);
        rules.decide(&request).effect
    };
    assert_eq!(of("department", &["it", "sales"]), Effect::Allow);
    assert_eq!(of("department", &["it"]), Effect::Deny);
    assert_eq!(of("other", &["sales"]), Effect::Deny);
    assert_eq!(of("sub", &["root"]), Effect::Deny, "what a claim carries is not who it is");
}

#[test]
fn a_capture_is_compared_with_the_identity() {
    use wire::comparison::With;
    let own = |path: &str, with: With| {
        let comparison = wire::Comparison { capture: "id".into(), with: Some(with) };
        policy(vec![allow(|rule| (rule.paths, rule.r#where) = (texts(path), vec![comparison]))])
    };
    let subject = own("/users/{id} /v2/{x}/{id}", With::Claim("sub".into()));
    for path in ["/users/alice", "/users/%61lice/posts", "/v2/bob/alice"] {
        check(&subject, get(path), ALLOWED);
    }
    for path in ["/users/bob", "/users/", "/users", "/users/Alice", "/users/alice%20", "/v2/alice/bob"] {
        check(&subject, get(path), DEFAULT);
    }
    let tenantless = Identity { tenant: "", ..alice() };
    let tenant = own("/{id}", With::Claim("tenant".into()));
    check(&tenant, get("/acme"), ALLOWED);
    check(&tenant, Request { identity: Some(tenantless), ..get("/acme") }, DEFAULT);
    check(&own("/{id}", With::Held(1)), get("/on%20call"), ALLOWED);
    check(&own("/{id}", With::Held(1)), get("/read"), DEFAULT);
    check(&own("/{id}", With::Held(2)), get("/read"), ALLOWED);
}

#[test]
fn nobody_is_granted_anything_by_a_rule_but_can_be_denied() {
    let rules =
        with_default(wire::Effect::Allow, vec![allow(|_| ()), deny(|rule| rule.methods = texts("DELETE"))]);
    let nobody = |path| Request { identity: None, ..get(path) };
    check(&rules, nobody("/x"), (Effect::Deny, "unauthenticated"));
    check(&rules, nobody("/healthz"), (Effect::Allow, "anonymous"));
    check(&rules, Request { method: "DELETE", ..nobody("/healthz") }, (Effect::Deny, "rule-1"));
    let elsewhere = Request { open: false, ..nobody("/healthz") };
    check(&rules, elsewhere, (Effect::Deny, "unauthenticated"));
}

#[test]
fn the_missing_scopes_of_the_first_rule_that_would_allow_are_named() {
    let rules = policy(vec![
        allow(|rule| (rule.paths, rule.scopes) = (texts("/other"), texts("x"))),
        allow(|rule| (rule.groups, rule.scopes) = (texts("ops"), texts("y"))),
        allow(|rule| (rule.methods, rule.scopes) = (texts("GET"), texts("read write admin"))),
        allow(|rule| rule.scopes = texts("z")),
    ]);
    assert_eq!(rules.decide(&get("/")).missing_scopes, ["write", "admin"]);
    let denied =
        policy(vec![allow(|rule| rule.scopes = texts("z")), deny(|rule| rule.groups = texts("dev"))]);
    assert_eq!(denied.decide(&get("/")).missing_scopes, Vec::<&str>::new(), "no scope would help");
}

#[test]
fn a_path_that_could_mean_two_things_is_denied_by_itself() {
    let rules = with_default(wire::Effect::Allow, vec![]);
    for path in ["/docs;x/../admin", "/healthz/%2e%2e/docs", "/a%2fb", "//a", "", "*"] {
        check(&rules, get(path), (Effect::Deny, "path"));
    }
}

#[test]
fn an_explanation_names_each_field_that_does_not_match() {
    let rules = policy(vec![
        allow(|rule| {
            (rule.methods, rule.paths, rule.scopes) = (texts("PUT"), texts("/docs"), texts("read write"));
        }),
        deny(|rule| rule.groups = texts("suspended")),
        allow(|rule| rule.groups = texts("dev")),
        allow(|_| ()),
    ]);
    let request = get("/x");
    let explained = rules.explain(&request);
    assert_eq!(explained.decided.rule, "rule-2");
    let line = |unmet: &crate::Unmet| format!("{}: {} ≠ {}", unmet.field, unmet.wants, unmet.has);
    let told = explained.rules.iter().map(|(_, outcome)| match outcome {
        Outcome::Unmet(unmet) => unmet.iter().map(line).collect::<Vec<_>>().join("; "),
        other => format!("{other:?}"),
    });
    let told: Vec<_> = told.collect();
    assert_eq!(
        told,
        [
            "paths: /docs ≠ /x; methods: PUT ≠ GET; scopes: read, write ≠ read",
            "groups: suspended ≠ dev, on call",
            "Decides",
            "Matches",
        ]
    );
}

#[test]
fn what_decides_and_the_reference_agree_on_the_corpus() {
    for bytes in &testing::corpus() {
        testing::agree(bytes);
    }
}

proptest! {
    /// Hostile paths are among what the bytes choose.
    #[test]
    fn what_decides_and_the_reference_always_agree(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        testing::agree(&bytes);
    }
}
