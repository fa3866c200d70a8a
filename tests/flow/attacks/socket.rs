//! The sidecar's socket, by somebody who got to it: line 47, and the floods of the lines 29, 31 and 41. It survives, and goes on
//! to answer.

use std::{collections::HashMap, fs, path::PathBuf};

use bytes::Bytes;
use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue},
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse,
        attribute_context::{HttpRequest, Request as Facts},
        authorization_client::AuthorizationClient,
        check_response::HttpResponse,
    },
};
use hyper_util::rt::TokioIo;
use jwt::testing::stranger;
use serde_json::json;
use tests::{Lab, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    task::JoinSet,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use super::{claims, good, hello, lab};

/// A lab, and the policy of its service.
struct Target {
    lab: Lab,
    policy: String,
    socket: PathBuf,
}

impl Target {
    async fn start() -> Self {
        let lab = lab(|_| ()).await;
        let service = hello(&lab);
        lab.live(&service).await;
        let socket = lab.stack.layout.run_dir().join("authn.sock");
        Self { policy: service.id(), lab, socket }
    }

    async fn client(&self) -> AuthorizationClient<Channel> {
        let socket = self.socket.clone();
        let connector = service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The name is not looked up.
        let channel = Endpoint::from_static("http://sidecar").connect_with_connector(connector).await;
        AuthorizationClient::new(channel.expect("the sidecar listens")).max_decoding_message_size(1 << 20)
    }

    fn request(&self, token: &str) -> CheckRequest {
        let header = HeaderValue {
            key: "authorization".into(),
            raw_value: format!("Bearer {token}").into_bytes(),
            ..Default::default()
        };
        let http = HttpRequest {
            method: "GET".into(),
            path: "/docs".into(),
            host: "hello.example.test".into(),
            scheme: "http".into(),
            header_map: Some(HeaderMap { headers: vec![header] }),
            ..Default::default()
        };
        let extensions = [("policy".to_owned(), self.policy.clone()), ("rev".to_owned(), "1".to_owned())];
        CheckRequest {
            attributes: Some(AttributeContext {
                request: Some(Facts { http: Some(http), ..Default::default() }),
                context_extensions: HashMap::from(extensions),
                ..Default::default()
            }),
        }
    }

    /// It lets in whom it should, and nobody else.
    async fn still_answers(&self, after: &str) {
        for (token, expected) in [(good(), 0), (format!("{}x", good()), 401)] {
            let answer = self.client().await.check(self.request(&token)).await;
            assert_eq!(status(answer.map(tonic::Response::into_inner)), expected, "after {after}");
        }
        let seen = self.lab.get("hello.example.test", "/docs", Some(&good())).await;
        assert_eq!(seen.status, 200, "after {after}: {}", seen.body);
    }

    /// Of the sidecar, in KiB: what the system says it needs at the most so far.
    fn peak(&self) -> u64 {
        let socket = self.socket.display().to_string();
        let processes = fs::read_dir("/proc").expect("Linux").flatten().map(|entry| entry.path());
        let own = processes.filter(|path| {
            let command = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
            command.contains("gatehouse-authn") && command.contains(&socket)
        });
        let peaks = own.filter_map(|path| {
            let status = fs::read_to_string(path.join("status")).ok()?;
            status
                .lines()
                .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
        });
        peaks.max().expect("the sidecar runs")
    }
}

/// What Envoy would make of an answer: 0 lets the request pass, 503 is a failure, and the rest is a denial.
fn status(answer: Result<CheckResponse, Status>) -> u32 {
    let Ok(answer) = answer else { return 503 };
    let code = answer.status.expect("an answer says what it is").code;
    let told = |denied: envoy_types::pb::envoy::service::auth::v3::DeniedHttpResponse| {
        u32::try_from(denied.status.expect("a status").code).expect("of HTTP")
    };
    match answer.http_response.expect("an answer says what it is") {
        HttpResponse::OkResponse(_) => {
            assert_eq!(code, 0);
            0
        }
        HttpResponse::DeniedResponse(denied) => {
            assert_ne!(code, 0, "a denial with the code of a yes");
            told(denied)
        }
        HttpResponse::ErrorResponse(error) => {
            assert_ne!(code, 0, "a fault with the code of a yes");
            told(error)
        }
    }
}

/// Line 19 from the other side: what no Envoy sends has an answer too, and it is no.
#[tokio::test]
async fn a_question_that_says_too_little_or_too_much_is_answered_with_no() {
    let target = Target::start().await;
    let mut client = target.client().await;
    let good = target.request(&good());
    let http = |change: &dyn Fn(&mut HttpRequest)| {
        let mut request = good.clone();
        let facts = request.attributes.as_mut().and_then(|attributes| attributes.request.as_mut());
        change(facts.and_then(|facts| facts.http.as_mut()).expect("an HTTP request"));
        request
    };
    let context = |policy: &str, rev: &str| {
        let mut request = good.clone();
        let extensions = [("policy".to_owned(), policy.to_owned()), ("rev".to_owned(), rev.to_owned())];
        request.attributes.as_mut().expect("attributes").context_extensions = HashMap::from(extensions);
        request
    };
    let without = {
        let mut request = good.clone();
        request.attributes.as_mut().expect("attributes").context_extensions = HashMap::new();
        request
    };
    let (policy, id) = (target.policy.as_str(), target.policy.to_uppercase());
    let authorization = |value: Vec<u8>| {
        http(&move |http| http.header_map.as_mut().expect("headers").headers[0].raw_value = value.clone())
    };
    for (attack, request, expected) in vec![
        ("nothing", CheckRequest::default(), 503),
        ("no request", CheckRequest { attributes: Some(AttributeContext::default()) }, 503),
        ("no policy", without, 503),
        ("an empty policy", context("", "1"), 503),
        ("another case", context(&id, "1"), 503),
        ("no revision", context(policy, ""), 503),
        ("the revision 0", context(policy, "0"), 503),
        ("a revision that is not here", context(policy, "2"), 503),
        ("a revision below nothing", context(policy, "-1"), 503),
        ("a revision that is too large", context(policy, "18446744073709551617"), 503),
        ("a revision in another spelling", context(policy, "1.0"), 503),
        ("a policy with a revision in it", context(&format!("{policy}@1"), "1"), 503),
        ("no path", http(&|http| http.path = String::new()), 400),
        ("another path", http(&|http| http.path = "http://hello.example.test/docs".into()), 400),
        ("no headers", http(&|http| http.header_map = None), 401),
        ("1 MB of token", authorization([&b"Bearer "[..], &vec![b'a'; 1 << 20]].concat()), 401),
        ("1 MB of scheme", authorization(vec![b'a'; 1 << 20]), 401),
        ("1 MB of dots", authorization([&b"Bearer "[..], &vec![b'.'; 1 << 20]].concat()), 401),
        ("bytes", authorization((0..=255).collect()), 401),
        ("10 MB", authorization(vec![b'a'; 10 << 20]), 503),
    ] {
        let answer = client.check(request).await.map(tonic::Response::into_inner);
        assert_eq!(status(answer), expected, "{attack}");
    }
    target.still_answers("all that").await;
    target.lab.stop().await;
}

/// Lines 29, 31 and 41: tokens of which no two are the same, with key ids that nobody has.
#[tokio::test]
async fn a_flood_of_tokens_and_key_ids_fills_no_memory_cve_2026_26998() {
    const TOKENS: usize = 20_000;
    /// 10,000 refusals, each some 100 bytes; and what a debug build has under way. Tokens themselves are not kept.
    const MORE_KIB: u64 = 64 * 1024;

    let target = Target::start().await;
    target.still_answers("nothing").await;
    let (before, (key, _)) = (target.peak(), stranger());
    let es256 = "ES256".parse().expect("an algorithm");
    let valid =
        jwt::testing::signed_as(&key, es256, "{\"alg\":\"ES256\",\"kid\":\"ec\"}", &claims().to_string());
    let (_, signature) = valid.rsplit_once('.').expect("a token");
    let filling = "x".repeat(2_000);
    let mut asking = JoinSet::new();
    for part in 0..8 {
        let (mut client, signature, filling) = (target.client().await, signature.to_owned(), filling.clone());
        let template = target.request("");
        asking.spawn(async move {
            for at in (part..TOKENS).step_by(8) {
                let header = json!({"alg": "ES256", "kid": format!("made-up-{at}")}).to_string();
                let mut claims = claims();
                claims["filling"] = json!(format!("{at} {filling}"));
                let encoded = |text: &str| jwt::testing::encoded(text.as_bytes());
                let token = format!("{}.{}.{signature}", encoded(&header), encoded(&claims.to_string()));
                let mut request = template.clone();
                let facts = request.attributes.as_mut().and_then(|attributes| attributes.request.as_mut());
                let http = facts.and_then(|facts| facts.http.as_mut()).expect("an HTTP request");
                http.header_map.as_mut().expect("headers").headers[0].raw_value =
                    format!("Bearer {token}").into_bytes();
                let answer = client.check(request).await.map(tonic::Response::into_inner);
                assert_eq!(status(answer), 401);
            }
        });
    }
    while let Some(ended) = asking.join_next().await {
        ended.expect("each was answered with no");
    }
    let more = target.peak().saturating_sub(before);
    assert!(more < MORE_KIB, "{more} KiB for {TOKENS} tokens of 3 KB");
    target.still_answers("the flood").await;
    target.lab.stop().await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// RFC 9113 section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends this until the other side has had enough, or all is sent; then hears what it says to the end.
async fn abuse(target: &Target, frames: impl Iterator<Item = Vec<u8>>) {
    let socket = UnixStream::connect(&target.socket).await.expect("the sidecar listens");
    let (mut reading, mut writing) = socket.into_split();
    let heard = tokio::spawn(async move {
        let mut bytes = vec![0; 65_536];
        while reading.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    });
    let begin = [PREFACE, &frame(4, 0, 0, &[])].concat();
    let mut sent = writing.write_all(&begin).await.is_ok();
    for frame in frames {
        sent = sent && writing.write_all(&frame).await.is_ok();
        if !sent {
            break;
        }
    }
    drop(writing);
    heard.await.expect("it ends");
}

/// Line 47, RUSTSEC-2026-0258 and RUSTSEC-2024-0376, with CVE-2023-44487 (streams that are reset at once) and CVE-2024-27316
/// (headers without an end).
#[tokio::test]
async fn http_2_is_abused_in_vain() {
    // `POST /`, in the static table and by literals (RFC 7541).
    const HEADERS: [u8; 3] = [0x83, 0x84, 0x86];
    let target = Target::start().await;
    target.still_answers("nothing").await;
    let before = target.peak();
    let streams = || (0..20_000_u32).map(|at| 2 * at + 1);
    let reset = |stream| [frame(1, 4, stream, &HEADERS), frame(3, 0, stream, &8_u32.to_be_bytes())].concat();
    abuse(&target, streams().map(reset)).await;
    target.still_answers("streams that are reset at once").await;
    abuse(&target, streams().map(|stream| frame(1, 4, stream, &HEADERS))).await;
    target.still_answers("streams without an end").await;
    let endless = std::iter::once(frame(1, 0, 1, &HEADERS));
    let literal = [&[0, 1, b'a', 0x7f, 0x81, 0x7e][..], &[b'b'; 16_000]].concat();
    abuse(&target, endless.chain((0..5_000).map(|_| frame(9, 0, 1, &literal)))).await;
    target.still_answers("headers without an end").await;
    let empty = std::iter::once(frame(1, 0, 1, &HEADERS)).chain((0..100_000).map(|_| frame(9, 0, 1, &[])));
    abuse(&target, empty).await;
    target.still_answers("empty headers without an end").await;
    abuse(&target, (0..50_000).map(|_| frame(6, 0, 0, &[0; 8]))).await;
    target.still_answers("pings").await;
    abuse(&target, (0..50_000).map(|_| frame(4, 0, 0, &[0, 4, 0, 0, 0, 1]))).await;
    target.still_answers("settings").await;
    let data = std::iter::once(frame(1, 4, 1, &HEADERS)).chain((0..50_000).map(|_| frame(0, 0, 1, &[])));
    abuse(&target, data).await;
    target.still_answers("empty data").await;
    abuse(&target, (0..2_000_u16).map(|at| vec![at.to_le_bytes()[0]; 1_000])).await;
    target.still_answers("noise").await;
    let more = target.peak().saturating_sub(before);
    assert!(more < 128 * 1024, "{more} KiB for all that");
    reset_by_a_client_that_knows_how(&target).await;
    target.lab.stop().await;
}

/// The same with real questions, on one connection.
async fn reset_by_a_client_that_knows_how(target: &Target) {
    let socket = UnixStream::connect(&target.socket).await.expect("the sidecar listens");
    let (client, connection) = h2::client::handshake(socket).await.expect("it speaks HTTP/2");
    let driver = tokio::spawn(connection);
    let question = prost::Message::encode_to_vec(&target.request(&good()));
    let length = u32::try_from(question.len()).expect("short").to_be_bytes();
    let body = Bytes::from([&[0][..], &length, &question].concat());
    for _ in 0..2_000 {
        let Ok(mut ready) = client.clone().ready().await else { break };
        let request = http::Request::post("http://sidecar/envoy.service.auth.v3.Authorization/Check")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        let Ok((answer, mut stream)) = ready.send_request(request, false) else { break };
        let _cut = stream.send_data(body.clone(), true);
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
    }
    drop(client);
    driver.abort();
    eventually("it has room again", || async {
        let answer = target.client().await.check(target.request(&good())).await;
        (status(answer.map(tonic::Response::into_inner)) == 0).then_some(())
    })
    .await;
    target.still_answers("questions that nobody waits for").await;
}
