//! Nodes over mutual TLS: each is what its certificate says, and nothing else.

use std::time::Duration;

use reqwest::{Certificate, Client, Identity};
use serde_json::json;
use tests::{Lab, TestCa, eventually};

async fn lab(ca: &TestCa) -> Lab {
    Lab::with(|layout| layout.tls = Some(ca.write(&layout.data_dir.join("tls"), "edge/local"))).await
}

/// Polls as this node over mutual TLS; `None` when there is no connection.
async fn poll(lab: &Lab, ca: &TestCa, pair: Option<(String, String)>, node_id: &str) -> Option<u16> {
    let root = Certificate::from_pem(ca.pem().as_bytes()).unwrap();
    let client = Client::builder().tls_certs_only([root]).timeout(Duration::from_secs(10));
    let client = match pair {
        Some((certificate, key)) => {
            client.identity(Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap())
        }
        None => client,
    };
    let url = format!("https://127.0.0.1:{}/v3/discovery:clusters", lab.stack.layout.ports.xds);
    let body = json!({"node": {"id": node_id, "cluster": "edge"}});
    let answer = client.build().unwrap().post(url).json(&body).send().await.ok()?;
    Some(answer.status().as_u16())
}

#[tokio::test]
async fn a_node_is_served_over_mutual_tls_and_with_another_ones_certificate_it_is_not() {
    let ca = TestCa::new("nodes");
    let mut lab = lab(&ca).await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200);

    // The same certificate, and another name: real Envoy is refused, and stays without configuration.
    lab.stack.envoy.take().expect("it runs").kill().await;
    lab.stack.layout.node_id = "edge/other".into();
    let start = lab.stack.start_envoy();
    assert!(tokio::time::timeout(Duration::from_secs(3), start).await.is_err(), "it must not be served");
    let refused = r#"gatehouse_ads_refused_streams_total{why="identity"}"#;
    eventually("the refusal is counted", || async {
        (lab.control_plane_metric(refused).await > 0).then_some(())
    })
    .await;
    assert_eq!(lab.envoy_stat("control_plane.connected_state").await, 0);
    assert_eq!(lab.envoy_stat("listener_manager.total_listeners_active").await, 0);

    // With its own name it is served again.
    lab.stack.envoy.take().expect("it runs").kill().await;
    lab.stack.layout.node_id = "edge/local".into();
    lab.stack.start_envoy().await.expect("it is served");
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200);
}

#[tokio::test]
async fn without_a_certificate_of_the_ca_there_is_no_connection_and_new_files_are_read_at_once() {
    let ca = TestCa::new("nodes");
    let lab = lab(&ca).await;
    assert_eq!(poll(&lab, &ca, Some(ca.node("edge/i-1")), "edge/i-1").await, Some(200));
    assert_eq!(poll(&lab, &ca, Some(ca.node("edge/i-1")), "edge/i-2").await, Some(403));
    assert_eq!(poll(&lab, &ca, None, "edge/i-1").await, None);
    let stranger = TestCa::new("nodes");
    assert_eq!(poll(&lab, &ca, Some(stranger.node("edge/i-1")), "edge/i-1").await, None);

    // A broken file changes nothing; a new CA does.
    let files = lab.stack.layout.tls.clone().expect("as it was written");
    std::fs::write(&files.server.0, "no certificate").unwrap();
    assert_eq!(poll(&lab, &ca, Some(ca.node("edge/i-1")), "edge/i-1").await, Some(200));
    stranger.write(&lab.folder().join("tls"), "edge/local");
    eventually("the new CA counts", || async {
        let answer = poll(&lab, &stranger, Some(stranger.node("edge/i-1")), "edge/i-1").await;
        (answer == Some(200)).then_some(())
    })
    .await;
    assert_eq!(poll(&lab, &ca, Some(ca.node("edge/i-1")), "edge/i-1").await, None);
}
