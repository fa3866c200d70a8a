//! Requests and answers, as the reference documents them; and requests that nobody means.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration as StdDuration,
};

use envoy_types::pb::{
    envoy::{
        extensions::common::ratelimit::v3::{
            RateLimitDescriptor,
            rate_limit_descriptor::{Entry, RateLimitOverride},
        },
        service::ratelimit::v3::rate_limit_response::Code,
        r#type::v3::RateLimitUnit as OverrideUnit,
    },
    google::protobuf::{UInt64Value, value::Kind},
};

use super::*;
use crate::config::tests::{ALL_KEYS, from_file};

/// Seconds since the epoch.
#[derive(Debug)]
struct At(AtomicU64);

impl Clock for At {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + StdDuration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

fn sidecar(text: &str) -> RateLimitSidecar {
    let state = Arc::new(State::default());
    state.replace([Arc::new(from_file(text))]);
    RateLimitSidecar::new(state, Arc::new(At(AtomicU64::new(90))), Metrics::default())
}

fn descriptor(entries: &[(&str, &str)]) -> RateLimitDescriptor {
    let entry = |(key, value): &(&str, &str)| Entry { key: (*key).into(), value: (*value).into() };
    RateLimitDescriptor { entries: entries.iter().map(entry).collect(), ..Default::default() }
}

fn request(domain: &str, descriptors: &[&[(&str, &str)]]) -> RateLimitRequest {
    RateLimitRequest {
        domain: domain.into(),
        descriptors: descriptors.iter().map(|entries| descriptor(entries)).collect(),
        hits_addend: 0,
    }
}

async fn told(sidecar: &RateLimitSidecar, request: &RateLimitRequest) -> RateLimitResponse {
    sidecar.answer(request).await.unwrap()
}

/// The code of all, and code and remaining of each.
async fn codes(sidecar: &RateLimitSidecar, request: &RateLimitRequest) -> (Code, Vec<(Code, u32)>) {
    let answer = told(sidecar, request).await;
    let each = answer.statuses.iter().map(|status| (status.code(), status.limit_remaining)).collect();
    (answer.overall_code(), each)
}

const TWO: &str = "domain: d\ndescriptors: [{key: a, rate_limit: {unit: minute, requests_per_unit: 2}}]\n";

#[tokio::test]
async fn past_the_limit_the_answer_says_when_to_come_again() {
    let sidecar = sidecar(TWO);
    let request = request("d", &[&[("a", "0")]]);
    assert_eq!(codes(&sidecar, &request).await, (Code::Ok, vec![(Code::Ok, 1)]));
    assert_eq!(codes(&sidecar, &request).await, (Code::Ok, vec![(Code::Ok, 0)]));
    let answer = told(&sidecar, &request).await;
    assert_eq!(answer.overall_code(), Code::OverLimit);
    let status = &answer.statuses[0];
    assert_eq!((status.limit_remaining, status.duration_until_reset.as_ref().unwrap().seconds), (0, 30));
    let limit = status.current_limit.as_ref().unwrap();
    assert_eq!((limit.requests_per_unit, limit.unit().as_str_name()), (2, "MINUTE"));
    let outcome = &answer.dynamic_metadata.unwrap().fields["outcome"];
    assert_eq!(outcome.kind, Some(Kind::StringValue("over_limit".into())));
    assert!(answer.response_headers_to_add.is_empty(), "Envoy makes its own of the figures");
}

#[tokio::test]
async fn headers_tell_of_the_limit_that_is_nearest() {
    let text = "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: minute, requests_per_unit: 2}}\n- {key: b, rate_limit: {unit: hour, requests_per_unit: 1}}\n";
    let headers = Some(["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"].map(str::to_owned));
    let extras = Extras { headers, ..Extras::default() };
    let sidecar = sidecar(text).with_options(Options { extras, ..Options::default() });
    let request = request("d", &[&[("a", "0")], &[("b", "0")]]);
    let shown = |answer: &RateLimitResponse| {
        let all =
            answer.response_headers_to_add.iter().map(|header| format!("{}: {}", header.key, header.value));
        all.collect::<Vec<_>>().join(", ")
    };
    let answer = told(&sidecar, &request).await;
    assert_eq!(shown(&answer), "RateLimit-Limit: 1, RateLimit-Remaining: 0, RateLimit-Reset: 3510");
    assert!(answer.dynamic_metadata.is_none());
    let answer = told(&sidecar, &request).await;
    assert_eq!(
        shown(&answer),
        "RateLimit-Limit: 1, RateLimit-Remaining: 0, RateLimit-Reset: 3510, Retry-After: 3510"
    );
}

#[tokio::test]
async fn what_no_limit_names_passes_and_says_no_more() {
    let sidecar = sidecar(TWO);
    for _ in 0..5 {
        for request in [request("unknown", &[&[("a", "0")]]), request("d", &[&[("other", "0")]])] {
            let answer = told(&sidecar, &request).await;
            assert_eq!(answer.overall_code(), Code::Ok);
            assert!(answer.statuses[0].current_limit.is_none());
        }
    }
    assert_eq!(sidecar.metrics.domain_not_found.get(), 5);
}

#[tokio::test]
async fn a_request_without_domain_or_descriptors_is_told_so() {
    let sidecar = sidecar(TWO);
    let many: Vec<&[(&str, &str)]> = vec![&[("a", "0")]; 257];
    for (request, word) in [
        (request("", &[&[("a", "0")]]), "domain"),
        (request("d", &[]), "descriptors"),
        (request("d", &many), "257"),
    ] {
        let refusal = sidecar.answer(&request).await.unwrap_err();
        assert!(refusal.message().contains(word), "{refusal}");
    }
    assert_eq!(codes(&sidecar, &request("d", &[&[]])).await, (Code::Ok, vec![(Code::Ok, 0)]));
}

#[tokio::test]
async fn a_shadow_limit_counts_and_lets_pass() {
    let sidecar = sidecar(&TWO.replace("{key: a,", "{key: a, shadow_mode: true,"));
    let request = request("d", &[&[("a", "0")]]);
    for left in [1, 0, 0, 0] {
        assert_eq!(codes(&sidecar, &request).await, (Code::Ok, vec![(Code::Ok, left)]));
    }
    let domain = sidecar.state.domain("d").unwrap();
    let counted = domain.limits().next().unwrap().counts.values();
    let of = |name: &str| counted.iter().find(|(other, _)| *other == name).unwrap().1;
    assert_eq!((of("total_hits"), of("over_limit"), of("shadow_mode"), of("within_limit")), (4, 2, 2, 2));
}

#[tokio::test]
async fn a_process_in_shadow_refuses_nothing_and_tells_each_limit() {
    let sidecar = sidecar(TWO).with_options(Options { shadow: true, ..Options::default() });
    let mut many = request("d", &[&[("a", "0")]]);
    many.hits_addend = 9;
    assert_eq!(codes(&sidecar, &many).await, (Code::Ok, vec![(Code::OverLimit, 0)]));
}

#[tokio::test]
async fn hits_count_as_the_request_or_the_descriptor_says() {
    let sidecar = sidecar(&TWO.replace('2', "9"));
    let mut two = request("d", &[&[("a", "0")], &[("a", "1")], &[("a", "2")]]);
    two.hits_addend = 3;
    two.descriptors[1].hits_addend = Some(UInt64Value { value: 5 });
    two.descriptors[2].hits_addend = Some(UInt64Value { value: 0 });
    assert_eq!(codes(&sidecar, &two).await.1, [(Code::Ok, 6), (Code::Ok, 4), (Code::Ok, 9)]);
    two.descriptors[1].is_negative_hits = true;
    assert_eq!(codes(&sidecar, &two).await.1, [(Code::Ok, 3), (Code::Ok, 4), (Code::Ok, 9)]);
    two.hits_addend = u32::MAX;
    two.descriptors[1] = RateLimitDescriptor {
        hits_addend: Some(UInt64Value { value: u64::MAX }),
        ..descriptor(&[("a", "1")])
    };
    let over = codes(&sidecar, &two).await;
    assert_eq!(over, (Code::OverLimit, vec![(Code::OverLimit, 0), (Code::OverLimit, 0), (Code::Ok, 9)]));
}

#[tokio::test]
async fn an_unlimited_one_is_ok_without_a_limit_and_is_counted_in_metrics() {
    let sidecar = sidecar(ALL_KEYS);
    let answer = told(&sidecar, &request("all", &[&[("free", "x")]])).await;
    assert_eq!((answer.overall_code(), answer.statuses[0].limit_remaining), (Code::Ok, u32::MAX));
    assert!(answer.statuses[0].current_limit.is_none());
    let domain = sidecar.state.domain("all").unwrap();
    let free = domain.limits().find(|limit| limit.unlimited).unwrap();
    assert_eq!(free.counts.values()[0], ("total_hits", 1));
    assert_eq!(sidecar.state.counters.used(), 0);
}

#[tokio::test]
async fn a_limit_that_another_replaces_is_not_asked() {
    let sidecar = sidecar(ALL_KEYS);
    let both = request("all", &[&[("database", "users")], &[("database", "default")]]);
    let answer = told(&sidecar, &both).await;
    assert!(answer.statuses[0].current_limit.is_none(), "dropped");
    assert_eq!(answer.statuses[1].limit_remaining, 2);
    let alone = told(&sidecar, &request("all", &[&[("database", "users")]])).await;
    assert_eq!(alone.statuses[0].limit_remaining, 499);
    assert_eq!(alone.statuses[0].current_limit.as_ref().unwrap().name, "users");
}

#[tokio::test]
async fn of_quotas_it_takes_all_to_refuse() {
    let text = "
domain: d
descriptors:
- {key: a, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: b, quota_mode: true, rate_limit: {unit: minute, requests_per_unit: 2}}
- {key: c, rate_limit: {unit: minute, requests_per_unit: 4}}
";
    let sidecar = sidecar(text);
    let all = request("d", &[&[("a", "0")], &[("b", "0")], &[("c", "0")]]);
    assert_eq!(codes(&sidecar, &all).await.0, Code::Ok);
    assert_eq!(codes(&sidecar, &all).await.0, Code::Ok, "one of two quotas is over");
    assert_eq!(codes(&sidecar, &all).await.0, Code::OverLimit, "both are");
    let more = request("d", &[&[("a", "1")], &[("c", "0")]]);
    assert_eq!(codes(&sidecar, &more).await.0, Code::Ok);
    let over = request("d", &[&[("a", "2")], &[("c", "0")]]);
    assert_eq!(codes(&sidecar, &over).await.0, Code::OverLimit, "a limit is enough");
}

#[tokio::test]
async fn the_limit_of_a_request_goes_over_the_configured_one_and_counts_on_its_own() {
    let sidecar = sidecar(&TWO.replace("{key: a,", "{key: a, shadow_mode: true,"));
    let mut one = request("d", &[&[("a", "0")], &[("not", "configured")]]);
    for (descriptor, requests_per_unit) in one.descriptors.iter_mut().zip([1, 3]) {
        let unit = OverrideUnit::Hour.into();
        descriptor.limit = Some(RateLimitOverride { requests_per_unit, unit });
    }
    assert_eq!(codes(&sidecar, &one).await, (Code::Ok, vec![(Code::Ok, 0), (Code::Ok, 2)]));
    assert_eq!(codes(&sidecar, &one).await, (Code::OverLimit, vec![(Code::OverLimit, 0), (Code::Ok, 1)]));
    assert_eq!(codes(&sidecar, &request("d", &[&[("a", "0")]])).await.1, [(Code::Ok, 1)]);
    one.domain = "unknown".into();
    assert_eq!(codes(&sidecar, &one).await.1, [(Code::Ok, 0), (Code::Ok, 0)], "nobody has configured it");
}

#[tokio::test]
async fn an_override_of_an_unknown_unit_is_refused_and_breaks_nothing() {
    let sidecar = sidecar(TWO);
    for unit in [0, 99, -1] {
        let mut request = request("d", &[&[("a", "0")]]);
        request.descriptors[0].limit = Some(RateLimitOverride { requests_per_unit: 1, unit });
        let refusal = sidecar.answer(&request).await.unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::InvalidArgument);
        assert!(refusal.message().contains("descriptors[0].limit.unit"), "{refusal}");
    }
    assert_eq!(codes(&sidecar, &request("d", &[&[("a", "0")]])).await.0, Code::Ok);
}

