//! What the sidecar counts: under our own names what is the process's, under the reference server's what it has too.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric as _},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::{fleet::Fleet, state::State, stats::Counts};

/// What the sidecar counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<OutcomeLabel, Counter>,
    errors: Family<ErrorLabel, Counter>,
    took: Histogram,
    config_loads: Family<LoadLabel, Counter>,
    pub(crate) overflow_hits: Counter,
    pub(crate) domain_not_found: Counter,
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabel {
    err_type: Error,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoadLabel {
    result: Load,
}

/// How a change of files came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Load {
    Success,
    Error,
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Error {
    /// It could not be understood.
    Service,
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

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            errors: Family::default(),
            // From 1 µs to half a second.
            took: Histogram::new(exponential_buckets(1e-6, 2.0, 20)),
            config_loads: Family::default(),
            overflow_hits: Counter::default(),
            domain_not_found: Counter::default(),
        }
    }
}

impl Metrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        let ours = registry.sub_registry_with_prefix("gatehouse_ratelimit");
        ours.register("requests", "Requests answered, by outcome", self.requests.clone());
        ours.register(
            "overflow_hits",
            "Hits on the shared counter of a limit, since the table was full",
            self.overflow_hits.clone(),
        );
        let theirs = registry.sub_registry_with_prefix("ratelimit_service");
        theirs.register("response_time_seconds", "From a request to its answer", self.took.clone());
        theirs.register("should_rate_limit_error", "Requests without an answer", self.errors.clone());
        theirs.register("config_load", "Files read, by result", self.config_loads.clone());
        theirs.register(
            "rate_limit_domain_not_found",
            "Requests of domains that nobody has configured",
            self.domain_not_found.clone(),
        );
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        self.requests.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(crate) fn error(&self, err_type: Error) {
        self.errors.get_or_create(&ErrorLabel { err_type }).inc();
    }

    pub(crate) fn loaded(&self, good: bool) {
        let result = if good { Load::Success } else { Load::Error };
        self.config_loads.get_or_create(&LoadLabel { result }).inc();
    }

    pub(crate) fn took(&self, time: Duration) {
        self.took.observe(time.as_secs_f64());
    }
}

impl State {
    /// Makes visible what is counted of each limit, and how much is remembered.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(OfLimits(Arc::clone(self))));
    }
}

/// Told anew each time, from the limits in force: those that are gone leave no series behind.
#[derive(Debug)]
struct OfLimits(Arc<State>);

impl Collector for OfLimits {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauges = [
            ("counters", "Keys in memory", self.0.counters.used() as u64),
            ("counters_bytes", "What they take, spare room included", self.0.counters.bytes() as u64),
        ];
        encode_gauges(&mut encoder, &gauges)?;
        let domains = self.0.domains();
        let mut all = Vec::new();
        for domain in domains.values() {
            let mut add = |labels: &[Box<str>], counts: &Counts| {
                let values = counts.values();
                // Most limits of most domains are never asked.
                if values[0].1 > 0 {
                    all.push((named(&domain.name, labels), values));
                }
            };
            domain.limits().for_each(|limit| add(&limit.labels, &limit.counts));
            domain.stats.all().iter().for_each(|(labels, counts)| add(labels, counts));
        }
        for at in 0..Counts::default().values().len() {
            let name = Counts::default().values()[at].0;
            let full = format!("ratelimit_service_rate_limit_{name}");
            // Of an unknown type: a counter would be called `_total` here, and the reference's are not.
            let mut family = encoder.encode_descriptor(
                &full,
                "Hits, as the reference counts them",
                None,
                MetricType::Unknown,
            )?;
            for (labels, values) in &all {
                ConstGauge::new(values[at].1).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

/// The same of a fleet.
#[derive(Debug)]
struct OfFleet(Arc<Fleet>);

impl Collector for OfFleet {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        encode_gauges(&mut encoder, &self.0.gauges())
    }
}

impl Fleet {
    /// Makes visible what is leased, and whether the store answers.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(OfFleet(Arc::clone(self))));
    }
}

fn encode_gauges(
    encoder: &mut DescriptorEncoder<'_>,
    gauges: &[(&str, &str, u64)],
) -> Result<(), std::fmt::Error> {
    for (name, help, value) in gauges {
        let name = format!("gatehouse_ratelimit_{name}");
        let gauge = ConstGauge::new(*value);
        gauge.encode(encoder.encode_descriptor(&name, help, None, gauge.metric_type())?)?;
    }
    Ok(())
}

/// `domain`, and `key1` to `keyN`.
fn named(domain: &str, labels: &[Box<str>]) -> Vec<(String, String)> {
    let keys = labels.iter().enumerate().map(|(at, label)| (format!("key{}", at + 1), label.to_string()));
    std::iter::once(("domain".to_owned(), domain.to_owned())).chain(keys).collect()
}
