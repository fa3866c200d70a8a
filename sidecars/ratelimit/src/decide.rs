//! What becomes of a request: which limits apply to its descriptors, what each of them says, and what they say together.

use std::ops::Deref;

use envoy_types::pb::{
    envoy::{
        extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::RateLimitOverride},
        service::ratelimit::v3::RateLimitRequest,
        r#type::v3::RateLimitUnit as OverrideUnit,
    },
    ratelimit::config::ratelimit::v3::RateLimitUnit,
};

use crate::{
    config::{Domain, Found, KeyHasher, Limit, Mode, OnStoreError, Scope, window_of},
    counter::{Taken, Terms},
    stats::{Counts, Outcome},
    table::Key,
};

/// A limit, and what a descriptor asks of it.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) limit: Applied<'a>,
    pub(crate) key: Key,
    /// 0 only looks.
    pub(crate) hits: u64,
}

/// Where a limit comes from.
#[derive(Debug)]
pub(crate) enum Applied<'a> {
    Configured(&'a Limit),
    /// From the request itself.
    Override(Box<Limit>),
}

/// What a limit said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) taken: Taken,
    /// There was no room for a counter of its own.
    pub(crate) overflowed: bool,
    /// Whether it was known here that the limit is reached.
    pub(crate) without_store: bool,
}

/// An ask, and what its limit said; nothing where no limit applies.
pub(crate) type Result<'a> = Option<(Ask<'a>, Said)>;

/// Whether what limits say counts differently on this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Modes {
    /// Nothing is refused, as `SHADOW_MODE` has it.
    pub(crate) shadow: bool,
    /// All limits are quotas, as `QUOTA_MODE` has it.
    pub(crate) quota: bool,
}

impl Deref for Applied<'_> {
    type Target = Limit;

    fn deref(&self) -> &Limit {
        match self {
            Self::Configured(limit) => limit,
            Self::Override(limit) => limit,
        }
    }
}

pub(crate) fn entries(descriptor: &RateLimitDescriptor) -> impl Iterator<Item = (&str, &str)> {
    descriptor.entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()))
}

/// The limits that apply, one for each descriptor at most, without those that others of them replace.
///
/// # Errors
/// An override that cannot be understood, with its field.
pub(crate) fn asks<'a>(
    domain: &'a Domain,
    request: &RateLimitRequest,
) -> std::result::Result<Vec<Option<Ask<'a>>>, String> {
    let mut all = Vec::with_capacity(request.descriptors.len());
    for (at, descriptor) in request.descriptors.iter().enumerate() {
        all.push(ask(domain, request, descriptor).map_err(|error| format!("descriptors[{at}].{error}"))?);
    }
    let replaced: Vec<Box<str>> =
        all.iter().flatten().flat_map(|ask| ask.limit.replaces.iter().cloned()).collect();
    if !replaced.is_empty() {
        for ask in &mut all {
            let is_replaced = |ask: &Ask<'_>| replaced.contains(&ask.limit.name);
            if ask.as_ref().is_some_and(is_replaced) {
                *ask = None;
            }
        }
    }
    Ok(all)
}

fn ask<'a>(
    domain: &'a Domain,
    request: &RateLimitRequest,
    descriptor: &RateLimitDescriptor,
) -> std::result::Result<Option<Ask<'a>>, String> {
    // 0 in the request means 1; 0 in a descriptor only looks (proto of RateLimitRequest). Hits that are to be given
    // back (`is_negative_hits`) would let more pass than the limit, so they only look too.
    let hits = match &descriptor.hits_addend {
        _ if descriptor.is_negative_hits => 0,
        Some(hits) => hits.value,
        None => u64::from(request.hits_addend.max(1)),
    };
    if descriptor.entries.is_empty() {
        return Ok(None);
    }
    let found = domain.find(entries(descriptor));
    let Some(replacement) = descriptor.limit else {
        return Ok(found.map(|Found { limit, key }| Ask { limit: Applied::Configured(limit), key, hits }));
    };
    let limit = overriding(replacement, domain, found.map(|found| found.limit), descriptor)?;
    // With the limit in the key: another number counts on its own.
    let mut key = KeyHasher::new("override")
        .part(limit.counters.as_bytes())
        .part(&limit.requests.to_le_bytes())
        .part(&limit.terms.window.to_le_bytes());
    for (name, value) in entries(descriptor) {
        key = key.part(name.as_bytes()).part(value.as_bytes());
    }
    Ok(Some(Ask { limit: Applied::Override(Box::new(limit)), key: key.key(), hits }))
}

