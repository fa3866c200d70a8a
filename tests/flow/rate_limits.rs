//! The rate-limit sidecar in the place of envoyproxy/ratelimit: configured by its environment and its files, asked by a real
//! Envoy, with a real Redis.

use std::{fs, path::Path, time::Duration};

use lab::{Ports, Process, redis::Redis, upstream::Upstream};
use reqwest::Client;
use serde_json::{Value, json};
use tests::{Answer, Lab, envoy, eventually, program};

const LIMITS: &str = "
domain: edge
descriptors:
- {key: path, value: node, rate_limit: {unit: year, requests_per_unit: 2}, metadata: {rls: {scope: node}}}
- {key: path, value: fleet, rate_limit: {unit: year, requests_per_unit: 3, name: of-all}}
- {key: path, value: strict, rate_limit: {unit: year, requests_per_unit: 3}, metadata: {rls: {mode: strict}}}
- {key: path, value: shadow, rate_limit: {unit: year, requests_per_unit: 1}, shadow_mode: true}
- {key: path, value: hits, rate_limit: {unit: year, requests_per_unit: 10}}
- {key: path, value: override, rate_limit: {unit: year, requests_per_unit: 100}}
- {key: path, value: allow, rate_limit: {unit: year, requests_per_unit: 1}, metadata: {rls: {on_store_error: allow}}}
- {key: path, value: deny, rate_limit: {unit: year, requests_per_unit: 100}, metadata: {rls: {on_store_error: deny}}}
";
const PATHS: [&str; 8] = ["node", "fleet", "strict", "shadow", "hits", "override", "allow", "deny"];

/// One node: a sidecar, and an Envoy before an upstream.
struct Node {
    _sidecar: Process,
    _envoy: Process,
    _upstream: Upstream,
    ports: Ports,
    client: Client,
}

/// Long enough for a debug build on a machine that does other things.
const DEADLINE: Duration = Duration::from_mins(1);

impl Node {
    async fn start(folder: &Path, name: &str, redis: &Redis) -> Self {
        let ports = Ports::free().expect("free ports");
        let environment = [
            ("RUNTIME_ROOT", folder.join("limits").display().to_string()),
            ("GRPC_PORT", ports.control_plane.to_string()),
            ("PORT", ports.ratelimit.to_string()),
            ("DEBUG_PORT", ports.xds.to_string()),
            ("REDIS_TYPE", "SINGLE".to_owned()),
            ("REDIS_SOCKET_TYPE", "tcp".to_owned()),
            ("REDIS_URL", redis.address()),
            ("CACHE_KEY_PREFIX", "rl:".to_owned()),
            ("LOG_LEVEL", "INFO".to_owned()),
            ("GATEHOUSE_STORE_DEADLINE_MS", "1000".to_owned()),
        ];
        let environment = environment.map(|(key, value)| (key.to_owned(), value));
        let log = folder.join(format!("{name}.log"));
        let mut sidecar =
            Process::start_with("ratelimit", &program("gatehouse-ratelimit"), &[], &environment, &log)
                .unwrap_or_else(|error| panic!("{error}"));
        let client = Client::new();
        let health = format!("http://127.0.0.1:{}/healthcheck", ports.ratelimit);
        is_ready(&mut sidecar, &client, &health).await;
        let bootstrap = folder.join(format!("{name}-envoy.json"));
        fs::write(&bootstrap, bootstrap_of(&ports).to_string()).expect("a file");
        let args = [
            "--config-path",
            &bootstrap.display().to_string(),
            "--concurrency",
            "1",
            "--use-dynamic-base-id",
        ];
        let program = envoy(lab::envoy::VERSION).await;
        let log = folder.join(format!("{name}-envoy.log"));
        let mut envoy = Process::start("Envoy", &program, &args.map(str::to_owned), &log)
            .unwrap_or_else(|error| panic!("{error}"));
        is_ready(&mut envoy, &client, &format!("http://127.0.0.1:{}/ready", ports.envoy_admin)).await;
        let upstream = Upstream::serve(ports.upstream).await.expect("an upstream");
        Self { _sidecar: sidecar, _envoy: envoy, _upstream: upstream, ports, client }
    }

    async fn get(&self, path: &str) -> Answer {
        let url = format!("http://127.0.0.1:{}/{path}", self.ports.http);
        Answer::read(self.client.get(url).send().await.expect("Envoy answers")).await
    }

    async fn statuses(&self, path: &str, times: usize) -> Vec<u16> {
        let mut statuses = Vec::new();
        for _ in 0..times {
            statuses.push(self.get(path).await.status);
        }
        statuses
    }

