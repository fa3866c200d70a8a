//! The typed form of `gatehouse.authz.v1.Policy`, checked in the control plane and again in the sidecar.
//! How it decides stands in the crate `policy`.

mod comparison;
mod guardrail;
mod host;
mod rule;
mod time;

pub use comparison::{Compared, Comparison};
pub use guardrail::Guardrail;
pub use host::HostPattern;
pub use rule::{ClaimRule, METHODS_OF_AUTHENTICATION, OWN_CLAIMS, Rule};
pub use time::{Hours, Moment, TimeRule};

use std::collections::HashSet;

use crate::{Invalid, authn::PolicyId, cedar::Cedar, path::PathPattern, pb};

/// Which requests of one service pass.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What routes call it.
    pub id: PolicyId,
    /// What happens when no rule matches.
    pub default: Effect,
    /// In no order: a deny that matches wins, then any allow.
    pub rules: Vec<Rule>,
    /// Whether a deny is carried out.
    pub mode: Mode,
    /// Paths that pass without an identity.
    pub anonymous: Vec<PathPattern>,
    /// Decides beside the rules, where the service has it.
    pub cedar: Option<Cedar>,
}

/// What a policy says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Effect {
    Allow,
    Deny,
}

/// Whether a deny is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Yes.
    Enforce,
    /// No: it is recorded, and the request passes.
    Shadow,
}

/// Ten times what a service file may have, for what operators render.
const MAX_RULES: usize = 10_000;
/// Values in all lists of all rules: each is some bytes of the matcher.
const MAX_VALUES: usize = 200_000;
/// Declared ones: those of all methods of a service.
const MAX_CLAIMS: usize = 64;

impl TryFrom<pb::authz::Policy> for Policy {
    type Error = Invalid;

    fn try_from(wire: pb::authz::Policy) -> Result<Self, Invalid> {
        let id = PolicyId::checked(&wire.name, &wire.policy, wire.rev)?;
        let default = match pb::authz::Effect::try_from(wire.default_effect) {
            Ok(pb::authz::Effect::Unspecified | pb::authz::Effect::Deny) => Effect::Deny,
            Ok(pb::authz::Effect::Allow) => Effect::Allow,
            Err(_) => {
                return Err(Invalid::new(
                    "default_effect",
                    wire.default_effect,
                    "an effect that this release knows",
                ));
            }
        };
        let mode = mode(wire.mode)?;
        if wire.claims.len() > MAX_CLAIMS {
            return Err(Invalid::new("claims", wire.claims.len(), "at most 64 names"));
        }
        let rules = rules(wire.rules, &wire.claims)?;
        let anonymous = crate::authn::patterns("anonymous", &wire.anonymous)?;
        let cedar = wire.cedar.map(Cedar::try_from).transpose().map_err(|why| why.within("cedar"))?;
        if cedar.is_some() && default == Effect::Allow {
            return Err(Invalid::new("default_effect", "allow", "deny, where Cedar decides too"));
        }
        Ok(Self { id, default, rules, mode, anonymous, cedar })
    }
}

fn mode(wire: i32) -> Result<Mode, Invalid> {
    match pb::authz::Mode::try_from(wire) {
        Ok(pb::authz::Mode::Unspecified | pb::authz::Mode::Enforce) => Ok(Mode::Enforce),
        Ok(pb::authz::Mode::Shadow) => Ok(Mode::Shadow),
        Err(_) => Err(Invalid::new("mode", wire, "a mode that this release knows")),
    }
}

/// Reads rules, which may name these claims beside [`OWN_CLAIMS`].
///
/// # Errors
/// One of them is none, or two have one id.
pub fn rules(wire: Vec<pb::authz::Rule>, claims: &[String]) -> Result<Vec<Rule>, Invalid> {
    if wire.len() > MAX_RULES {
        return Err(Invalid::new("rules", wire.len(), "at most 10000 rules"));
    }
    let (mut rules, mut ids, mut values) = (Vec::with_capacity(wire.len()), HashSet::new(), 0);
    for (at, rule) in wire.into_iter().enumerate() {
        let field = format!("rules[{at}]");
        if !ids.insert(rule.id.clone()) {
            return Err(Invalid::new(format!("{field}.id"), rule.id, "a name that no other rule has"));
        }
        let rule = Rule::read(rule, claims).map_err(|why| why.within(&field))?;
        values += rule.values();
        if values > MAX_VALUES {
            return Err(Invalid::new(field, values, "at most 200000 values in all lists of all rules"));
        }
        rules.push(rule);
    }
    Ok(rules)
}

#[cfg(test)]
mod tests;
