//! What the documentation of Sovereign shows, and what becomes of it.

use super::*;

fn imported(files: &[(&str, &str)], config: &[&str]) -> (BTreeMap<String, String>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let paths: Vec<_> = config
        .iter()
        .enumerate()
        .map(|(at, text)| {
            let path = folder.path().join(format!("config-{at}.yaml"));
            fs::write(&path, text).unwrap();
            path
        })
        .collect();
    let done = import(&paths).unwrap();
    (done.files.into_iter().collect(), done.left)
}

fn sources(files: &BTreeMap<String, String>) -> Value {
    let sources: Value = serde_norway::from_str(&files["sources.yaml"]).unwrap();
    sources["sources"].clone()
}

#[test]
fn context_comes_along_in_either_notation() {
    let old = "
template_context:
  regions: file+json:///etc/regions.json
  hosts: https://inventory.test/hosts
  Limits: s3+ujson://bucket/limits.json
  colour: inline+string://blue
  secret: env://SECRET
  helper: module://my.module:fn
context_refresh_rate: 60
";
    let (files, left) = imported(&[], &[old]);
    assert_eq!(
        sources(&files),
        json!({
            "colour": {"inline": "blue"},
            "hosts": {"http": "https://inventory.test/hosts", "format": "yaml", "interval": "60s"},
            "limits": {"s3": "s3://bucket/limits.json", "format": "json", "interval": "60s"},
            "regions": {"file": "/etc/regions.json", "format": "json", "interval": "60s"},
        })
    );
    assert_eq!(
        left,
        [
            "template_context.secret: the environment is no source here; write it to a file",
            "template_context.helper: \"module\" runs Python or code of your own; write what it gives to a file",
        ]
    );
    let new = "
template_context:
  refresh_rate: 30
  context:
    regions: {protocol: file, serialization: yaml, path: /etc/regions.yaml}
    hosts: {interval: 5, spec: {loader: https, deserialize_with: json, target: inventory.test/hosts}}
    words: {protocol: inline, serialization: yaml, path: '[a, b]'}
";
    let (files, left) = imported(&[], &[new]);
    assert_eq!(
        sources(&files),
        json!({
            "hosts": {"http": "https://inventory.test/hosts", "format": "json", "interval": "5s"},
            "regions": {"file": "/etc/regions.yaml", "format": "yaml", "interval": "30s"},
            "words": {"inline": ["a", "b"]},
        })
    );
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn templates_get_a_header_and_the_names_that_they_use() {
    let clusters = "resources:\n{% for instance in instances %}\n- {name: {{ instance.name }}, x: {{ regions[0] }}}\n{% endfor %}\n";
    let config = "
sources:
- type: inline
  config: {instances: [{name: a, service_clusters: [T1]}]}
template_context: {context: {regions: {protocol: inline, serialization: json, path: '[1]'}, unused: 'inline://x'}}
templates:
  default:
  - {type: clusters, spec: {protocol: file, serialization: jinja2, path: clusters.yaml}}
  - {type: scoped-routes, spec: {protocol: inline, serialization: yaml, path: 'resources: []'}}
  - {type: listeners, spec: {protocol: python, path: listeners.py}}
  '1.36': [{type: clusters, spec: {protocol: file, serialization: jinja2, path: clusters.yaml}}]
modifiers: [mine]
";
    let (files, left) = imported(&[("clusters.yaml", clusters)], &[config]);
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "edge.yaml",
            "sources.yaml",
            "templates/sovereign_clusters.yaml",
            "templates/sovereign_clusters_1.36.yaml",
            "templates/sovereign_scoped_routes.yaml",
        ]
    );
    let default = &files["templates/sovereign_clusters.yaml"];
    assert!(default.starts_with("{#\nkind: clusters\n#}\n"), "{default}");
    assert!(default.contains("{%- set regions = context.regions %}"), "{default}");
    assert!(default.contains("if node.cluster in one.service_clusters"), "{default}");
    assert!(!default.contains("unused"), "{default}");
    assert!(default.ends_with(clusters), "{default}");
    let versioned = &files["templates/sovereign_clusters_1.36.yaml"];
    assert!(
        versioned.starts_with(
            "{#\nkind: clusters\nmatch: {envoy_version: [\"1.36*\"]}\nreplaces: sovereign_clusters.yaml\n#}\n"
        ),
        "{versioned}"
    );
    assert_eq!(
        left,
        [
            "templates.default.listeners: Python templates do not come along; write it as Jinja2 over the context",
            "modifiers: code of your own; change the instances where they come from, or in a template",
        ]
    );
}

#[test]
fn what_templates_cannot_have_here_is_told_with_its_line() {
    let text = "resources:\n- name: {{ crypto.decrypt(x) }}\n  zone: {{ discovery_request.node.locality.zone }}\n  a: {{ discovery_request.node.cluster }}\n  b: yes\n";
    let config = "templates: {default: {clusters: 'file+jinja://t.yaml', planets: 'inline://x', routes: 'file+jinja://nowhere.yaml'}}";
    let (files, left) = imported(&[("t.yaml", text)], &[config]);
    assert!(files["templates/sovereign_clusters.yaml"].contains("set discovery_request"));
    assert_eq!(left.len(), 5, "{left:#?}");
    for (told, words) in left.iter().zip([
        "templates.default.clusters, line 2: \"crypto.\" is not known here",
        "templates.default.clusters, line 3: of `discovery_request` only `node.cluster` is known",
        "templates.default.clusters, line 5: `yes` is a text in YAML 1.2",
        "templates.default.planets: the type is none of listeners",
        "templates.default.routes: reading nowhere.yaml",
    ]) {
        assert!(told.starts_with(words), "{told}");
    }
}

#[test]
fn several_files_are_one() {
    let one =
        "sources: [{type: inline, config: {instances: [1]}}]\ntemplate_context: {a: 'inline+yaml://[1]'}";
    let two = "sources: [{type: inline, config: {instances: [2]}}, {type: mine}]\ntemplate_context: {b: 'inline+yaml://[2]'}\nmatching: {enabled: false}";
    let (files, left) = imported(&[], &[one, two]);
    let expected = json!({"a": {"inline": [1]}, "b": {"inline": [2]}, "instances": {"inline": [1, 2]}});
    assert_eq!(sources(&files), expected);
    assert_eq!(left, ["sources[2].type: \"mine\" is code of your own; write the instances to a file"]);
}
