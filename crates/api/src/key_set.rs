//! The typed form of `gatehouse.authn.v1.KeySet`: only keys that may verify signatures are kept.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyOperations, PublicKeyUse};

use crate::{Invalid, authn::Algorithm, pb};

/// The public keys of one issuer.
#[derive(Debug, Clone)]
pub struct KeySet {
    /// The issuer that signs with them.
    pub issuer: String,
    /// Never empty.
    pub keys: Vec<Key>,
    /// Where the set may be fetched, if that is anywhere: an https URL.
    pub uri: Option<String>,
    /// Below which a key of any id is, where this is a key server.
    pub servers: Vec<String>,
}

/// A key, with the algorithms that it may verify: never more than one family.
#[derive(Debug, Clone)]
pub struct Key {
    /// `kid`
    pub id: Option<String>,
    /// `alg` where the key names one, else all that its type allows.
    pub algorithms: Vec<Algorithm>,
    /// The key itself.
    pub jwk: Jwk,
}

/// An issuer rotates among a few; a set beyond this is a mistake or an attack.
pub const MAX_KEYS: usize = 64;
/// 256 KiB holds 64 keys of any size.
pub const MAX_BYTES: usize = 256 * 1024;
/// Longer ones are refused by proxies and servers.
const MAX_URI_BYTES: usize = 2048;
/// One, and those in its place.
const MAX_SERVERS: usize = 4;

impl TryFrom<pb::authn::KeySet> for KeySet {
    type Error = Invalid;

    fn try_from(wire: pb::authn::KeySet) -> Result<Self, Invalid> {
        if !wire.name.starts_with("https://") {
            return Err(Invalid::new("name", wire.name, "the issuer, an https URL"));
        }
        if wire.jwks.len() > MAX_BYTES {
            return Err(Invalid::new("jwks", wire.jwks.len(), "at most 262144 bytes"));
        }
        let uri = (!wire.uri.is_empty()).then_some(wire.uri);
        if let Some(uri) = uri.as_ref().filter(|uri| !is_place(uri)) {
            return Err(Invalid::new("uri", uri, "an https URL of at most 2048 visible ASCII characters"));
        }
        let set: JwkSet = serde_json::from_str(&wire.jwks)
            .map_err(|error| Invalid::new("jwks", &wire.jwks, format!("a JWK Set ({error})")))?;
        if set.keys.len() > MAX_KEYS {
            return Err(Invalid::new("jwks.keys", set.keys.len(), "at most 64 keys"));
        }
        let keys: Vec<Key> = set.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() {
            return Err(Invalid::new("jwks.keys", &wire.jwks, "at least one public key for signatures"));
        }
        if wire.servers.len() > MAX_SERVERS {
            return Err(Invalid::new("servers", wire.servers.len(), "at most 4 URLs"));
        }
        if let Some((at, url)) = wire.servers.iter().enumerate().find(|(_, url)| !is_place(url)) {
            let rule = "an https URL of at most 2048 visible ASCII characters";
            return Err(Invalid::new(format!("servers[{at}]"), url, rule));
        }
        Ok(Self { issuer: wire.name, keys, uri, servers: wire.servers })
    }
}

/// A key that somebody brings along, to prove that it is theirs. `None` when it may not verify.
pub fn of_one(jwk: serde_json::Value) -> Option<KeySet> {
    let key = usable(serde_json::from_value(jwk).ok()?)?;
    Some(KeySet { issuer: String::new(), keys: vec![key], uri: None, servers: Vec::new() })
}

/// Whoever fetches it checks again where it leads.
fn is_place(uri: &str) -> bool {
    let after = uri.strip_prefix("https://").unwrap_or_default();
    uri.len() <= MAX_URI_BYTES
        && after.starts_with(|first: char| first != '/')
        && uri.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A key that may verify, or `None`: for encryption, symmetric, of an unknown type, or contradictory.
/// Other keys in a set are normal (RFC 7517 section 5: ignore what is not understood).
fn usable(jwk: Jwk) -> Option<Key> {
    let common = &jwk.common;
    if common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return None;
    }
    if common.key_operations.as_ref().is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
        return None;
    }
    let possible: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::RSA(rsa) if rsa_bits(&rsa.n) >= 2048 => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
        _ => return None,
    };
    let algorithms = match common.key_algorithm {
        Some(named) => {
            let named = Algorithm::from_name(&named.to_string())?;
            possible.contains(&named).then(|| vec![named])?
        }
        None => possible.to_vec(),
    };
    Some(Key { id: common.key_id.clone(), algorithms, jwk })
}

/// The size of a modulus from its base64url text, good enough to refuse short keys.
fn rsa_bits(modulus: &str) -> usize {
    modulus.trim_end_matches('=').len() * 6 / 8 * 8
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: &str = "WKn-ZIGevcwGIyyrzFoZNBdaq9_TsqzGl96oc0CWuis";
    const Y: &str = "y77t-RvAHRKTsSGdIYUfweuOvwrvDD-Q3Hv5J0fSKbE";

    fn read(keys: &str) -> Result<KeySet, Invalid> {
        let name = "https://id.example.test/".to_owned();
        KeySet::try_from(pb::authn::KeySet {
            name,
            jwks: format!("{{\"keys\":[{keys}]}}"),
            ..Default::default()
        })
    }

    #[test]
    fn a_place_to_fetch_from_is_an_https_url_or_none() {
        let of = |uri: &str| {
            let jwks = format!("{{\"keys\":[{}]}}", p256(""));
            let name = "https://id.example.test/".to_owned();
            KeySet::try_from(pb::authn::KeySet { name, jwks, uri: uri.to_owned(), ..Default::default() })
                .map(|set| set.uri)
        };
        assert_eq!(of("").unwrap(), None);
        let good = "https://id.example.test/jwks.json";
        assert_eq!(of(good).unwrap().as_deref(), Some(good));
        for bad in ["http://id.example.test/", "https://", "https:///x", "file:///etc/passwd", "https://a b"]
        {
            let error = of(bad).unwrap_err().to_string();
            assert!(error.starts_with("uri: "), "{bad}: {error}");
        }
        assert!(of(&format!("https://id.example.test/{}", "x".repeat(2048))).is_err());
    }

    fn p256(extra: &str) -> String {
        format!("{{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"{X}\",\"y\":\"{Y}\"{extra}}}")
    }

    #[test]
    fn a_key_verifies_only_what_its_type_allows() {
        let set = read(&p256("")).unwrap();
        assert_eq!(set.keys[0].algorithms, [Algorithm::ES256]);
    }

    #[test]
    fn keys_for_other_purposes_are_left_out() {
        for extra in [r#","use":"enc""#, r#","key_ops":["sign"]"#, r#","alg":"ES384""#, r#","alg":"RS256""#] {
            assert!(read(&p256(extra)).is_err(), "{extra}");
        }
        assert!(read(r#"{"kty":"oct","k":"c2VjcmV0"}"#).is_err());
        assert!(read(r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#).is_err(), "a short RSA key");
        assert!(read(&format!("{},{}", r#"{"kty":"new"}"#, p256(""))).is_ok(), "a key of an unknown type");
    }

    #[test]
    fn a_set_without_a_usable_key_is_refused() {
        assert!(read("").unwrap_err().to_string().starts_with("jwks.keys: at least one public key"));
    }
}
