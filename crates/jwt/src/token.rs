//! JWT access tokens (RFC 7519, RFC 7515), read more strictly than libraries do.
//!
//! A library checks the signature; header and claims are read here, so that a missing, mistyped or unknown
//! part is a refusal and never a default.

use api::authn::{Algorithm, Jwt};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, de::IgnoredAny};

use crate::Keys;

/// What a token says of its bearer, proven by its issuer's signature.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// Which of the methods it was verified for.
    pub method: usize,
    /// `iss`
    pub issuer: String,
    /// `sub`
    pub subject: String,
    /// `scope` or `scp`, with one space between two.
    pub scopes: String,
    /// `exp`: seconds since the epoch.
    pub expires: f64,
}

/// Why a token is refused. The text is for the client, and tells nothing that helps to forge one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum InvalidToken {
    #[error("the token is malformed")]
    Malformed,
    #[error("the token is too long")]
    TooLong,
    #[error("the token needs something that is not supported")]
    Unsupported,
    #[error("the token's issuer is not trusted here")]
    Issuer,
    #[error("the token's algorithm is not allowed")]
    Algorithm,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token lacks a claim that is required, or has it in another type")]
    Claims,
}

/// Why there is no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The client's fault.
    Invalid(InvalidToken),
    /// Ours: the keys of a trusted issuer are not here.
    NoKeys,
}

impl From<InvalidToken> for Refusal {
    fn from(invalid: InvalidToken) -> Self {
        Self::Invalid(invalid)
    }
}

/// Real tokens have one to four KiB; a signature check reads all of it.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// A `kid` is compared and never used to fetch anything.
const MAX_KID_BYTES: usize = 256;
/// Between the issuer's clock and ours.
pub const LEEWAY_SECS: f64 = 30.0;

/// RFC 7515 section 4. `crit` and `b64` change how a signature is read; `zip` belongs to encrypted tokens. What
/// points to keys (`jwk`, `jku`, `x5u`) is not even looked at.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    kid: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, deserialize_with = "present")]
    crit: Presence,
    #[serde(default, deserialize_with = "present")]
    b64: Presence,
    #[serde(default, deserialize_with = "present")]
    zip: Presence,
    #[serde(default, deserialize_with = "present")]
    enc: Presence,
}

/// Whether a field stands there at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Presence {
    #[default]
    Absent,
    Present,
}

/// Whatever the value is, also null.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Presence, D::Error> {
    IgnoredAny::deserialize(value).map(|_| Presence::Present)
}

/// RFC 7519 section 4.1 and RFC 9068 section 2.2. A claim that stands twice is an error of the reader.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: OneOrMany,
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
    scope: Option<String>,
    scp: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// Verifies a token for whichever of the methods trusts its issuer. `now` in seconds since the epoch.
///
/// # Errors
/// The token is not good for any of them, or the keys of its issuer are not here.
pub fn verify<'k>(
    token: &str,
    methods: &[&Jwt],
    keys_of: impl Fn(&str) -> Option<&'k Keys>,
    now: f64,
) -> Result<Verified, Refusal> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(InvalidToken::TooLong.into());
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(InvalidToken::Malformed)?;
    let (header, claims) =
        signed.split_once('.').filter(|(_, claims)| !claims.contains('.')).ok_or(InvalidToken::Malformed)?;
    let header = decoded(header)?;
    let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| InvalidToken::Malformed)?;
    let unsupported = [header.crit, header.b64, header.zip, header.enc].contains(&Presence::Present);
    if unsupported || header.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID_BYTES) {
        return Err(InvalidToken::Unsupported.into());
    }
    let claims: Claims = serde_json::from_slice(&decoded(claims)?).map_err(|_| InvalidToken::Claims)?;
    // The issuer is read before it is proven, only to know whose keys must prove it.
    let nth = methods.iter().position(|method| method.issuer == claims.iss).ok_or(InvalidToken::Issuer)?;
    let method = methods[nth];
    let algorithm = Algorithm::from_name(&header.alg).filter(|named| method.algorithms.contains(named));
    let algorithm = algorithm.ok_or(InvalidToken::Algorithm)?;
    let keys = keys_of(&method.issuer).ok_or(Refusal::NoKeys)?;
    let mut candidates = keys.candidates(header.kid.as_deref(), algorithm);
    let proof = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| InvalidToken::Signature)?;
    if !candidates.any(|key| key.verify_sig(signed.as_bytes(), &proof).is_ok()) {
        return Err(InvalidToken::Signature.into());
    }
    Ok(Verified { method: nth, ..check_claims(claims, method, now)? })
}

