//! Each field of a rule through a real Envoy: what it lets pass, and what it does not.

use jwt::testing::{ec_key, signed_by};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tests::{
    Lab, Service,
    issuer::{self, ISSUER, now},
};

const ADMIN: &str = "hello-admin.example.test";

async fn start() -> (Lab, Service) {
    let lab = Lab::with(issuer::trust).await;
    let rule =
        json!({"issuer": ISSUER, "audiences": ["hello"], "algorithms": ["ES256"], "claims": ["department"]});
    let hello = lab
        .service("hello")
        .with("/hosts", json!(["hello.example.test", ADMIN]))
        .with("/auth", json!({"any": [{"jwt": rule}], "anonymous": ["/healthz"]}))
        .with("/authz", json!({}));
    lab.live(&hello).await;
    (lab, hello)
}

/// Alice, who says this too.
fn token(more: &Value) -> String {
    let mut claims =
        json!({"iss": ISSUER, "sub": "alice", "aud": "hello", "iat": now(), "exp": now() + 600, "jti": "1"});
    for (name, value) in more.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    signed_by(&ec_key(), "ES256", "ec", &claims)
}

async fn status(lab: &Lab, request: RequestBuilder) -> u16 {
    lab.send(request).await.expect("Envoy answers").status
}

/// What Alice gets for a GET, with these claims.
async fn get(lab: &Lab, host: &str, path: &str, claims: Value) -> u16 {
    status(lab, lab.request(Method::GET, host, path).bearer_auth(token(&claims))).await
}

/// The service, with these rules.
async fn ruled(lab: &Lab, hello: &Service, rules: Value) -> Service {
    let ruled = hello.clone().with("/authz", json!({"rules": rules}));
    lab.change(&ruled).await;
    ruled
}

#[tokio::test]
async fn a_rule_goes_by_who_it_is() {
    let (lab, hello) = start().await;
    let host = hello.host();
    for (rule, passes, fails) in [
        (
            json!({"groups": ["dev", "on call"]}),
            json!({"groups": ["on call"]}),
            json!({"groups": ["on", "call"]}),
        ),
        (json!({"scopes": ["read", "write"]}), json!({"scope": "write read"}), json!({"scope": "read"})),
        (json!({"claims": {"tenant": ["acme"]}}), json!({"tenant": "acme"}), json!({"department": "acme"})),
        (
            json!({"claims": {"department": ["sales"]}}),
            json!({"department": ["it", "sales"]}),
            json!({"department": "it"}),
        ),
        (
            json!({"claims": {"department": ["7", "true"]}}),
            json!({"department": 7}),
            json!({"department": false}),
        ),
        (json!({"claims": {"sub": ["alice"]}, "auth": ["jwt"]}), json!({}), json!({"sub": "bob"})),
    ] {
        ruled(&lab, &hello, json!([{"allow": rule}])).await;
        assert_eq!(get(&lab, host, "/", passes).await, 200, "{rule}");
        assert_eq!(get(&lab, host, "/", fails).await, 403, "{rule}");
    }
    ruled(&lab, &hello, json!([{"allow": {"auth": ["mtls", "dpop"]}}])).await;
    assert_eq!(get(&lab, host, "/", json!({})).await, 403, "by another method");
    lab.stop().await;
}

#[tokio::test]
async fn a_rule_goes_by_what_is_asked_and_from_where_and_when() {
    let (lab, hello) = start().await;
    let host = hello.host();
    let check = async |rule: Value, host: &str, path: &str, expected: u16| {
        ruled(&lab, &hello, json!([{"allow": rule}])).await;
        assert_eq!(get(&lab, host, path, json!({})).await, expected, "{rule}: {path}");
    };
    check(json!({"hosts": [ADMIN]}), "HELLO-admin.example.test", "/", 200).await;
    assert_eq!(get(&lab, host, "/", json!({})).await, 403, "another host");
    check(json!({"paths": ["=/a/{x}/c"]}), host, "/a/b/c?d=e", 200).await;
    assert_eq!(get(&lab, host, "/a/b/c/d", json!({})).await, 403, "more than the literal");
    check(json!({"methods": ["GET"]}), host, "/", 200).await;
    check(json!({"methods": ["PUT"]}), host, "/", 403).await;
    check(json!({"time": {"after": "2026-01-01T00:00:00Z"}}), host, "/", 200).await;
    check(json!({"time": {"before": "2026-01-01T00:00:00Z"}}), host, "/", 403).await;
    check(json!({"networks": ["127.0.0.0/8"]}), host, "/", 200).await;
    check(json!({"networks": ["10.0.0.0/8"]}), host, "/", 403).await;
    // Whatever a client says of itself: it is where its connection comes from.
    let forged = lab
        .request(Method::GET, host, "/")
        .bearer_auth(token(&json!({})))
        .header("x-gatehouse-address", "10.1.2.3")
        .header("x-forwarded-for", "10.1.2.3");
    assert_eq!(status(&lab, forged).await, 403);
    lab.stop().await;
}

