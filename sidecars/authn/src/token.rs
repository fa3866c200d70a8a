//! Identity tokens: the upstream is told who sends a request by a short JWT that the edge signs, in the place of headers
//! that it would have to take from whoever reaches it.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use api::identity_key::IdentityKey;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use quick_cache::{Weighter, sync::Cache};
use serde_json::{Map, Value, json};

use crate::{
    cache::{Id, Known},
    identity::Identity,
};

/// The header that the upstream finds it in.
pub(crate) const HEADER: &str = "x-gatehouse-identity";

/// The keys of this group, by when they begin to sign.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signers(Vec<Arc<Signer>>);

/// One of them.
pub(crate) struct Signer {
    id: String,
    issuer: String,
    from: u64,
    key: EcdsaKeyPair,
    /// The JWS header, encoded.
    header: String,
}

/// Tokens that were signed a moment ago.
pub(crate) struct Issued(Cache<Id, Arc<Token>, BySize>);

struct Token {
    text: String,
    /// What it says.
    of: Weak<Known>,
    /// Whose key; a newer one signs anew.
    key: u64,
    /// Until when it is handed out. Seconds since the epoch.
    until: f64,
}

#[derive(Clone)]
struct BySize;

/// What an upstream has to take it in; a stolen one is of no use for longer.
const LIFETIME_SECS: f64 = 60.0;
/// A token is handed out for half of its life, so that who gets it last has as much time.
const FRESH_SECS: f64 = 30.0;
/// A token has about a KiB: so many requests are signed for in half a minute.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
const COMMON: usize = 1_000;

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("id", &self.id).field("from", &self.from).finish_non_exhaustive()
    }
}

impl Signers {
    /// Adds a key, or replaces the one of its id.
    pub(crate) fn insert(&mut self, key: IdentityKey) -> Result<(), String> {
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &key.private,
            &key.public,
        );
        // What they hold is never told.
        let pair = pair.map_err(|_| "private_key: one of P-256, with its public key".to_owned())?;
        let header = json!({"alg": "ES256", "kid": key.id, "typ": "JWT"}).to_string();
        let header = BASE64_URL_SAFE_NO_PAD.encode(header);
        self.remove(&key.id);
        let signer = Signer { id: key.id, issuer: key.issuer, from: key.from, key: pair, header };
        self.0.push(Arc::new(signer));
        self.0.sort_by_key(|signer| signer.from);
        Ok(())
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.0.retain(|signer| signer.id != id);
    }

    /// The last one whose time has begun; before all of them, the first.
    fn current(&self, now: f64) -> Option<&Signer> {
        // 2^53 seconds are enough.
        #[allow(clippy::cast_precision_loss)]
        let begun = self.0.iter().rev().find(|signer| signer.from as f64 <= now);
        begun.or(self.0.first()).map(|signer| &**signer)
    }
}

impl Default for Issued {
    fn default() -> Self {
        Self(Cache::with_weighter(COMMON, MAX_BYTES, BySize))
    }
}

impl Issued {
    /// The token for who was proven by a credential; `None` when there is no key to sign with.
    pub(crate) fn token(
        &self,
        credential: &Id,
        known: &Arc<Known>,
        audience: &str,
        signers: &Signers,
        now: f64,
    ) -> Option<String> {
        let signer = signers.current(now)?;
        let is_same = |token: &Token| {
            now < token.until
                && token.key == signer.from
                && std::ptr::eq(token.of.as_ptr(), Arc::as_ptr(known))
        };
        if let Some(token) = self.0.get(credential).filter(|token| is_same(token)) {
            return Some(token.text.clone());
        }
        let (text, expires) = signer.sign(&known.proven.identity, audience, known.proven.until, now)?;
        let until = (now + FRESH_SECS).min(expires);
        let token = Token { text: text.clone(), of: Arc::downgrade(known), key: signer.from, until };
        self.0.insert(*credential, Arc::new(token));
        Some(text)
    }
}

impl Signer {
    /// `until` is how long what proved it is believed.
    fn sign(&self, identity: &Identity, audience: &str, until: f64, now: f64) -> Option<(String, f64)> {
        let texts = identity.texts();
        // Whole seconds, since not all readers take others. It does not outlive what proved it; that was good just now, so
        // what is left of its second is.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let (issued_at, last) = (now as u64, (now + LIFETIME_SECS).min(until) as u64);
        let expires = last.max(issued_at + 1);
        let mut claims = json!({
            "iss": self.issuer,
            "aud": audience,
            "sub": texts.subject,
            "iat": issued_at,
            "exp": expires,
            "amr": [identity.kind.name()],
        });
        let more = claims.as_object_mut()?;
        add(more, "scope", texts.scopes);
        add(more, "tenant", texts.tenant);
        add(more, "cred_id", texts.credential);
        add(more, "idp", identity.issuer.as_deref().unwrap_or_default());
        if !texts.groups.is_empty() {
            more.insert("groups".into(), texts.groups.split('\n').collect());
        }
        let signed = format!("{}.{}", self.header, BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
        let proof = self.key.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
        // 2^53 seconds are enough.
        #[allow(clippy::cast_precision_loss)]
        let expires = expires as f64;
        Some((format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(proof)), expires))
    }
}

fn add(claims: &mut Map<String, Value>, name: &str, text: &str) {
    if !text.is_empty() {
        claims.insert(name.to_owned(), text.into());
    }
}

impl Weighter<Id, Arc<Token>> for BySize {
    fn weight(&self, _: &Id, token: &Arc<Token>) -> u64 {
        (128 + token.text.len()) as u64
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use api::{
        authn::{Algorithm, Jwt},
        key_set::KeySet,
        pb,
    };
    use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};

