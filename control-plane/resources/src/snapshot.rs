//! Everything that a group of nodes should run, at one moment.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, OnceLock},
};

use api::{ResourceType, Role};
use imbl::{OrdMap, OrdSet};
use model::InstanceId;
use xds::stream::{Desired as _, Name};

use crate::{Edit, Key, Reference, Resource, Table, compose};

/// An immutable set of resources. Snapshots share the resources that did not change: the next one costs what
/// changed, not what there is.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Shared by those that follow one another.
    lineage: Arc<()>,
    generation: u64,
    tables: Tables,
    bundles: OrdMap<InstanceId, Arc<Bundle>>,
    /// What services name of others, and who does: empty, unless the templates share resources between services.
    outward: OrdMap<Key, OrdSet<InstanceId>>,
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

/// Why resources do not fit those that others own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Two owners made a resource of one name.
    #[error("{key}: the name is taken by {}", owner(.by.as_ref()))]
    Name {
        /// Which.
        key: Key,
        /// Who had it first.
        by: Option<InstanceId>,
    },
    /// Two virtual hosts of one route configuration have a domain in common, for which Envoy refuses both.
    #[error("{key}: {alias:?}, a domain of this route configuration, is taken by {}", owner(.by.as_ref()))]
    Domain {
        /// The virtual host.
        key: Key,
        /// `<route configuration>/<domain>`
        alias: Name,
        /// Whose virtual host had it first.
        by: Option<InstanceId>,
    },
    /// A resource names another one that is neither served nor in the nodes' bootstrap.
    #[error("{from}: {path}: names {to}, which is neither served nor in the nodes' bootstrap")]
    Dangling {
        /// Which.
        from: Key,
        /// The field that names it.
        path: String,
        /// What is missing.
        to: Key,
    },
}

fn owner(id: Option<&InstanceId>) -> &str {
    id.map_or("the edge", InstanceId::as_str)
}

/// The next snapshot, and what did not become part of it.
#[derive(Debug)]
pub struct Next {
    /// Without the services in `refused`.
    pub snapshot: Snapshot,
    /// Services that were left out.
    pub refused: Vec<(InstanceId, Conflict)>,
    /// Services that stay as they are, though what they name is gone.
    pub bereft: Vec<(InstanceId, Conflict)>,
}

/// A stream that is further behind compares everything.
const MAX_LOG: usize = 64;

impl Snapshot {
    /// The next snapshot: with these services changed (or gone), and with other resources of the edge if there
    /// are some. A service that does not fit is left out, and told.
    ///
    /// # Errors
    /// When the edge itself names something that is not there, or other than before would no longer serve what a
    /// service names: then there is no next snapshot.
    pub fn next(
        &self,
        edge: Option<&[Arc<Resource>]>,
        services: &BTreeMap<InstanceId, Option<Arc<Bundle>>>,
    ) -> Result<Next, Conflict> {
        let mut draft = Draft::of(self);
        if let Some(edge) = edge {
            // What the edge needs it gets: so the services come after it, all of them.
            draft.clear();
            for resource in edge {
                draft.check_domains(resource)?;
                draft.insert(resource);
            }
        }
        for id in services.keys() {
            draft.take_out(id);
        }
        let mut refused = Vec::new();
        let unchanged = self.bundles.iter().filter(|(id, _)| edge.is_some() && !services.contains_key(id));
        let changed = services.iter().filter_map(|(id, bundle)| Some((id, bundle.as_ref()?)));
        for (id, bundle) in unchanged.chain(changed.clone()) {
            if let Err(conflict) = draft.add(id, bundle) {
                refused.push((id.clone(), conflict));
            }
        }
        // What is the same as before was checked before.
        let is_new = |(id, bundle): &(&InstanceId, &Arc<Bundle>)| self.bundles.get(*id) != Some(*bundle);
        let dangling: Vec<_> = changed
            .filter(is_new)
            .filter_map(|(id, bundle)| Some((id.clone(), draft.dangling(&bundle.resources)?)))
            .filter(|(id, _)| draft.bundles.contains_key(id))
            .collect();
        for (id, conflict) in dangling {
            draft.take_out(&id);
            refused.push((id, conflict));
        }
        if let Some(conflict) = edge.and_then(|edge| draft.dangling(edge)) {
            return Err(conflict);
        }
        let bereft = draft.bereft(self);
        if edge.is_some()
            && let Some((_, conflict)) = bereft.first()
        {
            return Err(conflict.clone());
        }
        Ok(Next { snapshot: draft.done(self), refused, bereft })
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
    outward: OrdMap<Key, OrdSet<InstanceId>>,
    touched: BTreeSet<Key>,
}

impl Draft {
    fn of(snapshot: &Snapshot) -> Self {
        Self {
            tables: snapshot.tables.clone(),
            edits: Default::default(),
            bundles: snapshot.bundles.clone(),
            outward: snapshot.outward.clone(),
            touched: BTreeSet::new(),
        }
    }

