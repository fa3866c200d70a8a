//! The items of context lists that have templates of their own, as they come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::{
    InstanceId,
    context::{Item, Values},
};
use templates::{ForEach, Templates};

/// All items, by their ids.
pub(crate) type Items = BTreeMap<InstanceId, Arc<Item>>;

/// What is known of the lists.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    pub(crate) items: Items,
    /// A list that is none: what was rendered of it before stays.
    fault: Option<String>,
}

impl Lists {
    pub(crate) fn fault(&self) -> Option<&String> {
        self.fault.as_ref()
    }

    /// Takes what the values say now. The items that are to be rendered, or are gone: those that are other than
    /// before, and all of a list whose templates read more than the item.
    pub(crate) fn update(
        &mut self,
        templates: &Templates,
        values: &Values,
        changed_sources: &BTreeSet<String>,
    ) -> BTreeSet<InstanceId> {
        let (mut next, mut changed) = (Items::new(), BTreeSet::new());
        self.fault = None;
        for (list, key) in templates.lists() {
            let all = templates.reads(&ForEach::Item(list.to_owned()), changed_sources);
            let known = || self.items.iter().filter(|(_, item)| &*item.list == list);
            match templates::items(list, key, values) {
                Ok(items) => {
                    for (id, item) in items {
                        let same = self.items.get(&id).filter(|known| ***known == item).cloned();
                        if all || same.is_none() {
                            changed.insert(id.clone());
                        }
                        next.insert(id, same.unwrap_or_else(|| Arc::new(item)));
                    }
                }
                Err(error) => {
                    self.fault = Some(error.to_string());
                    next.extend(known().map(|(id, item)| (id.clone(), item.clone())));
                }
            }
        }
        changed.extend(self.items.keys().filter(|id| !next.contains_key(id)).cloned());
        self.items = next;
        changed
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn values(hosts: Value, limit: u32) -> Values {
        [("hosts", hosts), ("limit", json!({ "n": limit }))]
            .map(|(name, value)| (name.to_owned(), Arc::new(value)))
            .into()
    }

    fn names(ids: &BTreeSet<InstanceId>) -> Vec<&str> {
        ids.iter().map(InstanceId::as_str).collect()
    }

    #[test]
    fn only_items_that_are_other_than_before_are_rendered() {
        let folder = tempfile::tempdir().unwrap();
        let template = "{# {kind: clusters, for_each: context.hosts} #}{{ context.limit.n }}";
        std::fs::write(folder.path().join("own.yaml"), template).unwrap();
        let templates = Templates::load_only(folder.path()).unwrap();
        let mut lists = Lists::default();
        let mut update = |hosts, limit, source: &str| {
            let changed = lists.update(&templates, &values(hosts, limit), &[source.to_owned()].into());
            (names(&changed).join(" "), lists.fault.clone())
        };
        let (a, b) = (json!({"name": "a", "to": 1}), json!({"name": "b", "to": 1}));
        assert_eq!(update(json!([a, b]), 1, "hosts").0, "hosts/a hosts/b");
        assert_eq!(update(json!([a, {"name": "b", "to": 2}]), 1, "hosts").0, "hosts/b");
        assert_eq!(update(json!([a]), 1, "hosts").0, "hosts/b");
        assert_eq!(update(json!([a]), 2, "limit").0, "hosts/a");
        let (changed, fault) = update(json!("an error page"), 2, "hosts");
        assert_eq!((changed.as_str(), fault.as_deref()), ("", Some("context.hosts: must be a list")));
        assert_eq!(update(json!([a, b]), 2, "hosts"), ("hosts/b".to_owned(), None));
    }
}
