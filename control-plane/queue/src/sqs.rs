//! The queue in SQS, first in, first out within an instance. Its dead letters are rows of a DynamoDB table: what is in
//! SQS can be received, and not listed.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use aws::{Error, Item, Key, Page, SdkConfig, Table};
use aws_sdk_sqs::{
    Client,
    config::timeout::TimeoutConfig,
    operation::{
        change_message_visibility::ChangeMessageVisibilityError, delete_message::DeleteMessageError,
    },
    types::{Message, MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry},
};
use model::job::Job;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::{DEAD_PAGE, DeadLetter, Depth, Lease, Queue, QueueError};

/// The longest poll that SQS knows.
const LONG_POLL: Duration = Duration::from_secs(20);
/// Of a receive: the poll, and what the network takes.
const RECEIVE: Duration = Duration::from_secs(30);
/// Messages of one SendMessageBatch.
const BATCH: usize = 10;
/// SQS hides a message for at most 12 hours.
const LONGEST: Duration = Duration::from_secs(12 * 3_600);
/// Where the dead letters are in the table.
const LETTERS: &str = "dead";

/// A queue at this URL, which ends with `.fifo`.
#[derive(Debug)]
pub struct SqsQueue {
    client: Client,
    url: String,
    letters: Table,
    /// The leases of this process, by their receipts: SQS may settle a message for whoever had it last but one.
    held: Mutex<HashMap<String, Held>>,
    /// A poll goes on when whoever asked does not wait any more: what it gets would be hidden, and nobody had it.
    poll: tokio::sync::Mutex<Option<Poll>>,
}

#[derive(Debug)]
struct Poll {
    lease: Duration,
    answer: JoinHandle<Result<Option<Message>, Error>>,
}

/// A lease that this process has, or had until a moment ago.
#[derive(Debug, Clone, Copy)]
struct Held {
    until: Instant,
    life: u32,
}

/// What a message says.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    job: Job,
    /// How often it was revived: a message of an earlier life means nothing once its letter is there.
    life: u32,
}

/// A row of the dead letters.
#[derive(Debug, Serialize, Deserialize)]
struct Letter {
    #[serde(flatten)]
    told: DeadLetter,
    life: u32,
    /// The message, where it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw: Option<String>,
}

fn failed(operation: &'static str, error: Error) -> QueueError {
    QueueError { operation, source: error.into() }
}

/// SQS counts in seconds. A pause is never shorter than it was meant.
fn seconds(duration: Duration) -> i32 {
    let duration = duration.min(LONGEST);
    let up = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i32::try_from(up).unwrap_or(i32::MAX)
}

fn letter_key(id: &str) -> Key {
    Key::new(LETTERS, id)
}

/// The message is gone, or its receipt has run out.
fn is_over_to_change(error: &ChangeMessageVisibilityError) -> bool {
    let code = error.meta().code().unwrap_or_default();
    error.is_message_not_inflight() || error.is_receipt_handle_is_invalid() || code == "InvalidParameterValue"
}

fn is_over_to_delete(error: &DeleteMessageError) -> bool {
    let code = error.meta().code().unwrap_or_default();
    error.is_receipt_handle_is_invalid() || code == "InvalidParameterValue"
}

impl SqsQueue {
    /// Uses a queue that is there, and a table for its dead letters.
    pub fn new(config: &SdkConfig, url: &str, letters: Table) -> Self {
        Self {
            client: Client::new(config),
            url: url.to_owned(),
            letters,
            held: Mutex::default(),
            poll: tokio::sync::Mutex::default(),
        }
    }

