//! What fuzzers throw bytes at. Each function takes anything, and panics where something does not hold that always must.

// Whoever is told that something does not hold has to stop.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::missing_panics_doc, missing_docs)]

use std::sync::Arc;

use api::{authn::PolicyId, key_set::KeySet, pb, revocation::Revocation};
use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption},
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse,
        attribute_context::{HttpRequest, Peer, Request},
        check_response::HttpResponse,
    },
};
use jwt::{
    Keys,
    testing::{ISSUER, NOW, claims, ec_thumbprint, good, header, jwks, keys, proof_for, token},
};
use pb::authn::{method::Method as Wire, sender_constrained::Proof};
use prost::Message as _;
use serde_json::{Value, json};
use sidecar::ext_authz::{Decision, Facts};

use crate::{
    Revocations,
    cache::Tokens,
    decide::{Memory, Verdict, decide},
    introspection,
    policy::Policy,
    replays::Replays,
    state::{Issuer, Snapshot},
    token::Issued,
};

/// Of the user `alice`; the password is of no interest.
const HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const KEY: &str = "gatehouse_0a_secret";

/// A sidecar that knows its policies, and which credentials are good.
pub struct Authn {
    state: Snapshot,
    tokens: Tokens,
    replays: Replays,
    issued: Issued,
    /// As they stand in a header, without its scheme or name.
    good: Vec<String>,
    bound: String,
    /// Percent-encoded PEM, as Envoy has it.
    certificate: String,
}

fn method(method: Wire) -> pb::authn::Method {
    pb::authn::Method { method: Some(method) }
}

fn rule() -> pb::authn::Jwt {
    pb::authn::Jwt {
        issuer: ISSUER.into(),
        audiences: vec!["hello".into()],
        algorithms: vec!["ES256".into()],
        claims: vec!["department".into()],
        ..Default::default()
    }
}

/// A policy for each kind of credential, and some of several.
pub fn policies() -> Vec<pb::authn::Policy> {
    let salt = [7; 32];
    let key = pb::authn::api_key::Key {
        id: "0a".into(),
        salt: salt.to_vec(),
        digest: blake3::keyed_hash(&salt, b"secret").as_bytes().to_vec(),
        subject: "billing".into(),
        scopes: vec!["read".into()],
    };
    let keys =
        || method(Wire::ApiKey(pb::authn::ApiKey { header: "x-api-key".into(), keys: vec![key.clone()] }));
    let bearer = || method(Wire::Jwt(rule()));
    let session = || method(Wire::Session(pb::authn::Session { cookie: "sid".into(), jwt: Some(rule()) }));
    let bound = |by: Proof| {
        method(Wire::SenderConstrained(pb::authn::SenderConstrained { jwt: Some(rule()), by: by.into() }))
    };
    let mtls =
        || method(Wire::Mtls(pb::authn::Mtls { spiffe: vec!["spiffe://td/ns/*".into()], dns: Vec::new() }));
    let user =
        pb::authn::basic::User { name: "alice".into(), hash: HASH.into(), scopes: vec!["read".into()] };
    let asap = pb::authn::Asap {
        key_server: "https://keys.example.test/".into(),
        audiences: vec!["hello".into()],
        issuers: vec!["micros/billing".into()],
    };
    let introspection = pb::authn::Introspection {
        endpoint: "https://id.example.test/introspect".into(),
        client_id: "edge".into(),
        client_secret: "secret".into(),
        issuer: "https://opaque.example.test/".into(),
        audiences: vec!["hello".into()],
        cache_secs: 30,
        claims: vec!["department".into()],
    };
    [
        ("jwt", vec![bearer()], vec![]),
        ("nobody", vec![], vec![]),
        ("keys", vec![keys()], vec![]),
        ("session", vec![session()], vec![]),
        ("dpop", vec![bound(Proof::Dpop)], vec![]),
        ("bound", vec![bound(Proof::Certificate)], vec![]),
        ("mtls", vec![mtls()], vec![]),
        ("basic", vec![method(Wire::Basic(pb::authn::Basic { users: vec![user] }))], vec![]),
        ("asap", vec![method(Wire::Asap(asap))], vec![]),
        ("introspection", vec![method(Wire::Introspection(introspection)), bearer()], vec![]),
        ("any", vec![keys(), session(), bearer(), bound(Proof::Dpop), mtls()], vec![]),
        ("all", vec![], vec![vec![keys()], vec![bearer(), session()]]),
    ]
    .into_iter()
    .map(|(name, any, all): (_, _, Vec<Vec<pb::authn::Method>>)| pb::authn::Policy {
        name: format!("{name}@1"),
        policy: name.into(),
        rev: 1,
        any,
        all: all.into_iter().map(|any| pb::authn::Group { any }).collect(),
        anonymous: vec!["/healthz".into()],
        ..Default::default()
    })
    .collect()
}

