//! Keys by which the edge tells upstreams who sends a request: one for each group and day, drawn from a secret that all
//! replicas have, so that none has to tell another. Pure.

use std::fmt;

use aws_lc_rs::{
    agreement::{ECDH_P256, PrivateKey},
    digest::{SHA256, digest},
    hkdf::{HKDF_SHA256, KeyType, Salt},
    rand,
};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

/// What all keys are drawn from.
pub struct IdentitySecret([u8; 32]);

impl fmt::Debug for IdentitySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentitySecret")
    }
}

/// The key of a day.
struct DayKey {
    id: String,
    private: [u8; 32],
    public: Vec<u8>,
    /// When its day begins. Seconds since the epoch.
    from: u64,
}

/// How long a key signs.
const DAY_SECS: u64 = 24 * 3_600;
/// A sidecar that has not heard from here for three days still signs with a key that upstreams find.
const DAYS_BEHIND: u64 = 4;
/// Tokens live for a minute, and upstreams may ask for keys a few times a day only: they find the next one before it signs.
const DAYS_AHEAD: u64 = 1;

impl IdentitySecret {
    /// A new one, as a line of text.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> Result<String, String> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).map_err(|_| "the system gives no random bytes".to_owned())?;
        Ok(BASE64_STANDARD.encode(bytes))
    }

    /// Reads it: base64 of 32 bytes.
    ///
    /// # Errors
    /// It is something else. The text is never told: it may be the secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes = BASE64_STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| "base64 of 32 bytes is needed".to_owned())
    }

    /// What the sidecars of a group sign with around this time, as `gatehouse.authn.v1.IdentityKey`: also the key of
    /// yesterday, for a clock that is behind, and that of tomorrow.
    pub fn signing(&self, group: &str, issuer: &str, now: u64) -> Value {
        let today = now / DAY_SECS;
        let keys = (today.saturating_sub(1)..=today + DAYS_AHEAD).filter_map(|day| self.key(group, day));
        keys.map(|key| {
            json!({
                "name": key.id,
                "issuer": issuer,
                "private_key": BASE64_STANDARD.encode(key.private),
                "public_key": BASE64_STANDARD.encode(&key.public),
                "from": key.from,
            })
        })
        .collect()
    }

    /// What upstreams verify with around this time: a JWK Set (RFC 7517 section 5).
    pub fn public(&self, group: &str, now: u64) -> Value {
        let today = now / DAY_SECS;
        let keys =
            (today.saturating_sub(DAYS_BEHIND)..=today + DAYS_AHEAD).filter_map(|day| self.key(group, day));
        let keys: Vec<_> = keys
            .filter_map(|key| {
                // SEC 1 section 2.3.3: a 4, and both coordinates.
                let (x, y) = key.public.get(1..)?.split_at_checked(32)?;
                let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
                Some(json!({
                    "kty": "EC", "crv": "P-256", "x": text(x), "y": text(y),
                    "use": "sig", "alg": "ES256", "kid": key.id,
                }))
            })
            .collect();
        json!({ "keys": keys })
    }

    /// Seconds until other keys are wanted.
    pub fn changes_in(now: u64) -> u64 {
        DAY_SECS - now % DAY_SECS
    }

    fn key(&self, group: &str, day: u64) -> Option<DayKey> {
        // Of 2^32 scalars one is none; the next one is.
        (0..8_u8).find_map(|again| {
            let parts =
                [b"gatehouse identity key 1".as_slice(), &day.to_be_bytes(), &[again], group.as_bytes()];
            let secret = Salt::new(HKDF_SHA256, &[]).extract(&self.0);
            let mut private = [0; 32];
            secret.expand(&parts, Scalar).ok()?.fill(&mut private).ok()?;
            let key = PrivateKey::from_private_key(&ECDH_P256, &private).ok()?;
            let public = key.compute_public_key().ok()?.as_ref().to_vec();
            let print = digest(&SHA256, &public);
            let id = BASE64_URL_SAFE_NO_PAD.encode(print.as_ref().get(..12)?);
            Some(DayKey { id, private, public, from: day * DAY_SECS })
        })
    }
}

/// Of P-256.
struct Scalar;

impl KeyType for Scalar {
    fn len(&self) -> usize {
        32
    }
}

#[cfg(test)]
mod tests {
    use api::{identity_key::IdentityKey, key_set::KeySet, pb};

    use super::*;

    const NOW: u64 = 20_780 * DAY_SECS + 5;

    fn secret(byte: u8) -> IdentitySecret {
        IdentitySecret::parse(&BASE64_STANDARD.encode([byte; 32])).unwrap()
    }

    fn ids(keys: &Value, field: &str) -> Vec<String> {
        keys.as_array().unwrap().iter().map(|key| key[field].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_replica_draws_the_same_keys_and_each_group_and_day_has_its_own() {
        let of = |byte, group, now| secret(byte).signing(group, "https://edge.test/", now);
        assert_eq!(of(1, "edge", NOW), of(1, "edge", NOW + 80_000));
        let (today, tomorrow) = (of(1, "edge", NOW), of(1, "edge", NOW + DAY_SECS));
        assert_eq!(ids(&today, "name")[1..], ids(&tomorrow, "name")[..2], "tomorrow's is known today");
        let others = [of(2, "edge", NOW), of(1, "other", NOW)];
        for other in others {
            assert!(ids(&other, "name").iter().all(|id| !ids(&today, "name").contains(id)));
        }
        assert_eq!(today[1]["from"], json!(20_780 * DAY_SECS));
    }

    #[test]
    fn upstreams_find_each_key_that_a_sidecar_may_sign_with() {
        let public = ids(&secret(1).public("edge", NOW)["keys"], "kid");
        assert_eq!(public.len(), 6);
        for then in [NOW - 3 * DAY_SECS, NOW, NOW + DAY_SECS - 6] {
            let signing = ids(&secret(1).signing("edge", "https://edge.test/", then), "name");
            let usable: Vec<_> = signing.iter().take(2).collect();
            assert!(usable.iter().all(|id| public.contains(id)), "{then}");
        }
        let jwks = secret(1).public("edge", NOW).to_string();
        let wire = pb::authn::KeySet { name: "https://edge.test/".into(), jwks, ..Default::default() };
        assert_eq!(KeySet::try_from(wire).unwrap().keys.len(), 6, "they are keys to us too");
    }

    #[test]
    fn what_sidecars_get_is_what_they_accept() {
        for key in secret(1).signing("edge", "https://edge.test/", NOW).as_array().unwrap() {
            let bytes = |field: &str| BASE64_STANDARD.decode(key[field].as_str().unwrap()).unwrap();
            let wire = pb::authn::IdentityKey {
                name: key["name"].as_str().unwrap().into(),
                issuer: key["issuer"].as_str().unwrap().into(),
                private_key: bytes("private_key"),
                public_key: bytes("public_key"),
                from: key["from"].as_u64().unwrap(),
            };
            assert!(IdentityKey::try_from(wire).is_ok());
        }
    }

    #[test]
    fn a_secret_that_is_none_is_refused_without_being_told() {
        assert!(IdentitySecret::parse(&IdentitySecret::generate().unwrap()).is_ok());
        for text in ["", "short", "c2VjcmV0"] {
            assert_eq!(IdentitySecret::parse(text).unwrap_err(), "base64 of 32 bytes is needed");
        }
    }
}
