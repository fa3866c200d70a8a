//! Each kind of credential through a real Envoy: what it lets in, and what it does not.

use std::{fs, net::SocketAddr};

use jwt::testing::{ec_jwk, ec_key, ec_thumbprint, proof_for, rsa_key, signed_by};
use lab::Layout;
use rcgen::SanType;
use reqwest::{Certificate, Client, Identity, Method, RequestBuilder};
use serde_json::{Value, json};
use tests::{
    Answer, Lab, Service, TestCa,
    issuer::{self, ISSUER, KEY_ID, KEY_SERVER, now},
};

/// A lab that trusts this process, with these settings of the edge.
async fn start(edge: impl FnOnce(&Layout) -> Value) -> Lab {
    Lab::with(|layout| {
        issuer::trust(layout);
        layout.edge = edge(layout);
    })
    .await
}

/// A service that asks for this, and lets in whoever has it.
async fn live(lab: &Lab, auth: Value) -> Service {
    let hello = lab.service("hello").with("/auth", auth).with("/authz", json!({"default": "allow"}));
    lab.live(&hello).await;
    hello
}

async fn lab_with(auth: Value) -> (Lab, Service) {
    let lab = start(|_| json!({})).await;
    let hello = live(&lab, auth).await;
    (lab, hello)
}

fn rule() -> Value {
    json!({"issuer": ISSUER, "audiences": ["hello"], "algorithms": ["ES256"]})
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "aud": "hello", "iat": now(), "exp": now() + 600, "jti": "1"})
}

/// A token of this process, with one more claim.
fn token(name: &str, value: Value) -> String {
    let mut claims = claims();
    claims[name] = value;
    signed_by(&ec_key(), "ES256", "ec", &claims)
}

async fn answer(lab: &Lab, request: RequestBuilder) -> Answer {
    lab.send(request).await.expect("Envoy answers")
}

#[track_caller]
fn let_in(answer: &Answer, method: &str, subject: &str) {
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.upstream_saw("x-gatehouse-method"), [method]);
    assert_eq!(answer.upstream_saw("x-gatehouse-subject"), [subject]);
}

#[tokio::test]
async fn a_token_tells_tenant_and_groups() {
    let mut rule = rule();
    rule["tenant_claim"] = json!("tid");
    let (lab, hello) = lab_with(json!({"any": [{"jwt": rule}]})).await;
    let mut claims = claims();
    (claims["tid"], claims["groups"]) = (json!("acme"), json!(["dev", "a,b"]));
    let good = signed_by(&ec_key(), "ES256", "ec", &claims);
    let seen = lab.get(hello.host(), "/", Some(&good)).await;
    let_in(&seen, "jwt", "alice");
    assert_eq!(seen.upstream_saw("x-gatehouse-tenant"), ["acme"]);
    assert_eq!(seen.upstream_saw("x-gatehouse-groups"), ["dev,a%2Cb"]);
    claims["tid"] = json!(["acme"]);
    let wrong = signed_by(&ec_key(), "ES256", "ec", &claims);
    assert_eq!(lab.get(hello.host(), "/", Some(&wrong)).await.status, 401);
    lab.stop().await;
}

#[tokio::test]
async fn a_session_cookie_opens_the_service_to_its_own_pages() {
    let mut rule = rule();
    rule["cookie"] = json!("__Host-sid");
    let (lab, hello) = lab_with(json!({"any": [{"session": rule}]})).await;
    let good = token("sid", json!("s-1"));
    let request = |method: Method, cookie: String| {
        lab.request(method, hello.host(), "/").header("cookie", format!("theme=dark; __Host-sid={cookie}"))
    };
    let_in(&answer(&lab, request(Method::GET, good.clone())).await, "session", "alice");
    let own = request(Method::POST, good.clone()).header("sec-fetch-site", "same-origin");
    let_in(&answer(&lab, own).await, "session", "alice");
    let other = request(Method::POST, good.clone()).header("sec-fetch-site", "cross-site");
    assert_eq!(answer(&lab, other).await.status, 403);
    let other = request(Method::POST, good.clone()).header("origin", "https://evil.test");
    assert_eq!(answer(&lab, other).await.status, 403);
    let twice = request(Method::GET, format!("{good}; __Host-sid={good}"));
    assert_eq!(answer(&lab, twice).await.status, 400);
    assert_eq!(answer(&lab, request(Method::GET, "x".into())).await.status, 401);
    let none = lab.get(hello.host(), "/", Some(&good)).await;
    assert_eq!(none.status, 401, "as a header it is not what the service asks for");
    assert!(none.headers["www-authenticate"].starts_with("Cookie realm="), "{:?}", none.headers);
    lab.stop().await;
}

