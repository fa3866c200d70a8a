//! What the ADS server counts.

use std::sync::{Arc, OnceLock};

use api::{ResourceType, Role};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// What the ADS server counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(crate) streams: Family<RoleLabel, Gauge>,
    resources_sent: Family<KindLabel, Counter>,
    /// The same by number, since each message counts: a look-up by label costs more than the rest of it.
    sent: Arc<OnceLock<Vec<Counter>>>,
    pub(crate) nacks: Family<KindLabel, Counter>,
    pub(crate) stuck_streams: Counter,
    pub(crate) refused_streams: Family<WhyLabel, Counter>,
    pub(crate) rest_requests: Family<RestLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RoleLabel {
    pub(crate) role: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct KindLabel {
    pub(crate) kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WhyLabel {
    pub(crate) why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RestLabel {
    pub(crate) kind: &'static str,
    pub(crate) status: u16,
}

impl RoleLabel {
    pub(crate) fn of(role: Role) -> Self {
        Self { role: role.suffix().unwrap_or("envoy") }
    }
}

impl Metrics {
    /// So many resources of a type were sent or removed.
    pub(crate) fn count_sent(&self, kind: ResourceType, resources: usize) {
        let sent = self.sent.get_or_init(|| {
            let counter = |kind: ResourceType| {
                self.resources_sent.get_or_create(&KindLabel { kind: kind.label() }).clone()
            };
            ResourceType::ALL.into_iter().map(counter).collect()
        });
        sent[kind as usize].inc_by(u64::try_from(resources).unwrap_or(u64::MAX));
    }

    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gatehouse_ads");
        registry.register("streams", "Open streams", self.streams.clone());
        registry.register("resources_sent", "Resources sent or removed", self.resources_sent.clone());
        registry.register("nacks", "Responses that a client refused", self.nacks.clone());
        registry.register(
            "stuck_streams",
            "Streams dropped because the client stopped reading",
            self.stuck_streams.clone(),
        );
        registry.register("refused_streams", "Streams that were not served", self.refused_streams.clone());
        registry.register("rest_requests", "Polls over REST-JSON", self.rest_requests.clone());
    }
}
