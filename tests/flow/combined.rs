//! The chain of sidecars and the guard, side by side: whatever is asked, both answer alike, down to the access log. Limits are
//! in the table of `decisions.rs`: where a busy machine is late for one, it lets pass, in either way.

use std::collections::BTreeMap;

use jwt::testing::{ec_key, signed_by};
use lab::{Layout, Sidecars};
use reqwest::Method;
use serde_json::{Value, json};
use tests::{
    Answer, Lab, Raw, Service, eventually,
    issuer::{self, ISSUER, now},
};

/// What a request brings, beside its method and its path.
struct Asked {
    what: &'static str,
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, String)>,
}

/// An edge with the service that all is asked of.
struct Edge {
    lab: Lab,
    hello: Service,
}

impl Edge {
    async fn start(sidecars: Sidecars) -> Self {
        Self::with(sidecars, |_| ()).await
    }

    async fn with(sidecars: Sidecars, change: impl FnOnce(&mut Layout)) -> Self {
        let lab = Lab::with(|layout| {
            issuer::trust(layout);
            layout.sidecars = sidecars;
            change(layout);
        })
        .await;
        let rule = json!({"issuer": ISSUER, "audiences": ["hello"], "algorithms": ["ES256"]});
        let mut cookie = rule.clone();
        cookie["cookie"] = json!("sid");
        let mut hello = lab
            .service("hello")
            .with("/auth", json!({"any": [{"jwt": rule}, {"api_key": {}}], "anonymous": ["/healthz"]}))
            .with(
                "/authz",
                json!({"rules": [
                    {"allow": {"methods": ["GET"], "paths": ["/docs", "/own"], "scopes": ["read"]}},
                    {"allow": {"paths": ["/admin"], "scopes": ["admin"]}},
                ]}),
            );
        // A route with a policy of its own for authentication, and with that of the service for authorization.
        let mut own = hello.parameters["routes"][0].clone();
        own["path"] = json!("/own");
        own["auth"] = json!({"any": [{"session": cookie}]});
        hello.parameters["routes"].as_array_mut().expect("a list").push(own);
        lab.live(&hello).await;
        Self { lab, hello }
    }

    /// What the client is told, and what the upstream saw, without what is drawn anew for each request.
    async fn answer(&self, asked: &Asked) -> Value {
        let line = format!("{} {} HTTP/1.1", asked.method, asked.path);
        let mut request = Raw::line(line).header("host", self.hello.host());
        for (name, value) in &asked.headers {
            request = request.header(*name, value);
        }
        told(&request.send(&self.lab).await)
    }

    /// What the access log says about a request for this path.
    async fn logged(&self, path: &str) -> Value {
        let mut record = self.lab.logged(path).await;
        for name in ["time", "duration_us", "upstream_duration_us", "request_id", "client", "upstream"] {
            record.as_object_mut().expect("an object").remove(name);
        }
        record["headers"].as_object_mut().expect("an object").remove("x-request-id");
        record
    }
}

fn told(answer: &Answer) -> Value {
    let drawn = ["date", "x-envoy-upstream-service-time", "content-length"];
    let headers: BTreeMap<_, _> =
        answer.headers.iter().filter(|(name, _)| !drawn.contains(&name.as_str())).collect();
    let mut body = answer.json();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("id");
        if let Some(seen) = fields.get_mut("headers").and_then(Value::as_object_mut) {
            for name in ["x-request-id", "x-forwarded-for", "x-envoy-expected-rq-timeout-ms"] {
                seen.remove(name);
            }
        }
    }
    json!({"status": answer.status, "headers": headers, "body": body})
}

fn token(subject: &str, scope: &str, lifetime: i64) -> (&'static str, String) {
    let expires = i64::try_from(now()).expect("a time") + lifetime;
    let claims = json!({
        "iss": ISSUER, "sub": subject, "aud": "hello", "scope": scope, "tenant": "acme", "groups": ["dev"],
        "iat": now(), "exp": expires, "jti": "1",
    });
    ("authorization", format!("Bearer {}", signed_by(&ec_key(), "ES256", "ec", &claims)))
}

fn session(bearer: &str) -> (&'static str, String) {
    ("cookie", bearer.replace("Bearer ", "sid="))
}

