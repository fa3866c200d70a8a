//! Every type of resource that the control plane serves: its URL, who gets it, and in which order.

use std::fmt;

/// Who on a node asks for a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The proxy itself.
    Envoy,
    /// The authentication sidecar.
    Authn,
    /// The authorization sidecar.
    Authz,
    /// The rate-limit sidecar.
    Ratelimit,
}

impl Role {
    /// The sidecars, in the order in which Envoy asks them.
    pub const SIDECARS: [Self; 3] = [Self::Authn, Self::Authz, Self::Ratelimit];

    /// What a sidecar appends to its node's id: `edge/i-0abc/authn`. Envoy appends nothing.
    pub fn suffix(self) -> Option<&'static str> {
        match self {
            Self::Envoy => None,
            Self::Authn => Some("authn"),
            Self::Authz => Some("authz"),
            Self::Ratelimit => Some("ratelimit"),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.suffix().unwrap_or("envoy"))
    }
}

/// The order is the order of pushes: what is referred to comes before what refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// `gatehouse.authn.v1.KeySet`
    AuthnKeySet,
    /// `gatehouse.authn.v1.Policy`
    AuthnPolicy,
    /// `gatehouse.authz.v1.Policy`
    AuthzPolicy,
    /// `ratelimit.config.ratelimit.v3.RateLimitConfig`
    RateLimitConfig,
    /// SDS
    Secret,
    /// CDS
    Cluster,
    /// EDS
    Endpoints,
    /// LDS
    Listener,
    /// RDS
    RouteConfig,
    /// VHDS
    VirtualHost,
}

impl ResourceType {
    /// All of them, in the order of pushes.
    pub const ALL: [Self; 10] = [
        Self::AuthnKeySet,
        Self::AuthnPolicy,
        Self::AuthzPolicy,
        Self::RateLimitConfig,
        Self::Secret,
        Self::Cluster,
        Self::Endpoints,
        Self::Listener,
        Self::RouteConfig,
        Self::VirtualHost,
    ];

    /// The full name of the message.
    pub fn message(self) -> &'static str {
        match self {
            Self::AuthnKeySet => "gatehouse.authn.v1.KeySet",
            Self::AuthnPolicy => "gatehouse.authn.v1.Policy",
            Self::AuthzPolicy => "gatehouse.authz.v1.Policy",
            Self::RateLimitConfig => "ratelimit.config.ratelimit.v3.RateLimitConfig",
            Self::Secret => "envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::RouteConfig => "envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "envoy.config.route.v3.VirtualHost",
        }
    }

    /// The `type_url` of discovery requests and of `Any`.
    pub fn url(self) -> String {
        format!("type.googleapis.com/{}", self.message())
    }

    /// `None` for a type that we do not serve.
    pub fn from_url(url: &str) -> Option<Self> {
        let message = url.strip_prefix("type.googleapis.com/")?;
        Self::ALL.into_iter().find(|kind| kind.message() == message)
    }

    /// Whose streams carry this type.
    pub fn role(self) -> Role {
        match self {
            Self::AuthnKeySet | Self::AuthnPolicy => Role::Authn,
            Self::AuthzPolicy => Role::Authz,
            Self::RateLimitConfig => Role::Ratelimit,
            _ => Role::Envoy,
        }
    }

    /// What templates and operators call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::AuthnKeySet => "authn_key_sets",
            Self::AuthnPolicy => "authn_policies",
            Self::AuthzPolicy => "authz_policies",
            Self::RateLimitConfig => "rate_limits",
            Self::Secret => "secrets",
            Self::Cluster => "clusters",
            Self::Endpoints => "endpoints",
            Self::Listener => "listeners",
            Self::RouteConfig => "routes",
            Self::VirtualHost => "virtual_hosts",
        }
    }

    /// The other way round of [`label`](Self::label).
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.label() == label)
    }

    /// The field that holds a resource's xDS name.
    pub fn name_field(self) -> &'static str {
        match self {
            Self::Endpoints => "cluster_name",
            _ => "name",
        }
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor_pool;

    #[test]
    fn every_type_stands_in_the_pinned_descriptors_with_its_name_field() {
        for kind in ResourceType::ALL {
            let message = descriptor_pool().get_message_by_name(kind.message());
            let message = message.unwrap_or_else(|| panic!("{kind} has no descriptor"));
            assert!(message.get_field_by_name(kind.name_field()).is_some(), "{kind}");
            assert_eq!(ResourceType::from_url(&kind.url()), Some(kind));
            assert_eq!(ResourceType::from_label(kind.label()), Some(kind));
        }
    }
}
