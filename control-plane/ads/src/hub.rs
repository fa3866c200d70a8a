//! Where snapshots come in and acknowledgements come out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use api::Role;
use model::{
    InstanceId,
    fleet::{Refusal, Standing},
    node::{NodeFacts, Selection},
};
use resources::{Key, Snapshot, Table};
use tokio::sync::{Notify, Semaphore, watch};

use wildmatch::WildMatch;
use xds::stream::Version;

use crate::{
    asker::Asker,
    gate,
    identity::Identity,
    lrs::{Load, Loads},
    metrics::{Metrics, RoleLabel},
    node::{Node, teller},
    pollers::Pollers,
    served::{Selector, Served},
    view::{self, Difference, NodeView},
};

/// A kind of nodes: all of a group get the same resources.
#[derive(Debug, Clone)]
pub struct Group {
    /// `node.cluster`, and the first part of a node's id.
    pub name: String,
    /// Which sidecars its nodes run. A route waits for all of them.
    pub sidecars: Vec<Role>,
    /// What a certificate has to say for its owner to be one of the nodes.
    pub identities: Vec<Identity>,
    /// Patterns of `node.cluster`: nodes that poll with such a one are of this group, whatever their ids.
    pub pollers: Vec<WildMatch>,
}

/// All groups and nodes of this replica. Shared; never held over an await.
#[derive(Debug)]
pub struct Hub {
    groups: HashMap<String, Served>,
    nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    changes: watch::Sender<u64>,
    /// Whether the last change was announced and not looked at yet.
    is_announced: AtomicBool,
    /// Makes each open stream look again.
    wakers: Mutex<HashMap<u64, Arc<Notify>>>,
    last_stream: AtomicU64,
    /// Shows in each client's statistics.
    pub(crate) identifier: Arc<str>,
    pub(crate) limits: Limits,
    pub(crate) pollers: Pollers,
    pub(crate) loads: Loads,
    /// Streams that are being brought up to date from scratch.
    pub(crate) admission: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
}

/// A stream that has come in.
pub(crate) struct Entered {
    pub(crate) node: Arc<Node>,
    pub(crate) stream: u64,
    pub(crate) waker: Arc<Notify>,
}

/// What a replica carries.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open streams; one more is refused with `RESOURCE_EXHAUSTED`.
    pub streams: usize,
    /// Streams that are brought up to date at the same time; the others wait for their turn.
    pub full_pushes: usize,
    /// A client that reads nothing for so long is stuck.
    pub send_deadline: Duration,
}

/// Far longer than any push takes.
const SEND_DEADLINE: Duration = Duration::from_secs(10);

impl Default for Limits {
    /// A stream with its buffers takes about 100 KiB, and a node four of them; a full push takes a few MB, until it
    /// is acknowledged.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { streams: 40_000, full_pushes: 16 * cores, send_deadline: SEND_DEADLINE }
    }
}

impl Hub {
    /// A hub without snapshots: clients are told to come again.
    pub fn new(groups: Vec<Group>, identifier: &str, limits: Limits, metrics: Metrics) -> Self {
        Self {
            groups: groups.into_iter().map(|group| (group.name.clone(), Served::new(group))).collect(),
            nodes: Mutex::default(),
            changes: watch::Sender::new(0),
            is_announced: AtomicBool::new(false),
            wakers: Mutex::default(),
            last_stream: AtomicU64::new(0),
            identifier: identifier.into(),
            limits,
            pollers: Pollers::default(),
            loads: Loads::default(),
            admission: Arc::new(Semaphore::new(limits.full_pushes)),
            metrics,
        }
    }

    /// Serves this snapshot to the nodes of a group with this selection; of an unknown group nothing is served.
    pub fn publish(&self, group: &str, selection: &Selection, snapshot: Arc<Snapshot>) {
        if let Some(served) = self.groups.get(group) {
            served.publish(selection, snapshot);
            self.wake_all();
            self.announce();
        }
    }

    /// How the nodes of a group are told apart, from now on.
    pub fn choose_by(&self, group: &str, selector: Selector) {
        if let Some(served) = self.groups.get(group) {
            served.choose_by(selector);
            self.wake_all();
        }
    }

    /// The selections that a group's nodes need; at least the one without a choice.
    pub fn wanted(&self, group: &str) -> Option<watch::Receiver<BTreeSet<Selection>>> {
        self.groups.get(group).map(Served::wanted)
    }

