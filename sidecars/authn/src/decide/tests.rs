//! Whole decisions: each with a cache that knows nothing, and again with one that does.

mod attacks;

use api::pb;
use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue},
    service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Peer, Request},
    },
};

use jwt::testing::{ISSUER, NOW, claims, good, header, keys, signed_by, token};
use serde_json::{Value, json};

use super::*;
use crate::state::Issuer;

fn method(method: pb::authn::method::Method) -> pb::authn::Method {
    pb::authn::Method { method: Some(method) }
}

fn jwt() -> pb::authn::Jwt {
    pb::authn::Jwt {
        issuer: ISSUER.into(),
        audiences: vec!["hello".into()],
        algorithms: vec!["ES256".into()],
        ..Default::default()
    }
}

/// A policy for each set of methods.
fn state() -> Snapshot {
    use pb::authn::{method::Method as Wire, sender_constrained::Proof};

    let mut state = Snapshot::default();
    let key = || method(Wire::ApiKey(crate::api_key::tests::wire()));
    let token = || method(Wire::Jwt(jwt()));
    let bound = |by: Proof| {
        method(Wire::SenderConstrained(pb::authn::SenderConstrained { jwt: Some(jwt()), by: by.into() }))
    };
    let session = || method(Wire::Session(pb::authn::Session { cookie: "sid".into(), jwt: Some(jwt()) }));
    let spiffe = vec!["spiffe://td/ns/*".into()];
    let mtls = || method(Wire::Mtls(pb::authn::Mtls { spiffe: spiffe.clone(), dns: Vec::new() }));
    let other = pb::authn::Jwt { audiences: vec!["other".into()], ..jwt() };
    let policies = [
        ("i-1", vec![token()], Vec::<Vec<pb::authn::Method>>::new()),
        ("open", vec![], vec![]),
        ("keys", vec![key()], vec![]),
        ("both", vec![key(), token()], vec![]),
        ("all", vec![], vec![vec![key()], vec![token(), session()]]),
        ("dpop", vec![bound(Proof::Dpop)], vec![]),
        ("bound", vec![bound(Proof::Certificate)], vec![]),
        ("session", vec![session(), token()], vec![]),
        ("mtls", vec![mtls()], vec![]),
        ("audiences", vec![method(Wire::Jwt(other)), token()], vec![]),
        ("proof_and_session", vec![], vec![vec![bound(Proof::Dpop)], vec![session()]]),
    ];
    for (name, any, all) in policies {
        let wire = pb::authn::Policy {
            name: format!("{name}@3"),
            policy: name.into(),
            rev: 3,
            any,
            all: all.into_iter().map(|any| pb::authn::Group { any }).collect(),
            anonymous: vec!["/healthz".into()],
            ..Default::default()
        };
        let policy = api::authn::Policy::try_from(wire).unwrap();
        state.policies.insert(format!("{name}@3"), Policy::new(policy, name.as_bytes()).unwrap());
    }
    let issuer = Issuer { keys: Arc::new(keys()), uri: None, servers: Vec::new() };
    state.keys.insert(ISSUER.into(), issuer);
    state
}

fn check(policy: &str, path: &str, authorization: &[&str]) -> (u16, DecisionResult) {
    let headers: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
    let (decision, result) = decided(policy, path, &headers);
    (status(&decision), result)
}

fn status(decision: &Decision) -> u16 {
    match decision {
        Decision::Allow { .. } => 200,
        Decision::Deny { status, .. } => *status,
        Decision::Fault { .. } => 503,
    }
}

/// A request, as Envoy tells of it.
struct Ask<'a> {
    policy: &'a str,
    method: &'a str,
    path: &'a str,
    headers: &'a [(&'a str, &'a str)],
    certificate: &'a str,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        Self { policy: "i-1@3", method: "GET", path: "/x", headers: &[], certificate: "" }
    }
}

