//! The schema that policies are validated against: what the engine knows of every request, and what a service adds.
//!
//! ```text
//! entity Group in [Group];
//! entity User in [Group] = {
//!   subject: String, issuer?: String, tenant?: String, method: String, scopes: Set<String>,
//! };
//! entity Path;
//! action GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS appliesTo {
//!   principal: [User],
//!   resource: [Path, …],        // and the types of `resources`
//!   context: { host: String, path: String, address: ipaddr, time: datetime, captures: { doc?: String, … } },
//! };
//! ```
//!
//! The names of Cedar's own types are written `__cedar::String`, so that no type of a service takes their place.

use std::collections::BTreeSet;

use api::cedar::Mapping;
use cedar_policy::{EntityId, EntityTypeName, EntityUid, Schema, SchemaFragment};

use super::source::{InvalidCedar, Mistake};

/// Those that an edge lets through. They are the only actions.
pub(super) const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Who sends a request; the id is the subject.
pub(super) const USER: &str = "User";
/// What a user is a member of.
pub(super) const GROUP: &str = "Group";
/// What a request is about that no mapping fits; the id is the path.
pub(super) const PATH: &str = "Path";
const ACTION: &str = "Action";
const FIELD: &str = "schema";

/// The base with what the service adds.
pub(super) fn read(text: &str, mappings: &[Mapping]) -> Result<Schema, InvalidCedar> {
    let own = || match SchemaFragment::from_cedarschema_str(text) {
        Ok((fragment, _)) => Ok(fragment),
        Err(error) => Err(InvalidCedar::of(Mistake::diagnosed(FIELD, text, &error))),
    };
    let with = |types: &BTreeSet<&str>| {
        let (base, _) = SchemaFragment::from_cedarschema_str(&base(types, mappings))
            .map_err(|error| InvalidCedar::of(Mistake::diagnosed(FIELD, "", &error)))?;
        Schema::from_schema_fragments([base, own()?])
            .map_err(|error| InvalidCedar::of(Mistake::diagnosed(FIELD, text, &error)))
    };
    let types: BTreeSet<_> = mappings.iter().map(|mapping| mapping.entity.as_str()).collect();
    let schema = match with(&types) {
        Ok(schema) => schema,
        Err(error) => return Err(undeclared(&with(&BTreeSet::new())?, mappings).unwrap_or(error)),
    };
    for action in schema.actions() {
        if !(METHODS.contains(&action.id().unescaped()) && action.type_name().to_string() == ACTION) {
            let rule = "no actions: those are the HTTP methods, which are there";
            return Err(InvalidCedar::of(Mistake::at(FIELD, format!("{rule}, got {action}"))));
        }
    }
    Ok(schema)
}

/// The first mapping to a type that nobody has declared.
fn undeclared(schema: &Schema, mappings: &[Mapping]) -> Option<InvalidCedar> {
    let known: BTreeSet<_> = schema.entity_types().map(ToString::to_string).collect();
    let (at, mapping) = mappings.iter().enumerate().find(|(_, mapping)| !known.contains(&mapping.entity))?;
    let message = format!("a type of entity that the schema declares, got {:?}", mapping.entity);
    Some(InvalidCedar::of(Mistake::at(&format!("resources[{at}].entity"), message)))
}

fn base(types: &BTreeSet<&str>, mappings: &[Mapping]) -> String {
    let captures: BTreeSet<_> = mappings.iter().flat_map(Mapping::captures).collect();
    // Which of them there are depends on the mapping.
    let captures: Vec<_> = captures.iter().map(|name| format!("\"{name}\"?: __cedar::String")).collect();
    let mut resources = vec![PATH];
    resources.extend(types.iter().filter(|name| **name != PATH));
    let actions = METHODS.map(|method| format!("\"{method}\""));
    format!(
        "entity {GROUP} in [{GROUP}];
        entity {USER} in [{GROUP}] = {{
            \"subject\": __cedar::String, \"issuer\"?: __cedar::String, \"tenant\"?: __cedar::String,
            \"method\": __cedar::String, \"scopes\": Set<__cedar::String>,
        }};
        entity {PATH};
        action {} appliesTo {{
            principal: [{USER}],
            resource: [{}],
            context: {{
                \"host\": __cedar::String, \"path\": __cedar::String,
                \"address\": __cedar::ipaddr, \"time\": __cedar::datetime,
                \"captures\": {{{}}},
            }},
        }};",
        actions.join(", "),
        resources.join(", "),
        captures.join(", "),
    )
}

/// A name that was checked, or is ours.
pub(super) fn entity_type(name: &str) -> Result<EntityTypeName, InvalidCedar> {
    name.parse().map_err(|error| InvalidCedar::of(Mistake::diagnosed(FIELD, "", &error)))
}

/// That of a method.
pub(super) fn action(method: &str) -> Result<EntityUid, InvalidCedar> {
    Ok(EntityUid::from_type_name_and_id(entity_type(ACTION)?, EntityId::new(method)))
}
