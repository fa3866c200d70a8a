//! What the sidecar counts.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use crate::decide::Label;

/// What the sidecar counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    decisions: Family<DecisionLabel, Counter>,
    /// The family's counters, so that a request looks none of them up.
    known: Arc<[OnceLock<Counter>; METHODS.len() * RESULTS]>,
    durations: Histogram,
    pub(crate) works: Family<WorkLabel, Counter>,
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

impl DecisionResult {
    /// As logs and spans call it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Authenticated => "authenticated",
            Self::Anonymous => "anonymous",
            Self::NoCredential => "no_credential",
            Self::InvalidCredential => "invalid_credential",
            Self::BadRequest => "bad_request",
            Self::CrossSite => "cross_site",
            Self::UnknownPolicy => "unknown_policy",
            Self::Fault => "fault",
        }
    }
}

/// Something that was done before a credential was known to be good.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WorkLabel {
    pub(crate) kind: WorkKind,
    pub(crate) result: WorkResult,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum WorkKind {
    Password,
    Introspection,
    Keys,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum WorkResult {
    Good,
    /// The credential is none.
    Refused,
    /// Nobody could tell.
    Failed,
    /// Not even begun: too much is under way, or too much was asked.
    Limited,
}

/// The usual ones; others are looked up.
const METHODS: [&str; 11] = [
    "jwt",
    "none",
    "anonymous",
    "api_key",
    "session",
    "mtls",
    "asap",
    "introspection",
    "dpop",
    "mtls_bound",
    "basic",
];
/// Of decisions.
const RESULTS: usize = 8;
/// Seconds. A remembered token takes some ten microseconds, a signature fifty, a password fifty thousand; Envoy waits
/// for 250,000.
const BUCKETS: [f64; 12] =
    [0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.005, 0.02, 0.1, 0.25];

impl Default for Metrics {
    fn default() -> Self {
        Self {
            decisions: Family::default(),
            known: Arc::new([const { OnceLock::new() }; METHODS.len() * RESULTS]),
            durations: Histogram::new(BUCKETS),
            works: Family::default(),
        }
    }
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
        registry.register("check_duration_seconds", "From a request to its decision", self.durations.clone());
        registry.register(
            "works",
            "Passwords checked, tokens asked about, and keys fetched, by result",
            self.works.clone(),
        );
    }

    /// Counts a decision that took so long.
    pub(crate) fn count(&self, label: Label, took: Duration) {
        let Label { method, result } = label;
        let find = || self.decisions.get_or_create_owned(&DecisionLabel { method, result });
        match METHODS.iter().position(|known| *known == method) {
            Some(at) => self.known[at * RESULTS + result as usize].get_or_init(find).inc(),
            None => find().inc(),
        };
        self.durations.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_counted_by_kind_and_result_whether_the_kind_is_usual_or_not() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let took = Duration::from_micros(30);
        for (method, result) in [
            ("jwt", DecisionResult::Authenticated),
            ("jwt", DecisionResult::Authenticated),
            ("basic", DecisionResult::Fault),
            ("new", DecisionResult::Authenticated),
        ] {
            metrics.count(Label { method, result }, took);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "gatehouse_authn_decisions_total{method=\"jwt\",result=\"Authenticated\"} 2",
            "gatehouse_authn_decisions_total{method=\"basic\",result=\"Fault\"} 1",
            "gatehouse_authn_decisions_total{method=\"new\",result=\"Authenticated\"} 1",
            "gatehouse_authn_check_duration_seconds_bucket{le=\"0.00002\"} 0",
            "gatehouse_authn_check_duration_seconds_bucket{le=\"0.00005\"} 4",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
