//! A fleet in one thread: two thousand nodes in thirteen regions with the real leases, counters and breakers, and stores
//! whose answers take their time, are lost, or forget. The same seed gives the same run.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use crate::{
    counter::{Algorithm, Counter, Terms, window_of},
    fleet::{
        breaker::{Breaker, Counted},
        lease::{Lease, Refill, Sizing, Step, Told},
    },
    table::Kept as _,
};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
/// Runs begin at a full day.
const BEGINS: u64 = 20_000 * 86_400 * SECOND;
/// As a request waits in a sidecar.
const DEADLINE: u64 = 5 * MS;
/// As the sidecar gives an answer up.
const GIVE_UP: u64 = SECOND;
/// As a sidecar looks whether its store is up again.
const PROBE: u64 = 100 * MS;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Case {
    /// In the table.
    pub name: &'static str,
    /// Strict, or leases.
    pub strict: bool,
    /// Of the whole fleet, in a window.
    pub limit: u32,
    /// Seconds.
    pub window_secs: u64,
    /// How much more than the limit is asked for.
    pub load: f64,
    /// There and back, in milliseconds.
    pub round_trip_ms: u64,
    /// Clocks are wrong by at most so many milliseconds, to both sides.
    pub skew_ms: u64,
    /// Seconds after which every tenth node is replaced by one that knows nothing, again and again.
    pub churn_secs: u64,
    /// What happens to the stores, in the second half of a run.
    pub trouble: Trouble,
}

/// What happens to stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// Each forgets its last second, as a failover may.
    Failover,
    /// All answer nothing for three seconds and a half.
    Outage,
    /// Regions do not reach each other. Each has a store of its own, so nothing happens.
    RegionsApart,
    /// Half of the nodes do not reach their store, and the others do.
    HalfCutOff,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// Of all windows the largest.
    pub admitted_to_limit: f64,
    /// Of all windows together: what passed, of what could have.
    pub used: f64,
    /// Operations of all stores for each request.
    pub ops_per_request: f64,
    /// Requests.
    pub requests: u64,
}

/// The cases of the table in the documents.
pub fn cases() -> Vec<Case> {
    let calm = Case {
        name: "lease, 10,000/s",
        strict: false,
        limit: 10_000,
        window_secs: 1,
        load: 2.0,
        round_trip_ms: 1,
        skew_ms: 0,
        churn_secs: 0,
        trouble: Trouble::None,
    };
    let minute = Case { name: "lease, 60,000/min", limit: 60_000, window_secs: 60, ..calm.clone() };
    vec![
        calm.clone(),
        Case { name: "lease, 10,000/s, load 0.9", load: 0.9, ..calm.clone() },
        minute.clone(),
        Case { name: "strict, 10,000/s", strict: true, ..calm.clone() },
        Case { name: "lease, clocks wrong by 500 ms", skew_ms: 500, ..calm.clone() },
        Case { name: "lease, nodes replaced", churn_secs: 1, ..calm.clone() },
        Case { name: "lease, stores 4 ms away", round_trip_ms: 4, ..calm.clone() },
        Case { name: "lease, regions apart", trouble: Trouble::RegionsApart, ..calm.clone() },
        Case { name: "lease, stores down for 3.5 s", trouble: Trouble::Outage, ..calm.clone() },
        Case {
            name: "strict, stores down for 3.5 s",
            strict: true,
            trouble: Trouble::Outage,
            ..calm.clone()
        },
        Case { name: "lease, half of the nodes cut off", trouble: Trouble::HalfCutOff, ..calm },
        Case { name: "lease, failover loses a second", trouble: Trouble::Failover, ..minute },
    ]
}

/// How large it is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Of all regions.
    pub nodes: usize,
    /// Each has a store, and a share of the limit.
    pub regions: usize,
    /// Seconds; windows of a minute get two of them.
    pub seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Hit {
        node: usize,
    },
    /// At the store.
    Asked {
        node: usize,
        mail: usize,
    },
    /// Back at the node.
    Told {
        node: usize,
        mail: usize,
    },
    /// Nobody waits any more.
    Late {
        node: usize,
        mail: usize,
    },
    Probe {
        node: usize,
    },
    Churn,
    Trouble,
}

