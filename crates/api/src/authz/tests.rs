//! What a policy must not say. A test for each refusal.

use super::*;

fn rule() -> pb::authz::Rule {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    pb::authz::Rule {
        id: "rule-0".into(),
        effect: pb::authz::Effect::Allow.into(),
        methods: texts(&["GET"]),
        hosts: texts(&["*.example.test"]),
        paths: texts(&["/users/{id}"]),
        scopes: texts(&["read:hello"]),
        groups: texts(&["dev"]),
        claims: vec![pb::authz::Claim { name: "department".into(), values: texts(&["sales"]) }],
        auth: texts(&["jwt"]),
        networks: texts(&["10.0.0.0/8"]),
        time: Some(pb::authz::Time { after: "2026-01-01T00:00:00Z".into(), ..Default::default() }),
        r#where: vec![compared(pb::authz::comparison::With::Claim("sub".into()))],
    }
}

fn compared(with: pb::authz::comparison::With) -> pb::authz::Comparison {
    pb::authz::Comparison { capture: "id".into(), with: Some(with) }
}

fn wire() -> pb::authz::Policy {
    pb::authz::Policy {
        name: "i-1@1".into(),
        policy: "i-1".into(),
        rev: 1,
        rules: vec![rule()],
        claims: vec!["department".into()],
        ..Default::default()
    }
}

#[track_caller]
fn check(change: impl FnOnce(&mut pb::authz::Policy), expected: &str) {
    let mut wire = wire();
    change(&mut wire);
    assert_eq!(Policy::try_from(wire).unwrap_err().to_string(), expected);
}

/// Changes the rule.
#[track_caller]
fn rule_is_refused(change: impl FnOnce(&mut pb::authz::Rule), expected: &str) {
    check(|wire| change(&mut wire.rules[0]), &format!("rules[0].{expected}"));
}

#[test]
fn a_good_policy_is_accepted_and_denies_by_default() {
    let policy = Policy::try_from(wire()).unwrap();
    assert_eq!((policy.default, policy.mode, policy.rules.len()), (Effect::Deny, Mode::Enforce, 1));
}

#[test]
fn what_this_release_does_not_know_is_refused_and_never_widened() {
    check(|wire| wire.default_effect = 9, "default_effect: an effect that this release knows, got \"9\"");
    check(|wire| wire.mode = 9, "mode: a mode that this release knows, got \"9\"");
    check(|wire| wire.policy.clear(), "policy: the id of the service instance, got nothing");
    for effect in [0, 9] {
        rule_is_refused(
            |rule| rule.effect = effect,
            &format!("effect: EFFECT_ALLOW or EFFECT_DENY, got \"{effect}\""),
        );
    }
    rule_is_refused(
        |rule| rule.r#where[0].with = None,
        "where[0].with: a claim, groups or scopes, got nothing",
    );
    for held in [0, 9] {
        rule_is_refused(
            |rule| rule.r#where = vec![compared(pb::authz::comparison::With::Held(held))],
            &format!("where[0].held: GROUPS or SCOPES, got \"{held}\""),
        );
    }
}

#[test]
fn a_rule_says_what_it_matches() {
    rule_is_refused(|rule| rule.id.clear(), "id: a name within the policy, got nothing");
    rule_is_refused(
        |rule| rule.id = "default".into(),
        "id: a name that says which rule it was, got \"default\"",
    );
    rule_is_refused(
        |rule| rule.methods = vec!["get".into()],
        "methods[0]: an HTTP method in upper case, got \"get\"",
    );
    rule_is_refused(
        |rule| rule.scopes = vec!["a b".into()],
        "scopes[0]: one scope, without spaces, got \"a b\"",
    );
    rule_is_refused(|rule| rule.groups = vec![String::new()], "groups[0]: a group, got \"\"");
    rule_is_refused(
        |rule| rule.hosts = vec!["A.test".into()],
        "hosts[0]: a DNS name in lower case, or `*.` and one, got \"A.test\"",
    );
    rule_is_refused(
        |rule| rule.auth = vec!["magic".into()],
        "auth[0]: one of jwt, asap, api_key, basic, introspection, mtls, session, dpop, mtls_bound, got \"magic\"",
    );
    rule_is_refused(
        |rule| rule.networks = vec!["10.0.0.1/8".into()],
        "networks[0]: a network such as 10.0.0.0/8 or fd00::/8, with no bits behind its length, got \"10.0.0.1/8\"",
    );
    rule_is_refused(
        |rule| rule.time = Some(pb::authz::Time::default()),
        "time: days, from, to, after or before, got nothing",
    );
    rule_is_refused(
        |rule| rule.paths = vec!["/a/{b}c".into()],
        "paths[0]: captures like `{id}`: whole segments, a-z, 0-9 and _, got \"/a/{b}c\"",
    );
    rule_is_refused(
        |rule| rule.groups = vec!["a\nb".into()],
        "groups[0]: at most 256 bytes, without control characters, got \"a\\nb\"",
    );
}

#[test]
fn what_could_never_match_is_refused() {
    let unknown = "sub, iss, tenant, or a claim that the service's auth carries (`claims: [name]` at its method), got \"colour\"";
    rule_is_refused(|rule| rule.claims[0].name = "colour".into(), &format!("claims[0].name: {unknown}"));
    rule_is_refused(
        |rule| rule.r#where = vec![compared(pb::authz::comparison::With::Claim("colour".into()))],
        &format!("where[0].claim: {unknown}"),
    );
    rule_is_refused(|rule| rule.claims[0].values.clear(), "claims[0].values: at least one, got nothing");
    rule_is_refused(
        |rule| rule.paths.push("/users".into()),
        "where[0].capture: a capture that each path of the rule has, got \"id\"",
    );
    rule_is_refused(
        |rule| rule.paths.clear(),
        "where[0].capture: a capture that each path of the rule has, got \"id\"",
    );
}

#[test]
fn everything_is_bounded() {
    check(|wire| wire.rules = vec![rule(); 10_001], "rules: at most 10000 rules, got \"10001\"");
    check(|wire| wire.rules.push(rule()), "rules[1].id: a name that no other rule has, got \"rule-0\"");
    check(|wire| wire.claims = vec!["a".into(); 65], "claims: at most 64 names, got \"65\"");
    rule_is_refused(|rule| rule.groups = vec!["a".into(); 101], "groups: at most 100, got \"101\"");
    rule_is_refused(|rule| rule.paths = vec!["/a".into(); 101], "paths: at most 100, got \"101\"");
    let long = |at: usize| pb::authz::Rule { id: at.to_string(), groups: vec!["a".into(); 100], ..rule() };
    check(
        |wire| wire.rules = (0..2_000).map(long).collect(),
        "rules[1851]: at most 200000 values in all lists of all rules, got \"200016\"",
    );
}
