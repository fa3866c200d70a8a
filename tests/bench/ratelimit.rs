//! `cargo xtask bench ratelimit`: what an answer costs the rate-limit sidecar, beside a server that does nothing: on each
//! node, and together over a real Redis. Servers and load run in processes of their own; CPU time counts, not the clock.

#[path = "ratelimit/floor.rs"]
mod floor;
#[path = "ratelimit/load.rs"]
mod load;

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::Context as _;
use lab::{Ports, Process, redis::Redis};
use load::{Load, Measured};
use serde_json::{Value, json};
use tests::figures::{cpu_ms, median, print, rounded};
use tokio::process::Command;

/// Medians of this many, one after another for each kind.
const ROUNDS: usize = 5;
/// Of each kind in a round.
const REQUESTS: usize = 100_000;
const MANY_KEYS: usize = 100_000;
/// Connections, and requests under way on all of them together: what figures are told for.
const USUAL: (usize, usize) = (4, 64);
/// The rest of the grid.
const GRID: [(usize, usize); 3] = [(1, 1), (1, 16), (4, 16)];

const LIMITS: &str = "
domain: bench
descriptors:
- key: scope
  value: node
  descriptors:
  - {key: user, rate_limit: {unit: hour, requests_per_unit: 4000000000}, metadata: {rls: {scope: node}}}
- key: scope
  value: strict
  descriptors:
  - {key: user, rate_limit: {unit: hour, requests_per_unit: 4000000000}, metadata: {rls: {mode: strict, on_store_error: allow}}}
- key: scope
  value: fleet
  descriptors:
  - {key: user, rate_limit: {unit: hour, requests_per_unit: 4000000000}, metadata: {rls: {scope: fleet}}}
";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match args.get(1).map(String::as_str) {
        Some(floor::AS_SERVER) => runtime.block_on(floor::serve(args[2].parse()?)),
        Some(load::AS_LOAD) => runtime.block_on(load::run(&args[2])),
        _ => {
            let figures = runtime.block_on(bench())?;
            print("rate limits", &figures);
            Ok(())
        }
    }
}

/// A server that is asked.
struct Asked {
    port: u16,
    pid: u32,
    scope: &'static str,
}

/// What some load cost and saw.
struct Cost {
    /// Microseconds of the server's CPU for each request.
    cpu_us: f64,
    seen: Measured,
}

impl Asked {
    async fn with(
        &self,
        keys: usize,
        (connections, under_way): (usize, usize),
        requests: usize,
    ) -> anyhow::Result<Cost> {
        let load = Load { port: self.port, scope: self.scope.into(), keys, connections, under_way, requests };
        let before = cpu_ms(self.pid);
        let output = Command::new(std::env::current_exe()?)
            .args([load::AS_LOAD, &serde_json::to_string(&load.told())?])
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output()
            .await?;
        anyhow::ensure!(output.status.success(), "the load: {}", output.status);
        #[allow(clippy::cast_precision_loss)]
        let cpu_us = (cpu_ms(self.pid) - before) * 1e3 / requests as f64;
        Ok(Cost { cpu_us, seen: Measured::read(&serde_json::from_slice(&output.stdout)?) })
    }

    /// Medians of CPU, rate and the 99th percentile.
    async fn usually(&self, keys: usize) -> anyhow::Result<(f64, f64, f64)> {
        let (mut cpu, mut rate, mut p99) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let cost = self.with(keys, USUAL, REQUESTS).await?;
            cpu.push(cost.cpu_us);
            rate.push(cost.seen.rps);
            p99.push(cost.seen.p99_us);
        }
        Ok((median(cpu), median(rate), median(p99)))
    }
}

