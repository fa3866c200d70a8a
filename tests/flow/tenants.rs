//! Platforms of a file: secrets, hosts and quotas that operators change while everything runs, and the audit log.

use std::fs;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tests::{Lab, eventually};

/// What `gatehouse credentials` made: the secret, and its hash.
async fn credentials(lab: &Lab, platform: &str) -> (String, String) {
    let output = lab.gatehouse(&["credentials", platform, "--json"]).await;
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    (format!("{platform}:{}", made["secret"].as_str().unwrap()), made["hash"].as_str().unwrap().to_owned())
}

fn platforms(hash: &str, instances: u32) -> String {
    let platform = json!({
        "secrets": [hash], "hosts": [{"name": "*.example.test"}], "quota": {"instances": instances},
    });
    // JSON is YAML too.
    json!({"platforms": {"ci": platform}, "host_cool_down_hours": 1}).to_string()
}

#[tokio::test]
async fn a_platforms_tenants_stay_within_what_operators_gave_them() {
    let mut lab = Lab::prepare(|_| ()).await;
    let (ci, hash) = credentials(&lab, "ci").await;
    let file = lab.folder().join("platforms.yaml");
    fs::write(&file, platforms(&hash, 1)).unwrap();
    lab.stack.layout.control_plane_args.push(format!("--platforms={}", file.display()));
    lab.stack.start(|_| ()).await.unwrap();
    let example = include_str!("../../examples/hello.yaml");
    let upstream = format!("http://127.0.0.1:{}", lab.stack.layout.ports.upstream);
    let service = |name: &str| {
        let file = lab.folder().join(format!("{name}.yaml"));
        let text = example.replace("http://127.0.0.1:9001", &upstream).replace("hello", name);
        fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let (one, two) = (service("one"), service("two"));

    let (good, text) = lab.run(&["apply", &one]).await;
    assert!(!good && text.contains("401"), "dev:dev is nobody here: {text}");
    let (good, text) = lab.run(&["apply", &one, "--credentials", &ci]).await;
    assert!(good && text.contains("live: one.example.test"), "{text}");
    let (good, text) = lab.run(&["apply", &two, "--credentials", &ci]).await;
    assert!(!good && text.contains("quota: \"default\" has the 1 service instances"), "{text}");

    fs::write(&file, "platforms: {ci: {").unwrap();
    let (good, _) = lab.run(&["status", "--credentials", &ci]).await;
    assert!(good, "a file that cannot be read changes nothing");
    fs::write(&file, platforms(&hash, 2)).unwrap();
    eventually("there is more room", || async {
        lab.run(&["apply", &two, "--credentials", &ci]).await.0.then_some(())
    })
    .await;

    let (good, text) = lab.run(&["delete", "one", "--credentials", &ci]).await;
    assert!(good, "{text}");
    let (good, text) = lab.run(&["apply", &one, "--credentials", &ci, "--tenant", "another"]).await;
    assert!(
        !good && text.contains("one.example.test was another tenant's, and is kept for it until"),
        "{text}"
    );

    let (good, text) = lab.run(&["audit"]).await;
    assert!(good, "{text}");
    for words in ["ci/default", "provision", "deprovision", "succeeded: live", "succeeded: gone"] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    let feed = format!("{}/v2/service_instances", lab.stack.control_plane_url());
    let asked = reqwest::Client::new().get(&feed);
    let (user, secret) = ci.split_once(':').unwrap();
    let refused = asked.try_clone().unwrap().basic_auth(user, Some(secret)).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "it shows what all platforms have");
    let listed: Value = asked.bearer_auth("dev").send().await.unwrap().json().await.unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed[0]["parameters"]["hosts"], json!(["two.example.test"]));
    assert_eq!(listed[0]["owner"], json!({"platform": "ci", "tenant": "default"}));
    lab.stop().await;
}

/// What a plan allows in a second is counted before any sidecar is asked.
#[tokio::test]
async fn past_the_rate_of_its_plan_a_service_is_429() {
    let mut lab = Lab::prepare(|_| ()).await;
    let hash = model::SecretHash::of("dev", [0; 32]).to_string();
    let dev = json!({"secrets": [hash], "hosts": [{"name": "*.example.test"}]});
    let plans = json!({"standard": {"requests_per_second": 3}});
    let file = lab.folder().join("platforms.yaml");
    fs::write(&file, json!({"platforms": {"dev": dev}, "plans": plans}).to_string()).unwrap();
    lab.stack.layout.control_plane_args.push(format!("--platforms={}", file.display()));
    lab.stack.start(|_| ()).await.unwrap();
    let (busy, other) = (lab.service("busy"), lab.service("other"));
    lab.live(&busy).await;
    lab.live(&other).await;
    let mut statuses = Vec::new();
    for _ in 0..30 {
        statuses.push(lab.get(busy.host(), "/healthz", None).await.status);
    }
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert_eq!(statuses[0], 200);
    assert!(refused > 0 && statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    assert_eq!(lab.get(other.host(), "/healthz", None).await.status, 200, "each has its own");
    lab.stop().await;
}

/// A build server signs in with a token of its own; each platform sees what is its own.
#[tokio::test]
async fn a_platform_may_sign_in_with_a_token_and_sees_its_own_services_only() {
    let mut lab = Lab::prepare(|_| ()).await;
    let (ci, hash) = credentials(&lab, "ci").await;
    let builds = json!({
        "tokens": {"issuer": "https://id.example.test/", "audience": "gatehouse", "claims": {"sub": "build"}},
        "tenant": "token.sub", "hosts": [{"name": "*.example.test", "tenants": ["build"]}],
    });
    let others = json!({"secrets": [hash], "hosts": [{"name": "*.other.test"}]});
    let file = lab.folder().join("platforms.yaml");
    fs::write(&file, json!({"platforms": {"builds": builds, "ci": others}}).to_string()).unwrap();
    lab.stack.layout.control_plane_args.push(format!("--platforms={}", file.display()));
    lab.stack.start(|_| ()).await.unwrap();
    let path = lab.folder().join("hello.yaml");
    fs::write(&path, lab.service("hello").parameters.to_string()).unwrap();
    let token = async |subject: &str, audience: &str| {
        let output = lab.gatehouse(&["token", "--subject", subject, "--audience", audience]).await;
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let good = token("build", "gatehouse").await;
    for bad in [token("mallory", "gatehouse").await, token("build", "hello").await, "x".into()] {
        let args = ["apply", path.to_str().unwrap(), "--credentials", "builds", "--token", &bad];
        let (applied, text) = lab.run(&args).await;
        assert!(!applied && text.contains("401"), "{text}");
    }
    let args = ["apply", path.to_str().unwrap(), "--credentials", "builds", "--token", &good];
    let (applied, text) = lab.run(&args).await;
    assert!(applied && text.contains("live: hello.example.test"), "{text}");
    let (_, own) = lab.run(&["status", "--credentials", "builds", "--token", &good]).await;
    let (_, others) = lab.run(&["status", "--credentials", &ci]).await;
    assert!(own.contains("hello.example.test") && !others.contains("hello.example.test"), "{own}{others}");
    let (_, text) = lab.run(&["audit"]).await;
    assert!(text.contains("builds/build"), "{text}");
    lab.stop().await;
}
