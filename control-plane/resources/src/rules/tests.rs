//! The rules as they stand in Envoy's protos, and each kind of rule on its own.

use std::collections::BTreeMap;

use api::ResourceType;
use model::document::Document;

use super::*;
use crate::{Bootstrap, decode};

fn document(kind: ResourceType, resource: &str) -> Document {
    let text = format!("resources:\n- {}\n", resource.trim().replace('\n', "\n  "));
    Document { template: "t.yaml".into(), kind: kind.label().into(), text, ..Document::default() }
}

/// Of one resource: every mistake, without its place.
fn mistakes(kind: ResourceType, resource: &str) -> Vec<String> {
    match decode(&document(kind, resource), &Bootstrap::default()) {
        Ok(_) => Vec::new(),
        Err(invalid) => invalid.mistakes.into_iter().map(|mistake| mistake.message).collect(),
    }
}

#[track_caller]
fn check(kind: ResourceType, resource: &str, expected: &[&str]) {
    assert_eq!(mistakes(kind, resource), expected);
}

#[test]
fn every_rule_in_the_descriptors_is_known_and_none_is_lost() {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for message in descriptor_pool().all_messages() {
        let rules = MessageRules::of(&message);
        *count.entry("oneof.required".into()).or_default() += rules.one_of.len();
        for field in &rules.fields {
            *count.entry("required".into()).or_default() += usize::from(field.is_required);
            for (name, test) in [&field.value, &field.items, &field.keys].into_iter().flat_map(|of| &of.tests)
            {
                assert!(!matches!(test, Test::Unknown(_)), "{} {name}", field.field.full_name());
                *count.entry(name.split('.').next().unwrap().to_owned()).or_default() += 1;
            }
        }
    }
    // What protoc-gen-validate 1.x has, and the pinned protos use. Fewer would be rules that are not read.
    let kinds = [
        "bool",
        "bytes",
        "double",
        "duration",
        "enum",
        "float",
        "int32",
        "int64",
        "map",
        "oneof.required",
        "repeated",
        "required",
        "string",
        "uint32",
        "uint64",
    ];
    assert_eq!(count.keys().map(String::as_str).collect::<Vec<_>>(), kinds);
    assert!(count["string"] > 400 && count["uint32"] > 150 && count["oneof.required"] > 100, "{count:?}");
}

#[test]
fn all_mistakes_are_told_at_once_with_path_rule_and_line() {
    let resource = "
name: a
connect_timeout: 0s
lb_subset_config: {fallback_policy: 7}
load_assignment:
  cluster_name: a
  endpoints:
  - priority: 200
    lb_endpoints:
    - endpoint: {address: {socket_address: {address: a, port_value: 70000}}}
health_checks:
- timeout: 1s
  interval: 1s
  unhealthy_threshold: 1";
    let refusal = decode(&document(ResourceType::Cluster, resource), &Bootstrap::default()).unwrap_err();
    assert_eq!(
        refusal.to_string().replace("; ", ";\n").replace(": rendered", ":\nrendered"),
        "t.yaml: 6 mistakes:
rendered line 3 `connect_timeout: 0s`: resources[0].connect_timeout: more than 0s, got 0s (envoy.config.cluster.v3.Cluster.connect_timeout/duration.gt);
rendered line 4 `lb_subset_config: {fallback_policy: 7}`: resources[0].lb_subset_config.fallback_policy: a value of envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetFallbackPolicy, got 7 (envoy.config.cluster.v3.Cluster.LbSubsetConfig.fallback_policy/enum.defined_only);
rendered line 8 `- priority: 200`: resources[0].load_assignment.endpoints[0].priority: at most 128, got 200 (envoy.config.endpoint.v3.LocalityLbEndpoints.priority/uint32.lte);
rendered line 10 `- endpoint: {address: {socket_address: {address: a, port_value: 70000}}}`: resources[0].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: at most 65535, got 70000 (envoy.config.core.v3.SocketAddress.port_value/uint32.lte);
rendered line 12 `- timeout: 1s`: resources[0].health_checks[0]: one of http_health_check, tcp_health_check, grpc_health_check, custom_health_check must be set, got none (envoy.config.core.v3.HealthCheck.health_checker/required);
rendered line 12 `- timeout: 1s`: resources[0].health_checks[0].healthy_threshold: must be set, got nothing (envoy.config.core.v3.HealthCheck.healthy_threshold/required)"
    );
}

