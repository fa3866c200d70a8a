//! Proofs of possession (DPoP, RFC 9449): the one that a token was issued to signs each request with a key of its own.

use api::{authn::Algorithm, key_set};
use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    Keys,
    token::{Parts, Presence, Thumbprint, parts, present, thumbprint},
};

/// What a request says that a proof has to be for.
#[derive(Debug, Clone, Copy)]
pub struct Proof<'a> {
    /// The header `DPoP`.
    pub text: &'a str,
    /// The token that it goes with.
    pub token: &'a str,
    /// Of the request.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Of the request; its port does not count, since Envoy has taken it off.
    pub host: &'a str,
    /// Of the request; its query does not count.
    pub path: &'a str,
}

/// A proof that is good for its request. Whoever sees the same id of the same key again must refuse it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proven {
    /// Of the key that signed it (RFC 7638).
    pub key: Thumbprint,
    /// SHA-256 of its id, which the client chose.
    pub id: [u8; 32],
    /// Seconds since the epoch.
    pub issued_at: f64,
}

/// Why a proof is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum InvalidProof {
    Malformed,
    Key,
    Signature,
    Request,
    Token,
    Time,
}

impl InvalidProof {
    /// For the client.
    pub fn text(self) -> &'static str {
        match self {
            Self::Malformed => "the proof is malformed",
            Self::Key => "the proof's key is none that can prove anything",
            Self::Signature => "the proof's signature is wrong",
            Self::Request => "the proof is for another request",
            Self::Token => "the proof is for another token",
            Self::Time => "the proof is too old, or of a time to come",
        }
    }
}

/// How old a proof may be, and how far ahead of us its clock. Seconds; a client makes one for each request.
pub const PROOF_WINDOW_SECS: f64 = 60.0;
/// Of `jti`; 128 random bits have 22.
const MAX_ID_BYTES: usize = 256;

/// RFC 9449 section 4.2.
#[derive(Deserialize)]
struct Header {
    typ: String,
    alg: String,
    jwk: Map<String, Value>,
    #[serde(default, deserialize_with = "present")]
    crit: Presence,
    #[serde(default, deserialize_with = "present")]
    b64: Presence,
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: f64,
    ath: String,
}

/// Checks a proof as RFC 9449 section 4.3 says, except whether it was seen before. `now` in seconds since the epoch.
///
/// # Errors
/// It is not good for this request.
pub fn prove(proof: &Proof<'_>, now: f64) -> Result<Proven, InvalidProof> {
    let parts = parts(proof.text).map_err(|_| InvalidProof::Malformed)?;
    let Parts { signed, signature, header, claims } = parts;
    let header: Header = serde_json::from_slice(&header).map_err(|_| InvalidProof::Malformed)?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| InvalidProof::Malformed)?;
    let is_plain = header.typ.eq_ignore_ascii_case("dpop+jwt")
        && [header.crit, header.b64] == [Presence::Absent; 2]
        && !claims.jti.is_empty()
        && claims.jti.len() <= MAX_ID_BYTES;
    if !is_plain {
        return Err(InvalidProof::Malformed);
    }
    // Cheap ones first: a signature check is the most expensive.
    if claims.htm != proof.method || !is_same_place(&claims.htu, proof) {
        return Err(InvalidProof::Request);
    }
    if !claims.iat.is_finite() || (now - claims.iat).abs() > PROOF_WINDOW_SECS {
        return Err(InvalidProof::Time);
    }
    let of_token = digest(&SHA256, proof.token.as_bytes());
    if thumbprint(&claims.ath).as_ref().map(<[u8; 32]>::as_slice) != Some(of_token.as_ref()) {
        return Err(InvalidProof::Token);
    }
    let key = key_thumbprint(&header.jwk).ok_or(InvalidProof::Key)?;
    let algorithm = Algorithm::from_name(&header.alg).ok_or(InvalidProof::Key)?;
    let set = key_set::of_one(Value::Object(header.jwk)).ok_or(InvalidProof::Key)?;
    let keys = Keys::new(set).map_err(|_| InvalidProof::Key)?;
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| InvalidProof::Signature)?;
    if !keys.candidates(None, algorithm).any(|key| key.verify_sig(signed.as_bytes(), &signature).is_ok()) {
        return Err(InvalidProof::Signature);
    }
    Ok(Proven { key, id: sha256(claims.jti.as_bytes()), issued_at: claims.iat })
}

/// RFC 7638 section 3.2: what the key is, in the order of the alphabet. `None` for a key that shows its private half.
pub(crate) fn key_thumbprint(jwk: &Map<String, Value>) -> Option<Thumbprint> {
    if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|private| jwk.contains_key(*private)) {
        return None;
    }
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let members: &[&str] = match text("kty")? {
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        "RSA" => &["e", "kty", "n"],
        _ => return None,
    };
    let mut canonical = String::from("{");
    for (at, name) in members.iter().enumerate() {
        let value = text(name)?;
        // Base64url and names of curves: nothing that JSON would escape.
        if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            return None;
        }
        let comma = if at == 0 { "" } else { "," };
        canonical.push_str(&format!("{comma}\"{name}\":\"{value}\""));
    }
    canonical.push('}');
    Some(sha256(canonical.as_bytes()))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Scheme, host and path (RFC 9449 section 4.3, RFC 3986 section 6.2).
