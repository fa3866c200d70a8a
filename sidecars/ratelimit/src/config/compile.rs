//! From descriptors, as people write them, to the tree that requests are matched with.

use envoy_types::pb::ratelimit::config::ratelimit::v3::RateLimitUnit;

use super::{
    Defaults, Descriptor, Domain, KeyHasher, Level, Limit, Pattern, Policy, Rule, Scope,
    extension::{Extension, share_of},
    metadata, window_of,
};
use crate::{
    counter::{Algorithm, Terms},
    stats::{Counts, Stats},
};

/// Deeper than any actions that Envoy can express.
const MAX_DEPTH: usize = 16;
/// Under this name stands in `metadata` what is ours.
const EXTENSION: &str = "rls";

/// What a descriptor is told by those around it.
struct Place<'a> {
    domain: &'a str,
    /// How messages name it.
    field: String,
    /// How metrics name those above.
    labels: Vec<Box<str>>,
    value_to_metric: bool,
    defaults: &'a Defaults,
}

impl Domain {
    /// Checks everything; counts begin at nothing.
    pub(super) fn compile(
        name: String,
        descriptors: Vec<Descriptor>,
        defaults: &Defaults,
    ) -> Result<Self, String> {
        if name.is_empty() {
            return Err("domain: must name the domain, got nothing".into());
        }
        let place = Place {
            domain: &name,
            field: String::new(),
            labels: Vec::new(),
            value_to_metric: false,
            defaults,
        };
        let root = level(descriptors, &place)?;
        let slot = KeyHasher::new(&name).key().to_le_bytes();
        let slot = u16::from_le_bytes([slot[0], slot[1]]);
        Ok(Self { name, root, slot, stats: Stats::default() })
    }
}

fn level(descriptors: Vec<Descriptor>, above: &Place<'_>) -> Result<Level, String> {
    let mut level = Level::default();
    if above.labels.len() >= MAX_DEPTH && !descriptors.is_empty() {
        return Err(format!("{}: at most {MAX_DEPTH} levels", above.field));
    }
    for (at, mut descriptor) in descriptors.into_iter().enumerate() {
        let dot = if above.field.is_empty() { "" } else { "." };
        let field = format!("{}{dot}descriptors[{at}]", above.field);
        if descriptor.key.is_empty() {
            return Err(format!("{field}.key: must be there, got nothing"));
        }
        let (key, value) = (std::mem::take(&mut descriptor.key), std::mem::take(&mut descriptor.value));
        let is_pattern = key.contains('*') || value.contains('*');
        if descriptor.share_threshold && !is_pattern {
            return Err(format!(
                "{field}.share_threshold: only where the value has a wildcard, got {value:?}"
            ));
        }
        let label: Box<str> =
            if value.is_empty() { key.as_str().into() } else { format!("{key}_{value}").into() };
        let mut labels = above.labels.clone();
        labels.push(label.clone());
        let place = Place {
            field: field.clone(),
            labels,
            value_to_metric: above.value_to_metric || descriptor.value_to_metric,
            ..*above
        };
        let below = std::mem::take(&mut descriptor.descriptors);
        let rule = Rule {
            label,
            value_to_metric: descriptor.value_to_metric,
            shares: descriptor.share_threshold.then(|| value.as_str().into()),
            limit: limit(descriptor, &place)?,
            next: self::level(below, &place)?,
        };
        if !insert(&mut level, &key, &value, rule) {
            return Err(format!("{field}: key and value stand twice, got {key:?} {value:?}"));
        }
    }
    Ok(level)
}

/// Whether it was not there yet.
fn insert(level: &mut Level, key: &str, value: &str, rule: Rule) -> bool {
    if key.contains('*') || value.contains('*') {
        let values = if value.is_empty() { Pattern::anything() } else { Pattern::new(value) };
        let (keys, known) = (Pattern::new(key), &mut level.patterns);
        let is_new = !known.iter().any(|(other, others, _)| *other == keys && *others == values);
        known.push((keys, values, rule));
        return is_new;
    }
    let values = level.by_key.entry(key.into()).or_default();
    if value.is_empty() {
        values.any.replace(rule).is_none()
    } else {
        values.exact.insert(value.into(), rule).is_none()
    }
}

