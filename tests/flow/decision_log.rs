//! What the sidecars write about their decisions, and what they never write.

use std::fs;

use lab::Sidecars;
use reqwest::Method;
use serde_json::{Value, json};
use tests::{Lab, Token, eventually};

fn lines(lab: &Lab) -> Vec<Value> {
    let text = fs::read_to_string(lab.folder().join("decisions.jsonl")).unwrap_or_default();
    // The last line may be half written.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn line_of(lab: &Lab, id: &str) -> Value {
    line_by(lab, "authn", id).await
}

async fn line_by(lab: &Lab, by: &str, id: &str) -> Value {
    let found = || async { lines(lab).into_iter().find(|line| line["id"] == id && line["by"] == by) };
    eventually(&format!("a line of {id}"), found).await
}

#[tokio::test]
async fn a_refusal_is_found_by_the_id_that_its_client_was_shown() {
    let lab = Lab::with(|layout| {
        let file = layout.data_dir.join("decisions.jsonl");
        let args = vec![format!("--decision-log={}", file.display()), "--decision-log-sample=1".into()];
        layout.sidecar_args.insert("authn", args);
    })
    .await;
    let mut hello = lab.service("hello");
    hello.parameters["auth"]["any"].as_array_mut().unwrap().push(json!({"api_key": {}}));
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;

    let refused = lab.get(hello.host(), "/a?token=in-the-query", None).await;
    assert_eq!(refused.status, 401);
    let id = refused.json()["id"].as_str().expect("the body says its id").to_owned();
    let line = line_of(&lab, &id).await;
    assert_eq!((&line["result"], &line["status"]), (&json!("no_credential"), &json!(401)));
    assert_eq!((&line["path"], &line["host"]), (&json!("/a"), &json!(hello.host())));

    // Another signature behind the same head and payload.
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{signed}.AAAA{}", &signature[4..]);
    let forged = lab.get(hello.host(), "/forged", Some(&forged)).await;
    let line = line_of(&lab, forged.json()["id"].as_str().unwrap()).await;
    assert_eq!(line["result"], "invalid_credential");
    assert!(line["kid"].is_string() && line["credential"].is_string() && line["sub"].is_null(), "{line}");

    let key = "gatehouse_0a_nobody-has-this-key";
    let request = lab.request(Method::GET, hello.host(), "/keyed").header("x-api-key", key);
    assert_eq!(lab.send(request).await.unwrap().status, 401);
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200);
    let allowed = || async { lines(&lab).into_iter().find(|line| line["status"] == 200) };
    let allowed = eventually("what passed is written too", allowed).await;
    assert_eq!((&allowed["sub"], &allowed["method"]), (&json!("alice"), &json!("jwt")));
    assert_eq!(allowed["rev"], line["rev"]);

    let text = fs::read_to_string(lab.folder().join("decisions.jsonl")).unwrap();
    let secrets = token.split('.').chain([&signature[4..]]).chain(["nobody-has-this-key", "in-the-query"]);
    for secret in secrets {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    lab.stop().await;
}

async fn denials_of(sidecars: Sidecars, name: &'static str) {
    let lab = Lab::with(|layout| {
        layout.sidecars = sidecars;
        let file = layout.data_dir.join("decisions.jsonl");
        let args = vec![format!("--decision-log={}", file.display()), "--decision-log-sample=0".into()];
        layout.sidecar_args.insert(name, args);
    })
    .await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let powerless = lab.token(&Token { scope: "none".into(), ..Token::for_service("hello") }).await;
    let refused = lab.get(hello.host(), "/a?token=in-the-query", Some(&powerless)).await;
    assert_eq!(refused.status, 403);
    let line = line_by(&lab, "authz", refused.json()["id"].as_str().expect("the body says its id")).await;
    let told = ["result", "http_method", "effect", "rule", "mode", "sub", "path"].map(|name| &line[name]);
    assert_eq!(told, ["denied", "GET", "deny", "default", "enforce", "alice", "/a"], "{line}");
    assert_eq!((&line["policy"], &line["rev"]), (&json!(hello.id()), &json!(1)));

    let shadow = hello.with("/authz/mode", json!("shadow"));
    lab.change(&shadow).await;
    assert_eq!(lab.get(shadow.host(), "/b", Some(&powerless)).await.status, 200);
    let shadowed = || async { lines(&lab).into_iter().find(|line| line["path"] == "/b") };
    let line = eventually("what would have been refused is written too", shadowed).await;
    let told = ["by", "result", "effect", "mode", "sub"].map(|name| &line[name]);
    assert_eq!(told, ["authz", "shadow_denied", "deny", "shadow", "alice"], "{line}");
    assert_eq!(line["status"], 200);
    let text = fs::read_to_string(lab.folder().join("decisions.jsonl")).unwrap();
    assert!(
        powerless.split('.').all(|part| !text.contains(part)) && !text.contains("in-the-query"),
        "{text}"
    );
    lab.stop().await;
}

#[tokio::test]
async fn what_the_rules_refuse_is_written_by_authorization_in_shadow_too() {
    Box::pin(denials_of(Sidecars::Chain, "authz")).await;
}

#[tokio::test]
async fn what_the_rules_refuse_is_written_by_the_guard_in_shadow_too() {
    Box::pin(denials_of(Sidecars::Guard, "guard")).await;
}
