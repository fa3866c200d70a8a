//! Tokens that were verified a moment ago: a hash and a look in the place of a signature check.
//!
//! An entry is found by the whole token and the policy that it was verified for, and counts only while the token has not
//! expired and the issuer's keys are the same ones. What was refused is remembered for seconds, apart from the rest.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use api::authn::PolicyId;
use jwt::{InvalidToken, Keys};
use quick_cache::{Weighter, sync::Cache};

use crate::identity::Identity;

/// Verified tokens of one process.
pub struct Tokens {
    /// Drawn at the start: who cannot know it cannot make two tokens meet.
    secret: [u8; 32],
    good: Cache<Id, Arc<Known>, ByTexts>,
    bad: Cache<Id, Bad>,
}

/// Of a token for a policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id([u8; 32]);

/// A token that was verified.
struct Known {
    /// By which of the policy's methods.
    method: usize,
    identity: Arc<Identity>,
    /// Which verified it; gone when they were replaced.
    keys: Weak<Keys>,
    /// Seconds since the epoch.
    expires: f64,
}

/// A token that was refused.
#[derive(Clone, Copy)]
struct Bad {
    why: InvalidToken,
    /// Seconds since the epoch.
    until: f64,
}

/// How much room an entry takes.
#[derive(Clone)]
struct ByTexts;

/// With 100,000 tokens of a common size it holds them all.
const MAX_BYTES: u64 = 48 * 1024 * 1024;
/// Of a common size, for the tables' first size.
const COMMON: usize = 1_000;
/// Seconds. A change of policy, key or revocation is looked at with each hit; this is for what nobody looks at.
const LONGEST: f64 = 300.0;
/// Seconds. Who repeats a bad token at once costs a hash, and who mends a key waits no longer than this.
const LONGEST_BAD: f64 = 3.0;
/// Others push them out; each costs a signature check again.
const MAX_BAD: usize = 10_000;
/// What an entry costs beside its texts.
const ENTRY_BYTES: usize = 320;

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("good", &self.good.len()).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Empty. The secret is random.
    pub fn new(secret: [u8; 32]) -> Self {
        let good = Cache::with_weighter(COMMON, MAX_BYTES, ByTexts);
        Self { secret, good, bad: Cache::new(MAX_BAD) }
    }

    /// Lengths stand before the parts, so that no two questions are one text.
    pub(crate) fn id(&self, policy: &PolicyId, token: &str) -> Id {
        let mut hash = blake3::Hasher::new_keyed(&self.secret);
        hash.update(&policy.rev.to_le_bytes());
        for part in [policy.policy.as_str(), token] {
            hash.update(&part.len().to_le_bytes());
            hash.update(part.as_bytes());
        }
        Id(*hash.finalize().as_bytes())
    }

    /// Who was proven by it and by which of the policy's methods, if it still is. `keys_of` gives the keys of an issuer that are in force.
    pub(crate) fn identity<'k>(
        &self,
        id: &Id,
        keys_of: impl Fn(&str) -> Option<&'k Arc<Keys>>,
        now: f64,
    ) -> Option<(usize, Arc<Identity>)> {
        let known = self.good.get(id)?;
        let issuer = known.identity.issuer.as_deref()?;
        let is_same =
            keys_of(issuer).is_some_and(|keys| std::ptr::eq(known.keys.as_ptr(), Arc::as_ptr(keys)));
        (is_same && now < known.expires).then(|| (known.method, known.identity.clone()))
    }

    /// Why it was refused a moment ago.
    pub(crate) fn refusal(&self, id: &Id, now: f64) -> Option<InvalidToken> {
        self.bad.get(id).filter(|bad| now < bad.until).map(|bad| bad.why)
    }

    /// It was verified by these keys.
    pub(crate) fn keep(
        &self,
        id: Id,
        found: (usize, Arc<Identity>),
        keys: &Arc<Keys>,
        expires: f64,
        now: f64,
    ) {
        let ((method, identity), expires) = (found, expires.min(now + LONGEST));
        let known = Known { method, identity, keys: Arc::downgrade(keys), expires };
        self.good.insert(id, Arc::new(known));
    }

    /// It was refused.
    pub(crate) fn keep_bad(&self, id: Id, why: InvalidToken, now: f64) {
        self.bad.insert(id, Bad { why, until: now + LONGEST_BAD });
    }
}

impl Weighter<Id, Arc<Known>> for ByTexts {
    fn weight(&self, _: &Id, known: &Arc<Known>) -> u64 {
        let Identity { issuer, subject, scopes, .. } = &*known.identity;
        let texts = issuer.as_ref().map_or(0, String::len) + subject.len() + scopes.len();
        (ENTRY_BYTES + texts) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rev: u64) -> PolicyId {
        PolicyId { policy: "i-1".into(), rev }
    }

    fn alice() -> Arc<Identity> {
        let issuer = Some("https://id.example.test/".to_owned());
        Arc::new(Identity { issuer, subject: "alice".into(), ..Identity::default() })
    }

    #[test]
    fn a_token_is_known_for_its_policy_its_keys_and_its_time() {
        let tokens = Tokens::new([7; 32]);
        let keys = Arc::new(jwt::testing::keys());
        let id = tokens.id(&policy(1), "token");
        tokens.keep(id, (2, alice()), &keys, 100.0, 0.0);
        assert_eq!(tokens.identity(&id, |_| Some(&keys), 99.0), Some((2, alice())));
        assert_eq!(tokens.identity(&id, |_| Some(&keys), 100.0), None, "its time is over");
        assert_eq!(tokens.identity(&tokens.id(&policy(2), "token"), |_| Some(&keys), 99.0), None);
        assert_eq!(tokens.identity(&tokens.id(&policy(1), "toke"), |_| Some(&keys), 99.0), None);
        tokens.keep(id, (2, alice()), &keys, 10_000.0, 0.0);
        assert_eq!(tokens.identity(&id, |_| Some(&keys), 300.0), None, "nothing is kept for longer");
        tokens.keep(id, (2, alice()), &keys, 100.0, 0.0);
        let rotated = Arc::new(jwt::testing::keys());
        assert_eq!(tokens.identity(&id, |_| Some(&rotated), 99.0), None, "its keys were replaced");
        assert_eq!(tokens.identity(&id, |_| None, 99.0), None, "its keys are gone");
        let other = Tokens::new([8; 32]).id(&policy(1), "token");
        assert!(other.0 != id.0, "nobody can tell what two tokens meet at");
    }

    #[test]
    fn parts_of_a_question_do_not_run_into_each_other() {
        let tokens = Tokens::new([7; 32]);
        let of = |policy: &str, token: &str| tokens.id(&PolicyId { policy: policy.into(), rev: 1 }, token).0;
        assert_ne!(of("ab", "c"), of("a", "bc"));
        assert_ne!(of("a", ""), of("", "a"));
    }

    #[test]
    fn what_was_refused_is_no_identity() {
        let tokens = Tokens::new([7; 32]);
        let id = tokens.id(&policy(1), "bad");
        tokens.keep_bad(id, InvalidToken::Signature, 10.0);
        assert_eq!(tokens.refusal(&id, 12.9), Some(InvalidToken::Signature));
        assert_eq!(tokens.refusal(&id, 13.0), None, "it is looked at again");
        assert_eq!(tokens.identity(&id, |_| None, 0.0), None);
    }
}
