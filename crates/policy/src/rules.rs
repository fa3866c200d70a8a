//! The rules of a service, and how they decide.

use std::collections::HashSet;

use api::{
    authz::{Effect, Mode, Policy, Rule},
    path::{AmbiguousPath, PathPattern, RequestPath},
};

use crate::cedar::Said;

/// A policy, ready to decide.
#[derive(Debug)]
pub struct Rules {
    policy: Policy,
}

/// What is known of a request. The identity is what authentication put into the metadata, never a header.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// As on the wire.
    pub method: &'a str,
    /// With its query.
    pub path: &'a str,
    /// Whether the path needs no credential, by what authentication knows of this very route.
    pub open: bool,
    /// Whether somebody proved who they are; an anonymous request has no scopes either.
    pub authenticated: bool,
    /// What the identity may do.
    pub scopes: &'a HashSet<&'a str>,
}

/// The answer, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided<'a> {
    /// What the policy says.
    pub effect: Effect,
    /// Which rule said so: a rule's id, `anonymous`, `default`, or `path`.
    pub rule: &'a str,
    /// The same, as far as a second engine has to know.
    pub said: Said,
    /// Whether a deny is carried out.
    pub mode: Mode,
    /// Scopes that would have made the difference (RFC 6750 section 3.1, `insufficient_scope`).
    pub missing_scopes: Vec<&'a str>,
    /// Set when the path itself was refused: never let pass, not even in shadow mode.
    pub ambiguous_path: Option<AmbiguousPath>,
}

impl Rules {
    /// Takes a checked policy.
    pub fn new(policy: Policy) -> Self {
        Self { policy }
    }

    /// The policy behind it.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Decides one request.
    pub fn decide(&self, request: Request<'_>) -> Decided<'_> {
        let mode = self.policy.mode;
        let decided = |effect, rule, said| Decided {
            effect,
            rule,
            said,
            mode,
            missing_scopes: Vec::new(),
            ambiguous_path: None,
        };
        let path = match RequestPath::parse(request.path) {
            Ok(path) => path,
            Err(why) => {
                return Decided { ambiguous_path: Some(why), ..decided(Effect::Deny, "path", Said::Denied) };
            }
        };
        // Both lists say so: this one is of the whole service.
        if request.open && any_matches(&self.policy.anonymous, &path) {
            return decided(Effect::Allow, "anonymous", Said::Open);
        }
        // No rule grants anything to nobody: only the list of anonymous paths does.
        if !request.authenticated {
            return decided(Effect::Deny, "unauthenticated", Said::Denied);
        }
        let mut missing_scopes = Vec::new();
        for rule in self.policy.allow.iter().filter(|rule| matches_target(rule, request.method, &path)) {
            let missing =
                rule.scopes.iter().map(String::as_str).filter(|scope| !request.scopes.contains(scope));
            let missing: Vec<_> = missing.collect();
            if missing.is_empty() {
                return decided(Effect::Allow, &rule.id, Said::Allowed);
            }
            if missing_scopes.is_empty() {
                missing_scopes = missing;
            }
        }
        match self.policy.default {
            Effect::Allow => decided(Effect::Allow, "default", Said::Nothing),
            Effect::Deny => Decided { missing_scopes, ..decided(Effect::Deny, "default", Said::Nothing) },
        }
    }
}

fn matches_target(rule: &Rule, method: &str, path: &RequestPath<'_>) -> bool {
    let method_matches = rule.methods.is_empty() || rule.methods.iter().any(|allowed| allowed == method);
    method_matches && (rule.paths.is_empty() || any_matches(&rule.paths, path))
}

fn any_matches(patterns: &[PathPattern], path: &RequestPath<'_>) -> bool {
    patterns.iter().any(|pattern| pattern.matches(path))
}

#[cfg(test)]
mod tests {
    use api::pb;
    use proptest::prelude::*;

    use super::*;

