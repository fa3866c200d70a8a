//! One node of the fleet: what its Envoy and its sidecars hold, as their streams have told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use api::{ResourceType, Role};
use model::InstanceId;
use resources::{Bundle, Key, Resource, Snapshot, Table};
use tokio::{sync::Notify, time::Instant};
use xds::stream::{Refused, TypeStream, Version};

/// A node, shared by its streams.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) group: String,
    state: Mutex<State>,
}

/// What the processes of a node have told. What a stream has told stays when it ends: its process goes on.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The open ones.
    streams: BTreeMap<u64, Speaker>,
    /// By type, as told by the newest stream that carries it.
    types: [Option<Box<Told>>; ResourceType::ALL.len()],
    /// Streams that a newer one has taken the place of, and that are still open: two processes with one id.
    aside: BTreeMap<(u64, ResourceType), Box<Told>>,
    /// Since when listeners or routes wait for clusters to be acknowledged.
    pub(crate) waiting_since: Option<Instant>,
    /// What the node is served.
    pub(crate) snapshot: Arc<Snapshot>,
    /// What was presented on the newest stream of Envoy: its build and version.
    pub(crate) user_agent: String,
}

/// Who speaks on a stream, and how to make it look again.
#[derive(Debug)]
struct Speaker {
    role: Role,
    waker: Arc<Notify>,
}

/// One type, as one stream tells of it.
#[derive(Debug)]
pub(crate) struct Told {
    stream: u64,
    /// Whose stream it is.
    pub(crate) role: Role,
    pub(crate) resources: TypeStream<Table>,
    pub(crate) last_ack: Option<SystemTime>,
    pub(crate) last_nack: Option<(SystemTime, String)>,
}

/// Whether a node with these sidecars gets a type at all.
pub(crate) fn is_followed(kind: ResourceType, sidecars: &[Role]) -> bool {
    kind.role() == Role::Envoy || sidecars.iter().any(|role| role.carries(kind))
}

/// Who on a node with these sidecars has to say about a type.
pub(crate) fn teller(kind: ResourceType, sidecars: &[Role]) -> Role {
    sidecars.iter().copied().find(|role| role.carries(kind)).unwrap_or(kind.role())
}

impl Node {
    pub(crate) fn new(id: &str, group: &str) -> Self {
        Self { id: id.to_owned(), group: group.to_owned(), state: Mutex::default() }
    }

    /// Never held over an await, and never together with another node's.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was acknowledged on a stream: the node's others look again whether something can be sent.
    pub(crate) fn wake_others(&self, stream: u64) {
        let state = self.state();
        let others = state.streams.iter().filter(|(number, _)| **number != stream);
        others.for_each(|(_, speaker)| speaker.waker.notify_one());
    }
}

impl State {
    /// A new stream speaks for a role: what an ended one said is told anew.
    pub(crate) fn begin(&mut self, role: Role, stream: u64, waker: Arc<Notify>) {
        let streams = &self.streams;
        for (kind, told) in ResourceType::ALL.into_iter().zip(&mut self.types) {
            told.take_if(|told| role.carries(kind) && !streams.contains_key(&told.stream));
        }
        self.streams.insert(stream, Speaker { role, waker });
    }

    pub(crate) fn end(&mut self, stream: u64) {
        self.streams.remove(&stream);
        self.aside.retain(|(of, _), _| *of != stream);
    }

    /// Whether a process that gets this type has a stream.
    pub(crate) fn is_followed(&self, kind: ResourceType) -> bool {
        self.streams.values().any(|open| open.role.carries(kind))
    }

    /// Whether the process of this role has a stream.
    pub(crate) fn is_open(&self, role: Role) -> bool {
        self.streams.values().any(|open| open.role == role)
    }

    pub(crate) fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    /// A stream carries a type for the first time.
    pub(crate) fn tell(&mut self, stream: u64, kind: ResourceType, resources: TypeStream<Table>) {
        let role = self.streams.get(&stream).map_or(kind.role(), |speaker| speaker.role);
        let told = Told { stream, role, resources, last_ack: None, last_nack: None };
        if let Some(before) = self.types[kind as usize].replace(Box::new(told))
            && self.streams.contains_key(&before.stream)
        {
            self.aside.insert((before.stream, kind), before);
        }
    }

    /// What a stream has told of a type.
    pub(crate) fn told(&mut self, stream: u64, kind: ResourceType) -> Option<&mut Told> {
        match &mut self.types[kind as usize] {
            Some(told) if told.stream == stream => Some(told),
            _ => self.aside.get_mut(&(stream, kind)).map(Box::as_mut),
        }
    }

    /// Takes it out, to be put back: so that the rest can be read meanwhile.
    pub(crate) fn take(&mut self, stream: u64, kind: ResourceType) -> Option<Box<Told>> {
        let own = self.types[kind as usize].take_if(|told| told.stream == stream);
        own.or_else(|| self.aside.remove(&(stream, kind)))
    }

    pub(crate) fn put_back(&mut self, kind: ResourceType, told: Box<Told>) {
        let place = &mut self.types[kind as usize];
        if place.is_none() {
            *place = Some(told);
        } else {
            self.aside.insert((told.stream, kind), told);
        }
    }

    /// All types that were told of, in the order of pushes.
    pub(crate) fn all_told(&self) -> impl Iterator<Item = (ResourceType, &Told)> {
        let types = ResourceType::ALL.into_iter().zip(&self.types);
        types.filter_map(|(kind, told)| Some((kind, &**told.as_ref()?)))
    }

