//! The service file: what a developer writes, and what the broker takes as `parameters`.
//!
//! [`ServiceFile::parse`] is the only door: shape by JSON Schema, then the rules that a schema cannot say.

use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

use policy::Engine;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Host, UpstreamUrl,
    auth::{self, Auth, AuthMethod, RouteAuth},
    authz::{Authz, AuthzDefault, AuthzRule},
    plan::Plan,
    rate_limits::RateLimit,
};

/// A service, as its developer described it. All fields are checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceFile {
    /// A DNS label.
    pub service: String,
    /// Of the catalog; without it the one that was ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// The names it answers to; at least one.
    pub hosts: Vec<Host>,
    /// At least one; no two with the same path.
    pub routes: Vec<Route>,
    /// How a request may prove who sends it.
    pub auth: Auth,
    /// Which requests pass.
    pub authz: Authz,
    /// All must have room.
    #[serde(default)]
    pub rate_limits: Vec<RateLimit>,
    /// What is written down.
    #[serde(default)]
    pub access_log: AccessLog,
    /// Always empty in this release.
    #[serde(default)]
    pub filters: Vec<Value>,
    /// Always false in this release.
    #[serde(default)]
    pub cdn: bool,
}

/// Requests for a path, and where they go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// `/prefix` of whole segments, or `=/exact`.
    pub path: String,
    /// Where they go.
    pub upstream: Upstream,
    /// How long the upstream may take for the whole response.
    #[serde(default = "default_timeout")]
    pub timeout: Timeout,
    /// What it asks for beside its service, or in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RouteAuth>,
}

/// The servers behind a route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// All of one scheme.
    pub urls: Vec<UpstreamUrl>,
    /// A path that answers 200 while a server is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<String>,
}

/// `15s`, `500ms`, `2m`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timeout(String, Duration);

impl Timeout {
    /// How long.
    pub fn duration(&self) -> Duration {
        self.1
    }
}

impl TryFrom<String> for Timeout {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit_millis = match &text[digits.len()..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            _ => return Err(format!("a duration such as 15s, got {text:?}")),
        };
        let millis = digits.parse::<u64>().map_err(|_| format!("a duration such as 15s, got {text:?}"))?;
        Ok(Self(text, Duration::from_millis(millis.saturating_mul(unit_millis))))
    }
}

impl From<Timeout> for String {
    fn from(timeout: Timeout) -> Self {
        timeout.0
    }
}

/// What is written down about requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLog {
    /// 0 to 1.
    pub sample: f64,
    /// Headers whose values are never logged.
    pub redact: Vec<String>,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self { sample: 1.0, redact: Vec::new() }
    }
}

fn default_timeout() -> Timeout {
    Timeout("15s".into(), Duration::from_secs(15))
}

/// Where upstreams may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamRule {
    /// Anywhere but on the node itself.
    NoLoopback,
    /// In development, where everything is one machine.
    LoopbackAllowed,
}

/// All that is wrong with a service file, each line with its field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct InvalidService(pub Vec<String>);

static SCHEMA: LazyLock<Value> =
    LazyLock::new(|| match serde_json::from_str(include_str!("../schema/service.json")) {
        Ok(schema) => schema,
        Err(error) => panic!("the schema is part of the binary and must parse: {error}"),
    });

static VALIDATOR: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| match jsonschema::draft7::new(&SCHEMA) {
        Ok(validator) => validator,
        Err(error) => panic!("the schema is part of the binary and must be one: {error}"),
    });

/// The JSON Schema that the catalog publishes.
pub fn service_schema() -> &'static Value {
    &SCHEMA
}

/// So many errors are told at once; more would not be read.
const MAX_ERRORS: usize = 10;

/// Each name is resolved again and again on each node.
const MAX_URLS: usize = 200;

/// A violation of a schema, with its field.
pub(crate) fn told(error: &jsonschema::ValidationError<'_>) -> String {
    match field_path(error.instance_path().as_str()) {
        path if path.is_empty() => error.to_string(),
        path => format!("{path}: {error}"),
    }
}

impl ServiceFile {
    /// Checks everything that can be checked without knowing other services; `authz.tests` too.
    pub fn parse(parameters: &Value, upstreams: UpstreamRule) -> Result<Self, InvalidService> {
        let (file, engine) = Self::read(parameters, upstreams)?;
        let mut failed = file.failed_tests(&engine);
        failed.truncate(MAX_ERRORS);
        if failed.is_empty() { Ok(file) } else { Err(InvalidService(failed)) }
    }

