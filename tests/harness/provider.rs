//! Somebody on the internet whom the edge asks about credentials: HTTPS on the loopback interface, with answers that a
//! test changes.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::TestCa;

/// A serving provider; ends with the test's runtime.
#[derive(Clone)]
pub struct Provider {
    /// `https://127.0.0.1:<port>`
    pub url: String,
    /// The CA of its certificate, as a PEM file.
    pub ca: PathBuf,
    said: Arc<Mutex<Said>>,
}

#[derive(Default)]
struct Said {
    /// By path, or by path and a part of the body.
    answers: HashMap<(String, String), (u16, String)>,
    /// Path, headers and body of each request.
    asked: Vec<String>,
}

impl Provider {
    /// With a certificate of a CA of its own, whose file it writes into the folder.
    pub async fn serve(folder: &Path) -> Self {
        let ca = TestCa::new("provider");
        let path = folder.join("provider-ca.pem");
        fs::write(&path, ca.pem()).expect("a file");
        let (chain, key) = ca.server();
        let chain = CertificateDer::from_pem_slice(chain.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .expect("a pair");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let said = Arc::new(Mutex::new(Said::default()));
        let own = said.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, said) = (acceptor.clone(), own.clone());
                tokio::spawn(async move {
                    if let Ok(socket) = acceptor.accept(socket).await {
                        let _gone = answer(socket, &said).await;
                    }
                });
            }
        });
        Self { url, ca: path, said }
    }

    /// What it answers at this path from now on.
    pub fn say(&self, path: &str, status: u16, body: &str) {
        self.say_about(path, "", status, body);
    }

    /// What it answers there to a body that holds this.
    pub fn say_about(&self, path: &str, part: &str, status: u16, body: &str) {
        self.lock().answers.insert((path.to_owned(), part.to_owned()), (status, body.to_owned()));
    }

    /// All requests so far that hold this, heads and bodies.
    pub fn asked(&self, part: &str) -> Vec<String> {
        self.lock().asked.iter().filter(|request| request.contains(part)).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request of a connection.
async fn answer(mut socket: impl AsyncRead + AsyncWrite + Unpin, said: &Mutex<Said>) -> std::io::Result<()> {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    let whole = loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                break text;
            }
        }
        match socket.read(&mut buffer).await? {
            0 => return Ok(()),
            read => request.extend_from_slice(&buffer[..read]),
        }
    };
    let path = whole.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, body) = {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.asked.push(whole.clone());
        let about =
            said.answers.iter().filter(|((at, part), _)| *at == path && whole.contains(part.as_str()));
        let most = about.max_by_key(|((_, part), _)| part.len()).map(|(_, answer)| answer.clone());
        most.unwrap_or((404, String::new()))
    };
    let head = format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    socket.write_all((head + &body).as_bytes()).await?;
    socket.shutdown().await
}
