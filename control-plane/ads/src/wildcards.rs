//! Certificates by wildcard: a client asks for the name that stands in the TLS hello, and gets the certificate of
//! `*.example.test` under that name, where `www.example.test` has none of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use resources::{Edit, Table};
use xds::stream::Name;

/// The names of secrets that one client asked for, and what it is served for them.
#[derive(Debug, Default)]
pub(crate) struct AskedNames {
    /// By what stands behind their first label.
    by_parent: BTreeMap<Name, Siblings>,
    count: usize,
    /// What has a name of its own.
    own: Table,
    /// And what has one by a wildcard.
    served: Table,
}

#[derive(Debug, Default)]
struct Siblings {
    /// The oldest first.
    by_age: VecDeque<Name>,
    known: BTreeSet<Name>,
}

/// Names that one wildcard serves to a client at once. Beyond them the oldest has to be asked for again, so who makes names
/// up costs others a round trip, and a proxy no more memory than this.
const MAX_SIBLINGS: usize = 1_000;
/// Names that no wildcard serves yet. Who asks for more of them asks again when there is one.
const MAX_ASKED: usize = 20_000;

const WILDCARD: &str = "*.";

impl AskedNames {
    /// There is another set of secrets.
    pub(crate) fn rebase(&mut self, own: &Table) {
        if self.own.is_same(own) {
            return;
        }
        let mut edit = None;
        for wildcard in own.with_prefix(WILDCARD) {
            for name in self.below(&wildcard.key.name).filter(|name| own.find(name).is_none()) {
                if let Ok(renamed) = wildcard.renamed(name) {
                    edit.get_or_insert_with(|| own.edit()).insert(renamed);
                }
            }
        }
        self.served = edit.map_or_else(|| own.clone(), Edit::done);
        self.own = own.clone();
    }

    /// They are asked for from now on; those that have to make room for them.
    pub(crate) fn add(&mut self, names: &[&str]) -> Vec<Name> {
        let mut gone = Vec::new();
        let mut edit = None;
        for name in names {
            let Some((_, parent)) = name.split_once('.') else { continue };
            let wildcard = self.own.find(&format!("{WILDCARD}{parent}"));
            if wildcard.is_none() && self.count >= MAX_ASKED {
                continue;
            }
            let name = Name::from(*name);
            let siblings = self.by_parent.entry(parent.into()).or_default();
            if siblings.known.insert(name.clone()) {
                siblings.by_age.push_back(name.clone());
                self.count += 1;
            }
            let edit = edit.get_or_insert_with(|| self.served.edit());
            if siblings.by_age.len() > MAX_SIBLINGS
                && let Some(oldest) = siblings.by_age.pop_front()
            {
                siblings.known.remove(&oldest);
                self.count -= 1;
                if self.own.find(&oldest).is_none() {
                    edit.remove(&oldest);
                    gone.push(oldest);
                }
            }
            if self.own.find(&name).is_none()
                && let Some(Ok(renamed)) = wildcard.map(|wildcard| wildcard.renamed(&name))
            {
                edit.insert(renamed);
            }
        }
        if let Some(edit) = edit {
            self.served = edit.done();
        }
        gone
    }

    /// They are not asked for any more.
    pub(crate) fn remove(&mut self, names: &[&str]) {
        let mut edit = None;
        for name in names {
            let Some((_, parent)) = name.split_once('.') else { continue };
            let Some(siblings) = self.by_parent.get_mut(parent) else { continue };
            if siblings.known.remove(*name) {
                siblings.by_age.retain(|known| **known != **name);
                self.count -= 1;
                if self.own.find(name).is_none() {
                    edit.get_or_insert_with(|| self.served.edit()).remove(name);
                }
            }
            if siblings.known.is_empty() {
                self.by_parent.remove(parent);
            }
        }
        if let Some(edit) = edit {
            self.served = edit.done();
        }
    }

    /// What the client is served, of these.
    pub(crate) fn served(&self, own: &Table) -> Table {
        if self.own.is_same(own) { self.served.clone() } else { own.clone() }
    }

