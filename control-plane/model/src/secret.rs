//! Secrets that we only have to recognise, kept as salted hashes.

use std::fmt::{self, Write as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

/// A salted BLAKE3 hash: `blake3:<salt>:<hash>` in hexadecimal. It is fast, so the secrets must be long and random, as
/// `gatehouse credentials` makes them; a slow hash would protect guessable ones, and let a flood of wrong ones starve
/// the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash {
    salt: [u8; 32],
    hash: blake3::Hash,
}

impl SecretHash {
    /// Of a secret, with a salt that is used once.
    pub fn of(secret: &str, salt: [u8; 32]) -> Self {
        Self { salt, hash: blake3::keyed_hash(&salt, secret.as_bytes()) }
    }

    /// Whether it is the secret's. Takes as long for a wrong one.
    pub fn is_of(&self, secret: &str) -> bool {
        // `blake3::Hash` compares in constant time.
        blake3::keyed_hash(&self.salt, secret.as_bytes()) == self.hash
    }
}

impl SecretHash {
    /// Salt and hash, each in base64, as the JSON of our protos has bytes.
    pub(crate) fn parts(&self) -> (String, String) {
        (BASE64_STANDARD.encode(self.salt), BASE64_STANDARD.encode(self.hash.as_bytes()))
    }
}

impl From<SecretHash> for String {
    fn from(hash: SecretHash) -> Self {
        hash.to_string()
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let salt = self.salt.iter().fold(String::new(), |mut text, byte| {
            let _infallible = write!(text, "{byte:02x}");
            text
        });
        write!(f, "blake3:{salt}:{}", self.hash.to_hex())
    }
}

impl TryFrom<String> for SecretHash {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let read = || {
            let (salt, hash) = text.strip_prefix("blake3:")?.split_once(':')?;
            // The library reads 32 bytes of hexadecimal, which the salt is too.
            let salt = blake3::Hash::from_hex(salt).ok()?;
            Some(Self { salt: *salt.as_bytes(), hash: blake3::Hash::from_hex(hash).ok()? })
        };
        // Never the text itself: it may be the secret.
        read().ok_or_else(|| "blake3:<salt>:<hash> as `gatehouse credentials` prints it".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_itself_is_recognised() {
        let hash = SecretHash::of("a secret", [7; 32]);
        let read = SecretHash::try_from(hash.to_string()).unwrap();
        assert_eq!(read, hash);
        assert!(read.is_of("a secret"));
        assert!(!read.is_of("a secret "));
        assert_ne!(SecretHash::of("a secret", [8; 32]).to_string(), hash.to_string());
        let told = SecretHash::try_from("hunter2".to_owned()).unwrap_err();
        assert!(!told.contains("hunter2"), "{told}");
    }
}
