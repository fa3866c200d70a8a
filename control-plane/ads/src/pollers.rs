//! Nodes that poll: what each was served, and what it has thereby accepted.
//!
//! A poll says which version the node accepted last. If that is the one that it was served, it has it; if it goes on
//! asking with an older one, it must have refused it, though it never says so (rule 61).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::ResourceType;
use model::{InstanceId, fleet::Standing};
use resources::{Bundle, Snapshot, Table, compose};
use tokio::time::Instant;
use xds::stream::{Desired, Version};

use crate::{
    asker::Asker,
    view::{NodeView, RoleView, TypeView},
};

/// All nodes that polled lately.
#[derive(Debug, Default)]
pub(crate) struct Pollers(Mutex<HashMap<String, Poller>>);

/// A node that has not polled for so long is gone: Envoy polls every few seconds.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// Far more than a replica could answer; whoever comes on top is served, and not counted.
const MAX_POLLERS: usize = 100_000;
/// Envoy polls once with the old version while it is taking in the new one; more often it must have refused it.
const POLLS_OF_DOUBT: u32 = 3;

#[derive(Debug)]
struct Poller {
    group: String,
    user_agent: String,
    last_seen: Instant,
    /// What it is served.
    snapshot: Arc<Snapshot>,
    /// The virtual hosts inside the routes that it was served last, and those routes.
    routes: Option<(Table, Table)>,
    /// The virtual hosts inside the routes that it accepted.
    hosts: Table,
    types: BTreeMap<ResourceType, Polled>,
}

#[derive(Debug)]
struct Polled {
    served: Version,
    served_table: Table,
    served_hosts: Table,
    accepted: Option<Table>,
    accepted_at: Option<Instant>,
    /// Polls in a row that asked with another version than the one served before.
    doubts: u32,
    error: Option<String>,
}

/// One poll, as it is answered.
pub(crate) struct Poll<'a> {
    pub(crate) kind: ResourceType,
    pub(crate) asked: &'a str,
    pub(crate) error: Option<String>,
    pub(crate) served: Version,
    pub(crate) table: Table,
    pub(crate) snapshot: Arc<Snapshot>,
}

impl Pollers {
    fn nodes(&self) -> MutexGuard<'_, HashMap<String, Poller>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The route configurations of a node, with the virtual hosts inside that may go in. The first time all do:
    /// without its control plane's memory it must not lose those that it has.
    pub(crate) fn routes(
        &self,
        asker: &Asker<'_>,
        snapshot: &Snapshot,
        is_ready: impl Fn(&Bundle) -> bool,
    ) -> Table {
        let wanted = snapshot.table(ResourceType::VirtualHost);
        let known = self.nodes().get(&asker.facts.id).and_then(|node| node.routes.clone());
        let Some((before, routes)) = known else { return snapshot.composed_routes().clone() };
        if before.is_same(wanted) {
            return snapshot.composed_routes().clone();
        }
        let hosts = step(&before, wanted, snapshot, is_ready);
        if is_equal(&hosts, wanted) {
            return snapshot.composed_routes().clone();
        }
        if is_equal(&hosts, &before) && !routes.is_empty() {
            return routes;
        }
        let routes = compose(snapshot.table(ResourceType::RouteConfig), &hosts);
        if let Some(node) = self.nodes().get_mut(&asker.facts.id) {
            node.routes = Some((hosts, routes.clone()));
        }
        routes
    }

    /// Takes down a poll and its answer. Whether the node has something now that it did not have before.
    pub(crate) fn note(&self, asker: &Asker<'_>, poll: Poll<'_>) -> bool {
        let now = Instant::now();
        let mut nodes = self.nodes();
        if !nodes.contains_key(&asker.facts.id) {
            if nodes.len() >= MAX_POLLERS {
                nodes.retain(|_, node| now < node.last_seen + GONE_AFTER);
            }
            if nodes.len() >= MAX_POLLERS {
                return false;
            }
        }
        let node = nodes.entry(asker.facts.id.clone()).or_insert_with(|| Poller {
            group: asker.served.group.name.clone(),
            user_agent: asker.user_agent.clone(),
            last_seen: now,
            snapshot: poll.snapshot.clone(),
            routes: None,
            hosts: Table::default(),
            types: BTreeMap::new(),
        });
        node.last_seen = now;
        node.user_agent.clone_from(&asker.user_agent);
        node.snapshot = poll.snapshot.clone();
        if poll.kind == ResourceType::RouteConfig && poll.table.is_same(poll.snapshot.composed_routes()) {
            let hosts = poll.snapshot.table(ResourceType::VirtualHost).clone();
            node.routes = Some((hosts, poll.table.clone()));
        }
        let hosts = node.routes.as_ref().map(|(hosts, _)| hosts.clone()).unwrap_or_default();
        let polled = node.types.entry(poll.kind).or_insert_with(|| Polled {
            served: Version::from(""),
            served_table: Table::default(),
            served_hosts: Table::default(),
            accepted: None,
            accepted_at: None,
            doubts: 0,
            error: None,
        });
        let mut news = false;
        if !poll.asked.is_empty() && (*polled.served == *poll.asked || *poll.served == *poll.asked) {
            let (table, inside) = if *poll.served == *poll.asked {
                (poll.table.clone(), hosts.clone())
            } else {
                (polled.served_table.clone(), polled.served_hosts.clone())
            };
            news = polled.accepted.as_ref().is_none_or(|accepted| !accepted.is_same(&table));
            (polled.accepted, polled.accepted_at, polled.doubts) = (Some(table), Some(now), 0);
            if poll.kind == ResourceType::RouteConfig {
                node.hosts = inside;
            }
        } else if !polled.served.is_empty() {
            polled.doubts = polled.doubts.saturating_add(1);
        }
        polled.error = poll.error;
        (polled.served, polled.served_table, polled.served_hosts) = (poll.served, poll.table, hosts);
        news
    }

