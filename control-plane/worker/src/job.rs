//! One job, from its lease to its end.

use model::{
    InstanceId,
    audit::Entry,
    faults::{Call, Effect},
    instance::{Instance, OperationKind, OperationState, StepName, StepState},
    job::Job,
};
use queue::Lease;
use runtime::telemetry::chain;
use store::{Put, StoreError, Write};
use tokio::task::JoinSet;

use crate::{Worker, steps::StepError};

/// Leases beyond the tries, for a worker that finds the tries used up to write that down. A job that ends even those is
/// poison.
const TO_GIVE_UP: u32 = 3;

/// How a lease ended.
enum End {
    /// The operation has ended, or is not this job's any more.
    Done,
    /// Give the job back: a passing failure.
    Again(String),
}

/// Works on a job while its lease is extended; stops when it is lost.
pub(crate) async fn carry_through(worker: Worker, lease: Lease) {
    if lease.attempt > worker.retries.most + TO_GIVE_UP {
        let cause = format!("handed out {} times, and its workers died or could not write", lease.attempt);
        tracing::error!(job = lease.job.id, instance = %lease.job.instance, cause, "given up");
        if let Err(error) = worker.queue.bury(&lease, &cause).await {
            tracing::error!(job = lease.job.id, error = %error, cause = ?error.source, "it comes again");
        }
        return;
    }
    let mut working = JoinSet::new();
    working.spawn({
        let (worker, lease) = (worker.clone(), lease.clone());
        async move { work(&worker, &lease).await }
    });
    let end = tokio::select! {
        // A panic in a step is a failure like others: it costs this try and nothing else.
        end = working.join_next() => match end {
            Some(Ok(end)) => end,
            Some(Err(panic)) => End::Again(panic.to_string()),
            None => return,
        },
        () = lose(&worker, &lease) => {
            tracing::warn!(job = lease.job.id, "the lease was lost; another worker goes on");
            return;
        }
    };
    let settled = match end {
        End::Done => worker.queue.done(&lease).await,
        End::Again(cause) => {
            let pause = worker.retries.pause(lease.attempt);
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
    let most = worker.retries.most;
    let last_try = lease.attempt >= most;
    // As it was written last, by this worker.
    let mut written: Option<Instance> = None;
    loop {
        let instance = match written.take() {
            Some(instance) => Ok(Some(instance)),
            None => worker.store.get(&lease.job.instance).await,
        };
        let is_its_job =
            |instance: &Instance| instance.operation.id == lease.job.id && instance.operation.in_progress();
        let instance = match instance {
            Ok(Some(instance)) if is_its_job(&instance) => instance,
            Ok(_) => return End::Done,
            Err(error) => return End::Again(chain(&error)),
        };
        let Some(step) = instance.operation.next_step() else {
            match finish(worker, instance, last_try).await {
                Ok(()) => continue,
                Err(error) => return End::Again(error),
            }
        };
        if lease.attempt > most {
            let cause = format!("given up after {most} tries, the last of which ended its worker");
            match fail(worker, &lease.job, step, &cause).await {
                Ok(()) => continue,
                Err(error) => return End::Again(error),
            }
        }
        let result = match advance(worker, instance, step).await {
            Err(StepError::Refused(cause)) => fail(worker, &lease.job, step, &cause).await,
            Err(StepError::Passing(cause)) if last_try => {
                fail(worker, &lease.job, step, &format!("given up after {most} tries: {cause}")).await
            }
            Err(StepError::Passing(cause)) => return End::Again(cause),
            Ok(stored) => {
                written = stored;
                Ok(())
            }
        };
        if let Err(cause) = result {
            return End::Again(cause);
        }
    }
}

/// Does one step and writes down that it is done. Nothing, when somebody else has written: the caller reads anew.
async fn advance(
    worker: &Worker,
    mut instance: Instance,
    step: StepName,
) -> Result<Option<Instance>, StepError> {
    go_wrong(worker, &instance).await?;
    let detail = if step == StepName::Fleet {
        worker.step(&mut instance, step).await?
    } else {
        let deadline = worker.deadline(step);
        let late = |_| StepError::Passing(format!("{step:?}: no end after {} s", deadline.as_secs_f32()));
        tokio::time::timeout(deadline, shown(worker, &mut instance, step)).await.map_err(late)??
    };
    tracing::info!(instance = %instance.id, operation = instance.operation.id, ?step, detail, "done");
    instance.operation.note(step, StepState::Done, detail);
    Ok(match put(worker, &instance).await? {
        Put::Stored(stored) => Some(*stored),
        _ => None,
    })
}

/// Does one step; what takes longer than most is said to be under way, for those who wait.
async fn shown(worker: &Worker, instance: &mut Instance, step: StepName) -> Result<String, StepError> {
    let (id, version) = (instance.id.clone(), instance.version);
    let (detail, written) = {
        let doing = worker.step(instance, step);
        tokio::pin!(doing);
        tokio::select! {
            biased;
            detail = &mut doing => (detail?, None),
            () = tokio::time::sleep(worker.retries.tell_after) => {
                // Both to their ends: a write that is given up may be made all the same.
                let (written, detail) = tokio::join!(tell(worker, &id, version, step), doing);
                (detail?, written.ok().flatten())
            }
        }
    };
    // What was written meanwhile is what this step's end comes after. After somebody else's write it is not taken.
    instance.version = written.unwrap_or(instance.version);
    Ok(detail)
}

/// Writes down that a step is under way; the version of that, unless somebody else has written.
async fn tell(
    worker: &Worker,
    id: &InstanceId,
    version: u64,
    step: StepName,
) -> Result<Option<u64>, StepError> {
    // Read again: most steps are too quick to need a copy of their instance.
    let Some(mut known) = worker.store.get(id).await?.filter(|known| known.version == version) else {
        return Ok(None);
    };
    known.operation.note(step, StepState::Active, waiting_for(step));
    Ok(match put(worker, &known).await? {
        Put::Stored(stored) => Some(stored.version),
        _ => None,
    })
}

/// For people.
fn waiting_for(step: StepName) -> &'static str {
    match step {
        StepName::Claim => "claiming the hosts",
        StepName::Certificate => "waiting for the certificate",
        StepName::Cdn => "waiting for the CDN",
        StepName::Dns => "waiting for the names",
        StepName::Publish => "publishing",
        StepName::Fleet => "waiting for the fleet",
        StepName::Release => "releasing the hosts",
    }
}

/// What was asked for to go wrong with an operation, for as long as it is asked for.
async fn go_wrong(worker: &Worker, instance: &Instance) -> Result<(), StepError> {
    let call = match instance.operation.kind {
        OperationKind::Provision => Call::Provision,
        OperationKind::Update => Call::Update,
        OperationKind::Deprovision => Call::Deprovision,
        OperationKind::Bind => Call::Bind,
        OperationKind::Unbind => Call::Unbind,
    };
    let mut faults = worker.faults.clone();
    loop {
        let effect = faults.borrow_and_update().of_operation(call, &instance.id);
        match effect {
            Some(Effect::Fails(why)) => return Err(StepError::Refused(why)),
            Some(Effect::NeverEnds(_)) => {
                tracing::warn!(instance = %instance.id, ?call, "never ends, as was asked for");
                if faults.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
            _ => return Ok(()),
        }
    }
}

/// All steps are done. On the last try what cannot be cleaned up is left over; the revision is live all the same.
async fn finish(worker: &Worker, mut instance: Instance, last_try: bool) -> Result<(), String> {
    match instance.operation.kind {
        OperationKind::Provision | OperationKind::Update => {
            instance.proven.clone_from(&instance.published);
            // Before the first revision there was nothing, not even an operation that left something over.
            if instance.revision > 1 {
                if let Err(error) = worker.shrink_distribution(&mut instance).await {
                    if !last_try {
                        return Err(error.to_string());
                    }
                    tracing::error!(instance = %instance.id, %error, "the distribution answers for hosts of the old revision");
                }
                match keep_only_proven(worker, &instance).await {
                    Err(error) if last_try => {
                        tracing::error!(instance = %instance.id, error, "hosts or names of the old revision are left over");
                    }
                    kept => kept?,
                }
            }
            if let Err(error) = worker.discard_replaced(&mut instance).await {
                // They cost nothing, and are tried again with the next operation.
                tracing::error!(instance = %instance.id, %error, "certificates are left over");
            }
            instance.operation.description = live(&instance);
        }
        OperationKind::Bind => {
            instance.operation.description = "the key is good on all nodes; fetch it, once".into();
        }
        OperationKind::Unbind => {
            instance.operation.description = "the key is good nowhere any more".into();
        }
        OperationKind::Deprovision => {
            instance.leave();
            instance.operation.description = "gone from the fleet".into();
        }
    }
    instance.operation.state = OperationState::Succeeded;
    tracing::info!(instance = %instance.id, operation = instance.operation.id, "succeeded");
    end(worker, &mut instance).await.map(drop).map_err(|error| chain(&error))
}

/// With the nodes that were not waited for, if any.
fn live(instance: &Instance) -> String {
    let mut steps = instance.operation.steps.iter();
    let fleet = steps.find(|step| step.name == StepName::Fleet).map(|step| step.detail.as_str());
    match fleet {
        Some(told) if told.contains("in vain") => format!("live: {told}"),
        _ => "live: acknowledged by Envoy and its sidecars".into(),
    }
}

/// The operation has failed, and the last good state stays: routes, hosts and names return to what the fleet
/// has proven to run.
async fn fail(worker: &Worker, job: &Job, step: StepName, cause: &str) -> Result<(), String> {
    // Read anew: the step has written its progress.
    let stored = worker.store.get(&job.instance).await.map_err(|error| chain(&error))?;
    let is_its = |instance: &Instance| instance.operation.id == job.id && instance.operation.in_progress();
    // Another worker may have ended it meanwhile, and another operation may be the newest.
    let Some(mut instance) = stored.filter(is_its) else { return Ok(()) };
    tracing::warn!(instance = %instance.id, operation = instance.operation.id, ?step, cause, "failed");
    let kind = instance.operation.kind;
    instance.fail(Some(step), cause);
    if end(worker, &mut instance).await.map_err(|error| chain(&error))? == Put::Conflict {
        // Another worker has it by now, and knows what to free.
        return Ok(());
    }
    // Only now: a host that is free while it is still published could become another's. If this fails, the host
    // stays with the instance, and its next operation frees it.
    let may_have_claimed = matches!(kind, OperationKind::Provision | OperationKind::Update);
    if may_have_claimed && let Err(error) = keep_only_proven(worker, &instance).await {
        tracing::error!(instance = %instance.id, error, "hosts or names of the failed change are left over");
    }
    Ok(())
}

/// Frees hosts and names that the proven revision does not use.
async fn keep_only_proven(worker: &Worker, instance: &Instance) -> Result<(), String> {
    let proven = instance.proven.as_ref();
    let hosts = proven.map(|proven| proven.service.hosts.clone()).unwrap_or_default();
    let plan = proven.map(|proven| proven.plan).unwrap_or_default();
    worker.set_names(instance, &hosts, plan).await.map_err(|error| error.to_string())?;
    // What a distribution answers for cannot be another's.
    let distributed = instance.distribution.iter().flat_map(|known| &known.hosts);
    let mut keep: Vec<_> = hosts.iter().chain(distributed).cloned().collect();
    let operation = &instance.operation;
    if operation.state == OperationState::Failed
        && operation.steps.iter().any(|step| step.name == StepName::Cdn)
    {
        // Nor what one may answer for that was not written down: the next operation, or the deletion, clears up.
        keep = worker.store.held(&instance.id).await.map_err(|error| chain(&error))?;
    }
    worker.store.release(&instance.id, &keep).await.map_err(|error| chain(&error))
}

/// Writes the instance. Somebody else's write is not an error: the caller reads again.
pub(crate) async fn put(worker: &Worker, instance: &Instance) -> Result<Put, StepError> {
    Ok(worker.store.put(Write::of(instance)).await?)
}

/// Writes the instance, whose operation has ended, and that into the audit log.
async fn end(worker: &Worker, instance: &mut Instance) -> Result<Put, StoreError> {
    let entry = Entry::ended(instance);
    instance.settle();
    worker.store.put(Write { entry: Some(&entry), ..Write::of(instance) }).await
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::Passing(chain(&error))
    }
}
