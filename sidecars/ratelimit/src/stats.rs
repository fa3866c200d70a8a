//! What is counted of each limit, under the reference server's names. It lives and ends with the configuration, so that
//! limits which are gone leave nothing behind.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Of one limit.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) total_hits: AtomicU64,
    pub(crate) over_limit: AtomicU64,
    pub(crate) near_limit: AtomicU64,
    /// Without asking the store.
    pub(crate) over_limit_with_local_cache: AtomicU64,
    pub(crate) within_limit: AtomicU64,
    pub(crate) shadow_mode: AtomicU64,
}

/// One `key_value` a level.
pub(crate) type Labels = Box<[Box<str>]>;

/// How hits came out.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) over: bool,
    /// More than four fifths are used.
    pub(crate) near: bool,
    pub(crate) without_store: bool,
    pub(crate) shadow: bool,
}

impl Counts {
    pub(crate) fn count(&self, hits: u64, outcome: Outcome) {
        let add = |counter: &AtomicU64| {
            counter.fetch_add(hits, Ordering::Relaxed);
        };
        add(&self.total_hits);
        match outcome {
            Outcome { over: false, near, .. } => {
                add(&self.within_limit);
                if near {
                    add(&self.near_limit);
                }
            }
            Outcome { without_store, shadow, .. } => {
                add(&self.over_limit);
                if without_store {
                    add(&self.over_limit_with_local_cache);
                }
                if shadow {
                    add(&self.shadow_mode);
                }
            }
        }
    }

    /// By name.
    pub(crate) fn values(&self) -> [(&'static str, u64); 6] {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("total_hits", get(&self.total_hits)),
            ("over_limit", get(&self.over_limit)),
            ("near_limit", get(&self.near_limit)),
            ("over_limit_with_local_cache", get(&self.over_limit_with_local_cache)),
            ("within_limit", get(&self.within_limit)),
            ("shadow_mode", get(&self.shadow_mode)),
        ]
    }
}

/// Those of a domain that are named by what requests carry.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    by_labels: Mutex<HashMap<Labels, Arc<Counts>>>,
}

/// Of a domain: what requests carry must not fill the memory. What comes later counts with its limit only.
const MAX_NAMED: usize = 1_000;
/// Of a label: values may be as long as a request.
const MAX_LABEL_BYTES: usize = 256;

impl Stats {
    /// The counts under these names; `None` where there are too many.
    pub(crate) fn of(&self, labels: Vec<Box<str>>) -> Option<Arc<Counts>> {
        let cut = |label: Box<str>| label[..label.floor_char_boundary(MAX_LABEL_BYTES)].into();
        let labels: Labels = labels.into_iter().map(cut).collect();
        let mut known = self.by_labels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = known.get(&labels) {
            return Some(Arc::clone(counts));
        }
        if known.len() >= MAX_NAMED {
            return None;
        }
        Some(Arc::clone(known.entry(labels).or_default()))
    }

    /// All of them at this moment.
    pub(crate) fn all(&self) -> Vec<(Labels, Arc<Counts>)> {
        let known = self.by_labels.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(labels, counts)| (labels.clone(), Arc::clone(counts))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_requests_carry_have_a_bound_in_number_and_length() {
        let stats = Stats::default();
        let named = (0..5_000).filter(|at| stats.of(vec![format!("{at}").into()]).is_some()).count();
        assert_eq!((named, stats.all().len()), (MAX_NAMED, MAX_NAMED));
        let stats = Stats::default();
        stats.of(vec!["ä".repeat(10_000).into()]).unwrap();
        assert!(stats.all()[0].0[0].len() <= MAX_LABEL_BYTES);
    }
}
