//! Tokens that only the one that they were issued to can use: with a proof for each request (DPoP, RFC 9449), or the
//! client's certificate (RFC 8705).

use api::authn::{SenderConstrained, SenderProof};
use jwt::Proof;

use crate::{
    credentials::{Presented, header},
    identity::Kind,
    jwt::{challenge, verify},
    method::{
        Asked, Credential, Method, Outcome, Place, Proven, Stop, confirm_certificate, refuse_bound_to_key,
    },
    replays::Seen,
    state::Snapshot,
};

impl Method for SenderConstrained {
    fn place(&self) -> Place<'_> {
        match self.by {
            SenderProof::Dpop => Place::Authorization("dpop"),
            SenderProof::Certificate => Place::Authorization("bearer"),
        }
    }

    fn verify(&self, credential: &Credential<'_>, state: &Snapshot, now: f64) -> Outcome {
        let name = match self.by {
            SenderProof::Dpop => Kind::Dpop,
            SenderProof::Certificate => Kind::MtlsBound,
        };
        match verify(name, &self.jwt, credential, state, now) {
            Outcome::Good(found) => {
                let is_bound = match self.by {
                    SenderProof::Dpop => found.bound_to().key.is_some(),
                    SenderProof::Certificate => found.bound_to().certificate.is_some(),
                };
                if is_bound {
                    Outcome::Good(found)
                } else {
                    Outcome::Bad(Stop::Invalid("the token is not bound"))
                }
            }
            other => other,
        }
    }

    fn confirm(&self, found: &Proven, asked: &Asked<'_>) -> Result<(), Stop> {
        confirm_certificate(found, asked)?;
        match (self.by, found.bound_to().key) {
            (SenderProof::Dpop, Some(key)) => confirm_key(&key, asked),
            _ => refuse_bound_to_key(found),
        }
    }

    fn trusts(&self, issuer: &str) -> bool {
        *self.jwt.issuer == *issuer
    }

    fn challenge(&self, error: Option<&str>) -> String {
        match self.by {
            // RFC 9449 section 7.1.
            SenderProof::Dpop => format!(
                "{}, algs=\"ES256 ES384 RS256 PS256 EdDSA\"",
                challenge("DPoP", "invalid_token", error)
            ),
            SenderProof::Certificate => challenge("Bearer", "invalid_token", error),
        }
    }
}

/// The header `DPoP` holds a proof for this request and this token, signed by the key that the token names, and seen for
/// the first time.
fn confirm_key(key: &jwt::Thumbprint, asked: &Asked<'_>) -> Result<(), Stop> {
    let facts = asked.facts;
    let text = match header(facts, "dpop") {
        Presented::One(text) => text,
        Presented::Nothing => return Err(Stop::Invalid("a proof is needed")),
        Presented::Unreadable => return Err(Stop::Invalid("the proof is malformed")),
        Presented::Several => return Err(Stop::BadRequest("more than one proof".into())),
    };
    let (method, scheme, host, path) = (facts.method(), facts.scheme(), facts.host(), facts.path());
    let proof = Proof { text, token: asked.text, method, scheme, host, path };
    let proven = jwt::prove(&proof, asked.now).map_err(|why| Stop::Invalid(why.text()))?;
    if proven.key != *key {
        return Err(Stop::Invalid("the proof is of another key"));
    }
    match asked.replays.note(&proven, asked.now) {
        Seen::First => Ok(()),
        Seen::Before => Err(Stop::Invalid("the proof was used before")),
        Seen::TooMany => Err(Stop::Fault("too many proofs at once")),
    }
}
