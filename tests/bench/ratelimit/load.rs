//! Asks as Envoy does: a few connections, many requests on each.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use envoy_types::pb::envoy::{
    extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
    service::ratelimit::v3::{
        RateLimitRequest, rate_limit_response::Code, rate_limit_service_client::RateLimitServiceClient,
    },
};
use serde_json::{Value, json};
use tests::figures::percentile;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

/// The argument by which this program is the load.
pub(crate) const AS_LOAD: &str = "--load";

/// What is asked.
pub(crate) struct Load {
    pub(crate) port: u16,
    pub(crate) scope: String,
    pub(crate) keys: usize,
    pub(crate) connections: usize,
    /// At the same time, on all connections together.
    pub(crate) under_way: usize,
    pub(crate) requests: usize,
}

/// What came of it.
pub(crate) struct Measured {
    pub(crate) rps: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Until a server that has just been started listens.
const CONNECT_TRIES: usize = 100;

impl Load {
    pub(crate) fn told(&self) -> Value {
        let Self { port, scope, keys, connections, under_way, requests } = self;
        json!({"port": port, "scope": scope, "keys": keys, "connections": connections, "under_way": under_way, "requests": requests})
    }

    fn read(text: &str) -> anyhow::Result<Self> {
        let told: Value = serde_json::from_str(text)?;
        let number = |name: &str| -> anyhow::Result<usize> {
            Ok(usize::try_from(told[name].as_u64().with_context(|| name.to_owned())?)?)
        };
        Ok(Self {
            port: u16::try_from(number("port")?)?,
            scope: told["scope"].as_str().context("scope")?.to_owned(),
            keys: number("keys")?,
            connections: number("connections")?,
            under_way: number("under_way")?,
            requests: number("requests")?,
        })
    }
}

impl Measured {
    pub(crate) fn read(told: &Value) -> Self {
        let number = |name: &str| told[name].as_f64().unwrap_or(f64::NAN);
        Self { rps: number("rps"), p50_us: number("p50_us"), p99_us: number("p99_us") }
    }
}

fn request(scope: &str, key: usize) -> RateLimitRequest {
    let entry = |key: &str, value: String| Entry { key: key.into(), value };
    let entries = vec![entry("scope", scope.to_owned()), entry("user", format!("user-{key:08}"))];
    let descriptors = vec![RateLimitDescriptor { entries, ..Default::default() }];
    RateLimitRequest { domain: "bench".into(), descriptors, hits_addend: 0 }
}

/// Sends all; all must be allowed. Prints what it measured.
#[allow(clippy::print_stdout, clippy::cast_precision_loss)]
pub(crate) async fn run(text: &str) -> anyhow::Result<()> {
    let Load { port, scope, keys, connections, under_way, requests } = Load::read(text)?;
    let next = Arc::new(AtomicUsize::new(0));
    let mut all = JoinSet::new();
    let mut channels = Vec::new();
    for _ in 0..connections {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.tcp_nodelay(true);
        let mut channel = endpoint.connect().await;
        for _ in 0..CONNECT_TRIES {
            if channel.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            channel = endpoint.connect().await;
        }
        channels.push(channel?);
    }
    let begun = Instant::now();
    for at in 0..under_way {
        let (mut client, next, scope) =
            (RateLimitServiceClient::new(channels[at % connections].clone()), next.clone(), scope.clone());
        all.spawn(async move {
            let mut took = Vec::new();
            loop {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                if nth >= requests {
                    return Ok::<_, anyhow::Error>(took);
                }
                // Each key in turn, but not one after another.
                let request = request(&scope, nth.wrapping_mul(7_919) % keys);
                let begun = Instant::now();
                let answer = client.should_rate_limit(request).await?;
                took.push(begun.elapsed().as_secs_f64() * 1e6);
                ensure!(answer.get_ref().overall_code() == Code::Ok, "refused: {answer:?}");
            }
        });
    }
    let mut took = Vec::with_capacity(requests);
    while let Some(ended) = all.join_next().await {
        took.extend(ended??);
    }
    let rps = requests as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({"rps": rps, "p50_us": percentile(50, took.clone()), "p99_us": percentile(99, took)})
    );
    Ok(())
}
