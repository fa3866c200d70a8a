//! Limits that a fleet counts together: from a request to its lease, and from there to the store where it has to be.

pub(crate) mod breaker;
pub(crate) mod lease;
mod pump;
mod redis;
mod store;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

pub use redis::RedisSettings;

use crate::{
    config::{Mode, OnStoreError},
    counter::{Counter, Taken, Terms, window_of},
    decide::{Ask, Said},
    table::{Bounds, DomainSlot, Key, Room, Table},
};
use breaker::Counted;
use lease::{Lease, Refill, Sizing, Step, Told};
use pump::{Errand, Pump, Settings};
use store::{Act, Op, Store};

/// How a process counts together with others.
#[derive(Debug, Clone)]
pub struct FleetSettings {
    /// Who waits longer for the store is answered without it.
    pub deadline: Duration,
    /// Before all keys in the store.
    pub prefix: String,
    /// How many nodes are assumed to share a limit until the store has told.
    pub nodes: u32,
}

impl Default for FleetSettings {
    fn default() -> Self {
        Self { deadline: DEADLINE, prefix: String::new(), nodes: NODES }
    }
}

/// Envoy waits for 20 ms: with this its answer is one of ours, and not an error.
const DEADLINE: Duration = Duration::from_millis(5);
/// Few fleets have fewer: who starts while its store is down lets rather too little pass.
const NODES: u32 = 16;

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

/// What is granted to this node, and who waits for more.
pub struct Fleet {
    leases: Table<Lease>,
    pump: Pump,
    waiting: Waiting,
    deadline: Duration,
    prefix: String,
}

/// What is known of an ask at once.
pub(crate) enum Begun {
    Said(Said),
    /// The store is being asked for more; then it is looked at again.
    Waits(oneshot::Receiver<()>),
    /// The store is being asked for just this.
    Strict(oneshot::Receiver<Taken>, Overflowed),
}

/// Whether a key had no room, and its limit's own lease is asked.
type Overflowed = bool;

/// Everything that stays the same while an ask is answered.
#[derive(Clone, Copy)]
pub(crate) struct Case<'a> {
    pub(crate) ask: &'a Ask<'a>,
    pub(crate) domain: DomainSlot,
    /// Of this node alone, for when the store is down.
    pub(crate) counters: &'a Table<Counter>,
    pub(crate) now: u64,
}

/// Requests that wait for a lease, by its key.
#[derive(Default)]
struct Waiting(Mutex<HashMap<Key, Vec<oneshot::Sender<()>>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<oneshot::Sender<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, key: Key) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.lock().entry(key).or_default().push(sender);
        receiver
    }

    fn wake(&self, key: Key) {
        for waiting in self.lock().remove(&key).unwrap_or_default() {
            let _has_given_up = waiting.send(());
        }
    }
}

/// Tells nothing of a store that is not there.
fn answer(over: bool, remaining: u32, reset: u64) -> Said {
    Said { taken: Taken { over, remaining, reset }, overflowed: false, without_store: true }
}

impl Fleet {
    /// Asks this Redis.
    ///
    /// # Errors
    /// The settings lead nowhere. A Redis that is not there is no error: it may come.
    pub fn connect(redis: &RedisSettings, settings: &FleetSettings) -> anyhow::Result<Arc<Self>> {
        Ok(Self::start(Arc::new(redis::Redis::new(redis)?), settings))
    }

    fn start(store: Arc<dyn Store>, settings: &FleetSettings) -> Arc<Self> {
        let FleetSettings { deadline, prefix, nodes } = settings.clone();
        let pump = Pump::start(store, Settings { deadline, prefix: prefix.clone(), nodes });
        Arc::new(Self::of(pump, deadline, prefix))
    }

    /// Nothing is shared, of so many nodes: each limit is kept as its `on_store_error` says.
    pub fn without_store(nodes: u32) -> Arc<Self> {
        Arc::new(Self::of(Pump::without_store(nodes), DEADLINE, String::new()))
    }

    fn of(pump: Pump, deadline: Duration, prefix: String) -> Self {
        Self { leases: Table::new(Bounds::default()), pump, waiting: Waiting::default(), deadline, prefix }
    }

    /// Decides, where that needs no store; else begins to ask it.
    pub(crate) fn begin(self: &Arc<Self>, case: Case<'_>) -> Begun {
        let terms = &case.ask.limit.terms;
        match self.pump.breaker().counted(window_of(case.now, terms.window)) {
            Counted::Alone => return Begun::Said(self.alone(case)),
            Counted::Granted if case.ask.limit.on_store_error != OnStoreError::LocalShare => {
                return Begun::Said(self.alone(case));
            }
            Counted::Together | Counted::Granted => {}
        }
        let (key, step, overflowed) = self.step(case);
        let said = |taken: Taken| Begun::Said(Said { taken, overflowed, without_store: taken.over });
        match (step, case.ask.limit.mode) {
            (Step::Said(taken), _) => said(taken),
            (Step::SaidAndAsk(taken, refill), mode) => {
                self.ask(case, key, refill, mode);
                said(taken)
            }
            (Step::Ask(refill), Mode::Strict) => {
                Begun::Strict(self.ask_strictly(case, key, refill), overflowed)
            }
            (Step::Ask(refill), mode) => {
                let waits = self.waiting.add(key);
                self.ask(case, key, refill, mode);
                Begun::Waits(waits)
            }
            (Step::Wait, _) => Begun::Waits(self.waiting.add(key)),
        }
    }

