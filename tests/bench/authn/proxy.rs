//! What a decision costs in front of a real Envoy: with nothing before the route, with our sidecar on its socket, and with
//! Envoy's own JWT filter and the same token. One worker; the shares of Envoy and sidecar apart.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use jwt::testing::{ISSUER, jwks};
use lab::Process;
use serde_json::{Value, json};
use tests::{
    figures::{cpu_ms, median, percentile, rounded},
    wrk,
};

/// Medians of this many, one after another for each listener.
const ROUNDS: usize = 5;
const LOAD: Duration = Duration::from_secs(3);
const CONNECTIONS: usize = 8;
/// For latencies, at half of what the machine can.
const PACED: Duration = Duration::from_secs(4);

/// One thread of wrk; what it asks says who it is.
const SCRIPT: &str = r#"
wrk.headers["Host"] = "hello.example.test"
wrk.headers["Authorization"] = "Bearer TOKEN"
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args) good, bad = 0, 0 end
function response(status) if status == 200 then good = good + 1 else bad = bad + 1 end end
function done(summary)
  local good, bad = 0, 0
  for _, thread in ipairs(threads) do good, bad = good + thread:get("good"), bad + thread:get("bad") end
  io.write(string.format("SEEN %d %d\n", good, bad))
end
"#;

/// A listener of the bench's Envoy.
struct Listener {
    name: &'static str,
    port: u16,
}

/// The figures, for a running sidecar at this socket.
pub(crate) async fn figures(
    folder: &Path,
    socket: &Path,
    sidecar: u32,
    token: &str,
) -> anyhow::Result<Value> {
    let envoy = tests::envoy("1.40.0").await;
    let ports = lab::Ports::free()?;
    let listeners = [
        Listener { name: "none", port: ports.http },
        Listener { name: "authn", port: ports.https },
        Listener { name: "native_jwt", port: ports.upstream },
    ];
    let config = folder.join("envoy.json");
    fs::write(&config, bootstrap(&listeners, ports.envoy_admin, socket).to_string())?;
    let args =
        ["--config-path", &config.display().to_string(), "--concurrency", "1", "--use-dynamic-base-id"]
            .map(str::to_owned);
    let mut process = Process::start("Envoy", &envoy, &args, &folder.join("envoy.log"))?;
    let url = format!("http://127.0.0.1:{}/ready", ports.envoy_admin);
    let ready = || async {
        let answer = reqwest::get(&url).await.map_err(|error| error.to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(answer.status().to_string()) }
    };
    process.wait_until(Duration::from_secs(20), ready).await?;
    let pid = process.id().context("Envoy runs")?;
    let script = folder.join("proxy.lua");
    fs::write(&script, SCRIPT.replace("TOKEN", token))?;
    // In Envoy, in the sidecar, and requests a second.
    let mut all: [[Vec<f64>; 3]; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (listener, seen) in listeners.iter().zip(&mut all) {
            let (before, own) = (cpu_ms(pid), cpu_ms(sidecar));
            let answered = load(&script, listener.port).await.with_context(|| listener.name)?;
            seen[0].push((cpu_ms(pid) - before) * 1e3 / answered);
            seen[1].push((cpu_ms(sidecar) - own) * 1e3 / answered);
            seen[2].push(answered / LOAD.as_secs_f64());
        }
    }
    let [none, authn, native] = all.map(|seen| seen.map(median));
    let half = authn[2] / 2.0;
    let without = paced(listeners[0].port, token, half)?;
    let with = paced(listeners[1].port, token, half)?;
    process.kill().await;
    Ok(json!({
        "envoy_none_us": rounded(none[0], 1),
        "envoy_authn_us": rounded(authn[0] + authn[1], 1),
        "envoy_authn_envoy_share_us": rounded(authn[0], 1),
        "envoy_authn_sidecar_share_us": rounded(authn[1], 1),
        "envoy_native_jwt_us": rounded(native[0], 1),
        "envoy_authn_rps": rounded(authn[2], 0),
        "half_load_rps": rounded(half, 0),
        "half_load_p50_added_ms": rounded(percentile(50, with.clone()) - percentile(50, without.clone()), 2),
        "half_load_p99_added_ms": rounded(percentile(99, with) - percentile(99, without), 2),
    }))
}

