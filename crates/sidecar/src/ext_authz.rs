//! The contract between Envoy and the sidecars that it asks by `ext_authz`, as Envoy 1.40 keeps it.
//!
//! An empty answer means ALLOW to Envoy, and so does a status 0 with a denied body. So a [`CheckResponse`] is
//! made here and nowhere else, from a [`Decision`] that has no default.

use std::net::IpAddr;

use api::authn::PolicyId;
use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption},
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

/// The header in which the listener says where the client is.
const ADDRESS: &str = "x-gatehouse-address";

/// What Envoy tells of a request.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    check: &'a CheckRequest,
    http: &'a HttpRequest,
    /// What was decided before in this process.
    passed: Option<&'a Passed>,
}

/// What a request has got past, and what that leaves for the next decision and for the answer.
#[derive(Debug)]
pub struct Passed {
    key: &'static str,
    record: Struct,
    headers: Vec<(&'static str, String)>,
    remove: Vec<String>,
}

impl<'a> Facts<'a> {
    /// `None` when there is no HTTP request in it, which no listener of ours sends.
    pub fn read(check: &'a CheckRequest) -> Option<Self> {
        let http = check.attributes.as_ref()?.request.as_ref()?.http.as_ref()?;
        Some(Self { check, http, passed: None })
    }

