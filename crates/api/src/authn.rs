//! The typed form of `gatehouse.authn.v1.Policy`, checked in the control plane and again in the sidecar.

mod api_key;
mod asap;
mod basic;
mod introspection;
mod jwt;
mod mtls;
mod session;

pub use api_key::{ApiKey, ApiKeys, is_key_header};
pub use asap::Asap;
pub use basic::{Basic, BasicUser};
pub use introspection::Introspection;
pub use jwt::{Algorithm, Jwt, SenderConstrained, SenderProof};
pub use mtls::{Mtls, SpiffePattern};
pub use session::Session;

use std::{fmt, sync::Arc};

use crate::{Invalid, path::PathPattern, pb};

/// Which policy a route names: the `context_extensions {policy, rev}` of its `ext_authz` settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId {
    /// The OSB instance id; for a route with a policy of its own `<instance id>/<route>`.
    pub policy: String,
    /// Never 0.
    pub rev: u64,
}

impl PolicyId {
    /// Checks the three fields that every policy message opens with.
    pub(crate) fn checked(name: &str, policy: &str, rev: u64) -> Result<Self, Invalid> {
        if policy.is_empty() {
            return Err(Invalid::missing("policy", "the id of the service instance"));
        }
        if rev == 0 {
            return Err(Invalid::new("rev", rev, "a revision counts from 1"));
        }
        let id = Self { policy: policy.to_owned(), rev };
        if name == id.to_string() {
            Ok(id)
        } else {
            Err(Invalid::new("name", name, format!("must be `{id}`, as `<policy>@<rev>`")))
        }
    }

    /// Reads what Envoy sends. `None` when either is missing or malformed.
    pub fn from_context(policy: Option<&str>, rev: Option<&str>) -> Option<Self> {
        let policy = policy.filter(|policy| !policy.is_empty())?.to_owned();
        let rev = rev?.parse().ok().filter(|rev| *rev != 0)?;
        Some(Self { policy, rev })
    }

    /// The OSB instance id.
    pub fn instance(&self) -> &str {
        self.policy.split('/').next().unwrap_or_default()
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.policy, self.rev)
    }
}

/// How a request may prove who sends it.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What routes call it.
    pub id: PolicyId,
    /// AND; OR in each group. Without a group nobody passes who needs a credential.
    pub groups: Vec<Vec<Method>>,
    /// Paths that need no credential.
    pub anonymous: Vec<PathPattern>,
    /// The audience of the token by which the upstream is told who sends a request; headers do without it.
    pub identity_audience: Option<String>,
}

/// One kind of credential.
#[derive(Debug, Clone)]
pub enum Method {
    /// A JWT access token in `Authorization: Bearer`.
    Jwt(Jwt),
    /// An API key in a header of its own.
    ApiKey(ApiKeys),
    /// A token that a service has signed for itself.
    Asap(Asap),
    /// A name and a password.
    Basic(Basic),
    /// A token that only who gave it out can read.
    Introspection(Introspection),
    /// The client's certificate.
    Mtls(Mtls),
    /// A JWT in a cookie.
    Session(Session),
    /// A JWT that only the one that it was issued to can use.
    SenderConstrained(SenderConstrained),
}

/// In all groups; each one costs time on a refused request.
const MAX_METHODS: usize = 32;

impl TryFrom<pb::authn::Policy> for Policy {
    type Error = Invalid;

    fn try_from(wire: pb::authn::Policy) -> Result<Self, Invalid> {
        let id = PolicyId::checked(&wire.name, &wire.policy, wire.rev)?;
        if !wire.any.is_empty() && !wire.all.is_empty() {
            return Err(Invalid::new("all", wire.all.len(), "nothing, beside `any`"));
        }
        let all: usize = wire.all.iter().map(|group| group.any.len()).sum();
        if wire.any.len() + all > MAX_METHODS {
            return Err(Invalid::new("any", wire.any.len() + all, "at most 32 methods"));
        }
        let mut groups = Vec::new();
        if !wire.any.is_empty() {
            groups.push(methods("any", wire.any)?);
        }
        for (at, group) in wire.all.into_iter().enumerate() {
            let field = format!("all[{at}].any");
            // A group that nothing can satisfy, or that anything does?
            if group.any.is_empty() {
                return Err(Invalid::missing(field, "at least one method"));
            }
            groups.push(methods(&field, group.any)?);
        }
        one_list_at_each_place(&groups)?;
        let identity_audience = Some(wire.identity_audience).filter(|audience| !audience.is_empty());
        Ok(Self { id, groups, anonymous: patterns("anonymous", &wire.anonymous)?, identity_audience })
    }
}

