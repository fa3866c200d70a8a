//! One question, answered offline: a policy and a request from files, no control plane, no Envoy, and nobody asked.

use std::{collections::BTreeMap, sync::Arc};

use api::{ResourceType, descriptor_pool};
use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue},
    service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Peer, Request as Asked},
    },
};
use fetch::{Allowed, Fetcher};
use prost::Message as _;
use prost_reflect::DynamicMessage;
use serde::{Deserialize, Serialize};
use serde_norway::Value;
use sidecar::ext_authz::{Decision, Facts};
use xds::Handler as _;

use crate::{
    Follower, Metrics, State, Tokens,
    decide::{Memory, Verdict, decide},
    replays::Replays,
    token::Issued,
    work::{Work, Works},
};

/// What is asked, as the texts of its files: JSON, or YAML.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// A `gatehouse.authn.v1.Policy`, in the JSON form of its proto.
    pub policy: &'a str,
    /// A [`Request`].
    pub request: &'a str,
    /// `gatehouse.authn.v1.KeySet`s, or a JWK Set that counts for all issuers of the policy.
    pub keys: Option<&'a str>,
    /// Seconds since the epoch.
    pub now: f64,
}

/// A request, as Envoy would tell of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default = "get")]
    method: String,
    #[serde(default = "https")]
    scheme: String,
    #[serde(default)]
    host: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, Values>,
    /// The client's, as PEM.
    #[serde(default)]
    certificate: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Values {
    One(String),
    Several(Vec<String>),
}

fn get() -> String {
    "GET".to_owned()
}

fn https() -> String {
    "https".to_owned()
}

/// What is decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Of HTTP; 200 where the request goes on.
    pub status: u16,
    /// By which kind of credential.
    pub method: &'static str,
    /// As metrics and logs call it.
    pub result: &'static str,
    /// Why it does not go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `WWW-Authenticate`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenge: Option<String>,
    /// What the upstream is told.
    pub headers: BTreeMap<&'static str, String>,
    /// What the upstream does not see.
    pub remove: Vec<String>,
}

impl Answer {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{} {} by {}\n", self.status, self.result, self.method);
        let mut add = |name: &str, value: &str| {
            text.push_str(&format!("  {name}: {value}\n"));
        };
        for (name, value) in [("reason", &self.reason), ("www-authenticate", &self.challenge)] {
            if let Some(value) = value {
                add(name, value);
            }
        }
        for (name, value) in &self.headers {
            add(name, value);
        }
        if !self.remove.is_empty() {
            add("taken off", &self.remove.join(", "));
        }
        text
    }
}

/// Answers. The error names the file and what is wrong in it.
pub async fn check(question: &Question<'_>) -> Result<Answer, String> {
    let of = |file: &'static str| move |why: String| format!("{file}: {why}");
    let state = Arc::new(State::default());
    let mut follower = Follower::new(Arc::clone(&state));
    let policy: Value = yaml(question.policy).map_err(of("policy"))?;
    let id = take_in(&mut follower, ResourceType::AuthnPolicy, policy.clone()).map_err(of("policy"))?;
    if let Some(keys) = question.keys {
        for set in key_sets(yaml(keys).map_err(of("keys"))?, &policy).map_err(of("keys"))? {
            take_in(&mut follower, ResourceType::AuthnKeySet, set).map_err(of("keys"))?;
        }
    }
    follower.commit();
    let request: Request =
        serde_norway::from_str(question.request).map_err(|error| format!("request: {error}"))?;
    decided(&state, &request.told(&id), question.now).await
}

