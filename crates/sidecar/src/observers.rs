//! Who is told of a decision beside its client: a log of lines, and a collector of spans. Both are flags of every
//! sidecar that Envoy asks by `ext_authz`.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Args;
use opentelemetry::KeyValue;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::{
    decision_log::{DecisionLog, LogCounters},
    ext_authz::{Decision, Facts},
    traces::{Parent, Times, Traces},
};

/// The flags of logs and traces.
#[derive(Debug, Clone, Args)]
pub struct ObserverFlags {
    /// Where denials, faults and a share of what is allowed are written as lines of JSON: a file, or `-` for standard
    /// output
    #[arg(long, env = "GATEHOUSE_DECISION_LOG")]
    pub decision_log: Option<String>,
    /// The share of what is allowed that is written: 0 to 1
    #[arg(long, env = "GATEHOUSE_DECISION_LOG_SAMPLE", default_value_t = 0.01, value_parser = share)]
    pub decision_log_sample: f64,
    /// An OpenTelemetry collector (OTLP over gRPC, as `http://host:port`) that is sent a span for each decision of a
    /// sampled trace
    #[arg(long, env = "GATEHOUSE_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
}

/// Whoever is told.
#[derive(Debug, Clone, Default)]
pub struct Observers {
    log: Option<DecisionLog>,
    traces: Option<Traces>,
    counters: LogCounters,
}

/// A decision as it is told.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// Which of the decisions about a request it is: `authn` or `authz`.
    pub by: &'static str,
    /// What was asked.
    pub facts: &'a Facts<'a>,
    /// What was answered.
    pub decision: &'a Decision,
    /// As the metrics call it.
    pub result: &'static str,
    /// Whether it would have been refused, had its policy been enforced.
    pub is_refused_in_shadow: bool,
    /// When it was asked.
    pub begun: SystemTime,
    /// Until it was decided.
    pub took: Duration,
    /// `traceparent` of the call, where it has one.
    pub of_call: Option<&'a str>,
}

/// What is still to be written and sent when a sidecar ends.
#[derive(Debug)]
#[must_use = "the last lines and spans are lost otherwise"]
pub struct Leftovers {
    writer: Option<oneshot::Receiver<()>>,
    traces: Option<Traces>,
}

/// For what is still queued for the decision log.
const LOG_DEADLINE: Duration = Duration::from_secs(2);

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("must be from 0 to 1".to_owned()) }
}

impl ObserverFlags {
    /// Opens what was asked for, in the name of this service on this node. To be called inside of a runtime.
    ///
    /// # Errors
    /// The file cannot be opened, or the URL is none of a collector.
    pub fn open(&self, service: &'static str, node: &str) -> anyhow::Result<(Observers, Leftovers)> {
        let log = self.decision_log.as_ref().map(|name| {
            let opened = DecisionLog::open(name, self.decision_log_sample);
            opened.with_context(|| format!("--decision-log: opening {name}"))
        });
        let (log, writer) = log.transpose()?.unzip();
        let traces = self.otlp_endpoint.as_ref().map(|url| Traces::begin(url, service, node));
        let traces = traces.transpose().context("--otlp-endpoint")?;
        Ok((Observers::new(log, traces.clone()), Leftovers { writer, traces }))
    }
}

impl Observers {
    /// Of what there is.
    pub fn new(log: Option<DecisionLog>, traces: Option<Traces>) -> Self {
        Self { log, traces, counters: LogCounters::default() }
    }

    /// The same for what else decides in this process, which counts its own lines.
    #[must_use]
    pub fn counted_apart(&self) -> Self {
        Self { counters: LogCounters::default(), ..self.clone() }
    }

    /// Makes visible what becomes of lines.
    pub fn register(&self, registry: &mut Registry) {
        self.counters.register(registry);
    }

    /// Tells of a decision: a span with these attributes, and a line with what `more` says.
    pub fn tell<T: Serialize>(
        &self,
        told: &Told<'_>,
        attributes: impl FnOnce() -> Vec<KeyValue>,
        more: impl FnOnce() -> T,
    ) {
        if let Some(traces) = &self.traces
            && let Some(parent) = Parent::of(told.of_call, told.facts)
        {
            traces.tell(&parent, told, attributes());
        }
        if let Some(log) = &self.log {
            log.write(told, &self.counters, more);
        }
    }
}

impl Leftovers {
    /// Waits for them, when nobody decides any more; but not long for a pipe that is not read.
    pub async fn end(self) {
        if let Some(writer) = self.writer {
            let _late = tokio::time::timeout(LOG_DEADLINE, writer).await;
        }
        if let Some(traces) = self.traces {
            traces.end().await;
        }
    }
}

impl Told<'_> {
    pub(crate) fn times(&self) -> Times {
        Times { begun: self.begun, ended: self.begun + self.took }
    }
}