    fn held(&self, lease: &Lease) -> Option<Held> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&lease.receipt).copied().filter(|held| Instant::now() < held.until)
    }

    /// Notes until when a lease holds. Those that have ended are forgotten.
    fn note(&self, receipt: &str, noted: Held) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        held.retain(|_, held| held.until > now);
        held.insert(receipt.to_owned(), noted);
    }

    fn forget(&self, receipt: &str) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(receipt);
    }

    /// The next message; nothing, when none comes while SQS waits for one.
    async fn poll(&self, lease: Duration) -> Result<Option<Message>, Error> {
        let mut polling = self.poll.lock().await;
        let poll = polling.get_or_insert_with(|| {
            let answer = tokio::spawn(receive(self.client.clone(), self.url.clone(), lease));
            Poll { lease, answer }
        });
        let answer = (&mut poll.answer).await;
        let asked_for = poll.lease;
        *polling = None;
        let message = answer.map_err(|panic| Error::told(panic.to_string()))??;
        if let Some(receipt) = message.as_ref().and_then(|message| message.receipt_handle.as_deref())
            && asked_for != lease
            && !self.set_hidden(receipt, lease).await?
        {
            return Ok(None);
        }
        Ok(message)
    }

    /// A message as a lease, and which life of its job it is; nothing, when nobody is to have it.
    async fn leased(&self, message: Message) -> Result<Option<(Lease, u32)>, Error> {
        let receipt = message.receipt_handle.unwrap_or_default();
        let times = message.attributes.and_then(|mut attributes| {
            attributes.remove(&MessageSystemAttributeName::ApproximateReceiveCount)?.parse().ok()
        });
        let attempt = times.unwrap_or(1);
        let body = message.body.unwrap_or_default();
        let Body { job, life } = match serde_json::from_str(&body) {
            Ok(body) => body,
            // Of another release, or damaged: it must not keep the others waiting.
            Err(error) => {
                let id = message.message_id.unwrap_or_else(|| Uuid::new_v4().to_string());
                let cause = format!("cannot be read: {error}");
                let told =
                    DeadLetter { id, job: None, cause, attempts: attempt, since: OffsetDateTime::now_utc() };
                self.keep(Letter { told, life: 0, raw: Some(body) }).await?;
                self.delete(&receipt).await?;
                return Ok(None);
            }
        };
        if let Some(letter) = self.letter(&job.id).await? {
            if life <= letter.life {
                // Sent again by somebody who did not know that it was given up.
                self.delete(&receipt).await?;
                return Ok(None);
            }
            // It was revived, and whoever did that was stopped before the letter was gone.
            self.letters.delete(&letter_key(&job.id)).await?;
        }
        Ok(Some((Lease { job, attempt, receipt }, life)))
    }

    async fn letter(&self, id: &str) -> Result<Option<Letter>, Error> {
        let row = self.letters.get(&letter_key(id)).await?;
        row.map(|row| read(&row)).transpose()
    }

    async fn keep(&self, letter: Letter) -> Result<(), Error> {
        let body = serde_json::to_string(&letter).map_err(|error| Error::told(error.to_string()))?;
        self.letters.put(Item::at(&letter_key(&letter.told.id)).text("body", body)).await
    }

    async fn delete(&self, receipt: &str) -> Result<bool, Error> {
        let delete = self.client.delete_message().queue_url(&self.url).receipt_handle(receipt);
        match delete.send().await {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(is_over_to_delete) => Ok(false),
            Err(error) => Err(Error::of(&error)),
        }
    }

    /// Takes the lease's message out of the queue. `false`: the lease had ended.
    async fn settle(&self, lease: &Lease) -> Result<bool, Error> {
        if self.held(lease).is_none() {
            return Ok(false);
        }
        let deleted = self.delete(&lease.receipt).await?;
        self.forget(&lease.receipt);
        Ok(deleted)
    }

    /// Hides the message for so long, from now on.
    async fn hide(&self, lease: &Lease, pause: Duration) -> Result<bool, Error> {
        if self.held(lease).is_none() {
            return Ok(false);
        }
        self.set_hidden(&lease.receipt, pause).await
    }

    /// `false`: the message is not this receipt's any more.
    async fn set_hidden(&self, receipt: &str, pause: Duration) -> Result<bool, Error> {
        let change = self.client.change_message_visibility().queue_url(&self.url);
        match change.receipt_handle(receipt).visibility_timeout(seconds(pause)).send().await {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(is_over_to_change) => Ok(false),
            Err(error) => Err(Error::of(&error)),
        }
    }

    async fn send_all(&self, bodies: &[Body]) -> Result<(), Error> {
        for bodies in bodies.chunks(BATCH) {
            let mut entries = Vec::with_capacity(bodies.len());
            for (at, body) in bodies.iter().enumerate() {
                let text = serde_json::to_string(body).map_err(|error| Error::told(error.to_string()))?;
                let entry = SendMessageBatchRequestEntry::builder()
                    .id(at.to_string())
                    .message_body(text)
                    .message_group_id(body.job.instance.as_str())
                    .message_deduplication_id(format!("{}.{}", body.job.id, body.life))
                    .build();
                entries.push(entry.map_err(|error| Error::of(&error))?);
            }
            let send = self.client.send_message_batch().queue_url(&self.url).set_entries(Some(entries));
            let answer = send.send().await.map_err(|error| Error::of(&error))?;
            if let Some(refused) = answer.failed.first() {
                let why = refused.message().unwrap_or(refused.code());
                return Err(Error::told(format!("{} of {} jobs: {why}", answer.failed.len(), bodies.len())));
            }
        }
        Ok(())
    }

    /// Sends what could not be read once more: this release may be another.
    async fn send_raw(&self, id: &str, raw: String) -> Result<(), Error> {
        let send = self.client.send_message().queue_url(&self.url).message_body(raw).message_group_id(id);
        let send = send.message_deduplication_id(Uuid::new_v4().to_string());
        send.send().await.map(drop).map_err(|error| Error::of(&error))
    }
}

/// One long poll.
async fn receive(client: Client, url: String, lease: Duration) -> Result<Option<Message>, Error> {
    let timeouts =
        TimeoutConfig::builder().operation_timeout(RECEIVE).operation_attempt_timeout(RECEIVE).build();
    let receive = client
        .receive_message()
        .queue_url(url)
        .max_number_of_messages(1)
        .wait_time_seconds(seconds(LONG_POLL))
        .visibility_timeout(seconds(lease))
        .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
        .customize()
        .config_override(aws_sdk_sqs::config::Config::builder().timeout_config(timeouts));
    let answer = receive.send().await.map_err(|error| Error::of(&error))?;
    Ok(answer.messages.unwrap_or_default().pop())
}

