//! Decides which requests are written. The same request gets the same answer on every node.

use crate::{Facts, Settings};

impl Settings {
    /// Whether a request is written. Looks only at status, request id and time, so that a filter can ask
    /// before it reads the rest.
    pub fn keeps(&self, facts: &Facts) -> bool {
        must_be_kept(facts.status) || roll(facts) < self.sample
    }
}

/// Errors and denials are what a log is read for; 0 is a client that left without an answer.
fn must_be_kept(status: u16) -> bool {
    matches!(status, 0 | 401 | 403 | 429 | 500..)
}

/// A number from 0 up to, but never, 1: from the request id, so that every hop keeps the same requests.
fn roll(facts: &Facts) -> f64 {
    let hash = match &facts.request_id {
        Some(id) => hash(id.as_bytes()),
        None => hash(&facts.time_ns.to_le_bytes()),
    };
    let [a, b, c, d, ..] = hash.to_be_bytes();
    f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
}

/// FNV-1a, finished as in SplitMix64: short ids alone would leave its upper bits uneven. A client could
/// choose its id; Envoy replaces those of clients outside, and errors are kept in any case.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(sample: f64) -> Settings {
        Settings { sample, ..Settings::default() }
    }

    fn request(id: u32, status: u16) -> Facts {
        Facts { status, request_id: Some(format!("00000000-0000-4000-8000-{id:012}")), ..Facts::default() }
    }

    #[test]
    fn about_the_asked_share_is_kept() {
        for (sample, least, most) in
            [(0.0, 0, 0), (0.01, 60, 140), (0.5, 4_800, 5_200), (1.0, 10_000, 10_000)]
        {
            let kept = (0..10_000).filter(|id| sampled(sample).keeps(&request(*id, 200))).count();
            assert!((least..=most).contains(&kept), "{kept} of 10,000 at {sample}");
        }
    }

    #[test]
    fn what_a_small_sample_keeps_a_larger_one_keeps_too() {
        for id in 0..1_000 {
            let request = request(id, 200);
            assert!(!sampled(0.1).keeps(&request) || sampled(0.2).keeps(&request));
        }
    }

    #[test]
    fn errors_and_denials_are_always_kept() {
        for status in [0, 401, 403, 429, 500, 503, 599] {
            assert!(sampled(0.0).keeps(&request(1, status)), "{status}");
        }
        for status in [200, 302, 400, 404] {
            assert!(!sampled(0.0).keeps(&request(1, status)), "{status}");
        }
    }

    #[test]
    fn requests_without_an_id_are_sampled_by_their_time() {
        let at = |time_ns| Facts { status: 200, time_ns, ..Facts::default() };
        let kept = (0..10_000).filter(|time| sampled(0.5).keeps(&at(*time))).count();
        assert!((4_800..=5_200).contains(&kept), "{kept}");
    }
}
