//! The limits in force, swapped as a whole while requests read them, and what was counted of them, which stays.

use std::{collections::HashMap, sync::Arc};

use api::ResourceType;
use arc_swap::{ArcSwap, Guard};
use envoy_types::pb::ratelimit::config::ratelimit::v3::RateLimitConfig;
use prost::Message as _;
use xds::Handler;

use crate::{
    config::{Defaults, Domain},
    counter::Counter,
    table::{Bounds, Table},
};

type Domains = HashMap<String, Arc<Domain>>;

/// Read by every request.
#[derive(Debug)]
pub struct State {
    domains: ArcSwap<Domains>,
    pub(crate) counters: Table<Counter>,
    defaults: Defaults,
}

impl Default for State {
    fn default() -> Self {
        Self::new(Defaults::default())
    }
}

impl State {
    /// No limits yet.
    pub fn new(defaults: Defaults) -> Self {
        Self { domains: ArcSwap::default(), counters: Table::new(Bounds::default()), defaults }
    }

    pub(crate) fn domain(&self, name: &str) -> Option<Arc<Domain>> {
        self.domains.load().get(name).cloned()
    }

    pub(crate) fn domains(&self) -> Guard<Arc<Domains>> {
        self.domains.load()
    }

    /// Puts these limits in force, in the place of all others.
    pub(crate) fn replace(&self, domains: impl IntoIterator<Item = Arc<Domain>>) {
        let domains = domains.into_iter().map(|domain| (domain.name.clone(), domain));
        self.domains.store(Arc::new(domains.collect()));
    }

    pub(crate) fn defaults(&self) -> &Defaults {
        &self.defaults
    }
}

/// Takes in what the control plane sends.
pub struct Follower {
    state: Arc<State>,
    /// By resource name; it may differ from the domain.
    next: HashMap<String, Arc<Domain>>,
}

impl Follower {
    /// Writes to this state.
    pub fn new(state: Arc<State>) -> Self {
        Self { state, next: HashMap::new() }
    }
}

impl Handler for Follower {
    fn upsert(&mut self, _: ResourceType, name: &str, body: &[u8]) -> Result<(), String> {
        let wire = RateLimitConfig::decode(body).map_err(|error| error.to_string())?;
        if self.next.iter().any(|(other, taken)| other != name && taken.name == wire.domain) {
            return Err(format!("domain: belongs to another configuration, got {:?}", wire.domain));
        }
        let domain = Domain::from_wire(wire, self.state.defaults())?;
        self.next.insert(name.to_owned(), Arc::new(domain));
        Ok(())
    }

    fn remove(&mut self, _: ResourceType, name: &str) {
        self.next.remove(name);
    }

    fn commit(&mut self) {
        self.state.replace(self.next.values().cloned());
    }
}
