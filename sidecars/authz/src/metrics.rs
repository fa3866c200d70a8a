//! What the sidecar counts.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// What the sidecar counts.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    decisions: Family<DecisionLabel, Counter>,
    durations: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabel {
    result: DecisionResult,
}

/// One kind of decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum DecisionResult {
    Allowed,
    Denied,
    /// By the platform team, whatever the service's policy says.
    GuardrailDenied,
    /// Would have been denied.
    ShadowDenied,
    /// Denied, because a policy in Cedar was in error.
    CedarError,
    BadRequest,
    UnknownPolicy,
    /// Authentication has not decided, or about another policy.
    NotAuthenticated,
    /// The policy asks for something that the listener does not tell.
    UnknownFacts,
}

/// Seconds. A few rules take a microsecond, and thousands hardly more; Envoy waits for 250,000.
const BUCKETS: [f64; 12] = [
    0.000_001, 0.000_002, 0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.01,
    0.25,
];

impl DecisionResult {
    /// As logs and spans call it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::GuardrailDenied => "guardrail_denied",
            Self::ShadowDenied => "shadow_denied",
            Self::CedarError => "cedar_error",
            Self::BadRequest => "bad_request",
            Self::UnknownPolicy => "unknown_policy",
            Self::NotAuthenticated => "not_authenticated",
            Self::UnknownFacts => "unknown_facts",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { decisions: Family::default(), durations: Histogram::new(BUCKETS) }
    }
}

impl Metrics {
    /// Makes them visible.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("decisions", "Requests decided, by result", self.decisions.clone());
        registry.register("check_duration_seconds", "From a request to its decision", self.durations.clone());
    }

    /// Counts a decision that took so long.
    pub(crate) fn count(&self, result: DecisionResult, took: Duration) {
        self.decisions.get_or_create(&DecisionLabel { result }).inc();
        self.durations.observe(took.as_secs_f64());
    }
}
