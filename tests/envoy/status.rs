//! What standard tools are told of real clients, and what these report.

use envoy_types::pb::envoy::{
    service::status::v3::{
        ClientStatusRequest, ConfigStatus,
        client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
    },
    r#type::matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern},
};
use tests::{Lab, eventually};

fn node_id(exact: &str) -> Vec<NodeMatcher> {
    let pattern = MatchPattern::Exact(exact.into());
    let node_id = Some(StringMatcher { match_pattern: Some(pattern), ignore_case: false });
    vec![NodeMatcher { node_id, node_metadatas: Vec::new() }]
}

#[tokio::test]
async fn client_status_tells_what_envoy_holds_and_no_secrets() {
    let lab = Lab::start().await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    eventually("its certificate was asked for", || async {
        (lab.get_https(hello.host(), "/healthz").await?.status == 200).then_some(())
    })
    .await;
    let url = format!("http://127.0.0.1:{}", lab.stack.layout.ports.xds);
    let mut csds = ClientStatusDiscoveryServiceClient::connect(url).await.unwrap();
    let request = ClientStatusRequest { node_matchers: node_id("edge/local"), ..Default::default() };
    let clients = csds.fetch_client_status(request).await.unwrap().into_inner().config;
    assert_eq!(clients.len(), 1);
    let config = |name: &str| {
        let found = clients[0].generic_xds_configs.iter().find(|config| config.name == name);
        found.unwrap_or_else(|| panic!("{name} is not told of")).clone()
    };
    for name in ["http", "gatehouse_authn", &format!("edge/{}", hello.id()), &format!("{}@1", hello.id())] {
        let config = config(name);
        assert_eq!(config.config_status(), ConfigStatus::Synced, "{name}");
        assert!(!config.version_info.is_empty() && config.xds_config.is_some(), "{name}");
    }
    let secret = config(hello.host());
    assert_eq!((secret.config_status(), secret.xds_config), (ConfigStatus::Synced, None));

    let nobody = ClientStatusRequest { node_matchers: node_id("edge/other"), ..Default::default() };
    assert!(csds.fetch_client_status(nobody).await.unwrap().into_inner().config.is_empty());
}

#[tokio::test]
async fn envoy_reports_the_load_of_a_service() {
    let lab = Lab::start().await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    // Envoy counts for a new cluster from its next report on.
    let load = eventually("a report", || async {
        assert_eq!(lab.get(hello.host(), "/healthz", None).await.status, 200);
        let status = lab.status().await;
        let load = status["services"][0]["load"].clone();
        (load["issued"].as_u64()? > 0).then_some(load)
    })
    .await;
    assert!(load["successful"].as_u64() > Some(0) && load["errors"] == 0, "{load}");
}
