//! The discovery services of Envoy over gRPC: which method is which variant and type, and how messages travel as
//! bytes.

use std::{collections::HashMap, sync::LazyLock};

use api::ResourceType;
use bytes::{Buf as _, Bytes};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use xds::stream::Variant;

use crate::frame::Frame;

/// A method of a discovery service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method {
    pub(crate) variant: Variant,
    /// The type of a service for a single one; requests to it may leave it out.
    pub(crate) implied: Option<ResourceType>,
}

/// Package and service below `envoy.service`, the ending of both methods, and the type.
const SERVICES: [(&str, &str, Option<ResourceType>); 10] = [
    ("discovery.v3.AggregatedDiscoveryService", "AggregatedResources", None),
    ("cluster.v3.ClusterDiscoveryService", "Clusters", Some(ResourceType::Cluster)),
    ("endpoint.v3.EndpointDiscoveryService", "Endpoints", Some(ResourceType::Endpoints)),
    ("listener.v3.ListenerDiscoveryService", "Listeners", Some(ResourceType::Listener)),
    ("route.v3.RouteDiscoveryService", "Routes", Some(ResourceType::RouteConfig)),
    ("route.v3.ScopedRoutesDiscoveryService", "ScopedRoutes", Some(ResourceType::ScopedRoutes)),
    ("route.v3.VirtualHostDiscoveryService", "VirtualHosts", Some(ResourceType::VirtualHost)),
    ("secret.v3.SecretDiscoveryService", "Secrets", Some(ResourceType::Secret)),
    ("runtime.v3.RuntimeDiscoveryService", "Runtime", Some(ResourceType::Runtime)),
    ("extension.v3.ExtensionConfigDiscoveryService", "ExtensionConfigs", Some(ResourceType::ExtensionConfig)),
];

static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let mut methods = HashMap::new();
    for (service, ending, implied) in SERVICES {
        for (start, variant) in [("Stream", Variant::Sotw), ("Delta", Variant::Delta)] {
            // Virtual hosts are delta only.
            if implied != Some(ResourceType::VirtualHost) || variant == Variant::Delta {
                let path = format!("/envoy.service.{service}/{start}{ending}");
                methods.insert(path, Method { variant, implied });
            }
        }
    }
    methods
});

impl Method {
    /// The method of this HTTP path.
    pub(crate) fn of(path: &str) -> Option<Self> {
        METHODS.get(path).copied()
    }
}

/// Requests stay the bytes that they were, since they are read in place; responses are put together from bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Frame;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(frame.size_hint());
        frame.encode(out);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = bytes.remaining();
        Ok(Some(bytes.copy_to_bytes(length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_03_a_service_for_one_type_implies_it_and_the_aggregated_one_does_not() {
        let method = |path: &str| Method::of(path).map(|method| (method.variant, method.implied));
        assert_eq!(
            method("/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters"),
            Some((Variant::Sotw, Some(ResourceType::Cluster)))
        );
        assert_eq!(
            method("/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts"),
            Some((Variant::Delta, Some(ResourceType::VirtualHost)))
        );
        assert_eq!(
            method("/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"),
            Some((Variant::Delta, None))
        );
        assert_eq!(method("/envoy.service.route.v3.VirtualHostDiscoveryService/StreamVirtualHosts"), None);
    }
}
