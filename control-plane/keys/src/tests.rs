//! Sets that are followed over real connections, by a clock that tests set.

mod answers;
mod server;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use prometheus_client::registry::Registry;
use runtime::Clock;

use self::server::{Server, jwks, pem};
use crate::{IssuerState, Keys, Refused, Settings, State};

const ISSUER: &str = "https://id.example.test/";
const DAY: u64 = 24 * 3600;

/// Seconds since the epoch.
#[derive(Debug)]
struct FakeClock(AtomicU64);

impl Clock for FakeClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

/// A follower that runs until it is dropped.
struct Followed {
    keys: Keys,
    clock: Arc<FakeClock>,
    registry: Registry,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn settings(flags: &[&str], more: &str) -> Settings {
    let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    Settings::read(&flags, Some(&format!("allow_networks: [127.0.0.1/32]\n{more}"))).unwrap()
}

impl Followed {
    async fn start(settings: Settings, folder: &Path, now: u64) -> Self {
        let clock = Arc::new(FakeClock(AtomicU64::new(now)));
        let mut registry = Registry::default();
        let (keys, follow) = Keys::start(settings, folder, clock.clone(), &mut registry).await.unwrap();
        Self { keys, clock, registry, task: tokio::spawn(follow) }
    }

    fn advance(&self, secs: u64) {
        self.clock.0.fetch_add(secs, Ordering::Relaxed);
        self.keys.look_at_clock();
    }

    fn state(&self) -> IssuerState {
        self.keys.all().remove(0)
    }

    fn kids(&self) -> String {
        self.state().kids.join(" ")
    }

