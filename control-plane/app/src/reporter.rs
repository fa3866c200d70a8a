//! Writes to the store what this replica's nodes have acknowledged, for the workers of all replicas.

use std::{sync::Arc, time::Duration};

use ads::Hub;
use model::{
    context::Context,
    fleet::{FleetReport, ServedSizes},
};
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
    let mut remembered: Option<(ServedSizes, tokio::time::Instant)> = None;
    loop {
        hub.look();
        acknowledged.mark_unchanged();
        refused.mark_unchanged();
        let context = contexts.borrow_and_update().clone();
        let begun = tokio::time::Instant::now();
        let report = gather(&group, &hub, &faults, &context);
        let took = begun.elapsed();
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
        if remembered.as_ref().is_none_or(|(_, at)| at.elapsed() >= HEARTBEAT) {
            let sizes = sizes(&group, &hub);
            let is_known = remembered.as_ref().is_some_and(|(known, _)| *known == sizes);
            let kept =
                if is_known || sizes.is_empty() { Ok(()) } else { store.remember(&group, &sizes).await };
            match kept {
                // Before the first snapshot there is nothing to remember, and after it no time to lose.
                Ok(()) if sizes.is_empty() => {}
                Ok(()) => remembered = Some((sizes, tokio::time::Instant::now())),
                Err(error) => {
                    tracing::error!(error = %error, cause = ?error.source, "the sizes are not written");
                }
            }
        }
        tokio::select! {
            _ = acknowledged.changed() => {}
            _ = refused.changed() => {}
            changed = contexts.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
        // To ask a large fleet takes a while: nearly all of the time is to be left for its acknowledgements.
        tokio::time::sleep(DEBOUNCE.max(took * 16)).await;
    }
}

/// How much each kind of nodes is served, for a process that starts with less.
fn sizes(group: &str, hub: &Hub) -> ServedSizes {
    let served = hub.snapshots(group).into_iter().filter(|(_, snapshot)| snapshot.generation() > 0);
    served.map(|(selection, snapshot)| (selection.to_string(), snapshot.sizes())).collect()
}

fn gather(group: &str, hub: &Hub, faults: &SharedFaults, context: &Context) -> FleetReport {
    let mut instances = hub.standing(group, context.unsettled.keys());
    let faults = faults.get().clone();
    for (id, standing) in &mut instances {
        if let Some(refusal) = faults.services.get(id) {
            standing.refused = Some(refusal.clone());
        }
    }
    FleetReport { nodes: hub.node_count(group), instances }
}
