//! The gRPC service that Envoy asks: `envoy.service.ratelimit.v3.RateLimitService`.

use std::sync::Arc;

use envoy_types::pb::{
    envoy::{
        extensions::common::ratelimit::v3::RateLimitDescriptor,
        service::ratelimit::v3::{
            RateLimitRequest, RateLimitResponse,
            rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit::Unit},
            rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
        },
    },
    google::protobuf::{Duration, Struct, Value, value::Kind},
    ratelimit::config::ratelimit::v3::RateLimitUnit,
};
use runtime::Clock;
use tonic::{Request, Response, Status};

use crate::{
    config::{Domain, Limit},
    counters::{Counted, Key},
    metrics::{Metrics, Outcome},
    state::State,
};

/// Answers from the limits in force and their counters on this node.
pub struct RateLimitSidecar {
    state: Arc<State>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

/// More than Envoy's actions make.
const MAX_DESCRIPTORS: usize = 256;

impl RateLimitSidecar {
    /// Reads this state and this clock.
    pub fn new(state: Arc<State>, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        Self { state, clock, metrics }
    }

    /// For a tonic server.
    pub fn into_server(self) -> RateLimitServiceServer<Self> {
        RateLimitServiceServer::new(self)
    }

    fn answer(&self, request: &RateLimitRequest) -> Result<RateLimitResponse, Status> {
        if request.domain.is_empty() {
            return Err(Status::invalid_argument("domain: must be there, got nothing"));
        }
        if request.descriptors.is_empty() || request.descriptors.len() > MAX_DESCRIPTORS {
            let got = request.descriptors.len();
            return Err(Status::invalid_argument(format!("descriptors: 1 to {MAX_DESCRIPTORS}, got {got}")));
        }
        let now = self.clock.unix_seconds();
        let domain = self.state.domain(&request.domain);
        let results: Vec<_> = request
            .descriptors
            .iter()
            .map(|descriptor| self.hit(domain.as_deref(), request, descriptor, now))
            .collect();
        let enforced = |result: &Option<(Limit, Counted)>| {
            result.is_some_and(|(limit, counted)| counted.over && !limit.shadow)
        };
        let over = results.iter().any(enforced);
        let nearest = results.iter().flatten().min_by_key(|(_, counted)| counted.remaining);
        let outcome = match nearest {
            None => Outcome::NoLimit,
            Some(_) if over => Outcome::OverLimit,
            Some(_) => Outcome::Ok,
        };
        self.metrics.count(outcome);
        Ok(RateLimitResponse {
            overall_code: if over { Code::OverLimit } else { Code::Ok }.into(),
            statuses: results.iter().map(|result| status(result.as_ref())).collect(),
            dynamic_metadata: Some(record(outcome, nearest)),
            ..Default::default()
        })
    }

    fn hit(
        &self,
        domain: Option<&Domain>,
        request: &RateLimitRequest,
        descriptor: &RateLimitDescriptor,
        now: u64,
    ) -> Option<(Limit, Counted)> {
        let entries = descriptor.entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()));
        let domain = domain?;
        let limit = domain.find(entries)?;
        // 0 in the request means 1; 0 in a descriptor only looks (proto of RateLimitRequest).
        let hits =
            descriptor.hits_addend.as_ref().map_or(u64::from(request.hits_addend.max(1)), |hits| hits.value);
        let (key, overflow) = keys(&request.domain, descriptor, &limit);
        let counted = domain.counters().hit(key, overflow, &limit, hits, now);
        if counted.overflowed {
            self.metrics.overflow_hits.inc();
        }
        Some((limit, counted))
    }
}

/// The counter of these entries, and the one that keys of the same limit share when the table is full.
/// Each part is preceded by its length: no two lists of entries feed the same bytes.
fn keys(domain: &str, descriptor: &RateLimitDescriptor, limit: &Limit) -> (Key, Key) {
    let (mut own, mut shared) = (blake3::Hasher::new(), blake3::Hasher::new());
    own.update(b"own");
    shared.update(b"shared");
    let feed = |hasher: &mut blake3::Hasher, part: &[u8]| {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    };
    for hasher in [&mut own, &mut shared] {
        feed(hasher, domain.as_bytes());
        feed(hasher, &limit.window_secs.get().to_le_bytes());
    }
    for entry in &descriptor.entries {
        feed(&mut own, entry.key.as_bytes());
        feed(&mut own, entry.value.as_bytes());
        feed(&mut shared, entry.key.as_bytes());
    }
    (first_128_bits(&own), first_128_bits(&shared))
}

fn first_128_bits(hasher: &blake3::Hasher) -> Key {
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    Key::from_le_bytes(bytes)
}

