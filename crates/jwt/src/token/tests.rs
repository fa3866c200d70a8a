//! Tokens that must not pass, and the few that must.

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
        let set =
            KeySet::try_from(pb::authn::KeySet { name: ISSUER.into(), jwks, ..Default::default() }).unwrap();
        let own = Keys::new(set).unwrap();
        let token = signed_by(key, name, "k", &claims());
        let method = Jwt { algorithms: vec![algorithm], ..method() };
        let read = |token: &str| verify(token, &[&method], |_| Some(&own), NOW);
        assert_eq!(read(&token).map(|found| found.subject), Ok("alice".to_owned()), "{name}");
        let other = signed_by(key, name, "other", &claims());
        assert_eq!(read(&other), Err(InvalidToken::UnknownKey.into()), "{name}: another key's name");
        let anothers = keys();
        let verdict = verify(&token, &[&method], |_| Some(&anothers), NOW);
        assert_eq!(verdict, Err(InvalidToken::UnknownKey.into()), "{name}: other keys");
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
    refused(&with_header("kid", json!("../../etc/passwd")), InvalidToken::UnknownKey);
}

#[test]
fn a_token_for_another_purpose_is_refused() {
    for typ in ["dpop+jwt", "logout+jwt", "secevent+jwt", "JOSE", "", "application/"] {
        refused(&with_header("typ", json!(typ)), InvalidToken::Type);
    }
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        assert!(read(&with_header("typ", json!(typ))).is_ok(), "{typ}");
    }
    let mut header = header();
    header.as_object_mut().unwrap().remove("typ");
    assert!(read(&token(&header, &claims())).is_ok(), "older issuers say nothing");
}

