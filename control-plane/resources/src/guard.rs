//! Recognises a change that would take much of the edge away at once: an empty file upstream, a template that
//! renders nothing, a store that was swapped.

use std::{collections::BTreeMap, fmt};

use api::ResourceType;
use serde::{Deserialize, Serialize};
use xds::stream::Desired as _;

use crate::{Bundle, Key, Snapshot, hash};

/// How much may leave at once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guard {
    /// Of the listeners, the clusters or the hosts: the fraction that may leave in one change.
    pub largest_loss: f64,
    /// Sets smaller than this may lose what they like, except for the last one.
    pub from: usize,
}

impl Default for Guard {
    /// Half of ten: no single service is that large a part of an edge worth guarding.
    fn default() -> Self {
        Self { largest_loss: 0.5, from: 10 }
    }
}

/// Whose loss is guarded against. Without listeners nothing is reached, without hosts nobody, without clusters
/// nothing behind them.
const GUARDED: [ResourceType; 3] = [ResourceType::Listener, ResourceType::Cluster, ResourceType::VirtualHost];

/// How many there are of each guarded type, by its label.
pub type Sizes = BTreeMap<String, usize>;

/// A set that would become much smaller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    kind: String,
    before: usize,
    after: usize,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} instead of {}", self.kind, self.after, self.before)
    }
}

impl Snapshot {
    /// How much of what is guarded is in it.
    pub fn sizes(&self) -> Sizes {
        GUARDED.into_iter().map(|kind| (kind.label().to_owned(), self.table(kind).len())).collect()
    }
}

impl Guard {
    /// Whether the settings make sense.
    ///
    /// # Errors
    /// The field and the rule.
    pub fn check(&self) -> Result<(), String> {
        if (0.0..=1.0).contains(&self.largest_loss) {
            Ok(())
        } else {
            Err(format!("guard.largest_loss: from 0 to 1, got {}", self.largest_loss))
        }
    }

    /// What would become too small.
    #[allow(clippy::cast_precision_loss)]
    pub fn losses(&self, before: &Sizes, after: &Sizes) -> Vec<Loss> {
        let too_much = |before: usize, after: usize| {
            let lost = before.saturating_sub(after);
            (after == 0 && before > 0)
                || (before >= self.from && lost as f64 > before as f64 * self.largest_loss)
        };
        let loss = |(kind, before): (&String, &usize)| {
            let after = after.get(kind).copied().unwrap_or(0);
            too_much(*before, after).then(|| Loss { kind: kind.clone(), before: *before, after })
        };
        before.iter().filter_map(loss).collect()
    }
}

/// Names losses: the same on every replica, and another one as soon as something else would be lost. Before the first
/// snapshot only the sizes are known of what was served.
pub fn id_of_losses(losses: &[Loss], before: &Snapshot, after: &Snapshot) -> String {
    let id = if before.generation() == 0 {
        let texts: Vec<_> = losses.iter().map(ToString::to_string).collect();
        hash::of_set(texts.iter().map(|text| ("sizes", text.as_str())))
    } else {
        let gone = GUARDED.into_iter().flat_map(|kind| before.all(kind));
        let gone = gone.filter(|resource| after.get(&resource.key).is_none());
        hash::of_set(gone.map(|resource| (resource.key.kind.label(), &*resource.key.name)))
    };
    id[..ID_CHARS].to_owned()
}

/// For people to type.
const ID_CHARS: usize = 12;

impl Bundle {
    /// Whether something guarded is in it that is not in the other.
    pub fn would_lose(&self, other: Option<&Self>) -> bool {
        let is_guarded = |key: &&Key| GUARDED.contains(&key.kind);
        let kept = |key: &Key| other.is_some_and(|other| other.resources.iter().any(|kept| kept.key == *key));
        self.resources.iter().map(|resource| &resource.key).filter(is_guarded).any(|key| !kept(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(listeners: usize, clusters: usize) -> Sizes {
        [("listeners".to_owned(), listeners), ("clusters".to_owned(), clusters)].into()
    }

    #[test]
    fn the_last_one_and_more_than_half_of_many_are_guarded() {
        let losses = |before, after| {
            let losses = Guard::default().losses(&before, &after);
            losses.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(losses(sizes(2, 5000), sizes(2, 2500)), Vec::<String>::new());
        assert_eq!(losses(sizes(2, 5000), sizes(2, 2499)), ["clusters: 2499 instead of 5000"]);
        assert_eq!(losses(sizes(2, 9), sizes(1, 1)), Vec::<String>::new());
        assert_eq!(
            losses(sizes(2, 1), sizes(0, 0)),
            ["clusters: 0 instead of 1", "listeners: 0 instead of 2"]
        );
        assert_eq!(losses(sizes(0, 0), sizes(0, 0)), Vec::<String>::new());
    }

    #[test]
    fn losses_at_the_first_snapshot_are_told_apart_by_their_sizes() {
        let id = |before, after| {
            let losses = Guard::default().losses(&before, &after);
            id_of_losses(&losses, &Snapshot::default(), &Snapshot::default())
        };
        let half = id(sizes(2, 5000), sizes(2, 2000));
        assert_eq!(half, id(sizes(2, 5000), sizes(2, 2000)));
        assert_ne!(half, id(sizes(2, 5000), sizes(2, 0)));
        assert_ne!(half, id(sizes(2, 5000), sizes(0, 2000)));
    }

    #[test]
    fn a_fraction_out_of_range_is_refused() {
        let refusal = Guard { largest_loss: 1.5, ..Guard::default() }.check().unwrap_err();
        assert_eq!(refusal, "guard.largest_loss: from 0 to 1, got 1.5");
    }
}
