//! The steps. Each looks at what is wanted, does what is missing, and says what it did.

use std::time::Duration;

use model::{
    Host,
    fleet::Progress,
    instance::{Instance, OperationKind, Published, StepName, StepState},
};
use runtime::telemetry::chain;
use store::Claimant;
use time::OffsetDateTime;

use crate::{Worker, job::put};

/// Why a step is not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// It will not be, however often it is tried.
    #[error("{0}")]
    Refused(String),
    /// It may be, later.
    #[error("{0}")]
    Passing(String),
}

/// A certificate that ends sooner is replaced.
const RENEW_BEFORE: time::Duration = time::Duration::days(30);
/// Most fleets have acknowledged a change before anybody could read that they have not.
const WORTH_TELLING: Duration = Duration::from_millis(100);
/// Reports of other replicas are read at least this often; those of this process wake the step at once.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Worker {
    /// Does one step; the instance may be changed, and is written by the caller.
    pub(crate) async fn step(&self, instance: &mut Instance, step: StepName) -> Result<String, StepError> {
        let leaving = instance.operation.kind == OperationKind::Deprovision;
        match step {
            StepName::Claim => self.claim(instance).await,
            StepName::Certificate if leaving => {
                instance.certificate = None;
                Ok("certificate dropped".into())
            }
            StepName::Certificate => self.certificate(instance).await,
            StepName::Dns if leaving => self.names(instance, Vec::new()).await,
            StepName::Dns => self.publish_names(instance).await,
            StepName::Publish if leaving => {
                instance.published = None;
                // Nothing returns to it any more, whatever becomes of this operation.
                instance.proven = None;
                Ok("withdrawn".into())
            }
            StepName::Publish => publish(instance),
            StepName::Fleet => self.fleet(instance).await,
            StepName::Release => {
                self.store.release(&instance.id, &[]).await?;
                Ok("hosts released".into())
            }
        }
    }

    async fn claim(&self, instance: &Instance) -> Result<String, StepError> {
        let hosts = wanted(instance)?.service.hosts;
        let (platforms, owner) = (self.platforms.borrow().clone(), &instance.request.owner);
        let claimant = Claimant::of(&platforms, &instance.id, owner);
        for (at, host) in hosts.iter().enumerate() {
            // The rules may have changed since the broker asked.
            platforms
                .may_claim(owner, host)
                .map_err(|error| StepError::Refused(format!("hosts[{at}]: {error}")))?;
        }
        if let Some(why) = self.store.claim(&hosts, &claimant).await?.refusal(&hosts, &claimant) {
            return Err(StepError::Refused(why));
        }
        Ok(format!("claimed {}", shown(&hosts)))
    }

    /// For the hosts of the new revision, and until it is proven those of the old one.
    async fn certificate(&self, instance: &mut Instance) -> Result<String, StepError> {
        let hosts = wanted_and_proven_hosts(instance)?;
        let good = |known: &&model::instance::Certificate| {
            known.hosts == hosts && known.not_after - OffsetDateTime::now_utc() > RENEW_BEFORE
        };
        if instance.certificate.as_ref().as_ref().is_none_or(|x| !good(x)) {
            let issued = self.certificates.issue(&hosts).await;
            instance.certificate = Some(issued.map_err(|error| StepError::Passing(chain(&error)))?);
        }
        Ok(format!("certificate for {}", shown(&hosts)))
    }

    /// The names of the new revision, and until it is proven those of the old one.
    async fn publish_names(&self, instance: &Instance) -> Result<String, StepError> {
        self.names(instance, wanted_and_proven_hosts(instance)?).await
    }

    async fn names(&self, instance: &Instance, hosts: Vec<Host>) -> Result<String, StepError> {
        let set = self.dns.set(&instance.id, &hosts).await;
        set.map_err(|error| StepError::Passing(chain(&error)))?;
        Ok(if hosts.is_empty() {
            "names removed".into()
        } else {
            format!("{} resolve to the edge", shown(&hosts))
        })
    }

    /// Waits until every connected node has acknowledged what was published (or withdrawn).
    async fn fleet(&self, instance: &mut Instance) -> Result<String, StepError> {
        let wanted = instance.published.as_ref().map(|published| published.rev);
        let mut changes = self.store.changes();
        let begun = tokio::time::Instant::now();
        let deadline = begun + self.fleet_deadline;
        loop {
            changes.mark_unchanged();
            let progress = Progress::of(&instance.id, wanted, &self.store.reports(instance.group()).await?);
            let told = format!("acknowledged by {}/{} nodes", progress.acknowledged, progress.nodes);
            if let Some(cause) = progress.refused {
                return Err(StepError::Refused(cause));
            }
            if progress.is_complete() {
                return Ok(told);
            }
            let waiting =
                progress.waiting.map(|waiting| format!("; waiting for {waiting}")).unwrap_or_default();
            let told = told + &waiting;
            if tokio::time::Instant::now() >= deadline {
                return Err(StepError::Refused(format!(
                    "{told}; given up after {} s",
                    self.fleet_deadline.as_secs()
                )));
            }
            let mut pause = LOOK_AGAIN;
            if begun.elapsed() < WORTH_TELLING {
                pause = WORTH_TELLING;
            } else {
                self.tell(instance, told).await?;
            }
            let _woken_or_not = tokio::time::timeout(pause, changes.changed()).await;
        }
    }

    /// Writes progress down, if it is news.
    async fn tell(&self, instance: &mut Instance, told: String) -> Result<(), StepError> {
        if instance.operation.description == told {
            return Ok(());
        }
        instance.operation.note(StepName::Fleet, StepState::Active, told);
        put(self, instance).await?;
        match self.store.get(&instance.id).await? {
            Some(stored) => *instance = stored,
            None => return Err(StepError::Refused("the instance is gone".into())),
        }
        Ok(())
    }
}

fn publish(instance: &mut Instance) -> Result<String, StepError> {
    instance.published = Some(wanted(instance)?);
    Ok(format!("published revision {}", instance.revision))
}

fn wanted(instance: &Instance) -> Result<Published, StepError> {
    Published::wanted_of(instance).map_err(|error| StepError::Refused(error.to_string()))
}

fn wanted_and_proven_hosts(instance: &Instance) -> Result<Vec<Host>, StepError> {
    let mut hosts = wanted(instance)?.service.hosts;
    let proven = instance.proven.iter().flat_map(|proven| &proven.service.hosts);
    let old: Vec<_> = proven.filter(|host| !hosts.contains(host)).cloned().collect();
    hosts.extend(old);
    Ok(hosts)
}

fn shown(hosts: &[Host]) -> String {
    hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