impl Authn {
    /// With this client certificate (percent-encoded PEM, with a name below `spiffe://td/ns/`) as one that is good.
    pub fn new(certificate: &str) -> Self {
        let mut state = Snapshot::default();
        for wire in policies() {
            let (name, body) = (wire.name.clone(), wire.encode_to_vec());
            let policy = api::authn::Policy::try_from(wire).unwrap();
            state.policies.insert(name, Policy::new(policy, &body).unwrap());
        }
        for name in [ISSUER, "https://keys.example.test/"] {
            let issuer = Issuer { keys: Arc::new(keys()), uri: None, servers: Vec::new() };
            state.keys.insert(name.into(), issuer);
        }
        let mut claims = claims();
        claims["cnf"] = json!({"jkt": ec_thumbprint()});
        let bound = token(&header(), &claims);
        let good = vec![good(), KEY.to_owned(), bound.clone()];
        let (tokens, replays, issued) = (Tokens::new([7; 32]), Replays::default(), Issued::default());
        Self { state, tokens, replays, issued, good, bound, certificate: certificate.to_owned() }
    }

    /// A good credential: a token, and then a key.
    pub fn good(&self) -> &[String] {
        &self.good
    }

    /// Requests that are answered in all ways there are.
    pub fn requests(&self) -> Vec<CheckRequest> {
        let bearer = format!("Bearer {}", self.good[0]);
        let (dpop, proof) = (format!("DPoP {}", self.bound), |id: &str| {
            // Long after 1970, and before the fraction of a float ends.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            proof_for(&self.bound, "GET", "https://hello.example.test/x", id, NOW as u64)
        });
        let cookie = format!("a=b; sid={}", self.good[0]);
        let presented: Vec<Vec<(&str, String)>> = vec![
            vec![],
            vec![("authorization", bearer.clone())],
            vec![("authorization", "Bearer a.b.c".into())],
            vec![("authorization", "Basic YWxpY2U6c2VjcmV0".into())],
            vec![("authorization", dpop.clone()), ("dpop", proof("1"))],
            vec![("authorization", dpop), ("dpop", proof("2"))],
            vec![("cookie", cookie.clone()), ("sec-fetch-site", "same-origin".into())],
            vec![("x-api-key", KEY.into())],
            vec![("x-api-key", KEY.into()), ("authorization", bearer), ("cookie", cookie)],
        ];
        let mut requests = Vec::new();
        for policy in policies() {
            for headers in &presented {
                for path in ["/x?a=b", "/healthz"] {
                    requests.push(request(&policy.policy, path, headers, &self.certificate));
                    requests.push(request(&policy.policy, path, headers, ""));
                }
            }
        }
        requests
    }

    /// A question in bytes, as Envoy sends it. Only who shows one of the good credentials passes, or who asks for what is open;
    /// every answer says what it is.
    pub fn check(&self, bytes: &[u8]) {
        let Ok(request) = CheckRequest::decode(bytes) else { return };
        let Some(facts) = Facts::read(&request) else { return };
        let memory = Memory { tokens: &self.tokens, replays: &self.replays, issued: &self.issued, done: &[] };
        let decision = match decide(&facts, &self.state, &memory, NOW) {
            Verdict::Decided(decision, _) => decision,
            // Nobody has passed yet.
            Verdict::Wait(_) => return,
        };
        if let Decision::Allow { headers, .. } = &decision {
            let policy = facts.policy().expect("nobody passes without a policy");
            let known = policies().iter().any(|known| known.policy == policy.policy && policy.rev == 1);
            assert!(known, "{policy} is nobody's");
            let told = |name| headers.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_str());
            match told("x-gatehouse-method").expect("an answer says how somebody was proven") {
                "anonymous" => {
                    let path = facts.path().split('?').next().unwrap_or_default();
                    assert!(path == "/healthz" || path.starts_with("/healthz/"), "{path} is not open");
                }
                // Envoy has checked who has signed it; which names are let in is what is decided here.
                "mtls" => {
                    let subject = told("x-gatehouse-subject").unwrap_or_default();
                    assert!(subject.starts_with("spiffe://td/ns/"), "{subject} is not trusted");
                }
                _ => assert!(self.shows_a_good_one(&facts), "nobody has shown who they are"),
            }
        }
        said(&decision);
        answered(&decision.clone().answer(facts.decision_id()), &decision);
    }

    /// As simple as can be, to be another reading than ours.
    fn shows_a_good_one(&self, facts: &Facts<'_>) -> bool {
        let values =
            |name| facts.header(name).into_iter().map(|value| String::from_utf8_lossy(value).into_owned());
        let is_good = |text: &str| self.good.iter().any(|good| good == text);
        values("authorization").any(|value| value.split(' ').any(is_good))
            || values("x-api-key").any(|value| is_good(&value))
            || values("cookie").any(|value| {
                value.split(';').any(|pair| pair.trim().strip_prefix("sid=").is_some_and(is_good))
            })
    }

    /// A header with a credential: whatever it holds, it is one, none, or several, and never a part of one.
    pub fn credentials(&self, bytes: &[u8]) {
        for name in ["authorization", "cookie", "x-api-key", "dpop", "sec-fetch-site", "origin"] {
            for policy in ["any", "basic", "introspection", "asap"] {
                let mut request = request(policy, "/x", &[(name, String::new())], "");
                let http =
                    request.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
                http.header_map.as_mut().unwrap().headers[0].raw_value = bytes.to_vec();
                self.check(&request.encode_to_vec());
            }
        }
    }

    /// A certificate, after Envoy has checked whose it is. Only a name that is trusted, and can be printed, is somebody.
    pub fn certificate(&self, bytes: &[u8]) {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let request = request("mtls", "/x", &[], text);
        let facts = Facts::read(&request).unwrap();
        let memory = Memory { tokens: &self.tokens, replays: &self.replays, issued: &self.issued, done: &[] };
        let Verdict::Decided(decision, _) = decide(&facts, &self.state, &memory, NOW) else { return };
        said(&decision);
        if let Decision::Allow { headers, .. } = decision {
            let subject = headers.iter().find(|(name, _)| *name == "x-gatehouse-subject").expect("somebody");
            let path = subject.1.strip_prefix("spiffe://td/ns/").expect("one who is trusted");
            assert!(!path.is_empty() && path.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");
        }
    }
}

