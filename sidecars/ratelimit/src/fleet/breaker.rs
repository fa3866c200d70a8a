//! Whether the store answers: after a few failures it is asked no more but by a probe. And when it did not, since a
//! window in whose beginning it did not is counted here to its end.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// Read by every request, written by whoever asks the store.
#[derive(Debug)]
pub(crate) struct Breaker {
    /// Nanoseconds since the epoch; `UP` while it answers.
    down_since: AtomicU64,
    failures: AtomicU32,
    /// The last time that it did not answer, from and to.
    outage: Mutex<(u64, u64)>,
    /// The end of that time, to look at without the lock.
    outage_ends: AtomicU64,
}

/// How a window is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// With the store.
    Together,
    /// The store answered when the window began, and does not now: only what is granted already.
    Granted,
    /// The store did not answer when the window began: this node's share, to the window's end.
    Alone,
}

const UP: u64 = u64::MAX;
/// One late answer is no outage.
const FAILURES: u32 = 3;

impl Breaker {
    /// Of a store that is there.
    pub(crate) fn closed() -> Self {
        Self {
            down_since: AtomicU64::new(UP),
            failures: AtomicU32::new(0),
            outage: Mutex::new((0, 0)),
            outage_ends: AtomicU64::new(0),
        }
    }

    /// Of a store that never was.
    pub(crate) fn without_store() -> Self {
        Self { down_since: AtomicU64::new(0), ..Self::closed() }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down_since.load(Ordering::Acquire) != UP
    }

    /// How a window that begins at this time is counted.
    pub(crate) fn counted(&self, begins: u64) -> Counted {
        let since = self.down_since.load(Ordering::Acquire);
        if since != UP {
            return if since <= begins { Counted::Alone } else { Counted::Granted };
        }
        if self.outage_ends.load(Ordering::Acquire) <= begins {
            return Counted::Together;
        }
        let (from, to) = *self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        if from <= begins && begins < to { Counted::Alone } else { Counted::Together }
    }

    /// It answered in time. Whether it was down.
    pub(crate) fn answered(&self, now: u64) -> bool {
        self.failures.store(0, Ordering::Relaxed);
        if !self.is_down() {
            return false;
        }
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        let since = self.down_since.load(Ordering::Acquire);
        if since == UP {
            return false;
        }
        *outage = (since, now);
        self.outage_ends.store(now, Ordering::Release);
        self.down_since.store(UP, Ordering::Release);
        true
    }

    /// It failed, or was late. Whether it is down by that.
    pub(crate) fn failed(&self, now: u64) -> bool {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 < FAILURES {
            return false;
        }
        self.down_since.compare_exchange(UP, now, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_a_few_failures_in_a_row() {
        let breaker = Breaker::closed();
        assert!(!breaker.failed(1) && !breaker.failed(2));
        assert!(!breaker.answered(3) && !breaker.failed(4) && !breaker.failed(5) && !breaker.is_down());
        assert!(breaker.failed(6) && breaker.is_down());
        assert!(!breaker.failed(7), "it is down already");
        assert!(breaker.answered(9) && !breaker.is_down());
    }

    #[test]
    fn a_window_in_whose_beginning_it_was_down_is_counted_alone_to_its_end() {
        let breaker = Breaker::closed();
        for now in [10, 10, 10] {
            breaker.failed(now);
        }
        assert_eq!(breaker.counted(5), Counted::Granted, "it answered when the window began");
        assert_eq!(breaker.counted(15), Counted::Alone);
        breaker.answered(20);
        assert_eq!(breaker.counted(5), Counted::Together);
        assert_eq!(breaker.counted(15), Counted::Alone, "others may count alone still");
        assert_eq!(breaker.counted(20), Counted::Together);
        assert_eq!(Breaker::without_store().counted(0), Counted::Alone);
    }
}
