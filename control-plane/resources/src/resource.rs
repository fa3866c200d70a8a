//! One checked resource.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use api::{ResourceType, descriptor_pool};
use bytes::Bytes;
use model::InstanceId;
use prost::Message as _;
use prost_reflect::DynamicMessage;
use serde_json::Value;
use xds::stream::{Item, Name, Version};

use crate::Reference;

/// What distinguishes resources. They sort in the order of pushes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The type.
    pub kind: ResourceType,
    /// The xDS name.
    pub name: Name,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A checked message, encoded once for all who get it.
#[derive(Clone)]
pub struct Resource {
    /// Type and name.
    pub key: Key,
    /// The service that it belongs to; `None` for the edge itself.
    pub owner: Option<InstanceId>,
    /// The hash of its content, the same on every replica.
    pub version: Version,
    /// The encoded message.
    pub body: Bytes,
    /// Other names that clients can ask for it by.
    pub aliases: Vec<Name>,
    /// How long a client may use it without hearing of it again; `None` for as long as it likes.
    pub ttl: Option<Duration>,
    /// What it names that has to be served too, or to stand in the nodes' bootstrap.
    pub references: Vec<Reference>,
    /// `<name>/<domain>` of the virtual hosts inside a route configuration.
    pub(crate) domains: Vec<Name>,
    /// Of a route configuration whose virtual hosts come by VHDS: the message without `vhds`, for clients that
    /// are to get the virtual hosts inside it.
    pub(crate) without_vhds: Option<Bytes>,
    pub(crate) json: OnceLock<Option<Bytes>>,
    /// The same under other names, once somebody has asked for them.
    renamed: OnceLock<Arc<Mutex<Renamed>>>,
}

type Renamed = BTreeMap<Name, Arc<Resource>>;

/// Other names of one resource that are kept; more are made anew each time.
const MAX_RENAMED: usize = 10_000;

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, &self.owner, &self.version, self.ttl)
            == (&other.key, &other.owner, &other.version, other.ttl)
    }
}

impl Resource {
    /// A resource without other names or an end.
    pub fn new(key: Key, owner: Option<InstanceId>, version: Version, body: Bytes) -> Self {
        Self {
            key,
            owner,
            version,
            body,
            aliases: Vec::new(),
            ttl: None,
            references: Vec::new(),
            domains: Vec::new(),
            without_vhds: None,
            json: OnceLock::new(),
            renamed: OnceLock::new(),
        }
    }

    /// The same content under another name: a client refuses what does not bear the name that it asked for.
    ///
    /// # Errors
    /// Never, for a resource that went through `decode`.
    pub fn renamed(&self, name: &Name) -> Result<Arc<Self>, String> {
        let kept = self.renamed.get_or_init(Arc::default);
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = kept.get(name) {
            return Ok(found.clone());
        }
        let mut message = self.message()?;
        message.set_field_by_name("name", prost_reflect::Value::String(name.to_string()));
        let key = Key { kind: self.key.kind, name: name.clone() };
        let body = message.encode_to_vec().into();
        let made = Arc::new(Self::new(key, self.owner.clone(), self.version.clone(), body));
        if kept.len() < MAX_RENAMED {
            kept.insert(name.clone(), made.clone());
        }
        Ok(made)
    }

    /// The message itself.
    ///
    /// # Errors
    /// Never, for a resource that went through `decode`.
    pub fn message(&self) -> Result<DynamicMessage, String> {
        let descriptor = descriptor_pool()
            .get_message_by_name(self.key.kind.message())
            .ok_or_else(|| format!("{} is not in the pinned descriptors", self.key.kind.message()))?;
        DynamicMessage::decode(descriptor, self.body.clone()).map_err(|error| error.to_string())
    }

    /// The message as canonical proto3 JSON with its `@type`, as REST-JSON has it. Made once, when first asked for.
    pub fn json(&self) -> Option<&Bytes> {
        let make = || {
            let Value::Object(fields) = serde_json::to_value(self.message().ok()?).ok()? else { return None };
            let mut typed = serde_json::Map::with_capacity(fields.len() + 1);
            typed.insert("@type".into(), Value::String(self.key.kind.url().to_owned()));
            typed.extend(fields);
            Some(serde_json::to_vec(&typed).ok()?.into())
        };
        self.json.get_or_init(make).as_ref()
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the body: secrets are resources too.
        write!(f, "{}@{}", self.key, self.version)
    }
}

/// A shared resource, as the bookkeeping of streams sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shared(pub Arc<Resource>);

impl std::ops::Deref for Shared {
    type Target = Resource;
    fn deref(&self) -> &Resource {
        &self.0
    }
}

impl Item for Shared {
    fn name(&self) -> &Name {
        &self.0.key.name
    }
    fn version(&self) -> &Version {
        &self.0.version
    }
    fn bytes(&self) -> usize {
        self.0.body.len()
    }
    fn aliases(&self) -> &[Name] {
        &self.0.aliases
    }
}
