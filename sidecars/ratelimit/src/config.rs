//! One domain's limits as a tree, checked once; what this release does not do is refused and never ignored.

use std::{collections::HashMap, num::NonZeroU64, sync::Arc};

use envoy_types::pb::ratelimit::config::ratelimit::v3::{
    RateLimitConfig, RateLimitDescriptor, RateLimitPolicy, RateLimitUnit,
};

use crate::counters::{Budget, Counters, MAX_KEYS_PER_DOMAIN};

/// The limits of one domain, and how much of them is used.
#[derive(Debug)]
pub(crate) struct Domain {
    root: Level,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Level {
    /// By key and value: found first.
    exact: HashMap<(String, String), Rule>,
    /// By key alone: each value has a counter of its own.
    any: HashMap<String, Rule>,
}

#[derive(Debug)]
struct Rule {
    limit: Option<Limit>,
    next: Level,
}

/// So many requests in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// 0 lets nothing pass.
    pub(crate) requests: u32,
    /// As the answer names it.
    pub(crate) unit: RateLimitUnit,
    /// Windows are aligned to the Unix epoch.
    pub(crate) window_secs: NonZeroU64,
    /// Counted, but never enforced.
    pub(crate) shadow: bool,
}

/// Deeper than any actions that Envoy can express.
const MAX_DEPTH: usize = 16;

impl Domain {
    /// Checks the configuration; the counters begin at nothing.
    pub(crate) fn new(wire: RateLimitConfig, budget: Arc<Budget>) -> Result<Self, String> {
        if wire.domain.is_empty() {
            return Err("domain: must name the domain, got nothing".into());
        }
        let counters = Counters::new(MAX_KEYS_PER_DOMAIN, budget);
        Ok(Self { root: level(wire.descriptors, "descriptors", 1)?, counters })
    }

    /// How often each of its keys was hit.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }
}

fn level(descriptors: Vec<RateLimitDescriptor>, field: &str, depth: usize) -> Result<Level, String> {
    if depth > MAX_DEPTH {
        return Err(format!("{field}: at most {MAX_DEPTH} levels"));
    }
    let mut level = Level::default();
    for (at, descriptor) in descriptors.into_iter().enumerate() {
        let field = format!("{field}[{at}]");
        let RateLimitDescriptor { key, value, rate_limit, descriptors, shadow_mode, quota_mode, .. } =
            descriptor;
        if key.is_empty() {
            return Err(format!("{field}.key: must be there, got nothing"));
        }
        if key.contains('*') || value.contains('*') {
            return Err(format!("{field}.value: wildcards come with a later release, got {value:?}"));
        }
        if quota_mode {
            return Err(format!("{field}.quota_mode: comes with a later release, got true"));
        }
        let limit = rate_limit.map(|policy| limit(&policy, shadow_mode, &field)).transpose()?.flatten();
        let rule =
            Rule { limit, next: self::level(descriptors, &format!("{field}.descriptors"), depth + 1)? };
        let known = if value.is_empty() {
            level.any.insert(key.clone(), rule).is_some()
        } else {
            level.exact.insert((key.clone(), value.clone()), rule).is_some()
        };
        if known {
            return Err(format!("{field}: key and value stand twice, got {key:?} {value:?}"));
        }
    }
    Ok(level)
}

/// `None` for an unlimited one.
fn limit(policy: &RateLimitPolicy, shadow: bool, field: &str) -> Result<Option<Limit>, String> {
    if !policy.name.is_empty() || !policy.replaces.is_empty() {
        return Err(format!(
            "{field}.rate_limit.replaces: comes with a later release, got {:?}",
            policy.name
        ));
    }
    if policy.unlimited {
        return Ok(None);
    }
    let window_secs = match policy.unit() {
        RateLimitUnit::Unknown => {
            return Err(format!("{field}.rate_limit.unit: must be known, got {}", policy.unit));
        }
        RateLimitUnit::Second => 1,
        RateLimitUnit::Minute => 60,
        RateLimitUnit::Hour => 3_600,
        RateLimitUnit::Day => 86_400,
        RateLimitUnit::Week => 7 * 86_400,
        RateLimitUnit::Month => 30 * 86_400,
        RateLimitUnit::Year => 365 * 86_400,
    };
    let window_secs = NonZeroU64::new(window_secs).unwrap_or(NonZeroU64::MIN);
    Ok(Some(Limit { requests: policy.requests_per_unit, unit: policy.unit(), window_secs, shadow }))
}

