//! All resources of one type at one moment.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use api::ResourceType;
use bytes::{BufMut as _, Bytes, BytesMut};
use foldhash::fast::RandomState;
use imbl::{GenericHashMap, OrdMap, shared_ptr::DefaultSharedPtr};
use xds::stream::{Desired, Digest, Name, Version};

use crate::{Resource, hash, resource::Shared};

/// An immutable set of resources of one type. Cheap to clone; a changed one shares what did not change.
#[derive(Clone, Default)]
pub struct Table(Arc<Content>);

type Index = GenericHashMap<Name, Shared, RandomState, DefaultSharedPtr>;

#[derive(Default)]
struct Content {
    /// For whoever goes through all of them.
    ordered: OrdMap<Name, Shared>,
    /// For whoever looks for one: names of one service share long beginnings, and a stream asks many times.
    by_name: Index,
    by_alias: Index,
    mortal: OrdMap<Name, Shared>,
    version: OnceLock<Version>,
    digest: OnceLock<Digest>,
    response: OnceLock<Bytes>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.ordered.values()).finish()
    }
}

impl FromIterator<Arc<Resource>> for Table {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(resources: I) -> Self {
        let mut edit = Self::default().edit();
        resources.into_iter().for_each(|resource| edit.insert(resource));
        edit.done()
    }
}

impl Table {
    /// The same set, to be changed.
    pub fn edit(&self) -> Edit {
        Edit {
            ordered: self.0.ordered.clone(),
            by_name: self.0.by_name.clone(),
            by_alias: self.0.by_alias.clone(),
            mortal: self.0.mortal.clone(),
        }
    }

    /// Whether both are one and the same.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The resource of this name.
    pub fn find(&self, name: &str) -> Option<&Arc<Resource>> {
        self.0.by_name.get(name).map(|shared| &shared.0)
    }

    /// All, in the order of names.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.0.ordered.values().map(|shared| &shared.0)
    }

    /// The resources whose names begin so, in the order of names.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<Resource>> {
        let from =
            self.0.ordered.range::<_, str>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.take_while(move |(name, _)| name.starts_with(prefix)).map(|(_, shared)| &shared.0)
    }

    /// Whether any has a time to live.
    pub fn has_mortal(&self) -> bool {
        !self.0.mortal.is_empty()
    }

    /// Those that have a time to live.
    pub fn mortal(&self) -> impl Iterator<Item = &Shared> {
        self.0.mortal.values()
    }

    /// A `DiscoveryResponse` with all of them, as canonical proto3 JSON. Made once, when first asked for.
    pub fn response(&self, kind: ResourceType) -> Bytes {
        let make = || response_of(kind, &self.version(), self.resources());
        self.0.response.get_or_init(make).clone()
    }
}

/// A `DiscoveryResponse` as canonical proto3 JSON.
pub fn response_of<'a>(
    kind: ResourceType,
    version: &str,
    resources: impl Iterator<Item = &'a Arc<Resource>>,
) -> Bytes {
    let head = format!(r#"{{"versionInfo":"{version}","typeUrl":"{}","resources":["#, kind.url());
    let mut array = BytesMut::from(head.as_bytes());
    for (at, json) in resources.filter_map(|resource| resource.json()).enumerate() {
        if at > 0 {
            array.put_u8(b',');
        }
        array.extend_from_slice(json);
    }
    array.put_slice(b"]}");
    array.freeze()
}

/// The version of a set of resources.
pub fn version_of<'a>(resources: impl Iterator<Item = &'a Arc<Resource>>) -> Version {
    hash::of_set(resources.map(|resource| (&*resource.key.name, &*resource.version)))
}

impl Desired for Table {
    type Item = Shared;
    fn get(&self, name: &str) -> Option<&Shared> {
        self.0.by_name.get(name)
    }
    fn by_alias(&self, alias: &str) -> Option<&Shared> {
        self.0.by_alias.get(alias)
    }
    fn iter(&self) -> impl Iterator<Item = &Shared> {
        self.0.ordered.values()
    }
    fn len(&self) -> usize {
        self.0.by_name.len()
    }
    fn version(&self) -> Version {
        self.0.version.get_or_init(|| version_of(self.resources())).clone()
    }
    fn digest(&self) -> Digest {
        let versions = || self.resources().map(|resource| (&*resource.key.name, &*resource.version));
        *self.0.digest.get_or_init(|| Digest::of_versions(versions()))
    }
}

/// A set that is being changed.
pub struct Edit {
    ordered: OrdMap<Name, Shared>,
    by_name: Index,
    by_alias: Index,
    mortal: OrdMap<Name, Shared>,
}

impl Edit {
    /// The resource of this name.
    pub fn find(&self, name: &str) -> Option<&Arc<Resource>> {
        self.by_name.get(name).map(|shared| &shared.0)
    }

    /// The resource that has this as another name.
    pub fn by_alias(&self, alias: &str) -> Option<&Shared> {
        self.by_alias.get(alias)
    }

    /// Adds or replaces.
    pub fn insert(&mut self, resource: Arc<Resource>) {
        self.remove(&resource.key.name.clone());
        let shared = Shared(resource);
        for alias in &shared.aliases {
            self.by_alias.insert(alias.clone(), shared.clone());
        }
        if shared.ttl.is_some() {
            self.mortal.insert(shared.key.name.clone(), shared.clone());
        }
        self.ordered.insert(shared.key.name.clone(), shared.clone());
        self.by_name.insert(shared.key.name.clone(), shared);
    }

    /// Takes out.
    pub fn remove(&mut self, name: &str) {
        let Some(gone) = self.by_name.remove(name) else { return };
        self.ordered.remove(name);
        self.mortal.remove(name);
        for alias in &gone.aliases {
            // Another one may have it by now.
            if self.by_alias.get(alias).is_some_and(|owner| owner.key == gone.key) {
                self.by_alias.remove(alias);
            }
        }
    }

    /// The changed set.
    pub fn done(self) -> Table {
        Table(Arc::new(Content {
            ordered: self.ordered,
            by_name: self.by_name,
            by_alias: self.by_alias,
            mortal: self.mortal,
            version: OnceLock::new(),
            digest: OnceLock::new(),
            response: OnceLock::new(),
        }))
    }
}