    /// Waits for what was begun, until the deadline.
    pub(crate) async fn finish(self: &Arc<Self>, case: Case<'_>, begun: Begun) -> Said {
        let waits = async {
            let mut begun = begun;
            loop {
                begun = match begun {
                    Begun::Said(said) => return Some(said),
                    Begun::Strict(told, overflowed) => {
                        let taken = told.await.ok()?;
                        return Some(Said { taken, overflowed, without_store: false });
                    }
                    // What is under way when the store goes down comes too late for this one.
                    Begun::Waits(_) if self.pump.breaker().is_down() => return None,
                    Begun::Waits(more) => {
                        // Between a look and the wait for more, the answer may have come.
                        match self.begin(case) {
                            Begun::Waits(again) => {
                                let _woken = tokio::select! { woken = more => woken, woken = again => woken };
                                if self.pump.breaker().is_down() {
                                    return None;
                                }
                                self.begin(case)
                            }
                            decided => decided,
                        }
                    }
                };
            }
        };
        match timeout(self.deadline, waits).await {
            Ok(Some(Said { taken, overflowed, .. })) => Said { taken, overflowed, without_store: false },
            Ok(None) | Err(_) => unanswered(case),
        }
    }

    fn step(&self, case: Case<'_>) -> (Key, Step, bool) {
        let Case { ask, domain, now, .. } = case;
        let (terms, mode) = (&ask.limit.terms, ask.limit.mode);
        let sizing = Sizing::of(terms, self.pump.nodes());
        let step = |lease: &mut Lease| match mode {
            Mode::Lease => lease.take(terms, sizing, ask.hits, now),
            Mode::Strict => lease.take_strictly(terms, ask.hits, now),
            Mode::Optimistic => lease.take_optimistically(terms, sizing, ask.hits, now),
        };
        if let Some(step) = self.leases.with(ask.key, domain, Room::Bounded, now, step) {
            return (ask.key, step, false);
        }
        // Where the table is full, all keys without room share the limit's own lease.
        let shared = ask.limit.overflow;
        let step = self.leases.with(shared, domain, Room::Shared, now, step);
        let denied = Step::Said(Taken { over: true, remaining: 0, reset: terms.window });
        (shared, step.unwrap_or(denied), true)
    }

    /// The counter of a window, and with sliding ones that of the window before.
    fn ops(&self, key: Key, terms: &Terms, refill: Refill) -> Vec<Op> {
        let name = |begins: u64| format!("{}{key:032x}_{}", self.prefix, begins / 1_000_000_000);
        // Two windows: the second one looks at the first.
        let live_secs = refill.first.then_some(2 * terms.window / 1_000_000_000 + LIVE_LONGER_SECS);
        let act = match refill.amount {
            0 => Act::Look,
            amount => Act::Add { amount: amount.into(), live_secs },
        };
        let mut ops = vec![Op { key: name(refill.window), act }];
        if refill.before {
            ops.push(Op { key: name(refill.window.saturating_sub(terms.window)), act: Act::Look });
        }
        ops
    }

    fn ask(self: &Arc<Self>, case: Case<'_>, key: Key, refill: Refill, mode: Mode) {
        let (fleet, terms) = (Arc::clone(self), case.ask.limit.terms);
        let ops = self.ops(key, &terms, refill);
        let then = move |numbers: Option<&[i64]>| {
            let told = numbers.and_then(told);
            let back = fleet.leases.with_known(key, |lease| match (told, mode) {
                (told, Mode::Optimistic) => {
                    lease.told_optimistically(refill, told);
                    0
                }
                (Some(told), _) => lease.granted(&terms, refill, told, now()),
                (None, _) => {
                    lease.given_up(refill);
                    0
                }
            });
            fleet.give_back(key, &terms, refill.window, back.unwrap_or(0));
            fleet.waiting.wake(key);
        };
        self.pump.send(Errand { ops, then: Box::new(then) });
    }

