//! One stream: requests and snapshots in, responses out. No IO; `service` carries the messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use api::{ResourceType, Role};
use resources::{Shared, Snapshot, Table, compose, version_of};
use tokio::time::Instant;
use xds::{
    DeltaRequest, SotwRequest,
    stream::{Batch, Change, Desired as _, FullSet, Gate, Item as _, Name, Received, TypeStream, Variant},
};

use crate::{
    frame::{DeltaFrame, Frame, Sent, SotwBody, SotwFrame},
    gate::{self, Lingering, Readiness},
    hub::{Group, Hub},
    metrics::KindLabel,
    node::{Node, State, Told},
    wildcards::AskedNames,
};

/// The state of a stream. What the client holds of each type is kept with its node, where the node's other streams
/// can see it.
pub(crate) struct Session {
    hub: Arc<Hub>,
    node: Arc<Node>,
    role: Role,
    number: u64,
    variant: Variant,
    sidecars: Vec<Role>,
    snapshot: Arc<Snapshot>,
    opened: Instant,
    lingering: Lingering,
    /// The types that this stream carries, which sort in the order of pushes.
    kinds: BTreeSet<ResourceType>,
    /// Clusters that were sent before the client asked for endpoints.
    clusters_sent: BTreeSet<Name>,
    /// The virtual hosts inside the route configurations, for a client without VHDS.
    inside: Option<Inside>,
    /// Names of secrets, of which some have none of their own.
    asked: AskedNames,
    /// When a type was last told that all is well.
    beats: BTreeMap<ResourceType, Instant>,
}

/// Virtual hosts that travel inside their route configuration.
struct Inside {
    /// Those that the client has, or is being sent.
    hosts: Table,
    /// The batch of them that the response under way carries.
    nonce: Option<u64>,
}

/// Within its time to live a client hears of a resource so often, that one lost message does no harm.
const BEATS_PER_TTL: u32 = 3;

impl Session {
    pub(crate) fn new(
        hub: Arc<Hub>,
        node: Arc<Node>,
        role: Role,
        number: u64,
        variant: Variant,
        group: &Group,
        snapshot: Arc<Snapshot>,
    ) -> Self {
        Self {
            hub,
            node,
            role,
            number,
            variant,
            sidecars: group.sidecars.clone(),
            snapshot,
            opened: Instant::now(),
            lingering: Lingering::default(),
            kinds: BTreeSet::new(),
            clusters_sent: BTreeSet::new(),
            inside: None,
            asked: AskedNames::default(),
            beats: BTreeMap::new(),
        }
        .presented()
    }

    /// Lets everybody know what this node is served.
    fn presented(self) -> Self {
        if self.role == Role::Envoy {
            self.node.state().snapshot = self.snapshot.clone();
        }
        self
    }

    /// A type that is unknown, or another role's, is not answered: a client of a newer release may ask for it, and
    /// must not lose its stream.
    fn served(&self, type_url: &str) -> Option<ResourceType> {
        let kind = ResourceType::from_url(type_url).filter(|kind| self.role.carries(*kind));
        // Envoy has virtual hosts by delta only.
        let kind = kind.filter(|kind| self.variant == Variant::Delta || *kind != ResourceType::VirtualHost);
        if kind.is_none() {
            tracing::debug!(node = self.node.id, role = %self.role, type_url, "not served here");
        }
        kind
    }

