//! `gatehouse-authn`: tells Envoy who sends a request.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use api::Role;
use authn::{AuthnService, DecisionLog, Follower, Metrics, STALE_AFTER, State, Tokens};
use clap::Parser;
use fetch::{Allowed, Fetcher, Network};
use mimalloc::MiMalloc;
use prometheus_client::registry::Registry;
use runtime::{SystemClock, telemetry};
use sidecar::{Process, Settings, traces::Traces};
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
    /// Where denials, faults and a share of what is allowed are written as lines of JSON: a file, or `-` for standard
    /// output
    #[arg(long, env = "GATEHOUSE_DECISION_LOG")]
    decision_log: Option<String>,
    /// The share of what is allowed that is written: 0 to 1
    #[arg(long, env = "GATEHOUSE_DECISION_LOG_SAMPLE", default_value_t = 0.01, value_parser = share)]
    decision_log_sample: f64,
    /// An OpenTelemetry collector (OTLP over gRPC, as `http://host:port`) that is sent a span for each decision of a
    /// sampled trace
    #[arg(long, env = "GATEHOUSE_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
}

/// For what is still queued for the decision log.
const LOG_DEADLINE: Duration = Duration::from_secs(2);

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("must be from 0 to 1".to_owned()) }
}

/// An answer is some forty small allocations.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Args {
        settings,
        allowed,
        fetch_ca,
        stale_after_secs,
        decision_log,
        decision_log_sample,
        otlp_endpoint,
    } = Args::parse();
    telemetry::init(&settings.log);
    let state = Arc::new(State::new(Duration::from_secs(stale_after_secs)));
    let metrics = Metrics::default();
    let ca = fetch_ca
        .map(|path| fs::read(&path).with_context(|| format!("--fetch-ca: reading {}", path.display())));
    let fetcher = Fetcher::new(Allowed::new(allowed), ca.transpose()?.as_deref()).context("--fetch-ca")?;
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).context("the system gives no random bytes")?;
    let (log, writer) = match decision_log {
        Some(name) => {
            let opened = DecisionLog::open(&name, decision_log_sample, &metrics);
            let (log, writer) = opened.with_context(|| format!("--decision-log: opening {name}"))?;
            (Some(log), Some(writer))
        }
        None => (None, None),
    };
    let node = format!("{}/{}", settings.node_id, Role::Authn);
    let traces = otlp_endpoint.map(|url| Traces::begin(&url, "gatehouse-authn", &node));
    let traces = traces.transpose().context("--otlp-endpoint")?;
    let (tokens, clock) = (Tokens::new(secret), Arc::new(SystemClock));
    let service = AuthnService::new(Arc::clone(&state), tokens, fetcher, clock, metrics)
        .with_log(log)
        .with_traces(traces.clone());
    let mut registry = Registry::default();
    service.register(&mut registry);
    let process =
        Process::start(&settings, Role::Authn, &authn::KINDS, Follower::new(state), registry).await?;
    let service = Arc::new(service);
    let served = process.serve(Server::builder().add_service(service.server())).await;
    drop(service);
    if let Some(writer) = writer {
        // What was decided is on disk before we leave; but nobody waits long for a pipe that is not read.
        let _late = tokio::time::timeout(LOG_DEADLINE, writer).await;
    }
    if let Some(traces) = traces {
        traces.end().await;
    }
    served
}