fn is_same_place(htu: &str, proof: &Proof<'_>) -> bool {
    let Some((scheme, rest)) = htu.split_once("://") else { return false };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let asked = proof.path.split(['?', '#']).next().unwrap_or_default();
    scheme.eq_ignore_ascii_case(proof.scheme)
        && !authority.contains('@')
        && without_port(authority).eq_ignore_ascii_case(without_port(proof.host))
        && path == asked
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.is_empty() => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{NOW, ec_jwk, token};

    const TOKEN: &str = "a.b.c";

    fn claims() -> Value {
        let ath = BASE64_URL_SAFE_NO_PAD.encode(sha256(TOKEN.as_bytes()));
        json!({"jti": "1", "htm": "GET", "htu": "https://hello.example.test/a", "iat": NOW, "ath": ath})
    }

    fn header() -> Value {
        json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": ec_jwk()})
    }

    fn read(text: &str) -> Result<Proven, InvalidProof> {
        let (host, path) = ("hello.example.test", "/a?x=1");
        prove(&Proof { text, token: TOKEN, method: "GET", scheme: "https", host, path }, NOW)
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Value, &mut Value), expected: InvalidProof) {
        let (mut header, mut claims) = (header(), claims());
        change(&mut header, &mut claims);
        assert_eq!(read(&token(&header, &claims)), Err(expected), "{header} {claims}");
    }

    #[test]
    fn a_proof_tells_whose_key_has_signed_the_request() {
        let proven = read(&token(&header(), &claims())).unwrap();
        assert_eq!((proven.id, proven.issued_at), (sha256(b"1"), NOW));
        let same = ["HTTPS://Hello.Example.Test/a", "https://hello.example.test:443/a?y#z"];
        for htu in same {
            let mut claims = claims();
            claims["htu"] = json!(htu);
            assert!(read(&token(&header(), &claims)).is_ok(), "{htu}");
        }
    }

    /// RFC 7638 section 3.1.
    #[test]
    fn a_key_has_the_thumbprint_of_the_rfc() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let jwk = json!({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"});
        let print = key_thumbprint(jwk.as_object().unwrap()).unwrap();
        assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(print), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn a_proof_for_something_else_is_refused() {
        check(|_, claims| claims["htm"] = json!("POST"), InvalidProof::Request);
        check(|_, claims| claims["htm"] = json!("get"), InvalidProof::Request);
        for htu in [
            "http://hello.example.test/a",
            "https://hello.example.test/a/",
            "https://hello.example.test/",
            "https://evil.test/a",
            "https://hello.example.test@evil.test/a",
            "https://x@hello.example.test/a",
            "/a",
            "",
        ] {
            check(|_, claims| claims["htu"] = json!(htu), InvalidProof::Request);
        }
        check(
            |_, claims| claims["ath"] = json!(BASE64_URL_SAFE_NO_PAD.encode(sha256(b"x"))),
            InvalidProof::Token,
        );
        check(|_, claims| claims["iat"] = json!(NOW - 61.0), InvalidProof::Time);
        check(|_, claims| claims["iat"] = json!(NOW + 61.0), InvalidProof::Time);
    }

    #[test]
    fn what_is_no_proof_is_refused() {
        for name in ["jti", "htm", "htu", "iat", "ath"] {
            check(|_, claims| drop(claims.as_object_mut().unwrap().remove(name)), InvalidProof::Malformed);
        }
        check(|_, claims| claims["jti"] = json!(""), InvalidProof::Malformed);
        check(|_, claims| claims["jti"] = json!("x".repeat(257)), InvalidProof::Malformed);
        check(|header, _| header["typ"] = json!("JWT"), InvalidProof::Malformed);
        check(|header, _| header["crit"] = json!([]), InvalidProof::Malformed);
        check(|header, _| header["alg"] = json!("none"), InvalidProof::Key);
        check(|header, _| header["alg"] = json!("HS256"), InvalidProof::Key);
        check(|header, _| header["alg"] = json!("ES384"), InvalidProof::Signature);
        check(|header, _| header["jwk"]["d"] = json!("secret"), InvalidProof::Key);
        check(|header, _| header["jwk"] = json!({"kty": "oct", "k": "c2VjcmV0"}), InvalidProof::Key);
        let other = json!({"kty": "EC", "crv": "P-256", "x": "WKn-ZIGevcwGIyyrzFoZNBdaq9_TsqzGl96oc0CWuis", "y": "y77t-RvAHRKTsSGdIYUfweuOvwrvDD-Q3Hv5J0fSKbE"});
        check(|header, _| header["jwk"] = other, InvalidProof::Signature);
        for text in ["", "a.b", "a.b.c", &"a".repeat(20_000)] {
            assert_eq!(read(text), Err(InvalidProof::Malformed));
        }
    }

    proptest::proptest! {
        /// One byte or more, anywhere in a proof: also in the key that it brings along, which is bound to the token by its
        /// thumbprint.
        #[test]
        fn no_mutation_of_a_good_proof_proves_the_same(
            changes in proptest::collection::vec((0_usize..4_096, 0x21_u8..0x7f), 1..4),
        ) {
            let good = token(&header(), &claims());
            proptest::prop_assert!(read(&good).is_ok());
            let mut bytes = good.clone().into_bytes();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            let changed = String::from_utf8(bytes).unwrap();
            proptest::prop_assert!(changed == good || read(&changed).is_err(), "{}", changed);
        }
    }

    /// The other signature of ECDSA is of the same proof, which was seen before: its id counts, and not its text.
    #[test]
    fn another_spelling_of_a_proofs_signature_is_the_same_proof() {
        let good = token(&header(), &claims());
        let other = crate::testing::malleated(&good);
        assert_ne!(other, good);
        assert_eq!(read(&other), read(&good));
    }
}