    /// Takes in a request of the incremental variant.
    pub(crate) fn receive(&mut self, request: &DeltaRequest<'_>) {
        let Some(kind) = self.served(request.type_url) else { return };
        let first = self.kinds.insert(kind);
        tracing::debug!(
            node = self.node.id, role = %self.role, %kind, first, nonce = request.nonce,
            subscribe = ?request.subscribe, unsubscribe = ?request.unsubscribe,
            brought = request.brought.len(), nack = request.error.is_some(), "request"
        );
        let mut touched = Vec::new();
        if kind == ResourceType::Secret {
            self.asked.rebase(self.snapshot.table(kind));
            self.asked.remove(&request.unsubscribe);
            touched = self.asked.add(&request.subscribe);
            touched
                .extend(request.subscribe.iter().chain(&request.unsubscribe).map(|name| Name::from(*name)));
        }
        let received = {
            let mut state = self.node.state();
            if first {
                state.tell(self.number, kind, TypeStream::new(kind, self.variant, self.desired(kind)));
            }
            let Some(told) = state.told(self.number, kind) else { return };
            if !touched.is_empty() && !first {
                told.resources.update(self.desired(kind), Some(&touched));
            }
            let received = told.resources.receive(request, first);
            if first && kind == ResourceType::Endpoints {
                // It brought them along and has them, but the clusters that it just got wait for them (rule 44).
                for cluster in std::mem::take(&mut self.clusters_sent) {
                    told.resources.resend(&cluster);
                }
            }
            note(told, &received);
            received
        };
        self.announce(kind, first, &received);
    }

    /// Takes in a request of the state-of-the-world variant.
    pub(crate) fn receive_sotw(&mut self, request: &SotwRequest<'_>) {
        let Some(kind) = self.served(request.type_url) else { return };
        let first = self.kinds.insert(kind);
        tracing::debug!(
            node = self.node.id, role = %self.role, %kind, first, nonce = request.nonce,
            version = request.version, names = request.names.len(), nack = request.error.is_some(), "request"
        );
        if first && kind == ResourceType::RouteConfig {
            self.begin_inside();
        }
        let mut touched = Vec::new();
        if kind == ResourceType::Secret {
            // All names that it wants, each time.
            self.asked = AskedNames::default();
            self.asked.rebase(self.snapshot.table(kind));
            touched = self.asked.add(&request.names);
            touched.extend(request.names.iter().map(|name| Name::from(*name)));
        }
        let node = self.node.clone();
        let received = {
            let mut state = node.state();
            if first {
                state.tell(self.number, kind, TypeStream::new(kind, self.variant, self.desired(kind)));
            }
            let Some(told) = state.told(self.number, kind) else { return };
            if !touched.is_empty() && !first {
                told.resources.update(self.desired(kind), Some(&touched));
            }
            let received = told.resources.receive_sotw(request, first);
            note(told, &received);
            if kind == ResourceType::RouteConfig && !matches!(received, Received::Subscription) {
                self.settle_inside(&mut state, request.error.clone());
            }
            received
        };
        self.announce(kind, first, &received);
    }

    /// Tells the node's other streams, and the hub, and the log.
    fn announce(&self, kind: ResourceType, first: bool, received: &Received<Shared>) {
        match received {
            Received::Subscription if !first => return,
            Received::Nack { changes, message } => {
                self.hub.metrics.nacks.get_or_create(&KindLabel { kind: kind.label() }).inc();
                let resources: Vec<_> = changes.iter().take(3).map(|change| &*change.name).collect();
                tracing::warn!(
                    node = self.node.id, role = %self.role, %kind, resources = resources.join(", "),
                    of = changes.len(), error = message, "refused"
                );
            }
            Received::Subscription | Received::Ack => {}
        }
        self.node.wake_others(self.number);
        self.hub.announce();
    }

    /// What this stream's client should hold of a type.
    fn desired(&self, kind: ResourceType) -> Table {
        match &self.inside {
            Some(inside) if kind == ResourceType::RouteConfig => {
                if inside.hosts.is_same(self.snapshot.table(ResourceType::VirtualHost)) {
                    self.snapshot.composed_routes().clone()
                } else {
                    compose(self.snapshot.table(kind), &inside.hosts)
                }
            }
            _ if kind == ResourceType::Secret => self.asked.served(self.snapshot.table(kind)),
            _ => self.snapshot.table(kind).clone(),
        }
    }

