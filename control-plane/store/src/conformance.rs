//! What every store must do, whatever is behind it.

mod revocations;

use model::{
    SecretHash,
    binding::{ApiKey, BindRequest, Binding},
    instance::{OperationKind, OperationState, Request},
};
use serde_json::json;

use super::*;

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn host(name: &str) -> Host {
    Host::try_from(name.to_owned()).unwrap()
}

fn request() -> Request {
    Request::offline(json!({}))
}

fn instance(name: &str) -> Instance {
    Instance::provision(id(name), request(), format!("op-{name}"))
}

async fn put(store: &dyn Store, instance: &Instance, job: Option<&Job>) -> Put {
    store.put(Write { job, ..Write::of(instance) }).await.unwrap()
}

async fn stored(store: &dyn Store, instance: &Instance) -> Instance {
    match put(store, instance, Some(&instance.job())).await {
        Put::Stored(stored) => *stored,
        refused => panic!("{refused:?}"),
    }
}

fn owner(tenant: &str) -> Owner {
    Owner { platform: "p".into(), tenant: tenant.into() }
}

/// A claim of a tenant that may have three hosts, and keeps freed ones for an hour.
async fn claim(store: &dyn Store, name: &str, instance: &str, tenant: &str) -> Claim {
    let (instance, owner, hour) = (id(instance), owner(tenant), Duration::from_secs(3_600));
    let claimant = Claimant { instance: &instance, owner: &owner, most: Some(3), cool_down: hour };
    let hosts = [host(name)];
    let expected = store.may_claim(&hosts, &claimant).await.unwrap();
    let end = store.claim(&hosts, &claimant).await.unwrap();
    assert_eq!(end, expected, "what was foretold");
    end
}

fn taken_by(instance: &str) -> Claim {
    Claim::Refused { at: 0, why: Refusal::Taken(id(instance)) }
}

const OVER_QUOTA: Claim = Claim::Refused { at: 0, why: Refusal::OverQuota };

async fn an_instance_is_written_only_upon_the_version_that_was_read(store: &dyn Store) {
    let first = stored(store, &instance("a")).await;
    assert_eq!(first.version, 1);
    assert_eq!(put(store, &instance("a"), None).await, Put::Conflict);
    let mut change = first.clone();
    change.begin(OperationKind::Update, Some(request()), "op-2".into());
    let second = stored(store, &change).await;
    assert_eq!((second.version, second.revision), (2, 2));
    assert_eq!(put(store, &change, None).await, Put::Conflict);
    assert_eq!(store.get(&id("a")).await.unwrap(), Some(second));
    assert_eq!(store.get(&id("never")).await.unwrap(), None);
}

async fn only_what_changed_is_read_again(store: &dyn Store) {
    let b = stored(store, &instance("b")).await;
    let (_, position) = store.changed_since(0).await.unwrap();
    assert_eq!(store.changed_since(position).await.unwrap().0, []);
    for _ in 0..2 {
        assert_eq!(store.changed_since(0).await.unwrap().1, position, "all over again");
    }
    stored(store, &instance("c")).await;
    let b = stored(store, &b).await;
    let (changed, next) = store.changed_since(position).await.unwrap();
    assert_eq!(changed.iter().map(|instance| instance.id.as_str()).collect::<Vec<_>>(), ["c", "b"]);
    assert_eq!(changed[1], b);
    assert!(next > position);
}

async fn a_refused_write_leaves_no_job(store: &dyn Store) {
    let d = stored(store, &instance("d")).await;
    let mut again = instance("d");
    again.operation.id = "op-lost".into();
    assert_eq!(put(store, &again, Some(&again.job())).await, Put::Conflict);
    let jobs = store.outbox().await.unwrap();
    assert!(jobs.contains(&d.job()) && jobs.iter().all(|job| job.id != "op-lost"), "{jobs:?}");
    store.dispatched(&[d.job()]).await.unwrap();
    assert!(!store.outbox().await.unwrap().contains(&d.job()));
}

