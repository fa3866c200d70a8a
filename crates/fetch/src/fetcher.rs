//! The requests themselves: over TLS to the public internet, and in any way to networks that operators allow.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use reqwest::{
    Certificate, Client, Method, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{
        ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
        HeaderValue, IF_NONE_MATCH, LOCATION,
    },
    redirect,
};
use runtime::telemetry::chain;

use crate::{Allowed, freshness::max_age};

/// How much one request may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the first look at the name to the last byte, redirects included.
    pub timeout: Duration,
    /// Of the body.
    pub max_bytes: usize,
}

/// What came back, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Of HTTP.
    pub status: u16,
    /// As it came: nothing is decompressed.
    pub body: Vec<u8>,
    /// As the server says.
    pub content_type: Option<String>,
    /// How long the server says that it is good, if it does.
    pub max_age: Option<Duration>,
    /// For the next request.
    pub etag: Option<String>,
}

/// Why there is no answer. The URL stands in it without credentials and without its query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum FetchError {
    #[error("{url}: {rule}")]
    Refused { url: String, rule: String },
    #[error("{url}: no whole answer within {} s", .timeout.as_secs_f64())]
    Slow { url: String, timeout: Duration },
    #[error("{url}: more than {max_bytes} bytes")]
    Large { url: String, max_bytes: usize },
    #[error("{url}: {cause}")]
    Failed { url: String, cause: String },
}

/// A CA that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a PEM file with certificates ({0})")]
pub struct InvalidCa(String);

/// Asks, within the rules.
#[derive(Clone)]
pub struct Fetcher {
    allowed: Arc<Allowed>,
    /// Anything that is not denied.
    secure: Client,
    /// Only what operators list.
    plain: Client,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

/// More is a loop.
const MAX_REDIRECTS: usize = 3;
/// A name with more addresses is no server.
const MAX_ADDRESSES: usize = 32;
/// Of one host; keys are fetched one after another.
const IDLE_CONNECTIONS: usize = 4;
/// A name that leads elsewhere now is noticed after this.
const IDLE: Duration = Duration::from_secs(30);

impl Fetcher {
    /// Within the public internet and these networks. `ca`: certificates in PEM that are trusted beside the system's.
    ///
    /// # Errors
    /// The CA cannot be used.
    pub fn new(allowed: Allowed, ca: Option<&[u8]>) -> Result<Self, InvalidCa> {
        let allowed = Arc::new(allowed);
        let invalid = |error: reqwest::Error| InvalidCa(chain(&error));
        let roots = ca.map(Certificate::from_pem_bundle).transpose().map_err(invalid)?.unwrap_or_default();
        if ca.is_some() && roots.is_empty() {
            return Err(InvalidCa("there is none".into()));
        }
        let client = |reach: Reach| {
            let resolver = Resolver { allowed: allowed.clone(), reach };
            Client::builder()
                .dns_resolver(Arc::new(resolver))
                // The environment's proxies would be asked instead, and they may reach anything.
                .no_proxy()
                .redirect(redirect::Policy::none())
                .referer(false)
                .http1_only()
                .https_only(matches!(reach, Reach::Public))
                .pool_max_idle_per_host(IDLE_CONNECTIONS)
                .pool_idle_timeout(IDLE)
                .tls_certs_merge(roots.clone())
                .build()
                .map_err(invalid)
        };
        Ok(Self { secure: client(Reach::Public)?, plain: client(Reach::Listed)?, allowed })
    }

    /// Whether a URL may be asked, as far as its text tells: its name is judged when it is looked up.
    ///
    /// # Errors
    /// What forbids it.
    pub fn check(&self, url: &Url) -> Result<(), FetchError> {
        self.client(url).map(|_| ())
    }

    /// GET; with the `ETag` of what is known the answer may be 304. At most three redirects, to the same origin.
    ///
    /// # Errors
    /// There is no whole answer. A status is no error.
    pub async fn get(&self, url: &Url, etag: Option<&str>, limits: Limits) -> Result<Answer, FetchError> {
        within(url, limits.timeout, async {
            let mut place = url.clone();
            for _ in 0..=MAX_REDIRECTS {
                let mut request = self.client(&place)?.request(Method::GET, place.clone());
                if let Some(etag) = etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
                    request = request.header(IF_NONE_MATCH, etag);
                }
                let response = request.header(ACCEPT, "*/*").header(ACCEPT_ENCODING, "identity").send().await;
                let response = response.map_err(|error| failed(&place, error))?;
                match redirected(&place, &response)? {
                    Some(next) => place = next,
                    None => return read(&place, response, limits.max_bytes).await,
                }
            }
            Err(refused(url, format!("more than {MAX_REDIRECTS} redirects")))
        })
        .await
    }