#[test]
fn claims_that_a_method_carries_become_texts() {
    let names: Vec<_> = ["department", "level", "is_staff", "none"].map(str::to_owned).into();
    let read = |json: &str| carried(json.as_bytes(), &names);
    let good =
        read(r#"{"department": ["sales", "it", ""], "level": 3, "is_staff": true, "none": null, "x": {}}"#);
    let one = |name: &str, values: &[&str]| {
        (name.to_owned(), values.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(
        good,
        Ok(vec![one("department", &["sales", "it"]), one("level", &["3"]), one("is_staff", &["true"])])
    );
    for bad in [
        r#"{"department": {"a": 1}}"#,
        r#"{"department": [["a"]]}"#,
        r#"{"department": "a\nb"}"#,
        r#"{"department": "a", "department": "b"}"#,
        r#"["department"]"#,
    ] {
        assert_eq!(read(bad), Err(InvalidToken::Claims), "{bad}");
    }
    let long = format!(r#"{{"department": ["{}", "{}"]}}"#, "a".repeat(1_025), "b".repeat(1_024));
    assert_eq!(read(&long), Err(InvalidToken::Claims));
}

#[test]
fn tenant_and_groups_are_read_where_the_method_says() {
    let mut claims = claims();
    (claims["tenant"], claims["groups"]) = (json!("acme"), json!(["a", "b"]));
    (claims["tid"], claims["roles"]) = (json!("other"), json!("admin"));
    let token = token(&header(), &claims);
    let found = read(&token).unwrap();
    assert_eq!((found.tenant.as_deref(), found.groups), (Some("acme"), vec!["a".to_owned(), "b".into()]));
    let keys = keys();
    let renamed = Jwt { tenant_claim: Some("tid".into()), groups_claim: Some("roles".into()), ..method() };
    let found = verify(&token, &[&renamed], |_| Some(&keys), NOW).unwrap();
    assert_eq!((found.tenant.as_deref(), found.groups), (Some("other"), vec!["admin".to_owned()]));
    for (name, value) in [
        ("tenant", json!(7)),
        ("tenant", json!("")),
        ("tenant", json!("a\nb")),
        ("groups", json!({"a": 1})),
        ("groups", json!([1])),
        ("groups", json!(vec!["a"; 257])),
    ] {
        refused(&with_claim(name, value), InvalidToken::Claims);
    }
    let twice = claims.to_string().replacen('{', "{\"tid\":\"evil\",", 1);
    let twice = signed(&header().to_string(), &twice);
    let verdict = verify(&twice, &[&renamed], |_| Some(&keys), NOW);
    assert_eq!(verdict, Err(InvalidToken::Claims.into()), "which of the two would count?");
}

#[test]
fn what_a_token_is_bound_to_is_read_or_the_token_refused() {
    let print = BASE64_URL_SAFE_NO_PAD.encode([7; 32]);
    let bound = read(&with_claim("cnf", json!({"jkt": print, "x5t#S256": print}))).unwrap().confirmation;
    assert_eq!(bound, Confirmation { key: Some([7; 32]), certificate: Some([7; 32]) });
    assert!(read(&good()).unwrap().confirmation.is_none());
    refused(&with_claim("cnf", json!({"jwk": {}})), InvalidToken::Unsupported);
    refused(&with_claim("cnf", json!({})), InvalidToken::Unsupported);
    refused(&with_claim("cnf", json!({"jkt": "short"})), InvalidToken::Claims);
    refused(&with_claim("cnf", json!("x")), InvalidToken::Claims);
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

/// Keys of each family, and a token of each.
fn of_each_family() -> (Keys, [(Algorithm, String); 3]) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let public = BASE64_URL_SAFE_NO_PAD.encode(rcgen::PublicKeyData::der_bytes(&pair));
    let edwards = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).unwrap();
    let mut jwks: Value = serde_json::from_str(&crate::testing::jwks()).unwrap();
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": public, "kid": "ed"});
    jwks["keys"].as_array_mut().unwrap().push(jwk);
    let wire = pb::authn::KeySet { name: ISSUER.into(), jwks: jwks.to_string(), ..Default::default() };
    let keys = Keys::new(KeySet::try_from(wire).unwrap()).unwrap();
    let tokens = [
        (Algorithm::ES256, good()),
        (Algorithm::RS256, signed_by(&rsa_key(), "RS256", "rsa", &claims())),
        (Algorithm::EdDSA, signed_by(&edwards, "EdDSA", "ed", &claims())),
    ];
    (keys, tokens)
}

/// Of ECDSA alone: (r, n - s) is a signature of the same claims. So a token string is no name of a token, and revocations
/// go by its claims.
#[test]
fn another_spelling_of_an_ecdsa_signature_is_of_the_same_claims() {
    let good = good();
    let other = crate::testing::malleated(&good);
    assert_ne!(other, good);
    assert_eq!(read(&other), read(&good));
    assert_eq!(crate::testing::malleated(&other), good);
    // What stands in the last bits of base64 beyond the last byte is no second spelling.
    let last = good.chars().last().unwrap();
    for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=".chars() {
        let spelled = format!("{}{other}", &good[..good.len() - 1]);
        assert!(other == last || read(&spelled).is_err(), "{other} in the place of {last}");
    }
}

proptest! {
    /// One byte or more, anywhere in a token of any family, with keys of all of them: it says and proves nothing any more.
    #[test]
    fn no_mutation_of_a_good_token_of_any_family_is_good(
        changes in proptest::collection::vec((0_usize..4_096, 0x21_u8..0x7f), 1..4),
    ) {
        let (keys, tokens) = of_each_family();
        for (algorithm, good) in tokens {
            let method = Jwt { algorithms: vec![algorithm], ..method() };
            let read = |token: &str| verify(token, &[&method], |_| Some(&keys), NOW);
            prop_assert!(read(&good).is_ok());
            let mut bytes = good.clone().into_bytes();
            for (at, byte) in &changes {
                let at = at % bytes.len();
                bytes[at] = *byte;
            }
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert!(changed == good || read(&changed).is_err(), "{}", changed);
        }
    }

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