#[derive(Debug, Clone, Copy)]
struct Mail {
    refill: Refill,
    told: Option<Told>,
    /// A life of a node: what another one asked is not answered to its successor.
    life: u32,
    is_done: bool,
}

struct Node {
    region: usize,
    skew: i64,
    life: u32,
    lease: Lease,
    alone: Counter,
    breaker: Breaker,
    /// When those who wait came.
    waiting: Vec<u64>,
}

#[derive(Default)]
struct Store {
    counters: BTreeMap<u64, u64>,
    /// What was added when, for a failover to forget.
    log: Vec<(u64, u64, u64)>,
}

struct World {
    case: Case,
    /// Of each region.
    terms: Vec<Terms>,
    nodes: Vec<Node>,
    nodes_of_region: u32,
    stores: Vec<Store>,
    mail: Vec<Mail>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    numbered: u64,
    now: u64,
    down: (u64, u64),
    admitted: BTreeMap<u64, u64>,
    offered: BTreeMap<u64, u64>,
    ops: u64,
    random: u64,
}

/// Runs a case.
pub fn run(case: &Case, size: Size, seed: u64) -> Run {
    let mut world = World::new(case.clone(), size, seed);
    let seconds = size.seconds.max(2 * case.window_secs);
    world.offer(size, seconds);
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        world.now = at;
        world.happens(event);
    }
    let limit = f64::from(case.limit);
    #[allow(clippy::cast_precision_loss)]
    let float = |number: u64| number as f64;
    let requests = world.offered.values().sum::<u64>();
    let possible: f64 = world.offered.values().map(|offered| float(*offered).min(limit)).sum();
    let largest = world.admitted.values().max().copied().unwrap_or(0);
    Run {
        admitted_to_limit: float(largest) / limit,
        used: float(world.admitted.values().sum()) / possible,
        ops_per_request: float(world.ops) / float(requests.max(1)),
        requests,
    }
}

impl World {
    fn new(case: Case, size: Size, seed: u64) -> Self {
        let regions = u32::try_from(size.regions).unwrap_or(1).max(1);
        let share = |region: u32| case.limit / regions + u32::from(region < case.limit % regions);
        let terms = |region: u32| Terms {
            algorithm: Algorithm::Fixed,
            requests: share(region),
            window: case.window_secs * SECOND,
            all_or_nothing: false,
        };
        let mut world = Self {
            terms: (0..regions).map(terms).collect(),
            nodes: Vec::new(),
            // Rounded up: nobody's share is too large.
            nodes_of_region: u32::try_from(size.nodes.div_ceil(size.regions)).unwrap_or(1),
            stores: (0..regions).map(|_| Store::default()).collect(),
            mail: Vec::new(),
            events: BinaryHeap::new(),
            numbered: 0,
            now: BEGINS,
            down: (u64::MAX, u64::MAX),
            admitted: BTreeMap::new(),
            offered: BTreeMap::new(),
            ops: 0,
            random: seed | 1,
            case,
        };
        for node in 0..size.nodes {
            let skew_ms = world.case.skew_ms;
            let skew = i64::try_from(world.next() % (2 * skew_ms * MS + 1)).unwrap_or(0)
                - i64::try_from(skew_ms * MS).unwrap_or(0);
            world.nodes.push(Node {
                region: node % size.regions,
                skew,
                life: 0,
                lease: Lease::NEW,
                alone: Counter::NEW,
                breaker: Breaker::closed(),
                waiting: Vec::new(),
            });
        }
        world
    }

