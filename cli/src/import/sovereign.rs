//! Sovereign's configuration, of both lines (0.32 and 1.0), as its documentation has it: templates, context,
//! sources, matching. Python cannot come along.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::Imported;

/// Where something is loaded from: `file+jinja2:///etc/clusters.yaml`, or the same in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Loadable {
    protocol: String,
    format: Option<String>,
    path: String,
}

/// Reads and merges the files, and converts what they say.
pub(super) fn import(files: &[PathBuf]) -> anyhow::Result<Imported> {
    let mut config = Value::Null;
    for file in files {
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let value = serde_norway::from_str(&text).with_context(|| file.display().to_string())?;
        merge(&mut config, value);
    }
    let folder = files.last().and_then(|file| file.parent()).unwrap_or(Path::new(".")).to_owned();
    let mut import =
        Import { folder, sources: Map::new(), names: BTreeMap::new(), done: Imported::default() };
    import.context(&config);
    let instances = import.instances(&config);
    import.templates(&config, instances.as_ref());
    import.others(&config);
    let Import { sources, mut done, .. } = import;
    let yaml = |value: &Value| serde_norway::to_string(value).context("writing YAML");
    done.files.push(("sources.yaml".into(), yaml(&json!({ "sources": sources }))?));
    // Its nodes know nothing of groups, and run none of our sidecars.
    let edge = json!({"sidecars": [], "rest": {"clusters": ["*"]}});
    done.files.push(("edge.yaml".into(), yaml(&edge)?));
    Ok(done)
}

/// Mappings are merged, lists are joined, and anything else is replaced, as Sovereign does with several files.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => into.extend(from),
        (into, from) => *into = from,
    }
}

struct Import {
    /// What relative paths are looked for in, if not in the current folder.
    folder: PathBuf,
    sources: Map<String, Value>,
    /// What templates call the context, and what we do.
    names: BTreeMap<String, String>,
    done: Imported,
}

/// How to tell the instances of a node.
struct Instances {
    /// The field of an instance that lists the clusters of nodes that get it; `None` when all get all.
    key: Option<String>,
}

/// Seconds between two reads of the context, when the configuration says nothing.
const REFRESH_SECS: u64 = 3_600;
/// The same for instances.
const SOURCES_REFRESH_SECS: u64 = 30;
/// The types that it knows by these names, and we too.
const KINDS: [&str; 8] = [
    "listeners",
    "routes",
    "scoped_routes",
    "clusters",
    "endpoints",
    "secrets",
    "runtime",
    "extension_configs",
];
/// Variables and functions that only Python has.
const PYTHON_ONLY: [&str; 5] = ["crypto.", "host_header", "__hide_from_ui", "utils.", "eds."];

impl Loadable {
    /// Either a text, or a mapping with `protocol` (or `loader`), `serialization` (or `deserialize_with`) and `path`
    /// (or `target`).
    fn of(value: &Value) -> Option<Self> {
        if let Some(text) = value.as_str() {
            let Some((scheme, path)) = text.split_once("://") else {
                return Some(Self {
                    protocol: "inline".into(),
                    format: Some("string".into()),
                    path: text.into(),
                });
            };
            let (protocol, format) = scheme.split_once('+').unwrap_or((scheme, "yaml"));
            let path =
                if protocol.starts_with("http") { format!("{protocol}://{path}") } else { path.into() };
            return Some(Self { protocol: protocol.into(), format: Some(format.into()), path });
        }
        let value = if value["spec"].is_object() { &value["spec"] } else { value };
        let text =
            |names: [&str; 2]| names.into_iter().find_map(|name| value[name].as_str()).map(str::to_owned);
        Some(Self {
            protocol: text(["protocol", "loader"])?,
            format: text(["serialization", "deserialize_with"]),
            path: text(["path", "target"])?,
        })
    }

