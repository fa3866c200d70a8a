//! The HTTP variant of ext_authz, through a real Envoy with a static configuration.

use std::{fs, path::Path};

use lab::{Ports, Process};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tests::{Answer, Lab, eventually};

/// How Envoy asks: with the policy before the path.
fn service(policy: &str) -> Value {
    json!({
        "server_uri": {"uri": "http://authn", "cluster": "authn", "timeout": "2s"},
        "path_prefix": format!("/{policy}/original"),
        "authorization_response": {
            "allowed_upstream_headers": {"patterns": [{"prefix": "x-gatehouse-"}]},
            "allowed_client_headers": {"patterns": [{"exact": "www-authenticate"}, {"exact": "content-type"}]},
            "dynamic_metadata_from_headers": {"patterns": [{"exact": "x-gatehouse-subject"}]},
        },
    })
}

fn route(prefix: &str, policy: &str) -> Value {
    json!({
        "match": {"prefix": prefix},
        "route": {"cluster": "upstream"},
        "request_headers_to_add": [{"header": {
            "key": "x-metadata",
            "value": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:x-gatehouse-subject)%",
        }}],
        "typed_per_filter_config": {"authn": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
            "check_settings": {"http_service": service(policy)},
        }},
    })
}

fn cluster(name: &str, address: &Value) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    })
}

fn bootstrap(ports: &Ports, socket: &Path, upstream: u16) -> String {
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let authn = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "http_service": service("none@1"),
        "allowed_headers": {"patterns": [
            {"exact": "authorization"}, {"exact": "x-request-id"}, {"exact": "x-forwarded-proto"},
        ]},
        "status_on_error": {"code": "ServiceUnavailable"},
    });
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "use_remote_address": true,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            route("/unknown", "nobody@1"),
            route("/", "id-hello@1"),
        ]}]},
        "http_filters": [
            {"name": "authn", "typed_config": authn},
            {"name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            }},
        ],
    });
    let pipe = json!({"pipe": {"path": socket}});
    json!({
        "admin": {"address": address(ports.envoy_admin)},
        "static_resources": {
            "listeners": [{
                "name": "http",
                "address": address(ports.http),
                "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
            }],
            "clusters": [cluster("authn", &pipe), cluster("upstream", &address(upstream))],
        },
    })
    .to_string()
}

/// Another Envoy beside the lab's own.
async fn envoy(lab: &Lab, ports: &Ports) -> Process {
    let layout = &lab.stack.layout;
    let file = lab.folder().join("static.json");
    let text = bootstrap(ports, &layout.run_dir().join("http.sock"), layout.ports.upstream);
    fs::write(&file, text).unwrap();
    let args = ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning", "--config-path"];
    let args: Vec<_> = args.into_iter().map(str::to_owned).chain([file.display().to_string()]).collect();
    let log = lab.folder().join("logs/static.log");
    let mut process = Process::start("static Envoy", &layout.envoy, &args, &log).unwrap();
    let url = format!("http://127.0.0.1:{}/ready", ports.envoy_admin);
    eventually("the static Envoy is live", || async {
        reqwest::get(&url).await.ok().filter(|answer| answer.status().is_success()).map(drop)
    })
    .await;
    process.check().unwrap();
    process
}

#[tokio::test]
async fn the_http_variant_decides_by_the_policy_of_the_route_and_never_by_a_clients_path() {
    let lab = Lab::with(|layout| {
        let args = vec![format!("--http-socket={}", layout.run_dir().join("http.sock").display())];
        layout.sidecar_args.insert("authn", args);
    })
    .await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    lab.live(&lab.service("open").with("/auth/anonymous", json!(["/"]))).await;
    let token = lab.good_token(&hello).await;
    let ports = Ports::free().unwrap();
    let envoy = envoy(&lab, &ports).await;
    let client = Client::builder().pool_max_idle_per_host(0).build().unwrap();
    let ask = |path: &str, token: Option<&str>| {
        let mut request = client.request(Method::GET, format!("http://127.0.0.1:{}{path}", ports.http));
        request = request.header("host", "hello.example.test").header("x-gatehouse-tenant", "forged");
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let lab = &lab;
        async move { lab.send(request).await.expect("Envoy answers") }
    };
    let good: Answer = ask("/a", Some(&token)).await;
    assert_eq!(good.status, 200, "{}", good.body);
    assert_eq!(good.upstream_saw("x-gatehouse-subject"), ["alice"]);
    assert_eq!(good.upstream_saw("x-gatehouse-tenant"), [""; 0], "what is not set is taken off");
    assert_eq!(good.upstream_saw("x-metadata"), ["alice"], "the filter's own way to metadata");

    let refused = ask("/a", None).await;
    assert_eq!(refused.status, 401);
    assert!(refused.headers["www-authenticate"].starts_with("Bearer"), "{:?}", refused.headers);
    assert!(refused.json()["id"].is_string(), "{}", refused.body);
    assert_eq!(ask("/healthz", None).await.status, 200, "the path is the client's");
    for path in [
        "/id-open@1/original/",
        "//id-open@1/original/",
        "/%2e%2e/%2e%2e/id-open@1/original/",
        "/../../id-open@1/original/healthz",
        "/a@1/original/healthz",
        "/?x=/id-open@1/original/",
    ] {
        assert_ne!(ask(path, None).await.status, 200, "{path}");
    }
    let fault = ask("/unknown", Some(&token)).await;
    assert_eq!(fault.status, 503);
    assert_eq!(fault.body, "", "Envoy keeps to itself what a failure says");
    envoy.kill().await;
    lab.stop().await;
}
