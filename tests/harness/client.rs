//! What tests send and read.

use std::collections::BTreeMap;

use reqwest::{Response, StatusCode};
use serde_json::Value;

/// A response that was read.
#[derive(Debug)]
pub struct Answer {
    /// Of HTTP.
    pub status: u16,
    /// Lower case; of several values the last.
    pub headers: BTreeMap<String, String>,
    /// As text.
    pub body: String,
}

impl Answer {
    /// Reads it to its end.
    pub async fn read(response: Response) -> Self {
        let status = response.status().as_u16();
        let text =
            |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers =
            response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Self { status, headers, body: response.text().await.unwrap_or_default() }
    }

    /// Of HTTP.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or_default()
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// What the lab's upstream saw of a header: all its values.
    pub fn upstream_saw(&self, header: &str) -> Vec<String> {
        let values = self.json()["headers"][header].clone();
        values
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect()
    }
}

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct Token {
    /// `aud`
    pub audience: String,
    /// `scope`
    pub scope: String,
    /// `sub`
    pub subject: String,
    /// ES256 or RS256
    pub algorithm: &'static str,
    /// Seconds from now.
    pub expires_in: i64,
}

impl Token {
    /// A token that is good for the service of this name.
    pub fn for_service(name: &str) -> Self {
        Self {
            audience: name.to_owned(),
            scope: format!("read:{name}"),
            subject: "alice".into(),
            algorithm: "ES256",
            expires_in: 600,
        }
    }
}
