//! What was served before: for people who ask what changed. Bounded, and in memory only.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use crate::{Key, Resource, Snapshot};

/// Older versions of resources, across snapshots.
#[derive(Debug, Default)]
pub struct History {
    past: HashMap<Key, VecDeque<Past>>,
    /// Which one was replaced first, over all resources.
    order: VecDeque<Key>,
    bytes: usize,
}

/// A version that is served no more.
#[derive(Debug, Clone)]
pub struct Past {
    /// As it was.
    pub resource: Arc<Resource>,
    /// When another one took its place, or none.
    pub until: SystemTime,
}

/// Whoever looks wants the last few.
const MAX_VERSIONS: usize = 8;
/// A change of all of 5,000 services' resources is about 30 MB.
const MAX_BYTES: usize = 64 * 1024 * 1024;

impl History {
    /// Keeps what the next snapshot replaces.
    pub fn note(&mut self, before: &Snapshot, after: &Snapshot, now: SystemTime) {
        let Some(changed) = after.changed_since(before) else { return };
        for key in changed {
            if let Some(resource) = before.get(key) {
                self.keep(resource.clone(), now);
            }
        }
    }

    fn keep(&mut self, resource: Arc<Resource>, until: SystemTime) {
        let key = resource.key.clone();
        let past = self.past.entry(key.clone()).or_default();
        // Nodes with other templates may have replaced the same one.
        if past.iter().any(|known| known.resource.version == resource.version) {
            return;
        }
        self.bytes += resource.body.len();
        past.push_back(Past { resource, until });
        self.order.push_back(key.clone());
        if past.len() > MAX_VERSIONS {
            self.drop_oldest(&key);
        }
        while self.bytes > MAX_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            self.drop_oldest(&oldest);
        }
    }

    fn drop_oldest(&mut self, key: &Key) {
        let Some(past) = self.past.get_mut(key) else { return };
        if let Some(gone) = past.pop_front() {
            self.bytes -= gone.resource.body.len();
        }
        if past.is_empty() {
            self.past.remove(key);
        }
    }

    /// The last versions of a resource, the newest first, without the one that is served.
    pub fn of(&self, key: &Key) -> impl Iterator<Item = &Past> {
        self.past.get(key).into_iter().flat_map(|past| past.iter().rev())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use api::ResourceType;

    use super::*;

    fn snapshot(before: &Snapshot, version: &str, bytes: usize) -> Snapshot {
        let key = Key { kind: ResourceType::Cluster, name: "a".into() };
        let resource = Resource::new(key, None, version.into(), vec![0; bytes].into());
        before.next(Some(&[Arc::new(resource)]), &BTreeMap::new()).unwrap().snapshot
    }

    fn versions(bytes: usize, count: usize) -> Vec<String> {
        let key = Key { kind: ResourceType::Cluster, name: "a".into() };
        let (mut history, mut now) = (History::default(), Snapshot::default());
        for version in 0..=count {
            let next = snapshot(&now, &version.to_string(), bytes);
            history.note(&now, &next, SystemTime::now());
            // Another selection has the same.
            history.note(&now, &next, SystemTime::now());
            now = next;
        }
        history.of(&key).map(|past| past.resource.version.to_string()).collect()
    }

    #[test]
    fn the_last_versions_are_kept_the_newest_first() {
        assert_eq!(versions(1, 3), ["2", "1", "0"]);
        assert_eq!(versions(1, 20), ["19", "18", "17", "16", "15", "14", "13", "12"]);
    }

    #[test]
    fn what_is_large_is_kept_for_less_long() {
        assert_eq!(versions(MAX_BYTES / 3, 5), ["4", "3", "2"]);
        assert_eq!(versions(MAX_BYTES + 1, 2), Vec::<String>::new());
    }
}
