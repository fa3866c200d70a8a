//! What policies may know beside a request: entities of an operators' list, and the one that an identity makes.
//!
//! The list may be long, so a request gets only those that its policies can reach: how far that is, is validated.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Entities, Entity, EntityId, EntityTypeName, EntityUid, EvalResult, RestrictedExpression, Schema,
};

use super::{
    Identity,
    schema::{GROUP, USER, entity_type},
    source::{InvalidCedar, MAX_DEREFERENCES, Mistake},
};

/// The entities of a service.
#[derive(Debug)]
pub(super) struct Store {
    known: HashMap<EntityUid, Known>,
    user: EntityTypeName,
    group: EntityTypeName,
}

#[derive(Debug)]
struct Known {
    /// With all its ancestors.
    entity: Entity,
    /// What its attributes name.
    named: Vec<EntityUid>,
}

/// Of one service. Each is validated when the list changes.
const MAX_ENTITIES: usize = 10_000;
const FIELD: &str = "entities";

impl Store {
    /// Reads a list in Cedar's JSON format, which the schema must allow.
    pub(super) fn read(json: Option<&str>, schema: &Schema) -> Result<Self, InvalidCedar> {
        let (user, group) = (entity_type(USER)?, entity_type(GROUP)?);
        let refuse = |message: String| InvalidCedar::of(Mistake::at(FIELD, message));
        let all = match json {
            // What the template finds where operators keep no such list.
            Some("null") => return Err(refuse("a list that operators keep, got none".into())),
            Some(json) => Entities::from_json_str(json, Some(schema))
                .map_err(|error| InvalidCedar::of(Mistake::diagnosed(FIELD, "", &error)))?,
            None => Entities::empty(),
        };
        let actions: HashSet<_> = schema.actions().collect();
        let mut known = HashMap::new();
        for entity in all {
            let uid = entity.uid();
            // The schema brings its actions along.
            if actions.contains(&uid) {
                continue;
            }
            if *uid.type_name() == user {
                return Err(refuse(format!("no {USER}: who a user is, the credential says, got {uid}")));
            }
            let named = named(&entity).map_err(refuse)?;
            known.insert(uid, Known { entity, named });
        }
        if known.len() > MAX_ENTITIES {
            return Err(refuse(format!("at most {MAX_ENTITIES}, got {}", known.len())));
        }
        Ok(Self { known, user, group })
    }

    /// The principal, and the entities that a request about this resource can need.
    pub(super) fn around(
        &self,
        identity: &Identity<'_>,
        resource: &EntityUid,
    ) -> Result<(EntityUid, Entities), String> {
        let groups: HashSet<_> = (identity.groups.iter())
            .map(|group| EntityUid::from_type_name_and_id(self.group.clone(), EntityId::new(group)))
            .collect();
        // Groups can be in groups.
        let mut wanted: HashMap<&EntityUid, &Known> =
            groups.iter().filter_map(|group| self.known.get_key_value(group)).collect();
        let mut next: Vec<_> = vec![resource];
        for _ in 0..MAX_DEREFERENCES {
            let mut beyond = Vec::new();
            for uid in next {
                let Some((uid, known)) = self.known.get_key_value(uid) else { continue };
                if wanted.insert(uid, known).is_none() {
                    beyond.extend(&known.named);
                }
            }
            next = beyond;
        }
        let mut entities: Vec<_> = wanted.values().map(|known| known.entity.clone()).collect();
        let principal = self.principal(identity, groups)?;
        let uid = principal.uid();
        entities.push(principal);
        // The schema has been asked about these when they came.
        let entities = Entities::from_entities(entities, None).map_err(|error| error.to_string())?;
        Ok((uid, entities))
    }

    fn principal(&self, identity: &Identity<'_>, groups: HashSet<EntityUid>) -> Result<Entity, String> {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let scopes = RestrictedExpression::new_set(identity.scopes.iter().map(|scope| text(scope)));
        let always =
            [("subject", text(identity.subject)), ("method", text(identity.method)), ("scopes", scopes)];
        let sometimes = [("issuer", identity.issuer), ("tenant", identity.tenant)];
        let sometimes = sometimes.into_iter().filter_map(|(name, value)| Some((name, text(value?))));
        let attributes = always.into_iter().chain(sometimes).map(|(name, value)| (name.to_owned(), value));
        let uid = EntityUid::from_type_name_and_id(self.user.clone(), EntityId::new(identity.subject));
        Entity::new(uid, attributes.collect(), groups).map_err(|error| error.to_string())
    }
}

/// What the attributes and tags of an entity name.
fn named(entity: &Entity) -> Result<Vec<EntityUid>, String> {
    let mut found = Vec::new();
    for (name, value) in entity.attrs().chain(entity.tags()) {
        let value = value.map_err(|error| format!("{}.{name}: {error}", entity.uid()))?;
        collect(&value, &mut found);
    }
    Ok(found)
}

fn collect(value: &EvalResult, found: &mut Vec<EntityUid>) {
    match value {
        EvalResult::EntityUid(uid) => found.push(uid.clone()),
        EvalResult::Set(set) => set.iter().for_each(|item| collect(item, found)),
        EvalResult::Record(record) => record.iter().for_each(|(_, item)| collect(item, found)),
        _ => {}
    }
}
