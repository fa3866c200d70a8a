//! What a server knows of one type on one stream: what is subscribed to, what the client holds, the response
//! under way, and what the client has refused. No IO, and no bodies.
//!
//! A fleet of 2,000 proxies with 15,000 resources each leaves no room for a map of names per stream. So a stream
//! points at the set that its client should hold, and keeps only what differs from it: a client that has
//! everything costs a pointer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use api::ResourceType;
use foldhash::fast::RandomState;

mod delta;
mod digest;
mod sotw;

mod sending;

pub use digest::Digest;
pub use sotw::FullSet;

/// The name of a resource.
pub type Name = Arc<str>;
/// The version of a resource: the hash of its content.
pub type Version = Arc<str>;

/// A resource, as far as bookkeeping goes. Cheap to clone.
pub trait Item: Clone {
    /// What clients call it.
    fn name(&self) -> &Name;
    /// The hash of its content.
    fn version(&self) -> &Version;
    /// The size of its body.
    fn bytes(&self) -> usize;
    /// Other names that it can be asked for by.
    fn aliases(&self) -> &[Name];
}

/// All resources of one type that a client should hold. Cheap to clone, and never changed in place.
pub trait Desired: Clone {
    /// What it consists of.
    type Item: Item;
    /// By name.
    fn get(&self, name: &str) -> Option<&Self::Item>;
    /// By another name.
    fn by_alias(&self, alias: &str) -> Option<&Self::Item>;
    /// In the order of names.
    fn iter(&self) -> impl Iterator<Item = &Self::Item>;
    /// How many.
    fn len(&self) -> usize;
    /// The hash of all names and versions.
    fn version(&self) -> Version;
    /// Of all names and versions, in whatever order.
    fn digest(&self) -> Digest {
        Digest::of_versions(self.iter().map(|item| (&**item.name(), &**item.version())))
    }
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The two variants of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

/// Whether a change may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Yes.
    Open,
    /// Not before something else has been acknowledged; ask again then.
    Closed,
    /// Not before a moment that whoever decides it knows, and then says so by [`TypeStream::recall`]. Until then it
    /// is not asked about: many that wait for their time cost nothing.
    Later,
}

/// A resource to be sent (`Some`) or removed (`None`).
#[derive(Debug, Clone)]
pub struct Change<I> {
    /// Which.
    pub name: Name,
    /// What the client is to hold.
    pub item: Option<I>,
}

/// A response to send.
#[derive(Debug, Clone)]
pub struct Batch<I> {
    /// Unique within the stream and type.
    pub nonce: u64,
    /// In the order of names.
    pub changes: Vec<Change<I>>,
}

/// What a request said.
#[derive(Debug, Clone)]
pub enum Received<I> {
    /// Only subscriptions, or nothing new.
    Subscription,
    /// The response under way was accepted.
    Ack,
    /// It was refused. With one change it is now known which one; with more, the search begins.
    Nack {
        /// What was refused.
        changes: Vec<Change<I>>,
        /// The client's words.
        message: String,
    },
}

/// A version that this client will not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub version: Version,
    /// The client's words.
    pub message: String,
}

/// One type on one stream.
#[derive(Debug)]
pub struct TypeStream<D: Desired> {
    kind: ResourceType,
    variant: Variant,
    desired: D,
    basis: Basis,
    wildcard: bool,
    /// The names for which the basis is not true.
    differs: HashMap<Name, Entry<D::Item>, RandomState>,
    refused: BTreeMap<Name, Refused>,
    in_flight: Option<InFlight<D::Item>>,
    /// Names whose state may differ from what is desired.
    dirty: BTreeSet<Name>,
    /// Those of them that wait for their time.
    parked: BTreeSet<Name>,
    /// Names in flight that have to be sent once more after this.
    again: BTreeSet<Name>,
    /// Names that were asked for and do not exist, and were not yet told so.
    missing: BTreeSet<Name>,
    /// Parts of a refused response that are tried by themselves, to find the one that was meant.
    suspects: VecDeque<BTreeSet<Name>>,
    /// The client's initialisation waits for a first response, even an empty one.
    answered: bool,
    nonce: u64,
    names: sotw::Names,
    bounded: bool,
}

/// What is true of a name without an entry of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Basis {
    /// It is not held, and not named.
    Nothing,
    /// It is held as it is desired, and named unless the stream has a wildcard.
    Desired,
}

/// What a client does with a name.
#[derive(Debug, Clone)]
struct Entry<I> {
    named: bool,
    held: Held<I>,
}

