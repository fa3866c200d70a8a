//! One look at a source: conditional, bounded.

use std::{io::Read as _, path::Path};

use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED},
    redirect,
};
use runtime::telemetry::chain;

use super::{
    Source,
    format::Format,
    s3::{self, Bucket},
    settings::Origin,
};

/// What a look found.
pub(crate) enum Fetched {
    Unchanged,
    Changed(String),
}

/// Asks one source, and remembers what it said of its version.
pub(crate) struct Fetcher {
    http: reqwest::Client,
    bucket: Option<Bucket>,
    /// `ETag`, and for servers without one `Last-Modified` (RFC 9110, section 13).
    validators: HeaderMap,
}

/// More is a loop.
const MAX_REDIRECTS: usize = 3;

impl Fetcher {
    pub(crate) fn new(source: &Source) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .redirect(redirect::Policy::limited(MAX_REDIRECTS))
            .connect_timeout(source.timeout)
            .build()?;
        Ok(Self { http, bucket: None, validators: HeaderMap::new() })
    }

    /// The next look takes everything.
    pub(crate) fn forget(&mut self) {
        self.validators.clear();
    }

    pub(crate) async fn fetch(&mut self, source: &Source) -> Result<Fetched, String> {
        match &source.origin {
            Origin::Inline(value) => Ok(Fetched::Changed(value.to_string())),
            Origin::File(path) => {
                let (path, max_bytes) = (path.clone(), source.max_bytes);
                let read = tokio::task::spawn_blocking(move || read_file(&path, max_bytes)).await;
                read.map_err(|error| error.to_string())?.map(Fetched::Changed)
            }
            Origin::Http { url, headers } => {
                let (url, headers) = (url.clone(), headers.clone());
                self.fetch_http(source, url, headers).await
            }
            Origin::S3 { bucket, key } => {
                if self.bucket.is_none() {
                    self.bucket = Some(Bucket::connect().await);
                }
                let known = self.validators.get(ETAG).and_then(|etag| etag.to_str().ok());
                let Some(client) = &self.bucket else { return Err("no client".into()) };
                match client.get(bucket, key, known, source.max_bytes).await? {
                    s3::Object::Unchanged => Ok(Fetched::Unchanged),
                    s3::Object::Changed { etag, bytes } => {
                        self.validators.clear();
                        if let Some(etag) = etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
                            self.validators.insert(ETAG, etag);
                        }
                        text(bytes).map(Fetched::Changed)
                    }
                }
            }
        }
    }

    async fn fetch_http(
        &mut self,
        source: &Source,
        url: reqwest::Url,
        headers: HeaderMap,
    ) -> Result<Fetched, String> {
        let mut request = self.http.get(url).headers(headers);
        for (known, condition) in [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)] {
            if let Some(value) = self.validators.get(&known) {
                request = request.header(condition, value.clone());
            }
        }
        let mut response = request.send().await.map_err(without_url)?;
        match response.status() {
            StatusCode::NOT_MODIFIED => return Ok(Fetched::Unchanged),
            StatusCode::OK => {}
            status => return Err(format!("answered {status}")),
        }
        let is_html = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().starts_with(b"text/html");
        if source.format != Format::Text && response.headers().get(CONTENT_TYPE).is_some_and(is_html) {
            return Err("answered with HTML".into());
        }
        let mut validators = HeaderMap::new();
        for name in [ETAG, LAST_MODIFIED] {
            if let Some(value) = response.headers().get(&name) {
                validators.insert(name, value.clone());
            }
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(without_url)? {
            if bytes.len() + chunk.len() > source.max_bytes {
                return Err(too_large(source.max_bytes));
            }
            bytes.extend_from_slice(&chunk);
        }
        self.validators = validators;
        text(bytes).map(Fetched::Changed)
    }
}

/// The URL may hold credentials, and operators know it.
fn without_url(error: reqwest::Error) -> String {
    chain(&error.without_url())
}

pub(crate) fn too_large(max_bytes: usize) -> String {
    format!("more than {max_bytes} bytes (max_bytes)")
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| format!("not UTF-8: {}", error.utf8_error()))
}

fn read_file(path: &Path, max_bytes: usize) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let most = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > max_bytes {
        return Err(too_large(max_bytes));
    }
    text(bytes)
}
