//! Sources that change, fail, hang and flood; over real sockets and files.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

use super::*;

const WAIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

fn refusal(yaml: &str) -> String {
    read(yaml).unwrap_err().to_string()
}

#[test]
fn a_source_that_cannot_be_is_refused_with_field_rule_and_value() {
    for (yaml, words) in [
        ("sources: {Hosts: {inline: []}}", "sources: a name is lower-case letters, digits and _"),
        (
            "sources: {issuers: {inline: []}}",
            "sources: a name is none of issuers, key_servers, identity_keys, revocations, which",
        ),
        ("sources: {key_servers: {inline: []}}", "sources: a name is none of"),
        ("sources: {a: {}}", "sources.a.file: exactly one of file, http, s3 and inline"),
        ("sources: {a: {file: x, inline: {}}}", "sources.a.file: exactly one of"),
        ("sources: {a: {http: 'ftp://x'}}", "sources.a.http: an http or https URL"),
        ("sources: {a: {s3: bucket/key}}", "sources.a.s3: s3://bucket/key, got \"bucket/key\""),
        ("sources: {a: {file: x, interval: 10ms}}", "sources.a.interval: such as 30s or 1.5s, got \"10ms\""),
        ("sources: {a: {file: x, interval: 0.5s}}", "sources.a.interval: at least 1 s, got 500ms"),
        ("sources: {a: {file: x, timeout: 0s}}", "sources.a.timeout: more than 0 s"),
        ("sources: {a: {file: x, max_bytes: 0}}", "sources.a.max_bytes: from 1 to"),
        (
            "sources: {a: {file: x, format: xml}}",
            "sources.a.format: one of yaml, json, toml and text, got \"xml\"",
        ),
        ("sources: {a: {file: x, fromat: json}}", "unknown field `fromat`"),
        (
            "sources: {a: {http: 'http://x', headers: {a: \"b\\nc\"}}}",
            "sources.a.headers: a: a value without",
        ),
    ] {
        let refusal = refusal(yaml);
        assert!(refusal.contains(words), "{yaml}: {refusal}");
    }
}

#[test]
fn what_could_be_a_credential_is_not_shown() {
    let yaml =
        "sources: {a: {http: 'https://user:secret@host/x?token=secret', headers: {authorization: secret}}}";
    let sources = read(yaml).unwrap();
    assert!(!format!("{sources:?}").contains("secret"), "{sources:?}");
    assert_eq!(SourceState::of(&sources[0]).origin, "http https://host/x");
}

#[test]
fn replicas_that_start_together_do_not_ask_together() {
    let sources = read("sources: {a: {file: x, interval: 10s, jitter: 5s}}").unwrap();
    let spans: Vec<_> = (0..32).map(|_| sources[0].next_interval()).collect();
    assert!(spans.iter().all(|span| (10.0..=15.0).contains(&span.as_secs_f64())), "{spans:?}");
    assert!(spans.iter().any(|span| *span != spans[0]), "{spans:?}");
}

/// Follows these sources, with a folder of last good values.
async fn start(yaml: &str, kept: &Path) -> Sources {
    let sources = read(yaml).unwrap_or_else(|error| panic!("{error}"));
    let (sources, follow) = Sources::start(sources, kept, &mut Registry::default()).await.unwrap();
    tokio::spawn(follow);
    sources
}

fn state(sources: &Sources, name: &str) -> SourceState {
    sources.all().into_iter().find(|state| state.name == name).unwrap()
}

async fn until(sources: &Sources, name: &str, expected: serde_json::Value) {
    let mut values = sources.values();
    let come = values.wait_for(|values| values.get(name).is_some_and(|value| **value == expected));
    tokio::time::timeout(WAIT, come).await.unwrap_or_else(|_| panic!("{:?}", sources.all())).unwrap();
}

