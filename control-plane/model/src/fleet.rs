//! What the control-plane replicas tell each other about the nodes: who has acknowledged what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::InstanceId;

/// The group that plan `standard` maps to.
pub const EDGE_GROUP: &str = "edge";

/// What one replica knows of one group: one row in the store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetReport {
    /// Connected nodes of the group.
    pub nodes: u32,
    /// Only the instances that have an operation under way.
    pub instances: BTreeMap<InstanceId, Standing>,
}

/// How many resources of each guarded type were served last: of each selection, by the types' labels. Outlives the
/// processes, so that one that starts with nothing notices.
pub type ServedSizes = BTreeMap<String, BTreeMap<String, usize>>;

/// How far an instance has come on the nodes of one replica.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The revision that the replica serves; `None` once it serves none.
    pub rev: Option<u64>,
    /// Nodes whose Envoy and sidecars have acknowledged exactly what is served.
    pub acknowledged: u32,
    /// What some nodes still wait for, for people.
    pub waiting: Option<String>,
    /// Why a revision was refused, by the gate or by a proxy.
    pub refused: Option<Refusal>,
}

/// A revision that will not be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Which.
    pub rev: u64,
    /// Why, for its author: template, field, line, or the proxy's words.
    pub cause: String,
}

/// The reports of all replicas, added up for one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Connected nodes.
    pub nodes: u32,
    /// Of these, how many have acknowledged the wanted revision.
    pub acknowledged: u32,
    /// What the others wait for.
    pub waiting: Option<String>,
    /// Why it will not be served.
    pub refused: Option<String>,
}

impl Progress {
    /// Adds up what the replicas say of `wanted` (`None`: that the instance is served no more).
    pub fn of<'a>(
        id: &InstanceId,
        wanted: Option<u64>,
        reports: impl IntoIterator<Item = &'a FleetReport>,
    ) -> Self {
        let mut sum = Self::default();
        for report in reports {
            sum.nodes += report.nodes;
            let Some(standing) = report.instances.get(id) else { continue };
            if standing.rev == wanted {
                sum.acknowledged += standing.acknowledged;
                sum.waiting = sum.waiting.or_else(|| standing.waiting.clone());
            }
            if let Some(refusal) = standing.refused.as_ref().filter(|refusal| Some(refusal.rev) == wanted) {
                sum.refused = sum.refused.or_else(|| Some(refusal.cause.clone()));
            }
        }
        sum
    }

    /// All connected nodes have it, and there is at least one.
    pub fn is_complete(&self) -> bool {
        self.is_enough(100)
    }

    /// Whether so many of a hundred nodes have, and at least one.
    pub fn is_enough(&self, percent: u8) -> bool {
        let needed = (u64::from(self.nodes) * u64::from(percent)).div_ceil(100).max(1);
        self.refused.is_none() && self.nodes > 0 && u64::from(self.acknowledged) >= needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(nodes: u32, rev: Option<u64>, acknowledged: u32) -> FleetReport {
        let standing = Standing { rev, acknowledged, ..Standing::default() };
        FleetReport { nodes, instances: BTreeMap::from([("i-1".parse().unwrap(), standing)]) }
    }

    #[test]
    fn the_nodes_of_all_replicas_count() {
        let id = "i-1".parse().unwrap();
        let progress = Progress::of(&id, Some(2), &[report(3, Some(2), 3), report(4, Some(2), 3)]);
        assert_eq!((progress.nodes, progress.acknowledged, progress.is_complete()), (7, 6, false));
        assert!(Progress::of(&id, Some(2), &[report(3, Some(2), 3), report(4, Some(2), 4)]).is_complete());
    }

    #[test]
    fn an_acknowledgement_of_another_revision_does_not_count() {
        let id = "i-1".parse().unwrap();
        assert_eq!(Progress::of(&id, Some(2), &[report(1, Some(1), 1)]).acknowledged, 0);
        assert_eq!(Progress::of(&id, None, &[report(1, Some(1), 1)]).acknowledged, 0);
    }

    #[test]
    fn a_part_of_the_nodes_is_enough_where_operators_say_so_and_never_none() {
        let id = "i-1".parse().unwrap();
        let progress =
            |nodes, acknowledged| Progress::of(&id, Some(1), &[report(nodes, Some(1), acknowledged)]);
        assert!(progress(2_000, 1_980).is_enough(99) && !progress(2_000, 1_979).is_enough(99));
        assert!(!progress(2_000, 1_980).is_complete());
        assert!(progress(3, 3).is_enough(99) && !progress(3, 2).is_enough(99), "rounded up");
        assert!(!progress(5, 0).is_enough(0) && !progress(0, 0).is_enough(0));
    }

    #[test]
    fn without_nodes_nothing_is_live() {
        let id = "i-1".parse().unwrap();
        assert!(!Progress::of(&id, Some(1), &[report(0, Some(1), 0)]).is_complete());
    }
}