    use super::*;
    use crate::{
        cache::Tokens,
        identity::{Kind, Texts},
        method::Place,
    };

    const ISSUER: &str = "https://edge.example.test/";
    const NOW: f64 = 1_800_000_000.0;

    fn key(byte: u8, from: u64) -> IdentityKey {
        let private = [byte; 32];
        let public =
            PrivateKey::from_private_key(&ECDH_P256, &private).unwrap().compute_public_key().unwrap();
        let public = public.as_ref().try_into().unwrap();
        IdentityKey { id: format!("key-{byte}"), issuer: ISSUER.into(), private, public, from }
    }

    /// Two of two days.
    pub(crate) fn signers() -> Signers {
        let mut signers = Signers::default();
        for (byte, from) in [(2, 1_800_000_100), (1, 1_799_900_000)] {
            signers.insert(key(byte, from)).unwrap();
        }
        signers
    }

    /// What an upstream reads of it, by the keys that it finds published.
    pub(crate) fn read(token: &str, audience: &str, now: f64) -> Result<jwt::Verified, jwt::Refusal> {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let jwk = |byte: u8| {
            let key = key(byte, 0);
            let (x, y) = key.public[1..].split_at(32);
            json!({"kty": "EC", "crv": "P-256", "x": text(x), "y": text(y), "kid": key.id})
        };
        let jwks = json!({"keys": [jwk(1), jwk(2)]}).to_string();
        let wire = pb::authn::KeySet { name: ISSUER.into(), jwks, ..Default::default() };
        let keys = jwt::Keys::new(KeySet::try_from(wire).unwrap()).unwrap();
        let method = Jwt {
            issuer: ISSUER.into(),
            audiences: vec![audience.into()],
            algorithms: vec![Algorithm::ES256],
            tenant_claim: None,
            groups_claim: None,
            claims: Vec::new(),
        };
        jwt::verify(token, &[&method], |_| Some(&keys), now)
    }

    /// Who was proven so, and is believed until then.
    fn known(identity: Identity, until: f64) -> Arc<Known> {
        let proven = crate::method::Proven { until, ..crate::method::Proven::lasting(identity) };
        Arc::new(Known { methods: crate::policy::Methods::default(), proven })
    }

    fn alice() -> Identity {
        let texts =
            Texts { subject: "alice", tenant: "acme", scopes: "a b", groups: "x\ny", ..Texts::default() };
        Identity::new(Kind::Jwt, texts)
            .by(Some("https://id.example.test/".into()))
            .between(None, Some(NOW + 3_600.0))
    }

    fn id(text: &str) -> Id {
        Tokens::new([7; 32]).id(&[1; 32], Place::Authorization("bearer"), text)
    }

    #[test]
    fn an_upstream_reads_who_it_is_and_nobody_else_can_use_it() {
        let token = Issued::default()
            .token(&id("a"), &known(alice(), NOW + 300.0), "hello", &signers(), NOW)
            .unwrap();
        let read_as = |audience: &str, now| read(&token, audience, now);
        let found = read_as("hello", NOW).unwrap();
        assert_eq!((found.subject.as_str(), found.scopes.as_str()), ("alice", "a b"));
        assert_eq!((found.tenant.as_deref(), found.groups.join(" ")), (Some("acme"), "x y".to_owned()));
        assert!((found.expires - NOW - 60.0).abs() < 0.1, "{}", found.expires);
        assert!(read_as("other", NOW).is_err(), "another service");
        assert!(read_as("hello", NOW + 91.0).is_err(), "a minute later");
        let claims = jwt::claims_of(&token);
        assert_eq!((&claims["amr"], &claims["idp"]), (&json!(["jwt"]), &json!("https://id.example.test/")));
    }

    #[test]
    fn a_token_is_signed_once_in_half_a_minute_and_anew_by_a_new_key() {
        let issued = Issued::default();
        let alice = known(alice(), NOW + 300.0);
        let at = |now, name: &str| issued.token(&id(name), &alice, "hello", &signers(), now).unwrap();
        assert_eq!(at(NOW, "a"), at(NOW + 29.0, "a"));
        assert_ne!(at(NOW, "a"), at(NOW, "b"), "another credential");
        let later = at(NOW + 31.0, "a");
        assert_ne!(at(NOW, "c"), later);
        let of = |token: &str| {
            let header = token.split('.').next().unwrap();
            String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap()
        };
        assert!(of(&at(NOW + 99.0, "d")).contains("key-1"));
        assert!(of(&at(NOW + 100.0, "d")).contains("key-2"), "its day has begun");
    }

    #[test]
    fn it_does_not_outlive_what_proved_it_and_needs_a_key() {
        let brief = known(alice(), NOW + 10.0);
        let token = Issued::default().token(&id("a"), &brief, "hello", &signers(), NOW).unwrap();
        assert!((read(&token, "hello", NOW).unwrap().expires - NOW - 10.0).abs() < 0.1);
        assert_eq!(Issued::default().token(&id("a"), &brief, "hello", &Signers::default(), NOW), None);
        let issued = Issued::default();
        let first = issued.token(&id("a"), &brief, "hello", &signers(), NOW);
        let other = known(alice().between(None, Some(NOW)), NOW + 10.0);
        assert_ne!(
            issued.token(&id("a"), &other, "hello", &signers(), NOW),
            first,
            "another answer, another token"
        );
        let mut wrong = key(1, 0);
        wrong.public = key(2, 0).public;
        assert!(Signers::default().insert(wrong).is_err(), "halves of two keys");
    }
}