    /// How many nodes of a group polled lately.
    pub(crate) fn count(&self, group: &str) -> usize {
        let now = Instant::now();
        self.nodes().values().filter(|node| node.group == group && node.is_here(now)).count()
    }

    /// Adds what the nodes of a group hold of a service.
    pub(crate) fn add_to(&self, standing: &mut Standing, group: &str, id: &InstanceId) {
        let now = Instant::now();
        let nodes = self.nodes();
        for (name, node) in nodes.iter().filter(|(_, node)| node.group == group && node.is_here(now)) {
            match node.holds(id, standing.rev) {
                Ok(()) => standing.acknowledged += 1,
                Err(what) => {
                    standing.waiting.get_or_insert_with(|| format!("{name} to poll {what}"));
                }
            }
        }
    }

    /// One of them, for operators.
    pub(crate) fn view(&self, id: &str) -> Option<NodeView> {
        let now = Instant::now();
        self.nodes().get(id).filter(|node| node.is_here(now)).map(|node| node.view(id, now))
    }

    /// Each of them, for operators.
    pub(crate) fn views(&self) -> Vec<NodeView> {
        let now = Instant::now();
        let nodes = self.nodes();
        nodes.iter().filter(|(_, node)| node.is_here(now)).map(|(id, node)| node.view(id, now)).collect()
    }
}

impl Poller {
    fn is_here(&self, now: Instant) -> bool {
        now < self.last_seen + GONE_AFTER
    }

    fn holds(&self, id: &InstanceId, rev: Option<u64>) -> Result<(), String> {
        let bundle = self.snapshot.bundle(id);
        if bundle.map(|bundle| bundle.rev) != rev {
            return Err("it".into());
        }
        let accepted = |kind: ResourceType| match kind {
            ResourceType::VirtualHost => Some(&self.hosts),
            kind => self.types.get(&kind).and_then(|polled| polled.accepted.as_ref()),
        };
        let Some(bundle) = bundle else {
            let left = self.hosts.resources().any(|host| host.owner.as_ref() == Some(id));
            return if left { Err("routes without it".into()) } else { Ok(()) };
        };
        let counts = |kind: ResourceType| {
            kind.role() == api::Role::Envoy && kind != ResourceType::Secret && kind != ResourceType::Endpoints
        };
        let lacking = bundle.resources.iter().filter(|wanted| counts(wanted.key.kind)).find(|wanted| {
            let held = accepted(wanted.key.kind).and_then(|table| table.find(&wanted.key.name));
            held.is_none_or(|held| held.version != wanted.version)
        });
        lacking.map_or(Ok(()), |wanted| Err(wanted.key.to_string()))
    }

    fn view(&self, id: &str, now: Instant) -> NodeView {
        let mut role = RoleView { connected: true, ..RoleView::default() };
        for (kind, polled) in &self.types {
            let held = polled.accepted.as_ref().map_or(0, xds::stream::Desired::len);
            role.acknowledged += held;
            if polled.doubts >= POLLS_OF_DOUBT || polled.error.is_some() {
                let words = polled.error.clone().unwrap_or_else(|| {
                    let version = &polled.served;
                    format!(
                        "it was served {version} and goes on polling with another version: see Envoy's log"
                    )
                });
                role.refused.insert(kind.to_string(), words);
            }
            role.types.insert(
                kind.label().to_owned(),
                TypeView {
                    version: polled.served.to_string(),
                    in_sync: polled.doubts == 0 && polled.accepted.is_some(),
                    held,
                    desired: polled.served_table.len(),
                    last_ack_secs: polled.accepted_at.map(|at| now.duration_since(at).as_secs()),
                    last_nack: None,
                },
            );
        }
        NodeView {
            node: id.to_owned(),
            group: self.group.clone(),
            user_agent: self.user_agent.clone(),
            roles: BTreeMap::from([("envoy".to_owned(), role)]),
        }
    }
}

/// Changes what may be changed, and leaves the rest as it was.
fn step(before: &Table, wanted: &Table, snapshot: &Snapshot, is_ready: impl Fn(&Bundle) -> bool) -> Table {
    let mut hosts = before.edit();
    for host in wanted.resources() {
        if before.find(&host.key.name).is_some_and(|held| held.version == host.version) {
            continue;
        }
        let bundle = host.owner.as_ref().and_then(|owner| snapshot.bundle(owner));
        if bundle.is_none_or(|bundle| is_ready(bundle)) {
            hosts.insert(host.clone());
        }
    }
    for gone in before.resources().filter(|host| wanted.find(&host.key.name).is_none()) {
        hosts.remove(&gone.key.name);
    }
    hosts.done()
}

fn is_equal(one: &Table, other: &Table) -> bool {
    one.version() == other.version()
}
