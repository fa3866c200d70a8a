//! How a source does.

use std::time::SystemTime;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use serde::Serialize;

use super::Source;

/// Whether what templates see is what the source says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// There never was a value: templates that use it fail.
    Missing,
    /// The last fetch failed; its last good value stays.
    Stale,
    /// The last fetch succeeded.
    Fresh,
}

/// A source, for operators. Never its value: that may be a secret (`Sources::shown` has those that are not).
#[derive(Debug, Clone, Serialize)]
pub struct SourceState {
    /// Templates call it `context.<name>`.
    pub name: String,
    /// Where it comes from.
    pub origin: String,
    /// Whether it does.
    pub freshness: Freshness,
    /// The last fetch that succeeded: seconds since the epoch.
    pub succeeded: Option<u64>,
    /// When its value became another one.
    pub changed: Option<u64>,
    /// Since when it fails, and why.
    pub failing_since: Option<u64>,
    /// Why the last fetch failed.
    pub error: Option<String>,
    /// Of the last value.
    pub bytes: usize,
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl SourceState {
    pub(crate) fn of(source: &Source) -> Self {
        Self {
            name: source.name.clone(),
            origin: source.origin.to_string(),
            freshness: Freshness::Missing,
            succeeded: None,
            changed: None,
            failing_since: None,
            error: None,
            bytes: 0,
        }
    }

    pub(crate) fn succeed(&mut self) {
        self.freshness = Freshness::Fresh;
        self.succeeded = Some(now());
        (self.failing_since, self.error) = (None, None);
    }

    /// Whether that is news: it is told once, until it works again or fails in another way.
    pub(crate) fn fail(&mut self, error: &str) -> bool {
        if self.freshness == Freshness::Fresh {
            self.freshness = Freshness::Stale;
        }
        self.failing_since.get_or_insert_with(now);
        self.error.replace(error.to_owned()).as_deref() != Some(error)
    }
}

/// Each source by its name; there are as many as operators configured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    fresh: Family<SourceLabel, Gauge>,
    succeeded: Family<SourceLabel, Gauge>,
    failures: Family<SourceLabel, Counter>,
    bytes: Family<SourceLabel, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: String,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("source_fresh", "1 when the last fetch succeeded", self.fresh.clone());
        let help = "The last fetch that succeeded, in seconds since the epoch";
        registry.register("source_success_timestamp_seconds", help, self.succeeded.clone());
        registry.register("source_failures", "Fetches that failed", self.failures.clone());
        registry.register("source_bytes", "Size of the last value", self.bytes.clone());
    }

    pub(crate) fn note(&self, state: &SourceState) {
        let label = SourceLabel { source: state.name.clone() };
        let size = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.fresh.get_or_create(&label).set(i64::from(state.freshness == Freshness::Fresh));
        self.bytes.get_or_create(&label).set(size(state.bytes));
        if let Some(at) = state.succeeded {
            self.succeeded.get_or_create(&label).set(i64::try_from(at).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn fail(&self, name: &str) {
        self.failures.get_or_create(&SourceLabel { source: name.to_owned() }).inc();
    }
}
