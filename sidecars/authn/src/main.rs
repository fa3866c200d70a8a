//! `gatehouse-authn`: tells Envoy who sends a request.

use std::{
    fs,
    future::Future,
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::UNIX_EPOCH,
};

use anyhow::Context as _;
use api::Role;
use authn::{Flags, check, http};
use clap::Parser;
use mimalloc::MiMalloc;
use prometheus_client::registry::Registry;
use runtime::{Clock as _, SystemClock, telemetry};
use sidecar::{DRAIN_DEADLINE, Process, Settings, Transport, observers::ObserverFlags};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tonic::transport::Server;

/// The authentication sidecar of Gatehouse.
#[derive(Debug, Parser)]
#[command(
    name = "gatehouse-authn",
    version,
    after_help = "`gatehouse-authn check` decides one request offline."
)]
struct Args {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    observers: ObserverFlags,
    #[command(flatten)]
    transport: Transport,
    /// Where an `ext_authz` filter with an `http_service` asks
    #[arg(long, env = "GATEHOUSE_HTTP_SOCKET")]
    http_socket: Option<PathBuf>,
    /// The same on loopback: an address and a port
    #[arg(long, env = "GATEHOUSE_HTTP_LISTEN")]
    http_listen: Option<SocketAddr>,
}

/// An answer is some forty small allocations.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Decides one request offline: nobody is asked, and nothing is kept.
#[derive(Debug, Parser)]
#[command(name = "gatehouse-authn check", version)]
struct CheckArgs {
    /// A policy: `gatehouse.authn.v1.Policy` as JSON or YAML
    #[arg(long)]
    policy: PathBuf,
    /// A request: JSON or YAML with method, host, path, headers, certificate
    #[arg(long)]
    request: PathBuf,
    /// Keys: a JWK Set, or `gatehouse.authn.v1.KeySet`s
    #[arg(long)]
    keys: Option<PathBuf>,
    /// When: RFC 3339, or seconds since the epoch; now without it
    #[arg(long, value_parser = moment)]
    now: Option<f64>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

fn moment(text: &str) -> Result<f64, String> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339).ok();
    // Seconds fit into the fraction of a float.
    #[allow(clippy::cast_precision_loss)]
    let seconds = parsed.map(|time| time.unix_timestamp() as f64).or_else(|| text.parse().ok());
    seconds.filter(|seconds| seconds.is_finite()).ok_or_else(|| "must be RFC 3339, or seconds".to_owned())
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    // The name of one of its few other uses; all that begins otherwise is a flag.
    if std::env::args_os().nth(1).is_some_and(|first| first == "check") {
        return check(&CheckArgs::parse_from(std::env::args_os().skip(1))).await;
    }
    Box::pin(serve(Args::parse())).await?;
    Ok(ExitCode::SUCCESS)
}

/// 0 where the request goes on, 2 where it is refused, 3 where nothing can be decided.
async fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let read =
        |path: &PathBuf| fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
    let (policy, request) = (read(&args.policy)?, read(&args.request)?);
    let keys = args.keys.as_ref().map(read).transpose()?;
    let now = args
        .now
        .unwrap_or_else(|| SystemClock.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    let question = check::Question { policy: &policy, request: &request, keys: keys.as_deref(), now };
    let answer = check::check(&question).await.map_err(anyhow::Error::msg)?;
    let text = if args.json { serde_json::to_string(&answer)? + "\n" } else { answer.text() };
    io::stdout().write_all(text.as_bytes()).context("telling the answer")?;
    Ok(match answer.status {
        200 => ExitCode::SUCCESS,
        503 => ExitCode::from(3),
        _ => ExitCode::from(2),
    })
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let Args { settings, flags, observers, transport, http_socket, http_listen } = args;
    telemetry::init(&settings.log);
    let node = format!("{}/{}", settings.node_id, Role::Authn);
    let (observers, leftovers) = observers.open("gatehouse-authn", &node)?;
    let (service, follower) = flags.service()?;
    let service = service.with_observers(observers);
    let mut registry = Registry::default();
    service.register(&mut registry);
    let process = Process::start(&settings, Role::Authn, &authn::KINDS, follower, registry).await?;
    let process = process.listen(&transport).await?;
    let service = Arc::new(service);
    let by_socket = http_socket.map(|socket| {
        let end = process.drain();
        let service = Arc::clone(&service);
        drained(async move { http::serve_socket(service, &socket, end).await }, process.drain())
    });
    let by_loopback = http_listen.map(|address| {
        drained(http::serve_loopback(Arc::clone(&service), address, process.drain()), process.drain())
    });
    let grpc = process.serve(Server::builder().add_service(service.server()));
    let http = async {
        tokio::try_join!(asked("--http-socket", by_socket), asked("--http-listen", by_loopback)).map(drop)
    };
    let served = tokio::try_join!(grpc, http).map(drop);
    drop(service);
    leftovers.end().await;
    served
}

/// Serves until the drain is over, or has taken too long.
async fn drained(
    serve: impl Future<Output = io::Result<()>>,
    drain: impl Future<Output = ()>,
) -> io::Result<()> {
    let late = async {
        drain.await;
        tokio::time::sleep(DRAIN_DEADLINE).await;
    };
    tokio::select! {
        served = serve => served,
        () = late => Ok(()),
    }
}

async fn asked(
    flag: &'static str,
    serve: Option<impl Future<Output = io::Result<()>>>,
) -> anyhow::Result<()> {
    match serve {
        Some(serve) => serve.await.context(flag),
        None => Ok(()),
    }
}
