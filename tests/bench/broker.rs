//! `cargo xtask bench broker`: orders, polls and jobs against SQLite, with few and with many services stored, and
//! onboarding through a real Envoy.
//!
//! Broker and worker are measured alone, one after the other, beside their load on the same cores. The fleet that the
//! worker waits for is a stand-in that acknowledges everything at once.

// A bench that cannot go on says so and ends.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::Path, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use lab::{Ports, process::Process};
use model::{
    fleet::{EDGE_GROUP, FleetReport, Standing},
    instance::{Instance, OperationState, Published, Request},
};
use serde_json::{Map, Value, json};
use store::{Keys, Put, SqliteStore, Store, Write};
use tests::{
    Lab,
    figures::{cpu_ms, percentile, print, rounded},
    wrk,
};
use tokio::task::JoinSet;

const STORED: [usize; 2] = [100, 10_000];
const CLIENTS: usize = 64;
const LOAD: Duration = Duration::from_secs(4);
/// How long the workers work.
const WORK: Duration = Duration::from_secs(8);
const READY: Duration = Duration::from_secs(30);
const ONBOARDED: usize = 50;
/// Jobs that are stored before the workers start: more than they get through.
const JOBS: usize = 8_000;

/// Each request orders another service.
const PUT: &str = r#"
wrk.method = "PUT"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Basic ZGV2OmRldg=="
wrk.headers["X-Broker-API-Version"] = "2.17"
local parts, count, good = [[BODY]], 0, 0
function setup(thread) only = thread end
function request()
  count = count + 1
  local body = parts:gsub("NUMBER", tostring(count))
  return wrk.format(nil, "/v2/service_instances/ordered-" .. count .. "?accepts_incomplete=true", nil, body)
end
"#;

const POLL: &str = r#"
wrk.headers["Authorization"] = "Basic ZGV2OmRldg=="
wrk.headers["X-Broker-API-Version"] = "2.17"
local count = 0
function setup(thread) only = thread end
function request()
  count = count + 1
  return wrk.format(nil, "/v2/service_instances/seed-" .. (count % STORED) .. "/last_operation")
end
"#;

/// What wrk tells at the end of either.
const TELL: &str = r#"
seen = 0
function response(status) if status == EXPECTED then seen = seen + 1 end end
function done(summary, latency)
  io.write(string.format("SEEN %d %d %f %d\n", summary.requests, only:get("seen"), latency:percentile(99) / 1000, summary.duration))
end
"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut figures = Map::new();
    for stored in STORED {
        let folder = tempfile::tempdir()?;
        for (name, value) in measure(folder.path(), stored).await? {
            let name = if stored == STORED[1] { name.to_owned() } else { format!("{name}_at_{stored}") };
            figures.insert(name, value);
        }
    }
    let lab = Lab::start().await;
    let took = lab.onboard(ONBOARDED).await;
    lab.stop().await;
    for percent in [50, 99] {
        let millis = rounded(percentile(percent, took.clone()), 1);
        figures.insert(format!("onboard_p{percent}_ms"), millis);
    }
    figures.insert("stored".into(), json!(STORED[1]));
    figures.insert("clients".into(), json!(CLIENTS));
    print("the broker and its workers", &Value::Object(figures));
    Ok(())
}

async fn measure(folder: &Path, stored: usize) -> anyhow::Result<Vec<(&'static str, Value)>> {
    let database = folder.join("gatehouse.db");
    let key = Keys::generate("bench")?;
    fs::write(folder.join("store.keys"), &key)?;
    let store = Arc::new(SqliteStore::open(&database, Keys::parse(&key)?)?);
    write_all(&store, (0..stored).map(seed)).await?;
    let (broker, ports) = start(folder, "broker").await?;
    let id = broker.id().context("it runs")?;
    let body = json!({
        "service_id": "7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e01", "plan_id": "7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e11",
        "organization_guid": "o", "space_guid": "s", "parameters": parameters("ordered-NUMBER"),
    });
    let url = format!("http://127.0.0.1:{}", ports.http);
    let puts = load(folder, &url, id, &PUT.replace("BODY", &body.to_string()), 202).await?;
    let polls = load(folder, &url, id, &POLL.replace("STORED", &stored.to_string()), 200).await?;
    broker.stop(READY).await;
    let jobs_per_s = work(folder, &store).await?;
    Ok(vec![
        ("put_rps", rounded(puts.rate, 0)),
        ("put_p99_ms", rounded(puts.p99_ms, 1)),
        ("put_cpu_ms", rounded(puts.cpu_ms, 3)),
        ("last_operation_rps", rounded(polls.rate, 0)),
        ("last_operation_cpu_ms", rounded(polls.cpu_ms, 3)),
        ("jobs_per_s", rounded(jobs_per_s, 0)),
    ])
}