impl Ask<'_> {
    fn request(&self) -> CheckRequest {
        let header = |(name, value): &(&str, &str)| HeaderValue {
            key: (*name).into(),
            raw_value: value.as_bytes().to_vec(),
            ..Default::default()
        };
        let http = HttpRequest {
            method: self.method.into(),
            scheme: "https".into(),
            host: "hello.example.test".into(),
            path: self.path.into(),
            header_map: Some(HeaderMap { headers: self.headers.iter().map(header).collect() }),
            ..Default::default()
        };
        let extensions = self.policy.split_once('@').map(|(policy, rev)| {
            [("policy".to_owned(), policy.to_owned()), ("rev".to_owned(), rev.to_owned())].into()
        });
        let source = Peer { certificate: self.certificate.into(), ..Default::default() };
        CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(source),
                request: Some(Request { http: Some(http), ..Default::default() }),
                context_extensions: extensions.unwrap_or_default(),
                ..Default::default()
            }),
        }
    }

    /// What is decided, by these memories.
    fn with(&self, tokens: &Tokens, replays: &Replays) -> (Decision, Label) {
        let request = self.request();
        let memory = Memory { tokens, replays, issued: &Issued::default(), done: &[] };
        match decide(&Facts::read(&request).unwrap(), &state(), &memory, NOW) {
            Verdict::Decided(decision, label) => (decision, label),
            Verdict::Wait(_) => panic!("nothing here takes long"),
        }
    }

    /// What is decided; the same with a cache and without. A proof is good once, so each time is the first.
    fn decided(&self) -> (Decision, Label) {
        let tokens = Tokens::new([7; 32]);
        let first = self.with(&tokens, &Replays::default());
        assert_eq!(self.with(&tokens, &Replays::default()), first, "with a cache and without");
        first
    }

    /// The status, and the kind of credential that counted.
    fn answer(&self) -> (u16, &'static str) {
        let (decision, label) = self.decided();
        (status(&decision), label.method)
    }
}

fn decided(policy: &str, path: &str, headers: &[(&str, &str)]) -> (Decision, DecisionResult) {
    let (decision, label) = Ask { policy, path, headers, ..Ask::default() }.decided();
    (decision, label.result)
}

#[test]
fn a_good_token_passes() {
    assert_eq!(check("i-1@3", "/x", &[&format!("Bearer {}", good())]), (200, DecisionResult::Authenticated));
    assert_eq!(check("i-1@3", "/x", &[&format!("bearer  {}", good())]), (200, DecisionResult::Authenticated));
}

#[test]
fn without_a_credential_only_anonymous_paths_pass() {
    assert_eq!(check("i-1@3", "/x", &[]), (401, DecisionResult::NoCredential));
    assert_eq!(check("i-1@3", "/healthz?x=1", &[]), (200, DecisionResult::Anonymous));
    assert_eq!(check("i-1@3", "/healthzz", &[]), (401, DecisionResult::NoCredential));
}

#[test]
fn an_invalid_credential_is_refused_even_where_none_is_needed() {
    assert_eq!(check("i-1@3", "/healthz", &["Bearer x"]), (401, DecisionResult::InvalidCredential));
    assert_eq!(check("i-1@3", "/healthz", &["Basic eDp5"]), (401, DecisionResult::InvalidCredential));
    assert_eq!(check("i-1@3", "/x", &["\u{fffd}"]), (401, DecisionResult::InvalidCredential));
}

#[test]
fn two_credentials_of_a_kind_are_a_bad_request() {
    let (good, bad) = (format!("Bearer {}", good()), "Bearer x".to_owned());
    assert_eq!(check("i-1@3", "/x", &[&good, &bad]), (400, DecisionResult::BadRequest));
    assert_eq!(check("i-1@3", "/x", &[&format!("{good},{bad}")]), (400, DecisionResult::BadRequest));
}

#[test]
fn a_policy_or_revision_that_is_not_here_is_a_fault() {
    for policy in ["i-1@2", "i-2@3", "", "i-1@", "@3", "i-1@0"] {
        let token = format!("Bearer {}", good());
        assert_eq!(check(policy, "/healthz", &[&token]), (503, DecisionResult::UnknownPolicy), "{policy}");
    }
}

#[test]
fn a_path_with_two_meanings_is_a_bad_request() {
    assert_eq!(check("i-1@3", "/healthz/;x/../admin", &[]), (400, DecisionResult::BadRequest));
}

