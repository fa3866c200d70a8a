//! What the sidecar counts.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// What the sidecar counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    requests: Family<OutcomeLabel, Counter>,
    pub(crate) counters: Gauge,
    pub(crate) overflow_hits: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

/// How a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    /// No limit applies.
    NoLimit,
    Ok,
    OverLimit,
}

impl Outcome {
    /// As it stands in the access log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NoLimit => "none",
            Self::Ok => "ok",
            Self::OverLimit => "over_limit",
        }
    }
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gatehouse_ratelimit");
        registry.register("requests", "Requests answered, by outcome", self.requests.clone());
        registry.register("counters", "Counters in memory", self.counters.clone());
        registry.register(
            "overflow_hits",
            "Hits on the shared counter of a limit, since the table was full",
            self.overflow_hits.clone(),
        );
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        self.requests.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}
