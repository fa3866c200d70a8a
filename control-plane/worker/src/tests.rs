//! The worker on a real store and queue, with names and a fleet that behave as a test wants.

use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use model::{
    Host, InstanceId, SecretHash,
    fleet::{FleetReport, Standing},
    instance::{Instance, OperationKind, OperationState, Request, StepName, StepState},
};
use queue::SqliteQueue;
use serde_json::json;
use store::{Keys, Put, SqliteStore, Write};

use super::*;

/// How the names fail, in turn; then they are well.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Error,
    Panic,
    Hang,
}

#[derive(Debug, Default)]
struct Names {
    trouble: Mutex<Vec<Trouble>>,
    /// Every call, also those that fail.
    calls: AtomicU32,
}

#[async_trait]
impl Dns for Names {
    async fn set(&self, _: &InstanceId, _: &[Host], _: &Target, _: &[Host]) -> Result<(), ProviderError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let trouble = self.trouble.lock().unwrap().pop();
        match trouble {
            None => Ok(()),
            Some(Trouble::Error) => Err(ProviderError::passing("setting names", "throttled")),
            Some(Trouble::Panic) => panic!("a mistake in a step"),
            Some(Trouble::Hang) => std::future::pending().await,
        }
    }

    async fn look(&self, _: &InstanceId, _: &[Host], _: &Target) -> Result<Vec<String>, ProviderError> {
        Ok(Vec::new())
    }

    async fn owned(&self) -> Result<Vec<Owned>, ProviderError> {
        Ok(Vec::new())
    }

    async fn adopt(&self, _: &InstanceId, _: &Host) -> Result<(), ProviderError> {
        Ok(())
    }
}

struct Bench {
    store: Arc<SqliteStore>,
    queue: Arc<SqliteQueue>,
    names: Arc<Names>,
    worker: Worker,
    /// Connected ones, of which one has acknowledged everything.
    nodes: u32,
    _folder: tempfile::TempDir,
}

fn bench(trouble: &[Trouble]) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gatehouse.db");
    let store = Arc::new(SqliteStore::open(&path, Keys::default()).unwrap());
    let queue = Arc::new(SqliteQueue::open(&path).unwrap());
    let names = Arc::new(Names { trouble: Mutex::new(trouble.to_vec()), ..Names::default() });
    let everything = Platforms::unbounded([("p".to_owned(), SecretHash::of("secret", [0; 32]))]);
    let worker = Worker {
        store: store.clone(),
        queue: queue.clone(),
        // Kept by the receiver: nobody changes it.
        platforms: watch::channel(Arc::new(everything)).1,
        faults: watch::channel(Arc::default()).1,
        certificates: Arc::new(certificates::LocalCa::open(&folder.path().join("ca")).unwrap()),
        dns: names.clone(),
        cdn: Arc::new(NoCdn),
        lease: Duration::from_secs(2),
        retries: Retries {
            most: 4,
            first: Duration::from_millis(1),
            longest: Duration::from_millis(4),
            step: Duration::from_millis(200),
            slow_step: Duration::from_millis(200),
            tell_after: Duration::from_millis(20),
        },
        fleet: FleetRule { deadline: Duration::from_secs(5), ..FleetRule::default() },
    };
    Bench { store, queue, names, worker, nodes: 1, _folder: folder }
}

fn id() -> InstanceId {
    "i-1".parse().unwrap()
}

impl Bench {
    /// Asks for a service, as the broker does.
    async fn ask(&self) {
        let mut request = Request::offline(json!({
            "service": "hello", "hosts": ["hello.example.test"], "auth": {}, "authz": {},
            "routes": [{"path": "/", "upstream": {"urls": ["http://127.0.0.1:9001"]}}],
        }));
        request.owner.platform = "p".into();
        let made = Instance::provision(id(), request, "op-1".into());
        let write = Write { job: Some(&made.job()), ..Write::of(&made) };
        assert!(matches!(self.store.put(write).await.unwrap(), Put::Stored(_)));
        self.queue.send(&[made.job()]).await.unwrap();
    }

    /// Writes an instance whose operation has begun, and lets a worker do its job.
    async fn carried_through(&self, known: &Instance) -> Instance {
        let write = Write { job: Some(&known.job()), ..Write::of(known) };
        assert!(matches!(self.store.put(write).await.unwrap(), Put::Stored(_)));
        self.queue.send(&[known.job()]).await.unwrap();
        let lease = self.queue.receive(Duration::from_secs(60)).await.unwrap();
        job::carry_through(self.worker.clone(), lease).await;
        self.store.get(&id()).await.unwrap().unwrap()
    }

