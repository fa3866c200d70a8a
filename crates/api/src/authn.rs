//! The typed form of `gatehouse.authn.v1.Policy`, checked in the control plane and again in the sidecar.

use std::fmt;

use crate::{Invalid, path::PathPattern, pb};

/// Which policy a route names: the `context_extensions {policy, rev}` of its `ext_authz` settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId {
    /// The OSB instance id, plus a route suffix where a route has its own.
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
    /// OR.
    pub any: Vec<Method>,
    /// Paths that need no credential.
    pub anonymous: Vec<PathPattern>,
}

/// One kind of credential.
#[derive(Debug, Clone)]
pub enum Method {
    /// A JWT access token in `Authorization: Bearer`.
    Jwt(Jwt),
}

/// What a token must say to be accepted.
#[derive(Debug, Clone)]
pub struct Jwt {
    /// Equal to the claim `iss`; also the name of the key set.
    pub issuer: String,
    /// One of them is in the claim `aud`.
    pub audiences: Vec<String>,
    /// The JWS algorithms that the issuer may use.
    pub algorithms: Vec<Algorithm>,
}

/// The asymmetric algorithms of RFC 7518 section 3.1 and RFC 8037 that we verify.
/// HMAC is left out on purpose: whoever could verify could also sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Algorithm {
    ES256,
    ES384,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    EdDSA,
}

impl Algorithm {
    /// All of them, with the names that JOSE gives them.
    pub const NAMES: [(&'static str, Self); 9] = [
        ("ES256", Self::ES256),
        ("ES384", Self::ES384),
        ("RS256", Self::RS256),
        ("RS384", Self::RS384),
        ("RS512", Self::RS512),
        ("PS256", Self::PS256),
        ("PS384", Self::PS384),
        ("PS512", Self::PS512),
        ("EdDSA", Self::EdDSA),
    ];

    /// `None` for a symmetric or unknown algorithm, and for `none`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }
}

/// More methods than any service needs; each one costs time on a refused request.
const MAX_METHODS: usize = 16;

impl TryFrom<pb::authn::Policy> for Policy {
    type Error = Invalid;

    fn try_from(wire: pb::authn::Policy) -> Result<Self, Invalid> {
        let id = PolicyId::checked(&wire.name, &wire.policy, wire.rev)?;
        if wire.any.len() > MAX_METHODS {
            return Err(Invalid::new("any", wire.any.len(), "at most 16 methods"));
        }
        let any = (wire.any.into_iter().enumerate())
            .map(|(at, method)| Method::try_from(method).map_err(|why| why.within(&format!("any[{at}]"))))
            .collect::<Result<_, _>>()?;
        Ok(Self { id, any, anonymous: patterns("anonymous", &wire.anonymous)? })
    }
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
        match wire.method {
            Some(pb::authn::method::Method::Jwt(jwt)) => {
                Ok(Self::Jwt(jwt.try_into().map_err(|why: Invalid| why.within("jwt"))?))
            }
            None => Err(Invalid::missing("", "a method that this release knows")),
        }
    }
}

impl TryFrom<pb::authn::Jwt> for Jwt {
    type Error = Invalid;

    fn try_from(wire: pb::authn::Jwt) -> Result<Self, Invalid> {
        if !wire.issuer.starts_with("https://") {
            return Err(Invalid::new("issuer", wire.issuer, "an https URL"));
        }
        if wire.audiences.is_empty() || wire.audiences.iter().any(String::is_empty) {
            return Err(Invalid::missing("audiences", "at least one, none of them empty"));
        }
        if wire.algorithms.is_empty() {
            return Err(Invalid::missing("algorithms", "at least one"));
        }
        let algorithms = (wire.algorithms.iter().enumerate())
            .map(|(at, name)| {
                Algorithm::from_name(name).ok_or_else(|| {
                    let known: Vec<_> = Algorithm::NAMES.iter().map(|(name, _)| *name).collect();
                    Invalid::new(format!("algorithms[{at}]"), name, format!("one of {}", known.join(", ")))
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { issuer: wire.issuer, audiences: wire.audiences, algorithms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> pb::authn::Policy {
        let jwt = pb::authn::Jwt {
            issuer: "https://id.example.test/".into(),
            audiences: vec!["hello".into()],
            algorithms: vec!["ES256".into()],
        };
        pb::authn::Policy {
            name: "i-1@7".into(),
            policy: "i-1".into(),
            rev: 7,
            any: vec![pb::authn::Method { method: Some(pb::authn::method::Method::Jwt(jwt)) }],
            anonymous: vec!["/healthz".into()],
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
}
