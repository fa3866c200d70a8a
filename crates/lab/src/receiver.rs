//! Where the access log of a lab ends: a Unix socket that takes batches of lines and appends them to a file.
//! On nodes the agent stands in this place.

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    fs::{File, OpenOptions},
    io::AsyncWriteExt as _,
    net::UnixListener,
    sync::Mutex,
    task::JoinHandle,
};

/// A serving receiver; ends when it is dropped.
#[derive(Debug)]
pub struct Receiver {
    socket: PathBuf,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Listens on `socket`, in the place of one that was left behind, and appends to `file`.
    pub async fn serve(socket: &Path, file: &Path) -> io::Result<Self> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        let file = Arc::new(Mutex::new(OpenOptions::new().create(true).append(true).open(file).await?));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let file = Arc::clone(&file);
                tokio::spawn(async move {
                    let service = service_fn(move |request| take(request, Arc::clone(&file)));
                    let serve = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    // Envoy closes connections as it likes.
                    let _ = serve.await;
                });
            }
        });
        Ok(Self { socket: socket.to_owned(), task })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn take(
    request: Request<Incoming>,
    file: Arc<Mutex<File>>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = match request.into_body().collect().await {
        Err(_) => StatusCode::BAD_REQUEST,
        Ok(body) => {
            let mut file = file.lock().await;
            match file.write_all(&body.to_bytes()).await {
                Ok(()) => match file.flush().await {
                    Ok(()) => StatusCode::NO_CONTENT,
                    Err(_) => StatusCode::INSUFFICIENT_STORAGE,
                },
                Err(_) => StatusCode::INSUFFICIENT_STORAGE,
            }
        }
    };
    Ok(response)
}
