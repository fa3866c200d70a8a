//! `gatehouse-control-plane render`: what templates make of a context, before any of it is live.

use std::{fs, path::Path, process::Output};

use serde_json::json;
use tests::{Lab, project};

/// A cluster for each item, for nodes of one stage another one.
const CLUSTERS: &str = "{#
kind: clusters
for_each: context.hosts
#}
resources:
- {name: {{ item.id | tojson }}, connect_timeout: 1s}
";
const CANARY: &str = "{#
kind: clusters
for_each: context.hosts
match: {metadata: {stage.name: [canary]}}
replaces: own.yaml
#}
resources:
- {name: {{ item.id | tojson }}, connect_timeout: 3s}
";
/// The items have no `name`.
const KEY: (&str, &str) = ("context.hosts\n", "context.hosts\nkey: id\n");

fn write(folder: &Path, files: &[(&str, &str)]) -> String {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder.display().to_string()
}

/// What it ended with, and all that it said.
fn told(output: &Output) -> (i32, String) {
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().expect("it ended by itself"), format!("{out}{errors}"))
}

#[track_caller]
fn check(output: &Output, code: i32, words: &[&str]) -> String {
    let (ended, told) = told(output);
    assert_eq!(ended, code, "{told}");
    for word in words {
        assert!(told.contains(word), "{word:?} is not in:\n{told}");
    }
    told
}

/// A lab without processes, with a folder of templates.
async fn prepared() -> (Lab, String) {
    let lab = Lab::prepare(|_| ()).await;
    let (own, canary) = (CLUSTERS.replace(KEY.0, KEY.1), CANARY.replace(KEY.0, KEY.1));
    let folder = write(&lab.folder().join("templates"), &[("own.yaml", &own), ("canary.yaml", &canary)]);
    (lab, format!("--templates={folder}"))
}

#[tokio::test]
async fn a_render_offline_shows_what_comes_of_node_context_and_services() {
    let (lab, templates) = prepared().await;
    let folder = lab.folder().join("try");
    let folder = write(
        &folder,
        &[
            ("context.yaml", "context: {hosts: [{id: a}, {id: b}]}\n"),
            ("sources.yaml", "sources: {hosts: {inline: [{id: from-a-source}]}}\n"),
            ("gone.yaml", "sources: {hosts: {file: /nowhere}}\n"),
            ("node.yaml", "id: edge/i-1\nmetadata: {stage: {name: canary}}\n"),
            ("wrong.yaml", "id: edge/i-1\nmetdata: {}\n"),
            ("bad.yaml", "context: {hosts: [{id: a}, {}]}\n"),
        ],
    );
    let at = |flag: &str, file: &str| format!("--{flag}={folder}/{file}");
    let render = async |args: &[&str]| {
        lab.control_plane(&[&["render", "--dev", "--no-default-templates", &templates], args].concat()).await
    };
    let plain = render(&[&at("context", "context.yaml")]).await;
    check(&plain, 0, &["connect_timeout: 1s", "valid: 2 clusters"]);
    let canary = render(&[&at("context", "context.yaml"), &at("node", "node.yaml")]).await;
    let canary = check(&canary, 0, &["connect_timeout: 3s"]);
    assert!(!canary.contains("connect_timeout: 1s"), "{canary}");
    let fetched = render(&[&at("sources", "sources.yaml")]).await;
    check(&fetched, 0, &["from-a-source", "valid: 1 clusters"]);
    for (args, words) in [
        (vec![], "context.hosts: is not in the context"),
        (vec![at("context", "bad.yaml")], "context.hosts[1].id: a text of 1 to 256 characters"),
        (vec![at("node", "wrong.yaml")], "wrong.yaml: node: unrecognized field name 'metdata'"),
        (vec![at("context", "nothing.yaml")], "nothing.yaml"),
        (vec![at("sources", "gone.yaml")], "--sources: hosts: No such file"),
    ] {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        check(&render(&args).await, 1, &[words]);
    }
    let hello = project().join("examples/hello.yaml").display().to_string();
    let with_defaults = lab.control_plane(&["render", "--dev", &hello]).await;
    check(&with_defaults, 0, &["hello.example.test", "2 listeners", "2 virtual_hosts"]);
}