    /// What is served to a group's streams that match no special template.
    pub fn snapshot(&self, group: &str) -> Option<Arc<Snapshot>> {
        self.groups.get(group).map(Served::plain)
    }

    /// What is served to each kind of a group's nodes.
    pub fn snapshots(&self, group: &str) -> Vec<(Selection, Arc<Snapshot>)> {
        self.groups.get(group).map(Served::all).unwrap_or_default()
    }

    /// Which templates a node of a group would get now; `None` while there are none.
    pub fn select(&self, group: &str, node: &NodeFacts) -> Option<Selection> {
        self.groups.get(group).and_then(|served| served.selection(node))
    }

    /// Changes when nodes acknowledged, refused, came or went. A fleet does so in bursts: nothing more is announced
    /// until whoever looks has said so by [`Hub::look`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What happens from now on is announced.
    pub fn look(&self) {
        self.is_announced.store(false, Ordering::Release);
    }

    pub(crate) fn announce(&self) {
        if !self.is_announced.swap(true, Ordering::AcqRel) {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    fn wakers(&self) -> MutexGuard<'_, HashMap<u64, Arc<Notify>>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets every stream look what has changed.
    pub(crate) fn wake_all(&self) {
        self.wakers().values().for_each(|waker| waker.notify_one());
    }

    pub(crate) fn group(&self, name: &str) -> Option<&Served> {
        self.groups.get(name)
    }

    pub(crate) fn group_names(&self) -> String {
        let mut names: Vec<_> = self.groups.keys().map(String::as_str).collect();
        names.sort_unstable();
        names.join(", ")
    }

    fn nodes_by_id(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new stream: its node, its number, and what wakes it.
    pub(crate) fn enter(&self, id: &str, group: &str, role: Role, user_agent: String) -> Entered {
        let stream = self.last_stream.fetch_add(1, Ordering::Relaxed) + 1;
        let waker = Arc::new(Notify::new());
        let node = {
            let mut nodes = self.nodes_by_id();
            let node = nodes.entry(id.to_owned()).or_insert_with(|| Arc::new(Node::new(id, group)));
            // Under the lock: the last stream of the node may be leaving just now.
            let mut state = node.state();
            state.begin(role, stream, waker.clone());
            if role == Role::Envoy {
                state.user_agent = user_agent;
            }
            drop(state);
            Arc::clone(node)
        };
        self.wakers().insert(stream, waker.clone());
        self.metrics.streams.get_or_create(&RoleLabel::of(role)).inc();
        node.wake_others(stream);
        self.announce();
        Entered { node, stream, waker }
    }

    /// A stream has ended. A node without any is forgotten: when it comes back it brings along what it holds.
    pub(crate) fn leave(&self, node: &Arc<Node>, role: Role, stream: u64) {
        {
            let mut nodes = self.nodes_by_id();
            let mut state = node.state();
            state.end(stream);
            if !state.has_streams() && nodes.get(&node.id).is_some_and(|known| Arc::ptr_eq(known, node)) {
                nodes.remove(&node.id);
            }
        }
        self.wakers().remove(&stream);
        self.metrics.streams.get_or_create(&RoleLabel::of(role)).dec();
        node.wake_others(stream);
        self.announce();
    }

    /// The group of a node that polls, which knows nothing of groups.
    pub(crate) fn group_of_poller(&self, cluster: &str) -> Option<&Served> {
        let is_meant = |served: &&Served| served.group.pollers.iter().any(|pattern| pattern.matches(cluster));
        self.groups.values().find(is_meant)
    }

    pub(crate) fn stream_count(&self) -> usize {
        self.wakers().len()
    }

    /// The routes of a node that polls: with those of a service only when its sidecars have the policies.
    pub(crate) fn routes_for_poller(&self, asker: &Asker<'_>, snapshot: &Arc<Snapshot>) -> Table {
        let sidecars = &asker.served.group.sidecars;
        if sidecars.is_empty() {
            return snapshot.composed_routes().clone();
        }
        let node = self.nodes_by_id().get(&asker.facts.id).cloned();
        self.pollers.routes(asker, snapshot, |bundle| {
            node.as_ref()
                .is_some_and(|node| gate::sidecars_are_ready(&node.state(), bundle, snapshot, sidecars))
        })
    }

    /// Every node that has a stream.
    pub(crate) fn all_nodes(&self) -> Vec<Arc<Node>> {
        self.nodes_by_id().values().cloned().collect()
    }

    /// Only a node whose Envoy is connected serves, and counts.
    fn serving(&self, group: &str) -> Vec<Arc<Node>> {
        let mut nodes = self.all_nodes();
        nodes.retain(|node| node.group == group && node.state().is_open(Role::Envoy));
        nodes
    }

    /// How many nodes of a group are connected.
    pub fn node_count(&self, group: &str) -> u32 {
        let nodes = self.serving(group).len() + self.pollers.count(group);
        u32::try_from(nodes).unwrap_or(u32::MAX)
    }

    /// How far these services have come on the nodes of a group.
    pub fn standing<'a>(
        &self,
        group: &str,
        ids: impl Iterator<Item = &'a InstanceId>,
    ) -> BTreeMap<InstanceId, Standing> {
        let Some(served) = self.groups.get(group) else { return BTreeMap::new() };
        let (snapshot, nodes) = (served.plain(), self.serving(group));
        let mut all = BTreeMap::new();
        for id in ids {
            let mut standing = standing(&served.group, &snapshot, &nodes, id);
            self.pollers.add_to(&mut standing, group, id);
            all.insert(id.clone(), standing);
        }
        all
    }

    /// How many nodes of a group have a process that gets this type, and how many of them hold the resource in this
    /// version; without one, how many hold none of its name.
    pub fn holders(&self, group: &str, key: &Key, version: Option<&Version>) -> (u32, u32) {
        let (mut connected, mut holding) = (0, 0);
        for node in self.all_nodes().iter().filter(|node| node.group == group) {
            let state = node.state();
            if state.is_followed(key.kind) {
                connected += 1;
                holding += u32::from(state.held(key) == version);
            }
        }
        (connected, holding)
    }

    /// What the nodes report of the services' load.
    pub fn loads(&self) -> BTreeMap<InstanceId, Load> {
        self.loads.all()
    }

    /// What a node does not hold as it should; `None` when there is no such node on a stream of this replica.
    pub fn differences(&self, node_id: &str) -> Option<Vec<Difference>> {
        let node = self.nodes_by_id().get(node_id).cloned();
        node.map(|node| view::differences(&node))
    }

    /// One node, for operators.
    pub fn node(&self, id: &str) -> Option<NodeView> {
        let streaming = self.nodes_by_id().get(id).cloned().map(|node| NodeView::of(&node));
        match (streaming, self.pollers.view(id)) {
            (Some(node), Some(polling)) => Some(node.and(polling)),
            (streaming, polling) => streaming.or(polling),
        }
    }

    /// Every node, for operators.
    pub fn nodes(&self) -> Vec<NodeView> {
        let view = |node: &Arc<Node>| (node.id.clone(), NodeView::of(node));
        let mut nodes: BTreeMap<_, _> = self.all_nodes().iter().map(view).collect();
        for polling in self.pollers.views() {
            let node = match nodes.remove(&polling.node) {
                Some(node) => node.and(polling),
                None => polling,
            };
            nodes.insert(node.node.clone(), node);
        }
        nodes.into_values().collect()
    }
}

fn standing(group: &Group, plain: &Snapshot, nodes: &[Arc<Node>], id: &InstanceId) -> Standing {
    let rev = plain.bundle(id).map(|bundle| bundle.rev);
    let mut standing = Standing { rev, ..Standing::default() };
    for node in nodes {
        let state = node.state();
        // What this node is served: its templates may be others.
        let bundle = state.snapshot.bundle(id);
        let told = match bundle {
            Some(bundle) if Some(bundle.rev) != rev => Err(format!("{} to be served it", node.id)),
            Some(bundle) => state.acknowledged(bundle, &group.sidecars).map_err(|key| {
                format!("{} of {} to acknowledge {key}", teller(key.kind, &group.sidecars), node.id)
            }),
            None if rev.is_some() => Err(format!("{} to be served it", node.id)),
            None => state.removed(id, &group.sidecars).map_err(|what| format!("{}: {what}", node.id)),
        };
        match told {
            Ok(()) => standing.acknowledged += 1,
            Err(waiting) => {
                standing.waiting.get_or_insert(waiting);
            }
        }
        if let Some(bundle) = bundle.filter(|_| standing.refused.is_none())
            && let Some((key, message)) = state.refusal(bundle)
        {
            let cause =
                format!("{} of {} refused {key}: {message}", teller(key.kind, &group.sidecars), node.id);
            standing.refused = Some(Refusal { rev: bundle.rev, cause });
        }
    }
    standing
}
