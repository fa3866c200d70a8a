//! What is served, as YAML, with the versions before and what changed between them.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use api::ResourceType;
use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use resources::{Key, Resource};
use serde::Deserialize;
use serde_json::{Value, json};
use similar::TextDiff;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Operators, refusal};

/// What of all resources.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    kind: Option<String>,
}

/// Which version of one resource; and from which one to show what changed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Versions {
    version: Option<String>,
    from: Option<String>,
}

/// Unchanged lines around a change.
const CONTEXT_LINES: usize = 3;

pub(super) async fn list(State(operators): State<Operators>, Query(which): Query<Which>) -> Response {
    let kinds = match which.kind.as_deref().map(kind_of) {
        None => ResourceType::ALL.to_vec(),
        Some(Ok(kind)) => vec![kind],
        Some(Err(refusal)) => return *refusal,
    };
    let mut all: BTreeMap<&Key, Value> = BTreeMap::new();
    let snapshots = operators.hub.snapshots(&operators.group);
    for (selection, snapshot) in &snapshots {
        for resource in kinds.iter().flat_map(|kind| snapshot.all(*kind)) {
            let Resource { key, owner, version, body, .. } = &**resource;
            // Nodes with other templates may have another version under the same name.
            let entry = all.entry(key).or_insert_with(|| {
                json!({
                    "kind": key.kind.label(),
                    "name": &*key.name,
                    "owner": owner,
                    "bytes": body.len(),
                    "versions": {},
                })
            });
            entry["versions"][selection.to_string()] = json!(&**version);
        }
    }
    Json(json!({ "resources": all.into_values().collect::<Vec<_>>() })).into_response()
}

pub(super) async fn one(
    State(operators): State<Operators>,
    Path((kind, name)): Path<(String, String)>,
    Query(wanted): Query<Versions>,
) -> Response {
    let kind = match kind_of(&kind) {
        Ok(kind) => kind,
        Err(refusal) => return *refusal,
    };
    let key = Key { kind, name: name.as_str().into() };
    let versions = Known::of(&operators, &key);
    if versions.is_empty() {
        return refusal(
            StatusCode::NOT_FOUND,
            &format!("name: {kind} has never had {name:?} since this replica started"),
        );
    }
    let chosen = match &wanted.version {
        None => versions.first(),
        Some(version) => versions.iter().find(|known| known.is(version)),
    };
    let Some(chosen) = chosen else { return unknown("version", wanted.version.as_ref(), &versions) };
    let mut answer = json!({
        "kind": kind.label(),
        "name": name,
        "version": &*chosen.resource.version,
        "owner": chosen.resource.owner,
        "yaml": yaml(&chosen.resource),
        "history": versions.iter().map(Known::shown).collect::<Vec<_>>(),
    });
    if wanted.from.is_some() {
        let from = versions.iter().find(|known| wanted.from.as_ref().is_some_and(|from| known.is(from)));
        let Some(from) = from else { return unknown("from", wanted.from.as_ref(), &versions) };
        answer["diff"] = json!(diff(Some(&from.resource), Some(&chosen.resource)));
    }
    Json(answer).into_response()
}

/// A version of a resource that is still known.
struct Known {
    resource: Arc<Resource>,
    /// `None` for what is served.
    until: Option<SystemTime>,
}

impl Known {
    /// What is served first, then the newest of what was.
    fn of(operators: &Operators, key: &Key) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for (_, snapshot) in operators.hub.snapshots(&operators.group) {
            let served =
                snapshot.get(key).filter(|served| !all.iter().any(|known| known.is(&served.version)));
            all.extend(served.map(|served| Self { resource: served.clone(), until: None }));
        }
        let history = operators.history.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let past =
            history.of(key).map(|past| Self { resource: past.resource.clone(), until: Some(past.until) });
        all.extend(past);
        all
    }

    /// As people shorten it.
    fn is(&self, version: &str) -> bool {
        !version.is_empty() && self.resource.version.starts_with(version)
    }

    fn shown(&self) -> Value {
        let until = self.until.and_then(|until| OffsetDateTime::from(until).format(&Rfc3339).ok());
        json!({"version": &*self.resource.version, "until": until})
    }
}

fn unknown(field: &str, version: Option<&String>, known: &[Known]) -> Response {
    let known: Vec<_> = known.iter().map(|known| &*known.resource.version).collect();
    let got = version.map(String::as_str).unwrap_or_default();
    refusal(StatusCode::NOT_FOUND, &format!("{field}: one of {}, got {got:?}", known.join(", ")))
}

fn kind_of(label: &str) -> Result<ResourceType, Box<Response>> {
    ResourceType::from_label(label).ok_or_else(|| {
        let known: Vec<_> = ResourceType::ALL.iter().map(|kind| kind.label()).collect();
        Box::new(refusal(StatusCode::NOT_FOUND, &format!("kind: one of {}, got {label:?}", known.join(", "))))
    })
}

fn yaml(resource: &Resource) -> String {
    resource.yaml().unwrap_or_else(|error| format!("# {error}\n"))
}

/// What changed from one version to another, as a unified diff.
pub(super) fn diff(before: Option<&Arc<Resource>>, after: Option<&Arc<Resource>>) -> String {
    let text = |resource: Option<&Arc<Resource>>| resource.map(|resource| yaml(resource)).unwrap_or_default();
    let name = |resource: Option<&Arc<Resource>>| {
        resource.map_or("nothing".to_owned(), |resource| format!("{}@{}", resource.key, resource.version))
    };
    let (old, new) = (text(before), text(after));
    let diff = TextDiff::from_lines(&old, &new);
    diff.unified_diff().context_radius(CONTEXT_LINES).header(&name(before), &name(after)).to_string()
}

/// A version of a resource, if it is still known.
pub(super) fn find(operators: &Operators, key: &Key, version: &str) -> Option<Arc<Resource>> {
    let known = Known::of(operators, key);
    known.into_iter().find(|known| *known.resource.version == *version).map(|known| known.resource)
}
