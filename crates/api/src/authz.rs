//! The typed form of `gatehouse.authz.v1.Policy`, checked in the control plane and again in the sidecar.
//! How it decides stands in the crate `policy`.

use crate::{Invalid, authn::PolicyId, cedar::Cedar, path::PathPattern, pb};

/// Which requests of one service pass.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What routes call it.
    pub id: PolicyId,
    /// What happens when no rule matches.
    pub default: Effect,
    /// The first that matches allows.
    pub allow: Vec<Rule>,
    /// Whether a deny is carried out.
    pub mode: Mode,
    /// Paths that pass without an identity.
    pub anonymous: Vec<PathPattern>,
    /// Decides beside the rules, where the service has it.
    pub cedar: Option<Cedar>,
}

/// What a policy says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// All fields must match.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Stable within the policy; shown in logs and metadata.
    pub id: String,
    /// One must match; empty matches all. Upper case.
    pub methods: Vec<String>,
    /// One must match; empty matches all.
    pub paths: Vec<PathPattern>,
    /// All must be held.
    pub scopes: Vec<String>,
}

/// As many as the schema of the service file allows. They are looked at one after another, for each request.
const MAX_RULES: usize = 1_000;

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
        let mode = match pb::authz::Mode::try_from(wire.mode) {
            Ok(pb::authz::Mode::Unspecified | pb::authz::Mode::Enforce) => Mode::Enforce,
            Ok(pb::authz::Mode::Shadow) => Mode::Shadow,
            Err(_) => return Err(Invalid::new("mode", wire.mode, "a mode that this release knows")),
        };
        if wire.allow.len() > MAX_RULES {
            return Err(Invalid::new("allow", wire.allow.len(), "at most 1000 rules"));
        }
        let allow = (wire.allow.into_iter().enumerate())
            .map(|(at, rule)| Rule::try_from(rule).map_err(|why| why.within(&format!("allow[{at}]"))))
            .collect::<Result<_, _>>()?;
        let anonymous = crate::authn::patterns("anonymous", &wire.anonymous)?;
        let cedar = wire.cedar.map(Cedar::try_from).transpose().map_err(|why| why.within("cedar"))?;
        if cedar.is_some() && default == Effect::Allow {
            return Err(Invalid::new("default_effect", "allow", "deny, where Cedar decides too"));
        }
        Ok(Self { id, default, allow, mode, anonymous, cedar })
    }
}

impl TryFrom<pb::authz::Rule> for Rule {
    type Error = Invalid;

    fn try_from(wire: pb::authz::Rule) -> Result<Self, Invalid> {
        if wire.id.is_empty() {
            return Err(Invalid::missing("id", "a name within the policy"));
        }
        for (at, method) in wire.methods.iter().enumerate() {
            if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
                return Err(Invalid::new(format!("methods[{at}]"), method, "an HTTP method in upper case"));
            }
        }
        if let Some(at) = wire.scopes.iter().position(|scope| scope.is_empty() || scope.contains(' ')) {
            return Err(Invalid::new(format!("scopes[{at}]"), &wire.scopes[at], "one scope, without spaces"));
        }
        let paths = crate::authn::patterns("paths", &wire.paths)?;
        Ok(Self { id: wire.id, methods: wire.methods, paths, scopes: wire.scopes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut pb::authz::Policy), expected: &str) {
        let rule = pb::authz::Rule {
            id: "rule-0".into(),
            methods: vec!["GET".into()],
            paths: vec!["/".into()],
            scopes: vec!["read:hello".into()],
        };
        let mut wire = pb::authz::Policy {
            name: "i-1@1".into(),
            policy: "i-1".into(),
            rev: 1,
            default_effect: pb::authz::Effect::Unspecified.into(),
            allow: vec![rule],
            mode: pb::authz::Mode::Unspecified.into(),
            anonymous: vec![],
            cedar: None,
        };
        assert_eq!(Policy::try_from(wire.clone()).unwrap().default, Effect::Deny);
        change(&mut wire);
        assert_eq!(Policy::try_from(wire).unwrap_err().to_string(), expected);
    }

    #[test]
    fn what_this_release_does_not_know_is_refused_and_never_widened() {
        check(|wire| wire.default_effect = 9, "default_effect: an effect that this release knows, got \"9\"");
        check(|wire| wire.mode = 9, "mode: a mode that this release knows, got \"9\"");
        check(|wire| wire.policy.clear(), "policy: the id of the service instance, got nothing");
        check(|wire| wire.allow[0].id.clear(), "allow[0].id: a name within the policy, got nothing");
        check(
            |wire| wire.allow[0].methods = vec!["get".into()],
            "allow[0].methods[0]: an HTTP method in upper case, got \"get\"",
        );
        check(
            |wire| wire.allow[0].scopes = vec!["a b".into()],
            "allow[0].scopes[0]: one scope, without spaces, got \"a b\"",
        );
        check(
            |wire| wire.cedar = Some(pb::authz::Cedar::default()),
            "cedar.policies: at least one policy, got nothing",
        );
        check(
            |wire| {
                wire.default_effect = pb::authz::Effect::Allow.into();
                wire.cedar = Some(pb::authz::Cedar { policies: "…".into(), ..Default::default() });
            },
            "default_effect: deny, where Cedar decides too, got \"allow\"",
        );
    }
}