    /// A new snapshot: notes what may have to be sent.
    pub(crate) fn update(&mut self, snapshot: Arc<Snapshot>) {
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        let mut changed: Option<BTreeMap<ResourceType, Vec<Name>>> = None;
        if let Some(keys) = self.snapshot.changed_since(&before) {
            let changed = changed.insert(BTreeMap::new());
            for key in keys {
                changed.entry(key.kind).or_default().push(key.name.clone());
            }
        }
        let node = self.node.clone();
        let mut state = node.state();
        if self.role == Role::Envoy {
            state.snapshot = self.snapshot.clone();
        }
        let own = self.kinds.iter().copied().chain(self.inside.as_ref().map(|_| ResourceType::VirtualHost));
        for kind in own {
            if before.table(kind).is_same(self.snapshot.table(kind)) {
                continue;
            }
            let Some(told) = state.told(self.number, kind) else { continue };
            if kind == ResourceType::RouteConfig && self.inside.is_some() {
                told.resources.update(self.desired(kind), None);
            } else {
                let names = changed.as_ref().map(|changed| changed.get(&kind).map_or(&[][..], Vec::as_slice));
                if kind == ResourceType::Secret {
                    self.asked.rebase(self.snapshot.table(kind));
                    let names = names.map(|names| self.asked.affected(names));
                    told.resources.update(self.desired(kind), names.as_deref());
                } else {
                    told.resources.update(self.snapshot.table(kind).clone(), names);
                }
            }
        }
        let is_parked = |kind, name: &Name| state.of(kind).is_some_and(|resources| resources.is_parked(name));
        self.lingering.keep(is_parked);
    }

    /// What can be sent now, in the order of pushes.
    pub(crate) fn responses(&mut self, now: Instant) -> Vec<Frame> {
        let mut frames = Vec::new();
        let node = self.node.clone();
        let mut state = node.state();
        let mut lingering = std::mem::take(&mut self.lingering);
        for (kind, name) in lingering.ended(now) {
            if let Some(told) = state.told(self.number, kind) {
                told.resources.recall(&name);
            }
        }
        let kinds = std::mem::take(&mut self.kinds);
        for kind in kinds.iter().copied() {
            let is_inside = kind == ResourceType::RouteConfig && self.inside.is_some();
            if is_inside && !self.put_inside(&mut state, now) {
                continue;
            }
            let is_quiet = state.told(self.number, kind).is_none_or(|told| told.resources.is_quiet());
            if is_quiet && !is_inside && self.beat_interval(kind).is_none() {
                continue;
            }
            let readiness = self.readiness(&mut state, now);
            if kind == ResourceType::VirtualHost && gate::is_too_early(&state, &readiness) {
                continue;
            }
            let Some(mut told) = state.take(self.number, kind) else { continue };
            let batch =
                told.resources.next(|change| gate::gate(kind, change, &state, &readiness, &mut lingering));
            let frame = match batch {
                Some(batch) => {
                    if kind == ResourceType::Cluster && self.variant == Variant::Delta {
                        self.push_endpoints_of(&batch, &mut state);
                    }
                    Some(self.frame(&told.resources, kind, batch))
                }
                None => self.heartbeat(&mut told.resources, kind, now),
            };
            let silent = frame.is_none() && !told.resources.is_waiting();
            frames.extend(frame);
            state.put_back(kind, told);
            if kind == ResourceType::RouteConfig && silent {
                // The route configurations that this client asked for do not hold them.
                self.settle_inside(&mut state, None);
            }
        }
        (self.lingering, self.kinds) = (lingering, kinds);
        frames
    }

