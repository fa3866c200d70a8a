//! Jobs that workers have given up, and what operators do with them.

use model::{
    InstanceId,
    instance::{OperationKind, Request},
};
use queue::{Queue as _, SqliteQueue};
use serde_json::json;
use store::{Keys, Put, SqliteStore, Store as _, Write};
use tests::{Lab, Service, eventually};

/// What `gatehouse jobs` prints of a queue with nothing in it.
const NOTHING: &str = "0 to do, 0 under way or resting\n";

/// Begins an update whose job is poison, while no control plane runs.
async fn poison(lab: &Lab, service: &Service, operation: &str) {
    let path = lab.folder().join("gatehouse.db");
    let keys = Keys::parse(&std::fs::read_to_string(lab.folder().join("store.keys")).unwrap()).unwrap();
    let (store, queue) = (SqliteStore::open(&path, keys).unwrap(), SqliteQueue::open(&path).unwrap());
    let id: InstanceId = service.id().parse().unwrap();
    let mut instance = store.get(&id).await.unwrap().unwrap();
    let mut parameters = instance.request.parameters.clone();
    parameters["routes"][0]["timeout"] = json!("7s");
    let request = Request { parameters, ..instance.request.clone() };
    instance.begin(OperationKind::Update, Some(request), operation.to_owned());
    assert!(matches!(store.put(Write::of(&instance)).await.unwrap(), Put::Stored(_)));
    queue.send(&[instance.job()]).await.unwrap();
    let lease = queue.receive(std::time::Duration::from_secs(60)).await.unwrap();
    assert!(queue.bury(&lease, "it is poison").await.unwrap());
}

#[tokio::test]
async fn a_job_that_was_given_up_is_shown_retried_or_dropped() {
    let mut lab = Lab::start().await;
    let (one, two) = (lab.service("one"), lab.service("two"));
    lab.live(&one).await;
    lab.live(&two).await;
    // A job is taken from the queue after its operation has ended: killed in between, it would come again.
    eventually("the queue is empty", || async {
        (lab.gatehouse(&["jobs"]).await.stdout == NOTHING.as_bytes()).then_some(())
    })
    .await;
    lab.stack.control_plane.take().expect("it runs").kill().await;
    poison(&lab, &one, "op-one").await;
    poison(&lab, &two, "op-two").await;
    lab.stack.start_control_plane().await.unwrap();

    let (good, text) = lab.run(&["jobs"]).await;
    assert!(good, "{text}");
    for words in
        ["0 to do, 0 under way", "op-one  id-one  since 2", "op-two  id-two  since 2", ": it is poison"]
    {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    let (good, text) = lab.run(&["jobs", "retry", "op-one"]).await;
    assert!(good, "{text}");
    assert_eq!(lab.ended(&one).await.0, "succeeded");
    let (good, text) = lab.run(&["jobs", "drop", "op-two"]).await;
    assert!(good, "{text}");
    let (state, description) = lab.ended(&two).await;
    assert_eq!(
        (state.as_str(), description.as_str()),
        ("failed", "given up, and its job was dropped by the operator dev")
    );
    let (_, text) = lab.run(&["jobs"]).await;
    assert_eq!(text, NOTHING);
    let (good, text) = lab.run(&["jobs", "retry", "op-two"]).await;
    assert!(!good && text.contains("no dead letter has it, got \"op-two\""), "{text}");
    assert_eq!(lab.provision(&two).await.status, 200, "it is said to be what is live");
    lab.change(&two.clone().with("/routes/0/timeout", json!("7s"))).await;
    lab.stop().await;
}
