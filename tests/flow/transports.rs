//! Envoy asks a sidecar over TCP with mutual TLS, in the place of the socket.

use std::{fs, path::Path};

use lab::Ports;
use tests::{Lab, TestCa};

/// The default cluster of a sidecar, over TCP with a certificate of the node's own. `@…@` is filled in.
const CLUSTERS: &str = r#"{#
kind: clusters
#}
resources:
- name: gatehouse_@name@
  type: STATIC
  connect_timeout: 0.25s
  load_assignment:
    cluster_name: gatehouse_@name@
    endpoints:
    - lb_endpoints:
      - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @port@}}}
  transport_socket:
    name: tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
      common_tls_context:
        tls_certificates: [{certificate_chain: {filename: @cert@}, private_key: {filename: @key@}}]
        validation_context:
          trusted_ca: {filename: @ca@}
          match_typed_subject_alt_names: [{san_type: IP_ADDRESS, matcher: {exact: 127.0.0.1}}]
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: {http2_protocol_options: {}}
{%- for sidecar in ["authn", "authz", "ratelimit"] if sidecar != "@name@" %}
- name: gatehouse_{{ sidecar }}
  type: STATIC
  connect_timeout: 0.05s
  load_assignment:
    cluster_name: gatehouse_{{ sidecar }}
    endpoints:
    - lb_endpoints:
      - endpoint: {address: {pipe: {path: {{ (edge.run_dir ~ "/" ~ sidecar ~ ".sock") | tojson }}}}}
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: {http2_protocol_options: {}}
{%- endfor %}
- name: gatehouse_access_log
  type: STATIC
  connect_timeout: 0.25s
  load_assignment:
    cluster_name: gatehouse_access_log
    endpoints:
    - lb_endpoints:
      - endpoint: {address: {pipe: {path: {{ (edge.run_dir ~ "/agent.sock") | tojson }}}}}
"#;

/// A lab whose Envoy shows a certificate of one CA where the sidecar wants one of another, or of the same.
async fn lab(name: &'static str, of_envoy: &TestCa, of_sidecar: &TestCa) -> Lab {
    Lab::with(|layout| {
        let node = of_envoy.write(&layout.data_dir.join("envoy-tls"), "edge/1");
        let sidecar = of_sidecar.write(&layout.data_dir.join("sidecar-tls"), "edge/1");
        let port = Ports::free().expect("free ports").authn;
        let folder = layout.data_dir.join("templates");
        fs::create_dir(&folder).expect("a folder");
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        let text = CLUSTERS
            .replace("@name@", name)
            .replace("@port@", &port.to_string())
            .replace("@cert@", &quoted(&node.node.0))
            .replace("@key@", &quoted(&node.node.1))
            .replace("@ca@", &quoted(&sidecar.ca));
        fs::write(folder.join("edge_clusters.yaml"), text).expect("a template");
        layout.templates = Some(folder);
        let args = vec![
            format!("--listen=127.0.0.1:{port}"),
            format!("--tls-cert={}", sidecar.server.0.display()),
            format!("--tls-key={}", sidecar.server.1.display()),
            format!("--tls-client-ca={}", sidecar.ca.display()),
        ];
        layout.sidecar_args.insert(name, args);
    })
    .await
}

#[tokio::test]
async fn envoy_asks_authentication_over_tcp_with_a_certificate_of_its_own() {
    asked("authn").await;
}

#[tokio::test]
async fn envoy_asks_authorization_over_tcp_with_a_certificate_of_its_own() {
    asked("authz").await;
}

async fn asked(name: &'static str) {
    let ca = TestCa::new("proxies");
    let lab = lab(name, &ca, &ca).await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    // Nobody asks at the socket any more.
    fs::remove_file(lab.stack.layout.run_dir().join(format!("{name}.sock"))).expect("it was there");
    let answer = lab.get(hello.host(), "/", Some(&token)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.upstream_saw("x-gatehouse-subject"), ["alice"]);
    assert_eq!(lab.get(hello.host(), "/", None).await.status, 401);
    lab.stop().await;
}

#[tokio::test]
async fn who_shows_a_certificate_of_another_ca_gets_no_answer_and_nothing_passes() {
    let lab = lab("authn", &TestCa::new("strangers"), &TestCa::new("proxies")).await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 503);
    assert_eq!(lab.get(hello.host(), "/healthz", None).await.status, 503, "not even what is open");
    lab.stop().await;
}