#[tokio::test]
async fn golden_cases_hold_what_is_expected_and_show_what_is_not() {
    let (lab, templates) = prepared().await;
    let golden = lab.folder().join("golden");
    let cases = write(
        &golden,
        &[
            ("two-hosts/context.yaml", "context: {hosts: [{id: a}, {id: b}]}\n"),
            ("canary/context.yaml", "context: {hosts: [{id: a}]}\n"),
            ("canary/node.yaml", "metadata: {stage: {name: canary}}\n"),
            ("refused/context.yaml", "context: {hosts: [{}]}\n"),
        ],
    );
    let cases = format!("--golden={cases}");
    let run = async |args: &[&str]| {
        let all = [&["render", "--dev", "--no-default-templates", &templates, &cases], args].concat();
        lab.control_plane(&all).await
    };
    check(&run(&[]).await, 1, &["canary/expected.yaml: --update writes it"]);
    check(&run(&["--update"]).await, 0, &["3 cases, written"]);
    check(&run(&[]).await, 0, &["3 cases, 0 of them different"]);
    let expected = fs::read_to_string(golden.join("canary/expected.yaml")).unwrap();
    assert!(expected.contains("--- # clusters a") && expected.contains("connectTimeout: 3s"), "{expected}");
    let refused = fs::read_to_string(golden.join("refused/expected.yaml")).unwrap();
    assert_eq!(refused, "# refused\ncontext.hosts[0].id: a text of 1 to 256 characters\n");
    fs::write(golden.join("canary/context.yaml"), "context: {hosts: [{id: other}]}\n").unwrap();
    let words = ["-name: a", "+name: other", "3 cases, 1 of them different"];
    check(&run(&[]).await, 2, &words);
    fs::write(golden.join("canary/contxt.yaml"), "").unwrap();
    check(&run(&[]).await, 1, &["--golden: canary: one of context.yaml,", "got \"contxt.yaml\""]);
}

#[tokio::test]
async fn a_diff_shows_what_would_change_if_the_templates_were_live() {
    let (lab, folder) = Lab::with_templates(&[]).await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let edge = lab.stack.layout.run_dir().join("edge.yaml").display().to_string();
    let templates = format!("--templates={}", folder.display());
    let node = write(lab.folder(), &[("node.yaml", "id: edge/local\ncluster: edge\n")]) + "/node.yaml";
    let file = lab.folder().join("hello.yaml");
    fs::write(&file, hello.clone().with("/routes/0/timeout", json!("7s")).parameters.to_string()).unwrap();
    let render = async |args: &[&str]| {
        let fixed = ["render", "--dev", "--diff", "--edge", &edge, &templates, "--node", &node];
        lab.control_plane(&[&fixed, args].concat()).await
    };
    // Its certificate is there too, whose key nobody is shown.
    let same = check(&render(&[]).await, 0, &["0 changed, 0 new, 0 gone"]);
    assert!(!same.contains("0 the same"), "{same}");
    let changed = render(&[file.to_str().unwrap()]).await;
    check(&changed, 2, &["-    timeout: 15s", "+    timeout: 7s", "1 changed, 0 new, 0 gone"]);
    // The templates of a checkout, which are not served yet.
    let mine = lab.folder().join("mine");
    let more = "{# kind: clusters #}\nresources: [{name: more, connect_timeout: 1s}]\n";
    let mine = format!("--templates={}", write(&mine, &[("more.yaml", more)]));
    let fixed = ["render", "--dev", "--diff", "--edge", &edge, &mine, "--node", &node];
    check(&lab.control_plane(&fixed).await, 2, &["+++ clusters more", "0 changed, 1 new, 0 gone"]);
    for (args, words) in [
        (["--token", "wrong"], "--diff: 401 Unauthorized: the token of an operator is needed"),
        (["--url", "http://127.0.0.1:1"], "--diff: no control plane at http://127.0.0.1:1/"),
        (["--url", "x"], "--url: got \"x\""),
    ] {
        check(&render(&args).await, 1, &[words]);
    }
    check(&render(&["--polling"]).await, 1, &["node: nothing is rendered for `rest`"]);
    let context = lab.gatehouse(&["fleet", "context"]).await;
    let context = String::from_utf8_lossy(&context.stdout).into_owned();
    assert!(context.contains("key: '[redacted]'") && !context.contains("PRIVATE KEY"), "{context}");
}

#[tokio::test]
async fn a_group_runs_the_chain_or_the_guard_and_no_mixture() {
    let lab = Lab::prepare(|_| ()).await;
    let rendered = async |sidecars: &str| {
        let edge = lab.folder().join("edge.yaml");
        fs::write(&edge, format!("sidecars: {sidecars}\n")).unwrap();
        lab.control_plane(&["render", "--dev", &format!("--edge={}", edge.display())]).await
    };
    let chain =
        check(&rendered("[authn, authz, ratelimit]").await, 0, &["name: authz", "gatehouse_ratelimit"]);
    assert!(!chain.contains("guard"), "{chain}");
    let guard = check(&rendered("[guard]").await, 0, &["name: guard", "gatehouse_guard"]);
    for other in ["name: authn", "name: authz", "gatehouse_authn", "gatehouse_authz", "gatehouse_ratelimit"] {
        assert!(!guard.contains(other), "{other} is in:\n{guard}");
    }
    for mixture in ["[authn, guard]", "[guard, authn, authz, ratelimit]", "[guard, guard]"] {
        check(&rendered(mixture).await, 1, &["--edge: sidecars: the guard does what the others do"]);
    }
}
