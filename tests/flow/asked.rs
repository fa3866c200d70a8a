//! What a sidecar asks others about, through a real Envoy: opaque tokens, and keys that the control plane has not sent.

use std::fs;

use jwt::testing::{RSA, ec_key, jwks, rsa_key, signed_by};
use serde_json::{Value, json};
use tests::{Lab, Provider, Service, eventually, issuer::now};

const ISSUER: &str = "https://id.example.test/";
const KEYS: &str = "https://login.example.test/";
const KEY_SERVER: &str = "https://keys.example.test/";

/// A lab whose sidecar and control plane may ask this provider.
async fn start() -> (Lab, Provider) {
    let mut lab = Lab::prepare(|_| ()).await;
    let folder = lab.folder().to_owned();
    let provider = Provider::serve(&folder).await;
    provider.say("/jwks.json", 200, &only("ec"));
    // Another key than the one that the test signs with: a key server lists what it knows.
    provider.say("/keys/micros/billing/listed", 200, &public_pem());
    let secret = folder.join("client-secret");
    fs::write(&secret, "open sesame\n").expect("a file");
    let issuers = folder.join("issuers.yaml");
    let text = json!({
        "allow_networks": ["127.0.0.0/8"],
        "ca": provider.ca,
        "issuers": [{"issuer": KEYS, "jwks": {"url": format!("{}/jwks.json", provider.url)}}],
        "key_servers": [
            {"name": KEY_SERVER, "urls": [format!("{}/keys/", provider.url)], "kids": ["micros/billing/listed"]}
        ],
    });
    fs::write(&issuers, text.to_string()).expect("a file");
    let layout = &mut lab.stack.layout;
    layout.control_plane_args = vec![format!("--issuers={}", issuers.display())];
    let args = vec!["--allow-network=127.0.0.0/8".into(), format!("--fetch-ca={}", provider.ca.display())];
    layout.sidecar_args.insert("authn", args);
    layout.edge = json!({"introspection": [{
        "issuer": ISSUER,
        "endpoint": format!("{}/introspect", provider.url),
        "client_id": "edge",
        "client_secret_file": secret,
    }]});
    lab.stack.start(|_| ()).await.unwrap_or_else(|error| panic!("{error}"));
    (lab, provider)
}

/// The keys of the tests that have this id.
fn only(kid: &str) -> String {
    let mut set: Value = serde_json::from_str(&jwks()).expect("a set");
    set["keys"].as_array_mut().expect("a list").retain(|key| key["kid"] == kid);
    set.to_string()
}

/// The public half of the RSA key, as key servers have it.
fn public_pem() -> String {
    let pair = rcgen::KeyPair::from_pem(RSA).expect("a key");
    pair.public_key_pem()
}

async fn live(lab: &Lab, auth: Value) -> Service {
    let hello = lab.service("hello").with("/auth", auth).with("/authz", json!({"default": "allow"}));
    lab.live(&hello).await;
    hello
}

async fn status(lab: &Lab, hello: &Service, token: &str) -> u16 {
    lab.get(hello.host(), "/", Some(token)).await.status
}

#[tokio::test]
async fn an_opaque_token_is_asked_about_once_and_shown_to_nobody_else() {
    let (lab, provider) = start().await;
    let about = |token: &str, answer: Value| {
        provider.say_about("/introspect", &format!("token={token}&"), 200, &answer.to_string());
    };
    about("good-1", json!({"active": true, "sub": "alice", "scope": "read", "exp": now() + 600}));
    about("gone-1", json!({"active": false}));
    about("odd-1", json!({"active": "yes", "sub": "alice"}));
    let jwt = json!({"jwt": {"issuer": KEYS, "audiences": ["hello"], "algorithms": ["ES256"]}});
    let opaque = json!({"introspection": {"provider": ISSUER}});
    let hello = live(&lab, json!({"any": [opaque, jwt]})).await;

    let seen = lab.get(hello.host(), "/", Some("good-1")).await;
    assert_eq!(seen.status, 200, "{}", seen.body);
    assert_eq!(seen.upstream_saw("x-gatehouse-method"), ["introspection"]);
    assert_eq!(seen.upstream_saw("x-gatehouse-subject"), ["alice"]);
    assert_eq!(seen.upstream_saw("x-gatehouse-scopes"), ["read"]);
    for _ in 0..5 {
        assert_eq!(status(&lab, &hello, "good-1").await, 200);
    }
    let asked = provider.asked("token=good-1");
    assert_eq!(asked.len(), 1, "it is remembered");
    assert!(asked[0].contains("authorization: Basic "), "the edge proves itself: {}", asked[0]);
    assert_eq!(status(&lab, &hello, "gone-1").await, 401);
    assert_eq!(status(&lab, &hello, "odd-1").await, 503, "an answer that is none is no yes");

    // What another method reads is not shown to the provider, good or bad.
    let claims = |exp: u64| json!({"iss": KEYS, "sub": "bob", "aud": "hello", "exp": exp});
    let good = signed_by(&ec_key(), "ES256", "ec", &claims(now() + 60));
    let expired = signed_by(&ec_key(), "ES256", "ec", &claims(now() - 60));
    assert_eq!((status(&lab, &hello, &good).await, status(&lab, &hello, &expired).await), (200, 401));
    assert!(provider.asked(&good).is_empty() && provider.asked(&expired).is_empty());

    // Without anybody to ask nothing new is believed, and what was found stays good for its while.
    provider.say("/introspect", 500, "");
    about("good-2", json!({}));
    provider.say_about("/introspect", "token=good-2&", 500, "");
    assert_eq!(status(&lab, &hello, "good-2").await, 503);
    assert_eq!(status(&lab, &hello, "good-1").await, 200);

    // The secret is in no view that operators have of what is served.
    let shown = lab.operators(&format!("/api/resources/authn_policies/{}@1", hello.id())).await;
    assert!(
        shown.status == 200 && shown.body.contains("client_id") | shown.body.contains("clientId"),
        "{}",
        shown.body
    );
    assert!(!shown.body.contains("open sesame"), "{}", shown.body);
    lab.stop().await;
}

