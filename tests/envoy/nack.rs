//! What passes the gate and is refused by a proxy all the same.

use std::fs;

use serde_json::json;
use tests::{Lab, eventually};

const VIRTUAL_HOSTS: &str = include_str!("../../control-plane/templates/defaults/virtual_hosts.yaml");
const NACKS: &str = "gatehouse_ads_nacks_total{kind=\"virtual_hosts\"}";

#[tokio::test]
async fn a_nack_is_seen_told_and_not_sent_again() {
    // No schema knows that this is no regex; Envoy does. Only the service `bad` renders it.
    let route = "  routes:\n{% if service.name == 'bad' and service.rev > 1 %}  - match: {safe_regex: {regex: '('}}\n    direct_response: {status: 200}\n{% endif %}";
    let template = VIRTUAL_HOSTS.replace("  routes:\n", route);
    let (lab, _) = Lab::with_templates(&[("virtual_hosts.yaml", &template)]).await;
    let (good, bad) = (lab.service("good"), lab.service("bad"));
    lab.live(&good).await;
    lab.live(&bad).await;
    let token = lab.good_token(&bad).await;

    let answer = lab.update(&bad.clone().with("/routes/0/timeout", json!("7s"))).await;
    assert_eq!(answer.status, 202);
    let (state, description) = lab.ended(&bad).await;
    assert_eq!(state, "failed");
    for words in ["envoy of edge/local refused virtual_hosts edge/id-bad", "missing )"] {
        assert!(description.contains(words), "{description}");
    }
    let nacks = lab.control_plane_metric(NACKS).await;
    assert!(nacks > 0);
    eventually("the last good version is back", || async {
        (lab.get(bad.host(), "/", Some(&token)).await.status == 200).then_some(())
    })
    .await;

    // A change of another service makes a new snapshot; the refused content does not travel again with it.
    lab.change(&good.clone().with("/routes/0/timeout", json!("7s"))).await;
    lab.change(&good.clone().with("/routes/0/timeout", json!("8s"))).await;
    assert_eq!(lab.control_plane_metric(NACKS).await, nacks);
}

#[tokio::test]
async fn a_listener_that_envoy_refuses_is_shown_in_the_status_for_as_long_as_it_is_refused() {
    let (lab, folder) = Lab::with_templates(&[]).await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let listeners = include_str!("../../control-plane/templates/defaults/listeners.yaml");
    // Valid to every schema; Envoy wants both kinds of resumption off.
    let broken = listeners
        .replace("disable_stateful_session_resumption: true", "disable_stateful_session_resumption: false");
    assert_ne!(broken, listeners);
    fs::write(folder.join("listeners.yaml"), broken).unwrap();
    let shown = eventually("the status shows the refusal", || async {
        let output = lab.gatehouse(&["status"]).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.contains("refused listeners https").then_some(text)
    })
    .await;
    assert!(shown.contains("session resumption"), "{shown}");
    let nacks = "gatehouse_ads_nacks_total{kind=\"listeners\"}";
    let before = lab.control_plane_metric(nacks).await;
    lab.change(&hello.clone().with("/routes/0/timeout", json!("7s"))).await;
    assert_eq!(lab.control_plane_metric(nacks).await, before, "it is not sent again");
    fs::write(folder.join("listeners.yaml"), listeners).unwrap();
    eventually("the refusal is gone", || async {
        let output = lab.gatehouse(&["status"]).await;
        (!String::from_utf8_lossy(&output.stdout).contains("refused listeners")).then_some(())
    })
    .await;
}
