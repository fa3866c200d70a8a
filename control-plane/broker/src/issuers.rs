//! Issuers of tokens whose keys are here: services may trust them, and platforms may sign in with what they sign.

use std::{
    collections::BTreeMap,
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use api::{
    authn::{Algorithm, Jwt},
    key_set::KeySet,
    pb,
};
use jwt::Keys;
use model::platforms::Platforms;
use serde_json::{Map, Value};

/// Issuers, and their keys.
#[derive(Default)]
pub struct Issuers(BTreeMap<String, Keys>);

impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl Issuers {
    /// Of issuers and their JWK Sets.
    ///
    /// # Errors
    /// One has no key that can verify; the text names it.
    pub fn new<'a>(sets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let keys = |(issuer, jwks): (&str, &str)| {
            let wire =
                pb::authn::KeySet { name: issuer.to_owned(), jwks: jwks.to_owned(), uri: String::new() };
            let set = KeySet::try_from(wire).map_err(|error| error.to_string());
            let keys = set.and_then(Keys::new).map_err(|error| format!("the issuer {issuer}: {error}"))?;
            Ok((issuer.to_owned(), keys))
        };
        Ok(Self(sets.into_iter().map(keys).collect::<Result<_, String>>()?))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The platform that a token is of, and all claims: the first of those by name that take its issuer, its audience and
    /// its claims.
    pub(crate) fn platform<'p>(
        &self,
        token: &str,
        platforms: &'p Platforms,
    ) -> Option<(&'p str, Map<String, Value>)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        // Which the issuer's keys are for restricts them enough.
        let algorithms: Vec<_> = Algorithm::NAMES.iter().map(|(_, algorithm)| *algorithm).collect();
        platforms.with_tokens().find_map(|(name, rule)| {
            let method = Jwt {
                issuer: rule.issuer.clone(),
                audiences: vec![rule.audience.clone()],
                algorithms: algorithms.clone(),
            };
            jwt::verify(token, &[&method], |issuer| self.0.get(issuer), now).ok()?;
            let claims = jwt::claims_of(token);
            rule.claims.iter().all(|(name, value)| claims.get(name) == Some(value)).then_some((name, claims))
        })
    }
}