#[test]
fn where_no_method_is_asked_for_a_credential_is_the_upstreams_affair() {
    assert_eq!(check("open@3", "/healthz", &["Basic eDp5"]), (200, DecisionResult::Anonymous));
    assert_eq!(check("open@3", "/x", &["Basic eDp5"]), (401, DecisionResult::NoCredential));
}

#[test]
fn an_api_key_tells_who_has_it_and_goes_no_further() {
    let (decision, result) = decided("keys@3", "/x", &[("x-api-key", "gatehouse_0a_secret")]);
    assert_eq!(result, DecisionResult::Authenticated);
    let Decision::Allow { headers, remove, .. } = decision else { panic!("{decision:?}") };
    assert!(headers.contains(&("x-gatehouse-subject", "billing".into())), "{headers:?}");
    assert_eq!(remove, ["x-api-key"]);
    let key = |value: &str| {
        let (decision, result) = decided("keys@3", "/healthz", &[("X-Api-Key", value)]);
        (status(&decision), result)
    };
    assert_eq!(key("gatehouse_0a_wrong"), (401, DecisionResult::InvalidCredential));
    assert_eq!(key("gatehouse_0a_secret,gatehouse_0a_secret"), (400, DecisionResult::BadRequest));
    let twice = [("x-api-key", "gatehouse_0a_secret"); 2];
    assert_eq!(decided("keys@3", "/x", &twice).1, DecisionResult::BadRequest);
    assert_eq!(check("keys@3", "/x", &["Basic eDp5"]), (401, DecisionResult::NoCredential));
}

#[test]
fn of_two_good_credentials_the_policys_first_counts_and_a_bad_one_spoils_both() {
    let token = format!("Bearer {}", good());
    let both = |key: &str| decided("both@3", "/x", &[("authorization", &token), ("x-api-key", key)]);
    let Decision::Allow { headers, .. } = both("gatehouse_0a_secret").0 else { panic!("refused") };
    assert!(headers.contains(&("x-gatehouse-method", "api_key".into())), "{headers:?}");
    assert_eq!(both("gatehouse_0a_wrong").1, DecisionResult::InvalidCredential);
    let bad = [("authorization", "Bearer x"), ("x-api-key", "gatehouse_0a_secret")];
    assert_eq!(decided("both@3", "/x", &bad).1, DecisionResult::InvalidCredential);
}

#[test]
fn a_client_is_told_all_that_it_may_prove_itself_with() {
    let Decision::Deny { challenge, .. } = decided("both@3", "/x", &[]).0 else { panic!("allowed") };
    let told = "ApiKey realm=\"gatehouse\", header=\"x-api-key\", Bearer realm=\"gatehouse\"";
    assert_eq!(challenge.as_deref(), Some(told));
}

#[test]
fn all_groups_must_be_satisfied_and_the_first_says_who_it_is() {
    let token = format!("Bearer {}", good());
    let (token, key) = (("authorization", token.as_str()), ("x-api-key", "gatehouse_0a_secret"));
    let ask = |headers: &[(&str, &str)]| Ask { policy: "all@3", headers, ..Ask::default() }.answer();
    assert_eq!(ask(&[token, key]), (200, "api_key"));
    let cookie = format!("a=b; sid={}", good());
    assert_eq!(ask(&[("cookie", &cookie), key]), (200, "api_key"));
    assert_eq!(ask(&[token]), (401, "none"));
    assert_eq!(ask(&[key]), (401, "none"));
    assert_eq!(ask(&[("authorization", "Bearer x"), key]), (401, "none"));
    let open = Ask { policy: "all@3", path: "/healthz", headers: &[key], ..Ask::default() };
    assert_eq!(open.answer(), (200, "anonymous"), "half of what is asked for is nobody");
}

#[test]
fn a_token_for_any_of_several_methods_of_one_issuer_is_good() {
    let token = format!("Bearer {}", good());
    let headers = [("authorization", token.as_str())];
    assert_eq!(Ask { policy: "audiences@3", headers: &headers, ..Ask::default() }.answer(), (200, "jwt"));
}

