//! What templates see of the world: one versioned [`Context`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Host, InstanceId,
    auth::{Auth, AuthPolicy},
    authz::Authz,
    binding::ApiKey,
    controls::Controls,
    instance::{Instance, Published},
    plan::Plan,
    rate_limits::ServiceLimit,
    service_file::{AccessLog, Route, ServiceFile, Upstream},
};

/// What the sources say, by their names: `context.<name>` in templates. What did not change is shared.
pub type Values = BTreeMap<String, Arc<Value>>;

/// Everything that templates may use. A new version shares the services that did not change.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// The published services. Two versions share what did not change, and tell cheaply what did.
    pub services: OrdMap<InstanceId, Arc<Service>>,
    /// What the fleet has proven to run, of services whose published revision is another one.
    pub proven: BTreeMap<InstanceId, Arc<Service>>,
    /// Instances with an operation under way: their owners wait for an answer.
    pub unsettled: BTreeMap<InstanceId, u64>,
    /// What the sources say, by their names.
    pub values: Arc<Values>,
    /// What operators decided for the group that is served.
    pub controls: Controls,
}

/// One item of a list in a source, for which templates render resources of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Made of the list and the item's key.
    pub id: InstanceId,
    /// The path of the list: `hosts`, without `context.`.
    pub list: Arc<str>,
    /// As the source has it.
    pub value: Value,
}

/// A published service, in the shape that templates read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The OSB instance id; resources are named after it.
    pub id: InstanceId,
    /// The revision of the policies that its routes name.
    pub rev: u64,
    /// As its developer calls it; for people only.
    pub name: String,
    /// Whom it is served to.
    pub group: String,
    /// What it gets; until the published revision is proven, what it got before too. The listeners that it is behind.
    #[serde(default = "standard")]
    pub plans: Vec<Plan>,
    /// Requests that a node takes for it in a second; nothing, when that is not bounded.
    #[serde(default)]
    pub requests_per_second: Option<u32>,
    /// Without ports.
    pub hosts: Vec<Host>,
    /// Hosts whose certificate is served: those of the proven revision too, until the published one is.
    pub tls_hosts: Vec<Host>,
    /// Most specific path first.
    pub routes: Vec<ServiceRoute>,
    /// What the routes go to, each once.
    pub clusters: Vec<ServiceCluster>,
    /// As in the service file.
    pub auth: Auth,
    /// What the sidecar is told: the service's policy first, then those of routes with their own.
    #[serde(default)]
    pub auth_policies: Vec<AuthPolicy>,
    /// Paths that need no credential on one route or another.
    #[serde(default)]
    pub anonymous: Vec<String>,
    /// As in the service file.
    pub authz: Authz,
    /// What the sidecar is told of `authz`, in the JSON form of `gatehouse.authz.v1.Policy`.
    #[serde(default)]
    pub authz_policy: Value,
    /// In the order of the service file.
    pub rate_limits: Vec<ServiceLimit>,
    /// As in the service file.
    pub access_log: AccessLog,
    /// Keys that its clients may use.
    #[serde(default)]
    pub api_keys: Vec<ServiceKey>,
    /// Chain and key for its hosts.
    pub certificate: Option<ServiceCertificate>,
}

/// A route, ready for a template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRoute {
    /// Stable within the revision: `0`, `1`, …, in the order of the service file.
    pub name: String,
    /// Set for one literal path.
    pub exact: Option<String>,
    /// Set for a prefix of whole segments; empty for everything.
    pub prefix: Option<String>,
    /// The name of its cluster.
    pub cluster: String,
    /// Which of the service's `auth_policies` its requests are decided by; the service's own where it is nothing.
    #[serde(default)]
    pub auth_policy: Option<String>,
    /// Seconds, with a fraction.
    pub timeout_secs: f64,
}

