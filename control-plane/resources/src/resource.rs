//! One checked resource.

use std::{fmt, sync::Arc};

use api::ResourceType;
use bytes::Bytes;
use model::InstanceId;

/// What distinguishes resources. They sort in the order of pushes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The type.
    pub kind: ResourceType,
    /// The xDS name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A checked message, encoded once for all who get it.
#[derive(Clone, PartialEq)]
pub struct Resource {
    /// Type and name.
    pub key: Key,
    /// The service that it belongs to; `None` for the edge itself.
    pub owner: Option<InstanceId>,
    /// The hash of its content, the same on every replica.
    pub version: Arc<str>,
    /// The encoded message.
    pub body: Bytes,
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the body: secrets are resources too.
        write!(f, "{}@{}", self.key, self.version)
    }
}
