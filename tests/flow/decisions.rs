//! Who passes, who does not, and what they are told: all through a real Envoy, by the chain of sidecars and by the guard.

use lab::Sidecars;
use reqwest::Method;
use serde_json::json;
use tests::{Answer, Lab, Service, Token};

/// Each line of the table is a test, with the chain and with the guard.
macro_rules! table {
    ($($line:ident),+ $(,)?) => {
        mod chain {
            $(#[tokio::test] async fn $line() { Box::pin(super::$line(super::Sidecars::Chain)).await; })+
        }
        mod guard {
            $(#[tokio::test] async fn $line() { Box::pin(super::$line(super::Sidecars::Guard)).await; })+
        }
    };
}

table! {
    tokens_are_accepted_and_refused_as_they_should,
    a_rule_that_does_not_allow_it_is_403,
    past_the_limit_is_429_with_the_headers_of_rate_limits,
    an_unknown_host_is_404,
    the_host_is_the_host_however_it_is_written,
    what_a_client_says_about_itself_never_reaches_the_upstream,
    two_credentials_are_a_bad_request,
    a_path_with_two_meanings_is_refused,
    shadow_mode_lets_pass_and_says_so_in_the_log,
    a_method_that_nobody_knows_reaches_no_upstream,
}

async fn lab_with_hello(sidecars: Sidecars) -> (Lab, Service) {
    let lab = Lab::with(|layout| layout.sidecars = sidecars).await;
    let hello = lab.service("hello").with("/rate_limits", json!([{"limit": "1000/day", "per": ["subject"]}]));
    lab.live(&hello).await;
    (lab, hello)
}

async fn with_authorization(lab: &Lab, host: &str, values: &[&str]) -> Answer {
    let mut request = lab.request(Method::GET, host, "/");
    for value in values {
        request = request.header("authorization", *value);
    }
    lab.send(request).await.expect("Envoy answers")
}

async fn tokens_are_accepted_and_refused_as_they_should(sidecars: Sidecars) {
    let (lab, mut hello) = lab_with_hello(sidecars).await;
    // Where an issuer changes the kind of its keys, a method for each.
    let mut other = hello.parameters["auth"]["any"][0].clone();
    other["jwt"]["algorithms"] = json!(["RS256"]);
    hello.parameters["auth"]["any"].as_array_mut().expect("a list").push(other);
    lab.change(&hello).await;
    let none = lab.get(hello.host(), "/", None).await;
    assert_eq!((none.status, none.headers["www-authenticate"].as_str()), (401, "Bearer realm=\"gatehouse\""));

    let good = Token::for_service("hello");
    for algorithm in ["ES256", "RS256"] {
        let token = lab.token(&Token { algorithm, ..good.clone() }).await;
        let answer = lab.get(hello.host(), "/path?x=1", Some(&token)).await;
        assert_eq!(answer.status, 200, "{algorithm}: {}", answer.body);
        assert_eq!(answer.upstream_saw("x-gatehouse-subject"), ["alice"], "the upstream sees who it is");
        assert_eq!(answer.upstream_saw("x-gatehouse-scopes"), ["read:hello"]);
    }

    let expired = lab.token(&Token { expires_in: -120, ..good.clone() }).await;
    let other = lab.token(&Token { audience: "other".into(), ..good.clone() }).await;
    let valid = lab.token(&good).await;
    let (signed, _) = valid.rsplit_once('.').expect("a token");
    let (_, signature) = other.rsplit_once('.').expect("a token");
    let tampered = format!("{signed}.{signature}");
    for (token, words) in [
        (expired.as_str(), "the token has expired"),
        (other.as_str(), "the token is for another audience"),
        (tampered.as_str(), "the token's signature is wrong"),
        ("x", "the token is malformed"),
    ] {
        let answer = lab.get(hello.host(), "/", Some(token)).await;
        assert_eq!(answer.status, 401, "{words}");
        let challenge = &answer.headers["www-authenticate"];
        assert!(challenge.contains("error=\"invalid_token\"") && challenge.contains(words), "{challenge}");
    }
    let on_an_anonymous_path = lab.get(hello.host(), "/healthz", Some(&expired)).await;
    assert_eq!(on_an_anonymous_path.status, 401, "a credential that is present but invalid");
}

async fn a_rule_that_does_not_allow_it_is_403(sidecars: Sidecars) {
    let (lab, hello) = lab_with_hello(sidecars).await;
    let good = Token::for_service("hello");
    let powerless = lab.token(&Token { scope: "other".into(), ..good.clone() }).await;
    let answer = lab.get(hello.host(), "/", Some(&powerless)).await;
    assert_eq!(answer.status, 403);
    let challenge = &answer.headers["www-authenticate"];
    assert!(challenge.contains("insufficient_scope") && challenge.contains("read:hello"), "{challenge}");
    let token = lab.token(&good).await;
    let post = lab.request(Method::POST, hello.host(), "/").bearer_auth(&token);
    assert_eq!(lab.send(post).await.expect("an answer").status, 403);
}

async fn past_the_limit_is_429_with_the_headers_of_rate_limits(sidecars: Sidecars) {
    let (lab, hello) = lab_with_hello(sidecars).await;
    let hello = hello.with("/rate_limits", json!([{"limit": "2/day", "per": ["subject"]}]));
    lab.change(&hello).await;
    let alice = lab.good_token(&hello).await;
    let first = lab.get(hello.host(), "/", Some(&alice)).await;
    assert_eq!((first.status, first.headers["x-ratelimit-remaining"].as_str()), (200, "1"));
    assert_eq!(lab.get(hello.host(), "/", Some(&alice)).await.status, 200);
    let over = lab.get(hello.host(), "/", Some(&alice)).await;
    assert_eq!(over.status, 429);
    assert_eq!(over.headers["x-ratelimit-limit"], "2, 2;w=86400");
    assert_eq!(over.headers["x-ratelimit-remaining"], "0");
    assert_eq!(over.headers["retry-after"], over.headers["x-ratelimit-reset"]);
    let bob = lab.token(&Token { subject: "bob".into(), ..Token::for_service("hello") }).await;
    assert_eq!(lab.get(hello.host(), "/", Some(&bob)).await.status, 200, "bob has a counter of his own");
}

async fn an_unknown_host_is_404(sidecars: Sidecars) {
    let (lab, _) = lab_with_hello(sidecars).await;
    for host in ["nobody.example.test", "example.test", "hello.example.test.evil.test", "127.0.0.1"] {
        assert_eq!(lab.get(host, "/", None).await.status, 404, "{host}");
    }
}

async fn the_host_is_the_host_however_it_is_written(sidecars: Sidecars) {
    let (lab, _) = lab_with_hello(sidecars).await;
    for host in ["HELLO.example.test", "hello.example.test.", "hello.example.test:443"] {
        assert_eq!(lab.get(host, "/", None).await.status, 401, "{host}: authentication is asked");
    }
}

async fn what_a_client_says_about_itself_never_reaches_the_upstream(sidecars: Sidecars) {
    let (lab, hello) = lab_with_hello(sidecars).await;
    let token = lab.good_token(&hello).await;
    let spoofed = [
        "x-gatehouse-subject",
        "X-Gatehouse-Subject",
        "x-gatehouse-admin",
        "x-gatehouse-method",
        "x-original-url",
        "x-forwarded-uri",
        "x-envoy-original-path",
        "x-forwarded-host",
        "x-http-method-override",
        "x-original-method",
        "x-real-ip",
        "forwarded",
        "client-cert",
    ];
    for (path, token) in [("/", Some(&token)), ("/healthz", None)] {
        let mut request = lab.request(Method::GET, hello.host(), path);
        for name in spoofed {
            request = request.header(name, "mallory");
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = lab.send(request).await.expect("an answer");
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.body.contains("mallory"), "{path}: {}", answer.body);
    }
}

async fn two_credentials_are_a_bad_request(sidecars: Sidecars) {
    let (lab, hello) = lab_with_hello(sidecars).await;
    let good = format!("Bearer {}", lab.good_token(&hello).await);
    assert_eq!(with_authorization(&lab, hello.host(), &[&good, "Bearer x"]).await.status, 400);
    assert_eq!(with_authorization(&lab, hello.host(), &["Bearer x", &good]).await.status, 400);
    assert_eq!(with_authorization(&lab, hello.host(), &[&good]).await.status, 200);
    assert_eq!(with_authorization(&lab, hello.host(), &["Basic eDp5"]).await.status, 401);
}

async fn a_path_with_two_meanings_is_refused(sidecars: Sidecars) {
    let (lab, hello) = lab_with_hello(sidecars).await;
    let token = lab.good_token(&hello).await;
    for path in ["/;x/admin", "/a%3Bx", "/a%252e%252e/b", "/a%2Fb", "/a%5cb"] {
        let status = lab.get(hello.host(), path, Some(&token)).await.status;
        assert_eq!(status, 400, "{path}");
    }
}

async fn shadow_mode_lets_pass_and_says_so_in_the_log(sidecars: Sidecars) {
    let (lab, hello) = lab_with_hello(sidecars).await;
    let shadow = hello.with("/authz/mode", json!("shadow"));
    lab.change(&shadow).await;
    let powerless = lab.token(&Token { scope: "other".into(), ..Token::for_service("hello") }).await;
    assert_eq!(lab.get(shadow.host(), "/shadowed", Some(&powerless)).await.status, 200);
    let record = lab.logged("/shadowed").await;
    let told = ["authz_effect", "authz_rule", "authz_mode"].map(|name| record[name].as_str());
    assert_eq!(told, [Some("deny"), Some("default"), Some("shadow")]);
}

async fn a_method_that_nobody_knows_reaches_no_upstream(sidecars: Sidecars) {
    let (lab, hello) = lab_with_hello(sidecars).await;
    let anything = hello.with("/authz", json!({"default": "allow"}));
    lab.change(&anything).await;
    let token = lab.good_token(&anything).await;
    for (method, status) in [("TRACE", 403), ("PROPFIND", 403), ("OPTIONS", 200), ("DELETE", 200)] {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let request = lab.request(method.clone(), anything.host(), "/").bearer_auth(&token);
        assert_eq!(lab.send(request).await.expect("an answer").status, status, "{method}");
    }
}
