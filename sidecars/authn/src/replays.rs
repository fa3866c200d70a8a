//! Proofs that were seen: each is good once. As long as one could come again it is remembered, and then forgotten.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use jwt::{PROOF_WINDOW_SECS, Proven};

/// Of one process: a proof could be used once on each node in its minute.
#[derive(Debug, Default)]
pub(crate) struct Replays(Mutex<Windows>);

/// Two spans of time, so that forgetting costs nothing.
#[derive(Debug, Default)]
struct Windows {
    now: HashSet<[u8; 16]>,
    before: HashSet<[u8; 16]>,
    /// When `now` began. Seconds since the epoch.
    since: f64,
}

/// Whether a proof is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    First,
    Before,
    TooMany,
}

/// A proof is good from a window before its time to a window after it.
const SPAN_SECS: f64 = 2.0 * PROOF_WINDOW_SECS;
/// In a span: 4,000 a second on one node. Both spans together take some 40 MB at the most.
const MAX_PROOFS: usize = 500_000;

impl Replays {
    /// Remembers it.
    pub(crate) fn note(&self, proof: &Proven, now: f64) -> Seen {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A request that began earlier turns nothing back; nor does a clock that was set back, after which a window
        // would otherwise last for ever.
        windows.since = windows.since.min(now);
        let age = now - windows.since;
        if age >= SPAN_SECS {
            let last = std::mem::take(&mut windows.now);
            windows.before = if age < 2.0 * SPAN_SECS { last } else { HashSet::new() };
            windows.since = now;
        }
        let mut id = [0; 16];
        // Both are hashes: what one client chooses for an id does not meet what another one did.
        for (at, byte) in id.iter_mut().enumerate() {
            *byte = proof.id[at] ^ proof.key[at];
        }
        if windows.before.contains(&id) || windows.now.contains(&id) {
            Seen::Before
        } else if windows.now.len() >= MAX_PROOFS {
            Seen::TooMany
        } else {
            windows.now.insert(id);
            Seen::First
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(id: u8, key: u8) -> Proven {
        Proven { key: [key; 32], id: [id; 32], issued_at: 0.0 }
    }

    #[test]
    fn a_proof_is_good_once_for_as_long_as_it_is_good_at_all() {
        let replays = Replays::default();
        assert_eq!(replays.note(&proof(1, 1), 1_000.0), Seen::First);
        for later in [1_000.0, 1_060.0, 1_119.0] {
            assert_eq!(replays.note(&proof(1, 1), later), Seen::Before, "{later}");
        }
        assert_eq!(replays.note(&proof(2, 1), 1_121.0), Seen::First, "another one");
        assert_eq!(replays.note(&proof(1, 1), 1_121.0), Seen::Before, "still remembered");
        assert_eq!(replays.note(&proof(1, 1), 2_000.0), Seen::First, "nobody takes it any more");
    }

    #[test]
    fn a_clock_that_is_set_back_forgets_nothing() {
        let replays = Replays::default();
        assert_eq!(replays.note(&proof(1, 1), 1_000.0), Seen::First);
        assert_eq!(replays.note(&proof(1, 1), 900.0), Seen::Before);
        assert_eq!(replays.note(&proof(1, 1), 1_000.0), Seen::Before);
    }

    #[test]
    fn a_request_that_began_before_a_turn_takes_nothing_away() {
        let replays = Replays::default();
        assert_eq!(replays.note(&proof(1, 1), 1_000.0), Seen::First);
        assert_eq!(replays.note(&proof(2, 1), 1_121.0), Seen::First);
        assert_eq!(replays.note(&proof(3, 1), 1_120.9), Seen::First);
        for id in [1, 2, 3] {
            assert_eq!(replays.note(&proof(id, 1), 1_121.0), Seen::Before, "{id}");
        }
    }

    #[test]
    fn when_nothing_more_can_be_remembered_nothing_passes() {
        let replays = Replays::default();
        {
            let mut windows = replays.0.lock().unwrap();
            windows.since = 1_000.0;
            windows.now = (0..MAX_PROOFS).map(|at| (at as u128).to_le_bytes()).collect();
        }
        assert_eq!(replays.note(&proof(1, 2), 1_001.0), Seen::TooMany);
    }
}
