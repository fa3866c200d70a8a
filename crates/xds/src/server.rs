//! Where the control plane is, and how a connection to it is secured.

use std::{io, time::Duration};

use hyper_util::rt::TokioIo;
use runtime::tls::{TlsError, TlsFiles};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

/// A stream that cannot be opened for so long is tried anew.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Finds a peer that vanished without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A control plane.
#[derive(Debug, Clone)]
pub struct Server {
    endpoint: Endpoint,
    /// Read anew for each connection, so that a renewed certificate is used from the next one on.
    tls: Option<TlsFiles>,
}

/// An address that no control plane can have.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum InvalidServer {
    #[error("must be http://host:port, or https://host:port with a certificate, got {url:?}")]
    Url {
        url: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("https needs a certificate, its key and a CA, and http takes none, got {url:?}")]
    Scheme { url: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConnectError {
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Server {
    /// `https` with, and `http` without files for mutual TLS.
    pub fn new(url: &str, tls: Option<TlsFiles>) -> Result<Self, InvalidServer> {
        let plain = match (url.strip_prefix("https://"), &tls) {
            // tonic is given a stream that is secured already.
            (Some(rest), Some(files)) => {
                files.client()?;
                format!("http://{rest}")
            }
            (None, None) => url.to_owned(),
            _ => return Err(InvalidServer::Scheme { url: url.to_owned() }),
        };
        let endpoint = Endpoint::from_shared(plain)
            .map_err(|source| InvalidServer::Url { url: url.to_owned(), source })?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        Ok(Self { endpoint, tls })
    }

    pub(crate) async fn connect(&self) -> Result<Channel, ConnectError> {
        let Some(files) = &self.tls else { return Ok(self.endpoint.connect().await?) };
        let connector = TlsConnector::from(std::sync::Arc::new(files.client()?));
        let secure = tower::service_fn(move |uri| secured(connector.clone(), uri));
        Ok(self.endpoint.connect_with_connector(secure).await?)
    }
}

async fn secured(connector: TlsConnector, uri: Uri) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    /// Of the control plane.
    const PORT: u16 = 18_000;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(PORT))).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(connector.connect(name, stream).await?))
}
