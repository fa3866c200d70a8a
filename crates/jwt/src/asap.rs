//! ASAP tokens (the s2sauth specification): a service signs for itself, with a key whose id begins with its name.

use api::authn::{Algorithm, Asap};

use crate::{
    Keys,
    token::{InvalidToken, Token, Verified},
};

/// The specification's hard limit. The callee checks it too, since the caller chose it.
const MAX_LIFETIME_SECS: f64 = 3_600.0;

/// RSA and ECDSA; never symmetric.
const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
];

impl Token<'_> {
    /// The id of the key that must have signed it, once it is known to be its issuer's: `<iss>/…`, in characters that mean
    /// nothing else in a URL's path. Nothing is fetched before.
    ///
    /// # Errors
    /// The issuer is not trusted, or the key is not its own.
    pub fn asap_key_id(&self, method: &Asap) -> Result<&str, InvalidToken> {
        if !method.issuers.iter().any(|trusted| **trusted == self.claims.iss) {
            return Err(InvalidToken::Issuer);
        }
        let id = self.key_id().ok_or(InvalidToken::UnknownKey)?;
        let own = id.strip_prefix(self.issuer()).and_then(|rest| rest.strip_prefix('/'));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+/=-".contains(&byte);
        let is_path = id.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
        if own.is_some() && is_path && id.bytes().all(plain) { Ok(id) } else { Err(InvalidToken::UnknownKey) }
    }

    /// Verifies it with the keys of the key server. `now` in seconds since the epoch.
    ///
    /// # Errors
    /// It is not good for this method.
    pub fn verify_asap(&self, method: &Asap, keys: &Keys, now: f64) -> Result<Verified, InvalidToken> {
        self.asap_key_id(method)?;
        self.check_signature(keys, &ALGORITHMS)?;
        self.check_claims(&method.audiences, now)?;
        let claims = &self.claims;
        let issued_at = claims.iat.ok_or(InvalidToken::Claims)?;
        if claims.jti.is_none() {
            return Err(InvalidToken::Claims);
        }
        let lifetime = claims.exp - issued_at;
        if !(0.0..=MAX_LIFETIME_SECS).contains(&lifetime) {
            return Err(InvalidToken::Lifetime);
        }
        // Whoever signs for somebody else says so; else it is the service itself.
        self.verified(claims.sub.clone().unwrap_or_else(|| claims.iss.clone()))
    }
}

#[cfg(test)]
mod tests {
    use api::{key_set::KeySet, pb};
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{NOW, jwks, rsa_key, signed_by};

    fn method() -> Asap {
        let (audiences, issuers) = (vec!["hello".to_owned()], vec!["micros/billing".into()]);
        Asap { key_server: "https://keys.example.test/".into(), audiences, issuers }
    }

    fn claims() -> Value {
        json!({"iss": "micros/billing", "aud": "hello", "exp": NOW + 60.0, "iat": NOW, "jti": "1"})
    }

    /// With the key that the test's issuer has, under this id.
    fn read(key_id: &str, claims: &Value) -> Result<Verified, InvalidToken> {
        let jwks = jwks().replace("\"rsa\"", &format!("{key_id:?}"));
        let set = pb::authn::KeySet { name: "https://keys.example.test/".into(), jwks, ..Default::default() };
        let keys = Keys::new(KeySet::try_from(set).unwrap()).unwrap();
        let token = signed_by(&rsa_key(), "RS256", key_id, claims);
        Token::read(&token)?.verify_asap(&method(), &keys, NOW)
    }

    #[track_caller]
    fn refused(name: &str, value: Value, expected: InvalidToken) {
        let mut claims = claims();
        claims[name] = value;
        assert_eq!(read("micros/billing/key-1", &claims), Err(expected), "{name}");
    }

    #[test]
    fn a_service_proves_itself_with_a_key_of_its_own() {
        let found = read("micros/billing/key-1", &claims()).unwrap();
        assert_eq!((found.subject.as_str(), found.issuer.as_str()), ("micros/billing", "micros/billing"));
        let mut for_alice = claims();
        for_alice["sub"] = json!("alice");
        assert_eq!(read("micros/billing/key-1", &for_alice).unwrap().subject, "alice");
    }

    #[test]
    fn a_key_of_somebody_else_or_of_nowhere_is_not_asked_for() {
        for id in [
            "micros/other/key-1",
            "micros/billing",
            "micros/billing/",
            "micros/billing-2/key-1",
            "micros/billing/../other/key-1",
            "micros/billing/./key-1",
            "micros/billing//key-1",
            "/micros/billing/key-1",
            "micros/billing/key?x",
            "micros/billing/key%2f1",
            "micros/billing/kéy",
        ] {
            assert_eq!(read(id, &claims()), Err(InvalidToken::UnknownKey), "{id}");
        }
    }

    #[test]
    fn what_the_specification_requires_is_required() {
        refused("iss", json!("micros/evil"), InvalidToken::Issuer);
        refused("aud", json!("other"), InvalidToken::Audience);
        refused("iat", json!(null), InvalidToken::Claims);
        refused("jti", json!(null), InvalidToken::Claims);
        refused("jti", json!(7), InvalidToken::Claims);
        refused("exp", json!(NOW + 3_601.0), InvalidToken::Lifetime);
        refused("exp", json!(NOW - 31.0), InvalidToken::Expired);
        refused("nbf", json!(NOW + 31.0), InvalidToken::NotYetValid);
        refused("iat", json!(NOW + 70.0), InvalidToken::NotYetValid);
        let mut backwards = claims();
        (backwards["iat"], backwards["exp"]) = (json!(NOW + 20.0), json!(NOW + 10.0));
        assert_eq!(read("micros/billing/key-1", &backwards), Err(InvalidToken::Lifetime));
    }
}
