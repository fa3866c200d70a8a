//! Work for many at once, against an issuer on the loopback interface: each gets what came of its own credential, and the issuer
//! is asked no more than it has to be.

use std::sync::atomic::{AtomicUsize, Ordering};

use fetch::Allowed;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

use super::*;
use crate::{learned::From, method::Place};

const NOW: f64 = 1_000.0;

/// Answers by this, and counts.
async fn serve(answer: fn(&str) -> Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let (mut request, mut buffer) = (String::new(), [0; 4_096]);
                // The form stands at the end of what a small client sends.
                while !request.contains("\r\n\r\n")
                    || (request.starts_with("POST") && !request.contains("token="))
                {
                    match socket.read(&mut buffer).await {
                        Ok(read) if read > 0 => request.push_str(&String::from_utf8_lossy(&buffer[..read])),
                        _ => return,
                    }
                }
                counted.fetch_add(1, Ordering::Relaxed);
                let body = answer(&request);
                let head =
                    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                let _gone = socket.write_all(&[head.as_bytes(), &body].concat()).await;
            });
        }
    });
    (url, asked)
}

fn works() -> Arc<Works> {
    let allowed = Allowed::new(vec!["127.0.0.0/8".parse().unwrap()]);
    let fetcher = Fetcher::new(allowed, None).unwrap();
    Arc::new(Works::new(Arc::new(Tokens::new([7; 32])), Arc::default(), fetcher, Family::default()))
}

fn by(url: &str) -> Introspection {
    Introspection {
        endpoint: url.into(),
        client_id: "edge".into(),
        client_secret: "secret".into(),
        issuer: "https://id.example.test/".into(),
        audiences: Vec::new(),
        cache: Duration::from_secs(30),
        claims: Vec::new(),
    }
}

fn pending(works: &Works, url: &str, policy: &str, token: &str) -> Pending {
    let digest = *blake3::hash(policy.as_bytes()).as_bytes();
    let id = works.tokens.id(&digest, Place::Authorization("bearer"), token);
    let work = Work::Introspect { by: Box::new(by(url)), token: token.to_owned() };
    Pending { id, method: 0, service: policy.to_owned(), work }
}

/// Says that a token is of who it is called like: nobody may get another one's.
fn echo(request: &str) -> Vec<u8> {
    let form = request.rsplit("\r\n\r\n").next().unwrap_or_default();
    let token = form.split('&').find_map(|field| field.strip_prefix("token=")).unwrap_or_default();
    format!("{{\"active\":true,\"sub\":\"{token}\",\"scope\":\"read\"}}").into_bytes()
}

/// Line 39, with the lines 36 to 38 (CVE-2021-32701, CVE-2026-33496, CVE-2026-48096): the same, and others that look alike, at
/// the same time.
#[tokio::test]
async fn nobody_who_waits_gets_anothers_identity_cve_2026_71326() {
    let (url, asked) = serve(echo).await;
    let works = works();
    let mut waiting = JoinSet::new();
    for at in 0..60 {
        // Six credentials, ten requests for each.
        let (policy, token) =
            [("a", "alice"), ("b", "alice"), ("a", "bob"), ("ab", "ob"), ("a", "alicea"), ("aa", "lice")]
                [at % 6];
        let (works, pending) = (works.clone(), pending(&works, &url, policy, token));
        waiting.spawn(async move { (token, works.result(pending, NOW).await) });
    }
    while let Some(ended) = waiting.join_next().await {
        let (token, result) = ended.unwrap();
        let known = result.expect("an answer about a token is a result").expect("it is good");
        assert_eq!(known.proven.identity.texts().subject, token);
    }
    // A request that comes when all is done asks again; the cache, which is looked at before, is not asked here.
    let asked = asked.load(Ordering::Relaxed);
    assert!((6..=60).contains(&asked), "{asked}");
    assert!(works.under_way.lock().unwrap().is_empty());
}

