//! Issuers of tokens that operators have configured: services may trust them, and platforms may sign in with what they sign
//! while their keys are here.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use api::authn::{Algorithm, Jwt};
use jwt::Keys;
use model::platforms::Platforms;
use serde_json::{Map, Value};

/// Issuers, and the keys of those that have some now. One without keys is known all the same: it is away, or was since
/// the start, and a service that trusts it is no mistake.
#[derive(Default)]
pub struct Issuers {
    keys: BTreeMap<String, Option<Arc<Keys>>>,
    /// Who has keys of services that sign for themselves.
    key_servers: Vec<String>,
}

impl fmt::Debug for Issuers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl<'a> FromIterator<(&'a str, Option<Arc<Keys>>)> for Issuers {
    fn from_iter<I: IntoIterator<Item = (&'a str, Option<Arc<Keys>>)>>(all: I) -> Self {
        let keys = all.into_iter().map(|(issuer, keys)| (issuer.to_owned(), keys)).collect();
        Self { keys, key_servers: Vec::new() }
    }
}

impl Issuers {
    /// And these key servers.
    #[must_use]
    pub fn with_key_servers<'a>(self, names: impl IntoIterator<Item = &'a str>) -> Self {
        Self { key_servers: names.into_iter().map(str::to_owned).collect(), ..self }
    }

    /// Where services' own keys can be: an issuer's set can hold them too.
    pub(crate) fn key_servers(&self) -> impl Iterator<Item = &str> {
        self.names().chain(self.key_servers.iter().map(String::as_str))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
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
                issuer: rule.issuer.as_str().into(),
                audiences: vec![rule.audience.clone()],
                algorithms: algorithms.clone(),
                tenant_claim: None,
                groups_claim: None,
                claims: Vec::new(),
            };
            jwt::verify(token, &[&method], |issuer| self.keys.get(issuer)?.as_deref(), now).ok()?;
            let claims = jwt::claims_of(token);
            rule.claims.iter().all(|(name, value)| claims.get(name) == Some(value)).then_some((name, claims))
        })
    }
}
