//! `gatehouse-ratelimit`: tells Envoy whether a request is within its limits.

use std::sync::Arc;

use api::Role;
use clap::Parser;
use prometheus_client::registry::Registry;
use ratelimit::{Follower, Metrics, RateLimitSidecar, State};
use runtime::{SystemClock, telemetry};
use sidecar::{Process, Settings};
use tonic::transport::Server;

/// The rate-limit sidecar of Gatehouse.
#[derive(Debug, Parser)]
#[command(name = "gatehouse-ratelimit", version)]
struct Args {
    #[command(flatten)]
    settings: Settings,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Args { settings } = Args::parse();
    telemetry::init(&settings.log);
    let (mut registry, metrics, state) =
        (Registry::default(), Metrics::default(), Arc::new(State::default()));
    metrics.register(&mut registry);
    let follower = Follower::new(Arc::clone(&state));
    let process = Process::start(&settings, Role::Ratelimit, &ratelimit::KINDS, follower, registry).await?;
    let service = RateLimitSidecar::new(state, Arc::new(SystemClock), metrics);
    process.serve(Server::builder().add_service(service.into_server())).await
}
