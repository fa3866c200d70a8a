//! The algebra of leases: what a node may give out of a limit that a fleet shares. No IO, no clock of its own.
//!
//! A node adds to the window's counter in the store what it wants, and is granted what lies below the limit: with the
//! counter at `before`, the grant is `limit - before`, at most what it wanted. The counter is at least the sum of all
//! grants at any time, so they never exceed the limit, whatever is lost, late or in another order. What is doubled or
//! lost strands hits, and never makes some.

use crate::{
    counter::{Algorithm, Taken, Terms, window_of},
    table::Kept,
};

/// What a node knows of a key that the fleet counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    /// When the window begins, in nanoseconds.
    window: u64,
    /// Nothing is asked of the store before.
    not_before: u64,
    /// When it was last asked.
    asked_at: u64,
    /// Granted, and not given out.
    tokens: u32,
    /// The store's counter, as it was last told; it may be over the limit.
    counter: u32,
    /// The final count of the window before; sliding windows have to know it.
    before: Option<u32>,
    /// Given out since the store was last asked: what is wanted next time.
    spent: u32,
    /// The number of the question that is under way, of which there is one at a time; 0 without.
    under_way: u32,
    /// Of the last question.
    last: u32,
    /// How much it wanted.
    sized: u32,
    /// Whether the counter was told in this window.
    is_told: bool,
}

/// A question to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refill {
    /// What is added to the counter; 0 only looks.
    pub(crate) amount: u32,
    pub(crate) window: u64,
    /// Whether the window before is asked about too.
    pub(crate) before: bool,
    /// Whether it is this node's first in the window: then the counter gets its time to live.
    pub(crate) first: bool,
    number: u32,
}

/// What the store said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    /// The counter, with what was added.
    pub(crate) after: u64,
    /// Of the window before, where it was asked about.
    pub(crate) before: Option<u64>,
}

/// What can be said at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Decided here.
    Said(Taken),
    /// Decided here, and the store is to be asked already, so that the next one need not wait.
    SaidAndAsk(Taken, Refill),
    /// The store has to be asked.
    Ask(Refill),
    /// It is being asked.
    Wait,
}

/// How much is taken at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizing {
    /// For so long a lease is meant to last, in nanoseconds.
    pub(crate) interval: u64,
    /// How many nodes share what is left.
    pub(crate) nodes: u32,
}

/// A lease lasts no longer: what is not given out is lost to the others until the window ends.
const MAX_INTERVAL: u64 = 200_000_000;
/// Of a window.
const INTERVALS: u64 = 20;
/// A key that is asked for now and then gets so much at once, where the limit is large.
const FLOOR: u32 = 64;
/// A lease is no more than so much of what is left for a node: the last ones of a limit are given out one by one.
const LEFT_SHARE: u32 = 4;
/// The floor is no more than so much of what is left for a node.
const FLOOR_SHARE: u32 = 20;

impl Sizing {
    pub(crate) fn of(terms: &Terms, nodes: u32) -> Self {
        Self { interval: (terms.window / INTERVALS).min(MAX_INTERVAL), nodes: nodes.max(1) }
    }
}

impl Kept for Lease {
    const NEW: Self = Self {
        window: 0,
        not_before: 0,
        asked_at: 0,
        tokens: 0,
        counter: 0,
        before: None,
        spent: 0,
        under_way: 0,
        last: 0,
        sized: 0,
        is_told: false,
    };

    /// Without a grant there is nothing to lose, but another request may be waiting: a question is answered, or given
    /// up, long before the longest window ends.
    fn new_again_at(&self) -> u64 {
        if self.under_way != 0 {
            return u64::MAX;
        }
        // The lengths of windows are no part of what is kept: `not_before` is the end of a window that is used up.
        self.not_before.max(self.asked_at.saturating_add(KEPT_AFTER))
    }
}

/// What is granted of a key that nobody asks for is forgotten after this, in nanoseconds: then it is lost to the others.
const KEPT_AFTER: u64 = 60_000_000_000;

