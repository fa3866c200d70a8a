//! How long is tried what fails for a passing reason.

use std::time::Duration;

use runtime::jitter::jittered;

/// How often a job is tried, and how long it rests in between.
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    /// Tries before the operation has failed.
    pub most: u32,
    /// The pause after the first; it doubles each time.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
    /// How long a step may take. The one that waits for the fleet has a time of its own.
    pub step: Duration,
    /// How long those may take that wait for the world outside: names, certificates, a CDN.
    pub slow_step: Duration,
    /// A step that takes longer is said to be under way: that is a write more.
    pub tell_after: Duration,
}

impl Default for Retries {
    /// About eight minutes of pauses: longer than an API of AWS throttles, shorter than a platform waits.
    fn default() -> Self {
        Self {
            most: 20,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            step: Duration::from_secs(60),
            // CloudFront takes up to half an hour for a change.
            slow_step: Duration::from_secs(45 * 60),
            tell_after: Duration::from_secs(1),
        }
    }
}

impl Retries {
    /// The pause after a try, counted from 1.
    pub(crate) fn pause(&self, attempt: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << attempt.saturating_sub(1).min(16));
        jittered(doubled.min(self.longest))
    }
}
