//! The keys of one issuer, ready to verify.

use api::{authn::Algorithm, key_set::KeySet};
use jsonwebtoken::DecodingKey;

/// All usable keys of an issuer.
pub struct Keys(Vec<Key>);

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

impl Keys {
    /// Keys that the library cannot take are left out.
    ///
    /// # Errors
    /// None is left.
    pub fn new(set: KeySet) -> Result<Self, String> {
        let keys: Vec<_> = (set.keys.into_iter())
            .filter_map(|key| {
                let decoding = DecodingKey::from_jwk(&key.jwk).ok()?;
                Some(Key { id: key.id, algorithms: key.algorithms, decoding })
            })
            .collect();
        if keys.is_empty() { Err("jwks.keys: no key that can verify".into()) } else { Ok(Self(keys)) }
    }

    /// The keys that may have signed: of this id where the token names one, and for exactly this algorithm.
    pub(crate) fn candidates<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a DecodingKey> {
        self.0
            .iter()
            .filter(move |key| id.is_none() || key.id.as_deref() == id)
            .filter(move |key| key.algorithms.contains(&algorithm))
            .map(|key| &key.decoding)
    }
}
