//! The typed form of `gatehouse.authz.v1.Guardrail`.

use super::{Effect, Mode, Rule, mode};
use crate::{Invalid, pb};

/// A deny of the platform team's, for the requests of all services.
#[derive(Debug, Clone)]
pub struct Guardrail {
    /// What is denied; its id is the guardrail's name.
    pub deny: Rule,
    /// What is not denied all the same.
    pub unless: Option<Rule>,
    /// Whether it is carried out.
    pub mode: Mode,
}

impl Guardrail {
    /// What operators call it.
    pub fn name(&self) -> &str {
        &self.deny.id
    }
}

impl TryFrom<pb::authz::Guardrail> for Guardrail {
    type Error = Invalid;

    fn try_from(wire: pb::authz::Guardrail) -> Result<Self, Invalid> {
        let pb::authz::Guardrail { name, deny, unless, mode: wire_mode } = wire;
        if name.is_empty() {
            return Err(Invalid::missing("name", "a name that no other guardrail has"));
        }
        let mode = mode(wire_mode)?;
        let deny = deny.ok_or_else(|| Invalid::missing("deny", "what is denied"))?;
        let deny = part("deny", deny, &name, Effect::Deny)?;
        let unless = unless.map(|rule| part("unless", rule, &name, Effect::Allow)).transpose()?;
        if unless.as_ref().is_some_and(|rule| rule.values() == 0 && rule.time.is_none()) {
            return Err(Invalid::missing("unless", "a field: without one it takes back all that is denied"));
        }
        Ok(Self { deny, unless, mode })
    }
}

/// Claims that a service declares are not there on the others, and a deny that asks for one would let them pass.
fn part(field: &str, rule: pb::authz::Rule, name: &str, effect: Effect) -> Result<Rule, Invalid> {
    let rule = Rule::read(rule, &[]).map_err(|why| why.within(field))?;
    if rule.id != name {
        return Err(Invalid::new(format!("{field}.id"), rule.id, "the guardrail's name"));
    }
    let name_of = |effect| if effect == Effect::Deny { "EFFECT_DENY" } else { "EFFECT_ALLOW" };
    if rule.effect != effect {
        return Err(Invalid::new(format!("{field}.effect"), name_of(rule.effect), name_of(effect)));
    }
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(effect: pb::authz::Effect) -> pb::authz::Rule {
        pb::authz::Rule {
            id: "internal".into(),
            effect: effect.into(),
            paths: vec!["/internal".into()],
            ..Default::default()
        }
    }

    fn good() -> pb::authz::Guardrail {
        let mut unless = rule(pb::authz::Effect::Allow);
        unless.networks = vec!["10.0.0.0/8".into()];
        pb::authz::Guardrail {
            name: "internal".into(),
            deny: Some(rule(pb::authz::Effect::Deny)),
            unless: Some(unless),
            mode: 0,
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut pb::authz::Guardrail), expected: &str) {
        let mut wire = good();
        change(&mut wire);
        assert_eq!(Guardrail::try_from(wire).unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_guardrail_is_a_deny_with_exceptions() {
        let read = Guardrail::try_from(good()).unwrap();
        assert_eq!((read.name(), read.mode), ("internal", Mode::Enforce));
        assert!(read.unless.is_some());
    }

    #[test]
    fn what_would_deny_less_than_it_says_is_refused() {
        check(|wire| wire.name.clear(), "name: a name that no other guardrail has, got nothing");
        check(|wire| wire.deny = None, "deny: what is denied, got nothing");
        check(|wire| wire.mode = 9, "mode: a mode that this release knows, got \"9\"");
        check(
            |wire| wire.deny = Some(rule(pb::authz::Effect::Allow)),
            "deny.effect: EFFECT_DENY, got \"EFFECT_ALLOW\"",
        );
        check(
            |wire| wire.deny.as_mut().unwrap().id = "other".into(),
            "deny.id: the guardrail's name, got \"other\"",
        );
        check(
            |wire| {
                let bare = pb::authz::Rule { paths: vec![], ..rule(pb::authz::Effect::Allow) };
                wire.unless = Some(bare);
            },
            "unless: a field: without one it takes back all that is denied, got nothing",
        );
        check(
            |wire| {
                let claim = pb::authz::Claim { name: "department".into(), values: vec!["x".into()] };
                wire.deny.as_mut().unwrap().claims = vec![claim];
            },
            "deny.claims[0].name: sub, iss, tenant, or a claim that the service's auth carries (`claims: [name]` at its \
             method), got \"department\"",
        );
    }
}
