//! What every store must do, whatever is behind it.

use model::instance::{OperationKind, Request};
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

async fn stored(store: &dyn Store, instance: &Instance) -> Instance {
    match store.put(instance, Some(&instance.job())).await.unwrap() {
        Put::Stored(stored) => *stored,
        Put::Conflict => panic!("a conflict"),
    }
}

async fn an_instance_is_written_only_upon_the_version_that_was_read(store: &dyn Store) {
    let first = stored(store, &instance("a")).await;
    assert_eq!(first.version, 1);
    assert_eq!(store.put(&instance("a"), None).await.unwrap(), Put::Conflict);
    let mut change = first.clone();
    change.begin(OperationKind::Update, Some(request()), "op-2".into());
    let second = stored(store, &change).await;
    assert_eq!((second.version, second.revision), (2, 2));
    assert_eq!(store.put(&change, None).await.unwrap(), Put::Conflict);
    assert_eq!(store.get(&id("a")).await.unwrap(), Some(second));
    assert_eq!(store.get(&id("never")).await.unwrap(), None);
}

async fn only_what_changed_is_read_again(store: &dyn Store) {
    let b = stored(store, &instance("b")).await;
    let (_, position) = store.changed_since(0).await.unwrap();
    assert_eq!(store.changed_since(position).await.unwrap().0, []);
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
    assert_eq!(store.put(&again, Some(&again.job())).await.unwrap(), Put::Conflict);
    let jobs = store.outbox().await.unwrap();
    assert!(jobs.contains(&d.job()) && jobs.iter().all(|job| job.id != "op-lost"), "{jobs:?}");
    store.dispatched(&d.job()).await.unwrap();
    assert!(!store.outbox().await.unwrap().contains(&d.job()));
}

async fn a_host_belongs_to_one_instance(store: &dyn Store) {
    let name = host("one.example.test");
    assert_eq!(store.claim(&name, &id("e")).await.unwrap(), Claim::Held);
    assert_eq!(store.claim(&name, &id("e")).await.unwrap(), Claim::Held);
    assert_eq!(store.claim(&name, &id("f")).await.unwrap(), Claim::Taken(id("e")));
    let other = host("two.example.test");
    store.claim(&other, &id("e")).await.unwrap();
    store.release(&id("e"), std::slice::from_ref(&other)).await.unwrap();
    assert_eq!(store.claim(&name, &id("f")).await.unwrap(), Claim::Held);
    assert_eq!(store.claim(&other, &id("f")).await.unwrap(), Claim::Taken(id("e")));
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

async fn all(store: &dyn Store) {
    an_instance_is_written_only_upon_the_version_that_was_read(store).await;
    only_what_changed_is_read_again(store).await;
    a_refused_write_leaves_no_job(store).await;
    a_host_belongs_to_one_instance(store).await;
    the_newest_report_of_each_replica_counts(store).await;
    what_operators_decide_is_not_overwritten_unread(store).await;
    sizes_are_remembered(store).await;
    a_write_wakes_whoever_watches(store).await;
}

#[tokio::test]
async fn sqlite_conforms() {
    let folder = tempfile::tempdir().unwrap();
    all(&SqliteStore::open(&folder.path().join("gatehouse.db")).unwrap()).await;
}

#[tokio::test]
async fn sqlite_keeps_everything_and_tells_other_processes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gatehouse.db");
    let (here, there) = (SqliteStore::open(&path).unwrap(), SqliteStore::open(&path).unwrap());
    let mut changes = there.changes();
    // The first look is a change; the next one is the other's write.
    tokio::time::timeout(std::time::Duration::from_secs(5), changes.changed()).await.unwrap().unwrap();
    let a = stored(&here, &instance("a")).await;
    tokio::time::timeout(std::time::Duration::from_secs(5), changes.changed()).await.unwrap().unwrap();
    assert_eq!(there.get(&id("a")).await.unwrap(), Some(a));
}
