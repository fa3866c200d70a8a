//! Binds what the process serves, runs its parts, and drains them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ads::{Discovery, Hub, Limits, Metrics};
use anyhow::Context as _;
use axum::Router;
use broker::{Broker, Issuers};
use context::Sources;
use model::{faults::Faults, platforms::Platforms};
use prometheus_client::registry::Registry;
use queue::Queue;
use resources::History;
use runtime::{Admin, Readiness, Shutdown};
use store::Store;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use worker::{Reconciler, Retries, Worker};

use crate::{
    config::{self, Config},
    engines::{self, Engines, Providers},
    folder,
    followed::{self, Followed},
    identity,
    issuers::FollowedKeys,
    listener,
    operators::Operators,
    publisher::{self, Publisher, SharedFaults},
    reporter,
    variant::Settings,
    xds,
};

/// Bound, and not yet serving.
pub(crate) struct App {
    config: Config,
    http: TcpListener,
    xds: Option<TcpListener>,
    engines: Engines,
}

/// What still runs then is cut off.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

impl App {
    pub(crate) async fn bind(mut config: Config) -> anyhow::Result<Self> {
        let http = TcpListener::bind(config.http)
            .await
            .with_context(|| format!("--http: listening on {}", config.http))?;
        let xds = if config.roles.ads {
            Some(
                listener::listen(config.xds)
                    .with_context(|| format!("--xds: listening on {}", config.xds))?,
            )
        } else {
            None
        };
        let engines = Engines::open(&mut config).await?;
        Ok(Self { config, http, xds, engines })
    }

    pub(crate) async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let Self { config, http, xds, engines: Engines { store, queue } } = self;
        let (mut registry, readiness) = (Registry::default(), Readiness::new());
        let mut tasks = JoinSet::new();
        let group = config.edge.group.clone();
        let (metrics, publishing) = new_metrics(&mut registry);
        let replica = format!("{}/{}", hostname(), config.http);
        let hub = Arc::new(Hub::new(vec![config.edge.group()], &replica, Limits::default(), metrics));
        let faults = SharedFaults::new();
        let said = Said::follow(&config, &mut tasks)?;
        let followed = FollowedKeys::start(&config, &mut registry, &mut tasks).await?;
        let issuers = followed.issuers(&mut tasks);
        let router = public_router(&config, &store, &said, &issuers);
        let reconciler = if config.roles.worker {
            tasks.spawn(worker::relay(store.clone(), queue.clone()));
            let worker = new_worker(&config, &store, &queue, &said).await?;
            let reconciler = new_reconciler(&config, &worker, &replica);
            if config.reconcile_every.is_some() {
                tasks.spawn(reconciler.clone().run());
            }
            tasks.spawn(worker.run(shutdown.wait()));
            Some(reconciler)
        } else {
            None
        };
        let (mut sources, mut seen) = (None, None);
        let mut nodes = tokio::spawn(shutdown.wait());
        let history = Arc::new(Mutex::new(History::default()));
        // Dropped when the streams are to end.
        let (stop_streams, stopping) = watch::channel(false);
        if let Some(listener) = xds {
            let first_snapshot = readiness.latch("first snapshot");
            let kept = config.data_dir.join("context");
            let (found, follow_sources) = Sources::start(config.sources.clone(), &kept, &mut registry)
                .await
                .with_context(|| kept.display().to_string())?;
            tasks.spawn(follow_sources);
            let own = identity::keys(config.identity.as_ref(), &mut tasks);
            let values = followed.values(found.values(), own, &mut tasks);
            let (contexts, follow) =
                context::follow(store.clone(), group.clone(), values).await.context("reading the store")?;
            (sources, seen) = (Some(found), Some(contexts.clone()));
            tasks.spawn(follow);
            let templates = folder::watch(config.templates.path.as_deref())?;
            let settings = new_settings(&config, &*store, &mut registry).await?;
            let publisher = Publisher::new(
                settings,
                config.templates.clone(),
                hub.clone(),
                faults.clone(),
                publishing,
                history.clone(),
                first_snapshot,
            );
            tasks.spawn(publisher.run(contexts.clone(), templates));
            let reporter = reporter::report(
                replica.clone(),
                group.clone(),
                hub.clone(),
                faults.clone(),
                contexts,
                store.clone(),
            );
            tasks.spawn(reporter);
            let tls = config.xds_tls.clone().map(runtime::tls::follow).transpose().context("--xds")?;
            let discovery = Discovery::new(hub.clone(), stopping);
            nodes = tokio::spawn(xds::serve(listener, tls, discovery, shutdown.clone()));
        }
        let operators = Operators {
            store,
            queue,
            hub,
            faults,
            sources,
            contexts: seen,
            history,
            platforms: said.platforms,
            issuers,
            keys: followed.0,
            people: Arc::new(config.operators),
            group,
            reconciler,
        };
        let router = router.merge(operators.router()).merge(Admin::new(registry, readiness).router());
        tracing::info!(http = %http.local_addr()?, xds = %config.xds, "serving");
        let serve = axum::serve(http, router).with_graceful_shutdown(shutdown.wait());
        let end = tokio::spawn(async move { serve.await });
        let failure = tokio::select! {
            biased;
            () = shutdown.wait() => None,
            // They run for ever; one that ends, by a panic or an error, leaves a process that only looks alive.
            Some(ended) = tasks.join_next() => Some(ended),
            ended = &mut nodes => Some(ended),
        };
        stop_streams.send_replace(true);
        drain(end, nodes).await;
        tasks.shutdown().await;
        match failure {
            None => Ok(()),
            Some(ended) => Err(anyhow::anyhow!("a part of the control plane ended by itself: {ended:?}")),
        }
    }
}

