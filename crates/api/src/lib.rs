//! What both sides of the edge agree on: the types of resources, our own protos and the typed policies
//! behind them, and the Envoy descriptors that this release of Gatehouse is pinned to.
//!
//! No IO. A policy that cannot be understood becomes an [`Invalid`] that names the field, never a default.

pub mod resource_type;

pub mod network;
pub mod path;

pub mod authn;
pub mod authz;
pub mod cedar;
pub mod identity_key;
pub mod key_set;
pub mod revocation;

mod descriptors;
mod invalid;

pub use descriptors::{descriptor_pool, json};
pub use invalid::Invalid;
pub use resource_type::{ResourceType, Role};

/// The generated messages, as they travel. Use the typed forms beside this module.
#[allow(missing_docs, clippy::pedantic)]
pub mod pb {
    /// `gatehouse.authn.v1`
    pub mod authn {
        include!(concat!(env!("OUT_DIR"), "/gatehouse.authn.v1.rs"));
    }
    /// `gatehouse.authz.v1`
    pub mod authz {
        include!(concat!(env!("OUT_DIR"), "/gatehouse.authz.v1.rs"));
    }
}
