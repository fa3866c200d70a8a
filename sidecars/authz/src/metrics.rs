//! What the sidecar counts.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// What the sidecar counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    decisions: Family<DecisionLabel, Counter>,
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
    /// Would have been denied.
    ShadowDenied,
    /// Denied, because a policy in Cedar was in error.
    CedarError,
    BadRequest,
    UnknownPolicy,
    /// Authentication has not decided, or about another policy.
    NotAuthenticated,
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gatehouse_authz");
        registry.register("decisions", "Requests decided, by result", self.decisions.clone());
    }

    pub(crate) fn count(&self, result: DecisionResult) {
        self.decisions.get_or_create(&DecisionLabel { result }).inc();
    }
}
