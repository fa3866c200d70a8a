//! Discovery requests, read in place: a reconnecting Envoy brings 15,000 names, and a fleet of them comes at once.
//!
//! The fields are those of `envoy.service.discovery.v3`; what is not listed here (resource locators, fields of
//! newer releases) is skipped, as Envoy does.

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
    },
    google::rpc::Status,
};
use prost::{
    Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

use crate::stream::Variant;

/// A `DeltaDiscoveryRequest` that borrows its names.
#[derive(Debug, Default, PartialEq)]
pub struct DeltaRequest<'a> {
    /// Who asks; on the first message of a stream.
    pub node: Option<Node>,
    /// Which type.
    pub type_url: &'a str,
    /// Names, or `*`.
    pub subscribe: Vec<&'a str>,
    /// Names, or `*`.
    pub unsubscribe: Vec<&'a str>,
    /// `initial_resource_versions`: name and version.
    pub brought: Vec<(&'a str, &'a str)>,
    /// The response that this one answers; empty for none.
    pub nonce: &'a str,
    /// The client's words, if it refused that response.
    pub error: Option<String>,
}

/// A `DiscoveryRequest` that borrows its names.
#[derive(Debug, Default, PartialEq)]
pub struct SotwRequest<'a> {
    /// Who asks; on the first message of a stream.
    pub node: Option<Node>,
    /// Which type.
    pub type_url: &'a str,
    /// What the client last accepted; empty for nothing.
    pub version: &'a str,
    /// All names that it wants.
    pub names: Vec<&'a str>,
    /// The response that this one answers; empty for none.
    pub nonce: &'a str,
    /// The client's words, if it refused that response.
    pub error: Option<String>,
}

impl<'a> DeltaRequest<'a> {
    /// Reads an encoded message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, MalformedRequest> {
        let mut request = Self::default();
        for field in Fields(bytes) {
            match field? {
                (1, value) => request.node = Some(message(value)?),
                (2, value) => request.type_url = text(value)?,
                (3, value) => request.subscribe.push(text(value)?),
                (4, value) => request.unsubscribe.push(text(value)?),
                (5, value) => request.brought.push(pair(value)?),
                (6, value) => request.nonce = text(value)?,
                (7, value) => request.error = Some(message::<Status>(value)?.message),
                _ => {}
            }
        }
        Ok(request)
    }
}

impl<'a> SotwRequest<'a> {
    /// Reads an encoded message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, MalformedRequest> {
        let mut request = Self::default();
        for field in Fields(bytes) {
            match field? {
                (1, value) => request.version = text(value)?,
                (2, value) => request.node = Some(message(value)?),
                (3, value) => request.names.push(text(value)?),
                (4, value) => request.type_url = text(value)?,
                (5, value) => request.nonce = text(value)?,
                (6, value) => request.error = Some(message::<Status>(value)?.message),
                _ => {}
            }
        }
        Ok(request)
    }
}

/// Only who asks, of an encoded request.
pub fn node_of(bytes: &[u8], variant: Variant) -> Result<Option<Node>, MalformedRequest> {
    let tag_of_node = match variant {
        Variant::Delta => 1,
        Variant::Sotw => 2,
    };
    for field in Fields(bytes) {
        match field? {
            (tag, value) if tag == tag_of_node => return message(value).map(Some),
            _ => {}
        }
    }
    Ok(None)
}

impl<'a> From<&'a DeltaDiscoveryRequest> for DeltaRequest<'a> {
    fn from(wire: &'a DeltaDiscoveryRequest) -> Self {
        Self {
            node: wire.node.clone(),
            type_url: &wire.type_url,
            subscribe: wire.resource_names_subscribe.iter().map(String::as_str).collect(),
            unsubscribe: wire.resource_names_unsubscribe.iter().map(String::as_str).collect(),
            brought: wire
                .initial_resource_versions
                .iter()
                .map(|(name, version)| (name.as_str(), version.as_str()))
                .collect(),
            nonce: &wire.response_nonce,
            error: wire.error_detail.as_ref().map(|status| status.message.clone()),
        }
    }
}

