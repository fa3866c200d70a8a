//! Real Envoy boots and follows changes, however it asks.

use lab::Transport;
use serde_json::json;
use tests::{Lab, envoy, eventually};

/// A service goes live, changes, refuses a stranger and leaves, beside another one; nothing is left of it.
async fn a_service_lives_by(transport: Transport) {
    lives_in(Lab::with(|layout| layout.transport = transport).await).await;
}

async fn lives_in(lab: Lab) {
    let (hello, other) = (lab.service("hello"), lab.service("other"));
    lab.live(&other).await;
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200, "succeeded means that it is live");
    assert_eq!(lab.get(hello.host(), "/", None).await.status, 401);
    assert_eq!(lab.get("nobody.example.test", "/", None).await.status, 404);
    if lab.stack.layout.https {
        eventually("its certificate is served", || async {
            let answer = lab.get_https(hello.host(), "/healthz").await?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    let changed = hello.clone().with("/authz/rules/0/allow/scopes", json!(["admin:hello"]));
    lab.change(&changed).await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 403, "the changed rule is live");

    assert_eq!(lab.deprovision(&hello).await.status, 202);
    assert_eq!(lab.ended(&hello).await.0, "gone");
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 404);
    let token = lab.good_token(&other).await;
    assert_eq!(lab.get(other.host(), "/", Some(&token)).await.status, 200);
    eventually("nothing of it is left in Envoy", || async {
        let config = lab.envoy_admin("/config_dump?include_eds").await;
        // A certificate that was asked for by name stays until Envoy forgets the name.
        (!config.contains(&format!("{}/", hello.id()))).then_some(())
    })
    .await;
    // A poll for a certificate that is gone is answered with none, which Envoy takes amiss and survives.
    let rejected = lab.envoy_admin("/stats?filter=update_rejected").await;
    assert!(rejected.lines().all(|line| line.starts_with("sds.") || line.ends_with(": 0")), "{rejected}");
}

#[tokio::test]
async fn a_service_lives_by_delta_ads() {
    a_service_lives_by(Transport::DeltaGrpc).await;
}

#[tokio::test]
async fn a_service_lives_by_state_of_the_world_ads() {
    a_service_lives_by(Transport::Grpc).await;
}

#[tokio::test]
async fn a_service_lives_by_a_stream_for_each_type() {
    a_service_lives_by(Transport::PerType).await;
}

#[tokio::test]
async fn a_service_lives_by_polls() {
    a_service_lives_by(Transport::Rest).await;
}

/// The oldest release that we support, as the README says.
const OLDEST: &str = "1.37.0";

async fn a_service_lives_in_the_oldest_envoy_by(transport: Transport) {
    let envoy = envoy(OLDEST).await;
    let lab = Lab::with(|layout| {
        (layout.transport, layout.envoy, layout.https) = (transport, envoy, false);
    })
    .await;
    lives_in(lab).await;
}

#[tokio::test]
async fn a_service_lives_in_the_oldest_envoy_by_delta_ads() {
    a_service_lives_in_the_oldest_envoy_by(Transport::DeltaGrpc).await;
}

#[tokio::test]
async fn a_service_lives_in_the_oldest_envoy_by_state_of_the_world_ads() {
    a_service_lives_in_the_oldest_envoy_by(Transport::Grpc).await;
}

#[tokio::test]
async fn a_service_lives_in_the_oldest_envoy_by_polls() {
    a_service_lives_in_the_oldest_envoy_by(Transport::Rest).await;
}