    /// The settings of one of our sources; the error says why there are none.
    fn source(&self, interval_secs: u64) -> Result<Value, String> {
        let format = match self.format.as_deref().unwrap_or("yaml") {
            "yaml" => "yaml",
            "json" | "ujson" | "orjson" => "json",
            "string" | "raw" | "none" | "passthrough" => "text",
            other => return Err(format!("its format {other:?} is none of yaml, json, toml and text")),
        };
        let (place, value) = match self.protocol.as_str() {
            "file" => ("file", json!(self.path)),
            "http" | "https" if self.path.contains("://") => ("http", json!(self.path)),
            "http" | "https" => ("http", json!(format!("{}://{}", self.protocol, self.path))),
            "s3" => ("s3", json!(format!("s3://{}", self.path))),
            "inline" if format == "text" => ("inline", json!(self.path)),
            "inline" => {
                let parsed: Result<Value, _> = serde_norway::from_str(&self.path);
                ("inline", parsed.map_err(|error| format!("its text is not {format}: {error}"))?)
            }
            "env" => return Err("the environment is no source here; write it to a file".into()),
            other => {
                return Err(format!(
                    "{other:?} runs Python or code of your own; write what it gives to a file"
                ));
            }
        };
        let mut source = json!({ place: value });
        if place != "inline" {
            source["format"] = json!(format);
            source["interval"] = json!(format!("{interval_secs}s"));
        }
        Ok(source)
    }
}

impl Import {
    fn leave(&mut self, what: impl Into<String>) {
        self.done.left.push(what.into());
    }

    fn context(&mut self, config: &Value) {
        let settings = &config["template_context"];
        // The old line has the names at the top, the new one below `context`.
        let context = if settings["context"].is_object() { &settings["context"] } else { settings };
        let refresh = settings["refresh_rate"].as_u64().or(config["context_refresh_rate"].as_u64());
        if !settings["refresh_cron"].is_null() || !config["context_refresh_cron"].is_null() {
            self.leave("template_context.refresh_cron: there is only `interval`, which is set to an hour");
        }
        for (name, value) in context.as_object().into_iter().flatten() {
            if name.starts_with("refresh") || name == "cooldown" || name == "cache" {
                continue;
            }
            let path = format!("template_context.{name}");
            let interval = value["interval"].as_u64().or(refresh).unwrap_or(REFRESH_SECS).max(1);
            let source = Loadable::of(value).ok_or("it says neither where it comes from nor how".to_owned());
            match source.and_then(|source| source.source(interval)) {
                Ok(source) => {
                    let own = self.name(name);
                    self.sources.insert(own.clone(), source);
                    self.names.insert(name.clone(), own);
                }
                Err(why) => self.leave(format!("{path}: {why}")),
            }
        }
    }

    /// As our sources are called, and not taken.
    fn name(&self, name: &str) -> String {
        let plain = |one: char| if one.is_ascii_alphanumeric() { one.to_ascii_lowercase() } else { '_' };
        let mut own: String = name.chars().map(plain).collect();
        if !own.starts_with(|first: char| first.is_ascii_lowercase()) {
            own.insert_str(0, "c_");
        }
        while self.sources.contains_key(&own) {
            own.push('_');
        }
        own
    }