impl Domain {
    /// The limit for these entries: of exactly their depth, as the reference server has it.
    pub(crate) fn find<'a>(&self, entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Limit> {
        let mut level = &self.root;
        let mut found = None;
        for (key, value) in entries {
            let exact = level.exact.get(&(key.to_owned(), value.to_owned()));
            let rule = exact.or_else(|| level.any.get(key))?;
            found = rule.limit;
            level = &rule.next;
        }
        found
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn descriptor(
        key: &str,
        value: &str,
        limit: Option<(u32, RateLimitUnit)>,
    ) -> RateLimitDescriptor {
        let policy = |(requests_per_unit, unit)| {
            let mut policy = RateLimitPolicy { requests_per_unit, ..Default::default() };
            policy.set_unit(unit);
            policy
        };
        RateLimitDescriptor {
            key: key.into(),
            value: value.into(),
            rate_limit: limit.map(policy),
            ..Default::default()
        }
    }

    pub(crate) fn config(descriptors: Vec<RateLimitDescriptor>) -> RateLimitConfig {
        RateLimitConfig { name: "d".into(), domain: "d".into(), descriptors }
    }

    fn requests(domain: &Domain, entries: &[(&str, &str)]) -> Option<u32> {
        domain.find(entries.iter().copied()).map(|limit| limit.requests)
    }

    #[test]
    fn a_limit_is_found_at_exactly_its_depth_and_the_exact_value_first() {
        let mut outer = descriptor("limit", "0", None);
        outer.descriptors = vec![
            descriptor("remote_address", "", Some((5, RateLimitUnit::Minute))),
            descriptor("remote_address", "10.0.0.1", Some((9, RateLimitUnit::Minute))),
        ];
        let domain = Domain::new(config(vec![outer]), Arc::default()).unwrap();
        assert_eq!(requests(&domain, &[("limit", "0"), ("remote_address", "10.0.0.2")]), Some(5));
        assert_eq!(requests(&domain, &[("limit", "0"), ("remote_address", "10.0.0.1")]), Some(9));
        assert_eq!(requests(&domain, &[("limit", "0")]), None);
        assert_eq!(requests(&domain, &[("limit", "1"), ("remote_address", "x")]), None);
        assert_eq!(requests(&domain, &[("limit", "0"), ("remote_address", "x"), ("more", "y")]), None);
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let one = || descriptor("a", "", Some((1, RateLimitUnit::Minute)));
        let mut quota = one();
        quota.quota_mode = true;
        let mut named = one();
        named.rate_limit.as_mut().unwrap().name = "n".into();
        for (descriptors, word) in [
            (vec![descriptor("", "", None)], "descriptors[0].key"),
            (vec![descriptor("a", "b*", None)], "wildcards"),
            (vec![descriptor("a", "", Some((1, RateLimitUnit::Unknown)))], "descriptors[0].rate_limit.unit"),
            (vec![one(), one()], "descriptors[1]: key and value stand twice"),
            (vec![quota], "quota_mode"),
            (vec![named], "replaces"),
        ] {
            let refusal = Domain::new(config(descriptors), Arc::default()).unwrap_err();
            assert!(refusal.contains(word), "{refusal}");
        }
        let mut deep = one();
        for _ in 0..MAX_DEPTH {
            deep = RateLimitDescriptor { descriptors: vec![deep], ..descriptor("a", "", None) };
        }
        assert!(Domain::new(config(vec![deep]), Arc::default()).unwrap_err().contains("at most 16 levels"));
    }
}
