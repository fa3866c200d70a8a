//! What has broken other edges, tried on this one: each line of the list in docs/security.md that is an HTTP matter, through
//! a real Envoy, and what comes of it at the upstream.
//!
//! All share one running edge, since it takes seconds to start. No test may change it; those that have to start their own.

mod caches;
mod config_plane;
mod fail_open;
mod floods;
mod identity_headers;
mod leaks;
mod paths;
mod socket;
mod tokens;

use std::sync::{Arc, LazyLock, Weak};

use jwt::testing::{ec_key, rsa_key, signed_by};
use serde_json::{Value, json};
use tests::{
    Answer, Lab, Raw, Service,
    issuer::{self, ISSUER, KEY_ID, KEY_SERVER, now},
};
use tokio::{runtime::Runtime, sync::Mutex};

/// The edge that all attack, and the services on it.
struct Edge {
    lab: Lab,
    /// `/docs` with the scope `read`, `/admin` with the scope `admin`, `/healthz` for everybody.
    hello: Service,
    /// Tokens for another audience, and everything is allowed.
    other: Service,
    /// Tokens in the cookie `sid`.
    session: Service,
    /// Services that sign for themselves.
    asap: Service,
    /// Two requests a day from an address.
    limited: Service,
}

/// Outlives each test, which has a runtime of its own.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
});

/// Gone when the last test that uses it is.
static EDGE: Mutex<Weak<Edge>> = Mutex::const_new(Weak::new());

async fn edge() -> Arc<Edge> {
    let mut running = EDGE.lock().await;
    if let Some(edge) = running.upgrade() {
        return edge;
    }
    let edge = RUNTIME.spawn(Edge::start()).await.expect("the edge starts");
    let edge = Arc::new(edge);
    *running = Arc::downgrade(&edge);
    edge
}

/// A lab that trusts this process.
async fn lab(change: impl FnOnce(&mut lab::Layout)) -> Lab {
    Lab::with(|layout| {
        issuer::trust(layout);
        change(layout);
    })
    .await
}

fn rule(audience: &str, algorithm: &str) -> Value {
    json!({"issuer": ISSUER, "audiences": [audience], "algorithms": [algorithm]})
}

/// See [`Edge::hello`].
fn hello(lab: &Lab) -> Service {
    lab.service("hello")
        .with(
            "/auth",
            json!({
                "any": [{"jwt": rule("hello", "ES256")}, {"jwt": rule("hello", "RS256")}, {"api_key": {}}],
                "anonymous": ["/healthz"],
            }),
        )
        .with(
            "/authz",
            json!({"rules": [
                {"allow": {"methods": ["GET"], "paths": ["/docs"], "scopes": ["read"]}},
                {"allow": {"paths": ["/admin"], "scopes": ["admin"]}},
            ]}),
        )
}

impl Edge {
    async fn start() -> Self {
        let lab = lab(|_| ()).await;
        let open = |name: &str, auth: Value| {
            lab.service(name).with("/auth", auth).with("/authz", json!({"default": "allow"}))
        };
        let mut cookie = rule("session", "ES256");
        cookie["cookie"] = json!("sid");
        let asap = json!({"key_server": KEY_SERVER, "audiences": ["asap"], "issuers": ["micros/billing"]});
        let edge = Self {
            hello: hello(&lab),
            other: open("other", json!({"any": [{"jwt": rule("other", "ES256")}]})),
            session: open("session", json!({"any": [{"session": cookie}]})),
            asap: open("asap", json!({"any": [{"asap": asap}]})),
            limited: open("limited", json!({"anonymous": ["/"]}))
                .with("/rate_limits", json!([{"limit": "2/day", "per": ["client_ip"]}])),
            lab,
        };
        for service in [&edge.hello, &edge.other, &edge.session, &edge.asap, &edge.limited] {
            edge.lab.live(service).await;
        }
        edge
    }

    /// A GET from `hello`.
    fn get(&self, target: impl AsRef<[u8]>) -> Raw {
        Raw::get(self.hello.host(), target)
    }

    async fn send(&self, request: Raw) -> Answer {
        request.send(&self.lab).await
    }
}

/// It was refused with this status, and has not reached the upstream.
#[track_caller]
fn refused(answer: &Answer, status: u16, attack: &str) {
    assert_eq!(answer.status, status, "{attack}: {}", answer.body);
    assert!(answer.json()["headers"].is_null(), "{attack} has reached the upstream: {}", answer.body);
}

/// Of a token that is good for `hello`, and may read.
fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "alice", "aud": "hello", "scope": "read", "iat": now(), "exp": now() + 600, "jti": "1",
    })
}

/// Signed as it should be.
fn signed(claims: &Value) -> String {
    signed_by(&ec_key(), "ES256", "ec", claims)
}

fn good() -> String {
    signed(&claims())
}

/// With one other claim.
fn with_claim(name: &str, value: Value) -> String {
    let mut claims = claims();
    claims[name] = value;
    signed(&claims)
}

/// Of a service, for `asap`.
fn asap_token(key_id: &str, claims: &Value) -> String {
    signed_by(&rsa_key(), "RS256", key_id, claims)
}