/// Line 41: whoever makes ids up causes no more than a few looks.
#[tokio::test]
async fn a_flood_of_key_ids_causes_few_fetches_cve_2026_26998() {
    let (url, asked) = serve(|_| b"{\"keys\":[]}".to_vec()).await;
    let works = works();
    for at in 0..5_000 {
        let id = works.tokens.id(&[1; 32], Place::Authorization("bearer"), &at.to_string());
        let from = From::Servers { id: format!("micros/billing/{at}"), urls: vec![url.clone()] };
        let work = Work::Keys(Wanted { name: format!("keys micros/billing/{at}"), from });
        let result = works.result(Pending { id, method: 0, service: "a".into(), work }, NOW).await;
        assert!(result.is_none_or(|result| result.is_err()));
    }
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked <= 20, "{asked} fetches");
}

/// Line 41: an answer without an end is cut off, and says nothing.
#[tokio::test]
async fn an_answer_without_bounds_is_no_answer_cve_2026_26998() {
    for answer in [
        |_: &str| {
            [&b"{\"active\":true,\"sub\":\"alice\",\"x\":\""[..], &vec![b'a'; 1 << 20], b"\"}"].concat()
        },
        |_: &str| [&b"{\"active\":true,\"sub\":\"alice\",\"x\":"[..], &vec![b'['; 60_000]].concat(),
        |_: &str| b"{\"active\":true,\"sub\":\"alice\"}{\"active\":false}".to_vec(),
        |_: &str| b"".to_vec(),
        |_: &str| b"true".to_vec(),
    ] {
        let (url, _) = serve(answer).await;
        let works = works();
        let result = works.result(pending(&works, &url, "a", "token"), NOW).await;
        assert!(matches!(result, Some(Err(Stop::Fault(_)))), "{result:?}");
    }
}

/// Line 35: whole tokens are asked about, and what is good for a part of one is for that part.
#[tokio::test]
async fn a_part_of_an_opaque_token_is_another_token_cve_2026_27840() {
    let whole = |request: &str| {
        let is_whole = request.contains("token=0123456789abcdef&");
        format!("{{\"active\":{is_whole},\"sub\":\"alice\"}}").into_bytes()
    };
    let (url, asked) = serve(whole).await;
    let works = works();
    for (token, is_good) in [
        ("0123456789abcdef", true),
        ("0123456789abcde", false),
        ("0123456789abcdef0", false),
        ("0123456789ABCDEF", false),
        ("123456789abcdef", false),
    ] {
        let result = works.result(pending(&works, &url, "a", token), NOW).await;
        assert_eq!(result.expect("a result").is_ok(), is_good, "{token}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 5);
}

/// Whoever attacks one service leaves room for the others.
#[tokio::test]
async fn one_provider_that_hangs_takes_a_part_of_the_room_alone() {
    let (url, _) = serve(|_| Vec::new()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = format!("http://{}", listener.local_addr().unwrap());
    let works = works();
    let begin = |url: &str, token: String| works.begin(pending(&works, url, "a", &token), NOW);
    let begun: Vec<_> = (0..100).map(|at| begin(&hangs, format!("token-{at}")).is_ok()).collect();
    assert_eq!(begun.iter().filter(|is_begun| **is_begun).count(), MAX_OF_ONE);
    assert!(begin(&url, "another".into()).is_ok(), "another provider is asked");
    let password = Password { given: Vec::new(), hash: String::new(), proven: None };
    let id = works.tokens.id(&[1; 32], Place::Authorization("basic"), "x");
    let work = Work::Password(Box::new(password));
    let asked = works.begin(Pending { id, method: 0, service: "b".into(), work }, NOW);
    assert!(asked.is_ok(), "and passwords have room of their own");
}

/// A wish is looked for while nobody waits.
#[tokio::test]
async fn an_old_key_is_looked_for_while_requests_go_on() {
    let (url, asked) = serve(|_| b"{\"keys\":[]}".to_vec()).await;
    let works = works();
    works.learned.wish(Wanted { name: "issuer".into(), from: From::Set(url) });
    works.refresh(NOW);
    while works.under_way() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    works.refresh(NOW);
    assert_eq!(works.under_way(), 0, "nothing more is wished for");
}