    /// Checks everything but what becomes of the requests in `authz.tests`: for whoever shows just that.
    pub fn parse_untested(parameters: &Value, upstreams: UpstreamRule) -> Result<Self, InvalidService> {
        Self::read(parameters, upstreams).map(|(file, _)| file)
    }

    /// With what decides by it, which takes long to make where there is much Cedar.
    fn read(parameters: &Value, upstreams: UpstreamRule) -> Result<(Self, Engine), InvalidService> {
        let broken: Vec<String> =
            VALIDATOR.iter_errors(parameters).take(MAX_ERRORS).map(|error| told(&error)).collect();
        if !broken.is_empty() {
            return Err(InvalidService(broken));
        }
        let file: Self = serde_json::from_value(parameters.clone())
            .map_err(|error| InvalidService(vec![named(parameters, &error)]))?;
        let broken = file.broken_rules(upstreams);
        // The engine is only asked about paths that mean one thing.
        let engine = if broken.is_empty() { file.authz_engine() } else { Err(broken) };
        match engine {
            Ok(engine) => Ok((file, engine)),
            Err(mut broken) => {
                broken.truncate(MAX_ERRORS);
                Err(InvalidService(broken))
            }
        }
    }

    /// All that may prove who sends a request, on whatever route, each with its place in the file.
    pub fn auth_methods(&self) -> Vec<(String, &AuthMethod)> {
        let mut found = auth::methods("auth", &self.auth.any, &self.auth.all);
        for (at, route) in self.routes.iter().enumerate() {
            if let Some(own) = &route.auth {
                found.extend(auth::methods(&format!("routes[{at}].auth"), &own.any, &own.all));
            }
        }
        found
    }

    fn broken_rules(&self, upstreams: UpstreamRule) -> Vec<String> {
        let mut broken = Vec::new();
        let mut paths = BTreeSet::new();
        let urls: usize = self.routes.iter().map(|route| route.upstream.urls.len()).sum();
        if urls > MAX_URLS {
            broken.push(format!("routes: at most {MAX_URLS} upstream URLs in all, got {urls}"));
        }
        for (at, route) in self.routes.iter().enumerate() {
            let field = format!("routes[{at}]");
            if !paths.insert(normal(&route.path)) {
                broken.push(format!(
                    "{field}.path: no two routes have the same path, got {:?} again",
                    route.path
                ));
            }
            broken.extend(path_rule(&format!("{field}.path"), &route.path));
            broken.extend(route.upstream.broken_rules(&format!("{field}.upstream"), upstreams));
            if let Some(own) = &route.auth {
                let field = format!("{field}.auth");
                broken.extend(own.broken_rules(&field, &self.auth));
                for (at, path) in own.anonymous.iter().enumerate() {
                    broken.extend(path_rule(&format!("{field}.anonymous[{at}]"), path));
                }
            }
        }
        for (at, limit) in self.rate_limits.iter().enumerate() {
            broken.extend(limit.broken_rules(&format!("rate_limits[{at}]")));
        }
        broken.extend(self.auth.broken_rules());
        for (at, path) in self.auth.anonymous.iter().enumerate() {
            broken.extend(path_rule(&format!("auth.anonymous[{at}]"), path));
        }
        if self.authz.cedar.is_some() && self.authz.default == AuthzDefault::Allow {
            broken.push("authz.default: deny, where Cedar decides too, got \"allow\"".to_owned());
        }
        for (at, rule) in self.authz.rules.iter().enumerate() {
            let (field, paths) = match rule {
                AuthzRule::Allow(what) => ("allow", &what.paths),
                AuthzRule::Deny(what) => ("deny", &what.paths),
            };
            for (nth, path) in paths.iter().enumerate() {
                // What a capture is called is another's to check.
                let plain = path.replace(['{', '}'], "");
                let refused = path_rule(&format!("authz.rules[{at}].{field}.paths[{nth}]"), &plain);
                broken.extend(refused);
            }
        }
        broken
    }
}

impl Upstream {
    fn broken_rules(&self, field: &str, rule: UpstreamRule) -> Vec<String> {
        let mut broken = Vec::new();
        for (at, url) in self.urls.iter().enumerate() {
            let field = format!("{field}.urls[{at}]");
            if url.is_forbidden() {
                broken.push(format!(
                    "{field}: link-local, metadata and unspecified addresses are refused, got {url}"
                ));
            }
            if url.is_loopback() && rule == UpstreamRule::NoLoopback {
                broken.push(format!("{field}: loopback upstreams are for development only, got {url}"));
            }
            if url.tls != self.urls[0].tls {
                broken.push(format!("{field}: all of a route's URLs have one scheme, got {url}"));
            }
        }
        if let Some(path) = &self.health_check {
            broken.extend(path_rule(&format!("{field}.health_check"), path));
        }
        broken
    }
}

