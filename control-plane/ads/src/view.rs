//! What operators see of a node.

use std::{collections::BTreeMap, time::SystemTime};

use api::{ResourceType, Role};
use serde::Serialize;
use xds::stream::{Desired as _, Item as _};

use crate::node::{Node, Told};

/// A node, for operators.
#[derive(Debug, Clone, Serialize)]
pub struct NodeView {
    /// `<group>/<instance>`
    pub node: String,
    /// Its group.
    pub group: String,
    /// What its Envoy calls itself: name and version.
    pub user_agent: String,
    /// Envoy and the sidecars.
    pub roles: BTreeMap<String, RoleView>,
}

/// A process of a node, for operators.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RoleView {
    /// Whether its stream is open.
    pub connected: bool,
    /// How many resources it holds.
    pub acknowledged: usize,
    /// What it refused, with its words: its last accepted version stays in use.
    pub refused: BTreeMap<String, String>,
    /// Each type that it asked for.
    pub types: BTreeMap<String, TypeView>,
}

/// One type on a node, for operators.
#[derive(Debug, Clone, Serialize)]
pub struct TypeView {
    /// The version of the set that it should hold.
    pub version: String,
    /// Whether it holds just that.
    pub in_sync: bool,
    /// How many resources it holds.
    pub held: usize,
    /// How many it should hold, if it asked for all.
    pub desired: usize,
    /// Seconds since the last ACK.
    pub last_ack_secs: Option<u64>,
    /// Seconds since the last NACK, and the client's words.
    pub last_nack: Option<(u64, String)>,
}

/// A resource that a node does not hold as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What it is.
    pub kind: ResourceType,
    /// Its xDS name.
    pub name: String,
    /// The version that the node holds; `None` when it holds none.
    pub held: Option<String>,
    /// The version that it should hold; `None` when it should hold none.
    pub wanted: Option<String>,
    /// Why it refused the wanted one.
    pub refused: Option<String>,
}

/// Everything that the node does not hold as it should.
pub(crate) fn differences(node: &Node) -> Vec<Difference> {
    let state = node.state();
    let mut found = Vec::new();
    for (kind, told) in state.types() {
        let text = |version: &xds::stream::Version| version.to_string();
        let wanted = told
            .desired()
            .iter()
            .filter(|item| told.wants(item.name()) && told.held(item.name()) != Some(item.version()));
        found.extend(wanted.map(|item| {
            Difference {
                kind,
                name: item.name().to_string(),
                held: told.held(item.name()).map(text),
                wanted: Some(text(item.version())),
                refused: told
                    .refused()
                    .get(item.name())
                    .filter(|refused| refused.version == *item.version())
                    .map(|refused| refused.message.clone()),
            }
        }));
        found.extend(told.strays().map(|name| Difference {
            kind,
            name: name.to_string(),
            held: told.held(name).map(text),
            wanted: None,
            refused: None,
        }));
    }
    found
}

impl NodeView {
    /// The same node with what it polls: its sidecars may have streams while its Envoy polls.
    pub(crate) fn and(mut self, polling: Self) -> Self {
        self.roles.extend(polling.roles);
        self
    }

    pub(crate) fn of(node: &Node) -> Self {
        let state = node.state();
        let mut roles = BTreeMap::new();
        for role in [Role::Envoy].into_iter().chain(Role::SIDECARS) {
            let mut view = RoleView { connected: state.is_open(role), ..RoleView::default() };
            for (kind, told) in state.all_told().filter(|(_, told)| told.role == role) {
                view.acknowledged += told.resources.held_count();
                let desired = told.resources.desired();
                // What was refused and is wanted no more is history.
                let wanted = told.resources.refused().iter().filter(|(name, refused)| {
                    desired.get(name).is_some_and(|item| *item.version() == refused.version)
                });
                view.refused.extend(
                    wanted.map(|(name, refused)| (format!("{kind} {name}"), refused.message.clone())),
                );
                view.types.insert(kind.label().to_owned(), TypeView::of(told));
            }
            if view.connected || !view.types.is_empty() {
                roles.insert(role.to_string(), view);
            }
        }
        Self { node: node.id.clone(), group: node.group.clone(), user_agent: state.user_agent.clone(), roles }
    }
}

impl TypeView {
    fn of(told: &Told) -> Self {
        let secs = |at: SystemTime| at.elapsed().unwrap_or_default().as_secs();
        let resources = &told.resources;
        Self {
            version: resources.desired().version().to_string(),
            in_sync: resources.is_idle() && resources.refused().is_empty(),
            held: resources.held_count(),
            desired: resources.desired().len(),
            last_ack_secs: told.last_ack.map(secs),
            last_nack: told.last_nack.as_ref().map(|(at, words)| (secs(*at), words.clone())),
        }
    }
}
