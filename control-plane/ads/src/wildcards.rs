//! Certificates by wildcard: a client asks for the name that stands in the TLS hello, and gets the certificate of
//! `*.example.test` under that name, where `www.example.test` has none of its own.

use std::collections::{BTreeMap, BTreeSet};

use resources::Table;
use xds::stream::Name;

/// The names of secrets that one client asked for, by what stands behind their first label.
#[derive(Debug, Default)]
pub(crate) struct AskedNames {
    by_parent: BTreeMap<Name, BTreeSet<Name>>,
    count: usize,
}

/// Whoever makes names up fills this and no more; the names of services are looked up without it.
const MAX_ASKED: usize = 20_000;

const WILDCARD: &str = "*.";

impl AskedNames {
    /// They are asked for from now on.
    pub(crate) fn add(&mut self, names: &[&str]) {
        for name in names {
            let Some((_, parent)) = name.split_once('.').filter(|_| self.count < MAX_ASKED) else { continue };
            let siblings = self.by_parent.entry(parent.into()).or_default();
            self.count += usize::from(siblings.insert((*name).into()));
        }
    }

    /// They are not asked for any more.
    pub(crate) fn remove(&mut self, names: &[&str]) {
        for name in names {
            let Some((_, parent)) = name.split_once('.') else { continue };
            let Some(siblings) = self.by_parent.get_mut(parent) else { continue };
            self.count -= usize::from(siblings.remove(*name));
            if siblings.is_empty() {
                self.by_parent.remove(parent);
            }
        }
    }

    /// The table with what the wildcards in it give to the names that have nothing of their own.
    pub(crate) fn covered(&self, table: &Table) -> Table {
        let mut edit = None;
        for wildcard in table.with_prefix(WILDCARD) {
            for name in self.below(&wildcard.key.name) {
                if table.find(name).is_none()
                    && let Ok(renamed) = wildcard.renamed(name)
                {
                    edit.get_or_insert_with(|| table.edit()).insert(renamed);
                }
            }
        }
        edit.map_or_else(|| table.clone(), resources::Edit::done)
    }

    /// These, and the names that they give something to.
    pub(crate) fn affected(&self, changed: &[Name]) -> Vec<Name> {
        let others = changed.iter().flat_map(|name| self.below(name));
        changed.iter().chain(others).cloned().collect()
    }

    /// The names that a wildcard gives something to; none, when it is no wildcard.
    fn below(&self, name: &Name) -> impl Iterator<Item = &Name> {
        let parent = name.strip_prefix(WILDCARD);
        parent.and_then(|parent| self.by_parent.get(parent)).into_iter().flatten()
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
        let served = table(&["*.a.test", "own.a.test"]);
        let expected = ["*.a.test of *.a.test", "own.a.test of own.a.test", "x.a.test of *.a.test"];
        assert_eq!(versions(&asked.covered(&served)), expected);
        let found = asked.covered(&served).find("x.a.test").unwrap().message().unwrap();
        assert_eq!(found.get_field_by_name("name").unwrap().as_str(), Some("x.a.test"));
        assert_eq!(
            asked.affected(&["*.a.test".into(), "z.test".into()]),
            ["*.a.test", "z.test", "own.a.test", "x.a.test"].map(Name::from)
        );
        asked.remove(&["x.a.test", "never.a.test"]);
        assert!(asked.covered(&served).is_same(&served));
    }

    #[test]
    fn names_that_are_made_up_are_bounded() {
        let mut asked = AskedNames::default();
        let made_up: Vec<_> = (0..MAX_ASKED + 5).map(|at| format!("n{at}.a.test")).collect();
        asked.add(&made_up.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(asked.count, MAX_ASKED);
        asked.remove(&made_up.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((asked.count, asked.by_parent.len()), (0, 0));
    }
}