#[tokio::test]
async fn a_key_that_is_minutes_old_is_fetched_once_however_many_tokens_name_it() {
    let (lab, provider) = start().await;
    let jwt =
        |algorithm: &str| json!({"jwt": {"issuer": KEYS, "audiences": ["hello"], "algorithms": [algorithm]}});
    let hello = live(&lab, json!({"any": [jwt("ES256"), jwt("RS256")]})).await;
    let claims = json!({"iss": KEYS, "sub": "bob", "aud": "hello", "exp": now() + 600});
    let old = signed_by(&ec_key(), "ES256", "ec", &claims);
    assert_eq!(status(&lab, &hello, &old).await, 200);

    // The issuer signs with a new key; the control plane would look in minutes.
    provider.say("/jwks.json", 200, &jwks());
    let looks = provider.asked("/jwks.json").len();
    let new = signed_by(&rsa_key(), "RS256", "rsa", &claims);
    // A busy machine may take longer than a request waits for a key; then a while passes until it is asked for again.
    eventually("the new key is found", || async { (status(&lab, &hello, &new).await == 200).then_some(()) })
        .await;
    assert_eq!(status(&lab, &hello, &old).await, 200);
    for at in 0..50 {
        let made_up = signed_by(&rsa_key(), "RS256", &format!("made-up-{at}"), &claims);
        assert_eq!(status(&lab, &hello, &made_up).await, 401, "{at}");
    }
    let looked = provider.asked("/jwks.json").len() - looks;
    assert!(looked <= 3, "made-up ids cause no looks of their own: {looked}");
    lab.stop().await;
}

#[tokio::test]
async fn a_key_of_a_key_server_that_nobody_has_listed_is_fetched_by_its_id() {
    let (lab, provider) = start().await;
    let asap = json!({"key_server": KEY_SERVER, "audiences": ["hello"], "issuers": ["micros/billing"]});
    let hello = live(&lab, json!({"any": [{"asap": asap}]})).await;
    let claims =
        json!({"iss": "micros/billing", "aud": "hello", "iat": now(), "exp": now() + 60, "jti": "1"});
    let signed = |kid: &str| signed_by(&rsa_key(), "RS256", kid, &claims);
    assert_eq!(status(&lab, &hello, &signed("micros/billing/listed")).await, 200);
    provider.say("/keys/micros/billing/fresh", 200, &public_pem());
    let fresh = signed("micros/billing/fresh");
    eventually("the key is found", || async { (status(&lab, &hello, &fresh).await == 200).then_some(()) })
        .await;
    assert_eq!(provider.asked("/keys/micros/billing/fresh").len(), 1);
    assert_eq!(status(&lab, &hello, &signed("micros/billing/nobody")).await, 401);
    provider.say("/keys/micros/evil/key", 200, &public_pem());
    for kid in ["micros/evil/key", "micros/billing/../evil/key", "micros/billing/%2e%2e/evil/key"] {
        assert_eq!(status(&lab, &hello, &signed(kid)).await, 401, "{kid}");
    }
    assert!(provider.asked("evil").is_empty(), "what is not the issuer's own is not asked for");
    lab.stop().await;
}