async fn a_host_belongs_to_one_instance(store: &dyn Store) {
    let name = "one.example.test";
    assert_eq!(claim(store, name, "e", "t").await, Claim::Held);
    assert_eq!(claim(store, name, "e", "t").await, Claim::Held);
    assert_eq!(claim(store, name, "f", "t").await, taken_by("e"));
    claim(store, "two.example.test", "e", "t").await;
    let mut held = store.held(&id("e")).await.unwrap();
    held.sort();
    assert_eq!(held, [host(name), host("two.example.test")]);
    store.release(&id("e"), &[host("two.example.test")]).await.unwrap();
    assert_eq!(store.held(&id("e")).await.unwrap(), [host("two.example.test")]);
    assert_eq!(claim(store, name, "f", "t").await, Claim::Held, "the owner's, at once");
    assert_eq!(claim(store, "two.example.test", "f", "t").await, taken_by("e"));
}

async fn a_freed_host_is_kept_for_who_had_it(store: &dyn Store) {
    let name = "kept.example.test";
    assert_eq!(claim(store, name, "k", "t-1").await, Claim::Held);
    store.release(&id("k"), &[]).await.unwrap();
    assert!(
        matches!(claim(store, name, "l", "t-2").await, Claim::Refused { at: 0, why: Refusal::Cooling(until) } if until > OffsetDateTime::now_utc())
    );
    let (instance, owner) = (id("l"), owner("t-2"));
    let at_once = Claimant { instance: &instance, owner: &owner, most: None, cool_down: Duration::ZERO };
    assert_eq!(store.claim(&[host(name)], &at_once).await.unwrap(), Claim::Held, "the time is over");
    assert_eq!(claim(store, name, "k", "t-1").await, taken_by("l"));
}

async fn an_owner_has_as_many_hosts_as_it_may(store: &dyn Store) {
    for name in ["a.q.test", "b.q.test", "c.q.test"] {
        assert_eq!(claim(store, name, "q", "t-q").await, Claim::Held);
    }
    assert_eq!(claim(store, "d.q.test", "r", "t-q").await, OVER_QUOTA);
    assert_eq!(claim(store, "a.q.test", "q", "t-q").await, Claim::Held, "it has that one");
    assert_eq!(claim(store, "d.q.test", "s", "another").await, Claim::Held);
    store.release(&id("q"), &[host("a.q.test")]).await.unwrap();
    assert_eq!(claim(store, "b.q.test", "r", "t-q").await, Claim::Held);
}

async fn of_several_hosts_all_are_claimed_or_none(store: &dyn Store) {
    let (instance, owner) = (id("all"), owner("t-all"));
    let claimant = Claimant { instance: &instance, owner: &owner, most: Some(2), cool_down: Duration::ZERO };
    let three = ["a.all.test", "b.all.test", "c.all.test"].map(host);
    let refused = Claim::Refused { at: 2, why: Refusal::OverQuota };
    assert_eq!(store.may_claim(&three, &claimant).await.unwrap(), refused);
    assert_eq!(store.claim(&three, &claimant).await.unwrap(), refused);
    assert_eq!(claim(store, "a.all.test", "other", "t-other").await, Claim::Held, "nothing was claimed");
    assert_eq!(store.claim(&three[1..], &claimant).await.unwrap(), Claim::Held);
    let two = [three[1].clone(), three[0].clone()];
    let refused = Claim::Refused { at: 1, why: Refusal::Taken(id("other")) };
    assert_eq!(store.claim(&two, &claimant).await.unwrap(), refused);
}

async fn an_owner_has_as_many_instances_as_it_may(store: &dyn Store) {
    let of_owner = |name: &str| {
        let mut made = instance(name);
        made.request.owner = owner("t-i");
        made
    };
    let write = async |made: &Instance| store.put(Write { most: Some(1), ..Write::of(made) }).await.unwrap();
    let Put::Stored(mut first) = write(&of_owner("m")).await else { panic!("the first") };
    assert_eq!(write(&of_owner("n")).await, Put::OverQuota);
    assert_eq!(store.get(&id("n")).await.unwrap(), None);
    let Put::Stored(changed) = write(&first).await else { panic!("a change of what is there") };
    *first = Instance { gone: true, ..*changed };
    let Put::Stored(gone) = write(&first).await else { panic!("it goes") };
    let Put::Stored(_) = write(&of_owner("n")).await else { panic!("there is room") };
    let back = Instance { gone: false, ..*gone };
    assert_eq!(write(&back).await, Put::OverQuota, "it comes back");
}

