//! What the platform team denies on all services, whatever their own policies say.

use api::{
    authz::{Effect, Guardrail, Mode, Rule},
    path::RequestPath,
};

use crate::{matcher::Matcher, request::Request};

/// All guardrails, ready to be asked before any policy is.
#[derive(Debug, Default)]
pub struct Guardrails {
    enforced: Denies,
    shadow: Denies,
}

/// What guardrails say of a request: nothing, where it is for the service's policy alone to decide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Guarded<'a> {
    /// It is denied, by the first guardrail of this name.
    pub denied: Option<&'a str>,
    /// It would be, by the first one that is only recorded.
    pub shadow: Option<&'a str>,
}

/// Guardrails of one mode, in the order of their names.
#[derive(Debug)]
struct Denies {
    matcher: Matcher,
    /// What each does not deny all the same.
    unless: Vec<Option<Matcher>>,
}

impl Default for Denies {
    fn default() -> Self {
        Self { matcher: Matcher::new(Vec::new()), unless: Vec::new() }
    }
}

impl Guardrails {
    /// Takes checked guardrails, in any order.
    pub fn new(mut all: Vec<Guardrail>) -> Self {
        all.sort_by(|one, other| one.name().cmp(other.name()));
        let (enforced, shadow) = all.into_iter().partition(|one: &Guardrail| one.mode == Mode::Enforce);
        Self { enforced: Denies::new(enforced), shadow: Denies::new(shadow) }
    }

    /// Whether any of them asks where the client is: a request whose address is not known cannot be decided then.
    pub fn needs_address(&self) -> bool {
        self.all().any(Matcher::needs_address)
    }

    /// Whether any of them asks when a request came.
    pub fn needs_time(&self) -> bool {
        self.all().any(Matcher::needs_time)
    }

    /// What they say of a request. Of an ambiguous path nothing: every policy refuses it.
    pub fn decide(&self, request: &Request<'_>) -> Guarded<'_> {
        let Ok(path) = RequestPath::parse(request.path) else { return Guarded::default() };
        let denied = self.enforced.first(request, path);
        Guarded { denied, shadow: self.shadow.first(request, path) }
    }

    fn all(&self) -> impl Iterator<Item = &Matcher> {
        [&self.enforced, &self.shadow].into_iter().flat_map(Denies::matchers)
    }
}

impl Denies {
    fn new(all: Vec<Guardrail>) -> Self {
        let (denies, unless): (_, Vec<_>) = all.into_iter().map(|one| (one.deny, one.unless)).unzip();
        // As a deny it is sought for nobody too: where a client is needs no name.
        let exception = |rule: Rule| Matcher::new(vec![Rule { effect: Effect::Deny, ..rule }]);
        Self {
            matcher: Matcher::new(denies),
            unless: unless.into_iter().map(|rule| rule.map(exception)).collect(),
        }
    }

    fn first(&self, request: &Request<'_>, path: RequestPath<'_>) -> Option<&str> {
        let asked = self.matcher.asked(request, path);
        let stands = |number: usize| {
            let exception = self.unless.get(number).and_then(Option::as_ref);
            exception.is_none_or(|unless| unless.find(request, path).deny.is_none())
        };
        let number = self.matcher.found_where(&asked, stands).deny?;
        Some(&self.matcher.rule(number).id)
    }

    fn matchers(&self) -> impl Iterator<Item = &Matcher> {
        [&self.matcher].into_iter().chain(self.unless.iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use api::{authz::Moment, pb::authz as wire};

    use super::*;
    use crate::Identity;

    fn rule(id: &str, effect: wire::Effect, change: impl FnOnce(&mut wire::Rule)) -> wire::Rule {
        let mut rule = wire::Rule { id: id.into(), effect: effect.into(), ..Default::default() };
        change(&mut rule);
        rule
    }

    fn guardrail(
        name: &str,
        deny: impl FnOnce(&mut wire::Rule),
        unless: Option<fn(&mut wire::Rule)>,
        mode: wire::Mode,
    ) -> Guardrail {
        let wire = wire::Guardrail {
            name: name.into(),
            deny: Some(rule(name, wire::Effect::Deny, deny)),
            unless: unless.map(|change| rule(name, wire::Effect::Allow, change)),
            mode: mode.into(),
        };
        wire.try_into().unwrap()
    }

    fn guardrails() -> Guardrails {
        Guardrails::new(vec![
            guardrail("trace", |rule| rule.methods = vec!["TRACE".into()], None, wire::Mode::Enforce),
            guardrail(
                "internal",
                |rule| rule.paths = vec!["/internal".into()],
                Some(|rule| rule.networks = vec!["10.0.0.0/8".into()]),
                wire::Mode::Enforce,
            ),
            guardrail(
                "contractors",
                |rule| rule.groups = vec!["contractors".into()],
                Some(|rule| rule.hosts = vec!["wiki.example.test".into()]),
                wire::Mode::Shadow,
            ),
        ])
    }

    fn request<'a>(method: &'a str, path: &'a str, address: [u8; 4]) -> Request<'a> {
        Request {
            method,
            host: "hello.example.test",
            path,
            address: Some(address.into()),
            time: Moment(0),
            open: true,
            identity: None,
        }
    }

    #[test]
    fn what_a_guardrail_denies_is_denied_to_everybody_but_its_exceptions() {
        let guardrails = guardrails();
        let check = |method, path, address, denied| {
            assert_eq!(guardrails.decide(&request(method, path, address)).denied, denied, "{method} {path}");
        };
        check("GET", "/", [192, 0, 2, 1], None);
        check("TRACE", "/internal", [10, 0, 0, 1], Some("trace"));
        check("GET", "/internal/x", [192, 0, 2, 1], Some("internal"));
        check("GET", "/%69nternal/x", [192, 0, 2, 1], Some("internal"));
        check("GET", "/internal/x", [10, 0, 0, 1], None);
        check("TRACE", "/internal", [192, 0, 2, 1], Some("internal"));
        check("GET", "/x;y/internal", [192, 0, 2, 1], None);
        assert!(guardrails.needs_address() && !guardrails.needs_time());
        assert!(!Guardrails::default().needs_address());
    }

    #[test]
    fn one_in_shadow_is_told_and_denies_nothing() {
        let guardrails = guardrails();
        let contractor = Identity { subject: "eve", groups: &["contractors"], ..Identity::default() };
        let asked = Request { identity: Some(contractor), ..request("GET", "/", [10, 0, 0, 1]) };
        assert_eq!(guardrails.decide(&asked), Guarded { denied: None, shadow: Some("contractors") });
        let wiki = Request { host: "wiki.example.test", ..asked };
        assert_eq!(guardrails.decide(&wiki), Guarded::default());
    }
}
