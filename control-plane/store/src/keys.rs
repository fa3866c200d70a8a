//! Encryption at rest: what is secret in an instance is sealed before it is written, and opened when it is read. The
//! rest stays legible, for queries and for people with a copy of the database.

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use model::{
    BindingId, InstanceId,
    binding::Binding,
    instance::{Certificate, Instance},
};

/// Keys of AES-256-GCM. The first one seals, all of them open; without any, nothing is sealed.
#[derive(Default)]
pub struct Keys(Vec<Key>);

struct Key {
    id: String,
    key: LessSafeKey,
}

/// A key that is not one, or something sealed that cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum InvalidKey {
    #[error("{0}")]
    Wrong(String),
    #[error("a secret of the instance {instance} is sealed with the key {id:?}, which is not here")]
    Unknown { instance: InstanceId, id: String },
}

/// Of a sealed text: `sealed:<key id>:<base64 of nonce and ciphertext>`.
const SEALED: &str = "sealed:";
const KEY_LEN: usize = 32;

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

impl Keys {
    /// Reads lines of `<id> <base64 of 32 bytes>`; empty ones and those that begin with # say nothing.
    ///
    /// # Errors
    /// A line is not that, an id comes twice, or there is no key at all.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let mut keys: Vec<Key> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // Never the line itself: it holds the key.
            let wrong = |rule: &str| InvalidKey::Wrong(format!("line {}: {rule}", at + 1));
            let (id, encoded) = line.split_once(' ').ok_or_else(|| wrong("an id, a space and a key"))?;
            if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            {
                return Err(wrong("an id of A-Z a-z 0-9 - . _"));
            }
            if keys.iter().any(|key| key.id == id) {
                return Err(wrong("an id that no other line has"));
            }
            let key = BASE64_STANDARD.decode(encoded.trim()).ok().filter(|key| key.len() == KEY_LEN);
            let key = key.and_then(|key| UnboundKey::new(&AES_256_GCM, &key).ok());
            let key = LessSafeKey::new(key.ok_or_else(|| wrong("a key of 32 bytes in base64"))?);
            keys.push(Key { id: id.to_owned(), key });
        }
        if keys.is_empty() {
            return Err(InvalidKey::Wrong("there is no key".into()));
        }
        Ok(Self(keys))
    }

    /// A line with a new key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate(id: &str) -> Result<String, InvalidKey> {
        let mut key = [0; KEY_LEN];
        rand::fill(&mut key).map_err(|_| InvalidKey::Wrong("the system gives no random bytes".into()))?;
        Ok(format!("{id} {}", BASE64_STANDARD.encode(key)))
    }

    /// The instance as it is written.
    pub(crate) fn sealed(&self, mut instance: Instance) -> Result<Instance, InvalidKey> {
        let Instance { id, certificate, bindings, .. } = &mut instance;
        for (place, secret) in secrets(id, certificate, bindings) {
            *secret = self.seal(secret, &place)?;
        }
        Ok(instance)
    }

    /// The instance as it was before it was sealed.
    pub(crate) fn opened(&self, mut instance: Instance) -> Result<Instance, InvalidKey> {
        let Instance { id, certificate, bindings, .. } = &mut instance;
        for (place, secret) in secrets(id, certificate, bindings) {
            *secret = self.open(secret, id, &place)?;
        }
        Ok(instance)
    }

    fn seal(&self, secret: &str, place: &str) -> Result<String, InvalidKey> {
        let Some(Key { id, key }) = self.0.first() else { return Ok(secret.to_owned()) };
        let mut nonce = [0; NONCE_LEN];
        let failed = |_| InvalidKey::Wrong("a secret cannot be sealed".into());
        // 96 random bits: 2^32 secrets under one key stay safe (NIST SP 800-38D section 8.3).
        rand::fill(&mut nonce).map_err(failed)?;
        let mut text = secret.as_bytes().to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut text)
            .map_err(failed)?;
        Ok(format!("{SEALED}{id}:{}", BASE64_STANDARD.encode([&nonce[..], &text].concat())))
    }

    /// What is not sealed was written without keys, and is sealed with the next write.
    fn open(&self, text: &str, of: &InstanceId, place: &str) -> Result<String, InvalidKey> {
        let Some(sealed) = text.strip_prefix(SEALED) else { return Ok(text.to_owned()) };
        let damaged = || InvalidKey::Wrong(format!("a secret of the instance {of} is damaged"));
        let (id, encoded) = sealed.split_once(':').ok_or_else(damaged)?;
        let key = self.0.iter().find(|key| key.id == id);
        let Key { key, .. } =
            key.ok_or_else(|| InvalidKey::Unknown { instance: of.clone(), id: id.to_owned() })?;
        let mut bytes = BASE64_STANDARD.decode(encoded).map_err(|_| damaged())?;
        let (nonce, text) = bytes.split_at_mut_checked(NONCE_LEN).ok_or_else(damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
        let opened = key.open_in_place(nonce, Aad::from(place), text).map_err(|_| damaged())?;
        String::from_utf8(opened.to_vec()).map_err(|_| damaged())
    }
}

