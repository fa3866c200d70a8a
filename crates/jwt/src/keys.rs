//! The keys of one issuer, ready to verify: parsed once, since parsing costs as much as a tenth of a check.

use api::{authn::Algorithm, key_set::KeySet};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, VerificationAlgorithm,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};

/// All usable keys of an issuer.
pub struct Keys(Vec<Key>);

struct Key {
    id: Option<String>,
    /// For each algorithm that it may be used with.
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

impl Keys {
    /// Keys that the library cannot take are left out.
    ///
    /// # Errors
    /// None is left.
    pub fn new(set: KeySet) -> Result<Self, String> {
        let keys: Vec<_> = (set.keys.into_iter())
            .filter_map(|key| {
                let bytes = public_bytes(&key.jwk)?;
                let parsed = |algorithm: &Algorithm| {
                    Some((*algorithm, ParsedPublicKey::new(implementation(*algorithm), &bytes).ok()?))
                };
                let verifiers: Vec<_> = key.algorithms.iter().filter_map(parsed).collect();
                (!verifiers.is_empty()).then_some(Key { id: key.id, verifiers })
            })
            .collect();
        if keys.is_empty() { Err("jwks.keys: no key that can verify".into()) } else { Ok(Self(keys)) }
    }

    /// Whether one has this id.
    pub fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// The keys that may have signed: of this id where the token names one, and for exactly this algorithm.
    pub(crate) fn candidates<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a ParsedPublicKey> {
        let named = self.0.iter().filter(move |key| id.is_none() || key.id.as_deref() == id);
        named.filter_map(move |key| {
            key.verifiers.iter().find(|(allowed, _)| *allowed == algorithm).map(|(_, key)| key)
        })
    }
}

fn implementation(algorithm: Algorithm) -> &'static dyn VerificationAlgorithm {
    match algorithm {
        Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED,
        Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &RSA_PSS_2048_8192_SHA512,
        Algorithm::EdDSA => &ED25519,
    }
}

/// In the form that the library reads: a point (SEC 1 section 2.3.3), an `RSAPublicKey` (RFC 8017 appendix A.1.1), or the
/// bytes of an Edwards key (RFC 8032 section 5.1.5).
fn public_bytes(jwk: &Jwk) -> Option<Vec<u8>> {
    let decoded = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok();
    match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(ec) => {
            // RFC 7518 section 6.2.1.2: both have the full length. A shorter one is refused as a point.
            let (x, y) = (decoded(&ec.x)?, decoded(&ec.y)?);
            Some([&[4], x.as_slice(), &y].concat())
        }
        AlgorithmParameters::RSA(rsa) => {
            let (modulus, exponent) = (integer(&decoded(&rsa.n)?), integer(&decoded(&rsa.e)?));
            Some(tagged(0x30, &[modulus, exponent].concat()))
        }
        AlgorithmParameters::OctetKeyPair(okp) => decoded(&okp.x),
        _ => None,
    }
}

/// A positive INTEGER of DER (X.690 section 8.3).
fn integer(bytes: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
    let sign = digits.first().is_none_or(|first| *first >= 0x80).then_some(0);
    let digits: Vec<u8> = sign.into_iter().chain(digits).collect();
    tagged(0x02, &digits)
}

/// A value of DER (X.690 section 8.1).
fn tagged(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let mut text = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => text.push(short),
        _ => {
            let digits: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            // A length has at most eight bytes.
            text.push(0x80 | u8::try_from(digits.len()).unwrap_or(8));
            text.extend(digits);
        }
    }
    text.extend_from_slice(value);
    text
}