fn at_most_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Lease {
    /// Counts hits out of what is granted; 0 only looks.
    pub(crate) fn take(&mut self, terms: &Terms, sizing: Sizing, hits: u64, now: u64) -> Step {
        self.enter(terms, now);
        if hits == 0 {
            return self.look(terms, sizing, now);
        }
        let Some(left) = u64::from(self.tokens).checked_sub(hits) else {
            if self.is_used_up(now) {
                if !terms.all_or_nothing {
                    self.tokens = 0;
                }
                return Step::Said(self.taken(terms, true, now));
            }
            let needed = at_most_u32(hits - u64::from(self.tokens)).min(terms.requests.saturating_add(1));
            return self.ask(terms, needed, self.wanted(terms, sizing, needed, now), now);
        };
        self.tokens = at_most_u32(left);
        self.spent = self.spent.saturating_add(at_most_u32(hits));
        let taken = self.taken(terms, false, now);
        // A quarter is left: by the time it is used up, the store has answered.
        let wanted = self.wanted(terms, sizing, 1, now);
        if self.tokens < wanted / 4
            && !self.is_used_up(now)
            && let Step::Ask(refill) = self.ask(terms, 1, wanted, now)
        {
            return Step::SaidAndAsk(taken, refill);
        }
        Step::Said(taken)
    }

    /// Asks the store for just these hits.
    pub(crate) fn take_strictly(&mut self, terms: &Terms, hits: u64, now: u64) -> Step {
        self.enter(terms, now);
        if self.is_used_up(now) && hits > 0 {
            return Step::Said(self.taken(terms, true, now));
        }
        let amount = at_most_u32(hits).min(terms.requests.saturating_add(1));
        let refill = Refill {
            amount,
            window: self.window,
            before: terms.algorithm == Algorithm::Sliding,
            first: !self.is_told,
            number: 0,
        };
        self.is_told = true;
        self.asked_at = now;
        Step::Ask(refill)
    }

    /// What the store said of just these hits, and how many are given back.
    pub(crate) fn told_strictly(
        &mut self,
        terms: &Terms,
        refill: Refill,
        hits: u64,
        told: Told,
        now: u64,
    ) -> (Taken, u32) {
        let limit = effective_limit(terms, refill.window, told.before.unwrap_or(0), now);
        let before = told.after.saturating_sub(refill.amount.into());
        let room = limit.saturating_sub(before);
        let over = if hits == 0 { is_over(terms, told.after, limit) } else { hits > room };
        if self.window == refill.window {
            self.counter = self.counter.max(at_most_u32(told.after));
            self.before = told.before.map(at_most_u32).or(self.before);
            if over && room == 0 && hits > 0 {
                self.not_before = self.not_before.max(self.next_try(terms, told.before.unwrap_or(0), now));
            }
        }
        let back = match (over, terms.all_or_nothing, terms.algorithm) {
            (true, true, _) => refill.amount,
            // A sliding window would remember for its length what was refused.
            (true, false, Algorithm::Sliding) => at_most_u32(u64::from(refill.amount).saturating_sub(room)),
            (false, ..) | (true, false, _) => 0,
        };
        let ends = refill.window.saturating_add(terms.window);
        let until = if over { self.not_before.max(now + 1).min(ends) } else { ends };
        let reset = until.saturating_sub(now);
        let remaining = at_most_u32(if over { 0 } else { room - hits });
        (Taken { over, remaining, reset }, back)
    }

    /// Gives out at once, as long as what is known leaves room. What was given out is told the store by the way.
    pub(crate) fn take_optimistically(&mut self, terms: &Terms, sizing: Sizing, hits: u64, now: u64) -> Step {
        self.enter(terms, now);
        let known = u64::from(self.counter) + u64::from(self.spent) + u64::from(self.tokens);
        let limit = effective_limit(terms, self.window, u64::from(self.before.unwrap_or(0)), now);
        let over = known.saturating_add(hits) > limit;
        if !over {
            self.spent = self.spent.saturating_add(at_most_u32(hits));
        } else if !terms.all_or_nothing && hits > 0 {
            self.spent = self.spent.saturating_add(at_most_u32(limit.saturating_sub(known)));
        }
        let left = limit.saturating_sub(known.saturating_add(if over { 0 } else { hits }));
        let ends = self.window.saturating_add(terms.window);
        let taken = Taken { over, remaining: at_most_u32(left), reset: ends.saturating_sub(now) };
        let is_due =
            now.saturating_sub(self.asked_at) >= sizing.interval / 4 || self.spent == at_most_u32(hits);
        if self.under_way == 0 && (self.spent > 0 || !self.is_told) && is_due {
            let amount = self.spent;
            if let Step::Ask(refill) = self.ask(terms, 0, amount, now) {
                // Under way: neither known by the store nor forgotten here.
                self.tokens = amount;
                return Step::SaidAndAsk(taken, refill);
            }
        }
        Step::Said(taken)
    }

    /// The store's answer to what was given out optimistically.
    pub(crate) fn told_optimistically(&mut self, refill: Refill, told: Option<Told>) {
        if self.under_way != refill.number || self.window != refill.window {
            return;
        }
        self.under_way = 0;
        let amount = std::mem::take(&mut self.tokens);
        match told {
            Some(told) => {
                self.counter = at_most_u32(told.after);
                self.before = told.before.map(at_most_u32).or(self.before);
            }
            // It may have heard it or not: telling it again errs on the side of the limit.
            None => self.spent = self.spent.saturating_add(amount),
        }
    }

    /// Takes in a grant, once. How many hits of it are given back to the store.
    pub(crate) fn granted(&mut self, terms: &Terms, refill: Refill, told: Told, now: u64) -> u32 {
        if self.under_way != refill.number || self.window != refill.window {
            // Given up, or of a window that is over: it is stranded.
            return 0;
        }
        self.under_way = 0;
        self.counter = at_most_u32(told.after);
        self.before = told.before.map(at_most_u32).or(self.before);
        let before = told.after.saturating_sub(refill.amount.into());
        let previous = u64::from(self.before.unwrap_or(0));
        let limit = effective_limit(terms, self.window, previous, now);
        let grant = at_most_u32(limit.saturating_sub(before).min(refill.amount.into()));
        self.tokens = self.tokens.saturating_add(grant);
        let is_more =
            if refill.amount == 0 { !is_over(terms, told.after, limit) } else { grant == refill.amount };
        if is_more {
            return 0;
        }
        self.not_before = self.next_try(terms, previous, now);
        // A fixed window that is used up stays so. A sliding one would remember what was never given out.
        if terms.algorithm == Algorithm::Sliding {
            self.counter = self.counter.saturating_sub(refill.amount - grant);
            refill.amount - grant
        } else {
            0
        }
    }

    /// The answer will not come.
    pub(crate) fn given_up(&mut self, refill: Refill) {
        if self.under_way == refill.number {
            self.under_way = 0;
        }
    }

    /// Gives back what was taken for a request that another limit has refused.
    pub(crate) fn give_back(&mut self, hits: u64) {
        self.tokens = self.tokens.saturating_add(at_most_u32(hits));
    }

    /// Forgets what was given out optimistically, where the store was not told yet.
    pub(crate) fn forget(&mut self, hits: u64) {
        self.spent = self.spent.saturating_sub(at_most_u32(hits));
    }

    /// The window of `now`. A clock that was set back by less than a window stays in the later one.
    fn enter(&mut self, terms: &Terms, now: u64) {
        let begins = window_of(now, terms.window);
        if begins <= self.window && self.window - begins <= terms.window {
            return;
        }
        *self =
            Self { window: begins, spent: self.spent, asked_at: self.asked_at, last: self.last, ..Self::NEW };
    }

    fn is_used_up(&self, now: u64) -> bool {
        now < self.not_before
    }

    /// When something may be left again, of a window that is used up.
    fn next_try(&self, terms: &Terms, previous: u64, now: u64) -> u64 {
        let ends = self.window.saturating_add(terms.window);
        if terms.algorithm == Algorithm::Fixed || previous == 0 {
            return ends;
        }
        // When one more hit of the window before has left.
        let fades = (terms.window / previous).max(Sizing::of(terms, 1).interval);
        ends.min(now.saturating_add(fades))
    }

    fn look(&mut self, terms: &Terms, sizing: Sizing, now: u64) -> Step {
        let is_fresh = self.is_told && now.saturating_sub(self.asked_at) < sizing.interval;
        if !is_fresh && self.under_way == 0 && !self.is_used_up(now) {
            return self.ask(terms, 0, 0, now);
        }
        if !is_fresh && self.under_way != 0 {
            return Step::Wait;
        }
        let limit = effective_limit(terms, self.window, u64::from(self.before.unwrap_or(0)), now);
        let over = self.tokens == 0 && (self.is_used_up(now) && is_over(terms, self.counter.into(), limit));
        Step::Said(self.taken(terms, over, now))
    }

    fn ask(&mut self, terms: &Terms, needed: u32, wanted: u32, now: u64) -> Step {
        if self.under_way != 0 {
            return Step::Wait;
        }
        self.last = self.last.wrapping_add(1).max(1);
        self.under_way = self.last;
        let refill = Refill {
            amount: wanted.max(needed),
            window: self.window,
            before: terms.algorithm == Algorithm::Sliding && self.before.is_none(),
            first: !self.is_told,
            number: self.last,
        };
        self.is_told = true;
        self.sized = refill.amount;
        self.spent = 0;
        self.asked_at = now;
        Step::Ask(refill)
    }

    /// For an interval at the rate of late, or twice as much as last time where that did not last for one; and no more
    /// than this node's part of what is left.
    fn wanted(&self, terms: &Terms, sizing: Sizing, needed: u32, now: u64) -> u32 {
        let since = now.saturating_sub(self.asked_at);
        let rate = if since < sizing.interval {
            u128::from(self.sized) * 2
        } else {
            u128::from(self.spent) * u128::from(sizing.interval) / u128::from(since.max(1))
        };
        let left = terms.requests.saturating_sub(self.counter) / sizing.nodes;
        let (left, floor) = (left / LEFT_SHARE, FLOOR.min(left / FLOOR_SHARE));
        u32::try_from(rate).unwrap_or(u32::MAX).max(floor).min(left).max(needed)
    }

    fn taken(&self, terms: &Terms, over: bool, now: u64) -> Taken {
        let ends = self.window.saturating_add(terms.window);
        let until = if over { self.not_before.clamp(now + 1, ends.max(now + 1)) } else { ends };
        let left = terms.requests.saturating_sub(self.counter).saturating_add(self.tokens);
        Taken {
            over,
            remaining: if over { self.tokens } else { left.min(terms.requests) },
            reset: until.saturating_sub(now),
        }
    }
}

/// As the reference has it: over is what has been refused, and not what is just used up.
fn is_over(terms: &Terms, counter: u64, limit: u64) -> bool {
    match terms.algorithm {
        Algorithm::Fixed | Algorithm::Gcra => counter > limit,
        Algorithm::Sliding => counter >= limit,
    }
}

/// How far the counter may go in this window: with a sliding one the limit without the share of the window before that
/// lies within the last window's length.
fn effective_limit(terms: &Terms, window: u64, previous: u64, now: u64) -> u64 {
    let limit = u64::from(terms.requests);
    if terms.algorithm != Algorithm::Sliding {
        return limit;
    }
    let left = window.saturating_add(terms.window).saturating_sub(now).min(terms.window);
    let weighed = (u128::from(previous) * u128::from(left)).div_ceil(u128::from(terms.window));
    limit.saturating_sub(u64::try_from(weighed).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[path = "lease/tests.rs"]
mod tests;
