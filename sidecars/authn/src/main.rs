//! `gatehouse-authn`: tells Envoy who sends a request.

use std::sync::Arc;

use anyhow::Context as _;
use api::Role;
use authn::{AuthnService, Follower, Metrics, State, Tokens};
use clap::Parser;
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
}

/// An answer is some forty small allocations.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Args { settings } = Args::parse();
    telemetry::init(&settings.log);
    let (mut registry, metrics, state) =
        (Registry::default(), Metrics::default(), Arc::new(State::default()));
    metrics.register(&mut registry);
    let follower = Follower::new(Arc::clone(&state));
    let process = Process::start(&settings, Role::Authn, &authn::KINDS, follower, registry).await?;
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).context("the system gives no random bytes")?;
    let service = AuthnService::new(state, Tokens::new(secret), Arc::new(SystemClock), metrics);
    process.serve(Server::builder().add_service(service.into_server())).await
}
