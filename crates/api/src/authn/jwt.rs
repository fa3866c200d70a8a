//! What a JWT access token must say to be accepted, and how its bearer may have to prove more.

use std::sync::Arc;

use super::{carried_claims, https, some_audiences};
use crate::{Invalid, pb};

/// What a token must say to be accepted.
#[derive(Debug, Clone)]
pub struct Jwt {
    /// Equal to the claim `iss`; also the name of the key set. Shared by all whom it vouches for.
    pub issuer: Arc<str>,
    /// One of them is in the claim `aud`.
    pub audiences: Vec<String>,
    /// The JWS algorithms that the issuer may use: of one family.
    pub algorithms: Vec<Algorithm>,
    /// The claim that names the tenant, where it is not `tenant`.
    pub tenant_claim: Option<String>,
    /// The claim that lists groups, where it is not `groups`.
    pub groups_claim: Option<String>,
    /// What authorization is told beside.
    pub claims: Vec<String>,
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

    /// Which kind of key it takes, and how.
    fn family(self) -> &'static str {
        match self {
            Self::ES256 | Self::ES384 => "ECDSA",
            Self::EdDSA => "EdDSA",
            _ => "RSA",
        }
    }

    /// `None` for a symmetric or unknown algorithm, and for `none`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }
}

/// A token that only the one that it was issued to can use.
#[derive(Debug, Clone)]
pub struct SenderConstrained {
    /// What the token must say.
    pub jwt: Jwt,
    /// How possession is proven.
    pub by: SenderProof,
}

/// How the one that a token was issued to shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenderProof {
    /// A signature for each request (RFC 9449).
    Dpop,
    /// The client's certificate (RFC 8705 section 3).
    Certificate,
}

impl TryFrom<pb::authn::Jwt> for Jwt {
    type Error = Invalid;

    fn try_from(wire: pb::authn::Jwt) -> Result<Self, Invalid> {
        let issuer = https("issuer", wire.issuer)?;
        let audiences = some_audiences("audiences", wire.audiences)?;
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
            .collect::<Result<Vec<_>, _>>()?;
        // Where a key could be read in two ways, one of them is an attack. Two methods can trust one issuer.
        if algorithms.iter().any(|algorithm: &Algorithm| algorithm.family() != algorithms[0].family()) {
            let got = wire.algorithms.join(", ");
            return Err(Invalid::new("algorithms", got, "of one family: ECDSA, RSA or EdDSA"));
        }
        let named = |claim: String| Some(claim).filter(|claim| !claim.is_empty());
        let (tenant_claim, groups_claim) = (named(wire.tenant_claim), named(wire.groups_claim));
        let claims = carried_claims(wire.claims)?;
        Ok(Self { issuer, audiences, algorithms, tenant_claim, groups_claim, claims })
    }
}

impl TryFrom<pb::authn::SenderConstrained> for SenderConstrained {
    type Error = Invalid;

    fn try_from(wire: pb::authn::SenderConstrained) -> Result<Self, Invalid> {
        let by = match wire.by() {
            pb::authn::sender_constrained::Proof::Dpop => SenderProof::Dpop,
            pb::authn::sender_constrained::Proof::Certificate => SenderProof::Certificate,
            pb::authn::sender_constrained::Proof::Unspecified => {
                return Err(Invalid::new("by", wire.by, "DPOP or CERTIFICATE"));
            }
        };
        let jwt = wire.jwt.ok_or_else(|| Invalid::missing("jwt", "what the token must say"))?;
        Ok(Self { jwt: jwt.try_into().map_err(|why: Invalid| why.within("jwt"))?, by })
    }
}