/// An upstream, ready for a template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceCluster {
    /// `<instance id>/<hash of the rest>`: a changed upstream is another cluster, so that a route of an older
    /// revision never goes where only the new one may.
    pub name: String,
    /// Whether Envoy speaks TLS to it.
    pub tls: bool,
    /// Whether a name has to be resolved; otherwise all endpoints are addresses.
    pub dns: bool,
    /// Host (name or address) and port.
    pub endpoints: Vec<Endpoint>,
    /// A path that answers 200 while a server is well.
    pub health_check: Option<String>,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// A DNS name or an address.
    pub host: String,
    /// Of TCP.
    pub port: u16,
}

/// An API key, ready for a template, as `gatehouse.authn.v1.ApiKey.Key` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceKey {
    /// What stands before the secret.
    pub id: String,
    /// In base64.
    pub salt: String,
    /// Of the secret, in base64.
    pub digest: String,
    /// Who has it.
    pub subject: String,
    /// What its bearer may do.
    pub scopes: Vec<String>,
}

impl ServiceKey {
    fn of(key: &ApiKey) -> Self {
        let (salt, digest) = key.hash.parts();
        Self { id: key.id.clone(), salt, digest, subject: key.subject.clone(), scopes: key.scopes.clone() }
    }
}

/// A certificate, ready for a template. Its `Debug` and every API leave the key out.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceCertificate {
    /// PEM, leaf first.
    pub chain: String,
    /// PEM.
    pub key: String,
}

impl std::fmt::Debug for ServiceCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServiceCertificate")
    }
}

fn standard() -> Vec<Plan> {
    vec![Plan::Standard]
}

impl Service {
    /// What templates see of a revision of an instance.
    pub fn of(instance: &Instance, revision: &Published) -> Self {
        let ServiceFile { service, hosts, routes, auth, authz, rate_limits, access_log, .. } =
            &revision.service;
        let mut clusters: Vec<_> =
            routes.iter().map(|route| ServiceCluster::of(&instance.id, &route.upstream)).collect();
        let mut routes: Vec<_> = (routes.iter().enumerate())
            .map(|(at, route)| ServiceRoute::of(&instance.id, at, route, clusters[at].name.clone()))
            .collect();
        routes.sort_by_key(ServiceRoute::specificity);
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        clusters.dedup();
        let mut auth_policies = vec![auth.policy(&instance.id)];
        for (at, route) in revision.service.routes.iter().enumerate() {
            let own = route.auth.as_ref();
            auth_policies.extend(own.map(|own| auth.policy_of_route(&instance.id, &at.to_string(), own)));
        }
        let anonymous: BTreeSet<_> =
            auth_policies.iter().flat_map(|policy| policy.anonymous.clone()).collect();
        let mut tls_hosts = hosts.clone();
        let proven = instance.proven.iter().flat_map(|proven| &proven.service.hosts);
        tls_hosts.extend(proven.filter(|host| !hosts.contains(host)).cloned());
        let certificate = instance.certificate.as_ref();
        let mut plans = vec![revision.plan];
        plans.extend(instance.proven.iter().map(|proven| proven.plan).filter(|plan| *plan != revision.plan));
        Self {
            id: instance.id.clone(),
            rev: revision.rev,
            name: service.clone(),
            group: instance.group().to_owned(),
            plans,
            requests_per_second: Some(revision.requests_per_second),
            hosts: hosts.clone(),
            tls_hosts,
            routes,
            clusters,
            auth: auth.clone(),
            auth_policies,
            anonymous: anonymous.into_iter().collect(),
            authz: authz.clone(),
            authz_policy: api::json(
                "gatehouse.authz.v1.Policy",
                &revision.service.authz_policy(instance.id.as_str(), revision.rev),
            ),
            rate_limits: rate_limits.iter().enumerate().map(ServiceLimit::of).collect(),
            access_log: access_log.clone(),
            api_keys: revision.keys.iter().map(ServiceKey::of).collect(),
            certificate: certificate
                .map(|found| ServiceCertificate { chain: found.chain.clone(), key: found.key.clone() }),
        }
    }
}