    /// The same for the second decision of this process. It knows of the first what that has recorded, whatever Envoy
    /// sends as metadata, and the route names a policy of its own for it.
    #[must_use]
    pub fn after(self, passed: &'a Passed) -> Self {
        Self { passed: Some(passed), ..self }
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

    /// Where the client is, as Envoy knows it: it knows through how many trusted proxies a request comes, and says so in
    /// a header that clients cannot set. `None` where its listener does not.
    pub fn address(&self) -> Option<IpAddr> {
        match self.header(ADDRESS).as_slice() {
            [address] => std::str::from_utf8(address).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// When the request came, in whole seconds since the epoch.
    pub fn time(&self) -> Option<i64> {
        Some(self.check.attributes.as_ref()?.request.as_ref()?.time.as_ref()?.seconds)
    }

    /// What the client has shown in the TLS handshake and Envoy has checked: PEM, percent-encoded. Empty without one,
    /// and on listeners that ask for none.
    pub fn certificate(&self) -> &'a str {
        let source = self.check.attributes.as_ref().and_then(|attributes| attributes.source.as_ref());
        source.map_or("", |source| &source.certificate)
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
        let policy = if self.passed.is_none() { "policy" } else { "authz_policy" };
        PolicyId::from_context(text(policy), text("rev"))
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

    /// What an earlier decision left under this key of the `ext_authz` namespace.
    pub fn metadata(&self, key: &str) -> Option<&'a Struct> {
        if let Some(passed) = self.passed {
            return (passed.key == key).then_some(&passed.record);
        }
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
    /// Lists of texts, by their names.
    fn lists(&self, key: &str) -> Vec<(&str, Vec<&str>)>;
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

    fn lists(&self, key: &str) -> Vec<(&str, Vec<&str>)> {
        let Some(Kind::StructValue(all)) = self.fields.get(key).and_then(|value| value.kind.as_ref()) else {
            return Vec::new();
        };
        all.fields.keys().map(|name| (name.as_str(), all.texts(name))).collect()
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
        self.fields.push((key, list(texts)));
        self
    }

    /// Adds lists of texts, by their names.
    pub fn lists<'a, T: IntoIterator<Item = &'a str>>(
        mut self,
        key: &'static str,
        lists: impl IntoIterator<Item = (&'a str, T)>,
    ) -> Self {
        let fields = lists.into_iter().map(|(name, texts)| (name.to_owned(), list(texts))).collect();
        self.fields.push((key, value(Kind::StructValue(Struct { fields }))));
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

    fn into_fields(self) -> Struct {
        Struct { fields: self.fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
    }

    fn into_struct(self) -> Struct {
        let key = self.key.to_owned();
        Struct { fields: [(key, value(Kind::StructValue(self.into_fields())))].into() }
    }
}

fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    let values = texts.into_iter().map(|text| value(Kind::StringValue(text.to_owned()))).collect();
    value(Kind::ListValue(ListValue { values }))
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

impl Decision {
    /// What the client is told, or 200 where the request goes on.
    pub fn status(&self) -> u16 {
        match self {
            Self::Allow { .. } => 200,
            Self::Deny { status, .. } => *status,
            Self::Fault { .. } => 503,
        }
    }

    /// Why the request ends here.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Allow { .. } => None,
            Self::Deny { description, .. } | Self::Fault { description } => Some(description),
        }
    }

    /// What is recorded of the request.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Allow { record, .. } | Self::Deny { record, .. } => Some(record),
            Self::Fault { .. } => None,
        }
    }

    /// Where the request goes on, what it takes along to the next decision; else the decision.
    ///
    /// # Errors
    /// The request ends here.
    pub fn passed(self) -> Result<Passed, Self> {
        match self {
            Self::Allow { record, headers, remove } => {
                Ok(Passed { key: record.key, record: record.into_fields(), headers, remove })
            }
            refused => Err(refused),
        }
    }

    /// The answer to Envoy where two decisions are made in one call, and this is the second: what Envoy would have of both
    /// calls together.
    pub fn answer_after(mut self, passed: Passed, id: &str) -> CheckResponse {
        let Passed { key, record, headers: first, remove: first_removed } = passed;
        if let Self::Allow { headers, remove, .. } = &mut self {
            // What the second sets stays, whatever the first had put or taken there: Envoy takes off after it sets.
            let is_set = |name: &str| headers.iter().any(|(second, _)| second.eq_ignore_ascii_case(name));
            let first: Vec<_> = first.into_iter().filter(|(name, _)| !is_set(name)).collect();
            remove.extend(first_removed.into_iter().filter(|name| !is_set(name)));
            headers.extend(first);
        }
        let mut answer = self.answer(id);
        let metadata = answer.dynamic_metadata.get_or_insert_default();
        metadata.fields.insert(key.to_owned(), value(Kind::StructValue(record)));
        answer
    }

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

    /// A request whose metadata says this, to a route that names a policy for each decision.
    fn request(metadata: Struct) -> CheckRequest {
        let names = [("policy", "i-1/2"), ("authz_policy", "i-1"), ("rev", "7")];
        CheckRequest {
            attributes: Some(envoy_types::pb::envoy::service::auth::v3::AttributeContext {
                request: Some(envoy_types::pb::envoy::service::auth::v3::attribute_context::Request {
                    http: Some(HttpRequest::default()),
                    ..Default::default()
                }),
                context_extensions: names.map(|(name, text)| (name.to_owned(), text.to_owned())).into(),
                metadata_context: Some(envoy_types::pb::envoy::config::core::v3::Metadata {
                    filter_metadata: [(METADATA_NAMESPACE.to_owned(), metadata)].into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
        }
    }

    #[test]
    fn a_record_lies_under_its_sidecars_key() {
        let lists = [("department", ["sales", "it"])];
        let written = record().text("sub", "alice").texts("scopes", ["a", "b"]).lists("claims", lists);
        let check = request(written.into_struct());
        let read = Facts::read(&check).unwrap().metadata("authn").unwrap();
        assert!(read.is_true("decided") && !read.is_true("sub"));
        assert_eq!(
            (read.text("sub"), read.number("rev"), read.texts("scopes")),
            (Some("alice"), Some(7.0), vec!["a", "b"])
        );
        assert_eq!(read.lists("claims"), [("department", vec!["sales", "it"])]);
    }

    fn passed() -> Passed {
        let headers = vec![("x-gatehouse-subject", "alice".to_owned()), ("x-gatehouse-a", "1".to_owned())];
        let remove = vec!["x-api-key".to_owned(), "x-gatehouse-b".to_owned()];
        Decision::Allow { record: record().text("sub", "alice"), headers, remove }.passed().unwrap()
    }

    #[test]
    fn the_second_decision_believes_the_first_and_no_metadata() {
        let check = request(record().text("sub", "mallory").into_struct());
        let (first, passed) = (Facts::read(&check).unwrap(), passed());
        let second = first.after(&passed);
        assert_eq!(first.metadata("authn").unwrap().text("sub"), Some("mallory"));
        assert_eq!(second.metadata("authn").unwrap().text("sub"), Some("alice"));
        assert!(second.metadata("authz").is_none());
        let named = |facts: Facts<'_>| facts.policy().unwrap().to_string();
        assert_eq!((named(first), named(second)), ("i-1/2@7".to_owned(), "i-1@7".to_owned()));
    }

    fn second() -> Record {
        Record::new("authz", &PolicyId { policy: "i-1".into(), rev: 7 })
    }

    fn keys(answer: &CheckResponse) -> Vec<&str> {
        let fields = &answer.dynamic_metadata.as_ref().unwrap().fields;
        let mut keys: Vec<_> = fields.keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn one_answer_says_what_two_would_have_said() {
        let headers = vec![("x-gatehouse-b", "2".to_owned()), ("x-gatehouse-a", "2".to_owned())];
        let second = Decision::Allow { record: second(), headers, remove: vec!["x-c".into()] };
        let answer = second.answer_after(passed(), "r-1");
        assert_eq!((code(&answer), keys(&answer)), (0, vec!["authn", "authz"]));
        let Some(HttpResponse::OkResponse(ok)) = answer.http_response else { panic!("{answer:?}") };
        let told = |header: HeaderValueOption| header.header.map(|header| (header.key, header.value));
        let set: std::collections::BTreeMap<_, _> = ok.headers.into_iter().filter_map(told).collect();
        let set: Vec<_> = set.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(set, [("x-gatehouse-a", "2"), ("x-gatehouse-b", "2"), ("x-gatehouse-subject", "alice")]);
        assert_eq!(ok.headers_to_remove, ["x-c", "x-api-key"]);
    }

    #[test]
    fn a_refusal_by_the_second_says_who_was_refused_and_sets_nothing() {
        let denial =
            Decision::Deny { record: second(), status: 403, description: "no".into(), challenge: None };
        let alone = denial.clone().answer("r-1");
        let answer = denial.answer_after(passed(), "r-1");
        assert_eq!(keys(&answer), ["authn", "authz"]);
        assert_eq!((answer.http_response, answer.status), (alone.http_response, alone.status));
        let fault = Decision::Fault { description: "x".into() };
        let alone = fault.clone().answer("r-1");
        let answer = fault.answer_after(passed(), "r-1");
        assert_eq!(keys(&answer), ["authn"], "it is not decided");
        assert_eq!((answer.http_response, answer.status), (alone.http_response, alone.status));
    }

    #[test]
    fn who_is_refused_takes_nothing_along() {
        let fault = Decision::Fault { description: "x".into() };
        assert_eq!(fault.clone().passed().unwrap_err(), fault);
        let denial =
            Decision::Deny { record: record(), status: 401, description: "no".into(), challenge: None };
        assert_eq!(denial.clone().passed().unwrap_err(), denial);
    }
}
