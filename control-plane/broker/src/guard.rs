//! What every request must carry: credentials, and a version of the API that we speak.

use std::fmt;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use model::{
    audit::Caller,
    platforms::{Owner, Platform, Platforms, TenantBy},
};
use serde_json::{Map, Value};

use crate::{Broker, Issuers, answer::Answer};

const API_VERSION: HeaderName = HeaderName::from_static("x-broker-api-version");
const REQUEST_IDENTITY: HeaderName = HeaderName::from_static("x-broker-api-request-identity");
const ORIGINATING_IDENTITY: HeaderName = HeaderName::from_static("x-broker-api-originating-identity");

/// A name with its secret, such as an operator's.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Also for logs.
    pub user: String,
    /// Never shown.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asking {
    /// Its name.
    pub(crate) platform: String,
    /// Which of its tenants it may speak for.
    pub(crate) tenants: Tenants,
    /// For whom.
    pub(crate) caller: Caller,
}

/// Whose credentials a request carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedIn<'a> {
    /// The name of a platform.
    pub platform: &'a str,
    /// Which of its tenants it may speak for.
    pub tenants: Tenants,
    /// Of its token.
    subject: Option<String>,
}

/// Whom a request may speak for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenants {
    /// The platform as a whole, which says itself for whom it asks.
    All,
    /// The one that the token names: others' services do not exist for it.
    One(String),
    /// The token does not name the tenant, as those of this platform have to.
    Unnamed(String),
}

impl SignedIn<'_> {
    /// Whether what is this owner's exists for it.
    pub fn may_see(&self, owner: &Owner) -> bool {
        owner.platform == self.platform && self.tenants.hold(&owner.tenant)
    }
}

impl Tenants {
    /// Of a token, whose claims prove the tenant where the platform's rule says so.
    fn of(platform: &Platform, claims: &Map<String, Value>) -> Self {
        let TenantBy::Token(claim) = &platform.tenant else { return Self::All };
        let value = claims.get(claim).and_then(Value::as_str).filter(|value| !value.is_empty());
        value.map_or_else(|| Self::Unnamed(claim.clone()), |value| Self::One(value.to_owned()))
    }

    pub(crate) fn hold(&self, tenant: &str) -> bool {
        match self {
            Self::All => true,
            Self::One(own) => own == tenant,
            Self::Unnamed(_) => false,
        }
    }
}

/// Basic credentials with a secret of a platform, or a token that is as good (RFC 6750 section 2.1).
pub fn authorized<'a>(headers: &HeaderMap, known: &'a Platforms, issuers: &Issuers) -> Option<SignedIn<'a>> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, given) = text.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        let (platform, claims) = issuers.platform(given.trim(), known)?;
        let tenants = known.get(platform).map(|rules| Tenants::of(rules, &claims))?;
        let subject = claims.get("sub").and_then(Value::as_str).map(str::to_owned);
        return Some(SignedIn { platform, tenants, subject });
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let platform = by_secret(given, known)?;
    Some(SignedIn { platform, tenants: Tenants::All, subject: None })
}

fn by_secret<'a>(encoded: &str, known: &'a Platforms) -> Option<&'a str> {
    let given = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, secret) = given.split_once(':')?;
    let (name, platform) = known.find(user)?;
    // All are compared, each in constant time.
    let matching = platform.secrets.iter().filter(|hash| hash.is_of(secret)).count();
    (matching > 0).then_some(name)
}

/// Compares secrets: takes as long for the first wrong byte as for the last one.
pub fn same(left: &[u8], right: &[u8]) -> bool {
    let differing = left.iter().zip(right).fold(0, |sum, (a, b)| sum | (a ^ b));
    left.len() == right.len() && std::hint::black_box(differing) == 0
}

pub(crate) async fn guard(State(broker): State<Broker>, mut request: Request, next: Next) -> Response {
    let identity = request.headers().get(&REQUEST_IDENTITY).cloned();
    let mut response = match admitted(&broker, request.headers()) {
        Err(response) => *response,
        Ok(asking) => {
            request.extensions_mut().insert(asking);
            next.run(request).await
        }
    };
    if !response.status().is_success() && !is_json(&response) {
        response = told(response).await;
    }
    if let Some(identity) = identity {
        response.headers_mut().insert(REQUEST_IDENTITY, identity);
    }
    response
}

fn is_json(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/json"))
}

/// What the framework refuses by itself, such as a body that is too large, in the form of OSB.
async fn told(response: Response) -> Response {
    /// Its words are few.
    const LONGEST: usize = 4096;
    let (parts, body) = response.into_parts();
    let text = axum::body::to_bytes(body, LONGEST).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let reason = || parts.status.canonical_reason().unwrap_or("refused").to_owned();
    let text = if text.is_empty() { reason() } else { text };
    let mut told = Answer::refused(parts.status, text).into_response();
    // A 405 says what is allowed.
    told.headers_mut().extend(parts.headers.get(header::ALLOW).map(|allow| (header::ALLOW, allow.clone())));
    told
}

/// Who asks, or what it is told.
fn admitted(broker: &Broker, headers: &HeaderMap) -> Result<Asking, Box<Response>> {
    let platforms = broker.platforms.borrow();
    let issuers = broker.issuers.borrow().clone();
    let Some(SignedIn { platform, tenants, subject }) = authorized(headers, &platforms, &issuers) else {
        let refusal = Answer::refused(StatusCode::UNAUTHORIZED, "credentials of a platform are needed");
        let mut response = refusal.into_response();
        let challenge = "Basic realm=\"gatehouse\", charset=\"UTF-8\", Bearer realm=\"gatehouse\"";
        let challenge = HeaderValue::from_static(challenge);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        return Err(Box::new(response));
    };
    let version = headers.get(&API_VERSION).and_then(|version| version.to_str().ok());
    // Minor versions only add (OSB "API Version Header").
    let speaks = version
        .and_then(|version| version.split_once('.'))
        .is_some_and(|(major, minor)| major == "2" && minor.parse::<u32>().is_ok());
    if !speaks {
        let got = version.unwrap_or("none");
        let description = format!("X-Broker-API-Version: must be 2.x, such as 2.17, got {got:?}");
        return Err(Box::new(Answer::refused(StatusCode::PRECONDITION_FAILED, description).into_response()));
    }
    let identity = identity(headers).map_err(|refused| Box::new(refused.into_response()))?;
    let request = headers.get(&REQUEST_IDENTITY).and_then(|id| id.to_str().ok()).map(str::to_owned);
    let caller = Caller { identity, subject, request };
    Ok(Asking { platform: platform.to_owned(), tenants, caller })
}

/// OSB "Originating Identity": the platform's kind, and in base64 a JSON object that says for whom it asks.
fn identity(headers: &HeaderMap) -> Result<Option<Value>, Answer> {
    let Some(header) = headers.get(&ORIGINATING_IDENTITY) else { return Ok(None) };
    let read = || {
        let (_kind, encoded) = header.to_str().ok()?.split_once(' ')?;
        let value: Value = serde_json::from_slice(&BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
        value.is_object().then_some(value)
    };
    read().map(Some).ok_or_else(|| {
        Answer::bad_request(
            "X-Broker-API-Originating-Identity: must be a platform's kind and a JSON object in base64",
        )
    })
}
