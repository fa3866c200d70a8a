//! What a server knows of one type on one stream: subscription, versions that the client holds, the response
//! under way, and what the client has refused. No IO, and no resource bodies.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use api::ResourceType;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

/// The version of a resource: the hash of its content.
pub type Version = Arc<str>;

/// What a server would have its clients hold.
pub trait Desired {
    /// The version of this resource, if there is one.
    fn version(&self, name: &str) -> Option<Version>;
    /// The size of its body.
    fn bytes(&self, name: &str) -> usize;
    /// The names of all resources of the type.
    fn names(&self) -> Vec<String>;
}

/// Whether a change may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Yes.
    Open,
    /// Not before something else has been acknowledged; ask again then.
    Closed,
}

/// One type on one stream.
#[derive(Debug)]
pub struct TypeStream {
    kind: ResourceType,
    wildcard: bool,
    names: BTreeSet<String>,
    held: HashMap<String, Version>,
    refused: HashMap<String, Refused>,
    in_flight: Option<InFlight>,
    /// Names whose state may differ from what is desired.
    dirty: BTreeSet<String>,
    /// Names in flight that have to be sent once more after this.
    again: BTreeSet<String>,
    /// Names that were asked for and do not exist, and were not yet told so.
    missing: BTreeSet<String>,
    /// Parts of a refused response that are tried by themselves, to find the one that was meant.
    suspects: VecDeque<BTreeSet<String>>,
    /// The client's initialisation waits for a first response, even an empty one.
    answered: bool,
    nonce: u64,
}

/// A version that this client will not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub version: Version,
    /// The client's words.
    pub message: String,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    changes: Vec<Change>,
}

/// A resource to be sent (`Some`) or removed (`None`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub name: String,
    /// The version that the client is to hold.
    pub version: Option<Version>,
}

/// A response to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Unique within the stream and type.
    pub nonce: String,
    /// In the order of names.
    pub changes: Vec<Change>,
}

/// What a request said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// Only subscriptions, or nothing new.
    Subscription,
    /// The response under way was accepted.
    Ack(Vec<Change>),
    /// It was refused. With one change it is now known which one; with more, each half is tried by itself.
    Nack {
        /// What was refused.
        changes: Vec<Change>,
        /// The client's words.
        message: String,
    },
}

/// Resources in one response.
const MAX_CHANGES: usize = 1_000;
/// Bodies in one response, unless one alone is larger: a client reads 4 MiB at once by default.
const MAX_BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Names that one stream may subscribe to for one type; an honest Envoy asks for a few thousand.
const MAX_NAMES: usize = 100_000;

impl TypeStream {
    /// A type that was not yet asked for.
    pub fn new(kind: ResourceType) -> Self {
        Self {
            kind,
            wildcard: false,
            names: BTreeSet::new(),
            held: HashMap::new(),
            refused: HashMap::new(),
            in_flight: None,
            dirty: BTreeSet::new(),
            again: BTreeSet::new(),
            missing: BTreeSet::new(),
            suspects: VecDeque::new(),
            answered: false,
            nonce: 0,
        }
    }

    /// Takes in a request. `first` on the stream for this type: only then do an empty subscription and
    /// `initial_resource_versions` mean something.
    pub fn receive(
        &mut self,
        request: &DeltaDiscoveryRequest,
        first: bool,
        desired: &dyn Desired,
    ) -> Received {
        if first {
            for (name, version) in &request.initial_resource_versions {
                self.held.insert(name.clone(), version.as_str().into());
                self.dirty.insert(name.clone());
            }
        }
        let received = self.settle(request);
        // Subscriptions count even in a stale request or a NACK.
        self.subscribe(request, first, desired);
        received
    }

    fn settle(&mut self, request: &DeltaDiscoveryRequest) -> Received {
        let Some(in_flight) = self.in_flight.take_if(|sent| sent.nonce == request.response_nonce) else {
            return Received::Subscription;
        };
        let changes = in_flight.changes;
        match &request.error_detail {
            None => {
                for change in &changes {
                    if self.again.remove(&change.name) {
                        continue;
                    }
                    match &change.version {
                        Some(version) => self.held.insert(change.name.clone(), version.clone()),
                        None => self.held.remove(&change.name),
                    };
                    self.refused.remove(&change.name);
                }
                Received::Ack(changes)
            }
            Some(status) => {
                self.refuse(&changes, &status.message);
                Received::Nack { changes, message: status.message.clone() }
            }
        }
    }

    /// The same content is never sent again to a client that refused it alone. A response of several is
    /// halved, so that the good ones arrive and the bad one is found, in a bounded number of tries.
    fn refuse(&mut self, changes: &[Change], message: &str) {
        if let [change] = changes {
            if let Some(version) = &change.version {
                let refused = Refused { version: version.clone(), message: message.to_owned() };
                self.refused.insert(change.name.clone(), refused);
            }
            return;
        }
        let (left, right) = changes.split_at(changes.len() / 2);
        for half in [left, right] {
            self.suspects.push_back(half.iter().map(|change| change.name.clone()).collect());
        }
    }

    fn subscribe(&mut self, request: &DeltaDiscoveryRequest, first: bool, desired: &dyn Desired) {
        if first && request.resource_names_subscribe.is_empty() && self.allows_legacy_wildcard() {
            self.want_all(desired);
        }
        for name in &request.resource_names_subscribe {
            if name == "*" {
                self.want_all(desired);
            } else if self.names.len() < MAX_NAMES || desired.version(name).is_some() {
                // Names of nothing are bounded (a client's clients can make them up); those of something are not.
                self.want(name, first, desired);
            }
        }
        for name in &request.resource_names_unsubscribe {
            if name == "*" {
                self.wildcard = false;
            } else if self.names.remove(name) {
                self.missing.remove(name);
            }
            // With a wildcard still active the resource stays wanted, and is told again (rule 37).
            self.held.remove(name);
            self.dirty.insert(name.clone());
        }
    }

