//! Takes jobs from the queue and carries an instance's operation through its steps, each of which can be done
//! again without harm. Killed at any point, the next lease goes on where the store says.

mod job;
mod relay;
mod retries;
mod steps;

pub mod certificates;
pub mod dns;

use std::{sync::Arc, time::Duration};

use model::platforms::Platforms;
use queue::Queue;
use store::Store;
use tokio::{sync::watch, task::JoinSet};

pub use relay::relay;
pub use retries::Retries;

/// Jobs under way in one process: most of them only wait for the fleet.
const MAX_JOBS: usize = 64;
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
    /// Who issues certificates.
    pub certificates: Arc<dyn certificates::Certificates>,
    /// Where names are published.
    pub dns: Arc<dyn dns::Dns>,
    /// How long a job is hidden from other workers; extended while it is worked on.
    pub lease: Duration,
    /// What happens when a step fails for a passing reason.
    pub retries: Retries,
    /// How long a step waits for the fleet before the operation has failed.
    pub fleet_deadline: Duration,
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
