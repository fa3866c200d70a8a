//! Policies by name, with a grace for those that were just removed.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// Envoy acknowledges a route before all of its workers use it, and requests under way still name the old
/// policy. Far longer than either takes.
const GRACE: Duration = Duration::from_secs(30);
/// Removed policies that are kept at most; the oldest leave first.
const MAX_RETIRED: usize = 1_024;

/// What a sidecar decides by. Cheap to clone; a change makes a new one.
#[derive(Debug)]
pub struct Table<T> {
    live: HashMap<String, Arc<T>>,
    retired: VecDeque<(Instant, String, Arc<T>)>,
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self { live: self.live.clone(), retired: self.retired.clone() }
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { live: HashMap::new(), retired: VecDeque::new() }
    }
}

impl<T> Table<T> {
    /// The entry of this name, also when it was removed a moment ago.
    pub fn get(&self, name: &str) -> Option<&Arc<T>> {
        self.live.get(name).or_else(|| {
            self.retired.iter().rev().find(|(_, retired, _)| retired == name).map(|(_, _, entry)| entry)
        })
    }

    /// Adds or replaces.
    pub fn insert(&mut self, name: String, entry: T) {
        self.live.insert(name, Arc::new(entry));
    }

    /// Takes an entry out, after its grace.
    pub fn remove(&mut self, name: &str, now: Instant) {
        self.retired.retain(|(since, _, _)| now.duration_since(*since) < GRACE);
        if let Some(entry) = self.live.remove(name) {
            self.retired.push_back((now, name.to_owned(), entry));
        }
        while self.retired.len() > MAX_RETIRED {
            self.retired.pop_front();
        }
    }

    /// How many are in force.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether none is in force.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_entry_answers_during_its_grace_only() {
        let start = Instant::now();
        let mut table = Table::default();
        table.insert("a@1".into(), 1);
        table.insert("b@1".into(), 2);
        table.remove("a@1", start);
        assert_eq!((table.len(), table.get("a@1").map(|entry| **entry)), (1, Some(1)));
        table.remove("b@1", start + GRACE);
        assert!(table.get("a@1").is_none());
        assert!(table.get("b@1").is_some());
    }

    #[test]
    fn removed_entries_are_bounded() {
        let start = Instant::now();
        let mut table = Table::default();
        for at in 0..MAX_RETIRED + 10 {
            table.insert(at.to_string(), ());
            table.remove(&at.to_string(), start);
        }
        assert!(table.get("0").is_none());
        assert!(table.get("10").is_some());
    }
}