#[tokio::test]
async fn a_service_signs_for_itself() {
    let asap = json!({"key_server": KEY_SERVER, "audiences": ["hello"], "issuers": ["micros/billing"]});
    let (lab, hello) = lab_with(json!({"any": [{"asap": asap}]})).await;
    let claims = |issuer: &str, lifetime: u64| json!({"iss": issuer, "aud": "hello", "iat": now(), "exp": now() + lifetime, "jti": "1"});
    let signed = |key_id: &str, claims: &Value| signed_by(&rsa_key(), "RS256", key_id, claims);
    let good = signed(KEY_ID, &claims("micros/billing", 60));
    let_in(&lab.get(hello.host(), "/", Some(&good)).await, "asap", "micros/billing");
    for (why, token) in [
        ("another service", signed("micros/evil/key-1", &claims("micros/evil", 60))),
        ("the key of another service", signed(KEY_ID, &claims("micros/evil", 60))),
        ("out of its folder", signed("micros/billing/../billing/key-1", &claims("micros/billing", 60))),
        ("an hour and more", signed(KEY_ID, &claims("micros/billing", 3_700))),
        ("a key that nobody has", signed("micros/billing/key-2", &claims("micros/billing", 60))),
    ] {
        assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 401, "{why}");
    }
    lab.stop().await;
}

#[tokio::test]
async fn a_password_opens_the_service_to_its_user() {
    let lab = start(|_| json!({})).await;
    let output = lab.gatehouse_reading(&["hash-password"], "correct horse\n").await;
    let hash = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success() && hash.starts_with("$argon2id$"), "{output:?}");
    let user = json!({"name": "alice", "hash": hash, "scopes": ["read"]});
    let hello = live(&lab, json!({"any": [{"basic": {"users": [user]}}]})).await;
    let with = |name: &'static str, password: &'static str| {
        let (lab, hello) = (&lab, &hello);
        async move {
            // A machine with much to do may need longer for a hash than Envoy waits; the next request finds it done.
            tests::eventually("the password is looked at", || async {
                let request = lab.request(Method::GET, hello.host(), "/").basic_auth(name, Some(password));
                let seen = answer(lab, request).await;
                (seen.status != 503).then_some(seen)
            })
            .await
        }
    };
    let seen = with("alice", "correct horse").await;
    let_in(&seen, "basic", "alice");
    assert_eq!(seen.upstream_saw("x-gatehouse-scopes"), ["read"]);
    for (name, password) in
        [("alice", "correct hors"), ("alice", ""), ("bob", "correct horse"), ("Alice", "correct horse")]
    {
        let seen = with(name, password).await;
        assert_eq!(seen.status, 401, "{name}:{password}");
        assert_eq!(seen.headers["www-authenticate"], "Basic realm=\"gatehouse\", charset=\"UTF-8\"");
        assert!(seen.body.contains("the name or the password is wrong"), "never which: {}", seen.body);
    }
    let odd = lab.request(Method::GET, hello.host(), "/").header("authorization", "Basic !!");
    assert_eq!(answer(&lab, odd).await.status, 401);
    lab.stop().await;
}