    /// POST of a form, with the credentials of a client where they are given. A redirect is an answer, and not followed.
    ///
    /// # Errors
    /// There is no whole answer. A status is no error.
    pub async fn post_form(
        &self,
        url: &Url,
        form: &[(&str, &str)],
        credentials: Option<(&str, &str)>,
        limits: Limits,
    ) -> Result<Answer, FetchError> {
        within(url, limits.timeout, async {
            let mut request = self.client(url)?.request(Method::POST, url.clone()).form(form);
            if let Some((user, password)) = credentials {
                request = request.basic_auth(user, Some(password));
            }
            let request = request.header(ACCEPT, "application/json").header(ACCEPT_ENCODING, "identity");
            let response = request.send().await.map_err(|error| failed(url, error))?;
            read(url, response, limits.max_bytes).await
        })
        .await
    }

    /// Who may ask it.
    fn client(&self, url: &Url) -> Result<&Client, FetchError> {
        let refuse = |rule: &str| Err(refused(url, rule));
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("a URL without a user");
        }
        // The URL's parser has made every way to write an IPv4 address the usual one.
        let host = url.host_str().unwrap_or_default();
        let literal: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        let (client, reach) = match url.scheme() {
            "https" => (&self.secure, Reach::Public),
            "http" => (&self.plain, Reach::Listed),
            _ => return refuse("an https URL"),
        };
        match literal.and_then(|address| reach.denies(&self.allowed, address)) {
            Some(what) => Err(refused(url, format!("{host} is denied: {what}"))),
            None => Ok(client),
        }
    }
}

/// Where a client may go.
#[derive(Debug, Clone, Copy)]
enum Reach {
    /// Where nothing denies it.
    Public,
    /// Only to what operators list: there is no TLS that would say who answers.
    Listed,
}

impl Reach {
    fn denies(self, allowed: &Allowed, address: IpAddr) -> Option<&'static str> {
        match self {
            Self::Public => allowed.denies(address),
            Self::Listed if allowed.lists(address) => None,
            Self::Listed => Some("http needs an allowed network; https is for all others"),
        }
    }
}

/// Looks names up, and keeps what may be asked: the connection is made to one of these addresses and no other.
struct Resolver {
    allowed: Arc<Allowed>,
    reach: Reach,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (allowed, reach) = (self.allowed.clone(), self.reach);
        Box::pin(async move {
            let found: Vec<_> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.take(MAX_ADDRESSES).collect();
            let (mut good, mut why) = (Vec::new(), "it has no address");
            for address in found {
                match reach.denies(&allowed, address.ip()) {
                    None => good.push(address),
                    Some(what) => why = what,
                }
            }
            if good.is_empty() {
                return Err(format!("{} is denied: {why}", name.as_str()).into());
            }
            Ok(Box::new(good.into_iter()) as Addrs)
        })
    }
}

async fn within(
    url: &Url,
    timeout: Duration,
    request: impl Future<Output = Result<Answer, FetchError>>,
) -> Result<Answer, FetchError> {
    let answer = tokio::time::timeout(timeout, request).await;
    answer.unwrap_or_else(|_| Err(FetchError::Slow { url: shown(url), timeout }))
}

/// Where a response leads, if it leads anywhere: within its origin.
fn redirected(from: &Url, response: &Response) -> Result<Option<Url>, FetchError> {
    let is_one = [301, 302, 303, 307, 308].contains(&response.status().as_u16());
    let Some(location) = response.headers().get(LOCATION).filter(|_| is_one) else { return Ok(None) };
    let next = location.to_str().ok().and_then(|location| from.join(location).ok());
    let next = next.ok_or_else(|| refused(from, "a redirect to nowhere"))?;
    if next.origin() != from.origin() {
        return Err(refused(from, format!("a redirect to another host, {}", shown(&next))));
    }
    Ok(Some(next))
}

async fn read(url: &Url, mut response: Response, max_bytes: usize) -> Result<Answer, FetchError> {
    let large = || FetchError::Large { url: shown(url), max_bytes };
    if response.content_length().is_some_and(|length| length > u64::try_from(max_bytes).unwrap_or(u64::MAX)) {
        return Err(large());
    }
    let is_plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if response.headers().get(CONTENT_ENCODING).is_some_and(|value| !is_plain(value)) {
        return Err(refused(url, "an answer that is compressed, though nobody asked for it"));
    }
    let mut body = Vec::new();
    if response.status() != StatusCode::NOT_MODIFIED {
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(url, error))? {
            if body.len() + chunk.len() > max_bytes {
                return Err(large());
            }
            body.extend_from_slice(&chunk);
        }
    }
    let headers = response.headers();
    let ages = headers.get_all(CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok());
    Ok(Answer {
        status: response.status().as_u16(),
        body,
        content_type: text(headers, &CONTENT_TYPE),
        max_age: max_age(ages),
        etag: text(headers, &ETAG),
    })
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn refused(url: &Url, rule: impl Into<String>) -> FetchError {
    FetchError::Refused { url: shown(url), rule: rule.into() }
}

fn failed(url: &Url, error: reqwest::Error) -> FetchError {
    FetchError::Failed { url: shown(url), cause: chain(&error.without_url()) }
}

/// Credentials may stand before the host, or behind the question mark.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    let _cannot_be_a_base = shown.set_username("").and_then(|()| shown.set_password(None));
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}
