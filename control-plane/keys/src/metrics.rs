//! How the key sets do, for whoever watches.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// By issuer; there are as many as operators configured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    age: Family<Issuer, Gauge>,
    keys: Family<Issuer, Gauge>,
    withdrawn: Family<Issuer, Gauge>,
    refreshes: Family<Refresh, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Issuer {
    issuer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refresh {
    issuer: String,
    result: Outcome,
}

/// What came of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    Changed,
    Unchanged,
    Failed,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gatehouse_keys");
        let help = "How long ago the keys of an issuer were known to be good";
        registry.register("age_seconds", help, self.age.clone());
        registry.register("in_force", "Keys of an issuer that are in force", self.keys.clone());
        let help = "1 while the keys of an issuer are withdrawn, since they are past their hard age";
        registry.register("withdrawn", help, self.withdrawn.clone());
        registry.register(
            "refreshes",
            "Looks at an issuer's keys, by what came of them",
            self.refreshes.clone(),
        );
    }

    pub(crate) fn looked(&self, issuer: &str, result: Outcome) {
        self.refreshes.get_or_create(&Refresh { issuer: issuer.to_owned(), result }).inc();
    }

    pub(crate) fn show(&self, issuer: &str, age: Option<Duration>, keys: usize) {
        let label = Issuer { issuer: issuer.to_owned() };
        if let Some(age) = age {
            self.age.get_or_create(&label).set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        }
        self.withdrawn.get_or_create(&label).set(i64::from(age.is_some() && keys == 0));
        self.keys.get_or_create(&label).set(i64::try_from(keys).unwrap_or(i64::MAX));
    }
}
