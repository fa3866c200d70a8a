//! Nodes that share a store: the embedded one, and a real Redis that is stopped, killed and slow.

use std::time::Instant;

use lab::redis::Redis as Server;

use super::{
    redis::{Redis, RedisType},
    store::{Memory, StoreError, conformance},
    *,
};
use crate::{
    config::{Domain, tests::from_file},
    decide::Applied,
};

/// Minutes and longer, so that no test crosses the end of a window by chance.
fn limit(requests: u32, extension: &str) -> Domain {
    from_file(&format!(
        "domain: d\ndescriptors: [{{key: a, rate_limit: {{unit: year, requests_per_unit: {requests}}}, metadata: {{rls: {{scope: fleet{extension}}}}}}}]\n"
    ))
}

/// Long enough for a debug build on a machine that does other things.
fn patient() -> FleetSettings {
    FleetSettings { deadline: Duration::from_secs(20), nodes: 1, ..FleetSettings::default() }
}

pub(super) fn settings(server: &Server) -> RedisSettings {
    RedisSettings {
        redis_url: Some(server.address()),
        redis_type: RedisType::Single,
        redis_auth: None,
        redis_sentinel_auth: None,
        redis_tls: false,
        redis_ca: None,
        redis_cert: None,
        redis_key: None,
    }
}

/// A node of a fleet.
struct Node {
    fleet: Arc<Fleet>,
    counters: Table<Counter>,
}

impl Node {
    fn new(fleet: Arc<Fleet>) -> Arc<Self> {
        Arc::new(Self { fleet, counters: Table::new(Bounds::default()) })
    }

    async fn hit(&self, domain: &Domain, key: &str, hits: u64) -> Said {
        let found = domain.find([("a", key)].into_iter()).unwrap();
        let ask = Ask { limit: Applied::Configured(found.limit), key: found.key, hits };
        let case = Case { ask: &ask, domain: domain.slot, counters: &self.counters, now: now() };
        match self.fleet.begin(case) {
            Begun::Said(said) => said,
            begun => self.fleet.finish(case, begun).await,
        }
    }
}

