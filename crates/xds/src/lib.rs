//! xDS: the bookkeeping of a server without IO, for both variants, and the whole delta ADS client of the sidecars,
//! which keeps what it last accepted on disk.
//!
//! Protocol: Envoy's `xds_protocol.rst` and `discovery.proto`; where Envoy 1.40 differs, Envoy wins.

mod request;
pub mod stream;

pub mod client;
pub mod contact;
pub mod disk;
mod server;
pub mod table;

pub use client::{Client, Handler};
pub use contact::Contact;
pub use request::{DeltaRequest, MalformedRequest, SotwRequest, node_of};
pub use server::{ConnectError, InvalidServer, Server};
pub use table::Table;

/// The node id that a stream belongs to, and who on that node speaks.
///
/// Sidecars append their name to the node's id: `edge/i-0abc/authn`.
pub fn split_node_id(id: &str) -> (&str, api::Role) {
    for role in api::Role::SIDECARS {
        if let Some(node) = role.suffix().and_then(|suffix| id.strip_suffix(suffix)?.strip_suffix('/')) {
            return (node, role);
        }
    }
    (id, api::Role::Envoy)
}

#[cfg(test)]
mod tests {
    use api::Role;

    use super::*;

    #[test]
    fn the_last_part_of_a_node_id_says_who_speaks() {
        assert_eq!(split_node_id("edge/i-1/authn"), ("edge/i-1", Role::Authn));
        assert_eq!(split_node_id("edge/i-1/ratelimit"), ("edge/i-1", Role::Ratelimit));
        assert_eq!(split_node_id("edge/i-1/guard"), ("edge/i-1", Role::Guard));
        assert_eq!(split_node_id("edge/i-1"), ("edge/i-1", Role::Envoy));
        assert_eq!(split_node_id("edge/xauthn"), ("edge/xauthn", Role::Envoy));
    }
}
