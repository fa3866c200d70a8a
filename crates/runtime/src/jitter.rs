//! Randomness for pauses, so that those who failed together do not come back together. Not for secrets.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// From 0 to 1.
pub fn share() -> f64 {
    // The hasher's random state is random enough, and brings no dependency.
    let random = RandomState::new().hash_one(0_u8) >> 32;
    #[allow(clippy::cast_precision_loss)]
    let share = random as f64 / f64::from(u32::MAX);
    share
}

/// Half to one and a half times the pause.
pub fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + share())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_and_stay_within_their_bounds() {
        let second = Duration::from_secs(1);
        let pauses: Vec<_> = (0..100).map(|_| jittered(second)).collect();
        assert!(pauses.iter().all(|pause| (second / 2..=second * 3 / 2).contains(pause)), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause < second) && pauses.iter().any(|pause| *pause > second));
    }
}
