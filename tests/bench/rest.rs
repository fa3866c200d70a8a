//! `cargo xtask bench rest`: `POST /v3/discovery:clusters` with 10,000 clusters under wrk, of the control plane and of
//! the Python predecessor (both lines from PyPI), one after the other on the same machine: CPU of the server for each
//! 200 and each 304.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use lab::{Ports, Process};
use serde_json::{Map, Value, json};
use tests::{
    Lab, eventually,
    figures::{cpu_ms, median, print, rounded},
    tool, wrk,
};

const CLUSTERS: usize = 10_000;
const LOAD: Duration = Duration::from_secs(5);
/// Medians of this many.
const REPEATS: usize = 3;
const OLD: &str = "sovereign==0.32.12";
/// A server that renders 10,000 clusters in Python takes its time.
const READY: Duration = Duration::from_secs(120);

/// One STRICT_DNS cluster with TLS for each instance, by the predecessor's fastest kind of template.
const PYTHON_TEMPLATE: &str = r#"
def call(instances, **kwargs):
    for instance in instances:
        yield {
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": instance["name"], "type": "STRICT_DNS", "connect_timeout": "1s",
            "load_assignment": {"cluster_name": instance["name"], "endpoints": [{"lb_endpoints": [{"endpoint": {
                "address": {"socket_address": {"address": instance["host"], "port_value": 443}}}}]}]},
            "transport_socket": {"name": "tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": instance["host"]}},
        }
"#;

const OUR_TEMPLATE: &str = r#"{# {kind: clusters, for_each: context.instances} #}
resources:
- name: {{ item.name }}
  type: STRICT_DNS
  connect_timeout: 1s
  load_assignment:
    cluster_name: {{ item.name }}
    endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: {{ item.host }}, port_value: 443}}}}]}]
  transport_socket:
    name: tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
      sni: {{ item.host }}
"#;

const SCRIPT: &str = r#"
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [[BODY]]
good = 0
function setup(thread) only = thread end
function response(status) if status == STATUS then good = good + 1 end end
function done(summary) io.write(string.format("SEEN %d %d\n", summary.requests, only:get("good"))) end
"#;

fn instances() -> Vec<Value> {
    let instance = |at: usize| json!({"name": format!("service-{at:05}"), "host": format!("s{at}.example.test"), "service_clusters": ["*"]});
    (0..CLUSTERS).map(instance).collect()
}

/// What one server takes for a request.
struct Cost {
    cpu_ms_200: f64,
    cpu_ms_304: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ours = ours().await?;
    let mut figures = Map::new();
    let mut put = |who: &str, cost: &Cost| {
        figures.insert(format!("{who}_cpu_ms_200"), rounded(cost.cpu_ms_200, 3));
        figures.insert(format!("{who}_cpu_ms_304"), rounded(cost.cpu_ms_304, 3));
    };
    put("ours", &ours);
    match predecessor().await {
        Ok(theirs) => {
            put("sovereign_0_32", &theirs);
            figures.insert("ratio_200".into(), rounded(theirs.cpu_ms_200 / ours.cpu_ms_200, 3));
            figures.insert("ratio_304".into(), rounded(theirs.cpu_ms_304 / ours.cpu_ms_304, 3));
        }
        Err(error) => {
            figures.insert("sovereign_0_32".into(), json!(format!("{error:#}")));
        }
    }
    print(&format!("CPU of the server for a poll of {CLUSTERS} clusters"), &Value::Object(figures));
    Ok(())
}

async fn ours() -> anyhow::Result<Cost> {
    let mut lab = Lab::prepare(|_| ()).await;
    let layout = &mut lab.stack.layout;
    let (folder, sources) = (layout.data_dir.join("templates"), layout.data_dir.join("sources.yaml"));
    fs::create_dir(&folder)?;
    fs::write(folder.join("clusters.yaml"), OUR_TEMPLATE)?;
    fs::write(&sources, json!({"sources": {"instances": {"inline": instances()}}}).to_string())?;
    layout.templates = Some(folder);
    layout.edge = json!({"sidecars": [], "rest": {"clusters": ["*"]}});
    layout.control_plane_args.push("--no-default-templates".into());
    layout.control_plane_args.push(format!("--sources={}", sources.display()));
    lab.stack.start_control_plane().await?;
    let id = lab.stack.control_plane.as_ref().and_then(Process::id).context("it runs")?;
    let url = format!("http://127.0.0.1:{}/v3/discovery:clusters", lab.stack.layout.ports.xds);
    let cost = measured(lab.folder(), &url, id).await?;
    lab.stop().await;
    Ok(cost)
}