    /// The text of a debugging page.
    async fn shown(&self, page: &str) -> String {
        let url = format!("http://127.0.0.1:{}/{page}", self.ports.xds);
        self.client.get(url).send().await.expect("an answer").text().await.expect("a text")
    }
}

async fn is_ready(process: &mut Process, client: &Client, url: &str) {
    let ready = || async {
        let answer = client.get(url).send().await.map_err(|error| error.to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(answer.status().to_string()) }
    };
    process.wait_until(DEADLINE, ready).await.unwrap_or_else(|error| panic!("{error}"));
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

/// The endpoints of a cluster of one.
fn only(cluster: &str, port: u16) -> Value {
    let endpoint = json!({"endpoint": {"address": address(port)}});
    json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": [endpoint]}]})
}

/// A path for each limit.
fn bootstrap_of(ports: &Ports) -> Value {
    let route = |path: &&str| {
        let mut limit =
            json!({"actions": [{"generic_key": {"descriptor_key": "path", "descriptor_value": path}}]});
        if **path == *"hits" {
            limit["hits_addend"] = json!({"number": 4});
        }
        if **path == *"override" {
            let key = json!({"key": "limits", "path": [{"key": "override"}]});
            limit["limit"] = json!({"dynamic_metadata": {"metadata_key": key}});
        }
        json!({
            "match": {"path": format!("/{path}")},
            "route": {"cluster": "upstream"},
            "typed_per_filter_config": {"ratelimit": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
                "rate_limits": [limit],
            }},
        })
    };
    let routes: Vec<Value> = PATHS.iter().map(route).collect();
    let overriding = json!({"override": {"requests_per_unit": 1, "unit": "HOUR"}});
    let filters = json!([
        {"name": "metadata", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
            "metadata": [{"metadata_namespace": "limits", "value": overriding}],
        }},
        {"name": "ratelimit", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit",
            "domain": "edge",
            "timeout": "10s",
            "failure_mode_deny": true,
            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
            "enable_retry_after_header": true,
            "rate_limit_service": {
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": "ratelimit"}},
            },
        }},
        {"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}},
    ]);
    json!({
        "admin": {"address": address(ports.envoy_admin)},
        "static_resources": {
            "listeners": [{"address": address(ports.http), "filter_chains": [{"filters": [{
                "name": "http",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": "http",
                    "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
                    "http_filters": filters,
                },
            }]}]}],
            "clusters": [{
                "name": "upstream",
                "load_assignment": only("upstream", ports.upstream),
            }, {
                "name": "ratelimit",
                "load_assignment": only("ratelimit", ports.control_plane),
                "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}},
                }},
            }],
        },
    })
}

/// Two nodes that share a Redis.
async fn fleet(folder: &Path) -> (Redis, Node, Node) {
    fs::create_dir_all(folder.join("limits/config")).expect("a folder");
    fs::write(folder.join("limits/config/edge.yaml"), LIMITS).expect("a file");
    let redis = Redis::start(folder).await.unwrap_or_else(|error| panic!("{error}"));
    let (one, other) = (Node::start(folder, "one", &redis).await, Node::start(folder, "other", &redis).await);
    (redis, one, other)
}

#[tokio::test]
async fn it_takes_the_place_of_the_reference_server_before_a_real_envoy() {
    let folder = tempfile::tempdir().expect("a folder");
    let (redis, one, other) = fleet(folder.path()).await;

    assert_eq!(one.statuses("node", 3).await, [200, 200, 429]);
    assert_eq!(other.statuses("node", 3).await, [200, 200, 429], "each node on its own");

    for path in ["fleet", "strict"] {
        let both = [one.statuses(path, 2).await, other.statuses(path, 2).await, one.statuses(path, 1).await];
        assert_eq!(both.concat(), [200, 200, 200, 429, 429], "{path}: all nodes together");
    }
    let over = one.get("fleet").await;
    assert_eq!(over.headers["x-ratelimit-limit"], "3, 3;w=31536000;name=\"of-all\"");
    assert_eq!(over.headers["x-ratelimit-remaining"], "0");
    assert_eq!(over.headers["retry-after"], over.headers["x-ratelimit-reset"]);

    assert_eq!(one.statuses("shadow", 3).await, [200, 200, 200]);
    assert_eq!(one.statuses("hits", 3).await, [200, 200, 429], "four hits each");
    assert_eq!(one.statuses("override", 2).await, [200, 429], "one an hour, as the request says");

    let metrics = one.shown("metrics").await;
    let counted = "ratelimit_service_rate_limit_over_limit{domain=\"edge\",key1=\"path_shadow\"} 2";
    assert!(metrics.contains(counted), "{metrics}");
    assert!(one.shown("rlconfig").await.contains("edge.path_fleet: unit=YEAR requests_per_unit=3"));

    let more = LIMITS.replace(
        "value: node, rate_limit: {unit: year, requests_per_unit: 2}",
        "value: node, rate_limit: {unit: year, requests_per_unit: 1000}",
    );
    fs::write(folder.path().join("limits/config/edge.yaml"), "domain: edge\nnonsense: 1\n").expect("a file");
    eventually("the mistake is counted", || async {
        one.shown("metrics").await.contains("config_load_total{result=\"Error\"} ").then_some(())
    })
    .await;
    assert_eq!(one.get("node").await.status, 429, "what was in force still is");
    fs::write(folder.path().join("limits/config/edge.yaml"), more).expect("a file");
    eventually("the change is in force", || async { (one.get("node").await.status == 200).then_some(()) })
        .await;
    drop(redis);
}

