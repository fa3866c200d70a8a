//! What we know beyond the reference server. It stands in `metadata.rls`: the one place that other servers neither
//! refuse in a file nor lose over xDS.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::counter::Algorithm;

/// `metadata.rls` of a descriptor.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Extension {
    pub(super) algorithm: Algorithm,
    pub(super) scope: Option<Scope>,
    pub(super) mode: Mode,
    pub(super) on_store_error: OnStoreError,
    pub(super) all_or_nothing: bool,
    /// By region, what part of the limit is its own. Each region enforces its share, and all together are the limit.
    pub(super) regions: BTreeMap<String, u32>,
    /// In the place of the domain in the names of counters: a service's limits of another revision go on counting.
    pub(super) counters: Option<String>,
}

/// Who counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scope {
    /// Each node on its own.
    Node,
    /// All that share a store.
    Fleet,
}

/// How a fleet counts together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// Each request waits for the store.
    Strict,
    /// A node takes some of what is left from the store, and gives it out without asking. Never more than the limit.
    #[default]
    Lease,
    /// A node gives out, and tells the store afterwards: more than the limit may pass for a moment.
    Optimistic,
}

/// What is answered while the store does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnStoreError {
    /// This node's part of the limit, from the next window on.
    #[default]
    LocalShare,
    /// Everything passes.
    Allow,
    /// Nothing passes.
    Deny,
}

/// The share of one region: of all shares the sum is the limit. What does not divide goes to the first by name.
pub(super) fn share_of(limit: u32, regions: &BTreeMap<String, u32>, region: &str) -> Result<u32, String> {
    let all: u64 = regions.values().map(|share| u64::from(*share)).sum();
    if all == 0 {
        return Err("the shares must not all be 0".into());
    }
    if !regions.contains_key(region) {
        return Err(format!("must name the region of this node, got no {region:?}"));
    }
    let whole = |share: &u32| u64::from(limit) * u64::from(*share) / all;
    let mut left = u64::from(limit) - regions.values().map(whole).sum::<u64>();
    for (name, share) in regions {
        let one_more = u64::from(left > 0 && *share > 0);
        left -= one_more;
        if name == region {
            return Ok(u32::try_from(whole(share) + one_more).unwrap_or(u32::MAX));
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_of_regions_always_sum_to_the_limit(limit: u32, shares in proptest::collection::vec(0_u32.., 1..14)) {
            prop_assume!(shares.iter().any(|share| *share > 0));
            let regions: BTreeMap<_, _> = shares.into_iter().enumerate().map(|(at, share)| (format!("r{at}"), share)).collect();
            let sum: u64 = regions.keys().map(|region| u64::from(share_of(limit, &regions, region).unwrap())).sum();
            prop_assert_eq!(sum, u64::from(limit));
        }
    }

    #[test]
    fn a_region_that_has_no_share_is_told_so() {
        let regions = BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]);
        assert_eq!(share_of(10, &regions, "a"), Ok(7));
        assert_eq!(share_of(10, &regions, "b"), Ok(3));
        assert!(share_of(10, &regions, "c").unwrap_err().contains("\"c\""));
        assert!(share_of(10, &BTreeMap::from([("a".to_owned(), 0)]), "a").is_err());
    }
}