    /// The instances of all sources, as one source of ours.
    fn instances(&mut self, config: &Value) -> Option<Instances> {
        let sources = config["sources"].as_array()?.clone();
        let interval =
            config["source_config"]["refresh_rate"].as_u64().unwrap_or(SOURCES_REFRESH_SECS).max(1);
        let mut inline = Vec::new();
        let mut found = None;
        for (at, source) in sources.iter().enumerate() {
            let path = format!("sources[{at}]");
            if source["scope"].as_str().is_some_and(|scope| scope != "default") {
                self.leave(format!("{path}.scope: templates see one list, `instances`, without scopes"));
            }
            match source["type"].as_str() {
                Some("inline") => {
                    inline.extend(source["config"]["instances"].as_array().into_iter().flatten().cloned());
                }
                Some("file") => {
                    let config = &source["config"];
                    let spec = if config["spec"].is_object() { &config["spec"] } else { &config["path"] };
                    let loaded = Loadable::of(spec).ok_or("it says no path".to_owned());
                    match loaded.and_then(|loaded| loaded.source(interval)) {
                        Ok(_) if found.is_some() => {
                            self.leave(format!("{path}: only one file of instances comes along; join them"));
                        }
                        Ok(source) => found = Some(source),
                        Err(why) => self.leave(format!("{path}: {why}")),
                    }
                }
                other => self.leave(format!(
                    "{path}.type: {:?} is code of your own; write the instances to a file",
                    other.unwrap_or_default()
                )),
            }
        }
        let source = match (found, inline.is_empty()) {
            (None, true) => return None,
            (None, false) => json!({ "inline": inline }),
            (Some(source), true) => source,
            (Some(source), false) => {
                self.leave("sources: the inline instances; add them to the file of the others");
                source
            }
        };
        self.sources.insert("instances".into(), source);
        self.names.insert("instances".into(), "instances".into());
        let matching = &config["matching"];
        let enabled = matching["enabled"].as_bool().or(config["node_matching"].as_bool()).unwrap_or(true);
        let node_key =
            matching["node_key"].as_str().or(config["node_match_key"].as_str()).unwrap_or("cluster");
        if enabled && node_key != "cluster" {
            self.leave(format!(
                "matching.node_key: {node_key:?}; nodes are told apart by `cluster` here, use `match` in headers"
            ));
        }
        let key = matching["source_key"].as_str().or(config["source_match_key"].as_str());
        let key = key.unwrap_or("service_clusters").to_owned();
        Some(Instances { key: enabled.then_some(key) })
    }

    fn templates(&mut self, config: &Value, instances: Option<&Instances>) {
        let templates = &config["templates"];
        let versions = if templates["versions"].is_object() {
            let mut all = templates["versions"].as_object().cloned().unwrap_or_default();
            all.insert("default".into(), templates["default"].clone());
            all
        } else {
            templates.as_object().cloned().unwrap_or_default()
        };
        for (version, templates) in &versions {
            let pairs: Vec<(String, Value)> = match templates {
                Value::Array(list) => {
                    let pair =
                        |one: &Value| (one["type"].as_str().unwrap_or_default().to_owned(), one.clone());
                    list.iter().map(pair).collect()
                }
                Value::Object(map) => map.iter().map(|(kind, one)| (kind.clone(), one.clone())).collect(),
                _ => continue,
            };
            for (kind, template) in pairs {
                self.template(version, &kind, &template, instances);
            }
        }
    }

    fn template(&mut self, version: &str, kind: &str, template: &Value, instances: Option<&Instances>) {
        let path = format!("templates.{version}.{kind}");
        let label = kind.replace('-', "_");
        if !KINDS.contains(&label.as_str()) {
            self.leave(format!("{path}: the type is none of {}", KINDS.join(", ")));
            return;
        }
        let Some(loaded) = Loadable::of(template) else {
            self.leave(format!("{path}: it says neither where it comes from nor how"));
            return;
        };
        let is_text = matches!(
            loaded.format.as_deref(),
            Some("jinja" | "jinja2" | "yaml" | "json" | "ujson" | "orjson" | "string") | None
        );
        let text = match loaded.protocol.as_str() {
            "file" if is_text => self.read(&loaded.path),
            "inline" if is_text => Ok(loaded.path.clone()),
            "python" | "module" => {
                Err("Python templates do not come along; write it as Jinja2 over the context".into())
            }
            other => Err(format!("templates come from files, and not by {other:?}; fetch it to a file")),
        };
        let text = match text {
            Ok(text) => text,
            Err(why) => {
                self.leave(format!("{path}: {why}"));
                return;
            }
        };
        self.look_for_python(&path, &text);
        let is_default = version == "default";
        let name = |version: &str| {
            let version = if version == "default" { String::new() } else { format!("_{version}") };
            format!("sovereign_{label}{version}.yaml")
        };
        let mut header = format!("{{#\nkind: {label}\n");
        if !is_default {
            // Versions are compared by their beginning there.
            header.push_str(&format!("match: {{envoy_version: [{:?}]}}\n", format!("{version}*")));
            header.push_str(&format!("replaces: {}\n", name("default")));
        }
        header.push_str("#}\n");
        let body = self.variables(&text, instances) + &text;
        self.done.files.push((format!("templates/{}", name(version)), header + &body));
    }