fn status(result: Option<&(Limit, Counted)>) -> DescriptorStatus {
    let Some((limit, counted)) = result else {
        return DescriptorStatus { code: Code::Ok.into(), ..Default::default() };
    };
    let unit = match limit.unit {
        RateLimitUnit::Unknown => Unit::Unknown,
        RateLimitUnit::Second => Unit::Second,
        RateLimitUnit::Minute => Unit::Minute,
        RateLimitUnit::Hour => Unit::Hour,
        RateLimitUnit::Day => Unit::Day,
        RateLimitUnit::Week => Unit::Week,
        RateLimitUnit::Month => Unit::Month,
        RateLimitUnit::Year => Unit::Year,
    };
    let code = if counted.over && !limit.shadow { Code::OverLimit } else { Code::Ok };
    DescriptorStatus {
        code: code.into(),
        current_limit: Some(RateLimit {
            requests_per_unit: limit.requests,
            unit: unit.into(),
            ..Default::default()
        }),
        limit_remaining: counted.remaining,
        duration_until_reset: Some(Duration {
            seconds: i64::try_from(counted.reset_secs).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        ..Default::default()
    }
}

/// For the access log.
fn record(outcome: Outcome, nearest: Option<&(Limit, Counted)>) -> Struct {
    let number = |number: u32| Value { kind: Some(Kind::NumberValue(number.into())) };
    let outcome = Value { kind: Some(Kind::StringValue(outcome.name().into())) };
    let mut fields = vec![("outcome".to_owned(), outcome)];
    if let Some((limit, counted)) = nearest {
        fields.push(("limit".to_owned(), number(limit.requests)));
        fields.push(("remaining".to_owned(), number(counted.remaining)));
    }
    Struct { fields: fields.into_iter().collect() }
}

#[tonic::async_trait]
impl RateLimitService for RateLimitSidecar {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let answer = self.answer(request.get_ref());
        self.metrics.counters.set(i64::try_from(self.state.counters()).unwrap_or(i64::MAX));
        answer.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration as StdDuration, SystemTime};

    use envoy_types::pb::{
        envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry, google::protobuf::UInt64Value,
    };

    use super::*;
    use crate::config::tests::{config, descriptor};

    #[derive(Debug)]
    struct At(u64);

    impl Clock for At {
        fn now(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH + StdDuration::from_secs(self.0)
        }
    }

    fn sidecar(shadow: bool) -> RateLimitSidecar {
        let mut rule = descriptor("limit", "0", Some((2, RateLimitUnit::Minute)));
        rule.shadow_mode = shadow;
        RateLimitSidecar::new(State::of(&config(vec![rule])), Arc::new(At(90)), Metrics::default())
    }

    fn request(domain: &str, values: &[&str]) -> RateLimitRequest {
        let one = |value: &&str| RateLimitDescriptor {
            entries: vec![Entry { key: "limit".into(), value: (*value).into() }],
            ..Default::default()
        };
        RateLimitRequest {
            domain: domain.into(),
            descriptors: values.iter().map(one).collect(),
            hits_addend: 0,
        }
    }

    fn code(sidecar: &RateLimitSidecar, request: &RateLimitRequest) -> Code {
        sidecar.answer(request).unwrap().overall_code()
    }

    #[test]
    fn past_the_limit_the_answer_says_when_to_come_again() {
        let sidecar = sidecar(false);
        let request = request("d", &["0"]);
        assert_eq!((code(&sidecar, &request), code(&sidecar, &request)), (Code::Ok, Code::Ok));
        let answer = sidecar.answer(&request).unwrap();
        assert_eq!(answer.overall_code(), Code::OverLimit);
        let status = &answer.statuses[0];
        assert_eq!((status.limit_remaining, status.duration_until_reset.as_ref().unwrap().seconds), (0, 30));
        assert_eq!(status.current_limit.as_ref().unwrap().requests_per_unit, 2);
        let outcome = &answer.dynamic_metadata.unwrap().fields["outcome"];
        assert_eq!(outcome.kind, Some(Kind::StringValue("over_limit".into())));
    }

    #[test]
    fn what_no_limit_names_passes() {
        let sidecar = sidecar(false);
        for _ in 0..5 {
            assert_eq!(code(&sidecar, &request("unknown", &["0"])), Code::Ok);
            assert_eq!(code(&sidecar, &request("d", &["other"])), Code::Ok);
        }
    }

    #[test]
    fn a_shadow_limit_counts_and_lets_pass() {
        let sidecar = sidecar(true);
        for _ in 0..5 {
            assert_eq!(code(&sidecar, &request("d", &["0"])), Code::Ok);
        }
    }

    #[test]
    fn hits_count_as_the_request_or_the_descriptor_says() {
        let sidecar = sidecar(false);
        let mut many = request("d", &["0"]);
        many.descriptors[0].hits_addend = Some(UInt64Value { value: 0 });
        for _ in 0..5 {
            assert_eq!(code(&sidecar, &many), Code::Ok, "zero hits only look");
        }
        many.descriptors[0].hits_addend = None;
        many.hits_addend = u32::MAX;
        assert_eq!(code(&sidecar, &many), Code::OverLimit);
    }

    #[test]
    fn a_request_without_domain_or_descriptors_is_told_so() {
        let sidecar = sidecar(false);
        assert!(sidecar.answer(&request("", &["0"])).is_err());
        assert!(sidecar.answer(&request("d", &[])).is_err());
    }
}
