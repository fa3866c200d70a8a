//! Without a control plane: configured by the environment as the reference server is, so that another image is all that
//! changes. Where the reference knows something that we do not, it is refused and never ignored.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context as _, ensure};
use clap::{ArgAction, Args, Parser, ValueEnum};
use prometheus_client::registry::Registry;
use ratelimit::{Defaults, Diff, Extras, Folder, Metrics, Options, RateLimitSidecar, Sotw, State, http};
use runtime::{Admin, Readiness, Shutdown, SystemClock, telemetry};
use sidecar::{DRAIN_DEADLINE, Transport};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::mpsc,
    task::JoinSet,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::transport::{Endpoint, Server, server::Router};

use crate::StoreArgs;

/// Limits from files, and counters in Redis, as envoyproxy/ratelimit has them.
#[derive(Debug, Parser)]
#[command(name = "gatehouse-ratelimit standalone")]
pub(crate) struct Standalone {
    /// Where limits come from
    #[arg(long, env = "CONFIG_TYPE", default_value = "file", ignore_case = true)]
    config_type: ConfigType,
    /// Of a server of limits, with --config-type=GRPC_XDS_SOTW
    #[arg(long, env = "CONFIG_GRPC_XDS_SERVER_URL", default_value = "localhost:18000")]
    xds_server: String,
    /// What it is told who asks
    #[arg(long, env = "CONFIG_GRPC_XDS_NODE_ID", default_value = "default")]
    xds_node_id: String,
    /// The folder, or the link to it, that is exchanged as a whole
    #[arg(long, env = "RUNTIME_ROOT", default_value = "/srv/runtime_data/current")]
    runtime_root: PathBuf,
    /// Below it
    #[arg(long, env = "RUNTIME_SUBDIRECTORY")]
    runtime_subdirectory: Option<PathBuf>,
    /// Below that: what holds the files
    #[arg(long, env = "RUNTIME_APPDIRECTORY", default_value = "config")]
    runtime_appdirectory: PathBuf,
    /// Files of one domain are one
    #[arg(long, env = "MERGE_DOMAIN_CONFIG", action = ArgAction::Set, default_value_t = false)]
    merge_domain_config: bool,
    /// Serves before there are limits
    #[arg(long, env = "FORCE_START_WITHOUT_INITIAL_CONFIG", action = ArgAction::Set, default_value_t = false)]
    force_start: bool,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    answers: Answers,
    #[command(flatten)]
    store: StoreArgs,
    /// `redis`
    #[arg(long, env = "BACKEND_TYPE", default_value = "redis", ignore_case = true)]
    backend_type: Backend,
    /// Another server that is asked too, as `http://host:port`; where it disagrees, that is counted
    #[arg(long, env = "GATEHOUSE_DIFF")]
    diff: Option<String>,
    /// What to log
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    log: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ConfigType {
    File,
    #[value(name = "GRPC_XDS_SOTW")]
    Sotw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    Redis,
}

/// Where it listens.
#[derive(Debug, Args)]
struct Listen {
    #[arg(long, env = "GRPC_HOST", default_value = "0.0.0.0")]
    grpc_host: String,
    #[arg(long, env = "GRPC_PORT", default_value_t = 8081)]
    grpc_port: u16,
    /// A Unix socket, in the place of the port
    #[arg(long, env = "GRPC_UDS")]
    grpc_uds: Option<PathBuf>,
    /// `/json` and `/healthcheck`
    #[arg(long, env = "HOST", default_value = "0.0.0.0")]
    host: String,
    #[arg(long, env = "PORT", default_value_t = 8080)]
    port: u16,
    /// `/rlconfig` and `/metrics`
    #[arg(long, env = "DEBUG_HOST", default_value = "0.0.0.0")]
    debug_host: String,
    #[arg(long, env = "DEBUG_PORT", default_value_t = 6070)]
    debug_port: u16,
    /// Metrics at --prometheus-addr too
    #[arg(long, env = "USE_PROMETHEUS", action = ArgAction::Set, default_value_t = false)]
    use_prometheus: bool,
    #[arg(long, env = "PROMETHEUS_ADDR", default_value = ":9090")]
    prometheus_addr: String,
    /// gRPC over mutual TLS
    #[arg(long, env = "GRPC_SERVER_USE_TLS", action = ArgAction::Set, default_value_t = false)]
    grpc_server_use_tls: bool,
    #[arg(long, env = "GRPC_SERVER_TLS_CERT")]
    grpc_server_tls_cert: Option<PathBuf>,
    #[arg(long, env = "GRPC_SERVER_TLS_KEY")]
    grpc_server_tls_key: Option<PathBuf>,
    #[arg(long, env = "GRPC_CLIENT_TLS_CACERT")]
    grpc_client_tls_cacert: Option<PathBuf>,
}

/// What answers say.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)]
struct Answers {
    #[arg(long, env = "SHADOW_MODE", action = ArgAction::Set, default_value_t = false)]
    shadow_mode: bool,
    #[arg(long, env = "QUOTA_MODE", action = ArgAction::Set, default_value_t = false)]
    quota_mode: bool,
    #[arg(long, env = "LIMIT_RESPONSE_HEADERS_ENABLED", action = ArgAction::Set, default_value_t = false)]
    headers: bool,
    #[arg(long, env = "LIMIT_LIMIT_HEADER", default_value = "RateLimit-Limit")]
    limit_header: String,
    #[arg(long, env = "LIMIT_REMAINING_HEADER", default_value = "RateLimit-Remaining")]
    remaining_header: String,
    #[arg(long, env = "LIMIT_RESET_HEADER", default_value = "RateLimit-Reset")]
    reset_header: String,
    #[arg(long, env = "RESPONSE_DYNAMIC_METADATA", action = ArgAction::Set, default_value_t = false)]
    metadata: bool,
    #[arg(long, env = "NEAR_LIMIT_RATIO", default_value_t = 0.8)]
    near_limit_ratio: f64,
}

impl Answers {
    fn options(self) -> Options {
        let headers = [self.limit_header, self.remaining_header, self.reset_header];
        let extras =
            Extras { headers: self.headers.then_some(headers), metadata: self.metadata, record: false };
        Options {
            extras,
            shadow: self.shadow_mode,
            quota: self.quota_mode,
            near_limit_ratio: self.near_limit_ratio,
        }
    }
}

/// The service whose health is asked for by name.
const SERVICE: &str = "ratelimit";

/// Serves until it is asked to stop, then drains.
pub(crate) async fn serve(args: Standalone) -> anyhow::Result<()> {
    let Standalone { config_type, backend_type: Backend::Redis, listen, answers, store, .. } = args;
    telemetry::init(&args.log.to_lowercase());
    let (shutdown, readiness) = (runtime::shutdown()?, Readiness::new());
    let (mut registry, metrics, fleet) = (Registry::default(), Metrics::default(), store.fleet()?);
    let state =
        Arc::new(State::new(Defaults { fleet: store.redis.redis_url.is_some(), region: store.region }));
    metrics.register(&mut registry);
    state.register(&mut registry);
    fleet.register(&mut registry);
    let mut service = RateLimitSidecar::new(state.clone(), Arc::new(SystemClock), metrics.clone())
        .with_fleet(fleet)
        .with_options(answers.options());
    if let Some(url) = args.diff {
        let diff = Diff::start(&Endpoint::from_shared(url).context("--diff: must be a URL")?);
        diff.register(&mut registry);
        service = service.with_diff(diff);
    }
    let folder = Folder {
        root: args.runtime_root,
        below: args.runtime_subdirectory.unwrap_or_default().join(args.runtime_appdirectory),
        merge: args.merge_domain_config,
    };
    let (health, health_server) = tonic_health::server::health_reporter();
    health.set_service_status(SERVICE, tonic_health::ServingStatus::NotServing).await;
    let mut tasks = JoinSet::new();
    let mut latch = (!args.force_start).then(|| readiness.latch("configuration"));
    let loaded = move || drop(latch.take());
    match config_type {
        ConfigType::File => {
            let following = folder.follow(state.clone(), metrics, loaded);
            tasks.spawn(async { following.await.context("following the limits") });
        }
        ConfigType::Sotw => {
            let server = Endpoint::from_shared(format!("http://{}", args.xds_server))
                .context("CONFIG_GRPC_XDS_SERVER_URL: must be host:port")?;
            let sotw = Sotw { server, node_id: args.xds_node_id };
            let following = sotw.follow(state.clone(), metrics, loaded);
            tasks.spawn(async {
                following.await;
                Ok(())
            });
        }
    }
    let admin = Admin::new(registry, readiness.clone());
    let http = http::router(service.clone(), readiness.clone());
    listen.http(&mut tasks, http, http::shown(state), admin, &shutdown).await?;
    let draining = shutdown.clone();
    let is_ready = readiness.clone();
    tasks.spawn(async move {
        is_ready.ready().await;
        health.set_service_status(SERVICE, tonic_health::ServingStatus::Serving).await;
        draining.wait().await;
        let _unready = is_ready.latch("drain");
        health.set_service_status(SERVICE, tonic_health::ServingStatus::NotServing).await;
        tokio::time::sleep(DRAIN_DEADLINE).await;
        tracing::warn!("some requests were cut off");
        Ok(())
    });
    // Envoy takes a server that is not there for one that lets everything pass: so none, until there are limits.
    tokio::select! {
        () = readiness.ready() => {}
        () = shutdown.wait() => return Ok(()),
        Some(ended) = tasks.join_next() => return ended?,
    }
    let router = Server::builder().add_service(service.into_server()).add_service(health_server);
    let serving = listen.grpc(router, shutdown);
    tokio::select! {
        served = serving => served,
        Some(ended) = tasks.join_next() => ended?,
    }
}

async fn bound(host: &str, port: u16, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind((host, port)).await.with_context(|| format!("{what}: listening on {host}:{port}"))
}

impl Listen {
    async fn http(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        http: axum::Router,
        shown: axum::Router,
        admin: Admin,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        let mut all = vec![
            (bound(&self.host, self.port, "PORT").await?, http),
            (
                bound(&self.debug_host, self.debug_port, "DEBUG_PORT").await?,
                shown.merge(admin.clone().router()),
            ),
        ];
        if self.use_prometheus {
            let (host, port) = self.prometheus_addr.rsplit_once(':').context("PROMETHEUS_ADDR: host:port")?;
            let port = port.parse().context("PROMETHEUS_ADDR: host:port")?;
            let host = if host.is_empty() { "0.0.0.0" } else { host };
            all.push((bound(host, port, "PROMETHEUS_ADDR").await?, admin.router()));
        }
        for (listener, router) in all {
            let end = shutdown.clone();
            tasks.spawn(async move {
                axum::serve(listener, router)
                    .with_graceful_shutdown(end.wait())
                    .await
                    .context("serving HTTP")?;
                // The drain of gRPC says when it is over.
                std::future::pending().await
            });
        }
        Ok(())
    }