#[tokio::test]
async fn every_format_is_read_and_a_changed_file_is_seen_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("a.yaml"), "x: [1, yes]\n").unwrap();
    std::fs::write(path("b.json"), r#"{"x": 1}"#).unwrap();
    std::fs::write(path("c.toml"), "[x]\ny = 1\n").unwrap();
    std::fs::write(path("d.txt"), "<html>").unwrap();
    let yaml = format!(
        "sources:\n  a: {{file: {0}/a.yaml, interval: 3600s}}\n  b: {{file: {0}/b.json}}\n  c: {{file: {0}/c.toml}}\n  \
         d: {{file: {0}/d.txt}}\n  e: {{inline: {{x: 1}}}}",
        folder.path().display()
    );
    let sources = start(&yaml, &path("kept")).await;
    let values = sources.values().borrow().clone();
    let expected: Values = [
        ("a", json!({"x": [1, "yes"]})),
        ("b", json!({"x": 1})),
        ("c", json!({"x": {"y": 1}})),
        ("d", json!("<html>")),
        ("e", json!({"x": 1})),
        ("guardrails", json!([])),
    ]
    .map(|(name, value)| (name.to_owned(), Arc::new(value)))
    .into();
    assert_eq!(*values, expected);
    std::fs::write(path("next"), "x: 2\n").unwrap();
    std::fs::rename(path("next"), path("a.yaml")).unwrap();
    until(&sources, "a", json!({"x": 2})).await;
    let next = sources.values().borrow().clone();
    assert!(Arc::ptr_eq(&values["b"], &next["b"]), "what did not change is shared");
}

#[tokio::test]
async fn a_source_that_breaks_keeps_its_last_good_value_over_a_restart_too_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (path, kept) = (folder.path().join("a.yaml"), folder.path().join("kept"));
    let yaml = format!("sources: {{a: {{file: {}, interval: 1s}}, b: {{inline: [1]}}}}", path.display());
    std::fs::write(&path, "x: 1\n").unwrap();
    let sources = start(&yaml, &kept).await;
    assert_eq!(state(&sources, "a").freshness, Freshness::Fresh);
    for (text, why) in [
        ("x: 1\nx: 2\n", "duplicate"),
        ("<html>oops</html>", "a mapping or a list, got \"<html>oops</html>\""),
        ("", "a mapping or a list, got nothing"),
    ] {
        std::fs::write(&path, text).unwrap();
        let fails = async {
            while !state(&sources, "a").error.is_some_and(|error| error.contains(why)) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(WAIT, fails).await.unwrap_or_else(|_| panic!("{why}: {:?}", sources.all()));
        assert_eq!(state(&sources, "a").freshness, Freshness::Stale);
        assert_eq!(*sources.values().borrow()["a"], json!({"x": 1}));
    }
    std::fs::remove_file(&path).unwrap();
    let again = start(&yaml, &kept).await;
    assert_eq!(*again.values().borrow()["a"], json!({"x": 1}));
    let found = state(&again, "a");
    assert_eq!(found.freshness, Freshness::Stale);
    assert!(found.error.unwrap().contains("No such file"));
    assert_eq!(state(&again, "b").freshness, Freshness::Fresh);
}

/// A server whose answer depends on the path; counts its full answers.
async fn server() -> (SocketAddr, Arc<AtomicUsize>) {
    async fn tagged(State(full): State<Arc<AtomicUsize>>, headers: HeaderMap) -> Response {
        if headers.get(header::IF_NONE_MATCH).is_some_and(|etag| etag == "\"one\"") {
            return StatusCode::NOT_MODIFIED.into_response();
        }
        full.fetch_add(1, Ordering::Relaxed);
        ([(header::ETAG, "\"one\"")], "x: 1\n").into_response()
    }
    async fn flood() -> Response {
        let chunk = axum::body::Bytes::from(vec![b'x'; 64 * 1024]);
        // 2 GB, if it were read.
        let chunks = std::iter::repeat_n(chunk, 32 * 1024).map(Ok::<_, std::io::Error>);
        Body::from_stream(tokio_stream::iter(chunks)).into_response()
    }
    let full = Arc::new(AtomicUsize::new(0));
    let router = Router::new()
        .route("/tagged", get(tagged))
        .route("/html", get(|| async { ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], "x: 1\n") }))
        .route("/500", get(|| async { (StatusCode::INTERNAL_SERVER_ERROR, "x: 1\n") }))
        .route("/hangs", get(std::future::pending::<&str>))
        .route("/floods", get(flood))
        .route("/good", get(|| async { "{\"x\": 1}" }))
        .with_state(full.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, full)
}

