//! Rules that can never decide anything, since another one decides all of their requests. Only what is sure is told: two
//! rules that together leave nothing for a third are not found.

use api::{
    authz::{ClaimRule, Effect, HostPattern, Rule},
    network::Network,
    path::PathTemplate,
};

/// A rule that another one leaves nothing to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    /// Its number.
    pub rule: usize,
    /// The number of the other one.
    pub by: usize,
}

/// All such rules, each once, with the first one that covers it. Of two that say the same, the later one.
pub fn covered(rules: &[Rule]) -> Vec<Covered> {
    let mut all = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        let by = rules.iter().enumerate().position(|(other_number, other)| {
            // A deny is decided by a deny only; an allow by either.
            let decides = other.effect == Effect::Deny || other.effect == rule.effect;
            let is_other = other_number != number && decides && covers(other, rule);
            is_other && (other_number < number || other.effect != rule.effect || !covers(rule, other))
        });
        all.extend(by.map(|by| Covered { rule: number, by }));
    }
    all
}

/// Whether every request that matches a rule matches the wide one.
fn covers(wide: &Rule, rule: &Rule) -> bool {
    let has = |claim: &ClaimRule| {
        rule.claims
            .iter()
            .any(|own| own.name == claim.name && one_of(&claim.values, &own.values, PartialEq::eq))
    };
    one_of(&wide.methods, &rule.methods, PartialEq::eq)
        && one_of(&wide.auth, &rule.auth, PartialEq::eq)
        && one_of(&wide.groups, &rule.groups, PartialEq::eq)
        && wide.scopes.iter().all(|scope| rule.scopes.contains(scope))
        && wide.claims.iter().all(has)
        && (wide.time.is_none() || wide.time == rule.time)
        && one_of(&wide.hosts, &rule.hosts, HostPattern::covers)
        && one_of(&wide.networks, &rule.networks, Network::covers)
        && covers_paths(wide, rule)
}

/// A capture that is compared has to stand in the same paths.
fn covers_paths(wide: &Rule, rule: &Rule) -> bool {
    if wide.comparisons.is_empty() {
        let is_everything = wide.paths.iter().any(|path| path.segments.is_empty() && !path.is_exact);
        return is_everything || one_of(&wide.paths, &rule.paths, PathTemplate::covers);
    }
    rule.paths.iter().all(|path| wide.paths.contains(path))
        && wide.comparisons.iter().all(|comparison| rule.comparisons.contains(comparison))
}

/// Whether each of what a rule takes is among what the wide one takes. An empty list is everything.
fn one_of<T>(wide: &[T], own: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    wide.is_empty() || (!own.is_empty() && own.iter().all(|own| wide.iter().any(|wide| covers(wide, own))))
}

#[cfg(test)]
mod tests {
    use api::pb::authz;

    use super::*;

    fn texts(texts: &str) -> Vec<String> {
        texts.split_whitespace().map(str::to_owned).collect()
    }

    fn rule(effect: authz::Effect, change: impl FnOnce(&mut authz::Rule)) -> Rule {
        let mut wire = authz::Rule { id: "r".into(), effect: effect.into(), ..Default::default() };
        change(&mut wire);
        Rule::read(wire, &["department".to_owned()]).unwrap()
    }

    fn allow(change: impl FnOnce(&mut authz::Rule)) -> Rule {
        rule(authz::Effect::Allow, change)
    }

    fn deny(change: impl FnOnce(&mut authz::Rule)) -> Rule {
        rule(authz::Effect::Deny, change)
    }

    #[track_caller]
    fn check(rules: &[Rule], expected: &[(usize, usize)]) {
        let found: Vec<_> = covered(rules).iter().map(|found| (found.rule, found.by)).collect();
        assert_eq!(found, expected);
    }

    fn comparison() -> authz::Comparison {
        let with = Some(authz::comparison::With::Claim("sub".into()));
        authz::Comparison { capture: "id".into(), with }
    }