async fn bench() -> anyhow::Result<Value> {
    let folder = tempfile::tempdir()?;
    let redis = Redis::start(folder.path()).await?;
    let ports = Ports::free()?;
    let mut floor = Command::new(std::env::current_exe()?)
        .args([floor::AS_SERVER, &ports.http.to_string()])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("starting the floor's server")?;
    // The machine is shared: what is late here is late for want of a core.
    let sidecar = start(folder.path(), &ports, &redis, 100).await?;
    let (floor_pid, pid) = (floor.id().context("the floor runs")?, sidecar.id().context("the sidecar runs")?);
    let noop = Asked { port: ports.http, pid: floor_pid, scope: "node" };
    let node = Asked { port: ports.control_plane, pid, scope: "node" };
    let fleet = Asked { port: ports.control_plane, pid, scope: "fleet" };
    // Once, so that connections, tables and leases are there.
    for asked in [&noop, &node, &fleet] {
        asked.with(1, USUAL, REQUESTS / 10).await?;
    }
    let (noop_us, noop_rps, noop_p99) = noop.usually(1).await?;
    let (node_us, node_rps, node_p99) = node.usually(1).await?;
    let commands = commands(&redis).await?;
    let (fleet_us, fleet_rps, fleet_p99) = fleet.usually(1).await?;
    #[allow(clippy::cast_precision_loss)]
    let ops = (self::commands(&redis).await? - commands) / (ROUNDS * REQUESTS) as f64 * 1e3;
    let before = rss_bytes(pid)?;
    node.with(MANY_KEYS, USUAL, MANY_KEYS).await?;
    #[allow(clippy::cast_precision_loss)]
    let bytes_per_key = (rss_bytes(pid)? - before) / MANY_KEYS as f64;
    let (node_many_us, node_many_rps, _) = node.usually(MANY_KEYS).await?;
    let cold = fleet.with(MANY_KEYS, USUAL, MANY_KEYS).await?;
    let (fleet_many_us, fleet_many_rps, fleet_many_p99) = fleet.usually(MANY_KEYS).await?;
    let mut grid = Vec::new();
    for (asked, name) in [(&noop, "noop"), (&node, "node"), (&fleet, "fleet")] {
        for shape in GRID {
            let cost = asked.with(1, shape, REQUESTS / 4).await?;
            grid.push(json!({
                "server": name, "connections": shape.0, "under_way": shape.1, "cpu_us": rounded(cost.cpu_us, 1),
                "rps": rounded(cost.seen.rps, 0), "p50_us": rounded(cost.seen.p50_us, 0), "p99_us": rounded(cost.seen.p99_us, 0),
            }));
        }
    }
    floor.kill().await?;
    sidecar.kill().await;
    let troubled = troubled(folder.path(), redis).await?;
    Ok(json!({
        "noop_cpu_us": rounded(noop_us, 2),
        "node_cpu_us": rounded(node_us, 2),
        "fleet_cpu_us": rounded(fleet_us, 2),
        "ratio_node_to_noop": rounded(node_us / noop_us, 2),
        "ratio_fleet_to_node": rounded(fleet_us / node_us, 2),
        "redis_ops_per_1000_req": rounded(ops, 2),
        "noop_rps": rounded(noop_rps, 0), "noop_p99_us": rounded(noop_p99, 0),
        "node_rps": rounded(node_rps, 0), "node_p99_us": rounded(node_p99, 0),
        "fleet_rps": rounded(fleet_rps, 0), "fleet_p99_us": rounded(fleet_p99, 0),
        "node_100k_keys_cpu_us": rounded(node_many_us, 2), "node_rps_100k_keys": rounded(node_many_rps, 0),
        "fleet_100k_keys_cpu_us": rounded(fleet_many_us, 2), "rps_100k_keys": rounded(fleet_many_rps, 0),
        "p99_us_100k_keys": rounded(fleet_many_p99, 0), "rps_100k_keys_cold": rounded(cold.seen.rps, 0),
        "bytes_per_key": rounded(bytes_per_key, 0),
        "p99_us_redis_answers": troubled[0], "p99_us_redis_stopped": troubled[1], "p99_us_redis_killed": troubled[2],
        "grid": grid,
    }))
}

/// The 99th percentiles of strict limits, with the deadline that is usual: while Redis answers, while it stands still, and
/// when it is gone.
async fn troubled(folder: &Path, mut redis: Redis) -> anyhow::Result<[Value; 3]> {
    let ports = Ports::free()?;
    let sidecar = start(folder, &ports, &redis, 5).await?;
    let asked =
        Asked { port: ports.control_plane, pid: sidecar.id().context("the sidecar runs")?, scope: "strict" };
    let p99 = async || -> anyhow::Result<Value> {
        Ok(rounded(asked.with(1_000, (4, 16), REQUESTS / 4).await?.seen.p99_us, 0))
    };
    p99().await?;
    let answers = p99().await?;
    redis.stop();
    let stopped = p99().await?;
    redis.go_on();
    redis.kill().await;
    let killed = p99().await?;
    sidecar.kill().await;
    Ok([answers, stopped, killed])
}

/// The sidecar in the place of the reference server.
async fn start(folder: &Path, ports: &Ports, redis: &Redis, deadline_ms: u64) -> anyhow::Result<Process> {
    fs::create_dir_all(folder.join("limits/config"))?;
    fs::write(folder.join("limits/config/bench.yaml"), LIMITS)?;
    let environment = [
        ("RUNTIME_ROOT", folder.join("limits").display().to_string()),
        ("GRPC_PORT", ports.control_plane.to_string()),
        ("PORT", ports.ratelimit.to_string()),
        ("DEBUG_PORT", ports.xds.to_string()),
        ("REDIS_URL", redis.address()),
        ("LOG_LEVEL", "warn".to_owned()),
        ("GATEHOUSE_STORE_DEADLINE_MS", deadline_ms.to_string()),
    ];
    let environment = environment.map(|(key, value)| (key.to_owned(), value));
    let program = std::env::current_exe()?.with_file_name("gatehouse-ratelimit");
    let log = folder.join("ratelimit.log");
    let mut process = Process::start_with("ratelimit", &program, &[], &environment, &log)?;
    let url = format!("http://127.0.0.1:{}/healthcheck", ports.ratelimit);
    let ready = || async {
        let status = reqwest::get(&url).await.map_err(|error| error.to_string())?.status();
        if status.is_success() { Ok(()) } else { Err(status.to_string()) }
    };
    process.wait_until(Duration::from_secs(10), ready).await?;
    Ok(process)
}

/// Processed so far, of which looking is one.
async fn commands(redis: &Redis) -> anyhow::Result<f64> {
    let told = redis.ask("INFO stats").await?;
    let line = told.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
    Ok(line.context("total_commands_processed")?.trim().parse()?)
}

fn rss_bytes(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1_024.0)
}
