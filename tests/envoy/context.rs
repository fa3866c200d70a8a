//! Context sources, from a file to what real Envoy answers.

use std::{fs, path::PathBuf};

use serde_json::Value;
use tests::{Lab, aws, eventually};

/// A virtual host for each item, which answers by itself, so that no sidecar needs to know of it.
const HOSTS: &str = r#"{#
kind: virtual_hosts
for_each: context.hosts
#}
{% from "parts.jinja" import open_to_all %}
resources:
- name: {{ (edge.group ~ "/" ~ item.name) | tojson }}
  domains: {{ item.domains | tojson }}
  typed_per_filter_config: {{ open_to_all() }}
  routes:
  - match: {prefix: /}
    direct_response: {status: 200, body: {inline_string: {{ (context.banner.text ~ " " ~ item.text) | tojson }}}}
"#;
const PARTS: &str = r#"{% macro open_to_all() -%}
{authn: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, disabled: true},
 authz: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, disabled: true},
 decided: {"@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute}}
{%- endmacro %}"#;

/// A lab with these hosts, and the file that they come from.
async fn lab(hosts: &str) -> (Lab, PathBuf) {
    let mut file = PathBuf::new();
    let lab = Lab::with(|layout| {
        let folder = layout.data_dir.join("templates");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("hosts.yaml"), HOSTS).unwrap();
        fs::write(folder.join("parts.jinja"), PARTS).unwrap();
        layout.templates = Some(folder);
        file = layout.data_dir.join("hosts.yaml");
        fs::write(&file, hosts).unwrap();
        let sources = layout.data_dir.join("sources.yaml");
        let text =
            format!("sources: {{hosts: {{file: {}}}, banner: {{inline: {{text: hello}}}}}}", file.display());
        fs::write(&sources, text).unwrap();
        layout.control_plane_args.push(format!("--sources={}", sources.display()));
    })
    .await;
    (lab, file)
}

async fn answers(lab: &Lab, host: &str, expected: &str) {
    eventually(&format!("{host} answers {expected}"), || async {
        (lab.get(host, "/", None).await.body == expected).then_some(())
    })
    .await;
}

fn host(name: &str, text: &str) -> String {
    format!("- {{name: {name}, domains: [{name}.test], text: {text}}}\n")
}

#[tokio::test]
async fn each_item_of_a_list_is_a_host_of_its_own_and_one_bad_item_stays_out_alone() {
    let (lab, file) = lab(&(host("a", "one") + &host("b", "one"))).await;
    answers(&lab, "a.test", "hello one").await;
    answers(&lab, "b.test", "hello one").await;
    // One changes, one comes with a mistake, one comes without.
    let bad = "- {name: bad, domains: [], text: x}\n";
    fs::write(&file, host("a", "two") + &host("b", "one") + &host("c", "new") + bad).unwrap();
    answers(&lab, "a.test", "hello two").await;
    answers(&lab, "c.test", "hello new").await;
    answers(&lab, "b.test", "hello one").await;
    let refused = eventually("the bad one is told", || async {
        let refused = lab.status().await["refused"][0].clone();
        refused.is_object().then_some(refused)
    })
    .await;
    assert_eq!(refused["instance"], "hosts/bad");
    let cause = refused["cause"].as_str().unwrap();
    assert!(cause.contains("hosts.yaml") && cause.contains("domains: at least 1 items"), "{cause}");
    // One goes.
    fs::write(&file, host("a", "two") + &host("c", "new")).unwrap();
    eventually("b is gone", || async { (lab.get("b.test", "/", None).await.status == 404).then_some(()) })
        .await;
    assert_eq!(lab.status().await["refused"], serde_json::json!([]));
}

#[tokio::test]
async fn a_source_that_breaks_changes_nothing_and_is_told() {
    let (mut lab, file) = lab(&host("a", "one")).await;
    answers(&lab, "a.test", "hello one").await;
    fs::write(&file, "<html>502 Bad Gateway</html>").unwrap();
    let source = |status: &Value| {
        let sources = status["sources"].as_array().cloned().unwrap_or_default();
        sources.into_iter().find(|source| source["name"] == "hosts").unwrap()
    };
    let found = eventually("the source is stale", || async {
        let found = source(&lab.status().await);
        (found["freshness"] == "stale").then_some(found)
    })
    .await;
    let error = found["error"].as_str().unwrap();
    assert!(error.contains("a mapping or a list, got \"<html>502 Bad Gateway</html>\""), "{error}");
    assert_eq!(lab.control_plane_metric(r#"gatehouse_context_source_fresh{source="hosts"}"#).await, 0);
    answers(&lab, "a.test", "hello one").await;
    // Over a restart too.
    lab.stack.control_plane.take().expect("it runs").kill().await;
    lab.stack.start_control_plane().await.expect("the last good value is kept");
    assert_eq!(source(&lab.status().await)["freshness"], "stale");
    let hello = lab.service("hello");
    lab.live(&hello).await;
    answers(&lab, "a.test", "hello one").await;
}

#[tokio::test]
async fn a_source_in_s3_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let aws = aws(folder.path()).await;
    aws.bucket("edge").await.unwrap();
    aws.put("edge/hosts.yaml", &host("a", "one")).await.unwrap();
    let lab = Lab::with(|layout| {
        let templates = layout.data_dir.join("templates");
        fs::create_dir(&templates).unwrap();
        fs::write(templates.join("hosts.yaml"), HOSTS).unwrap();
        fs::write(templates.join("parts.jinja"), PARTS).unwrap();
        layout.templates = Some(templates);
        let sources = layout.data_dir.join("sources.yaml");
        let text =
            "sources: {hosts: {s3: 's3://edge/hosts.yaml', interval: 1s}, banner: {inline: {text: s3}}}";
        fs::write(&sources, text).unwrap();
        layout.control_plane_args.push(format!("--sources={}", sources.display()));
        layout.control_plane_env = aws.environment();
    })
    .await;
    answers(&lab, "a.test", "s3 one").await;
    aws.put("edge/hosts.yaml", &host("a", "two")).await.unwrap();
    answers(&lab, "a.test", "s3 two").await;
    let generation = lab.status().await["generation"].clone();
    // Looks that find nothing new change nothing.
    let succeeded = || async { lab.status().await["sources"][1]["succeeded"].as_u64() };
    let first = succeeded().await;
    eventually("it was looked at again", || async { (succeeded().await > first).then_some(()) }).await;
    assert_eq!(lab.status().await["generation"], generation);
}
