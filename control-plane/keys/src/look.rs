//! One look at where a set is: a file, a URL, the document of an issuer, a key server. Nothing is remembered here but what
//! a server said of its version.

use std::{io::Read as _, path::Path, time::Duration};

use api::key_set::MAX_BYTES;
use fetch::{Answer, Fetcher, Limits, Url};
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    set::Set,
    settings::{Origin, Source},
};

/// What a look has found.
#[derive(Debug)]
pub(crate) enum Found {
    /// As it was.
    Same(Option<Duration>),
    /// And how long it is good, where the server says so.
    Set(Set, Option<Duration>),
}

/// An `ETag`, and of which URL it is.
type Version = Option<(Url, String)>;

/// Looks, and knows the version of what it has seen.
#[derive(Debug)]
pub(crate) struct Looker {
    fetcher: Fetcher,
    version: Version,
}

/// A server that takes longer is as good as away.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(2), max_bytes: MAX_BYTES };
/// A PEM text of the largest RSA key has less than 2 KB.
const KEY_LIMITS: Limits = Limits { timeout: Duration::from_secs(2), max_bytes: 16 * 1024 };
/// Keys that one key server is asked for at the same time.
const AT_ONCE: usize = 8;

/// What OpenID Connect Discovery 1.0 section 3 says of an issuer, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
}

impl Looker {
    pub(crate) fn new(fetcher: Fetcher) -> Self {
        Self { fetcher, version: None }
    }

    /// The next look takes everything.
    pub(crate) fn forget(&mut self) {
        self.version = None;
    }

    /// What is there now.
    ///
    /// # Errors
    /// Nothing that is good; the text says why.
    pub(crate) async fn look(&mut self, source: &Source) -> Result<Found, String> {
        match &source.origin {
            Origin::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                let text = read.map_err(|error| error.to_string())??;
                Ok(Found::Set(Set::read(&source.name, &text, None)?, None))
            }
            Origin::Url(url) => self.jwks(&source.name, url).await,
            Origin::Discovery(url) => {
                let place = self.discover(&source.name, url).await?;
                self.jwks(&source.name, &place).await
            }
            Origin::Servers { urls, kids } => self.keys(&source.name, urls, kids).await,
        }
    }

    async fn jwks(&mut self, name: &str, url: &Url) -> Result<Found, String> {
        let known = self.version.as_ref().filter(|(of, _)| of == url).map(|(_, etag)| etag.as_str());
        let is_conditional = known.is_some();
        let answer = self.fetcher.get(url, known, LIMITS).await.map_err(|error| error.to_string())?;
        if answer.status == 304 && is_conditional {
            return Ok(Found::Same(answer.max_age));
        }
        let text = text(url, &answer)?;
        // A sidecar asks by the same rules, except that it has no networks of its own: http is not for it.
        let uri = (url.scheme() == "https").then(|| url.as_str());
        let set = Set::read(name, text, uri)?;
        self.version = answer.etag.clone().map(|etag| (url.clone(), etag));
        Ok(Found::Set(set, answer.max_age))
    }

    /// Where the issuer says that its keys are.
    async fn discover(&self, issuer: &str, url: &Url) -> Result<Url, String> {
        let answer = self.fetcher.get(url, None, LIMITS).await.map_err(|error| error.to_string())?;
        let document: Document =
            serde_json::from_str(text(url, &answer)?).map_err(|error| format!("{url}: {error}"))?;
        // OpenID Connect Discovery 1.0 section 4.3: exactly, or anybody's document would do.
        if document.issuer != issuer {
            return Err(format!(
                "{url}: issuer: {issuer:?} byte for byte, got {:?}",
                shortened(&document.issuer)
            ));
        }
        let place = Url::parse(&document.jwks_uri).ok().filter(|place| place.scheme() == "https");
        place.ok_or_else(|| format!("{url}: jwks_uri: an https URL, got {:?}", shortened(&document.jwks_uri)))
    }

    /// All keys of a key server. One that nobody can tell about fails the look as a whole: the set of before stays, and
    /// what the fleet has is never half of something.
    async fn keys(&self, name: &str, urls: &[Url], kids: &[String]) -> Result<Found, String> {
        let mut found = Vec::with_capacity(kids.len());
        for some in kids.chunks(AT_ONCE) {
            let mut asked = JoinSet::new();
            for kid in some {
                let (fetcher, urls, kid) = (self.fetcher.clone(), urls.to_vec(), kid.clone());
                asked.spawn(async move { key(&fetcher, &urls, &kid).await });
            }
            while let Some(key) = asked.join_next().await {
                found.extend(key.map_err(|error| error.to_string())??);
            }
        }
        // No key server says how long a set is good that it does not know of.
        Ok(Found::Set(Set::read(name, &json!({ "keys": found }).to_string(), None)?, None))
    }
}

/// One key of a key server; nothing, where all of its servers say that there is none.
async fn key(fetcher: &Fetcher, urls: &[Url], kid: &str) -> Result<Option<serde_json::Value>, String> {
    let mut failures = Vec::new();
    for base in urls {
        let url = Url::parse(&format!("{}/{kid}", base.as_str().trim_end_matches('/')));
        let url = url.map_err(|error| format!("{kid}: {error}"))?;
        let answer = match fetcher.get(&url, None, KEY_LIMITS).await {
            Ok(answer) => answer,
            Err(error) => {
                failures.push(error.to_string());
                continue;
            }
        };
        if matches!(answer.status, 404 | 410) {
            continue;
        }
        match text(&url, &answer)
            .and_then(|pem| jwt::pem::jwk(pem, kid).map_err(|error| format!("{url}: {error}")))
        {
            Ok(jwk) => return serde_json::to_value(jwk).map(Some).map_err(|error| error.to_string()),
            Err(error) => failures.push(error),
        }
    }
    if failures.is_empty() { Ok(None) } else { Err(failures.join("; ")) }
}

fn text<'a>(url: &Url, answer: &'a Answer) -> Result<&'a str, String> {
    let mut place = url.clone();
    place.set_query(None);
    if answer.status != 200 {
        return Err(format!("{place}: answered {}", answer.status));
    }
    std::str::from_utf8(&answer.body).map_err(|_| format!("{place}: not UTF-8"))
}

/// What others wrote, for a log.
fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

/// At once, before anything runs: what operators put there has to be good when the process starts.
pub(crate) fn read_file(path: &Path) -> Result<String, String> {
    let fault = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(fault)?;
    let mut text = String::new();
    let most = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_string(&mut text).map_err(fault)?;
    if text.len() > MAX_BYTES {
        return Err(format!("{}: more than {MAX_BYTES} bytes", path.display()));
    }
    Ok(text)
}