#[tokio::test]
async fn html_errors_hangs_and_floods_are_bounded_and_hurt_no_other_source() {
    let (address, _) = server().await;
    let folder = tempfile::tempdir().unwrap();
    let source = |name: &str| {
        format!("  {name}: {{http: 'http://{address}/{name}', timeout: 2s, max_bytes: 1000000}}\n")
    };
    let yaml = format!(
        "sources:\n{}{}{}{}  e500: {{http: 'http://{address}/500'}}\n  nobody: {{http: 'http://127.0.0.1:1/'}}\n",
        source("html"),
        source("hangs"),
        source("floods"),
        source("good")
    );
    let sources = start(&yaml, folder.path()).await;
    for (name, why) in [
        ("html", "answered with HTML"),
        ("e500", "answered 500 Internal Server Error"),
        ("hangs", "no answer within 2 s"),
        ("floods", "more than 1000000 bytes (max_bytes)"),
        ("nobody", "Connection refused"),
    ] {
        let found = state(&sources, name);
        assert_eq!(found.freshness, Freshness::Missing, "{name}");
        assert!(found.error.as_ref().is_some_and(|error| error.contains(why)), "{found:?}");
        assert!(found.failing_since.is_some());
    }
    assert_eq!(*sources.values().borrow()["good"], json!({"x": 1}));
    assert_eq!(sources.values().borrow().keys().collect::<Vec<_>>(), ["good", "guardrails"]);
}

#[tokio::test]
async fn what_did_not_change_is_not_sent_again() {
    let (address, full) = server().await;
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!("sources: {{a: {{http: 'http://{address}/tagged', interval: 1s, jitter: 0s}}}}");
    let sources = start(&yaml, folder.path()).await;
    let first = state(&sources, "a").succeeded;
    let looked_again = async {
        while state(&sources, "a").succeeded == first {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(WAIT, looked_again).await.unwrap();
    assert_eq!((full.load(Ordering::Relaxed), state(&sources, "a").freshness), (1, Freshness::Fresh));
}

#[tokio::test]
async fn guardrails_are_none_until_they_were_read_and_a_mistake_takes_none_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let put = |text: &str| {
        std::fs::write(path("next"), text).unwrap();
        std::fs::rename(path("next"), path("rails.yaml")).unwrap();
    };
    let yaml = format!("sources:\n  guardrails: {{file: {}}}", path("rails.yaml").display());
    let sources = start(&yaml, &path("kept")).await;
    assert!(sources.values().borrow().is_empty(), "not even that there are none is known");
    put("- {name: internal, deny: {paths: [/internal]}}\n");
    let wire = json!([{
        "name": "internal",
        "deny": {"id": "internal", "effect": "EFFECT_DENY", "paths": ["/internal"]},
        "mode": "MODE_ENFORCE",
    }]);
    until(&sources, "guardrails", wire.clone()).await;
    put("- {name: internal, deny: {paths: [/internal], methods: [get]}}\n");
    let sources = start(&yaml, &path("kept")).await;
    let error = state(&sources, "guardrails").error.unwrap();
    assert!(error.contains("guardrails[0].deny.methods[0]: an HTTP method in upper case"), "{error}");
    assert_eq!(*sources.values().borrow()["guardrails"], wire);
}
