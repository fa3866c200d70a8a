//! Responses on the wire. A resource's bytes are encoded once, when it is made; a response puts them together with
//! a few bytes around, whoever gets it.

use std::{sync::Arc, time::Duration};

use api::ResourceType;
use bytes::{BufMut, Bytes};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use resources::{Resource, Shared, Table};
use xds::stream::Name;

/// One message to a client.
#[derive(Debug, Clone)]
pub(crate) enum Frame {
    Delta(DeltaFrame),
    Sotw(SotwFrame),
}

/// A `DeltaDiscoveryResponse`.
#[derive(Debug, Clone)]
pub(crate) struct DeltaFrame {
    pub(crate) kind: ResourceType,
    pub(crate) nonce: u64,
    pub(crate) system_version: u64,
    pub(crate) resources: Vec<Sent>,
    pub(crate) removed: Vec<Name>,
    pub(crate) identifier: Arc<str>,
}

/// A `DiscoveryResponse`.
#[derive(Debug, Clone)]
pub(crate) struct SotwFrame {
    pub(crate) kind: ResourceType,
    pub(crate) nonce: u64,
    pub(crate) version: Arc<str>,
    pub(crate) resources: SotwBody,
    pub(crate) identifier: Arc<str>,
}

/// All of a type, or some.
#[derive(Debug, Clone)]
pub(crate) enum SotwBody {
    All(Table),
    These(Vec<Shared>),
}

impl SotwBody {
    pub(crate) fn for_each(&self, mut each: impl FnMut(&Resource)) {
        match self {
            Self::All(table) => table.resources().for_each(|resource| each(resource)),
            Self::These(items) => items.iter().for_each(|item| each(item)),
        }
    }
}

/// A resource in a delta response.
#[derive(Debug, Clone)]
pub(crate) enum Sent {
    /// With its content.
    Whole(Shared),
    /// A sign of life: name, version and time to live, and no content.
    Heartbeat(Shared),
}

/// What the messages look like (`envoy.service.discovery.v3`, `google.protobuf.Any`).
mod field {
    pub(super) const ANY_TYPE_URL: u32 = 1;
    pub(super) const ANY_VALUE: u32 = 2;
    pub(super) const RESOURCE_VERSION: u32 = 1;
    pub(super) const RESOURCE_BODY: u32 = 2;
    pub(super) const RESOURCE_NAME: u32 = 3;
    pub(super) const RESOURCE_ALIASES: u32 = 4;
    pub(super) const RESOURCE_TTL: u32 = 6;
    pub(super) const DELTA_SYSTEM_VERSION: u32 = 1;
    pub(super) const DELTA_RESOURCES: u32 = 2;
    pub(super) const DELTA_TYPE_URL: u32 = 4;
    pub(super) const DELTA_NONCE: u32 = 5;
    pub(super) const DELTA_REMOVED: u32 = 6;
    pub(super) const DELTA_CONTROL_PLANE: u32 = 7;
    pub(super) const SOTW_VERSION: u32 = 1;
    pub(super) const SOTW_RESOURCES: u32 = 2;
    pub(super) const SOTW_TYPE_URL: u32 = 4;
    pub(super) const SOTW_NONCE: u32 = 5;
    pub(super) const SOTW_CONTROL_PLANE: u32 = 6;
    pub(super) const IDENTIFIER: u32 = 1;
    pub(super) const SECONDS: u32 = 1;
    pub(super) const NANOS: u32 = 2;
}

/// The wrapper that carries a time to live in the state-of-the-world variant.
const WRAPPER_URL: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

impl Frame {
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        match self {
            Self::Delta(frame) => frame.encode(out),
            Self::Sotw(frame) => frame.encode(out),
        }
    }

    /// How many bytes that will be, about: to reserve them at once.
    pub(crate) fn size_hint(&self) -> usize {
        let around = |resource: &Resource| resource.body.len() + 2 * resource.key.name.len() + 160;
        let mut size = 256;
        match self {
            Self::Delta(frame) => {
                for sent in &frame.resources {
                    let (Sent::Whole(resource) | Sent::Heartbeat(resource)) = sent;
                    size += around(resource);
                }
                size += frame.removed.iter().map(|name| name.len() + 8).sum::<usize>();
            }
            Self::Sotw(frame) => frame.resources.for_each(|resource| size += around(resource)),
        }
        size
    }
}