/// Two lists of API keys or users at one place could not tell whose credential a wrong one is.
fn one_list_at_each_place(groups: &[Vec<Method>]) -> Result<(), Invalid> {
    let mut seen = Vec::new();
    for method in groups.iter().flatten() {
        let place = match method {
            Method::ApiKey(keys) => keys.header.as_str(),
            Method::Basic(_) => "authorization: basic",
            Method::Introspection(_) => "introspection",
            _ => continue,
        };
        if seen.contains(&place) {
            return Err(Invalid::new("any", place, "read by one method only"));
        }
        seen.push(place);
    }
    Ok(())
}

fn methods(field: &str, wire: Vec<pb::authn::Method>) -> Result<Vec<Method>, Invalid> {
    (wire.into_iter().enumerate())
        .map(|(at, method)| Method::try_from(method).map_err(|why| why.within(&format!("{field}[{at}]"))))
        .collect()
}

/// Reads a list of path patterns.
pub(crate) fn patterns(field: &str, texts: &[String]) -> Result<Vec<PathPattern>, Invalid> {
    (texts.iter().enumerate())
        .map(|(at, text)| PathPattern::parse(text).map_err(|why| why.within(&format!("{field}[{at}]"))))
        .collect()
}

impl TryFrom<pb::authn::Method> for Method {
    type Error = Invalid;

    fn try_from(wire: pb::authn::Method) -> Result<Self, Invalid> {
        use pb::authn::method::Method as Wire;

        let within = |field: &'static str| move |why: Invalid| why.within(field);
        Ok(match wire.method.ok_or_else(|| Invalid::missing("", "a method that this release knows"))? {
            Wire::Jwt(jwt) => Self::Jwt(jwt.try_into().map_err(within("jwt"))?),
            Wire::ApiKey(keys) => Self::ApiKey(keys.try_into().map_err(within("api_key"))?),
            Wire::Asap(asap) => Self::Asap(asap.try_into().map_err(within("asap"))?),
            Wire::Basic(basic) => Self::Basic(basic.try_into().map_err(within("basic"))?),
            Wire::Introspection(asked) => {
                Self::Introspection(asked.try_into().map_err(within("introspection"))?)
            }
            Wire::Mtls(mtls) => Self::Mtls(mtls.try_into().map_err(within("mtls"))?),
            Wire::Session(session) => Self::Session(session.try_into().map_err(within("session"))?),
            Wire::SenderConstrained(constrained) => {
                Self::SenderConstrained(constrained.try_into().map_err(within("sender_constrained"))?)
            }
        })
    }
}

/// An https URL, which names what it leads to.
fn https(field: &str, url: String) -> Result<Arc<str>, Invalid> {
    if url.starts_with("https://") { Ok(url.into()) } else { Err(Invalid::new(field, url, "an https URL")) }
}

/// Each is looked up in each token, and travels with each request.
const MAX_CARRIED: usize = 8;
/// Of a claim's name, in bytes.
const MAX_CLAIM_BYTES: usize = 64;
/// What every identity says by itself: a claim of that name would be another one.
const OWN: [&str; 7] = ["sub", "iss", "tenant", "groups", "scope", "scopes", "scp"];

