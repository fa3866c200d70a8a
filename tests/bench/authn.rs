//! `cargo xtask bench authn`: what a decision costs the authentication sidecar, beside a server that decides nothing and
//! the bare check of a signature. Server, floor and load run in processes of their own; CPU time counts, not the clock.

#[path = "authn/floor.rs"]
mod floor;
#[path = "authn/load.rs"]
mod load;
#[path = "authn/proxy.rs"]
mod proxy;

use std::{fs, path::Path, process::Stdio, thread, time::Duration};

use anyhow::Context as _;
use api::{ResourceType, pb};
use envoy_types::pb::{envoy::service::discovery::v3::Resource, google::protobuf::Any};
use jwt::testing::{ISSUER, ec_key, jwks, raw_check, rsa_key, signed_by};
use lab::Process;
use prost::Message as _;
use serde_json::{Value, json};
use tests::figures::{cpu_ms, median, print, rounded};
use tokio::process::Command;
use xds::disk::LastGood;

/// Medians of this many, one after another for each kind.
const ROUNDS: usize = 5;
/// Of each kind in a round.
const REQUESTS: usize = 6_000;
/// Tokens that come again and again.
const CACHED: usize = 1_000;
/// For the memory of a full cache.
const MANY: usize = 100_000;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match args.get(1).map(String::as_str) {
        Some(floor::AS_SERVER) => runtime.block_on(floor::serve(Path::new(&args[2]))),
        Some(load::AS_LOAD) => runtime.block_on(load::run(Path::new(&args[2]), Path::new(&args[3]))),
        _ => {
            let figures = runtime.block_on(bench())?;
            print("authentication, microseconds of CPU for each request", &figures);
            Ok(())
        }
    }
}

/// One kind of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Noop,
    Cached,
    Rs256,
    Es256,
}

const KINDS: [Kind; 4] = [Kind::Noop, Kind::Cached, Kind::Rs256, Kind::Es256];

async fn bench() -> anyhow::Result<Value> {
    let folder = tempfile::tempdir()?;
    let (noop, ours) = (folder.path().join("noop.sock"), folder.path().join("authn.sock"));
    let mut floor = Command::new(std::env::current_exe()?)
        .args([floor::AS_SERVER.as_ref(), noop.as_os_str()])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("starting the floor's server")?;
    keep_policy(&folder.path().join("authn"))?;
    let authn = start(folder.path(), &ours).await?;
    let (floor_pid, authn_pid) = (floor.id().context("the floor runs")?, authn.id().context("authn runs")?);
    let again: Vec<String> = (0..CACHED).map(|at| token(Kind::Cached, at)).collect();
    // Once, so that they are known.
    send(&folder.path().join("again"), &ours, &again).await?;
    let mut all: Vec<Vec<f64>> = vec![Vec::new(); KINDS.len()];
    for round in 0..ROUNDS {
        for (nth, kind) in KINDS.into_iter().enumerate() {
            let tokens: Vec<String> = match kind {
                Kind::Noop | Kind::Cached => again.iter().cycle().take(REQUESTS * 4).cloned().collect(),
                Kind::Rs256 | Kind::Es256 => {
                    (0..REQUESTS).map(|at| token(kind, CACHED + round * REQUESTS + at)).collect()
                }
            };
            let (pid, socket) = if kind == Kind::Noop { (floor_pid, &noop) } else { (authn_pid, &ours) };
            let before = cpu_ms(pid);
            send(&folder.path().join("tokens"), socket, &tokens).await?;
            #[allow(clippy::cast_precision_loss)]
            all[nth].push((cpu_ms(pid) - before) * 1e3 / tokens.len() as f64);
        }
    }
    let many: Vec<String> = (0..MANY).map(|at| token(Kind::Es256, 1_000_000 + at)).collect();
    send(&folder.path().join("many"), &ours, &many).await?;
    let rss = rss_mb(authn_pid)?;
    let through = proxy::figures(folder.path(), &ours, authn_pid, &again[0]).await?;
    floor.kill().await?;
    authn.kill().await;
    let [noop_us, cached_us, rs256_us, es256_us] =
        <[Vec<f64>; 4]>::try_from(all).map_err(|_| anyhow::anyhow!("four kinds"))?.map(median);
    let (raw_rs256, raw_es256) = (raw(Kind::Rs256), raw(Kind::Es256));
    let mut figures = json!({
        "noop_us": rounded(noop_us, 1),
        "cached_us": rounded(cached_us, 1),
        "rs256_cold_us": rounded(rs256_us, 1),
        "es256_cold_us": rounded(es256_us, 1),
        "raw_rs256_us": rounded(raw_rs256, 1),
        "raw_es256_us": rounded(raw_es256, 1),
        "ratio_cached_to_noop": rounded(cached_us / noop_us, 2),
        "ratio_rs256_cold": rounded(rs256_us / (noop_us + raw_rs256), 2),
        "ratio_es256_cold": rounded(es256_us / (noop_us + raw_es256), 2),
        "rss_mb": rounded(rss, 0),
    });
    let all = figures.as_object_mut().context("an object")?;
    all.extend(through.as_object().cloned().unwrap_or_default());
    Ok(figures)
}

