//! API keys: `gatehouse_<id>_<secret>` in a header of its own. The secret is random and long, so one fast hash is enough
//! to keep it from whoever reads the policy.

use api::authn::{ApiKey, ApiKeys};

use crate::identity::Identity;

/// What tools that look for leaked secrets can find a key by.
const PREFIX: &str = "gatehouse_";
/// Ours have 91.
const MAX_KEY_BYTES: usize = 256;

/// Who has this key; `None` when it is not one of these.
pub(crate) fn verify(presented: &str, known: &ApiKeys) -> Option<Identity> {
    let rest = presented.strip_prefix(PREFIX).filter(|_| presented.len() <= MAX_KEY_BYTES)?;
    let (id, secret) = rest.split_once('_')?;
    let key = known.keys.get(id).filter(|key| is_of(key, secret))?;
    Some(Identity {
        method: "api_key",
        subject: key.subject.clone(),
        scopes: key.scopes.join(" "),
        credential: Some(id.to_owned()),
        ..Identity::default()
    })
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
        assert_eq!((identity.subject.as_str(), identity.credential.as_deref()), ("billing", Some("0a")));
        assert_eq!(identity.scopes, "read");
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
