//! The contract between Envoy and the sidecars that it asks by `ext_authz`, as Envoy 1.40 keeps it.
//!
//! An empty answer means ALLOW to Envoy, and so does a status 0 with a denied body. So a [`CheckResponse`] is
//! made here and nowhere else, from a [`Decision`] that has no default.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use api::authn::PolicyId;
use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption, address::Address},
        service::auth::v3::{
            CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse, attribute_context::HttpRequest,
            check_response::HttpResponse,
        },
        r#type::v3::HttpStatus,
    },
    google::{
        protobuf::{BoolValue, ListValue, Struct, Value, value::Kind},
        rpc::Status,
    },
};
use tonic::Code;

/// The namespace of all dynamic metadata of `ext_authz`, whatever its filters are called.
pub const METADATA_NAMESPACE: &str = "envoy.filters.http.ext_authz";

/// What Envoy tells of a request.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    check: &'a CheckRequest,
    http: &'a HttpRequest,
}

impl<'a> Facts<'a> {
    /// `None` when there is no HTTP request in it, which no listener of ours sends.
    pub fn read(check: &'a CheckRequest) -> Option<Self> {
        let http = check.attributes.as_ref()?.request.as_ref()?.http.as_ref()?;
        Some(Self { check, http })
    }

    /// As on the wire.
    pub fn method(&self) -> &'a str {
        &self.http.method
    }

    /// With its query; normalised by Envoy.
    pub fn path(&self) -> &'a str {
        &self.http.path
    }

    /// What the client called; without a port.
    pub fn host(&self) -> &'a str {
        &self.http.host
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'a str {
        &self.http.scheme
    }

    /// What the client has shown in the TLS handshake and Envoy has checked: PEM, percent-encoded. Empty without one,
    /// and on listeners that ask for none.
    pub fn certificate(&self) -> &'a str {
        let source = self.check.attributes.as_ref().and_then(|attributes| attributes.source.as_ref());
        source.map_or("", |source| &source.certificate)
    }

    /// Of the client, as Envoy trusts it: behind proxies that it knows the one in front of them.
    pub fn address(&self) -> Option<IpAddr> {
        let source = self.check.attributes.as_ref()?.source.as_ref()?;
        match source.address.as_ref()?.address.as_ref()? {
            Address::SocketAddress(socket) => socket.address.parse().ok(),
            _ => None,
        }
    }

    /// When Envoy had the first byte of the request.
    pub fn time(&self) -> Option<SystemTime> {
        let time = self.check.attributes.as_ref()?.request.as_ref()?.time.as_ref()?;
        let (secs, nanos) = (u64::try_from(time.seconds).ok()?, u32::try_from(time.nanos).ok()?);
        UNIX_EPOCH.checked_add(Duration::new(secs, nanos.min(999_999_999)))
    }

    /// `x-request-id`, which Envoy draws and writes to the access log too: by it people find a decision.
    pub fn decision_id(&self) -> &'a str {
        let id = self.header("x-request-id").first().and_then(|id| std::str::from_utf8(id).ok());
        // Where Envoy is told to take a client's own, it can be anything.
        id.filter(|id| id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_graphic()))
            .unwrap_or(&self.http.id)
    }

    /// The policy that the control plane put on the route. Never chosen by anything that a client sends.
    pub fn policy(&self) -> Option<PolicyId> {
        let extensions = &self.check.attributes.as_ref()?.context_extensions;
        let text = |key| extensions.get(key).map(String::as_str);
        PolicyId::from_context(text("policy"), text("rev"))
    }

    /// All values of a header, in order; `name` in lower case. Works with `encode_raw_headers` and without.
    pub fn header(&self, name: &str) -> Vec<&'a [u8]> {
        if let Some(map) = &self.http.header_map {
            let same = map.headers.iter().filter(|header| header.key.eq_ignore_ascii_case(name));
            return same
                .map(
                    |header| {
                        if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value }
                    },
                )
                .collect();
        }
        self.http.headers.get(name).map(std::string::String::as_bytes).into_iter().collect()
    }

    /// What an earlier filter left under this key of the `ext_authz` namespace.
    pub fn metadata(&self, key: &str) -> Option<&'a Struct> {
        let context = self.check.attributes.as_ref()?.metadata_context.as_ref()?;
        let namespace = context.filter_metadata.get(METADATA_NAMESPACE)?;
        match namespace.fields.get(key)?.kind.as_ref()? {
            Kind::StructValue(found) => Some(found),
            _ => None,
        }
    }
}

/// Reads a `Struct` as code does.
pub trait Fields {
    /// A text.
    fn text(&self, key: &str) -> Option<&str>;
    /// A truth; anything else is false.
    fn is_true(&self, key: &str) -> bool;
    /// Numbers travel as doubles; a revision fits.
    fn number(&self, key: &str) -> Option<f64>;
    /// A list of texts; others in it are left out.
    fn texts(&self, key: &str) -> Vec<&str>;
}

