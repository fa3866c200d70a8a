//! `cargo xtask bench fleet`: a release control plane with SQLite, and a fleet of proxies in another process (this one)
//! that receive what an Envoy receives over real gRPC, and acknowledge at once.

#[path = "fleet/curve.rs"]
mod curve;
#[path = "fleet/floor.rs"]
mod floor;
#[path = "fleet/proxy.rs"]
mod proxy;
#[path = "fleet/wire.rs"]
mod wire;

use std::{
    path::Path,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use lab::{Ports, Process};
use model::instance::{Instance, OperationState, Published, Request};
use serde_json::json;
use store::{Keys, Put, SqliteStore, Store as _, Write};
use tests::figures::{cpu_ms, median, percentile, print, rounded};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    proxy::{Fleet, Goal, Start},
    wire::{Kind, request},
};

/// How much.
struct Size {
    proxies: usize,
    services: usize,
    changes: usize,
}

/// Longer than anything here may take.
const DEADLINE: Duration = Duration::from_secs(600);
/// Between two looks at a count.
const LOOK_AGAIN: Duration = Duration::from_micros(500);
/// As long as a cluster stays that no route names (`ads`).
const LINGER: Duration = Duration::from_secs(3);
/// Connections that are opened at the same time: the kernel's queue of a listener is short.
const OPENED_AT_ONCE: usize = 256;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut size = Size { proxies: 2_000, services: 5_000, changes: 50 };
    while let Some(arg) = args.next() {
        let mut number = || -> anyhow::Result<usize> {
            args.next().with_context(|| format!("{arg}: a number"))?.parse().with_context(|| arg.clone())
        };
        match arg.as_str() {
            "--json" => {}
            "--proxies" => size.proxies = number()?,
            "--services" => size.services = number()?,
            "--changes" => size.changes = number()?,
            "--curve" => {
                let plot = args.next().context("--curve: the plot's file")?;
                let figures = runtime()?.block_on(curve::draw(Path::new(&plot)))?;
                print("what a change costs, by proxies and services", &figures);
                return Ok(());
            }
            floor::AS_SERVER => {
                let port = u16::try_from(number()?)?;
                return runtime()?.block_on(async { floor::serve(port) });
            }
            other => anyhow::bail!("no such option: {other}"),
        }
    }
    ensure!(size.changes > 0 && size.services > 0 && size.proxies > 0, "at least one of each");
    let figures = runtime()?.block_on(bench(&size))?;
    print("a change, to the last proxy's acknowledgement", &figures);
    Ok(())
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

async fn bench(size: &Size) -> anyhow::Result<serde_json::Value> {
    let folder = tempfile::tempdir()?;
    let figures = measure(size, folder.path()).await;
    let log = std::fs::read_to_string(folder.path().join("control-plane.log")).unwrap_or_default();
    let end: Vec<&str> = log.lines().rev().take(5).collect();
    figures.with_context(|| format!("the control plane's last words:\n{}", end.join("\n")))
}

async fn measure(size: &Size, folder: &Path) -> anyhow::Result<serde_json::Value> {
    let store = SqliteStore::open(&folder.join("gatehouse.db"), Keys::default())?;
    let mut instances = seed(&store, size.services).await?;
    let ports = Ports::free()?;
    let server = Server::start(folder, &ports).await?;
    let render_all_ms = server.last_publish_ms().await?;

    let fleet = Arc::new(Fleet::default());
    let (goals, _) = watch::channel(Goal::Nothing);
    let everything =
        Goal::Complete { clusters: size.services, endpoints: size.services, hosts: size.services };
    goals.send_replace(everything.clone());
    let cold = Run::start(size, ports.xds, &Start::Cold, &fleet, &goals).await;
    let cold_start_s = wait_for(&fleet.complete, size.proxies, &fleet).await?.as_secs_f64() + cold.opening;
    settle(&server).await?;
    let rss_cold_mb = server.rss_mb()?;

    let Changes { took, renders, cpu_ms_per_change } =
        change_all(size, &store, &mut instances, &server, &fleet, &goals).await?;
    let rss_mb = server.rss_mb()?;

    // Nothing has changed for those that come back: the clusters of the last changes are gone too.
    tokio::time::sleep(LINGER * 2).await;
    cold.stop().await;
    fleet.complete.store(0, Ordering::Relaxed);
    goals.send_replace(everything);
    let warm = Start::Warm(Arc::new(first_requests(&fleet)));
    settle(&server).await?;
    let cpu_before = server.cpu_ms()?;
    let warm = Run::start(size, ports.xds, &warm, &fleet, &goals).await;
    let reconnect_s = wait_for(&fleet.complete, size.proxies, &fleet).await?.as_secs_f64() + warm.opening;
    let reconnect_cpu_s = (server.cpu_ms()? - cpu_before) / 1_000.0;
    let rss_reconnected_mb = server.rss_mb()?;
    warm.stop().await;
    server.stop().await;
    let floor = floor::measure(size.proxies, Ports::free()?.xds).await?;
    let ratio_to_floor = median(took.clone()) / median(floor.clone());

    let millis = |percent| rounded(percentile(percent, took.clone()), 1);
    Ok(json!({
        "proxies": size.proxies,
        "services": size.services,
        "changes": size.changes,
        "propagation_p50_ms": millis(50),
        "propagation_p99_ms": millis(99),
        "floor_p50_ms": rounded(median(floor.clone()), 1),
        "floor_p99_ms": rounded(percentile(99, floor), 1),
        "ratio_to_floor": rounded(ratio_to_floor, 2),
        "server_cpu_ms_per_change": rounded(cpu_ms_per_change, 1),
        "rss_mb": rounded(rss_mb, 1),
        "rss_cold_mb": rounded(rss_cold_mb, 1),
        "rss_reconnected_mb": rounded(rss_reconnected_mb, 1),
        "cold_start_s": rounded(cold_start_s, 1),
        "reconnect_s": rounded(reconnect_s, 1),
        "reconnect_cpu_s": rounded(reconnect_cpu_s, 1),
        "retries": fleet.retries.load(Ordering::Relaxed),
        "render_all_ms": rounded(render_all_ms, 1),
        "render_one_ms": rounded(median(renders), 1),
    }))
}