    fn ask_strictly(self: &Arc<Self>, case: Case<'_>, key: Key, refill: Refill) -> oneshot::Receiver<Taken> {
        let (fleet, terms, hits) = (Arc::clone(self), case.ask.limit.terms, case.ask.hits);
        let (sender, receiver) = oneshot::channel();
        let then = move |numbers: Option<&[i64]>| {
            // Dropping the sender tells that there is no answer.
            let Some(told) = numbers.and_then(told) else { return };
            let said =
                fleet.leases.with_known(key, |lease| lease.told_strictly(&terms, refill, hits, told, now()));
            let Some((taken, back)) = said else { return };
            // Who has given up was refused: what was admitted is not used.
            let unused = if sender.send(taken).is_err() && !taken.over { refill.amount } else { back };
            fleet.give_back(key, &terms, refill.window, unused);
        };
        self.pump.send(Errand { ops: self.ops(key, &terms, refill), then: Box::new(then) });
        receiver
    }

    /// Takes hits off a counter: once, and never again, since a second time would grant what others have.
    fn give_back(&self, key: Key, terms: &Terms, window: u64, hits: u32) {
        let margin = Sizing::of(terms, 1).interval;
        let is_open = now().saturating_add(margin) < window.saturating_add(terms.window);
        if hits == 0 || !is_open {
            return;
        }
        let key = format!("{}{key:032x}_{}", self.prefix, window / 1_000_000_000);
        let act = Act::Add { amount: -i64::from(hits), live_secs: None };
        self.pump.send(Errand { ops: vec![Op { key, act }], then: Box::new(|_| ()) });
    }

    /// What was taken of a request that another limit has refused.
    pub(crate) fn take_back(&self, case: Case<'_>, overflowed: bool) {
        let Case { ask, now, .. } = case;
        let (terms, key) = (&ask.limit.terms, if overflowed { ask.limit.overflow } else { ask.key });
        let begins = window_of(now, terms.window);
        if self.pump.breaker().counted(begins) == Counted::Alone {
            let terms = self.share(terms);
            case.counters.with_known(key, |counter| counter.give_back(&terms, ask.hits));
            return;
        }
        match ask.limit.mode {
            Mode::Lease => drop(self.leases.with_known(key, |lease| lease.give_back(ask.hits))),
            Mode::Strict => {
                self.give_back(key, terms, begins, u32::try_from(ask.hits).unwrap_or(u32::MAX));
            }
            Mode::Optimistic => {
                self.leases.with_known(key, |lease| lease.forget(ask.hits));
            }
        }
    }

    /// This node's part of a limit. At least one, or small limits of large fleets would refuse everything.
    fn share(&self, terms: &Terms) -> Terms {
        let share = terms.requests / self.pump.nodes();
        Terms { requests: share.max(terms.requests.min(1)), ..*terms }
    }

    /// The store was down when the window began.
    fn alone(&self, case: Case<'_>) -> Said {
        let Case { ask, domain, counters, now } = case;
        let ends = ask.limit.terms.window - now % ask.limit.terms.window;
        match ask.limit.on_store_error {
            OnStoreError::Allow => answer(false, ask.limit.requests, ends),
            OnStoreError::Deny => answer(true, 0, ends),
            OnStoreError::LocalShare => {
                let terms = self.share(&ask.limit.terms);
                let hit = |key, room| {
                    counters.with(key, domain, room, now, |counter| counter.take(&terms, ask.hits, now))
                };
                let own = hit(ask.key, Room::Bounded);
                let overflowed = own.is_none();
                let taken = own.or_else(|| hit(ask.limit.overflow, Room::Shared));
                let taken = taken.unwrap_or(Taken { over: true, remaining: 0, reset: ends });
                Said { taken, overflowed, without_store: true }
            }
        }
    }

    /// For metrics.
    pub(crate) fn gauges(&self) -> [(&'static str, &'static str, u64); 5] {
        [
            ("leases", "Keys of which this node has a lease", self.leases.used() as u64),
            ("leases_bytes", "What they take, spare room included", self.leases.bytes() as u64),
            ("fleet_nodes", "Nodes that share the store, as last told", self.pump.nodes().into()),
            ("store_down", "Whether the store does not answer", self.pump.breaker().is_down().into()),
            ("store_operations", "Operations of the store so far", self.pump.ops.load(Ordering::Relaxed)),
        ]
    }
}

/// The store answers no more, or not in time: what was granted is used up, and more would be over the limit.
fn unanswered(case: Case<'_>) -> Said {
    let window = case.ask.limit.terms.window;
    let ends = window - case.now % window;
    match case.ask.limit.on_store_error {
        OnStoreError::Allow => answer(false, 0, ends),
        OnStoreError::LocalShare | OnStoreError::Deny => answer(true, 0, ends),
    }
}

/// Beyond two windows: clocks differ.
const LIVE_LONGER_SECS: u64 = 60;

fn now() -> u64 {
    crate::service::nanos(std::time::SystemTime::now())
}

/// The counter, and that of the window before where it was asked for. One below zero has lost its window.
fn told(numbers: &[i64]) -> Option<Told> {
    let number = |at: usize| numbers.get(at).map(|number| u64::try_from(*number).unwrap_or(0));
    Some(Told { after: number(0)?, before: number(1) })
}

#[cfg(test)]
#[path = "fleet/tests.rs"]
mod tests;
