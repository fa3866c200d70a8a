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

/// Resources in one response. Bodies are about 1 KB, and a client reads 4 MiB at once by default.
const MAX_CHANGES: usize = 1_000;
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
            } else if self.names.len() < MAX_NAMES {
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

    /// The client needs this resource once more, though it has it.
    pub fn resend(&mut self, name: &str) {
        if self.wants(name) {
            self.held.remove(name);
            self.dirty.insert(name.to_owned());
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
        let mut changes = Vec::new();
        for name in names {
            // Remembered for as long as there could be a reason to send it again.
            if desired.version(&name).is_none() {
                self.refused.remove(&name);
            }
            let Some(change) = self.difference(&name, desired) else { continue };
            if changes.len() < MAX_CHANGES && gate(&change) == Gate::Open {
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

    /// The version that the client has acknowledged, or brought along.
    pub fn held(&self, name: &str) -> Option<&Version> {
        self.held.get(name)
    }

    /// What the client holds.
    pub fn all_held(&self) -> &HashMap<String, Version> {
        &self.held
    }

    /// What the client refused, and was not replaced since.
    pub fn refused(&self) -> &HashMap<String, Refused> {
        &self.refused
    }

    /// Whether a response waits for its ACK.
    pub fn is_waiting(&self) -> bool {
        self.in_flight.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use envoy_types::pb::google::rpc::Status;

    use super::*;

    #[derive(Default, Clone)]
    struct World(BTreeMap<String, Version>);

    impl World {
        fn of(resources: &[(&str, &str)]) -> Self {
            Self(resources.iter().map(|(name, version)| ((*name).to_owned(), (*version).into())).collect())
        }
    }

    impl Desired for World {
        fn version(&self, name: &str) -> Option<Version> {
            self.0.get(name).cloned()
        }
        fn names(&self) -> Vec<String> {
            self.0.keys().cloned().collect()
        }
    }

    fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
        let names = names.iter().map(ToString::to_string).collect();
        DeltaDiscoveryRequest { resource_names_subscribe: names, ..Default::default() }
    }

    fn reply(nonce: &str, error: Option<&str>) -> DeltaDiscoveryRequest {
        let error_detail = error.map(|message| Status { message: message.into(), ..Default::default() });
        DeltaDiscoveryRequest { response_nonce: nonce.into(), error_detail, ..Default::default() }
    }

    fn open(_: &Change) -> Gate {
        Gate::Open
    }

    /// The next response as text: `+name@version`, `-name`.
    fn sent(stream: &mut TypeStream, world: &World) -> Option<(String, String)> {
        stream.next(world, open).map(|batch| (batch.nonce, shown(&batch.changes)))
    }

    fn shown(changes: &[Change]) -> String {
        let one = |change: &Change| match &change.version {
            Some(version) => format!("+{}@{version}", change.name),
            None => format!("-{}", change.name),
        };
        changes.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    fn accept(stream: &mut TypeStream, world: &World) -> String {
        let (nonce, text) = sent(stream, world).expect("a response");
        stream.receive(&reply(&nonce, None), false, world);
        text
    }

    #[test]
    fn an_empty_first_request_for_clusters_means_all() {
        let world = World::of(&[("a", "1"), ("b", "1")]);
        let mut stream = TypeStream::new(ResourceType::Cluster);
        stream.receive(&subscribe(&[]), true, &world);
        assert_eq!(accept(&mut stream, &world), "+a@1 +b@1");
        assert_eq!(sent(&mut stream, &world), None);
    }

    #[test]
    fn an_empty_first_request_for_endpoints_means_nothing_and_is_answered() {
        let world = World::of(&[("a", "1")]);
        let mut stream = TypeStream::new(ResourceType::Endpoints);
        stream.receive(&subscribe(&[]), true, &world);
        assert_eq!(accept(&mut stream, &world), "");
    }

    #[test]
    fn only_what_changed_is_sent() {
        let mut world = World::of(&[("a", "1"), ("b", "1")]);
        let mut stream = TypeStream::new(ResourceType::Cluster);
        stream.receive(&subscribe(&["*"]), true, &world);
        accept(&mut stream, &world);
        world.0.insert("b".into(), "2".into());
        world.0.remove("a");
        stream.touch("a");
        stream.touch("b");
        assert_eq!(accept(&mut stream, &world), "-a +b@2");
    }

    #[test]
    fn a_client_that_comes_back_gets_only_the_difference() {
        let world = World::of(&[("a", "1"), ("b", "2")]);
        let mut stream = TypeStream::new(ResourceType::Cluster);
        let mut request = subscribe(&[]);
        request.initial_resource_versions =
            HashMap::from([("a".into(), "1".into()), ("b".into(), "1".into()), ("gone".into(), "1".into())]);
        stream.receive(&request, true, &world);
        assert_eq!(accept(&mut stream, &world), "+b@2 -gone");
    }

    #[test]
    fn a_missing_name_is_told_once_and_stays_watched() {
        let mut world = World::default();
        let mut stream = TypeStream::new(ResourceType::Secret);
        stream.receive(&subscribe(&["a"]), true, &world);
        assert_eq!(accept(&mut stream, &world), "-a");
        assert_eq!(sent(&mut stream, &world), None);
        world.0.insert("a".into(), "1".into());
        stream.touch("a");
        assert_eq!(accept(&mut stream, &world), "+a@1");
    }

    #[test]
    fn a_name_that_is_subscribed_to_again_is_sent_again() {
        let world = World::of(&[("a", "1")]);
        let mut stream = TypeStream::new(ResourceType::Endpoints);
        stream.receive(&subscribe(&["a"]), true, &world);
        accept(&mut stream, &world);
        stream.receive(&subscribe(&["a"]), false, &world);
        assert_eq!(accept(&mut stream, &world), "+a@1");
    }

    #[test]
    fn an_unsubscribed_name_is_not_sent() {
        let mut world = World::of(&[("a", "1")]);
        let mut stream = TypeStream::new(ResourceType::Endpoints);
        stream.receive(&subscribe(&["a"]), true, &world);
        accept(&mut stream, &world);
        let request =
            DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["a".into()], ..Default::default() };
        stream.receive(&request, false, &world);
        world.0.insert("a".into(), "2".into());
        stream.touch("a");
        assert_eq!(sent(&mut stream, &world), None);
    }

    #[test]
    fn virtual_hosts_are_pushed_unasked() {
        let mut world = World::of(&[("edge/i-1", "1")]);
        let mut stream = TypeStream::new(ResourceType::VirtualHost);
        stream.receive(&subscribe(&[]), true, &world);
        assert_eq!(accept(&mut stream, &world), "+edge/i-1@1");
        world.0.insert("edge/i-3".into(), "1".into());
        stream.touch("edge/i-3");
        assert_eq!(accept(&mut stream, &world), "+edge/i-3@1");
    }

    #[test]
    fn a_stale_nonce_settles_nothing_but_its_subscriptions_count() {
        let world = World::of(&[("a", "1"), ("b", "1")]);
        let mut stream = TypeStream::new(ResourceType::Endpoints);
        stream.receive(&subscribe(&["a"]), true, &world);
        let (nonce, _) = sent(&mut stream, &world).unwrap();
        let mut stale = reply("99", None);
        stale.resource_names_subscribe = vec!["b".into()];
        assert_eq!(stream.receive(&stale, false, &world), Received::Subscription);
        assert!(stream.is_waiting());
        stream.receive(&reply(&nonce, None), false, &world);
        assert_eq!(accept(&mut stream, &world), "+b@1");
    }

    #[test]
    fn refused_content_is_not_sent_again_until_it_changes() {
        let mut world = World::of(&[("a", "1")]);
        let mut stream = TypeStream::new(ResourceType::Cluster);
        stream.receive(&subscribe(&[]), true, &world);
        let (nonce, _) = sent(&mut stream, &world).unwrap();
        let nack = stream.receive(&reply(&nonce, Some("bad a")), false, &world);
        assert!(matches!(nack, Received::Nack { message, .. } if message == "bad a"));
        stream.touch_all(&world);
        assert_eq!(sent(&mut stream, &world), None);
        assert_eq!(stream.refused()["a"].message, "bad a");
        world.0.insert("a".into(), "2".into());
        stream.touch("a");
        assert_eq!(accept(&mut stream, &world), "+a@2");
        assert!(stream.refused().is_empty());
    }

    #[test]
    fn the_bad_one_of_many_is_found_and_the_good_ones_arrive() {
        let names: Vec<_> = (0..10).map(|at| format!("r{at}")).collect();
        let world = World(names.iter().map(|name| (name.clone(), "1".into())).collect());
        let mut stream = TypeStream::new(ResourceType::Cluster);
        stream.receive(&subscribe(&[]), true, &world);
        let mut tries = 0;
        while let Some((nonce, text)) = sent(&mut stream, &world) {
            tries += 1;
            let error = text.contains("+r7@").then_some("r7 is bad");
            stream.receive(&reply(&nonce, error), false, &world);
            assert!(tries <= 10, "the search must end");
        }
        assert_eq!(stream.refused().keys().collect::<Vec<_>>(), ["r7"]);
        assert_eq!(stream.all_held().len(), 9);
    }

    #[test]
    fn what_the_gate_closes_is_sent_when_it_opens() {
        let world = World::of(&[("a", "1"), ("b", "1")]);
        let mut stream = TypeStream::new(ResourceType::Cluster);
        stream.receive(&subscribe(&[]), true, &world);
        let batch =
            stream.next(&world, |change| if change.name == "a" { Gate::Closed } else { Gate::Open }).unwrap();
        assert_eq!(shown(&batch.changes), "+b@1");
        stream.receive(&reply(&batch.nonce, None), false, &world);
        assert_eq!(accept(&mut stream, &world), "+a@1");
    }

    #[test]
    fn many_resources_travel_in_bounded_responses() {
        let names = (0..2 * MAX_CHANGES + 1).map(|at| (format!("r{at:05}"), "1".into()));
        let world = World(names.collect());
        let mut stream = TypeStream::new(ResourceType::Cluster);
        stream.receive(&subscribe(&[]), true, &world);
        let mut sizes = Vec::new();
        while let Some(batch) = stream.next(&world, open) {
            sizes.push(batch.changes.len());
            stream.receive(&reply(&batch.nonce, None), false, &world);
        }
        assert_eq!(sizes, [MAX_CHANGES, MAX_CHANGES, 1]);
    }
}
