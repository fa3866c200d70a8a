//! A fleet that polls the Python predecessor moves over: its configuration is imported, its nodes poll on as they did,
//! and what the predecessor got wrong is right.

use std::{fs, path::Path};

use lab::{Ports, Transport};
use serde_json::{Value, json};
use tests::{Lab, eventually};

const CLUSTERS: &str = r#"resources:
{% for instance in instances %}
- '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: {{ instance.name }}
  connect_timeout: 1s
  type: STATIC
  metadata: {filter_metadata: {owner: {team: "{{ instance.team }}"}}}
  load_assignment:
    cluster_name: {{ instance.name }}
    endpoints:
    - lb_endpoints:
      - endpoint: {address: {socket_address: {address: {{ addresses[instance.name].host }}, port_value: {{ addresses[instance.name].port }}}}}
{% endfor %}
"#;

const ROUTES: &str = r"resources:
- name: all
  virtual_hosts:
{%- for instance in instances if instance.name in resource_names %}
  - name: {{ instance.name }}
    domains: [{{ instance.name }}.test]
    routes:
    - match: {prefix: /}
      route: {cluster: {{ instance.name }}}
{%- endfor %}
";

const LISTENERS: &str = r#"resources:
- name: http
  address: {socket_address: {address: 127.0.0.1, port_value: {{ addresses.listener.port }}}}
  filter_chains:
  - filters:
    - name: hcm
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: http
        rds:
          route_config_name: all
          config_source:
            resource_api_version: V3
            api_config_source:
              {api_type: REST, transport_api_version: V3, cluster_names: [xds], refresh_delay: 0.2s}
        http_filters:
        - name: router
          typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#;

/// What the predecessor was told, and where its addresses are.
fn write(folder: &Path, ports: &Ports) {
    for (name, text) in [("clusters.yaml", CLUSTERS), ("routes.yaml", ROUTES), ("listeners.yaml", LISTENERS)]
    {
        fs::write(folder.join(name), text).unwrap();
    }
    addresses(folder, ports, "10.0.0.131", "shop");
    let config = format!(
        "
sources:
- type: inline
  config:
    instances:
    - {{name: shop, team: R&D <'x'>, service_clusters: [T1]}}
    - {{name: mail, team: mail, service_clusters: [T1]}}
    - {{name: admin, team: admin, service_clusters: [T2]}}
matching: {{enabled: true, node_key: cluster, source_key: service_clusters}}
template_context:
  refresh_rate: 3600
  context:
    addresses: {{protocol: file, serialization: json, path: {folder}/addresses.json}}
templates:
  default:
  - {{type: clusters, spec: {{protocol: file, serialization: jinja2, path: clusters.yaml}}}}
  - {{type: routes, spec: {{protocol: file, serialization: jinja2, path: routes.yaml}}}}
  - {{type: listeners, spec: {{protocol: file, serialization: jinja2, path: listeners.yaml}}}}
authentication: {{enabled: true}}
",
        folder = folder.display()
    );
    fs::write(folder.join("sovereign.yaml"), config).unwrap();
}

/// The context: `mail` has this address, and this one goes to the lab's upstream.
fn addresses(folder: &Path, ports: &Ports, mail: &str, local: &str) {
    let text = json!({
        "shop": {"host": "127.0.0.1", "port": if local == "shop" { ports.upstream } else { 9 }},
        "mail": {"host": mail, "port": 25},
        "admin": {"host": "10.0.0.9", "port": 80},
        "listener": {"port": ports.http},
    });
    fs::write(folder.join("next.json"), text.to_string()).unwrap();
    fs::rename(folder.join("next.json"), folder.join("addresses.json")).unwrap();
}

/// The imported configuration, served.
async fn moved_over() -> Lab {
    let mut lab = Lab::prepare(|layout| layout.transport = Transport::Rest).await;
    let folder = lab.folder().to_owned();
    write(&folder, &lab.stack.layout.ports);
    let (config, into) = (folder.join("sovereign.yaml"), folder.join("imported"));
    let args = ["import", "sovereign", config.to_str().unwrap(), "--into", into.to_str().unwrap()];
    let output = lab.gatehouse(&args).await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(told.matches("left ").count(), 1, "{told}");
    assert!(told.contains("left authentication: nodes may go on to send node.metadata.auth"), "{told}");
    let again = lab.gatehouse(&args).await;
    assert!(!again.status.success(), "what is there is not written over");
    shown(&lab, &told, &into).await;
    let layout = &mut lab.stack.layout;
    layout.edge = serde_norway::from_str(&fs::read_to_string(into.join("edge.yaml")).unwrap()).unwrap();
    layout.templates = Some(into.join("templates"));
    layout.control_plane_args.push("--no-default-templates".into());
    layout.control_plane_args.push(format!("--sources={}", into.join("sources.yaml").display()));
    // A node of the predecessor's.
    layout.node_id = "T1/web-1".into();
    lab.stack.start_control_plane().await.unwrap_or_else(|error| panic!("{error}"));
    lab
}