async fn decided(state: &State, request: &CheckRequest, now: f64) -> Result<Answer, String> {
    let facts = Facts::read(request).ok_or("request: nothing in it")?;
    // What is remembered is forgotten with the process.
    let (tokens, replays, issued) = (Arc::new(Tokens::new([0; 32])), Replays::default(), Issued::default());
    let fetcher = Fetcher::new(Allowed::new(Vec::new()), None).map_err(|error| error.to_string())?;
    let learned = state.load().learned.clone();
    let works = Arc::new(Works::new(tokens.clone(), learned, fetcher, Metrics::default().works));
    let mut done = Vec::new();
    loop {
        let memory = Memory { tokens: &tokens, replays: &replays, issued: &issued, done: &done };
        let pending = match decide(&facts, &state.load(), &memory, now) {
            Verdict::Decided(decision, label) => {
                return Ok(Answer::of(decision, label.method, label.result.text()));
            }
            Verdict::Wait(pending) => pending,
        };
        let asked = match &pending.work {
            Work::Password(_) => None,
            Work::Introspect { by, .. } => Some(by.endpoint.to_string()),
            Work::Keys(wanted) => Some(wanted.name.clone()),
        };
        if let Some(asked) = asked {
            let description = format!("{asked} would be asked, and nobody is from here");
            return Ok(Answer::of(Decision::Fault { description }, "none", "fault"));
        }
        let id = pending.id;
        done.extend(works.result(*pending, now).await.map(|result| (id, result)));
    }
}

impl Answer {
    fn of(decision: Decision, method: &'static str, result: &'static str) -> Self {
        let empty = Self {
            status: 503,
            method,
            result,
            reason: None,
            challenge: None,
            headers: BTreeMap::new(),
            remove: Vec::new(),
        };
        match decision {
            Decision::Allow { headers, remove, .. } => {
                Self { status: 200, headers: headers.into_iter().collect(), remove, ..empty }
            }
            Decision::Deny { status, description, challenge, .. } => {
                Self { status, reason: Some(description), challenge, ..empty }
            }
            Decision::Fault { description } => Self { reason: Some(description), ..empty },
        }
    }
}

impl Request {
    fn told(self, policy: &str) -> CheckRequest {
        let Self { method, scheme, host, path, headers, certificate } = self;
        let each = headers.into_iter().flat_map(|(name, values)| {
            let values = match values {
                Values::One(value) => vec![value],
                Values::Several(values) => values,
            };
            values.into_iter().map(move |value| HeaderValue {
                key: name.to_ascii_lowercase(),
                raw_value: value.into_bytes(),
                ..Default::default()
            })
        });
        let header_map = Some(HeaderMap { headers: each.collect() });
        let http = HttpRequest { method, scheme, host, path, header_map, ..Default::default() };
        let (policy, rev) = policy.rsplit_once('@').unwrap_or_default();
        CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(Peer { certificate: encoded(&certificate), ..Default::default() }),
                request: Some(Asked { http: Some(http), ..Default::default() }),
                context_extensions: [
                    ("policy".to_owned(), policy.to_owned()),
                    ("rev".to_owned(), rev.to_owned()),
                ]
                .into(),
                ..Default::default()
            }),
        }
    }
}

