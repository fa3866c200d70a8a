//! Takes jobs from the queue and carries an instance's operation through its steps, each of which can be done
//! again without harm. Killed at any point, the next lease goes on where the store says.

mod job;
mod provider;
mod reconciler;
mod relay;
mod retries;
mod steps;

pub mod aws;
pub mod certificates;
pub mod dns;

use std::{sync::Arc, time::Duration};

use model::{faults::Faults, platforms::Platforms};
use queue::Queue;
use store::Store;
use tokio::{sync::watch, task::JoinSet};

pub use provider::{Cdn, Certificates, Dns, NoCdn, Owned, Proofs, ProviderError, Target};
pub use reconciler::{Mending, Reconciler};
pub use relay::relay;
pub use retries::Retries;

/// Jobs under way in one process: most of them only wait, for the fleet or for half an hour for a CDN.
const MAX_JOBS: usize = 256;
/// After the queue failed.
const RETRY: Duration = Duration::from_secs(1);

/// What steps act upon.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Where instances are.
    pub store: Arc<dyn Store>,
    /// Where jobs come from.
    pub queue: Arc<dyn Queue>,
    /// Who may have which hosts, and how many.
    pub platforms: watch::Receiver<Arc<Platforms>>,
    /// What is to go wrong on purpose.
    pub faults: watch::Receiver<Arc<Faults>>,
    /// Who issues certificates.
    pub certificates: Arc<dyn Certificates>,
    /// Where names are published.
    pub dns: Arc<dyn Dns>,
    /// What stands in front of the edge.
    pub cdn: Arc<dyn Cdn>,
    /// How long a job is hidden from other workers; extended while it is worked on.
    pub lease: Duration,
    /// What happens when a step fails for a passing reason.
    pub retries: Retries,
    /// When a change is live.
    pub fleet: FleetRule,
}

/// When the fleet has taken a change.
#[derive(Debug, Clone, Copy)]
pub struct FleetRule {
    /// How many of a hundred connected nodes have to acknowledge it; at least one node does.
    pub percent: u8,
    /// How long the others are waited for, when these have.
    pub grace: Duration,
    /// How long a step waits at all before the operation has failed.
    pub deadline: Duration,
}

impl Default for FleetRule {
    /// All of them.
    fn default() -> Self {
        Self { percent: 100, grace: Duration::from_secs(10), deadline: Duration::from_secs(120) }
    }
}

impl Worker {
    /// Works until `stop` resolves. Jobs under way are left to the next worker: their lease ends.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut jobs = JoinSet::new();
        tokio::pin!(stop);
        loop {
            while jobs.len() >= MAX_JOBS {
                jobs.join_next().await;
            }
            // Only given up at the end: a lease that nobody takes would hide its job from everybody.
            let received = tokio::select! {
                () = &mut stop => return,
                received = self.queue.receive(self.lease) => received,
            };
            match received {
                Ok(lease) => {
                    jobs.spawn(job::carry_through(self.clone(), lease));
                }
                Err(error) => {
                    tracing::error!(error = %error, cause = ?error.source, "no job can be received");
                    tokio::time::sleep(RETRY).await;
                }
            }
            while jobs.try_join_next().is_some() {}
        }
    }
}

#[cfg(test)]
mod tests;
