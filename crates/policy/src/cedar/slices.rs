//! Which policies can be about which requests, by what their heads say. Cedar looks at all policies that it is given,
//! one after another; so it is given few.

use std::{collections::HashMap, sync::Arc};

use cedar_policy::{
    ActionConstraint, EntityTypeName, EntityUid, Policy, PolicySet, PrincipalConstraint, ResourceConstraint,
};

use super::{
    Place,
    schema::{USER, entity_type},
    source::{InvalidCedar, Mistake},
};

/// A slice for each mapping and method. Equal ones are one.
#[derive(Debug)]
pub(super) struct Slices(HashMap<Place, Arc<PolicySet>>);

/// All are looked at for each request, which is under 0.1 ms for as many short ones.
const MAX_POLICIES: usize = 100;

impl Slices {
    /// `targets` are the types of the resources: those of the mappings, in their order, and `Path`.
    pub(super) fn cut<'a>(
        policies: &[Policy],
        actions: &[EntityUid],
        targets: impl Iterator<Item = &'a EntityTypeName>,
    ) -> Result<Self, InvalidCedar> {
        let user = entity_type(USER)?;
        let of_users: Vec<_> = (0..policies.len())
            .filter(|at| may_be_by(&policies[*at].principal_constraint(), &user))
            .collect();
        let (mut slices, mut known) = (HashMap::new(), HashMap::<Vec<usize>, Arc<PolicySet>>::new());
        for (target, resource) in targets.enumerate() {
            for (action, uid) in actions.iter().enumerate() {
                let chosen = of_users.iter().copied().filter(|at| {
                    is_of(&policies[*at].action_constraint(), uid)
                        && may_be_about(&policies[*at].resource_constraint(), resource)
                });
                let chosen: Vec<_> = chosen.collect();
                if chosen.len() > MAX_POLICIES {
                    return Err(too_many(chosen.len(), uid, resource));
                }
                let slice = if let Some(slice) = known.get(&chosen) {
                    Arc::clone(slice)
                } else {
                    let slice = PolicySet::from_policies(chosen.iter().map(|at| policies[*at].clone()))
                        .map_err(|error| InvalidCedar::of(Mistake::diagnosed("policies", "", &error)))?;
                    let slice = Arc::new(slice);
                    known.insert(chosen, Arc::clone(&slice));
                    slice
                };
                slices.insert(Place { target, action }, slice);
            }
        }
        Ok(Self(slices))
    }

    pub(super) fn get(&self, place: Place) -> Option<&PolicySet> {
        self.0.get(&place).map(|slice| &**slice)
    }
}

fn too_many(number: usize, action: &EntityUid, resource: &EntityTypeName) -> InvalidCedar {
    let rule = format!("at most {MAX_POLICIES} that can be about {action} of a {resource}");
    InvalidCedar::of(Mistake::at("policies", format!("{rule}, by their heads, got {number}")))
}

/// Whether a user can be meant. What `in` reaches, only the entities say.
fn may_be_by(head: &PrincipalConstraint, user: &EntityTypeName) -> bool {
    match head {
        PrincipalConstraint::Any | PrincipalConstraint::In(_) => true,
        PrincipalConstraint::Eq(uid) => uid.type_name() == user,
        PrincipalConstraint::Is(of) | PrincipalConstraint::IsIn(of, _) => of == user,
    }
}

/// Actions have no groups: `in` is one of the list.
fn is_of(head: &ActionConstraint, action: &EntityUid) -> bool {
    match head {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => uid == action,
        ActionConstraint::In(list) => list.contains(action),
    }
}

fn may_be_about(head: &ResourceConstraint, resource: &EntityTypeName) -> bool {
    match head {
        ResourceConstraint::Any | ResourceConstraint::In(_) => true,
        ResourceConstraint::Eq(uid) => uid.type_name() == resource,
        ResourceConstraint::Is(of) | ResourceConstraint::IsIn(of, _) => of == resource,
    }
}