/// How many were answered with 200; anything else is an error.
async fn load(script: &Path, port: u16) -> anyhow::Result<f64> {
    let url = format!("http://127.0.0.1:{port}/rest/api/2/issue/HELLO-1");
    let output = wrk(script, &url, LOAD, CONNECTIONS).await.stdin(Stdio::null()).output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let seen = text.lines().find_map(|line| line.strip_prefix("SEEN ")?.split_once(' '));
    let (good, bad) = seen.with_context(|| format!("wrk told nothing: {text}"))?;
    anyhow::ensure!(bad == "0", "{bad} requests were refused");
    Ok(good.parse()?)
}

/// Asks so many times a second, evenly, and tells how long each took: milliseconds. Threads that block, since a timer of
/// an async runtime has milliseconds, and would let all clients ask at once.
fn paced(port: u16, token: &str, per_second: f64) -> anyhow::Result<Vec<f64>> {
    let request = format!(
        "GET /rest/api/2/issue/HELLO-1 HTTP/1.1\r\nhost: hello.example.test\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    let begun = Instant::now();
    #[allow(clippy::cast_precision_loss)]
    let client = |at: usize| -> anyhow::Result<Vec<f64>> {
        let (step, mut due) = (CONNECTIONS as f64 / per_second, at as f64 / per_second);
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let (mut took, mut answer) = (Vec::new(), [0; 4096]);
        while due < PACED.as_secs_f64() {
            thread::sleep(Duration::from_secs_f64(due).saturating_sub(begun.elapsed()));
            let sent = Instant::now();
            stream.write_all(request.as_bytes())?;
            let read = stream.read(&mut answer)?;
            anyhow::ensure!(answer[..read].starts_with(b"HTTP/1.1 200"), "an answer of 200");
            took.push(sent.elapsed().as_secs_f64() * 1e3);
            due += step;
        }
        Ok(took)
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS).map(|at| scope.spawn(move || client(at))).collect();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.join().map_err(|_| anyhow::anyhow!("a client has ended"))??);
        }
        Ok(all)
    })
}

fn bootstrap(listeners: &[Listener; 3], admin: u16, socket: &Path) -> Value {
    let loopback = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let listener = |at: &Listener| {
        json!({
            "name": at.name,
            "address": loopback(at.port),
            "filter_chains": [{"filters": [{
                "name": "http",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": at.name,
                    "route_config": {"virtual_hosts": [{
                        "name": "all", "domains": ["*"],
                        "typed_per_filter_config": per_filter(at.name),
                        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                    }]},
                    "http_filters": filters(at.name),
                },
            }]}],
        })
    };
    json!({
        "admin": {"address": loopback(admin)},
        "static_resources": {
            "listeners": listeners.iter().map(listener).collect::<Vec<_>>(),
            "clusters": [{
                "name": "authn",
                "type": "STATIC",
                "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}},
                }},
                "load_assignment": {"cluster_name": "authn", "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": {"pipe": {"path": socket}}}}
                ]}]},
            }],
        },
    })
}

/// Which policy it is, where the sidecar is asked.
fn per_filter(name: &str) -> Value {
    if name != "authn" {
        return json!({});
    }
    json!({"authn": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
        "check_settings": {"context_extensions": {"policy": "i-1", "rev": "1"}},
    }})
}

/// What stands before the route: as in the default templates, without what has nothing to do with it.
fn filters(name: &str) -> Vec<Value> {
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    });
    let own = match name {
        "authn" => Some(json!({
            "name": "authn",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
                "transport_api_version": "V3",
                "grpc_service": {
                    "envoy_grpc": {"cluster_name": "authn", "skip_envoy_headers": true},
                    "timeout": "0.25s",
                },
                "validate_mutations": true,
                "encode_raw_headers": true,
                "include_tls_session": true,
                "enforce_response_header_limits": true,
                "enable_dynamic_metadata_ingestion": true,
                "charge_cluster_response_stats": false,
            },
        })),
        "native_jwt" => Some(json!({
            "name": "jwt",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
                "providers": {"own": {
                    "issuer": ISSUER,
                    "audiences": ["hello"],
                    "forward": true,
                    "payload_in_metadata": "payload",
                    "local_jwks": {"inline_string": jwks()},
                    "jwt_cache_config": {},
                }},
                "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "own"}}],
            },
        })),
        _ => None,
    };
    own.into_iter().chain([router]).collect()
}
