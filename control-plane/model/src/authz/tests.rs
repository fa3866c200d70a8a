//! What of `authz` is refused, and with which words.

use serde_json::{Value, json};

use super::*;
use crate::UpstreamRule;

#[allow(clippy::needless_pass_by_value, reason = "values are written down where they are used")]
fn with(authz: Value) -> Value {
    json!({
        "service": "hello",
        "hosts": ["hello.example.test", "*.hello.example.test"],
        "routes": [
            {"path": "/", "upstream": {"urls": ["http://127.0.0.1:9001"]}},
            {"path": "/closed", "upstream": {"urls": ["http://127.0.0.1:9001"]},
             "auth": {"any": [{"api_key": {}}]}},
        ],
        "auth": {"any": [{"jwt": {"issuer": "https://id.example.test/", "audiences": ["hello"], "algorithms": ["ES256"],
                                  "claims": ["department"]}}],
                 "anonymous": ["/healthz", "/closed"]},
        "authz": authz,
    })
}

fn read(authz: Value) -> Result<ServiceFile, String> {
    ServiceFile::parse(&with(authz), UpstreamRule::LoopbackAllowed).map_err(|error| error.to_string())
}

/// All that a rule can say.
fn everything() -> Value {
    json!({
        "default": "deny",
        "mode": "shadow",
        "rules": [
            {"allow": {
                "methods": ["GET"], "hosts": ["*.hello.example.test"], "paths": ["/users/{id}"], "scopes": ["read"],
                "groups": ["on call"], "claims": {"department": ["sales"], "tenant": ["acme"]}, "auth": ["jwt", "mtls"],
                "networks": ["10.0.0.0/8"],
                "time": {"days": ["mon"], "from": "08:00", "to": "18:00", "zone": "Europe/Berlin",
                         "after": "2026-01-01T00:00:00Z", "before": "2027-01-01T00:00:00Z"},
                "where": ["{id} == sub", "{id} in groups", "{id} in scopes"],
            }},
            {"deny": {"groups": ["suspended"]}},
        ],
    })
}

#[allow(clippy::needless_pass_by_value, reason = "values are written down where they are used")]
#[track_caller]
fn refused(rule: Value, expected: &str) {
    let told = read(json!({"rules": [rule]})).unwrap_err();
    assert!(told.contains(expected), "{told}\ndoes not say\n{expected}");
}

#[test]
fn what_is_read_is_written_back_and_rendered_as_the_sidecar_reads_it() {
    let service = read(everything()).unwrap();
    assert_eq!(read(serde_json::to_value(&service.authz).unwrap()).unwrap(), service);
    let wire = service.authz_policy("i-1", 7);
    let json = api::json("gatehouse.authz.v1.Policy", &wire);
    assert_eq!(
        (&json["name"], &json["rev"], &json["mode"]),
        (&json!("i-1@7"), &json!(7), &json!("MODE_SHADOW"))
    );
    assert_eq!(json["claims"], json!(["department"]));
    assert_eq!(json["anonymous"], json!(["/closed", "/healthz"]));
    let rule = &json["rules"][0];
    assert_eq!((&rule["id"], &rule["effect"]), (&json!("rule-0"), &json!("EFFECT_ALLOW")));
    assert_eq!(rule["where"][1], json!({"capture": "id", "held": "GROUPS"}));
    assert_eq!(json["rules"][1], json!({"id": "rule-1", "effect": "EFFECT_DENY", "groups": ["suspended"]}));
}

