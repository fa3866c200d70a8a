//! Credentials that are withdrawn before their time: good on no node a moment later, and others' as good as before.

use std::fs;

use reqwest::Method;
use serde_json::{Value, json};
use tests::{Answer, Lab, Service, Token, eventually};

/// The claim `iss` of the lab's issuer.
const ISSUER: &str = "https://id.example.test/";

async fn status(lab: &Lab, service: &Service, token: &str) -> u16 {
    lab.get(service.host(), "/", Some(token)).await.status
}

async fn of_subject(lab: &Lab, service: &Service, subject: &str) -> String {
    lab.token(&Token { subject: subject.into(), ..Token::for_service(service.name()) }).await
}

/// Runs `gatehouse revoke`, which waits until the nodes know.
async fn revoke(lab: &Lab, args: &[&str]) -> String {
    let (good, text) = lab.run(&[&["revoke"], args].concat()).await;
    assert!(good, "{text}");
    text
}

/// The nodes know when the client returns; what is under way by then may still be answered by what was before.
async fn refused(lab: &Lab, service: &Service, token: &str, why: &str) {
    eventually(why, || async { (status(lab, service, token).await == 401).then_some(()) }).await;
}

/// Revokes the token that a file holds; the name of the entry.
async fn revoke_token(lab: &Lab, token: &str) -> String {
    let file = lab.folder().join("token.jwt");
    fs::write(&file, token).unwrap();
    let args = ["revoke", "--token-file", file.to_str().unwrap(), "--json"];
    let output = lab.gatehouse(&args).await;
    fs::remove_file(file).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["nodes"], json!({"connected": 1, "acknowledged": 1}));
    answer["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_is_refused_when_it_was_revoked_and_others_pass() {
    let mut lab = Lab::start().await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let (stolen, other) = (lab.good_token(&hello).await, lab.good_token(&hello).await);
    // Both are remembered as good ones now.
    for token in [&stolen, &other] {
        assert_eq!(status(&lab, &hello, token).await, 200);
    }
    let name = revoke_token(&lab, &stolen).await;
    refused(&lab, &hello, &stolen, "the token is refused").await;
    let answer = lab.get(hello.host(), "/", Some(&stolen)).await;
    assert!(answer.headers["www-authenticate"].contains("invalid_token"), "{answer:?}");
    assert_eq!(status(&lab, &hello, &other).await, 200, "the same subject's other one");

    let text = revoke(&lab, &["--list"]).await;
    assert!(text.contains(&name) && text.contains(ISSUER) && !text.contains(&stolen), "{text}");
    let (good, text) = lab.run(&["audit", "--instance", "revocations"]).await;
    assert!(good && text.contains("operators/") && text.contains(&name), "{text}");
    let signature = stolen.rsplit('.').next().unwrap();
    assert!(!text.contains(signature), "{text}");

    // Without a control plane, from what it kept on disk.
    lab.stack.control_plane.take().expect("it runs").kill().await;
    lab.stack.sidecars.remove("authn").expect("it runs").kill().await;
    lab.stack.start_sidecar("authn").await.expect("it starts from disk");
    eventually("Envoy has found the restarted sidecar", || async {
        (status(&lab, &hello, &other).await == 200).then_some(())
    })
    .await;
    assert_eq!(status(&lab, &hello, &stolen).await, 401);

    lab.stack.start_control_plane().await.expect("it comes back");
    eventually("the sidecar has found it", || async {
        let (good, _) = lab.run(&["revoke", "--undo", &name]).await;
        good.then_some(())
    })
    .await;
    eventually("it is good again", || async { (status(&lab, &hello, &stolen).await == 200).then_some(()) })
        .await;
    lab.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_was_told_of_no_revocations_starts_without_a_control_plane() {
    let mut lab = Lab::start().await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    lab.stack.control_plane.take().expect("it runs").kill().await;
    lab.stack.sidecars.remove("authn").expect("it runs").kill().await;
    lab.stack.start_sidecar("authn").await.expect("that there are none is on disk too");
    eventually("Envoy has found the restarted sidecar", || async {
        (status(&lab, &hello, &token).await == 200).then_some(())
    })
    .await;
    lab.stop().await;
}

#[tokio::test]
async fn a_subject_loses_what_it_had_and_may_come_again() {
    let lab = Lab::start().await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let (mallory, alice) =
        (of_subject(&lab, &hello, "mallory").await, of_subject(&lab, &hello, "alice").await);
    for token in [&mallory, &alice] {
        assert_eq!(status(&lab, &hello, token).await, 200);
    }
    // Times have whole seconds: what is issued in the second of the revocation is younger than it.
    eventually("the second in which the token was issued is over", || async {
        revoke(&lab, &["--issuer", ISSUER, "--subject", "mallory"]).await;
        (status(&lab, &hello, &mallory).await == 401).then_some(())
    })
    .await;
    assert_eq!(status(&lab, &hello, &alice).await, 200);
    let fresh = of_subject(&lab, &hello, "mallory").await;
    assert_eq!(status(&lab, &hello, &fresh).await, 200, "it has proven who it is since");

    eventually("everybody's", || async {
        revoke(&lab, &["--issuer", ISSUER, "--everybody"]).await;
        let tokens = [&mallory, &alice, &fresh];
        let mut all = true;
        for token in tokens {
            all &= status(&lab, &hello, token).await == 401;
        }
        all.then_some(())
    })
    .await;
    assert_eq!(status(&lab, &hello, &of_subject(&lab, &hello, "alice").await).await, 200);
    lab.stop().await;
}

async fn with_key(lab: &Lab, host: &str, key: &str) -> Answer {
    let request = lab.request(Method::GET, host, "/").header("x-api-key", key);
    lab.send(request).await.expect("Envoy answers")
}

#[tokio::test]
async fn an_api_key_can_be_revoked_in_an_emergency() {
    let lab = Lab::start().await;
    let hello = lab.service("hello").with_keys();
    lab.apply(&hello).await;
    let mut keys = Vec::new();
    for name in ["billing", "sales"] {
        keys.push(lab.key(&hello, name, "read:hello").await);
        assert_eq!(with_key(&lab, hello.host(), &keys[keys.len() - 1]).await.status, 200);
    }
    let id = keys[0].split('_').nth(1).unwrap();
    let (good, text) = lab.run(&["revoke", "--api-key", &keys[0]]).await;
    let secret = keys[0].rsplit('_').next().unwrap();
    assert!(!good && text.contains("api_key.id") && !text.contains(secret), "{text}");
    revoke(&lab, &["--api-key", id]).await;
    eventually("the key is refused", || async {
        (with_key(&lab, hello.host(), &keys[0]).await.status == 401).then_some(())
    })
    .await;
    assert_eq!(with_key(&lab, hello.host(), &keys[1]).await.status, 200, "the other one is as it was");
    lab.stop().await;
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_with_its_field() {
    let lab = Lab::start().await;
    let url = format!("{}/api/revocations", lab.stack.control_plane_url());
    let client = reqwest::Client::new();
    for (body, told) in [
        (json!({}), "body: exactly one of"),
        (json!({"token": {"issuer": ISSUER, "jti": "j"}}), "expires: "),
        (json!({"token": {"issuer": ISSUER, "jti": ""}, "expires": 1}), "token.jti: "),
        (json!({"token": {"issuer": ISSUER, "jti": "j", "email": "x"}}), "unknown field `email`"),
        (json!({"api_key": {"id": "0a"}, "expires": 4_000_000_000_u64}), "expires: "),
    ] {
        let answer = client.post(&url).bearer_auth("dev").json(&body).send().await.unwrap();
        assert!(answer.status().is_client_error(), "{body}");
        let answer: Value = answer.json().await.unwrap();
        assert!(answer["description"].as_str().unwrap().contains(told), "{answer}");
    }
    let nobody = client.post(&url).json(&json!({"api_key": {"id": "0a"}})).send().await.unwrap();
    assert_eq!(nobody.status(), 401);
    let unknown = client.delete(format!("{url}/token:0")).bearer_auth("dev").send().await.unwrap();
    assert_eq!(unknown.status(), 404);
    lab.stop().await;
}
