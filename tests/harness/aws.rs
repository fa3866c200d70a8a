//! AWS on this machine: moto, a server that speaks its APIs.

use std::path::Path;

use lab::{Ports, Process};

use crate::{eventually, tool};

const MOTO: &str = "moto[server]==5.2.5";

/// moto looks at who signs, and not at the signature.
const SIGNED: &str =
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=none";

/// A running one, with nothing in it. Ends when it is dropped.
pub struct Aws {
    _process: Process,
    url: String,
    client: reqwest::Client,
}

impl Aws {
    /// Waits until it answers.
    pub async fn start(folder: &Path) -> Self {
        let moto = tool(MOTO).await;
        let port = Ports::free().expect("free ports").upstream;
        let args = ["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()].map(str::to_owned);
        let environment = [("PYTHONPATH".to_owned(), moto.display().to_string())];
        let python = Path::new("/usr/bin/python3");
        let process = Process::start_with("moto", python, &args, &environment, &folder.join("moto.log"))
            .expect("Python");
        let (url, client) = (format!("http://127.0.0.1:{port}"), reqwest::Client::new());
        eventually("moto answers", || async { client.get(&url).send().await.ok().map(drop) }).await;
        Self { _process: process, url, client }
    }

    /// What a process needs in its environment to use it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            own("AWS_ENDPOINT_URL", &self.url),
            own("AWS_REGION", "us-east-1"),
            own("AWS_ACCESS_KEY_ID", "test"),
            own("AWS_SECRET_ACCESS_KEY", "test"),
        ]
    }

    /// Makes a bucket.
    pub async fn bucket(&self, name: &str) {
        self.put(name, "").await;
    }

    /// Writes an object.
    pub async fn put(&self, path: &str, body: &str) {
        let put = self.client.put(format!("{}/{path}", self.url)).body(body.to_owned());
        let put = put.header("authorization", SIGNED);
        let answer = put.send().await.expect("moto answers");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    }
}
