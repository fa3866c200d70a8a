//! One stream: requests and snapshots in, responses out. No IO; `service` carries the messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use api::{ResourceType, Role};
use envoy_types::pb::{
    envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
    },
    google::protobuf::Any,
};
use resources::{Key, Snapshot};
use xds::delta::{Batch, Change, Desired, Gate, Received, TypeStream, Version};

use crate::{
    hub::{Group, Hub},
    metrics::KindLabel,
    node::{Node, owner_of},
};

/// The state of a stream.
pub(crate) struct Session {
    hub: Arc<Hub>,
    node: Arc<Node>,
    role: Role,
    number: u64,
    sidecars: Vec<Role>,
    snapshot: Arc<Snapshot>,
    types: BTreeMap<ResourceType, TypeStream>,
    /// Clusters that were sent before the client asked for endpoints.
    clusters_sent: BTreeSet<String>,
}

/// One type of a snapshot, as the bookkeeping sees it.
struct OfKind<'a>(&'a Snapshot, ResourceType);

impl Desired for OfKind<'_> {
    fn version(&self, name: &str) -> Option<Version> {
        self.0.find(self.1, name).map(|resource| resource.version.clone())
    }

    fn bytes(&self, name: &str) -> usize {
        self.0.find(self.1, name).map_or(0, |resource| resource.body.len())
    }

    fn names(&self) -> Vec<String> {
        self.0.all(self.1).map(|resource| resource.key.name.clone()).collect()
    }
}

impl Session {
    pub(crate) fn new(
        hub: Arc<Hub>,
        node: Arc<Node>,
        role: Role,
        number: u64,
        group: &Group,
        snapshot: Arc<Snapshot>,
    ) -> Self {
        let sidecars = group.sidecars.clone();
        Self {
            hub,
            node,
            role,
            number,
            sidecars,
            snapshot,
            types: BTreeMap::new(),
            clusters_sent: BTreeSet::new(),
        }
    }

    /// Takes in a request. A type that is unknown, or another role's, is not answered: a client of a newer
    /// release may ask for it, and must not lose its stream.
    pub(crate) fn receive(&mut self, request: &DeltaDiscoveryRequest) {
        let Some(kind) = ResourceType::from_url(&request.type_url).filter(|kind| kind.role() == self.role)
        else {
            tracing::debug!(node = self.node.id, role = %self.role, type_url = request.type_url, "not served here");
            return;
        };
        let first = !self.types.contains_key(&kind);
        tracing::debug!(
            node = self.node.id, role = %self.role, %kind, first, nonce = request.response_nonce,
            subscribe = ?request.resource_names_subscribe, unsubscribe = ?request.resource_names_unsubscribe,
            brought = request.initial_resource_versions.len(), nack = request.error_detail.is_some(), "request"
        );
        let stream = self.types.entry(kind).or_insert_with(|| TypeStream::new(kind));
        let received = stream.receive(request, first, &OfKind(&self.snapshot, kind));
        if first && kind == ResourceType::Endpoints {
            // It brought them along and has them, but the clusters that it just got wait for them (rule 44).
            for cluster in std::mem::take(&mut self.clusters_sent) {
                stream.resend(&cluster);
            }
        }
        match &received {
            Received::Ack(changes) if names_nothing(request) => self.record_ack(kind, changes),
            // Subscribing again makes the client forget what it held.
            Received::Subscription if !first && names_nothing(request) => {}
            _ => self.record_all(kind),
        }
        if let Received::Nack { changes, message } = received {
            self.hub.metrics.nacks.get_or_create(&KindLabel { kind: kind.label() }).inc();
            let resources: Vec<_> = changes.iter().take(3).map(|change| change.name.as_str()).collect();
            tracing::warn!(
                node = self.node.id, role = %self.role, %kind, resources = resources.join(", "), of = changes.len(),
                error = message, "refused"
            );
        }
    }

    /// Tells the node's other streams, and the hub, what this one has just acknowledged.
    fn record_ack(&self, kind: ResourceType, changes: &[Change]) {
        self.node.record(self.role, self.number, |state| {
            for Change { name, version } in changes {
                let key = Key { kind, name: name.clone() };
                state.refused.remove(&key);
                match version {
                    Some(version) => state.held.insert(key, version.clone()),
                    None => state.held.remove(&key),
                };
            }
        });
        self.hub.announce();
    }

