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
    queue.send(&[job("a")]).await.unwrap();
    queue.send(&[job("a")]).await.unwrap();
    let lease = received(queue, LONG).await;
    assert_eq!((lease.job.clone(), lease.attempt), (job("a"), 1));
    nothing_visible(queue).await;
    assert!(queue.done(&lease).await.unwrap());
    nothing_visible(queue).await;
}

async fn a_job_comes_again_when_its_worker_died(queue: &dyn Queue) {
    queue.send(&[job("b")]).await.unwrap();
    let dead = received(queue, SHORT).await;
    let alive = received(queue, LONG).await;
    assert_eq!((alive.job.clone(), alive.attempt), (job("b"), 2));
    assert!(!queue.done(&dead).await.unwrap(), "an ended lease settles nothing");
    assert!(!queue.extend(&dead, LONG).await.unwrap());
    assert!(queue.done(&alive).await.unwrap());
}

async fn an_extended_lease_keeps_the_job(queue: &dyn Queue) {
    queue.send(&[job("c")]).await.unwrap();
    let lease = received(queue, SHORT * 4).await;
    assert!(queue.extend(&lease, LONG).await.unwrap());
    nothing_visible(queue).await;
    assert!(queue.retry_after(&lease, SHORT).await.unwrap());
    let again = received(queue, LONG).await;
    assert_eq!(again.attempt, 2);
    queue.done(&again).await.unwrap();
}

async fn a_waiting_worker_is_woken(queue: &dyn Queue) {
    let late = [job("d")];
    let (lease, sent) = tokio::join!(received(queue, LONG), queue.send(&late));
    sent.unwrap();
    queue.done(&lease).await.unwrap();
}

async fn a_job_that_is_given_up_waits_for_an_operator(queue: &dyn Queue) {
    queue.send(&[job("p")]).await.unwrap();
    let lease = received(queue, LONG).await;
    assert_eq!(queue.depth().await.unwrap(), Depth { visible: 0, hidden: 1 });
    assert!(queue.bury(&lease, "it is poison").await.unwrap());
    assert!(!queue.bury(&lease, "twice").await.unwrap());
    assert!(!queue.done(&lease).await.unwrap());
    assert!(!queue.extend(&lease, LONG).await.unwrap());
    queue.send(&[job("p")]).await.unwrap();
    nothing_visible(queue).await;
    let letters = queue.dead().await.unwrap();
    let told: Vec<_> =
        letters.iter().map(|one| (one.id.as_str(), &one.job, one.cause.as_str(), one.attempts)).collect();
    assert_eq!(told, [("p", &Some(job("p")), "it is poison", 1)]);
    assert_eq!(queue.depth().await.unwrap(), Depth { visible: 0, hidden: 0 });
    assert!(!queue.revive("another").await.unwrap());
    assert!(queue.revive("p").await.unwrap());
    let again = received(queue, LONG).await;
    assert_eq!(again.attempt, 1, "as if it were new");
    assert!(!queue.drop_dead("p").await.unwrap(), "it lives");
    queue.bury(&again, "still").await.unwrap();
    assert!(queue.drop_dead("p").await.unwrap());
    assert_eq!(queue.dead().await.unwrap(), []);
}

#[tokio::test]
async fn sqlite_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let queue = SqliteQueue::open(&folder.path().join("gatehouse.db")).unwrap();
    all(&queue).await;
}

/// The queue and the table of our template, at an emulator.
async fn sqs(folder: &std::path::Path) -> (lab::aws::Aws, aws::SdkConfig, aws::Table) {
    let emulator = lab::aws::Aws::start(&lab::aws::tools_of_checkout(), folder).await.unwrap();
    let template = include_str!("../../../cfn/data.yaml");
    emulator.stack("data", template, &[("Prefix", "gatehouse")]).await.unwrap();
    let config = aws::emulator(emulator.url()).await;
    let table = aws::Table::new(&config, "gatehouse");
    (emulator, config, table)
}

const QUEUE: &str = "/123456789012/gatehouse.fifo";

