//! What a simulated proxy says and hears: the messages of delta ADS as bytes, read only as far as an answer needs.

use bytes::{Buf as _, BufMut as _, Bytes};
use envoy_types::pb::envoy::{config::core::v3::Node, service::discovery::v3::DeltaDiscoveryRequest};
use prost::{
    Message as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// The types of an Envoy, in the order in which it asks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Cluster,
    Endpoints,
    Listener,
    Routes,
    VirtualHost,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Cluster, Self::Endpoints, Self::Listener, Self::Routes, Self::VirtualHost];

    pub(crate) fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
        }
    }

    pub(crate) fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

/// A `DeltaDiscoveryResponse`, without the bodies.
#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) url: String,
    pub(crate) nonce: String,
    /// Name and version.
    pub(crate) resources: Vec<(String, String)>,
    pub(crate) removed: Vec<String>,
}

impl Response {
    pub(crate) fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        let mut response = Self::default();
        each(bytes, |tag, value| {
            match tag {
                2 => {
                    let (mut name, mut version) = (String::new(), String::new());
                    each(value, |tag, value| {
                        match tag {
                            1 => version = text(value)?,
                            3 => name = text(value)?,
                            _ => {}
                        }
                        Ok(())
                    })?;
                    response.resources.push((name, version));
                }
                4 => response.url = text(value)?,
                5 => response.nonce = text(value)?,
                6 => response.removed.push(text(value)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
    }
}

fn text(bytes: &[u8]) -> anyhow::Result<String> {
    Ok(std::str::from_utf8(bytes)?.to_owned())
}

fn each(mut bytes: &[u8], mut field: impl FnMut(u32, &[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        if wire_type == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut bytes)?)?;
            anyhow::ensure!(length <= bytes.len(), "a response that is cut short");
            let (value, rest) = bytes.split_at(length);
            field(tag, value)?;
            bytes = rest;
        } else {
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?;
        }
    }
    Ok(())
}

fn node_of(id: &str) -> Node {
    Node { id: id.to_owned(), cluster: "edge".into(), ..Node::default() }
}

/// A `DeltaDiscoveryRequest`.
pub(crate) fn request(
    node: Option<&str>,
    kind: Kind,
    nonce: &str,
    subscribe: impl IntoIterator<Item = impl Into<String>>,
    brought: impl IntoIterator<Item = (String, String)>,
) -> Bytes {
    let request = DeltaDiscoveryRequest {
        node: node.map(node_of),
        type_url: kind.url().to_owned(),
        response_nonce: nonce.to_owned(),
        resource_names_subscribe: subscribe.into_iter().map(Into::into).collect(),
        initial_resource_versions: brought.into_iter().collect(),
        ..DeltaDiscoveryRequest::default()
    };
    request.encode_to_vec().into()
}

/// The same request with a node in front: fields of a message may come in any order.
pub(crate) fn with_node(node: &str, request: &Bytes) -> Bytes {
    let head = DeltaDiscoveryRequest { node: Some(node_of(node)), ..DeltaDiscoveryRequest::default() };
    let mut head = head.encode_to_vec();
    head.put_slice(request);
    head.into()
}

/// Bytes as they are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
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
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(bytes);
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