impl Fields for Struct {
    fn text(&self, key: &str) -> Option<&str> {
        match self.fields.get(key)?.kind.as_ref()? {
            Kind::StringValue(text) => Some(text),
            _ => None,
        }
    }

    fn is_true(&self, key: &str) -> bool {
        matches!(self.fields.get(key).and_then(|value| value.kind.as_ref()), Some(Kind::BoolValue(true)))
    }

    fn number(&self, key: &str) -> Option<f64> {
        match self.fields.get(key)?.kind.as_ref()? {
            Kind::NumberValue(number) => Some(*number),
            _ => None,
        }
    }

    fn texts(&self, key: &str) -> Vec<&str> {
        let Some(Kind::ListValue(list)) = self.fields.get(key).and_then(|value| value.kind.as_ref()) else {
            return Vec::new();
        };
        let texts = list.values.iter().filter_map(|value| match &value.kind {
            Some(Kind::StringValue(text)) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }
}

/// The answer to a request. Every variant says what is recorded about it.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The request goes on, with these headers in the place of any that it brought.
    Allow {
        /// Under the sidecar's own key.
        record: Record,
        /// Name and value; overwrites.
        headers: Vec<(&'static str, String)>,
        /// Headers of the request that the upstream is not to see.
        remove: Vec<String>,
    },
    /// The client is told no.
    Deny {
        /// Under the sidecar's own key.
        record: Record,
        /// 400, 401 or 403.
        status: u16,
        /// For the client: what is wrong, never why in detail.
        description: String,
        /// `WWW-Authenticate` (RFC 9110 section 11.6.1).
        challenge: Option<String>,
    },
    /// This sidecar cannot decide: 503, and for operators it is a failure and not a denial.
    Fault {
        /// For the client.
        description: String,
    },
}

/// What is left in the dynamic metadata: for the other sidecar, the guard, and the access log.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    key: &'static str,
    fields: Vec<(&'static str, Value)>,
}

impl Record {
    /// `key` is the sidecar's: `authn` or `authz`. `decided` is always set: the guard demands it.
    pub fn new(key: &'static str, policy: &PolicyId) -> Self {
        // A revision is far below 2^53.
        #[allow(clippy::cast_precision_loss)]
        let rev = Kind::NumberValue(policy.rev as f64);
        Self { key, fields: vec![("decided", value(Kind::BoolValue(true))), ("rev", value(rev))] }
            .text("policy", &policy.policy)
    }

    /// Adds a text.
    pub fn text(mut self, key: &'static str, text: &str) -> Self {
        self.fields.push((key, value(Kind::StringValue(text.to_owned()))));
        self
    }

    /// Adds something that is so.
    pub fn truth(mut self, key: &'static str) -> Self {
        self.fields.push((key, value(Kind::BoolValue(true))));
        self
    }

    /// Adds a number.
    pub fn number(mut self, key: &'static str, number: f64) -> Self {
        self.fields.push((key, value(Kind::NumberValue(number))));
        self
    }

    /// Adds a list of texts.
    pub fn texts<'a>(mut self, key: &'static str, texts: impl IntoIterator<Item = &'a str>) -> Self {
        let values = texts.into_iter().map(|text| value(Kind::StringValue(text.to_owned()))).collect();
        self.fields.push((key, value(Kind::ListValue(ListValue { values }))));
        self
    }

    /// A text that was added.
    pub fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.fields.iter().find(|(known, _)| *known == key)?;
        match value.kind.as_ref()? {
            Kind::StringValue(text) => Some(text),
            _ => None,
        }
    }

    fn into_struct(self) -> Struct {
        let fields = self.fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let own = value(Kind::StructValue(Struct { fields }));
        Struct { fields: [(self.key.to_owned(), own)].into() }
    }
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

impl Decision {
    /// The answer to Envoy. The id stands in the body of a refusal, so that whoever shows it to an operator is helped.
    pub fn answer(self, id: &str) -> CheckResponse {
        match self {
            Self::Allow { record, headers, remove } => CheckResponse {
                status: Some(status(Code::Ok)),
                dynamic_metadata: Some(record.into_struct()),
                http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
                    headers: headers.into_iter().map(|(name, value)| overwrite(name, value)).collect(),
                    headers_to_remove: remove,
                    ..Default::default()
                })),
            },
            Self::Deny { record, status: code, description, challenge } => CheckResponse {
                status: Some(status(if code == 401 {
                    Code::Unauthenticated
                } else {
                    Code::PermissionDenied
                })),
                dynamic_metadata: Some(record.into_struct()),
                http_response: Some(HttpResponse::DeniedResponse(denied(code, &description, id, challenge))),
            },
            // A status alone would be a 403; only `error_response` is an error to Envoy.
            Self::Fault { description } => CheckResponse {
                status: Some(status(Code::Unavailable)),
                dynamic_metadata: None,
                http_response: Some(HttpResponse::ErrorResponse(denied(503, &description, id, None))),
            },
        }
    }
}

