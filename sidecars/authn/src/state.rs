//! What is in force: policies, keys and what was revoked, swapped as a whole while requests read them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{ResourceType, authn, identity_key::IdentityKey, key_set::KeySet, pb, revocation::Revocation};
use arc_swap::ArcSwap;
use jwt::Keys;
use prost::Message as _;
use xds::{Contact, Handler, Table};

use crate::{ages::Ages, learned::Learned, policy::Policy, revocations::Revocations, token::Signers};

/// Read by every request.
#[derive(Default)]
pub struct State(ArcSwap<Snapshot>);

/// Policies, keys and revocations of one moment.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) policies: Table<Policy>,
    pub(crate) keys: HashMap<String, Issuer>,
    pub(crate) learned: Arc<Learned>,
    pub(crate) revocations: Revocations,
    pub(crate) signers: Signers,
    pub(crate) ages: Arc<Ages>,
}

/// An issuer's keys, and where there may be more.
#[derive(Clone)]
pub(crate) struct Issuer {
    pub(crate) keys: Arc<Keys>,
    /// Of its JWK Set.
    pub(crate) uri: Option<String>,
    /// Of a key server: where a key of any id is.
    pub(crate) servers: Vec<String>,
}

impl State {
    /// Empty. What ages is believed for so long.
    pub fn new(stale_after: Duration) -> Self {
        let ages = Arc::new(Ages::new(stale_after));
        Self(ArcSwap::from_pointee(Snapshot { ages, ..Snapshot::default() }))
    }

    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.0.load()
    }
}

/// Takes in what the control plane sends.
pub struct Follower {
    state: Arc<State>,
    next: Snapshot,
}

impl Follower {
    /// Writes to this state.
    pub fn new(state: Arc<State>) -> Self {
        // What was learned, and when something was heard, is the same for all snapshots.
        let next = Snapshot::clone(&state.load());
        Self { state, next }
    }
}

impl Handler for Follower {
    fn upsert(&mut self, kind: ResourceType, name: &str, body: &[u8]) -> Result<(), String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        match kind {
            ResourceType::AuthnPolicy => {
                let wire = pb::authn::Policy::decode(body).map_err(|error| text(&error))?;
                let policy = authn::Policy::try_from(wire).map_err(|error| text(&error))?;
                let policy = Policy::new(policy, body)?;
                if policy.id.to_string() != name {
                    return Err(format!(
                        "name: must be the resource's name, got {:?}",
                        policy.id.to_string()
                    ));
                }
                self.next.policies.insert(name.to_owned(), policy);
            }
            ResourceType::AuthnKeySet => {
                let wire = pb::authn::KeySet::decode(body).map_err(|error| text(&error))?;
                let set = KeySet::try_from(wire).map_err(|error| text(&error))?;
                let (name, uri, servers) = (set.issuer.clone(), set.uri.clone(), set.servers.clone());
                let issuer = Issuer { keys: Arc::new(Keys::new(set)?), uri, servers };
                self.next.learned.forget(&name);
                self.next.keys.insert(name, issuer);
            }
            ResourceType::AuthnIdentityKey => {
                let wire = pb::authn::IdentityKey::decode(body).map_err(|error| text(&error))?;
                let key = IdentityKey::try_from(wire).map_err(|error| text(&error))?;
                if key.id != name {
                    return Err(format!("name: must be the resource's name, got {:?}", key.id));
                }
                self.next.signers.insert(key)?;
            }
            ResourceType::AuthnRevocations => {
                let wire = pb::authn::Revocations::decode(body).map_err(|error| text(&error))?;
                let revocation = Revocation::try_from(wire).map_err(|error| text(&error))?;
                if revocation.name != name {
                    return Err(format!("name: must be the resource's name, got {:?}", revocation.name));
                }
                self.next.revocations.insert(revocation);
            }
            other => return Err(format!("{other} are not for this sidecar")),
        }
        Ok(())
    }

    fn remove(&mut self, kind: ResourceType, name: &str) {
        match kind {
            ResourceType::AuthnPolicy => self.next.policies.remove(name, Instant::now()),
            ResourceType::AuthnRevocations => self.next.revocations.remove(name),
            ResourceType::AuthnIdentityKey => self.next.signers.remove(name),
            _ => {
                self.next.learned.forget(name);
                self.next.keys.remove(name);
            }
        }
    }

    fn follows(&mut self, contact: &Contact) {
        self.next.ages.follow(contact.clone());
    }

    fn commit(&mut self) {
        self.state.0.store(Arc::new(self.next.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenFacts;

    #[test]
    fn a_revocation_holds_from_its_commit_to_its_removal() {
        let kind = ResourceType::AuthnRevocations;
        let state = Arc::new(State::default());
        let mut follower = Follower::new(Arc::clone(&state));
        let token = pb::authn::revocations::Token { issuer: "i".into(), jti: "j".into() };
        let what = Some(pb::authn::revocations::What::Token(token));
        let body = pb::authn::Revocations { name: "a".into(), what, expires: 9 }.encode_to_vec();
        let facts = TokenFacts { issuer: Some("i"), jti: Some("j"), ..TokenFacts::default() };
        let is_revoked = || state.load().revocations.revokes(&facts);
        assert_eq!(
            follower.upsert(kind, "b", &body).unwrap_err(),
            "name: must be the resource's name, got \"a\""
        );
        follower.upsert(kind, "a", &body).unwrap();
        assert!(!is_revoked());
        follower.commit();
        assert!(is_revoked());
        follower.remove(kind, "a");
        follower.commit();
        assert!(!is_revoked());
    }
}
