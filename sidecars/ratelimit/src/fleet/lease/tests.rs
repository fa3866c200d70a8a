//! Leases of several nodes at one store, while questions and answers are lost, late, doubled, and out of order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const NODES: usize = 4;

fn terms(algorithm: Algorithm, requests: u32) -> Terms {
    Terms { algorithm, requests, window: SECOND, all_or_nothing: false }
}

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Act {
    Hit {
        node: usize,
        hits: u64,
    },
    /// One of what is under way arrives at the store, or back at its node.
    Arrive {
        which: usize,
    },
    /// The question, or the answer.
    Lose {
        which: usize,
    },
    /// As a client does that does not know whether it was heard. Only what adds is ever sent again.
    Double {
        which: usize,
    },
    Pass {
        nanos: u64,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let which = 0_usize..100;
    let act = prop_oneof![
        6 => (0..NODES, 0_u64..8).prop_map(|(node, hits)| Act::Hit { node, hits }),
        6 => which.clone().prop_map(|which| Act::Arrive { which }),
        1 => which.clone().prop_map(|which| Act::Lose { which }),
        1 => which.prop_map(|which| Act::Double { which }),
        2 => prop_oneof![Just(SECOND / 3), 0..SECOND / 20, Just(3 * SECOND)].prop_map(|nanos| Act::Pass { nanos }),
    ];
    proptest::collection::vec(act, 1..300)
}

#[derive(Debug, Clone, Copy)]
enum Mail {
    Question { node: usize, refill: Refill, strict: Option<u64> },
    Answer { node: usize, refill: Refill, told: Told, strict: Option<u64> },
    Return { window: u64, amount: u32 },
}

/// The store, its nodes, and what is between them.
struct World {
    terms: Terms,
    strict: bool,
    nodes: [Lease; NODES],
    counters: BTreeMap<u64, i64>,
    mail: Vec<Mail>,
    now: u64,
    admitted: BTreeMap<u64, u64>,
}

impl World {
    fn new(terms: Terms, strict: bool) -> Self {
        let (counters, mail, admitted) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self { terms, strict, nodes: [Lease::NEW; NODES], counters, mail, now: 100 * SECOND, admitted }
    }

    fn hit(&mut self, node: usize, hits: u64) {
        let sizing = Sizing::of(&self.terms, 2);
        let lease = &mut self.nodes[node];
        let step = if self.strict {
            lease.take_strictly(&self.terms, hits, self.now)
        } else {
            lease.take(&self.terms, sizing, hits, self.now)
        };
        let strict = self.strict.then_some(hits);
        match step {
            Step::Said(taken) => self.said(taken, hits, self.now),
            Step::SaidAndAsk(taken, refill) => {
                self.said(taken, hits, self.now);
                self.mail.push(Mail::Question { node, refill, strict });
            }
            Step::Ask(refill) => self.mail.push(Mail::Question { node, refill, strict }),
            Step::Wait => {}
        }
    }

    fn said(&mut self, taken: Taken, hits: u64, at: u64) {
        if !taken.over {
            *self.admitted.entry(window_of(at, self.terms.window)).or_default() += hits;
        }
    }

    fn arrive(&mut self, mail: Mail) {
        match mail {
            Mail::Question { node, refill, strict } => {
                let before = refill.before.then(|| {
                    let previous = self.counters.get(&(refill.window - self.terms.window));
                    u64::try_from(previous.copied().unwrap_or(0)).unwrap_or(0)
                });
                let counter = self.counters.entry(refill.window).or_default();
                *counter += i64::from(refill.amount);
                let told = Told { after: u64::try_from(*counter).unwrap_or(0), before };
                self.mail.push(Mail::Answer { node, refill, told, strict });
            }
            Mail::Answer { node, refill, told, strict } => {
                let back = if let Some(hits) = strict {
                    let (taken, back) =
                        self.nodes[node].told_strictly(&self.terms, refill, hits, told, self.now);
                    // It counts in the window that was asked.
                    self.said(taken, hits, refill.window);
                    back
                } else {
                    self.nodes[node].granted(&self.terms, refill, told, self.now)
                };
                if back > 0 {
                    self.mail.push(Mail::Return { window: refill.window, amount: back });
                }
            }
            Mail::Return { window, amount } => *self.counters.entry(window).or_default() -= i64::from(amount),
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Hit { node, hits } => self.hit(node, hits),
            Act::Pass { nanos } => self.now += nanos,
            Act::Arrive { which } if !self.mail.is_empty() => {
                let mail = self.mail.swap_remove(which % self.mail.len());
                self.arrive(mail);
            }
            Act::Lose { which } if !self.mail.is_empty() => {
                match self.mail.swap_remove(which % self.mail.len()) {
                    Mail::Question { node, refill, strict: None }
                    | Mail::Answer { node, refill, strict: None, .. } => self.nodes[node].given_up(refill),
                    _ => {}
                }
            }
            Act::Double { which } if !self.mail.is_empty() => {
                let mail = self.mail[which % self.mail.len()];
                // A strict question that is asked twice would be answered twice.
                if matches!(mail, Mail::Question { strict: None, .. } | Mail::Answer { strict: None, .. }) {
                    self.mail.push(mail);
                }
            }
            Act::Arrive { .. } | Act::Lose { .. } | Act::Double { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn grants_never_exceed_the_limit_whatever_is_lost_late_or_doubled(requests in 0_u32..60, strict: bool, all_or_nothing: bool, acts in acts()) {
        let terms = Terms { all_or_nothing, ..terms(Algorithm::Fixed, requests) };
        let mut world = World::new(terms, strict);
        for act in acts {
            world.act(act);
        }
        for (window, admitted) in &world.admitted {
            prop_assert!(*admitted <= u64::from(requests), "{admitted} of {requests} in {window}");
        }
    }

    #[test]
    fn a_sliding_window_of_the_fleet_never_exceeds_its_limit_in_a_window(requests in 0_u32..60, strict: bool, acts in acts()) {
        let mut world = World::new(terms(Algorithm::Sliding, requests), strict);
        for act in acts {
            world.act(act);
        }
        prop_assert!(world.admitted.values().all(|admitted| *admitted <= u64::from(requests)));
    }
}

/// Hits one after another, each answered by the store at once: how many pass.
fn passed(world: &mut World, hits: usize, each: u64) -> usize {
    let before = world.admitted.values().sum::<u64>();
    for _ in 0..hits {
        for _ in 0..3 {
            let had = world.admitted.values().sum::<u64>();
            world.hit(0, each);
            while let Some(mail) = world.mail.pop() {
                world.arrive(mail);
            }
            if world.admitted.values().sum::<u64>() > had {
                break;
            }
        }
    }
    usize::try_from((world.admitted.values().sum::<u64>() - before) / each.max(1)).unwrap()
}

#[test]
fn one_node_alone_gets_the_whole_limit_and_no_more() {
    for algorithm in [Algorithm::Fixed, Algorithm::Sliding] {
        for strict in [false, true] {
            let mut world = World::new(terms(algorithm, 1_000), strict);
            assert_eq!(passed(&mut world, 1_500, 1), 1_000, "{algorithm:?} {strict}");
        }
    }
}

#[test]
fn a_hot_key_asks_the_store_seldom() {
    let terms = terms(Algorithm::Fixed, 1_000_000);
    let (mut lease, mut asked, mut counter) = (Lease::NEW, 0, 0);
    for hit in 0_u64..100_000 {
        let now = 100 * SECOND + hit * 5_000;
        loop {
            let step = lease.take(&terms, Sizing::of(&terms, 1), 1, now);
            let (Step::Ask(refill) | Step::SaidAndAsk(_, refill)) = step else { break };
            asked += 1;
            counter += u64::from(refill.amount);
            lease.granted(&terms, refill, Told { after: counter, before: None }, now);
            if matches!(step, Step::SaidAndAsk(..)) {
                break;
            }
        }
    }
    assert!(asked < 200, "{asked} questions for 100,000 hits in half a second");
}

#[test]
fn costs_that_are_told_afterwards_use_the_limit_up_for_all() {
    let mut world = World::new(terms(Algorithm::Fixed, 100), false);
    assert_eq!(passed(&mut world, 1, 500), 0, "more than the limit never passes");
    let looked = world.nodes[0].take(&world.terms, Sizing::of(&world.terms, 1), 0, world.now);
    assert!(matches!(looked, Step::Said(Taken { over: true, remaining: 0, .. })), "{looked:?}");
    // Another node learns of it by looking.
    world.hit(1, 0);
    while let Some(mail) = world.mail.pop() {
        world.arrive(mail);
    }
    let looked = world.nodes[1].take(&world.terms, Sizing::of(&world.terms, 1), 0, world.now);
    assert!(matches!(looked, Step::Said(Taken { over: true, .. })), "{looked:?}");
}

#[test]
fn an_optimistic_node_gives_out_at_once_and_hears_of_the_others() {
    let (mut lease, terms) = (Lease::NEW, terms(Algorithm::Fixed, 10));
    let sizing = Sizing::of(&terms, 1);
    let Step::SaidAndAsk(taken, refill) = lease.take_optimistically(&terms, sizing, 1, 100 * SECOND) else {
        panic!("it asks by the way")
    };
    assert!(!taken.over && refill.amount == 1);
    for _ in 0..9 {
        let Step::Said(taken) = lease.take_optimistically(&terms, sizing, 1, 100 * SECOND) else { panic!() };
        assert!(!taken.over);
    }
    let Step::Said(taken) = lease.take_optimistically(&terms, sizing, 1, 100 * SECOND) else { panic!() };
    assert!(taken.over, "its own are known");
    lease.told_optimistically(refill, Some(Told { after: 300, before: None }));
    let step = lease.take_optimistically(&terms, sizing, 1, 100 * SECOND + SECOND / 2);
    assert!(matches!(
        step,
        Step::Said(Taken { over: true, .. }) | Step::SaidAndAsk(Taken { over: true, .. }, _)
    ));
}
