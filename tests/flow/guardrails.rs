//! What the platform team denies on all services, from the operators' list to what a real Envoy answers.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use tests::{Lab, Service, eventually};

/// A lab whose operators keep this list, and the file that it comes from.
async fn lab_with(guardrails: &Value) -> (Lab, PathBuf) {
    let mut file = PathBuf::new();
    let lab = Lab::with(|layout| {
        file = layout.data_dir.join("guardrails.json");
        fs::write(&file, guardrails.to_string()).expect("a file");
        let sources = layout.data_dir.join("sources.yaml");
        let text = format!("sources: {{guardrails: {{file: {}}}}}", file.display());
        fs::write(&sources, text).expect("a file");
        layout.control_plane_args.push(format!("--sources={}", sources.display()));
    })
    .await;
    (lab, file)
}

/// Everything is allowed to everybody, as far as its developers have a say.
fn open(lab: &Lab, name: &str) -> Service {
    lab.service(name).with("/auth", json!({"anonymous": ["/"]})).with("/authz", json!({"default": "allow"}))
}

async fn status(lab: &Lab, service: &Service, path: &str) -> u16 {
    lab.get(service.host(), path, None).await.status
}

/// Puts another list in the place of the old one, at once.
fn put(file: &PathBuf, list: &Value) {
    let next = file.with_extension("next");
    fs::write(&next, list.to_string()).expect("a file");
    fs::rename(next, file).expect("a file");
}

#[tokio::test]
async fn a_guardrail_denies_on_every_service_whatever_its_own_policy_says() {
    let internal =
        json!({"name": "internal", "deny": {"paths": ["/internal"]}, "unless": {"networks": ["10.0.0.0/8"]}});
    let new = json!({"name": "new", "deny": {"paths": ["/new"]}, "mode": "shadow"});
    let (mut lab, file) = lab_with(&json!([internal, new])).await;
    let (hello, other) = (open(&lab, "hello"), open(&lab, "other"));
    let shadow = other.clone().with("/authz", json!({"default": "deny", "mode": "shadow"}));
    for service in [&hello, &shadow] {
        lab.live(service).await;
        assert_eq!(status(&lab, service, "/x").await, 200);
        assert_eq!(status(&lab, service, "/internal/x").await, 403, "{}", service.name());
        assert_eq!(status(&lab, service, "/%69nternal/x").await, 403, "{}", service.name());
        assert_eq!(status(&lab, service, "/new").await, 200, "it is only recorded");
    }
    let answer = lab.get(hello.host(), "/internal/seen", None).await;
    assert!(answer.body.contains("a rule of this edge does not allow it"), "{}", answer.body);

    // A list with a mistake takes nothing away.
    put(&file, &json!([{"name": "internal", "deny": {"paths": ["/internal"], "methods": ["get"]}}]));
    eventually("operators are told", || async {
        let told = lab.operators("/api/sources").await.body;
        told.contains("guardrails[0].deny.methods[0]: an HTTP method in upper case").then_some(())
    })
    .await;
    assert_eq!(status(&lab, &hello, "/internal/x").await, 403);

    put(&file, &json!([{"name": "other", "deny": {"paths": ["/other"]}}]));
    eventually("the new list is in force", || async {
        let now = (status(&lab, &hello, "/other").await, status(&lab, &hello, "/internal/x").await);
        (now == (403, 200)).then_some(())
    })
    .await;

    // What is denied is on the node's disk.
    lab.stack.control_plane.take().expect("it runs").kill().await;
    lab.stack.sidecars.remove("authz").expect("it runs").kill().await;
    lab.stack.start_sidecar("authz").await.expect("it starts from disk");
    eventually("Envoy has found the restarted sidecar", || async {
        (status(&lab, &hello, "/x").await == 200).then_some(())
    })
    .await;
    assert_eq!(status(&lab, &hello, "/other").await, 403);
    lab.stop().await;
}
