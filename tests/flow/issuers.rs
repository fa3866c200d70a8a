//! Keys by URL: an issuer rotates its keys, goes away, and stays away over a restart.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use jwt::testing;
use serde_json::{Value, json};
use tests::{Lab, Service, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const ISSUER: &str = "https://login.example.test/";

/// An issuer on the loopback interface: answers with its JWK Set, whatever it is asked.
struct Issuer {
    url: String,
    status: Arc<AtomicU16>,
    jwks: Arc<Mutex<String>>,
}

impl Issuer {
    async fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let (status, jwks) = (Arc::new(AtomicU16::new(200)), Arc::new(Mutex::new(String::new())));
        let (said, body) = (status.clone(), jwks.clone());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _gone = socket.read(&mut request).await;
                let (status, body) = (said.load(Ordering::Relaxed), body.lock().unwrap().clone());
                let head = format!(
                    "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let _gone = socket.write_all((head + &body).as_bytes()).await;
            }
        });
        Self { url, status, jwks }
    }

    /// From now on it signs with the key of this id alone.
    fn rotate(&self, kid: &str) {
        let mut set: Value = serde_json::from_str(&testing::jwks()).unwrap();
        set["keys"].as_array_mut().unwrap().retain(|key| key["kid"] == kid);
        *self.jwks.lock().unwrap() = set.to_string();
    }
}

fn token(kid: &str, service: &Service) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": ISSUER, "sub": "alice", "aud": service.name(), "scope": format!("read:{}", service.name()),
        "iat": now, "exp": now + 3600,
    });
    match kid {
        "ec" => testing::signed_by(&testing::ec_key(), "ES256", kid, &claims),
        _ => testing::signed_by(&testing::rsa_key(), "RS256", kid, &claims),
    }
}

async fn status(lab: &Lab, service: &Service, token: &str) -> u16 {
    lab.get(service.host(), "/", Some(token)).await.status
}

#[tokio::test]
async fn keys_are_followed_through_a_rotation_an_outage_and_a_restart() {
    let issuer = Issuer::serve().await;
    issuer.rotate("ec");
    let mut lab = Lab::prepare(|_| ()).await;
    let file = lab.folder().join("issuers.yaml");
    fs::write(&file, "allow_networks: [127.0.0.0/8]\n").unwrap();
    let args = &mut lab.stack.layout.control_plane_args;
    args.extend([format!("--issuers={}", file.display()), format!("--issuer={ISSUER}={}", issuer.url)]);
    lab.stack.start(|_| ()).await.unwrap();
    let method = |algorithm: &str| json!({"jwt": {"issuer": ISSUER, "audiences": ["hello"], "algorithms": [algorithm]}});
    let hello = lab.service("hello").with("/auth/any", json!([method("ES256"), method("RS256")]));
    lab.live(&hello).await;
    let (old, new) = (token("ec", &hello), token("rsa", &hello));
    assert_eq!((status(&lab, &hello, &old).await, status(&lab, &hello, &new).await), (200, 401));

    // The other key appears, and the one of before is gone.
    issuer.rotate("rsa");
    let (good, text) = lab.run(&["issuers", "--refresh", ISSUER]).await;
    assert!(good, "{text}");
    eventually("the new key is good", || async { (status(&lab, &hello, &new).await == 200).then_some(()) })
        .await;
    eventually("the old key is good no more", || async {
        (status(&lab, &hello, &old).await == 401).then_some(())
    })
    .await;
    let (good, text) = lab.run(&["issuers"]).await;
    assert!(good && text.contains(ISSUER) && text.contains("1 keys (rsa)"), "{text}");
    let (good, text) = lab.run(&["issuers", "--refresh", ISSUER]).await;
    assert!(!good && text.contains("at most every 30 s"), "{text}");
    let (good, text) = lab.run(&["issuers", "--refresh", "https://other.example.test/"]).await;
    assert!(!good && text.contains("one that is configured"), "{text}");

    // While the issuer is away a control plane starts with what it had.
    issuer.status.store(503, Ordering::Relaxed);
    lab.stack.control_plane.take().expect("it runs").kill().await;
    assert_eq!(status(&lab, &hello, &new).await, 200, "no request waits for the control plane");
    lab.stack.start_control_plane().await.unwrap();
    let listed = eventually("the issuer is known to be away", || async {
        let (good, text) = lab.run(&["issuers", "--json"]).await;
        let listed: Value = serde_json::from_str(&text).ok().filter(|_| good)?;
        let own = listed["issuers"].as_array()?.iter().find(|one| one["issuer"] == ISSUER)?.clone();
        (own["state"] == "stale" && own["last_error"].is_string()).then_some(own)
    })
    .await;
    assert_eq!(listed["kids"], json!(["rsa"]));
    assert_eq!((status(&lab, &hello, &new).await, status(&lab, &hello, &old).await), (200, 401));
    let other = lab.service("other").with("/auth/any/0/jwt/issuer", json!(ISSUER));
    let other = other.with("/auth/any/0/jwt/algorithms", json!(["RS256"]));
    lab.live(&other).await;
    let answer = lab.get(other.host(), "/", Some(&token("rsa", &other))).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    lab.stop().await;
}
