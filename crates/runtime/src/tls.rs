//! Mutual TLS between our own processes: certificates from PEM files, read again when they change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

use crate::files::{FileWatch, folder_of};

/// Three PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// What we show: leaf first, then intermediates.
    pub certificate: PathBuf,
    /// Its key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
    /// The CAs that the other side's certificate must come from.
    pub ca: PathBuf,
}

/// Files that cannot be used; what was read before stays in force.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TlsError {
    #[error("reading {path}")]
    Read {
        path: String,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{path}: no certificate in it")]
    Empty { path: String },
    #[error("{path}: not a CA that can be used")]
    Ca {
        path: String,
        #[source]
        source: rustls::Error,
    },
    #[error("the CAs of clients")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    #[error("{path}: does not fit its key")]
    Pair {
        path: String,
        #[source]
        source: rustls::Error,
    },
    #[error("watching the certificates' folders")]
    Watch(#[source] notify::Error),
}

/// HTTP/2 for gRPC; HTTP/1.1 for those that poll.
const ALPN_SERVER: [&[u8]; 2] = [b"h2", b"http/1.1"];
const ALPN_CLIENT: [&[u8]; 1] = [b"h2"];

impl TlsFiles {
    /// A server that demands a certificate of each client.
    pub fn server(&self) -> Result<ServerConfig, TlsError> {
        let verifier =
            WebPkiClientVerifier::builder(Arc::new(self.roots()?)).build().map_err(TlsError::Verifier)?;
        let (chain, key) = self.pair()?;
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|source| self.misfit(source))?;
        config.alpn_protocols = ALPN_SERVER.map(<[u8]>::to_vec).to_vec();
        Ok(config)
    }

    /// A client that shows its certificate.
    pub fn client(&self) -> Result<ClientConfig, TlsError> {
        let (chain, key) = self.pair()?;
        let mut config = ClientConfig::builder()
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain, key)
            .map_err(|source| self.misfit(source))?;
        config.alpn_protocols = ALPN_CLIENT.map(<[u8]>::to_vec).to_vec();
        Ok(config)
    }

    fn misfit(&self, source: rustls::Error) -> TlsError {
        TlsError::Pair { path: self.certificate.display().to_string(), source }
    }

    fn pair(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|source| unreadable(&self.key, source))?;
        Ok((certificates(&self.certificate)?, key))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            let path = || self.ca.display().to_string();
            roots.add(certificate).map_err(|source| TlsError::Ca { path: path(), source })?;
        }
        Ok(roots)
    }

    fn all(&self) -> [&Path; 3] {
        [&self.certificate, &self.key, &self.ca]
    }
}

fn unreadable(path: &Path, source: rustls::pki_types::pem::Error) -> TlsError {
    TlsError::Read { path: path.display().to_string(), source }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|source| unreadable(path, source))?;
    if found.is_empty() {
        return Err(TlsError::Empty { path: path.display().to_string() });
    }
    Ok(found)
}

/// A server's configuration that follows its files: handshakes from now on use what was read last. A broken file
/// leaves it as it was, and is told in the log.
pub fn follow(files: TlsFiles) -> Result<Arc<ArcSwap<ServerConfig>>, TlsError> {
    let current = Arc::new(ArcSwap::from_pointee(files.server()?));
    let mut folders = files.all().map(|path| folder_of(path).to_owned()).to_vec();
    folders.sort();
    folders.dedup();
    let mut watch = FileWatch::new(&folders, |_| true).map_err(TlsError::Watch)?;
    let followed = current.clone();
    tokio::spawn(async move {
        let mut known = contents(&files);
        loop {
            watch.changed().await;
            let now = contents(&files);
            if now == known {
                continue;
            }
            known = now;
            match files.server() {
                Ok(config) => {
                    followed.store(Arc::new(config));
                    tracing::info!(certificate = %files.certificate.display(), "certificates are read again");
                }
                Err(error) => {
                    tracing::error!(
                        error = crate::telemetry::chain(&error),
                        "the certificates stay as they were"
                    );
                }
            }
        }
    });
    Ok(current)
}

fn contents(files: &TlsFiles) -> [Option<Vec<u8>>; 3] {
    files.all().map(|path| fs::read(path).ok())
}

/// Why a peer is refused before it said anything.
pub fn handshake_error(error: &io::Error) -> String {
    error.get_ref().map_or_else(|| error.to_string(), |inner| crate::telemetry::chain(inner))
}