#[test]
fn rules_hold_inside_any_inside_any() {
    let resource = r#"
name: l
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      route_config: {}
      http_filters:
      - name: wasm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          upstream_log:
          - name: f
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"#;
    let hcm = "filter_chains[0].filters[0].typed_config";
    // `log_format` is required where its oneof holds it, and here the oneof holds nothing.
    let log = "envoy.extensions.access_loggers.file.v3.FileAccessLog";
    check(
        ResourceType::Listener,
        resource,
        &[
            &format!(
                "resources[0].{hcm}.stat_prefix: at least 1 characters, got \"\" (envoy.extensions.filters.network\
                 .http_connection_manager.v3.HttpConnectionManager.stat_prefix/string.min_len)"
            ),
            &format!(
                "resources[0].{hcm}.http_filters[0].typed_config.upstream_log[0].typed_config.path: at least 1 \
                 characters, got \"\" ({log}.path/string.min_len)"
            ),
        ],
    );
}

#[test]
fn a_template_can_except_itself_from_a_rule_and_only_from_one_that_exists() {
    let mut document = document(ResourceType::Cluster, "{name: a, connect_timeout: 0s}");
    let rule = "envoy.config.cluster.v3.Cluster.connect_timeout/duration.gt";
    assert!(decode(&document, &Bootstrap::default()).is_err());
    document.allow = Arc::new([rule.to_owned()].into());
    assert_eq!(decode(&document, &Bootstrap::default()).unwrap().len(), 1);
    document.allow = Arc::new(["envoy.config.cluster.v3.Cluster.name/duration.gt".to_owned()].into());
    assert_eq!(
        decode(&document, &Bootstrap::default()).unwrap_err().to_string(),
        "t.yaml: allow: no proto has this rule, got \"envoy.config.cluster.v3.Cluster.name/duration.gt\""
    );
}

#[test]
fn the_value_of_a_secret_is_never_shown() {
    let secret = "{name: '', generic_secret: {}}";
    for mistake in mistakes(ResourceType::Secret, secret) {
        assert!(!mistake.contains("got \""), "{mistake}");
    }
    // `access_key_id` is for everyone to see, `secret_access_key` is not.
    let aws = r#"
name: l
filter_chains:
- filters:
  - name: f
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.common.aws.v3.InlineCredentialProvider
      access_key_id: a"#;
    let refusal =
        decode(&document(ResourceType::Listener, aws), &Bootstrap::default()).unwrap_err().to_string();
    assert!(refusal.contains("secret_access_key: at least 1 characters, got what is not shown"), "{refusal}");
    assert!(!refusal.contains("rendered line"), "{refusal}");
}

