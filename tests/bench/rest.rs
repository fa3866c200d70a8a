//! `cargo xtask bench rest`: `POST /v3/discovery:clusters` with 10,000 clusters under wrk, of the control plane and of
//! the Python predecessor (both lines from PyPI), one after the other on the same machine: CPU of the server for each
//! 200 and each 304.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use lab::{Ports, Process};
use serde_json::{Map, Value, json};
use tests::{
    Lab, eventually,
    figures::{cpu_ms, median, print, rounded},
    tool, wrk,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const CLUSTERS: usize = 10_000;
const LOAD: Duration = Duration::from_secs(5);
/// Medians of this many.
const REPEATS: usize = 3;
const OLD: &str = "sovereign==0.32.12";
const NEW: &str = "sovereign==1.0.0rc1";
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
    /// Of the body of a 200.
    bytes: usize,
}

/// The argument by which this program is a server that knows nothing but how many bytes to send.
const AS_FLOOR: &str = "--floor-server";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if let [floor, port, bytes] = &std::env::args().skip(1).collect::<Vec<_>>()[..]
        && floor == AS_FLOOR
    {
        return serve_floor(port.parse()?, bytes.parse()?).await;
    }
    let ours = ours().await?;
    let mut figures = Map::new();
    let put = |figures: &mut Map<String, Value>, who: &str, cost: &Cost| {
        figures.insert(format!("{who}_cpu_ms_200"), rounded(cost.cpu_ms_200, 3));
        figures.insert(format!("{who}_cpu_ms_304"), rounded(cost.cpu_ms_304, 3));
    };
    put(&mut figures, "ours", &ours);
    let floor = floor(ours.bytes).await?;
    figures.insert("bytes".into(), json!(ours.bytes));
    figures.insert("floor_cpu_ms_200".into(), rounded(floor, 3));
    figures.insert("ratio_to_floor_200".into(), rounded(ours.cpu_ms_200 / floor, 2));
    for (name, theirs) in [("sovereign_0_32", old_line().await), ("sovereign_1_0", new_line().await)] {
        match theirs {
            Ok(theirs) => {
                put(&mut figures, name, &theirs);
                figures.insert(format!("ratio_200_{name}"), rounded(theirs.cpu_ms_200 / ours.cpu_ms_200, 1));
                figures.insert(format!("ratio_304_{name}"), rounded(theirs.cpu_ms_304 / ours.cpu_ms_304, 1));
            }
            Err(error) => {
                figures.insert(name.into(), json!(format!("{error:#}")));
            }
        }
    }
    print(&format!("CPU of the server for a poll of {CLUSTERS} clusters"), &Value::Object(figures));
    Ok(())
}

/// What it takes to send so many bytes at all: a socket, and no HTTP library.
async fn floor(bytes: usize) -> anyhow::Result<f64> {
    let (folder, port) = (tempfile::tempdir()?, Ports::free()?.http);
    let args = [AS_FLOOR.to_owned(), port.to_string(), bytes.to_string()];
    let log = folder.path().join("floor.log");
    let mut server = Process::start_with("the floor", &std::env::current_exe()?, &args, &[], &log)?;
    let id = server.id().context("it runs")?;
    let url = format!("http://127.0.0.1:{port}/");
    let ask = || async { reqwest::get(&url).await.map(drop).map_err(|error| error.to_string()) };
    server.wait_until(READY, ask).await?;
    let mut took = Vec::new();
    for _ in 0..REPEATS {
        took.push(load(folder.path(), &url, &[id], "", 200).await?);
    }
    server.stop(Duration::from_secs(5)).await;
    Ok(median(took))
}

async fn serve_floor(port: u16, bytes: usize) -> anyhow::Result<()> {
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {bytes}\r\n\r\n");
    let answer = Bytes::from([head.into_bytes(), vec![b' '; bytes]].concat());
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (mut client, _) = listener.accept().await?;
        let answer = answer.clone();
        tokio::spawn(async move {
            // A request of wrk's comes whole.
            let mut request = [0; 4_096];
            while client.read(&mut request).await.is_ok_and(|read| read > 0) {
                if client.write_all(&answer).await.is_err() {
                    return;
                }
            }
        });
    }
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
    let cost = measured(lab.folder(), &url, &[id]).await?;
    lab.stop().await;
    Ok(cost)
}

/// Two workers, logs off, without its optional Redis: as it was measured for its best 200.
async fn old_line() -> anyhow::Result<Cost> {
    let folder = tempfile::tempdir()?;
    let config = json!({ "sources": [{"type": "inline", "config": {"instances": instances()}}] });
    let old = Predecessor::prepare(OLD, folder.path(), PYTHON_TEMPLATE, config).await?;
    let mut server = old.start("main()")?;
    let cost = old.measured(&mut server, &[]).await;
    server.stop(Duration::from_secs(5)).await;
    cost
}