async fn the_log_has_what_was_written_and_nothing_else(store: &dyn Store) {
    let mut made = instance("log");
    made.request.owner = owner("t-log");
    let entry = Entry::ended(&made);
    let write = Write { entry: Some(&entry), ..Write::of(&made) };
    assert!(matches!(store.put(write).await.unwrap(), Put::Stored(_)));
    assert_eq!(store.put(write).await.unwrap(), Put::Conflict);
    let of = |instance: &str| Query { instance: Some(id(instance)), ..Query::default() };
    let found = store.audit(&of("log")).await.unwrap();
    assert_eq!(found, [Entry { position: found[0].position, ..entry }]);
    let older = Query { before: Some(found[0].position), ..of("log") };
    assert_eq!(store.audit(&older).await.unwrap(), []);
    let others = Query { platform: Some("another".into()), ..of("log") };
    assert_eq!(store.audit(&others).await.unwrap(), []);
}

async fn the_newest_report_of_each_replica_counts(store: &dyn Store) {
    let report = |nodes| FleetReport { nodes, ..FleetReport::default() };
    store.report("r1", "edge", &report(1)).await.unwrap();
    store.report("r2", "edge", &report(5)).await.unwrap();
    store.report("r1", "edge", &report(2)).await.unwrap();
    store.report("r1", "other", &report(9)).await.unwrap();
    let mut nodes: Vec<_> = store.reports("edge").await.unwrap().iter().map(|report| report.nodes).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, [2, 5]);
}

async fn a_write_wakes_whoever_watches(store: &dyn Store) {
    let mut changes = store.changes();
    changes.mark_unchanged();
    stored(store, &instance("g")).await;
    tokio::time::timeout(std::time::Duration::from_secs(5), changes.changed()).await.unwrap().unwrap();
}

async fn what_operators_decide_is_not_overwritten_unread(store: &dyn Store) {
    let none = Controls::default();
    assert_eq!(store.controls("edge").await.unwrap(), none);
    let confirmed = Controls { confirmed: Some("abc".into()), ..none.clone() };
    assert!(store.decide("edge", &none, &confirmed).await.unwrap());
    assert!(!store.decide("edge", &none, &Controls::default()).await.unwrap());
    assert_eq!(store.controls("edge").await.unwrap(), confirmed);
    assert_eq!(store.controls("other").await.unwrap(), none);
}

async fn sizes_are_remembered(store: &dyn Store) {
    assert_eq!(store.remembered("edge").await.unwrap(), ServedSizes::new());
    let sizes = |listeners| ServedSizes::from([("stream".into(), [("listeners".into(), listeners)].into())]);
    store.remember("edge", &sizes(1)).await.unwrap();
    store.remember("edge", &sizes(2)).await.unwrap();
    assert_eq!(store.remembered("edge").await.unwrap(), sizes(2));
}

async fn a_turn_is_ones_at_a_time(store: &dyn Store) {
    let hour = Duration::from_secs(3_600);
    assert!(store.take_turn("look", "a", hour).await.unwrap());
    assert!(!store.take_turn("look", "b", hour).await.unwrap());
    assert!(store.take_turn("other", "b", hour).await.unwrap());
    assert!(store.take_turn("look", "a", Duration::ZERO).await.unwrap(), "given up");
    assert!(store.take_turn("look", "b", hour).await.unwrap());
    // A clock that was far ahead took it for longer than anybody does.
    assert!(store.take_turn("look", "b", 3 * hour).await.unwrap());
    assert!(store.take_turn("look", "a", hour).await.unwrap());
}

async fn the_last_drift_is_kept(store: &dyn Store) {
    assert_eq!(store.drift().await.unwrap(), None);
    for instances in [1, 2] {
        let drift = Drift { at: OffsetDateTime::UNIX_EPOCH, instances, findings: Vec::new() };
        store.note_drift(&drift).await.unwrap();
        assert_eq!(store.drift().await.unwrap(), Some(drift));
    }
}

