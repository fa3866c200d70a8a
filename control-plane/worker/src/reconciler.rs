//! Compares, slowly, what is wanted with what exists: names, certificates, distributions, jobs. It says what differs, and
//! mends it where that is allowed.

use std::{collections::BTreeMap, time::Duration};

use model::{
    Host, InstanceId,
    drift::{Drift, Finding, Kind, MOST_FINDINGS, State},
    instance::Instance,
};
use runtime::{jitter::jittered, telemetry::chain};
use store::{LONGEST_TURN, Put, StoreError, Write};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    Worker,
    provider::{Owned, Proofs, ProviderError},
    steps::{RENEW_BEFORE, StepError},
};

/// What is done about what differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mending {
    /// It is reported. Certificates are renewed all the same: without that, services would end.
    Report,
    /// It is put right.
    Mend,
}

/// Looks around, one worker at a time.
#[derive(Debug, Clone)]
pub struct Reconciler {
    /// With its providers.
    pub worker: Worker,
    /// This process, among those on the same store.
    pub holder: String,
    /// What is done.
    pub mending: Mending,
    /// Between two looks.
    pub every: Duration,
}

/// In the store: whoever looks around.
const TASK: &str = "reconcile";
/// Between two services, so that a look never is a burst.
const PAUSE: Duration = Duration::from_millis(20);
/// More are no accident, or this is not the store that they belong to: they are told, and left.
const MOST_ORPHANS: usize = 20;

/// Findings, and how many there may be.
#[derive(Default)]
struct Found(Vec<Finding>);

impl Found {
    fn add(&mut self, instance: &InstanceId, kind: Kind, what: String, state: State) {
        tracing::warn!(instance = %instance, ?kind, what, ?state, "drift");
        if self.0.len() < MOST_FINDINGS {
            self.0.push(Finding { instance: instance.to_string(), kind, what, state });
        }
    }
}

fn state(mended: Result<(), impl std::fmt::Display>) -> State {
    match mended {
        Ok(()) => State::Mended,
        Err(error) => State::Failed(error.to_string()),
    }
}

