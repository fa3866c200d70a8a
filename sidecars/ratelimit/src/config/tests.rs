//! The reference server's documented examples, in files and over xDS, and what is refused.

use std::collections::BTreeMap;

use envoy_types::pb::ratelimit::config::ratelimit::v3::{
    RateLimitConfig, RateLimitDescriptor, RateLimitPolicy,
};

use super::*;

pub(crate) fn descriptor(key: &str, value: &str, limit: Option<(u32, RateLimitUnit)>) -> RateLimitDescriptor {
    let policy = |(requests_per_unit, unit)| {
        let mut policy = RateLimitPolicy { requests_per_unit, ..Default::default() };
        policy.set_unit(unit);
        policy
    };
    RateLimitDescriptor {
        key: key.into(),
        value: value.into(),
        rate_limit: limit.map(policy),
        ..Default::default()
    }
}

pub(crate) fn config(descriptors: Vec<RateLimitDescriptor>) -> RateLimitConfig {
    RateLimitConfig { name: "d".into(), domain: "d".into(), descriptors }
}

fn files(texts: &[&str]) -> Vec<(String, String)> {
    texts.iter().enumerate().map(|(at, text)| (format!("{at}.yaml"), (*text).to_owned())).collect()
}

pub(crate) fn from_file(text: &str) -> Domain {
    read(&files(&[text]), false, &Defaults::default()).unwrap_or_else(|error| panic!("{error}")).remove(0)
}

fn refusal(text: &str) -> String {
    match read(&files(&[text]), false, &Defaults::default()) {
        Ok(_) => panic!("not refused: {text}"),
        Err(refusal) => refusal,
    }
}

fn requests(domain: &Domain, entries: &[(&str, &str)]) -> Option<u32> {
    domain.find(entries.iter().copied()).map(|found| found.limit.requests)
}

fn key(domain: &Domain, entries: &[(&str, &str)]) -> Key {
    domain.find(entries.iter().copied()).expect("a limit").key
}

/// Every key that the reference documents.
pub(crate) const ALL_KEYS: &str = "
domain: all
descriptors:
- key: database
  value: users
  rate_limit: {unit: second, requests_per_unit: 500, name: users}
  descriptors:
  - {key: user, rate_limit: {unit: MINUTE, requests_per_unit: 7}, detailed_metric: true}
- key: database
  value: default
  rate_limit: {unit: Hour, requests_per_unit: 3, replaces: [{name: users}]}
- key: path
  value: /api/*
  share_threshold: true
  rate_limit: {unit: day, requests_per_unit: 4}
- key: path
  value: /other/*/photos
  value_to_metric: true
  shadow_mode: true
  rate_limit: {unit: week, requests_per_unit: 5}
- key: path
  rate_limit: {unit: month, requests_per_unit: 6}
- {key: free, rate_limit: {unlimited: true}}
- key: tokens
  quota_mode: true
  metadata: {team: search, nested: {numbers: [1, 2.5], yes: true, nothing: null}}
  rate_limit: {unit: year, requests_per_unit: 8}
";

#[test]
fn a_file_with_every_key_of_the_reference_is_understood() {
    let domain = from_file(ALL_KEYS);
    let found =
        |entries: &[(&'static str, &'static str)]| domain.find(entries.iter().copied()).unwrap().limit;
    assert_eq!(domain.limits().count(), 8);
    let (user, path, tokens) = (
        found(&[("database", "users"), ("user", "x")]),
        found(&[("path", "/other/1/photos")]),
        found(&[("tokens", "x")]),
    );
    assert!(user.detailed_metric && path.value_to_metric && path.shadow && tokens.quota);
    assert_eq!(&*found(&[("database", "users")]).name, "users");
    assert_eq!(&*found(&[("database", "default")]).replaces[0], "users");
    assert!(found(&[("free", "x")]).unlimited);
    let metadata = tokens.metadata.clone().expect("metadata");
    let json =
        serde_json::json!({"team": "search", "nested": {"numbers": [1, 2.5], "yes": true, "nothing": null}});
    assert_eq!(serde_json::Value::Object(metadata::to_json(metadata)), json);
    let day = 86_400_000_000_000_u64;
    for (entries, window) in [
        (&[("database", "users")][..], 1_000_000_000),
        (&[("database", "users"), ("user", "")], 60_000_000_000),
        (&[("database", "default")], 3_600_000_000_000),
        (&[("path", "/api/x")], day),
        (&[("path", "/other/x/photos")], 7 * day),
        (&[("path", "x")], 30 * day),
        (&[("tokens", "x")], 365 * day),
    ] {
        assert_eq!(domain.find(entries.iter().copied()).unwrap().limit.terms.window, window, "{entries:?}");
    }
}

