//! `gatehouse-guard`: tells Envoy who sends a request, whether it may pass, and whether there is room left.

use std::sync::Arc;

use api::Role;
use authz::AuthzService;
use clap::Parser;
use guard::{Follower, GuardService};
use mimalloc::MiMalloc;
use prometheus_client::registry::Registry;
use ratelimit::RateLimitSidecar;
use runtime::{SystemClock, telemetry};
use sidecar::{Process, Settings, Transport, observers::ObserverFlags};
use tonic::transport::Server;

/// Authentication, authorization and rate limiting of Gatehouse in one process.
#[derive(Debug, Parser)]
#[command(name = "gatehouse-guard", version)]
struct Args {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    authn: authn::Flags,
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
    let Args { settings, authn, observers, transport } = args;
    telemetry::init(&settings.log);
    let node = format!("{}/{}", settings.node_id, Role::Guard);
    let (observers, leftovers) = observers.open("gatehouse-guard", &node)?;
    let mut registry = Registry::default();

    let (authn, authn_follower) = authn.service()?;
    let authn = authn.with_observers(observers.counted_apart());
    authn.register(&mut registry);

    let state = Arc::new(authz::State::default());
    let authz_follower = authz::Follower::new(Arc::clone(&state));
    let authz = AuthzService::new(state, Arc::new(SystemClock)).with_observers(observers);
    authz.register(&mut registry);

    let (state, metrics) = (Arc::new(ratelimit::State::default()), ratelimit::Metrics::default());
    let ratelimit_follower = ratelimit::Follower::new(Arc::clone(&state));
    metrics.register(&mut registry);
    let ratelimit = RateLimitSidecar::new(state, Arc::new(SystemClock), metrics);

    let follower = Follower::new(authn_follower, authz_follower, ratelimit_follower);
    let process = Process::start(&settings, Role::Guard, &guard::kinds(), follower, registry).await?;
    let process = process.listen(&transport).await?;
    let guard = GuardService::new(authn, authz).into_server();
    let served =
        process.serve(Server::builder().add_service(guard).add_service(ratelimit.into_server())).await;
    leftovers.end().await;
    served
}