#[test]
fn a_session_is_a_cookie_that_other_sites_cannot_use() {
    let cookie = format!("theme=dark; sid={}", good());
    let ask = |method, headers: &[(&str, &str)]| {
        let mut all = vec![("cookie", cookie.as_str())];
        all.extend(headers);
        Ask { policy: "session@3", method, headers: &all, ..Ask::default() }.answer()
    };
    assert_eq!(ask("GET", &[]), (200, "session"));
    assert_eq!(ask("GET", &[("sec-fetch-site", "cross-site")]), (200, "session"), "a link leads here");
    for (headers, status) in [
        (&[][..], 200),
        (&[("sec-fetch-site", "same-origin")], 200),
        (&[("sec-fetch-site", "none")], 200),
        (&[("sec-fetch-site", "cross-site")], 403),
        (&[("sec-fetch-site", "same-site")], 403),
        (&[("sec-fetch-site", "")], 403),
        (&[("origin", "https://hello.example.test")], 200),
        (&[("origin", "https://hello.example.test:8443")], 200),
        (&[("origin", "https://evil.test")], 403),
        (&[("origin", "https://hello.example.test.evil.test")], 403),
        (&[("origin", "null")], 403),
    ] {
        assert_eq!(ask("POST", headers).0, status, "{headers:?}");
    }
    let socket = [("upgrade", "websocket"), ("origin", "https://evil.test")];
    assert_eq!(ask("GET", &socket).0, 403, "a WebSocket of another site");
    assert_eq!(ask("GET", &[("cookie", "sid=x")]), (400, "none"), "which of the two?");
    let empty = [("cookie", "sid=")];
    assert_eq!(Ask { policy: "session@3", headers: &empty, ..Ask::default() }.answer(), (401, "none"));
    let longer = format!("xsid={}", good());
    let longer = [("cookie", longer.as_str())];
    assert_eq!(Ask { policy: "session@3", headers: &longer, ..Ask::default() }.answer(), (401, "none"));
}

/// A token that is bound to the EC key of the tests.
fn bound(cnf: &Value) -> String {
    let mut claims = claims();
    claims["cnf"] = cnf.clone();
    token(&header(), &claims)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn proof(token: &str, id: &str) -> String {
    jwt::testing::proof_for(token, "GET", "https://hello.example.test/x", id, NOW as u64)
}

#[test]
fn a_bound_token_needs_a_proof_of_its_key_for_each_request() {
    let token = bound(&json!({"jkt": jwt::testing::ec_thumbprint()}));
    let (authorization, good_proof) = (format!("DPoP {token}"), proof(&token, "1"));
    let ask = |headers: &[(&str, &str)]| Ask { policy: "dpop@3", headers, ..Ask::default() }.answer();
    let sent = ("authorization", authorization.as_str());
    assert_eq!(ask(&[sent, ("dpop", &good_proof)]), (200, "dpop"));
    assert_eq!(ask(&[sent]), (401, "none"), "no proof");
    assert_eq!(ask(&[sent, ("dpop", "x")]), (401, "none"));
    assert_eq!(ask(&[sent, ("dpop", &good_proof), ("dpop", &good_proof)]).0, 400);
    assert_eq!(ask(&[sent, ("dpop", &proof("another", "1"))]), (401, "none"));
    let bearer = format!("Bearer {token}");
    assert_eq!(ask(&[("authorization", &bearer), ("dpop", &good_proof)]), (401, "none"));
    let another = bound(&json!({"jkt": "A".repeat(43)}));
    let stolen = format!("DPoP {another}");
    assert_eq!(ask(&[("authorization", &stolen), ("dpop", &proof(&another, "1"))]), (401, "none"));
    let unbound = format!("DPoP {}", good());
    assert_eq!(ask(&[("authorization", &unbound), ("dpop", &proof(&good(), "1"))]), (401, "none"));
    let headers = [("authorization", bearer.as_str())];
    assert_eq!(
        Ask { headers: &headers, ..Ask::default() }.answer(),
        (401, "none"),
        "stolen, and sent as a plain one"
    );
    let cookie = format!("sid={token}");
    let headers = [("cookie", cookie.as_str())];
    assert_eq!(Ask { policy: "session@3", headers: &headers, ..Ask::default() }.answer(), (401, "none"));
}

#[test]
fn a_proof_is_good_once() {
    let token = bound(&json!({"jkt": jwt::testing::ec_thumbprint()}));
    let (authorization, proof) = (format!("DPoP {token}"), proof(&token, "1"));
    let headers = [("authorization", authorization.as_str()), ("dpop", proof.as_str())];
    let (tokens, replays) = (Tokens::new([7; 32]), Replays::default());
    let ask =
        || status(&Ask { policy: "dpop@3", headers: &headers, ..Ask::default() }.with(&tokens, &replays).0);
    assert_eq!((ask(), ask()), (200, 401));
}

/// PEM as Envoy has it, and the thumbprint as a token does.
fn certificate(uris: &[&str], dns: &[&str]) -> (String, String) {
    use rcgen::{CertificateParams, KeyPair, SanType};

    let mut params = CertificateParams::default();
    let text = |text: &&str| (*text).try_into().unwrap();
    params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI(text(uri))));
    params.subject_alt_names.extend(dns.iter().map(|name| SanType::DnsName(text(name))));
    let pem = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    let encoded = [('+', "%2B"), ('/', "%2F"), (' ', "%20"), ('\n', "%0A")];
    let print = jwt::testing::certificate_thumbprint(&pem);
    (encoded.iter().fold(pem, |pem, (from, to)| pem.replace(*from, to)), print)
}

