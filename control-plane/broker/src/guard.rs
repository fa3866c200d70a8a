//! What every request must carry: credentials, and a version of the API that we speak.

use std::fmt;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{Broker, answer::Answer};

const API_VERSION: HeaderName = HeaderName::from_static("x-broker-api-version");
const REQUEST_IDENTITY: HeaderName = HeaderName::from_static("x-broker-api-request-identity");

/// A platform's basic credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user name; also the platform's name in logs.
    pub user: String,
    /// Never shown.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Who asks: the user name of the credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Platform(pub(crate) String);

/// Whose credentials the request carries. All are compared, each in constant time.
pub fn authorized<'a>(headers: &HeaderMap, known: &'a [Credentials]) -> Option<&'a Credentials> {
    let encoded = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = encoded.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let given = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let mut matching =
        known.iter().filter(|one| same(&given, format!("{}:{}", one.user, one.password).as_bytes()));
    matching.next_back()
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
        Ok(platform) => {
            request.extensions_mut().insert(platform);
            next.run(request).await
        }
    };
    if let Some(identity) = identity {
        response.headers_mut().insert(REQUEST_IDENTITY, identity);
    }
    response
}

/// The platform that asks, or what it is told.
fn admitted(broker: &Broker, headers: &HeaderMap) -> Result<Platform, Box<Response>> {
    let Some(credentials) = authorized(headers, &broker.platforms) else {
        let refusal = Answer::refused(StatusCode::UNAUTHORIZED, "basic credentials of a platform are needed");
        let mut response = refusal.into_response();
        let challenge = HeaderValue::from_static("Basic realm=\"gatehouse\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        return Err(Box::new(response));
    };
    let version = headers.get(&API_VERSION).and_then(|version| version.to_str().ok());
    // Minor versions only add (OSB "API Version Header").
    let speaks = version
        .and_then(|version| version.split_once('.'))
        .is_some_and(|(major, minor)| major == "2" && minor.parse::<u32>().is_ok());
    if speaks {
        return Ok(Platform(credentials.user.clone()));
    }
    let got = version.unwrap_or("none");
    let description = format!("X-Broker-API-Version: must be 2.x, such as 2.17, got {got:?}");
    Err(Box::new(Answer::refused(StatusCode::PRECONDITION_FAILED, description).into_response()))
}
