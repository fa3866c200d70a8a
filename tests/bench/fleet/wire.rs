//! What a simulated proxy says and hears: the messages of delta ADS as bytes, read only as far as an answer needs.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use envoy_types::pb::envoy::{config::core::v3::Node, service::discovery::v3::DeltaDiscoveryRequest};
use h2::RecvStream;
use prost::{
    Message as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
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

/// What stands before a message (gRPC over HTTP/2, "Length-Prefixed-Message"): not compressed, and its length.
pub(crate) fn prefix(message: &Bytes) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    std::iter::once(0).chain(length).collect()
}

/// A message with its prefix.
pub(crate) fn framed(message: &Bytes) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put(prefix(message));
    framed.put_slice(message);
    framed.freeze()
}

const PREFIX_BYTES: usize = 5;

/// The messages of a response.
pub(crate) struct Messages {
    body: RecvStream,
    buffer: BytesMut,
}

impl Messages {
    pub(crate) fn of(body: RecvStream) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next one; `None` at the end.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            let Some(data) = self.body.data().await else { return Ok(None) };
            let data = data?;
            self.body.flow_control().release_capacity(data.len())?;
            self.buffer.put(data);
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let (prefix, rest) = self.buffer.split_first_chunk::<PREFIX_BYTES>()?;
        let [_, length @ ..] = *prefix;
        let length = u32::from_be_bytes(length) as usize;
        if rest.len() < length {
            return None;
        }
        let mut message = self.buffer.split_to(PREFIX_BYTES + length);
        if self.buffer.is_empty() {
            // The memory of a large message goes with it.
            self.buffer = BytesMut::new();
        }
        message.advance(PREFIX_BYTES);
        Some(message.freeze())
    }

    /// Why it has ended.
    pub(crate) async fn status(&mut self) -> String {
        let trailers = self.body.trailers().await.ok().flatten().unwrap_or_default();
        let text = |name: &str| {
            trailers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        format!("{} {}", text("grpc-status").unwrap_or_default(), text("grpc-message").unwrap_or_default())
    }
}
