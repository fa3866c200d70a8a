//! `gatehouse-ratelimit`: tells Envoy whether a request is within its limits.

mod standalone;

use std::{fs, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use api::Role;
use clap::Parser;
use mimalloc::MiMalloc;
use prometheus_client::registry::Registry;
use ratelimit::{Defaults, Fleet, FleetSettings, Follower, Metrics, RateLimitSidecar, RedisSettings, State};
use runtime::{SystemClock, telemetry};
use sidecar::{Process, Settings};
use standalone::Standalone;
use tonic::transport::Server;

/// Answers are made and dropped by the hundred thousand.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The rate-limit sidecar of Gatehouse.
#[derive(Debug, Parser)]
#[command(
    name = "gatehouse-ratelimit",
    version,
    after_help = "`gatehouse-ratelimit check FILE…` reads limits as the sidecar does, and says what is wrong with them.\n\
        `gatehouse-ratelimit standalone` needs no control plane: see its --help. It is what runs without any flag."
)]
struct Args {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    store: StoreArgs,
}

/// Where limits of the fleet are counted.
#[derive(Debug, clap::Args)]
struct StoreArgs {
    #[command(flatten)]
    redis: RedisSettings,
    /// Before all keys in the store
    #[arg(long, env = "CACHE_KEY_PREFIX", default_value = "")]
    redis_prefix: String,
    /// Milliseconds after which who waits for the store is answered without it; Envoy waits for 20
    #[arg(long, env = "GATEHOUSE_STORE_DEADLINE_MS", default_value_t = 5)]
    store_deadline_ms: u64,
    /// How many nodes are assumed to share the store until it has told
    #[arg(long, env = "GATEHOUSE_FLEET_NODES", default_value_t = FleetSettings::default().nodes)]
    fleet_nodes: u32,
    /// Of limits with regional shares, whose this node keeps
    #[arg(long, env = "GATEHOUSE_REGION")]
    region: Option<String>,
}

impl StoreArgs {
    fn fleet(&self) -> anyhow::Result<Arc<Fleet>> {
        let settings = FleetSettings {
            deadline: Duration::from_millis(self.store_deadline_ms),
            prefix: self.redis_prefix.clone(),
            nodes: self.fleet_nodes,
        };
        match &self.redis.redis_url {
            Some(_) => Fleet::connect(&self.redis, &settings),
            None => Ok(Fleet::without_store(settings.nodes)),
        }
    }
}

/// Reads limits as the sidecar does.
#[derive(Debug, Parser)]
#[command(name = "gatehouse-ratelimit check")]
struct Check {
    /// In the format of envoyproxy/ratelimit
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Files of one domain are one
    #[arg(long, env = "MERGE_DOMAIN_CONFIG")]
    merge: bool,
    /// Of limits with regional shares, whose are looked at
    #[arg(long, env = "GATEHOUSE_REGION")]
    region: Option<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    if std::env::args().nth(1).is_some_and(|first| first == "check") {
        return check(Check::parse_from(std::env::args().skip(1)));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Without anything it is what replaces the reference server's image.
    match std::env::args().nth(1).as_deref() {
        None => runtime.block_on(standalone::serve(Standalone::parse()))?,
        Some("standalone") => {
            runtime.block_on(standalone::serve(Standalone::parse_from(std::env::args().skip(1))))?;
        }
        Some(_) => runtime.block_on(serve(Args::parse()))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(Args { settings, store }: Args) -> anyhow::Result<()> {
    telemetry::init(&settings.log);
    let (mut registry, metrics, fleet) = (Registry::default(), Metrics::default(), store.fleet()?);
    let state = Arc::new(State::new(Defaults { fleet: false, region: store.region }));
    metrics.register(&mut registry);
    state.register(&mut registry);
    fleet.register(&mut registry);
    let follower = Follower::new(Arc::clone(&state));
    let process = Process::start(&settings, Role::Ratelimit, &ratelimit::KINDS, follower, registry).await?;
    let service = RateLimitSidecar::new(state, Arc::new(SystemClock), metrics).with_fleet(fleet);
    process.serve(Server::builder().add_service(service.into_server())).await
}

#[allow(clippy::print_stdout, clippy::print_stderr)]
fn check(Check { files, merge, region }: Check) -> anyhow::Result<ExitCode> {
    let read = |path: &PathBuf| -> anyhow::Result<(String, String)> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Ok((path.display().to_string(), text))
    };
    let files = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    match ratelimit::check(&files, merge, &Defaults { fleet: false, region }) {
        Ok(limits) => {
            println!("good: {limits} limits");
            Ok(ExitCode::SUCCESS)
        }
        Err(mistake) => {
            eprintln!("{mistake}");
            Ok(ExitCode::FAILURE)
        }
    }
}