    fn rules(default: pb::authz::Effect) -> Rules {
        let rule = |id: &str, methods: &[&str], paths: &[&str], scopes: &[&str]| pb::authz::Rule {
            id: id.into(),
            methods: methods.iter().map(ToString::to_string).collect(),
            paths: paths.iter().map(ToString::to_string).collect(),
            scopes: scopes.iter().map(ToString::to_string).collect(),
        };
        let wire = pb::authz::Policy {
            name: "i@1".into(),
            policy: "i".into(),
            rev: 1,
            default_effect: default.into(),
            allow: vec![
                rule("read", &["GET"], &["/docs"], &["read"]),
                rule("write", &["PUT", "POST"], &["/docs"], &["read", "write"]),
                rule("one", &[], &["=/one"], &[]),
            ],
            mode: 0,
            anonymous: vec!["/healthz".into()],
            cedar: None,
        };
        Rules::new(wire.try_into().unwrap())
    }

    #[track_caller]
    fn check(method: &str, path: &str, scopes: Option<&str>, expected: (Effect, &str)) {
        let rules = rules(pb::authz::Effect::Deny);
        let held = scopes.unwrap_or_default().split_whitespace().collect();
        let decided = rules.decide(Request {
            method,
            path,
            open: true,
            authenticated: scopes.is_some(),
            scopes: &held,
        });
        assert_eq!((decided.effect, decided.rule), expected, "{method} {path} {scopes:?}");
    }

    #[test]
    fn a_rule_allows_what_matches_all_its_fields() {
        check("GET", "/docs/1?x=y", Some("read"), (Effect::Allow, "read"));
        check("POST", "/docs", Some("read write"), (Effect::Allow, "write"));
        check("DELETE", "/one", Some(""), (Effect::Allow, "one"));
    }

    #[test]
    fn what_no_rule_allows_is_denied() {
        check("DELETE", "/docs/1", Some("read write"), (Effect::Deny, "default"));
        check("get", "/docs", Some("read"), (Effect::Deny, "default"));
        check("GET", "/docsx", Some("read"), (Effect::Deny, "default"));
        check("POST", "/docs", Some("read"), (Effect::Deny, "default"));
        check("GET", "/one/more", Some(""), (Effect::Deny, "default"));
    }

    #[test]
    fn without_an_identity_only_anonymous_paths_pass() {
        check("GET", "/healthz", None, (Effect::Allow, "anonymous"));
        check("GET", "/one", None, (Effect::Deny, "unauthenticated"));
        let allow_all = rules(pb::authz::Effect::Allow);
        let nobody =
            Request { method: "GET", path: "/x", open: true, authenticated: false, scopes: &HashSet::new() };
        assert_eq!(allow_all.decide(nobody).effect, Effect::Deny);
    }

    #[test]
    fn a_path_that_is_open_on_another_route_is_not_open_here() {
        let rules = rules(pb::authz::Effect::Deny);
        let held = HashSet::from(["read"]);
        for authenticated in [true, false] {
            let asked =
                Request { method: "GET", path: "/healthz", open: false, authenticated, scopes: &held };
            assert_eq!(rules.decide(asked).effect, Effect::Deny, "{authenticated}");
        }
    }

    #[test]
    fn the_missing_scope_is_named() {
        let rules = rules(pb::authz::Effect::Deny);
        let held = HashSet::from(["read"]);
        let post = Request { method: "POST", path: "/docs", open: false, authenticated: true, scopes: &held };
        assert_eq!(rules.decide(post).missing_scopes, ["write"]);
    }

    #[test]
    fn a_path_that_could_mean_two_things_is_denied_by_itself() {
        check("GET", "/docs;x/../admin", Some("read"), (Effect::Deny, "path"));
        check("GET", "/healthz/%2e%2e/docs", None, (Effect::Deny, "path"));
    }

    proptest! {
        /// The engine against its own sentence: a request passes only if some rule's method, path prefix
        /// and scopes all fit.
        #[test]
        fn nothing_passes_that_no_rule_names(method in "[A-Z]{3,4}", path in "(/[a-z%;.]{0,6}){1,4}", scope in "[a-z]{4,5}") {
            let rules = rules(pb::authz::Effect::Deny);
            let held = HashSet::from([scope.as_str()]);
            let decided = rules.decide(Request { method: &method, path: &path, open: true, authenticated: true, scopes: &held });
            if decided.effect == Effect::Allow {
                let docs = path == "/docs" || path.starts_with("/docs/");
                let health = path == "/healthz" || path.starts_with("/healthz/");
                prop_assert!(path == "/one" || health || (docs && method == "GET" && scope == "read"));
            }
        }
    }
}