impl Reconciler {
    /// Looks around from time to time, for ever.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(jittered(self.every)).await;
            match self.look(self.mending).await {
                Ok(Some(drift)) => {
                    tracing::info!(
                        instances = drift.instances,
                        findings = drift.findings.len(),
                        "looked around"
                    );
                }
                Ok(None) => {}
                Err(error) => tracing::error!(error = %error, cause = ?error.source, "no look around"),
            }
        }
    }

    /// Looks around once; nothing, if another process does.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn look(&self, mending: Mending) -> Result<Option<Drift>, StoreError> {
        // Of this look: another one of the same process has no part in it.
        let holder = format!("{}/{}", self.holder, Uuid::new_v4());
        if !self.worker.store.take_turn(TASK, &holder, LONGEST_TURN).await? {
            return Ok(None);
        }
        let looked = self.look_everywhere(mending, &holder).await;
        // Also after a failure: another process may have more luck.
        self.worker.store.take_turn(TASK, &holder, Duration::ZERO).await?;
        let drift = looked?;
        let swept = self.worker.store.sweep_revocations().await?;
        if swept > 0 {
            tracing::info!(swept, "revocations of what has expired are gone");
        }
        self.worker.store.note_drift(&drift).await?;
        Ok(Some(drift))
    }

    async fn look_everywhere(&self, mending: Mending, holder: &str) -> Result<Drift, StoreError> {
        let mut found = Found::default();
        // What exists is listed before it is read what is wanted: what comes meanwhile is no orphan then.
        let owned = self.owned(&mut found).await;
        let (instances, _) = self.worker.store.changed_since(0).await?;
        self.orphans(owned, mending, &mut found).await?;
        let mut looked_at = 0;
        for instance in instances.into_iter().filter(|instance| !instance.gone) {
            if !self.worker.store.take_turn(TASK, holder, LONGEST_TURN).await? {
                tracing::warn!("the look took too long, and is another's now");
                break;
            }
            looked_at += 1;
            // Read again, since others take their time.
            let Some(instance) = self.worker.store.get(&instance.id).await? else { continue };
            if instance.operation.in_progress() {
                // Queues keep a job for days, not for ever. Where it still is, it is not added.
                if let Err(error) = self.worker.queue.send(&[instance.job()]).await {
                    tracing::error!(instance = %instance.id, error = %error, "its job cannot be sent again");
                }
            } else if instance.proven.is_some() && !instance.gone {
                self.service(instance, mending, &mut found).await?;
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(Drift { at: OffsetDateTime::now_utc(), instances: looked_at, findings: found.0 })
    }

    /// Everything that exists, by whose it is said to be.
    async fn owned(&self, found: &mut Found) -> BTreeMap<InstanceId, Vec<(Kind, String)>> {
        let Worker { dns, certificates, cdn, .. } = &self.worker;
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut add = |kind, listed: Result<Vec<Owned>, ProviderError>| match listed {
            Ok(listed) => {
                for (id, name) in listed {
                    all.entry(id).or_default().push((kind, name));
                }
            }
            Err(error) => {
                let everybody = InstanceId::of_item("all", "services");
                found.add(&everybody, Kind::Unknown, chain(&error), State::Found);
            }
        };
        add(Kind::Name, dns.owned().await);
        add(Kind::Distribution, cdn.owned().await);
        add(Kind::Certificate, certificates.owned().await);
        add(Kind::Certificate, cdn.owned_certificates().await);
        all
    }

    /// What exists and is nobody's any more.
    async fn orphans(
        &self,
        owned: BTreeMap<InstanceId, Vec<(Kind, String)>>,
        mending: Mending,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let mut removed = 0;
        for (id, things) in owned {
            let instance = self.worker.store.get(&id).await?;
            // Of one that is gone the row stays: what this store never knew is another's, in the same account.
            let is_known = instance.is_some();
            if instance.as_ref().is_some_and(|instance| instance.operation.in_progress()) {
                continue;
            }
            let held = self.worker.store.held(&id).await?;
            for (kind, name) in things {
                let is_wanted = match kind {
                    Kind::Name => held.iter().any(|host| host.as_str() == name),
                    _ => instance.as_ref().is_some_and(|instance| refers_to(instance, &name)),
                };
                if is_wanted {
                    continue;
                }
                let what = if is_known {
                    format!("{name} is left over: nobody has it")
                } else {
                    format!("{name} is of an instance that this store never knew; it is left alone")
                };
                let still = self.is_unchanged(&id, instance.as_ref()).await?;
                let state = if mending == Mending::Mend && is_known && still && removed < MOST_ORPHANS {
                    removed += 1;
                    state(self.remove(&id, kind, &name).await.map_err(|error| chain(&error)))
                } else {
                    State::Found
                };
                found.add(&id, kind, what, state);
            }
        }
        Ok(())
    }

    /// Whether nobody has begun anything since it was read: an operation does what is wanted by itself.
    async fn is_unchanged(&self, id: &InstanceId, read: Option<&Instance>) -> Result<bool, StoreError> {
        let now = self.worker.store.get(id).await?;
        Ok(now.map(|now| now.version) == read.map(|read| read.version))
    }

    async fn remove(&self, id: &InstanceId, kind: Kind, name: &str) -> Result<(), ProviderError> {
        let Worker { dns, cdn, .. } = &self.worker;
        match kind {
            Kind::Name => {
                let host = Host::try_from(name.to_owned());
                let host = host.map_err(|error| ProviderError::lasting("removing a name", error))?;
                dns.set(id, &[], &crate::Target::Edge, &[host]).await
            }
            Kind::Distribution => {
                let known = cdn.adopt(id, name).await?;
                cdn.remove(&known).await
            }
            Kind::Certificate | Kind::Unknown => self.worker.discard(name, Proofs::Keep).await,
        }
    }

    /// One service that rests.
    async fn service(
        &self,
        mut instance: Instance,
        mending: Mending,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let id = instance.id.clone();
        let (hosts, plan) = match &instance.proven {
            Some(proven) => (proven.service.hosts.clone(), proven.plan),
            None => return Ok(()),
        };
        match self.worker.dns.look(&id, &hosts, &Worker::target(&instance, plan)).await {
            Ok(differences) if differences.is_empty() => {}
            Ok(differences) => {
                let held = self.worker.store.held(&id).await?;
                let are_ours = hosts.iter().all(|host| held.contains(host));
                let still = are_ours && self.is_unchanged(&id, Some(&instance)).await?;
                let state = if mending == Mending::Mend && still {
                    state(self.worker.set_names(&instance, &hosts, plan).await)
                } else {
                    State::Found
                };
                for what in differences {
                    found.add(&id, Kind::Name, what, state.clone());
                }
            }
            Err(error) => found.add(&id, Kind::Unknown, chain(&error), State::Found),
        }
        self.distribution(&mut instance, mending, found).await?;
        self.certificate(instance, &hosts, found).await
    }

    async fn distribution(
        &self,
        instance: &mut Instance,
        mending: Mending,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let Some(known) = instance.distribution.clone() else { return Ok(()) };
        let differences = match self.worker.cdn.look(&instance.id, &known).await {
            Ok(differences) => differences,
            Err(error) => {
                found.add(&instance.id, Kind::Unknown, chain(&error), State::Found);
                return Ok(());
            }
        };
        if differences.is_empty() {
            return Ok(());
        }
        let mut end = State::Found;
        if mending == Mending::Mend && self.is_unchanged(&instance.id, Some(instance)).await? {
            let set = self.worker.cdn.set(&instance.id, instance.revision, &known.hosts, Some(&known)).await;
            end = match set {
                Ok(set) if set == known => State::Mended,
                Ok(set) => {
                    // A new one: names lead to it from the next look on.
                    instance.distribution = Some(set);
                    self.written(instance).await?
                }
                Err(error) => State::Failed(chain(&error)),
            };
        }
        for what in differences {
            found.add(&instance.id, Kind::Distribution, what, end.clone());
        }
        Ok(())
    }

    /// Renews a certificate in time, and discards those that were served before.
    async fn certificate(
        &self,
        mut instance: Instance,
        hosts: &[Host],
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let left = instance.certificate.as_ref().map(|known| known.not_after - OffsetDateTime::now_utc());
        if left.is_some_and(|left| left <= RENEW_BEFORE) {
            let what = format!("the certificate for {} hosts ends soon", hosts.len());
            let renewed = self.worker.renew(&mut instance, hosts).await;
            let state = match renewed {
                Ok(()) => self.written(&mut instance).await?,
                Err(error) => State::Failed(error.to_string()),
            };
            found.add(&instance.id, Kind::Certificate, what, state);
            // What was served until now is discarded with the next look, when the new one is everywhere.
        } else if !instance.replaced.is_empty() {
            match self.worker.discard_replaced(&mut instance).await {
                Ok(()) => drop(self.written(&mut instance).await?),
                Err(StepError::Refused(error) | StepError::Passing(error)) => {
                    let what = "certificates that were served before are left over".to_owned();
                    found.add(&instance.id, Kind::Certificate, what, State::Failed(error));
                }
            }
        }
        Ok(())
    }

    async fn written(&self, instance: &mut Instance) -> Result<State, StoreError> {
        Ok(match self.worker.store.put(Write::of(instance)).await? {
            Put::Stored(stored) => {
                *instance = *stored;
                State::Mended
            }
            // An operation has begun meanwhile, and does the same.
            Put::Conflict | Put::OverQuota => State::Failed("it was changed meanwhile".into()),
        })
    }
}

/// Whether something is named by an instance.
fn refers_to(instance: &Instance, name: &str) -> bool {
    let certificate = instance.certificate.as_ref().and_then(|known| known.name.as_deref());
    let distribution = instance.distribution.as_ref();
    !instance.gone
        && (certificate == Some(name)
            || instance.replaced.iter().any(|replaced| replaced == name)
            || distribution.is_some_and(|known| known.id == name || known.certificate == name))
}
