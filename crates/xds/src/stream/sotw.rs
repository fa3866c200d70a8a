//! The state-of-the-world variant: each request carries all names, and for some types each response carries all
//! resources.

use std::collections::{HashMap, HashSet};

use super::{Basis, Change, Desired, Entry, Held, Item, Name, Received, TypeStream, Variant, Version};
use crate::SotwRequest;

/// What the requests so far have named.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Of the last list: Envoy repeats 5,000 names in each ACK.
    digest: Option<[u8; 32]>,
    /// From then on an empty list means nothing, and no longer everything.
    ever: bool,
}

/// The content of a response that carries the whole set.
#[derive(Debug, Clone)]
pub enum FullSet<I> {
    /// All that is desired.
    Desired,
    /// These, since the client refused others, or waits for them, or wants only these.
    These(Vec<I>),
}

impl<D: Desired> TypeStream<D> {
    /// Takes in a state-of-the-world request; `first` on the stream for this type.
    pub fn receive_sotw(&mut self, request: &SotwRequest<'_>, first: bool) -> Received<D::Item> {
        if first {
            // A nonce of an earlier stream means nothing here.
            self.subscribe_all(&request.names);
            self.skip_if_current(request.version);
            return Received::Subscription;
        }
        let latest = if self.nonce == 0 { String::new() } else { self.nonce.to_string() };
        if request.nonce != latest {
            // A newer response is on its way, and will be answered with the client's newest names.
            return Received::Subscription;
        }
        let was_settled = self.in_flight.is_none();
        let received = self.settle(request.nonce, request.error.as_deref());
        let renamed = self.subscribe_all(&request.names);
        if was_settled && !renamed && request.error.is_none() && self.kind == api::ResourceType::Endpoints {
            // After a change of clusters Envoy asks for their endpoints with the very same request, and warms
            // the clusters until it is answered.
            self.resend_named();
        }
        received
    }

    /// A client that reconnects with what it should hold is not sent it again. Only where the version stands for
    /// all of it: for the other types it says nothing of which names the client had.
    fn skip_if_current(&mut self, version: &str) {
        let whole =
            self.wildcard && self.kind.is_full_set() && self.differs.values().all(|entry| !entry.named);
        if whole && *version == *self.desired.version() {
            self.differs.clear();
            self.dirty.clear();
            self.answered = true;
        }
    }

    /// These names and no others. Whether they are other ones than before.
    fn subscribe_all(&mut self, names: &[&str]) -> bool {
        let digest = digest(names);
        if self.names.digest.replace(digest) == Some(digest) {
            return false;
        }
        let legacy = names.is_empty() && !self.names.ever && self.kind.allows_legacy_wildcard();
        self.names.ever |= !names.is_empty();
        if legacy || names.contains(&"*") {
            self.want_all();
        } else {
            self.want_named_only();
        }
        let wanted: HashSet<&str> = names.iter().copied().filter(|name| *name != "*").collect();
        for name in self.named() {
            if !wanted.contains(&*name) {
                let held = self.entry(&name).held;
                // What a wildcard still covers is held on.
                let held = if self.wildcard { held } else { Held::Nothing };
                self.set(&name, Entry { named: false, held });
                self.missing.remove(&name);
            }
        }
        for name in wanted {
            if !self.is_named(name) {
                self.want(name);
            }
        }
        self.compact();
        true
    }

    fn named(&self) -> Vec<Name> {
        let own = self.differs.iter().filter(|(_, entry)| entry.named).map(|(name, _)| name.clone());
        if self.basis == Basis::Nothing || self.wildcard {
            return own.collect();
        }
        let implied = self.desired.iter().map(Item::name).filter(|name| !self.differs.contains_key(&***name));
        own.chain(implied.cloned()).collect()
    }

    fn resend_named(&mut self) {
        for name in self.named() {
            self.resend(&name);
        }
    }

    /// Whether each response carries everything, so that a part of it cannot be sent.
    pub(super) fn sends_whole_sets(&self) -> bool {
        self.variant == Variant::Sotw && self.kind.is_full_set()
    }

    /// Whether this variant has no way to say that a resource is gone.
    pub(super) fn forgets_silently(&self) -> bool {
        self.variant == Variant::Sotw && !self.kind.is_full_set()
    }

    /// An empty response deletes nothing and tells nothing where a part may be sent.
    pub(super) fn may_stay_silent(&self) -> bool {
        self.forgets_silently()
    }

    /// What the response under way has to carry, where it carries the whole set: what the client holds, with the
    /// changes made.
    pub fn full_set(&self) -> FullSet<D::Item> {
        let sent = self.in_flight.iter().flat_map(|sent| &sent.changes);
        let changes: HashMap<&str, &Change<D::Item>> = sent.map(|change| (&*change.name, change)).collect();
        let then = |name: &str| match changes.get(name) {
            Some(change) => change.item.clone(),
            None => match self.entry(name).held {
                Held::Item(item) => Some(item),
                Held::Nothing | Held::Brought(_) => None,
            },
        };
        let version = |item: Option<&D::Item>| -> Option<Version> { item.map(|item| item.version().clone()) };
        let as_desired = |name: &Name| version(then(name).as_ref()) == version(self.desired.get(name));
        if self.wildcard && self.differs.keys().all(as_desired) {
            return FullSet::Desired;
        }
        let wanted = self.desired.iter().filter(|item| self.wants(item.name())).map(Item::name);
        let strays = self.differs.keys().filter(|name| self.desired.get(name).is_none());
        let mut items: Vec<_> = wanted.chain(strays).filter_map(|name| then(name)).collect();
        items.sort_by(|one, other| one.name().cmp(other.name()));
        FullSet::These(items)
    }
}

/// Of a list, in its order: a client that repeats itself repeats its order.
fn digest(names: &[&str]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for name in names {
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
    }
    *hasher.finalize().as_bytes()
}
