//! A client of the operators' API.

use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// Where the control plane is, and who asks.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Target {
    /// The control plane's HTTP address
    #[arg(long, global = true, env = "GATEHOUSE_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// The token of an operator
    #[arg(long, global = true, env = "GATEHOUSE_TOKEN", default_value = "dev", hide_env_values = true)]
    token: String,
}

/// Prints an answer: for machines as it came, or as it is shown to people.
#[allow(clippy::print_stdout)]
pub(crate) fn print(json: bool, answer: &Value, shown: &str) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(answer)?);
    } else {
        print!("{shown}");
    }
    Ok(())
}

/// A connection to the operators' API.
pub(crate) struct Operators {
    client: reqwest::Client,
    target: Target,
}

/// To ask 2,000 nodes takes a control plane a while.
const TIMEOUT: Duration = Duration::from_secs(30);

impl Operators {
    pub(crate) fn connect(target: Target) -> anyhow::Result<Self> {
        Ok(Self { client: reqwest::Client::builder().timeout(TIMEOUT).build()?, target })
    }

    /// The answer's text.
    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<String> {
        let Target { url, token } = &self.target;
        let request = self.client.request(method, format!("{}{path}", url.trim_end_matches('/')));
        let request = request.bearer_auth(token);
        let request = if let Some(body) = body { request.json(body) } else { request };
        let response = request
            .send()
            .await
            .with_context(|| format!("no control plane at {url} (--url chooses another)"))?;
        let status = response.status();
        let text = response.text().await?;
        if status == StatusCode::OK {
            return Ok(text);
        }
        let told = serde_json::from_str::<Value>(&text).unwrap_or(Value::Null);
        bail!("{}", told["description"].as_str().map_or_else(|| format!("{path}: {status}"), str::to_owned))
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.send(Method::GET, path, None).await?)?)
    }

    /// With those of these parameters that have a value.
    pub(crate) async fn query(
        &self,
        path: &str,
        parameters: &[(&str, &Option<String>)],
    ) -> anyhow::Result<Value> {
        let given = parameters
            .iter()
            .filter_map(|(field, value)| Some(format!("{field}={}", escaped(value.as_ref()?))));
        self.get(&format!("{path}?{}", given.collect::<Vec<_>>().join("&"))).await
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.send(Method::DELETE, path, None).await?)?)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.send(Method::POST, path, Some(body)).await?)?)
    }
}

/// For a path or a query: slashes belong to names.
pub(crate) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