#[derive(Debug, Clone)]
enum Held<I> {
    Nothing,
    /// From an earlier stream: the version is known, the content is not.
    Brought(Version),
    Item(I),
}

impl<I: Item> Held<I> {
    fn version(&self) -> Option<&Version> {
        match self {
            Self::Nothing => None,
            Self::Brought(version) => Some(version),
            Self::Item(item) => Some(item.version()),
        }
    }
}

impl<I: Item> Entry<I> {
    const NONE: Self = Self { named: false, held: Held::Nothing };

    fn is_as(&self, other: &Self) -> bool {
        self.named == other.named && self.held.version() == other.held.version()
    }
}

#[derive(Debug)]
struct InFlight<I> {
    nonce: u64,
    changes: Vec<Change<I>>,
}

/// Resources in one delta response.
const MAX_CHANGES: usize = 1_000;
/// Bodies in one delta response, unless one alone is larger. A client reads 4 MiB at once by default; but while a
/// fleet comes up, each stream has one of them in memory.
const MAX_BATCH_BYTES: usize = 512 * 1024;
/// Names of nothing that one stream may subscribe to for one type; an honest Envoy asks for a few thousand.
const MAX_NAMES: usize = 100_000;
/// A stream with fewer names keeps them as they are.
const MIN_NAMES_OF_WHOLE: usize = 64;
/// Resources that a client's message names and that are tried one by one; with more the halves are faster.
const MAX_NAMED_SUSPECTS: usize = 4;

impl<D: Desired> TypeStream<D> {
    /// A type that was not yet asked for.
    pub fn new(kind: ResourceType, variant: Variant, desired: D) -> Self {
        Self {
            kind,
            variant,
            desired,
            basis: Basis::Nothing,
            wildcard: false,
            differs: HashMap::default(),
            refused: BTreeMap::new(),
            in_flight: None,
            dirty: BTreeSet::new(),
            parked: BTreeSet::new(),
            again: BTreeSet::new(),
            missing: BTreeSet::new(),
            suspects: VecDeque::new(),
            answered: false,
            nonce: 0,
            names: sotw::Names::default(),
            bounded: true,
        }
    }

    /// Puts everything into one batch, whatever its size.
    #[must_use]
    pub fn unbounded(self) -> Self {
        Self { bounded: false, ..self }
    }

    fn implied(&self, name: &str) -> Entry<D::Item> {
        match self.basis {
            Basis::Nothing => Entry::NONE,
            Basis::Desired => self
                .desired
                .get(name)
                .map_or(Entry::NONE, |item| Entry { named: !self.wildcard, held: Held::Item(item.clone()) }),
        }
    }

    fn entry(&self, name: &str) -> Entry<D::Item> {
        self.differs.get(name).cloned().unwrap_or_else(|| self.implied(name))
    }

    fn set(&mut self, name: &Name, entry: Entry<D::Item>) {
        if entry.is_as(&self.implied(name)) {
            self.differs.remove(name);
            // The memory of a first push is for the next stream that needs it.
            if self.differs.capacity() > MIN_NAMES_OF_WHOLE
                && self.differs.len() < self.differs.capacity() / 8
            {
                self.differs.shrink_to(self.differs.len() * 2);
            }
        } else {
            self.differs.insert(name.clone(), entry);
        }
    }

    fn hold(&mut self, name: &Name, held: Held<D::Item>) {
        let named = self.is_named(name);
        self.set(name, Entry { named, held });
    }

    fn is_named(&self, name: &str) -> bool {
        match self.differs.get(name) {
            Some(entry) => entry.named,
            None => self.basis == Basis::Desired && !self.wildcard && self.desired.get(name).is_some(),
        }
    }

    /// The version that the client holds: it acknowledged it, or brought it along.
    pub fn held(&self, name: &str) -> Option<&Version> {
        match self.differs.get(name) {
            Some(entry) => entry.held.version(),
            None if self.basis == Basis::Desired => self.desired.get(name).map(Item::version),
            None => None,
        }
    }

    /// Whether the client asked for this resource, by name, by another name, or by wildcard.
    pub fn wants(&self, name: &str) -> bool {
        self.wildcard
            || self.is_named(name)
            || self
                .desired
                .get(name)
                .is_some_and(|item| item.aliases().iter().any(|alias| self.is_named(alias)))
    }