fn decoded(segment: &str) -> Result<Vec<u8>, InvalidToken> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(segment).map_err(|_| InvalidToken::Malformed)?;
    // The reader would take the fields from an array too, by their order.
    if json.first() == Some(&b'{') { Ok(json) } else { Err(InvalidToken::Malformed) }
}

fn check_claims(claims: Claims, method: &Jwt, now: f64) -> Result<Verified, InvalidToken> {
    if !claims.aud.as_slice().iter().any(|audience| method.audiences.contains(audience)) {
        return Err(InvalidToken::Audience);
    }
    if !claims.exp.is_finite() || claims.sub.is_empty() || claims.sub.chars().any(char::is_control) {
        return Err(InvalidToken::Claims);
    }
    if claims.exp + LEEWAY_SECS <= now {
        return Err(InvalidToken::Expired);
    }
    if [claims.nbf, claims.iat].into_iter().flatten().any(|from| from - LEEWAY_SECS > now) {
        return Err(InvalidToken::NotYetValid);
    }
    // Some issuers say `scp`, as a list or separated by spaces.
    let others = claims.scp.iter().flat_map(OneOrMany::as_slice);
    let lists = claims.scope.iter().chain(others);
    let mut scopes = String::new();
    for scope in lists.flat_map(|list| list.split(' ')).filter(|scope| !scope.is_empty()) {
        if !scopes.is_empty() {
            scopes.push(' ');
        }
        scopes.push_str(scope);
    }
    Ok(Verified { method: 0, issuer: claims.iss, subject: claims.sub, scopes, expires: claims.exp })
}

