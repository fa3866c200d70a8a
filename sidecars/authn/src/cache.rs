//! Credentials that were verified a moment ago: a hash and a look in the place of a signature check.
//!
//! An entry is found by the whole credential, its place, and the policy that it was verified for, and counts only while it
//! has not expired and the keys that verified it are in force. What was refused is remembered for seconds, apart from
//! the rest.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use prometheus_client::metrics::counter::Counter;
use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle},
};

use crate::{
    method::{Place, Proven},
    policy::Methods,
};

/// Verified credentials of one process.
pub struct Tokens {
    /// Drawn at the start: who cannot know it cannot make two credentials meet.
    secret: [u8; 32],
    good: Cache<Id, Arc<Known>, ByTexts>,
    bad: Cache<Id, Bad>,
    looks: Looks,
}

/// What came of looks; counted here, and read by whoever reads the metrics.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    /// It was known as a good one.
    pub(crate) hits: Counter,
    /// It was refused a moment ago.
    pub(crate) refusals: Counter,
    /// It had to be verified.
    pub(crate) misses: Counter,
}

/// Of a credential for a policy: half of a keyed hash, whose key nobody knows who could look for two that meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id([u8; 16]);

/// A credential that was verified.
#[derive(Debug)]
pub(crate) struct Known {
    /// By which of the policy's methods.
    pub(crate) methods: Methods,
    pub(crate) proven: Proven,
}

/// A credential that was refused.
#[derive(Debug, Clone, Copy)]
struct Bad {
    why: &'static str,
    /// Seconds since the epoch.
    until: f64,
}

/// How much room an entry takes.
#[derive(Clone)]
struct ByTexts;

/// With 100,000 tokens of a common size it holds them all.
const MAX_BYTES: u64 = 34 * 1024 * 1024;
/// Of a common size. The tables have room for them from the start: one that grows is there twice for a while, and pages
/// that nobody has touched cost nothing.
const COMMON: usize = 110_000;
/// The share of them whose keys are remembered when they are pushed out, to tell who comes again.
const GHOSTS: f64 = 0.1;
/// Seconds. A change of policy, key or revocation is looked at with each hit; this is for what nobody looks at.
const LONGEST: f64 = 300.0;
/// Seconds. Who repeats a bad credential at once costs a hash, and who mends a key waits no longer than this.
const LONGEST_BAD: f64 = 3.0;
/// Others push them out; each costs a check again.
const MAX_BAD: usize = 10_000;
/// What an entry costs beside its texts: the key, the entry, and their places in the tables.
const ENTRY_BYTES: usize = 256;

impl Id {
    /// Of no credential.
    pub(crate) const NONE: Self = Self([0; 16]);
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("good", &self.good.len()).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Empty. The secret is random.
    pub fn new(secret: [u8; 32]) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(COMMON)
            .weight_capacity(MAX_BYTES)
            .ghost_allocation(GHOSTS)
            .build();
        // It fails where a bound is missing, and none is.
        let good = match options {
            Ok(options) => Cache::with_options(
                options,
                ByTexts,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
            Err(_) => Cache::with_weighter(COMMON, MAX_BYTES, ByTexts),
        };
        Self { secret, good, bad: Cache::new(MAX_BAD), looks: Looks::default() }
    }

    /// What came of looks so far.
    pub(crate) fn looks(&self) -> &Looks {
        &self.looks
    }

    /// How many good credentials are remembered, and in how many bytes.
    pub(crate) fn size(&self) -> (usize, u64) {
        (self.good.len(), self.good.weight())
    }

    /// Lengths stand before the parts, so that no two questions are one text.
    pub(crate) fn id(&self, policy: &[u8; 32], place: Place<'_>, credential: &str) -> Id {
        let mut hash = blake3::Hasher::new_keyed(&self.secret);
        hash.update(policy);
        let (kind, name) = match place {
            Place::Authorization(scheme) => ("authorization", scheme),
            Place::Header(name) => ("header", name),
            Place::Cookie(name) => ("cookie", name),
            Place::Certificate => ("certificate", ""),
        };
        for part in [kind, name, credential] {
            hash.update(&part.len().to_le_bytes());
            hash.update(part.as_bytes());
        }
        let mut id = [0; 16];
        hash.finalize_xof().fill(&mut id);
        Id(id)
    }

    /// Who was proven by it, if it still is.
    pub(crate) fn known(&self, id: &Id, now: f64) -> Option<Arc<Known>> {
        // Nobody but what is in force holds on to keys.
        let is_in_force =
            |known: &Known| known.proven.keys.as_ref().is_none_or(|keys| Weak::strong_count(keys) > 0);
        let found = self.good.get(id).filter(|known| now < known.proven.until && is_in_force(known));
        if found.is_some() {
            self.looks.hits.inc();
        }
        found
    }

