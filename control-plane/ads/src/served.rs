//! What one group is served: a snapshot for each selection of templates that its nodes need.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use model::node::{NodeFacts, Selection};
use resources::Snapshot;
use tokio::sync::watch;

use crate::hub::Group;

/// Says which templates a node gets.
pub type Selector = Arc<dyn Fn(&NodeFacts) -> Selection + Send + Sync>;

/// Selections of one group at the same time; each is rendered and kept as a whole.
const MAX_SELECTIONS: usize = 32;

/// A group, and what is served to it.
pub(crate) struct Served {
    pub(crate) group: Group,
    /// `None` until there are templates.
    selector: watch::Sender<Option<Selector>>,
    snapshots: Mutex<BTreeMap<Selection, watch::Sender<Arc<Snapshot>>>>,
    wanted: watch::Sender<BTreeSet<Selection>>,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Served {
    pub(crate) fn new(group: Group) -> Self {
        let plain = Selection::default();
        Self {
            group,
            selector: watch::Sender::new(None),
            snapshots: Mutex::new(BTreeMap::from([(plain.clone(), watch::Sender::default())])),
            wanted: watch::Sender::new(BTreeSet::from([plain])),
        }
    }

    fn snapshots(&self) -> MutexGuard<'_, BTreeMap<Selection, watch::Sender<Arc<Snapshot>>>> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn publish(&self, selection: &Selection, snapshot: Arc<Snapshot>) {
        if let Some(sender) = self.snapshots().get(selection) {
            sender.send_replace(snapshot);
        }
    }

    pub(crate) fn choose_by(&self, selector: Selector) {
        self.selector.send_replace(Some(selector));
    }

    /// Changes when nodes may have to be told apart in another way.
    pub(crate) fn choices(&self) -> watch::Receiver<Option<Selector>> {
        self.selector.subscribe()
    }

    pub(crate) fn wanted(&self) -> watch::Receiver<BTreeSet<Selection>> {
        self.wanted.subscribe()
    }

    /// For nodes that match no special template.
    pub(crate) fn plain(&self) -> Arc<Snapshot> {
        let snapshots = self.snapshots();
        snapshots.get(&Selection::default()).map(|sender| sender.borrow().clone()).unwrap_or_default()
    }

    /// What each selection is served.
    pub(crate) fn all(&self) -> Vec<(Selection, Arc<Snapshot>)> {
        let snapshots = self.snapshots();
        snapshots.iter().map(|(selection, sender)| (selection.clone(), sender.borrow().clone())).collect()
    }

    /// The selection of a node; `None` while there are no templates.
    pub(crate) fn selection(&self, node: &NodeFacts) -> Option<Selection> {
        self.selector.borrow().as_ref().map(|selector| selector(node))
    }

    /// The snapshots of a selection, which come as soon as it is rendered; `None` when there are too many.
    pub(crate) fn follow(&self, selection: &Selection) -> Option<watch::Receiver<Arc<Snapshot>>> {
        let mut snapshots = self.snapshots();
        if let Some(sender) = snapshots.get(selection) {
            return Some(sender.subscribe());
        }
        if snapshots.len() >= MAX_SELECTIONS {
            // Those that no stream follows make room; whoever polls by one has it rendered again.
            snapshots.retain(|known, sender| *known == Selection::default() || sender.receiver_count() > 0);
        }
        if snapshots.len() >= MAX_SELECTIONS {
            return None;
        }
        let receiver = snapshots.entry(selection.clone()).or_default().subscribe();
        let wanted = snapshots.keys().cloned().collect();
        drop(snapshots);
        self.wanted.send_replace(wanted);
        Some(receiver)
    }
}