/// `/a` and `/a/` are the same prefix.
fn normal(path: &str) -> &str {
    if path.starts_with('=') { path } else { path.trim_end_matches('/') }
}

/// The characters of RFC 3986 section 3.3 that can mean only one thing to every upstream.
fn path_rule(field: &str, path: &str) -> Option<String> {
    let text = path.strip_prefix('=').unwrap_or(path);
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~!$&'()+,=:@".contains(&byte));
    let segments = text.trim_start_matches('/').trim_end_matches('/');
    let dotted =
        !segments.is_empty() && segments.split('/').any(|segment| matches!(segment, "" | "." | ".."));
    if plain && !dotted && !text.starts_with("//") && !text.ends_with("//") {
        return None;
    }
    Some(format!(
        "{field}: letters, digits and -._~!$&'()+,=:@ in segments, no dot segments, wildcards, queries, \
         `;`, or `%`, got {path:?}"
    ))
}

/// `/routes/0/path` as people write it: `routes[0].path`.
fn field_path(pointer: &str) -> String {
    let mut path = String::new();
    for part in pointer.split('/').skip(1) {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            path.push_str(&format!("[{part}]"));
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&part.replace("~1", "/").replace("~0", "~"));
        }
    }
    path
}

/// serde knows the value but not where it stood; the lists that can hold a wrong one are few.
fn named(parameters: &Value, error: &serde_json::Error) -> String {
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    for (at, host) in strings(&parameters["hosts"]).into_iter().enumerate() {
        if let Err(why) = Host::try_from(host) {
            return format!("hosts[{at}]: {why}");
        }
    }
    for (at, route) in parameters["routes"].as_array().into_iter().flatten().enumerate() {
        for (nth, url) in strings(&route["upstream"]["urls"]).into_iter().enumerate() {
            if let Err(why) = UpstreamUrl::try_from(url) {
                return format!("routes[{at}].upstream.urls[{nth}]: {why}");
            }
        }
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({
            "service": "hello",
            "hosts": ["hello.example.test"],
            "routes": [{"path": "/", "upstream": {"urls": ["http://127.0.0.1:9001"], "health_check": "/healthz"}}],
            "auth": {"any": [{"jwt": {"issuer": "https://id.example.test/", "audiences": ["hello"], "algorithms": ["ES256"]}}],
                     "anonymous": ["/healthz"]},
            "authz": {"rules": [{"allow": {"methods": ["GET"], "paths": ["/"], "scopes": ["read:hello"]}}]},
            "rate_limits": [{"limit": "100/minute", "per": ["client_ip"]}]
        })
    }

    /// Sets the value at `pointer` and expects these words in the refusal.
    #[track_caller]
    fn check(pointer: &str, value: Value, expected: &[&str]) {
        let mut file = good();
        if let Some(place) = file.pointer_mut(pointer) {
            *place = value;
        } else {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            file.pointer_mut(parent).unwrap()[key] = value;
        }
        let refusal = ServiceFile::parse(&file, UpstreamRule::LoopbackAllowed).unwrap_err().to_string();
        for word in expected {
            assert!(refusal.contains(word), "{refusal:?} does not say {word:?}");
        }
    }

    #[test]
    fn a_good_file_is_read_and_written_back() {
        let file = ServiceFile::parse(&good(), UpstreamRule::LoopbackAllowed).unwrap();
        assert_eq!(file.routes[0].timeout.duration(), Duration::from_secs(15));
        let again = ServiceFile::parse(&serde_json::to_value(&file).unwrap(), UpstreamRule::LoopbackAllowed);
        assert_eq!(again.unwrap(), file);
    }

    #[test]
    fn the_refusal_names_field_value_and_rule() {
        check("/colour", json!("red"), &["colour"]);
        check("/service", json!("Hello"), &["service:", "Hello"]);
        check("/hosts/0", json!("127.0.0.1"), &["hosts[0]:", "not an IP address"]);
        check("/hosts", json!([]), &["hosts:"]);
        check("/routes/0/path", json!("/a;b"), &["routes[0].path:", "/a;b"]);
        check("/routes/0/path", json!("/a\n- x"), &["routes[0].path:"]);
        check("/routes/0/timeout", json!("15"), &["routes[0].timeout:", "15"]);
        check("/routes/0/upstream/urls/0", json!("http://x/y"), &["routes[0].upstream.urls[0]:", "no path"]);
        check(
            "/routes/0/upstream/urls/0",
            json!("http://169.254.169.254"),
            &["routes[0].upstream.urls[0]:", "metadata"],
        );
        check(
            "/routes/0/upstream/urls",
            json!(["http://a.test", "https://a.test"]),
            &["urls[1]:", "one scheme"],
        );
        check("/auth/any/0", json!({"magic": {}}), &["auth.any[0]:", "magic"]);
        check("/auth/any/0", json!({"basic": {}}), &["auth.any[0].basic:", "users"]);
        check(
            "/auth/any/0",
            json!({"api_key": {"header": "X-Key"}}),
            &["auth.any[0].api_key.header:", "X-Key"],
        );
        check(
            "/auth/any/0",
            json!({"api_key": {"header": "sec-websocket-key"}}),
            &["auth.any[0].api_key.header:", "another meaning"],
        );
        check("/auth/any/0/jwt/algorithms", json!(["HS256"]), &["auth.any[0].jwt.algorithms[0]:", "HS256"]);
        check(
            "/auth/any/0/jwt/algorithms",
            json!(["ES256", "RS256"]),
            &["auth.any[0].jwt.algorithms: of one family", "ES256, RS256"],
        );
        check(
            "/auth/any/0/jwt/sender_constrained",
            json!("x"),
            &["auth.any[0].jwt.sender_constrained:", "x"],
        );
        check("/routes/0/auth", json!({"anonymous": ["/x"]}), &["routes[0].auth.anonymous[0]:", "replace"]);
        check("/auth/any/0/jwt/audiences", json!([]), &["auth.any[0].jwt.audiences:"]);
        check("/auth/any/0/jwt/issuer", json!("http://id"), &["auth.any[0].jwt.issuer:", "http://id"]);
        check("/auth/anonymous/0", json!("/a/../b"), &["auth.anonymous[0]:"]);
        check("/authz/rules/0/allow/methods/0", json!("get"), &["authz.rules[0].allow.methods[0]:", "get"]);
        check("/authz/rules/0/allow", json!({}), &["authz.rules[0].allow:"]);
        check("/rate_limits/0/limit", json!("1/fortnight"), &["rate_limits[0].limit:", "fortnight"]);
        check("/rate_limits/0/scope", json!("region"), &["rate_limits[0].scope:", "region"]);
        check("/rate_limits/0/per/0", json!("header:X-Team"), &["rate_limits[0].per[0]:", "X-Team"]);
        check(
            "/rate_limits/0",
            json!({"limit": "1/day", "scope": "fleet", "algorithm": "gcra"}),
            &["rate_limits[0].algorithm: gcra is for the scope node"],
        );
        check("/access_log", json!({"sample": 2}), &["access_log.sample:", "2"]);
        check("/filters", json!([{}]), &["filters:"]);
        check("/cdn", json!(true), &["cdn:"]);
    }

    #[test]
    fn all_errors_are_told_at_once() {
        let mut file = good();
        file["service"] = json!("NO");
        file["cdn"] = json!(true);
        let InvalidService(lines) = ServiceFile::parse(&file, UpstreamRule::LoopbackAllowed).unwrap_err();
        assert_eq!(lines.len(), 2, "{lines:?}");
    }

    #[test]
    fn auth_and_authz_are_never_assumed() {
        for field in ["auth", "authz"] {
            let mut file = good();
            file.as_object_mut().unwrap().remove(field);
            let refusal = ServiceFile::parse(&file, UpstreamRule::LoopbackAllowed).unwrap_err().to_string();
            assert!(refusal.contains(field), "{refusal}");
        }
    }

    #[test]
    fn loopback_upstreams_are_for_development() {
        let refusal = ServiceFile::parse(&good(), UpstreamRule::NoLoopback).unwrap_err().to_string();
        assert!(refusal.contains("routes[0].upstream.urls[0]: loopback"), "{refusal}");
    }

    #[test]
    fn the_same_path_twice_is_refused() {
        let mut file = good();
        let mut again = file["routes"][0].clone();
        again["path"] = json!("/a");
        let mut slashed = again.clone();
        slashed["path"] = json!("/a/");
        file["routes"].as_array_mut().unwrap().extend([again, slashed]);
        let refusal = ServiceFile::parse(&file, UpstreamRule::LoopbackAllowed).unwrap_err().to_string();
        assert!(refusal.contains("routes[2].path: no two routes"), "{refusal}");
    }
}
