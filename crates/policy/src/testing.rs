//! What the engine must agree with: the sentences of the documentation, one after another, for each rule. Slow, obvious,
//! and read from the wire form, so that it shares as little as can be with what it judges.

// Whoever is told that something does not hold has to stop.
#![allow(clippy::expect_used, clippy::missing_panics_doc)]

mod made;

use std::net::IpAddr;

use api::{
    authz::{Moment, Policy, TimeRule},
    network::Network,
    path::RequestPath,
    pb::authz as wire,
};

pub use made::{Asked, corpus, policy_and_request};

use crate::{Identity, Request, Rules};

/// Effect (whether it allows), rule, missing scopes.
pub type Answer = (bool, String, Vec<String>);

/// What a policy says of a request.
pub fn reference(policy: &wire::Policy, request: &Request<'_>) -> Answer {
    let answer = |allows: bool, rule: &str| (allows, rule.to_owned(), Vec::new());
    let Ok(path) = RequestPath::parse(request.path) else { return answer(false, "path") };
    let path = path.as_str();
    for rule in of(policy, wire::Effect::Deny) {
        if matches(rule, request, path) {
            return answer(false, &rule.id);
        }
    }
    if request.open && policy.anonymous.iter().any(|pattern| is_under(pattern, path)) {
        return answer(true, "anonymous");
    }
    let Some(identity) = &request.identity else { return answer(false, "unauthenticated") };
    for rule in of(policy, wire::Effect::Allow) {
        if matches(rule, request, path) {
            return answer(true, &rule.id);
        }
    }
    if policy.default_effect == i32::from(wire::Effect::Allow) {
        return answer(true, "default");
    }
    for rule in of(policy, wire::Effect::Allow) {
        let without = wire::Rule { scopes: Vec::new(), ..rule.clone() };
        let missing = rule.scopes.iter().filter(|scope| !identity.scopes.contains(&scope.as_str()));
        let missing: Vec<_> = missing.cloned().collect();
        if !missing.is_empty() && matches(&without, request, path) {
            return (false, "default".into(), missing);
        }
    }
    answer(false, "default")
}

fn of(policy: &wire::Policy, effect: wire::Effect) -> impl Iterator<Item = &wire::Rule> {
    policy.rules.iter().filter(move |rule| rule.effect == i32::from(effect))
}

/// Anonymous paths are compared as they are written.
fn is_under(pattern: &str, path: &str) -> bool {
    if let Some(exact) = pattern.strip_prefix('=') {
        return path == exact;
    }
    let prefix = pattern.trim_end_matches('/');
    path == prefix || path.starts_with(&format!("{prefix}/"))
}

/// All fields must match; within a field, one of the list; all scopes, all claims, all comparisons.
fn matches(rule: &wire::Rule, request: &Request<'_>, path: &str) -> bool {
    let nobody = Identity::default();
    let (identity, is_somebody) =
        request.identity.as_ref().map_or((&nobody, false), |identity| (identity, true));
    let has_claim = |claim: &wire::Claim| {
        claims(identity, &claim.name).iter().any(|value| claim.values.iter().any(|wanted| wanted == value))
    };
    let none_or = |list: &[String], is_one: &dyn Fn(&str) -> bool| {
        list.is_empty() || list.iter().any(|item| is_one(item))
    };
    let place = |path_pattern: &str| path_fits(rule, path_pattern, path, identity, is_somebody);
    none_or(&rule.methods, &|method| method == request.method)
        && none_or(&rule.hosts, &|host| host_fits(host, request.host))
        && none_or(&rule.groups, &|group| identity.groups.contains(&group))
        && none_or(&rule.auth, &|method| is_somebody && method == identity.method)
        && none_or(&rule.networks, &|network| is_in(network, request.address))
        && rule.scopes.iter().all(|scope| identity.scopes.contains(&scope.as_str()))
        && rule.claims.iter().all(has_claim)
        && rule.time.as_ref().is_none_or(|time| is_within(time, request.time))
        && none_or(&rule.paths, &place)
}

fn claims<'a>(identity: &'a Identity<'_>, name: &str) -> Vec<&'a str> {
    let own = match name {
        "sub" => identity.subject,
        "iss" => identity.issuer,
        "tenant" => identity.tenant,
        _ => {
            let carried = identity.claims.iter().find(|(carried, _)| *carried == name);
            return carried.map(|(_, values)| values.clone()).unwrap_or_default();
        }
    };
    if own.is_empty() { Vec::new() } else { vec![own] }
}

