//! The policies in force, swapped as a whole while requests read them.

use std::{sync::Arc, time::Instant};

use api::{ResourceType, authz::Policy, pb};
use arc_swap::ArcSwap;
use policy::{Rules, cedar::Compiled};
use prost::Message as _;
use xds::{Handler, Table};

/// Read by every request.
#[derive(Default)]
pub struct State(ArcSwap<Table<InForce>>);

/// A service's policy, ready to decide.
#[derive(Debug)]
pub(crate) struct InForce {
    pub(crate) rules: Rules,
    /// Beside the rules, where the service has it.
    pub(crate) cedar: Option<Compiled>,
}

impl InForce {
    /// Reads what Cedar is to decide, too; nothing is in force that it could not.
    pub(crate) fn new(policy: Policy) -> Result<Self, String> {
        let compiled = policy.cedar.as_ref().map(Compiled::new).transpose();
        let cedar = compiled.map_err(|invalid| invalid.within("cedar").to_string())?;
        Ok(Self { rules: Rules::new(policy), cedar })
    }
}

impl State {
    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<Table<InForce>>> {
        self.0.load()
    }
}

/// Takes in what the control plane sends.
pub struct Follower {
    state: Arc<State>,
    next: Table<InForce>,
}

impl Follower {
    /// Writes to this state.
    pub fn new(state: Arc<State>) -> Self {
        Self { state, next: Table::default() }
    }
}

impl Handler for Follower {
    fn upsert(&mut self, _: ResourceType, name: &str, body: &[u8]) -> Result<(), String> {
        let wire = pb::authz::Policy::decode(body).map_err(|error| error.to_string())?;
        let policy = Policy::try_from(wire).map_err(|error| error.to_string())?;
        if policy.id.to_string() != name {
            return Err(format!("name: must be the resource's name, got {:?}", policy.id.to_string()));
        }
        self.next.insert(name.to_owned(), InForce::new(policy)?);
        Ok(())
    }

    fn remove(&mut self, _: ResourceType, name: &str) {
        self.next.remove(name, Instant::now());
    }

    fn commit(&mut self) {
        self.state.0.store(Arc::new(self.next.clone()));
    }
}