#[test]
fn a_limit_is_found_at_exactly_its_depth_the_exact_value_first_then_patterns_in_order_then_the_key() {
    let domain = from_file(
        "
domain: d
descriptors:
- key: a
  descriptors:
  - {key: b, rate_limit: {unit: minute, requests_per_unit: 5}}
  - {key: b, value: x, rate_limit: {unit: minute, requests_per_unit: 9}}
- {key: c, value: 'x*', rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: c, value: '*', rate_limit: {unit: minute, requests_per_unit: 2}}
- {key: c, value: 'xyz', rate_limit: {unit: minute, requests_per_unit: 3}}
- {key: c, rate_limit: {unit: minute, requests_per_unit: 4}}
- {key: 'k*', rate_limit: {unit: minute, requests_per_unit: 6}}
",
    );
    for (entries, expected) in [
        (&[("a", "1"), ("b", "y")][..], Some(5)),
        (&[("a", "1"), ("b", "x")], Some(9)),
        (&[("a", "1")], None),
        (&[("b", "x")], None),
        (&[("a", "1"), ("b", "x"), ("more", "1")], None),
        (&[("c", "xyz")], Some(3)),
        (&[("c", "xy")], Some(1)),
        (&[("c", "y")], Some(2)),
        (&[("kind", "any")], Some(6)),
        (&[("other", "")], None),
    ] {
        assert_eq!(requests(&domain, entries), expected, "{entries:?}");
    }
}

#[test]
fn entries_with_separators_inside_are_never_taken_for_others() {
    let domain = from_file(
        "
domain: d
descriptors:
- {key: a, value: b_c, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: a_b, rate_limit: {unit: minute, requests_per_unit: 2}}
- key: p
  rate_limit: {unit: minute, requests_per_unit: 3}
  descriptors:
  - {key: q, rate_limit: {unit: minute, requests_per_unit: 3}}
",
    );
    assert_eq!(requests(&domain, &[("a", "b_c")]), Some(1));
    assert_eq!(requests(&domain, &[("a_b", "c")]), Some(2));
    assert_ne!(key(&domain, &[("a", "b_c")]), key(&domain, &[("a_b", "c")]));
    assert_ne!(key(&domain, &[("p", "1_q_2")]), key(&domain, &[("p", "1"), ("q", "2")]));
    let long = "x".repeat(10_240);
    assert_ne!(key(&domain, &[("p", &long)]), key(&domain, &[("p", &long[1..])]));
}

#[test]
fn a_shared_threshold_has_one_counter_for_all_that_match_and_others_one_each() {
    let domain = from_file(ALL_KEYS);
    assert_eq!(key(&domain, &[("path", "/api/1")]), key(&domain, &[("path", "/api/2")]));
    assert_ne!(key(&domain, &[("path", "/other/1/photos")]), key(&domain, &[("path", "/other/2/photos")]));
    assert_ne!(key(&domain, &[("path", "/api/1")]), key(&domain, &[("path", "x")]));
}

#[test]
fn metrics_are_named_by_the_rule_or_by_the_request_where_that_is_wanted() {
    let domain = from_file(ALL_KEYS);
    let labels = |entries: &[(&'static str, &'static str)]| {
        let limit = domain.find(entries.iter().copied()).unwrap().limit;
        domain.labels(limit, entries.iter().copied()).join(".")
    };
    assert_eq!(labels(&[("database", "users"), ("user", "alice")]), "database_users.user_alice");
    assert_eq!(labels(&[("path", "/other/1/photos")]), "path_/other/1/photos");
    assert_eq!(labels(&[("path", "/api/1")]), "path_/api/*");
    let limit = domain.find([("path", "x")].into_iter()).unwrap().limit;
    assert_eq!(limit.labels.join("."), "path");
}

#[test]
fn over_xds_the_same_is_understood() {
    let mut outer = descriptor("limit", "0", None);
    let mut shadow = descriptor("remote_address", "", Some((5, RateLimitUnit::Minute)));
    shadow.shadow_mode = true;
    shadow.quota_mode = true;
    let extension = serde_json::json!({"rls": {"algorithm": "gcra", "all_or_nothing": true}, "team": "x"});
    shadow.metadata = Some(metadata::to_struct(extension.as_object().unwrap().clone()));
    outer.descriptors = vec![shadow];
    let mut named = descriptor("n", "", Some((1, RateLimitUnit::Week)));
    let policy = named.rate_limit.as_mut().unwrap();
    policy.name = "n".into();
    let domain = Domain::from_wire(config(vec![outer, named]), &Defaults::default()).unwrap();
    let limit = domain.find([("limit", "0"), ("remote_address", "10.0.0.1")].into_iter()).unwrap().limit;
    assert!(limit.shadow && limit.quota && limit.terms.all_or_nothing);
    assert_eq!(limit.terms.algorithm, Algorithm::Gcra);
    let fields: Vec<_> = limit.metadata.as_ref().unwrap().fields.keys().collect();
    assert_eq!(fields, ["team"], "what is ours is not told");
    assert_eq!(&*domain.find([("n", "")].into_iter()).unwrap().limit.name, "n");
}

