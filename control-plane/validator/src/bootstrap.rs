//! Dynamic resources as the static part of a bootstrap, where `--mode validate` looks at them.

use std::{collections::BTreeMap, sync::Arc};

use api::ResourceType;
use resources::{Bootstrap, Resource};
use serde_json::{Map, Value, json};

const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// A bootstrap with all of them. What validation cannot look at (scoped routes, discovered filters, the sidecars'
/// policies) is left out; clusters of the nodes' own bootstrap are there by name only.
pub(crate) fn with<'a>(
    bootstrap: &Bootstrap,
    base: &'a [Arc<Resource>],
    resources: impl Iterator<Item = &'a Arc<Resource>>,
) -> Value {
    let stub = |name: &String| json!({"name": name, "type": "STATIC", "connect_timeout": "1s"});
    let mut all = Static { clusters: bootstrap.clusters.iter().map(stub).collect(), ..Static::default() };
    base.iter().filter(|resource| resource.key.kind == ResourceType::Cluster).for_each(|one| all.add(one));
    resources.for_each(|resource| all.add(resource));
    all.bootstrap(&bootstrap.control_plane)
}

#[derive(Default)]
struct Static {
    clusters: Vec<Value>,
    listeners: Vec<Value>,
    secrets: Vec<Value>,
    layers: Vec<Value>,
    routes: Vec<Value>,
    /// By their route configurations.
    hosts: BTreeMap<String, Vec<Value>>,
}

impl Static {
    fn add(&mut self, resource: &Resource) {
        let message = resource
            .message()
            .and_then(|message| serde_json::to_value(&message).map_err(|error| error.to_string()));
        // It went through the strict parse; were that wrong, Envoy would be shown something that it refuses.
        let mut message = message.unwrap_or_else(|error| json!({ "gatehouse": error }));
        match resource.key.kind {
            ResourceType::Cluster => self.clusters.push(message),
            ResourceType::Listener => self.listeners.push(message),
            ResourceType::Secret => self.secrets.push(message),
            ResourceType::Endpoints => {
                let name = format!("gatehouse endpoints {}", resource.key.name);
                self.clusters.push(json!({
                    "name": name, "type": "STATIC", "connect_timeout": "1s", "loadAssignment": message,
                }));
            }
            ResourceType::RouteConfig => {
                if let Some(fields) = message.as_object_mut() {
                    fields.remove("vhds");
                }
                self.routes.push(message);
            }
            ResourceType::VirtualHost => {
                let name = &resource.key.name;
                let routes = name.rsplit_once('/').map_or("", |(routes, _)| routes);
                self.hosts.entry(routes.to_owned()).or_default().push(message);
            }
            ResourceType::Runtime => {
                let layer = message.get("layer").cloned().unwrap_or_else(|| json!({}));
                self.layers.push(json!({"name": &*resource.key.name, "staticLayer": layer}));
            }
            // An asker of these has to be inside another one, or is no Envoy.
            _ => {}
        }
    }

    fn bootstrap(self, control_plane: &str) -> Value {
        let Self { clusters, mut listeners, secrets, layers, mut routes, hosts } = self;
        routes.extend(hosts.into_iter().map(|(name, hosts)| json!({"name": name, "virtualHosts": hosts})));
        listeners.extend(routes.into_iter().enumerate().map(|(at, routes)| listener(at, routes)));
        let mut whole = Map::new();
        whole.insert("node".into(), json!({"id": "gatehouse/validate", "cluster": "gatehouse"}));
        whole.insert(
            "dynamicResources".into(),
            json!({"adsConfig": {
                "apiType": "DELTA_GRPC", "transportApiVersion": "V3",
                "grpcServices": [{"envoyGrpc": {"clusterName": control_plane}}],
            }}),
        );
        whole.insert(
            "staticResources".into(),
            json!({"clusters": clusters, "listeners": listeners, "secrets": secrets}),
        );
        if !layers.is_empty() {
            whole.insert("layeredRuntime".into(), json!({ "layers": layers }));
        }
        Value::Object(whole)
    }
}

/// Route configurations are looked at inside a listener. Nothing is bound.
fn listener(at: usize, mut routes: Value) -> Value {
    if let Some(fields) = routes.as_object_mut() {
        // The references have been checked, over all that is served.
        fields.insert("validateClusters".into(), json!(false));
    }
    json!({
        "name": format!("gatehouse routes {at}"),
        "address": {"socketAddress": {"address": "127.0.0.1", "portValue": 0}},
        "filterChains": [{"filters": [{
            "name": "http",
            "typedConfig": {
                "@type": MANAGER, "statPrefix": "validate", "routeConfig": routes,
                "httpFilters": [{"name": "router", "typedConfig": {"@type": ROUTER}}],
            },
        }]}],
    })
}