#[tokio::test]
async fn a_refused_request_costs_its_other_limits_nothing_where_they_take_all_or_nothing() {
    let text = "
domain: d
descriptors:
- {key: a, rate_limit: {unit: minute, requests_per_unit: 9}, metadata: {rls: {all_or_nothing: true}}}
- {key: b, rate_limit: {unit: minute, requests_per_unit: 9}}
- {key: c, rate_limit: {unit: minute, requests_per_unit: 1}}
";
    let sidecar = sidecar(text);
    let all = request("d", &[&[("a", "0")], &[("b", "0")], &[("c", "0")]]);
    for _ in 0..4 {
        told(&sidecar, &all).await;
    }
    let left = codes(&sidecar, &request("d", &[&[("a", "0")], &[("b", "0")]])).await.1;
    assert_eq!(left, [(Code::Ok, 7), (Code::Ok, 4)], "one request has passed of four");
}

#[tokio::test]
async fn metadata_is_that_of_limits_that_let_pass_and_is_kept_beside_detailed_metrics() {
    let text = "
domain: d
descriptors:
- {key: a, detailed_metric: true, metadata: {team: search, rls: {algorithm: sliding}}, rate_limit: {unit: minute, requests_per_unit: 1}}
";
    let extras = Extras { metadata: true, ..Extras::default() };
    let sidecar = sidecar(text).with_options(Options { extras, ..Options::default() });
    let request = request("d", &[&[("a", "0")]]);
    let fields = told(&sidecar, &request).await.dynamic_metadata.unwrap().fields;
    assert_eq!(fields["domain"].kind, Some(Kind::StringValue("d".into())));
    let Some(Kind::StructValue(metadata)) = &fields["metadata"].kind else { panic!("{fields:?}") };
    assert_eq!(metadata.fields.keys().collect::<Vec<_>>(), ["team"]);
    let fields = told(&sidecar, &request).await.dynamic_metadata.unwrap().fields;
    assert!(!fields.contains_key("metadata"), "{fields:?}");
}

