//! One domain's limits as a tree, checked once: from a file of the reference server's format, or from the standard xDS
//! type. What is not understood is refused with the field that holds it, and never ignored.

mod compile;
mod extension;
mod file;
mod metadata;
mod pattern;
mod wire;

use std::{collections::HashMap, num::NonZeroU64};

use envoy_types::pb::{google::protobuf::Struct, ratelimit::config::ratelimit::v3::RateLimitUnit};

pub(crate) use extension::{Mode, OnStoreError, Scope};
pub(crate) use file::read;
use pattern::Pattern;

use crate::{
    counter::{Algorithm, Terms},
    stats::{Counts, Stats},
    table::{DomainSlot, Key},
};

/// The limits of one domain.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) name: String,
    root: Level,
    /// Which part of the tables is its own.
    pub(crate) slot: DomainSlot,
    /// Of keys by their runtime values.
    pub(crate) stats: Stats,
}

/// What a process knows that a configuration leaves open.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// Where limits count that do not say it.
    pub fleet: bool,
    /// Of limits with regional shares, whose is ours.
    pub region: Option<String>,
}

/// A descriptor as people write it: the same in files and over xDS.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Descriptor {
    key: String,
    value: String,
    rate_limit: Option<Policy>,
    descriptors: Vec<Descriptor>,
    shadow_mode: bool,
    quota_mode: bool,
    detailed_metric: bool,
    value_to_metric: bool,
    share_threshold: bool,
    metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Policy {
    unit: Option<String>,
    requests_per_unit: u32,
    unlimited: bool,
    name: String,
    replaces: Vec<Replaced>,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Replaced {
    name: String,
}

#[derive(Debug, Default)]
struct Level {
    by_key: HashMap<Box<str>, Values>,
    /// In the order of the file: the first that matches counts.
    patterns: Vec<(Pattern, Pattern, Rule)>,
}

#[derive(Debug, Default)]
struct Values {
    /// Found first.
    exact: HashMap<Box<str>, Rule>,
    /// Found last: each value has a counter of its own.
    any: Option<Rule>,
}

#[derive(Debug, Default)]
struct Rule {
    limit: Option<Limit>,
    next: Level,
    /// In the place of the value in metrics where `value_to_metric` is not set.
    label: Box<str>,
    value_to_metric: bool,
    /// All values that match have one counter: of the pattern.
    shares: Option<Box<str>>,
}

/// So many requests in a window, and what is done when there are more.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug)]
pub(crate) struct Limit {
    /// As the answer tells it.
    pub(crate) requests: u32,
    /// As the answer names it.
    pub(crate) unit: RateLimitUnit,
    pub(crate) terms: Terms,
    pub(crate) unlimited: bool,
    /// Empty where it has none.
    pub(crate) name: Box<str>,
    /// Limits of these names are dropped where this one applies.
    pub(crate) replaces: Box<[Box<str>]>,
    /// Counted, but never enforced.
    pub(crate) shadow: bool,
    /// Enforced when all such limits of a request are over.
    pub(crate) quota: bool,
    pub(crate) detailed_metric: bool,
    /// Some level on the way here has it.
    pub(crate) value_to_metric: bool,
    /// Returned with each answer, without what is ours.
    pub(crate) metadata: Option<Struct>,
    pub(crate) scope: Scope,
    pub(crate) mode: Mode,
    pub(crate) on_store_error: OnStoreError,
    /// What its keys share when they have no room.
    pub(crate) overflow: Key,
    /// Whose counters they are: the domain's, mostly.
    pub(crate) counters: Box<str>,
    pub(crate) counts: Counts,
    /// How metrics name it: one `key_value` a level.
    pub(crate) labels: Box<[Box<str>]>,
}

/// A limit that applies, and the key under which its hits count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) limit: &'a Limit,
    pub(crate) key: Key,
}

