//! No route before its policies, and no policy away before its routes.

use serde_json::json;
use tests::{Lab, eventually};

#[tokio::test]
async fn a_route_waits_for_a_sidecar_that_is_away_and_says_so() {
    let mut lab = Lab::start().await;
    let old = lab.service("old");
    lab.live(&old).await;
    lab.stack.sidecars.remove("authz").expect("it runs").kill().await;
    let hello = lab.service("hello");
    assert_eq!(lab.provision(&hello).await.status, 202);
    eventually("the operation tells what it waits for", || async {
        let body = lab.last_operation(&hello).await?.json();
        let description = body["description"].as_str()?;
        (description.contains("waiting for authz of edge/local to acknowledge authz_policies id-hello@1")
            || description.contains("waiting for envoy of edge/local to acknowledge virtual_hosts"))
        .then_some(())
    })
    .await;
    assert_eq!(lab.get(hello.host(), "/healthz", None).await.status, 404, "the route is held back");
    assert!(!lab.envoy_admin("/config_dump").await.contains("edge/id-hello"));

    lab.stack.start_sidecar("authz").await.expect("it starts");
    assert_eq!(lab.ended(&hello).await.0, "succeeded");
    eventually("authz answers again", || async {
        (lab.get(hello.host(), "/healthz", None).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn no_request_fails_while_a_service_changes() {
    let lab = Lab::start().await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let traffic = async {
        let mut statuses = std::collections::BTreeMap::<u16, u32>::new();
        while !*stopped.borrow_and_update() {
            *statuses.entry(lab.get(hello.host(), "/", Some(&token)).await.status).or_default() += 1;
        }
        statuses
    };
    let changes = async {
        for round in 1..=10 {
            lab.change(&hello.clone().with("/routes/0/timeout", json!(format!("{round}s")))).await;
        }
        stop.send_replace(true);
    };
    let (statuses, ()) = tokio::join!(traffic, changes);
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200], "{statuses:?}");
}
