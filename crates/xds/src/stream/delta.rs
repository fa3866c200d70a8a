//! The incremental variant: subscriptions come as changes, and so do responses.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

use super::{
    Basis, Desired, Digest, Entry, Held, Item, MAX_NAMES, MIN_NAMES_OF_WHOLE, Name, Received, TypeStream,
};
use crate::DeltaRequest;

/// Of thousands of names, once for each stream of a fleet that comes back at once. The seeds are random.
type Set<'a> = HashSet<&'a str, RandomState>;
type Map<'a> = HashMap<&'a str, &'a str, RandomState>;

impl<D: Desired> TypeStream<D> {
    /// Takes in a delta request. `first` on the stream for this type: only then do an empty subscription and
    /// `initial_resource_versions` mean something.
    pub fn receive(&mut self, request: &DeltaRequest<'_>, first: bool) -> Received<D::Item> {
        let received = self.settle(request.nonce, request.error.as_deref());
        // Subscriptions count even in a stale request or a NACK.
        if first {
            self.begin(request);
        } else {
            for name in &request.subscribe {
                if *name == "*" {
                    self.want_all();
                } else {
                    self.want(name);
                }
            }
        }
        for name in &request.unsubscribe {
            if *name == "*" {
                self.want_named_only();
            } else {
                self.unsubscribe(name);
            }
        }
        self.compact();
        received
    }

    /// The first request of the type: what it brought along is held, and told only where it differs.
    fn begin(&mut self, request: &DeltaRequest<'_>) {
        if self.begin_with_most(request) {
            return;
        }
        let mut named = Set::with_capacity_and_hasher(request.subscribe.len(), RandomState::default());
        named.extend(request.subscribe.iter().copied().filter(|name| *name != "*"));
        let mut brought = Map::with_capacity_and_hasher(request.brought.len(), RandomState::default());
        brought.extend(request.brought.iter().copied());
        self.wildcard = request.subscribe.contains(&"*")
            || (request.subscribe.is_empty() && self.kind.allows_legacy_wildcard());
        let names_most = named.len() >= MIN_NAMES_OF_WHOLE && named.len() * 2 >= self.desired.len();
        let is_whole = self.wildcard || names_most;
        self.basis = if is_whole { Basis::Desired } else { Basis::Nothing };
        let entry = |name: &str, item: Option<&D::Item>| {
            let held = match (brought.get(name), item) {
                (None, _) => Held::Nothing,
                (Some(version), Some(item)) if **version == **item.version() => Held::Item(item.clone()),
                (Some(version), _) => Held::Brought((*version).into()),
            };
            Entry { named: named.contains(name), held }
        };
        let desired = self.desired.clone();
        let mut known = 0;
        if is_whole {
            for item in desired.iter() {
                let name = &**item.name();
                let is_named = named.contains(name);
                let version = brought.get(name);
                known += usize::from(is_named) + usize::from(version.is_some());
                // Most clients that come back have most of what they should have: that costs nothing more.
                let is_current = version.is_some_and(|version| **version == **item.version());
                if !is_current || is_named == self.wildcard {
                    self.start(item.name(), entry(name, Some(item)));
                }
            }
            if known == named.len() + brought.len() {
                return;
            }
        }
        for name in named.iter().chain(brought.keys()) {
            let item = desired.get(name);
            if item.is_none() && self.differs.len() >= MAX_NAMES {
                break;
            }
            if item.is_none() || !is_whole {
                self.start(&Name::from(*name), entry(name, item));
            }
            if named.contains(name) {
                self.note_missing(name, |meant| brought.contains_key(meant));
            }
        }
    }

    /// The same for a client that brought along all that it should have, as most of a fleet do that comes back at
    /// once: then no tables have to be made of its thousands of names, and if there is nothing else, none of them
    /// is looked up. Whether it is such a client.
    fn begin_with_most(&mut self, request: &DeltaRequest<'_>) -> bool {
        let DeltaRequest { subscribe, brought, .. } = request;
        let is_wildcard = match subscribe[..] {
            [] => self.kind.allows_legacy_wildcard(),
            ["*"] => true,
            _ => false,
        };
        let names_the_same = || {
            subscribe.len() == brought.len()
                && Digest::of_names(subscribe.iter().copied())
                    == Digest::of_names(brought.iter().map(|(name, _)| *name))
        };
        let count = self.desired.len();
        if count < MIN_NAMES_OF_WHOLE || brought.len() < count || !(is_wildcard || names_the_same()) {
            return false;
        }
        let mut others = Vec::new();
        if Digest::of_versions(brought.iter().copied()) != self.desired.digest() {
            let is_current = |(name, version): &&(&str, &str)| {
                self.desired.get(name).is_some_and(|item| **version == **item.version())
            };
            others.extend(brought.iter().filter(|one| !is_current(one)));
            let found = others.iter().filter(|(name, _)| self.desired.get(name).is_some()).count();
            // Something is missing, or has come since.
            if brought.len() - others.len() + found != count {
                return false;
            }
        }
        (self.basis, self.wildcard) = (Basis::Desired, is_wildcard);
        for (name, version) in others {
            let entry = Entry { named: !is_wildcard, held: Held::Brought(version.into()) };
            self.start(&Name::from(name), entry);
            if !is_wildcard {
                self.note_missing(name, |_| false);
            }
        }
        true
    }

    /// What is named and does not exist is told; or what it means is sent, unless it was brought along.
    fn note_missing(&mut self, name: &str, is_brought: impl Fn(&str) -> bool) {
        if self.desired.get(name).is_some() {
            return;
        }
        match self.desired.by_alias(name).map(|meant| meant.name().clone()) {
            Some(meant) if is_brought(&meant) => {}
            Some(meant) => {
                self.dirty.insert(meant);
            }
            None => {
                self.missing.insert(name.into());
            }
        }
    }

    fn start(&mut self, name: &Name, entry: Entry<D::Item>) {
        self.set(name, entry);
        if self.differs.contains_key(name) {
            self.dirty.insert(name.clone());
        }
    }

    fn unsubscribe(&mut self, name: &str) {
        let meant = self.desired.by_alias(name).map(|item| item.name().clone());
        let name: Name = name.into();
        self.missing.remove(&name);
        // The client forgets it.
        self.set(&name, Entry::NONE);
        if let Some(meant) = meant.filter(|meant| !self.wants(meant)) {
            self.hold(&meant, Held::Nothing);
        }
        if self.wildcard {
            // It stays wanted, and the client is told again what it is, or that it is not.
            if self.desired.get(&name).is_none() {
                self.missing.insert(name.clone());
            }
            self.dirty.insert(name);
        }
    }
}