fn carried_claims(claims: Vec<String>) -> Result<Vec<String>, Invalid> {
    if claims.len() > MAX_CARRIED {
        return Err(Invalid::new("claims", claims.len(), "at most 8 names"));
    }
    let is_name = |name: &String| {
        (1..=MAX_CLAIM_BYTES).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match claims.iter().position(|name| !is_name(name) || OWN.contains(&name.as_str())) {
        Some(at) => {
            let rule =
                "1 to 64 visible ASCII characters, and none of sub, iss, tenant, groups, scope, scopes, scp";
            Err(Invalid::new(format!("claims[{at}]"), &claims[at], rule))
        }
        None => Ok(claims),
    }
}

fn some_audiences(field: &str, audiences: Vec<String>) -> Result<Vec<String>, Invalid> {
    if audiences.is_empty() || audiences.iter().any(String::is_empty) {
        return Err(Invalid::missing(field, "at least one, none of them empty"));
    }
    Ok(audiences)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> pb::authn::Policy {
        let jwt = pb::authn::Jwt {
            issuer: "https://id.example.test/".into(),
            audiences: vec!["hello".into()],
            algorithms: vec!["ES256".into()],
            ..Default::default()
        };
        pb::authn::Policy {
            name: "i-1@7".into(),
            policy: "i-1".into(),
            rev: 7,
            any: vec![pb::authn::Method { method: Some(pb::authn::method::Method::Jwt(jwt)) }],
            anonymous: vec!["/healthz".into()],
            ..Default::default()
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut pb::authn::Policy, &mut pb::authn::Jwt), expected: &str) {
        let mut wire = wire();
        let Some(pb::authn::method::Method::Jwt(mut jwt)) = wire.any[0].method.take() else { unreachable!() };
        change(&mut wire, &mut jwt);
        if let Some(method) = wire.any.first_mut() {
            method.method = Some(pb::authn::method::Method::Jwt(jwt));
        }
        assert_eq!(Policy::try_from(wire).unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_good_policy_is_accepted() {
        assert_eq!(Policy::try_from(wire()).unwrap().id.to_string(), "i-1@7");
    }

    #[test]
    fn a_policy_that_would_let_more_pass_than_meant_is_refused() {
        check(|wire, _| wire.rev = 0, "rev: a revision counts from 1, got \"0\"");
        check(
            |wire, _| wire.name = "i-1@8".into(),
            "name: must be `i-1@7`, as `<policy>@<rev>`, got \"i-1@8\"",
        );
        check(
            |_, jwt| jwt.audiences.clear(),
            "any[0].jwt.audiences: at least one, none of them empty, got nothing",
        );
        check(|_, jwt| jwt.issuer = "http://x".into(), "any[0].jwt.issuer: an https URL, got \"http://x\"");
        check(|_, jwt| jwt.algorithms.clear(), "any[0].jwt.algorithms: at least one, got nothing");
        check(
            |_, jwt| jwt.algorithms = vec!["HS256".into()],
            "any[0].jwt.algorithms[0]: one of ES256, ES384, RS256, RS384, RS512, PS256, PS384, PS512, EdDSA, got \"HS256\"",
        );
        check(
            |_, jwt| jwt.algorithms = vec!["ES256".into(), "RS256".into()],
            "any[0].jwt.algorithms: of one family: ECDSA, RSA or EdDSA, got \"ES256, RS256\"",
        );
        check(|_, jwt| jwt.claims = vec!["a".into(); 9], "any[0].jwt.claims: at most 8 names, got \"9\"");
        for (name, shown) in [("sub", "sub"), ("", ""), ("a b", "a b"), ("a\n", "a\\n")] {
            check(
                |_, jwt| jwt.claims = vec![name.into()],
                &format!(
                    "any[0].jwt.claims[0]: 1 to 64 visible ASCII characters, and none of sub, iss, tenant, groups, scope, scopes, scp, got \"{shown}\""
                ),
            );
        }
        check(
            |wire, _| wire.anonymous = vec!["/a.*;".into()],
            "anonymous[0]: a path like `/a/b` or `=/a/b` (it must not hold a path parameter (`;`)), got \"/a.*;\"",
        );
    }

    #[test]
    fn a_method_of_a_newer_release_is_refused_and_not_skipped() {
        let mut wire = wire();
        wire.any[0].method = None;
        assert_eq!(
            Policy::try_from(wire).unwrap_err().to_string(),
            "any[0]: a method that this release knows, got nothing"
        );
    }

    #[test]
    fn groups_are_never_empty_nor_beside_other_methods() {
        let method = || wire().any.remove(0);
        let read = |any: Vec<pb::authn::Method>, groups: Vec<Vec<pb::authn::Method>>| {
            let all = groups.into_iter().map(|any| pb::authn::Group { any }).collect();
            Policy::try_from(pb::authn::Policy { any, all, ..wire() })
                .map(|policy| policy.groups.iter().map(Vec::len).collect::<Vec<_>>())
                .map_err(|why| why.to_string())
        };
        assert_eq!(read(vec![method(), method()], vec![]), Ok(vec![2]));
        assert_eq!(read(vec![], vec![vec![method()], vec![method(), method()]]), Ok(vec![1, 2]));
        assert_eq!(read(vec![], vec![]), Ok(vec![]), "nobody can prove anything");
        assert_eq!(
            read(vec![method()], vec![vec![method()]]).unwrap_err(),
            "all: nothing, beside `any`, got \"1\""
        );
        assert_eq!(
            read(vec![], vec![vec![method()], vec![]]).unwrap_err(),
            "all[1].any: at least one method, got nothing"
        );
        let key = pb::authn::ApiKey { header: "x-api-key".into(), keys: Vec::new() };
        let key = pb::authn::Method { method: Some(pb::authn::method::Method::ApiKey(key)) };
        assert_eq!(
            read(vec![key.clone(), key], vec![]).unwrap_err(),
            "any: read by one method only, got \"x-api-key\""
        );
    }

    #[test]
    fn a_sender_must_be_constrained_by_something() {
        let Some(pb::authn::method::Method::Jwt(jwt)) = wire().any.remove(0).method else { unreachable!() };
        let read = |by: i32| {
            SenderConstrained::try_from(pb::authn::SenderConstrained { jwt: Some(jwt.clone()), by })
                .map(|constrained| constrained.by)
                .map_err(|why| why.to_string())
        };
        assert_eq!(read(1), Ok(SenderProof::Dpop));
        assert_eq!(read(2), Ok(SenderProof::Certificate));
        assert_eq!(read(0).unwrap_err(), "by: DPOP or CERTIFICATE, got \"0\"");
        assert_eq!(read(3).unwrap_err(), "by: DPOP or CERTIFICATE, got \"3\"");
    }
}