    fn clear(&mut self) {
        for table in &self.tables {
            self.touched.extend(table.resources().map(|resource| resource.key.clone()));
        }
        (self.tables, self.edits) = Default::default();
        self.bundles = OrdMap::new();
        self.outward = OrdMap::new();
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
        for (_, reference) in bundle.outward() {
            if let Some(owners) = self.outward.get_mut(&reference.to) {
                owners.remove(id);
                if owners.is_empty() {
                    self.outward.remove(&reference.to);
                }
            }
        }
    }

    fn add(&mut self, id: &InstanceId, bundle: &Arc<Bundle>) -> Result<(), Conflict> {
        for resource in &bundle.resources {
            if let Some(other) = self.find(&resource.key) {
                return Err(Conflict::Name { key: resource.key.clone(), by: other.owner.clone() });
            }
            self.check_domains(resource)?;
        }
        bundle.resources.iter().for_each(|resource| self.insert(resource));
        for (_, reference) in bundle.outward() {
            self.outward.entry(reference.to.clone()).or_default().insert(id.clone());
        }
        self.bundles.insert(id.clone(), bundle.clone());
        Ok(())
    }

    /// Aliases of virtual hosts are their domains.
    fn check_domains(&self, host: &Resource) -> Result<(), Conflict> {
        let at = host.key.kind as usize;
        for alias in &host.aliases {
            let other = match &self.edits[at] {
                Some(edit) => edit.by_alias(alias),
                None => self.tables[at].by_alias(alias),
            };
            let other = other.map(|other| &other.0).filter(|other| other.key != host.key);
            if let Some(other) = other.or_else(|| self.routes_with(alias)) {
                let (key, alias) = (host.key.clone(), alias.clone());
                return Err(Conflict::Domain { key, alias, by: other.owner.clone() });
            }
        }
        Ok(())
    }

    /// The route configuration that itself holds the domain of a virtual host.
    fn routes_with(&self, alias: &Name) -> Option<&Arc<Resource>> {
        let (name, _) = alias.rsplit_once('/')?;
        let routes = self.find(&Key { kind: ResourceType::RouteConfig, name: name.into() })?;
        routes.domains.contains(alias).then_some(routes)
    }

    /// The first name that nothing has.
    fn dangling(&self, resources: &[Arc<Resource>]) -> Option<Conflict> {
        resources.iter().find_map(|resource| {
            let mut missing =
                resource.references.iter().filter(|reference| self.find(&reference.to).is_none());
            missing.next().map(|reference| dangling(resource, reference))
        })
    }

    /// Services that name what was there before and is not any more.
    fn bereft(&self, before: &Snapshot) -> Vec<(InstanceId, Conflict)> {
        if self.outward.is_empty() {
            return Vec::new();
        }
        let gone = self.touched.iter().filter(|key| self.find(key).is_none() && before.get(key).is_some());
        let owners = gone.filter_map(|key| self.outward.get(key)).flatten();
        let conflict = |id: &InstanceId| Some((id.clone(), self.dangling(&self.bundles.get(id)?.resources)?));
        owners.filter_map(conflict).collect()
    }

    fn done(self, before: &Snapshot) -> Snapshot {
        let Self { mut tables, edits, bundles, outward, touched } = self;
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
            outward,
            log,
            composed: OnceLock::new(),
        }
    }
}

