//! A set of keys that is good: read, checked, and in one form, so that two can be compared. Pure.

use std::{fmt, sync::Arc};

use api::{key_set::KeySet, pb};
use serde_json::{Value, json};

/// Keys that can verify, and the text that the fleet gets.
pub(crate) struct Set {
    /// A JWK Set with the usable keys alone, in the order of their ids.
    pub(crate) jwks: String,
    /// Where a sidecar may fetch it.
    pub(crate) uri: Option<String>,
    /// Of the keys that have one.
    pub(crate) kids: Vec<String>,
    pub(crate) count: usize,
    pub(crate) keys: Arc<jwt::Keys>,
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Set").field("kids", &self.kids).field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl PartialEq for Set {
    /// What the fleet gets is the same.
    fn eq(&self, other: &Self) -> bool {
        self.jwks == other.jwks && self.uri == other.uri
    }
}

impl Set {
    /// The set that a text holds.
    ///
    /// # Errors
    /// The text is no JWK Set, has no key that can verify, or is too large.
    pub(crate) fn read(name: &str, jwks: &str, uri: Option<&str>) -> Result<Self, String> {
        let wire = |jwks: String| pb::authn::KeySet {
            name: name.to_owned(),
            jwks,
            uri: uri.unwrap_or_default().to_owned(),
            servers: Vec::new(),
        };
        let typed = KeySet::try_from(wire(jwks.to_owned())).map_err(|error| error.to_string())?;
        let mut usable = typed
            .keys
            .iter()
            .map(|key| Ok((key.id.clone(), serde_json::to_value(&key.jwk)?)))
            .collect::<Result<Vec<(Option<String>, Value)>, serde_json::Error>>()
            .map_err(|error| error.to_string())?;
        usable.sort_by_cached_key(|(id, key)| (id.clone(), key.to_string()));
        usable.dedup();
        let kids = usable.iter().filter_map(|(id, _)| id.clone()).collect();
        let count = usable.len();
        let keys: Vec<_> = usable.into_iter().map(|(_, key)| key).collect();
        // What a private key may have among its fields is gone with the fields that nobody knows.
        let jwks = json!({ "keys": keys }).to_string();
        // What leaves here is what the sidecars accept.
        let typed = KeySet::try_from(wire(jwks.clone())).map_err(|error| error.to_string())?;
        let keys = Arc::new(jwt::Keys::new(typed)?);
        Ok(Self { jwks, uri: uri.map(str::to_owned), kids, count, keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "https://id.example.test/";
    const EC: &str = r#""kty":"EC","crv":"P-256","x":"WKn-ZIGevcwGIyyrzFoZNBdaq9_TsqzGl96oc0CWuis","y":"y77t-RvAHRKTsSGdIYUfweuOvwrvDD-Q3Hv5J0fSKbE""#;

    fn read(keys: &str) -> Result<Set, String> {
        Set::read(NAME, &format!("{{\"keys\":[{keys}]}}"), None)
    }

    #[test]
    fn order_spaces_and_unknown_fields_make_no_other_set() {
        let one = read(&format!("{{{EC},\"kid\":\"a\"}},{{{EC},\"kid\":\"b\"}}")).unwrap();
        let other =
            format!(" {{\"more\": 1, {EC}, \"kid\": \"b\"}},  {{\"kid\": \"a\", {EC}}}, {{\"kty\":\"new\"}}");
        assert_eq!(one, read(&other).unwrap());
        assert_eq!((one.kids.join(" ").as_str(), one.count), ("a b", 2));
        assert_ne!(one, read(&format!("{{{EC},\"kid\":\"a\"}}")).unwrap());
        let elsewhere = Set::read(NAME, &one.jwks, Some("https://id.example.test/jwks.json")).unwrap();
        assert_ne!(one, elsewhere);
    }

    #[test]
    fn a_private_half_is_left_out() {
        let set = read(&format!("{{{EC},\"d\":\"c2VjcmV0\"}}")).unwrap();
        assert!(!set.jwks.contains("c2VjcmV0"), "{}", set.jwks);
    }

    #[test]
    fn what_has_no_key_that_verifies_is_no_set() {
        for bad in ["", r#"{"kty":"oct","k":"c2VjcmV0"}"#, r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#]
        {
            assert!(read(bad).unwrap_err().starts_with("jwks.keys: "), "{bad}");
        }
        for bad in ["", "{}", "<html>", "[]", "{\"keys\":{}}"] {
            assert!(Set::read(NAME, bad, None).unwrap_err().starts_with("jwks: a JWK Set"), "{bad}");
        }
        let many = vec![format!("{{{EC}}}"); 65].join(",");
        assert!(read(&many).unwrap_err().starts_with("jwks.keys: at most 64 keys"));
        let large = format!("{{{EC},\"x5u\":\"{}\"}}", "x".repeat(256 * 1024));
        assert!(read(&large).unwrap_err().starts_with("jwks: at most 262144 bytes"));
    }
}