impl ServiceRoute {
    fn of(id: &InstanceId, at: usize, route: &Route, cluster: String) -> Self {
        let (exact, prefix) = match route.path.strip_prefix('=') {
            Some(path) => (Some(path.to_owned()), None),
            None => (None, Some(route.path.trim_end_matches('/').to_owned())),
        };
        Self {
            name: at.to_string(),
            exact,
            prefix,
            cluster,
            auth_policy: route.auth.as_ref().map(|_| format!("{id}/{at}")),
            timeout_secs: route.timeout.duration().as_secs_f64(),
        }
    }

    /// Envoy takes the first route that matches: literal paths first, then the longest prefix.
    fn specificity(&self) -> (bool, std::cmp::Reverse<usize>) {
        (self.exact.is_none(), std::cmp::Reverse(self.prefix.as_ref().map_or(0, String::len)))
    }
}

impl ServiceCluster {
    fn of(id: &InstanceId, upstream: &Upstream) -> Self {
        let urls = &upstream.urls;
        let mut content = upstream.health_check.clone().unwrap_or_default();
        for url in urls {
            content.push('\n');
            content.push_str(&url.to_string());
        }
        Self {
            name: format!("{id}/{:016x}", fnv1a(content.as_bytes())),
            tls: urls.iter().any(|url| url.tls),
            dns: urls.iter().any(|url| url.address().is_none()),
            endpoints: urls.iter().map(|url| Endpoint { host: url.host.clone(), port: url.port }).collect(),
            health_check: upstream.health_check.clone(),
        }
    }
}

/// FNV-1a: the same on every replica and in every release, which the standard library's hashes are not. It tells
/// the few upstreams of one service apart; nothing relies on it against an attacker.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::instance::Request;

    /// A service with these paths and upstreams.
    fn service(routes: &[(&str, &str)]) -> Service {
        let route = |(path, url): &(&str, &str)| json!({"path": path, "upstream": {"urls": [url]}});
        let routes: Vec<_> = routes.iter().map(route).collect();
        let parameters =
            json!({"service": "s", "hosts": ["a.test"], "routes": routes, "auth": {}, "authz": {}});
        let request = Request::offline(parameters);
        let instance = Instance::provision("i-1".parse().unwrap(), request, "op".into());
        Service::of(&instance, &Published::wanted_of(&instance).unwrap())
    }

    #[test]
    fn the_most_specific_route_comes_first() {
        let routes = service(&[
            ("/", "http://a.test"),
            ("/a", "http://a.test"),
            ("=/a/b", "http://a.test"),
            ("/a/b/c", "http://a.test"),
        ])
        .routes;
        let order: Vec<_> = routes.iter().map(|route| route.name.as_str()).collect();
        assert_eq!(order, ["2", "3", "1", "0"]);
    }

    #[test]
    fn what_templates_see_of_a_service_can_be_written_down_and_read_again() {
        let service = service(&[("/", "https://a.test:8443"), ("=/x", "http://10.0.0.1")]);
        let written = serde_json::to_value(&service).unwrap();
        assert_eq!(serde_json::from_value::<Service>(written).unwrap(), service);
    }

    #[test]
    fn a_cluster_is_named_by_where_it_goes_and_not_by_its_place() {
        let before = service(&[("/public", "http://a.test"), ("/admin", "http://b.test")]);
        let after =
            service(&[("/admin", "http://b.test"), ("/public", "http://a.test"), ("/more", "http://a.test")]);
        assert_eq!(before.clusters, after.clusters);
        let cluster_of = |service: &Service, prefix: &str| {
            service
                .routes
                .iter()
                .find(|route| route.prefix.as_deref() == Some(prefix))
                .unwrap()
                .cluster
                .clone()
        };
        assert_eq!(cluster_of(&before, "/public"), cluster_of(&after, "/public"));
        assert_ne!(cluster_of(&after, "/public"), cluster_of(&after, "/admin"));
        assert_ne!(
            service(&[("/", "http://c.test")]).clusters[0].name,
            service(&[("/", "http://d.test")]).clusters[0].name
        );
    }
}
