//! The typed form of `gatehouse.authn.v1.IdentityKey`: a key by which upstreams are told who sends a request.

use std::fmt;

use crate::{Invalid, pb};

/// A private key of P-256, for a while.
#[derive(Clone, PartialEq, Eq)]
pub struct IdentityKey {
    /// `kid`
    pub id: String,
    /// `iss`
    pub issuer: String,
    /// The scalar.
    pub private: [u8; 32],
    /// The point (SEC 1 section 2.3.3).
    pub public: [u8; 65],
    /// Seconds since the epoch.
    pub from: u64,
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, issuer, from, .. } = self;
        f.debug_struct("IdentityKey")
            .field("id", id)
            .field("issuer", issuer)
            .field("from", from)
            .finish_non_exhaustive()
    }
}

impl TryFrom<pb::authn::IdentityKey> for IdentityKey {
    type Error = Invalid;

    fn try_from(wire: pb::authn::IdentityKey) -> Result<Self, Invalid> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if wire.name.is_empty() || wire.name.len() > 256 || !wire.name.bytes().all(plain) {
            return Err(Invalid::new("name", wire.name, "1 to 256 letters, digits and ._-"));
        }
        if !wire.issuer.starts_with("https://") || !wire.issuer.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Invalid::new("issuer", wire.issuer, "an https URL"));
        }
        // What they hold is never told.
        let private = <[u8; 32]>::try_from(wire.private_key.as_slice())
            .map_err(|_| Invalid::new("private_key", wire.private_key.len(), "32 bytes"))?;
        let public = <[u8; 65]>::try_from(wire.public_key.as_slice())
            .map_err(|_| Invalid::new("public_key", wire.public_key.len(), "65 bytes"))?;
        Ok(Self { id: wire.name, issuer: wire.issuer, private, public, from: wire.from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_none_is_refused_and_never_shown() {
        let wire = || pb::authn::IdentityKey {
            name: "edge-20780".into(),
            issuer: "https://edge.example.test/".into(),
            private_key: vec![7; 32],
            public_key: vec![4; 65],
            from: 1,
        };
        let key = IdentityKey::try_from(wire()).unwrap();
        assert!(!format!("{key:?}").contains("private"), "{key:?}");
        let told = |change: fn(&mut pb::authn::IdentityKey)| {
            let mut wire = wire();
            change(&mut wire);
            IdentityKey::try_from(wire).unwrap_err().to_string()
        };
        assert_eq!(told(|wire| wire.private_key = vec![7; 31]), "private_key: 32 bytes, got \"31\"");
        assert_eq!(told(|wire| wire.public_key.clear()), "public_key: 65 bytes, got \"0\"");
        assert_eq!(told(|wire| wire.issuer = "http://x".into()), "issuer: an https URL, got \"http://x\"");
        assert_eq!(
            told(|wire| wire.name = "a b".into()),
            "name: 1 to 256 letters, digits and ._-, got \"a b\""
        );
    }
}
