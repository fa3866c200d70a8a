//! What a resource names that must be served too: a route its cluster, a cluster its endpoints, a listener its
//! routes and secrets.

use std::collections::BTreeSet;

use api::ResourceType;
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use crate::{Key, walk::Path};

/// A name in a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// What it names.
    pub to: Key,
    /// The field that does.
    pub path: String,
}

/// What nodes have without us: the static part of their bootstrap.
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    /// Its clusters.
    pub clusters: BTreeSet<String>,
    /// The one of them that leads to the control plane: what is asked for there must be served here.
    pub control_plane: String,
}

/// Messages and the fields in which they name a cluster. Envoy 1.40 refuses a listener with an unknown one in a
/// gRPC service, and answers 503 where a route names it.
const NAMES_OF_CLUSTERS: [(&str, &str); 9] = [
    ("envoy.config.core.v3.ApiConfigSource", "cluster_names"),
    ("envoy.config.core.v3.GrpcService.EnvoyGrpc", "cluster_name"),
    ("envoy.config.core.v3.HttpUri", "cluster"),
    ("envoy.config.route.v3.RouteAction", "cluster"),
    ("envoy.config.route.v3.RouteAction.RequestMirrorPolicy", "cluster"),
    ("envoy.config.route.v3.WeightedCluster.ClusterWeight", "name"),
    ("envoy.extensions.clusters.aggregate.v3.ClusterConfig", "clusters"),
    ("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "cluster"),
    ("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight", "name"),
];

/// Messages that subscribe to something by name: the type, the field with the name, and the one that says where.
const SUBSCRIPTIONS: [(&str, ResourceType, &str, &str); 2] = [
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.Rds",
        ResourceType::RouteConfig,
        "route_config_name",
        "config_source",
    ),
    ("envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig", ResourceType::Secret, "name", "sds_config"),
];

/// Adds every name that the message itself holds of what has to be served, or must stand in the nodes' bootstrap.
pub(crate) fn collect(
    path: &Path,
    message: &DynamicMessage,
    bootstrap: &Bootstrap,
    references: &mut Vec<Reference>,
) {
    let mut add = |kind: ResourceType, field: &str, names: Vec<String>| {
        let is_known = |name: &String| kind == ResourceType::Cluster && bootstrap.clusters.contains(name);
        for name in names.into_iter().filter(|name| !name.is_empty() && !is_known(name)) {
            let dot = if path.steps().is_empty() { "" } else { "." };
            let path = format!("{path}{dot}{field}");
            references.push(Reference { to: Key { kind, name: name.into() }, path });
        }
    };
    let descriptor = message.descriptor();
    let full_name = descriptor.full_name();
    for (_, field) in NAMES_OF_CLUSTERS.iter().filter(|(name, _)| *name == full_name) {
        add(ResourceType::Cluster, field, texts(message, field));
    }
    for (_, kind, field, source) in SUBSCRIPTIONS.iter().filter(|(name, ..)| *name == full_name) {
        if is_ours(message, source, bootstrap) {
            add(*kind, field, texts(message, field));
        }
    }
    match full_name {
        "envoy.config.route.v3.ScopedRouteConfiguration" => {
            let field = "route_configuration_name";
            add(ResourceType::RouteConfig, field, texts(message, field));
        }
        "envoy.config.cluster.v3.Cluster" => {
            let names = endpoints_of(message, bootstrap).into_iter().collect();
            add(ResourceType::Endpoints, "eds_cluster_config", names);
        }
        // A filter whose configuration is discovered is named like it.
        _ if inner(message, "config_discovery")
            .is_some_and(|discovery| is_ours(&discovery, "config_source", bootstrap)) =>
        {
            add(ResourceType::ExtensionConfig, "name", texts(message, "name"));
        }
        _ => {}
    }
}

/// The name by which an EDS cluster asks for its endpoints.
fn endpoints_of(cluster: &DynamicMessage, bootstrap: &Bootstrap) -> Option<String> {
    /// `Cluster.DiscoveryType.EDS`
    const EDS: i32 = 3;
    let kind = cluster.get_field_by_name("type")?.as_enum_number()?;
    let config = inner(cluster, "eds_cluster_config").filter(|_| kind == EDS)?;
    if !is_ours(&config, "eds_config", bootstrap) {
        return None;
    }
    let own = texts(&config, "service_name").into_iter().find(|name| !name.is_empty());
    own.or_else(|| texts(cluster, "name").into_iter().next())
}

/// Whether a `ConfigSource` leads here, and not to a file or to another server.
fn is_ours(message: &DynamicMessage, source: &str, bootstrap: &Bootstrap) -> bool {
    let Some(source) = inner(message, source) else { return false };
    let polls = inner(&source, "api_config_source").is_some_and(|api| {
        let mut names = texts(&api, "cluster_names");
        names.extend(grpc_targets(&api));
        names.contains(&bootstrap.control_plane)
    });
    polls || source.has_field_by_name("ads") || source.has_field_by_name("self")
}