/// The body of a refusal.
pub fn refusal(code: u16, description: &str, id: &str) -> String {
    format!("{{\"status\":{code},\"description\":{},\"id\":{}}}\n", quoted(description), quoted(id))
}

/// A JSON string (RFC 8259 section 7). An id can be a client's own, and hold anything that is visible.
fn quoted(text: &str) -> String {
    use std::fmt::Write as _;
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => json.extend(['\\', char]),
            // Writing to a string does not fail, and all of these have four digits. The last two would open and end a
            // tag where a body is shown as a page.
            char if char.is_control() || char == '<' || char == '>' => {
                let _ = write!(json, "\\u{:04x}", u32::from(char));
            }
            char => json.push(char),
        }
    }
    json.push('"');
    json
}

fn status(code: Code) -> Status {
    Status { code: code.into(), ..Default::default() }
}

fn denied(code: u16, description: &str, id: &str, challenge: Option<String>) -> DeniedHttpResponse {
    let mut headers = vec![overwrite("content-type", "application/json".into())];
    headers.extend(challenge.map(|challenge| overwrite("www-authenticate", challenge)));
    let body = refusal(code, description, id);
    DeniedHttpResponse { status: Some(HttpStatus { code: code.into() }), headers, body }
}

/// Envoy 1.40 looks at the deprecated `append` only; left out it would be read in another way by Envoy 1.37,
/// which keeps the client's own value beside ours.
#[allow(deprecated)]
fn overwrite(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value, raw_value: Vec::new() }),
        append: Some(BoolValue { value: false }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record::new("authn", &PolicyId { policy: "i-1".into(), rev: 7 })
    }

    fn code(response: &CheckResponse) -> i32 {
        response.status.as_ref().unwrap().code
    }

    #[test]
    fn only_an_allow_has_status_zero() {
        let allow = Decision::Allow { record: record(), headers: Vec::new(), remove: Vec::new() };
        let deny =
            |status| Decision::Deny { record: record(), status, description: "no".into(), challenge: None };
        assert_eq!(code(&allow.answer("")), 0);
        for status in [400, 401, 403] {
            assert_ne!(code(&deny(status).answer("")), 0);
        }
        assert_ne!(code(&Decision::Fault { description: "x".into() }.answer("")), 0);
    }

    #[test]
    fn a_fault_is_an_error_to_envoy_and_not_a_denial() {
        let response = Decision::Fault { description: "unknown policy".into() }.answer("r-1");
        let Some(HttpResponse::ErrorResponse(error)) = response.http_response else { panic!("{response:?}") };
        assert_eq!(error.status.unwrap().code, 503);
        assert!(response.dynamic_metadata.is_none(), "nothing is decided");
    }

    #[test]
    fn a_refusal_says_its_id_whatever_is_in_it() {
        assert_eq!(
            refusal(401, "no", "a\"b\\c<\u{7f}ä"),
            "{\"status\":401,\"description\":\"no\",\"id\":\"a\\\"b\\\\c\\u003c\\u007fä\"}\n"
        );
        let response = Decision::Fault { description: "unknown policy".into() }.answer("r-1");
        let Some(HttpResponse::ErrorResponse(error)) = response.http_response else { panic!("{response:?}") };
        assert!(error.body.contains("\"id\":\"r-1\""), "{}", error.body);
    }

    #[test]
    fn headers_overwrite_what_the_client_sent() {
        let headers = vec![("x-gatehouse-subject", "alice".to_owned())];
        let response = Decision::Allow { record: record(), headers, remove: Vec::new() }.answer("r-1");
        let Some(HttpResponse::OkResponse(ok)) = response.http_response else { panic!("{response:?}") };
        #[allow(deprecated)]
        let append = ok.headers[0].append;
        assert_eq!(append, Some(BoolValue { value: false }));
    }

    #[test]
    fn a_record_lies_under_its_sidecars_key() {
        let written = record().text("sub", "alice").texts("scopes", ["a", "b"]).into_struct();
        let check = CheckRequest {
            attributes: Some(envoy_types::pb::envoy::service::auth::v3::AttributeContext {
                request: Some(envoy_types::pb::envoy::service::auth::v3::attribute_context::Request {
                    http: Some(HttpRequest::default()),
                    ..Default::default()
                }),
                metadata_context: Some(envoy_types::pb::envoy::config::core::v3::Metadata {
                    filter_metadata: [(METADATA_NAMESPACE.to_owned(), written)].into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
        };
        let read = Facts::read(&check).unwrap().metadata("authn").unwrap();
        assert!(read.is_true("decided") && !read.is_true("sub"));
        assert_eq!(
            (read.text("sub"), read.number("rev"), read.texts("scopes")),
            (Some("alice"), Some(7.0), vec!["a", "b"])
        );
    }
}