    fn want_all(&mut self, desired: &dyn Desired) {
        self.wildcard = true;
        self.dirty.extend(desired.names());
    }

    fn want(&mut self, name: &str, first: bool, desired: &dyn Desired) {
        self.names.insert(name.to_owned());
        // A name that is subscribed to again was forgotten by the client; but on a new stream
        // `initial_resource_versions` says what it still has.
        if !first {
            self.held.remove(name);
        }
        if desired.version(name).is_none() {
            self.missing.insert(name.to_owned());
        }
        self.dirty.insert(name.to_owned());
    }

    /// Only these may mean everything by naming nothing; for the others an empty list is nothing. Envoy 1.40
    /// names no virtual hosts either: it takes all that are pushed under the name of a route configuration.
    fn allows_legacy_wildcard(&self) -> bool {
        matches!(self.kind, ResourceType::Cluster | ResourceType::Listener | ResourceType::VirtualHost)
    }

    /// Whether the client asked for this resource, by name or by wildcard.
    pub fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// A resource was added, changed or removed.
    pub fn touch(&mut self, name: &str) {
        if self.wants(name) || self.held.contains_key(name) {
            self.dirty.insert(name.to_owned());
        }
    }

    /// The client needs this resource once more, though it has it, or is being sent it.
    pub fn resend(&mut self, name: &str) {
        if !self.wants(name) {
            return;
        }
        self.held.remove(name);
        self.dirty.insert(name.to_owned());
        let in_flight = self.in_flight.iter().flat_map(|sent| &sent.changes);
        if in_flight.into_iter().any(|change| change.name == name) {
            self.again.insert(name.to_owned());
        }
    }

    /// Everything may have changed.
    pub fn touch_all(&mut self, desired: &dyn Desired) {
        let wanted: Vec<_> = desired.names().into_iter().filter(|name| self.wants(name)).collect();
        self.dirty.extend(wanted);
        self.dirty.extend(self.held.keys().cloned());
    }

    /// The next response, if there is something to say and none is under way. What the gate closes stays
    /// for the next call.
    pub fn next(&mut self, desired: &dyn Desired, mut gate: impl FnMut(&Change) -> Gate) -> Option<Batch> {
        if self.in_flight.is_some() {
            return None;
        }
        let mut changes = Vec::new();
        while let Some(suspects) = self.suspects.pop_front() {
            changes = self.select(suspects, desired, &mut gate);
            if !changes.is_empty() {
                break;
            }
        }
        if changes.is_empty() {
            let dirty = std::mem::take(&mut self.dirty);
            changes = self.select(dirty, desired, &mut gate);
            changes.extend(self.missing_names(&changes));
        }
        if changes.is_empty() && self.answered {
            return None;
        }
        self.answered = true;
        self.nonce += 1;
        let batch = Batch { nonce: self.nonce.to_string(), changes };
        self.in_flight = Some(InFlight { nonce: batch.nonce.clone(), changes: batch.changes.clone() });
        Some(batch)
    }

    /// What of these names can be sent now; the rest goes back.
    fn select(
        &mut self,
        names: BTreeSet<String>,
        desired: &dyn Desired,
        gate: &mut impl FnMut(&Change) -> Gate,
    ) -> Vec<Change> {
        let (mut changes, mut batch_bytes) = (Vec::new(), 0);
        for name in names {
            // Remembered for as long as there could be a reason to send it again.
            if desired.version(&name).is_none() {
                self.refused.remove(&name);
            }
            let Some(change) = self.difference(&name, desired) else { continue };
            let bytes = change.version.as_ref().map_or(0, |_| desired.bytes(&name));
            let fits = changes.is_empty() || batch_bytes + bytes <= MAX_BATCH_BYTES;
            if fits && changes.len() < MAX_CHANGES && gate(&change) == Gate::Open {
                batch_bytes += bytes;
                changes.push(change);
            } else {
                self.dirty.insert(name);
            }
        }
        changes
    }

    fn difference(&self, name: &str, desired: &dyn Desired) -> Option<Change> {
        let version = desired.version(name).filter(|_| self.wants(name));
        let held = self.held.get(name);
        if version.as_ref() == held {
            return None;
        }
        let refused = self.refused.get(name).map(|refused| &refused.version);
        if version.is_some() && version.as_ref() == refused {
            return None;
        }
        Some(Change { name: name.to_owned(), version })
    }

    fn missing_names(&mut self, changes: &[Change]) -> Vec<Change> {
        let missing = std::mem::take(&mut self.missing);
        let told: BTreeSet<_> = changes.iter().map(|change| change.name.as_str()).collect();
        missing
            .into_iter()
            .filter(|name| !told.contains(name.as_str()) && !self.held.contains_key(name))
            .map(|name| Change { name, version: None })
            .collect()
    }

    /// What the client has acknowledged, or brought along.
    pub fn all_held(&self) -> &HashMap<String, Version> {
        &self.held
    }

    /// What the client refused, and was not replaced since.
    pub fn refused(&self) -> &HashMap<String, Refused> {
        &self.refused
    }
}

#[cfg(test)]
mod tests;
