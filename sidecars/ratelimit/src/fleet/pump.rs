//! Between requests and the store: what is asked at the same time goes in one batch, and what is asked while the store is
//! down is answered at once, with nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use runtime::jitter::jittered;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};

use super::{
    breaker::Breaker,
    store::{Act, Op, Store, StoreError},
};
use crate::service::nanos;

/// Called with the numbers of an errand, or with nothing where the store gave none. Never blocks.
pub(crate) type Then = Box<dyn FnOnce(Option<&[i64]>) + Send>;

/// Some operations whose answers belong together.
pub(crate) struct Errand {
    pub(crate) ops: Vec<Op>,
    pub(crate) then: Then,
}

/// Takes errands. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pump {
    errands: mpsc::Sender<Errand>,
    breaker: Arc<Breaker>,
    nodes: Arc<AtomicU64>,
    pub(crate) ops: Arc<AtomicU64>,
}

/// How the store is asked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// An answer that takes longer counts as none for who waits, and as a failure for the breaker.
    pub(crate) deadline: Duration,
    /// Before all keys.
    pub(crate) prefix: String,
    /// How many nodes are assumed until the store has told.
    pub(crate) nodes: u32,
}

/// Errands that nobody has taken yet: each is a request that waits, or one a key.
const MAX_WAITING: usize = 65_536;
/// Of one batch: larger ones delay those in them for more than they save.
const MAX_BATCH: usize = 512;
/// Batches under way. While all are, the next one grows.
const MAX_UNDER_WAY: usize = 4;
/// After this a batch is given up: an answer that comes until then is still good for those who come later.
const GIVE_UP: Duration = Duration::from_secs(1);
/// Between two signs of life, by which nodes count each other.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Nodes that were heard in one of these are counted.
const EPOCH_SECS: u64 = 10;
/// Between probes of a store that is down: from the first to the longest.
const PROBES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

impl Pump {
    /// Begins to take errands for this store.
    pub(crate) fn start(store: Arc<dyn Store>, settings: Settings) -> Self {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let pump = Self {
            errands: sender,
            breaker: Arc::new(Breaker::closed()),
            nodes: Arc::new(AtomicU64::new(settings.nodes.into())),
            ops: Arc::default(),
        };
        tokio::spawn(pump.clone().run(store.clone(), receiver, settings.deadline));
        tokio::spawn(pump.clone().beat(store, settings));
        pump
    }

    /// Without a store: everything is answered with nothing.
    pub(crate) fn without_store(nodes: u32) -> Self {
        Self {
            errands: mpsc::channel(1).0,
            breaker: Arc::new(Breaker::without_store()),
            nodes: Arc::new(AtomicU64::new(nodes.into())),
            ops: Arc::default(),
        }
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// How many nodes share the store, as last told.
    pub(crate) fn nodes(&self) -> u32 {
        u32::try_from(self.nodes.load(Ordering::Relaxed)).unwrap_or(u32::MAX).max(1)
    }

    /// Has it done, or says at once that it is not.
    pub(crate) fn send(&self, errand: Errand) {
        if self.breaker.is_down() {
            return (errand.then)(None);
        }
        if let Err(refused) = self.errands.try_send(errand) {
            (refused.into_inner().then)(None);
        }
    }

    async fn run(self, store: Arc<dyn Store>, mut errands: mpsc::Receiver<Errand>, deadline: Duration) {
        let under_way = Arc::new(Semaphore::new(MAX_UNDER_WAY));
        let mut batch = Vec::new();
        loop {
            let Ok(turn) = under_way.clone().acquire_owned().await else { return };
            if errands.recv_many(&mut batch, MAX_BATCH).await == 0 {
                return;
            }
            let batch = std::mem::take(&mut batch);
            tokio::spawn(self.clone().have_done(store.clone(), batch, deadline, turn));
        }
    }

    async fn have_done(
        self,
        store: Arc<dyn Store>,
        batch: Vec<Errand>,
        deadline: Duration,
        _turn: OwnedSemaphorePermit,
    ) {
        if self.breaker.is_down() {
            return batch.into_iter().for_each(|errand| (errand.then)(None));
        }
        let (mut ops, mut errands) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for Errand { ops: own, then } in batch {
            errands.push((own.len(), then));
            ops.extend(own);
        }
        self.ops.fetch_add(ops.len() as u64, Ordering::Relaxed);
        let numbers = self.ask(store.as_ref(), &ops, deadline).await;
        let mut rest = numbers.as_deref();
        for (length, then) in errands {
            let own = rest.and_then(|numbers| numbers.split_at_checked(length));
            then(own.map(|(own, _)| own));
            rest = own.map(|(_, rest)| rest);
        }
    }

    /// A late answer is a failure for the breaker, and an answer nevertheless.
    async fn ask(&self, store: &dyn Store, ops: &[Op], deadline: Duration) -> Option<Vec<i64>> {
        let mut answer = store.run(ops);
        let mut is_late = false;
        let answer = tokio::select! {
            biased;
            answer = &mut answer => Some(answer),
            () = sleep(deadline) => {
                is_late = true;
                self.failed(&"late");
                timeout(GIVE_UP, answer).await.ok()
            }
        };
        match answer {
            Some(Ok(numbers)) => {
                if !is_late && self.breaker.answered(now()) {
                    tracing::info!("the store answers again");
                }
                Some(numbers)
            }
            Some(Err(error)) => {
                if !is_late {
                    self.failed(&error_chain(&error));
                }
                None
            }
            None => None,
        }
    }

    fn failed(&self, why: &dyn std::fmt::Display) {
        if self.breaker.failed(now()) {
            tracing::warn!(error = %why, "the store does not answer; limits of the fleet are kept as each says");
        }
    }

    /// Tells the store that this node is there, learns how many others are, and asks a store that is down whether it is up.
    async fn beat(self, store: Arc<dyn Store>, settings: Settings) {
        let (mut counted, mut pause) = (0, PROBES.0);
        loop {
            let epoch = nanos(SystemTime::now()) / 1_000_000_000 / EPOCH_SECS;
            let key = |epoch: u64| format!("{}nodes:{epoch}", settings.prefix);
            let live_secs = Some(3 * EPOCH_SECS);
            let own = if counted == epoch { Act::Look } else { Act::Add { amount: 1, live_secs } };
            let ops = [Op { key: key(epoch), act: own }, Op { key: key(epoch - 1), act: Act::Look }];
            if let Some(numbers) = self.ask(store.as_ref(), &ops, settings.deadline).await {
                counted = epoch;
                // The epoch before is complete; in this one nodes are still to come.
                let nodes = numbers.iter().copied().max().and_then(|nodes| u64::try_from(nodes).ok());
                self.nodes.store(nodes.unwrap_or(1).max(1), Ordering::Relaxed);
            }
            if self.breaker.is_down() {
                sleep(jittered(pause)).await;
                pause = (pause * 2).min(PROBES.1);
            } else {
                pause = PROBES.0;
                sleep(jittered(HEARTBEAT)).await;
            }
        }
    }
}

fn now() -> u64 {
    nanos(SystemTime::now())
}

fn error_chain(error: &StoreError) -> String {
    runtime::telemetry::chain(error)
}
