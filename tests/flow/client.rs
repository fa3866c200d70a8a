//! `gatehouse`, as a user runs it.

use std::fs;

use serde_json::json;
use tests::{Lab, eventually};

#[tokio::test]
async fn apply_status_and_delete_tell_what_they_do() {
    let lab = Lab::start().await;
    let file = lab.folder().join("hello.yaml");
    let example = include_str!("../../examples/hello.yaml");
    let upstream = format!("http://127.0.0.1:{}", lab.stack.layout.ports.upstream);
    fs::write(&file, example.replace("http://127.0.0.1:9001", &upstream)).unwrap();
    let file = file.to_str().unwrap();

    let (good, text) = lab.run(&["apply", file]).await;
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
    let (_, token) = lab.run(&["token"]).await;
    assert_eq!(
        lab.get("hello.example.test", "/", Some(token.trim())).await.status,
        200,
        "as `up` tells to try"
    );

    let (good, text) = lab.run(&["apply", file]).await;
    assert!(good && text.contains("nothing to change"), "{text}");
    let (good, text) = lab.run(&["status"]).await;
    assert!(good && text.contains("hello.example.test  revision 1 live"), "{text}");
    let (good, text) = lab.run(&["status", "--json"]).await;
    assert!(good && serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
    let (good, text) = lab.run(&["delete", "hello"]).await;
    assert!(good && text.contains("gone: hello"), "{text}");
    let (good, text) = lab.run(&["delete", "hello"]).await;
    assert!(!good && text.contains("there is no service \"hello\""), "{text}");
}

#[tokio::test]
async fn a_bad_file_is_told_with_its_fields_and_nothing_is_sent() {
    let lab = Lab::prepare(|_| ()).await;
    let file = lab.folder().join("bad.yaml");
    fs::write(&file, "service: Bad\nhosts: []\nroutes: []\nauth: {}\nauthz: {}\n").unwrap();
    let (good, text) = lab.run(&["apply", file.to_str().unwrap()]).await;
    assert!(
        !good
            && ["line 1: service: ", "line 2: hosts: ", "line 3: routes: "]
                .iter()
                .all(|told| text.contains(told)),
        "{text}"
    );
    fs::write(&file, "service: a\nservice: b\n").unwrap();
    let (good, text) = lab.run(&["apply", file.to_str().unwrap()]).await;
    assert!(!good && text.contains("duplicate entry with key \"service\""), "{text}");
    let (good, text) = lab.run(&["apply", "nowhere.yaml"]).await;
    assert!(!good && text.contains("reading nowhere.yaml"), "{text}");
}

#[tokio::test]
async fn without_a_broker_it_says_where_it_looked() {
    let lab = Lab::prepare(|_| ()).await;
    let (good, text) = lab.run(&["status"]).await;
    assert!(!good && text.contains("no broker at http://127.0.0.1:"), "{text}");
}

/// "Configuration in version control, applied by the build server."
#[tokio::test]
async fn a_folder_is_applied_as_a_whole_and_ci_is_told_by_exit_codes() {
    let lab = Lab::start().await;
    let folder = lab.folder().join("services");
    fs::create_dir(&folder).unwrap();
    let write = |name: &str, change: &str| {
        let service = lab.service(name);
        let text = serde_json::to_string(&service.parameters).unwrap();
        fs::write(folder.join(format!("{name}.yaml")), text.replace("\"path\":\"/\"", change)).unwrap();
    };
    let same = "\"path\":\"/\"";
    write("one", same);
    write("two", same);
    fs::write(folder.join("notes.txt"), "not a service").unwrap();
    let path = folder.to_str().unwrap();
    let run = async |args: &[&str]| {
        let output = lab.gatehouse(args).await;
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
    };

    let (code, text) = run(&["diff", path]).await;
    assert!(code == 2 && text.contains("--- nothing\n+++ one") && text.contains("+service: two"), "{text}");
    fs::write(folder.join("bad.yaml"), "service: Bad\nhosts: []\nroutes: []\nauth: {}\nauthz: {}\n").unwrap();
    fs::write(folder.join("again.yaml"), fs::read(folder.join("one.yaml")).unwrap()).unwrap();
    let (code, text) = run(&["apply", path]).await;
    assert!(code == 1 && text.contains("bad.yaml") && text.contains("service: one is in"), "{text}");
    assert_eq!(run(&["diff", path]).await.0, 1, "a mistake is no difference");
    assert_eq!(lab.status().await["services"], json!([]), "nothing was sent");
    fs::remove_file(folder.join("bad.yaml")).unwrap();
    fs::remove_file(folder.join("again.yaml")).unwrap();

    let (code, text) = run(&["apply", path, "--json"]).await;
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let states: Vec<_> =
        answer.as_array().unwrap().iter().map(|one| (&one["service"], &one["state"])).collect();
    assert_eq!(code, 0);
    assert_eq!(states, [(&json!("one"), &json!("live")), (&json!("two"), &json!("live"))]);
    assert_eq!(run(&["diff", path]).await, (0, String::new()));

    write("one", "\"timeout\":\"7s\",\"path\":\"/\"");
    let (code, text) = run(&["diff", path]).await;
    assert!(code == 2 && text.contains("+  timeout: 7s") && !text.contains("two"), "{text}");
    let (code, text) = run(&["apply", path, "--no-wait"]).await;
    assert!(
        code == 0 && text.contains("one: ordered: operation ") && text.contains("two: unchanged"),
        "{text}"
    );
    eventually("the ordered change is live", || async {
        run(&["explain", "one"]).await.1.contains("succeeded").then_some(())
    })
    .await;
    let (code, text) = run(&["explain", "one"]).await;
    assert!(
        code == 0 && text.contains("succeeded") && text.contains("✓ publish      published revision 2"),
        "{text}"
    );
    let (code, text) = run(&["explain", "three"]).await;
    assert!(code == 1 && text.contains("there is no service \"three\""), "{text}");
    write("one", "\"path\":\"/\",\"upstream\":{\"urls\":[\"http://169.254.169.254\"]},\"x\":{}");
    let (code, text) = run(&["apply", path]).await;
    assert_eq!(code, 1, "{text}");

    let (code, text) = run(&["catalog"]).await;
    assert!(code == 0 && text.contains("standard") && text.contains("20 hosts"), "{text}");
    let (code, text) = run(&["schema"]).await;
    let schema: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, schema["$schema"].is_string()), (0, true));
    lab.stop().await;
}
