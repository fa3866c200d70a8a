//! The steps. Each looks at what is wanted, does what is missing, and says what it did.

use std::time::Duration;

use model::{
    Host,
    fleet::Progress,
    instance::{Distribution, Instance, OperationKind, Published, StepName, StepState},
    plan::Plan,
};
use runtime::telemetry::chain;
use store::{Claim, Claimant, Refusal};
use time::OffsetDateTime;

use crate::{
    Worker,
    job::put,
    provider::{Proofs, ProviderError, Target},
};

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

impl From<ProviderError> for StepError {
    fn from(error: ProviderError) -> Self {
        if error.is_lasting { Self::Refused(chain(&error)) } else { Self::Passing(chain(&error)) }
    }
}

/// A certificate that ends sooner is replaced.
pub(crate) const RENEW_BEFORE: time::Duration = time::Duration::days(30);
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
            StepName::Certificate if leaving => self.drop_certificate(instance).await,
            StepName::Certificate => self.certificate(instance).await,
            StepName::Cdn if leaving || instance.plan() != Plan::Edge => {
                self.drop_distribution(instance).await
            }
            StepName::Cdn => self.distribution(instance).await,
            StepName::Dns if leaving => self.names(instance, Vec::new()).await,
            StepName::Dns => self.names(instance, wanted_and_proven_hosts(instance)?).await,
            StepName::Publish if leaving => {
                instance.published = None;
                // Nothing returns to it any more, whatever becomes of this operation.
                instance.proven = None;
                Ok("withdrawn".into())
            }
            StepName::Publish => self.publish(instance),
            StepName::Fleet if leaving => self.fleet(instance).await,
            StepName::Fleet => {
                let told = self.fleet(instance).await?;
                // What comes after this only clears up: should it fail, there is no way back.
                instance.proven.clone_from(&instance.published);
                Ok(told)
            }
            StepName::Release => {
                self.store.release(&instance.id, &[]).await?;
                Ok("hosts released".into())
            }
        }
    }

    /// How long a step may take.
    pub(crate) fn deadline(&self, step: StepName) -> Duration {
        match step {
            StepName::Certificate | StepName::Cdn | StepName::Dns => self.retries.slow_step,
            StepName::Claim | StepName::Publish | StepName::Fleet | StepName::Release => self.retries.step,
        }
    }

    async fn claim(&self, instance: &Instance) -> Result<String, StepError> {
        let hosts = wanted(instance)?.service.hosts;
        let (platforms, owner) = (self.platforms.borrow().clone(), &instance.request.owner);
        let claimant = Claimant::of(&platforms, &instance.id, owner);
        for (at, host) in hosts.iter().enumerate() {
            // The rules may have changed since the broker asked.
            platforms
                .may_claim(owner, host, instance.plan())
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
        if instance.certificate.as_ref().as_ref().is_none_or(|known| !good(known)) {
            self.renew(instance, &hosts).await?;
        }
        Ok(format!("certificate for {}", shown(&hosts)))
    }

    /// A new certificate; the one before is served until it is everywhere.
    pub(crate) async fn renew(&self, instance: &mut Instance, hosts: &[Host]) -> Result<(), StepError> {
        let issued = self.certificates.issue(&instance.id, instance.revision, hosts).await?;
        let now = issued.name.clone();
        let before = instance.certificate.replace(issued).and_then(|before| before.name);
        note_replaced(instance, before, now.as_deref());
        Ok(())
    }

    async fn drop_certificate(&self, instance: &mut Instance) -> Result<String, StepError> {
        let own = instance.certificate.as_ref().and_then(|own| own.name.as_ref());
        // A host that was given up may be another's by now, with what proves it.
        let held = self.proven_for_nobody_else(instance).await?;
        for name in instance.replaced.iter().chain(own) {
            self.discard(name, Proofs::DeleteOf(&held)).await?;
        }
        instance.replaced.clear();
        instance.certificate = None;
        Ok("certificate dropped".into())
    }

    /// The hosts of an instance, but for those whose proof is another instance's too: `x` and `*.x` have the same one.
    pub(crate) async fn proven_for_nobody_else(&self, instance: &Instance) -> Result<Vec<Host>, StepError> {
        let (platforms, owner) = (self.platforms.borrow().clone(), &instance.request.owner);
        let claimant = Claimant::of(&platforms, &instance.id, owner);
        let mut alone = Vec::new();
        for host in self.store.held(&instance.id).await? {
            let sibling = host.below().map_or_else(|| format!("*.{host}"), str::to_owned);
            // A name of one label, or one that is too long, is nobody's.
            let claim = match Host::try_from(sibling) {
                Ok(sibling) => self.store.may_claim(&[sibling], &claimant).await?,
                Err(_) => Claim::Held,
            };
            if !matches!(claim, Claim::Refused { why: Refusal::Taken(_), .. }) {
                alone.push(host);
            }
        }
        Ok(alone)
    }

    /// Certificates that were served before this operation.
    pub(crate) async fn discard_replaced(&self, instance: &mut Instance) -> Result<(), StepError> {
        for name in &instance.replaced {
            self.discard(name, Proofs::Keep).await?;
        }
        instance.replaced.clear();
        Ok(())
    }

    /// A certificate, in whichever region it is; where it is not, it is missing, which is as good.
    pub(crate) async fn discard(&self, name: &str, proofs: Proofs<'_>) -> Result<(), ProviderError> {
        self.certificates.discard(name, proofs).await?;
        self.cdn.discard(name).await
    }

    /// For the hosts of the new revision, and until it is proven those of the old one.
    async fn distribution(&self, instance: &mut Instance) -> Result<String, StepError> {
        let hosts = wanted_and_proven_hosts(instance)?;
        let known = instance.distribution.as_ref();
        let set = self.cdn.set(&instance.id, instance.revision, &hosts, known).await?;
        let told = format!("{} answers for {}", set.domain, shown(&hosts));
        set_distribution(instance, set);
        Ok(told)
    }

    /// A host that the service has no more must not be another's while the distribution answers for it.
    pub(crate) async fn shrink_distribution(&self, instance: &mut Instance) -> Result<(), StepError> {
        let hosts = instance.proven.as_ref().map(|proven| &proven.service.hosts);
        let (Some(hosts), Some(known)) = (hosts, &instance.distribution) else { return Ok(()) };
        if known.hosts.len() > hosts.len() {
            let set = self.cdn.set(&instance.id, instance.revision, hosts, Some(known)).await?;
            set_distribution(instance, set);
        }
        Ok(())
    }

    async fn drop_distribution(&self, instance: &mut Instance) -> Result<String, StepError> {
        match &instance.distribution {
            Some(known) => self.cdn.remove(known).await?,
            // One may have been made, and its worker stopped before it was written down.
            None => {
                for (_, name) in self.cdn.owned().await?.into_iter().filter(|(id, _)| *id == instance.id) {
                    self.cdn.remove(&self.cdn.adopt(&instance.id, &name).await?).await?;
                }
            }
        }
        instance.distribution = None;
        Ok("distribution deleted".into())
    }

    /// Makes exactly these names resolve.
    async fn names(&self, instance: &Instance, hosts: Vec<Host>) -> Result<String, StepError> {
        self.set_names(instance, &hosts, instance.plan()).await?;
        Ok(if hosts.is_empty() {
            "names removed".into()
        } else {
            format!("{} resolve to the edge", shown(&hosts))
        })
    }

    /// Where the names of an instance lead with a plan.
    pub(crate) fn target(instance: &Instance, plan: Plan) -> Target {
        match (plan, &instance.distribution) {
            (Plan::Edge, Some(distribution)) => Target::Cdn(distribution.domain.clone()),
            (Plan::Internal, _) => Target::Internal,
            (Plan::Edge | Plan::Standard, _) => Target::Edge,
        }
    }

    /// Those that the instance holds beside these do not resolve any more.
    pub(crate) async fn set_names(
        &self,
        instance: &Instance,
        hosts: &[Host],
        plan: Plan,
    ) -> Result<(), StepError> {
        let to = Self::target(instance, plan);
        let held = self.store.held(&instance.id).await?;
        let no_more: Vec<_> = held.into_iter().filter(|host| !hosts.contains(host)).collect();
        Ok(self.dns.set(&instance.id, hosts, &to, &no_more).await?)
    }

    fn publish(&self, instance: &mut Instance) -> Result<String, StepError> {
        if instance.operation.kind == OperationKind::Unbind && instance.published.is_none() {
            // It was withdrawn, by a deletion that did not get to its end: it is not to come back.
            return Ok("nothing is published".into());
        }
        let limits = self.platforms.borrow().limits(instance.plan());
        let requests_per_second = limits.requests_per_second;
        instance.published = Some(Published { requests_per_second, ..wanted(instance)? });
        Ok(format!("published revision {}", instance.revision))
    }

    /// Waits until enough connected nodes have acknowledged what was published (or withdrawn).
    async fn fleet(&self, instance: &mut Instance) -> Result<String, StepError> {
        let wanted = instance.published.as_ref().map(|published| published.rev);
        let mut changes = self.store.changes();
        let begun = tokio::time::Instant::now();
        let deadline = begun + self.fleet.deadline;
        let mut enough_since = None;
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
            let waiting = progress.waiting.as_ref();
            let waiting = waiting.map(|waiting| format!("; waiting for {waiting}")).unwrap_or_default();
            let told = told + &waiting;
            // A key that is to go must be good nowhere.
            let is_unbind = instance.operation.kind == OperationKind::Unbind;
            if !is_unbind && progress.is_enough(self.fleet.percent) {
                let since = *enough_since.get_or_insert_with(tokio::time::Instant::now);
                if since.elapsed() >= self.fleet.grace {
                    return Ok(format!("{told}, in vain for {} s", self.fleet.grace.as_secs()));
                }
            } else {
                enough_since = None;
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(StepError::Refused(format!(
                    "{told}; given up after {} s",
                    self.fleet.deadline.as_secs()
                )));
            }
            let mut pause = LOOK_AGAIN;
            if let Some(since) = enough_since {
                pause = pause.min(self.fleet.grace.saturating_sub(since.elapsed()));
            }
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

fn set_distribution(instance: &mut Instance, set: Distribution) {
    let now = set.certificate.clone();
    let before = instance.distribution.replace(set).map(|before| before.certificate);
    note_replaced(instance, before, Some(&now));
}

/// A certificate that another one stands for now is to be discarded, when that one is everywhere.
fn note_replaced(instance: &mut Instance, before: Option<String>, now: Option<&str>) {
    let is_another = |name: &String| Some(name.as_str()) != now && !instance.replaced.contains(name);
    let another = before.filter(is_another);
    instance.replaced.extend(another);
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
