//! A storm: control planes are killed at random instants while a platform orders, changes and deletes services. At the
//! end nothing may be lost, doubled or left over.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lab::Ports;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{Cloud, Lab, Service, eventually};

/// How large.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    /// Different services.
    pub services: usize,
    /// How long processes are killed, at least.
    pub duration: Duration,
    /// Operations that are carried through meanwhile, at least: on a busy machine it takes longer.
    pub operations: usize,
    /// On AWS, at an emulator; else on SQLite.
    pub aws: bool,
    /// Of the random numbers: the same storm again, as far as the machine allows.
    pub seed: u64,
}

/// What a storm did.
#[derive(Debug)]
pub struct Weathered {
    /// Orders, changes and deletions that were carried through.
    pub operations: usize,
    /// Processes that were killed.
    pub kills: usize,
}

/// Changes that are under way at once.
const CLIENTS: usize = 8;
/// How many times longer than it was meant a storm lasts at most.
const MOST_PATIENCE: u32 = 5;
/// Between two looks, or after an answer that did not come.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// An operation that takes longer is lost: kills come faster than that only in between.
const DEADLINE: Duration = Duration::from_mins(3);

/// Small, and the same everywhere (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.below(range.end - range.start))
    }
}

/// What an OSB platform does: it asks again until it is told, whatever becomes of the broker meanwhile.
#[derive(Clone)]
struct Platform {
    client: Client,
    brokers: Arc<Vec<String>>,
}

impl Platform {
    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Option<(StatusCode, Value)> {
        for broker in self.brokers.iter() {
            let request = self
                .client
                .request(method.clone(), format!("{broker}{path}"))
                .basic_auth("dev", Some("dev"))
                .header("x-broker-api-version", "2.17");
            let request = if let Some(body) = body { request.json(body) } else { request };
            let Ok(response) = request.send().await else { continue };
            let status = response.status();
            if let Ok(text) = response.text().await
                && !status.is_server_error()
            {
                return Some((status, serde_json::from_str(&text).unwrap_or(Value::Null)));
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        None
    }

    /// Asks until the change is there.
    async fn carry_through(&self, method: &Method, service: &Service) {
        let ids =
            "service_id=7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e01&plan_id=7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e11";
        let path = format!("/v2/service_instances/{}?accepts_incomplete=true&{ids}", service.id());
        let mut body = json!({
            "service_id": "7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e01", "plan_id": "7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e11",
            "parameters": service.parameters,
        });
        if method == Method::PUT {
            body["organization_guid"] = json!("o");
            body["space_guid"] = json!("s");
        }
        let body = (method != Method::DELETE).then_some(body);
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < DEADLINE, "{method} {path} was not carried through");
            let Some((status, answer)) = self.send(method.clone(), &path, body.as_ref()).await else {
                continue;
            };
            match status.as_u16() {
                200 | 201 => return,
                410 if method == Method::DELETE => return,
                202 => return self.ended(service).await,
                // The first try was taken, and its answer lost.
                422 if answer["error"] == "ConcurrencyError" => self.ended(service).await,
                _ => panic!("{method} {path}: {status} {answer}"),
            }
        }
    }