    /// xorshift64*: good enough, and the same everywhere.
    fn next(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn later(&mut self, at: u64, event: Event) {
        self.numbered += 1;
        self.events.push(Reverse((at, self.numbered, event)));
    }

    /// All requests: a few nodes get most of them (Zipf), at random times.
    fn offer(&mut self, size: Size, seconds: u64) {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let requests = (f64::from(self.case.limit) * self.case.load * seconds as f64
            / self.case.window_secs as f64) as u64;
        let mut sums = Vec::with_capacity(size.nodes);
        let mut sum = 0.0_f64;
        for node in 0..size.nodes {
            #[allow(clippy::cast_precision_loss)]
            let weight = 1.0 / (node / size.regions + 1) as f64;
            sum += weight;
            sums.push(sum);
        }
        for _ in 0..requests {
            #[allow(clippy::cast_precision_loss)]
            let point = (self.next() >> 11) as f64 / (1_u64 << 53) as f64 * sum;
            let node = sums.partition_point(|until| *until <= point).min(size.nodes - 1);
            let at = BEGINS + self.next() % (seconds * SECOND);
            self.later(at, Event::Hit { node });
        }
        let middle = BEGINS + seconds * SECOND / 2 + 300 * MS;
        if self.case.trouble != Trouble::None {
            self.later(middle, Event::Trouble);
        }
        let churn = self.case.churn_secs * SECOND;
        for at in
            (BEGINS + churn..BEGINS + seconds * SECOND).step_by(usize::try_from(churn.max(1)).unwrap_or(1))
        {
            if churn == 0 {
                break;
            }
            self.later(at, Event::Churn);
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Hit { node } => {
                let window = window_of(self.clock(node), self.terms[0].window);
                *self.offered.entry(window).or_default() += 1;
                self.hit(node, self.now);
            }
            Event::Asked { node, mail } => self.asked(node, mail),
            Event::Told { node, mail } => self.told(node, mail),
            Event::Late { node, mail } => self.late(node, mail),
            Event::Probe { node } => self.probe(node),
            Event::Churn => {
                for node in (0..self.nodes.len()).step_by(10) {
                    let known = &mut self.nodes[node];
                    known.life += 1;
                    known.lease = Lease::NEW;
                    known.waiting.clear();
                }
            }
            Event::Trouble => self.trouble(),
        }
    }

    fn trouble(&mut self) {
        match self.case.trouble {
            Trouble::Outage | Trouble::HalfCutOff => self.down = (self.now, self.now + 3_500 * MS),
            Trouble::Failover => {
                for store in &mut self.stores {
                    for (at, window, amount) in store.log.drain(..).rev() {
                        if at + SECOND > self.now {
                            *store.counters.entry(window).or_default() -= amount;
                        }
                    }
                }
            }
            Trouble::None | Trouble::RegionsApart => {}
        }
    }

    fn reaches_store(&self, node: usize) -> bool {
        let is_down = (self.down.0..self.down.1).contains(&self.now);
        !(is_down && (self.case.trouble == Trouble::Outage || node.is_multiple_of(2)))
    }

    /// As the node's clock has it.
    fn clock(&self, node: usize) -> u64 {
        self.now.saturating_add_signed(self.nodes[node].skew)
    }

    fn admit(&mut self, node: usize) {
        let window = window_of(self.clock(node), self.terms[0].window);
        *self.admitted.entry(window).or_default() += 1;
    }

    /// As `Fleet::begin` has it. Those who wait are asked again when there is an answer.
    fn hit(&mut self, node: usize, came: u64) {
        let (clock, region) = (self.clock(node), self.nodes[node].region);
        let terms = self.terms[region];
        let known = &mut self.nodes[node];
        let counted = known.breaker.counted(window_of(clock, terms.window));
        if counted == Counted::Alone {
            let share = Terms { requests: terms.requests / self.nodes_of_region, ..terms };
            if !known.alone.take(&share, 1, clock).over {
                self.admit(node);
            }
            return;
        }
        let step = if self.case.strict {
            known.lease.take_strictly(&terms, 1, clock)
        } else {
            known.lease.take(&terms, Sizing::of(&terms, self.nodes_of_region), 1, clock)
        };
        match step {
            Step::Said(taken) => {
                if !taken.over {
                    self.admit(node);
                }
            }
            Step::SaidAndAsk(taken, refill) => {
                if !taken.over {
                    self.admit(node);
                }
                self.ask(node, refill);
            }
            Step::Ask(refill) => {
                if counted == Counted::Granted {
                    self.nodes[node].lease.given_up(refill);
                    return;
                }
                if !self.case.strict {
                    self.nodes[node].waiting.push(came);
                }
                self.ask(node, refill);
            }
            Step::Wait => self.nodes[node].waiting.push(came),
        }
    }

    fn ask(&mut self, node: usize, refill: Refill) {
        if self.nodes[node].breaker.is_down() {
            self.nodes[node].lease.given_up(refill);
            return;
        }
        let (mail, life) = (self.mail.len(), self.nodes[node].life);
        self.mail.push(Mail { refill, told: None, life, is_done: false });
        self.later(self.now + self.case.round_trip_ms * MS / 2, Event::Asked { node, mail });
        self.later(self.now + DEADLINE, Event::Late { node, mail });
    }

    fn asked(&mut self, node: usize, mail: usize) {
        if !self.reaches_store(node) {
            return;
        }
        self.ops += 1;
        let (refill, store) = (self.mail[mail].refill, &mut self.stores[self.nodes[node].region]);
        let counter = store.counters.entry(refill.window).or_default();
        *counter += u64::from(refill.amount);
        store.log.push((self.now, refill.window, refill.amount.into()));
        self.mail[mail].told = Some(Told { after: *counter, before: None });
        self.later(self.now + self.case.round_trip_ms.div_ceil(2) * MS, Event::Told { node, mail });
    }

    fn told(&mut self, node: usize, mail: usize) {
        let Mail { refill, told: Some(told), life, .. } = self.mail[mail] else { return };
        self.mail[mail].is_done = true;
        let (clock, terms) = (self.clock(node), self.terms[self.nodes[node].region]);
        let known = &mut self.nodes[node];
        if known.life != life {
            return;
        }
        known.breaker.answered(clock);
        if self.case.strict {
            let (taken, _) = known.lease.told_strictly(&terms, refill, 1, told, clock);
            // It counts in the window that was asked.
            if !taken.over {
                *self.admitted.entry(refill.window).or_default() += 1;
            }
            return;
        }
        known.lease.granted(&terms, refill, told, clock);
        let waiting = std::mem::take(&mut known.waiting);
        let now = self.now;
        for came in waiting.into_iter().filter(|came| came + DEADLINE >= now) {
            self.hit(node, came);
        }
    }

    fn late(&mut self, node: usize, mail: usize) {
        let Mail { refill, life, is_done, told } = self.mail[mail];
        if is_done || self.nodes[node].life != life {
            return;
        }
        let (clock, was_down) = (self.clock(node), self.nodes[node].breaker.is_down());
        let known = &mut self.nodes[node];
        known.waiting.clear();
        known.breaker.failed(clock);
        if told.is_none() {
            known.lease.given_up(refill);
        }
        if !was_down && known.breaker.is_down() {
            self.later(self.now + PROBE, Event::Probe { node });
        }
    }

    fn probe(&mut self, node: usize) {
        let clock = self.clock(node);
        if self.reaches_store(node) && self.case.round_trip_ms * MS <= DEADLINE {
            self.nodes[node].breaker.answered(clock);
        } else if self.now < self.down.1.saturating_add(GIVE_UP) {
            self.later(self.now + PROBE, Event::Probe { node });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_case_without_a_failover_or_a_cut_lets_more_pass_than_the_limit() {
        let size = Size { nodes: 200, regions: 13, seconds: 10 };
        for case in cases() {
            let run = run(&case, size, 2026);
            let bound = match case.trouble {
                Trouble::Failover => 1.1,
                // Each node that is cut off has its share, beside those that are not.
                Trouble::HalfCutOff => 1.5,
                _ => 1.0,
            };
            assert!(run.admitted_to_limit <= bound, "{}: {run:?}", case.name);
            let least = if case.trouble == Trouble::None && case.skew_ms == 0 { 0.75 } else { 0.2 };
            assert!(run.used > least, "{}: {run:?}", case.name);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let (case, size) = (&cases()[0], Size { nodes: 50, regions: 3, seconds: 3 });
        assert_eq!(run(case, size, 7), run(case, size, 7));
        assert_ne!(run(case, size, 7), run(case, size, 8));
    }
}