    /// Lets a worker work until the operation has ended. The fleet has acknowledged everything from the first.
    async fn ended(&self) -> Instance {
        let live = Standing { rev: Some(1), acknowledged: 1, ..Standing::default() };
        let report = FleetReport { nodes: self.nodes, instances: [(id(), live)].into() };
        self.store.report("replica", "edge", &report).await.unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(self.worker.clone().run(async { stopped.await.unwrap_or_default() }));
        let mut changes = self.store.changes();
        let end = async {
            loop {
                changes.mark_unchanged();
                let known = self.store.get(&id()).await.unwrap().unwrap();
                if !known.operation.in_progress() {
                    return known;
                }
                changes.changed().await.unwrap();
            }
        };
        let known = tokio::time::timeout(Duration::from_secs(30), end).await.expect("it ends");
        drop(stop);
        running.await.unwrap();
        known
    }
}

#[tokio::test]
async fn what_passes_by_is_tried_again_whatever_it_is() {
    for trouble in [Trouble::Error, Trouble::Panic, Trouble::Hang] {
        let bench = bench(&[trouble; 2]);
        bench.ask().await;
        let known = bench.ended().await;
        assert_eq!(known.operation.state, OperationState::Succeeded, "{trouble:?}: {known:?}");
        assert!(bench.names.calls.load(Ordering::SeqCst) >= 3);
    }
}

#[tokio::test]
async fn what_does_not_pass_by_fails_the_operation_with_its_cause() {
    for (trouble, words) in [
        (Trouble::Error, "given up after 4 tries: setting names: throttled"),
        (Trouble::Hang, "given up after 4 tries: Dns: no end after 0.2 s"),
        (Trouble::Panic, "given up after 4 tries, the last of which ended its worker"),
    ] {
        let bench = bench(&[trouble; 30]);
        bench.ask().await;
        let known = bench.ended().await;
        assert_eq!(
            (known.operation.state, known.operation.description.as_str()),
            (OperationState::Failed, words)
        );
        assert_eq!(known.published, None);
        assert_eq!(bench.queue.dead().await.unwrap(), [], "the operation says it; nobody has to look for it");
    }
}

#[tokio::test]
async fn an_operation_fails_or_never_ends_when_that_is_asked_for() {
    let faults = |then: serde_json::Value| {
        let faults = json!({"faults": [{"on": ["provision"], "then": then}]});
        Arc::new(serde_json::from_value(faults).unwrap())
    };
    let (asked, receiver) = watch::channel(faults(json!({"never_ends": true})));
    let mut bench = bench(&[]);
    bench.worker.faults = receiver;
    bench.ask().await;
    // Longer than all tries of a step together.
    let never = tokio::time::timeout(Duration::from_millis(1_500), bench.ended()).await;
    assert!(never.is_err(), "{never:?}");
    asked.send_replace(faults(json!({"fails": "as was asked for"})));
    let known = bench.ended().await;
    let told = (known.operation.state, known.operation.description.as_str());
    assert_eq!(told, (OperationState::Failed, "as was asked for"));
}

/// Half of the nodes is what operators want to wait for, and the other half gets a moment more.
#[tokio::test]
async fn a_part_of_the_fleet_is_enough_where_operators_say_so() {
    let mut bench = bench(&[]);
    bench.worker.fleet =
        FleetRule { percent: 50, grace: Duration::from_millis(50), deadline: Duration::from_secs(20) };
    bench.nodes = 2;
    bench.ask().await;
    let known = bench.ended().await;
    assert_eq!(known.operation.state, OperationState::Succeeded, "{known:?}");
    let told = &known.operation.description;
    assert!(told.starts_with("live: acknowledged by 1/2 nodes") && told.contains("in vain"), "{told}");
}