fn limit(descriptor: Descriptor, place: &Place<'_>) -> Result<Option<Limit>, String> {
    let field = &place.field;
    let mut metadata = descriptor.metadata.unwrap_or_default();
    let extension = match metadata.remove(EXTENSION) {
        None => Extension::default(),
        Some(value) => {
            serde_json::from_value(value).map_err(|error| format!("{field}.metadata.{EXTENSION}: {error}"))?
        }
    };
    let Some(policy) = descriptor.rate_limit else { return Ok(None) };
    let scope = extension.scope.unwrap_or(if place.defaults.fleet { Scope::Fleet } else { Scope::Node });
    if scope == Scope::Fleet && extension.algorithm == Algorithm::Gcra {
        return Err(format!(
            "{field}.metadata.{EXTENSION}.algorithm: gcra is for the scope node, got the scope fleet"
        ));
    }
    let (unit, window) = unit(&policy, field)?;
    names(&policy, field)?;
    let requests = match (&place.defaults.region, extension.regions.is_empty()) {
        (_, true) => policy.requests_per_unit,
        (Some(region), false) => share_of(policy.requests_per_unit, &extension.regions, region)
            .map_err(|error| format!("{field}.metadata.{EXTENSION}.regions: {error}"))?,
        (None, false) => {
            return Err(format!("{field}.metadata.{EXTENSION}.regions: this node was not told its region"));
        }
    };
    let overflow = place
        .labels
        .iter()
        .fold(KeyHasher::new("overflow").part(place.domain.as_bytes()), |hasher, label| {
            hasher.part(label.as_bytes())
        });
    Ok(Some(Limit {
        requests,
        unit,
        terms: Terms {
            algorithm: extension.algorithm,
            requests,
            window,
            all_or_nothing: extension.all_or_nothing,
        },
        unlimited: policy.unlimited,
        name: policy.name.into(),
        replaces: policy.replaces.into_iter().map(|replaced| replaced.name.into()).collect(),
        shadow: descriptor.shadow_mode,
        quota: descriptor.quota_mode,
        detailed_metric: descriptor.detailed_metric,
        value_to_metric: place.value_to_metric,
        metadata: (!metadata.is_empty()).then(|| metadata::to_struct(metadata)),
        scope,
        mode: extension.mode,
        on_store_error: extension.on_store_error,
        overflow: overflow.part(&window.to_le_bytes()).key(),
        counters: extension.counters.unwrap_or_else(|| place.domain.to_owned()).into(),
        counts: Counts::default(),
        labels: place.labels.clone().into(),
    }))
}

/// In the reference's words, however they are written; and its length in nanoseconds.
fn unit(policy: &Policy, field: &str) -> Result<(RateLimitUnit, u64), String> {
    let field = format!("{field}.rate_limit.unit");
    let Some(name) = &policy.unit else {
        return if policy.unlimited {
            Ok((RateLimitUnit::Unknown, 1_000_000_000))
        } else {
            Err(format!("{field}: must be there, got nothing"))
        };
    };
    if policy.unlimited {
        return Err(format!("{field}: an unlimited one has none, got {name:?}"));
    }
    let known = RateLimitUnit::from_str_name(&name.to_uppercase());
    known
        .and_then(|unit| Some((unit, window_of(unit)?.get())))
        .ok_or_else(|| format!("{field}: one of second, minute, hour, day, week, month, year, got {name:?}"))
}

fn names(policy: &Policy, field: &str) -> Result<(), String> {
    for (at, replaced) in policy.replaces.iter().enumerate() {
        let field = format!("{field}.rate_limit.replaces[{at}].name");
        if replaced.name.is_empty() {
            return Err(format!("{field}: must be there, got nothing"));
        }
        if replaced.name == policy.name {
            return Err(format!("{field}: must not be its own name, got {:?}", replaced.name));
        }
    }
    Ok(())
}