/// As Envoy encodes PEM.
fn encoded(pem: &str) -> String {
    let each = pem.bytes().map(|byte| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    each.collect()
}

fn yaml(text: &str) -> Result<Value, String> {
    serde_norway::from_str(text).map_err(|error| error.to_string())
}

/// Through the same door as what the control plane sends. Its name.
fn take_in(follower: &mut Follower, kind: ResourceType, value: Value) -> Result<String, String> {
    let descriptor = descriptor_pool().get_message_by_name(kind.message());
    let descriptor = descriptor.ok_or_else(|| format!("{kind} are not known here"))?;
    let message = DynamicMessage::deserialize(descriptor, value).map_err(|error| error.to_string())?;
    let name = message.get_field_by_name("name").and_then(|name| name.as_str().map(str::to_owned));
    let name = name.unwrap_or_default();
    follower.upsert(kind, &name, &message.encode_to_vec())?;
    Ok(name)
}

/// Sets of keys, which nobody is to fetch more of.
fn key_sets(value: Value, policy: &Value) -> Result<Vec<Value>, String> {
    let sets = match value {
        Value::Sequence(sets) => sets,
        one => vec![one],
    };
    let mut all = Vec::new();
    for mut set in sets {
        let Value::Mapping(fields) = &mut set else {
            return Err("must be a mapping, or a list of them".into());
        };
        if fields.contains_key("name") {
            fields.remove("uri");
            fields.remove("servers");
            all.push(set);
            continue;
        }
        let jwks = serde_json::to_string(&set).map_err(|error| error.to_string())?;
        let mut issuers = Vec::new();
        issuers_in(policy, &mut issuers);
        for issuer in issuers {
            let fields = [("name", issuer), ("jwks", jwks.clone())];
            all.push(Value::Mapping(
                fields.into_iter().map(|(name, text)| (name.into(), text.into())).collect(),
            ));
        }
    }
    Ok(all)
}

fn issuers_in(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Sequence(values) => values.iter().for_each(|value| issuers_in(value, found)),
        Value::Mapping(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value.as_str()) {
                    (Some("issuer" | "key_server" | "keyServer"), Some(issuer)) => {
                        if !found.iter().any(|known| known == issuer) {
                            found.push(issuer.to_owned());
                        }
                    }
                    _ => issuers_in(value, found),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use jwt::testing::{ISSUER, NOW, good, jwks};
    use serde_json::json;

    use super::*;

    fn policy() -> String {
        let key = json!({
            "id": "0a",
            "salt": BASE64_STANDARD.encode([7; 32]),
            "digest": BASE64_STANDARD.encode(blake3::keyed_hash(&[7; 32], b"secret").as_bytes()),
            "subject": "billing",
            "scopes": ["read"],
        });
        json!({
            "name": "i-1@3", "policy": "i-1", "rev": "3",
            "any": [
                {"jwt": {"issuer": ISSUER, "audiences": ["hello"], "algorithms": ["ES256"]}},
                {"api_key": {"header": "x-api-key", "keys": [key]}},
            ],
            "anonymous": ["/healthz"],
        })
        .to_string()
    }

    async fn asked(request: serde_json::Value, keys: Option<&str>) -> Result<Answer, String> {
        let (policy, request) = (policy(), request.to_string());
        check(&Question { policy: &policy, request: &request, keys, now: NOW }).await
    }

    #[tokio::test]
    async fn a_request_is_decided_as_it_would_be_on_a_node() {
        let keys = jwks();
        let token = json!({"path": "/", "headers": {"Authorization": format!("Bearer {}", good())}});
        let allowed = asked(token.clone(), Some(&keys)).await.unwrap();
        assert_eq!((allowed.status, allowed.method, allowed.result), (200, "jwt", "authenticated"));
        assert_eq!(allowed.headers["x-gatehouse-subject"], "alice");
        assert!(allowed.text().contains("x-gatehouse-subject: alice"), "{}", allowed.text());
        let fault = asked(token, None).await.unwrap();
        assert_eq!((fault.status, fault.result), (503, "fault"));
        let key = json!({"path": "/", "headers": {"x-api-key": ["gatehouse_0a_secret"]}});
        assert_eq!(asked(key, None).await.unwrap().remove, ["x-api-key"]);
        let twice = json!({"path": "/", "headers": {"x-api-key": ["gatehouse_0a_secret", "x"]}});
        assert_eq!(asked(twice, None).await.unwrap().status, 400);
        let none = asked(json!({"path": "/"}), None).await.unwrap();
        assert!(none.status == 401 && none.challenge.unwrap().starts_with("Bearer"));
        assert_eq!(asked(json!({"path": "/healthz"}), None).await.unwrap().result, "anonymous");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_told_with_its_file() {
        for (request, keys, told) in [
            (json!({"path": "/", "metod": "GET"}), None, "request: "),
            (json!({}), None, "request: "),
            (json!({"path": "/"}), Some("3"), "keys: "),
            (json!({"path": "/"}), Some("{\"name\": \"x\"}"), "keys: "),
        ] {
            let why = asked(request, keys).await.unwrap_err();
            assert!(why.starts_with(told), "{why}");
        }
        let question = Question { policy: "{\"nam\": 1}", request: "{}", keys: None, now: NOW };
        assert!(check(&question).await.unwrap_err().starts_with("policy: "));
    }
}