async fn start(folder: &Path, role: &str) -> anyhow::Result<(Process, Ports)> {
    let ports = Ports::free()?;
    let program = std::env::current_exe()?.with_file_name("gatehouse-control-plane");
    let args = [
        role.to_owned(),
        "--dev".to_owned(),
        format!("--data-dir={}", folder.display()),
        format!("--http=127.0.0.1:{}", ports.http),
        "--log=warn".to_owned(),
    ];
    let mut process = Process::start(role, &program, &args, &folder.join(format!("{role}.log")))?;
    let url = format!("http://127.0.0.1:{}/readyz", ports.http);
    let ask = || async {
        let answer = reqwest::get(&url).await.map_err(|error| error.to_string())?;
        answer.error_for_status().map(drop).map_err(|error| error.to_string())
    };
    process.wait_until(READY, ask).await?;
    Ok((process, ports))
}

/// What a load took.
struct Cost {
    /// Answers in a second.
    rate: f64,
    p99_ms: f64,
    /// Of the server, for each answer.
    cpu_ms: f64,
}

async fn load(folder: &Path, url: &str, server: u32, script: &str, expected: u16) -> anyhow::Result<Cost> {
    let path = folder.join("load.lua");
    fs::write(&path, [script, &TELL.replace("EXPECTED", &expected.to_string())].concat())?;
    let before = cpu_ms(server);
    let output = wrk(&path, url, LOAD, CLIENTS).await.stdin(Stdio::null()).output().await?;
    let spent = cpu_ms(server) - before;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = text.lines().find_map(|line| line.strip_prefix("SEEN ")).with_context(|| text.clone())?;
    let numbers: Vec<f64> = told.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [all, good, p99_ms, micros] = numbers[..] else { anyhow::bail!("{told}") };
    ensure!(all > 0.0 && (all - good).abs() < 0.5, "{all} answers, {good} of them {expected}");
    Ok(Cost { rate: all / (micros / 1e6), p99_ms, cpu_ms: spent / all })
}

/// Operations that the workers bring to their ends in a second.
async fn work(folder: &Path, store: &Arc<SqliteStore>) -> anyhow::Result<f64> {
    write_all(
        store,
        (0..JOBS)
            .map(|at| Instance::provision(id("job", at), request(&format!("job-{at}")), format!("op-{at}"))),
    )
    .await?;
    let (_, mut position) = store.changed_since(0).await?;
    let (worker, _) = start(folder, "worker").await?;
    let mut standings = BTreeMap::new();
    let mut ended = 0_u32;
    let mut changes = store.changes();
    let until = tokio::time::Instant::now() + WORK;
    while tokio::time::Instant::now() < until
        && tokio::time::timeout_at(until, changes.changed()).await.is_ok()
    {
        let (changed, next) = store.changed_since(position).await?;
        position = next;
        for instance in changed {
            if !instance.operation.in_progress() {
                ensure!(instance.operation.state == OperationState::Succeeded, "{:?}", instance.operation);
                standings.remove(&instance.id);
                ended += 1;
            } else if let Some(published) = &instance.published {
                let live = Standing { rev: Some(published.rev), acknowledged: 1, ..Standing::default() };
                standings.insert(instance.id, live);
            }
        }
        let report = FleetReport { nodes: 1, instances: standings.clone() };
        store.report("stand-in", EDGE_GROUP, &report).await?;
    }
    worker.stop(READY).await;
    Ok(f64::from(ended) / WORK.as_secs_f64())
}

async fn write_all(
    store: &Arc<SqliteStore>,
    instances: impl Iterator<Item = Instance>,
) -> anyhow::Result<()> {
    let mut writing = JoinSet::new();
    for instance in instances {
        let store = Arc::clone(store);
        writing.spawn(async move {
            let job = instance.operation.in_progress().then(|| instance.job());
            store.put(Write { job: job.as_ref(), ..Write::of(&instance) }).await
        });
    }
    while let Some(written) = writing.join_next().await {
        ensure!(matches!(written??, Put::Stored(_)), "somebody else writes to the store");
    }
    Ok(())
}

fn id(kind: &str, at: usize) -> model::InstanceId {
    format!("{kind}-{at}").parse().expect("an id")
}

fn seed(at: usize) -> Instance {
    let mut instance = Instance::provision(id("seed", at), request(&format!("seed-{at}")), "seed".into());
    let published = Published::wanted_of(&instance).expect("a service");
    (instance.published, instance.proven) = (Some(published.clone()), Some(published));
    instance.operation.state = OperationState::Succeeded;
    instance
}

fn request(name: &str) -> Request {
    let mut request = Request::offline(parameters(name));
    request.owner.platform = "dev".into();
    request
}

fn parameters(name: &str) -> Value {
    json!({
        "service": name,
        "hosts": [format!("{name}.example.test")],
        "routes": [{"path": "/", "upstream": {"urls": ["http://10.0.0.1:8080"], "health_check": "/healthz"}}],
        "auth": {"any": [{"jwt": {"issuer": "https://id.example.test/", "audiences": ["a"], "algorithms": ["ES256"]}}]},
        "authz": {"rules": [{"allow": {"methods": ["GET"], "paths": ["/"], "scopes": ["read"]}}]},
        "rate_limits": [{"limit": "100/minute", "per": ["client_ip"]}],
    })
}