/// How many of `hits` pass, asked for by many at once at each of the nodes.
async fn passed(nodes: &[Arc<Node>], domain: &Arc<Domain>, hits: usize) -> usize {
    let mut all = tokio::task::JoinSet::new();
    for node in nodes {
        for _ in 0..16 {
            let (node, domain, hits) =
                (Arc::clone(node), Arc::clone(domain), hits.div_ceil(16 * nodes.len()));
            all.spawn(async move {
                let mut passed = 0;
                for _ in 0..hits {
                    passed += usize::from(!node.hit(&domain, "hot", 1).await.taken.over);
                }
                passed
            });
        }
    }
    let mut passed = 0;
    while let Some(ended) = all.join_next().await {
        passed += ended.unwrap();
    }
    passed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_share_a_store_let_the_limit_pass_and_no_more() {
    for extension in ["", ", mode: strict", ", algorithm: sliding", ", mode: strict, algorithm: sliding"] {
        let store = Arc::new(Memory::default());
        let nodes: Vec<_> = (0..3).map(|_| Node::new(Fleet::start(store.clone(), &patient()))).collect();
        let domain = Arc::new(limit(1_000, extension));
        let passed = passed(&nodes, &domain, 3_000).await;
        assert!(passed <= 1_000, "{passed}{extension}");
        assert!(passed >= 900, "{passed}{extension}: what is leased and not used is little");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_real_redis_the_limit_is_exact_and_a_hot_key_asks_seldom() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path()).await.unwrap();
    conformance::check(&Redis::new(&settings(&server)).unwrap()).await;
    let nodes: Vec<_> =
        (0..3).map(|_| Node::new(Fleet::connect(&settings(&server), &patient()).unwrap())).collect();
    let domain = Arc::new(limit(10_000, ""));
    let passed = passed(&nodes, &domain, 30_000).await;
    assert!((9_500..=10_000).contains(&passed), "{passed}");
    let ops: u64 = nodes.iter().map(|node| node.fleet.pump.ops.load(Ordering::Relaxed)).sum();
    assert!(ops < 600, "{ops} operations for 30,000 requests");
    let keys = server.ask("DBSIZE").await.unwrap();
    assert!(!keys.starts_with(":0"), "{keys}");
}

#[tokio::test]
async fn a_strict_limit_is_told_by_the_store_at_once_to_all() {
    let store = Arc::new(Memory::default());
    let nodes: Vec<_> = (0..2).map(|_| Node::new(Fleet::start(store.clone(), &patient()))).collect();
    let domain = limit(3, ", mode: strict");
    assert_eq!(nodes[0].hit(&domain, "k", 2).await.taken.remaining, 1);
    assert_eq!(nodes[1].hit(&domain, "k", 1).await.taken.remaining, 0);
    assert!(nodes[0].hit(&domain, "k", 1).await.taken.over);
    let again = nodes[0].hit(&domain, "k", 1).await;
    assert!(again.taken.over && again.without_store, "known here by now");
}

#[tokio::test]
async fn an_optimistic_limit_is_answered_without_waiting() {
    let node = Node::new(Fleet::start(Arc::new(Memory::default()), &patient()));
    let domain = limit(3, ", mode: optimistic");
    for left in [2, 1, 0] {
        let said = node.hit(&domain, "k", 1).await;
        assert_eq!((said.taken.over, said.taken.remaining), (false, left));
    }
    assert!(node.hit(&domain, "k", 1).await.taken.over);
}

#[tokio::test]
async fn what_a_refused_request_took_is_given_back() {
    for extension in [", all_or_nothing: true", ", all_or_nothing: true, mode: strict"] {
        let node = Node::new(Fleet::start(Arc::new(Memory::default()), &patient()));
        let domain = limit(10, extension);
        let found = domain.find([("a", "k")].into_iter()).unwrap();
        let ask = Ask { limit: Applied::Configured(found.limit), key: found.key, hits: 10 };
        assert!(!node.hit(&domain, "k", 10).await.taken.over);
        let case = Case { ask: &ask, domain: domain.slot, counters: &node.counters, now: now() };
        node.fleet.take_back(case, false);
        // A store that was told has heard it before it is asked again.
        assert!(!node.hit(&domain, "k", 10).await.taken.over, "{extension}");
    }
}

#[tokio::test]
async fn without_a_store_each_limit_is_kept_as_it_says() {
    let node = Node::new(Fleet::without_store(10));
    let (share, allow, deny) =
        (limit(30, ""), limit(30, ", on_store_error: allow"), limit(30, ", on_store_error: deny"));
    for _ in 0..3 {
        assert!(!node.hit(&share, "k", 1).await.taken.over);
    }
    assert!(node.hit(&share, "k", 1).await.taken.over, "a tenth of it is ours");
    assert!(!node.hit(&allow, "k", 100).await.taken.over);
    assert!(node.hit(&deny, "k", 1).await.taken.over);
    let small = limit(3, "");
    assert!(!node.hit(&small, "small", 1).await.taken.over, "at least one");
    assert!(node.hit(&small, "small", 1).await.taken.over);
}

/// A store that does as it is told.
#[derive(Default)]
struct Moody {
    memory: Memory,
    stands_still: std::sync::atomic::AtomicBool,
}

#[async_trait::async_trait]
impl Store for Moody {
    async fn run(&self, batch: &[Op]) -> Result<Vec<i64>, StoreError> {
        if self.stands_still.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.memory.run(batch).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stands_still_delays_nobody_beyond_the_deadline() {
    let store = Arc::new(Moody::default());
    let node =
        Node::new(Fleet::start(store.clone(), &FleetSettings { nodes: 1, ..FleetSettings::default() }));
    let domain = limit(10, "");
    assert!(!node.hit(&domain, "k", 1).await.taken.over);
    store.stands_still.store(true, Ordering::Relaxed);
    for key in 0..20 {
        let begun = tokio::time::Instant::now();
        let said = node.hit(&domain, &format!("other {key}"), 1).await;
        assert!(said.taken.over, "nothing was granted, and the window began with the store");
        assert!(begun.elapsed() <= DEADLINE + Duration::from_millis(1), "{:?}", begun.elapsed());
    }
    assert!(node.fleet.pump.breaker().is_down());
    store.stands_still.store(false, Ordering::Relaxed);
    while node.fleet.pump.breaker().is_down() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!node.hit(&domain, "new", 1).await.taken.over);
}

/// The longest of some answers, and how many passed.
async fn asked(node: &Node, domain: &Domain, keys: std::ops::Range<usize>) -> (Duration, usize) {
    let (mut longest, mut passed) = (Duration::ZERO, 0);
    for key in keys {
        let begun = Instant::now();
        passed += usize::from(!node.hit(domain, &key.to_string(), 1).await.taken.over);
        longest = longest.max(begun.elapsed());
    }
    (longest, passed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_stopped_killed_and_back_again_costs_no_more_than_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path()).await.unwrap();
    let deadline = Duration::from_millis(200);
    let node = Node::new(
        Fleet::connect(&settings(&server), &FleetSettings { deadline, nodes: 1, ..FleetSettings::default() })
            .unwrap(),
    );
    let domain = limit(5, "");
    // The first one waits for the connection.
    while node.hit(&domain, "first", 1).await.taken.over {}
    assert_eq!(asked(&node, &domain, 0..50).await.1, 50);
    server.stop();
    let (longest, passed) = asked(&node, &domain, 100..150).await;
    assert!(longest < 2 * deadline, "{longest:?}");
    assert_eq!(passed, 0, "what is not granted does not pass");
    let (longest, _) = asked(&node, &domain, 0..50).await;
    assert!(longest < deadline, "nobody waits for a store that is down: {longest:?}");
    server.go_on();
    comes_back(&node, &domain, 1_000).await;
    server.kill().await;
    let (longest, _) = asked(&node, &domain, 200..250).await;
    assert!(longest < 2 * deadline, "{longest:?}");
    server.start_again().await.unwrap();
    comes_back(&node, &domain, 100_000).await;
}

async fn comes_back(node: &Node, domain: &Domain, keys: usize) {
    let end = Instant::now() + Duration::from_secs(30);
    for key in keys.. {
        if !node.hit(domain, &key.to_string(), 1).await.taken.over {
            return;
        }
        assert!(Instant::now() < end, "it does not come back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_password_is_told_and_a_wrong_one_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(folder.path(), &["--requirepass", "secret"]).await.unwrap();
    let with = |auth: &str| RedisSettings { redis_auth: Some(auth.into()), ..settings(&server) };
    conformance::check(&Redis::new(&with("secret")).unwrap()).await;
    conformance::check(&Redis::new(&with("default:secret")).unwrap()).await;
    let wrong = Redis::new(&with("wrong")).unwrap();
    let look = [Op { key: "k".into(), act: Act::Look }];
    assert!(wrong.run(&look).await.is_err());
    assert!(!format!("{:?}", with("secret")).contains("secret"));
}
