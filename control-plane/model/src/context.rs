//! What templates see of the world: one versioned [`Context`].

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Host, InstanceId,
    instance::Instance,
    service_file::{AccessLog, Auth, Authz, Quota, RateLimit, Route, ServiceFile},
};

/// Everything that templates may use. A new version shares the services that did not change.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// The published services.
    pub services: BTreeMap<InstanceId, Arc<Service>>,
    /// Instances with an operation under way: their owners wait for an answer.
    pub unsettled: BTreeMap<InstanceId, u64>,
}

/// A published service, in the shape that templates read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Service {
    /// The OSB instance id; resources are named after it.
    pub id: InstanceId,
    /// The revision of the policies that its routes name.
    pub rev: u64,
    /// As its developer calls it; for people only.
    pub name: String,
    /// Whom it is served to.
    pub group: String,
    /// Without ports.
    pub hosts: Vec<Host>,
    /// Most specific path first.
    pub routes: Vec<ServiceRoute>,
    /// As in the service file.
    pub auth: Auth,
    /// As in the service file.
    pub authz: Authz,
    /// In the order of the service file.
    pub rate_limits: Vec<ServiceLimit>,
    /// As in the service file.
    pub access_log: AccessLog,
    /// Chain and key for its hosts.
    pub certificate: Option<ServiceCertificate>,
}

/// A route, ready for a template.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceRoute {
    /// Stable within the revision: `0`, `1`, …, in the order of the service file.
    pub name: String,
    /// Set for one literal path.
    pub exact: Option<String>,
    /// Set for a prefix of whole segments; empty for everything.
    pub prefix: Option<String>,
    /// Of the route's cluster: `<instance id>/<name>`.
    pub cluster: String,
    /// Seconds, with a fraction.
    pub timeout_secs: f64,
    /// Whether Envoy speaks TLS to the upstream.
    pub tls: bool,
    /// Whether a name has to be resolved; otherwise all endpoints are addresses.
    pub dns: bool,
    /// Host (name or address) and port.
    pub endpoints: Vec<Endpoint>,
    /// A path that answers 200 while a server is well.
    pub health_check: Option<String>,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Endpoint {
    /// A DNS name or an address.
    pub host: String,
    /// Of TCP.
    pub port: u16,
}

/// A limit, ready for a template.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceLimit {
    /// Distinguishes the limits of one service in descriptors.
    pub name: String,
    /// How many.
    pub requests: u32,
    /// `SECOND`, `MINUTE`, `HOUR` or `DAY`, as `RateLimitUnit` has it.
    pub unit: String,
    /// What has a counter of its own.
    pub per: Vec<String>,
}

/// A certificate, ready for a template. Its `Debug` and every API leave the key out.
#[derive(Clone, PartialEq, Serialize)]
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

impl Service {
    /// What templates see of an instance; `None` while nothing of it is published.
    pub fn of(instance: &Instance) -> Option<Self> {
        let published = instance.published.as_ref()?;
        let ServiceFile { service, hosts, routes, auth, authz, rate_limits, access_log, .. } =
            &published.service;
        let mut routes: Vec<_> =
            routes.iter().enumerate().map(|(at, route)| ServiceRoute::of(&instance.id, at, route)).collect();
        routes.sort_by_key(ServiceRoute::specificity);
        let certificate = instance.certificate.as_ref();
        Some(Self {
            id: instance.id.clone(),
            rev: published.rev,
            name: service.clone(),
            group: instance.group().to_owned(),
            hosts: hosts.clone(),
            routes,
            auth: auth.clone(),
            authz: authz.clone(),
            rate_limits: rate_limits.iter().enumerate().map(ServiceLimit::of).collect(),
            access_log: access_log.clone(),
            certificate: certificate
                .map(|found| ServiceCertificate { chain: found.chain.clone(), key: found.key.clone() }),
        })
    }

    /// The variables of a template that is rendered for this service.
    pub fn variables(&self, edge: &Value) -> Value {
        json!({ "service": self, "edge": edge })
    }
}

impl ServiceRoute {
    fn of(id: &InstanceId, at: usize, route: &Route) -> Self {
        let urls = &route.upstream.urls;
        let (exact, prefix) = match route.path.strip_prefix('=') {
            Some(path) => (Some(path.to_owned()), None),
            None => (None, Some(route.path.trim_end_matches('/').to_owned())),
        };
        Self {
            name: at.to_string(),
            exact,
            prefix,
            cluster: format!("{id}/{at}"),
            timeout_secs: route.timeout.duration().as_secs_f64(),
            tls: urls.iter().any(|url| url.tls),
            dns: urls.iter().any(|url| url.address().is_none()),
            endpoints: urls.iter().map(|url| Endpoint { host: url.host.clone(), port: url.port }).collect(),
            health_check: route.upstream.health_check.clone(),
        }
    }

    /// Envoy takes the first route that matches: literal paths first, then the longest prefix.
    fn specificity(&self) -> (bool, std::cmp::Reverse<usize>) {
        (self.exact.is_none(), std::cmp::Reverse(self.prefix.as_ref().map_or(0, String::len)))
    }
}

impl ServiceLimit {
    fn of((at, limit): (usize, &RateLimit)) -> Self {
        let Quota { requests, unit } = &limit.limit;
        Self { name: at.to_string(), requests: *requests, unit: unit.to_uppercase(), per: limit.per.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        UpstreamRule,
        instance::{Published, Request},
    };

    #[test]
    fn the_most_specific_route_comes_first() {
        let upstream = json!({"urls": ["http://10.0.0.1:80"]});
        let paths = ["/", "/a", "=/a/b", "/a/b/c"];
        let routes: Vec<_> = paths.iter().map(|path| json!({"path": path, "upstream": upstream})).collect();
        let parameters =
            json!({"service": "s", "hosts": ["a.test"], "routes": routes, "auth": {}, "authz": {}});
        let service = ServiceFile::parse(&parameters, UpstreamRule::NoLoopback).unwrap();
        let request = Request {
            service_id: String::new(),
            plan_id: String::new(),
            organization_guid: String::new(),
            space_guid: String::new(),
            parameters,
        };
        let mut instance = Instance::provision("i-1".parse().unwrap(), request, "op".into());
        instance.published = Some(Published { rev: 1, service });
        let routes = Service::of(&instance).unwrap().routes;
        let order: Vec<_> = routes.iter().map(|route| route.cluster.as_str()).collect();
        assert_eq!(order, ["i-1/2", "i-1/3", "i-1/1", "i-1/0"]);
    }
}
