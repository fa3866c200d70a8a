//! JWT access tokens in `Authorization: Bearer` (RFC 6750, RFC 7519).

use std::sync::Arc;

use api::authn::Jwt;
use jwt::{InvalidToken, Keys, Verified};

use crate::{
    identity::{Identity, Kind, Texts, carried},
    learned::{From, Wanted},
    method::{Credential, Method, Outcome, Place, Proven, Stop},
    state::Snapshot,
    work::Work,
};

impl Method for Jwt {
    fn place(&self) -> Place<'_> {
        Place::Authorization("bearer")
    }

    fn verify(&self, credential: &Credential<'_>, state: &Snapshot, now: f64) -> Outcome {
        verify(Kind::Jwt, self, credential, state, now)
    }

    fn challenge(&self, error: Option<&str>) -> String {
        bearer(error)
    }

    fn trusts(&self, issuer: &str) -> bool {
        *self.issuer == *issuer
    }
}

/// A token of this issuer, wherever it stood.
pub(crate) fn verify(
    kind: Kind,
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
    let Some(issuer) = state.keys.get(&*method.issuer) else {
        return Outcome::Bad(Stop::Fault("the keys of the token's issuer are not here"));
    };
    let from = issuer.uri.clone().map(From::Set);
    by_keys(&method.issuer, &issuer.keys, from, state, now, |keys| {
        let verified = token.verify(method, keys, now)?;
        Ok((identity(kind, &verified, method.issuer.clone()), verified))
    })
}

/// Whether some key has signed a token: of those that the control plane has sent, else of those that were fetched in
/// need, else of those that can be.
pub(crate) fn by_keys(
    name: &str,
    sent: &Arc<Keys>,
    from: Option<From>,
    state: &Snapshot,
    now: f64,
    verify: impl Fn(&Keys) -> Result<(Identity, Verified), InvalidToken>,
) -> Outcome {
    let good = |keys: &Arc<Keys>| {
        verify(keys).map(|(identity, token)| Outcome::Good(Proven::by_token(identity, &token, keys)))
    };
    let mut result = good(sent);
    // Where there is no place to look, nobody may have found anything either.
    if let (Err(InvalidToken::UnknownKey), Some(from)) = (&result, from) {
        if let Some(keys) = state.learned.keys(name, now) {
            result = good(&keys);
        }
        let could_look = state.learned.could_look(name, now);
        let wanted = Wanted { name: name.to_owned(), from };
        match result {
            Err(InvalidToken::UnknownKey) if could_look => return Outcome::Wait(Work::Keys(wanted)),
            Ok(_) if could_look => state.learned.wish(wanted),
            _ => {}
        }
    }
    match result {
        Ok(good) => good,
        // Another method may take the issuer's other keys.
        Err(why @ InvalidToken::Algorithm) => Outcome::NotMine(why.text()),
        Err(why) => Outcome::Bad(why.into()),
    }
}

/// Whoever a token speaks of.
pub(crate) fn identity(kind: Kind, token: &Verified, issuer: Arc<str>) -> Identity {
    let (groups, claims) = (token.groups.join("\n"), carried(&token.claims));
    let texts = Texts {
        subject: &token.subject,
        tenant: token.tenant.as_deref().unwrap_or_default(),
        scopes: &token.scopes,
        groups: &groups,
        token: token.id.as_deref().unwrap_or_default(),
        session: token.session.as_deref().unwrap_or_default(),
        credential: "",
        claims: &claims,
    };
    Identity::new(kind, texts).by(issuer).between(token.issued_at, Some(token.expires))
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