impl<'a> From<&'a DiscoveryRequest> for SotwRequest<'a> {
    fn from(wire: &'a DiscoveryRequest) -> Self {
        Self {
            node: wire.node.clone(),
            type_url: &wire.type_url,
            version: &wire.version_info,
            names: wire.resource_names.iter().map(String::as_str).collect(),
            nonce: &wire.response_nonce,
            error: wire.error_detail.as_ref().map(|status| status.message.clone()),
        }
    }
}

/// Bytes that are no discovery request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a discovery request: {0}")]
pub struct MalformedRequest(&'static str);

const NO_FIELD: MalformedRequest = MalformedRequest("a field that cannot be read");

fn message<M: Message + Default>(bytes: &[u8]) -> Result<M, MalformedRequest> {
    M::decode(bytes).map_err(|_| MalformedRequest("a node or status that cannot be read"))
}

/// The length-delimited fields of a message; others are skipped.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, &'a [u8]), MalformedRequest>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            match self.read() {
                Ok(None) => {}
                Ok(Some(field)) => return Some(Ok(field)),
                Err(error) => {
                    self.0 = &[];
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<Option<(u32, &'a [u8])>, MalformedRequest> {
        let (tag, wire_type) = decode_key(&mut self.0).map_err(|_| NO_FIELD)?;
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, tag, &mut self.0, DecodeContext::default()).map_err(|_| NO_FIELD)?;
            return Ok(None);
        }
        let length = decode_varint(&mut self.0).map_err(|_| NO_FIELD)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= self.0.len());
        let (value, rest) =
            self.0.split_at(length.ok_or(MalformedRequest("a field longer than the message"))?);
        self.0 = rest;
        Ok(Some((tag, value)))
    }
}

fn text(bytes: &[u8]) -> Result<&str, MalformedRequest> {
    std::str::from_utf8(bytes).map_err(|_| MalformedRequest("a string that is not UTF-8"))
}

fn pair(bytes: &[u8]) -> Result<(&str, &str), MalformedRequest> {
    let (mut key, mut value) = ("", "");
    for field in Fields(bytes) {
        match field? {
            (1, bytes) => key = text(bytes)?,
            (2, bytes) => value = text(bytes)?,
            _ => {}
        }
    }
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn node() -> Node {
        Node { id: "edge/i-1".into(), ..Default::default() }
    }

    #[test]
    fn both_variants_read_as_the_generated_types_do() {
        let delta = DeltaDiscoveryRequest {
            node: Some(node()),
            type_url: "t".into(),
            resource_names_subscribe: vec!["a".into(), "*".into()],
            resource_names_unsubscribe: vec!["b".into()],
            initial_resource_versions: HashMap::from([("c".into(), "1".into())]),
            response_nonce: "7".into(),
            error_detail: Some(Status { code: 3, message: "no".into(), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(DeltaRequest::decode(&delta.encode_to_vec()).unwrap(), DeltaRequest::from(&delta));
        let sotw = DiscoveryRequest {
            version_info: "v".into(),
            node: Some(node()),
            resource_names: vec!["a".into(), "b".into()],
            type_url: "t".into(),
            response_nonce: "7".into(),
            error_detail: Some(Status { code: 3, message: "no".into(), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(SotwRequest::decode(&sotw.encode_to_vec()).unwrap(), SotwRequest::from(&sotw));
    }

    #[test]
    fn what_is_cut_short_or_no_text_is_refused() {
        let whole =
            DiscoveryRequest { type_url: "type".into(), version_info: "v".into(), ..Default::default() }
                .encode_to_vec();
        assert!(SotwRequest::decode(&whole[..whole.len() - 1]).is_err());
        assert!(SotwRequest::decode(&[0x22, 1, 0xff]).is_err());
        assert!(DeltaRequest::decode(&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_err());
    }

    #[test]
    fn fields_of_other_releases_are_skipped() {
        // Field 1000 as a varint and field 1001 as bytes, before the type.
        let mut bytes = vec![0xc0, 0x3e, 0x05, 0xca, 0x3e, 0x01, 0x00];
        bytes.extend(DiscoveryRequest { type_url: "t".into(), ..Default::default() }.encode_to_vec());
        assert_eq!(SotwRequest::decode(&bytes).unwrap().type_url, "t");
    }
}