fn grpc_targets(api: &DynamicMessage) -> Vec<String> {
    let services = api.get_field_by_name("grpc_services");
    let services = services.as_deref().and_then(Value::as_list).unwrap_or_default();
    let targets = services
        .iter()
        .filter_map(Value::as_message)
        .filter_map(|service| Some(texts(&inner(service, "envoy_grpc")?, "cluster_name")));
    targets.flatten().collect()
}

fn inner(message: &DynamicMessage, field: &str) -> Option<DynamicMessage> {
    let field = message.descriptor().get_field_by_name(field)?;
    message.has_field(&field).then(|| message.get_field(&field).as_message().cloned())?
}

/// A text, or a list of them.
fn texts(message: &DynamicMessage, field: &str) -> Vec<String> {
    match message.get_field_by_name(field).as_deref() {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::List(items)) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use api::descriptor_pool;

    use super::*;
    use crate::walk::walk;

    #[track_caller]
    fn check(kind: ResourceType, yaml: &str, expected: &[&str]) {
        let descriptor = descriptor_pool().get_message_by_name(kind.message()).unwrap();
        let message =
            DynamicMessage::deserialize(descriptor, serde_norway::Deserializer::from_str(yaml)).unwrap();
        let bootstrap = Bootstrap { clusters: ["xds".to_owned()].into(), control_plane: "xds".into() };
        let mut found = Vec::new();
        walk(&message, &mut |path, message| collect(path, message, &bootstrap, &mut found));
        let found: Vec<_> = found.iter().map(|found| format!("{}: {}", found.path, found.to)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn routes_name_clusters() {
        let yaml = "
name: a
routes:
- {match: {prefix: /}, route: {cluster: one, request_mirror_policies: [{cluster: two}]}}
- {match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: three}]}}}
- {match: {prefix: /}, route: {cluster: xds}}
- {match: {prefix: /}, route: {cluster_header: x-to}}
";
        check(
            ResourceType::VirtualHost,
            yaml,
            &[
                "routes[0].route.cluster: clusters one",
                "routes[0].route.request_mirror_policies[0].cluster: clusters two",
                "routes[1].route.weighted_clusters.clusters[0].name: clusters three",
            ],
        );
    }

    #[test]
    fn a_cluster_names_its_endpoints_and_its_secrets_when_they_come_from_here() {
        let eds = |source: &str| format!("{{name: a, type: EDS, eds_cluster_config: {{{source}}}}}");
        let found = ["eds_cluster_config: endpoints a"];
        check(ResourceType::Cluster, &eds("eds_config: {ads: {}}"), &found);
        check(ResourceType::Cluster, &eds("eds_config: {path_config_source: {path: /x}}"), &[]);
        check(
            ResourceType::Cluster,
            &eds("service_name: b, eds_config: {api_config_source: {api_type: REST, cluster_names: [xds]}}"),
            &["eds_cluster_config: endpoints b"],
        );
        let elsewhere = "api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: spire}}]";
        let secret = |source: &str| {
            format!(
                "{{name: a, transport_socket: {{name: tls, typed_config: {{\
                 '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, \
                 common_tls_context: {{tls_certificate_sds_secret_configs: [{{name: s, sds_config: {{{source}}}}}]}}}}}}}}"
            )
        };
        let at = "transport_socket.typed_config.common_tls_context.tls_certificate_sds_secret_configs[0]";
        check(ResourceType::Cluster, &secret("ads: {}"), &[&format!("{at}.name: secrets s")]);
        check(
            ResourceType::Cluster,
            &secret(&format!("api_config_source: {{{elsewhere}}}")),
            &[&format!(
                "{at}.sds_config.api_config_source.grpc_services[0].envoy_grpc.cluster_name: clusters spire"
            )],
        );
    }

    #[test]
    fn a_listener_names_routes_filters_and_what_its_filters_ask() {
        let yaml = r#"
name: a
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      rds: {route_config_name: r, config_source: {ads: {}}}
      http_filters:
      - {name: discovered, config_discovery: {config_source: {ads: {}}, type_urls: [x]}}
      - name: authz
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
          grpc_service: {envoy_grpc: {cluster_name: sidecar}}
"#;
        let hcm = "filter_chains[0].filters[0].typed_config";
        check(
            ResourceType::Listener,
            yaml,
            &[
                &format!("{hcm}.rds.route_config_name: routes r"),
                &format!("{hcm}.http_filters[0].name: extension_configs discovered"),
                &format!(
                    "{hcm}.http_filters[1].typed_config.grpc_service.envoy_grpc.cluster_name: clusters sidecar"
                ),
            ],
        );
    }

    #[test]
    fn every_name_in_the_tables_stands_in_the_descriptors() {
        for (message, field) in NAMES_OF_CLUSTERS {
            let message = descriptor_pool().get_message_by_name(message).unwrap();
            assert!(message.get_field_by_name(field).is_some(), "{message:?} {field}");
        }
        for (message, _, field, source) in SUBSCRIPTIONS {
            let message = descriptor_pool().get_message_by_name(message).unwrap();
            assert!(message.get_field_by_name(field).is_some(), "{message:?} {field}");
            assert!(message.get_field_by_name(source).is_some(), "{message:?} {source}");
        }
    }
}
