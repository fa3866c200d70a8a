//! What fuzzers throw bytes at: questions and limits. Each panics where something does not hold.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use envoy_types::pb::{
    envoy::{
        extensions::common::ratelimit::v3::{
            RateLimitDescriptor,
            rate_limit_descriptor::{Entry, RateLimitOverride},
        },
        service::ratelimit::v3::{RateLimitRequest, rate_limit_response::Code},
    },
    google::protobuf::UInt64Value,
    ratelimit::config::ratelimit::v3::RateLimitConfig,
};
use prost::Message as _;
use runtime::SystemClock;

use crate::{
    config::{self, Defaults, Domain},
    metrics::Metrics,
    service::RateLimitSidecar,
    state::State,
};

const LIMITS: &str = "
domain: d
descriptors:
- key: path
  value: /api/*
  share_threshold: true
  rate_limit: {unit: year, requests_per_unit: 4}
- key: user
  detailed_metric: true
  rate_limit: {unit: month, requests_per_unit: 4000000000, name: users}
  descriptors:
  - {key: team, rate_limit: {unit: week, requests_per_unit: 0}, quota_mode: true, metadata: {rls: {algorithm: gcra}}}
- {key: never, rate_limit: {unit: year, requests_per_unit: 0}}
";

/// Answers bytes that are taken for questions.
pub struct Answering(RateLimitSidecar);

impl Default for Answering {
    fn default() -> Self {
        let state = Arc::new(State::default());
        if let Ok(domains) = config::read(&[("limits".into(), LIMITS.into())], false, &Defaults::default()) {
            state.replace(domains.into_iter().map(Arc::new));
        }
        Self(RateLimitSidecar::new(state, Arc::new(SystemClock), Metrics::default()))
    }
}

impl Answering {
    /// Questions that are meant.
    pub fn questions(&self) -> Vec<Vec<u8>> {
        let entry = |(key, value): (&str, &str)| Entry { key: key.into(), value: value.into() };
        let one = |entries: &[(&str, &str)]| RateLimitDescriptor {
            entries: entries.iter().copied().map(entry).collect(),
            hits_addend: Some(UInt64Value { value: u64::MAX }),
            limit: Some(RateLimitOverride { requests_per_unit: 1, unit: 2 }),
            ..Default::default()
        };
        let descriptors =
            vec![one(&[("path", "/api/x")]), one(&[("user", "a"), ("team", "b")]), one(&[("never", "")])];
        let request = RateLimitRequest { domain: "d".into(), descriptors, hits_addend: u32::MAX };
        let plain = RateLimitRequest {
            descriptors: vec![RateLimitDescriptor { limit: None, ..one(&[("never", "x")]) }],
            ..request.clone()
        };
        vec![request.encode_to_vec(), plain.encode_to_vec()]
    }

    /// A status for each descriptor, and none of what is never let pass passes.
    pub fn question(&self, bytes: &[u8]) {
        let Ok(request) = RateLimitRequest::decode(bytes) else { return };
        // On this node nothing waits.
        let answer = pin!(self.0.answer(&request)).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(answer) = answer else { panic!("it waits") };
        let Ok(answer) = answer else { return };
        assert_eq!(answer.statuses.len(), request.descriptors.len());
        let of_a_hit = |descriptor: &RateLimitDescriptor| {
            let asks = descriptor.hits_addend.as_ref().is_none_or(|hits| hits.value > 0);
            let [entry] = descriptor.entries.as_slice() else { return false };
            entry.key == "never" && descriptor.limit.is_none() && asks && !descriptor.is_negative_hits
        };
        if request.domain == "d" && request.descriptors.iter().any(of_a_hit) {
            assert_eq!(answer.overall_code(), Code::OverLimit);
        }
    }
}

/// Limits that are meant, as a file and as a message.
pub fn limits() -> Vec<Vec<u8>> {
    let config = RateLimitConfig { name: "n".into(), domain: "d".into(), ..Default::default() };
    vec![LIMITS.into(), config.encode_to_vec()]
}

/// Takes limits, or refuses them.
pub fn read_limits(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _refused = config::read(&[("f".into(), text.into())], false, &Defaults::default());
    }
    if let Ok(wire) = RateLimitConfig::decode(bytes) {
        let _refused = Domain::from_wire(wire, &Defaults::default());
    }
}
