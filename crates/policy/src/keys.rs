//! Everything that rules ask of a request by name (a method, a host, a scope, a group, …) has a number. A request is
//! turned into the numbers that it has once, and rules are compared with these.

use std::collections::HashMap;

use api::authz::{ClaimRule, HostPattern};
use foldhash::fast::RandomState;

use crate::request::Request;

/// Something that rules ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(u32);

type Names = HashMap<Box<str>, Key, RandomState>;

/// All that the rules of a policy ask for.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    count: u32,
    methods: Names,
    hosts: Names,
    /// Without the `*.`.
    hosts_below: Names,
    scopes: Names,
    groups: Names,
    auth: Names,
    claims: Vec<(Box<str>, Names)>,
}

/// What a request has of it, in order.
#[derive(Debug)]
pub(crate) struct Held(Vec<Key>);

impl Keys {
    pub(crate) fn method(&mut self, name: &str) -> Key {
        number(&mut self.count, &mut self.methods, name)
    }

    pub(crate) fn host(&mut self, pattern: &HostPattern) -> Key {
        match pattern {
            HostPattern::Exact(name) => number(&mut self.count, &mut self.hosts, name),
            HostPattern::Below(name) => number(&mut self.count, &mut self.hosts_below, name),
        }
    }

    pub(crate) fn scope(&mut self, name: &str) -> Key {
        number(&mut self.count, &mut self.scopes, name)
    }

    pub(crate) fn group(&mut self, name: &str) -> Key {
        number(&mut self.count, &mut self.groups, name)
    }

    pub(crate) fn auth(&mut self, name: &str) -> Key {
        number(&mut self.count, &mut self.auth, name)
    }

    pub(crate) fn claim(&mut self, rule: &ClaimRule) -> Vec<Key> {
        let at = self.claims.iter().position(|(name, _)| **name == *rule.name).unwrap_or_else(|| {
            self.claims.push((rule.name.as_str().into(), Names::default()));
            self.claims.len() - 1
        });
        let Self { count, claims, .. } = self;
        rule.values.iter().map(|value| number(count, &mut claims[at].1, value)).collect()
    }

    /// What a request has.
    pub(crate) fn held(&self, request: &Request<'_>) -> Held {
        // More than most requests have of what a policy asks for.
        let mut held = Vec::with_capacity(16);
        held.extend(self.methods.get(request.method));
        if !(self.hosts.is_empty() && self.hosts_below.is_empty()) {
            let host = HostPattern::normal(request.host);
            held.extend(self.hosts.get(&*host));
            if !self.hosts_below.is_empty() {
                held.extend(HostPattern::above(&host).filter_map(|name| self.hosts_below.get(name)));
            }
        }
        if let Some(identity) = &request.identity {
            find(&self.scopes, identity.scopes.iter().copied(), &mut held);
            find(&self.groups, identity.groups.iter().copied(), &mut held);
            held.extend(self.auth.get(identity.method));
            for (name, values) in &self.claims {
                find(values, identity.values(name), &mut held);
            }
        }
        held.sort_unstable();
        Held(held)
    }
}

fn number(count: &mut u32, names: &mut Names, name: &str) -> Key {
    *names.entry(name.into()).or_insert_with(|| {
        *count += 1;
        Key(*count)
    })
}

fn find<'a>(names: &Names, held: impl Iterator<Item = &'a str>, found: &mut Vec<Key>) {
    if !names.is_empty() {
        found.extend(held.filter_map(|name| names.get(name)));
    }
}

impl Held {
    pub(crate) fn has(&self, key: Key) -> bool {
        self.0.binary_search(&key).is_ok()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Key> {
        self.0.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
