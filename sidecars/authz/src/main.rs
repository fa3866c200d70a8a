//! `gatehouse-authz`: tells Envoy whether a request may pass.

use std::sync::Arc;

use api::Role;
use authz::{AuthzService, Follower, Metrics, State};
use clap::Parser;
use prometheus_client::registry::Registry;
use runtime::telemetry;
use sidecar::{Process, Settings};
use tonic::transport::Server;

/// The authorization sidecar of Gatehouse.
#[derive(Debug, Parser)]
#[command(name = "gatehouse-authz", version)]
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
    let process = Process::start(&settings, Role::Authz, &authz::KINDS, follower, registry).await?;
    let service = AuthzService::new(state, metrics);
    process.serve(Server::builder().add_service(service.into_server())).await
}
