//! grpcio's own xDS client resolves and calls a service through our state-of-the-world ADS.

use std::process::Stdio;

use serde_json::json;
use tests::{Lab, eventually, project, tool};
use tokio::process::Command;

const GRPCIO: &str = "grpcio==1.85.1";

/// A listener of gRPC's kind for each service, under its first host, and clusters by a policy that every client has.
const LISTENERS: &str = r#"{#
kind: listeners
for_each: service
match: {id: ["*/grpc-*"]}
#}
resources:
- name: {{ service.hosts[0] | tojson }}
  api_listener:
    api_listener:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: grpc
      route_config:
        name: {{ service.id | tojson }}
        virtual_hosts:
        - name: all
          domains: ["*"]
          routes:
          - match: {prefix: ""}
            route: {cluster: {{ service.clusters[0].name | tojson }}}
      http_filters:
      - name: router
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"#;

#[tokio::test]
async fn grpcios_own_client_finds_and_calls_a_service() {
    let clusters = include_str!("../../control-plane/templates/defaults/clusters.yaml")
        .replace("kind: clusters\n", "kind: clusters\nmatch: {id: [\"*/grpc-*\"]}\nreplaces: clusters.yaml\n")
        .replace("lb_policy: LEAST_REQUEST", "lb_policy: ROUND_ROBIN");
    // gRPC takes no endpoints of a locality without a weight (gRFC A27).
    let endpoints = include_str!("../../control-plane/templates/defaults/endpoints.yaml")
        .replace(
            "kind: endpoints\n",
            "kind: endpoints\nmatch: {id: [\"*/grpc-*\"]}\nreplaces: endpoints.yaml\n",
        )
        .replace(
            "  - lb_endpoints:",
            "  - locality: {region: here}\n    load_balancing_weight: 1\n    lb_endpoints:",
        );
    let templates = [
        ("grpc_listeners.yaml", LISTENERS),
        ("grpc_clusters.yaml", clusters.as_str()),
        ("grpc_endpoints.yaml", endpoints.as_str()),
    ];
    let (lab, _) = Lab::with_templates(&templates).await;
    // For the script's server.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let echo =
        lab.service("echo").with("/routes/0/upstream/urls", json!([format!("http://127.0.0.1:{port}")]));
    lab.live(&echo).await;
    let bootstrap = json!({
        "xds_servers": [{
            "server_uri": format!("127.0.0.1:{}", lab.stack.layout.ports.xds),
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": {"id": "edge/grpc-1", "cluster": "edge"},
    });
    let script = project().join("tests/envoy/grpc_client.py");
    let grpcio = tool(GRPCIO).await;
    // A node of a new kind is told to come again until its templates are rendered. A call that waits through that is
    // not taken up again by this client, though its channel is: so another one is made.
    let said = eventually("an answer", || async {
        let output = Command::new("python3")
            .arg(&script)
            .args([&port.to_string(), echo.host()])
            .env("PYTHONPATH", &grpcio)
            .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string())
            .stdin(Stdio::null())
            .output()
            .await
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    })
    .await;
    assert_eq!(said, "echo hello");
}
