//! More of everything than anybody means: lines 42 and 43, what a service can order. Floods of the sidecar are in `socket`.

use serde_json::{Value, json};
use tests::eventually;

use super::{claims, edge, rule, signed};

/// Line 42: each order has its bounds, and none holds a pattern that costs more than its length.
#[tokio::test]
async fn no_service_orders_more_than_it_may_cost_cve_2025_25207_cve_2025_25208_cve_2023_43645() {
    let edge = edge().await;
    let service = || edge.lab.service("greedy");
    let many = |count: usize, one: Value| Value::Array(vec![one; count]);
    let paths = |count: usize| (0..count).map(|at| json!(format!("/{at}"))).collect::<Vec<_>>();
    let route = service().parameters["routes"][0].clone();
    for (attack, order) in [
        ("methods", service().with("/auth/any", many(33, json!({"jwt": rule("greedy", "ES256")})))),
        ("audiences", service().with("/auth/any/0/jwt/audiences", many(10_000, json!("a")))),
        ("anonymous paths", service().with("/auth/anonymous", Value::Array(paths(10_000)))),
        ("rules", service().with("/authz/rules", many(10_000, json!({"allow": {"paths": ["/"]}})))),
        ("scopes", service().with("/authz/rules/0/allow/scopes", many(10_000, json!("a")))),
        ("routes", service().with("/routes", many(1_000, route))),
        (
            "hosts",
            service().with("/hosts", (0..1_000).map(|at| json!(format!("g{at}.example.test"))).collect()),
        ),
        ("limits", service().with("/rate_limits", many(1_000, json!({"limit": "1/day"})))),
        ("a long path", service().with("/auth/anonymous/0", json!(format!("/{}", "a".repeat(5_000))))),
        ("a long scope", service().with("/authz/rules/0/allow/scopes/0", json!("a".repeat(100_000)))),
        ("a long name", service().with("/service", json!("a".repeat(1_000)))),
        ("a wildcard", service().with("/auth/anonymous/0", json!("/a*b"))),
        (
            "depth",
            service().with("/authz/rules/0/allow/more", (0..100).fold(json!(1), |deep, _| json!([deep]))),
        ),
    ] {
        let answer = edge.lab.provision(&order).await;
        assert_eq!(answer.status, 400, "{attack}: {}", answer.body);
    }
}

/// Line 43: there is no language of policies that a word of a tenant could break out of, and templates see data.
#[tokio::test]
async fn a_tenants_words_are_data_cve_2025_46569() {
    let edge = edge().await;
    for word in [
        "{{ 7 * 7 }}",
        "{% raw %}",
        "x\"]}}, \"default\": {\"",
        "a\nresources: []",
        "default allow := true",
        "', true); --",
    ] {
        for pointer in [
            "/service",
            "/hosts/0",
            "/auth/anonymous/0",
            "/routes/0/path",
            "/authz/rules/0/allow/paths/0",
            "/authz/rules/0/allow/methods/0",
        ] {
            let answer = edge.lab.provision(&edge.lab.service("words").with(pointer, json!(word))).await;
            assert_eq!(answer.status, 400, "{pointer}: {word:?}: {}", answer.body);
        }
    }
    // What may be any word is the same word at the other end.
    let service =
        edge.lab.service("words").with("/auth", json!({"any": [{"jwt": rule("{{ 7 * 7 }}", "ES256")}]}));
    let service = service.with("/authz", json!({"default": "allow"}));
    let answer = edge.lab.provision(&service).await;
    if answer.status == 400 {
        assert!(answer.body.contains("audiences"), "{}", answer.body);
        return;
    }
    eventually("it is live", || async { (edge.lab.ended(&service).await.0 == "succeeded").then_some(()) })
        .await;
    for (audience, status) in [("{{ 7 * 7 }}", 200), ("49", 401), ("", 401)] {
        let mut claims = claims();
        claims["aud"] = json!(audience);
        assert_eq!(
            edge.lab.get(service.host(), "/", Some(&signed(&claims))).await.status,
            status,
            "{audience}"
        );
    }
}
