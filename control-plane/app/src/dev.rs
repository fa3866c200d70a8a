//! What only a development machine has: an issuer of tokens whose keys lie in the data folder, so that
//! `gatehouse token` can mint with them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use broker::Credentials;
use jsonwebtoken::{
    Algorithm, EncodingKey,
    jwk::{Jwk, JwkSet},
};
use model::{SecretHash, platforms::Platforms};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use runtime::files;

/// The claim `iss` of the local issuer's tokens.
pub(crate) const ISSUER: &str = "https://id.example.test/";

/// The file with the local issuer's JWK Set; its keys are made on the first call.
pub(crate) fn issuer(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let folder = data_dir.join("dev-issuer");
    let jwks = folder.join("jwks.json");
    if !jwks.exists() {
        create(&folder, &jwks).context("making the keys of the local issuer")?;
    }
    Ok(jwks)
}

/// The JWK Set comes last: where it is, the keys are too.
fn create(folder: &Path, jwks: &Path) -> anyhow::Result<()> {
    files::private_folder(folder)?;
    let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem();
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256)?.serialize_pem();
    files::replace(&folder.join("es256.pem"), &[ec.as_bytes()])?;
    files::replace(&folder.join("rs256.pem"), &[rsa.as_bytes()])?;
    let keys = vec![
        public("dev-es256", &EncodingKey::from_ec_pem(ec.as_bytes())?, Algorithm::ES256)?,
        public("dev-rs256", &EncodingKey::from_rsa_pem(rsa.as_bytes())?, Algorithm::RS256)?,
    ];
    files::replace(jwks, &[serde_json::to_string_pretty(&JwkSet { keys })?.as_bytes()])?;
    Ok(())
}

fn public(id: &str, key: &EncodingKey, algorithm: Algorithm) -> anyhow::Result<Jwk> {
    let mut jwk = Jwk::from_encoding_key(key, algorithm)?;
    jwk.common.key_id = Some(id.to_owned());
    Ok(jwk)
}

/// Of the one platform, which may have every host.
pub(crate) fn platforms() -> Platforms {
    Platforms::unbounded([(NAME.to_owned(), SecretHash::of(NAME, [0; 32]))])
}

/// Of the operator.
pub(crate) fn operator() -> Credentials {
    Credentials { user: NAME.into(), password: NAME.into() }
}

/// And secret.
const NAME: &str = "dev";