#[test]
fn a_certificate_proves_one_of_those_who_are_trusted() {
    let ask = |uris: &[&str], dns: &[&str]| {
        let (pem, _) = certificate(uris, dns);
        Ask { policy: "mtls@3", certificate: &pem, ..Ask::default() }.answer()
    };
    assert_eq!(ask(&["spiffe://td/ns/a"], &[]), (200, "mtls"));
    assert_eq!(ask(&["spiffe://td/ns/a"], &["a.test"]), (200, "mtls"));
    assert_eq!(ask(&["spiffe://evil/ns/a"], &[]), (401, "none"));
    assert_eq!(ask(&["spiffe://td/ns/a", "spiffe://td/ns/b"], &[]), (401, "none"), "an SVID has one");
    assert_eq!(ask(&[], &["td"]), (401, "none"));
    assert_eq!(ask(&[], &[]), (401, "none"));
    assert_eq!(Ask { policy: "mtls@3", ..Ask::default() }.answer(), (401, "none"), "none was shown");
    for garbage in ["x", "%", "%2", "-----BEGIN%20CERTIFICATE-----%0AAAAA%0A-----END%20CERTIFICATE-----%0A"] {
        let ask = Ask { policy: "mtls@3", certificate: garbage, ..Ask::default() };
        assert_eq!(ask.answer(), (401, "none"), "{garbage}");
    }
}

#[test]
fn a_token_that_is_bound_to_a_certificate_is_good_with_it_alone() {
    let ((own, print), (other, _)) = (certificate(&[], &["a.test"]), certificate(&[], &["a.test"]));
    let bound = format!("Bearer {}", bound(&json!({"x5t#S256": print})));
    let unbound = format!("Bearer {}", good());
    for (policy, authorization, certificate, expected) in [
        ("bound@3", &bound, own.as_str(), (200, "mtls_bound")),
        ("bound@3", &bound, &other, (401, "none")),
        ("bound@3", &bound, "", (401, "none")),
        ("bound@3", &unbound, &own, (401, "none")),
        ("i-1@3", &bound, &own, (200, "jwt")),
        ("i-1@3", &bound, "", (401, "none")),
    ] {
        let headers = [("authorization", authorization.as_str())];
        let ask = Ask { policy, certificate, headers: &headers, ..Ask::default() };
        assert_eq!(ask.answer(), expected, "{policy}");
    }
}

