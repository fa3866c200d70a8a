//! Takes in what the control plane sends, each type where it belongs.

use std::collections::BTreeSet;

use api::{ResourceType, Role};
use xds::{Contact, Handler};

/// Gives each type to the library that decides by it.
pub struct Follower {
    authn: authn::Follower,
    authz: authz::Follower,
    ratelimit: ratelimit::Follower,
    /// Whose resources have changed since the last commit.
    touched: BTreeSet<Role>,
}

impl Follower {
    /// Gives on to these.
    pub fn new(authn: authn::Follower, authz: authz::Follower, ratelimit: ratelimit::Follower) -> Self {
        Self { authn, authz, ratelimit, touched: BTreeSet::new() }
    }

    fn of(&mut self, role: Role) -> Option<&mut dyn Handler> {
        match role {
            Role::Authn => Some(&mut self.authn),
            Role::Authz => Some(&mut self.authz),
            Role::Ratelimit => Some(&mut self.ratelimit),
            Role::Envoy | Role::Guard => None,
        }
    }
}

impl Handler for Follower {
    fn upsert(&mut self, kind: ResourceType, name: &str, body: &[u8]) -> Result<(), String> {
        let Some(library) = self.of(kind.role()) else {
            return Err(format!("{kind} are not for this sidecar"));
        };
        library.upsert(kind, name, body)?;
        self.touched.insert(kind.role());
        Ok(())
    }

    fn remove(&mut self, kind: ResourceType, name: &str) {
        if let Some(library) = self.of(kind.role()) {
            library.remove(kind, name);
            self.touched.insert(kind.role());
        }
    }

    /// Of those that have changed: a commit copies what is in force.
    fn commit(&mut self) {
        for role in std::mem::take(&mut self.touched) {
            if let Some(library) = self.of(role) {
                library.commit();
            }
        }
    }

    fn follows(&mut self, contact: &Contact) {
        for role in [Role::Authn, Role::Authz, Role::Ratelimit] {
            if let Some(library) = self.of(role) {
                library.follows(contact);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn each_type_reaches_the_library_that_decides_by_it_and_no_other_type_is_taken() {
        let mut follower = Follower::new(
            authn::Follower::new(Arc::default()),
            authz::Follower::new(Arc::default()),
            ratelimit::Follower::new(Arc::default()),
        );
        let kinds: Vec<_> = ResourceType::ALL.into_iter().filter(|kind| Role::Guard.carries(*kind)).collect();
        assert_eq!(crate::kinds(), kinds, "what the control plane sends, in its order");
        for kind in ResourceType::ALL {
            let refusal = follower.upsert(kind, "a", b"").unwrap_err();
            // Each library has its own reason to refuse a message without fields.
            assert_eq!(refusal.contains("not for this sidecar"), !kinds.contains(&kind), "{kind}: {refusal}");
        }
    }
}
