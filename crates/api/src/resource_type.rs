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
    /// All three in one process.
    Guard,
}

impl Role {
    /// The sidecars, in the order in which Envoy asks them; the last stands for the others.
    pub const SIDECARS: [Self; 4] = [Self::Authn, Self::Authz, Self::Ratelimit, Self::Guard];

    /// What a sidecar appends to its node's id: `edge/i-0abc/authn`. Envoy appends nothing.
    pub fn suffix(self) -> Option<&'static str> {
        match self {
            Self::Envoy => None,
            Self::Authn => Some("authn"),
            Self::Authz => Some("authz"),
            Self::Ratelimit => Some("ratelimit"),
            Self::Guard => Some("guard"),
        }
    }

    /// Whether its streams carry a type.
    pub fn carries(self, kind: ResourceType) -> bool {
        match self {
            Self::Guard => kind.role() != Self::Envoy,
            role => kind.role() == role,
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
    /// `gatehouse.authn.v1.Revocations`; before the policies by which what they withdraw would be good.
    AuthnRevocations,
    /// `gatehouse.authn.v1.IdentityKey`; before the policies that want tokens signed.
    AuthnIdentityKey,
    /// `gatehouse.authn.v1.Policy`
    AuthnPolicy,
    /// `gatehouse.authz.v1.Guardrail`; before the policies that it is above.
    AuthzGuardrail,
    /// `gatehouse.authz.v1.Policy`
    AuthzPolicy,
    /// `ratelimit.config.ratelimit.v3.RateLimitConfig`
    RateLimitConfig,
    /// SDS
    Secret,
    /// RTDS
    Runtime,
    /// CDS
    Cluster,
    /// EDS
    Endpoints,
    /// ECDS; a listener warms on it, so it waits for nothing that waits for listeners.
    ExtensionConfig,
    /// LDS
    Listener,
    /// SRDS; Envoy asks for a scope's routes once it has the scope.
    ScopedRoutes,
    /// RDS
    RouteConfig,
    /// VHDS
    VirtualHost,
}

const URL_PREFIX: &str = "type.googleapis.com/";

impl ResourceType {
    /// All of them, in the order of pushes.
    pub const ALL: [Self; 16] = [
        Self::AuthnKeySet,
        Self::AuthnRevocations,
        Self::AuthnIdentityKey,
        Self::AuthnPolicy,
        Self::AuthzGuardrail,
        Self::AuthzPolicy,
        Self::RateLimitConfig,
        Self::Secret,
        Self::Runtime,
        Self::Cluster,
        Self::Endpoints,
        Self::ExtensionConfig,
        Self::Listener,
        Self::ScopedRoutes,
        Self::RouteConfig,
        Self::VirtualHost,
    ];

    /// The full name of the message.
    pub fn message(self) -> &'static str {
        self.url().strip_prefix(URL_PREFIX).unwrap_or_default()
    }

    /// The `type_url` of discovery requests and of `Any`.
    pub fn url(self) -> &'static str {
        match self {
            Self::AuthnKeySet => "type.googleapis.com/gatehouse.authn.v1.KeySet",
            Self::AuthnRevocations => "type.googleapis.com/gatehouse.authn.v1.Revocations",
            Self::AuthnIdentityKey => "type.googleapis.com/gatehouse.authn.v1.IdentityKey",
            Self::AuthnPolicy => "type.googleapis.com/gatehouse.authn.v1.Policy",
            Self::AuthzGuardrail => "type.googleapis.com/gatehouse.authz.v1.Guardrail",
            Self::AuthzPolicy => "type.googleapis.com/gatehouse.authz.v1.Policy",
            Self::RateLimitConfig => "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::ExtensionConfig => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::ScopedRoutes => "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
            Self::RouteConfig => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
        }
    }

    /// `None` for a type that we do not serve.
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// Who decides by this type. Its streams carry it, or those of the guard, which decides for all: see
    /// [`Role::carries`].
    pub fn role(self) -> Role {
        match self {
            Self::AuthnKeySet | Self::AuthnRevocations | Self::AuthnIdentityKey | Self::AuthnPolicy => {
                Role::Authn
            }
            Self::AuthzGuardrail | Self::AuthzPolicy => Role::Authz,
            Self::RateLimitConfig => Role::Ratelimit,
            _ => Role::Envoy,
        }
    }

    /// Whether a state-of-the-world response carries the whole set, so that what is absent is deleted
    /// (`xds_protocol.rst`, "Deleting resources"). Of the other types a response may carry a part.
    pub fn is_full_set(self) -> bool {
        !matches!(
            self,
            Self::Secret
                | Self::Runtime
                | Self::Endpoints
                | Self::ExtensionConfig
                | Self::RouteConfig
                | Self::VirtualHost
        )
    }

    /// Whether a client may ask for everything by naming nothing. For the other types an empty list is
    /// nothing. Envoy 1.40 names no virtual hosts either: it takes all that are pushed under the name of a
    /// route configuration.
    pub fn allows_legacy_wildcard(self) -> bool {
        self.is_full_set() || self == Self::VirtualHost
    }

    /// Whether its resources take something away from what the others allow. To have none is as good a state as any; to
    /// have lost one would let too much pass.
    pub fn takes_away(self) -> bool {
        matches!(self, Self::AuthnRevocations | Self::AuthzGuardrail)
    }

    /// What templates and operators call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::AuthnKeySet => "authn_key_sets",
            Self::AuthnRevocations => "authn_revocations",
            Self::AuthnIdentityKey => "authn_identity_keys",
            Self::AuthnPolicy => "authn_policies",
            Self::AuthzGuardrail => "authz_guardrails",
            Self::AuthzPolicy => "authz_policies",
            Self::RateLimitConfig => "rate_limits",
            Self::Secret => "secrets",
            Self::Runtime => "runtime",
            Self::Cluster => "clusters",
            Self::Endpoints => "endpoints",
            Self::ExtensionConfig => "extension_configs",
            Self::Listener => "listeners",
            Self::ScopedRoutes => "scoped_routes",
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
            assert_eq!(ResourceType::from_url(kind.url()), Some(kind));
            assert_eq!(ResourceType::from_label(kind.label()), Some(kind));
        }
    }

    #[test]
    fn the_guard_gets_what_the_three_get_and_nothing_of_the_proxys() {
        for kind in ResourceType::ALL {
            let carriers: Vec<_> = Role::SIDECARS.into_iter().filter(|role| role.carries(kind)).collect();
            let expected = if kind.role() == Role::Envoy { vec![] } else { vec![kind.role(), Role::Guard] };
            assert_eq!(carriers, expected, "{kind}");
            assert_eq!(Role::Envoy.carries(kind), kind.role() == Role::Envoy);
        }
    }
}
