//! One simulated proxy: asks for what an Envoy asks for, in its order, and acknowledges at once.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::{net::TcpStream, sync::watch};

use crate::wire::{Kind, Messages, Response, framed, prefix, request, with_node};

/// What all proxies share.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    /// Each resource's newest version, as some proxy has seen it: all get the same.
    pub(crate) versions: Mutex<HashMap<Kind, HashMap<String, String>>>,
    /// Proxies that have acknowledged the virtual host that is waited for.
    pub(crate) arrived: AtomicUsize,
    /// Proxies that have everything, or were told that they have it.
    pub(crate) complete: AtomicUsize,
    /// Connections that were refused while a fleet came at once, and tried again, as Envoy does.
    pub(crate) retries: AtomicUsize,
    pub(crate) failures: AtomicUsize,
}

/// What is waited for.
#[derive(Debug, Clone, Default)]
pub(crate) enum Goal {
    #[default]
    Nothing,
    /// This many resources of each of CDS, EDS and VHDS.
    Complete { clusters: usize, endpoints: usize, hosts: usize },
    /// A new version of this virtual host.
    Host(Arc<str>),
}

/// How a proxy begins.
#[derive(Debug, Clone)]
pub(crate) enum Start {
    /// With nothing.
    Cold,
    /// With everything: the first requests, encoded once for all.
    Warm(Arc<Vec<(Kind, Bytes)>>),
}

const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// The proxy that writes down for all what they were told.
const FIRST: &str = "-00000";
/// As long as Envoy waits at first.
const RETRY: Duration = Duration::from_millis(500);
/// Of a whole fleet; more is a failure.
const MAX_RETRIES: usize = 5_000;
/// As Envoy's own.
const WINDOW_BYTES: u32 = 8 << 20;

/// Runs until it is told to stop.
pub(crate) async fn run(
    id: String,
    port: u16,
    start: Start,
    fleet: Arc<Fleet>,
    goals: watch::Receiver<Goal>,
    mut stop: watch::Receiver<bool>,
) {
    let mut is_complete = false;
    loop {
        let goals = goals.clone();
        let ended = tokio::select! {
            ended = stream(&id, port, start.clone(), &fleet, goals, &mut is_complete) => ended,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let Err(error) = ended else { return };
        if is_complete || fleet.retries.fetch_add(1, Ordering::Relaxed) > MAX_RETRIES {
            #[allow(clippy::print_stderr)]
            if fleet.failures.fetch_add(1, Ordering::Relaxed) == 0 {
                eprintln!("{id}: {error:#}");
            }
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn stream(
    id: &str,
    port: u16,
    start: Start,
    fleet: &Fleet,
    goals: watch::Receiver<Goal>,
    is_complete: &mut bool,
) -> anyhow::Result<()> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.context("connecting")?;
    tcp.set_nodelay(true)?;
    let mut http = h2::client::Builder::new();
    http.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    let (client, connection) = http.handshake::<_, Bytes>(tcp).await.context("connecting")?;
    let talk = async {
        let mut calls = client.ready().await?;
        let call = http::Request::post(format!("http://127.0.0.1:{port}{PATH}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (answer, mut out) = calls.send_request(call, false)?;
        let is_warm = matches!(start, Start::Warm(_));
        match start {
            Start::Cold => {
                out.send_data(framed(&request(Some(id), Kind::Cluster, "", [""; 0], [])), false)?;
            }
            Start::Warm(first) => {
                for (at, (_, bytes)) in first.iter().enumerate() {
                    let bytes = if at == 0 { with_node(id, bytes) } else { bytes.clone() };
                    out.send_data(prefix(&bytes), false)?;
                    out.send_data(bytes, false)?;
                }
            }
        }
        let mut proxy = Proxy {
            counts: HashMap::new(),
            answered: 0,
            asked: is_warm,
            complete: false,
            writes: id.ends_with(FIRST),
        };
        let mut messages = Messages::of(answer.await?.into_body());
        while let Some(message) = messages.next().await? {
            let response = Response::read(&message)?;
            drop(message);
            let kind = Kind::of(&response.url).context("a type that was not asked for")?;
            for answer in proxy.take(kind, &response) {
                out.send_data(framed(&answer), false)?;
            }
            proxy.count(kind, response, fleet, &goals, is_warm);
            *is_complete |= proxy.complete;
        }
        anyhow::bail!("the stream has ended: {}", messages.status().await)
    };
    // In one task: a fleet of thousands is to cost what its messages cost, and not what waking tasks does.
    tokio::select! {
        biased;
        ended = connection => match ended {
            Ok(()) => anyhow::bail!("the connection has ended"),
            Err(error) => Err(error.into()),
        },
        ended = talk => ended,
    }
}

/// What one proxy knows.
struct Proxy {
    counts: HashMap<Kind, isize>,
    answered: usize,
    /// Whether it asked for listeners and routes.
    asked: bool,
    complete: bool,
    writes: bool,
}

impl Proxy {
    /// The ACK, and what an Envoy asks for next.
    fn take(&mut self, kind: Kind, response: &Response) -> Vec<Bytes> {
        let mut answers = vec![request(None, kind, &response.nonce, [""; 0], [])];
        if kind == Kind::Cluster {
            // An Envoy asks for the endpoints of new clusters of type EDS; those of a service have a slash.
            let names: Vec<_> = response
                .resources
                .iter()
                .map(|(name, _)| name.clone())
                .filter(|name| name.contains('/'))
                .collect();
            if !names.is_empty() {
                answers.push(request(None, Kind::Endpoints, "", names, []));
            }
        }
        if kind == Kind::Cluster && !std::mem::replace(&mut self.asked, true) {
            answers.push(request(None, Kind::Listener, "", [""; 0], []));
            answers.push(request(None, Kind::Routes, "", ["edge"], []));
            answers.push(request(None, Kind::VirtualHost, "", [""; 0], []));
        }
        answers
    }

    fn count(
        &mut self,
        kind: Kind,
        response: Response,
        fleet: &Fleet,
        goals: &watch::Receiver<Goal>,
        is_warm: bool,
    ) {
        self.answered += 1;
        let count = self.counts.entry(kind).or_default();
        *count += isize::try_from(response.resources.len()).unwrap_or(0);
        *count -= isize::try_from(response.removed.len()).unwrap_or(0);
        let goal = goals.borrow().clone();
        match goal {
            Goal::Nothing => {}
            Goal::Complete { clusters, endpoints, hosts } => {
                let has = |kind: Kind, wanted: usize| {
                    self.counts.get(&kind).is_some_and(|count| *count >= isize::try_from(wanted).unwrap_or(0))
                };
                let done = if is_warm {
                    self.answered >= Kind::ALL.len()
                } else {
                    has(Kind::Cluster, clusters)
                        && has(Kind::Endpoints, endpoints)
                        && has(Kind::VirtualHost, hosts)
                        && has(Kind::Listener, 1)
                };
                if done && !std::mem::replace(&mut self.complete, true) {
                    fleet.complete.fetch_add(1, Ordering::Relaxed);
                }
            }
            Goal::Host(name) => {
                if kind == Kind::VirtualHost && response.resources.iter().any(|(got, _)| **got == *name) {
                    fleet.arrived.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        // All are told the same: one writes it down.
        if !self.writes {
            return;
        }
        let mut versions = fleet.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let known = versions.entry(kind).or_default();
        for (name, version) in response.resources {
            known.insert(name, version);
        }
        for name in response.removed {
            known.remove(&name);
        }
    }
}
