//! API keys: given by a binding, asked for by Envoy, gone when they are taken away.

use std::fs;

use reqwest::Method;
use serde_json::json;
use tests::{Answer, Lab, Service};

async fn with_key(lab: &Lab, host: &str, keys: &[&str]) -> Answer {
    let mut request = lab.request(Method::GET, host, "/");
    for key in keys {
        request = request.header("x-api-key", *key);
    }
    lab.send(request).await.expect("Envoy answers")
}

async fn lab_with_keys() -> (Lab, Service) {
    let lab = Lab::start().await;
    let hello = lab.service("hello").with_keys();
    lab.apply(&hello).await;
    (lab, hello)
}

#[tokio::test]
async fn a_key_opens_the_service_to_its_client_until_it_is_taken_away() {
    let (lab, hello) = lab_with_keys().await;
    let (billing, sales) =
        (lab.key(&hello, "billing", "read:hello").await, lab.key(&hello, "sales", "other").await);
    let answer = with_key(&lab, hello.host(), &[&billing]).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.upstream_saw("x-gatehouse-subject"), ["billing"]);
    assert_eq!(answer.upstream_saw("x-gatehouse-method"), ["api_key"]);
    assert_eq!(answer.upstream_saw("x-api-key"), [""; 0], "the key is for the edge");
    assert_eq!(with_key(&lab, hello.host(), &[&sales]).await.status, 403, "its scope is another");
    for (keys, status) in [
        (vec![], 401),
        (vec![""], 401),
        (vec!["gatehouse_0a_x"], 401),
        (vec![&billing[..billing.len() - 1]], 401),
        (vec![billing.as_str(), billing.as_str()], 400),
    ] {
        let answer = with_key(&lab, hello.host(), &keys).await;
        assert_eq!(answer.status, status, "{keys:?}");
    }
    let token = lab.good_token(&hello).await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200, "a token is as good");

    let (good, text) = lab.run(&["bind", "hello"]).await;
    assert!(good && text.contains("  billing  read:hello\n") && text.contains("  sales  other\n"), "{text}");
    let (good, text) = lab.run(&["bind", "hello", "billing", "--scope", "read:hello"]).await;
    assert!(!good && text.contains("its secret was shown"), "{text}");
    let (good, text) = lab.run(&["unbind", "hello", "billing"]).await;
    assert!(good && text.contains("gone: the key of billing"), "{text}");
    assert_eq!(with_key(&lab, hello.host(), &[&billing]).await.status, 401);
    assert_eq!(with_key(&lab, hello.host(), &[&sales]).await.status, 403, "the other one is as it was");
    let (good, text) = lab.run(&["unbind", "hello", "billing"]).await;
    assert!(!good && text.contains("has no key"), "{text}");

    // Nowhere is the secret itself: not in the store, not in what is served, not in any log.
    let secret = billing.rsplit('_').next().unwrap();
    let mut folders = vec![lab.folder().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = fs::read(&path) {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{}", path.display());
            }
        }
    }
    lab.stop().await;
}

#[tokio::test]
async fn keys_outlive_a_control_plane_and_follow_the_service() {
    let (mut lab, hello) = lab_with_keys().await;
    let billing = lab.key(&hello, "billing", "read:hello").await;
    lab.stack.control_plane.take().expect("it runs").kill().await;
    assert_eq!(with_key(&lab, hello.host(), &[&billing]).await.status, 200);
    lab.stack.start_control_plane().await.unwrap();
    let changed = hello.clone().with("/rate_limits", json!([{"limit": "1000/day"}]));
    lab.apply(&changed).await;
    assert_eq!(with_key(&lab, hello.host(), &[&billing]).await.status, 200, "a new revision has it too");
    let (good, text) = lab.run(&["delete", "hello"]).await;
    assert!(good, "{text}");
    lab.apply(&changed).await;
    assert_eq!(with_key(&lab, hello.host(), &[&billing]).await.status, 401, "it went with the service");
    lab.stop().await;
}