/// It renders in another process, and answers from files. Its worker listens when a first context has been loaded.
async fn new_line() -> anyhow::Result<Cost> {
    let folder = tempfile::tempdir()?;
    let context = folder.path().join("instances.json");
    fs::write(&context, json!(instances()).to_string())?;
    let config = json!({
        "cache": {"local_fs_path": folder.path().join("cache"), "read_timeout": 60.0},
        "template_context": {"context": {"instances": {
            "protocol": "file", "serialization": "json", "path": context,
        }}},
    });
    let new = Predecessor::prepare(NEW, folder.path(), PYTHON_TEMPLATE, config).await?;
    let worker = new.start("worker()")?;
    let mut web = new.start("web(supervisor_enabled=False)")?;
    let cost = new.measured(&mut web, &[worker.id().context("it runs")?]).await;
    web.stop(Duration::from_secs(5)).await;
    worker.stop(Duration::from_secs(5)).await;
    cost
}

/// The Python predecessor, ready to run.
struct Predecessor {
    folder: PathBuf,
    environment: Vec<(String, String)>,
    port: u16,
}

impl Predecessor {
    async fn prepare(
        version: &str,
        folder: &Path,
        template: &str,
        mut config: Value,
    ) -> anyhow::Result<Self> {
        let packages = tool(version).await;
        fs::write(folder.join("clusters.py"), template)?;
        config["templates"] = json!({"default": [{"type": "clusters", "depends_on": ["instances"], "spec": {
            "protocol": "python", "path": folder.join("clusters.py"),
        }}]});
        config["logging"] =
            json!({"application_logs": {"enabled": false}, "access_logs": {"enabled": false}});
        let path = folder.join("sovereign.json");
        fs::write(&path, config.to_string())?;
        let port = Ports::free()?.http;
        let environment = [
            ("PYTHONPATH", packages.display().to_string()),
            ("SOVEREIGN_CONFIG", format!("file+json://{}", path.display())),
            ("SOVEREIGN_HOST", "127.0.0.1".to_owned()),
            ("SOVEREIGN_PORT", port.to_string()),
            ("SOVEREIGN_WORKERS", "2".to_owned()),
            ("SOVEREIGN_WORKER_TIMEOUT", "300".to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Ok(Self { folder: folder.to_owned(), environment, port })
    }

    /// Runs a function of its server.
    fn start(&self, function: &str) -> anyhow::Result<Process> {
        let args = ["-c".to_owned(), format!("from sovereign.server import *; {function}")];
        let log = self.folder.join(format!("{}.log", function.split('(').next().unwrap_or(function)));
        let python = Path::new("/usr/bin/python3");
        Ok(Process::start_with("sovereign", python, &args, &self.environment, &log)?)
    }

    /// What the server takes, and the processes beside it.
    async fn measured(&self, server: &mut Process, beside: &[u32]) -> anyhow::Result<Cost> {
        let ids = [&[server.id().context("it runs")?], beside].concat();
        let url = format!("http://127.0.0.1:{}/v3/discovery:clusters", self.port);
        let client = reqwest::Client::new();
        let ask = || async {
            let answer = client.post(&url).json(&body("")).send().await;
            let is_good = answer.is_ok_and(|answer| answer.status().is_success());
            is_good.then_some(()).ok_or("no 200 yet".to_owned())
        };
        server.wait_until(READY, ask).await?;
        measured(&self.folder, &url, &ids).await
    }
}

fn body(version: &str) -> Value {
    json!({"version_info": version, "node": {"id": "web-1", "cluster": "T1"}})
}

async fn measured(folder: &Path, url: &str, server: &[u32]) -> anyhow::Result<Cost> {
    // The first poll of its kind has everything rendered, which may take longer than a poll.
    let text = eventually("it is rendered", || async {
        let answer = reqwest::Client::new().post(url).json(&body("")).send().await.ok()?;
        if answer.status() == 200 { answer.text().await.ok() } else { None }
    })
    .await;
    let found: Value = serde_json::from_str(&text)?;
    let version = found["version_info"].as_str().or(found["versionInfo"].as_str()).context("a version")?;
    let count = found["resources"].as_array().map_or(0, Vec::len);
    ensure!(count == CLUSTERS, "{count} clusters");
    let (mut fresh, mut known) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        fresh.push(load(folder, url, server, "", 200).await?);
        known.push(load(folder, url, server, version, 304).await?);
    }
    Ok(Cost { cpu_ms_200: median(fresh), cpu_ms_304: median(known), bytes: text.len() })
}

/// CPU milliseconds of the server's processes and their children for each answer.
async fn load(folder: &Path, url: &str, server: &[u32], version: &str, status: u16) -> anyhow::Result<f64> {
    let script = folder.join("poll.lua");
    let text = SCRIPT.replace("BODY", &body(version).to_string()).replace("STATUS", &status.to_string());
    fs::write(&script, text)?;
    let spent = || server.iter().map(|id| cpu_ms(*id)).sum::<f64>();
    let before = spent();
    let output = wrk(&script, url, LOAD, 8).await.stdin(Stdio::null()).output().await?;
    let took = spent() - before;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let seen = text.lines().find_map(|line| line.strip_prefix("SEEN ")).with_context(|| text.clone())?;
    let (all, good) = seen.split_once(' ').context("two numbers")?;
    let (all, good): (f64, f64) = (all.parse()?, good.parse()?);
    ensure!(all > 0.0 && (all - good).abs() < 0.5, "{all} answers, {good} of them {status}");
    Ok(took / all)
}
