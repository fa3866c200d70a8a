//! `gatehouse`, as a user runs it.

use std::fs;

use tests::Lab;

async fn run(lab: &Lab, args: &[&str]) -> (bool, String) {
    let output = lab.gatehouse(args).await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn apply_status_and_delete_tell_what_they_do() {
    let lab = Lab::start().await;
    let file = lab.folder().join("hello.yaml");
    let example = include_str!("../../examples/hello.yaml");
    let upstream = format!("http://127.0.0.1:{}", lab.stack.layout.ports.upstream);
    fs::write(&file, example.replace("http://127.0.0.1:9001", &upstream)).unwrap();
    let file = file.to_str().unwrap();

    let (good, text) = run(&lab, &["apply", file]).await;
    assert!(good, "{text}");
    for step in [
        "✓ claimed hello.example.test",
        "✓ certificate for hello.example.test",
        "✓ hello.example.test resolve to the edge",
        "✓ published revision 1",
        "✓ acknowledged by 1/1 nodes",
        "live: hello.example.test",
    ] {
        assert!(text.contains(step), "no {step:?} in {text}");
    }
    let (_, token) = run(&lab, &["token"]).await;
    assert_eq!(
        lab.get("hello.example.test", "/", Some(token.trim())).await.status,
        200,
        "as `up` tells to try"
    );

    let (good, text) = run(&lab, &["apply", file]).await;
    assert!(good && text.contains("nothing to change"), "{text}");
    let (good, text) = run(&lab, &["status"]).await;
    assert!(good && text.contains("hello.example.test  revision 1 live"), "{text}");
    let (good, text) = run(&lab, &["status", "--json"]).await;
    assert!(good && serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
    let (good, text) = run(&lab, &["delete", "hello"]).await;
    assert!(good && text.contains("gone: hello"), "{text}");
    let (good, text) = run(&lab, &["delete", "hello"]).await;
    assert!(!good && text.contains("there is no service \"hello\""), "{text}");
}

#[tokio::test]
async fn a_bad_file_is_told_with_its_fields_and_nothing_is_sent() {
    let lab = Lab::prepare(|_| ()).await;
    let file = lab.folder().join("bad.yaml");
    fs::write(&file, "service: Bad\nhosts: []\nroutes: []\nauth: {}\nauthz: {}\n").unwrap();
    let (good, text) = run(&lab, &["apply", file.to_str().unwrap()]).await;
    assert!(
        !good && text.contains("service:") && text.contains("hosts:") && text.contains("routes:"),
        "{text}"
    );
    fs::write(&file, "service: a\nservice: b\n").unwrap();
    let (good, text) = run(&lab, &["apply", file.to_str().unwrap()]).await;
    assert!(!good && text.contains("duplicate entry with key \"service\""), "{text}");
    let (good, text) = run(&lab, &["apply", "nowhere.yaml"]).await;
    assert!(!good && text.contains("reading nowhere.yaml"), "{text}");
}

#[tokio::test]
async fn without_a_broker_it_says_where_it_looked() {
    let lab = Lab::prepare(|_| ()).await;
    let (good, text) = run(&lab, &["status"]).await;
    assert!(!good && text.contains("no broker at http://127.0.0.1:"), "{text}");
}