#[tokio::test]
async fn a_stolen_token_is_of_no_use_without_its_key() {
    let mut rule = rule();
    rule["sender_constrained"] = json!("dpop");
    let (lab, hello) = lab_with(json!({"any": [{"jwt": rule}]})).await;
    let bound = token("cnf", json!({"jkt": ec_thumbprint()}));
    let url = format!("http://{}/", hello.host());
    let proof = |method: &str, url: &str, id: &str| proof_for(&bound, method, url, id, now());
    let with = |scheme: &str, token: &str, proof: &str| {
        let request = lab.request(Method::GET, hello.host(), "/?q=1");
        request.header("authorization", format!("{scheme} {token}")).header("dpop", proof)
    };
    let first = proof("GET", &url, "1");
    let_in(&answer(&lab, with("DPoP", &bound, &first)).await, "dpop", "alice");
    let unbound = token("jti", json!("2"));
    for (why, request) in [
        ("a proof that was used before", with("DPoP", &bound, &first)),
        ("a proof for another method", with("DPoP", &bound, &proof("POST", &url, "2"))),
        ("a proof for another host", with("DPoP", &bound, &proof("GET", "http://evil.test/", "3"))),
        ("a proof for another token", with("DPoP", &unbound, &proof("GET", &url, "4"))),
        (
            "no proof",
            lab.request(Method::GET, hello.host(), "/").header("authorization", format!("DPoP {bound}")),
        ),
        ("as a plain token", with("Bearer", &bound, &proof("GET", &url, "5"))),
    ] {
        let seen = answer(&lab, request).await;
        assert_eq!(seen.status, 401, "{why}");
        assert!(seen.headers["www-authenticate"].starts_with("DPoP realm="), "{:?}", seen.headers);
    }
    assert!(ec_jwk()["d"].is_null(), "a proof never shows the private half");
    lab.stop().await;
}

/// Where only who has a certificate of this CA gets through.
async fn start_with_certificates(ca: &TestCa) -> Lab {
    start(|layout| {
        let path = layout.data_dir.join("clients.pem");
        fs::write(&path, ca.pem()).expect("a file");
        // In the place of the listener that asks for none.
        json!({"https": null, "mtls": {"address": "127.0.0.1", "port": layout.ports.https, "client_ca": path}})
    })
    .await
}

/// Somebody with these names, as the CA has it.
fn named(ca: &TestCa, uris: &[&str]) -> (String, String) {
    let name = |uri: &&str| SanType::URI((*uri).try_into().expect("ASCII"));
    ca.issue(uris.iter().map(name).collect())
}

/// What who shows this certificate gets; `None` when there is no connection.
async fn get_with(lab: &Lab, host: &str, pair: Option<&(String, String)>, token: &str) -> Option<Answer> {
    let ca = fs::read(lab.folder().join("dev-ca/ca.pem")).expect("the lab has a CA");
    let address = SocketAddr::from(([127, 0, 0, 1], lab.stack.layout.ports.https));
    let client = Client::builder()
        .tls_certs_only([Certificate::from_pem(&ca).expect("a certificate")])
        .resolve(host, address);
    let client = match pair {
        Some((chain, key)) => {
            client.identity(Identity::from_pem(format!("{chain}{key}").as_bytes()).expect("a pair"))
        }
        None => client,
    };
    let url = format!("https://{host}:{}/", address.port());
    let mut request = client.build().expect("a client").get(url);
    if !token.is_empty() {
        request = request.bearer_auth(token);
    }
    lab.send(request).await
}

