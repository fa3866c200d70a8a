//! Spans that continue Envoy's traces, sent by OTLP over gRPC. Only what Envoy has sampled is continued; there are no
//! traces of our own. A request never waits for it: what a full queue or an absent collector cannot take is gone.

use std::time::{Duration, SystemTime};

use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{
        Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, TraceState, Tracer as _,
        TracerProvider as _,
    },
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider},
};

use crate::{
    ext_authz::{Decision, Facts},
    observers::Told,
};

/// Sends spans.
#[derive(Debug, Clone)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// The span that a request belongs to, which was sampled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent(SpanContext);

/// From when to when a span was.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Its begin.
    pub begun: SystemTime,
    /// Its end.
    pub ended: SystemTime,
}

/// No collector can be there.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum InvalidCollector {
    #[error("must be http://host:port of a collector on this node or its network, got {url:?}")]
    Scheme { url: String },
    #[error("no exporter for {url:?}")]
    Exporter {
        url: String,
        #[source]
        source: ExporterBuildError,
    },
}

/// Some seconds of a busy node's sampled requests; a span has half a KiB.
const MAX_QUEUED: usize = 4_096;
/// In one message to the collector.
const MAX_BATCH: usize = 512;
/// People look at a trace a moment after its request.
const SEND_EVERY: Duration = Duration::from_secs(1);
/// One that does not answer for so long has the batch dropped.
const SEND_DEADLINE: Duration = Duration::from_secs(5);
/// What a drain waits for the last batch.
const END_DEADLINE: Duration = Duration::from_secs(2);

impl Parent {
    /// Where a request belongs to: the call of Envoy, where that has a span of its own, else the request.
    pub fn of(of_call: Option<&str>, facts: &Facts<'_>) -> Option<Self> {
        if let Some(text) = of_call {
            return Self::read(text);
        }
        match facts.header("traceparent").as_slice() {
            [text] => Self::read(std::str::from_utf8(text).ok()?),
            _ => None,
        }
    }

    /// `traceparent` (W3C Trace Context, level 1, section 3.2). Nothing where it is not valid, or not sampled.
    pub fn read(traceparent: &str) -> Option<Self> {
        let (mut parts, is_hex) = (traceparent.split('-'), |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let all = [(version, 2), (trace, 32), (span, 16), (flags, 2)];
        // Later versions may add parts; the first says that there are four.
        let is_whole = version != "ff" && (version != "00" || parts.next().is_none());
        if !is_whole || !all.into_iter().all(|(part, length)| is_hex(part, length)) {
            return None;
        }
        let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
        let context = SpanContext::new(trace, span, flags, true, TraceState::NONE);
        (context.is_valid() && context.is_sampled()).then_some(Self(context))
    }
}

impl Traces {
    /// Sends to the collector at this URL, in the name of this service on this node. To be called inside of a runtime.
    pub fn begin(url: &str, service: &'static str, node: &str) -> Result<Self, InvalidCollector> {
        if !url.starts_with("http://") {
            return Err(InvalidCollector::Scheme { url: url.to_owned() });
        }
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(url).with_timeout(SEND_DEADLINE);
        let exporter =
            exporter.build().map_err(|source| InvalidCollector::Exporter { url: url.to_owned(), source })?;
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(MAX_QUEUED)
            .with_max_export_batch_size(MAX_BATCH)
            .with_scheduled_delay(SEND_EVERY)
            .build();
        let resource = Resource::builder_empty()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.instance.id", node.to_owned()));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(config).build())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer(service);
        Ok(Self { provider, tracer })
    }

    /// Puts a decision in the queue, as the span `authn check` or `authz check`. It tells what the decision log tells, and
    /// less.
    pub fn tell(&self, parent: &Parent, told: &Told<'_>, mut attributes: Vec<KeyValue>) {
        let Told { by, facts, decision, result, .. } = told;
        let policy = facts.policy().map(|id| id.to_string()).unwrap_or_default();
        attributes.extend([
            KeyValue::new("gatehouse.policy", policy),
            KeyValue::new("gatehouse.result", *result),
            KeyValue::new("gatehouse.status", i64::from(decision.status())),
            KeyValue::new("gatehouse.id", facts.decision_id().to_owned()),
        ]);
        let failure = match decision {
            Decision::Fault { description } => Some(description.as_str()),
            _ => None,
        };
        self.record(parent, format!("{by} check"), told.times(), attributes, failure);
    }

    /// Puts a span in the queue. `failure` says that what it tells of went wrong on our side.
    pub fn record(
        &self,
        parent: &Parent,
        name: String,
        times: Times,
        attributes: Vec<KeyValue>,
        failure: Option<&str>,
    ) {
        let context = Context::new().with_remote_span_context(parent.0.clone());
        let builder = self.tracer.span_builder(name).with_kind(SpanKind::Server);
        let builder = builder.with_start_time(times.begun).with_attributes(attributes);
        let mut span = self.tracer.build_with_context(builder, &context);
        if let Some(why) = failure {
            span.set_status(Status::error(why.to_owned()));
        }
        span.end_with_timestamp(times.ended);
    }

    /// Sends what is still in the queue, for a moment.
    pub async fn end(self) {
        let end = move || self.provider.shutdown_with_timeout(END_DEADLINE);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(end).await {
            tracing::warn!(error = %error, "the last spans were not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_sampled_parent_is_read_and_nothing_else() {
        let parent = Parent::read(GOOD).unwrap();
        assert_eq!(parent.0.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.0.span_id().to_string(), "00f067aa0ba902b7");
        assert!(Parent::read(&GOOD.replace("00-4", "01-4").replace("-01", "-01-later")).is_some());
        for wrong in [
            "",
            "00",
            &GOOD.replace("-01", "-00"),
            &GOOD.replace("-01", "-01-more"),
            &GOOD.replace("-01", "-1"),
            &GOOD.replace("00-4", "ff-4"),
            &GOOD.replace("4bf9", "4BF9"),
            &GOOD.replace("4bf9", "+bf9"),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &format!(" {GOOD}"),
        ] {
            assert_eq!(Parent::read(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_collector_is_asked_in_plain_text_only_where_the_url_says_so() {
        assert!(Traces::begin("https://collector:4317", "gatehouse-authn", "edge/1").is_err());
        assert!(Traces::begin("collector:4317", "gatehouse-authn", "edge/1").is_err());
    }
}