/// Waits for the requests and streams that are under way, for a while.
async fn drain<T>(requests: JoinHandle<T>, nodes: JoinHandle<()>) {
    let cut_off = nodes.abort_handle();
    let drained = async {
        let _panicked = requests.await;
        if !nodes.is_finished() {
            let _panicked = nodes.await;
        }
    };
    if tokio::time::timeout(DRAIN_DEADLINE, drained).await.is_err() {
        tracing::warn!("some requests were cut off");
        cut_off.abort();
    }
}

/// What operators say in files, and may change while everything runs.
struct Said {
    platforms: watch::Receiver<Arc<Platforms>>,
    faults: watch::Receiver<Arc<Faults>>,
}

impl Said {
    fn follow(config: &Config, tasks: &mut JoinSet<()>) -> anyhow::Result<Self> {
        let platforms = Followed::new(config.platforms.clone(), config.platforms_file.as_deref());
        let platforms = platforms.context("--platforms")?;
        let path = config.faults_file.as_deref();
        let faults = path.map(followed::read).transpose().context("--faults")?.unwrap_or_default();
        let faults = Followed::new(faults, path).context("--faults")?;
        let said = Self { platforms: platforms.value.clone(), faults: faults.value.clone() };
        tasks.spawn(platforms.follow());
        tasks.spawn(faults.follow());
        Ok(said)
    }
}

/// What is not for operators: the broker, where this process is one, and the keys of identity tokens.
fn public_router(
    config: &Config,
    store: &Arc<dyn Store>,
    said: &Said,
    issuers: &watch::Receiver<Arc<Issuers>>,
) -> Router {
    let public = identity::router(config.identity.as_ref());
    if !config.roles.broker {
        return public;
    }
    let broker = Broker {
        store: store.clone(),
        platforms: said.platforms.clone(),
        faults: said.faults.clone(),
        upstreams: config.upstreams,
        plans: engines::plans(config).into(),
        issuers: issuers.clone(),
        edge: Arc::new(config.edge.facts()),
    };
    broker.router().merge(public)
}

fn new_metrics(registry: &mut Registry) -> (Metrics, publisher::Metrics) {
    let (metrics, publishing) = (Metrics::default(), publisher::Metrics::default());
    metrics.register(registry);
    publishing.register(registry);
    (metrics, publishing)
}

async fn new_settings(
    config: &Config,
    store: &dyn Store,
    registry: &mut Registry,
) -> anyhow::Result<Settings> {
    let before = store.remembered(&config.edge.group).await.context("reading the store")?;
    let validator = config::validator(&config.validate_with, &config.edge, &config.data_dir, registry)?;
    Settings::new(&config.edge, before, validator)
}

fn new_reconciler(config: &Config, worker: &Worker, replica: &str) -> Reconciler {
    Reconciler {
        worker: worker.clone(),
        holder: replica.to_owned(),
        mending: config.mending,
        every: config.reconcile_every.unwrap_or_default(),
    }
}

async fn new_worker(
    config: &Config,
    store: &Arc<dyn Store>,
    queue: &Arc<dyn Queue>,
    said: &Said,
) -> anyhow::Result<Worker> {
    let Providers { certificates, dns, cdn } = Providers::new(config).await?;
    Ok(Worker {
        store: store.clone(),
        queue: queue.clone(),
        platforms: said.platforms.clone(),
        faults: said.faults.clone(),
        certificates,
        dns,
        cdn,
        lease: config.job_lease,
        retries: Retries::default(),
        fleet: config.fleet,
    })
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".into() } else { name.trim().to_owned() }
}
