//! What the ADS server counts.

use api::Role;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// What the ADS server counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(crate) streams: Family<RoleLabel, Gauge>,
    pub(crate) resources_sent: Family<KindLabel, Counter>,
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