/// Follows the changes, as a replica does, until it knows all of these.
async fn followed(store: &dyn Store, wanted: &[String]) -> u64 {
    let mut seen = std::collections::BTreeMap::new();
    let mut position = 0;
    while !wanted.iter().all(|name| seen.get(&id(name)) == Some(&3)) {
        let (changed, next) = store.changed_since(position).await.unwrap();
        assert!(next >= position, "{next} after {position}");
        position = next;
        seen.extend(changed.into_iter().map(|instance| (instance.id, instance.version)));
        tokio::task::yield_now().await;
    }
    position
}

async fn writers_at_once_hide_nothing_from_a_reader(store: &dyn Store) {
    let names: Vec<_> =
        (0..4).map(|at| (0..5).map(|of| format!("w-{at}-{of}")).collect::<Vec<_>>()).collect();
    let write = async |names: &[String]| {
        for name in names {
            let first = stored(store, &instance(name)).await;
            let second = stored(store, &first).await;
            stored(store, &second).await;
        }
    };
    let all = names.concat();
    let reader = tokio::time::timeout(Duration::from_secs(60), followed(store, &all));
    let ((), (), (), (), read) =
        tokio::join!(write(&names[0]), write(&names[1]), write(&names[2]), write(&names[3]), reader);
    assert!(read.is_ok(), "the reader has missed something");
}

async fn of_those_who_race_for_a_host_one_gets_it(store: &dyn Store) {
    for round in 0..5 {
        let (one, two) = (format!("race-{round}.test"), format!("more-{round}.test"));
        let race = async |name: &str, hosts: [&str; 2]| {
            let (instance, owner) = (id(name), owner(&format!("t-{name}")));
            let claimant =
                Claimant { instance: &instance, owner: &owner, most: None, cool_down: Duration::ZERO };
            store.claim(&hosts.map(host), &claimant).await.unwrap()
        };
        let (a, b) = (format!("a-{round}"), format!("b-{round}"));
        let ends = tokio::join!(race(&a, [&one, &two]), race(&b, [&two, &one]));
        let winner = match ends {
            (Claim::Held, Claim::Refused { .. }) => a,
            (Claim::Refused { .. }, Claim::Held) => b,
            both => panic!("{both:?}"),
        };
        assert_eq!(race("third", [&one, &two]).await, taken_by(&winner));
        store.release(&id(&winner), &[]).await.unwrap();
    }
}

async fn all(store: &dyn Store) {
    Box::pin(writers_at_once_hide_nothing_from_a_reader(store)).await;
    of_those_who_race_for_a_host_one_gets_it(store).await;
    an_instance_is_written_only_upon_the_version_that_was_read(store).await;
    only_what_changed_is_read_again(store).await;
    a_refused_write_leaves_no_job(store).await;
    a_host_belongs_to_one_instance(store).await;
    a_freed_host_is_kept_for_who_had_it(store).await;
    an_owner_has_as_many_hosts_as_it_may(store).await;
    of_several_hosts_all_are_claimed_or_none(store).await;
    an_owner_has_as_many_instances_as_it_may(store).await;
    the_log_has_what_was_written_and_nothing_else(store).await;
    the_newest_report_of_each_replica_counts(store).await;
    what_operators_decide_is_not_overwritten_unread(store).await;
    sizes_are_remembered(store).await;
    a_turn_is_ones_at_a_time(store).await;
    the_last_drift_is_kept(store).await;
    a_write_wakes_whoever_watches(store).await;
    revocations::all(store).await;
}

#[tokio::test]
async fn sqlite_conforms() {
    let folder = tempfile::tempdir().unwrap();
    all(&SqliteStore::open(&folder.path().join("gatehouse.db"), Keys::default()).unwrap()).await;
}

#[tokio::test]
async fn dynamodb_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let (_aws, table) = dynamodb(folder.path()).await;
    all(&DynamoStore::open(table, Sealing::With(Keys::default())).await.unwrap()).await;
}

