//! Makes tokens, good and bad, for tests of this crate and of those that use it.

// A test that cannot go on says so and ends.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::missing_panics_doc, missing_docs)]

use api::{
    authn::{Algorithm, Jwt},
    key_set::KeySet,
    pb,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, jwk::Jwk};
use serde_json::{Value, json};

use crate::{Keys, Refusal, Verified, verify};

pub const ISSUER: &str = "https://id.example.test/";
pub const NOW: f64 = 1_800_000_000.0;
/// Made for these tests alone.
const EC: &str = include_str!("../testdata/es256.pem");
pub const RSA: &str = include_str!("../testdata/rs256.pem");

pub fn ec_key() -> EncodingKey {
    EncodingKey::from_ec_pem(EC.as_bytes()).unwrap()
}

pub fn rsa_key() -> EncodingKey {
    EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap()
}

pub fn jwks() -> String {
    let mut ec = Jwk::from_encoding_key(&ec_key(), jsonwebtoken::Algorithm::ES256).unwrap();
    ec.common.key_id = Some("ec".into());
    let mut rsa = Jwk::from_encoding_key(&rsa_key(), jsonwebtoken::Algorithm::RS256).unwrap();
    rsa.common.key_id = Some("rsa".into());
    json!({"keys": [ec, rsa]}).to_string()
}

/// The public half of the EC key.
pub fn ec_jwk() -> Value {
    let Value::Object(mut jwk) =
        json!(Jwk::from_encoding_key(&ec_key(), jsonwebtoken::Algorithm::ES256).unwrap())
    else {
        unreachable!("a key is an object")
    };
    jwk.retain(|name, _| ["kty", "crv", "x", "y"].contains(&name.as_str()));
    Value::Object(jwk)
}

/// As tokens that are bound to the EC key have it.
pub fn ec_thumbprint() -> String {
    let key = crate::proof::key_thumbprint(ec_jwk().as_object().unwrap()).unwrap();
    BASE64_URL_SAFE_NO_PAD.encode(key)
}

/// As tokens that are bound to a certificate have it, of its PEM.
pub fn certificate_thumbprint(pem: &str) -> String {
    let lines = pem.lines().filter(|line| !line.starts_with('-')).collect::<String>();
    let der = base64::prelude::BASE64_STANDARD.decode(lines).unwrap();
    BASE64_URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der))
}

/// A good proof of possession of the EC key, for this token and this request.
pub fn proof_for(access_token: &str, method: &str, url: &str, id: &str, now: u64) -> String {
    let ath = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, access_token.as_bytes());
    let ath = BASE64_URL_SAFE_NO_PAD.encode(ath);
    let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": ec_jwk()});
    token(&header, &json!({"jti": id, "htm": method, "htu": url, "iat": now, "ath": ath}))
}

pub fn keys() -> Keys {
    let set = KeySet::try_from(pb::authn::KeySet { name: ISSUER.into(), jwks: jwks(), ..Default::default() })
        .unwrap();
    Keys::new(set).unwrap()
}

pub use crate::claims_of;

/// What somebody reads of a token who trusts this issuer's published keys.
#[allow(clippy::cast_precision_loss)]
pub fn read_by(jwks: &str, issuer: &str, audience: &str, token: &str, now: u64) -> Result<Verified, Refusal> {
    let wire = pb::authn::KeySet { name: issuer.into(), jwks: jwks.into(), ..Default::default() };
    let keys = Keys::new(KeySet::try_from(wire).unwrap()).unwrap();
    let method = Jwt { issuer: issuer.into(), audiences: vec![audience.into()], ..method() };
    verify(token, &[&method], |_| Some(&keys), now as f64)
}

pub fn method() -> Jwt {
    let algorithms = vec![Algorithm::ES256, Algorithm::RS256];
    let (tenant_claim, groups_claim) = (None, None);
    Jwt {
        issuer: ISSUER.into(),
        audiences: vec!["hello".into()],
        algorithms,
        tenant_claim,
        groups_claim,
        claims: Vec::new(),
    }
}

pub fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "aud": ["hello", "other"], "exp": NOW + 60.0, "iat": NOW, "scope": "read write"})
}

pub fn header() -> Value {
    json!({"alg": "ES256", "kid": "ec", "typ": "JWT"})
}

/// Signs whatever it is given.
pub fn signed(header: &str, claims: &str) -> String {
    signed_as(&ec_key(), jsonwebtoken::Algorithm::ES256, header, claims)
}

/// A token of this key.
pub fn signed_by(key: &EncodingKey, algorithm: &str, kid: &str, claims: &Value) -> String {
    let header = json!({"alg": algorithm, "kid": kid, "typ": "JWT"});
    signed_as(key, algorithm.parse().unwrap(), &header.to_string(), &claims.to_string())
}

/// Signs whatever it is given, with this key.
pub fn signed_as(
    key: &EncodingKey,
    algorithm: jsonwebtoken::Algorithm,
    header: &str,
    claims: &str,
) -> String {
    let message = format!("{}.{}", encoded(header.as_bytes()), encoded(claims.as_bytes()));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// Base64url.
pub fn encoded(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// An EC key of nobody, and its public half.
pub fn stranger() -> (EncodingKey, Value) {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let key = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    (key, json!({"kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y)}))
}

/// A token that says it has a MAC of this secret, and does.
pub fn with_mac(secret: &[u8], claims: &Value) -> String {
    use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};

    let header = json!({"alg": "HS256", "typ": "JWT"}).to_string();
    let message = format!("{}.{}", encoded(header.as_bytes()), encoded(claims.to_string().as_bytes()));
    format!("{message}.{}", encoded(sign(&Key::new(HMAC_SHA256, secret), message.as_bytes()).as_ref()))
}

/// The order of P-256 (FIPS 186-5, SP 800-186 section 3.2.1.3).
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
    0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// The same ES256 token with the signature (r, n - s) in the place of (r, s), which is as good.
pub fn malleated(token: &str) -> String {
    let (message, signature) = token.rsplit_once('.').unwrap();
    let mut signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = false;
    for at in (0..32).rev() {
        let (less, first) = ORDER[at].overflowing_sub(signature[32 + at]);
        let (less, second) = less.overflowing_sub(u8::from(borrow));
        (signature[32 + at], borrow) = (less, first || second);
    }
    format!("{message}.{}", encoded(&signature))
}

/// Checks the signature of a token, and nothing else of it.
pub fn raw_check(token: &str) -> impl Fn() -> bool {
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (message, proof) = (message.to_owned(), BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap());
    let keys = keys();
    let algorithm = if proof.len() > 64 { Algorithm::RS256 } else { Algorithm::ES256 };
    move || keys.candidates(None, algorithm).any(|key| key.verify_sig(message.as_bytes(), &proof).is_ok())
}

pub fn token(header: &Value, claims: &Value) -> String {
    signed(&header.to_string(), &claims.to_string())
}

pub fn good() -> String {
    token(&header(), &claims())
}
