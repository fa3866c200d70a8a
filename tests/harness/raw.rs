//! Requests byte by byte, for what no client library sends.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{Answer, Lab};

/// A request over HTTP/1.1; nothing in it is checked or put right.
#[derive(Debug, Clone)]
pub struct Raw(Vec<u8>);

/// An edge that says nothing and does not hang up either has not answered. A debug build on a busy machine has.
const PATIENCE: Duration = Duration::from_secs(20);

impl Raw {
    /// With this line as its first one.
    pub fn line(line: impl AsRef<[u8]>) -> Self {
        Self([line.as_ref(), b"\r\n"].concat())
    }

    /// A GET of a target, as it stands, from a host.
    pub fn get(host: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::line([b"GET ", target.as_ref(), b" HTTP/1.1"].concat()).header("host", host)
    }

    /// One more header.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.0.extend([name.as_ref(), b": ", value.as_ref(), b"\r\n"].concat());
        self
    }

    /// A token, where one is given.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        if token.is_empty() { self } else { self.header("authorization", format!("Bearer {token}")) }
    }

    /// The end of its headers, and whatever comes behind it.
    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.0.extend([b"connection: close\r\n\r\n", body.as_ref()].concat());
        self
    }

    /// Sends it to Envoy, without a body. The answer has the status 0 where the connection just ends.
    pub async fn send(self, lab: &Lab) -> Answer {
        self.body("").send_as_it_is(lab).await
    }

    /// Sends it to Envoy as it is.
    pub async fn send_as_it_is(self, lab: &Lab) -> Answer {
        let port = lab.stack.layout.ports.http;
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.expect("Envoy listens");
        let mut answer = Vec::new();
        let exchange = async {
            // It may hang up before it has read everything.
            let _early = socket.write_all(&self.0).await;
            let _cut = socket.read_to_end(&mut answer).await;
        };
        timeout(PATIENCE, exchange).await.unwrap_or_else(|_| {
            panic!("no end of the answer to {:?}", String::from_utf8_lossy(&self.0));
        });
        read(&answer)
    }
}

/// The first answer of a connection.
fn read(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let body = bytes.get(end + 4..).unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let headers: BTreeMap<_, _> = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let is_chunked = headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked");
    let body = if is_chunked { joined(body) } else { body.to_vec() };
    Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() }
}

/// Chunks without their sizes.
fn joined(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = chunks.windows(2).position(|window| window == b"\r\n") {
        let size =
            std::str::from_utf8(&chunks[..end]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
        let Some(chunk) = size.filter(|size| *size > 0).and_then(|size| chunks.get(end + 2..end + 2 + size))
        else {
            break;
        };
        body.extend_from_slice(chunk);
        chunks = chunks.get(end + 4 + chunk.len()..).unwrap_or_default();
    }
    body
}
