//! Which sources there are, as operators write it.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use model::revocation::LIST;
use serde::Deserialize;
use serde_json::Value;

use super::format::Format;

/// One source.
#[derive(Debug, Clone)]
pub struct Source {
    /// Templates call it `context.<name>`.
    pub name: String,
    pub(crate) origin: Origin,
    pub(crate) format: Format,
    interval: Duration,
    jitter: Duration,
    pub(crate) timeout: Duration,
    pub(crate) max_bytes: usize,
    pub(crate) is_shown: bool,
}

/// Where it comes from.
#[derive(Clone)]
pub(crate) enum Origin {
    File(PathBuf),
    Http { url: reqwest::Url, headers: reqwest::header::HeaderMap },
    S3 { bucket: String, key: String },
    Inline(Value),
}

impl fmt::Debug for Origin {
    /// Headers may be credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Http { url, .. } => {
                let mut shown = url.clone();
                // So may be what stands before the host, or behind the question mark.
                let _cannot_be_a_base = shown.set_username("").and_then(|()| shown.set_password(None));
                shown.set_query(None);
                write!(f, "http {shown}")
            }
            Self::S3 { bucket, key } => write!(f, "s3 {bucket}/{key}"),
            Self::Inline(_) => f.write_str("inline"),
        }
    }
}

/// A source that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSources(String);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    sources: BTreeMap<String, Raw>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    file: Option<PathBuf>,
    http: Option<String>,
    s3: Option<String>,
    inline: Option<Value>,
    headers: BTreeMap<String, String>,
    format: Option<String>,
    interval: Option<String>,
    jitter: Option<String>,
    timeout: Option<String>,
    max_bytes: Option<usize>,
    shown: bool,
}

/// More is a sign that one source should hold a list.
const MAX_SOURCES: usize = 64;
/// Names of the context that no source has: the control plane itself says what they are.
const RESERVED: [&str; 4] = ["issuers", "key_servers", "identity_keys", LIST];
const INTERVAL: Duration = Duration::from_secs(30);
/// A source that is asked more often is asked for nothing but load.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longer, and a hanging source is not told from one that works.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);
/// A list of 50,000 hosts is about 10 MB.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// It is read, parsed and kept as a whole.
const LARGEST_BYTES: usize = 256 * 1024 * 1024;

/// Reads the file with the sources.
///
/// # Errors
/// The source, the field, the rule and the value.
pub fn read(yaml: &str) -> Result<Vec<Source>, InvalidSources> {
    let file: File = serde_norway::from_str(yaml).map_err(|error| InvalidSources(error.to_string()))?;
    if file.sources.len() > MAX_SOURCES {
        return Err(InvalidSources(format!("sources: at most {MAX_SOURCES}, got {}", file.sources.len())));
    }
    file.sources.into_iter().map(|(name, raw)| Source::read(name, raw)).collect()
}

impl Source {
    fn read(name: String, raw: Raw) -> Result<Self, InvalidSources> {
        let refuse = |field: &str, what: String| InvalidSources(format!("sources.{name}.{field}: {what}"));
        let is_word = name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !is_word {
            let what = "lower-case letters, digits and _, beginning with a letter";
            return Err(InvalidSources(format!("sources: a name is {what}, got {name:?}")));
        }
        if RESERVED.contains(&name.as_str()) {
            let what = format!("none of {}, which the control plane itself fills", RESERVED.join(", "));
            return Err(InvalidSources(format!("sources: a name is {what}, got {name:?}")));
        }
        let span = |field: &str, text: &Option<String>, default: Duration| match text {
            None => Ok(default),
            Some(text) => {
                duration(text).ok_or_else(|| refuse(field, format!("such as 30s or 1.5s, got {text:?}")))
            }
        };
        let interval = span("interval", &raw.interval, INTERVAL)?;
        if interval < MIN_INTERVAL {
            return Err(refuse(
                "interval",
                format!("at least {} s, got {interval:?}", MIN_INTERVAL.as_secs()),
            ));
        }
        let timeout = span("timeout", &raw.timeout, TIMEOUT)?;
        if timeout.is_zero() || timeout > MAX_TIMEOUT {
            let what = format!("more than 0 s and at most {} s, got {timeout:?}", MAX_TIMEOUT.as_secs());
            return Err(refuse("timeout", what));
        }
        let max_bytes = raw.max_bytes.unwrap_or(MAX_BYTES);
        if max_bytes == 0 || max_bytes > LARGEST_BYTES {
            return Err(refuse("max_bytes", format!("from 1 to {LARGEST_BYTES}, got {max_bytes}")));
        }
        let jitter = span("jitter", &raw.jitter, interval / 10)?;
        let headers = headers(&raw.headers).map_err(|what| refuse("headers", what))?;
        let origin = match (raw.file, raw.http, raw.s3, raw.inline) {
            (Some(path), None, None, None) => Origin::File(path),
            (None, Some(url), None, None) => {
                let parsed = reqwest::Url::parse(&url).ok();
                let url = parsed.filter(|url| matches!(url.scheme(), "http" | "https"));
                let url = url.ok_or_else(|| refuse("http", "an http or https URL".into()))?;
                Origin::Http { url, headers }
            }
            (None, None, Some(place), None) => {
                let (bucket, key) = place
                    .strip_prefix("s3://")
                    .and_then(|rest| rest.split_once('/'))
                    .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
                    .ok_or_else(|| refuse("s3", format!("s3://bucket/key, got {place:?}")))?;
                Origin::S3 { bucket: bucket.to_owned(), key: key.to_owned() }
            }
            (None, None, None, Some(value)) => Origin::Inline(value),
            _ => return Err(refuse("file", "exactly one of file, http, s3 and inline".into())),
        };
        let format = match &raw.format {
            Some(name) => Format::named(name).map_err(|what| refuse("format", what))?,
            None => Format::of(&origin),
        };
        Ok(Self { name, origin, format, interval, jitter, timeout, max_bytes, is_shown: raw.shown })
    }

    /// The interval, and up to the jitter more: replicas that started together do not ask together.
    pub(crate) fn next_interval(&self) -> Duration {
        self.interval + self.jitter.mul_f64(runtime::jitter::share())
    }
}

fn duration(text: &str) -> Option<Duration> {
    let secs: f64 = text.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(secs).ok()
}

fn headers(raw: &BTreeMap<String, String>) -> Result<reqwest::header::HeaderMap, String> {
    let mut headers = reqwest::header::HeaderMap::new();
    for (name, value) in raw {
        let parsed = reqwest::header::HeaderName::try_from(name).ok();
        let name = parsed.ok_or_else(|| format!("a name of a header, got {name:?}"))?;
        // Never the value: it may be a credential.
        let mut value = reqwest::header::HeaderValue::try_from(value)
            .map_err(|_| format!("{name}: a value without control characters"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}