    #[test]
    fn of_two_that_say_the_same_the_later_one_decides_nothing() {
        let get = || allow(|rule| rule.methods = texts("GET"));
        check(&[get(), get()], &[(1, 0)]);
        check(&[get(), get(), get()], &[(1, 0), (2, 0)]);
        let order = |methods: &str| allow(|rule| rule.methods = texts(methods));
        check(&[order("GET PUT"), order("PUT GET")], &[(1, 0)]);
    }

    #[test]
    fn a_deny_leaves_nothing_to_a_narrower_allow() {
        let all = || deny(|_| ());
        check(&[allow(|rule| rule.groups = texts("dev")), all()], &[(0, 1)]);
        check(
            &[deny(|rule| rule.paths = texts("/admin")), allow(|rule| rule.paths = texts("/admin/{x}"))],
            &[(1, 0)],
        );
        check(&[deny(|rule| rule.paths = texts("/admin")), allow(|_| ())], &[]);
        check(&[allow(|_| ()), deny(|rule| rule.groups = texts("suspended"))], &[]);
    }

    #[test]
    fn a_broader_rule_of_the_same_kind_leaves_nothing_wherever_it_stands() {
        let narrow = || allow(|rule| (rule.paths, rule.scopes) = (texts("/a/b"), texts("x y")));
        let broad = || allow(|rule| (rule.paths, rule.scopes) = (texts("/a"), texts("x")));
        check(&[narrow(), broad()], &[(0, 1)]);
        check(&[broad(), narrow()], &[(1, 0)]);
        check(&[narrow(), allow(|rule| rule.paths = texts("/"))], &[(0, 1)]);
        check(&[allow(|rule| rule.paths = texts("/")), allow(|_| ())], &[(1, 0)]);
        check(&[deny(|rule| rule.groups = texts("a b")), deny(|rule| rule.groups = texts("a"))], &[(1, 0)]);
    }

    #[test]
    fn rules_that_differ_in_any_field_both_decide() {
        type Change = fn(&mut authz::Rule);
        let differences: [(Change, Change); 9] = [
            (|a| a.methods = texts("GET HEAD"), |b| b.methods = texts("GET PUT")),
            (|a| a.hosts = texts("a.test"), |b| b.hosts = texts("*.a.test")),
            (|a| a.scopes = texts("x"), |b| b.scopes = texts("y")),
            (|a| a.groups = texts("x"), |b| b.scopes = texts("x")),
            (|a| a.auth = texts("jwt"), |b| b.auth = texts("mtls")),
            (
                |a| a.networks = texts("10.0.0.0/8"),
                |b| b.networks = texts("10.0.0.0/8 fd00::/8").split_off(1),
            ),
            (
                |a| a.claims = vec![authz::Claim { name: "tenant".into(), values: texts("x") }],
                |b| b.claims = vec![authz::Claim { name: "department".into(), values: texts("x") }],
            ),
            (
                |a| a.time = Some(authz::Time { after: "2026-01-01T00:00:00Z".into(), ..Default::default() }),
                |b| {
                    b.time =
                        Some(authz::Time { before: "2026-01-01T00:00:00Z".into(), ..Default::default() });
                },
            ),
            (|a| (a.paths, a.r#where) = (texts("/{id}"), vec![comparison()]), |b| b.paths = texts("/a")),
        ];
        for (one, other) in differences {
            check(&[allow(one), allow(other)], &[]);
        }
    }

    #[test]
    fn a_comparison_narrows_a_rule() {
        let own = || allow(|rule| (rule.paths, rule.r#where) = (texts("/{id}"), vec![comparison()]));
        check(&[own(), allow(|rule| rule.paths = texts("/{id}"))], &[(0, 1)]);
        check(&[own(), own()], &[(1, 0)]);
        check(
            &[own(), allow(|rule| (rule.paths, rule.r#where) = (texts("/{id}/x"), vec![comparison()]))],
            &[],
        );
    }
}