fn host_fits(pattern: &str, host: &str) -> bool {
    let mut host = host.to_lowercase();
    if let Some((name, port)) = host.clone().rsplit_once(':')
        && port.chars().all(|char| char.is_ascii_digit())
    {
        name.clone_into(&mut host);
    }
    let host = host.strip_suffix('.').unwrap_or(&host);
    match pattern.strip_prefix('*') {
        Some(below) => host.len() > below.len() && host.ends_with(below),
        None => host == pattern,
    }
}

fn is_in(network: &str, address: Option<IpAddr>) -> bool {
    address.is_some_and(|address| network.parse::<Network>().expect("a network").holds(address))
}

fn is_within(time: &wire::Time, moment: Moment) -> bool {
    TimeRule::try_from(time.clone()).expect("a time").holds(moment)
}

/// Whole segments, each the same once both are decoded; a capture is any that is not empty. Then the comparisons of what
/// was captured.
fn path_fits(
    rule: &wire::Rule,
    pattern: &str,
    path: &str,
    identity: &Identity<'_>,
    is_somebody: bool,
) -> bool {
    let is_exact = pattern.starts_with('=');
    let pattern = pattern.trim_start_matches('=');
    let pattern = if is_exact { pattern } else { pattern.trim_end_matches('/') };
    let wanted: Vec<_> = pattern.split('/').skip(1).collect();
    let found: Vec<_> = path.split('/').skip(1).map(plain).collect();
    if found.len() < wanted.len() || (is_exact && found.len() != wanted.len()) {
        return false;
    }
    let mut captured = Vec::new();
    for (wanted, found) in wanted.iter().zip(&found) {
        if let Some(name) = wanted.strip_prefix('{') {
            captured.push((name.trim_end_matches('}'), found.as_str()));
            if found.is_empty() {
                return false;
            }
        } else if plain(wanted) != *found {
            return false;
        }
    }
    rule.r#where.iter().all(|comparison| {
        let value = captured.iter().find(|(name, _)| *name == comparison.capture).map(|(_, value)| *value);
        let value = value.expect("each path has it");
        is_somebody
            && match comparison.with.as_ref().expect("a comparison") {
                wire::comparison::With::Claim(name) => claims(identity, name).contains(&value),
                wire::comparison::With::Held(1) => identity.groups.contains(&value),
                wire::comparison::With::Held(_) => identity.scopes.contains(&value),
            }
    })
}

/// Decoded once.
fn plain(segment: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), segment.as_bytes());
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        if *first == b'%' {
            let code = std::str::from_utf8(&rest[..2]).expect("two digits");
            bytes.push(u8::from_str_radix(code, 16).expect("two digits"));
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

/// Whether both say the same of a policy and a request that are made of these bytes; and the explanation too.
pub fn agree(bytes: &[u8]) {
    let (policy, asked) = policy_and_request(bytes);
    let Ok(checked) = Policy::try_from(policy.clone()) else { return };
    let idle = crate::covered(&checked.rules);
    let rules = Rules::new(checked);
    asked.with(|request| {
        let expected = reference(&policy, &request);
        let explained = rules.explain(&request);
        let decided = &explained.decided;
        let allows = decided.effect == api::authz::Effect::Allow;
        let missing: Vec<_> = decided.missing_scopes.iter().map(ToString::to_string).collect();
        let own = (allows, decided.rule.to_string(), missing);
        assert_eq!(own, expected, "{policy:#?}\n{request:#?}");
        for covered in &idle {
            let mut without = policy.clone();
            let rule = without.rules.remove(covered.rule);
            let still = reference(&without, &request).0;
            assert_eq!(
                still, allows,
                "{rule:#?} decides something: {covered:?} of {policy:#?}\n{request:#?}"
            );
        }
        let deciding = explained.rules.iter().filter(|(_, outcome)| *outcome == crate::Outcome::Decides);
        let deciding: Vec<_> = deciding.map(|(rule, _)| rule.id.as_str()).collect();
        let is_rule = policy.rules.iter().any(|rule| rule.id == own.1);
        assert_eq!(deciding, if is_rule { vec![own.1.as_str()] } else { Vec::new() });
        let says_why =
            |outcome: &crate::Outcome| !matches!(outcome, crate::Outcome::Unmet(unmet) if unmet.is_empty());
        assert!(
            explained.rules.iter().all(|(_, outcome)| says_why(outcome)),
            "a rule that does not match has a reason"
        );
    });
}
