//! What logs and spans are told of a credential beside what every decision has.
//!
//! No line holds a credential. It holds the id of the key that a token names, and a part of the credential's hash: enough
//! to find its other requests, and too little to find the credential. A password is not even hashed, since many could be
//! guessed from that.

use serde::Serialize;
use sidecar::{
    decision_log::cut,
    ext_authz::{Decision, Facts},
};

use crate::{
    credentials::{Authorization, Presented},
    decide::presented,
    method::Place,
    policy::Policy,
};

/// What stands in a line. The names are part of the format: `docs/sidecar-operations.md`.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    method: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
}

/// What may be told of a credential.
#[derive(Default)]
struct Shown {
    key_id: Option<String>,
    hash: Option<String>,
}

impl<'a> Line<'a> {
    /// `method` is the kind of credential.
    pub(crate) fn of(
        method: &'static str,
        facts: &Facts<'_>,
        policy: Option<&Policy>,
        decision: &'a Decision,
    ) -> Self {
        let Shown { key_id, hash } = shown(facts, policy);
        let told = |key| decision.record().and_then(|record| record.get(key)).map(cut);
        Self {
            method,
            iss: told("iss"),
            sub: told("sub"),
            tenant: told("tenant"),
            kid: key_id.map(|id| cut(&id).to_owned()),
            credential: hash,
        }
    }
}

/// The first credential of the request, in the policy's order.
fn shown(facts: &Facts<'_>, policy: Option<&Policy>) -> Shown {
    let authorization = Authorization::of(facts);
    let places = policy.into_iter().flat_map(Policy::places).map(|(place, _)| place);
    let bearer = [Place::Authorization("bearer"), Place::Authorization("dpop")];
    let found = places.chain(bearer).find_map(|place| match presented(facts, authorization, place) {
        Presented::One(text) => Some((place, text)),
        _ => None,
    });
    let Some((place, text)) = found else { return Shown::default() };
    if place == Place::Authorization("basic") {
        return Shown::default();
    }
    let hash = blake3::hash(text.as_bytes()).to_hex();
    let token = jwt::Token::read(text).ok();
    let key_id = token.and_then(|token| token.key_id().map(str::to_owned));
    // 64 bits.
    Shown { key_id, hash: hash.get(..16).map(str::to_owned) }
}

#[cfg(test)]
mod tests;
