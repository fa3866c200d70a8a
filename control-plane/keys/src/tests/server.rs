//! A key server, an issuer, or something that pretends to be one: over TCP or TLS, with what a test wants it to say.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use jsonwebtoken::{Algorithm, EncodingKey, jwk::Jwk};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};

/// What is said at one path.
#[derive(Debug, Clone)]
struct Page {
    status: u16,
    headers: String,
    body: String,
    asked: usize,
    /// It never ends.
    hangs: bool,
}

type Pages = Arc<Mutex<BTreeMap<String, Page>>>;

pub(super) struct Server {
    base: String,
    pages: Pages,
    /// Of its certificate, where it has one.
    pub(super) ca: String,
}

impl Server {
    pub(super) async fn plain() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let pages = Pages::default();
        let served = pages.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer(socket, served.clone()));
            }
        });
        Self { base, pages, ca: String::new() }
    }

    pub(super) async fn secure() -> Self {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let private = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let pages = Pages::default();
        let served = pages.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, served) = (acceptor.clone(), served.clone());
                tokio::spawn(async move {
                    if let Ok(socket) = acceptor.accept(socket).await {
                        answer(socket, served).await;
                    }
                });
            }
        });
        Self { base, pages, ca: certificate.pem() }
    }

    pub(super) fn url(&self, path: &str) -> String {
        // As the URL's parser writes it.
        let path = if path.is_empty() { "/" } else { path };
        format!("{}{path}", self.base)
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Page)) {
        let empty =
            || Page { status: 200, headers: String::new(), body: String::new(), asked: 0, hangs: false };
        let mut pages = self.pages.lock().unwrap();
        change(pages.entry(path.to_owned()).or_insert_with(empty));
    }

    pub(super) fn says(&self, path: &str, body: &str) {
        self.change(path, |page| {
            (page.status, page.hangs) = (200, false);
            page.headers.clear();
            body.clone_into(&mut page.body);
        });
    }

    pub(super) fn status(&self, path: &str, status: u16) {
        self.change(path, |page| page.status = status);
    }

    pub(super) fn header(&self, path: &str, header: &str) {
        self.change(path, |page| page.headers = format!("{header}\r\n"));
    }

    pub(super) fn hangs(&self, path: &str) {
        self.change(path, |page| page.hangs = true);
    }

    pub(super) fn asked(&self, path: &str) -> usize {
        self.pages.lock().unwrap().get(path).map_or(0, |page| page.asked)
    }

    pub(super) fn all(&self) -> usize {
        self.pages.lock().unwrap().values().map(|page| page.asked).sum()
    }
}

async fn answer(mut socket: impl AsyncRead + AsyncWrite + Unpin, pages: Pages) {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match socket.read(&mut buffer).await {
            Ok(read) if read > 0 => head.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let page = {
        let mut pages = pages.lock().unwrap();
        let page = pages.get_mut(&path);
        page.map(|page| {
            page.asked += 1;
            page.clone()
        })
    };
    let gone = Page { status: 404, headers: String::new(), body: String::new(), asked: 0, hangs: false };
    let page = page.unwrap_or(gone);
    if page.hangs {
        std::future::pending::<()>().await;
    }
    let tag = page.headers.strip_prefix("etag: ").map(str::trim);
    let is_known = tag.is_some_and(|tag| head.contains(&format!("if-none-match: {tag}")));
    let (status, body) = if is_known { (304, "") } else { (page.status, page.body.as_str()) };
    let (headers, length) = (&page.headers, body.len());
    let text = format!(
        "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    let _gone = socket.write_all(text.as_bytes()).await;
    let _gone = socket.shutdown().await;
}

fn pair(seed: usize) -> String {
    static PAIRS: Mutex<BTreeMap<usize, String>> = Mutex::new(BTreeMap::new());
    let made = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    PAIRS.lock().unwrap().entry(seed).or_insert_with(made).clone()
}

/// A JWK Set with a key for each id; each time the same one.
pub(super) fn jwks(kids: &[&str]) -> String {
    let key = |kid: &&str| {
        let seed = kid.bytes().map(usize::from).sum();
        let key = EncodingKey::from_ec_pem(pair(seed).as_bytes()).unwrap();
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some((*kid).to_owned());
        jwk
    };
    json!({"keys": kids.iter().map(key).collect::<Vec<_>>()}).to_string()
}

/// A public key.
pub(super) fn pem(seed: usize) -> String {
    KeyPair::from_pem(&pair(seed)).unwrap().public_key_pem()
}
