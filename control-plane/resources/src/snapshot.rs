//! Everything that a group of nodes should run, at one moment.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use api::{ResourceType, Role};
use model::InstanceId;

use crate::{Key, Resource};

/// An immutable set of resources. Snapshots share the resources that did not change.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    generation: u64,
    resources: BTreeMap<ResourceType, BTreeMap<String, Arc<Resource>>>,
    bundles: BTreeMap<InstanceId, Bundle>,
    log: VecDeque<(u64, Arc<[Key]>)>,
}

/// What one service consists of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bundle {
    /// The revision that its routes name.
    pub rev: u64,
    /// Its resources, in the order of pushes.
    pub resources: Vec<Arc<Resource>>,
}

/// Two owners made a resource of one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: the name is taken by {}", .taken_by.as_ref().map_or("the edge", InstanceId::as_str))]
pub struct DuplicateName {
    /// Which.
    pub key: Key,
    /// Who had it first.
    pub taken_by: Option<InstanceId>,
}

/// A stream that is further behind compares everything.
const MAX_LOG: usize = 64;

impl Snapshot {
    /// The next snapshot: these resources of the edge, and these services. A service whose resource has a
    /// taken name is left out, and told.
    #[must_use]
    pub fn next(
        &self,
        edge: &[Arc<Resource>],
        services: &BTreeMap<InstanceId, Bundle>,
    ) -> (Self, Vec<(InstanceId, DuplicateName)>) {
        let mut next = Self { generation: self.generation + 1, log: self.log.clone(), ..Self::default() };
        for resource in edge {
            next.resources
                .entry(resource.key.kind)
                .or_default()
                .insert(resource.key.name.clone(), resource.clone());
        }
        let mut refused = Vec::new();
        for (id, bundle) in services {
            match next.taken(bundle) {
                Some(duplicate) => refused.push((id.clone(), duplicate)),
                None => next.add(id, bundle),
            }
        }
        next.log.push_back((next.generation, next.difference(self).into()));
        while next.log.len() > MAX_LOG {
            next.log.pop_front();
        }
        (next, refused)
    }

    fn taken(&self, bundle: &Bundle) -> Option<DuplicateName> {
        bundle.resources.iter().find_map(|resource| {
            let taken_by = self.get(&resource.key)?.owner.clone();
            Some(DuplicateName { key: resource.key.clone(), taken_by })
        })
    }

    fn add(&mut self, id: &InstanceId, bundle: &Bundle) {
        for resource in &bundle.resources {
            self.resources
                .entry(resource.key.kind)
                .or_default()
                .insert(resource.key.name.clone(), resource.clone());
        }
        self.bundles.insert(id.clone(), bundle.clone());
    }

    fn difference(&self, before: &Self) -> Vec<Key> {
        let mut changed = Vec::new();
        for kind in ResourceType::ALL {
            let (old, new) = (before.of_kind(kind), self.of_kind(kind));
            let differs = |(name, resource): &(&String, &Arc<Resource>)| {
                old.and_then(|old| old.get(*name)).is_none_or(|before| before.version != resource.version)
            };
            let removed = |name: &&String| new.is_none_or(|new| !new.contains_key(*name));
            let added = new.into_iter().flatten().filter(differs).map(|(name, _)| name);
            let gone = old.into_iter().flat_map(BTreeMap::keys).filter(removed);
            changed.extend(added.chain(gone).map(|name| Key { kind, name: name.clone() }));
        }
        changed
    }

    fn of_kind(&self, kind: ResourceType) -> Option<&BTreeMap<String, Arc<Resource>>> {
        self.resources.get(&kind)
    }

    /// Counts up from 1; 0 is the empty one before the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What changed after this generation; `None` when that is too long ago to know.
    pub fn changed_since(&self, generation: u64) -> Option<impl Iterator<Item = &Key>> {
        let known = generation >= self.generation
            || self.log.front().is_some_and(|(first, _)| *first <= generation + 1);
        known.then(|| {
            self.log.iter().filter(move |(at, _)| *at > generation).flat_map(|(_, keys)| keys.iter())
        })
    }

