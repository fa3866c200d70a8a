//! Where a sidecar is asked beside its Unix socket: over TCP, by clients that prove who they are, for proxies that do not
//! share its file system.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use runtime::tls::{self, TlsFiles};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

/// The flags of the TCP listener.
#[derive(Debug, Clone, Default, Args)]
pub struct Transport {
    /// Answers here too: TCP with mutual TLS
    #[arg(long, env = "GATEHOUSE_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// PEM: the certificate that clients of --listen are shown
    #[arg(long, env = "GATEHOUSE_TLS_CERT", requires_all = ["listen", "tls_key", "tls_client_ca"])]
    pub tls_cert: Option<PathBuf>,
    /// PEM: its key
    #[arg(long, env = "GATEHOUSE_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// PEM: the CAs that clients' certificates come from
    #[arg(long, env = "GATEHOUSE_TLS_CLIENT_CA", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Lets whoever reaches --listen ask without TLS; on loopback only
    #[arg(long, requires = "listen", conflicts_with = "tls_cert")]
    pub listen_plaintext: bool,
}

/// A connection of a client.
#[derive(Debug)]
pub enum Io {
    /// From this machine; the file's mode says who may.
    Unix(UnixStream),
    /// From this machine.
    Plain(TcpStream),
    /// From whoever has a certificate.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Longer than any handshake in a region takes.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Under way at once; those that come later wait in the system's queue.
const MAX_HANDSHAKES: usize = 64;
/// Connections that nobody has taken yet.
const MAX_ACCEPTED: usize = 16;
/// After a failure to accept, which is mostly for want of files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

impl Transport {
    fn tls(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            certificate: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
            ca: self.tls_client_ca.clone()?,
        })
    }

    /// Listens, where that is asked for. The address, and connections as they come.
    pub async fn bind(&self) -> anyhow::Result<Option<(SocketAddr, mpsc::Receiver<io::Result<Io>>)>> {
        let Some(address) = self.listen else { return Ok(None) };
        let acceptor = match self.tls() {
            Some(files) => Some(tls::follow(files).context("--tls-cert, --tls-key, --tls-client-ca")?),
            None if self.listen_plaintext && address.ip().is_loopback() => None,
            None => anyhow::bail!(
                "--listen: needs --tls-cert, --tls-key and --tls-client-ca, or on loopback --listen-plaintext"
            ),
        };
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("--listen: listening on {address}"))?;
        let bound = listener.local_addr().context("--listen")?;
        let (accepted, connections) = mpsc::channel(MAX_ACCEPTED);
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        tokio::spawn(async move {
            // Ends when nobody takes connections any more.
            while !accepted.is_closed() {
                let Ok(turn) = handshakes.clone().acquire_owned().await else { return };
                let stream = tokio::select! {
                    accept = listener.accept() => accept,
                    () = accepted.closed() => return,
                };
                let Ok((stream, peer)) = stream else {
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                };
                // Answers are small, and waited for.
                let _is_slower = stream.set_nodelay(true);
                let (accepted, config) =
                    (accepted.clone(), acceptor.as_ref().map(|config| config.load_full()));
                tokio::spawn(async move {
                    let _turn = turn;
                    let Some(config) = config else {
                        let _is_ending = accepted.send(Ok(Io::Plain(stream))).await;
                        return;
                    };
                    match timeout(HANDSHAKE_DEADLINE, TlsAcceptor::from(config).accept(stream)).await {
                        Ok(Ok(stream)) => {
                            let _is_ending = accepted.send(Ok(Io::Tls(Box::new(stream)))).await;
                        }
                        Ok(Err(error)) => {
                            tracing::info!(%peer, error = tls::handshake_error(&error), "a client is refused");
                        }
                        Err(_) => tracing::info!(%peer, "a client's handshake takes too long"),
                    }
                });
            }
        });
        Ok(Some((bound, connections)))
    }
}

impl Connected for Io {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
    use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;

    use super::*;

    /// A CA, and one certificate for loopback of it, as files.
    fn files(folder: &Path, name: &str) -> TlsFiles {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let (key, mut leaf) = (KeyPair::generate().unwrap(), CertificateParams::default());
        leaf.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        let certificate = leaf.signed_by(&key, &issuer).unwrap().pem();
        let write = |kind: &str, text: &str| {
            let path = folder.join(format!("{name}-{kind}.pem"));
            fs::write(&path, text).unwrap();
            path
        };
        let key = write("key", &key.serialize_pem());
        TlsFiles { certificate: write("certificate", &certificate), key, ca: write("ca", &ca) }
    }

    fn transport(files: &TlsFiles) -> Transport {
        Transport {
            listen: Some(([127, 0, 0, 1], 0).into()),
            tls_cert: Some(files.certificate.clone()),
            tls_key: Some(files.key.clone()),
            tls_client_ca: Some(files.ca.clone()),
            listen_plaintext: false,
        }
    }

    /// Whether a client of this configuration is heard. In TLS 1.3 it learns of a refusal with its first read.
    async fn is_heard(config: ClientConfig, address: SocketAddr) -> bool {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::IpAddress(address.ip().into());
        let Ok(mut stream) = TlsConnector::from(Arc::new(config)).connect(name, stream).await else {
            return false;
        };
        let mut answer = [0];
        stream.write_all(b"?").await.is_ok() && stream.read_exact(&mut answer).await.is_ok()
    }

    #[tokio::test]
    async fn only_who_has_a_certificate_of_the_ca_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, others) = (files(folder.path(), "ours"), files(folder.path(), "others"));
        let (address, mut connections) = transport(&ours).bind().await.unwrap().unwrap();
        tokio::spawn(async move {
            while let Some(Ok(mut stream)) = connections.recv().await {
                let mut asked = [0];
                if stream.read_exact(&mut asked).await.is_ok() {
                    stream.write_all(&asked).await.unwrap();
                }
            }
        });
        let of_others = TlsFiles { ca: ours.ca.clone(), ..others };
        let mut roots = RootCertStore::empty();
        for certificate in rustls::pki_types::pem::PemObject::pem_file_iter(&ours.ca).unwrap() {
            roots.add(certificate.unwrap()).unwrap();
        }
        let mut nobody = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        nobody.alpn_protocols = vec![b"h2".to_vec()];
        assert!(is_heard(ours.client().unwrap(), address).await);
        assert!(!is_heard(of_others.client().unwrap(), address).await);
        assert!(!is_heard(nobody, address).await);
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _may_be_reset = plain.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"PRI"), "{answer:?}");
        assert!(is_heard(ours.client().unwrap(), address).await, "others have changed nothing");
    }

    #[tokio::test]
    async fn without_tls_it_listens_on_loopback_only_and_only_where_it_was_told_to() {
        let plain = |address: [u8; 4], listen_plaintext| Transport {
            listen: Some((address, 0).into()),
            listen_plaintext,
            ..Transport::default()
        };
        assert!(plain([127, 0, 0, 1], false).bind().await.is_err());
        assert!(plain([0, 0, 0, 0], true).bind().await.is_err());
        let (address, mut connections) = plain([127, 0, 0, 1], true).bind().await.unwrap().unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        assert!(matches!(connections.recv().await, Some(Ok(Io::Plain(_)))));
        assert!(Transport::default().bind().await.unwrap().is_none());
    }
}
