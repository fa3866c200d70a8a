//! Whatever goes wrong in the middle, nothing passes: lines 18 to 22.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption},
        service::auth::v3::{
            CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
            authorization_server::{Authorization, AuthorizationServer},
            check_response::HttpResponse,
        },
    },
    google::{
        protobuf::{Struct, Value, value::Kind},
        rpc::Status as RpcStatus,
    },
};
use lab::Sidecars;
use serde_json::json;
use tests::{Raw, eventually};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::{edge, good, hello, lab, refused};

/// Line 18: what is no UTF-8 is asked about as it is, and never left out.
#[tokio::test]
async fn a_header_that_is_no_text_hides_nothing_cve_2023_27488() {
    let edge = edge().await;
    for value in [&b"\xff\xfe"[..], b"\xc3\x28", b"a\x80b", b"\xed\xa0\x80"] {
        for name in ["x-a", "user-agent", "cookie", "referer", "x-request-id"] {
            let anonymous = edge.send(edge.get("/docs").header(name, value)).await;
            refused(&anonymous, 401, name);
            let seen = edge.send(edge.get("/docs").bearer(&good()).header(name, value)).await;
            assert_eq!(seen.status, 200, "{name}: {}", seen.body);
        }
        let token = edge.get("/healthz").header("authorization", [b"Bearer ", value].concat());
        refused(&edge.send(token).await, 401, "as a token");
        let key = edge.get("/healthz").header("x-api-key", value);
        refused(&edge.send(key).await, 401, "as a key");
        let session = Raw::get(edge.session.host(), "/").header("cookie", [b"sid=", value].concat());
        refused(&edge.send(session).await, 401, "as a session");
        let path = edge.send(edge.get([b"/docs/", value].concat()).bearer(&good())).await;
        refused(&path, 400, "as a path");
    }
}

/// PROXY v2, TCP over IPv4, with these bytes behind the addresses.
fn proxied(more: &[u8]) -> Vec<u8> {
    let length = u16::try_from(12 + more.len()).expect("short");
    let addresses = [203, 0, 113, 7, 127, 0, 0, 1, 0x30, 0x39, 0, 80];
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11", &length.to_be_bytes()[..], &addresses, more].concat()
}