fn table() -> Vec<Asked> {
    let asked = |what, method, path, headers| Asked { what, method, path, headers };
    let reader = || token("alice", "read", 600);
    let spoofed = || ("x-gatehouse-subject", "root".to_owned());
    vec![
        asked("nobody", "GET", "/docs/1", vec![]),
        asked("a reader", "GET", "/docs/2", vec![reader()]),
        asked("a reader who writes", "POST", "/docs/3", vec![reader()]),
        asked("a reader elsewhere", "GET", "/admin/4", vec![reader()]),
        asked("somebody without scopes", "GET", "/docs/5", vec![token("bob", "", 600)]),
        asked("an administrator", "DELETE", "/admin/6", vec![token("eve", "admin", 600)]),
        asked("a token that has expired", "GET", "/docs/7", vec![token("alice", "read", -600)]),
        asked("no token at all", "GET", "/docs/8", vec![("authorization", "Bearer x".to_owned())]),
        asked("two tokens", "GET", "/docs/9", vec![reader(), token("bob", "read", 600)]),
        asked("a password", "GET", "/docs/10", vec![("authorization", "Basic eDp5".to_owned())]),
        asked("a key that nobody has", "GET", "/docs/11", vec![("x-api-key", "gatehouse_0a_x".to_owned())]),
        asked("nobody where nobody is asked", "GET", "/healthz?12", vec![]),
        asked("a bad token where nobody is asked", "GET", "/healthz?13", vec![token("alice", "read", -600)]),
        asked("who says who it is", "GET", "/healthz?14", vec![spoofed()]),
        asked("a reader who says it is somebody else", "GET", "/docs/15", vec![reader(), spoofed()]),
        asked("a path with two meanings", "GET", "/docs/;x/16", vec![reader()]),
        asked("a path that is encoded twice", "GET", "/docs/%252e/17", vec![reader()]),
        asked("a method that nobody knows", "PROPFIND", "/docs/18", vec![reader()]),
        asked("a route that adds to its service, by nobody", "GET", "/own/19", vec![]),
        asked("a route that adds to its service", "GET", "/own/20", vec![reader()]),
        asked("a session where only such a route takes it", "GET", "/own/21", vec![session(&reader().1)]),
        asked("a session where the service takes none", "GET", "/docs/21", vec![session(&reader().1)]),
        asked("the same against the rules", "POST", "/own/22", vec![reader()]),
    ]
}

#[tokio::test]
async fn whatever_is_asked_both_ways_answer_alike() {
    let (chain, guard) = (Edge::start(Sidecars::Chain).await, Edge::start(Sidecars::Guard).await);
    for asked in table() {
        let (one, other) = (chain.answer(&asked).await, guard.answer(&asked).await);
        assert_eq!(one, other, "{}", asked.what);
        assert_eq!(chain.logged(asked.path).await, guard.logged(asked.path).await, "{}", asked.what);
    }
    for edge in [chain, guard] {
        edge.lab.stop().await;
    }
}

/// The default routes, but for a policy of authorization that nobody has.
fn routes_to_nowhere(layout: &mut Layout) {
    let template = tests::project().join("control-plane/templates/defaults/virtual_hosts.yaml");
    let mut text = std::fs::read_to_string(template).expect("the default template");
    for (of, policy) in [
        ("authz_policy: {{ service.id | tojson }}", "authz_policy: nobody"),
        (
            "policy: {{ service.id | tojson }}, rev: \"{{ service.rev }}\"}\n{%- endfor %}",
            "policy: {{ (service.id if sidecar == \"authn\" else \"nobody\") | tojson }}, rev: \"{{ service.rev }}\"}\n{%- endfor %}",
        ),
    ] {
        assert!(text.contains(of), "{of}");
        text = text.replace(of, policy);
    }
    let folder = layout.data_dir.join("templates");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("virtual_hosts.yaml"), text).expect("a template");
    layout.templates = Some(folder);
}

#[tokio::test]
async fn where_the_second_decision_cannot_be_made_both_say_who_it_was_and_let_nobody_pass() {
    let start = |sidecars| Box::pin(Edge::with(sidecars, routes_to_nowhere));
    let (chain, guard) = (start(Sidecars::Chain).await, start(Sidecars::Guard).await);
    let headers = vec![token("alice", "read", 600)];
    let asked = Asked { what: "a reader", method: "GET", path: "/docs/1", headers };
    let (one, other) = (chain.answer(&asked).await, guard.answer(&asked).await);
    assert_eq!(one, other);
    assert_eq!((&one["status"], &one["body"]["status"]), (&json!(503), &json!(503)));
    let (one, other) = (chain.logged("/docs/1").await, guard.logged("/docs/1").await);
    assert_eq!(one, other);
    assert_eq!((&one["subject"], &one["authz_effect"]), (&json!("alice"), &Value::Null));
    for edge in [chain, guard] {
        edge.lab.stop().await;
    }
}