    /// Tells them everything that this stream holds and refused of a type.
    fn record_all(&self, kind: ResourceType) {
        let Some(stream) = self.types.get(&kind) else { return };
        let key = |name: &String| Key { kind, name: name.clone() };
        self.node.record(self.role, self.number, |state| {
            state.heard.insert(kind);
            state.held.retain(|held, _| held.kind != kind);
            state.held.extend(stream.all_held().iter().map(|(name, version)| (key(name), version.clone())));
            state.refused.retain(|refused, _| refused.kind != kind);
            state.refused.extend(stream.refused().iter().map(|(name, refused)| (key(name), refused.clone())));
        });
        self.hub.announce();
    }

    /// A new snapshot: notes what may have to be sent.
    pub(crate) fn update(&mut self, snapshot: Arc<Snapshot>) {
        let before = std::mem::replace(&mut self.snapshot, snapshot).generation();
        match self.snapshot.changed_since(before) {
            Some(changed) => {
                for key in changed {
                    if let Some(stream) = self.types.get_mut(&key.kind) {
                        stream.touch(&key.name);
                    }
                }
            }
            None => {
                for (kind, stream) in &mut self.types {
                    stream.touch_all(&OfKind(&self.snapshot, *kind));
                }
            }
        }
    }

    /// What can be sent now, in the order of pushes.
    pub(crate) fn responses(&mut self) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        for kind in ResourceType::ALL {
            let Some(stream) = self.types.get_mut(&kind) else { continue };
            let (snapshot, node, sidecars) = (&self.snapshot, &self.node, &self.sidecars);
            let batch =
                stream.next(&OfKind(snapshot, kind), |change| gate(kind, change, snapshot, node, sidecars));
            let Some(batch) = batch else { continue };
            if kind == ResourceType::Cluster {
                self.push_endpoints_of(&batch);
            }
            responses.push(self.response(kind, batch));
        }
        responses
    }

    /// A delta client does not ask again for the endpoints of a changed cluster, and warms it until they come
    /// (rule 43).
    fn push_endpoints_of(&mut self, clusters: &Batch) {
        let changed = clusters.changes.iter().filter(|change| change.version.is_some());
        match self.types.get_mut(&ResourceType::Endpoints) {
            Some(endpoints) => changed.for_each(|cluster| endpoints.resend(&cluster.name)),
            None => self.clusters_sent.extend(changed.map(|cluster| cluster.name.clone())),
        }
    }

    fn response(&self, kind: ResourceType, batch: Batch) -> DeltaDiscoveryResponse {
        let sent = u64::try_from(batch.changes.len()).unwrap_or(u64::MAX);
        self.hub.metrics.resources_sent.get_or_create(&KindLabel { kind: kind.label() }).inc_by(sent);
        tracing::debug!(node = self.node.id, role = %self.role, %kind, nonce = batch.nonce, changes = ?batch.changes, "response");
        let mut response = DeltaDiscoveryResponse {
            type_url: kind.url(),
            nonce: batch.nonce,
            system_version_info: self.snapshot.generation().to_string(),
            ..Default::default()
        };
        for Change { name, version } in batch.changes {
            match version.and_then(|_| self.snapshot.find(kind, &name)) {
                Some(resource) => response.resources.push(WireResource {
                    name,
                    version: resource.version.to_string(),
                    resource: Some(Any { type_url: kind.url(), value: resource.body.to_vec() }),
                    ..Default::default()
                }),
                None => response.removed_resources.push(name),
            }
        }
        response
    }
}

fn names_nothing(request: &DeltaDiscoveryRequest) -> bool {
    request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty()
}

/// Make before break, and no route before its policies (invariant 11).
fn gate(kind: ResourceType, change: &Change, snapshot: &Snapshot, node: &Node, sidecars: &[Role]) -> Gate {
    let key = Key { kind, name: change.name.clone() };
    let open = match (kind, &change.version) {
        (ResourceType::VirtualHost, Some(_)) => {
            let owner = snapshot.get(&key).and_then(|resource| resource.owner.as_ref());
            let bundle = owner.and_then(|owner| snapshot.bundle(owner));
            bundle.is_none_or(|bundle| node.missing_for_routes(bundle, snapshot, sidecars).is_none())
        }
        // Routes are the first to go, and nothing goes that one of them still names.
        (ResourceType::VirtualHost, None) | (_, Some(_)) => true,
        (_, None) => node.routes_are_settled(owner_of(&key), snapshot),
    };
    if open { Gate::Open } else { Gate::Closed }
}
