//! Requests, crashes of workers and redeliveries in any order, on the embedded store and queue: whatever happens in between,
//! the end is what was promised.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode},
};
use broker::{Broker, Issuers, SERVICE_ID, STANDARD_PLAN_ID};
use model::{
    InstanceId, SecretHash, UpstreamRule,
    audit::{self, Event},
    fleet::{FleetReport, Standing},
    instance::{Instance, OperationState},
    plan::Plan,
    platforms::Platforms,
};
use proptest::prelude::*;
use queue::{Queue as _, SqliteQueue};
use serde_json::{Value, json};
use store::{Keys, SqliteStore, Store};
use tokio::sync::watch;
use tower::ServiceExt as _;
use worker::{FleetRule, NoCdn, Retries, Worker, certificates::LocalCa, dns::LocalZone};

/// What a platform asks for.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Provision(usize, usize),
    Update(usize, usize),
    Deprovision(usize),
    Bind(usize, usize),
    Unbind(usize, usize),
}

/// What happens.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Asked(Ask),
    /// A worker works, and dies after so many writes to the store, in the midst of which something is asked for.
    Crash {
        writes: u8,
        meanwhile: Option<Ask>,
    },
    /// The queue hands out the newest job of an instance once more.
    Redelivered(usize),
}

impl Ask {
    fn instance(self) -> usize {
        match self {
            Self::Provision(one, _)
            | Self::Update(one, _)
            | Self::Deprovision(one)
            | Self::Bind(one, _)
            | Self::Unbind(one, _) => one,
        }
    }
}

const INSTANCES: usize = 3;
/// Short, so that what a dead worker held comes again soon.
const LEASE: Duration = Duration::from_millis(40);

fn asked() -> impl Strategy<Value = Ask> {
    prop_oneof![
        3 => (0..INSTANCES, 0..3_usize).prop_map(|(id, variant)| Ask::Provision(id, variant)),
        2 => (0..INSTANCES, 0..3_usize).prop_map(|(id, variant)| Ask::Update(id, variant)),
        2 => (0..INSTANCES).prop_map(Ask::Deprovision),
        2 => (0..INSTANCES, 0..2_usize).prop_map(|(id, binding)| Ask::Bind(id, binding)),
        1 => (0..INSTANCES, 0..2_usize).prop_map(|(id, binding)| Ask::Unbind(id, binding)),
    ]
}

fn happened() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => asked().prop_map(Happening::Asked),
        4 => (0..8_u8, prop::option::of(asked())).prop_map(|(writes, meanwhile)| Happening::Crash { writes, meanwhile }),
        1 => (0..INSTANCES).prop_map(Happening::Redelivered),
    ]
}

struct Bench {
    router: Router,
    store: Arc<SqliteStore>,
    queue: Arc<SqliteQueue>,
    names: Arc<LocalZone>,
    worker: Worker,
    /// What was accepted, in the order in which it was: operation, instance, and what it is to end in.
    accepted: Vec<(String, InstanceId, Ask)>,
    folder: tempfile::TempDir,
}

fn id(instance: usize) -> InstanceId {
    format!("i-{instance}").parse().unwrap()
}

fn binding_id(binding: usize) -> String {
    format!("b-{binding}")
}

/// Some share hosts with those of other instances.
fn hosts(instance: usize, variant: usize) -> Vec<String> {
    let own = format!("own-{instance}.example.test");
    match variant {
        0 => vec![own],
        1 => vec![own, "shared.example.test".into()],
        _ => vec![format!("own-{}.example.test", (instance + 1) % INSTANCES), "shared.example.test".into()],
    }
}