#[test]
fn without_contact_tokens_are_a_fault_and_what_the_policy_holds_is_as_good_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let contact = xds::Contact::open(folder.path()).unwrap();
    let state = state();
    state.ages.follow(contact.clone());
    let (tokens, replays) = (Tokens::new([1; 32]), Replays::default());
    let bearer = format!("Bearer {}", good());
    let asked = |policy: &str, headers: &[(&str, &str)], path| {
        let request = Ask { policy, path, headers, ..Ask::default() }.request();
        let memory = Memory { tokens: &tokens, replays: &replays, issued: &Issued::default(), done: &[] };
        match decide(&Facts::read(&request).unwrap(), &state, &memory, NOW) {
            Verdict::Decided(decision, _) => status(&decision),
            Verdict::Wait(_) => panic!("nothing here takes long"),
        }
    };
    let (token, key) = (("authorization", bearer.as_str()), ("x-api-key", "gatehouse_0a_secret"));
    let all = |is_stale: bool| {
        let of_token = if is_stale { 503 } else { 200 };
        assert_eq!(asked("i-1@3", &[token], "/x"), of_token);
        assert_eq!(asked("both@3", &[token], "/x"), of_token);
        assert_eq!(asked("all@3", &[key, token], "/x"), of_token, "also where a key would be there");
        assert_eq!(asked("both@3", &[key], "/x"), 200);
        assert_eq!(asked("keys@3", &[("x-api-key", "gatehouse_0a_wrong")], "/x"), 401);
        assert_eq!(asked("i-1@3", &[], "/healthz"), 200);
        assert_eq!(asked("i-1@3", &[], "/x"), 401);
    };
    all(true);
    contact.heard(Now::read());
    all(false);
    contact.heard(Now { wall: std::time::UNIX_EPOCH, ..Now::read() });
    all(true);
}

#[test]
fn what_names_an_issuer_of_another_method_is_shown_to_no_provider() {
    use pb::authn::method::Method as Wire;

    let provider = pb::authn::Introspection {
        endpoint: "https://login.example.test/".into(),
        client_id: "edge".into(),
        client_secret: "secret".into(),
        issuer: "https://login.example.test/".into(),
        audiences: Vec::new(),
        cache_secs: 30,
        claims: Vec::new(),
    };
    let wire = pb::authn::Policy {
        name: "opaque@3".into(),
        policy: "opaque".into(),
        rev: 3,
        any: vec![method(Wire::Introspection(provider)), method(Wire::Jwt(jwt()))],
        ..Default::default()
    };
    let mut state = state();
    let policy = Policy::new(api::authn::Policy::try_from(wire).unwrap(), b"opaque").unwrap();
    state.policies.insert("opaque@3".into(), policy);
    let (tokens, replays, issued) = (Tokens::new([7; 32]), Replays::default(), Issued::default());
    let is_shown = |token: &str| {
        let bearer = format!("Bearer {token}");
        let request =
            Ask { policy: "opaque@3", headers: &[("authorization", &bearer)], ..Ask::default() }.request();
        let memory = Memory { tokens: &tokens, replays: &replays, issued: &issued, done: &[] };
        matches!(decide(&Facts::read(&request).unwrap(), &state, &memory, NOW), Verdict::Wait(_))
    };
    assert!(is_shown("opaque-1"));
    assert!(!is_shown(&good()));
    // Of the issuer, and not even readable as a token of it.
    let mut odd = header();
    odd["crit"] = json!(["x"]);
    assert!(!is_shown(&token(&odd, &claims())));
    let other_algorithm = signed_by(&jwt::testing::rsa_key(), "RS256", "rsa", &claims());
    assert!(!is_shown(&other_algorithm));
    let mut elsewhere = claims();
    elsewhere["iss"] = json!("https://login.example.test/");
    assert!(is_shown(&token(&header(), &elsewhere)), "its own are for the provider");
}

#[test]
fn a_proof_is_not_used_up_by_a_request_that_waits() {
    let token = bound(&json!({"jkt": jwt::testing::ec_thumbprint()}));
    let (authorization, proof) = (format!("DPoP {token}"), proof(&token, "1"));
    let headers = [("authorization", authorization.as_str()), ("dpop", &proof), ("cookie", "sid=x")];
    let (tokens, replays) = (Tokens::new([7; 32]), Replays::default());
    let ask = |headers: &[(&str, &str)]| {
        status(&Ask { policy: "proof_and_session@3", headers, ..Ask::default() }.with(&tokens, &replays).0)
    };
    assert_eq!(ask(&headers), 401, "its other credential is bad");
    let cookie = format!("sid={}", good());
    let both = [headers[0], headers[1], ("cookie", cookie.as_str())];
    assert_eq!((ask(&both), ask(&both)), (200, 401), "so the proof was not looked at before");
}
