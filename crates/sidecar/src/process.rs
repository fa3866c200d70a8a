//! From flags to a serving process: admin endpoint, control plane, socket, drain.

use std::{future::Future, io, net::SocketAddr, path::PathBuf, time::Duration};

use crate::listen::{Io, Transport};
use anyhow::Context as _;
use api::{ResourceType, Role};
use clap::Args;
use prometheus_client::registry::Registry;
use runtime::{Admin, Readiness, Shutdown, tls::TlsFiles};
use tokio::{net::UnixListener, sync::mpsc, task::JoinHandle};
use tokio_stream::{
    StreamExt as _,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tonic::transport::server::Router;
use xds::{Client, Handler, Server, disk::LastGood};

/// The flags of every sidecar.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// The node's id, `<group>/<instance>`; the sidecar appends its own name
    #[arg(long, env = "GATEHOUSE_NODE_ID")]
    pub node_id: String,
    /// The control plane's xDS address, as a URL
    #[arg(long, env = "GATEHOUSE_XDS_URL", default_value = "http://127.0.0.1:18000")]
    pub xds: String,
    /// PEM: the certificate that the control plane is shown
    #[arg(long, env = "GATEHOUSE_XDS_CERT", requires_all = ["xds_key", "xds_ca"])]
    pub xds_cert: Option<PathBuf>,
    /// PEM: its key
    #[arg(long, env = "GATEHOUSE_XDS_KEY", requires = "xds_cert")]
    pub xds_key: Option<PathBuf>,
    /// PEM: the CAs that the control plane's certificate comes from
    #[arg(long, env = "GATEHOUSE_XDS_CA", requires = "xds_cert")]
    pub xds_ca: Option<PathBuf>,
    /// Where Envoy asks
    #[arg(long)]
    pub socket: PathBuf,
    /// Takes the socket over, once ready, from an instance that still serves there; that one is to be stopped then
    #[arg(long)]
    pub take_over: bool,
    /// Where the last good policies are kept
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Health and metrics
    #[arg(long)]
    pub admin: SocketAddr,
    /// What to log, in the syntax of RUST_LOG
    #[arg(long, env = "GATEHOUSE_LOG", default_value = "info")]
    pub log: String,
}

impl Settings {
    fn tls(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            certificate: self.xds_cert.clone()?,
            key: self.xds_key.clone()?,
            ca: self.xds_ca.clone()?,
        })
    }
}

/// A bound sidecar that follows the control plane, and is ready to serve.
#[derive(Debug)]
pub struct Process {
    socket: UnixListener,
    shutdown: Shutdown,
    readiness: Readiness,
    client: JoinHandle<()>,
    /// Over TCP; none where nobody listens.
    more: Option<mpsc::Receiver<io::Result<Io>>>,
}

/// Requests under way have a deadline of 250 ms in Envoy; after this the rest is cut off.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

impl Process {
    /// Binds the socket and the admin endpoint, loads from disk, and begins to follow the control plane.
    /// Ready once every type is known: from disk or from the control plane.
    pub async fn start<H: Handler + 'static>(
        settings: &Settings,
        role: Role,
        kinds: &[ResourceType],
        handler: H,
        registry: Registry,
    ) -> anyhow::Result<Self> {
        let shutdown = runtime::shutdown()?;
        let readiness = Readiness::new();
        let loaded = readiness.latch("policies");
        let disk = LastGood::open(&settings.data_dir)
            .with_context(|| format!("--data-dir: {}", settings.data_dir.display()))?;
        let server = Server::new(&settings.xds, settings.tls()).context("--xds")?;
        let node_id = format!("{}/{role}", settings.node_id);
        let client = Client::load(server, &node_id, kinds, disk, handler, move || drop(loaded))
            .context("loading the last good policies")?;
        let (admin, _task) = Admin::new(registry, readiness.clone())
            .serve(settings.admin, &shutdown)
            .await
            .with_context(|| format!("--admin: listening on {}", settings.admin))?;
        let client = tokio::spawn(client.run());
        let socket = if settings.take_over {
            // What asks there is answered until we can do it.
            readiness.ready().await;
            runtime::unix::take_over(&settings.socket)
        } else {
            runtime::unix::bind(&settings.socket)
        };
        let socket =
            socket.with_context(|| format!("--socket: listening on {}", settings.socket.display()))?;
        tracing::info!(socket = %settings.socket.display(), %admin, node = node_id, "serving");
        Ok(Self { socket, shutdown, readiness, client, more: None })
    }

    /// Answers over TCP too, where that is asked for.
    pub async fn listen(mut self, transport: &Transport) -> anyhow::Result<Self> {
        if let Some((address, connections)) = transport.bind().await? {
            tracing::info!(%address, "serving over TCP");
            self.more = Some(connections);
        }
        Ok(self)
    }

    /// When the drain begins.
    pub fn drain(&self) -> impl Future<Output = ()> + Send + use<> {
        self.shutdown.wait()
    }

    /// Serves until it is asked to stop, then drains.
    pub async fn serve(self, router: Router) -> anyhow::Result<()> {
        let Self { socket, shutdown, readiness, client, more } = self;
        let draining = shutdown.clone();
        let unix = UnixListenerStream::new(socket).map(|stream| stream.map(Io::Unix));
        // A stream that has ended leaves the other as it is.
        let more = more.unwrap_or_else(|| mpsc::channel(1).1);
        let incoming = unix.merge(ReceiverStream::new(more));
        let serve = router.serve_with_incoming_shutdown(incoming, shutdown.wait());
        tokio::select! {
            served = serve => served.context("serving gRPC"),
            // A supervisor starts it again, from disk; decisions by stale policies for ever would be worse.
            ended = client => Err(anyhow::anyhow!("following the control plane ended: {ended:?}")),
            () = async move {
                draining.wait().await;
                let _unready = readiness.latch("drain");
                tokio::time::sleep(DRAIN_DEADLINE).await;
            } => {
                tracing::warn!("some requests were cut off");
                Ok(())
            }
        }
    }
}
