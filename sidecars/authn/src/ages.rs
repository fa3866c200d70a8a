//! What a node may still believe that hears nothing. Policies never age; keys and revocations do, and with them every
//! credential that needs them.
//!
//! API keys, passwords and client certificates do not: they stand in the policy, or are checked by Envoy, and what takes
//! them away in the ordinary way is a change of the policy. What was revoked of them when something was last heard stays
//! revoked. Tokens live on their own, and only a revocation or a change of keys ends one early.

use std::{sync::OnceLock, time::Duration};

use xds::{Contact, contact::Now};

/// Three days: a weekend without a control plane, and the people who mend it on Monday. Who was dismissed on Friday gets
/// in no longer than that.
pub const STALE_AFTER: Duration = Duration::from_hours(72);

/// How long nothing was heard, against how long what is known is believed.
#[derive(Debug)]
pub(crate) struct Ages {
    contact: OnceLock<Contact>,
    stale_after: Duration,
}

impl Default for Ages {
    fn default() -> Self {
        Self::new(STALE_AFTER)
    }
}

impl Ages {
    pub(crate) fn new(stale_after: Duration) -> Self {
        Self { contact: OnceLock::new(), stale_after }
    }

    /// From now on it is known when something was heard.
    pub(crate) fn follow(&self, contact: Contact) {
        // A process follows one control plane.
        let _is_the_same = self.contact.set(contact);
    }

    /// How long nothing was heard. Without a control plane to hear of (offline, and in tests) nothing ages.
    pub(crate) fn age(&self, now: Now) -> Duration {
        self.contact.get().map_or(Duration::ZERO, |contact| contact.age(now))
    }

    /// Whether that is too long.
    pub(crate) fn is_stale(&self, now: Now) -> bool {
        self.age(now) > self.stale_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_is_believed_for_three_days() {
        let folder = tempfile::tempdir().unwrap();
        let ages = Ages::default();
        let now = Now::read();
        assert!(!ages.is_stale(now), "there is nothing to hear of");
        let contact = Contact::open(folder.path()).unwrap();
        ages.follow(contact.clone());
        assert!(ages.is_stale(now), "nobody has ever been heard of");
        contact.heard(now);
        let after = |secs| Now { wall: now.wall + Duration::from_secs(secs), ..now };
        assert!(!ages.is_stale(after(72 * 3_600)));
        assert!(ages.is_stale(after(72 * 3_600 + 1)));
        assert!(!ages.is_stale(now), "a clock that was wrong for a moment changes nothing for good");
    }
}
