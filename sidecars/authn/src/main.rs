//! `gatehouse-authn`: tells Envoy who sends a request.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use api::Role;
use authn::{AuthnService, Follower, Metrics, STALE_AFTER, State, Tokens};
use clap::Parser;
use fetch::{Allowed, Fetcher, Network};
use mimalloc::MiMalloc;
use prometheus_client::registry::Registry;
use runtime::{SystemClock, telemetry};
use sidecar::{Process, Settings};
use tonic::transport::Server;

/// The authentication sidecar of Gatehouse.
#[derive(Debug, Parser)]
#[command(name = "gatehouse-authn", version)]
struct Args {
    #[command(flatten)]
    settings: Settings,
    /// A network (CIDR) inside of which issuers and key servers may be asked; others than public ones are refused
    #[arg(long = "allow-network", env = "GATEHOUSE_ALLOW_NETWORKS", value_delimiter = ',')]
    allowed: Vec<Network>,
    /// PEM: CAs that they may have their certificates from, beside the system's
    #[arg(long, env = "GATEHOUSE_FETCH_CA")]
    fetch_ca: Option<PathBuf>,
    /// How long keys and revocations are believed when nothing is heard of the control plane; then tokens are answered
    /// with 503
    #[arg(long, env = "GATEHOUSE_STALE_AFTER_SECS", default_value_t = STALE_AFTER.as_secs())]
    stale_after_secs: u64,
}

/// An answer is some forty small allocations.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Args { settings, allowed, fetch_ca, stale_after_secs } = Args::parse();
    telemetry::init(&settings.log);
    let state = Arc::new(State::new(Duration::from_secs(stale_after_secs)));
    let (mut registry, metrics) = (Registry::default(), Metrics::default());
    metrics.register(&mut registry);
    state.register(&mut registry);
    let ca = fetch_ca
        .map(|path| fs::read(&path).with_context(|| format!("--fetch-ca: reading {}", path.display())));
    let fetcher = Fetcher::new(Allowed::new(allowed), ca.transpose()?.as_deref()).context("--fetch-ca")?;
    let follower = Follower::new(Arc::clone(&state));
    let process = Process::start(&settings, Role::Authn, &authn::KINDS, follower, registry).await?;
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).context("the system gives no random bytes")?;
    let service = AuthnService::new(state, Tokens::new(secret), fetcher, Arc::new(SystemClock), metrics);
    process.serve(Server::builder().add_service(service.into_server())).await
}