#[tokio::test]
async fn sqs_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let (emulator, config, table) = sqs(folder.path()).await;
    all(&SqsQueue::new(&config, &format!("{}{QUEUE}", emulator.url()), table)).await;
}

/// A message that another release, or a person, sent.
#[tokio::test]
async fn what_sqs_has_and_cannot_be_read_keeps_no_other_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let (emulator, config, table) = sqs(folder.path()).await;
    let url = format!("{}{QUEUE}", emulator.url());
    let queue = SqsQueue::new(&config, &url, table.clone());
    let send =
        aws_sdk_sqs::Client::new(&config).send_message().queue_url(&url).message_body("{\"of\": \"2031\"}");
    send.message_group_id("x").message_deduplication_id("x").send().await.unwrap();
    queue.send(&[job("a")]).await.unwrap();
    let lease = received(&queue, LONG).await;
    assert_eq!(lease.job, job("a"));
    let letters = queue.dead().await.unwrap();
    assert!(
        letters.len() == 1 && letters[0].cause.starts_with("cannot be read: missing field"),
        "{letters:?}"
    );
    assert!(queue.revive(&letters[0].id).await.unwrap());
    assert!(queue.bury(&lease, "only to get on").await.unwrap());
    nothing_visible(&queue).await;
    assert_eq!(queue.dead().await.unwrap().len(), 2, "it still cannot be read");
    // Who revived a job was stopped before its letter was gone.
    let letter = table.get(&aws::Key::new("dead", "a")).await.unwrap().unwrap();
    assert!(queue.revive("a").await.unwrap());
    table.put(letter).await.unwrap();
    let again = received(&queue, LONG).await;
    assert_eq!(again.job, job("a"), "it comes all the same");
    assert!(queue.dead().await.unwrap().iter().all(|letter| letter.id != "a"));
}

async fn all(queue: &dyn Queue) {
    a_job_is_handed_to_one_worker(queue).await;
    a_job_comes_again_when_its_worker_died(queue).await;
    an_extended_lease_keeps_the_job(queue).await;
    a_waiting_worker_is_woken(queue).await;
    a_job_that_is_given_up_waits_for_an_operator(queue).await;
}

#[tokio::test]
async fn sqlite_keeps_jobs_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gatehouse.db");
    SqliteQueue::open(&path).unwrap().send(&[job("a")]).await.unwrap();
    assert_eq!(received(&SqliteQueue::open(&path).unwrap(), LONG).await.job, job("a"));
}

/// Its worker had a clock that was a day ahead, and was put right.
#[tokio::test]
async fn a_clock_that_jumps_back_hides_no_job() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gatehouse.db");
    let queue = SqliteQueue::open(&path).unwrap();
    queue.send(&[job("a")]).await.unwrap();
    received(&queue, LONG).await;
    let file = ::sqlite::Database::open(&path).unwrap();
    let sql = "UPDATE jobs SET visible_at_ms = visible_at_ms + 86400000";
    file.write(move |db| Ok(::sqlite::Written::Keep(db.execute(sql, [])?))).await.unwrap();
    assert_eq!(received(&queue, LONG).await.job, job("a"));
}

#[tokio::test]
async fn a_job_that_cannot_be_read_keeps_no_other_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gatehouse.db");
    let queue = SqliteQueue::open(&path).unwrap();
    let file = ::sqlite::Database::open(&path).unwrap();
    let sql = "INSERT INTO jobs (id, body, visible_at_ms, attempts) VALUES ('x', '{\"of\": \"2031\"}', 0, 0)";
    file.write(move |db| Ok(::sqlite::Written::Keep(db.execute(sql, [])?))).await.unwrap();
    queue.send(&[job("a")]).await.unwrap();
    assert_eq!(received(&queue, LONG).await.job, job("a"));
    let letters = queue.dead().await.unwrap();
    assert_eq!((letters.len(), letters[0].id.as_str(), &letters[0].job), (1, "x", &None));
    assert!(letters[0].cause.starts_with("cannot be read: missing field"), "{letters:?}");
}
