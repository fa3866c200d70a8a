//! Certificates of a local CA, for development.

use std::{fmt, fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use async_trait::async_trait;
use model::{Host, InstanceId, instance::Certificate};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use time::{Duration, OffsetDateTime};

use crate::provider::{Certificates, Owned, Proofs, ProviderError};

/// Long enough for a development machine that is seldom restarted.
const LIFETIME: Duration = Duration::days(90);
/// Clocks of clients may be behind.
const BACKDATED: Duration = Duration::hours(1);
/// The CA's own.
const CA_LIFETIME: Duration = Duration::days(3650);

/// A CA whose key lies in a folder, for development only.
pub struct LocalCa {
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalCa")
    }
}

fn failed(operation: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> ProviderError {
    move |source| ProviderError::passing(operation, source)
}

impl LocalCa {
    /// Reads `ca.pem` and `ca.key`, or makes them.
    pub fn open(folder: &Path) -> Result<Self, ProviderError> {
        let failed = failed("opening the local CA");
        let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        if !key.exists() {
            create(folder, &certificate, &key).map_err(&failed)?;
        }
        let read = |path: &Path| fs::read_to_string(path).map_err(|error| failed(error.into()));
        let key = KeyPair::from_pem(&read(&key)?).map_err(|error| failed(error.into()))?;
        // The certificate is for people, to be trusted by their browsers; what it says is made anew.
        read(&certificate)?;
        Ok(Self { issuer: Issuer::new(ca_params(), key) })
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Gatehouse local CA (development only)");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc() - BACKDATED;
    params.not_after = OffsetDateTime::now_utc() + CA_LIFETIME;
    params
}

fn create(
    folder: &Path,
    certificate: &Path,
    key: &Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    runtime::files::private_folder(folder)?;
    let pair = KeyPair::generate()?;
    fs::write(certificate, ca_params().self_signed(&pair)?.pem())?;
    // The key comes last: where it is, the certificate is too.
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(key)?;
    file.write_all(pair.serialize_pem().as_bytes())?;
    file.sync_all()?;
    Ok(())
}

#[async_trait]
impl Certificates for LocalCa {
    async fn issue(&self, _: &InstanceId, _: u64, hosts: &[Host]) -> Result<Certificate, ProviderError> {
        let failed = failed("issuing from the local CA");
        let names: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let not_after = OffsetDateTime::now_utc() + LIFETIME;
        let issue = || -> Result<(String, String), rcgen::Error> {
            let mut params = CertificateParams::new(names)?;
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.not_before = OffsetDateTime::now_utc() - BACKDATED;
            params.not_after = not_after;
            params.use_authority_key_identifier_extension = true;
            let key = KeyPair::generate()?;
            Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
        };
        let (chain, key) = issue().map_err(|error| failed(error.into()))?;
        Ok(Certificate { hosts: hosts.to_vec(), chain, key, not_after, name: None })
    }

    async fn discard(&self, _: &str, _: Proofs<'_>) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn owned(&self) -> Result<Vec<Owned>, ProviderError> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_ca_issues_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        LocalCa::open(&folder.path().join("ca")).unwrap();
        let root = fs::read_to_string(folder.path().join("ca/ca.pem")).unwrap();
        let ca = LocalCa::open(&folder.path().join("ca")).unwrap();
        let hosts = [Host::try_from("a.example.test".to_owned()).unwrap()];
        let issued = ca.issue(&"i-1".parse().unwrap(), 1, &hosts).await.unwrap();
        assert!(issued.chain.starts_with("-----BEGIN CERTIFICATE-----"));
        assert_eq!(issued.hosts, hosts);
        assert_eq!(fs::read_to_string(folder.path().join("ca/ca.pem")).unwrap(), root);
        assert!(!format!("{issued:?}").contains("PRIVATE"));
    }
}