    /// One resource.
    pub fn get(&self, key: &Key) -> Option<&Arc<Resource>> {
        self.of_kind(key.kind)?.get(&key.name)
    }

    /// One resource, by parts.
    pub fn find(&self, kind: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.of_kind(kind)?.get(name)
    }

    /// All resources of a type, by name.
    pub fn all(&self, kind: ResourceType) -> impl Iterator<Item = &Arc<Resource>> {
        self.of_kind(kind).into_iter().flat_map(BTreeMap::values)
    }

    /// What a service consists of.
    pub fn bundle(&self, id: &InstanceId) -> Option<&Bundle> {
        self.bundles.get(id)
    }

    /// All services.
    pub fn bundles(&self) -> &BTreeMap<InstanceId, Bundle> {
        &self.bundles
    }
}

impl Bundle {
    /// What must be acknowledged before a route of this service may be used: its policies by the sidecars, its
    /// clusters and endpoints by Envoy.
    pub fn needed_by_routes(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter().filter(|resource| match resource.key.kind {
            ResourceType::Cluster | ResourceType::Endpoints => true,
            kind => kind.role() != Role::Envoy,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(kind: ResourceType, name: &str, version: &str, owner: Option<&str>) -> Arc<Resource> {
        Arc::new(Resource {
            key: Key { kind, name: name.into() },
            owner: owner.map(|owner| owner.parse().unwrap()),
            version: version.into(),
            body: Vec::new().into(),
        })
    }

    fn service(id: &str, version: &str) -> (InstanceId, Bundle) {
        let cluster = resource(ResourceType::Cluster, &format!("{id}/0"), version, Some(id));
        let host = resource(ResourceType::VirtualHost, &format!("edge/{id}"), version, Some(id));
        (id.parse().unwrap(), Bundle { rev: 1, resources: vec![cluster, host] })
    }

    fn names(snapshot: &Snapshot, generation: u64) -> Option<Vec<String>> {
        snapshot.changed_since(generation).map(|keys| keys.map(ToString::to_string).collect())
    }

    #[test]
    fn one_changed_service_changes_only_its_own_resources() {
        let edge = [resource(ResourceType::Listener, "http", "1", None)];
        let (first, _) =
            Snapshot::default().next(&edge, &BTreeMap::from([service("a", "1"), service("b", "1")]));
        let (second, _) = first.next(&edge, &BTreeMap::from([service("a", "2"), service("b", "1")]));
        assert_eq!(names(&second, first.generation()).unwrap(), ["clusters a/0", "virtual_hosts edge/a"]);
        let (third, _) = second.next(&edge, &BTreeMap::from([service("a", "2")]));
        assert_eq!(names(&third, second.generation()).unwrap(), ["clusters b/0", "virtual_hosts edge/b"]);
        assert_eq!(names(&third, first.generation()).unwrap().len(), 4);
        assert_eq!(names(&third, third.generation()).unwrap().len(), 0);
    }

    #[test]
    fn a_stream_that_is_far_behind_is_told_so() {
        let mut snapshot = Snapshot::default();
        for _ in 0..=MAX_LOG {
            snapshot = snapshot.next(&[], &BTreeMap::new()).0;
        }
        assert!(snapshot.changed_since(0).is_none());
        assert!(snapshot.changed_since(1).is_some());
    }

    #[test]
    fn a_service_with_a_taken_name_stays_out_alone() {
        let (a, mut b) = (service("a", "1"), service("b", "1"));
        b.1.resources.push(resource(ResourceType::Cluster, "a/0", "9", Some("b")));
        let (snapshot, refused) = Snapshot::default().next(&[], &BTreeMap::from([a, b]));
        assert_eq!(refused[0].1.to_string(), "clusters a/0: the name is taken by a");
        assert_eq!(snapshot.bundles().len(), 1);
        assert!(snapshot.find(ResourceType::VirtualHost, "edge/b").is_none());
    }
}