    /// What the client holds although it is no longer desired.
    pub fn strays(&self) -> impl Iterator<Item = &Name> {
        let held = self.differs.iter().filter(|(_, entry)| entry.held.version().is_some());
        held.filter(|(name, _)| self.desired.get(name).is_none()).map(|(name, _)| name)
    }

    /// What the client refused, and was not replaced since.
    pub fn refused(&self) -> &BTreeMap<Name, Refused> {
        &self.refused
    }

    /// What the client should hold.
    pub fn desired(&self) -> &D {
        &self.desired
    }

    /// How many resources the client holds.
    pub fn held_count(&self) -> usize {
        let differs = self.differs.iter();
        match self.basis {
            Basis::Nothing => differs.filter(|(_, entry)| entry.held.version().is_some()).count(),
            Basis::Desired => {
                let (mut more, mut less) = (0, 0);
                for (name, entry) in differs {
                    match (self.desired.get(name).is_some(), entry.held.version().is_some()) {
                        (true, false) => less += 1,
                        (false, true) => more += 1,
                        _ => {}
                    }
                }
                self.desired.len() + more - less
            }
        }
    }

    /// How many names have an entry of their own: the memory that this stream costs.
    pub fn differences(&self) -> usize {
        self.differs.len()
    }

    /// Nothing is under way, and nothing is left to be sent.
    pub fn is_idle(&self) -> bool {
        self.is_settled() && self.parked.is_empty()
    }

    fn is_settled(&self) -> bool {
        self.in_flight.is_none() && self.dirty.is_empty() && self.suspects.is_empty() && self.answered
    }

    /// Whether a name waits for its time.
    pub fn is_parked(&self, name: &Name) -> bool {
        self.parked.contains(name)
    }

    /// Its time has come: [`next`](Self::next) asks about it again.
    pub fn recall(&mut self, name: &Name) {
        if let Some(name) = self.parked.take(name) {
            self.dirty.insert(name);
        }
    }

    /// Idle, but for what is desired no more and waits to go.
    pub fn is_idle_but_for_removals(&self) -> bool {
        let is_removal = |name: &Name| self.desired.get(name).is_none();
        self.is_served() && self.suspects.is_empty() && self.dirty.iter().all(is_removal)
    }

    /// [`next`](Self::next) has nothing to say, whatever the gate says.
    pub fn is_quiet(&self) -> bool {
        self.in_flight.is_some() || self.is_settled()
    }

    /// It was answered at least once, and no response waits for the client.
    pub fn is_served(&self) -> bool {
        self.answered && self.in_flight.is_none()
    }

    /// Whether there is much to be sent, or to be answered: the stream is being brought up to date.
    pub fn is_in_bulk(&self) -> bool {
        let sent = self.in_flight.as_ref().map_or(0, |sent| sent.changes.len());
        self.dirty.len() + sent > MAX_CHANGES / 10
    }

