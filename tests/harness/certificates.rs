//! A CA, and what it issues, as PEM files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use lab::TlsPaths;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

/// A CA of one test.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl TestCa {
    /// With a key of its own.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The CA's certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Certificate and key, as PEM.
    pub fn issue(&self, names: Vec<SanType>) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// For a process of this node.
    pub fn node(&self, node_id: &str) -> (String, String) {
        let uri = format!("spiffe://example.test/gatehouse/{node_id}");
        self.issue(vec![SanType::URI(uri.try_into().expect("ASCII"))])
    }

    /// For the control plane on this machine.
    pub fn server(&self) -> (String, String) {
        self.issue(vec![SanType::IpAddress([127, 0, 0, 1].into())])
    }

    /// Everything that a lab with mutual TLS needs, in a folder.
    pub fn write(&self, folder: &Path, node_id: &str) -> TlsPaths {
        fs::create_dir_all(folder).expect("a folder");
        let write = |name: &str, text: &str| -> PathBuf {
            let path = folder.join(name);
            fs::write(&path, text).expect("a file");
            path
        };
        let pair = |name: &str, (certificate, key): (String, String)| {
            (write(&format!("{name}.pem"), &certificate), write(&format!("{name}.key"), &key))
        };
        TlsPaths {
            ca: write("ca.pem", &self.pem),
            server: pair("server", self.server()),
            node: pair("node", self.node(node_id)),
        }
    }
}
