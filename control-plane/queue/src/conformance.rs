//! What every queue must do, whatever is behind it.

use std::time::Duration;

use super::*;

const LONG: Duration = Duration::from_mins(1);
const SHORT: Duration = Duration::from_millis(50);

fn job(id: &str) -> Job {
    Job { id: id.into(), instance: "i-1".parse().unwrap() }
}

async fn received(queue: &dyn Queue, lease: Duration) -> Lease {
    tokio::time::timeout(Duration::from_secs(10), queue.receive(lease)).await.expect("a job").unwrap()
}

async fn nothing_visible(queue: &dyn Queue) {
    let waited = tokio::time::timeout(Duration::from_millis(300), queue.receive(LONG)).await;
    assert!(waited.is_err(), "{waited:?}");
}

async fn a_job_is_handed_to_one_worker(queue: &dyn Queue) {
    queue.send(&job("a")).await.unwrap();
    queue.send(&job("a")).await.unwrap();
    let lease = received(queue, LONG).await;
    assert_eq!((lease.job.clone(), lease.attempt), (job("a"), 1));
    nothing_visible(queue).await;
    assert!(queue.done(&lease).await.unwrap());
    nothing_visible(queue).await;
}

async fn a_job_comes_again_when_its_worker_died(queue: &dyn Queue) {
    queue.send(&job("b")).await.unwrap();
    let dead = received(queue, SHORT).await;
    let alive = received(queue, LONG).await;
    assert_eq!((alive.job.clone(), alive.attempt), (job("b"), 2));
    assert!(!queue.done(&dead).await.unwrap(), "an ended lease settles nothing");
    assert!(!queue.extend(&dead, LONG).await.unwrap());
    assert!(queue.done(&alive).await.unwrap());
}

async fn an_extended_lease_keeps_the_job(queue: &dyn Queue) {
    queue.send(&job("c")).await.unwrap();
    let lease = received(queue, SHORT * 4).await;
    assert!(queue.extend(&lease, LONG).await.unwrap());
    nothing_visible(queue).await;
    assert!(queue.retry_after(&lease, SHORT).await.unwrap());
    let again = received(queue, LONG).await;
    assert_eq!(again.attempt, 2);
    queue.done(&again).await.unwrap();
}

async fn a_waiting_worker_is_woken(queue: &dyn Queue) {
    let late = job("d");
    let (lease, sent) = tokio::join!(received(queue, LONG), queue.send(&late));
    sent.unwrap();
    queue.done(&lease).await.unwrap();
}

#[tokio::test]
async fn sqlite_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let queue = SqliteQueue::open(&folder.path().join("gatehouse.db")).unwrap();
    a_job_is_handed_to_one_worker(&queue).await;
    a_job_comes_again_when_its_worker_died(&queue).await;
    an_extended_lease_keeps_the_job(&queue).await;
    a_waiting_worker_is_woken(&queue).await;
}

#[tokio::test]
async fn sqlite_keeps_jobs_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gatehouse.db");
    SqliteQueue::open(&path).unwrap().send(&job("a")).await.unwrap();
    assert_eq!(received(&SqliteQueue::open(&path).unwrap(), LONG).await.job, job("a"));
}
