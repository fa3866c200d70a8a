//! Where snapshots come in and acknowledgements come out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use api::Role;
use model::{
    InstanceId,
    fleet::{Refusal, Standing},
};
use resources::{Key, Snapshot};
use serde::Serialize;
use tokio::sync::watch;
use xds::delta::Refused;

use crate::{metrics::Metrics, node::Node};

/// A kind of nodes: all of a group get the same resources.
#[derive(Debug, Clone)]
pub struct Group {
    /// `node.cluster`, and the first part of a node's id.
    pub name: String,
    /// Which sidecars its nodes run. A route waits for all of them.
    pub sidecars: Vec<Role>,
}

/// All groups and nodes of this replica. Shared; never held over an await.
#[derive(Debug)]
pub struct Hub {
    groups: HashMap<String, (Group, watch::Sender<Arc<Snapshot>>)>,
    nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    changes: watch::Sender<u64>,
    last_stream: AtomicU64,
    pub(crate) metrics: Metrics,
}

/// A node, for operators.
#[derive(Debug, Serialize)]
pub struct NodeView {
    /// `<group>/<instance>`
    pub node: String,
    /// Envoy and the sidecars.
    pub roles: BTreeMap<String, RoleView>,
}

/// A process of a node, for operators.
#[derive(Debug, Serialize)]
pub struct RoleView {
    /// Whether its stream is open.
    pub connected: bool,
    /// How many resources it has acknowledged.
    pub acknowledged: usize,
    /// What it refused, with its words.
    pub refused: BTreeMap<String, String>,
}

impl Hub {
    /// A hub without snapshots: clients are told to come again.
    pub fn new(groups: Vec<Group>, metrics: Metrics) -> Self {
        let groups =
            groups.into_iter().map(|group| (group.name.clone(), (group, watch::Sender::default()))).collect();
        Self {
            groups,
            nodes: Mutex::default(),
            changes: watch::Sender::new(0),
            last_stream: AtomicU64::new(0),
            metrics,
        }
    }

    /// Serves this snapshot from now on; of an unknown group nothing is served.
    pub fn publish(&self, group: &str, snapshot: Arc<Snapshot>) {
        if let Some((_, sender)) = self.groups.get(group) {
            sender.send_replace(snapshot);
            self.announce();
        }
    }

    /// What is served to a group now.
    pub fn snapshot(&self, group: &str) -> Option<Arc<Snapshot>> {
        self.groups.get(group).map(|(_, sender)| sender.borrow().clone())
    }

    /// Changes whenever a node acknowledged, refused, came or went.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn announce(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn group(&self, name: &str) -> Option<(&Group, watch::Receiver<Arc<Snapshot>>)> {
        self.groups.get(name).map(|(group, sender)| (group, sender.subscribe()))
    }

    pub(crate) fn group_names(&self) -> String {
        let mut names: Vec<_> = self.groups.keys().map(String::as_str).collect();
        names.sort_unstable();
        names.join(", ")
    }

    fn nodes_by_id(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node of a new stream, and the stream's number.
    pub(crate) fn enter(&self, id: &str, group: &str, role: Role) -> (Arc<Node>, u64) {
        let stream = self.last_stream.fetch_add(1, Ordering::Relaxed) + 1;
        let node = {
            let mut nodes = self.nodes_by_id();
            let node = nodes.entry(id.to_owned()).or_insert_with(|| Arc::new(Node::new(id, group)));
            // Under the lock: the last stream of the node may be leaving just now.
            node.begin(role, stream);
            Arc::clone(node)
        };
        self.announce();
        (node, stream)
    }

    /// A stream has ended. A node without any is forgotten: when it comes back it brings along what it holds.
    pub(crate) fn leave(&self, node: &Arc<Node>, role: Role, stream: u64) {
        {
            let mut nodes = self.nodes_by_id();
            node.record(role, stream, |state| state.stream = None);
            if node.is_gone() && nodes.get(&node.id).is_some_and(|known| Arc::ptr_eq(known, node)) {
                nodes.remove(&node.id);
            }
        }
        self.announce();
    }

    fn connected(&self, group: &str) -> Vec<Arc<Node>> {
        let nodes = self.nodes_by_id();
        nodes.values().filter(|node| node.group == group && node.is_connected()).cloned().collect()
    }

    /// How many nodes of a group are connected.
    pub fn node_count(&self, group: &str) -> u32 {
        u32::try_from(self.connected(group).len()).unwrap_or(u32::MAX)
    }

    /// How far a service has come on the nodes of a group.
    pub fn standing(&self, group: &str, id: &InstanceId) -> Standing {
        let Some((group, snapshots)) = self.group(group) else { return Standing::default() };
        let snapshot = snapshots.borrow().clone();
        let nodes = self.connected(&group.name);
        let bundle = snapshot.bundle(id);
        let checks = nodes.iter().map(|node| match bundle {
            Some(bundle) => node.acknowledged(bundle, &group.sidecars),
            None => node.removed(id, &group.sidecars),
        });
        let mut standing = Standing { rev: bundle.map(|bundle| bundle.rev), ..Standing::default() };
        for check in checks {
            match check {
                Ok(()) => standing.acknowledged += 1,
                Err(waiting) => standing.waiting = standing.waiting.or(Some(waiting)),
            }
        }
        let refused = bundle.and_then(|bundle| {
            let cause = nodes.iter().find_map(|node| node.refusal(bundle))?;
            Some(Refusal { rev: bundle.rev, cause })
        });
        Standing { refused, ..standing }
    }

    /// Every node, for operators.
    pub fn nodes(&self) -> Vec<NodeView> {
        let nodes: Vec<_> = self.nodes_by_id().values().cloned().collect();
        let view = |node: &Arc<Node>| {
            let snapshot = self.snapshot(&node.group).unwrap_or_default();
            NodeView { node: node.id.clone(), roles: roles_of(node, &snapshot) }
        };
        nodes.iter().map(view).collect()
    }
}

/// What was refused and is wanted no more is history.
fn roles_of(node: &Node, snapshot: &Snapshot) -> BTreeMap<String, RoleView> {
    let roles = node.roles();
    let view = roles.iter().map(|(role, state)| {
        let wanted = |key: &Key, refused: &Refused| {
            snapshot.get(key).is_some_and(|resource| resource.version == refused.version)
        };
        let refused = state.refused.iter().filter(|(key, refused)| wanted(key, refused));
        let refused = refused.map(|(key, refused)| (key.to_string(), refused.message.clone()));
        let view = RoleView {
            connected: state.stream.is_some(),
            acknowledged: state.held.len(),
            refused: refused.collect(),
        };
        (role.to_string(), view)
    });
    view.collect()
}