/// From one kind to the other and back: nothing is lost on the way.
#[tokio::test]
async fn state_moves_between_the_stores() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = |name: &str| SqliteStore::open(&folder.path().join(name), Keys::default()).unwrap();
    let first = sqlite("first.db");
    let mut settled = stored(&first, &instance("settled")).await;
    settled.operation.state = model::instance::OperationState::Succeeded;
    let entry = Entry::ended(&settled);
    first.put(Write { entry: Some(&entry), ..Write::of(&settled) }).await.unwrap();
    let asked = model::audit::Event::Asked {
        kind: OperationKind::Update,
        by: model::audit::Caller::default(),
        before: None,
        after: None,
    };
    let busy = instance("busy");
    let entry = Entry::of(&busy, asked);
    let Put::Stored(busy) =
        first.put(Write { entry: Some(&entry), job: Some(&busy.job()), ..Write::of(&busy) }).await.unwrap()
    else {
        panic!("it is new")
    };
    claim(&first, "held.example.test", "settled", "t-1").await;
    claim(&first, "freed.example.test", "busy", "t-2").await;
    first.release(&id("busy"), &[]).await.unwrap();
    let paused = Controls { confirmed: Some("abc".into()), ..Controls::default() };
    assert!(first.decide("edge", &Controls::default(), &paused).await.unwrap());
    let revoked = revocations::token("1", Some("alice"));
    first.revoke(&revoked).await.unwrap();
    let (_aws, table) = dynamodb(folder.path()).await;
    let second = DynamoStore::open(table, Sealing::With(Keys::default())).await.unwrap();
    let third = sqlite("third.db");
    let lines = async |store: &dyn Store| {
        let records = state::export(store, "edge").await.unwrap();
        // Versions and positions are each store's own.
        let mut lines: Vec<_> = records
            .into_iter()
            .map(|record| match record {
                state::Record::Instance(instance) => {
                    state::Record::Instance(Box::new(Instance { version: 0, ..*instance }))
                }
                state::Record::Audit(entry) => {
                    state::Record::Audit(Box::new(Entry { position: 0, ..*entry }))
                }
                other => other,
            })
            .map(|record| serde_json::to_string(&record).unwrap())
            .collect();
        lines[1..].sort();
        lines
    };
    let before = lines(&first).await;
    assert_eq!(before.len(), 1 + 2 + 2 + 1 + 1 + 3);
    let records = || before.iter().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>();
    for store in [&second as &dyn Store, &third] {
        assert_eq!(state::import(store, records()).await.unwrap(), 2);
        assert_eq!(lines(store).await, before);
        assert_eq!(store.outbox().await.unwrap(), [busy.job()], "what was under way goes on");
        assert!(matches!(
            claim(store, "freed.example.test", "thief", "t-3").await,
            Claim::Refused { why: Refusal::Cooling(_), .. }
        ));
        assert!(matches!(state::import(store, records()).await, Err(state::StateError::NotEmpty(2))));
    }
    let headless = records().into_iter().skip(1);
    assert!(matches!(state::import(&sqlite("fourth.db"), headless).await, Err(state::StateError::NotState)));
}

/// A writer that died between taking its place and writing, and one that only was slow.
#[tokio::test]
async fn a_place_that_stays_empty_keeps_no_reader_waiting_and_a_late_writer_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (_aws, table) = dynamodb(folder.path()).await;
    let store = DynamoStore::open(table.clone(), Sealing::With(Keys::default())).await.unwrap();
    let a = stored(&store, &instance("a")).await;
    let late = table.count_up(&aws::Key::new("counters", "log"), "last").await.unwrap();
    let b = stored(&store, &instance("b")).await;
    let (read, position) = store.changed_since(0).await.unwrap();
    assert_eq!((read, position), (vec![a.clone()], late - 1), "no further than to the empty place");
    let mut changes = store.changes();
    let all = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            // Woken for as long as something is missing.
            changes.changed().await.unwrap();
            let (read, position) = store.changed_since(position).await.unwrap();
            if position == late + 1 {
                return read;
            }
        }
    });
    let mut all = all.await.unwrap();
    all.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(all, [a, b]);
    let closed = aws::Action::put(aws::Item::at(&aws::Key::new("log", format!("{late:020}")))).only_new();
    assert_eq!(table.write(vec![closed]).await.unwrap(), Err(vec![0]), "nobody can write there any more");
}

