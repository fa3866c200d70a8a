//! The limits in force, swapped as a whole while requests read them.

use std::{collections::HashMap, sync::Arc};

use api::ResourceType;
use arc_swap::ArcSwap;
use envoy_types::pb::ratelimit::config::ratelimit::v3::RateLimitConfig;
use prost::Message as _;
use xds::Handler;

use crate::{config::Domain, counters::Budget};

type Domains = HashMap<String, Arc<Domain>>;

/// Read by every request.
#[derive(Default)]
pub struct State {
    domains: ArcSwap<Domains>,
    budget: Arc<Budget>,
}

impl State {
    pub(crate) fn domain(&self, name: &str) -> Option<Arc<Domain>> {
        self.domains.load().get(name).cloned()
    }

    /// How many keys have a counter.
    pub(crate) fn counters(&self) -> usize {
        self.budget.used()
    }

    #[cfg(test)]
    pub(crate) fn of(config: &RateLimitConfig) -> Arc<Self> {
        let state = Arc::new(Self::default());
        let mut follower = Follower::new(Arc::clone(&state));
        follower.upsert(ResourceType::RateLimitConfig, &config.name, &config.encode_to_vec()).unwrap();
        follower.commit();
        state
    }
}

/// Takes in what the control plane sends.
pub struct Follower {
    state: Arc<State>,
    /// By resource name; it may differ from the domain.
    next: HashMap<String, (String, Arc<Domain>)>,
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
        let domain = wire.domain.clone();
        if self.next.iter().any(|(other, (taken, _))| other != name && *taken == domain) {
            return Err(format!("domain: belongs to another configuration, got {domain:?}"));
        }
        self.next
            .insert(name.to_owned(), (domain, Arc::new(Domain::new(wire, Arc::clone(&self.state.budget))?)));
        Ok(())
    }

    fn remove(&mut self, _: ResourceType, name: &str) {
        self.next.remove(name);
    }

    fn commit(&mut self) {
        let domains = self.next.values().map(|(name, domain)| (name.clone(), Arc::clone(domain)));
        self.state.domains.store(Arc::new(domains.collect()));
    }
}
