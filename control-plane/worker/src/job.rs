//! One job, from its lease to its end.

use std::time::Duration;

use model::{
    InstanceId,
    audit::Entry,
    instance::{Instance, OperationKind, OperationState, StepName, StepState},
};
use queue::Lease;
use runtime::telemetry::chain;
use store::{Put, StoreError, Write};

use crate::{Worker, steps::StepError};

/// A step that failed for a passing reason is tried again after so long, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// At most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Leases of one job before its operation has failed: about eight minutes of pauses.
const MAX_ATTEMPTS: u32 = 20;

/// How a lease ended.
enum End {
    /// The operation has ended, or is not this job's any more.
    Done,
    /// Give the job back: a passing failure.
    Again(String),
}

/// Works on a job while its lease is extended; stops when it is lost.
pub(crate) async fn carry_through(worker: Worker, lease: Lease) {
    let end = tokio::select! {
        end = work(&worker, &lease) => end,
        () = lose(&worker, &lease) => {
            tracing::warn!(job = lease.job.id, "the lease was lost; another worker goes on");
            return;
        }
    };
    let settled = match end {
        End::Done => worker.queue.done(&lease).await,
        End::Again(cause) => {
            let pause = FIRST_PAUSE.saturating_mul(1 << (lease.attempt - 1).min(10)).min(LONGEST_PAUSE);
            tracing::warn!(
                job = lease.job.id,
                attempt = lease.attempt,
                cause,
                retry_ms = pause.as_millis(),
                "trying again"
            );
            worker.queue.retry_after(&lease, pause).await
        }
    };
    if let Err(error) = settled {
        // The lease ends by itself, and the job comes again: its work is found done.
        tracing::error!(job = lease.job.id, error = %error, cause = ?error.source, "the job could not be settled");
    }
}

/// Extends the lease for as long as it is held; resolves when it is lost.
async fn lose(worker: &Worker, lease: &Lease) {
    loop {
        tokio::time::sleep(worker.lease / 3).await;
        match worker.queue.extend(lease, worker.lease).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::error!(job = lease.job.id, error = %error, "the lease could not be extended");
            }
        }
    }
}

async fn work(worker: &Worker, lease: &Lease) -> End {
    // Counted by leases: a job that ends its worker is given up as well.
    let last_try = lease.attempt >= MAX_ATTEMPTS;
    loop {
        let instance = match worker.store.get(&lease.job.instance).await {
            Ok(Some(instance))
                if instance.operation.id == lease.job.id && instance.operation.in_progress() =>
            {
                instance
            }
            Ok(_) => return End::Done,
            Err(error) => return End::Again(chain(&error)),
        };
        let Some(step) = instance.operation.next_step() else {
            match finish(worker, instance, last_try).await {
                Ok(()) => continue,
                Err(error) => return End::Again(error),
            }
        };
        let result = match advance(worker, instance.clone(), step).await {
            Err(StepError::Refused(cause)) => fail(worker, &instance.id, step, &cause).await,
            Err(StepError::Passing(cause)) if last_try => {
                fail(worker, &instance.id, step, &format!("given up after {MAX_ATTEMPTS} tries: {cause}"))
                    .await
            }
            Err(StepError::Passing(cause)) => return End::Again(cause),
            Ok(()) => Ok(()),
        };
        if let Err(cause) = result {
            return End::Again(cause);
        }
    }
}

/// Does one step and writes down that it is done. A conflict is read anew by the caller's loop.
async fn advance(worker: &Worker, mut instance: Instance, step: StepName) -> Result<(), StepError> {
    let detail = worker.step(&mut instance, step).await?;
    tracing::info!(instance = %instance.id, operation = instance.operation.id, ?step, detail, "done");
    instance.operation.note(step, StepState::Done, detail);
    put(worker, &instance).await?;
    Ok(())
}

/// All steps are done. On the last try what cannot be cleaned up is left over; the revision is live all the same.
async fn finish(worker: &Worker, mut instance: Instance, last_try: bool) -> Result<(), String> {
    match instance.operation.kind {
        OperationKind::Provision | OperationKind::Update => {
            instance.proven.clone_from(&instance.published);
            match keep_only_proven(worker, &instance).await {
                Err(error) if last_try => {
                    tracing::error!(instance = %instance.id, error, "hosts or names of the old revision are left over");
                }
                kept => kept?,
            }
            instance.operation.description = "live: acknowledged by Envoy and its sidecars".into();
        }
        OperationKind::Deprovision => {
            instance.proven = None;
            instance.gone = true;
            instance.operation.description = "gone from the fleet".into();
        }
    }
    instance.operation.state = OperationState::Succeeded;
    tracing::info!(instance = %instance.id, operation = instance.operation.id, "succeeded");
    end(worker, &instance).await.map(drop).map_err(|error| chain(&error))
}

/// The operation has failed, and the last good state stays: routes, hosts and names return to what the fleet
/// has proven to run.
async fn fail(worker: &Worker, id: &InstanceId, step: StepName, cause: &str) -> Result<(), String> {
    // Read anew: the step has written its progress.
    let stored = worker.store.get(id).await.map_err(|error| chain(&error))?;
    let Some(mut instance) = stored else { return Ok(()) };
    tracing::warn!(instance = %instance.id, operation = instance.operation.id, ?step, cause, "failed");
    let leaving = instance.operation.kind == OperationKind::Deprovision;
    if !leaving {
        instance.published.clone_from(&instance.proven);
        if let Some(proven) = &instance.proven {
            // What the instance is said to be is what is live, and a repeat of the refused change is a change.
            instance.request.parameters.clone_from(&proven.parameters);
        }
    }
    instance.operation.note(step, StepState::Failed, cause);
    instance.operation.state = OperationState::Failed;
    if end(worker, &instance).await.map_err(|error| chain(&error))? == Put::Conflict {
        // Another worker has it by now, and knows what to free.
        return Ok(());
    }
    // Only now: a host that is free while it is still published could become another's. If this fails, the host
    // stays with the instance, and its next operation frees it.
    if !leaving && let Err(error) = keep_only_proven(worker, &instance).await {
        tracing::error!(instance = %instance.id, error, "hosts or names of the failed change are left over");
    }
    Ok(())
}

/// Frees hosts and names that the proven revision does not use.
async fn keep_only_proven(worker: &Worker, instance: &Instance) -> Result<(), String> {
    let hosts = instance.proven.as_ref().map(|proven| proven.service.hosts.clone()).unwrap_or_default();
    worker.dns.set(&instance.id, &hosts).await.map_err(|error| chain(&error))?;
    worker.store.release(&instance.id, &hosts).await.map_err(|error| chain(&error))
}

/// Writes the instance. Somebody else's write is not an error: the caller reads again.
pub(crate) async fn put(worker: &Worker, instance: &Instance) -> Result<Put, StepError> {
    Ok(worker.store.put(Write::of(instance)).await?)
}

/// Writes the instance, whose operation has ended, and that into the audit log.
async fn end(worker: &Worker, instance: &Instance) -> Result<Put, StoreError> {
    let entry = Entry::ended(instance);
    worker.store.put(Write { entry: Some(&entry), ..Write::of(instance) }).await
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::Passing(chain(&error))
    }
}