#[test]
fn the_refusal_of_a_rule_names_its_field_in_the_service_file() {
    refused(json!({"allow": {}}), "authz.rules[0].allow:");
    refused(json!({"permit": {"methods": ["GET"]}}), "authz.rules[0]");
    refused(json!({"allow": {"methods": ["get"]}}), "authz.rules[0].allow.methods[0]:");
    refused(json!({"deny": {"paths": ["/a/{b}c"]}}), "authz.rules[0].deny.paths[0]: captures like `{id}`");
    refused(json!({"deny": {"paths": ["/a;b"]}}), "authz.rules[0].deny.paths[0]:");
    refused(
        json!({"allow": {"claims": {"colour": ["red"]}}}),
        "authz.rules[0].allow.claims.colour: sub, iss, tenant, or a claim that the service's auth carries",
    );
    refused(json!({"allow": {"claims": {"tenant": ["a\nb"]}}}), "authz.rules[0].allow.claims.tenant[0]:");
    refused(
        json!({"allow": {"paths": ["/{id}"], "where": ["{id} == colour"]}}),
        "authz.rules[0].allow.where[0]: sub, iss, tenant, or a claim",
    );
    refused(
        json!({"allow": {"paths": ["/{id}", "/x"], "where": ["{id} == sub"]}}),
        "authz.rules[0].allow.where[0]: a capture that each path of the rule has, got \"id\"",
    );
    for comparison in ["{id} = sub", "id == sub", "{id} in tenant", "{id} == a b", "{id} != sub"] {
        refused(
            json!({"allow": {"paths": ["/{id}"], "where": [comparison]}}),
            "authz.rules[0].allow.where[0]:",
        );
    }
    refused(json!({"allow": {"auth": ["magic"]}}), "authz.rules[0].allow.auth[0]:");
    refused(
        json!({"allow": {"networks": ["10.0.0.1/8"]}}),
        "authz.rules[0].allow.networks[0]: a network such as",
    );
    refused(
        json!({"allow": {"time": {"from": "08:00"}}}),
        "authz.rules[0].allow.time.zone: whose days and hours",
    );
    refused(
        json!({"allow": {"hosts": ["other.example.test"]}}),
        "authz.rules[0].allow.hosts[0]: one of the service's hosts, got \"other.example.test\"",
    );
    assert!(read(json!({"rules": [{"allow": {"hosts": ["*.example.test"]}}]})).is_ok());
}

#[test]
fn rules_that_can_never_decide_anything_are_refused_with_the_one_that_does() {
    let told = read(json!({"rules": [
        {"allow": {"paths": ["/docs/{doc}"], "groups": ["dev"]}},
        {"deny": {"networks": ["10.0.0.0/8"]}},
        {"allow": {"paths": ["/docs"]}},
    ]}))
    .unwrap_err();
    assert_eq!(
        told,
        "authz.rules[0].allow: rule-0 can never decide anything, since rule-2 (authz.rules[2].allow) decides whatever it matches"
    );
}

/// One rule, and this row.
#[allow(clippy::needless_pass_by_value, reason = "values are written down where they are used")]
fn table(row: Value) -> Result<ServiceFile, String> {
    read(json!({
        "rules": [{"allow": {"paths": ["/users/{id}"], "scopes": ["read"], "where": ["{id} == sub"]}}],
        "tests": [row],
    }))
}

#[test]
fn a_row_that_is_as_expected_passes() {
    for row in [
        json!({"request": {"path": "/users/alice", "subject": "alice", "scopes": ["read"]}, "expect": "allow", "rule": "rule-0"}),
        json!({"request": {"path": "/users/bob", "subject": "alice", "scopes": ["read"]}, "expect": "deny"}),
        json!({"request": {"path": "/healthz"}, "expect": "allow", "rule": "anonymous"}),
        json!({"request": {"path": "/closed"}, "expect": "deny", "rule": "unauthenticated"}),
        json!({"request": {"path": "/healthz/%2e%2e/x"}, "expect": "deny", "rule": "path"}),
    ] {
        assert_eq!(table(row.clone()).err(), None, "{row}");
    }
}

#[test]
fn a_row_that_fails_is_named_with_what_was_decided_and_by_what() {
    #[track_caller]
    fn fails(row: Value, expected: &str) {
        assert_eq!(table(row).unwrap_err(), expected);
    }
    fails(
        json!({"request": {"path": "/users/bob", "subject": "alice", "scopes": ["read"]}, "expect": "allow", "rule": "rule-0"}),
        "authz.tests[0]: GET /users/bob of alice: expected allow by rule-0, got deny by default",
    );
    fails(
        json!({"request": {"path": "/healthz"}, "expect": "deny"}),
        "authz.tests[0]: GET /healthz of nobody: expected deny, got allow by anonymous",
    );
    fails(
        json!({"request": {"path": "/healthz"}, "expect": "allow", "rule": "rule-0"}),
        "authz.tests[0]: GET /healthz of nobody: expected allow by rule-0, got allow by anonymous",
    );
    fails(
        json!({"request": {"path": "/", "scopes": ["read"]}, "expect": "deny"}),
        "authz.tests[0].request.subject: whose scopes, groups, claims, tenant, issuer or auth these are, got nothing",
    );
    fails(
        json!({"request": {"path": "/", "address": "10.1.2.300"}, "expect": "deny"}),
        "authz.tests[0].request.address: an IP address, got \"10.1.2.300\"",
    );
    fails(
        json!({"request": {"path": "/", "subject": "a", "claims": {"colour": ["red"]}}, "expect": "deny"}),
        "authz.tests[0].request.claims.colour: a claim that the service's auth carries (`claims: [name]` at its method)",
    );
}