#[tokio::test]
async fn a_key_is_taken_off_and_a_shadow_denial_is_seen_both_ways() {
    let mut all = Vec::new();
    for sidecars in [Sidecars::Chain, Sidecars::Guard] {
        let lab = Lab::with(|layout| layout.sidecars = sidecars).await;
        let hello = lab.service("hello").with_keys();
        lab.apply(&hello).await;
        let key = lab.key(&hello, "billing", "read:hello").await;
        let request = lab.request(Method::GET, hello.host(), "/docs/key").header("x-api-key", &key);
        let seen = lab.send(request).await.expect("an answer");
        assert_eq!(seen.status, 200, "{}", seen.body);
        assert_eq!(seen.upstream_saw("x-gatehouse-method"), ["api_key"]);
        assert!(seen.upstream_saw("x-api-key").is_empty(), "{}", seen.body);
        let shadow = hello.with("/authz/mode", json!("shadow"));
        lab.apply(&shadow).await;
        let request = lab.request(Method::POST, shadow.host(), "/docs/shadowed").header("x-api-key", &key);
        assert_eq!(lab.send(request).await.expect("an answer").status, 200);
        let record = lab.logged("/docs/shadowed").await;
        all.push(
            ["authz_effect", "authz_rule", "authz_mode", "auth_method"].map(|name| record[name].clone()),
        );
        lab.stop().await;
    }
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0], ["deny", "default", "shadow", "api_key"].map(Value::from));
}

#[tokio::test]
async fn a_guard_starts_from_disk_and_without_it_nothing_passes() {
    let mut edge = Edge::start(Sidecars::Guard).await;
    let get = |path: &'static str| Asked {
        what: "a reader",
        method: "GET",
        path,
        headers: vec![token("alice", "read", 600)],
    };
    edge.lab.stack.control_plane.take().expect("it runs").kill().await;
    edge.lab.stack.sidecars.remove("guard").expect("it runs").kill().await;
    assert_eq!(edge.answer(&get("/docs/1")).await["status"], 503);
    assert_eq!(edge.answer(&get("/healthz")).await["status"], 503);
    edge.lab.stack.start_sidecar("guard").await.expect("it starts from disk");
    eventually("Envoy has found it", || async {
        (edge.answer(&get("/docs/2")).await["status"] == 200).then_some(())
    })
    .await;
    let refused = Asked { method: "POST", ..get("/docs/3") };
    assert_eq!(edge.answer(&refused).await["status"], 403);
    let url = format!("http://127.0.0.1:{}/metrics", edge.lab.stack.layout.ports.guard);
    let metrics = reqwest::get(url).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for name in
        ["gatehouse_authn_policies", "gatehouse_authz_policies", "gatehouse_ratelimit_overflow_hits_total"]
    {
        assert!(metrics.contains(name), "{name} is not in {metrics}");
    }
    edge.lab.stop().await;
}

#[tokio::test]
async fn a_route_waits_for_the_guard_and_says_so() {
    let Edge { mut lab, .. } = Edge::start(Sidecars::Guard).await;
    lab.stack.sidecars.remove("guard").expect("it runs").kill().await;
    let late = lab.service("late");
    assert_eq!(lab.provision(&late).await.status, 202);
    eventually("the operation tells what it waits for", || async {
        let body = lab.last_operation(&late).await?.json();
        body["description"].as_str()?.contains("waiting for guard of edge/local to acknowledge").then_some(())
    })
    .await;
    assert_eq!(lab.get(late.host(), "/healthz", None).await.status, 404, "the route is held back");
    lab.stack.start_sidecar("guard").await.expect("it starts");
    assert_eq!(lab.ended(&late).await.0, "succeeded");
    let status = lab.status().await.to_string();
    assert!(status.contains("\"guard\"") && !status.contains("\"authn\""), "{status}");
    assert_eq!(lab.deprovision(&late).await.status, 202);
    assert_eq!(lab.ended(&late).await.0, "gone");
    lab.stop().await;
}
