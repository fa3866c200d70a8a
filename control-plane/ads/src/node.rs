//! One node of the fleet: what its Envoy and its sidecars have acknowledged, each on a stream of its own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use api::{ResourceType, Role};
use model::InstanceId;
use resources::{Bundle, Key, Resource, Snapshot};
use tokio::sync::watch;
use xds::delta::{Refused, Version};

/// A node, shared by its streams.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) group: String,
    roles: Mutex<HashMap<Role, RoleState>>,
    /// Counts up whenever a stream of the node acknowledged something.
    changes: watch::Sender<u64>,
}

/// What one process on the node runs. Stays when its stream ends: the process goes on with it.
#[derive(Debug, Default, Clone)]
pub(crate) struct RoleState {
    /// The stream that this was learned from; `None` while there is none.
    pub(crate) stream: Option<u64>,
    /// Types that this stream has asked for: of the others it is not known yet what the process holds.
    pub(crate) heard: BTreeSet<ResourceType>,
    pub(crate) held: BTreeMap<Key, Version>,
    pub(crate) refused: BTreeMap<Key, Refused>,
}

impl Node {
    pub(crate) fn new(id: &str, group: &str) -> Self {
        Self {
            id: id.to_owned(),
            group: group.to_owned(),
            roles: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    pub(crate) fn roles(&self) -> MutexGuard<'_, HashMap<Role, RoleState>> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A new stream speaks for a role: what an earlier one said is told anew.
    pub(crate) fn begin(&self, role: Role, stream: u64) {
        self.roles().insert(role, RoleState { stream: Some(stream), ..RoleState::default() });
        self.wake();
    }

    /// Changes what is known of a role, if this stream still speaks for it, and wakes the node's streams.
    pub(crate) fn record(&self, role: Role, stream: u64, change: impl FnOnce(&mut RoleState)) {
        if let Some(state) = self.roles().get_mut(&role).filter(|state| state.stream == Some(stream)) {
            change(state);
        }
        self.wake();
    }

    fn wake(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Whether Envoy is connected: only such a node serves, and counts.
    pub(crate) fn is_connected(&self) -> bool {
        self.roles().get(&Role::Envoy).is_some_and(|envoy| envoy.stream.is_some())
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.roles().values().all(|role| role.stream.is_none())
    }

    /// What of a service's resources this node still lacks before it may get the routes.
    pub(crate) fn missing_for_routes(
        &self,
        bundle: &Bundle,
        snapshot: &Snapshot,
        sidecars: &[Role],
    ) -> Option<String> {
        let roles = self.roles();
        let runs = |role: Role| role == Role::Envoy || sidecars.contains(&role);
        let lacking = bundle
            .needed_by_routes()
            .filter(|needed| runs(needed.key.kind.role()))
            .find(|needed| !holds(&roles, needed));
        if let Some(needed) = lacking {
            return Some(format!("{} of {} to acknowledge {}", needed.key.kind.role(), self.id, needed.key));
        }
        // Any version of a key set will do, even a refused one: it must not hold back every route.
        let has_keys = |set: &&std::sync::Arc<Resource>| {
            roles.get(&Role::Authn).is_some_and(|authn| {
                authn.held.contains_key(&set.key) || authn.refused.contains_key(&set.key)
            })
        };
        let mut key_sets = snapshot.all(ResourceType::AuthnKeySet);
        let keyless = key_sets.find(|set| sidecars.contains(&Role::Authn) && !has_keys(set))?;
        Some(format!("authn of {} to acknowledge {}", self.id, keyless.key))
    }

    /// Whether Envoy's routes of a service are what they should be (also: none). Before that, nothing that an
    /// older route could still name may be taken away.
    pub(crate) fn routes_are_settled(&self, owner: &str, snapshot: &Snapshot) -> bool {
        let roles = self.roles();
        let Some(envoy) =
            roles.get(&Role::Envoy).filter(|envoy| envoy.heard.contains(&ResourceType::VirtualHost))
        else {
            return false;
        };
        let key = Key { kind: ResourceType::VirtualHost, name: format!("{}/{owner}", self.group) };
        envoy.held.get(&key) == snapshot.get(&key).map(|wanted| &wanted.version)
    }

    /// Whether everything of a service is acknowledged; the error says what is not.
    pub(crate) fn acknowledged(&self, bundle: &Bundle, sidecars: &[Role]) -> Result<(), String> {
        let roles = self.roles();
        let counts = |resource: &&std::sync::Arc<Resource>| match resource.key.kind {
            // Envoy asks for a secret when a client does.
            ResourceType::Secret => false,
            kind => kind.role() == Role::Envoy || sidecars.contains(&kind.role()),
        };
        match bundle.resources.iter().filter(counts).find(|wanted| !holds(&roles, wanted)) {
            None => Ok(()),
            Some(wanted) => {
                Err(format!("{} of {} to acknowledge {}", wanted.key.kind.role(), self.id, wanted.key))
            }
        }
    }

    /// Whether nothing of a service is left on the node; the error says what is, or who has not told yet.
    pub(crate) fn removed(&self, owner: &InstanceId, sidecars: &[Role]) -> Result<(), String> {
        let roles = self.roles();
        for role in sidecars.iter().chain([&Role::Envoy]) {
            let last = match role {
                Role::Envoy => ResourceType::VirtualHost,
                Role::Authn => ResourceType::AuthnPolicy,
                Role::Authz => ResourceType::AuthzPolicy,
                Role::Ratelimit => ResourceType::RateLimitConfig,
            };
            let Some(state) = roles.get(role).filter(|state| state.heard.contains(&last)) else {
                return Err(format!("{role} of {} to say what it holds", self.id));
            };
            if let Some(key) = state.held.keys().find(|key| owner_of(key) == owner.as_str()) {
                return Err(format!("{role} of {} to give up {key}", self.id));
            }
        }
        Ok(())
    }

    /// Why this node refused what it was sent of a service.
    pub(crate) fn refusal(&self, bundle: &Bundle) -> Option<String> {
        let roles = self.roles();
        bundle.resources.iter().find_map(|resource| {
            let (role, state) = roles.get_key_value(&resource.key.kind.role())?;
            let refused =
                state.refused.get(&resource.key).filter(|refused| refused.version == resource.version)?;
            Some(format!("{role} of {} refused {}: {}", self.id, resource.key, refused.message))
        })
    }
}

fn holds(roles: &HashMap<Role, RoleState>, resource: &Resource) -> bool {
    let state = roles.get(&resource.key.kind.role());
    state.and_then(|state| state.held.get(&resource.key)).is_some_and(|held| *held == resource.version)
}

/// The instance id in a resource's name: `<id>`, `<id>/…`, `<id>@…`; for virtual hosts `<group>/<id>`.
/// Resources of the edge have no such name, and yield something that is no service.
pub(crate) fn owner_of(key: &Key) -> &str {
    let name = key.name.as_str();
    match key.kind {
        ResourceType::VirtualHost => name.split_once('/').map_or(name, |(_, id)| id),
        _ => name.split(['/', '@']).next().unwrap_or(name),
    }
}