    fn read(&self, path: &str) -> Result<String, String> {
        let here = Path::new(path);
        let beside = self.folder.join(path);
        let found = if here.exists() { here } else { &beside };
        fs::read_to_string(found).map_err(|error| format!("reading {path}: {error}"))
    }

    /// Gives the context the names that the template uses.
    fn variables(&self, text: &str, instances: Option<&Instances>) -> String {
        let mut lines = String::new();
        for (name, own) in &self.names {
            if !has_word(text, name) {
                continue;
            }
            match instances.filter(|_| name == "instances").and_then(|instances| instances.key.as_ref()) {
                None => lines.push_str(&format!("{{%- set {name} = context.{own} %}}\n")),
                Some(key) => lines.push_str(&format!(
                    "{{%- set its = namespace(all=[]) %}}\n{{%- for one in context.{own} %}}\n{{%- if node.cluster in \
                     one.{key} or \"*\" in one.{key} %}}{{% set its.all = its.all + [one] %}}{{% endif %}}\n{{%- endfor \
                     %}}\n{{%- set instances = its.all %}}\n"
                )),
            }
        }
        if has_word(text, "discovery_request") {
            lines.push_str("{%- set discovery_request = {\"node\": node} %}\n");
        }
        lines
    }

    fn look_for_python(&mut self, path: &str, text: &str) {
        for (at, line) in text.lines().enumerate() {
            let line_number = at + 1;
            for word in PYTHON_ONLY {
                if has_word(line, word.trim_end_matches('.')) && line.contains(word) {
                    self.leave(format!("{path}, line {line_number}: {word:?} is not known here"));
                }
            }
            if line.contains("discovery_request.") && !line.contains("discovery_request.node.cluster") {
                self.leave(format!(
                    "{path}, line {line_number}: of `discovery_request` only `node.cluster` is known; use `match` in the header"
                ));
            }
            let value = line.rsplit(": ").next().unwrap_or_default().trim();
            if line.contains(": ") && matches!(value.to_lowercase().as_str(), "yes" | "no" | "on" | "off") {
                self.leave(format!(
                    "{path}, line {line_number}: `{value}` is a text in YAML 1.2, and was a truth value; write true or false"
                ));
            }
        }
    }

    fn others(&mut self, config: &Value) {
        let known = [
            ("modifiers", "code of your own; change the instances where they come from, or in a template"),
            (
                "global_modifiers",
                "code of your own; change the instances where they come from, or in a template",
            ),
            (
                "authentication",
                "nodes may go on to send node.metadata.auth; mutual TLS is what is checked (--xds-client-ca)",
            ),
            (
                "auth_enabled",
                "nodes may go on to send node.metadata.auth; mutual TLS is what is checked (--xds-client-ca)",
            ),
            ("discovery_cache", "not needed: what is rendered is shared by all nodes that get the same"),
            ("cache", "not needed: what is rendered is shared by all nodes that get the same"),
            ("statsd", "metrics are served to Prometheus at /metrics"),
            ("tracing", "not known here"),
            ("sentry_dsn", "not known here; errors are in the log and in `gatehouse status`"),
            ("legacy_fields", "regions and EDS priorities: write them as an inline source"),
            ("eds_priority_matrix", "write it as an inline source"),
            ("regions", "write them as an inline source"),
            ("logging", "see --log"),
        ];
        for (name, why) in known {
            let is_set = |value: &Value| {
                !value.is_null() && value != &json!([]) && value != &json!({}) && value != &json!(false)
            };
            if is_set(&config[name]) {
                self.leave(format!("{name}: {why}"));
            }
        }
    }
}

/// Whether a name stands in the text, and not as a part of another one.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |one: Option<char>| one.is_some_and(|one| one.is_alphanumeric() || one == '_');
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (text[..at].chars().next_back(), text[at + word.len()..].chars().next());
        !is_part(before) && before != Some('.') && !is_part(after)
    })
}

#[cfg(test)]
mod tests;