fn read(row: &Item) -> Result<Letter, Error> {
    serde_json::from_str(row.get_text("body")?).map_err(|error| Error::told(error.to_string()))
}

#[async_trait]
impl Queue for SqsQueue {
    async fn send(&self, jobs: &[Job]) -> Result<(), QueueError> {
        let bodies: Vec<_> = jobs.iter().map(|job| Body { job: job.clone(), life: 0 }).collect();
        self.send_all(&bodies).await.map_err(|error| failed("sending jobs", error))
    }

    async fn receive(&self, lease: Duration) -> Result<Lease, QueueError> {
        let failed = |error| failed("receiving a job", error);
        loop {
            let asked = Instant::now();
            let Some(message) = self.poll(lease).await.map_err(failed)? else { continue };
            // It was hidden when SQS answered; what the answer took on its way is not known, and a part of the lease.
            let until = asked.max(Instant::now().checked_sub(lease / 4).unwrap_or(asked)) + lease;
            let Some((leased, life)) = self.leased(message).await.map_err(failed)? else { continue };
            self.note(&leased.receipt, Held { until, life });
            return Ok(leased);
        }
    }

    async fn extend(&self, lease: &Lease, by: Duration) -> Result<bool, QueueError> {
        let Some(held) = self.held(lease) else { return Ok(false) };
        let until = Instant::now() + by;
        let extended = self.hide(lease, by).await.map_err(|error| failed("extending a lease", error))?;
        if extended {
            self.note(&lease.receipt, Held { until, ..held });
        }
        Ok(extended)
    }

    async fn done(&self, lease: &Lease) -> Result<bool, QueueError> {
        self.settle(lease).await.map_err(|error| failed("settling a job", error))
    }

    async fn retry_after(&self, lease: &Lease, pause: Duration) -> Result<bool, QueueError> {
        let held = self.hide(lease, pause).await.map_err(|error| failed("giving a job back", error))?;
        self.forget(&lease.receipt);
        Ok(held)
    }

    async fn bury(&self, lease: &Lease, cause: &str) -> Result<bool, QueueError> {
        let failed = |error| failed("giving a job up", error);
        let Some(Held { life, .. }) = self.held(lease) else { return Ok(false) };
        let told = DeadLetter {
            id: lease.job.id.clone(),
            job: Some(lease.job.clone()),
            cause: cause.to_owned(),
            attempts: lease.attempt,
            since: OffsetDateTime::now_utc(),
        };
        // The letter first: a job that is in neither place would be lost.
        self.keep(Letter { told, life, raw: None }).await.map_err(failed)?;
        self.settle(lease).await.map_err(failed)
    }

    async fn dead(&self) -> Result<Vec<DeadLetter>, QueueError> {
        let failed = |error| failed("reading the dead letters", error);
        let mut letters = Vec::new();
        for row in self.letters.read(Page::all(LETTERS)).await.map_err(failed)? {
            letters.push(read(&row).map_err(failed)?.told);
        }
        letters.sort_by_key(|letter| letter.since);
        letters.truncate(usize::try_from(DEAD_PAGE).unwrap_or(usize::MAX));
        Ok(letters)
    }

    async fn revive(&self, id: &str) -> Result<bool, QueueError> {
        let failed = |error| failed("reviving a job", error);
        let Some(letter) = self.letter(id).await.map_err(failed)? else { return Ok(false) };
        // Sent first: whoever receives it takes the letter away, should we be stopped before.
        match (letter.told.job, letter.raw) {
            (Some(job), _) => self.send_all(&[Body { job, life: letter.life + 1 }]).await,
            (None, raw) => self.send_raw(id, raw.unwrap_or_default()).await,
        }
        .map_err(failed)?;
        self.letters.delete(&letter_key(id)).await.map_err(failed)?;
        Ok(true)
    }

    async fn drop_dead(&self, id: &str) -> Result<bool, QueueError> {
        self.letters.delete(&letter_key(id)).await.map_err(|error| failed("dropping a dead letter", error))
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        let visible = QueueAttributeName::ApproximateNumberOfMessages;
        let hidden = [
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let ask = self.client.get_queue_attributes().queue_url(&self.url);
        let ask = ask
            .attribute_names(visible.clone())
            .set_attribute_names(Some(hidden.iter().chain([&visible]).cloned().collect()));
        let answer = ask.send().await.map_err(|error| failed("counting jobs", Error::of(&error)))?;
        let attributes = answer.attributes.unwrap_or_default();
        let of = |name: &QueueAttributeName| {
            attributes.get(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
        };
        Ok(Depth { visible: of(&visible), hidden: hidden.iter().map(of).sum() })
    }
}
