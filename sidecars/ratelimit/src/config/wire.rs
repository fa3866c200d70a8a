//! The xDS type. It cannot say `value_to_metric` and `share_threshold`, so what comes this way never has them.

use envoy_types::pb::ratelimit::config::ratelimit::v3::{
    RateLimitConfig, RateLimitDescriptor, RateLimitPolicy, RateLimitUnit,
};

use super::{Defaults, Descriptor, Domain, Policy, Replaced, metadata};

impl Domain {
    /// Checks what a control plane sent.
    ///
    /// # Errors
    /// The first mistake, with its field.
    pub(crate) fn from_wire(wire: RateLimitConfig, defaults: &Defaults) -> Result<Self, String> {
        let RateLimitConfig { name: _, domain, descriptors } = wire;
        Self::compile(domain, descriptors.into_iter().map(Descriptor::from).collect(), defaults)
    }
}

impl From<RateLimitDescriptor> for Descriptor {
    fn from(wire: RateLimitDescriptor) -> Self {
        Self {
            key: wire.key,
            value: wire.value,
            rate_limit: wire.rate_limit.map(Policy::from),
            descriptors: wire.descriptors.into_iter().map(Self::from).collect(),
            shadow_mode: wire.shadow_mode,
            quota_mode: wire.quota_mode,
            detailed_metric: wire.detailed_metric,
            value_to_metric: false,
            share_threshold: false,
            metadata: wire.metadata.map(metadata::to_json),
        }
    }
}

impl From<RateLimitPolicy> for Policy {
    fn from(wire: RateLimitPolicy) -> Self {
        // 0 is what a message has that says nothing of it.
        let unit = match RateLimitUnit::try_from(wire.unit) {
            Ok(RateLimitUnit::Unknown) => None,
            Ok(unit) => Some(unit.as_str_name().to_owned()),
            Err(_) => Some(wire.unit.to_string()),
        };
        Self {
            unit,
            requests_per_unit: wire.requests_per_unit,
            unlimited: wire.unlimited,
            name: wire.name,
            replaces: wire.replaces.into_iter().map(|replaced| Replaced { name: replaced.name }).collect(),
        }
    }
}