/// The limit of a request, in the place of the configured one; never in shadow. It counts where and how that one does.
fn overriding(
    wire: RateLimitOverride,
    domain: &Domain,
    configured: Option<&Limit>,
    descriptor: &RateLimitDescriptor,
) -> std::result::Result<Limit, String> {
    let unit = match OverrideUnit::try_from(wire.unit) {
        Ok(OverrideUnit::Second) => RateLimitUnit::Second,
        Ok(OverrideUnit::Minute) => RateLimitUnit::Minute,
        Ok(OverrideUnit::Hour) => RateLimitUnit::Hour,
        Ok(OverrideUnit::Day) => RateLimitUnit::Day,
        Ok(OverrideUnit::Month) => RateLimitUnit::Month,
        Ok(OverrideUnit::Year) => RateLimitUnit::Year,
        _ => RateLimitUnit::Unknown,
    };
    let window = window_of(unit)
        .ok_or_else(|| format!("limit.unit: must be one that is known, got {}", wire.unit))?
        .get();
    let overflow = entries(descriptor)
        .fold(KeyHasher::new("overflow override"), |hasher, (key, _)| hasher.part(key.as_bytes()));
    let terms = configured.map_or_else(Terms::default, |limit| limit.terms);
    Ok(Limit {
        requests: wire.requests_per_unit,
        unit,
        terms: Terms { requests: wire.requests_per_unit, window, ..terms },
        unlimited: false,
        name: configured.map(|limit| limit.name.clone()).unwrap_or_default(),
        replaces: Box::default(),
        shadow: false,
        quota: configured.is_some_and(|limit| limit.quota),
        detailed_metric: false,
        value_to_metric: false,
        metadata: configured.and_then(|limit| limit.metadata.clone()),
        scope: configured.map_or(Scope::Node, |limit| limit.scope),
        mode: configured.map_or(Mode::Lease, |limit| limit.mode),
        on_store_error: configured.map_or(OnStoreError::LocalShare, |limit| limit.on_store_error),
        overflow: overflow.part(&window.to_le_bytes()).key(),
        counters: configured.map_or_else(|| domain.name.as_str().into(), |limit| limit.counters.clone()),
        counts: Counts::default(),
        labels: Box::default(),
    })
}

/// What an unlimited one says.
pub(crate) const UNLIMITED: Said = Said {
    taken: Taken { over: false, remaining: u32::MAX, reset: 0 },
    overflowed: false,
    without_store: false,
};

/// Whether the request is over: one limit is enough, but of quotas it takes all.
pub(crate) fn is_over(results: &[Result<'_>], modes: Modes) -> bool {
    if modes.shadow {
        return false;
    }
    let (mut quotas, mut quotas_over) = (0_usize, 0);
    for (ask, said) in results.iter().flatten() {
        let over = said.taken.over && !ask.limit.shadow;
        if ask.limit.quota || modes.quota {
            quotas += 1;
            quotas_over += usize::from(over);
        } else if over {
            return true;
        }
    }
    quotas > 0 && quotas == quotas_over
}

/// Counts what a limit said, under its own name and, where it wants that, under the names of the request.
pub(crate) fn count(
    domain: &Domain,
    descriptor: &RateLimitDescriptor,
    (ask, said): &(Ask<'_>, Said),
    near_limit_ratio: f64,
) {
    let limit = &ask.limit;
    let used = f64::from(limit.requests.saturating_sub(said.taken.remaining));
    let near = !limit.unlimited && used > f64::from(limit.requests) * near_limit_ratio;
    let outcome =
        Outcome { over: said.taken.over, near, without_store: said.without_store, shadow: limit.shadow };
    let by_request = match limit {
        Applied::Override(_) => Some(override_labels(descriptor)),
        Applied::Configured(limit) if limit.detailed_metric || limit.value_to_metric => {
            Some(domain.labels(limit, entries(descriptor)))
        }
        Applied::Configured(_) => None,
    };
    match by_request.and_then(|labels| domain.stats.of(labels)) {
        Some(counts) => counts.count(ask.hits, outcome),
        None => limit.counts.count(ask.hits, outcome),
    }
}

fn override_labels(descriptor: &RateLimitDescriptor) -> Vec<Box<str>> {
    let label = |(key, value): (&str, &str)| {
        if value.is_empty() { key.into() } else { format!("{key}_{value}").into() }
    };
    entries(descriptor).map(label).collect()
}