#[test]
fn what_is_not_understood_is_refused_with_its_line_or_its_field() {
    for (text, words) in [
        ("domain: d\ndescriptors:\n- key: a\n  valeu: b\n", &["0.yaml", "valeu", "line 4"][..]),
        ("domain: d\ndescriptors:\n- key: a\n  rate_limit:\n    unitt: day\n", &["unitt", "line 5"]),
        ("domain: d\nmore: 1\n", &["more", "line 2"]),
        ("domain: d\ndescriptors:\n- key: a\n  key: b\n", &["duplicate"]),
        ("descriptors: []\n", &["domain"]),
        ("domain: ''\n", &["domain: must name"]),
        ("domain: d\ndescriptors: [{value: x}]\n", &["descriptors[0].key"]),
        ("domain: d\ndescriptors: [{key: a}, {key: a}]\n", &["descriptors[1]: key and value stand twice"]),
        ("domain: d\ndescriptors: [{key: a, value: 'x*'}, {key: a, value: 'x*'}]\n", &["stand twice"]),
        (
            "domain: d\ndescriptors: [{key: a, descriptors: [{key: b, rate_limit: {requests_per_unit: 1}}]}]\n",
            &["descriptors[0].descriptors[0].rate_limit.unit: must be there"],
        ),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {unit: fortnight, requests_per_unit: 1}}]\n",
            &["descriptors[0].rate_limit.unit: one of second", "fortnight"],
        ),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, unlimited: true}}]\n",
            &["an unlimited one has none"],
        ),
        ("domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: -1}}]\n", &["-1"]),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, name: n, replaces: [{name: n}]}}]\n",
            &["replaces[0].name: must not be its own"],
        ),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, replaces: [{name: ''}]}}]\n",
            &["replaces[0].name: must be there"],
        ),
        ("domain: d\ndescriptors: [{key: a, value: x, share_threshold: true}]\n", &["share_threshold"]),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day}, metadata: {rls: {algoritm: fixed}}}]\n",
            &["descriptors[0].metadata.rls", "algoritm"],
        ),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day}, metadata: {rls: {scope: fleet, algorithm: gcra}}}]\n",
            &["gcra is for the scope node"],
        ),
        (
            "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day}, metadata: {rls: {regions: {a: 1}}}}]\n",
            &["metadata.rls.regions", "not told its region"],
        ),
    ] {
        let refusal = refusal(text);
        assert!(words.iter().all(|word| refusal.contains(word)), "{refusal}\n{text}");
    }
    let mut deep = descriptor("a", "", None);
    for _ in 0..16 {
        deep = RateLimitDescriptor { descriptors: vec![deep], ..descriptor("a", "", None) };
    }
    let refusal = Domain::from_wire(config(vec![deep]), &Defaults::default()).unwrap_err();
    assert!(refusal.contains("at most 16 levels"), "{refusal}");
    let mut unknown = descriptor("a", "", Some((1, RateLimitUnit::Second)));
    unknown.rate_limit.as_mut().unwrap().unit = 99;
    let refusal = Domain::from_wire(config(vec![unknown]), &Defaults::default()).unwrap_err();
    assert!(refusal.contains("descriptors[0].rate_limit.unit") && refusal.contains("99"), "{refusal}");
}

#[test]
fn files_of_one_domain_are_one_only_where_that_is_wanted() {
    let (a, b) = ("domain: d\ndescriptors: [{key: a}]\n", "domain: d\ndescriptors: [{key: b}]\n");
    let defaults = Defaults::default();
    assert!(
        read(&files(&[a, b]), false, &defaults)
            .unwrap_err()
            .contains("1.yaml: domain: \"d\" stands in 0.yaml")
    );
    assert_eq!(read(&files(&[a, b]), true, &defaults).unwrap().len(), 1);
    assert!(read(&files(&[a, a]), true, &defaults).unwrap_err().contains("stand twice"));
}

#[test]
fn a_node_enforces_the_share_of_its_region() {
    let text = "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 10}, metadata: {rls: {regions: {eu: 2, us: 1}}}}]\n";
    let shares: BTreeMap<_, _> = ["eu", "us"]
        .map(|region| {
            let defaults = Defaults { region: Some(region.into()), ..Defaults::default() };
            let domains = read(&files(&[text]), false, &defaults).unwrap();
            let requests = requests(&domains[0], &[("a", "")]);
            (region, requests.unwrap())
        })
        .into();
    assert_eq!(shares, BTreeMap::from([("eu", 7), ("us", 3)]));
}

#[test]
fn limits_of_another_revision_go_on_counting_where_they_name_the_same_counters() {
    let of = |domain: &str, counters: &str| {
        let domain = from_file(&format!(
            "domain: {domain}\ndescriptors: [{{key: a, rate_limit: {{unit: day, requests_per_unit: 1}}, metadata: {{rls: {{{counters}}}}}}}]\n"
        ));
        key(&domain, &[("a", "x")])
    };
    assert_eq!(of("id@1", "counters: id"), of("id@2", "counters: id"));
    assert_ne!(of("id@1", ""), of("id@2", ""));
    assert_ne!(of("id@1", "counters: id"), of("id@1", "counters: other"));
}