    async fn ended(&self, service: &Service) {
        let path = format!("/v2/service_instances/{}/last_operation", service.id());
        let begun = Instant::now();
        loop {
            let answer = self.send(Method::GET, &path, None).await;
            match &answer {
                Some((StatusCode::GONE, _)) => return,
                Some((StatusCode::OK, state)) if state["state"] == "succeeded" => return,
                Some((StatusCode::OK, state)) if state["state"] == "in progress" => {}
                None => {}
                Some(other) => panic!("{path}: {other:?}"),
            }
            assert!(begun.elapsed() < DEADLINE, "{path}: {answer:?}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// One client with services of its own. What they are at the end: their time-outs, and how many changes there were.
async fn order(
    platform: Platform,
    services: Vec<Service>,
    mut random: Random,
    calm: Arc<AtomicBool>,
    operations: Arc<AtomicUsize>,
) -> Vec<(Service, bool, usize)> {
    let mut known: Vec<_> = services.into_iter().map(|service| (service, false, 0)).collect();
    let count = u64::try_from(known.len()).expect("a few");
    let mut version = 1;
    while !calm.load(Ordering::Relaxed) {
        let at = usize::try_from(random.below(count)).expect("small");
        let (service, is_there, changes) = &mut known[at];
        let goes = *is_there && random.below(3) == 0;
        let method = match (*is_there, goes) {
            (false, _) => Method::PUT,
            (true, false) => Method::PATCH,
            (true, true) => Method::DELETE,
        };
        if !goes {
            version += 1;
            *service = service.clone().with("/routes/0/timeout", json!(format!("{version}s")));
        }
        platform.carry_through(&method, service).await;
        *is_there = !goes;
        *changes += 1;
        operations.fetch_add(1, Ordering::Relaxed);
    }
    known
}

impl Storm {
    /// Lets it pass over an edge of its own.
    pub async fn pass(self) -> Weathered {
        let cloud = if self.aws { Some(Cloud::start().await) } else { None };
        let mut lab = Lab::with(|layout| {
            // Each kill of a worker costs a job a try, of which it has 20, and the lease that is left. With leases as short
            // as other tests have them, minutes of kills would use the tries up.
            layout.control_plane_args =
                vec!["--job-lease-secs=10".into(), "--fleet-deadline-secs=120".into()];
            if let Some(cloud) = &cloud {
                cloud.configure(layout);
            }
        })
        .await;
        let mut random = Random(self.seed | 1);
        let second = Ports::free().expect("ports");
        lab.stack.start_replica(&second).await.expect("a second control plane");
        let brokers = [lab.stack.control_plane_url(), format!("http://127.0.0.1:{}", second.control_plane)];
        let client = Client::builder().timeout(Duration::from_secs(5)).build().expect("a client");
        let platform = Platform { client, brokers: Arc::new(brokers.to_vec()) };
        let (calm, operations) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for at in 0..CLIENTS {
            let own =
                (at..self.services).step_by(CLIENTS).map(|at| lab.service(&format!("storm-{at}"))).collect();
            let seed = Random(random.below(u64::MAX >> 1) | 1);
            clients.spawn(order(platform.clone(), own, seed, calm.clone(), operations.clone()));
        }
        let (begun, mut kills) = (Instant::now(), 0);
        let is_enough = || {
            begun.elapsed() >= self.duration && operations.load(Ordering::Relaxed) >= self.operations
                || begun.elapsed() >= self.duration * MOST_PATIENCE
        };
        while !is_enough() {
            tokio::time::sleep(random.millis(if self.aws { 1_000..6_000 } else { 50..1_500 })).await;
            // One, the other, or both.
            let which = random.below(3);
            if which != 1 {
                lab.stack.control_plane.take().expect("it runs").kill().await;
                kills += 1;
            }
            if which != 0 {
                lab.stack.replicas.pop().expect("it runs").kill().await;
                kills += 1;
            }
            tokio::time::sleep(random.millis(0..300)).await;
            if which != 0 {
                lab.stack.start_replica(&second).await.expect("the second control plane comes back");
            }
            if which != 1 {
                lab.stack.start_control_plane().await.expect("the control plane comes back");
            }
        }
        calm.store(true, Ordering::Relaxed);
        let known = clients.join_all().await.into_iter().flatten().collect();
        check(&lab, cloud.as_ref(), known).await;
        lab.stop().await;
        Weathered { operations: operations.load(Ordering::Relaxed), kills }
    }
}

/// What there is, everywhere, is what the platform ordered.
async fn check(lab: &Lab, cloud: Option<&Cloud>, known: Vec<(Service, bool, usize)>) {
    let url = lab.stack.control_plane_url();
    let client = Client::new();
    let get = async |path: &str| -> Value {
        let answer = client.get(format!("{url}{path}")).bearer_auth("dev").send().await.expect("an answer");
        answer.json().await.expect("JSON")
    };
    let wanted: BTreeMap<_, _> = (known.iter().filter(|(_, is_there, _)| *is_there))
        .map(|(service, ..)| (service.id(), service.parameters.clone()))
        .collect();
    let listed = get("/v2/service_instances").await;
    let listed: BTreeMap<_, _> = (listed.as_array().into_iter().flatten())
        .map(|one| (one["instance_id"].as_str().unwrap_or_default().to_owned(), one["parameters"].clone()))
        .collect();
    assert_eq!(listed, wanted, "what is stored");

    match cloud {
        None => check_zone(lab, &wanted),
        Some(cloud) => check_cloud(cloud, &wanted).await,
    }

    eventually("nothing is left to do", || async {
        let jobs = get("/api/jobs").await;
        assert_eq!(jobs["dead"], json!([]), "nothing is given up");
        (jobs["depth"] == json!({"visible": 0, "hidden": 0})).then_some(())
    })
    .await;
    for (service, _, changes) in &known {
        let log = get(&format!("/api/audit?instance={}", service.id())).await;
        let entries: Vec<_> = log["entries"].as_array().into_iter().flatten().collect();
        // A page is the newest of them, and enough to see each begun once and ended once.
        assert_eq!(entries.len(), (changes * 2).min(200), "{}: {entries:?}", service.id());
        for pair in entries.chunks_exact(2) {
            let told = (pair[0]["event"].as_str(), pair[0]["state"].as_str(), pair[1]["event"].as_str());
            assert_eq!(told, (Some("ended"), Some("succeeded"), Some("asked")), "{}", service.id());
            assert_eq!(pair[0]["operation"], pair[1]["operation"], "{}", service.id());
        }
    }
    for (service, is_there, _) in &known {
        let expected = if *is_there { 200 } else { 404 };
        assert_eq!(lab.get(service.host(), "/healthz", None).await.status, expected, "{}", service.host());
    }
    eventually("Envoy has the clusters of what is there, and no others", || async {
        let text = lab.envoy_admin("/clusters").await;
        let ids: std::collections::BTreeSet<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("id-")?.split('/').next())
            .map(|id| format!("id-{id}"))
            .collect();
        ids.iter().eq(wanted.keys()).then_some(())
    })
    .await;
}

type Wanted = BTreeMap<String, Value>;

fn host(parameters: &Value) -> &str {
    parameters["hosts"][0].as_str().unwrap_or_default()
}

fn check_zone(lab: &Lab, wanted: &Wanted) {
    let zone = std::fs::read_to_string(lab.folder().join("zone")).unwrap_or_default();
    let record = |(id, one): (&String, &Value)| format!("{}. 60 IN A 127.0.0.1 ; {id}", host(one));
    let mut expected: Vec<_> = wanted.iter().map(record).collect();
    expected.sort();
    assert_eq!(zone.lines().collect::<Vec<_>>(), expected, "the names");
}

async fn check_cloud(cloud: &Cloud, wanted: &Wanted) {
    let mut hosts: Vec<_> = wanted.values().map(|one| host(one).to_owned()).collect();
    hosts.sort();
    let addresses = cloud.records().await.into_iter().filter(|record| record.contains(" A eu-west-1."));
    let names = addresses.map(|record| record.split(' ').next().unwrap_or_default().to_owned());
    assert_eq!(names.collect::<Vec<_>>(), hosts, "the names");
    let others = cloud.records().await.len();
    assert_eq!(
        others,
        hosts.len() * 4,
        "an address in two regions, an owner and a proof each: {:?}",
        cloud.records().await
    );
    assert_eq!(cloud.certificates().await, hosts, "the certificates");
    let held = cloud.rows("hosts").await.into_iter().filter(|row| !row.contains("freed_at_ms")).count();
    assert_eq!(held, hosts.len(), "the claims");
    assert_eq!(cloud.rows("outbox").await, Vec::<String>::new(), "the outbox");
}
