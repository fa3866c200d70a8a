//! Make before break, and no route before its policies (invariant 11): what may be sent when.

use std::{collections::HashMap, time::Duration};

use api::{ResourceType, Role};
use resources::{Bundle, Key, Shared, Snapshot};
use tokio::time::Instant;
use xds::stream::{Change, Gate, Name};

use crate::node::{State, is_followed, owner_of};

/// Envoy withholds the ACK of clusters until they are warm, and gives up warming after 15 s
/// (`initial_fetch_timeout`); what waits for that ACK waits no longer than this.
pub(crate) const CLUSTERS_DEADLINE: Duration = Duration::from_secs(20);

/// A request has its route before the sidecars are asked, and looks its cluster up by name after they have answered:
/// so a cluster stays longer than requests are under way to it. The default filters may take 0.6 s in all.
pub(crate) const LINGER: Duration = Duration::from_secs(3);

/// What routes name no more, and until when it stays.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    ends: HashMap<(ResourceType, Name), Instant>,
    /// Not after the first of them: nothing has to be looked for before.
    next: Option<Instant>,
}

impl Lingering {
    /// Whether it may go. Its time begins when the routes of its owner are as they should be.
    fn gate(&mut self, kind: ResourceType, name: &Name, routes_are_settled: bool, now: Instant) -> Gate {
        let key = (kind, name.clone());
        if !routes_are_settled {
            self.ends.remove(&key);
            return Gate::Closed;
        }
        let end = *self.ends.entry(key.clone()).or_insert(now + LINGER);
        if now < end {
            self.next = Some(self.next.map_or(end, |next| next.min(end)));
            return Gate::Later;
        }
        self.ends.remove(&key);
        Gate::Open
    }

    /// When to look again.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Those whose time is over.
    pub(crate) fn ended(&mut self, now: Instant) -> Vec<(ResourceType, Name)> {
        if self.next.is_none_or(|next| now < next) {
            return Vec::new();
        }
        self.next = self.ends.values().filter(|end| now < **end).min().copied();
        self.ends.iter().filter(|(_, end)| now >= **end).map(|(key, _)| key.clone()).collect()
    }

    /// What is wanted again, or changed, has all its time once more.
    pub(crate) fn keep(&mut self, is_parked: impl Fn(ResourceType, &Name) -> bool) {
        self.ends.retain(|(kind, name), _| is_parked(*kind, name));
    }
}

/// What a gate looks at, beside the node's state.
pub(crate) struct Readiness<'a> {
    pub(crate) group: &'a str,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) sidecars: &'a [Role],
    /// Whether what names clusters may go: they are acknowledged, or it has waited long enough.
    pub(crate) clusters_open: bool,
    /// Whether the client had time to say what routes it has.
    pub(crate) is_settled_in: bool,
    pub(crate) now: Instant,
}

/// Whether a change may be sent to a node now.
pub(crate) fn gate(
    kind: ResourceType,
    change: &Change<Shared>,
    state: &State,
    readiness: &Readiness<'_>,
    lingering: &mut Lingering,
) -> Gate {
    let Readiness { group, snapshot, sidecars, clusters_open, is_settled_in, now } = readiness;
    let is_open = match (kind, &change.item) {
        (ResourceType::VirtualHost, Some(item)) => {
            let bundle = item.owner.as_ref().and_then(|owner| snapshot.bundle(owner));
            match bundle {
                Some(bundle) => state.missing_for_routes(bundle, snapshot, sidecars).is_none(),
                None => *clusters_open,
            }
        }
        // Routes and clusters are not warmed together: what names a cluster comes after it (rule 48).
        (ResourceType::Listener | ResourceType::ScopedRoutes | ResourceType::RouteConfig, Some(_)) => {
            *clusters_open
        }
        // Routes are the first to go, and nothing goes that one of them still names.
        // Revocations and guardrails too: no route names one.
        (
            ResourceType::VirtualHost
            | ResourceType::RouteConfig
            | ResourceType::ScopedRoutes
            | ResourceType::AuthnRevocations
            | ResourceType::AuthzGuardrail,
            None,
        )
        | (_, Some(_)) => true,
        (_, None) => {
            let key = Key { kind, name: change.name.clone() };
            match state.of(ResourceType::VirtualHost) {
                Some(_) => {
                    let owner = owner_of(&key);
                    let is_settled = state.routes_are_settled(group, owner, snapshot);
                    if matches!(kind, ResourceType::Cluster | ResourceType::Endpoints) {
                        return lingering.gate(kind, &key.name, is_settled, *now);
                    }
                    is_settled
                }
                // It gets its routes from elsewhere.
                None => *is_settled_in,
            }
        }
    };
    if is_open { Gate::Open } else { Gate::Closed }
}

/// Whether a node's sidecars hold what the routes of a service need; there is no telling in which order a client
/// that polls takes the rest.
pub(crate) fn sidecars_are_ready(
    state: &State,
    bundle: &Bundle,
    snapshot: &Snapshot,
    sidecars: &[Role],
) -> bool {
    match state.missing_for_routes(bundle, snapshot, sidecars) {
        None => true,
        Some(key) => key.kind.role() == Role::Envoy,
    }
}

/// Whether no response with clusters waits for its ACK, or one has for too long.
pub(crate) fn clusters_are_acknowledged(state: &mut State, now: Instant) -> bool {
    if !state.of(ResourceType::Cluster).is_some_and(xds::stream::TypeStream::is_waiting) {
        state.waiting_since = None;
        return true;
    }
    now >= *state.waiting_since.get_or_insert(now) + CLUSTERS_DEADLINE
}

/// Whether to look at each of thousands of virtual hosts is in vain, since what they need is on its way by the
/// thousand too.
pub(crate) fn is_too_early(state: &State, readiness: &Readiness<'_>) -> bool {
    let in_bulk = |kind: ResourceType| state.of(kind).is_some_and(xds::stream::TypeStream::is_in_bulk);
    let needed = [ResourceType::Cluster, ResourceType::Endpoints];
    !readiness.clusters_open && in_bulk(ResourceType::VirtualHost) && needed.into_iter().any(in_bulk)
}

/// Whether a node's processes hold all that routes could need.
pub(crate) fn everything_is_held(state: &State, readiness: &Readiness<'_>) -> bool {
    let needed = ResourceType::ALL.into_iter().filter(|kind| match kind.role() {
        // A client that does not ask for them has them from elsewhere.
        Role::Envoy => {
            matches!(kind, ResourceType::Cluster | ResourceType::Endpoints) && state.of(*kind).is_some()
        }
        _ => is_followed(*kind, readiness.sidecars),
    });
    let mut told = needed.map(|kind| state.of(kind));
    readiness.clusters_open && told.all(|told| told.is_some_and(xds::stream::TypeStream::is_served))
}
