//! One rule: what a request and its identity must be.

use super::{Comparison, Effect, HostPattern, TimeRule};
use crate::{Invalid, network::Network, path::PathTemplate, pb};

/// All fields must match; within one, one of the list, except for scopes, claims and comparisons, of which all must. An
/// empty list matches anything.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Stable within the policy; shown in logs and metadata.
    pub id: String,
    /// What happens to a request that it matches.
    pub effect: Effect,
    /// Upper case.
    pub methods: Vec<String>,
    /// What the client called.
    pub hosts: Vec<HostPattern>,
    /// What it wants.
    pub paths: Vec<PathTemplate>,
    /// All must be held.
    pub scopes: Vec<String>,
    /// One must be held.
    pub groups: Vec<String>,
    /// Of each, one value must be the identity's.
    pub claims: Vec<ClaimRule>,
    /// By which method the client has proven itself.
    pub auth: Vec<String>,
    /// Where the client is.
    pub networks: Vec<Network>,
    /// When the rule counts.
    pub time: Option<TimeRule>,
    /// All must hold.
    pub comparisons: Vec<Comparison>,
}

/// A claim, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimRule {
    /// One of [`OWN_CLAIMS`], or one that the policy declares.
    pub name: String,
    /// One of them.
    pub values: Vec<String>,
}

/// Claims that every identity can have.
pub const OWN_CLAIMS: [&str; 3] = ["sub", "iss", "tenant"];

/// What authentication calls its methods.
pub const METHODS_OF_AUTHENTICATION: [&str; 9] =
    ["jwt", "asap", "api_key", "basic", "introspection", "mtls", "session", "dpop", "mtls_bound"];

/// What decisions say of themselves where no rule made them.
const NO_IDS: [&str; 4] = ["anonymous", "default", "path", "unauthenticated"];
/// In each list of a rule.
const MAX_LIST: usize = 100;
/// Of each value, in bytes.
const MAX_TEXT_BYTES: usize = 256;

impl Rule {
    /// Reads a rule, which may name these claims beside [`OWN_CLAIMS`].
    ///
    /// # Errors
    /// It would match more than it says, or never anything.
    pub fn read(wire: pb::authz::Rule, claims: &[String]) -> Result<Self, Invalid> {
        let effect = match pb::authz::Effect::try_from(wire.effect) {
            Ok(pb::authz::Effect::Allow) => Effect::Allow,
            Ok(pb::authz::Effect::Deny) => Effect::Deny,
            Ok(pb::authz::Effect::Unspecified) | Err(_) => {
                return Err(Invalid::new("effect", wire.effect, "EFFECT_ALLOW or EFFECT_DENY"));
            }
        };
        if wire.id.is_empty() {
            return Err(Invalid::missing("id", "a name within the policy"));
        }
        check_text("id", &wire.id)?;
        if NO_IDS.contains(&wire.id.as_str()) {
            return Err(Invalid::new("id", wire.id, "a name that says which rule it was"));
        }
        let is_method = |method: &String| {
            !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-')
        };
        list("methods", &wire.methods, is_method, "an HTTP method in upper case")?;
        list(
            "scopes",
            &wire.scopes,
            |scope| !scope.is_empty() && !scope.contains(' '),
            "one scope, without spaces",
        )?;
        list("groups", &wire.groups, |group| !group.is_empty(), "a group")?;
        let known = METHODS_OF_AUTHENTICATION;
        list(
            "auth",
            &wire.auth,
            |name| known.contains(&name.as_str()),
            &format!("one of {}", known.join(", ")),
        )?;
        let paths = each("paths", &wire.paths, |text| PathTemplate::parse(text))?;
        let networks = each("networks", &wire.networks, |text| {
            text.parse::<Network>().map_err(|why| Invalid::new("", text, why.rule()))
        })?;
        let comparisons = each("where", &wire.r#where, |one| Comparison::read(one.clone(), &paths, claims))?;
        let time = wire.time.map(TimeRule::try_from).transpose().map_err(|why| why.within("time"))?;
        Ok(Self {
            id: wire.id,
            effect,
            methods: wire.methods,
            hosts: each("hosts", &wire.hosts, |text| HostPattern::parse(text))?,
            paths,
            scopes: wire.scopes,
            groups: wire.groups,
            claims: each("claims", &wire.claims, |claim| ClaimRule::read(claim.clone(), claims))?,
            auth: wire.auth,
            networks,
            time,
            comparisons,
        })
    }

    /// How many values stand in its lists.
    pub(super) fn values(&self) -> usize {
        let claims: usize = self.claims.iter().map(|claim| claim.values.len()).sum();
        let texts = self.methods.len() + self.scopes.len() + self.groups.len() + self.auth.len() + claims;
        texts + self.hosts.len() + self.paths.len() + self.networks.len() + self.comparisons.len()
    }
}

impl ClaimRule {
    fn read(wire: pb::authz::Claim, claims: &[String]) -> Result<Self, Invalid> {
        check_claim("name", &wire.name, claims)?;
        if wire.values.is_empty() {
            return Err(Invalid::missing("values", "at least one"));
        }
        list("values", &wire.values, |value| !value.is_empty(), "a value")?;
        Ok(Self { name: wire.name, values: wire.values })
    }
}

/// A claim that nobody carries would never match.
pub(super) fn check_claim(field: &str, name: &str, claims: &[String]) -> Result<(), Invalid> {
    if OWN_CLAIMS.contains(&name) || claims.iter().any(|declared| declared == name) {
        return check_text(field, name);
    }
    let rule =
        "sub, iss, tenant, or a claim that the service's auth carries (`claims: [name]` at its method)";
    Err(Invalid::new(field, name, rule))
}

/// What stands in lists is compared with what authentication lets through: no control characters, and not for ever long.
pub(super) fn check_text(field: &str, text: &str) -> Result<(), Invalid> {
    if text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control) {
        return Err(Invalid::new(field, text, "at most 256 bytes, without control characters"));
    }
    Ok(())
}

fn each<W, T>(field: &str, wire: &[W], read: impl Fn(&W) -> Result<T, Invalid>) -> Result<Vec<T>, Invalid> {
    if wire.len() > MAX_LIST {
        return Err(Invalid::new(field, wire.len(), "at most 100"));
    }
    let read = |(at, one)| read(one).map_err(|why| why.within(&format!("{field}[{at}]")));
    wire.iter().enumerate().map(read).collect()
}

fn list(field: &str, texts: &[String], is_one: impl Fn(&String) -> bool, rule: &str) -> Result<(), Invalid> {
    let check = |text: &String| {
        check_text("", text)?;
        if is_one(text) { Ok(()) } else { Err(Invalid::new("", text, rule)) }
    };
    each(field, texts, check).map(drop)
}