fn dangling(resource: &Resource, reference: &Reference) -> Conflict {
    Conflict::Dangling { from: resource.key.clone(), path: reference.path.clone(), to: reference.to.clone() }
}

impl Bundle {
    /// What its resources name that is none of them.
    fn outward(&self) -> impl Iterator<Item = (&Arc<Resource>, &Reference)> {
        let names = self
            .resources
            .iter()
            .flat_map(|resource| resource.references.iter().map(move |reference| (resource, reference)));
        names.filter(|(_, reference)| !self.resources.iter().any(|own| own.key == reference.to))
    }

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

    fn next(
        before: &Snapshot,
        edge: Option<&[Arc<Resource>]>,
        services: &BTreeMap<InstanceId, Option<Arc<Bundle>>>,
    ) -> Next {
        before.next(edge, services).unwrap()
    }

    fn names(snapshot: &Snapshot, before: &Snapshot) -> Option<Vec<String>> {
        snapshot.changed_since(before).map(|keys| keys.map(ToString::to_string).collect())
    }

    #[test]
    fn one_changed_service_changes_only_its_own_resources() {
        let edge = [resource(ResourceType::Listener, "http", "1", None)];
        let both = BTreeMap::from([service("a", "1"), service("b", "1")]);
        let first = next(&Snapshot::default(), Some(&edge), &both).snapshot;
        let second = next(&first, None, &BTreeMap::from([service("a", "2")])).snapshot;
        assert_eq!(names(&second, &first).unwrap(), ["clusters a/0", "virtual_hosts edge/a"]);
        let third = next(&second, None, &BTreeMap::from([gone("b")])).snapshot;
        assert_eq!(names(&third, &second).unwrap(), ["clusters b/0", "virtual_hosts edge/b"]);
        assert_eq!(names(&third, &first).unwrap().len(), 4);
        assert_eq!(names(&third, &third).unwrap().len(), 0);
        assert!(third.table(ResourceType::Listener).is_same(first.table(ResourceType::Listener)));
    }

    #[test]
    fn another_edge_leaves_the_services_as_they_are() {
        let first = next(&Snapshot::default(), Some(&[]), &BTreeMap::from([service("a", "1")])).snapshot;
        let edge = [resource(ResourceType::Listener, "http", "1", None)];
        let second = next(&first, Some(&edge), &BTreeMap::new());
        assert_eq!(names(&second.snapshot, &first).unwrap(), ["listeners http"]);
        assert_eq!(second.refused, []);
        assert_eq!(second.snapshot.bundles().len(), 1);
    }

    #[test]
    fn a_stream_that_is_far_behind_is_told_so() {
        let none = BTreeMap::new();
        let first = Snapshot::default();
        let second = next(&first, None, &none).snapshot;
        let last = (0..MAX_LOG).fold(second.clone(), |snapshot, _| next(&snapshot, None, &none).snapshot);
        assert!(last.changed_since(&first).is_none());
        assert!(last.changed_since(&second).is_some());
        let other = next(&Snapshot::default(), None, &none).snapshot;
        assert!(last.changed_since(&other).is_none(), "it is none of its line");
    }

    #[test]
    fn a_service_with_a_taken_name_stays_out_alone() {
        let (a, b) = (service("a", "1"), service("b", "1"));
        let mut greedy = Bundle::clone(b.1.as_ref().unwrap());
        greedy.resources.push(resource(ResourceType::Cluster, "a/0", "9", Some("b")));
        let services = BTreeMap::from([a, (b.0, Some(Arc::new(greedy)))]);
        let Next { snapshot, refused, .. } = next(&Snapshot::default(), Some(&[]), &services);
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
        let first = next(&Snapshot::default(), None, &BTreeMap::from([owning("b", "x.test")])).snapshot;
        let both = BTreeMap::from([owning("a", "x.test"), owning("b", "y.test")]);
        let Next { snapshot, refused, .. } = next(&first, None, &both);
        assert_eq!((snapshot.table(ResourceType::Secret).resources().count(), refused), (2, vec![]));
    }

