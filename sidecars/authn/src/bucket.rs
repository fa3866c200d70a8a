//! A token bucket: so many at once, and so many a second.

/// No request takes so long; a clock that differs by more was set.
const FAR_SECS: f64 = 5.0;

/// Filled by time, emptied by use.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    per_second: f64,
    burst: f64,
    left: f64,
    /// Seconds since the epoch.
    since: f64,
}

impl Bucket {
    /// Full.
    pub(crate) fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second, burst, left: burst, since: 0.0 }
    }

    /// Whether there was one more. `now` in seconds since the epoch.
    pub(crate) fn take(&mut self, now: f64) -> bool {
        // A request that began earlier fills nothing twice, and a clock that was set back does not stop it.
        let passed = (now - self.since).max(0.0);
        self.since = if now < self.since - FAR_SECS { now } else { self.since.max(now) };
        self.left = (self.left + passed * self.per_second).min(self.burst);
        let has_one = self.left >= 1.0;
        if has_one {
            self.left -= 1.0;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_a_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(2.0, 3.0);
        let mut taken = |now| (0..10).filter(|_| bucket.take(now)).count();
        assert_eq!((taken(100.0), taken(101.0), taken(50.0), taken(51.0), taken(1_000.0)), (3, 2, 0, 2, 3));
        let turns: Vec<_> = (0..4).map(|_| (taken(999.5), taken(1_000.0))).collect();
        assert_eq!(turns, [(0, 0); 4], "two requests that began at different times");
    }
}