    /// Why it was refused a moment ago. Asked after [`Self::known`]: what is neither has to be verified.
    pub(crate) fn refusal(&self, id: &Id, now: f64) -> Option<&'static str> {
        let why = self.bad.get(id).filter(|bad| now < bad.until).map(|bad| bad.why);
        let count = if why.is_some() { &self.looks.refusals } else { &self.looks.misses };
        count.inc();
        why
    }

    /// It was verified.
    pub(crate) fn keep(&self, id: Id, methods: Methods, proven: Proven, now: f64) -> Arc<Known> {
        let until = proven.until.min(now + LONGEST);
        let known = Arc::new(Known { methods, proven: Proven { until, ..proven } });
        self.good.insert(id, known.clone());
        known
    }

    /// It was refused.
    pub(crate) fn keep_bad(&self, id: Id, why: &'static str, now: f64) {
        self.bad.insert(id, Bad { why, until: now + LONGEST_BAD });
    }
}

impl Weighter<Id, Arc<Known>> for ByTexts {
    fn weight(&self, _: &Id, known: &Arc<Known>) -> u64 {
        (ENTRY_BYTES + known.proven.identity.weight()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Identity, Kind, Texts};

    const BEARER: Place<'_> = Place::Authorization("bearer");

    fn policy(rev: u8) -> [u8; 32] {
        [rev; 32]
    }

    fn alice(keys: &Arc<jwt::Keys>, until: f64) -> Proven {
        let identity = Identity::new(Kind::Jwt, Texts { subject: "alice", ..Texts::default() });
        Proven { identity, keys: Some(Arc::downgrade(keys)), confirmation: None, until }
    }

    #[test]
    fn a_token_is_known_for_its_policy_its_place_its_keys_and_its_time() {
        let tokens = Tokens::new([7; 32]);
        let keys = Arc::new(jwt::testing::keys());
        let id = tokens.id(&policy(1), BEARER, "token");
        let keep = |until| tokens.keep(id, Methods::default(), alice(&keys, until), 0.0);
        let subject = |id: &Id, now| {
            tokens.known(id, now).map(|known| known.proven.identity.texts().subject.to_owned())
        };
        keep(100.0);
        assert_eq!(subject(&id, 99.0).as_deref(), Some("alice"));
        assert_eq!(subject(&id, 100.0), None, "its time is over");
        assert_eq!(subject(&tokens.id(&policy(2), BEARER, "token"), 99.0), None);
        assert_eq!(subject(&tokens.id(&policy(1), BEARER, "toke"), 99.0), None);
        assert_eq!(subject(&tokens.id(&policy(1), Place::Cookie("token"), "token"), 99.0), None);
        keep(10_000.0);
        assert_eq!(subject(&id, 300.0), None, "nothing is kept for longer");
        keep(100.0);
        let other = Tokens::new([8; 32]).id(&policy(1), BEARER, "token");
        assert!(other.0 != id.0, "nobody can tell what two tokens meet at");
        drop(keys);
        assert_eq!(subject(&id, 99.0), None, "its keys were replaced");
    }

    #[test]
    fn parts_of_a_question_do_not_run_into_each_other_cve_2026_48096_cve_2026_34972_cve_2026_46668() {
        let tokens = Tokens::new([7; 32]);
        let of = |place, token: &str| tokens.id(&policy(1), place, token).0;
        assert_ne!(of(BEARER, "a"), of(BEARER, "a\0"));
        assert_ne!(of(Place::Cookie("b"), "c"), of(Place::Cookie("bc"), ""));
        assert_ne!(of(Place::Cookie("b"), "c"), of(Place::Header("b"), "c"));
    }

    #[test]
    fn what_was_refused_is_no_identity() {
        let tokens = Tokens::new([7; 32]);
        let id = tokens.id(&policy(1), BEARER, "bad");
        tokens.keep_bad(id, "no", 10.0);
        assert_eq!(tokens.refusal(&id, 12.9), Some("no"));
        assert_eq!(tokens.refusal(&id, 13.0), None, "it is looked at again");
        assert!(tokens.known(&id, 0.0).is_none());
    }

    /// Line 31 of docs/security.md: whoever makes tokens up, or has many, fills no more than the tables hold.
    #[test]
    fn a_hundred_thousand_credentials_take_no_more_than_their_room() {
        let tokens = Tokens::new([7; 32]);
        let keys = Arc::new(jwt::testing::keys());
        let long = "x".repeat(4_000);
        for at in 0..100_000 {
            let id = tokens.id(&policy(1), BEARER, &at.to_string());
            let identity = Identity::new(Kind::Jwt, Texts { subject: &long, ..Texts::default() });
            let proven =
                Proven { identity, keys: Some(Arc::downgrade(&keys)), confirmation: None, until: 100.0 };
            tokens.keep(id, Methods::default(), proven, 0.0);
            tokens.keep_bad(id, "no", 0.0);
        }
        assert!(tokens.good.weight() <= MAX_BYTES, "{}", tokens.good.weight());
        assert!(tokens.bad.len() <= MAX_BAD, "{}", tokens.bad.len());
    }
}