#[tokio::test]
async fn a_certificate_opens_the_service_to_one_of_those_who_are_named() {
    let ca = TestCa::new("clients");
    let lab = start_with_certificates(&ca).await;
    let hello = live(&lab, json!({"any": [{"mtls": {"spiffe": ["spiffe://td/ns/*"]}}]})).await;
    let own = named(&ca, &["spiffe://td/ns/billing"]);
    let seen = get_with(&lab, hello.host(), Some(&own), "").await.expect("a connection");
    let_in(&seen, "mtls", "spiffe://td/ns/billing");
    for (why, uris) in [
        ("another trust domain", vec!["spiffe://evil/ns/billing"]),
        ("two names", vec!["spiffe://td/ns/billing", "spiffe://td/ns/other"]),
        ("a name in a name", vec!["spiffe://evil/a;URI=spiffe://td/ns/billing"]),
        ("nobody", vec![]),
    ] {
        let pair = named(&ca, &uris);
        let seen = get_with(&lab, hello.host(), Some(&pair), "").await.expect("a connection");
        assert_eq!(seen.status, 401, "{why}: {}", seen.body);
    }
    let stranger = named(&TestCa::new("clients"), &["spiffe://td/ns/billing"]);
    assert!(get_with(&lab, hello.host(), Some(&stranger), "").await.is_none(), "another CA");
    assert!(get_with(&lab, hello.host(), None, "").await.is_none(), "no certificate");
    // Where none is asked for, a header does not help.
    let forged = lab
        .request(Method::GET, hello.host(), "/")
        .header("x-forwarded-client-cert", "URI=spiffe://td/ns/billing")
        .header("client-cert", "x");
    assert_eq!(answer(&lab, forged).await.status, 401);
    lab.stop().await;
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_certificate_needs_it() {
    let ca = TestCa::new("clients");
    let lab = start_with_certificates(&ca).await;
    let mut rule = rule();
    rule["sender_constrained"] = json!("mtls");
    let hello = live(&lab, json!({"any": [{"jwt": rule}]})).await;
    let (own, other) = (named(&ca, &["spiffe://td/a"]), named(&ca, &["spiffe://td/a"]));
    let bound = token("cnf", json!({"x5t#S256": jwt::testing::certificate_thumbprint(&own.0)}));
    let seen = get_with(&lab, hello.host(), Some(&own), &bound).await.expect("a connection");
    let_in(&seen, "mtls_bound", "alice");
    let stolen = get_with(&lab, hello.host(), Some(&other), &bound).await.expect("a connection");
    assert_eq!(stolen.status, 401);
    let unbound = token("jti", json!("2"));
    assert_eq!(get_with(&lab, hello.host(), Some(&own), &unbound).await.expect("a connection").status, 401);
    assert_eq!(lab.get(hello.host(), "/", Some(&bound)).await.status, 401, "without any certificate");
    lab.stop().await;
}

#[tokio::test]
async fn all_that_is_asked_for_is_needed_and_a_route_adds_to_it() {
    let mut session = rule();
    session["cookie"] = json!("sid");
    let lab = start(|_| json!({})).await;
    let upstream = lab.service("hello").parameters["routes"][0]["upstream"].clone();
    let hello = lab
        .service("hello")
        .with("/auth", json!({"any": [{"jwt": rule()}], "anonymous": ["/healthz"]}))
        .with("/authz", json!({"default": "allow"}))
        .with(
            "/routes",
            json!([
                {"path": "/", "upstream": upstream},
                {"path": "/admin", "upstream": upstream, "auth": {"all": [{"any": [{"session": session}]}]}},
                {"path": "/public", "upstream": upstream, "auth": {"anonymous": ["/public"], "replace": true}},
            ]),
        );
    lab.live(&hello).await;
    let good = token("jti", json!("2"));
    let get = |path: &str, bearer: Option<&str>, cookie: Option<&str>| {
        let mut request = lab.request(Method::GET, hello.host(), path);
        if let Some(token) = bearer {
            request = request.bearer_auth(token);
        }
        if let Some(cookie) = cookie {
            request = request.header("cookie", format!("sid={cookie}"));
        }
        answer(&lab, request)
    };
    let_in(&get("/", Some(&good), None).await, "jwt", "alice");
    let_in(&get("/admin", Some(&good), Some(&good)).await, "jwt", "alice");
    for (bearer, cookie) in [(Some(good.as_str()), None), (None, Some(good.as_str())), (None, None)] {
        assert_eq!(get("/admin", bearer, cookie).await.status, 401, "{bearer:?} {cookie:?}");
    }
    assert_eq!(get("/admin", Some(&good), Some("x")).await.status, 401, "one of them is bad");
    assert_eq!(get("/healthz", None, None).await.status, 200);
    assert_eq!(get("/public", None, None).await.status, 200, "it says that it replaces");
    assert_eq!(get("/public/../admin", None, None).await.status, 401);

    // What would be easier than the service without saying so is refused by name.
    let easier =
        hello.with("/routes/1/auth", json!({"any": [{"session": session}], "anonymous": ["/admin/x"]}));
    let refused = lab.update(&easier).await;
    assert_eq!(refused.status, 400);
    assert!(
        refused.body.contains("routes[1].auth.anonymous[0]: the service asks for a credential"),
        "{}",
        refused.body
    );
    lab.stop().await;
}

#[tokio::test]
async fn a_path_that_is_open_on_one_route_is_not_on_another() {
    let lab = start(|_| json!({})).await;
    let upstream = lab.service("hello").parameters["routes"][0]["upstream"].clone();
    let hello = lab
        .service("hello")
        .with("/auth", json!({"any": [{"jwt": rule()}]}))
        .with(
            "/authz",
            json!({"rules": [{"allow": {"methods": ["GET"], "paths": ["/"], "scopes": ["read"]}}]}),
        )
        .with(
            "/routes",
            json!([
                {"path": "/", "upstream": upstream},
                {"path": "/public", "upstream": upstream, "auth": {"anonymous": ["/"], "replace": true}},
            ]),
        );
    lab.live(&hello).await;
    let (with, without) = (token("scope", json!("read")), token("scope", json!("other")));
    for (path, token, status) in
        [("/x", Some(&with), 200), ("/x", Some(&without), 403), ("/x", None, 401), ("/public/x", None, 200)]
    {
        let seen = lab.get(hello.host(), path, token.map(String::as_str)).await;
        assert_eq!(seen.status, status, "{path}: {}", seen.body);
    }
    lab.stop().await;
}

#[tokio::test]
async fn what_could_never_let_anybody_in_is_refused_when_it_is_ordered() {
    let lab = start(|_| json!({})).await;
    for (method, told) in [
        (json!({"mtls": {"spiffe": ["spiffe://td/a"]}}), "auth.any[0].mtls: this edge has no listener"),
        (json!({"introspection": {"provider": "https://x"}}), "auth.any[0].introspection.provider: one that"),
        (
            json!({"asap": {"key_server": "https://x", "audiences": ["a"], "issuers": ["a"]}}),
            "auth.any[0].asap.key_server: one that",
        ),
    ] {
        let hello = lab.service("hello").with("/auth", json!({"any": [method]}));
        let refused = lab.provision(&hello).await;
        assert_eq!(refused.status, 400);
        assert!(refused.body.contains(told), "{}", refused.body);
    }
    lab.stop().await;
}

#[tokio::test]
async fn an_upstream_is_told_by_a_signed_token_whose_keys_everybody_can_have() {
    let (lab, hello) =
        lab_with(json!({"any": [{"jwt": rule()}], "anonymous": ["/healthz"], "identity": "token"})).await;
    let good = token("scope", json!("read write"));
    let seen = lab.get(hello.host(), "/", Some(&good)).await;
    assert_eq!(seen.status, 200, "{}", seen.body);
    assert!(
        seen.upstream_saw("x-gatehouse-subject").is_empty(),
        "nothing that could be made up: {}",
        seen.body
    );
    let told = seen.upstream_saw("x-gatehouse-identity");
    let [told] = told.as_slice() else { panic!("{}", seen.body) };

    // As an upstream reads it: by the keys that the control plane publishes, for itself.
    let keys = lab.operators("/identity/jwks.json").await;
    let edge = "https://edge.example.test/identity/";
    let found = jwt::testing::read_by(&keys.body, edge, hello.host(), told, now()).expect("it is good");
    assert_eq!((found.subject.as_str(), found.scopes.as_str()), ("alice", "read write"));
    let claims = jwt::testing::claims_of(told);
    assert!(claims["exp"].as_f64() <= claims["iat"].as_f64().map(|at| at + 60.0), "a minute: {claims:?}");
    assert!(jwt::testing::read_by(&keys.body, edge, "other", told, now()).is_err(), "for nobody else");
    let discovery = lab.operators("/identity/.well-known/openid-configuration").await.json();
    assert_eq!(discovery["jwks_uri"], format!("{edge}jwks.json"));

    let again = lab.get(hello.host(), "/", Some(&good)).await.upstream_saw("x-gatehouse-identity");
    assert_eq!(again, [told.as_str()], "it is signed once in a while");
    let nobody = lab.get(hello.host(), "/healthz", None).await;
    assert_eq!((nobody.status, nobody.upstream_saw("x-gatehouse-identity").len()), (200, 0));
    let forged = lab.request(Method::GET, hello.host(), "/healthz").header("x-gatehouse-identity", told);
    assert!(
        answer(&lab, forged).await.upstream_saw("x-gatehouse-identity").is_empty(),
        "what a client brings"
    );

    // The keys that sign are in no view of an operator.
    let shown = lab.operators("/api/resources").await.json();
    let all = shown["resources"].as_array().expect("a list");
    let name = all.iter().find(|one| one["kind"] == "authn_identity_keys").expect("one")["name"].clone();
    let one =
        lab.operators(&format!("/api/resources/authn_identity_keys/{}", name.as_str().expect("text"))).await;
    assert!(
        one.status == 200 && one.body.contains("privateKey: W3JlZGFjdGVkXQ=="),
        "base64 of [redacted]: {}",
        one.body
    );
    assert!(!lab.operators("/api/context").await.body.contains("private"), "nor in what templates see");
    lab.stop().await;
}