/// All claims of a token that was verified.
pub fn claims_of(token: &str) -> serde_json::Map<String, serde_json::Value> {
    let claims = token.split('.').nth(1).and_then(|claims| decoded(claims).ok());
    claims.and_then(|claims| serde_json::from_slice(&claims).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use api::{key_set::KeySet, pb};
    use jsonwebtoken::{EncodingKey, Header as LibraryHeader, jwk::Jwk};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{
        ISSUER, NOW, RSA, claims, ec_key, good, header, keys, method, rsa_key, signed, signed_by, token,
    };

    fn read(token: &str) -> Result<Verified, Refusal> {
        let keys = keys();
        verify(token, &[&method()], |issuer| (issuer == ISSUER).then_some(&keys), NOW)
    }

    #[track_caller]
    fn refused(token: &str, expected: InvalidToken) {
        assert_eq!(read(token), Err(Refusal::Invalid(expected)));
    }

    fn with_claim(name: &str, value: Value) -> String {
        let mut claims = claims();
        claims[name] = value;
        token(&header(), &claims)
    }

    fn without_claim(name: &str) -> String {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        token(&header(), &claims)
    }

    fn with_header(name: &str, value: Value) -> String {
        let mut header = header();
        header[name] = value;
        token(&header, &claims())
    }

    #[test]
    fn a_good_token_tells_who_its_bearer_is() {
        let identity = read(&good()).unwrap();
        assert_eq!((identity.subject.as_str(), identity.scopes.as_str()), ("alice", "read write"));
    }

    #[test]
    fn an_rs256_token_is_good_too() {
        let key = EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap();
        let header =
            LibraryHeader { kid: Some("rsa".into()), ..LibraryHeader::new(jsonwebtoken::Algorithm::RS256) };
        assert!(read(&jsonwebtoken::encode(&header, &claims(), &key).unwrap()).is_ok());
    }

    /// Signed by another library, with keys of each kind.
    #[test]
    fn every_algorithm_is_verified_with_its_own_keys_only() {
        let made = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem();
        let p384 = EncodingKey::from_ec_pem(made(&rcgen::PKCS_ECDSA_P384_SHA384).as_bytes()).unwrap();
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let public = BASE64_URL_SAFE_NO_PAD.encode(rcgen::PublicKeyData::der_bytes(&pair));
        let edwards = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).unwrap();
        let (p256, rsa) = (ec_key(), rsa_key());
        for (name, algorithm) in Algorithm::NAMES {
            let key = match algorithm {
                Algorithm::ES256 => &p256,
                Algorithm::ES384 => &p384,
                Algorithm::EdDSA => &edwards,
                _ => &rsa,
            };
            // The library makes none of an Edwards key that holds its public half.
            let mut jwk = match algorithm {
                Algorithm::EdDSA => json!({"kty": "OKP", "crv": "Ed25519", "x": public}),
                _ => json!(Jwk::from_encoding_key(key, name.parse().unwrap()).unwrap()),
            };
            jwk["kid"] = json!("k");
            let jwks = json!({"keys": [jwk]}).to_string();
            let set = KeySet::try_from(pb::authn::KeySet { name: ISSUER.into(), jwks, uri: String::new() })
                .unwrap();
            let own = Keys::new(set).unwrap();
            let token = signed_by(key, name, "k", &claims());
            let method = Jwt { algorithms: vec![algorithm], ..method() };
            let read = |token: &str| verify(token, &[&method], |_| Some(&own), NOW);
            assert_eq!(read(&token).map(|found| found.subject), Ok("alice".to_owned()), "{name}");
            let other = signed_by(key, name, "other", &claims());
            assert_eq!(read(&other), Err(InvalidToken::Signature.into()), "{name}: another key's name");
            let anothers = keys();
            let verdict = verify(&token, &[&method], |_| Some(&anothers), NOW);
            assert_eq!(verdict, Err(InvalidToken::Signature.into()), "{name}: other keys");
            let (signed, proof) = token.rsplit_once('.').unwrap();
            let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(proof).unwrap();
            bytes[3] ^= 1;
            let forged = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(bytes));
            assert_eq!(read(&forged), Err(InvalidToken::Signature.into()), "{name}: a bit of it");
        }
    }

    #[test]
    fn scopes_may_be_called_scp() {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove("scope");
        claims["scp"] = json!(["a", "b c"]);
        assert_eq!(read(&token(&header(), &claims)).unwrap().scopes, "a b c");
    }

    #[test]
    fn a_token_out_of_its_time_is_refused() {
        refused(&with_claim("exp", json!(NOW - 31.0)), InvalidToken::Expired);
        refused(&with_claim("nbf", json!(NOW + 31.0)), InvalidToken::NotYetValid);
        refused(&with_claim("iat", json!(NOW + 31.0)), InvalidToken::NotYetValid);
        assert!(read(&with_claim("exp", json!(NOW - 29.0))).is_ok(), "clocks differ a little");
    }

    #[test]
    fn a_claim_of_the_wrong_type_is_refused() {
        for (name, value) in [
            ("exp", json!("1900000000")),
            ("exp", json!(null)),
            ("nbf", json!("soon")),
            ("iss", json!([ISSUER])),
            ("iss", json!({})),
            ("aud", json!(123)),
            ("aud", json!(["hello", 1])),
            ("sub", json!(7)),
            ("sub", json!("")),
            ("sub", json!("a\r\nx-admin: 1")),
            ("scope", json!(["read"])),
        ] {
            let refusal = read(&with_claim(name, value.clone())).unwrap_err();
            assert_eq!(refusal, Refusal::Invalid(InvalidToken::Claims), "{name}: {value}");
        }
    }

    #[test]
    fn a_missing_claim_is_refused() {
        for name in ["iss", "sub", "aud", "exp"] {
            refused(&without_claim(name), InvalidToken::Claims);
        }
    }

    #[test]
    fn a_header_or_claims_that_are_no_object_are_refused() {
        let array = json!(["ES256", "ec"]).to_string();
        refused(&signed(&array, &claims().to_string()), InvalidToken::Malformed);
        let array = json!([ISSUER, "alice", "hello", NOW + 60.0, null, null, "read", null]).to_string();
        refused(&signed(&header().to_string(), &array), InvalidToken::Malformed);
    }

    #[test]
    fn a_claim_that_stands_twice_is_refused() {
        let claims = claims().to_string().replacen('{', "{\"sub\":\"mallory\",", 1);
        refused(&signed(&header().to_string(), &claims), InvalidToken::Claims);
    }

    #[test]
    fn another_audience_or_issuer_is_refused() {
        refused(&with_claim("aud", json!("other")), InvalidToken::Audience);
        refused(&with_claim("aud", json!([])), InvalidToken::Audience);
        refused(&with_claim("iss", json!("https://evil.test/")), InvalidToken::Issuer);
    }

    #[test]
    fn an_algorithm_that_is_not_allowed_is_refused() {
        for name in ["none", "None", "", "HS256", "ES384", "PS256", "es256"] {
            refused(&with_header("alg", json!(name)), InvalidToken::Algorithm);
        }
        refused(&with_header("alg", json!("RS256")), InvalidToken::Signature);
    }

    #[test]
    fn what_would_change_how_a_signature_is_read_is_refused() {
        for (name, value) in [
            ("crit", json!(["exp"])),
            ("crit", json!(null)),
            ("b64", json!(false)),
            ("zip", json!("DEF")),
            ("enc", json!("A256GCM")),
        ] {
            refused(&with_header(name, value), InvalidToken::Unsupported);
        }
        refused(&with_header("kid", json!("x".repeat(257))), InvalidToken::Unsupported);
    }

    #[test]
    fn a_key_that_the_token_brings_along_is_not_looked_at() {
        assert!(read(&with_header("jku", json!("https://evil.test/jwks"))).is_ok());
        refused(&with_header("kid", json!("../../etc/passwd")), InvalidToken::Signature);
    }

    #[test]
    fn a_tampered_token_is_refused() {
        let good = good();
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let mut claims = claims();
        claims["sub"] = json!("mallory");
        let forged = token(&header(), &claims);
        let (forged, _) = forged.rsplit_once('.').unwrap();
        refused(&format!("{forged}.{signature}"), InvalidToken::Signature);
        refused(&format!("{signed}."), InvalidToken::Signature);
        refused(signed, InvalidToken::Malformed);
        refused(&format!("{good}.x"), InvalidToken::Malformed);
        refused(&format!("{good}="), InvalidToken::Signature);
        refused("a.b.c.d.e", InvalidToken::Malformed);
        refused("", InvalidToken::Malformed);
        refused(&"a".repeat(MAX_TOKEN_BYTES + 1), InvalidToken::TooLong);
        // r = s = 0 (CVE-2022-21449).
        refused(&format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode([0; 64])), InvalidToken::Signature);
    }

    #[test]
    fn without_the_issuers_keys_nothing_is_decided() {
        assert_eq!(verify(&good(), &[&method()], |_| None, NOW), Err(Refusal::NoKeys));
    }

    proptest! {
        #[test]
        fn no_mutation_of_a_good_token_is_good(at in 0_usize..300, byte in 0x21_u8..0x7f) {
            let good = good();
            let mut bytes = good.clone().into_bytes();
            let at = at % bytes.len();
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            prop_assert!(read(std::str::from_utf8(&bytes).unwrap()).is_err());
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            prop_assert!(read(&text).is_err());
        }
    }
}
