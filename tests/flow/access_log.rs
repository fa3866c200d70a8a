//! One record a request, written by our Wasm filter in Envoy's V8.

use reqwest::Method;
use serde_json::json;
use tests::{Lab, Token};

#[tokio::test]
async fn a_record_tells_who_what_and_how_long_and_keeps_secrets() {
    let lab = Lab::start().await;
    let hello = lab
        .service("hello")
        .with("/rate_limits", json!([{"limit": "2/day"}]))
        .with("/access_log", json!({"sample": 1.0, "redact": ["x-private"]}));
    lab.live(&hello).await;
    let token = lab.token(&Token { subject: "alice".into(), ..Token::for_service("hello") }).await;
    let request = lab
        .request(Method::GET, hello.host(), "/logged?access_token=geheim-1")
        .bearer_auth(&token)
        .header("cookie", "session=geheim-2")
        .header("x-private", "geheim-3")
        .header("user-agent", "a-test");
    assert_eq!(lab.send(request).await.expect("an answer").status, 200);

    let record = lab.logged("/logged?access_token=[redacted]").await;
    assert_eq!(record["service"], "hello");
    assert_eq!(record["instance"], hello.id());
    assert_eq!(record["subject"], "alice");
    assert_eq!(record["status"], 200);
    assert_eq!((&record["authz_effect"], &record["authz_rule"]), (&json!("allow"), &json!("rule-0")));
    assert_eq!(record["policy_rev"], 1);
    assert_eq!(record["rate_limit"], json!({"outcome": "ok", "limit": 2, "remaining": 1}));
    assert!(record["duration_us"].as_u64().is_some_and(|spent| spent > 0), "{record}");
    assert!(record["upstream_duration_us"].is_u64(), "{record}");
    assert_eq!(record["headers"]["user-agent"], "a-test");
    for header in ["authorization", "cookie", "x-private"] {
        assert_eq!(record["headers"][header], "[redacted]", "{header} is seen, its value is not");
    }
    let text = std::fs::read_to_string(lab.stack.layout.access_log()).expect("the log");
    assert!(!text.contains("geheim") && !text.contains(&token), "{text}");
}

#[tokio::test]
async fn every_request_has_one_record_also_the_refused_ones() {
    let lab = Lab::start().await;
    let hello = lab.service("hello").with("/rate_limits", json!([{"limit": "1/day", "per": ["subject"]}]));
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    let powerless = lab.token(&Token { scope: "none".into(), ..Token::for_service("hello") }).await;
    for (path, host, token, status) in [
        ("/r/200", hello.host(), Some(&token), 200),
        ("/r/429", hello.host(), Some(&token), 429),
        ("/r/401", hello.host(), None, 401),
        ("/r/403", hello.host(), Some(&powerless), 403),
        ("/r/404", "nobody.example.test", None, 404),
    ] {
        assert_eq!(lab.get(host, path, token.map(String::as_str)).await.status, status, "{path}");
        assert_eq!(lab.logged(path).await["status"], status);
    }
    assert_eq!(lab.logged("/r/429").await["rate_limit"]["outcome"], "over_limit");
    assert_eq!(lab.logged("/r/403").await["authz_effect"], "deny");
    assert_eq!(lab.logged("/r/404").await["service"], "-");
    let records = lab.access_log();
    let paths: std::collections::BTreeSet<_> =
        records.iter().filter_map(|record| record["path"].as_str()).collect();
    assert_eq!((records.len(), paths.len()), (5, 5), "{records:?}");
}