    async fn grpc(&self, router: Router, shutdown: Shutdown) -> anyhow::Result<()> {
        let end = shutdown.wait();
        if let Some(path) = &self.grpc_uds {
            let listener: UnixListener = runtime::unix::bind(path).context("GRPC_UDS")?;
            let incoming = UnixListenerStream::new(listener);
            return router.serve_with_incoming_shutdown(incoming, end).await.context("serving gRPC");
        }
        if self.grpc_server_use_tls {
            let address: SocketAddr =
                format!("{}:{}", self.grpc_host, self.grpc_port).parse().context("GRPC_HOST: an address")?;
            ensure!(
                self.grpc_client_tls_cacert.is_some(),
                "GRPC_CLIENT_TLS_CACERT: must be there with GRPC_SERVER_USE_TLS, since clients prove who they are"
            );
            let transport = Transport {
                listen: Some(address),
                tls_cert: self.grpc_server_tls_cert.clone(),
                tls_key: self.grpc_server_tls_key.clone(),
                tls_client_ca: self.grpc_client_tls_cacert.clone(),
                listen_plaintext: false,
            };
            let incoming =
                transport.bind().await?.map_or_else(|| mpsc::channel(1).1, |(_, incoming)| incoming);
            let incoming = ReceiverStream::new(incoming);
            return router.serve_with_incoming_shutdown(incoming, end).await.context("serving gRPC");
        }
        let listener = bound(&self.grpc_host, self.grpc_port, "GRPC_PORT").await?;
        tracing::info!(port = self.grpc_port, "serving");
        let incoming = TcpListenerStream::new(listener);
        router.serve_with_incoming_shutdown(incoming, end).await.context("serving gRPC")
    }
}
