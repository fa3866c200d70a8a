//! What Envoy is told: codes and figures of each descriptor, headers for the client, and facts for the access log.

use envoy_types::pb::{
    envoy::{
        config::core::v3::HeaderValue,
        service::ratelimit::v3::{
            RateLimitRequest, RateLimitResponse,
            rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit::Unit},
        },
    },
    google::protobuf::{Duration, ListValue, Struct, Value, value::Kind},
    ratelimit::config::ratelimit::v3::RateLimitUnit,
};

use crate::{
    decide::{Applied, Result, entries},
    metrics::Outcome,
};

/// What an answer carries beside the codes.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// The names of the headers with limit, remaining and reset; none without.
    pub headers: Option<[String; 3]>,
    /// What was asked, and the metadata of the limits, as `RESPONSE_DYNAMIC_METADATA` has it.
    pub metadata: bool,
    /// Outcome, limit and remaining, for our access log.
    pub record: bool,
}

/// The answer to a request of which this is known.
pub(crate) fn answer(
    request: &RateLimitRequest,
    results: &[Result<'_>],
    over: bool,
    extras: &Extras,
) -> RateLimitResponse {
    let nearest = nearest(results);
    RateLimitResponse {
        overall_code: if over { Code::OverLimit } else { Code::Ok }.into(),
        statuses: results.iter().map(status).collect(),
        response_headers_to_add: extras
            .headers
            .as_ref()
            .zip(nearest)
            .map(|(names, nearest)| headers(names, nearest, over))
            .unwrap_or_default(),
        dynamic_metadata: dynamic_metadata(request, results, over, extras),
        ..Default::default()
    }
}

/// How the request came out, for metrics.
pub(crate) fn outcome(results: &[Result<'_>], over: bool) -> Outcome {
    match results.iter().flatten().next() {
        None => Outcome::NoLimit,
        Some(_) if over => Outcome::OverLimit,
        Some(_) => Outcome::Ok,
    }
}

/// The limit that has the least left.
fn nearest<'r, 'a>(results: &'r [Result<'a>]) -> Option<&'r (crate::decide::Ask<'a>, crate::decide::Said)> {
    let limited = results.iter().flatten().filter(|(ask, _)| !ask.limit.unlimited);
    limited.min_by_key(|(_, said)| (!said.taken.over, said.taken.remaining))
}

fn seconds(nanos: u64) -> u64 {
    nanos.div_ceil(1_000_000_000)
}

fn status(result: &Result<'_>) -> DescriptorStatus {
    let ok = DescriptorStatus { code: Code::Ok.into(), ..Default::default() };
    let Some((ask, said)) = result else { return ok };
    let limit = &ask.limit;
    if limit.unlimited {
        return DescriptorStatus { limit_remaining: u32::MAX, ..ok };
    }
    let code = if said.taken.over && !limit.shadow { Code::OverLimit } else { Code::Ok };
    DescriptorStatus {
        code: code.into(),
        current_limit: Some(RateLimit {
            requests_per_unit: limit.requests,
            unit: unit(limit.unit).into(),
            name: limit.name.clone().into(),
        }),
        limit_remaining: said.taken.remaining,
        duration_until_reset: Some(Duration {
            seconds: i64::try_from(seconds(said.taken.reset)).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        ..Default::default()
    }
}

fn unit(unit: RateLimitUnit) -> Unit {
    match unit {
        RateLimitUnit::Unknown => Unit::Unknown,
        RateLimitUnit::Second => Unit::Second,
        RateLimitUnit::Minute => Unit::Minute,
        RateLimitUnit::Hour => Unit::Hour,
        RateLimitUnit::Day => Unit::Day,
        RateLimitUnit::Week => Unit::Week,
        RateLimitUnit::Month => Unit::Month,
        RateLimitUnit::Year => Unit::Year,
    }
}

/// Of the limit that is nearest (draft-polli-ratelimit-headers-03), and when to come again (RFC 9110, 10.2.3).
fn headers(
    [limit, remaining, reset]: &[String; 3],
    (ask, said): &(crate::decide::Ask<'_>, crate::decide::Said),
    over: bool,
) -> Vec<HeaderValue> {
    let header = |key: &str, value: u64| HeaderValue {
        key: key.to_owned(),
        value: value.to_string(),
        ..Default::default()
    };
    let until_reset = seconds(said.taken.reset);
    let mut all = vec![
        header(limit, ask.limit.requests.into()),
        header(remaining, said.taken.remaining.into()),
        header(reset, until_reset),
    ];
    all.extend(over.then(|| header("Retry-After", until_reset)));
    all
}

fn text(text: impl Into<String>) -> Value {
    Value { kind: Some(Kind::StringValue(text.into())) }
}

fn number(number: impl Into<f64>) -> Value {
    Value { kind: Some(Kind::NumberValue(number.into())) }
}

fn map(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Struct {
    Struct { fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
}

fn dynamic_metadata(
    request: &RateLimitRequest,
    results: &[Result<'_>],
    over: bool,
    extras: &Extras,
) -> Option<Struct> {
    let mut all = map([]);
    if extras.record {
        all.fields.insert("outcome".to_owned(), text(outcome(results, over).name()));
        if let Some((ask, said)) = nearest(results) {
            all.fields.insert("limit".to_owned(), number(ask.limit.requests));
            all.fields.insert("remaining".to_owned(), number(said.taken.remaining));
        }
    }
    if extras.metadata {
        all.fields.extend(asked(request, results).fields);
    }
    (!all.fields.is_empty()).then_some(all)
}

/// As the reference tells it: the metadata is that of the limits which let the request pass.
fn asked(request: &RateLimitRequest, results: &[Result<'_>]) -> Struct {
    let mut metadata = map([]);
    let mut descriptors = Vec::with_capacity(request.descriptors.len());
    for (descriptor, result) in request.descriptors.iter().zip(results) {
        let pairs = entries(descriptor).map(|(key, value)| text(format!("{key}={value}"))).collect();
        let mut fields =
            vec![("entries", Value { kind: Some(Kind::ListValue(ListValue { values: pairs })) })];
        if let Some(hits) = &descriptor.hits_addend {
            #[allow(clippy::cast_precision_loss)]
            fields.push(("hitsAddend", number(hits.value as f64)));
        }
        if let Some((ask, said)) = result {
            if let Applied::Override(limit) = &ask.limit {
                let told = map([
                    ("requestsPerUnit", number(limit.requests)),
                    ("unit", text(limit.unit.as_str_name())),
                ]);
                fields.push(("limit", Value { kind: Some(Kind::StructValue(told)) }));
            }
            if let Some(more) = ask.limit.metadata.as_ref().filter(|_| !said.taken.over) {
                metadata.fields.extend(more.fields.clone());
            }
        }
        descriptors.push(Value { kind: Some(Kind::StructValue(map(fields))) });
    }
    let mut all = map([
        ("domain", text(&request.domain)),
        ("descriptors", Value { kind: Some(Kind::ListValue(ListValue { values: descriptors })) }),
        ("hitsAddend", number(request.hits_addend)),
    ]);
    if !metadata.fields.is_empty() {
        all.fields.insert("metadata".to_owned(), Value { kind: Some(Kind::StructValue(metadata)) });
    }
    all
}
