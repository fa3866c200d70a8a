//! A public key in PEM, as key servers answer it, into a JWK. No IO; a key of a kind that cannot verify is refused.

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use jsonwebtoken::jwk::Jwk;
use serde_json::{Value, json};
use x509_parser::{
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
    },
    prelude::FromDer as _,
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

/// A text that holds no key that can verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPem(&'static str);

/// RFC 7468 section 13: a SubjectPublicKeyInfo.
const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

/// The key of a PEM text under the id by which tokens name it: RSA, P-256, P-384 or Ed25519. How large an RSA key has to
/// be is a rule of [`api::key_set::KeySet`], as for keys of a JWK Set.
///
/// # Errors
/// Not exactly one public key, or one of another kind. The text never holds what was given: it may be anything.
pub fn jwk(pem: &str, id: &str) -> Result<Jwk, InvalidPem> {
    let der = der(pem)?;
    let (rest, key) =
        SubjectPublicKeyInfo::from_der(&der).map_err(|_| InvalidPem("not a SubjectPublicKeyInfo"))?;
    if !rest.is_empty() {
        return Err(InvalidPem("something follows the key"));
    }
    let mut fields = fields(&key)?;
    fields["kid"] = id.into();
    fields["use"] = "sig".into();
    serde_json::from_value(fields).map_err(|_| InvalidPem("not a key that a JWK can hold"))
}

fn der(pem: &str) -> Result<Vec<u8>, InvalidPem> {
    let one = InvalidPem("exactly one PEM block PUBLIC KEY is needed");
    let (_, after) = pem.split_once(BEGIN).ok_or_else(|| one.clone())?;
    let (body, after) = after.split_once(END).ok_or_else(|| one.clone())?;
    // A private key, or a second one, says that this is not what it should be.
    if pem.matches("-----BEGIN ").count() != 1 || after.contains("-----") {
        return Err(one);
    }
    let body: String = body.split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(body).map_err(|_| InvalidPem("the PEM block is not base64"))
}

/// RFC 7518 section 6, RFC 8037 section 2.
fn fields(key: &SubjectPublicKeyInfo<'_>) -> Result<Value, InvalidPem> {
    let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let kind = &key.algorithm.algorithm;
    let bits = &key.subject_public_key;
    if bits.unused_bits != 0 {
        return Err(InvalidPem("a key is whole bytes"));
    }
    if *kind == OID_PKCS1_RSAENCRYPTION {
        let Ok(PublicKey::RSA(rsa)) = key.parsed() else { return Err(InvalidPem("not an RSAPublicKey")) };
        let digits = |bytes: &[u8]| text(bytes.strip_prefix(&[0]).unwrap_or(bytes));
        return Ok(json!({"kty": "RSA", "n": digits(rsa.modulus), "e": digits(rsa.exponent)}));
    }
    if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        let (name, bytes) = match curve {
            Some(curve) if curve == OID_EC_P256 => ("P-256", 32),
            Some(curve) if curve == OID_NIST_EC_P384 => ("P-384", 48),
            _ => return Err(InvalidPem("an EC key is on P-256 or P-384")),
        };
        // SEC 1 section 2.3.3: a point that is not compressed.
        let point = bits.data.strip_prefix(&[4]).filter(|point| point.len() == 2 * bytes);
        let point = point.ok_or(InvalidPem("an EC key is a point that is not compressed"))?;
        let (x, y) = point.split_at(bytes);
        return Ok(json!({"kty": "EC", "crv": name, "x": text(x), "y": text(y)}));
    }
    if *kind == OID_SIG_ED25519 && bits.data.len() == 32 {
        return Ok(json!({"kty": "OKP", "crv": "Ed25519", "x": text(&bits.data)}));
    }
    Err(InvalidPem("a key is RSA, P-256, P-384 or Ed25519"))
}

#[cfg(test)]
mod tests {
    use api::{authn::Algorithm, key_set::KeySet, pb};
    use rcgen::{
        KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
        PublicKeyData as _, SigningKey as _,
    };

    use super::*;
    use crate::Keys;

    #[test]
    fn each_kind_of_key_verifies_what_its_private_half_signed() {
        for (kind, algorithm) in [
            (&PKCS_ECDSA_P256_SHA256, Algorithm::ES256),
            (&PKCS_ECDSA_P384_SHA384, Algorithm::ES384),
            (&PKCS_RSA_SHA256, Algorithm::RS256),
            (&PKCS_ED25519, Algorithm::EdDSA),
        ] {
            let pair = KeyPair::generate_for(kind).unwrap();
            let jwk = jwk(&pair.public_key_pem(), "issuer/one").unwrap();
            assert_eq!(jwk.common.key_id.as_deref(), Some("issuer/one"));
            let jwks = json!({"keys": [jwk]}).to_string();
            let name = "https://keys.example.test/".to_owned();
            let set = KeySet::try_from(pb::authn::KeySet { name, jwks, ..Default::default() }).unwrap();
            assert!(set.keys[0].algorithms.contains(&algorithm));
            let keys = Keys::new(set).unwrap();
            assert_eq!(keys.candidates(Some("issuer/one"), algorithm).count(), 1);
            if matches!(algorithm, Algorithm::RS256 | Algorithm::EdDSA) {
                // The two that sign in the form of a JWS; rcgen wraps the others in DER.
                let signature = pair.sign(b"text").unwrap();
                let key = keys.candidates(Some("issuer/one"), algorithm).next().unwrap();
                assert!(key.verify_sig(b"text", &signature).is_ok());
                assert!(key.verify_sig(b"test", &signature).is_err());
            }
        }
    }

    #[track_caller]
    fn refused(pem: &str, why: &str) {
        assert_eq!(jwk(pem, "k").unwrap_err().to_string(), why, "{pem}");
    }

    #[test]
    fn what_is_not_one_public_key_is_refused() {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let good = pair.public_key_pem();
        let one = "exactly one PEM block PUBLIC KEY is needed";
        refused("", one);
        refused(&pair.serialize_pem(), one);
        refused(&format!("{good}{good}"), one);
        refused(&format!("{good}{}", pair.serialize_pem()), one);
        refused(good.trim_end().strip_suffix(END).unwrap(), one);
        refused(&format!("{BEGIN}\n!\n{END}\n"), "the PEM block is not base64");
        let wrapped = |der: &[u8]| format!("{BEGIN}\n{}\n{END}\n", BASE64_STANDARD.encode(der));
        refused(&wrapped(b"x"), "not a SubjectPublicKeyInfo");
        let der = pair.subject_public_key_info();
        refused(&wrapped(&[&der[..], b"more"].concat()), "something follows the key");
        // P-521: 1.3.132.0.35
        let mut other = der.clone();
        let at = other.windows(8).position(|bytes| bytes == [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]).unwrap();
        other[at + 7] = 1;
        refused(&wrapped(&other), "an EC key is on P-256 or P-384");
        let mut compressed = der;
        let length = compressed.len();
        compressed[length - 65] = 2;
        refused(&wrapped(&compressed), "an EC key is a point that is not compressed");
    }
}
