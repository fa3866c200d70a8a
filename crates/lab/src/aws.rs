//! AWS on this machine, for tests: moto, a server that speaks its APIs.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    LabError, Ports, Process,
    http::healthy,
    pip::{self, Needs},
};

const MOTO: &str = "moto[server]==5.2.5";
/// How it is started.
const EMULATOR: &str = include_str!("aws/emulator.py");
/// It starts within seconds, on a busy machine within many.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running one, with nothing in it. Ends when it is dropped.
#[derive(Debug)]
pub struct Aws {
    _process: Process,
    url: String,
    client: reqwest::Client,
}

/// moto looks at who signs and for which service, and not at the signature.
fn signed(service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=none"
    )
}

/// Where a checkout keeps the tools that its tests fetch. As cargo says it now: with a target folder that several
/// checkouts share, a test may have been built in another one.
pub fn tools_of_checkout() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let root = own.ancestors().find(|folder| folder.join("Cargo.lock").exists()).unwrap_or(&own);
    root.join(".gatehouse/tools")
}

impl Aws {
    /// Fetches moto once into `tools`, and waits until it answers. Its log goes to the folder.
    pub async fn start(tools: &Path, folder: &Path) -> Result<Self, LabError> {
        let moto = pip::fetched(tools, MOTO, Needs::Dependencies).await?;
        let port = Ports::free()?.upstream;
        let args = ["-c", EMULATOR, "-H", "127.0.0.1", "-p", &port.to_string()].map(str::to_owned);
        // Seconds until a certificate is issued; a minute otherwise.
        let environment =
            [("PYTHONPATH", moto.display().to_string()), ("MOTO_ACM_VALIDATION_WAIT", "1".into())];
        let environment = environment.map(|(name, value)| (name.to_owned(), value));
        let python = pip::on_path("python3").unwrap_or_else(|| PathBuf::from("python3"));
        let mut process =
            Process::start_with("moto", &python, &args, &environment, &folder.join("moto.log"))?;
        let (url, client) = (format!("http://127.0.0.1:{port}"), reqwest::Client::new());
        let status = format!("{url}/moto-api/");
        process.wait_until(DEADLINE, || healthy(&client, &status)).await?;
        Ok(Self { _process: process, url, client })
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

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes a bucket.
    pub async fn bucket(&self, name: &str) -> Result<(), LabError> {
        self.put(name, "").await
    }

    /// Writes an object.
    pub async fn put(&self, path: &str, body: &str) -> Result<(), LabError> {
        let put = self.client.put(format!("{}/{path}", self.url)).body(body.to_owned());
        answered(path, put.header("authorization", signed("s3"))).await.map(drop)
    }

    /// Makes a `CloudFormation` stack with these parameters, and waits for nothing: here it is made at once.
    pub async fn stack(
        &self,
        name: &str,
        template: &str,
        parameters: &[(&str, &str)],
    ) -> Result<(), LabError> {
        let mut form = vec![
            ("Action".to_owned(), "CreateStack".to_owned()),
            ("Version".to_owned(), "2010-05-15".to_owned()),
            ("StackName".to_owned(), name.to_owned()),
            ("TemplateBody".to_owned(), template.to_owned()),
        ];
        for (at, (key, value)) in parameters.iter().enumerate() {
            let parameter = format!("Parameters.member.{}", at + 1);
            form.push((format!("{parameter}.ParameterKey"), (*key).to_owned()));
            form.push((format!("{parameter}.ParameterValue"), (*value).to_owned()));
        }
        let post = self.client.post(&self.url).form(&form);
        answered(name, post.header("authorization", signed("cloudformation"))).await.map(drop)
    }
}

async fn answered(what: &str, request: reqwest::RequestBuilder) -> Result<String, LabError> {
    let failed = |why: String| LabError::Aws { what: what.to_owned(), why };
    let answer = request.send().await.map_err(|error| failed(error.to_string()))?;
    let status = answer.status();
    let text = answer.text().await.map_err(|error| failed(error.to_string()))?;
    if status.is_success() { Ok(text) } else { Err(failed(format!("{status} {text}"))) }
}