/// What changes took.
struct Changes {
    /// Milliseconds from the write to the last proxy, of each.
    took: Vec<f64>,
    /// Milliseconds to the snapshot, of each.
    renders: Vec<f64>,
    /// Of the server.
    cpu_ms_per_change: f64,
}

async fn change_all(
    size: &Size,
    store: &SqliteStore,
    instances: &mut [Instance],
    server: &Server,
    fleet: &Fleet,
    goals: &watch::Sender<Goal>,
) -> anyhow::Result<Changes> {
    let (mut took, mut renders) = (Vec::new(), Vec::new());
    let cpu_before = server.cpu_ms()?;
    for at in 0..size.changes {
        let instance = &mut instances[at * 37 % size.services];
        goals.send_replace(Goal::Host(format!("edge/{}", instance.id).into()));
        fleet.arrived.store(0, Ordering::Relaxed);
        change(store, instance).await?;
        took.push(wait_for(&fleet.arrived, size.proxies, fleet).await?.as_secs_f64() * 1e3);
        renders.push(server.last_publish_ms().await?);
        settle_instance(store, instance).await?;
        // So that the removal of what the old revision used belongs to this change's cost, and not to the next one's.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let cpu_ms_per_change = (server.cpu_ms()? - cpu_before) / f64::from(u32::try_from(size.changes)?);
    Ok(Changes { took, renders, cpu_ms_per_change })
}

/// A service with one route to one address.
fn parameters(at: usize, port: usize) -> serde_json::Value {
    json!({
        "service": format!("service-{at}"),
        "hosts": [format!("service-{at}.example.test")],
        "routes": [{"path": "/", "upstream": {"urls": [format!("http://10.{}.{}.{}:{port}", at / 65536, at / 256 % 256, at % 256)]}}],
        "auth": {"any": [{"jwt": {"issuer": "https://id.example.test/", "audiences": ["a"], "algorithms": ["ES256"]}}]},
        "authz": {"rules": [{"allow": {"methods": ["GET"], "paths": ["/"], "scopes": ["read"]}}]},
    })
}

async fn seed(store: &SqliteStore, services: usize) -> anyhow::Result<Vec<Instance>> {
    let mut instances = Vec::with_capacity(services);
    for at in 0..services {
        // As long as the ids of real platforms.
        let id = format!("00000000-0000-4000-8000-{at:012}").parse()?;
        let mut instance = Instance::provision(id, Request::offline(parameters(at, 80)), "seed".into());
        let published = Published::wanted_of(&instance)?;
        (instance.published, instance.proven) = (Some(published.clone()), Some(published));
        instance.operation.state = OperationState::Succeeded;
        instances.push(put(store, &instance).await?);
    }
    Ok(instances)
}

async fn put(store: &SqliteStore, instance: &Instance) -> anyhow::Result<Instance> {
    match store.put(Write::of(instance)).await? {
        Put::Stored(stored) => Ok(*stored),
        Put::Conflict | Put::OverQuota => anyhow::bail!("somebody else writes to the store"),
    }
}

/// Another upstream: a new cluster, its endpoints and a new virtual host; the old cluster goes.
/// Gives it an upstream that it never had.
async fn change(store: &SqliteStore, instance: &mut Instance) -> anyhow::Result<()> {
    instance.revision += 1;
    instance.request.parameters["routes"][0]["upstream"]["urls"][0] =
        json!(format!("http://10.0.0.1:{}", 1_000 + instance.revision));
    instance.published = Some(Published::wanted_of(instance)?);
    instance.operation.state = OperationState::InProgress;
    *instance = put(store, instance).await?;
    Ok(())
}

async fn settle_instance(store: &SqliteStore, instance: &mut Instance) -> anyhow::Result<()> {
    instance.proven.clone_from(&instance.published);
    instance.operation.state = OperationState::Succeeded;
    *instance = put(store, instance).await?;
    Ok(())
}

/// The proxies of one run.
struct Run {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    /// Seconds until all were started.
    opening: f64,
}

impl Run {
    async fn start(
        size: &Size,
        port: u16,
        start: &Start,
        fleet: &Arc<Fleet>,
        goals: &watch::Sender<Goal>,
    ) -> Self {
        let begun = Instant::now();
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for at in 0..size.proxies {
            let id = format!("edge/i-{at:05}");
            tasks.spawn(proxy::run(
                id,
                port,
                start.clone(),
                fleet.clone(),
                goals.subscribe(),
                stopping.clone(),
            ));
            if at % OPENED_AT_ONCE == OPENED_AT_ONCE - 1 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Self { tasks, stop, opening: begun.elapsed().as_secs_f64() }
    }

    async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn wait_for(
    count: &std::sync::atomic::AtomicUsize,
    wanted: usize,
    fleet: &Fleet,
) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    while count.load(Ordering::Relaxed) < wanted {
        let failures = fleet.failures.load(Ordering::Relaxed);
        ensure!(failures == 0, "{failures} proxies lost their stream");
        ensure!(begun.elapsed() < DEADLINE, "{} of {wanted}", count.load(Ordering::Relaxed));
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(begun.elapsed())
}

/// What a proxy that has everything says first.
fn first_requests(fleet: &Fleet) -> Vec<(Kind, Bytes)> {
    let versions = fleet.versions.lock().unwrap_or_else(PoisonError::into_inner);
    let first = |kind: Kind| {
        let known = versions.get(&kind).cloned().unwrap_or_default();
        let names: Vec<String> = match kind {
            Kind::Endpoints | Kind::Routes => known.keys().cloned().collect(),
            _ => Vec::new(),
        };
        (kind, request(None, kind, "", names, known))
    };
    Kind::ALL.into_iter().map(first).collect()
}

/// Waits until the server has nothing left to do.
async fn settle(server: &Server) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut before = server.cpu_ms()?;
    while begun.elapsed() < DEADLINE {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = server.cpu_ms()?;
        if now - before < 50.0 {
            return Ok(());
        }
        before = now;
    }
    anyhow::bail!("the server does not come to rest")
}

/// The control plane, from outside.
struct Server {
    process: Process,
    client: reqwest::Client,
    url: String,
}

impl Server {
    async fn start(folder: &Path, ports: &Ports) -> anyhow::Result<Self> {
        let edge = folder.join("edge.yaml");
        std::fs::write(&edge, "sidecars: []\n")?;
        let program = std::env::current_exe()?.with_file_name("gatehouse-control-plane");
        let args = [
            "ads".to_owned(),
            "--dev".to_owned(),
            format!("--data-dir={}", folder.display()),
            format!("--http=127.0.0.1:{}", ports.control_plane),
            format!("--xds=127.0.0.1:{}", ports.xds),
            format!("--edge={}", edge.display()),
            "--log=warn".to_owned(),
        ];
        let mut process =
            Process::start("the control plane", &program, &args, &folder.join("control-plane.log"))?;
        let client = reqwest::Client::new();
        let url = format!("http://127.0.0.1:{}", ports.control_plane);
        let ready = format!("{url}/readyz");
        let begun = Instant::now();
        loop {
            process.check()?;
            let answer = client.get(&ready).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                break;
            }
            ensure!(begun.elapsed() < DEADLINE, "the control plane is not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { process, client, url })
    }

    fn cpu_ms(&self) -> anyhow::Result<f64> {
        Ok(cpu_ms(self.process.id().context("the control plane runs")?))
    }

    async fn stop(self) {
        self.process.stop(Duration::from_secs(5)).await;
    }

    fn rss_mb(&self) -> anyhow::Result<f64> {
        let id = self.process.id().context("the control plane runs")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1_024.0)
    }

    /// How long the last change took in the publisher.
    async fn last_publish_ms(&self) -> anyhow::Result<f64> {
        let text = self.client.get(format!("{}/metrics", self.url)).send().await?.text().await?;
        let line = text.lines().find_map(|line| line.strip_prefix("gatehouse_publish_seconds "));
        Ok(line.context("gatehouse_publish_seconds")?.trim().parse::<f64>()? * 1_000.0)
    }
}
