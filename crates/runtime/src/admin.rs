//! The admin endpoint of a process: `/healthz`, `/readyz`, `/metrics`. For operators, never for clients.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router, extract::State, http::StatusCode, http::header::CONTENT_TYPE, response::IntoResponse,
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;

use crate::{Readiness, Shutdown};

/// What is served.
#[derive(Debug, Clone)]
pub struct Admin {
    registry: Arc<Mutex<Registry>>,
    readiness: Readiness,
}

impl Admin {
    /// Serves these metrics and this readiness.
    pub fn new(registry: Registry, readiness: Readiness) -> Self {
        Self { registry: Arc::new(Mutex::new(registry)), readiness }
    }

    /// The routes, to be merged with others or served alone.
    pub fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self)
    }

    /// Serves on an address until shutdown. Returns the bound address at once, and the task.
    pub async fn serve(
        self,
        address: SocketAddr,
        shutdown: &Shutdown,
    ) -> io::Result<(SocketAddr, tokio::task::JoinHandle<io::Result<()>>)> {
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        let end = shutdown.wait();
        let router = self.router();
        let task =
            tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(end).await });
        Ok((bound, task))
    }
}

async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    match admin.readiness.pending() {
        pending if pending.is_empty() => (StatusCode::OK, "ready\n".to_owned()),
        pending => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", pending.join(", "))),
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let mut text = String::new();
    let registry = admin.registry.lock().unwrap_or_else(PoisonError::into_inner);
    // Writing to a string does not fail.
    let _ = encode(&mut text, &registry);
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
