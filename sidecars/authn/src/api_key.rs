//! API keys: `gatehouse_<id>_<secret>` in a header of its own. The secret is random and long, so one fast hash is enough
//! to keep it from whoever reads the policy.

use api::authn::{ApiKey, ApiKeys};

use crate::{
    identity::{Identity, Kind, Texts},
    method::{Credential, Method, Outcome, Place, Proven, Stop},
    state::Snapshot,
};

/// What tools that look for leaked secrets can find a key by.
const PREFIX: &str = "gatehouse_";
/// Ours have 91.
const MAX_KEY_BYTES: usize = 256;

impl Method for ApiKeys {
    fn place(&self) -> Place<'_> {
        Place::Header(&self.header)
    }

    fn verify(&self, credential: &Credential<'_>, _: &Snapshot, _: f64) -> Outcome {
        match verify(credential.text, self) {
            Some(identity) => Outcome::Good(Proven::lasting(identity)),
            None => Outcome::Bad(Stop::Invalid("the API key is not valid")),
        }
    }

    fn ages(&self) -> bool {
        false
    }

    fn challenge(&self, _: Option<&str>) -> String {
        format!("ApiKey realm=\"gatehouse\", header=\"{}\"", self.header)
    }
}

/// Who has this key; `None` when it is not one of these.
fn verify(presented: &str, known: &ApiKeys) -> Option<Identity> {
    let rest = presented.strip_prefix(PREFIX).filter(|_| presented.len() <= MAX_KEY_BYTES)?;
    let (id, secret) = rest.split_once('_')?;
    let key = known.keys.get(id).filter(|key| is_of(key, secret))?;
    let scopes = key.scopes.join(" ");
    let texts = Texts { subject: &key.subject, scopes: &scopes, credential: id, ..Texts::default() };
    Some(Identity::new(Kind::ApiKey, texts))
}

fn is_of(key: &ApiKey, secret: &str) -> bool {
    // `blake3::Hash` compares in constant time.
    blake3::keyed_hash(&key.salt, secret.as_bytes()) == blake3::Hash::from_bytes(key.digest)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One key, `gatehouse_0a_secret`, of `billing`.
    pub(crate) fn wire() -> api::pb::authn::ApiKey {
        let salt = [7; 32];
        let key = api::pb::authn::api_key::Key {
            id: "0a".into(),
            salt: salt.to_vec(),
            digest: blake3::keyed_hash(&salt, b"secret").as_bytes().to_vec(),
            subject: "billing".into(),
            scopes: vec!["read".into()],
        };
        api::pb::authn::ApiKey { header: "x-api-key".into(), keys: vec![key] }
    }

    #[test]
    fn only_the_whole_key_is_good() {
        let known = ApiKeys::try_from(wire()).unwrap();
        let identity = verify("gatehouse_0a_secret", &known).unwrap();
        let Texts { subject, scopes, credential, .. } = identity.texts();
        assert_eq!((subject, scopes, credential), ("billing", "read", "0a"));
        for wrong in [
            "",
            "gatehouse_0a_",
            "gatehouse_0a_secre",
            "gatehouse_0a_secret ",
            "gatehouse_0A_secret",
            "gatehouse_0b_secret",
            "gatehouse_0a",
            "0a_secret",
            "Gatehouse_0a_secret",
            &format!("gatehouse_0a_{}", "s".repeat(300)),
        ] {
            assert!(verify(wrong, &known).is_none(), "{wrong}");
        }
    }
}