/// What is secret in an instance, each with its place: what is sealed for one cannot be put into another, where it might be
/// shown.
fn secrets<'a>(
    id: &InstanceId,
    certificate: &'a mut Option<Certificate>,
    bindings: &'a mut BTreeMap<BindingId, Binding>,
) -> impl Iterator<Item = (String, &'a mut String)> {
    let (own, of) = (id.to_string(), id.to_string());
    let certificate = certificate.iter_mut().map(move |certificate| (own.clone(), &mut certificate.key));
    let place = move |binding: &BindingId| format!("{of}/{binding}");
    let bindings = bindings.iter_mut();
    certificate.chain(bindings.filter_map(move |(id, binding)| Some((place(id), binding.secret.as_mut()?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> InstanceId {
        text.parse().unwrap()
    }

    #[test]
    fn a_secret_is_opened_by_its_key_for_its_instance_only() {
        let (old, new) = (Keys::generate("2025").unwrap(), Keys::generate("2026").unwrap());
        let first = Keys::parse(&old).unwrap();
        let sealed = first.seal("secret", "i-1").unwrap();
        assert!(sealed.starts_with("sealed:2025:") && !sealed.contains("secret"), "{sealed}");
        assert_ne!(first.seal("secret", "i-1").unwrap(), sealed, "a nonce is used once");
        assert_eq!(first.open(&sealed, &id("i-1"), "i-1").unwrap(), "secret");
        assert_eq!(
            first.open(&sealed, &id("i-2"), "i-2").unwrap_err().to_string(),
            "a secret of the instance i-2 is damaged"
        );
        assert!(
            first.open(&sealed, &id("i-1"), "i-1/b-1").is_err(),
            "the secret of a binding would be shown"
        );
        let both = Keys::parse(&format!("# the newest first\n{new}\n\n{old}\n")).unwrap();
        assert_eq!(both.open(&sealed, &id("i-1"), "i-1").unwrap(), "secret");
        assert!(both.seal("secret", "i-1").unwrap().starts_with("sealed:2026:"));
        assert_eq!(
            Keys::parse(&new).unwrap().open(&sealed, &id("i-1"), "i-1").unwrap_err().to_string(),
            "a secret of the instance i-1 is sealed with the key \"2025\", which is not here"
        );
        let cut = &sealed[..sealed.len() - 8];
        assert!(first.open(cut, &id("i-1"), "i-1").is_err());
        assert!(first.open("sealed:2025:AAAA", &id("i-1"), "i-1").is_err());
    }

    #[test]
    fn without_keys_what_is_legible_stays_so() {
        let none = Keys::default();
        assert_eq!(none.seal("secret", "i").unwrap(), "secret");
        assert_eq!(none.open("secret", &id("i"), "i").unwrap(), "secret");
        assert!(none.open("sealed:2025:AAAA", &id("i"), "i").is_err());
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_never_with_the_key() {
        let line = Keys::generate("a").unwrap();
        for (text, words) in [
            (String::new(), "there is no key"),
            ("justone".into(), "line 1: an id, a space and a key"),
            ("a/b aGVsbG8=".into(), "line 1: an id of"),
            ("\na aGVsbG8=".into(), "line 2: a key of 32 bytes"),
            (format!("{line}\n{line}"), "line 2: an id that no other line has"),
        ] {
            let told = Keys::parse(&text).unwrap_err().to_string();
            assert!(told.contains(words) && !told.contains("aGVsbG8"), "{told}");
        }
        assert_eq!(format!("{:?}", Keys::parse(&line).unwrap()), "[\"a\"]");
    }
}
