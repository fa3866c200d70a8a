//! The policy of a service, and how it decides.

use std::borrow::Cow;

use api::{
    authz::{Effect, Mode, Policy},
    path::{AmbiguousPath, PathPattern, RequestPath},
};

use crate::{cedar::Said, matcher::Matcher, request::Request};

/// A policy, ready to decide.
#[derive(Debug)]
pub struct Rules {
    /// Without its rules, which are in the matcher.
    policy: Policy,
    matcher: Matcher,
}

/// The answer, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided<'a> {
    /// What the policy says.
    pub effect: Effect,
    /// Which rule said so: a rule's id, `anonymous`, `unauthenticated`, `default`, `path`; of Cedar
    /// `cedar:<policy>` or `cedar-error:<policy>`.
    pub rule: Cow<'a, str>,
    /// The same, as far as a second engine has to know.
    pub said: Said,
    /// Whether a deny is carried out.
    pub mode: Mode,
    /// Scopes that would have made the difference (RFC 6750 section 3.1, `insufficient_scope`).
    pub missing_scopes: Vec<&'a str>,
    /// What went wrong in Cedar, for operators; then it is a deny.
    pub error: Option<String>,
    /// Set when the path itself was refused: never let pass, not even in shadow mode.
    pub ambiguous_path: Option<AmbiguousPath>,
}

impl Rules {
    /// Takes a checked policy.
    pub fn new(mut policy: Policy) -> Self {
        let matcher = Matcher::new(std::mem::take(&mut policy.rules));
        Self { policy, matcher }
    }

    /// Its rules.
    pub fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    /// Decides one request: a deny wins, then the list of anonymous paths, then any rule that allows, then the default.
    pub fn decide<'a>(&'a self, request: &Request<'_>) -> Decided<'a> {
        let Policy { default, mode, anonymous, .. } = &self.policy;
        let decided = |effect, rule: &'a str, said| Decided {
            effect,
            rule: rule.into(),
            said,
            mode: *mode,
            missing_scopes: Vec::new(),
            error: None,
            ambiguous_path: None,
        };
        let path = match RequestPath::parse(request.path) {
            Ok(path) => path,
            Err(why) => {
                return Decided { ambiguous_path: Some(why), ..decided(Effect::Deny, "path", Said::Denied) };
            }
        };
        let asked = self.matcher.asked(request, path);
        let found = self.matcher.found(&asked);
        if let Some(deny) = found.deny {
            return decided(Effect::Deny, &self.matcher.rule(deny).id, Said::Denied);
        }
        // Both lists say so: this one is of the whole service.
        if request.open && anonymous.iter().any(|pattern: &PathPattern| pattern.matches(&path)) {
            return decided(Effect::Allow, "anonymous", Said::Open);
        }
        // No rule grants anything to nobody, nor does the default: only the list of anonymous paths does.
        if request.identity.is_none() {
            return decided(Effect::Deny, "unauthenticated", Said::Denied);
        }
        if let Some(allow) = found.allow {
            return decided(Effect::Allow, &self.matcher.rule(allow).id, Said::Allowed);
        }
        match default {
            Effect::Allow => decided(Effect::Allow, "default", Said::Nothing),
            Effect::Deny => {
                let lacking = self.matcher.lacking_scopes(&asked);
                let missing_scopes = lacking.map(|rule| Matcher::lacks(rule, &asked)).unwrap_or_default();
                Decided { missing_scopes, ..decided(Effect::Deny, "default", Said::Nothing) }
            }
        }
    }
}

#[cfg(test)]
mod tests;