#[tokio::test]
async fn who_waits_is_told_what_takes_so_long() {
    let bench = bench(&[Trouble::Hang]);
    bench.ask().await;
    let mut changes = bench.store.changes();
    let told = async {
        loop {
            changes.mark_unchanged();
            let known = bench.store.get(&id()).await.unwrap().unwrap();
            let dns = known.operation.steps.iter().find(|step| step.name == StepName::Dns).unwrap();
            if dns.state == StepState::Active {
                return (known.operation.description.clone(), dns.detail.clone());
            }
            changes.changed().await.unwrap();
        }
    };
    let (told, ended) = tokio::join!(told, bench.ended());
    assert_eq!(told, ("waiting for the names".to_owned(), "waiting for the names".to_owned()));
    assert_eq!(ended.operation.state, OperationState::Succeeded, "what was told costs no try: {ended:?}");
}

/// A deletion withdrew it and did not get to its end; then a key of it is taken away.
#[tokio::test]
async fn what_was_withdrawn_does_not_come_back_with_an_unbind() {
    let bench = bench(&[]);
    bench.ask().await;
    let mut known = bench.ended().await;
    let binding: model::BindingId = "b-1".parse().unwrap();
    known.bind(binding.clone(), made());
    known.settle();
    known.published = None;
    known.proven = None;
    known.unbind(&binding, "op-2".into());
    let gone = FleetReport {
        nodes: 1,
        instances: [(id(), Standing { acknowledged: 1, ..Standing::default() })].into(),
    };
    bench.store.report("replica", "edge", &gone).await.unwrap();
    let known = bench.carried_through(&known).await;
    assert_eq!((known.published, known.proven, known.bindings.len()), (None, None, 0));
    assert_eq!(known.unbound, [binding]);
}

/// ACM proves `x` and `*.x` by one record.
#[tokio::test]
async fn what_proves_anothers_name_too_is_left() {
    let bench = bench(&[]);
    bench.ask().await;
    let known = bench.ended().await;
    let name = |text: &str| Host::try_from(text.to_owned()).unwrap();
    let claim = async |id: &str, hosts: &[Host]| {
        let id = id.parse().unwrap();
        let platforms = bench.worker.platforms.borrow().clone();
        let claimant = store::Claimant::of(&platforms, &id, &known.request.owner);
        assert_eq!(bench.store.claim(hosts, &claimant).await.unwrap(), store::Claim::Held);
    };
    claim("i-1", &[name("*.a.test"), name("b.test"), name("*.b.test")]).await;
    claim("i-2", &[name("a.test")]).await;
    let mut alone = bench.worker.proven_for_nobody_else(&known).await.unwrap();
    alone.sort();
    assert_eq!(alone, [name("*.b.test"), name("b.test"), name("hello.example.test")]);
}

/// Operators may not wait for all nodes with a change; a key that is to go must be good on none.
#[tokio::test]
async fn an_unbind_waits_for_every_node() {
    let mut bench = bench(&[]);
    bench.worker.fleet =
        FleetRule { percent: 50, grace: Duration::from_millis(10), deadline: Duration::from_millis(300) };
    bench.nodes = 2;
    bench.ask().await;
    let mut known = bench.ended().await;
    let binding: model::BindingId = "b-1".parse().unwrap();
    known.bind(binding.clone(), made());
    known.settle();
    known.unbind(&binding, "op-2".into());
    let half = Standing { rev: Some(known.revision), acknowledged: 1, ..Standing::default() };
    let report = FleetReport { nodes: 2, instances: [(id(), half)].into() };
    bench.store.report("replica", "edge", &report).await.unwrap();
    let known = bench.carried_through(&known).await;
    let told = &known.bindings[&binding];
    assert_eq!(told.state, OperationState::Failed);
    assert!(told.description.starts_with("acknowledged by 1/2 nodes"), "{}", told.description);
    assert_eq!(known.own_operation().kind, OperationKind::Provision);
}

fn made() -> model::binding::Binding {
    let key = model::binding::ApiKey {
        id: "0a".into(),
        hash: SecretHash::of("secret", [7; 32]),
        subject: "billing".into(),
        scopes: Vec::new(),
    };
    let request = model::binding::BindRequest {
        service_id: String::new(),
        plan_id: String::new(),
        bind_resource: None,
        predecessor: None,
        parameters: None,
    };
    model::binding::Binding {
        request,
        key,
        secret: None,
        operation: "op-b".into(),
        kind: OperationKind::Bind,
        state: OperationState::Succeeded,
        description: String::new(),
    }
}