impl DeltaFrame {
    fn encode(&self, out: &mut impl BufMut) {
        let url = self.kind.url();
        text(field::DELTA_SYSTEM_VERSION, &self.system_version.to_string(), out);
        for sent in &self.resources {
            let wrapped = Wrapped::of(sent, url);
            head(field::DELTA_RESOURCES, wrapped.len(), out);
            wrapped.encode(out);
        }
        text(field::DELTA_TYPE_URL, url, out);
        text(field::DELTA_NONCE, &self.nonce.to_string(), out);
        for name in &self.removed {
            text(field::DELTA_REMOVED, name, out);
        }
        control_plane(field::DELTA_CONTROL_PLANE, &self.identifier, out);
    }
}

impl SotwFrame {
    fn encode(&self, out: &mut impl BufMut) {
        let url = self.kind.url();
        text(field::SOTW_VERSION, &self.version, out);
        self.resources.for_each(|resource| {
            if resource.ttl.is_some() {
                let wrapped = Wrapped::whole(resource, url);
                head(field::SOTW_RESOURCES, any_len(WRAPPER_URL, wrapped.len()), out);
                any_head(WRAPPER_URL, wrapped.len(), out);
                wrapped.encode(out);
            } else {
                head(field::SOTW_RESOURCES, any_len(url, resource.body.len()), out);
                any_head(url, resource.body.len(), out);
                out.put_slice(&resource.body);
            }
        });
        text(field::SOTW_TYPE_URL, url, out);
        text(field::SOTW_NONCE, &self.nonce.to_string(), out);
        control_plane(field::SOTW_CONTROL_PLANE, &self.identifier, out);
    }
}

/// An `envoy.service.discovery.v3.Resource`.
struct Wrapped<'a> {
    resource: &'a Resource,
    url: &'a str,
    body: Option<&'a Bytes>,
}

impl<'a> Wrapped<'a> {
    fn of(sent: &'a Sent, url: &'a str) -> Self {
        match sent {
            Sent::Whole(resource) => Self::whole(resource, url),
            Sent::Heartbeat(resource) => Self { resource, url, body: None },
        }
    }

    fn whole(resource: &'a Resource, url: &'a str) -> Self {
        Self { resource, url, body: Some(&resource.body) }
    }

    fn len(&self) -> usize {
        let Self { resource, url, body } = self;
        let mut len = text_len(field::RESOURCE_VERSION, &resource.version)
            + text_len(field::RESOURCE_NAME, &resource.key.name);
        if let Some(body) = body {
            len += delimited_len(field::RESOURCE_BODY, any_len(url, body.len()));
        }
        len += resource.aliases.iter().map(|alias| text_len(field::RESOURCE_ALIASES, alias)).sum::<usize>();
        if let Some(ttl) = resource.ttl {
            len += delimited_len(field::RESOURCE_TTL, duration_len(ttl));
        }
        len
    }

    fn encode(&self, out: &mut impl BufMut) {
        let Self { resource, url, body } = self;
        text(field::RESOURCE_VERSION, &resource.version, out);
        if let Some(body) = body {
            head(field::RESOURCE_BODY, any_len(url, body.len()), out);
            any_head(url, body.len(), out);
            out.put_slice(body);
        }
        text(field::RESOURCE_NAME, &resource.key.name, out);
        for alias in &resource.aliases {
            text(field::RESOURCE_ALIASES, alias, out);
        }
        if let Some(ttl) = resource.ttl {
            head(field::RESOURCE_TTL, duration_len(ttl), out);
            for (tag, value) in duration_fields(ttl) {
                encode_key(tag, WireType::Varint, out);
                encode_varint(value, out);
            }
        }
    }
}

fn control_plane(tag: u32, identifier: &str, out: &mut impl BufMut) {
    head(tag, text_len(field::IDENTIFIER, identifier), out);
    text(field::IDENTIFIER, identifier, out);
}

fn head(tag: u32, len: usize, out: &mut impl BufMut) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn text(tag: u32, text: &str, out: &mut impl BufMut) {
    head(tag, text.len(), out);
    out.put_slice(text.as_bytes());
}

fn delimited_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

fn text_len(tag: u32, text: &str) -> usize {
    delimited_len(tag, text.len())
}

fn any_len(url: &str, body_len: usize) -> usize {
    text_len(field::ANY_TYPE_URL, url) + delimited_len(field::ANY_VALUE, body_len)
}

