//! The counting itself: a counter, a limit, a time, and what comes of some hits. No IO, no clock of its own; exact, in
//! whole numbers.

use crate::table::Kept;

/// How hits are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Algorithm {
    /// Windows that are aligned to the Unix epoch, as the reference server has them.
    #[default]
    Fixed,
    /// The window before counts too, by the share of it that lies within the last window's length.
    Sliding,
    /// The generic cell rate algorithm: hits come back one by one, and the whole limit may come at once.
    Gcra,
}

/// What is counted against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) algorithm: Algorithm,
    /// 0 lets nothing pass.
    pub(crate) requests: u32,
    /// Nanoseconds, at least one second.
    pub(crate) window: u64,
    /// Whether hits that are refused leave the counter as it was. The reference counts them.
    pub(crate) all_or_nothing: bool,
}

/// What is known of a key on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counter {
    /// Hits in the window; with GCRA the theoretical arrival time in nanoseconds.
    count: u64,
    /// Hits in the window before; with GCRA what the arrival time has over the whole nanosecond, in parts of one
    /// `requests`th.
    before: u64,
    /// When the window begins, in nanoseconds; with GCRA the `requests` that the parts are of.
    window: u64,
    new_again_at: u64,
}

/// What hits came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) over: bool,
    pub(crate) remaining: u32,
    /// Nanoseconds until the window ends, or until what was refused would pass, or until everything is free again.
    pub(crate) reset: u64,
}

impl Kept for Counter {
    const NEW: Self = Self { count: 0, before: 0, window: 0, new_again_at: 0 };

    fn new_again_at(&self) -> u64 {
        self.new_again_at
    }
}

/// The window in which a time lies begins here.
pub(crate) fn window_of(now: u64, window: u64) -> u64 {
    now - now % window
}

fn at_most_u32(number: u128) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn at_most_u64(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

impl Counter {
    /// Counts `hits`; 0 only looks. `now` is in nanoseconds since the epoch.
    pub(crate) fn take(&mut self, terms: &Terms, hits: u64, now: u64) -> Taken {
        match terms.algorithm {
            Algorithm::Fixed => self.take_fixed(terms, hits, now),
            Algorithm::Sliding => self.take_sliding(terms, hits, now),
            Algorithm::Gcra => self.take_gcra(terms, hits, now),
        }
    }

    /// Gives back what was taken at the same time, for a request that another limit has refused.
    pub(crate) fn give_back(&mut self, terms: &Terms, hits: u64) {
        match terms.algorithm {
            Algorithm::Fixed | Algorithm::Sliding => self.count = self.count.saturating_sub(hits),
            Algorithm::Gcra => {
                let requests = u128::from(terms.requests.max(1));
                let given = u128::from(hits) * u128::from(terms.window);
                self.set_arrival((self.arrival(terms)).saturating_sub(given), requests);
            }
        }
    }

    /// Moves on to the window of `now`. A clock that was set back by less than a window stays in the later one: it
    /// makes nothing new.
    fn enter(&mut self, window: u64, now: u64) {
        let begins = window_of(now, window);
        if begins <= self.window && self.window - begins <= window {
            return;
        }
        let follows = begins == self.window.saturating_add(window);
        self.before = if follows { self.count } else { 0 };
        self.count = 0;
        self.window = begins;
    }

    fn take_fixed(&mut self, terms: &Terms, hits: u64, now: u64) -> Taken {
        self.enter(terms.window, now);
        let limit = u64::from(terms.requests);
        let after = self.count.saturating_add(hits);
        let over = after > limit;
        if !(over && terms.all_or_nothing) {
            self.count = after;
        }
        let ends = self.window.saturating_add(terms.window);
        self.new_again_at = ends;
        let remaining = at_most_u32(limit.saturating_sub(self.count).into());
        Taken { over, remaining, reset: ends.saturating_sub(now) }
    }

    fn take_sliding(&mut self, terms: &Terms, hits: u64, now: u64) -> Taken {
        self.enter(terms.window, now);
        let (limit, window) = (u128::from(terms.requests), u128::from(terms.window));
        let left = u128::from(self.window.saturating_add(terms.window).saturating_sub(now)).min(window);
        // Rounded up: never more than the limit in the estimate.
        let before = (u128::from(self.before) * left).div_ceil(window);
        let room = limit.saturating_sub(before).saturating_sub(self.count.into());
        let wanted = u128::from(hits.max(1));
        let over = room < wanted;
        let counted = match (over, terms.all_or_nothing) {
            _ if hits == 0 => 0,
            (false, _) => hits,
            // What was left is used up, so that costs which are told afterwards count.
            (true, false) => at_most_u64(room),
            (true, true) => 0,
        };
        self.count = self.count.saturating_add(counted);
        let ends = self.window.saturating_add(terms.window);
        self.new_again_at = ends.saturating_add(terms.window);
        let remaining = room - u128::from(counted).min(room);
        let reset =
            if over { self.sliding_retry(terms, at_most_u64(wanted), left) } else { at_most_u64(left) };
        Taken { over, remaining: at_most_u32(remaining), reset }
    }

    /// Nanoseconds until so many hits would pass: as the window before fades, or at the end of this one.
    fn sliding_retry(&self, terms: &Terms, wanted: u64, left: u128) -> u64 {
        let may_be_before =
            u128::from(terms.requests).checked_sub(u128::from(self.count) + u128::from(wanted));
        let fades = may_be_before.filter(|_| self.before > 0).map(|before| {
            left.saturating_sub(before * u128::from(terms.window) / u128::from(self.before)).max(1)
        });
        at_most_u64(fades.unwrap_or(left))
    }

    /// The arrival time in parts of one `requests`th of a nanosecond.
    fn arrival(&self, terms: &Terms) -> u128 {
        let requests = u128::from(terms.requests.max(1));
        // Parts of another limit, which has been changed since, are rounded up.
        let parts = if self.window == u64::from(terms.requests) { u128::from(self.before) } else { requests };
        if self.count == 0 { 0 } else { u128::from(self.count) * requests + parts }
    }

    fn set_arrival(&mut self, arrival: u128, requests: u128) {
        self.count = at_most_u64(arrival / requests);
        self.before = at_most_u64(arrival % requests);
        self.window = at_most_u64(requests);
        self.new_again_at = self.count.saturating_add(u64::from(self.before > 0));
    }

    fn take_gcra(&mut self, terms: &Terms, hits: u64, now: u64) -> Taken {
        let (requests, window) = (u128::from(terms.requests), u128::from(terms.window));
        if requests == 0 {
            return Taken { over: true, remaining: 0, reset: terms.window };
        }
        let now_parts = u128::from(now) * requests;
        let full = now_parts + window * requests;
        let arrival = self.arrival(terms).clamp(now_parts, full);
        let wanted = u128::from(hits.max(1)) * window;
        let over = arrival + wanted > full;
        let next = match (over, terms.all_or_nothing) {
            _ if hits == 0 => arrival,
            (false, _) => arrival + wanted,
            // The whole hits that were left are used up; the part of one is not, or who asks all the time got nothing.
            (true, false) => arrival + (full - arrival) / window * window,
            (true, true) => arrival,
        };
        self.set_arrival(next, requests);
        let until = |parts: u128| at_most_u64(parts.div_ceil(requests));
        let reset =
            if over { until(next + wanted.min(window * requests) - full) } else { until(next - now_parts) };
        Taken { over, remaining: at_most_u32((full - next) / window), reset }
    }
}

#[cfg(test)]
#[path = "counter/tests.rs"]
mod tests;