/// What the importer tells to run next shows what a node gets.
async fn shown(lab: &Lab, told: &str, into: &Path) {
    let hint = told.split("gatehouse-control-plane ").nth(1).expect("what to run next");
    let node = into.join("node.yaml");
    fs::write(&node, "id: web-1\ncluster: T1\n").unwrap();
    let mut args: Vec<_> = hint.split_whitespace().filter(|word| *word != "\\").collect();
    args.extend(["--dev", "--node", node.to_str().unwrap()]);
    let output = lab.control_plane(&args).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("1 listeners") && errors.contains("2 clusters"), "{errors}");
}

/// Polls as a node of a cluster does; status, body and the version.
async fn poll(port: u16, path: &str, cluster: &str, version: &str) -> (u16, Value, String) {
    let body = json!({
        "version_info": version,
        "node": {"id": "web-1", "cluster": cluster, "metadata": {"auth": "gAAAAABk"}},
    });
    let url = format!("http://127.0.0.1:{port}/v3/discovery:{path}");
    let answer = reqwest::Client::new().post(url).json(&body).send().await.expect("an answer");
    let status = answer.status().as_u16();
    let version = answer.headers().get("x-sovereign-response-version").cloned();
    let version = version.map(|version| version.to_str().unwrap().to_owned()).unwrap_or_default();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null), version)
}

fn names(body: &Value) -> Vec<&str> {
    body["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|resource| resource["name"].as_str())
        .collect()
}

#[tokio::test]
async fn an_imported_configuration_is_served_to_each_cluster_as_before_and_better() {
    let mut lab = moved_over().await;
    let ports = lab.stack.layout.ports;
    let (status, body, version) = poll(ports.xds, "clusters", "T1", "").await;
    assert_eq!((status, names(&body)), (200, vec!["mail", "shop"]), "{body}");
    // It was `R&amp;D &lt;&#39;x&#39;&gt;` there.
    assert_eq!(body["resources"][1]["metadata"]["filterMetadata"]["owner"]["team"], "R&D <'x'>");
    assert_eq!(names(&poll(ports.xds, "clusters", "T2", "").await.1), ["admin"]);
    assert_eq!(poll(ports.xds, "clusters", "T1", &version).await.0, 304);
    assert_eq!(poll(ports.xds, "planets", "T1", "").await.0, 404);

    // A replica that starts later has the same version.
    let other = Ports::free().expect("free ports");
    lab.stack.start_replica(&other).await.expect("a second one");
    assert_eq!(poll(other.xds, "clusters", "T1", &version).await.0, 304);

    // Both addresses have one Adler-32, for which the predecessor went on to say 304.
    addresses(lab.folder(), &ports, "10.0.0.212", "shop");
    let (body, next) = eventually("the change is served", || async {
        let (status, body, version) = poll(ports.xds, "clusters", "T1", &version).await;
        (status == 200).then_some((body, version))
    })
    .await;
    assert!(body.to_string().contains("10.0.0.212") && next != version, "{body}");

    // The last one that goes is told: 200 with nothing, where there was a 404 that Envoy ignores.
    let (status, body, _) = poll(ports.xds, "clusters", "T3", &next).await;
    assert_eq!((status, body["resources"].clone()), (200, json!([])));
}

#[tokio::test]
async fn real_envoy_goes_on_to_poll_with_the_imported_configuration() {
    let mut lab = moved_over().await;
    lab.stack.start_helpers().await.expect("an upstream");
    lab.stack.start_envoy().await.unwrap_or_else(|error| panic!("{error}"));
    eventually("it answers", || async {
        (lab.get("shop.test", "/x", None).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(lab.get("admin.test", "/", None).await.status, 404, "another cluster's");
    let ports = lab.stack.layout.ports;
    addresses(lab.folder(), &ports, "10.0.0.212", "nobody");
    eventually("it follows the context", || async {
        (lab.get("shop.test", "/x", None).await.status == 503).then_some(())
    })
    .await;
    assert_eq!(lab.status().await["nodes"][0]["node"], "edge/T1/web-1");
}