fn any_head(url: &str, body_len: usize, out: &mut impl BufMut) {
    text(field::ANY_TYPE_URL, url, out);
    head(field::ANY_VALUE, body_len, out);
}

fn duration_fields(ttl: Duration) -> impl Iterator<Item = (u32, u64)> {
    let fields = [(field::SECONDS, ttl.as_secs()), (field::NANOS, u64::from(ttl.subsec_nanos()))];
    fields.into_iter().filter(|(_, value)| *value > 0)
}

fn duration_len(ttl: Duration) -> usize {
    duration_fields(ttl).map(|(tag, value)| key_len(tag) + encoded_len_varint(value)).sum()
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource as Wire},
        google::protobuf::Any,
    };
    use prost::Message as _;
    use resources::Key;

    use super::*;

    fn resource(name: &str, ttl: Option<Duration>, aliases: &[&str]) -> Shared {
        let key = Key { kind: ResourceType::Cluster, name: name.into() };
        let mut resource = Resource::new(key, None, "v1".into(), Bytes::from(vec![b'x'; 300]));
        resource.ttl = ttl;
        resource.aliases = aliases.iter().map(|alias| Name::from(*alias)).collect();
        Shared(Arc::new(resource))
    }

    fn bytes(frame: &Frame) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        assert!(bytes.len() <= frame.size_hint());
        bytes
    }

    fn any() -> Any {
        Any { type_url: ResourceType::Cluster.url().into(), value: vec![b'x'; 300] }
    }

    #[test]
    fn rule_42_50_51_and_56_a_delta_response_reads_as_the_generated_type_does() {
        let ttl = Duration::from_millis(2_500);
        let frame = Frame::Delta(DeltaFrame {
            kind: ResourceType::Cluster,
            nonce: 7,
            system_version: 3,
            resources: vec![
                Sent::Whole(resource("a", None, &["b", "c"])),
                Sent::Whole(resource("t", Some(ttl), &[])),
                Sent::Heartbeat(resource("h", Some(ttl), &[])),
            ],
            removed: vec!["gone".into()],
            identifier: "me".into(),
        });
        let read = DeltaDiscoveryResponse::decode(&*bytes(&frame)).unwrap();
        let wire = |name: &str, body: bool, ttl: bool, aliases: &[&str]| Wire {
            name: name.into(),
            version: "v1".into(),
            aliases: aliases.iter().map(ToString::to_string).collect(),
            resource: body.then(any),
            ttl: ttl
                .then_some(envoy_types::pb::google::protobuf::Duration { seconds: 2, nanos: 500_000_000 }),
            ..Default::default()
        };
        assert_eq!(
            read.resources,
            [wire("a", true, false, &["b", "c"]), wire("t", true, true, &[]), wire("h", false, true, &[])]
        );
        assert_eq!((read.nonce.as_str(), read.system_version_info.as_str()), ("7", "3"));
        assert_eq!(read.type_url, ResourceType::Cluster.url());
        assert_eq!(read.removed_resources, ["gone"]);
        assert_eq!(read.control_plane.unwrap().identifier, "me");
    }

    #[test]
    fn rule_21_and_52_a_whole_response_reads_as_the_generated_type_does() {
        let plain = resource("a", None, &[]);
        let mortal = resource("t", Some(Duration::from_secs(9)), &[]);
        let frame = |resources| {
            Frame::Sotw(SotwFrame {
                kind: ResourceType::Cluster,
                nonce: 1,
                version: "v".into(),
                resources,
                identifier: "me".into(),
            })
        };
        let read =
            DiscoveryResponse::decode(&*bytes(&frame(SotwBody::These(vec![plain.clone(), mortal.clone()]))))
                .unwrap();
        assert_eq!((read.version_info.as_str(), read.nonce.as_str()), ("v", "1"));
        assert_eq!(read.type_url, ResourceType::Cluster.url());
        assert_eq!(read.resources[0], any());
        assert_eq!(read.resources[1].type_url, WRAPPER_URL);
        let wrapped = Wire::decode(&*read.resources[1].value).unwrap();
        assert_eq!(
            (wrapped.name.as_str(), wrapped.ttl.unwrap().seconds, wrapped.resource),
            ("t", 9, Some(any()))
        );
        let all = frame(SotwBody::All([plain.0].into_iter().collect()));
        assert_eq!(DiscoveryResponse::decode(&*bytes(&all)).unwrap().resources, [any()]);
    }
}
