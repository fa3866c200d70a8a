//! Writes to the store what this replica's nodes have acknowledged, for the workers of all replicas.

use std::{sync::Arc, time::Duration};

use ads::Hub;
use model::{context::Context, fleet::FleetReport};
use store::Store;
use tokio::sync::watch;

use crate::publisher::SharedFaults;

/// Acknowledgements of a fleet come in bursts; one row is written for each burst.
const DEBOUNCE: Duration = Duration::from_millis(2);
/// A report without news is written again, so that it stays valid: a third of its lifetime in the store.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Reports for ever.
pub(crate) async fn report(
    replica: String,
    group: String,
    hub: Arc<Hub>,
    faults: SharedFaults,
    mut contexts: watch::Receiver<Arc<Context>>,
    store: Arc<dyn Store>,
) {
    let (mut acknowledged, mut refused) = (hub.changes(), faults.changes());
    let mut written: Option<(FleetReport, tokio::time::Instant)> = None;
    loop {
        acknowledged.mark_unchanged();
        refused.mark_unchanged();
        let context = contexts.borrow_and_update().clone();
        let report = gather(&group, &hub, &faults, &context);
        let stale =
            |(known, at): &(FleetReport, tokio::time::Instant)| *known != report || at.elapsed() >= HEARTBEAT;
        if written.as_ref().is_none_or(stale) {
            match store.report(&replica, &group, &report).await {
                Ok(()) => written = Some((report, tokio::time::Instant::now())),
                Err(error) => {
                    tracing::error!(error = %error, cause = ?error.source, "the report is not written");
                }
            }
        }
        tokio::select! {
            _ = acknowledged.changed() => {}
            _ = refused.changed() => {}
            changed = contexts.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
        tokio::time::sleep(DEBOUNCE).await;
    }
}

fn gather(group: &str, hub: &Hub, faults: &SharedFaults, context: &Context) -> FleetReport {
    let faults = faults.get().clone();
    let standing = |id: &model::InstanceId| {
        let mut standing = hub.standing(group, id);
        if let Some(refusal) = faults.services.get(id) {
            standing.refused = Some(refusal.clone());
        }
        (id.clone(), standing)
    };
    FleetReport { nodes: hub.node_count(group), instances: context.unsettled.keys().map(standing).collect() }
}
