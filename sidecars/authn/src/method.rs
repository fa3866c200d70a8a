//! What all kinds of credentials have in common: a place in the request, a check, and a challenge.

use std::{
    cell::OnceCell,
    sync::{Arc, Weak},
};

use jwt::{Confirmation, InvalidToken, Keys, Token, Verified};
use sidecar::ext_authz::Facts;

use crate::{identity::Identity, replays::Replays, state::Snapshot, work::Work};

/// One kind of credential, as a policy asks for it. Each stands in a file of its own.
pub(crate) trait Method {
    /// Where it stands. Methods that read one place share what stands there.
    fn place(&self) -> Place<'_>;

    /// Who is proven by it. What it says is remembered with the whole credential and the policy.
    fn verify(&self, credential: &Credential<'_>, state: &Snapshot, now: f64) -> Outcome;

    /// What has to be proven with each request, beside what is remembered.
    fn confirm(&self, found: &Proven, asked: &Asked<'_>) -> Result<(), Stop> {
        refuse_bound_to_key(found)?;
        confirm_certificate(found, asked)
    }

    /// How it introduces itself in `WWW-Authenticate` (RFC 9110 section 11.6.1), with its error where it has one.
    fn challenge(&self, error: Option<&str>) -> String;

    /// Whether it needs keys or revocations that are young enough. So does whatever does not say otherwise.
    fn ages(&self) -> bool {
        true
    }

    /// Whether tokens that name this issuer are for it alone.
    fn trusts(&self, _: &str) -> bool {
        false
    }

    /// It takes what no other method at its place reads.
    fn is_last_resort(&self) -> bool {
        false
    }
}

/// Where a credential stands in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'p> {
    /// `Authorization`, with this scheme, in lower case.
    Authorization(&'static str),
    /// A header of its own, in lower case.
    Header(&'p str),
    /// A cookie.
    Cookie(&'p str),
    /// The client's certificate.
    Certificate,
}

/// A request, and what was seen before it.
pub(crate) struct Asked<'a> {
    pub(crate) facts: &'a Facts<'a>,
    /// What stood at the method's place.
    pub(crate) text: &'a str,
    pub(crate) replays: &'a Replays,
    pub(crate) now: f64,
}

/// What stands at a place: read as a token once, for all methods that want one.
pub(crate) struct Credential<'a> {
    pub(crate) text: &'a str,
    token: OnceCell<Result<Token<'a>, InvalidToken>>,
}

impl<'a> Credential<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, token: OnceCell::new() }
    }

    pub(crate) fn token(&self) -> Result<&Token<'a>, InvalidToken> {
        self.token.get_or_init(|| Token::read(self.text)).as_ref().map_err(|why| *why)
    }
}

/// What a method says of a credential.
pub(crate) enum Outcome {
    Good(Proven),
    /// It is for another method, or for none.
    NotMine(&'static str),
    /// It is for this one, and not good.
    Bad(Stop),
    /// That takes longer than a request may hold a thread.
    Wait(Work),
}

/// Who is proven, and until when.
#[derive(Debug)]
pub(crate) struct Proven {
    pub(crate) identity: Identity,
    /// Which verified it; gone when they are replaced.
    pub(crate) keys: Option<Weak<Keys>>,
    /// Rare, so in a place of its own.
    pub(crate) confirmation: Option<Box<Confirmation>>,
    /// Seconds since the epoch.
    pub(crate) until: f64,
}

/// Why a request does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// 401: the client's credential is none.
    Invalid(&'static str),
    /// 400: the request has two meanings.
    BadRequest(String),
    /// 403: the client is who it says, and did not mean to ask.
    CrossSite,
    /// 503: what would be needed to decide is not here.
    Fault(&'static str),
}

impl From<InvalidToken> for Stop {
    fn from(why: InvalidToken) -> Self {
        Self::Invalid(why.text())
    }
}

impl Proven {
    /// What cannot change while the policy does not.
    pub(crate) fn lasting(identity: Identity) -> Self {
        Self { identity, keys: None, confirmation: None, until: f64::INFINITY }
    }

    /// By a token that these keys have verified. A clock that is behind ours does not shorten its life.
    pub(crate) fn by_token(identity: Identity, token: &Verified, keys: &Arc<Keys>) -> Self {
        let until = token.expires + jwt::LEEWAY_SECS;
        let confirmation = boxed(token.confirmation);
        Self { identity, keys: Some(Arc::downgrade(keys)), confirmation, until }
    }

    /// What its bearer has to prove beside.
    pub(crate) fn bound_to(&self) -> Confirmation {
        self.confirmation.as_deref().copied().unwrap_or_default()
    }
}

pub(crate) fn boxed(confirmation: Confirmation) -> Option<Box<Confirmation>> {
    (!confirmation.is_none()).then(|| Box::new(confirmation))
}

/// Where no proof is read, a token that needs one is nobody's (RFC 9449 section 7.2).
pub(crate) fn refuse_bound_to_key(found: &Proven) -> Result<(), Stop> {
    match found.bound_to().key {
        None => Ok(()),
        Some(_) => Err(Stop::Invalid("the token is bound to a key that signs each request")),
    }
}

/// A token that is bound to a certificate is good for who shows it (RFC 8705 section 3).
pub(crate) fn confirm_certificate(found: &Proven, asked: &Asked<'_>) -> Result<(), Stop> {
    let Some(bound) = found.bound_to().certificate else { return Ok(()) };
    match crate::mtls::thumbprint(asked.facts.certificate()) {
        Some(shown) if shown == bound => Ok(()),
        _ => Err(Stop::Invalid("the token is bound to another certificate")),
    }
}