#[tokio::test]
async fn a_flood_of_keys_gets_the_limits_own_counter_and_never_a_fresh_one() {
    let text = TWO.replace('2', "5");
    let sidecar = sidecar(&text);
    for key in 0..70_000 {
        told(&sidecar, &request("d", &[&[("a", &format!("{key}"))]])).await;
    }
    assert!(sidecar.state.counters.used() <= (1 << 16) + 1, "{}", sidecar.state.counters.used());
    assert_eq!(codes(&sidecar, &request("d", &[&[("a", "one more")]])).await.0, Code::OverLimit);
    assert!(sidecar.metrics.overflow_hits.get() > 0);
}

#[tokio::test]
async fn limits_that_change_while_requests_run_keep_what_was_counted() {
    let sidecar = sidecar(TWO);
    let request = request("d", &[&[("a", "0")]]);
    told(&sidecar, &request).await;
    told(&sidecar, &request).await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
    let asking = {
        let (sidecar, request, stop, answered) =
            (sidecar.clone(), request.clone(), stop.clone(), answered.clone());
        tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Handle::current();
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(runtime.block_on(codes(&sidecar, &request)).0, Code::OverLimit);
                *answered.lock().unwrap() += 1;
            }
        })
    };
    for _ in 0..200 {
        sidecar.state.replace([Arc::new(from_file(TWO))]);
        tokio::task::yield_now().await;
    }
    while *answered.lock().unwrap() < 10 {
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::Relaxed);
    asking.await.unwrap();
    sidecar.state.replace([Arc::new(from_file(&TWO.replace('2', "1000000000")))]);
    assert_eq!(codes(&sidecar, &request).await.0, Code::Ok);
}