    /// The same, without when.
    pub(crate) fn types(&self) -> impl Iterator<Item = (ResourceType, &TypeStream<Table>)> {
        self.all_told().map(|(kind, told)| (kind, &told.resources))
    }

    /// What of a type is held, refused and wanted; `None` when nobody has told.
    pub(crate) fn of(&self, kind: ResourceType) -> Option<&TypeStream<Table>> {
        self.types[kind as usize].as_ref().map(|told| &told.resources)
    }

    pub(crate) fn held(&self, key: &Key) -> Option<&Version> {
        self.of(key.kind)?.held(&key.name)
    }

    fn refused(&self, key: &Key) -> Option<&Refused> {
        self.of(key.kind)?.refused().get(&key.name)
    }

    fn holds(&self, resource: &Resource) -> bool {
        self.held(&resource.key) == Some(&resource.version)
    }

    /// What of a service's resources this node still lacks before it may get the routes.
    pub(crate) fn missing_for_routes(
        &self,
        bundle: &Bundle,
        snapshot: &Snapshot,
        sidecars: &[Role],
    ) -> Option<Key> {
        let lacking = bundle.needed_by_routes().filter(|needed| is_followed(needed.key.kind, sidecars)).find(
            |needed| match needed.key.kind {
                // Envoy acknowledges a cluster when it is warm, and so has its endpoints (rule 19): their own ACK is
                // a round trip that tells nothing more. Refused ones are told by it, though.
                ResourceType::Endpoints => self.refused(&needed.key).is_some(),
                _ => !self.holds(needed),
            },
        );
        if let Some(needed) = lacking {
            return Some(needed.key.clone());
        }
        // Any version of a key set will do, even a refused one: it must not hold back every route.
        let is_known = |set: &Resource| self.held(&set.key).is_some() || self.refused(&set.key).is_some();
        let kinds = [ResourceType::AuthnKeySet, ResourceType::AuthnIdentityKey];
        let keys = kinds.into_iter().flat_map(|kind| snapshot.all(kind));
        let mut keys = keys.filter(|set| is_followed(set.key.kind, sidecars));
        keys.find(|set| !is_known(set)).map(|set| set.key.clone())
    }

    /// Whether Envoy's routes of a service are what they should be (also: none). Before that, nothing that an
    /// older route could still name may be taken away.
    pub(crate) fn routes_are_settled(&self, group: &str, owner: &str, snapshot: &Snapshot) -> bool {
        let Some(hosts) = self.of(ResourceType::VirtualHost) else { return false };
        let name = format!("{group}/{owner}");
        let wanted = snapshot.find(ResourceType::VirtualHost, &name).map(|wanted| &wanted.version);
        hosts.held(&name) == wanted
    }

    /// Whether everything of a service is acknowledged; the error says what is not.
    pub(crate) fn acknowledged(&self, bundle: &Bundle, sidecars: &[Role]) -> Result<(), Key> {
        let counts = |resource: &&Arc<Resource>| match resource.key.kind {
            // Envoy asks for a secret when a client does.
            ResourceType::Secret => false,
            kind => is_followed(kind, sidecars),
        };
        match bundle.resources.iter().filter(counts).find(|wanted| !self.holds(wanted)) {
            None => Ok(()),
            Some(wanted) => Err(wanted.key.clone()),
        }
    }

    /// Whether nothing of a service can be reached on the node any more; the error says what can, or who has not told
    /// yet. Clusters stay for a moment longer, for requests that are under way to them.
    pub(crate) fn removed(&self, owner: &InstanceId, sidecars: &[Role]) -> Result<(), String> {
        for role in sidecars.iter().chain([&Role::Envoy]) {
            let mut last = [
                ResourceType::VirtualHost,
                ResourceType::AuthnPolicy,
                ResourceType::AuthzPolicy,
                ResourceType::RateLimitConfig,
            ]
            .into_iter()
            .filter(|kind| role.carries(*kind));
            if last.any(|kind| self.of(kind).is_none()) {
                return Err(format!("{role} to say what it holds"));
            }
            let lingers =
                |kind: ResourceType| matches!(kind, ResourceType::Cluster | ResourceType::Endpoints);
            let of_role = self.types().filter(|(kind, _)| role.carries(*kind) && !lingers(*kind));
            let left = of_role
                .flat_map(|(kind, told)| told.strays().map(move |name| Key { kind, name: name.clone() }));
            if let Some(key) = left.into_iter().find(|key| owner_of(key) == owner.as_str()) {
                return Err(format!("{role} to give up {key}"));
            }
        }
        Ok(())
    }

    /// What this node refused of a service.
    pub(crate) fn refusal(&self, bundle: &Bundle) -> Option<(Key, String)> {
        bundle.resources.iter().find_map(|resource| {
            let refused =
                self.refused(&resource.key).filter(|refused| refused.version == resource.version)?;
            Some((resource.key.clone(), refused.message.clone()))
        })
    }
}

/// The instance id in a resource's name: `<id>`, `<id>/…`, `<id>@…`; for virtual hosts `<group>/<id>`.
/// Resources of the edge have no such name, and yield something that is no service.
pub(crate) fn owner_of(key: &Key) -> &str {
    let name = &*key.name;
    match key.kind {
        ResourceType::VirtualHost => name.split_once('/').map_or(name, |(_, id)| id),
        _ => name.split(['/', '@']).next().unwrap_or(name),
    }
}
