//! JWT access tokens in `Authorization: Bearer` (RFC 6750, RFC 7519).

use std::sync::Arc;

use api::authn::Jwt;
use jwt::{InvalidToken, Verified};

use crate::{
    identity::{Identity, Texts},
    method::{Credential, Method, Outcome, Place, Proven, Stop},
    state::Snapshot,
};

impl Method for Jwt {
    fn place(&self) -> Place<'_> {
        Place::Authorization("bearer")
    }

    fn verify(&self, credential: &Credential<'_>, state: &Snapshot, now: f64) -> Outcome {
        verify("jwt", self, credential, state, now)
    }

    fn challenge(&self, error: Option<&str>) -> String {
        bearer(error)
    }
}

/// A token of this issuer, wherever it stood.
pub(crate) fn verify(
    name: &'static str,
    method: &Jwt,
    credential: &Credential<'_>,
    state: &Snapshot,
    now: f64,
) -> Outcome {
    let token = match credential.token() {
        Ok(token) => token,
        Err(why) => return Outcome::NotMine(why.text()),
    };
    if *method.issuer != *token.issuer() {
        return Outcome::NotMine(InvalidToken::Issuer.text());
    }
    let Some(keys) = state.keys.get(&*method.issuer) else {
        return Outcome::Bad(Stop::Fault("the keys of the token's issuer are not here"));
    };
    match token.verify(method, keys, now) {
        Ok(verified) => {
            let identity = identity(name, &verified, method.issuer.clone());
            Outcome::Good(Proven::by_token(identity, &verified, keys))
        }
        // Another method may take the issuer's other keys.
        Err(why @ InvalidToken::Algorithm) => Outcome::NotMine(why.text()),
        Err(why) => Outcome::Bad(why.into()),
    }
}

/// Whoever a token speaks of.
pub(crate) fn identity(method: &'static str, token: &Verified, issuer: Arc<str>) -> Identity {
    let groups = token.groups.join("\n");
    let texts = Texts {
        subject: &token.subject,
        tenant: token.tenant.as_deref().unwrap_or_default(),
        scopes: &token.scopes,
        groups: &groups,
        token: token.id.as_deref().unwrap_or_default(),
        session: token.session.as_deref().unwrap_or_default(),
        credential: "",
    };
    Identity::new(method, texts).by(issuer).between(token.issued_at, Some(token.expires))
}

/// Without a credential a challenge names no error (RFC 6750 section 3.1).
pub(crate) fn bearer(error: Option<&str>) -> String {
    challenge("Bearer", "invalid_token", error)
}

/// All texts of ours can stand between quotation marks.
pub(crate) fn challenge(scheme: &str, code: &str, error: Option<&str>) -> String {
    let error =
        error.map(|why| format!(", error=\"{code}\", error_description=\"{why}\"")).unwrap_or_default();
    format!("{scheme} realm=\"gatehouse\"{error}")
}
