//! The least that a change can cost on this machine: bare tonic streams that send what a change sends, encoded before,
//! and know nothing of what anybody holds. The same proxies, the same messages, the same minute.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Context as _;
use bytes::{Buf as _, BufMut as _, Bytes};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use prost::Message as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{BoxFuture, Service},
    server::{Grpc, NamedService, StreamingService},
    transport::Server,
};

use crate::{
    Run, Size, Start,
    proxy::{Fleet, Goal},
    wait_for,
    wire::Kind,
};

/// Of each resource.
const BODY_BYTES: usize = 1_024;
const ROUNDS: usize = 20;
/// How the change's virtual host is called.
const HOST: &str = "edge/floor";
/// The argument by which this program is the server.
pub(crate) const AS_SERVER: &str = "--floor-server";

/// Milliseconds from the word to the last proxy's virtual host, of several rounds.
pub(crate) async fn measure(proxies: usize, port: u16) -> anyhow::Result<Vec<f64>> {
    let mut server = Command::new(std::env::current_exe()?)
        .args([AS_SERVER, &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting the floor's server")?;
    let mut word = server.stdin.take().context("its input")?;
    let mut ready = BufReader::new(server.stdout.take().context("its output")?).lines();
    ready.next_line().await?.context("the floor's server listens")?;
    let fleet = Arc::new(Fleet::default());
    let (goals, _) = watch::channel(Goal::Host(HOST.into()));
    let size = Size { proxies, services: 1, changes: 1 };
    let run = Run::start(&size, port, &Start::Cold, &fleet, &goals).await;
    // Each is sent one change when it comes.
    wait_for(&fleet.arrived, proxies, &fleet).await?;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        fleet.arrived.store(0, Ordering::Relaxed);
        word.write_all(b"now\n").await?;
        took.push(wait_for(&fleet.arrived, proxies, &fleet).await?.as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    run.stop().await;
    server.kill().await?;
    Ok(took)
}

/// Serves until it is killed: each line of the input is a change.
#[allow(clippy::print_stdout)]
pub(crate) fn serve(port: u16) -> anyhow::Result<()> {
    let floor = Floor::default();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let listener = tonic::transport::server::TcpIncoming::bind(address)?.with_nodelay(Some(true));
    println!("ready");
    tokio::spawn(Server::builder().add_service(floor.clone()).serve_with_incoming(listener));
    tokio::task::block_in_place(|| {
        for word in std::io::stdin().lines() {
            word?;
            let streams = floor.streams.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for stream in streams {
                let _is_gone = stream.try_send(());
            }
        }
        Ok(())
    })
}

#[derive(Debug, Clone, Default)]
struct Floor {
    streams: Arc<Mutex<Vec<mpsc::Sender<()>>>>,
}

impl NamedService for Floor {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<http::Request<Body>> for Floor {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let floor = self.clone();
        Box::pin(async move { Ok(Grpc::new(Raw).streaming(floor, request).await) })
    }
}

impl StreamingService<Bytes> for Floor {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (out, responses) = mpsc::channel(8);
        let (word, words) = mpsc::channel(1);
        let _has_room = word.try_send(());
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).push(word);
        tokio::spawn(talk(request.into_inner(), words, out));
        Box::pin(async move { Ok(Response::new(ReceiverStream::new(responses))) })
    }
}

/// Clusters and endpoints at once, and the virtual host when the clusters are acknowledged, as a control plane has to.
async fn talk(
    mut requests: Streaming<Bytes>,
    mut words: mpsc::Receiver<()>,
    out: mpsc::Sender<Result<Bytes, Status>>,
) {
    let changes: HashMap<Kind, Bytes> =
        [(Kind::Cluster, "floor"), (Kind::Endpoints, "floor"), (Kind::VirtualHost, HOST)]
            .map(|(kind, name)| (kind, change(kind, name)))
            .into();
    let send = async |kind: Kind| out.send(Ok(changes[&kind].clone())).await.is_ok();
    loop {
        tokio::select! {
            request = requests.message() => {
                let Ok(Some(request)) = request else { return };
                let Ok(request) = DeltaDiscoveryRequest::decode(request) else { return };
                let is_ack = !request.response_nonce.is_empty();
                if is_ack && request.type_url == Kind::Cluster.url() && !send(Kind::VirtualHost).await {
                    return;
                }
            }
            Some(()) = words.recv() => {
                if !(send(Kind::Cluster).await && send(Kind::Endpoints).await) {
                    return;
                }
            }
        }
    }
}

fn change(kind: Kind, name: &str) -> Bytes {
    let body = envoy_types::pb::google::protobuf::Any {
        type_url: kind.url().to_owned(),
        value: vec![b' '; BODY_BYTES],
    };
    let resource =
        Resource { name: name.to_owned(), version: "1".into(), resource: Some(body), ..Resource::default() };
    let response = DeltaDiscoveryResponse {
        type_url: kind.url().to_owned(),
        nonce: "1".into(),
        resources: vec![resource],
        ..DeltaDiscoveryResponse::default()
    };
    response.encode_to_vec().into()
}

/// Bytes as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = bytes.remaining();
        Ok(Some(bytes.copy_to_bytes(length)))
    }
}