/// Its worker could not even write that it is given up, again and again.
#[tokio::test]
async fn a_job_that_ends_every_worker_is_buried_and_can_be_revived() {
    let bench = bench(&[]);
    bench.ask().await;
    for _ in 0..7 {
        let lease = bench.queue.receive(Duration::from_secs(60)).await.unwrap();
        bench.queue.retry_after(&lease, Duration::ZERO).await.unwrap();
    }
    let lease = bench.queue.receive(Duration::from_secs(60)).await.unwrap();
    job::carry_through(bench.worker.clone(), lease).await;
    let letters = bench.queue.dead().await.unwrap();
    assert_eq!(letters[0].cause, "handed out 8 times, and its workers died or could not write");
    assert!(bench.store.get(&id()).await.unwrap().unwrap().operation.in_progress());
    assert!(bench.queue.revive("op-1").await.unwrap());
    assert_eq!(bench.ended().await.operation.state, OperationState::Succeeded);
}

#[tokio::test]
async fn the_end_of_an_operation_is_in_the_log() {
    let bench = bench(&[]);
    bench.ask().await;
    let known = bench.ended().await;
    assert_eq!(known.operation.kind, OperationKind::Provision);
    let entries = bench.store.audit(&model::audit::Query::default()).await.unwrap();
    let expected = model::audit::Entry::ended(&known).event;
    assert_eq!(entries.into_iter().map(|entry| entry.event).collect::<Vec<_>>(), [expected]);
}

fn reconciler(bench: &Bench) -> Reconciler {
    let (mending, every) = (Mending::Report, Duration::from_secs(3_600));
    Reconciler { worker: bench.worker.clone(), holder: "r-1".into(), mending, every }
}

/// Nobody has to ask for it, and nothing has to be allowed.
#[tokio::test]
async fn a_certificate_is_renewed_before_it_ends() {
    let bench = bench(&[]);
    bench.ask().await;
    let mut known = bench.ended().await;
    let soon = time::OffsetDateTime::now_utc() + time::Duration::days(29);
    known.certificate.as_mut().unwrap().not_after = soon;
    known.certificate.as_mut().unwrap().name = Some("the former".into());
    let Put::Stored(known) = bench.store.put(Write::of(&known)).await.unwrap() else { panic!("it is there") };
    let drift = reconciler(&bench).look(Mending::Report).await.unwrap().unwrap();
    let told: Vec<_> = drift.findings.iter().map(|one| (one.kind, &one.state)).collect();
    assert_eq!(told, [(model::drift::Kind::Certificate, &model::drift::State::Mended)]);
    let renewed = bench.store.get(&id()).await.unwrap().unwrap();
    assert!(renewed.certificate.as_ref().unwrap().not_after > soon);
    assert_eq!(
        (renewed.replaced.as_slice(), renewed.revision),
        (&["the former".to_owned()][..], known.revision)
    );
    let drift = reconciler(&bench).look(Mending::Report).await.unwrap().unwrap();
    assert_eq!(drift.findings, []);
    let settled = bench.store.get(&id()).await.unwrap().unwrap();
    assert_eq!(settled.replaced, Vec::<String>::new(), "discarded, when the new one is everywhere");
    assert_eq!(bench.store.drift().await.unwrap(), Some(drift));
}

/// Queues keep a job for days: one whose workers were away for longer is lost, and its operation is not.
#[tokio::test]
async fn a_job_that_the_queue_lost_comes_again() {
    let bench = bench(&[]);
    bench.ask().await;
    let lease = bench.queue.receive(Duration::from_secs(60)).await.unwrap();
    assert!(bench.queue.done(&lease).await.unwrap());
    reconciler(&bench).look(Mending::Report).await.unwrap().unwrap();
    assert_eq!(bench.ended().await.operation.state, OperationState::Succeeded);
}

#[tokio::test]
async fn one_process_looks_around_at_a_time() {
    let bench = bench(&[]);
    let hour = Duration::from_secs(3_600);
    assert!(bench.store.take_turn("reconcile", "another", hour).await.unwrap());
    assert_eq!(reconciler(&bench).look(Mending::Report).await.unwrap(), None);
    assert!(bench.store.take_turn("reconcile", "another", Duration::ZERO).await.unwrap());
    assert!(reconciler(&bench).look(Mending::Report).await.unwrap().is_some());
    assert!(reconciler(&bench).look(Mending::Report).await.unwrap().is_some(), "its turn was given up");
}