/// What lies in the table is sealed; a key that one process adds is known to the others.
#[tokio::test]
async fn kms_wraps_the_keys_and_a_new_one_needs_no_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (emulator, table) = dynamodb(folder.path()).await;
    let config = aws::emulator(emulator.url()).await;
    let open = async || {
        let keys = KmsKeys::new(&config, "alias/gatehouse", table.clone());
        DynamoStore::open(table.clone(), Sealing::Kms(keys)).await.unwrap()
    };
    let (here, there) = (open().await, open().await);
    let mut made = instance("sealed");
    made.certificate = Some(model::instance::Certificate {
        hosts: vec![host("a.example.test")],
        chain: "chain".into(),
        key: "-----BEGIN PRIVATE KEY-----".into(),
        not_after: OffsetDateTime::UNIX_EPOCH,
        name: None,
    });
    made.bind("b-1".parse().unwrap(), binding("not shown yet"));
    let first = stored(&here, &made).await;
    assert_eq!(there.get(&made.id).await.unwrap(), Some(first.clone()));
    let rows = async || {
        let mut rows = table.read(aws::Page::all("keys")).await.unwrap();
        for shard in 0..16 {
            rows.extend(table.read(aws::Page::all(&format!("instances#{shard}"))).await.unwrap());
        }
        format!("{rows:?}")
    };
    let text = rows().await;
    assert!(text.contains("sealed:1:") && !text.contains("PRIVATE KEY"), "{text}");
    assert!(!text.contains("not shown yet"), "{text}");
    assert!(here.add_key().await.unwrap());
    let second = stored(&here, &first).await;
    assert!(rows().await.contains("sealed:2:"));
    assert_eq!(there.get(&made.id).await.unwrap(), Some(second), "it meets the new key");
    assert_eq!(open().await.get(&made.id).await.unwrap().unwrap().certificate, made.certificate);
}

fn binding(secret: &str) -> Binding {
    let key = ApiKey {
        id: "0a".into(),
        hash: SecretHash::of(secret, [7; 32]),
        subject: "billing".into(),
        scopes: Vec::new(),
    };
    Binding {
        request: BindRequest {
            service_id: String::new(),
            plan_id: String::new(),
            bind_resource: None,
            predecessor: None,
            parameters: None,
        },
        key,
        secret: Some(secret.to_owned()),
        operation: "op-b".into(),
        kind: OperationKind::Bind,
        state: OperationState::InProgress,
        description: "queued".into(),
    }
}

/// The table of our template, at an emulator.
async fn dynamodb(folder: &std::path::Path) -> (lab::aws::Aws, aws::Table) {
    let emulator = lab::aws::Aws::start(&lab::aws::tools_of_checkout(), folder).await.unwrap();
    let template = include_str!("../../../cfn/data.yaml");
    emulator.stack("data", template, &[("Prefix", "gatehouse")]).await.unwrap();
    let table = aws::Table::new(&aws::emulator(emulator.url()).await, "gatehouse");
    (emulator, table)
}

/// Its replica had a clock that was a day ahead, and would be believed for a day after its end.
#[tokio::test]
async fn a_report_of_the_future_counts_no_more_than_one_of_the_past() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gatehouse.db");
    let store = SqliteStore::open(&path, Keys::default()).unwrap();
    let report = FleetReport { nodes: 1, ..FleetReport::default() };
    store.report("replica", "edge", &report).await.unwrap();
    assert_eq!(store.reports("edge").await.unwrap(), [report]);
    let file = ::sqlite::Database::open(&path).unwrap();
    let sql = "UPDATE reports SET at_ms = at_ms + 86400000";
    file.write(move |db| Ok(::sqlite::Written::Keep(db.execute(sql, [])?))).await.unwrap();
    assert_eq!(store.reports("edge").await.unwrap(), []);
}

#[tokio::test]
async fn sqlite_keeps_everything_and_tells_other_processes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gatehouse.db");
    let (here, there) = (
        SqliteStore::open(&path, Keys::default()).unwrap(),
        SqliteStore::open(&path, Keys::default()).unwrap(),
    );
    let mut changes = there.changes();
    // The first look is a change; the next one is the other's write.
    tokio::time::timeout(std::time::Duration::from_secs(5), changes.changed()).await.unwrap().unwrap();
    let a = stored(&here, &instance("a")).await;
    tokio::time::timeout(std::time::Duration::from_secs(5), changes.changed()).await.unwrap().unwrap();
    assert_eq!(there.get(&id("a")).await.unwrap(), Some(a));
}
