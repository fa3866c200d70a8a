//! How often each key was hit in its window. Bounded: a flood of keys fills its domain's table and no more, and
//! all tables together have a bound too.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::config::Limit;

/// Distinguishes counters: a hash of domain, entries and window length.
pub(crate) type Key = u128;

/// The counters of one domain.
#[derive(Debug)]
pub(crate) struct Counters {
    shards: Vec<Mutex<Shard>>,
    max_per_shard: usize,
    budget: Arc<Budget>,
}

#[derive(Debug, Default)]
struct Shard {
    windows: HashMap<Key, Window>,
    /// When it was last looked through for windows that have ended.
    swept: u64,
}

/// What all domains of a node share.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    /// Seconds since the epoch.
    ends: u64,
    hits: u64,
}

/// What a hit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) over: bool,
    pub(crate) remaining: u32,
    /// Seconds until the window ends.
    pub(crate) reset_secs: u64,
    /// There was no room for a counter of its own.
    pub(crate) overflowed: bool,
}

/// Threads rarely meet in one of so many.
const SHARDS: usize = 16;
/// Of one domain: one tenant's flood leaves room for the others.
pub(crate) const MAX_KEYS_PER_DOMAIN: usize = 65_536;
/// Of a node: about 100 MB when full, at 48 bytes an entry with the tables' spare room.
const MAX_KEYS: usize = 1_000_000;

impl Default for Budget {
    fn default() -> Self {
        Self { used: AtomicUsize::new(0), max: MAX_KEYS }
    }
}

impl Budget {
    /// How many keys have a counter.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn is_spent(&self) -> bool {
        self.used() >= self.max
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.len(), Ordering::Relaxed);
    }
}

