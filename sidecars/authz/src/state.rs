//! The policies in force, swapped as a whole while requests read them.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use api::{
    ResourceType,
    authz::{Guardrail, Policy},
    pb,
};
use arc_swap::ArcSwap;
use policy::{Engine, Guardrails};
use prost::Message as _;
use xds::{Handler, Table};

/// Read by every request.
#[derive(Default)]
pub struct State(ArcSwap<Snapshot>);

/// What decides at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// Above all policies.
    pub(crate) guardrails: Arc<Guardrails>,
    pub(crate) policies: Table<Engine>,
}

impl State {
    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.0.load()
    }
}

/// Takes in what the control plane sends.
pub struct Follower {
    state: Arc<State>,
    next: Snapshot,
    guardrails: BTreeMap<String, Guardrail>,
    /// Whether they are others than those of `next`.
    are_others: bool,
}

impl Follower {
    /// Writes to this state.
    pub fn new(state: Arc<State>) -> Self {
        Self { state, next: Snapshot::default(), guardrails: BTreeMap::new(), are_others: false }
    }
}

fn is_named(expected: &str, own: &str) -> Result<(), String> {
    if own == expected { Ok(()) } else { Err(format!("name: must be the resource's name, got {own:?}")) }
}

impl Handler for Follower {
    fn upsert(&mut self, kind: ResourceType, name: &str, body: &[u8]) -> Result<(), String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        if kind == ResourceType::AuthzGuardrail {
            let wire = pb::authz::Guardrail::decode(body).map_err(|error| told(&error))?;
            let guardrail = Guardrail::try_from(wire).map_err(|error| told(&error))?;
            is_named(name, guardrail.name())?;
            self.guardrails.insert(name.to_owned(), guardrail);
            self.are_others = true;
            return Ok(());
        }
        let wire = pb::authz::Policy::decode(body).map_err(|error| told(&error))?;
        let policy = Policy::try_from(wire).map_err(|error| told(&error))?;
        is_named(name, &policy.id.to_string())?;
        let engine = Engine::new(policy).map_err(|invalid| invalid.within("cedar").to_string())?;
        self.next.policies.insert(name.to_owned(), engine);
        Ok(())
    }

    fn remove(&mut self, kind: ResourceType, name: &str) {
        if kind == ResourceType::AuthzGuardrail {
            self.are_others |= self.guardrails.remove(name).is_some();
        } else {
            self.next.policies.remove(name, Instant::now());
        }
    }

    fn commit(&mut self) {
        if std::mem::take(&mut self.are_others) {
            self.next.guardrails = Arc::new(Guardrails::new(self.guardrails.values().cloned().collect()));
        }
        self.state.0.store(Arc::new(self.next.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guardrail_does_not_say_right_leaves_the_others_in_force() {
        let (state, mut rule) = (Arc::new(State::default()), pb::authz::Rule::default());
        (rule.id, rule.effect) = ("a".into(), pb::authz::Effect::Deny.into());
        let good = pb::authz::Guardrail { name: "a".into(), deny: Some(rule), ..Default::default() };
        let (mut follower, kind) = (Follower::new(state.clone()), ResourceType::AuthzGuardrail);
        follower.upsert(kind, "a", &good.encode_to_vec()).unwrap();
        let other = pb::authz::Guardrail { mode: 9, ..good.clone() };
        assert!(follower.upsert(kind, "a", &other.encode_to_vec()).unwrap_err().contains("mode: "));
        assert!(follower.upsert(kind, "b", &good.encode_to_vec()).unwrap_err().contains("name: "));
        follower.commit();
        let first = state.load().guardrails.clone();
        follower.commit();
        assert!(Arc::ptr_eq(&first, &state.load().guardrails), "they are read anew when they change");
        follower.remove(kind, "a");
        follower.commit();
        assert!(!Arc::ptr_eq(&first, &state.load().guardrails));
    }
}
