//! Answers that are no good, and those that would lead inside.

use serde_json::json;

use super::{Followed, ISSUER, server::Server, server::jwks, settings};
use crate::State;

const DISCOVERY: &str = "/.well-known/openid-configuration";

#[tokio::test]
async fn no_bad_answer_takes_the_place_of_a_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::plain().await;
    server.says("/jwks", &jwks(&["good"]));
    let flag = format!("{ISSUER}={}", server.url("/jwks"));
    let followed = Followed::start(settings(&[&flag], ""), folder.path(), 1_000_000).await;
    let mut changes = followed.keys.sets();
    changes.mark_unchanged();
    let large = json!({"keys": [], "more": "x".repeat(300_000)}).to_string();
    let many = jwks(&["a"; 65]);
    let bodies: [(&str, &str); 8] = [
        ("", "jwks: a JWK Set"),
        ("<html>maintenance</html>", "jwks: a JWK Set"),
        ("{\"keys\":", "jwks: a JWK Set"),
        ("{\"keys\":[]}", "jwks.keys: at least one public key"),
        ("{\"keys\":[{\"kty\":\"oct\",\"k\":\"c2VjcmV0\"}]}", "jwks.keys: at least one public key"),
        (
            "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AA\",\"y\":\"AA\"}]}",
            "jwks.keys: no key that can verify",
        ),
        (&large, "more than 262144 bytes"),
        (&many, "jwks.keys: at most 64 keys"),
    ];
    let failed = async |told: &str| {
        followed.advance(400);
        followed
            .until(told, |state| state.last_error.as_ref().is_some_and(|error| error.contains(told)))
            .await;
        assert_eq!(followed.state().kids, ["good"], "{told}");
    };
    let good = async || {
        server.says("/jwks", &jwks(&["good"]));
        followed.advance(400);
        followed.until("it is good again", |state| state.state == State::Fresh).await;
    };
    for (body, told) in bodies {
        server.says("/jwks", body);
        failed(told).await;
        good().await;
    }
    for (status, header, told) in [
        (500, "x: y", "answered 500"),
        (404, "x: y", "answered 404"),
        // Nobody asked whether anything changed.
        (304, "x: y", "answered 304"),
        (302, "location: http://127.0.0.2/jwks", "a redirect to another host"),
        (302, "location: http://169.254.169.254/", "a redirect to another host"),
        (302, "location: /jwks", "more than 3 redirects"),
        (200, "content-encoding: gzip", "compressed"),
    ] {
        server.status("/jwks", status);
        server.header("/jwks", header);
        failed(told).await;
        good().await;
    }
    server.hangs("/jwks");
    failed("no whole answer within 2 s").await;
    assert!(!changes.has_changed().unwrap(), "nobody was told of anything");
}

#[tokio::test]
async fn what_the_server_says_is_unchanged_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::plain().await;
    server.says("/jwks", &jwks(&["a"]));
    server.header("/jwks", "etag: \"v1\"");
    let flag = format!("{ISSUER}={}", server.url("/jwks"));
    let followed = Followed::start(settings(&[&flag], ""), folder.path(), 1_000_000).await;
    followed.advance(400);
    followed.until("it is confirmed", |state| server.asked("/jwks") == 2 && state.age_secs == Some(0)).await;
    assert_eq!((followed.kids().as_str(), followed.state().state), ("a", State::Fresh));
}

#[tokio::test]
async fn discovery_finds_the_keys_of_exactly_this_issuer() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::secure().await;
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &server.ca).unwrap();
    let issuer = server.url("/realm/");
    let path = format!("/realm{DISCOVERY}");
    let says = |issuer: &str, jwks_uri: &str| {
        server.says(&path, &json!({"issuer": issuer, "jwks_uri": jwks_uri}).to_string());
    };
    says(&issuer, &server.url("/jwks"));
    server.says("/jwks", &jwks(&["a"]));
    // localhost is ::1 too, on some machines.
    let settings = settings(&[&issuer], &format!("ca: {}", ca.display()));
    let followed = Followed::start(settings, &folder.path().join("keys"), 1_000_000).await;
    assert_eq!((followed.kids().as_str(), followed.state().last_error), ("a", None));
    assert_eq!(followed.issuers()[0]["uri"], server.url("/jwks"), "sidecars may ask there");

    let plain = server.url("/jwks").replace("https", "http");
    for (said, jwks_uri, told) in [
        (server.url("/realm").as_str(), server.url("/jwks").as_str(), "byte for byte"),
        ("https://evil.example.test/", &server.url("/jwks"), "byte for byte"),
        (&issuer, &plain, "jwks_uri: an https URL"),
        (&issuer, "file:///etc/passwd", "jwks_uri: an https URL"),
        (&issuer, "https://169.254.169.254/latest/meta-data/", "169.254.169.254 is denied: link-local"),
        (&issuer, "https://127.0.0.2/jwks", "127.0.0.2 is denied: loopback"),
        (&issuer, "https://10.0.0.1/jwks", "10.0.0.1 is denied: private"),
        (&issuer, "https://[::ffff:10.0.0.1]/jwks", " is denied: private"),
        (&issuer, "https://u:p@localhost/jwks", "a URL without a user"),
    ] {
        says(said, jwks_uri);
        followed.advance(4000);
        let is_told = |error: &String| error.contains(told);
        followed.until(told, |state| state.last_error.as_ref().is_some_and(is_told)).await;
        assert_eq!(followed.kids(), "a");
    }
}

#[tokio::test]
async fn names_and_addresses_inside_are_refused_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::plain().await;
    server.says("/jwks", &jwks(&["a"]));
    // A name is judged when it is looked up: this one leads inside, and nothing is allowed here.
    let secure = server.url("/jwks").replace("http://127.0.0.1", "https://localhost");
    let nothing = crate::Settings::read(&[format!("{ISSUER}={secure}")], None).unwrap();
    let followed = Followed::start(nothing, folder.path(), 1_000_000).await;
    assert!(followed.state().last_error.unwrap().contains("localhost is denied: loopback"));
    assert_eq!((followed.state().state, server.all()), (State::Missing, 0));
    for place in [
        "https://169.254.169.254/",
        "https://127.0.0.1/jwks",
        "http://example.com@127.0.0.1/",
        "https://2130706433/",
        "http://1.1.1.1/jwks",
    ] {
        let flag = format!("{ISSUER}={place}");
        let Ok(settings) = crate::Settings::read(&[flag], None) else { continue };
        let clock = std::sync::Arc::new(runtime::SystemClock);
        let registry = &mut prometheus_client::registry::Registry::default();
        let error = crate::Keys::start(settings, folder.path(), clock, registry).await.err().unwrap();
        assert!(error.to_string().contains(" is denied: "), "{error}");
    }
}
