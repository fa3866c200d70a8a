//! What is remembered for one must be of no use to another: lines 36 to 40, as far as Envoy can tell. The rest is at the
//! sidecar (`sidecars/authn/src/cache.rs`, `sidecars/authn/src/work/tests.rs`).

use reqwest::Method;
use serde_json::json;
use tests::{Raw, eventually};

use super::{claims, edge, good, refused, rule, signed};

/// Line 37, with the lines 36 and 38 of what the place of a credential and its policy are.
#[tokio::test]
async fn what_one_service_remembers_opens_no_other_cve_2026_33496_cve_2026_33729() {
    let edge = edge().await;
    let token = good();
    for _ in 0..3 {
        assert_eq!(edge.send(edge.get("/docs").bearer(&token)).await.status, 200, "it is remembered");
        for (service, attack) in [(&edge.other, "another audience"), (&edge.asap, "another method")] {
            let seen = edge.send(Raw::get(service.host(), "/").bearer(&token)).await;
            refused(&seen, 401, attack);
        }
        let cookie = Raw::get(edge.session.host(), "/").header("cookie", format!("sid={token}"));
        refused(&edge.send(cookie).await, 401, "another place");
        let key = edge.get("/docs").header("x-api-key", &token);
        refused(&edge.send(key).await, 401, "another header");
    }
    // And what one has refused is not refused everywhere.
    let mut claims = claims();
    claims["aud"] = json!("other");
    let others = signed(&claims);
    refused(&edge.send(edge.get("/docs").bearer(&others)).await, 401, "for another service");
    assert_eq!(edge.send(Raw::get(edge.other.host(), "/").bearer(&others)).await.status, 200);
}

/// Line 36, GHSA-qvp4-rpmr-xwrr: scopes are looked at with each request, whatever was remembered.
#[tokio::test]
async fn what_was_good_for_one_rule_is_not_for_another_cve_2021_32701() {
    let edge = edge().await;
    let token = good();
    for _ in 0..3 {
        assert_eq!(edge.send(edge.get("/docs").bearer(&token)).await.status, 200);
        refused(&edge.send(edge.get("/admin").bearer(&token)).await, 403, "another scope");
        let post = Raw::line("POST /docs HTTP/1.1").header("host", edge.hello.host()).bearer(&token);
        refused(&edge.send(post.header("content-length", "0")).await, 403, "another method");
    }
}

/// Line 23, GHSA-x883-2vmg-xwf7: a policy and a session that have changed count at once.
#[tokio::test]
async fn what_has_changed_is_not_remembered_as_it_was_cve_2021_41230_cve_2026_34454() {
    let edge = edge().await;
    let service = edge.lab.service("changing");
    let service = service
        .with("/auth", json!({"any": [{"jwt": rule("changing", "ES256")}]}))
        .with("/authz", json!({"default": "allow"}));
    edge.lab.live(&service).await;
    let mut claims = claims();
    (claims["aud"], claims["sid"]) = (json!("changing"), json!("s-changing"));
    let token = signed(&claims);
    let get = || edge.lab.get(service.host(), "/", Some(&token));
    assert_eq!(get().await.status, 200);
    let rules = json!({"rules": [{"allow": {"scopes": ["more"]}}]});
    edge.lab.change(&service.clone().with("/authz", rules)).await;
    eventually("it may no more", || async { (get().await.status == 403).then_some(()) }).await;
    edge.lab.change(&service).await;
    eventually("it may again", || async { (get().await.status == 200).then_some(()) }).await;
    edge.lab.change(&service.clone().with("/auth/any/0/jwt/audiences", json!(["changed"]))).await;
    eventually("it is for another audience", || async { (get().await.status == 401).then_some(()) }).await;
    edge.lab.change(&service).await;
    eventually("it is good again", || async { (get().await.status == 200).then_some(()) }).await;
    let (done, text) = edge.lab.run(&["revoke", "--issuer", super::ISSUER, "--sid", "s-changing"]).await;
    assert!(done, "{text}");
    eventually("its session is over", || async { (get().await.status == 401).then_some(()) }).await;
    // Another spelling of the signature is of the same session.
    let other = jwt::testing::malleated(&token);
    assert_eq!(edge.lab.get(service.host(), "/", Some(&other)).await.status, 401);
}

/// Line 40: a name is itself alone, so no other spelling has another counter. What counts tries is the address.
#[tokio::test]
async fn another_spelling_of_a_name_is_nobody_cve_2025_24806_cve_2026_47203() {
    let edge = edge().await;
    let output = edge.lab.gatehouse_reading(&["hash-password"], "correct horse\n").await;
    let hash = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let users = json!([{"name": "alice", "hash": hash, "scopes": ["read"]}]);
    let service = edge.lab.service("basic").with("/auth", json!({"any": [{"basic": {"users": users}}]}));
    let service = service.with("/authz", json!({"default": "allow"}));
    edge.lab.live(&service).await;
    for (name, status) in [
        ("alice", 200),
        ("Alice", 401),
        ("ALICE", 401),
        (" alice", 401),
        ("alice ", 401),
        ("alice@example.test", 401),
        ("\u{ff41}lice", 401),
        ("alic\u{65}\u{301}", 401),
    ] {
        // A hash may take longer than Envoy waits; the next request finds it done.
        eventually(name, || async {
            let request =
                edge.lab.request(Method::GET, service.host(), "/").basic_auth(name, Some("correct horse"));
            let seen = edge.lab.send(request).await?;
            (seen.status != 503).then(|| assert_eq!(seen.status, status, "{name:?}: {}", seen.body))
        })
        .await;
    }
}
