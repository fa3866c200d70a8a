//! Tokens that only who gave them out can read (RFC 7662).

use std::{fmt, sync::Arc, time::Duration};

use super::{carried_claims, https};
use crate::{Invalid, pb};

/// Who is asked about a token, and what is believed of the answer.
#[derive(Clone)]
pub struct Introspection {
    /// An https URL.
    pub endpoint: Arc<str>,
    /// What this edge is to them.
    pub client_id: String,
    /// How it proves that.
    pub client_secret: String,
    /// Who vouches for the subject.
    pub issuer: Arc<str>,
    /// One of them is in the answer's `aud`; empty where nothing is asked.
    pub audiences: Vec<String>,
    /// How long an answer is believed.
    pub cache: Duration,
    /// What authorization is told beside.
    pub claims: Vec<String>,
}

impl fmt::Debug for Introspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, client_id, audiences, .. } = self;
        f.debug_struct("Introspection")
            .field("endpoint", endpoint)
            .field("client_id", client_id)
            .field("audiences", audiences)
            .finish_non_exhaustive()
    }
}

/// A token that was taken back is believed for no longer.
const MAX_CACHE_SECS: u32 = 300;

impl TryFrom<pb::authn::Introspection> for Introspection {
    type Error = Invalid;

    fn try_from(wire: pb::authn::Introspection) -> Result<Self, Invalid> {
        let (endpoint, issuer) = (https("endpoint", wire.endpoint)?, https("issuer", wire.issuer)?);
        if wire.client_id.is_empty() || wire.client_secret.is_empty() {
            return Err(Invalid::missing("client_id", "an id and a secret"));
        }
        if !(1..=MAX_CACHE_SECS).contains(&wire.cache_secs) {
            return Err(Invalid::new("cache_secs", wire.cache_secs, "1 to 300"));
        }
        Ok(Self {
            endpoint,
            client_id: wire.client_id,
            client_secret: wire.client_secret,
            issuer,
            audiences: wire.audiences,
            cache: Duration::from_secs(wire.cache_secs.into()),
            claims: carried_claims(wire.claims)?,
        })
    }
}