    /// A virtual host of a route configuration `edge`, with this domain, that goes to this cluster.
    fn host(id: &str, domain: &str, cluster: &str) -> (InstanceId, Option<Arc<Bundle>>) {
        let mut host =
            Resource::clone(&resource(ResourceType::VirtualHost, &format!("edge/{id}"), cluster, Some(id)));
        host.aliases = vec![format!("edge/{domain}").into()];
        let to = Key { kind: ResourceType::Cluster, name: cluster.into() };
        host.references = vec![Reference { to, path: "routes[0].route.cluster".into() }];
        (id.parse().unwrap(), Some(Arc::new(Bundle { rev: 1, resources: vec![Arc::new(host)] })))
    }

    fn told(conflicts: &[(InstanceId, Conflict)]) -> Vec<String> {
        conflicts.iter().map(|(id, conflict)| format!("{id}: {conflict}")).collect()
    }

    #[test]
    fn a_route_to_a_cluster_that_is_not_there_stays_out_alone() {
        let edge = [resource(ResourceType::Cluster, "shared", "1", None)];
        let services =
            BTreeMap::from([host("a", "a.test", "shared"), host("b", "b.test", "gone"), service("c", "1")]);
        let Next { snapshot, refused, .. } = next(&Snapshot::default(), Some(&edge), &services);
        assert_eq!(
            told(&refused),
            [
                "b: virtual_hosts edge/b: routes[0].route.cluster: names clusters gone, which is neither served nor \
              in the nodes' bootstrap"
            ]
        );
        assert_eq!(snapshot.bundles().len(), 2);
        assert!(snapshot.find(ResourceType::VirtualHost, "edge/b").is_none());
    }

    #[test]
    fn an_edge_that_no_longer_serves_what_a_service_names_is_refused() {
        let edge = [resource(ResourceType::Cluster, "shared", "1", None)];
        let services = BTreeMap::from([host("a", "a.test", "shared")]);
        let first = next(&Snapshot::default(), Some(&edge), &services).snapshot;
        let refused = first.next(Some(&[]), &BTreeMap::new()).unwrap_err();
        assert!(refused.to_string().contains("names clusters shared"), "{refused}");
        assert!(first.next(Some(&[]), &BTreeMap::from([gone("a")])).is_ok());
    }

    #[test]
    fn a_service_that_loses_what_it_names_stays_and_is_told() {
        let services = BTreeMap::from([host("a", "a.test", "b/0"), service("b", "1")]);
        let first = next(&Snapshot::default(), Some(&[]), &services).snapshot;
        let Next { snapshot, refused, bereft } = next(&first, None, &BTreeMap::from([gone("b")]));
        assert_eq!((snapshot.bundles().len(), refused), (1, vec![]));
        assert!(told(&bereft)[0].starts_with("a: virtual_hosts edge/a: routes[0]"), "{bereft:?}");
        let third = next(&snapshot, None, &BTreeMap::from([service("b", "1")]));
        assert_eq!(third.bereft, []);
    }

    #[test]
    fn a_domain_belongs_to_one_virtual_host() {
        let edge = [resource(ResourceType::Cluster, "shared", "1", None)];
        let services = BTreeMap::from([host("a", "a.test", "shared"), host("b", "a.test", "shared")]);
        let Next { snapshot, refused, .. } = next(&Snapshot::default(), Some(&edge), &services);
        assert_eq!(
            told(&refused),
            ["b: virtual_hosts edge/b: \"edge/a.test\", a domain of this route configuration, is taken by a"]
        );
        let moved = BTreeMap::from([gone("a"), host("b", "a.test", "shared")]);
        assert_eq!(next(&snapshot, None, &moved).refused, []);
    }

    #[test]
    fn a_domain_inside_a_route_configuration_is_taken_too() {
        let mut routes = Resource::clone(&resource(ResourceType::RouteConfig, "edge", "1", None));
        routes.domains = vec!["edge/a.test".into()];
        let edge = [Arc::new(routes), resource(ResourceType::Cluster, "shared", "1", None)];
        let services = BTreeMap::from([host("a", "a.test", "shared")]);
        let refused = next(&Snapshot::default(), Some(&edge), &services).refused;
        assert!(told(&refused)[0].ends_with("is taken by the edge"), "{refused:?}");
    }
}
