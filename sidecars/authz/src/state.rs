//! The policies in force, swapped as a whole while requests read them.

use std::{sync::Arc, time::Instant};

use api::{ResourceType, authz::Policy, pb};
use arc_swap::ArcSwap;
use policy::Rules;
use prost::Message as _;
use xds::{Handler, Table};

/// Read by every request.
#[derive(Default)]
pub struct State(ArcSwap<Table<Rules>>);

impl State {
    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<Table<Rules>>> {
        self.0.load()
    }
}

/// Takes in what the control plane sends.
pub struct Follower {
    state: Arc<State>,
    next: Table<Rules>,
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
        self.next.insert(name.to_owned(), Rules::new(policy));
        Ok(())
    }

    fn remove(&mut self, _: ResourceType, name: &str) {
        self.next.remove(name, Instant::now());
    }

    fn commit(&mut self) {
        self.state.0.store(Arc::new(self.next.clone()));
    }
}