fn request(policy: &str, path: &str, headers: &[(&str, String)], certificate: &str) -> CheckRequest {
    let header = |(name, value): &(&str, String)| HeaderValue {
        key: (*name).into(),
        raw_value: value.as_bytes().to_vec(),
        ..Default::default()
    };
    let http = HttpRequest {
        method: "GET".into(),
        scheme: "https".into(),
        host: "hello.example.test".into(),
        path: path.into(),
        header_map: Some(HeaderMap { headers: headers.iter().map(header).collect() }),
        ..Default::default()
    };
    let context = [("policy".to_owned(), policy.to_owned()), ("rev".to_owned(), "1".to_owned())];
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer { certificate: certificate.into(), ..Default::default() }),
            request: Some(Request { http: Some(http), ..Default::default() }),
            context_extensions: context.into(),
            ..Default::default()
        }),
    }
}

/// What a decision tells others can stand where it will stand.
fn said(decision: &Decision) {
    match decision {
        Decision::Allow { headers, .. } => {
            for (name, value) in headers {
                header_is_ours(name, value);
            }
        }
        Decision::Deny { status, challenge, .. } => {
            assert!([400, 401, 403].contains(status), "{status}");
            let challenge = challenge.as_deref().unwrap_or_default();
            assert!(challenge.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{challenge:?}");
        }
        Decision::Fault { .. } => {}
    }
}

fn header_is_ours(name: &str, value: &str) {
    assert!(name.starts_with("x-gatehouse-"), "{name} is not ours to set");
    assert!(value.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{name}: {value:?}");
}

/// Envoy takes an answer without a status for a yes.
fn answered(answer: &CheckResponse, decision: &Decision) {
    let code = answer.status.as_ref().expect("an answer has a status").code;
    let is_allowed = matches!(decision, Decision::Allow { .. });
    assert_eq!(code == 0, is_allowed, "{decision:?}");
    assert_ne!(*answer, CheckResponse::default());
    match answer.http_response.as_ref().expect("an answer says what it is") {
        HttpResponse::OkResponse(ok) => {
            assert!(is_allowed, "{decision:?}");
            #[allow(deprecated)]
            let overwrites = |header: &HeaderValueOption| header.append.is_some_and(|append| !append.value);
            assert!(ok.headers.iter().all(overwrites), "{ok:?}");
        }
        HttpResponse::DeniedResponse(denied) | HttpResponse::ErrorResponse(denied) => {
            assert!(!is_allowed, "{decision:?}");
            let body: Value = serde_json::from_str(&denied.body).expect("a body is JSON");
            assert_eq!(body["status"], json!(denied.status.expect("of HTTP").code));
        }
    }
}

/// A policy in bytes. What is taken asks for a credential where it does not say that a path is open.
pub fn policy(bytes: &[u8]) {
    let Ok(wire) = pb::authn::Policy::decode(bytes) else { return };
    let Ok(read) = api::authn::Policy::try_from(wire) else { return };
    let Ok(policy) = Policy::new(read, bytes) else { return };
    let PolicyId { policy: name, rev } = policy.id.clone();
    assert!(!name.is_empty() && rev > 0, "a policy that no route can name");
    let open = policy.anonymous.clone();
    let mut state = Snapshot::default();
    state.policies.insert(policy.id.to_string(), policy);
    let mut request = request(&name, "/never/in/a/corpus", &[], "");
    let context = &mut request.attributes.as_mut().unwrap().context_extensions;
    context.insert("rev".into(), rev.to_string());
    let facts = Facts::read(&request).unwrap();
    let (tokens, replays) = (Tokens::new([7; 32]), Replays::default());
    let memory = Memory { tokens: &tokens, replays: &replays, issued: &Issued::default(), done: &[] };
    let Verdict::Decided(decision, _) = decide(&facts, &state, &memory, NOW) else {
        panic!("nothing was shown that could take long")
    };
    let path = api::path::RequestPath::parse(facts.path()).unwrap();
    let is_open = open.iter().any(|pattern| pattern.matches(&path));
    assert_eq!(matches!(decision, Decision::Allow { .. }), is_open, "{decision:?}");
    said(&decision);
}

/// A set of keys in bytes.
pub fn key_set(bytes: &[u8]) {
    let Ok(wire) = pb::authn::KeySet::decode(bytes) else { return };
    let Ok(set) = KeySet::try_from(wire) else { return };
    assert!(set.issuer.starts_with("https://") && !set.keys.is_empty());
    let _some_are_none = Keys::new(set);
}

/// What the bytes of a set of keys could be.
pub fn key_sets() -> Vec<Vec<u8>> {
    let set = pb::authn::KeySet { name: ISSUER.into(), jwks: jwks(), ..Default::default() };
    let servers = vec!["https://keys.example.test/".to_owned()];
    let uri = "https://id.example.test/jwks".to_owned();
    vec![set.encode_to_vec(), pb::authn::KeySet { uri, servers, ..set }.encode_to_vec()]
}

/// A revocation in bytes. When it is taken back nothing of it is left.
pub fn revocation(bytes: &[u8]) {
    let Ok(wire) = pb::authn::Revocations::decode(bytes) else { return };
    let Ok(read) = Revocation::try_from(wire) else { return };
    let (mut table, name) = (Revocations::default(), read.name.clone());
    table.insert(read);
    assert_eq!(table.len(), 1);
    table.remove(&name);
    assert!(table.is_empty());
}

/// What the bytes of a revocation could be.
pub fn revocations() -> Vec<Vec<u8>> {
    use pb::authn::revocations::{ApiKeyId, IssuerSince, Session, Subject, Token, What};

    let issuer = || ISSUER.to_owned();
    [
        What::Token(Token { issuer: issuer(), jti: "j".into() }),
        What::Session(Session { issuer: issuer(), sid: "s".into() }),
        What::Subject(Subject { issuer: issuer(), sub: "alice".into(), since: 1 }),
        What::IssuerSince(IssuerSince { issuer: issuer(), since: 1 }),
        What::ApiKey(ApiKeyId { id: "0a".into() }),
    ]
    .map(|what| pb::authn::Revocations { name: "a".into(), what: Some(what), expires: 9 }.encode_to_vec())
    .into()
}

#[derive(serde::Deserialize)]
struct Active {
    active: bool,
}

/// What somebody answers who was asked about a token. It is good only where the answer says so in one way.
pub fn introspected(bytes: &[u8]) {
    let asked = api::authn::Introspection {
        endpoint: "https://id.example.test/introspect".into(),
        client_id: "edge".into(),
        client_secret: "secret".into(),
        issuer: ISSUER.into(),
        audiences: vec!["hello".into()],
        cache: std::time::Duration::from_secs(30),
        claims: vec!["department".into()],
    };
    let Ok(proven) = introspection::read(&asked, bytes, NOW) else { return };
    let text = std::str::from_utf8(bytes).expect("what is believed is text");
    // A number that no float holds may stand in a field that nobody reads.
    let answer: Active = serde_json::from_str(text).expect("what is believed can be read");
    assert!(answer.active);
    assert!(proven.until > NOW && proven.until <= NOW + 30.0, "{}", proven.until);
    assert!(!proven.identity.texts().subject.is_empty());
    for (name, value) in proven.identity.headers() {
        header_is_ours(name, &value);
    }
}

/// What such an answer could be.
pub fn answers() -> Vec<Vec<u8>> {
    let good = json!({
        "active": true, "sub": "alice", "scope": "read", "aud": ["hello"], "exp": NOW + 20.0, "iat": NOW, "iss": ISSUER,
        "groups": ["a"], "tenant": "acme", "jti": "j", "sid": "s", "client_id": "c",
    });
    let mut bound = good.clone();
    bound["cnf"] = json!({"x5t#S256": ec_thumbprint()});
    [good, bound, json!({"active": false})].iter().map(|answer| answer.to_string().into_bytes()).collect()
}
