//! What tells the edge what to do: line 48.

use reqwest::Method;
use serde_json::{Value, json};

use super::edge;

/// Line 48. Of xDS beyond loopback: `tests/envoy/identity.rs` and `tests/envoy/transports.rs`.
#[tokio::test]
async fn nobody_configures_the_edge_without_a_credential_cve_2025_64323_cve_2026_54246_cve_2026_53714() {
    let edge = edge().await;
    let url = edge.lab.stack.control_plane_url();
    let client = reqwest::Client::new();
    let id = edge.hello.id();
    let mut routes: Vec<(Method, String)> = [
        "nodes",
        "nodes/x",
        "diff/x",
        "resources",
        "resources/clusters/x",
        "jobs",
        "audit",
        "drift",
        "issuers",
        "revocations",
        "sources",
        "context",
    ]
    .map(|path| (Method::GET, format!("/api/{path}")))
    .into();
    routes.extend(
        [
            "jobs/1/retry",
            "jobs/1/drop",
            "drift",
            "issuers/refresh",
            "services/x/adopt",
            "services/x/purge",
            "revocations",
            "select",
            "pause",
            "resume",
            "held/x/confirm",
        ]
        .map(|path| (Method::POST, format!("/api/{path}"))),
    );
    routes.push((Method::GET, "/v2/service_instances".into()));
    let instance = format!("/v2/service_instances/{id}");
    for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE] {
        routes.push((method.clone(), instance.clone()));
        routes.push((method, format!("{instance}/service_bindings/b")));
    }
    routes.push((Method::GET, "/v2/catalog".into()));
    for (method, path) in routes {
        for credential in [
            "",
            "Basic Og==",
            "Basic ZGV2Og==",
            "Basic ZGV2OmRldg=",
            "Bearer ",
            "Bearer x",
            "Bearer dev dev",
            "Digest dev",
        ] {
            let mut request =
                client.request(method.clone(), format!("{url}{path}")).header("x-broker-api-version", "2.17");
            if !credential.is_empty() {
                request = request.header("authorization", credential);
            }
            let status = request.json(&json!({})).send().await.expect("it answers").status().as_u16();
            assert_eq!(status, 401, "{method} {path} {credential:?}");
        }
    }
    assert_eq!(edge.send(edge.get("/docs")).await.status, 401, "and nothing has changed");
}

/// Line 48: what a service names is its own. Of hosts and platforms: `tests/flow/tenants.rs`.
#[tokio::test]
async fn no_service_names_what_is_anothers_cve_2026_41174_cve_2026_53718() {
    let edge = edge().await;
    let refused = async |attack: &str, pointer: &str, value: Value| {
        let answer = edge.lab.provision(&edge.lab.service("cuckoo").with(pointer, value)).await;
        assert!([400, 409, 422].contains(&answer.status), "{attack}: {} {}", answer.status, answer.body);
    };
    refused("another's host", "/hosts", json!([edge.hello.host()])).await;
    refused("another's host, spelled otherwise", "/hosts", json!(["HELLO.example.test"])).await;
    refused("another's host, with a dot", "/hosts", json!(["hello.example.test."])).await;
    refused("another's cluster", "/routes/0/cluster", json!(format!("{}/0", edge.hello.id()))).await;
    refused("another's policy", "/routes/0/auth_policy", json!(edge.hello.id())).await;
    refused("a socket of the node", "/routes/0/upstream/urls", json!(["unix:///run/gatehouse/authn.sock"]))
        .await;
    refused("metadata of the cloud", "/routes/0/upstream/urls", json!(["http://169.254.169.254/"])).await;
    refused("another's keys", "/auth/any/0", json!({"api_key": {"store": edge.hello.id()}})).await;
}