impl Counters {
    pub(crate) fn new(max_keys: usize, budget: Arc<Budget>) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, max_per_shard: max_keys.div_ceil(SHARDS), budget }
    }

    /// Counts `hits` for a key; 0 only looks. Where the table is full of living windows, `overflow` (the
    /// limit's own key) is counted instead: never a fresh counter for a key that could not be kept.
    pub(crate) fn hit(&self, key: Key, overflow: Key, limit: &Limit, hits: u64, now: u64) -> Counted {
        if let Some(counted) = self.try_hit(key, limit, hits, now, self.max_per_shard) {
            return counted;
        }
        // The overflow counters are as few as the limits, and are let in over the bound.
        let counted = self.try_hit(overflow, limit, hits, now, usize::MAX);
        let denied =
            Counted { over: true, remaining: 0, reset_secs: limit.window_secs.get(), overflowed: true };
        counted.map_or(denied, |counted| Counted { overflowed: true, ..counted })
    }

    fn try_hit(&self, key: Key, limit: &Limit, hits: u64, now: u64, max: usize) -> Option<Counted> {
        let shard = usize::try_from(key % SHARDS as u128).unwrap_or(0);
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        if !shard.windows.contains_key(&key) {
            let full =
                |shard: &Shard| shard.windows.len() >= max || (max != usize::MAX && self.budget.is_spent());
            // At most once a second: a flood must not make every request look through the table.
            if full(&shard) && shard.swept != now {
                shard.swept = now;
                let before = shard.windows.len();
                shard.windows.retain(|_, window| window.ends > now);
                self.budget.used.fetch_sub(before - shard.windows.len(), Ordering::Relaxed);
            }
            if full(&shard) {
                return None;
            }
            self.budget.used.fetch_add(1, Ordering::Relaxed);
        }
        let ends = (now / limit.window_secs + 1).saturating_mul(limit.window_secs.get());
        let window = shard.windows.entry(key).or_insert(Window { ends, hits: 0 });
        if window.ends != ends {
            *window = Window { ends, hits: 0 };
        }
        window.hits = window.hits.saturating_add(hits);
        let remaining = u64::from(limit.requests).saturating_sub(window.hits);
        Some(Counted {
            over: window.hits > u64::from(limit.requests),
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            reset_secs: ends - now,
            overflowed: false,
        })
    }

    /// How many keys have a counter.
    fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).windows.len())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use envoy_types::pb::ratelimit::config::ratelimit::v3::RateLimitUnit;
    use proptest::prelude::*;

    use super::*;

    fn limit(requests: u32) -> Limit {
        let window_secs = NonZeroU64::new(60).unwrap();
        Limit { requests, unit: RateLimitUnit::Minute, window_secs, shadow: false }
    }

    fn hit(counters: &Counters, key: Key, requests: u32, hits: u64, now: u64) -> (bool, u32, u64) {
        let counted = counters.hit(key, 0, &limit(requests), hits, now);
        (counted.over, counted.remaining, counted.reset_secs)
    }

    #[test]
    fn a_window_lets_its_limit_pass_and_begins_anew_at_a_full_minute() {
        let counters = Counters::new(100, Arc::default());
        assert_eq!(hit(&counters, 1, 2, 1, 6_000_010), (false, 1, 50));
        assert_eq!(hit(&counters, 1, 2, 1, 6_000_010), (false, 0, 50));
        assert_eq!(hit(&counters, 1, 2, 1, 6_000_059), (true, 0, 1));
        assert_eq!(hit(&counters, 2, 2, 1, 6_000_059), (false, 1, 1), "another key");
        assert_eq!(hit(&counters, 1, 2, 1, 6_000_060), (false, 1, 60));
    }

    #[test]
    fn zero_hits_only_look_and_huge_ones_do_not_overflow() {
        let counters = Counters::new(100, Arc::default());
        assert_eq!(hit(&counters, 1, 2, 0, 0), (false, 2, 60));
        assert!(hit(&counters, 1, 2, u64::MAX, 0).0);
        assert!(hit(&counters, 1, 2, u64::MAX, 0).0);
        assert!(hit(&counters, 3, 0, 1, 0).0, "a limit of zero");
    }

    #[test]
    fn a_flood_of_keys_stays_in_its_bound_and_shares_one_counter() {
        let counters = Counters::new(160, Arc::default());
        for key in 1..=10_000 {
            counters.hit(key, u128::MAX, &limit(5), 1, 0);
        }
        assert!(counters.len() <= 160 + 1, "{}", counters.len());
        let counted = counters.hit(20_000, u128::MAX, &limit(5), 1, 0);
        assert!(counted.over && counted.overflowed);
        let fresh = counters.hit(20_000, u128::MAX, &limit(5), 1, 60);
        assert!(!fresh.over && !fresh.overflowed, "the old windows made room");
    }

    #[test]
    fn domains_share_a_budget_and_give_it_back() {
        let budget = Arc::new(Budget { used: AtomicUsize::new(0), max: 10 });
        let (flooded, other) =
            (Counters::new(100, Arc::clone(&budget)), Counters::new(100, Arc::clone(&budget)));
        for key in 1..=50 {
            flooded.hit(key, u128::MAX, &limit(5), 1, 0);
        }
        assert!(budget.used() <= 10 + 1);
        assert!(other.hit(1, u128::MAX, &limit(5), 1, 0).overflowed);
        drop(flooded);
        assert!(!other.hit(2, u128::MAX, &limit(5), 1, 0).overflowed);
    }

    proptest! {
        #[test]
        fn a_window_never_lets_more_pass_than_its_limit(requests in 0_u32..50, times in proptest::collection::vec(0_u64..180, 1..300)) {
            let counters = Counters::new(100, Arc::default());
            let mut passed = HashMap::<u64, u32>::new();
            let mut times = times;
            times.sort_unstable();
            for now in times {
                if !hit(&counters, 1, requests, 1, now).0 {
                    *passed.entry(now / 60).or_default() += 1;
                }
            }
            prop_assert!(passed.values().all(|count| *count <= requests));
        }
    }
}
