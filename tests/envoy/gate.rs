//! Templates that would break a proxy do not leave the house.

use std::fs;

use serde_json::json;
use tests::{Lab, eventually};

const VIRTUAL_HOSTS: &str = include_str!("../../control-plane/templates/defaults/virtual_hosts.yaml");
const LISTENERS: &str = include_str!("../../control-plane/templates/defaults/listeners.yaml");

#[tokio::test]
async fn a_template_with_an_unknown_field_is_refused_and_envoy_keeps_what_it_has() {
    let (lab, folder) = Lab::with_templates(&[]).await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    let before = lab.envoy_stat("listener_manager.lds.update_success").await;

    let broken = LISTENERS.replace("normalize_path: true", "normalise_path: true");
    let line = broken.lines().position(|line| line.contains("normalise_path")).expect("the line") + 1;
    assert_ne!(line, 1);
    fs::write(folder.join("listeners.yaml"), broken).unwrap();
    let fault = eventually("the fault is told", || async {
        lab.status().await["templates"]["fault"].as_str().map(str::to_owned)
    })
    .await;
    for words in [
        "listeners.yaml, rendered line",
        "`normalise_path: true`",
        "typed_config",
        "unrecognized field name 'normalise_path'",
    ] {
        assert!(fault.contains(words), "{fault}");
    }
    let output = lab.gatehouse(&["status"]).await;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("unrecognized field name 'normalise_path'"), "{shown}");
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200);
    assert_eq!(lab.envoy_stat("listener_manager.lds.update_success").await, before, "Envoy was not told");

    let other = lab.service("other");
    lab.live(&other).await;
    fs::write(folder.join("listeners.yaml"), LISTENERS).unwrap();
    eventually("the mended template is taken", || async {
        lab.status().await["templates"]["fault"].is_null().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_service_that_fails_the_gate_is_refused_alone_and_its_owner_is_told() {
    let (lab, folder) = Lab::with_templates(&[]).await;
    let (good, bad) = (lab.service("good"), lab.service("bad"));
    lab.live(&good).await;
    lab.live(&bad).await;
    // Only the service `bad` renders the field.
    let template = VIRTUAL_HOSTS
        .replace("  routes:\n", "{% if service.name == 'bad' %}  no_such_field: 1\n{% endif %}  routes:\n");
    assert_ne!(template, VIRTUAL_HOSTS);
    fs::write(folder.join("virtual_hosts.yaml"), template).unwrap();
    eventually("the refusal is told", || async {
        let refused = lab.status().await["refused"].clone();
        (refused[0]["instance"] == bad.id()).then_some(())
    })
    .await;
    for service in [&good, &bad] {
        let token = lab.good_token(service).await;
        assert_eq!(lab.get(service.host(), "/", Some(&token)).await.status, 200, "{}", service.name());
    }
    let answer = lab.update(&bad.clone().with("/routes/0/timeout", json!("7s"))).await;
    assert_eq!(answer.status, 202);
    let (state, description) = lab.ended(&bad).await;
    assert_eq!(state, "failed");
    assert!(
        description.contains("virtual_hosts.yaml") && description.contains("no_such_field"),
        "{description}"
    );
    lab.change(&good.clone().with("/routes/0/timeout", json!("7s"))).await;
    let token = lab.good_token(&bad).await;
    assert_eq!(lab.get(bad.host(), "/", Some(&token)).await.status, 200, "its last good version stays");
}

#[tokio::test]
async fn a_control_plane_that_would_lose_a_service_at_its_start_serves_nothing_new() {
    let (mut lab, folder) = Lab::with_templates(&[]).await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    lab.stack.control_plane.take().expect("it runs").kill().await;
    fs::write(folder.join("virtual_hosts.yaml"), VIRTUAL_HOSTS.replace("domains:", "domain_names:")).unwrap();
    // It does not become ready; what matters is what the nodes go on with.
    let start = lab.stack.start_control_plane();
    let waited = tokio::time::timeout(std::time::Duration::from_secs(3), start).await;
    assert!(waited.is_err(), "it must not be ready");
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200);
}

#[tokio::test]
async fn a_name_that_two_services_would_share_is_refused_and_both_go_on() {
    let (lab, folder) = Lab::with_templates(&[]).await;
    let (one, two) = (lab.service("one"), lab.service("two"));
    lab.live(&one).await;
    lab.live(&two).await;
    let shared = "{#\nkind: clusters\nfor_each: service\n#}\nresources:\n- {name: shared, connect_timeout: 1s, type: STATIC}\n";
    fs::write(folder.join("own.yaml"), shared).unwrap();
    eventually("the refusal is told", || async {
        let refused = lab.status().await["refused"].clone();
        refused[0]["cause"]
            .as_str()
            .is_some_and(|cause| cause.contains("clusters shared: the name is taken"))
            .then_some(())
    })
    .await;
    for service in [&one, &two] {
        assert_eq!(lab.get(service.host(), "/healthz", None).await.status, 200, "{}", service.name());
    }
    fs::remove_file(folder.join("own.yaml")).unwrap();
    eventually("all is well", || async { (lab.status().await["refused"] == json!([])).then_some(()) }).await;
}

#[tokio::test]
async fn a_control_plane_that_dies_with_a_refused_change_comes_back_with_the_proven_one() {
    let (mut lab, folder) = Lab::with_templates(&[]).await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    // Refused from the second revision on, and then the process dies before anything is rolled back.
    let template = VIRTUAL_HOSTS
        .replace("  routes:\n", "{% if service.rev > 1 %}  no_such_field: 1\n{% endif %}  routes:\n");
    lab.stack.control_plane.take().expect("it runs").kill().await;
    fs::write(folder.join("virtual_hosts.yaml"), template).unwrap();
    lab.stack.start_control_plane().await.expect("revision 1 still renders");
    assert_eq!(lab.update(&hello.clone().with("/routes/0/timeout", json!("7s"))).await.status, 202);
    lab.stack.control_plane.take().expect("it runs").kill().await;
    lab.stack.start_control_plane().await.expect("the proven revision is served");
    let (state, description) = lab.ended(&hello).await;
    assert_eq!(state, "failed", "{description}");
    assert!(description.contains("no_such_field"), "{description}");
    assert_eq!(lab.get(hello.host(), "/healthz", None).await.status, 200);
}

#[tokio::test]
async fn a_folder_of_templates_that_is_replaced_as_a_whole_is_noticed() {
    let (lab, folder) = Lab::with_templates(&[]).await;
    let next = folder.with_file_name("next");
    for (text, fault) in [("broken", true), (LISTENERS, false), ("broken again", true)] {
        fs::create_dir(&next).unwrap();
        fs::write(next.join("listeners.yaml"), text).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        fs::rename(&next, &folder).unwrap();
        eventually(&format!("a fault: {fault}"), || async {
            (lab.status().await["templates"]["fault"].is_string() == fault).then_some(())
        })
        .await;
    }
    // Its files are watched too.
    fs::write(folder.join("listeners.yaml"), LISTENERS).unwrap();
    eventually("it is mended", || async { lab.status().await["templates"]["fault"].is_null().then_some(()) })
        .await;
}

const CLUSTERS: &str = include_str!("../../control-plane/templates/defaults/clusters.yaml");

#[tokio::test]
async fn all_broken_rules_are_told_at_once_and_a_missing_cluster_too() {
    let (lab, folder) = Lab::with_templates(&[]).await;
    let (good, bad) = (lab.service("good"), lab.service("bad"));
    lab.live(&good).await;
    lab.live(&bad).await;
    // Envoy would refuse both for `bad`, and with them all clusters of one response.
    let broken = "{% if service.name == 'bad' %}  connect_timeout: 0s\n  \
                  health_checks: [{}]\n{% else %}  connect_timeout: 1s\n{% endif %}";
    let template = CLUSTERS.replace("  connect_timeout: 1s\n", broken);
    fs::write(folder.join("clusters.yaml"), template).unwrap();
    let cause = refusal_of(&lab, &bad.id()).await;
    for words in [
        "6 mistakes",
        "resources[0].connect_timeout: more than 0s, got 0s",
        "resources[0].health_checks[0].timeout: must be set",
        "(envoy.config.core.v3.HealthCheck.health_checker/required)",
    ] {
        assert!(cause.contains(words), "{cause}");
    }
    fs::write(folder.join("clusters.yaml"), CLUSTERS).unwrap();
    let template = VIRTUAL_HOSTS.replace(
        "route: {cluster: {{ route.cluster | tojson }}",
        "route: {cluster: {{ (\"nowhere\" if service.name == 'bad' else route.cluster) | tojson }}",
    );
    assert_ne!(template, VIRTUAL_HOSTS);
    fs::write(folder.join("virtual_hosts.yaml"), template).unwrap();
    eventually("the missing cluster is told", || async {
        let cause = refusal_of(&lab, &bad.id()).await;
        cause
            .contains("routes[0].route.cluster: names clusters nowhere, which is neither served")
            .then_some(())
    })
    .await;
    for service in [&good, &bad] {
        let token = lab.good_token(service).await;
        assert_eq!(lab.get(service.host(), "/", Some(&token)).await.status, 200, "{}", service.name());
    }
}

async fn refusal_of(lab: &Lab, id: &str) -> String {
    eventually("the refusal is told", || async {
        let refused = lab.status().await["refused"].clone();
        (refused[0]["instance"] == id).then(|| refused[0]["cause"].as_str().unwrap_or_default().to_owned())
    })
    .await
}

/// Of the first change that waits.
async fn held(lab: &Lab, field: &str) -> String {
    eventually("something is held", || async {
        lab.status().await["held"][0][field].as_str().map(str::to_owned)
    })
    .await
}

#[tokio::test]
async fn an_edge_without_listeners_is_held_until_an_operator_confirms_it() {
    let (mut lab, folder) = Lab::with_templates(&[]).await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    let empty = "{#\nkind: listeners\n#}\nresources: []\n";
    fs::write(folder.join("listeners.yaml"), empty).unwrap();
    let why = held(&lab, "why").await;
    assert!(why.contains("listeners: 0 instead of 2"), "{why}");
    // The services go on: only what would be lost waits.
    let other = lab.service("other");
    lab.live(&other).await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200);

    // Neither a restart lets it pass, nor a wrong word.
    lab.stack.control_plane.take().expect("it runs").kill().await;
    let start = lab.stack.start_control_plane();
    assert!(
        tokio::time::timeout(std::time::Duration::from_secs(3), start).await.is_err(),
        "nothing to serve"
    );
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200);
    let wrong = lab.gatehouse(&["fleet", "confirm", "nothing"]).await;
    assert!(!wrong.status.success());
    let told = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(told.contains("id: what is held is"), "{told}");

    let id = held(&lab, "id").await;
    let confirmed = lab.gatehouse(&["fleet", "confirm", &id]).await;
    assert!(confirmed.status.success(), "{}", String::from_utf8_lossy(&confirmed.stderr));
    eventually("the listeners are gone", || async {
        (lab.envoy_stat("listener_manager.total_listeners_active").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn while_pushes_are_paused_nothing_reaches_the_nodes() {
    let (lab, _folder) = Lab::with_templates(&[]).await;
    let (hello, other) = (lab.service("hello"), lab.service("other"));
    lab.live(&hello).await;
    assert!(!lab.gatehouse(&["fleet", "pause", "incident", "--token", "wrong"]).await.status.success());
    assert!(lab.gatehouse(&["fleet", "pause", "incident"]).await.status.success());
    let shown = lab.gatehouse(&["fleet"]).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("paused by dev since") && shown.contains("incident"), "{shown}");
    let updates = lab.envoy_stat("cluster_manager.cds.update_success").await;
    assert_eq!(lab.provision(&other).await.status, 202);
    eventually("the worker waits for the nodes", || async {
        let answer = lab.last_operation(&other).await?;
        answer.body.contains("fleet").then_some(())
    })
    .await;
    assert_eq!(lab.envoy_stat("cluster_manager.cds.update_success").await, updates);
    assert!(lab.gatehouse(&["fleet", "resume"]).await.status.success());
    let (state, description) = lab.ended(&other).await;
    assert_eq!(state, "succeeded", "{description}");
}
