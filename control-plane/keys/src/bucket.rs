//! How many wishes are granted, whoever has them: tokens that come back with time. Pure.

use std::time::Duration;

use crate::moment::Moment;

/// A bucket of tokens.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: u32,
    filled: Moment,
}

/// After an incident operators refresh a few issuers at once.
const CAPACITY: u32 = 10;
/// One a second is what all issuers together are asked early for: less than 64 issuers are asked in the usual way in
/// their shortest age.
const EVERY: Duration = Duration::from_secs(1);

impl Bucket {
    pub(crate) fn full(now: Moment) -> Self {
        Self { tokens: CAPACITY, filled: now }
    }

    /// Whether there was a token.
    pub(crate) fn take(&mut self, now: Moment) -> bool {
        let earned = now.since(self.filled).as_secs() / EVERY.as_secs();
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(u32::try_from(earned).unwrap_or(CAPACITY)).min(CAPACITY);
            self.filled = now;
        }
        let is_there = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Moment {
        Moment { wall: Duration::from_secs(1_000 + secs), running: Duration::from_secs(secs) }
    }

    #[test]
    fn a_storm_gets_the_bucket_and_then_one_a_second() {
        let mut bucket = Bucket::full(at(0));
        assert_eq!((0..1000).filter(|_| bucket.take(at(0))).count(), 10);
        assert_eq!((0..1000).filter(|_| bucket.take(at(1))).count(), 1);
        assert_eq!((0..1000).filter(|_| bucket.take(at(4))).count(), 3);
        assert_eq!((0..1000).filter(|_| bucket.take(at(100_000))).count(), 10);
    }

    #[test]
    fn a_clock_that_is_set_back_neither_fills_nor_blocks_it() {
        let mut bucket = Bucket::full(at(0));
        while bucket.take(at(0)) {}
        let back = |running| Moment { wall: Duration::ZERO, running: Duration::from_secs(running) };
        assert!(!bucket.take(back(0)));
        assert!(bucket.take(back(1)));
        assert!(!bucket.take(back(1)));
    }
}