/// Two workers, logs off, without its optional Redis: as it was measured for its best 200.
async fn predecessor() -> anyhow::Result<Cost> {
    let packages = tool(OLD).await;
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("clusters.py"), PYTHON_TEMPLATE)?;
    let config = json!({
        "sources": [{"type": "inline", "config": {"instances": instances()}}],
        "templates": {"default": [{"type": "clusters", "spec": {
            "protocol": "python", "path": folder.path().join("clusters.py"),
        }}]},
        "logging": {"application_logs": {"enabled": false}, "access_logs": {"enabled": false}},
    });
    let path = folder.path().join("sovereign.json");
    fs::write(&path, config.to_string())?;
    let port = Ports::free()?.http;
    let environment = [
        ("PYTHONPATH", packages.display().to_string()),
        ("SOVEREIGN_CONFIG", format!("file+json://{}", path.display())),
        ("SOVEREIGN_HOST", "127.0.0.1".to_owned()),
        ("SOVEREIGN_PORT", port.to_string()),
        ("SOVEREIGN_WORKERS", "2".to_owned()),
        ("SOVEREIGN_WORKER_TIMEOUT", "300".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    let args = ["-c", "from sovereign.server import main; main()"].map(str::to_owned);
    let log = folder.path().join("sovereign.log");
    let mut server =
        Process::start_with("sovereign", Path::new("/usr/bin/python3"), &args, &environment, &log)?;
    let id = server.id().context("it runs")?;
    let url = format!("http://127.0.0.1:{port}/v3/discovery:clusters");
    let client = reqwest::Client::new();
    let ask = || async {
        let answer = client.post(&url).json(&body("")).send().await;
        answer.is_ok_and(|answer| answer.status().is_success()).then_some(()).ok_or("no 200 yet".to_owned())
    };
    server.wait_until(READY, ask).await?;
    let cost = measured(folder.path(), &url, id).await?;
    server.stop(Duration::from_secs(5)).await;
    Ok(cost)
}

fn body(version: &str) -> Value {
    json!({"version_info": version, "node": {"id": "web-1", "cluster": "T1"}})
}

async fn measured(folder: &Path, url: &str, server: u32) -> anyhow::Result<Cost> {
    // The first poll of its kind has everything rendered, which may take longer than a poll.
    let found = eventually("it is rendered", || async {
        let answer = reqwest::Client::new().post(url).json(&body("")).send().await.ok()?;
        if answer.status() == 200 { answer.json::<Value>().await.ok() } else { None }
    })
    .await;
    let version = found["version_info"].as_str().or(found["versionInfo"].as_str()).context("a version")?;
    let count = found["resources"].as_array().map_or(0, Vec::len);
    ensure!(count == CLUSTERS, "{count} clusters");
    let (mut fresh, mut known) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        fresh.push(load(folder, url, server, "", 200).await?);
        known.push(load(folder, url, server, version, 304).await?);
    }
    Ok(Cost { cpu_ms_200: median(fresh), cpu_ms_304: median(known) })
}

/// CPU milliseconds of the server and its children for each answer.
async fn load(folder: &Path, url: &str, server: u32, version: &str, status: u16) -> anyhow::Result<f64> {
    let script = folder.join("poll.lua");
    let text = SCRIPT.replace("BODY", &body(version).to_string()).replace("STATUS", &status.to_string());
    fs::write(&script, text)?;
    let before = cpu_ms(server);
    let output = wrk(&script, url, LOAD).await.stdin(Stdio::null()).output().await?;
    let took = cpu_ms(server) - before;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let seen = text.lines().find_map(|line| line.strip_prefix("SEEN ")).with_context(|| text.clone())?;
    let (all, good) = seen.split_once(' ').context("two numbers")?;
    let (all, good): (f64, f64) = (all.parse()?, good.parse()?);
    ensure!(all > 0.0 && (all - good).abs() < 0.5, "{all} answers, {good} of them {status}");
    Ok(took / all)
}
