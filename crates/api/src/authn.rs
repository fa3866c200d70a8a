//! The typed form of `gatehouse.authn.v1.Policy`, checked in the control plane and again in the sidecar.

use std::{collections::HashMap, fmt};

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
    /// An API key in a header of its own.
    ApiKey(ApiKeys),
}

/// The keys that a service has given out.
#[derive(Debug, Clone)]
pub struct ApiKeys {
    /// Where requests carry one; in lower case.
    pub header: String,
    /// By their ids.
    pub keys: HashMap<String, ApiKey>,
}

/// A key, of which only a digest is known.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Drawn for this key.
    pub salt: [u8; 32],
    /// BLAKE3 of the secret, keyed with the salt.
    pub digest: [u8; 32],
    /// Who has it.
    pub subject: String,
    /// What its bearer may do.
    pub scopes: Vec<String>,
}

/// Whether a header may carry API keys: its name ends in `key`, so that Envoy's rules can let such headers be taken off
/// and nothing else.
pub fn is_key_header(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let others = ["sec-websocket-key", "idempotency-key"];
    // These never come so far.
    let is_stripped =
        ["x-gatehouse-", "x-original-", "x-envoy-"].iter().any(|prefix| name.starts_with(prefix));
    name.len() <= 64
        && name.ends_with("key")
        && name.bytes().all(plain)
        && !others.contains(&name)
        && !is_stripped
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

/// A service gives out one to each of its clients.
const MAX_KEYS: usize = 1_000;
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
            Some(pb::authn::method::Method::ApiKey(keys)) => {
                Ok(Self::ApiKey(keys.try_into().map_err(|why: Invalid| why.within("api_key"))?))
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

impl TryFrom<pb::authn::ApiKey> for ApiKeys {
    type Error = Invalid;

    fn try_from(wire: pb::authn::ApiKey) -> Result<Self, Invalid> {
        if !is_key_header(&wire.header) {
            return Err(Invalid::new("header", wire.header, "a header in lower case that ends in `key`"));
        }
        if wire.keys.len() > MAX_KEYS {
            return Err(Invalid::new("keys", wire.keys.len(), "at most 1000 keys"));
        }
        let mut keys = HashMap::with_capacity(wire.keys.len());
        for (at, key) in wire.keys.into_iter().enumerate() {
            let field = |name: &str| format!("keys[{at}].{name}");
            let is_hex = !key.id.is_empty() && key.id.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_hex || keys.contains_key(&key.id) {
                return Err(Invalid::new(field("id"), key.id, "hexadecimal, and no other key's"));
            }
            // What it holds is never told: a mistake here could be the secret itself.
            let bytes = |name: &str, bytes: Vec<u8>| {
                let length = bytes.len();
                <[u8; 32]>::try_from(bytes).map_err(|_| Invalid::new(field(name), length, "32 bytes"))
            };
            if key.subject.is_empty() {
                return Err(Invalid::missing(field("subject"), "who has the key"));
            }
            let (salt, digest) = (bytes("salt", key.salt)?, bytes("digest", key.digest)?);
            keys.insert(key.id, ApiKey { salt, digest, subject: key.subject, scopes: key.scopes });
        }
        Ok(Self { header: wire.header, keys })
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
    fn an_api_key_that_could_let_anybody_in_is_refused() {
        type Change = fn(&mut pb::authn::api_key::Key);
        let key = pb::authn::api_key::Key {
            id: "0a".into(),
            salt: vec![1; 32],
            digest: vec![2; 32],
            subject: "billing".into(),
            scopes: Vec::new(),
        };
        let read = |header: &str, keys: Vec<pb::authn::api_key::Key>| {
            let wire = pb::authn::ApiKey { header: header.into(), keys };
            ApiKeys::try_from(wire).map(|keys| keys.keys.len()).map_err(|why| why.to_string())
        };
        assert_eq!(read("x-api-key", vec![key.clone()]), Ok(1));
        assert_eq!(read("x-api-key", Vec::new()), Ok(0));
        for header in [
            "",
            "host",
            "x-gatehouse-key",
            "x-envoy-key",
            "X-Api-Key",
            "x api-key",
            "sec-websocket-key",
            "key:",
        ] {
            assert!(read(header, Vec::new()).unwrap_err().starts_with("header: "), "{header}");
        }
        for (change, told) in [
            ((|key| key.digest.clear()) as Change, "keys[0].digest: 32 bytes, got \"0\""),
            (|key| key.salt.push(0), "keys[0].salt: 32 bytes, got \"33\""),
            (|key| key.id = "a_b".into(), "keys[0].id: hexadecimal, and no other key's, got \"a_b\""),
            (|key| key.subject.clear(), "keys[0].subject: who has the key, got nothing"),
        ] {
            let mut key = key.clone();
            change(&mut key);
            assert_eq!(read("x-api-key", vec![key]), Err(told.to_owned()));
        }
        let twice = read("x-api-key", vec![key.clone(), key]);
        assert_eq!(twice, Err("keys[1].id: hexadecimal, and no other key's, got \"0a\"".into()));
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