fn parameters(instance: usize, variant: usize) -> Value {
    json!({
        "service": format!("s-{instance}"), "hosts": hosts(instance, variant),
        "routes": [{"path": "/", "upstream": {"urls": ["http://127.0.0.1:9001"]}}],
        "auth": {"any": [{"api_key": {}}]}, "authz": {"default": "allow"},
    })
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gatehouse.db");
        let store = Arc::new(SqliteStore::open(&path, Keys::default()).unwrap());
        let queue = Arc::new(SqliteQueue::open(&path).unwrap());
        let names = Arc::new(LocalZone::new(&folder.path().join("zone"), [127, 0, 0, 1].into()));
        let platforms = Platforms::unbounded([("p".to_owned(), SecretHash::of("secret", [0; 32]))]);
        // Kept by the receivers: nobody changes them.
        let (platforms, faults) = (watch::channel(Arc::new(platforms)).1, watch::channel(Arc::default()).1);
        let broker = Broker {
            store: store.clone(),
            platforms: platforms.clone(),
            faults: faults.clone(),
            upstreams: UpstreamRule::LoopbackAllowed,
            plans: [Plan::Standard].into(),
            issuers: watch::channel(Arc::new(Issuers::default())).1,
            edge: Arc::default(),
        };
        let worker = Worker {
            store: store.clone(),
            queue: queue.clone(),
            platforms,
            faults,
            certificates: Arc::new(LocalCa::open(&folder.path().join("ca")).unwrap()),
            dns: names.clone(),
            cdn: Arc::new(NoCdn),
            lease: LEASE,
            // A worker's death is a try.
            retries: Retries {
                most: 1_000,
                first: Duration::from_millis(1),
                longest: Duration::from_millis(4),
                step: Duration::from_secs(10),
                slow_step: Duration::from_secs(10),
                tell_after: Duration::from_millis(2),
            },
            fleet: FleetRule::default(),
        };
        Self { router: broker.router(), store, queue, names, worker, accepted: Vec::new(), folder }
    }

    async fn ask(&mut self, ask: Ask) {
        let (status, answer) = self.send(ask).await;
        assert!(status.as_u16() < 500, "{ask:?}: {status}");
        if status == StatusCode::ACCEPTED {
            let operation = answer["operation"].as_str().unwrap().to_owned();
            if !self.accepted.iter().any(|(known, ..)| *known == operation) {
                self.accepted.push((operation, id(ask.instance()), ask));
            }
        }
    }

    async fn send(&self, ask: Ask) -> (StatusCode, Value) {
        let ids = format!("service_id={SERVICE_ID}&plan_id={STANDARD_PLAN_ID}");
        let order = |parameters: Value| {
            json!({
                "service_id": SERVICE_ID, "plan_id": STANDARD_PLAN_ID, "organization_guid": "o",
                "space_guid": "s", "parameters": parameters,
            })
        };
        let of = |binding| format!("/service_bindings/{}", binding_id(binding));
        let (method, rest, body) = match ask {
            Ask::Provision(one, variant) => (Method::PUT, String::new(), order(parameters(one, variant))),
            Ask::Update(one, variant) => (Method::PATCH, String::new(), order(parameters(one, variant))),
            Ask::Deprovision(_) => (Method::DELETE, String::new(), Value::Null),
            Ask::Bind(_, binding) => (Method::PUT, of(binding), order(json!({}))),
            Ask::Unbind(_, binding) => (Method::DELETE, of(binding), Value::Null),
        };
        let id = id(ask.instance());
        let request = Request::builder()
            .method(method)
            .uri(format!("/v2/service_instances/{id}{rest}?accepts_incomplete=true&{ids}"))
            .header("authorization", "Basic cDpzZWNyZXQ=")
            .header("x-broker-api-version", "2.17")
            .body(if body.is_null() { Body::empty() } else { Body::from(body.to_string()) })
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    /// Works for so many writes, or until there is nothing to do; then the worker dies.
    async fn crash(&mut self, writes: u8, meanwhile: Option<Ask>) {
        let mut changes = self.store.changes();
        let dying = tokio::spawn(self.worker.clone().run(std::future::pending()));
        if let Some(ask) = meanwhile {
            self.ask(ask).await;
        }
        for _ in 0..writes {
            let _nothing_to_do = tokio::time::timeout(LEASE, changes.changed()).await;
        }
        dying.abort();
        let _aborted = dying.await;
    }

    async fn redeliver(&self, instance: usize) {
        if let Some(known) = self.store.get(&id(instance)).await.unwrap() {
            self.queue.send(&[known.job()]).await.unwrap();
        }
    }

    /// Lets a worker do all that is left to do.
    async fn drain(&self) {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(self.worker.clone().run(async { stopped.await.unwrap_or_default() }));
        let all_done = async {
            let mut changes = self.store.changes();
            loop {
                let (known, _) = self.store.changed_since(0).await.unwrap();
                let depth = self.queue.depth().await.unwrap();
                let is_busy = known.iter().any(|instance| instance.operation.in_progress());
                let outbox = self.store.outbox().await.unwrap();
                if !is_busy && outbox.is_empty() && depth.visible + depth.hidden == 0 {
                    return;
                }
                let _or_the_queue_alone = tokio::time::timeout(LEASE, changes.changed()).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all_done).await.expect("everything ends");
        drop(stop);
        running.await.unwrap();
    }

    /// The instances that are there, each with its variant and its bindings, by what was accepted and how it ended.
    async fn promised(&self) -> BTreeMap<InstanceId, (usize, BTreeSet<usize>)> {
        let log = self.store.audit(&audit::Query::default()).await.unwrap();
        let mut there = BTreeMap::<InstanceId, (usize, BTreeSet<usize>)>::new();
        for (operation, id, ask) in &self.accepted {
            let of_it = log.iter().filter(|entry| entry.operation == *operation);
            let begun = of_it.clone().filter(|entry| matches!(entry.event, Event::Asked { .. })).count();
            let ends: Vec<_> = of_it
                .filter_map(|entry| match &entry.event {
                    Event::Ended { state, .. } => Some(*state),
                    _ => None,
                })
                .collect();
            assert_eq!((begun, ends.len()), (1, 1), "{ask:?} of {id}: begun and ended once, {ends:?}");
            if ends[0] != OperationState::Succeeded {
                continue;
            }
            match ask {
                Ask::Provision(_, variant) => drop(there.insert(id.clone(), (*variant, BTreeSet::new()))),
                // Also of one whose provision failed: so a corrected file goes live.
                Ask::Update(_, variant) => there.entry(id.clone()).or_default().0 = *variant,
                Ask::Deprovision(_) => drop(there.remove(id)),
                Ask::Bind(_, binding) => drop(there.get_mut(id).expect("it is there").1.insert(*binding)),
                Ask::Unbind(_, binding) => drop(there.get_mut(id).expect("it is there").1.remove(binding)),
            }
        }
        there
    }

    async fn check(&self) {
        let promised = self.promised().await;
        let (known, _) = self.store.changed_since(0).await.unwrap();
        let live = |instance: &&Instance| instance.published.is_some();
        let found: BTreeMap<_, _> = known.iter().filter(live).map(|one| (one.id.clone(), one)).collect();
        assert_eq!(found.keys().collect::<Vec<_>>(), promised.keys().collect::<Vec<_>>());
        let mut names = BTreeMap::new();
        for (id, (variant, bindings)) in &promised {
            let (instance, number) = (found[id], id.as_str()[2..].parse().unwrap());
            assert_eq!(instance.published, instance.proven, "{id}");
            assert_eq!(instance.request.parameters, parameters(number, *variant), "{id}");
            let made = instance.bindings.iter().filter(|(_, binding)| binding.is_made());
            let made: Vec<_> = made.map(|(id, binding)| (id.to_string(), binding.key.clone())).collect();
            assert_eq!(
                made.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(),
                bindings.iter().copied().map(binding_id).collect::<Vec<_>>(),
                "{id}"
            );
            let keys: Vec<_> = made.into_iter().map(|(_, key)| key).collect();
            assert_eq!(instance.published.as_ref().unwrap().keys, keys, "{id}");
            names.extend(hosts(number, *variant).into_iter().map(|host| (host, id.clone())));
        }
        let claims = self.store.claims().await.unwrap();
        let held = claims.into_iter().filter(|claim| !claim.is_free);
        let held: BTreeMap<_, _> = held.map(|claim| (claim.host.to_string(), claim.instance)).collect();
        assert_eq!(held, names, "hosts");
        let resolved: BTreeMap<_, _> = worker::Dns::owned(&*self.names)
            .await
            .unwrap()
            .into_iter()
            .map(|(id, name)| (name, id))
            .collect();
        assert_eq!(resolved, names, "names");
        assert_eq!(self.queue.dead().await.unwrap(), []);
    }
}

/// A fleet that has acknowledged whatever is published.
async fn acknowledge(store: Arc<SqliteStore>) {
    let mut changes = store.changes();
    let mut told = FleetReport::default();
    loop {
        let (known, _) = store.changed_since(0).await.unwrap();
        let standing = |instance: &Instance| {
            let rev = instance.published.as_ref().map(|published| published.rev);
            (instance.id.clone(), Standing { rev, acknowledged: 1, ..Standing::default() })
        };
        let report = FleetReport { nodes: 1, instances: known.iter().map(standing).collect() };
        if report != told {
            store.report("replica", "edge", &report).await.unwrap();
            told = report;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn play(story: Vec<Happening>) {
    let mut bench = Bench::new();
    let fleet = tokio::spawn(acknowledge(bench.store.clone()));
    let relay = tokio::spawn(worker::relay(bench.store.clone(), bench.queue.clone()));
    for happening in story {
        match happening {
            Happening::Asked(ask) => bench.ask(ask).await,
            Happening::Crash { writes, meanwhile } => bench.crash(writes, meanwhile).await,
            Happening::Redelivered(instance) => bench.redeliver(instance).await,
        }
    }
    bench.drain().await;
    fleet.abort();
    relay.abort();
    bench.check().await;
}

/// Another process has the database for longer than writers wait: the broker says that it cannot, workers try again.
#[tokio::test]
async fn a_store_that_fails_between_two_steps_costs_time_and_nothing_else() {
    let mut bench = Bench::new();
    let fleet = tokio::spawn(acknowledge(bench.store.clone()));
    let relay = tokio::spawn(worker::relay(bench.store.clone(), bench.queue.clone()));
    bench.ask(Ask::Provision(0, 1)).await;
    // The first steps.
    bench.crash(3, None).await;
    let path = bench.folder.path().join("gatehouse.db");
    let other = sqlite::rusqlite::Connection::open(path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let refused = bench.send(Ask::Provision(1, 0));
    let running = bench.worker.clone().run(std::future::pending());
    tokio::select! {
        (status, _) = refused => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
        () = running => unreachable!(),
    }
    other.execute_batch("COMMIT").unwrap();
    bench.ask(Ask::Update(0, 2)).await;
    bench.drain().await;
    fleet.abort();
    relay.abort();
    bench.check().await;
}

proptest! {
    // A story takes a second or two, most of it for dead workers' leases.
    #![proptest_config(ProptestConfig { cases: 20, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_in_between_the_end_is_what_was_promised(
        story in prop::collection::vec(happened(), 1..24)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(story));
    }
}
