//! `gatehouse-authz`: tells Envoy whether a request may pass.

use std::sync::Arc;

use api::Role;
use authz::{AuthzService, Follower, State};
use clap::Parser;
use mimalloc::MiMalloc;
use prometheus_client::registry::Registry;
use runtime::{SystemClock, telemetry};
use sidecar::{Process, Settings, Transport, observers::ObserverFlags};
use tonic::transport::Server;

/// The authorization sidecar of Gatehouse.
#[derive(Debug, Parser)]
#[command(name = "gatehouse-authz", version)]
struct Args {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    observers: ObserverFlags,
    #[command(flatten)]
    transport: Transport,
}

/// An answer is some forty small allocations.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    Box::pin(serve(Args::parse())).await
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let Args { settings, observers, transport } = args;
    telemetry::init(&settings.log);
    let node = format!("{}/{}", settings.node_id, Role::Authz);
    let (observers, leftovers) = observers.open("gatehouse-authz", &node)?;
    let state = Arc::new(State::default());
    let service = AuthzService::new(Arc::clone(&state), Arc::new(SystemClock)).with_observers(observers);
    let mut registry = Registry::default();
    service.register(&mut registry);
    let process =
        Process::start(&settings, Role::Authz, &authz::KINDS, Follower::new(state), registry).await?;
    let process = process.listen(&transport).await?;
    let served = process.serve(Server::builder().add_service(service.into_server())).await;
    leftovers.end().await;
    served
}