/// Line 18, behind a load balancer that says who connects.
#[tokio::test]
async fn a_broken_word_of_the_load_balancer_is_no_connection_cve_2024_23324() {
    let lab = lab(|layout| layout.edge = json!({"proxy_protocol": true})).await;
    let service = hello(&lab);
    lab.live(&service).await;
    let get = |before: Vec<u8>| {
        let request = format!("GET /healthz HTTP/1.1\r\nhost: {}", service.host());
        Raw::line([before.as_slice(), request.as_bytes()].concat()).send(&lab)
    };
    let seen = get(proxied(&[])).await;
    assert_eq!(
        (seen.status, seen.upstream_saw("x-forwarded-for")),
        (200, vec!["203.0.113.7".to_owned()]),
        "{}",
        seen.body
    );
    // A TLV with its whole length is nothing to us; one that is cut short is.
    assert_eq!(get(proxied(&[0x04, 0, 1, 7])).await.status, 200);
    for (attack, before) in [
        ("nothing", Vec::new()),
        ("a TLV that is longer than all", proxied(&[0x05, 0xff, 0xff, 1])),
        ("half a TLV", proxied(&[0x05, 0])),
        ("no version", [b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c", &[0; 12][..]].concat()),
        ("too short for its addresses", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\x7f\0\0\x01".to_vec()),
        ("text with no address", b"PROXY TCP4 x y 1 2\r\n".to_vec()),
    ] {
        let seen = get(before).await;
        assert_ne!(seen.status, 200, "{attack}: {}", seen.body);
    }
    lab.stop().await;
}

/// What a sidecar says; nothing at all where it hangs.
type Said = Option<Result<CheckResponse, Status>>;

/// In the place of a sidecar: says what it is told to say.
struct Impostor(Arc<Mutex<Said>>);

#[tonic::async_trait]
impl Authorization for Impostor {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let answer = self.0.lock().expect("nobody has panicked").clone();
        match answer {
            Some(answer) => answer.map(Response::new),
            None => std::future::pending().await,
        }
    }
}

fn text(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn object(fields: &[(&str, Kind)]) -> Struct {
    Struct { fields: fields.iter().map(|(name, kind)| ((*name).to_owned(), text(kind.clone()))).collect() }
}

/// What an answer of ours says in the metadata, with another `decided`.
fn metadata(decided: Kind) -> Struct {
    let own = object(&[
        ("decided", decided),
        ("method", Kind::StringValue("jwt".into())),
        ("sub", Kind::StringValue("root".into())),
    ]);
    // The other sidecar has no doubts.
    let other = object(&[("decided", Kind::BoolValue(true))]);
    object(&[("authn", Kind::StructValue(own)), ("authz", Kind::StructValue(other))])
}

fn code(code: i32) -> RpcStatus {
    RpcStatus { code, ..Default::default() }
}

fn ok(name: &str, value: &str) -> HttpResponse {
    let header = HeaderValue { key: name.into(), value: value.into(), ..Default::default() };
    let header = HeaderValueOption { header: Some(header), ..Default::default() };
    HttpResponse::OkResponse(OkHttpResponse { headers: vec![header], ..Default::default() })
}

/// What a faulty sidecar could say, and what the client gets.
fn wrong_answers() -> Vec<(&'static str, Said, u16)> {
    let denied = || HttpResponse::DeniedResponse(DeniedHttpResponse::default());
    let decided = || Some(metadata(Kind::BoolValue(true)));
    let answer = |status, http_response, metadata| {
        let (status, dynamic_metadata) = (Some(code(status)), metadata);
        Some(Ok(CheckResponse { status, http_response, dynamic_metadata }))
    };
    vec![
        ("nothing at all", Some(Ok(CheckResponse::default())), 403),
        ("yes, and nothing decided", answer(0, None, None), 403),
        ("yes and no", answer(0, Some(denied()), None), 403),
        ("yes, not decided", answer(0, None, Some(metadata(Kind::BoolValue(false)))), 403),
        ("yes, decided by a word", answer(0, None, Some(metadata(Kind::StringValue("true".into())))), 403),
        ("yes, decided by a number", answer(0, None, Some(metadata(Kind::NumberValue(1.0)))), 403),
        ("yes, decided by another", answer(0, None, Some(object(&[("authz", Kind::BoolValue(true))]))), 403),
        ("no, with the headers of a yes", answer(7, Some(ok("x-gatehouse-subject", "root")), decided()), 403),
        ("a fault that says nothing", answer(13, None, decided()), 403),
        ("a code that is none", answer(4_711, None, decided()), 403),
        ("another path", answer(0, Some(ok(":path", "/admin")), decided()), 500),
        ("another host", answer(0, Some(ok("host", "evil.test")), decided()), 500),
        ("another method", answer(0, Some(ok(":method", "POST")), decided()), 500),
        ("a header of somebody else", answer(0, Some(ok("x-forwarded-for", "10.0.0.1")), decided()), 500),
        ("two headers in one", answer(0, Some(ok("x-gatehouse-a", "b\r\nx-admin: 1")), decided()), 500),
        ("a failure", Some(Err(Status::internal("x"))), 503),
        ("no such method", Some(Err(Status::unimplemented("x"))), 503),
        ("no answer", None, 503),
    ]
}

/// Line 19, and line 16 (CVE-2026-40912) at the sidecar: an answer that says two things says no. On Envoy an empty one alone
/// would say yes.
#[tokio::test]
async fn a_sidecar_that_would_rewrite_a_path_or_says_nothing_is_stopped() {
    Box::pin(stopped(Sidecars::Chain)).await;
}

/// The same where one answer stands for both.
#[tokio::test]
async fn a_guard_that_would_rewrite_a_path_or_says_nothing_is_stopped() {
    Box::pin(stopped(Sidecars::Guard)).await;
}

async fn stopped(sidecars: Sidecars) {
    let mut lab = lab(|layout| layout.sidecars = sidecars).await;
    let service = hello(&lab);
    lab.live(&service).await;
    let says = Arc::new(Mutex::new(Some(Ok(CheckResponse::default()))));
    // The filter that wants both decisions is left alone: the other sidecar would say no to most of this.
    for sidecar in sidecars.names().iter().filter(|name| **name != "ratelimit") {
        lab.stack.sidecars.remove(*sidecar).expect("it runs").kill().await;
        assert_eq!(Raw::get(service.host(), "/healthz").send(&lab).await.status, 503, "without {sidecar}");
        let socket = lab.stack.layout.run_dir().join(format!("{sidecar}.sock"));
        let _gone = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("the sidecar's place is free");
        let impostor = Server::builder().add_service(AuthorizationServer::new(Impostor(says.clone())));
        tokio::spawn(impostor.serve_with_incoming(UnixListenerStream::new(listener)));
    }
    let status = || async { Raw::get(service.host(), "/healthz").send(&lab).await.status };
    eventually("Envoy has found it", || async { (status().await != 503).then_some(()) }).await;
    for (attack, answer, expected) in wrong_answers() {
        *says.lock().expect("nobody has panicked") = answer;
        for target in ["/healthz", "/docs"] {
            let seen = Raw::get(service.host(), target).bearer(&good()).send(&lab).await;
            assert_eq!(seen.status, expected, "{attack}: {}", seen.body);
            assert!(seen.json()["headers"].is_null(), "{attack} has reached the upstream: {}", seen.body);
        }
    }
    // So that it is known to be the answer that made the difference.
    let yes = CheckResponse {
        status: Some(code(0)),
        http_response: None,
        dynamic_metadata: Some(metadata(Kind::BoolValue(true))),
    };
    *says.lock().expect("nobody has panicked") = Some(Ok(yes));
    assert_eq!(Raw::get(service.host(), "/healthz").send(&lab).await.status, 200);
    lab.stop().await;
}

/// Line 20.
#[tokio::test]
async fn a_service_cannot_order_that_less_is_checked_cve_2026_54762_cve_2026_55689() {
    let edge = edge().await;
    let jwt = |change: &[(&str, serde_json::Value)]| {
        let mut rule = super::rule("loose", "ES256");
        for (name, value) in change {
            rule[name] = value.clone();
        }
        json!({"any": [{"jwt": rule}]})
    };
    for (attack, auth) in [
        ("no audience", jwt(&[("audiences", json!([]))])),
        ("an empty audience", jwt(&[("audiences", json!([""]))])),
        ("audiences of another type", jwt(&[("audiences", json!("loose"))])),
        ("an issuer that nobody knows", jwt(&[("issuer", json!("https://evil.test/"))])),
        ("no issuer", jwt(&[("issuer", json!(""))])),
        ("no algorithm", jwt(&[("algorithms", json!([]))])),
        ("an algorithm without keys", jwt(&[("algorithms", json!(["none"]))])),
        ("a shared secret", jwt(&[("algorithms", json!(["HS256"]))])),
        ("keys of its own", jwt(&[("jwks_uri", json!("https://evil.test/jwks"))])),
        ("a regex", json!({"any": [], "anonymous": ["/.*"]})),
        ("a path with two meanings", json!({"any": [], "anonymous": ["/a;b"]})),
        ("leave to pass", json!({"any": [], "allow_missing": true})),
        ("a fault that opens", json!({"any": [], "failure_mode_allow": true})),
        ("no such method", json!({"any": [{"none": {}}]})),
    ] {
        let answer = edge.lab.provision(&edge.lab.service("loose").with("/auth", auth)).await;
        assert_eq!(answer.status, 400, "{attack}: {}", answer.body);
    }
}

/// Line 21, GHSA-8qqm-fp2q-v734: nothing is decided by a body, so none can be left out of a decision.
#[tokio::test]
async fn a_body_of_any_kind_decides_nothing_cve_2026_50197() {
    let edge = edge().await;
    let post = |target: &str| Raw::line(format!("POST {target} HTTP/1.1")).header("host", edge.hello.host());
    let chunked = || post("/docs").header("transfer-encoding", "chunked").body("5\r\nhello\r\n0\r\n\r\n");
    refused(&chunked().send_as_it_is(&edge.lab).await, 401, "in chunks");
    let large = post("/docs").header("content-length", "300000").body("x".repeat(300_000));
    refused(&large.send_as_it_is(&edge.lab).await, 401, "more than is buffered");
    let form = post("/docs")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("content-length", "20");
    let form = form.body(format!("access_token={}", &good()[..7]));
    refused(&form.send_as_it_is(&edge.lab).await, 401, "a token in the body");
    refused(
        &edge.send(edge.get(format!("/docs?access_token={}", good()))).await,
        401,
        "a token in the query",
    );
    let both = || post("/healthz").header("content-length", "4").header("transfer-encoding", "chunked");
    for (attack, request) in [
        ("two lengths", both().body("0\r\n\r\nGET /admin HTTP/1.1\r\nhost: hello.example.test\r\n\r\n")),
        (
            "two lengths that differ",
            post("/healthz").header("content-length", "4").header("content-length", "5").body("abcd"),
        ),
        ("a coding that nobody knows", post("/healthz").header("transfer-encoding", "xchunked").body("")),
        ("two codings", post("/healthz").header("transfer-encoding", "chunked, identity").body("0\r\n\r\n")),
        ("a length that is none", post("/healthz").header("content-length", "+4").body("abcd")),
    ] {
        let seen = request.send_as_it_is(&edge.lab).await;
        assert!([400, 501].contains(&seen.status), "{attack}: {} {}", seen.status, seen.body);
        refused(&seen, seen.status, attack);
    }
}

/// Line 22: the handshake names one service, the request another.
#[tokio::test]
async fn a_host_that_the_handshake_did_not_name_has_its_own_policy_cve_2026_50149() {
    let edge = edge().await;
    let (named, port) = (edge.hello.host(), edge.lab.stack.layout.ports.https);
    let ca = fs::read(edge.lab.folder().join("dev-ca/ca.pem")).expect("the lab has a CA");
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("a certificate")])
        .resolve(named, ([127, 0, 0, 1], port).into())
        .http1_only()
        .timeout(Duration::from_mins(1))
        .build()
        .expect("a client");
    let get = |host: &str, token: Option<String>| {
        let mut request = client.get(format!("https://{named}:{port}/docs")).header("host", host);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        edge.lab.send(request)
    };
    // The certificate comes when the first client asks for it.
    eventually("the handshake", || async {
        get(named, Some(good())).await.filter(|seen| seen.status == 200)
    })
    .await;
    for (host, token, status) in [
        (named, None, 401),
        (edge.other.host(), None, 401),
        (edge.other.host(), Some(good()), 401),
        ("nobody.example.test", Some(good()), 404),
        ("127.0.0.1", Some(good()), 404),
    ] {
        let seen = get(host, token).await.expect("an answer");
        refused(&seen, status, host);
    }
    let unnamed = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().expect("a client");
    assert!(
        unnamed.get(format!("https://127.0.0.1:{port}/docs")).send().await.is_err(),
        "a client that names nobody"
    );
}