/// The length of a unit in nanoseconds; months have 30 days, years 365, as the reference has them. `None` when it is
/// not known.
pub(crate) fn window_of(unit: RateLimitUnit) -> Option<NonZeroU64> {
    const SECOND: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * SECOND;
    NonZeroU64::new(match unit {
        RateLimitUnit::Unknown => 0,
        RateLimitUnit::Second => SECOND,
        RateLimitUnit::Minute => 60 * SECOND,
        RateLimitUnit::Hour => 3_600 * SECOND,
        RateLimitUnit::Day => DAY,
        RateLimitUnit::Week => 7 * DAY,
        RateLimitUnit::Month => 30 * DAY,
        RateLimitUnit::Year => 365 * DAY,
    })
}

/// Feeds a hash with parts: each is preceded by its length, so that no two lists of parts feed the same bytes.
pub(crate) struct KeyHasher(blake3::Hasher);

impl KeyHasher {
    pub(crate) fn new(kind: &str) -> Self {
        Self(blake3::Hasher::new()).part(kind.as_bytes())
    }

    #[must_use]
    pub(crate) fn part(mut self, part: &[u8]) -> Self {
        self.0.update(&(part.len() as u64).to_le_bytes()).update(part);
        self
    }

    pub(crate) fn key(self) -> Key {
        let mut bytes = [0; 16];
        self.0.finalize_xof().fill(&mut bytes);
        Key::from_le_bytes(bytes)
    }
}

impl Level {
    fn find(&self, key: &str, value: &str) -> Option<&Rule> {
        let values = self.by_key.get(key);
        values
            .and_then(|values| values.exact.get(value))
            .or_else(|| {
                let matches = |(keys, values, _): &&(Pattern, Pattern, Rule)| {
                    keys.matches(key) && values.matches(value)
                };
                self.patterns.iter().find(matches).map(|(.., rule)| rule)
            })
            .or_else(|| values?.any.as_ref())
    }
}

impl Domain {
    /// The limit for these entries: of exactly their depth, as the reference server has it.
    pub(crate) fn find<'a, 'e>(
        &'a self,
        entries: impl Iterator<Item = (&'e str, &'e str)>,
    ) -> Option<Found<'a>> {
        let (mut hasher, mut rule) = (KeyHasher::new("entries"), None::<&Rule>);
        for (key, value) in entries {
            let found = rule.map_or(&self.root, |rule| &rule.next).find(key, value)?;
            let counted = found.shares.as_deref().unwrap_or(value);
            hasher = hasher.part(key.as_bytes()).part(counted.as_bytes());
            rule = Some(found);
        }
        let limit = rule?.limit.as_ref()?;
        let key = hasher.part(&limit.terms.window.to_le_bytes()).part(limit.counters.as_bytes()).key();
        Some(Found { limit, key })
    }

    /// How metrics name these entries, where a limit takes runtime values into its names.
    pub(crate) fn labels<'e>(
        &self,
        limit: &Limit,
        entries: impl Iterator<Item = (&'e str, &'e str)>,
    ) -> Vec<Box<str>> {
        let (mut level, mut labels) = (Some(&self.root), Vec::new());
        for (key, value) in entries {
            let rule = level.and_then(|level| level.find(key, value));
            let by_value = limit.detailed_metric || rule.is_some_and(|rule| rule.value_to_metric);
            labels.push(match rule {
                Some(rule) if !by_value || rule.shares.is_some() => rule.label.clone(),
                _ if value.is_empty() => key.into(),
                _ => format!("{key}_{value}").into(),
            });
            level = rule.map(|rule| &rule.next);
        }
        labels
    }

    /// All its limits.
    pub(crate) fn limits(&self) -> impl Iterator<Item = &Limit> {
        let mut open = vec![&self.root];
        let mut rules: Vec<&Rule> = Vec::new();
        while let Some(level) = open.pop() {
            let values = level.by_key.values().flat_map(|values| values.exact.values().chain(&values.any));
            for rule in values.chain(level.patterns.iter().map(|(.., rule)| rule)) {
                rules.push(rule);
                open.push(&rule.next);
            }
        }
        rules.into_iter().filter_map(|rule| rule.limit.as_ref())
    }
}

/// The algorithm that the reference server has.
impl Default for Terms {
    fn default() -> Self {
        Self { algorithm: Algorithm::Fixed, requests: 0, window: 1_000_000_000, all_or_nothing: false }
    }
}

#[cfg(test)]
#[path = "config/tests.rs"]
pub(crate) mod tests;
