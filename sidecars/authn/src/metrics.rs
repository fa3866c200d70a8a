//! What the sidecar counts.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// What the sidecar counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(crate) decisions: Family<DecisionLabel, Counter>,
}

/// One kind of decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DecisionLabel {
    pub(crate) result: DecisionResult,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum DecisionResult {
    Authenticated,
    Anonymous,
    NoCredential,
    InvalidCredential,
    BadRequest,
    UnknownPolicy,
    NoKeys,
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gatehouse_authn");
        registry.register("decisions", "Requests decided, by result", self.decisions.clone());
    }

    pub(crate) fn count(&self, result: DecisionResult) {
        self.decisions.get_or_create(&DecisionLabel { result }).inc();
    }
}
