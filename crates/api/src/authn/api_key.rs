//! API keys that a service has given out, each known by a digest only.

use std::collections::HashMap;

use crate::{Invalid, pb};

/// The keys that a service has given out.
#[derive(Debug, Clone)]
pub struct ApiKeys {
    /// Where requests carry one; in lower case.
    pub header: String,
    /// By their ids.
    pub keys: HashMap<String, ApiKey>,
}

/// A key, of which only a digest is known.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Drawn for this key.
    pub salt: [u8; 32],
    /// BLAKE3 of the secret, keyed with the salt.
    pub digest: [u8; 32],
    /// Who has it.
    pub subject: String,
    /// What its bearer may do.
    pub scopes: Vec<String>,
}

/// Whether a header may carry API keys: its name ends in `key`, so that Envoy's rules can let such headers be taken off
/// and nothing else.
pub fn is_key_header(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let others = ["sec-websocket-key", "idempotency-key"];
    // These never come so far.
    let is_stripped =
        ["x-gatehouse-", "x-original-", "x-envoy-"].iter().any(|prefix| name.starts_with(prefix));
    name.len() <= 64
        && name.ends_with("key")
        && name.bytes().all(plain)
        && !others.contains(&name)
        && !is_stripped
}

/// A service gives out one to each of its clients.
const MAX_KEYS: usize = 1_000;

impl TryFrom<pb::authn::ApiKey> for ApiKeys {
    type Error = Invalid;

    fn try_from(wire: pb::authn::ApiKey) -> Result<Self, Invalid> {
        if !is_key_header(&wire.header) {
            return Err(Invalid::new("header", wire.header, "a header in lower case that ends in `key`"));
        }
        if wire.keys.len() > MAX_KEYS {
            return Err(Invalid::new("keys", wire.keys.len(), "at most 1000 keys"));
        }
        let mut keys = HashMap::with_capacity(wire.keys.len());
        for (at, key) in wire.keys.into_iter().enumerate() {
            let field = |name: &str| format!("keys[{at}].{name}");
            let is_hex = !key.id.is_empty() && key.id.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_hex || keys.contains_key(&key.id) {
                return Err(Invalid::new(field("id"), key.id, "hexadecimal, and no other key's"));
            }
            // What it holds is never told: a mistake here could be the secret itself.
            let bytes = |name: &str, bytes: Vec<u8>| {
                let length = bytes.len();
                <[u8; 32]>::try_from(bytes).map_err(|_| Invalid::new(field(name), length, "32 bytes"))
            };
            if key.subject.is_empty() {
                return Err(Invalid::missing(field("subject"), "who has the key"));
            }
            let (salt, digest) = (bytes("salt", key.salt)?, bytes("digest", key.digest)?);
            keys.insert(key.id, ApiKey { salt, digest, subject: key.subject, scopes: key.scopes });
        }
        Ok(Self { header: wire.header, keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_key_that_could_let_anybody_in_is_refused() {
        type Change = fn(&mut pb::authn::api_key::Key);
        let key = pb::authn::api_key::Key {
            id: "0a".into(),
            salt: vec![1; 32],
            digest: vec![2; 32],
            subject: "billing".into(),
            scopes: Vec::new(),
        };
        let read = |header: &str, keys: Vec<pb::authn::api_key::Key>| {
            let wire = pb::authn::ApiKey { header: header.into(), keys };
            ApiKeys::try_from(wire).map(|keys| keys.keys.len()).map_err(|why| why.to_string())
        };
        assert_eq!(read("x-api-key", vec![key.clone()]), Ok(1));
        assert_eq!(read("x-api-key", Vec::new()), Ok(0));
        for header in [
            "",
            "host",
            "x-gatehouse-key",
            "x-envoy-key",
            "X-Api-Key",
            "x api-key",
            "sec-websocket-key",
            "key:",
        ] {
            assert!(read(header, Vec::new()).unwrap_err().starts_with("header: "), "{header}");
        }
        for (change, told) in [
            ((|key| key.digest.clear()) as Change, "keys[0].digest: 32 bytes, got \"0\""),
            (|key| key.salt.push(0), "keys[0].salt: 32 bytes, got \"33\""),
            (|key| key.id = "a_b".into(), "keys[0].id: hexadecimal, and no other key's, got \"a_b\""),
            (|key| key.subject.clear(), "keys[0].subject: who has the key, got nothing"),
        ] {
            let mut key = key.clone();
            change(&mut key);
            assert_eq!(read("x-api-key", vec![key]), Err(told.to_owned()));
        }
        let twice = read("x-api-key", vec![key.clone(), key]);
        assert_eq!(twice, Err("keys[1].id: hexadecimal, and no other key's, got \"0a\"".into()));
    }
}
