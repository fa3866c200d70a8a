//! `--validate-with`: what only Envoy knows is refused before it reaches a proxy.

use std::{fs, path::Path};

use serde_json::json;
use tests::{Lab, envoy, eventually};

const VIRTUAL_HOSTS: &str = include_str!("../../control-plane/templates/defaults/virtual_hosts.yaml");
const LISTENERS: &str = include_str!("../../control-plane/templates/defaults/listeners.yaml");
const VERSION: &str = "1.40.0";
const OLDER: &str = "1.37.0";
const REFUSED: &str = "gatehouse_validator_refused_total{envoy_version=\"1.40.0\"}";
const RUNS: &str = "gatehouse_validator_runs_total{envoy_version=\"1.40.0\"}";

#[tokio::test]
async fn what_envoy_would_refuse_does_not_leave_the_house() {
    // No schema knows that this is no regex. Only the service `bad` renders it.
    let route = "  routes:\n{% if service.name == 'bad' and service.rev > 1 %}  - match: {safe_regex: {regex: '('}}\n    direct_response: {status: 200}\n{% endif %}";
    let envoy = envoy(VERSION).await;
    let lab = Lab::with(|layout| {
        let folder = layout.data_dir.join("templates");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("virtual_hosts.yaml"), VIRTUAL_HOSTS.replace("  routes:\n", route)).unwrap();
        layout.templates = Some(folder);
        layout.control_plane_args.push(format!("--validate-with={}", envoy.display()));
    })
    .await;
    let (good, bad) = (lab.service("good"), lab.service("bad"));
    lab.live(&good).await;
    lab.live(&bad).await;
    lab.update(&bad.clone().with("/routes/0/timeout", json!("7s"))).await;
    let (state, description) = lab.ended(&bad).await;
    assert_eq!(state, "failed");
    assert!(description.contains("Envoy 1.40.0 refuses it: missing ): ("), "{description}");
    assert_eq!(lab.get(bad.host(), "/", Some(&lab.good_token(&bad).await)).await.status, 200);
    lab.change(&good.clone().with("/routes/0/timeout", json!("7s"))).await;
    assert_eq!(lab.control_plane_metric("gatehouse_ads_nacks_total{kind=\"virtual_hosts\"}").await, 0);
    assert_eq!(lab.control_plane_metric(REFUSED).await, 1);

    // The same for what belongs to the edge: Envoy wants both kinds of resumption off.
    let broken = LISTENERS
        .replace("disable_stateful_session_resumption: true", "disable_stateful_session_resumption: false");
    let templates = lab.folder().join("templates");
    fs::write(templates.join("listeners.yaml"), broken).unwrap();
    eventually("the status shows the refusal", || async {
        let fault = lab.status().await["templates"]["fault"].as_str().map(str::to_owned);
        fault.is_some_and(|fault| fault.contains("Envoy 1.40.0 refuses it")).then_some(())
    })
    .await;
    // Services go on, and what was shown once is not shown again.
    lab.change(&good.clone().with("/routes/0/timeout", json!("8s"))).await;
    let runs = lab.control_plane_metric(RUNS).await;
    fs::write(templates.join("listeners.yaml"), LISTENERS).unwrap();
    eventually("the fault is gone", || async {
        lab.status().await["templates"]["fault"].is_null().then_some(())
    })
    .await;
    assert_eq!(lab.control_plane_metric(RUNS).await, runs);
    assert_eq!(lab.control_plane_metric("gatehouse_ads_nacks_total{kind=\"listeners\"}").await, 0);
    let left = fs::read_dir(lab.folder()).unwrap().flatten();
    let left: Vec<_> =
        left.filter(|file| file.file_name().to_string_lossy().starts_with("validate-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What a render says of these templates, with these programs.
async fn render(lab: &Lab, folder: &Path, programs: &str, files: &[(&str, &str)]) -> String {
    fs::create_dir_all(folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
    let (templates, context) = (folder.display().to_string(), folder.join("values.txt"));
    let hosts: Vec<_> = (0..40)
        .map(|at| json!({"name": format!("h{at}"), "regex": if at % 17 == 5 { "(" } else { "a.*" }}))
        .collect();
    fs::write(&context, json!({"context": {"hosts": hosts}}).to_string()).unwrap();
    let args = [
        "render",
        "--dev",
        "--no-default-templates",
        "--templates",
        &templates,
        "--validate-with",
        programs,
        "--context",
        context.to_str().unwrap(),
    ];
    String::from_utf8_lossy(&lab.control_plane(&args).await.stderr).into_owned()
}

#[tokio::test]
async fn of_many_the_bad_ones_are_found_and_each_version_is_asked_for_what_it_gets() {
    let lab = Lab::prepare(|_| ()).await;
    let both = format!("{},{}", envoy(VERSION).await.display(), envoy(OLDER).await.display());
    let hosts = "{# {kind: virtual_hosts, for_each: context.hosts} #}
resources:
- name: {{ ('edge/' ~ item.name) | tojson }}
  domains: [{{ item.name | tojson }}]
  routes: [{match: {safe_regex: {regex: {{ item.regex | tojson }}}}, direct_response: {status: 200}}]
";
    let told = render(&lab, &lab.folder().join("hosts"), &both, &[("hosts.yaml", hosts)]).await;
    let mistakes: Vec<_> = told.lines().collect();
    assert_eq!(mistakes.len(), 3, "{told}");
    for (mistake, host) in mistakes.iter().zip(["h22", "h39", "h5"]) {
        let words = format!("hosts/{host}: Envoy 1.40.0 refuses it: missing ): (");
        assert_eq!(*mistake, words);
    }

    // A filter that the older one does not know.
    let listener = |header: &str, filter: &str| {
        format!(
            "{{# {{kind: listeners{header}}} #}}
resources:
- name: a
  address: {{socket_address: {{address: 127.0.0.1, port_value: 80}}}}
  filter_chains:
  - filters:
    - name: http
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: a
        route_config: {{name: a}}
        http_filters:
        {filter}
        - name: router
          typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
"
        )
    };
    let share = "- {name: share, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.bandwidth_share.v3.BandwidthShare}}";
    let (all, plain) = (listener("", share), listener("", ""));
    let all = render(&lab, &lab.folder().join("all"), &both, &[("own.yaml", &all)]).await;
    assert!(all.contains("Envoy 1.37.0 refuses it") && !all.contains("Envoy 1.40.0"), "{all}");
    let new = listener(", match: {envoy_version: ['1.40.*']}, replaces: own.yaml", share);
    let files = [("own.yaml", &*plain), ("new.yaml", &new)];
    let told = render(&lab, &lab.folder().join("matched"), &both, &files).await;
    assert!(told.starts_with("valid: "), "{told}");
    for (program, words) in [
        ("/nowhere/envoy", "--validate-with: running /nowhere/envoy"),
        ("/bin/true", "--validate-with: /bin/true --version: must say"),
    ] {
        let told = render(&lab, &lab.folder().join("matched"), program, &files).await;
        assert!(told.contains(words), "{told}");
    }
}