/// What a message of the pinned protos says of a value, for each kind of rule that they use.
#[test]
#[allow(clippy::too_many_lines)]
fn each_kind_of_rule_takes_and_refuses() {
    use ResourceType::{Cluster, Endpoints, Listener, RouteConfig, VirtualHost};
    let host = |rest: &str| format!("{{name: a, domains: [a.test], {rest}}}");
    let cluster = |rest: &str| format!("{{name: a, {rest}}}");
    let per_route = |of: &str| {
        host(&format!(
            "typed_per_filter_config: {{f: {{'@type': type.googleapis.com/envoy.extensions.filters.http.{of}}}}}"
        ))
    };
    let cases = [
        (
            VirtualHost,
            per_route("compressor.v3.CompressorPerRoute, disabled: true"),
            per_route("compressor.v3.CompressorPerRoute, disabled: false"),
            "bool.const",
        ),
        (
            VirtualHost,
            host("metadata: {filter_metadata: {a: {}}}"),
            host("metadata: {filter_metadata: {'': {}}}"),
            "string.min_len",
        ),
        (
            VirtualHost,
            per_route("thrift_to_metadata.v3.FieldSelector, name: a, id: -32768"),
            per_route("thrift_to_metadata.v3.FieldSelector, name: a, id: -32769"),
            "int32.gte",
        ),
        (
            VirtualHost,
            per_route(
                "rate_limit_quota.v3.RateLimitQuotaBucketSettings.BucketIdBuilder, bucket_id_builder: {a: {string_value: a}}",
            ),
            per_route(
                "rate_limit_quota.v3.RateLimitQuotaBucketSettings.BucketIdBuilder, bucket_id_builder: {}",
            ),
            "map.min_pairs",
        ),
        (
            VirtualHost,
            per_route(
                "file_server.v3.FileServerConfig, manager_config: {thread_pool: {}}, content_types: {html: text/html}",
            ),
            per_route(
                "file_server.v3.FileServerConfig, manager_config: {thread_pool: {}}, content_types: {HTML: text/html}",
            ),
            "string.pattern",
        ),
        (
            VirtualHost,
            host("request_headers_to_add: [{header: {key: a, raw_value: AAAA}}]"),
            host(&format!(
                "request_headers_to_add: [{{header: {{key: a, raw_value: {}}}}}]",
                "A".repeat(21_848)
            )),
            "bytes.max_len",
        ),
        (
            VirtualHost,
            "{name: a, domains: ['x']}".into(),
            "{name: a, domains: []}".into(),
            "repeated.min_items",
        ),
        (
            VirtualHost,
            "{name: a, domains: [x]}".into(),
            "{name: a, domains: [\"a\\n\"]}".into(),
            "string.well_known_regex",
        ),
        (
            VirtualHost,
            host("request_headers_to_add: [{header: {key: a, value: b}}]"),
            host("request_headers_to_add: [{header: {key: \"a\\nb\", value: b}}]"),
            "string.well_known_regex",
        ),
        (
            VirtualHost,
            host("retry_policy: {retry_back_off: {base_interval: 1s}}"),
            host("retry_policy: {retry_back_off: {base_interval: 0s}}"),
            "duration.gt",
        ),
        (
            VirtualHost,
            host("routes: [{match: {prefix: /}, direct_response: {status: 200}}]"),
            host("routes: [{match: {prefix: /}, direct_response: {status: 600}}]"),
            "uint32.lt",
        ),
        (
            VirtualHost,
            host("routes: [{match: {path_separated_prefix: /a}, direct_response: {status: 200}}]"),
            host("routes: [{match: {path_separated_prefix: /a/}, direct_response: {status: 200}}]"),
            "string.pattern",
        ),
        (
            VirtualHost,
            host("cors: {max_age: '1'}"),
            host("retry_policy: {retry_host_predicate: [{name: ''}]}"),
            "string.min_len",
        ),
        (
            VirtualHost,
            host(
                "routes: [{match: {prefix: /, headers: [{name: a, present_match: true}]}, route: {cluster: a}}]",
            ),
            host("routes: [{match: {prefix: /}, route: {cluster: a, hash_policy: [{cookie: {name: ''}}]}}]"),
            "string.min_len",
        ),
        (
            RouteConfig,
            "{name: a, vhds: {config_source: {ads: {}}}}".into(),
            "{name: a, vhds: {}}".into(),
            "required",
        ),
        (
            RouteConfig,
            "{name: a, internal_only_headers: [x-a]}".into(),
            "{name: a, internal_only_headers: [\"x\\ny\"]}".into(),
            "string.well_known_regex",
        ),
        (Cluster, cluster("type: STATIC"), cluster("type: 99"), "enum.defined_only"),
        (
            Cluster,
            cluster("circuit_breakers: {thresholds: [{priority: HIGH}]}"),
            cluster("circuit_breakers: {thresholds: [{priority: 9}]}"),
            "enum.defined_only",
        ),
        (
            Cluster,
            cluster("per_connection_buffer_limit_bytes: 1, outlier_detection: {max_ejection_percent: 100}"),
            cluster("outlier_detection: {max_ejection_percent: 101}"),
            "uint32.lte",
        ),
        (
            Cluster,
            cluster("ring_hash_lb_config: {minimum_ring_size: 8388608}"),
            cluster("ring_hash_lb_config: {minimum_ring_size: 8388609}"),
            "uint64.lte",
        ),
        (
            Cluster,
            cluster("preconnect_policy: {per_upstream_preconnect_ratio: 1.5}"),
            cluster("preconnect_policy: {per_upstream_preconnect_ratio: 3.5}"),
            "double.lte",
        ),
        (
            Cluster,
            cluster(
                "health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {path: /, expected_statuses: [{start: 100, end: 600}]}}]",
            ),
            cluster(
                "health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {path: ''}}]",
            ),
            "string.min_len",
        ),
        (
            Cluster,
            cluster("upstream_bind_config: {source_address: {address: '::', port_value: 0}}"),
            cluster("upstream_bind_config: {source_address: {address: '', port_value: 0}}"),
            "string.min_len",
        ),
        (
            Endpoints,
            "{cluster_name: a, policy: {overprovisioning_factor: 1}}".into(),
            "{cluster_name: a, policy: {overprovisioning_factor: 0}}".into(),
            "uint32.gt",
        ),
        (
            Endpoints,
            "{cluster_name: a, named_endpoints: {x: {}}}".into(),
            "{cluster_name: ''}".into(),
            "string.min_len",
        ),
        (
            Endpoints,
            "{cluster_name: a, endpoints: [{load_balancing_weight: 1}]}".into(),
            "{cluster_name: a, endpoints: [{load_balancing_weight: 0}]}".into(),
            "uint32.gte",
        ),
        (
            Listener,
            "{name: l, connection_balance_config: {exact_balance: {}}}".into(),
            "{name: l, connection_balance_config: {}}".into(),
            "required",
        ),
        (
            VirtualHost,
            host("routes: [{match: {prefix: /}, route: {cluster: a, max_stream_duration: {}}}]"),
            host(
                "typed_per_filter_config: {r: {'@type': type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute, vh_rate_limits: 9}}",
            ),
            "enum.defined_only",
        ),
    ];
    for (kind, good, bad, rule) in cases {
        assert_eq!(mistakes(kind, &good), Vec::<String>::new(), "{good}");
        let found = mistakes(kind, &bad);
        assert!(found.len() == 1 && found[0].contains(&format!("/{rule})")), "{bad}: {found:?}");
    }
}
