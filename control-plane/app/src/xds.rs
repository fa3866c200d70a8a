//! The xDS port: each connection of a node, until it ends, is stuck, or the process is to end.

use std::{sync::Arc, time::Duration};

use ads::{Discovery, Undelivered};
use arc_swap::ArcSwap;
use axum::{Router, extract::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use runtime::Shutdown;
use rustls::ServerConfig;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::StreamExt as _;
use tower::util::MapRequest;

use crate::{
    listener::{self, Connection},
    nest::{Nest, Nested},
};

/// Finds clients that vanished without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What a client may send before it is read: requests of a fleet that comes at once wait in this.
const WINDOW_BYTES: u32 = 64 * 1024;
/// Between two looks whether a client reads.
const LOOK: Duration = Duration::from_secs(2);

/// Serves until the process is to end, and each connection until its streams have ended.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    discovery: Discovery,
    shutdown: Shutdown,
) {
    let mut connections = listener::accept(listener, tls);
    let routes = discovery.clone().into_routes();
    let mut serving = JoinSet::new();
    let stop = shutdown.wait();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            connection = connections.next() => match connection {
                Some(connection) => {
                    let undelivered = discovery.undelivered();
                    serving.spawn(one(connection, routes.clone(), undelivered, shutdown.clone()));
                }
                None => break,
            },
            Some(_) = serving.join_next() => {}
            () = &mut stop => break,
        }
    }
    drop(connections);
    while serving.join_next().await.is_some() {}
}

async fn one(connection: Connection, routes: Router, undelivered: Undelivered, shutdown: Shutdown) {
    let (peer, of_requests) = (connection.peer.clone(), undelivered.clone());
    let service = MapRequest::new(routes, move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(of_requests.clone());
        request
    });
    let nest = Nest::default();
    let mut http = auto::Builder::new(nest.clone());
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    let address = connection.address;
    let io = TokioIo::new(connection);
    let mut served =
        Nested::new(Box::pin(http.serve_connection(io, TowerToHyperService::new(service))), nest);
    let mut look = tokio::time::interval(LOOK);
    let stop = shutdown.wait();
    tokio::pin!(stop);
    let mut is_stopping = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut served => {
                if let Err(error) = ended {
                    tracing::debug!(%address, error, "a connection ended");
                }
                return;
            }
            _ = look.tick() => if undelivered.is_stuck() {
                tracing::warn!(%address, "dropped: it stopped reading");
                return;
            },
            () = &mut stop, if !is_stopping => {
                is_stopping = true;
                served.connection().get_mut().as_mut().graceful_shutdown();
            }
        }
    }
}