#[tokio::test]
async fn without_its_redis_each_limit_is_answered_as_it_says_and_never_with_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut redis, one, _other) = fleet(folder.path()).await;
    assert_eq!(one.statuses("allow", 2).await, [200, 429]);
    redis.kill().await;
    eventually("it is known", || async {
        one.shown("metrics").await.contains("gatehouse_ratelimit_store_down 1").then_some(())
    })
    .await;
    for (path, status) in [("allow", 200), ("deny", 429), ("fleet", 429), ("node", 200)] {
        let answer = one.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.headers.contains_key("x-ratelimit-limit"), "{path}: an answer, and no error");
    }
    redis.start_again().await.unwrap_or_else(|error| panic!("{error}"));
    eventually("it is counted together again", || async {
        (one.get("fleet").await.status == 200).then_some(())
    })
    .await;
}

/// A limit for each `per`, with the header `x-team`.
#[tokio::test]
async fn a_service_file_limits_the_fleet_by_whatever_it_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let redis = Redis::start(folder.path()).await.unwrap_or_else(|error| panic!("{error}"));
    let address = redis.address();
    let lab = Lab::with(|layout| {
        let args = vec![format!("--redis-url={address}"), "--store-deadline-ms=1000".to_owned()];
        layout.sidecar_args.insert("ratelimit", args);
    })
    .await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    for (per, same, another) in [
        (json!([]), "/", None),
        (json!(["subject"]), "/", None),
        (json!(["client_ip", "tenant", "destination"]), "/", None),
        (json!(["path", "method"]), "/?ignored", Some("/other")),
        (json!(["header:x-team"]), "/", None),
    ] {
        let limit = json!({"limit": "2/year", "per": per, "scope": "fleet", "algorithm": "sliding"});
        lab.change(&hello.clone().with("/rate_limits", json!([limit]))).await;
        let mut statuses = Vec::new();
        for path in ["/", same, "/"] {
            statuses.push(lab.get(hello.host(), path, Some(&token)).await.status);
        }
        assert_eq!(statuses, [200, 200, 429], "{per}");
        if let Some(another) = another {
            assert_eq!(lab.get(hello.host(), another, Some(&token)).await.status, 200, "{per}");
        }
    }
    let of_a_team =
        lab.request(reqwest::Method::GET, hello.host(), "/").bearer_auth(&token).header("x-team", "a");
    assert_eq!(lab.send(of_a_team).await.expect("an answer").status, 200, "a team has a counter of its own");
    let keys = redis.ask("DBSIZE").await.unwrap_or_else(|error| panic!("{error}"));
    assert!(!keys.starts_with(":0") && !keys.starts_with(":1\r"), "counted in the store: {keys}");

    // Another revision goes on counting, and in shadow nothing is refused.
    let limit = |mode| json!([{"limit": "1/year", "per": ["subject"], "mode": mode}]);
    lab.change(&hello.clone().with("/rate_limits", limit("enforce"))).await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200);
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 429);
    lab.change(&hello.clone().with("/rate_limits", limit("shadow"))).await;
    let shadow = lab.get(hello.host(), "/", Some(&token)).await;
    assert_eq!((shadow.status, shadow.headers["x-ratelimit-remaining"].as_str()), (200, "0"));
    lab.change(
        &hello.clone().with("/rate_limits", limit("enforce")).with("/access_log", json!({"sample": 1})),
    )
    .await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 429, "it is no new limit");
}
