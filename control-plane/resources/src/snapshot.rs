//! Everything that a group of nodes should run, at one moment.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, OnceLock},
};

use api::{ResourceType, Role};
use imbl::OrdMap;
use model::InstanceId;
use xds::stream::Name;

use crate::{Edit, Key, Resource, Table, compose};

/// An immutable set of resources. Snapshots share the resources that did not change: the next one costs what
/// changed, not what there is.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Shared by those that follow one another.
    lineage: Arc<()>,
    generation: u64,
    tables: Tables,
    bundles: OrdMap<InstanceId, Arc<Bundle>>,
    log: VecDeque<(u64, Arc<[Key]>)>,
    composed: OnceLock<Table>,
}

type Tables = [Table; ResourceType::ALL.len()];

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
    /// The next snapshot: with these services changed (or gone), and with other resources of the edge if there
    /// are some. A service whose resource has a taken name is left out, and told.
    #[must_use]
    pub fn next(
        &self,
        edge: Option<&[Arc<Resource>]>,
        services: &BTreeMap<InstanceId, Option<Arc<Bundle>>>,
    ) -> (Self, Vec<(InstanceId, DuplicateName)>) {
        let mut draft = Draft::of(self);
        if let Some(edge) = edge {
            // What the edge needs it gets: so the services come after it, all of them.
            draft.clear();
            for resource in edge {
                draft.insert(resource);
            }
        }
        for id in services.keys() {
            draft.take_out(id);
        }
        let mut refused = Vec::new();
        let unchanged = self.bundles.iter().filter(|(id, _)| edge.is_some() && !services.contains_key(id));
        let changed = services.iter().filter_map(|(id, bundle)| Some((id, bundle.as_ref()?)));
        for (id, bundle) in unchanged.chain(changed) {
            if let Err(duplicate) = draft.add(id, bundle) {
                refused.push((id.clone(), duplicate));
            }
        }
        (draft.done(self), refused)
    }

    /// Counts up from 1; 0 is the empty one before the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What changed after an earlier one; `None` when that is too long ago to know, or it was not an earlier one.
    pub fn changed_since(&self, before: &Self) -> Option<impl Iterator<Item = &Key>> {
        let generation = before.generation;
        let known = Arc::ptr_eq(&self.lineage, &before.lineage)
            && (generation >= self.generation
                || self.log.front().is_some_and(|(first, _)| *first <= generation + 1));
        known.then(|| {
            self.log.iter().filter(move |(at, _)| *at > generation).flat_map(|(_, keys)| keys.iter())
        })
    }

    /// All resources of a type.
    pub fn table(&self, kind: ResourceType) -> &Table {
        &self.tables[kind as usize]
    }

    /// The route configurations, with the virtual hosts inside: for clients without VHDS. Made once, when first
    /// asked for.
    pub fn composed_routes(&self) -> &Table {
        self.composed.get_or_init(|| {
            compose(self.table(ResourceType::RouteConfig), self.table(ResourceType::VirtualHost))
        })
    }

    /// One resource.
    pub fn get(&self, key: &Key) -> Option<&Arc<Resource>> {
        self.table(key.kind).find(&key.name)
    }

    /// One resource, by parts.
    pub fn find(&self, kind: ResourceType, name: &str) -> Option<&Arc<Resource>> {
        self.table(kind).find(name)
    }

    /// All resources of a type, by name.
    pub fn all(&self, kind: ResourceType) -> impl Iterator<Item = &Arc<Resource>> {
        self.table(kind).resources()
    }

    /// What a service consists of.
    pub fn bundle(&self, id: &InstanceId) -> Option<&Arc<Bundle>> {
        self.bundles.get(id)
    }

    /// All services.
    pub fn bundles(&self) -> &OrdMap<InstanceId, Arc<Bundle>> {
        &self.bundles
    }
}

/// A snapshot in the making.
struct Draft {
    tables: Tables,
    edits: [Option<Edit>; ResourceType::ALL.len()],
    bundles: OrdMap<InstanceId, Arc<Bundle>>,
    touched: BTreeSet<Key>,
}

impl Draft {
    fn of(snapshot: &Snapshot) -> Self {
        Self {
            tables: snapshot.tables.clone(),
            edits: Default::default(),
            bundles: snapshot.bundles.clone(),
            touched: BTreeSet::new(),
        }
    }

    fn clear(&mut self) {
        for table in &self.tables {
            self.touched.extend(table.resources().map(|resource| resource.key.clone()));
        }
        (self.tables, self.edits) = Default::default();
        self.bundles = OrdMap::new();
    }

    fn edit(&mut self, kind: ResourceType) -> &mut Edit {
        let at = kind as usize;
        self.edits[at].get_or_insert_with(|| self.tables[at].edit())
    }

    fn find(&self, key: &Key) -> Option<&Arc<Resource>> {
        match &self.edits[key.kind as usize] {
            Some(edit) => edit.find(&key.name),
            None => self.tables[key.kind as usize].find(&key.name),
        }
    }

    fn insert(&mut self, resource: &Arc<Resource>) {
        self.touched.insert(resource.key.clone());
        self.edit(resource.key.kind).insert(resource.clone());
    }

    fn take_out(&mut self, id: &InstanceId) {
        let Some(bundle) = self.bundles.remove(id) else { return };
        for resource in &bundle.resources {
            self.touched.insert(resource.key.clone());
            self.edit(resource.key.kind).remove(&resource.key.name);
        }
    }

