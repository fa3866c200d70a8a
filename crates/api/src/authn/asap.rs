//! Tokens that services sign for themselves.

use std::sync::Arc;

use super::{https, some_audiences};
use crate::{Invalid, pb};

/// Which services may call, and for whom their tokens must be.
#[derive(Debug, Clone)]
pub struct Asap {
    /// The name of the key set with all services' keys.
    pub key_server: Arc<str>,
    /// One of them is in the claim `aud`.
    pub audiences: Vec<String>,
    /// One of them is the claim `iss`, and what the key's id begins with.
    pub issuers: Vec<Arc<str>>,
}

impl TryFrom<pb::authn::Asap> for Asap {
    type Error = Invalid;

    fn try_from(wire: pb::authn::Asap) -> Result<Self, Invalid> {
        let key_server = https("key_server", wire.key_server)?;
        let audiences = some_audiences("audiences", wire.audiences)?;
        if wire.issuers.is_empty() {
            return Err(Invalid::missing("issuers", "at least one service"));
        }
        for (at, issuer) in wire.issuers.iter().enumerate() {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+=-".contains(&byte);
            // It is the beginning of a key's id, and so of a path on the key server.
            let is_name = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
            if !issuer.split('/').all(is_name) {
                let rule = "letters, digits and ._+=- in segments, no dot segments";
                return Err(Invalid::new(format!("issuers[{at}]"), issuer, rule));
            }
        }
        Ok(Self { key_server, audiences, issuers: wire.issuers.into_iter().map(Arc::from).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_that_could_be_somewhere_else_on_the_key_server_is_refused() {
        let read = |key_server: &str, issuer: &str| {
            Asap::try_from(pb::authn::Asap {
                key_server: key_server.into(),
                audiences: vec!["hello".into()],
                issuers: vec![issuer.into()],
            })
            .map(|asap| asap.issuers)
            .map_err(|why| why.to_string())
        };
        assert_eq!(read("https://keys.test/", "micros/billing"), Ok(vec!["micros/billing".into()]));
        for issuer in ["", "/a", "a/", "a//b", "a/../b", "a?b", "a b", "ä", "a%2fb"] {
            let refusal = read("https://keys.test/", issuer).unwrap_err();
            assert!(refusal.starts_with("issuers[0]: letters, digits"), "{refusal}");
        }
        assert_eq!(
            read("http://keys.test/", "a").unwrap_err(),
            "key_server: an https URL, got \"http://keys.test/\""
        );
    }
}