    /// Whether a response waits for the client.
    pub fn is_waiting(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Another set is desired now. `changed` names all that differ; `None` when that is not known.
    pub fn update(&mut self, desired: D, changed: Option<&[Name]>) {
        let compared = if changed.is_none() { differences(&self.desired, &desired) } else { Vec::new() };
        let changed = changed.unwrap_or(&compared);
        let before: Vec<_> = changed.iter().map(|name| (name, self.entry(name))).collect();
        self.desired = desired;
        for (name, entry) in before {
            let is_held = entry.held.version().is_some();
            self.set(name, entry);
            self.parked.remove(name);
            if is_held || self.wants(name) {
                self.dirty.insert(name.clone());
            }
        }
    }

    /// The client needs this resource once more, though it has it, or is being sent it.
    pub fn resend(&mut self, name: &Name) {
        if !self.wants(name) {
            return;
        }
        self.hold(name, Held::Nothing);
        self.dirty.insert(name.clone());
        let in_flight = self.in_flight.iter().flat_map(|sent| &sent.changes);
        if in_flight.into_iter().any(|change| change.name == *name) {
            self.again.insert(name.clone());
        }
    }

    /// Takes in the answer to the response under way, if this is one.
    fn settle(&mut self, nonce: &str, error: Option<&str>) -> Received<D::Item> {
        let Some(in_flight) = self.in_flight.take_if(|sent| sent.nonce.to_string() == nonce) else {
            return Received::Subscription;
        };
        let changes = in_flight.changes;
        let Some(message) = error else {
            for change in &changes {
                if !self.again.remove(&change.name) {
                    self.hold(&change.name, change.item.clone().map_or(Held::Nothing, Held::Item));
                    self.refused.remove(&change.name);
                }
            }
            return Received::Ack;
        };
        self.refuse(&changes, message);
        Received::Nack { changes, message: message.to_owned() }
    }

    /// The same content is never sent again to a client that refused it alone. A response of several is taken
    /// apart, so that the good ones arrive and the bad one is found, in a bounded number of tries. The client's
    /// words are for people (no parser may rely on them), so a name in them only says where to look first.
    fn refuse(&mut self, changes: &[Change<D::Item>], message: &str) {
        if let [change] = changes {
            if let Some(item) = &change.item {
                let refused = Refused { version: item.version().clone(), message: message.to_owned() };
                self.refused.insert(change.name.clone(), refused);
            }
            return;
        }
        if changes.is_empty() {
            return;
        }
        let names = changes.iter().map(|change| change.name.clone());
        let (named, rest): (BTreeSet<_>, BTreeSet<_>) = names.partition(|name| is_named_in(message, name));
        if (1..=MAX_NAMED_SUSPECTS).contains(&named.len()) && !rest.is_empty() {
            self.suspects.push_back(rest);
            self.suspects.extend(named.into_iter().map(|name| BTreeSet::from([name])));
            return;
        }
        for half in changes.chunks(changes.len().div_ceil(2)) {
            self.suspects.push_back(half.iter().map(|change| change.name.clone()).collect());
        }
    }

    /// Everything, from now on.
    fn want_all(&mut self) {
        if self.wildcard {
            return;
        }
        let entries: Vec<_> =
            self.desired.iter().map(|item| (item.name().clone(), self.entry(item.name()))).collect();
        (self.wildcard, self.basis) = (true, Basis::Desired);
        for (name, entry) in entries {
            self.set(&name, entry);
            self.dirty.insert(name);
        }
    }

    /// Only what is named, from now on.
    fn want_named_only(&mut self) {
        if !self.wildcard {
            return;
        }
        (self.wildcard, self.basis) = (false, Basis::Nothing);
        self.differs.retain(|_, entry| entry.named);
        let differs = &self.differs;
        self.dirty.retain(|name| differs.contains_key(name));
        self.parked.retain(|name| differs.contains_key(name));
    }

    /// Wants this name; what the client has of it counts no more.
    fn want(&mut self, name: &str) {
        let by_alias = match self.desired.get(name) {
            Some(_) => None,
            None => self.desired.by_alias(name).map(|item| item.name().clone()),
        };
        let exists = by_alias.is_some() || self.desired.get(name).is_some();
        // Names of nothing are bounded (a client's clients can make them up); those of something are not.
        if !exists && self.differs.len() >= MAX_NAMES {
            return;
        }
        let name: Name = name.into();
        self.set(&name, Entry { named: true, held: Held::Nothing });
        if !exists {
            self.missing.insert(name.clone());
        }
        if let Some(meant) = by_alias {
            self.hold(&meant, Held::Nothing);
            self.dirty.insert(meant);
        }
        self.dirty.insert(name);
    }

    /// A stream that names most of what there is keeps only the rest.
    fn compact(&mut self) {
        let few = self.differs.len() < MIN_NAMES_OF_WHOLE || self.differs.len() * 2 < self.desired.len();
        if self.basis == Basis::Desired || few {
            return;
        }
        let entries = std::mem::take(&mut self.differs);
        self.basis = Basis::Desired;
        let unnamed: Vec<_> = (self.desired.iter().map(Item::name))
            .filter(|name| !entries.contains_key(&***name))
            .cloned()
            .collect();
        self.differs.extend(unnamed.into_iter().map(|name| (name, Entry::NONE)));
        for (name, entry) in entries {
            self.set(&name, entry);
        }
    }
}

/// Whether a name stands in a text as a word of its own.
fn is_named_in(text: &str, name: &str) -> bool {
    let part_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@/".contains(&byte);
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text.as_bytes()[..at], &text.as_bytes()[at + name.len()..]);
        !before.last().copied().is_some_and(part_of_name) && !after.first().copied().is_some_and(part_of_name)
    })
}

/// The names of which two sets hold different versions.
fn differences<D: Desired>(before: &D, after: &D) -> Vec<Name> {
    let changed =
        after.iter().filter(|item| before.get(item.name()).map(Item::version) != Some(item.version()));
    let gone = before.iter().filter(|item| after.get(item.name()).is_none());
    changed.chain(gone).map(|item| item.name().clone()).collect()
}

#[cfg(test)]
mod tests;
