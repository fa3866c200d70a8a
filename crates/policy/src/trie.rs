//! Which rules a path leads to: a tree of segments, so that only these are looked at. Where many lead to one place, they
//! are found by what else they ask for.

use std::collections::HashMap;

use api::{
    authz::Effect,
    path::{PathTemplate, RequestPath, Segment, decoded},
};
use foldhash::fast::RandomState;

use crate::{
    explain::Field,
    keys::{Held, Key},
    matcher::{Clause, Compiled},
};

/// Of a rule at one of its paths; in the order of rules.
pub(crate) type EntryNumber = usize;

/// What whoever looks at a candidate wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next one of this list.
    One,
    /// No later one of this list.
    List,
}

/// The tree.
#[derive(Debug)]
pub(crate) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, usize, RandomState>,
    capture: Option<usize>,
    /// What ends here, and matches whatever follows.
    prefix: Place,
    /// What ends here, and nothing follows.
    exact: Place,
}

/// The rules that end at a node.
#[derive(Debug, Default)]
pub(crate) struct Place {
    entries: Vec<EntryNumber>,
    /// By all that they ask for.
    all: Postings,
    /// Those that allow and need scopes, by what they ask for beside.
    scoped: Postings,
}

/// Each rule under one thing that it needs: all values of it, of which a request must have one.
#[derive(Debug, Default)]
struct Postings {
    /// In the order of the keys.
    keyed: Vec<(Key, EntryNumber)>,
    /// Those that ask for nothing by name.
    rest: Vec<EntryNumber>,
}

impl Trie {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![Node::default()] }
    }

    /// A rule at one of its paths.
    pub(crate) fn add(&mut self, template: &PathTemplate, entry: EntryNumber) {
        let mut at = 0;
        for segment in &template.segments {
            let new = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match segment {
                Segment::Literal(text) => *node.literals.entry(text.as_str().into()).or_insert(new),
                Segment::Capture(_) => *node.capture.get_or_insert(new),
            };
            if at == new {
                self.nodes.push(Node::default());
            }
        }
        let node = &mut self.nodes[at];
        let place = if template.is_exact { &mut node.exact } else { &mut node.prefix };
        place.entries.push(entry);
    }

    /// Once all are there.
    pub(crate) fn index<'r>(&mut self, rule_of: impl Fn(EntryNumber) -> &'r Compiled) {
        for node in &mut self.nodes {
            node.prefix.index(&rule_of);
            node.exact.index(&rule_of);
        }
    }

    /// All places that a path leads to.
    pub(crate) fn walk(&self, path: RequestPath<'_>, visit: &mut impl FnMut(&Place)) {
        self.step(0, Some(&path.as_str()[1..]), visit);
    }

    /// As deep as the longest template, which is bounded.
    fn step(&self, node: usize, rest: Option<&str>, visit: &mut impl FnMut(&Place)) {
        let node = &self.nodes[node];
        visit(&node.prefix);
        let Some(text) = rest else { return visit(&node.exact) };
        if node.literals.is_empty() && node.capture.is_none() {
            return;
        }
        let (segment, rest) = match text.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (text, None),
        };
        let segment = decoded(segment);
        if let Some(child) = node.literals.get(&*segment) {
            self.step(*child, rest, visit);
        }
        if let Some(child) = node.capture.filter(|_| !segment.is_empty()) {
            self.step(child, rest, visit);
        }
    }
}

impl Place {
    fn index<'r>(&mut self, rule_of: &impl Fn(EntryNumber) -> &'r Compiled) {
        // How many rules of this place ask for something.
        let mut common: HashMap<Key, usize> = HashMap::new();
        for entry in &self.entries {
            for key in rule_of(*entry).clauses.iter().flat_map(|clause| &clause.keys) {
                *common.entry(*key).or_default() += 1;
            }
        }
        let cost = |clause: &Clause| clause.keys.iter().map(|key| common[key]).sum::<usize>();
        for entry in &self.entries {
            let compiled = rule_of(*entry);
            self.all.add(*entry, compiled.clauses.iter().min_by_key(|clause| cost(clause)));
            if compiled.rule.effect == Effect::Allow && !compiled.rule.scopes.is_empty() {
                let others = compiled.clauses.iter().filter(|clause| clause.field != Field::Scopes);
                self.scoped.add(*entry, others.min_by_key(|clause| cost(clause)));
            }
        }
        self.all.keyed.sort_unstable();
        self.scoped.keyed.sort_unstable();
    }

    /// All that a request can match, some of them twice. Of each list in the order of rules, until one wants no more of it.
    pub(crate) fn candidates(&self, held: &Held, visit: impl FnMut(EntryNumber) -> Next) {
        self.all.candidates(held, visit);
    }

    /// All that allow a request that has the scopes they need, likewise.
    pub(crate) fn scoped(&self, held: &Held, visit: impl FnMut(EntryNumber) -> Next) {
        self.scoped.candidates(held, visit);
    }

    /// Every one, whatever the request.
    pub(crate) fn entries(&self) -> &[EntryNumber] {
        &self.entries
    }
}

impl Postings {
    /// Under the clause whose values the fewest rules ask for, so that few are found in vain.
    fn add(&mut self, entry: EntryNumber, rarest: Option<&Clause>) {
        match rarest {
            Some(clause) => self.keyed.extend(clause.keys.iter().map(|key| (*key, entry))),
            None => self.rest.push(entry),
        }
    }

    fn candidates(&self, held: &Held, mut visit: impl FnMut(EntryNumber) -> Next) {
        list(self.rest.iter().copied(), &mut visit);
        if self.keyed.len() <= held.len() {
            let found = self.keyed.iter().filter(|(key, _)| held.has(*key));
            return found.for_each(|(_, entry)| list(std::iter::once(*entry), &mut visit));
        }
        for key in held.iter() {
            let from = self.keyed.partition_point(|(known, _)| known < key);
            let found = self.keyed[from..].iter().take_while(|(known, _)| known == key);
            list(found.map(|(_, entry)| *entry), &mut visit);
        }
    }
}

fn list(entries: impl Iterator<Item = EntryNumber>, visit: &mut impl FnMut(EntryNumber) -> Next) {
    for entry in entries {
        if visit(entry) == Next::List {
            return;
        }
    }
}