#[test]
fn a_row_leaves_nothing_open_that_rules_ask_for() {
    let told = |rule: Value| {
        let row = json!({"request": {"path": "/", "subject": "a"}, "expect": "deny"});
        read(json!({"rules": [{"allow": rule}], "tests": [row]})).unwrap_err()
    };
    assert_eq!(
        told(json!({"networks": ["10.0.0.0/8"]})),
        "authz.tests[0].request.address: where the client is, since the policy asks for it, got nothing"
    );
    assert_eq!(
        told(json!({"time": {"after": "2026-01-01T00:00:00Z"}})),
        "authz.tests[0].request.at: when the request comes, since the policy asks for it, got nothing"
    );
}

#[track_caller]
fn check_cedar(change: impl FnOnce(&mut Value), expected: &str) {
    let mut written = json!({
        "schema": "entity Doc = { open: Bool };\n",
        "policies": "permit (principal, action, resource is Doc) when { resource.open };\n",
        "resources": [{"path": "/docs/{doc}", "entity": "Doc", "id": "{doc}"}],
    });
    change(&mut written);
    let told = read(json!({ "cedar": written })).err().unwrap_or_default();
    assert!(told.starts_with(expected) && told.is_empty() == expected.is_empty(), "{told}");
}

#[test]
fn a_mistake_in_cedar_is_told_with_its_field_and_line() {
    check_cedar(|_| (), "");
    check_cedar(|cedar| cedar["entities"] = json!("docs"), "");
    check_cedar(
        |cedar| cedar["policies"] = json!("permit (principal, action, resource)\nwhen { resource.x };\n"),
        "authz.cedar.policies: line 2, column 8: for policy `policy-0`, ",
    );
    check_cedar(
        |cedar| cedar["schema"] = json!("entity Doc;\nentity"),
        "authz.cedar.schema: line 2, column 7: ",
    );
    check_cedar(
        |cedar| cedar["resources"][0]["entity"] = json!("Dock"),
        "authz.cedar.resources[0].entity: a type of entity that the schema declares, got \"Dock\"",
    );
    check_cedar(
        |cedar| {
            cedar["test_entities"] = json!([{"uid": {"type": "Doc", "id": "a"}, "attrs": {}, "parents": []}]);
        },
        "authz.cedar.entities: ",
    );
}

#[test]
fn a_table_asks_both_engines_with_entities_of_its_own() {
    let authz = |expect: &str| {
        json!({
            "rules": [{"deny": {"groups": ["suspended"]}}],
            "cedar": {
                "schema": "entity Doc = { open: Bool };",
                "policies": "@id(\"open\") permit (principal, action, resource is Doc) when { resource.open };",
                "resources": [{"path": "/docs/{doc}", "entity": "Doc", "id": "{doc}"}],
                "entities": "docs",
                "test_entities": [
                    {"uid": {"type": "Doc", "id": "a"}, "attrs": {"open": true}, "parents": []},
                    {"uid": {"type": "Doc", "id": "b"}, "attrs": {"open": false}, "parents": []},
                ],
            },
            "tests": [
                {"request": {"path": "/docs/a", "subject": "alice"}, "expect": expect, "rule": "cedar:open"},
                {"request": {"path": "/docs/b", "subject": "alice"}, "expect": "deny", "rule": "default"},
                {"request": {"path": "/docs/c", "subject": "alice"}, "expect": "deny", "rule": "cedar-error:open"},
                {"request": {"path": "/docs/a", "subject": "eve", "groups": ["suspended"]}, "expect": "deny", "rule": "rule-0"},
            ],
        })
    };
    read(authz("allow")).unwrap();
    let told = read(authz("deny")).unwrap_err();
    assert_eq!(
        told,
        "authz.tests[0]: GET /docs/a of alice: expected deny by cedar:open, got allow by cedar:open"
    );
}