    /// These, and the names that they give something to.
    pub(crate) fn affected(&self, changed: &[Name]) -> Vec<Name> {
        let others = changed.iter().flat_map(|name| self.below(name));
        changed.iter().chain(others).cloned().collect()
    }

    /// The names that a wildcard gives something to; none, when it is no wildcard.
    fn below(&self, name: &Name) -> impl Iterator<Item = &Name> {
        let parent = name.strip_prefix(WILDCARD);
        parent.and_then(|parent| self.by_parent.get(parent)).into_iter().flat_map(|siblings| &siblings.known)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::ResourceType;
    use bytes::Bytes;
    use resources::{Key, Resource};

    use super::*;

    fn table(names: &[&str]) -> Table {
        let secret = |name: &&str| {
            let key = Key { kind: ResourceType::Secret, name: (*name).into() };
            Arc::new(Resource::new(key, None, format!("of {name}").as_str().into(), Bytes::new()))
        };
        names.iter().map(secret).collect()
    }

    fn versions(table: &Table) -> Vec<String> {
        table.resources().map(|found| format!("{} {}", found.key.name, found.version)).collect()
    }

    #[test]
    fn a_name_without_a_certificate_gets_the_wildcards() {
        let mut asked = AskedNames::default();
        asked.add(&["x.a.test", "own.a.test", "y.x.a.test", "a.test", "x.b.test", "localhost"]);
        let own = table(&["*.a.test", "own.a.test"]);
        asked.rebase(&own);
        let expected = ["*.a.test of *.a.test", "own.a.test of own.a.test", "x.a.test of *.a.test"];
        assert_eq!(versions(&asked.served(&own)), expected);
        let found = asked.served(&own).find("x.a.test").unwrap().message().unwrap();
        assert_eq!(found.get_field_by_name("name").unwrap().as_str(), Some("x.a.test"));
        assert_eq!(
            asked.affected(&["*.a.test".into(), "z.test".into()]),
            ["*.a.test", "z.test", "own.a.test", "x.a.test"].map(Name::from)
        );
        asked.add(&["z.a.test"]);
        assert!(asked.served(&own).find("z.a.test").is_some());
        asked.remove(&["x.a.test", "z.a.test", "own.a.test", "never.a.test"]);
        assert_eq!(versions(&asked.served(&own)), expected[..2]);
        let other = table(&["*.b.test"]);
        asked.rebase(&other);
        assert_eq!(versions(&asked.served(&other)), ["*.b.test of *.b.test", "x.b.test of *.b.test"]);
    }

    #[test]
    fn names_that_are_made_up_are_bounded_and_take_nobodys_place_for_good() {
        let mut asked = AskedNames::default();
        let made_up: Vec<_> = (0..MAX_ASKED + 5).map(|at| format!("n.{at}.test")).collect();
        let made_up: Vec<_> = made_up.iter().map(String::as_str).collect();
        asked.add(&made_up);
        assert_eq!(asked.count, MAX_ASKED);
        let own = table(&["*.a.test"]);
        asked.rebase(&own);
        assert_eq!(asked.add(&["www.a.test"]), [""; 0].map(Name::from), "it is served all the same");
        let flood: Vec<_> = (0..MAX_SIBLINGS).map(|at| format!("n{at}.a.test")).collect();
        let gone = asked.add(&flood.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(gone, ["www.a.test"].map(Name::from));
        assert_eq!(asked.served(&own).resources().count(), MAX_SIBLINGS + 1);
        assert_eq!(asked.add(&["www.a.test"]), ["n0.a.test"].map(Name::from), "and again");
        asked.remove(&made_up);
        asked.remove(&flood.iter().map(String::as_str).chain(["www.a.test"]).collect::<Vec<_>>());
        assert_eq!((asked.count, asked.by_parent.len()), (0, 0));
        assert_eq!(asked.served(&own).resources().count(), 1);
    }
}