#[tokio::test]
async fn a_capture_is_compared_with_who_it_is() {
    let (lab, hello) = start().await;
    let host = hello.host();
    let own = |path: &str, comparison: &str| json!({"allow": {"paths": [path], "where": [comparison]}});
    let rules = json!([
        own("/users/{id}", "{id} == sub"),
        own("/teams/{team}", "{team} in groups"),
        own("/areas/{area}", "{area} in scopes"),
        own("/departments/{name}", "{name} == department"),
    ]);
    ruled(&lab, &hello, rules).await;
    let claims = json!({"groups": ["dev", "on call"], "scope": "read write", "department": ["sales"]});
    for (path, expected) in [
        ("/users/alice", 200),
        ("/users/%61lice/posts", 200),
        ("/users/bob", 403),
        ("/users/", 403),
        ("/users/alice%2F..%2Fbob", 400),
        ("/users/bob/../alice", 200),
        ("/teams/on%20call", 200),
        ("/teams/on", 403),
        ("/areas/write", 200),
        ("/areas/dev", 403),
        ("/departments/sales", 200),
        ("/departments/it", 403),
    ] {
        assert_eq!(get(&lab, host, path, claims.clone()).await, expected, "{path}");
    }
    lab.stop().await;
}

#[tokio::test]
async fn a_deny_wins_over_every_allow_and_over_anonymous_paths() {
    let (lab, hello) = start().await;
    let host = hello.host();
    let rules = json!([
        {"allow": {"paths": ["/"]}},
        {"deny": {"groups": ["suspended"]}},
        {"deny": {"paths": ["/healthz/internal", "/@admin"]}},
    ]);
    ruled(&lab, &hello, rules).await;
    assert_eq!(get(&lab, host, "/", json!({})).await, 200);
    assert_eq!(get(&lab, host, "/", json!({"groups": ["suspended"]})).await, 403);
    for path in ["/@admin", "/%40admin", "/%40%61dmin/x", "//@admin", "/x/../@admin"] {
        assert_eq!(get(&lab, host, path, json!({})).await, 403, "{path}");
    }
    let nobody = async |path: &str| status(&lab, lab.request(Method::GET, host, path)).await;
    assert_eq!(nobody("/healthz").await, 200);
    assert_eq!(nobody("/healthz/internal").await, 403);
    assert_eq!(nobody("/").await, 401);
    lab.stop().await;
}

#[tokio::test]
async fn a_change_by_which_a_test_fails_is_refused_and_changes_nothing() {
    let (lab, hello) = start().await;
    let own = json!({"allow": {"paths": ["/users/{id}"], "where": ["{id} == sub"]}});
    let tests = json!([
        {"request": {"path": "/users/alice", "subject": "alice"}, "expect": "allow", "rule": "rule-0"},
        {"request": {"path": "/users/bob", "subject": "alice"}, "expect": "deny"},
    ]);
    let good = hello.clone().with("/authz", json!({"rules": [own], "tests": tests}));
    lab.change(&good).await;
    let wider = good.clone().with("/authz/rules", json!([own, {"allow": {"methods": ["GET"]}}]));
    let refused = lab.update(&wider).await;
    assert_eq!(refused.status, 400);
    let words = "authz.tests[1]: GET /users/bob of alice: expected deny, got allow by rule-1";
    assert!(refused.body.contains(words), "{}", refused.body);
    let idle = good.clone().with("/authz", json!({"rules": [own, {"deny": {"paths": ["/users"]}}]}));
    let refused = lab.update(&idle).await;
    let words =
        "rule-0 can never decide anything, since rule-1 (authz.rules[1].deny) decides whatever it matches";
    assert!(refused.status == 400 && refused.body.contains(words), "{}", refused.body);
    assert_eq!(get(&lab, good.host(), "/users/alice", json!({})).await, 200);
    assert_eq!(get(&lab, good.host(), "/users/bob", json!({})).await, 403);
    lab.stop().await;
}
