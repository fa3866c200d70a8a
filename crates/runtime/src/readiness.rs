//! Ready means that nothing is pending. Whoever has to do something first holds a [`Latch`] and drops it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Between two looks whether something is still pending: only who starts looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What the process still waits for.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    pending: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// Holds readiness back until it is dropped.
#[derive(Debug)]
pub struct Latch {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Nothing pending: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Holds readiness back for this reason.
    #[must_use = "readiness is held back only while the latch lives"]
    pub fn latch(&self, name: &'static str) -> Latch {
        *self.lock().entry(name).or_default() += 1;
        Latch { name, readiness: self.clone() }
    }

    /// What is pending; empty when ready.
    pub fn pending(&self) -> Vec<&'static str> {
        self.lock().keys().copied().collect()
    }

    /// Waits until nothing is pending.
    pub async fn ready(&self) {
        while !self.pending().is_empty() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        let mut pending = self.readiness.lock();
        if let Some(count) = pending.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                pending.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_latch_is_dropped() {
        let readiness = Readiness::new();
        let (policies, again, socket) =
            (readiness.latch("policies"), readiness.latch("policies"), readiness.latch("socket"));
        drop(policies);
        assert_eq!(readiness.pending(), ["policies", "socket"]);
        drop(again);
        drop(socket);
        assert!(readiness.pending().is_empty());
    }
}