    fn readiness<'a>(&'a self, state: &mut State, now: Instant) -> Readiness<'a> {
        Readiness {
            group: &self.node.group,
            snapshot: &self.snapshot,
            sidecars: &self.sidecars,
            clusters_open: gate::clusters_are_acknowledged(state, now),
            is_settled_in: now >= self.opened + gate::CLUSTERS_DEADLINE,
            now,
        }
    }

    /// Whether nothing is left to be sent, and everything that was sent is answered. What only waits to go, for
    /// requests under way, is no work.
    pub(crate) fn is_idle(&self) -> bool {
        let mut state = self.node.state();
        self.kinds.iter().all(|kind| {
            state.told(self.number, *kind).is_some_and(|told| told.resources.is_idle_but_for_removals())
        })
    }

    /// When to look again even if nothing happens.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let waiting_since = self.node.state().waiting_since;
        let gates = [Some(self.opened), waiting_since].into_iter().flatten();
        let gates = gates.map(|since| since + gate::CLUSTERS_DEADLINE);
        let beats = self.beats.iter().filter_map(|(kind, last)| Some(*last + self.beat_interval(*kind)?));
        // What is past has been looked at.
        gates.chain(beats).chain(self.lingering.next()).filter(|at| *at > now).min()
    }

    /// A delta client does not ask again for the endpoints of a changed cluster, and warms it until they come
    /// (rule 43).
    fn push_endpoints_of(&mut self, clusters: &Batch<Shared>, state: &mut State) {
        let changed = clusters.changes.iter().filter(|change| change.item.is_some());
        match state.told(self.number, ResourceType::Endpoints) {
            Some(endpoints) => changed.for_each(|cluster| endpoints.resources.resend(&cluster.name)),
            None => self.clusters_sent.extend(changed.map(|cluster| cluster.name.clone())),
        }
    }

    fn frame(&self, told: &TypeStream<Table>, kind: ResourceType, batch: Batch<Shared>) -> Frame {
        self.hub.metrics.count_sent(kind, batch.changes.len());
        tracing::debug!(
            node = self.node.id, role = %self.role, %kind, nonce = batch.nonce,
            changes = ?batch.changes,
            "response"
        );
        let identifier = self.hub.identifier.clone();
        if self.variant == Variant::Delta {
            let (mut resources, mut removed) = (Vec::new(), Vec::new());
            for Change { name, item } in batch.changes {
                match item {
                    Some(item) => resources.push(Sent::Whole(item)),
                    None => removed.push(name),
                }
            }
            let system_version = self.snapshot.generation();
            return Frame::Delta(DeltaFrame {
                kind,
                nonce: batch.nonce,
                system_version,
                resources,
                removed,
                identifier,
            });
        }
        let (version, resources) = if kind.is_full_set() {
            whole_set(told)
        } else {
            let items = batch.changes.into_iter().filter_map(|change| change.item).collect();
            (told.desired().version(), SotwBody::These(items))
        };
        Frame::Sotw(SotwFrame { kind, nonce: batch.nonce, version, resources, identifier })
    }

    /// Resources with a time to live are told again before it ends (`Resource.ttl`).
    fn heartbeat(&mut self, told: &mut TypeStream<Table>, kind: ResourceType, now: Instant) -> Option<Frame> {
        let Some(interval) = self.beat_interval(kind) else {
            self.beats.remove(&kind);
            return None;
        };
        let last = *self.beats.entry(kind).or_insert(now);
        if now < last + interval {
            return None;
        }
        let nonce = told.beat()?;
        self.beats.insert(kind, now);
        let held = |item: &&Shared| told.held(item.name()) == Some(item.version());
        let mortal: Vec<_> = told.desired().mortal().filter(held).cloned().collect();
        let identifier = self.hub.identifier.clone();
        let system_version = self.snapshot.generation();
        Some(match self.variant {
            Variant::Delta => Frame::Delta(DeltaFrame {
                kind,
                nonce,
                system_version,
                resources: mortal.into_iter().map(Sent::Heartbeat).collect(),
                removed: Vec::new(),
                identifier,
            }),
            // Without its body Envoy 1.40 takes a cluster for deleted (rule 54).
            Variant::Sotw if kind.is_full_set() => {
                let (version, resources) = whole_set(told);
                Frame::Sotw(SotwFrame { kind, nonce, version, resources, identifier })
            }
            Variant::Sotw => {
                let version = told.desired().version();
                Frame::Sotw(SotwFrame {
                    kind,
                    nonce,
                    version,
                    resources: SotwBody::These(mortal),
                    identifier,
                })
            }
        })
    }

    fn beat_interval(&self, kind: ResourceType) -> Option<Duration> {
        let table = self.snapshot.table(kind);
        if !table.has_mortal() {
            return None;
        }
        let shortest = table.mortal().filter_map(|item| item.ttl).min()?;
        Some(shortest / BEATS_PER_TTL)
    }

    /// A client without VHDS gets virtual hosts like any other, but inside their route configuration: their
    /// bookkeeping is the same, and its responses are those of the route configurations.
    fn begin_inside(&mut self) {
        let mut hosts = TypeStream::new(
            ResourceType::VirtualHost,
            Variant::Delta,
            self.snapshot.table(ResourceType::VirtualHost).clone(),
        )
        .unbounded();
        hosts.receive(&DeltaRequest::default(), true);
        self.node.state().tell(self.number, ResourceType::VirtualHost, hosts);
        self.inside = Some(Inside { hosts: Table::default(), nonce: None });
    }

    /// Puts into the route configurations what may go in. `false` while not even the first ones may be sent: a
    /// client that reconnects takes what they hold for all there is.
    fn put_inside(&mut self, state: &mut State, now: Instant) -> bool {
        let waiting = |told: &mut Told| told.resources.is_waiting();
        if state.told(self.number, ResourceType::RouteConfig).is_some_and(waiting) {
            return true;
        }
        let is_first = self.inside.as_ref().is_some_and(|inside| inside.hosts.is_empty());
        let readiness = self.readiness(state, now);
        if is_first
            && now < self.opened + gate::CLUSTERS_DEADLINE
            && !gate::everything_is_held(state, &readiness)
        {
            return false;
        }
        let Some(mut hosts) = state.take(self.number, ResourceType::VirtualHost) else { return true };
        let batch = hosts.resources.next(|change| {
            if is_first {
                Gate::Open
            } else {
                // What lingers is never a virtual host.
                gate::gate(ResourceType::VirtualHost, change, state, &readiness, &mut Lingering::default())
            }
        });
        let full_set = batch.map(|batch| (batch.nonce, hosts.resources.full_set()));
        state.put_back(ResourceType::VirtualHost, hosts);
        let Some((nonce, full_set)) = full_set else { return true };
        let hosts = match full_set {
            FullSet::Desired => self.snapshot.table(ResourceType::VirtualHost).clone(),
            FullSet::These(items) => items.into_iter().map(|item| item.0).collect(),
        };
        self.inside = Some(Inside { hosts, nonce: Some(nonce) });
        let routes = self.desired(ResourceType::RouteConfig);
        if let Some(told) = state.told(self.number, ResourceType::RouteConfig) {
            told.resources.update(routes, None);
        }
        true
    }

    /// What became of the route configurations became of the virtual hosts inside.
    fn settle_inside(&mut self, state: &mut State, error: Option<String>) {
        let Some(nonce) = self.inside.as_mut().and_then(|inside| inside.nonce.take()) else { return };
        let Some(told) = state.told(self.number, ResourceType::VirtualHost) else { return };
        let nonce = nonce.to_string();
        let received =
            told.resources.receive(&DeltaRequest { nonce: &nonce, error, ..DeltaRequest::default() }, false);
        note(told, &received);
    }
}

fn whole_set(told: &TypeStream<Table>) -> (xds::stream::Version, SotwBody) {
    match told.full_set() {
        FullSet::Desired => (told.desired().version(), SotwBody::All(told.desired().clone())),
        FullSet::These(items) => (version_of(items.iter().map(|item| &item.0)), SotwBody::These(items)),
    }
}

fn note(told: &mut Told, received: &Received<Shared>) {
    match received {
        Received::Ack => told.last_ack = Some(SystemTime::now()),
        Received::Nack { message, .. } => told.last_nack = Some((SystemTime::now(), message.clone())),
        Received::Subscription => {}
    }
}

#[cfg(test)]
mod tests;