    fn add(&mut self, id: &InstanceId, bundle: &Arc<Bundle>) -> Result<(), DuplicateName> {
        for resource in &bundle.resources {
            if let Some(other) = self.find(&resource.key) {
                return Err(DuplicateName { key: resource.key.clone(), taken_by: other.owner.clone() });
            }
        }
        bundle.resources.iter().for_each(|resource| self.insert(resource));
        self.bundles.insert(id.clone(), bundle.clone());
        Ok(())
    }

    fn done(self, before: &Snapshot) -> Snapshot {
        let Self { mut tables, edits, bundles, touched } = self;
        for (table, edit) in tables.iter_mut().zip(edits) {
            if let Some(edit) = edit {
                *table = edit.done();
            }
        }
        let version = |tables: &Tables, key: &Key| -> Option<Name> {
            tables[key.kind as usize].find(&key.name).map(|resource| resource.version.clone())
        };
        let differs = |key: &Key| version(&before.tables, key) != version(&tables, key);
        let changed: Arc<[Key]> = touched.into_iter().filter(differs).collect();
        let generation = before.generation + 1;
        let mut log = before.log.clone();
        log.push_back((generation, changed));
        while log.len() > MAX_LOG {
            log.pop_front();
        }
        Snapshot {
            lineage: before.lineage.clone(),
            generation,
            tables,
            bundles,
            log,
            composed: OnceLock::new(),
        }
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
        let key = Key { kind, name: name.into() };
        let owner = owner.map(|owner| owner.parse().unwrap());
        Arc::new(Resource::new(key, owner, version.into(), Vec::new().into()))
    }

    fn service(id: &str, version: &str) -> (InstanceId, Option<Arc<Bundle>>) {
        let cluster = resource(ResourceType::Cluster, &format!("{id}/0"), version, Some(id));
        let host = resource(ResourceType::VirtualHost, &format!("edge/{id}"), version, Some(id));
        (id.parse().unwrap(), Some(Arc::new(Bundle { rev: 1, resources: vec![cluster, host] })))
    }

    fn gone(id: &str) -> (InstanceId, Option<Arc<Bundle>>) {
        (id.parse().unwrap(), None)
    }

    fn names(snapshot: &Snapshot, before: &Snapshot) -> Option<Vec<String>> {
        snapshot.changed_since(before).map(|keys| keys.map(ToString::to_string).collect())
    }

    #[test]
    fn one_changed_service_changes_only_its_own_resources() {
        let edge = [resource(ResourceType::Listener, "http", "1", None)];
        let both = BTreeMap::from([service("a", "1"), service("b", "1")]);
        let (first, _) = Snapshot::default().next(Some(&edge), &both);
        let (second, _) = first.next(None, &BTreeMap::from([service("a", "2")]));
        assert_eq!(names(&second, &first).unwrap(), ["clusters a/0", "virtual_hosts edge/a"]);
        let (third, _) = second.next(None, &BTreeMap::from([gone("b")]));
        assert_eq!(names(&third, &second).unwrap(), ["clusters b/0", "virtual_hosts edge/b"]);
        assert_eq!(names(&third, &first).unwrap().len(), 4);
        assert_eq!(names(&third, &third).unwrap().len(), 0);
        assert!(third.table(ResourceType::Listener).is_same(first.table(ResourceType::Listener)));
    }

    #[test]
    fn another_edge_leaves_the_services_as_they_are() {
        let (first, _) = Snapshot::default().next(Some(&[]), &BTreeMap::from([service("a", "1")]));
        let edge = [resource(ResourceType::Listener, "http", "1", None)];
        let (second, refused) = first.next(Some(&edge), &BTreeMap::new());
        assert_eq!((names(&second, &first).unwrap(), refused), (vec!["listeners http".into()], vec![]));
        assert_eq!(second.bundles().len(), 1);
    }

    #[test]
    fn a_stream_that_is_far_behind_is_told_so() {
        let none = BTreeMap::new();
        let first = Snapshot::default();
        let second = first.next(None, &none).0;
        let last = (0..MAX_LOG).fold(second.clone(), |snapshot, _| snapshot.next(None, &none).0);
        assert!(last.changed_since(&first).is_none());
        assert!(last.changed_since(&second).is_some());
        let other = Snapshot::default().next(None, &none).0;
        assert!(last.changed_since(&other).is_none(), "it is none of its line");
    }

    #[test]
    fn a_service_with_a_taken_name_stays_out_alone() {
        let (a, b) = (service("a", "1"), service("b", "1"));
        let mut greedy = Bundle::clone(b.1.as_ref().unwrap());
        greedy.resources.push(resource(ResourceType::Cluster, "a/0", "9", Some("b")));
        let services = BTreeMap::from([a, (b.0, Some(Arc::new(greedy)))]);
        let (snapshot, refused) = Snapshot::default().next(Some(&[]), &services);
        assert_eq!(refused[0].1.to_string(), "clusters a/0: the name is taken by a");
        assert_eq!(snapshot.bundles().len(), 1);
        assert!(snapshot.find(ResourceType::VirtualHost, "edge/b").is_none());
    }

    #[test]
    fn a_name_can_go_from_one_service_to_another_at_once() {
        let owning = |id: &str, name: &str| {
            let host = resource(ResourceType::Secret, name, "1", Some(id));
            (id.parse().unwrap(), Some(Arc::new(Bundle { rev: 1, resources: vec![host] })))
        };
        let (first, _) = Snapshot::default().next(None, &BTreeMap::from([owning("b", "x.test")]));
        let both = BTreeMap::from([owning("a", "x.test"), owning("b", "y.test")]);
        let (second, refused) = first.next(None, &both);
        assert_eq!((second.table(ResourceType::Secret).resources().count(), refused), (2, vec![]));
    }
}
