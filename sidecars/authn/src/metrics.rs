//! What the sidecar counts.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::decide::Label;

/// What the sidecar counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    decisions: Family<DecisionLabel, Counter>,
}

/// One kind of decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabel {
    method: &'static str,
    result: DecisionResult,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum DecisionResult {
    Authenticated,
    Anonymous,
    NoCredential,
    InvalidCredential,
    BadRequest,
    CrossSite,
    UnknownPolicy,
    Fault,
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gatehouse_authn");
        registry.register(
            "decisions",
            "Requests decided, by the kind of credential and the result",
            self.decisions.clone(),
        );
    }

    pub(crate) fn count(&self, label: Label) {
        let Label { method, result } = label;
        self.decisions.get_or_create(&DecisionLabel { method, result }).inc();
    }
}