    /// What templates see.
    fn issuers(&self) -> serde_json::Value {
        let sets = self.keys.sets().borrow().clone();
        let (_, value) = sets.context().find(|(name, _)| name == "issuers").unwrap();
        value.as_ref().clone()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&IssuerState) -> bool) {
        for _ in 0..1000 {
            if is_so(&self.state()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 10 s: {what}: {:?}", self.state());
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}

#[tokio::test]
async fn keys_that_are_added_come_and_keys_that_are_removed_go() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::plain().await;
    server.says("/jwks", &jwks(&["old"]));
    let flag = format!("{ISSUER}={}", server.url("/jwks"));
    let followed = Followed::start(settings(&[&flag], ""), folder.path(), 1_000_000).await;
    assert_eq!((followed.kids().as_str(), followed.state().state), ("old", State::Fresh));
    let mut changes = followed.keys.sets();
    changes.mark_unchanged();

    server.says("/jwks", &jwks(&["new", "old"]));
    followed.keys.refresh(ISSUER).unwrap();
    followed.until("the new key", |state| state.kids == ["new", "old"]).await;
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(followed.issuers()[0]["uri"], serde_json::Value::Null, "http is not for sidecars");

    // The same in another order: nobody is told.
    server.says("/jwks", &jwks(&["old", "new"]));
    let before = server.asked("/jwks");
    followed.advance(400);
    followed.until("the soft age", |state| server.asked("/jwks") > before && state.age_secs == Some(0)).await;
    assert!(!changes.has_changed().unwrap());

    server.says("/jwks", &jwks(&["new"]));
    followed.advance(400);
    followed.until("the old key is gone", |state| state.kids == ["new"]).await;
    let metrics = followed.metrics();
    assert!(metrics.contains(
        "gatehouse_keys_refreshes_total{issuer=\"https://id.example.test/\",result=\"Changed\"} 3"
    ));
    assert!(metrics.contains("gatehouse_keys_in_force{issuer=\"https://id.example.test/\"} 1"), "{metrics}");
}

#[tokio::test]
async fn through_a_day_without_its_issuer_a_set_is_served_and_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::plain().await;
    server.says("/jwks", &jwks(&["a"]));
    let flag = format!("{ISSUER}={}", server.url("/jwks"));
    let followed = Followed::start(settings(&[&flag], ""), folder.path(), 1_000_000).await;
    server.status("/jwks", 503);
    for _ in 0..23 {
        let before = server.asked("/jwks");
        followed.advance(3600);
        followed.until("another try", |_| server.asked("/jwks") > before).await;
        assert_eq!(followed.kids(), "a");
    }
    followed.until("the failure is known", |state| state.state == State::Stale).await;
    assert!(followed.state().last_error.unwrap().ends_with("/jwks: answered 503"));

    // A restart in the middle of it.
    let again = Followed::start(settings(&[&flag], ""), folder.path(), 1_000_000 + 23 * 3600).await;
    assert_eq!((again.kids().as_str(), again.state().state), ("a", State::Stale));
    assert_eq!(again.state().age_secs, Some(23 * 3600));
    drop(again);

    followed.advance(3600);
    let nothing = serde_json::json!([]);
    followed
        .until("it is withdrawn", |state| state.state == State::Withdrawn && followed.issuers() == nothing)
        .await;
    assert_eq!(followed.kids(), "");
    let sets = followed.keys.sets().borrow().clone();
    assert_eq!(
        sets.issuers().map(|(name, keys)| (name, keys.is_some())).collect::<Vec<_>>(),
        [(ISSUER, false)]
    );
    assert!(followed.metrics().contains("gatehouse_keys_withdrawn{issuer=\"https://id.example.test/\"} 1"));
    let late = Followed::start(settings(&[&flag], ""), folder.path(), 1_000_000 + DAY).await;
    assert_eq!(late.state().state, State::Withdrawn, "not by a restart either");
    drop(late);

    server.status("/jwks", 200);
    followed.advance(600);
    followed.until("it is back", |state| state.state == State::Fresh).await;
    assert_eq!(followed.kids(), "a");
    assert!(followed.metrics().contains("gatehouse_keys_withdrawn{issuer=\"https://id.example.test/\"} 0"));
}

#[tokio::test]
async fn a_storm_of_wishes_is_one_request() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::plain().await;
    let mut issuers = String::from("issuers:\n");
    for at in 0..20 {
        server.says(&format!("/{at}"), &jwks(&["a"]));
        let url = server.url(&format!("/{at}"));
        issuers += &format!("- {{issuer: 'https://id-{at}.test/', jwks: {{url: '{url}'}}}}\n");
    }
    let followed = Followed::start(settings(&[], &issuers), folder.path(), 1_000_000).await;
    assert_eq!(server.all(), 20);
    let name = "https://id-0.test/";
    followed.keys.refresh(name).unwrap();
    for _ in 0..10_000 {
        assert!(matches!(followed.keys.refresh(name), Err(Refused::TooSoon { secs: 1..=30 })));
    }
    assert_eq!(followed.keys.refresh("https://other.test/"), Err(Refused::Unknown));
    // For all others together there are nine more, and one for each second that this test takes.
    let heard = (1..20).filter(|at| followed.keys.refresh(&format!("https://id-{at}.test/")).is_ok()).count();
    assert!((9..=12).contains(&heard), "{heard}");
    let asked = 20 + 1 + heard;
    for _ in 0..500 {
        if server.all() == asked {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Those that are under way are all there are.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.all(), asked);
}

#[tokio::test]
async fn a_key_server_is_a_set_with_a_key_for_each_id() {
    let folder = tempfile::tempdir().unwrap();
    let (primary, fallback) = (Server::plain().await, Server::plain().await);
    primary.says("/keys/micros/a/1", &pem(1));
    primary.status("/keys/micros/b", 500);
    fallback.says("/micros/b", &pem(2));
    let text = format!(
        "key_servers: [{{name: 'https://keys.test/', urls: ['{}', '{}'], kids: [micros/a/1, micros/b, micros/gone]}}]",
        primary.url("/keys/"),
        fallback.url("")
    );
    let followed = Followed::start(settings(&[], &text), folder.path(), 1_000_000).await;
    assert_eq!(followed.kids(), "micros/a/1 micros/b");
    assert_eq!(followed.keys.sets().borrow().issuers().count(), 0, "it is no issuer");
    let sets = followed.keys.sets().borrow().clone();
    let (_, servers) = sets.context().find(|(name, _)| name == "key_servers").unwrap();
    assert_eq!(
        *servers,
        serde_json::json!([{"name": "https://keys.test/", "urls": [primary.url("/keys/"), fallback.url("")]}])
    );
    // One that nobody can tell about fails the look; one that both say is gone is gone.
    fallback.status("/micros/b", 502);
    followed.advance(400);
    followed.until("the failure", |state| state.last_error.is_some()).await;
    assert_eq!(followed.kids(), "micros/a/1 micros/b");
    fallback.status("/micros/b", 404);
    primary.status("/keys/micros/b", 404);
    followed.advance(400);
    followed.until("the key is gone", |state| state.kids == ["micros/a/1"]).await;
    primary.says("/keys/micros/a/1", "-----BEGIN PUBLIC KEY-----");
    followed.advance(400);
    followed.until("garbage", |state| state.last_error.is_some()).await;
    assert_eq!(followed.kids(), "micros/a/1");
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, jwks(&["a"])).unwrap();
    let flag = format!("{ISSUER}={}", path.display());
    let followed = Followed::start(settings(&[&flag], ""), &folder.path().join("keys"), 1_000_000).await;
    assert_eq!(followed.kids(), "a");
    std::fs::write(&path, "{").unwrap();
    followed.until("a bad file", |state| state.last_error.is_some()).await;
    assert_eq!(followed.kids(), "a");
    std::fs::write(&path, jwks(&["b"])).unwrap();
    followed.until("a good one", |state| state.kids == ["b"]).await;
    // At the start it has to be good.
    std::fs::write(&path, "{}").unwrap();
    let clock = Arc::new(FakeClock(AtomicU64::new(1_000_000)));
    let started = Keys::start(settings(&[&flag], ""), folder.path(), clock, &mut Registry::default()).await;
    assert!(started.err().unwrap().to_string().starts_with("issuers: https://id.example.test/: jwks: "));
}
