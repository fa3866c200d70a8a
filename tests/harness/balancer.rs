//! What stands between nodes and control planes in production: a load balancer for TCP.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// Passes each connection on to the first backend that accepts it, the last one that did first. Ends when it is dropped.
pub struct Balancer {
    port: u16,
    task: AbortHandle,
}

impl Balancer {
    /// In front of these ports of loopback.
    pub async fn start(backends: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let backends = Arc::new(Mutex::new(backends.to_vec()));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass_on(client, backends.clone()));
            }
        });
        Self { port, task: task.abort_handle() }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(mut client: TcpStream, backends: Arc<Mutex<Vec<u16>>>) {
    let known = || backends.lock().unwrap_or_else(PoisonError::into_inner);
    let ports = known().clone();
    for port in ports {
        let Ok(mut backend) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await else {
            continue;
        };
        known().sort_by_key(|other| *other != port);
        // Either side may hang up.
        let _ended = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
        return;
    }
}
