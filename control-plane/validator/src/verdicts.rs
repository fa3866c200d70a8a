//! What Envoy said of what it was shown, by content: nothing is shown to it twice.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use resources::{Resource, version_of};

/// A fleet's services in a few revisions each, 100 bytes a piece. When there are more, all are asked for again.
const MAX_VERDICTS: usize = 100_000;

#[derive(Debug, Default)]
pub(crate) struct Verdicts(Mutex<HashMap<Arc<str>, Result<(), String>>>);

impl Verdicts {
    pub(crate) fn of(&self, resources: &[Arc<Resource>]) -> Option<Result<(), String>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&version_of(resources.iter())).cloned()
    }

    pub(crate) fn keep(&self, resources: &[Arc<Resource>], verdict: Result<(), String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_VERDICTS {
            known.clear();
        }
        known.insert(version_of(resources.iter()), verdict);
    }
}
