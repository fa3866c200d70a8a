//! A span for each decision of a request whose trace Envoy has sampled. It tells what the decision log tells, and less.

use std::time::SystemTime;

use opentelemetry::KeyValue;
use sidecar::{
    ext_authz::{Decision, Facts},
    traces::{Parent, Times, Traces},
};

use crate::decide::Label;

/// Where the request belongs to: the call of Envoy, where that has a span of its own, else the request.
pub(crate) fn parent(of_call: Option<&str>, facts: &Facts<'_>) -> Option<Parent> {
    if let Some(text) = of_call {
        return Parent::read(text);
    }
    match facts.header("traceparent").as_slice() {
        [text] => Parent::read(std::str::from_utf8(text).ok()?),
        _ => None,
    }
}

/// Tells of a decision.
pub(crate) fn record(
    traces: &Traces,
    parent: &Parent,
    facts: &Facts<'_>,
    decision: &Decision,
    label: Label,
    times: Times,
) {
    let (status, failure) = match decision {
        Decision::Allow { .. } => (200, None),
        Decision::Deny { status, .. } => (*status, None),
        Decision::Fault { description } => (503, Some(description.as_str())),
    };
    let policy = facts.policy().map(|id| id.to_string()).unwrap_or_default();
    let attributes = vec![
        KeyValue::new("gatehouse.policy", policy),
        KeyValue::new("gatehouse.method", label.method),
        KeyValue::new("gatehouse.result", label.result.text()),
        KeyValue::new("gatehouse.status", i64::from(status)),
        KeyValue::new("gatehouse.id", facts.decision_id().to_owned()),
    ];
    traces.record(parent, "authn check", times, attributes, failure);
}

/// From a moment of the wall clock, so long.
pub(crate) fn times(begun: SystemTime, took: std::time::Duration) -> Times {
    Times { begun, ended: begun + took }
}

#[cfg(test)]
mod tests;