/// A token that no other number makes, of a size that is common.
fn token(kind: Kind, number: usize) -> String {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let claims = json!({
        "iss": ISSUER, "sub": format!("user-{number}"), "aud": ["hello"], "iat": now, "nbf": now,
        "exp": now + 3_600, "jti": format!("7d6c4a3e-6f0e-4b57-9c3b-{number:012}"), "scope": "read:hello write:hello",
        "client_id": "web", "azp": "web", "sid": format!("session-{number}"),
    });
    match kind {
        Kind::Rs256 => signed_by(&rsa_key(), "RS256", "rsa", &claims),
        Kind::Noop | Kind::Cached | Kind::Es256 => signed_by(&ec_key(), "ES256", "ec", &claims),
    }
}

/// A policy and keys, as the sidecar keeps them: it starts from disk.
fn keep_policy(folder: &Path) -> anyhow::Result<()> {
    let disk = LastGood::open(folder)?;
    let method = |algorithm: &str| {
        let jwt = pb::authn::Jwt {
            issuer: ISSUER.into(),
            audiences: vec!["hello".into()],
            algorithms: vec![algorithm.into()],
            ..Default::default()
        };
        pb::authn::Method { method: Some(pb::authn::method::Method::Jwt(jwt)) }
    };
    let policy = pb::authn::Policy {
        name: "i-1@1".into(),
        policy: "i-1".into(),
        rev: 1,
        any: vec![method("ES256"), method("RS256")],
        anonymous: vec!["/healthz".into()],
        ..Default::default()
    };
    let keys = pb::authn::KeySet { name: ISSUER.into(), jwks: jwks(), ..Default::default() };
    for (kind, name, value) in [
        (ResourceType::AuthnPolicy, "i-1@1", policy.encode_to_vec()),
        (ResourceType::AuthnKeySet, ISSUER, keys.encode_to_vec()),
    ] {
        let any = Any { type_url: kind.url().into(), value };
        let resource =
            Resource { name: name.into(), version: "1".into(), resource: Some(any), ..Resource::default() };
        disk.keep(kind, &resource)?;
    }
    // That there are none has to be said.
    disk.note_answered(ResourceType::AuthnRevocations)?;
    disk.note_answered(ResourceType::AuthnIdentityKey)?;
    // And when: what nobody has spoken of for days is not believed.
    xds::Contact::backdate(folder, std::time::SystemTime::now())?;
    Ok(())
}

async fn start(folder: &Path, socket: &Path) -> anyhow::Result<Process> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name("gatehouse-authn");
    let admin = lab::Ports::free()?.authn;
    let text = |path: &Path| path.display().to_string();
    let args = [
        "--node-id",
        "edge/bench",
        "--log",
        "warn",
        "--xds",
        "http://127.0.0.1:9",
        "--socket",
        &text(socket),
        "--data-dir",
        &text(&folder.join("authn")),
        "--admin",
        &format!("127.0.0.1:{admin}"),
    ];
    let log = folder.join("authn.log");
    let mut process = Process::start("authn", &program, &args.map(str::to_owned), &log)?;
    let ready = || async {
        let answer = reqwest::get(format!("http://127.0.0.1:{admin}/readyz")).await;
        let status = answer.map_err(|error| error.to_string())?.status();
        if status.is_success() { Ok(()) } else { Err(status.to_string()) }
    };
    process.wait_until(Duration::from_secs(10), ready).await?;
    Ok(process)
}

/// Lets a process of its own ask once with each token.
async fn send(list: &Path, socket: &Path, tokens: &[String]) -> anyhow::Result<()> {
    fs::write(list, tokens.join("\n"))?;
    let load = Command::new(std::env::current_exe()?)
        .args([load::AS_LOAD.as_ref(), socket.as_os_str(), list.as_os_str()])
        .kill_on_drop(true)
        .status()
        .await?;
    anyhow::ensure!(load.success(), "the load: {load}");
    Ok(())
}

/// The bare check of a signature, in this process; twice at once, since a server has its load on the other core.
fn raw(kind: Kind) -> f64 {
    let token = token(kind, 0);
    let checks = || {
        let check = raw_check(&token);
        let before = own_cpu_us();
        for _ in 0..REQUESTS {
            assert!(check(), "the signature is good");
        }
        #[allow(clippy::cast_precision_loss)]
        let each = (own_cpu_us() - before) / REQUESTS as f64;
        each
    };
    let rounds = (0..ROUNDS).flat_map(|_| {
        thread::scope(|scope| {
            [scope.spawn(checks), scope.spawn(checks)].map(|one| one.join().unwrap_or(f64::NAN))
        })
    });
    median(rounds.collect())
}

/// Of this thread.
fn own_cpu_us() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    #[allow(clippy::cast_precision_loss)]
    let us = time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3;
    us
}

fn rss_mb(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1_024.0)
}
