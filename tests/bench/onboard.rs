//! `cargo xtask bench onboard`: 50 services one after another, each from its OSB PUT to the first 200 through
//! Envoy, in a running edge.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tests::{
    Lab,
    figures::{percentile, print, rounded},
};

const SERVICES: usize = 50;
/// Between two requests for a host that is not live yet.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// A service that takes longer is a failure and not a figure.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let lab = Lab::start().await;
    let mut took = Vec::with_capacity(SERVICES);
    for at in 0..SERVICES {
        took.push(onboard(&lab, &format!("bench-{at}")).await?.as_secs_f64() * 1e3);
    }
    lab.stop().await;
    let millis = |percent| rounded(percentile(percent, took.clone()), 1);
    let figures = json!({
        "services": SERVICES,
        "put_to_live_p50_ms": millis(50),
        "put_to_live_p99_ms": millis(99),
        "put_to_live_max_ms": millis(100),
    });
    print(&format!("from PUT to the first 200 through Envoy, {SERVICES} services"), &figures);
    Ok(())
}

async fn onboard(lab: &Lab, name: &str) -> anyhow::Result<Duration> {
    let service = lab.service(name);
    let token = lab.good_token(&service).await;
    let begun = Instant::now();
    let answer = lab.provision(&service).await;
    ensure!(answer.status == 202, "{name}: {} {}", answer.status, answer.body);
    while begun.elapsed() < DEADLINE {
        if lab.get(service.host(), "/", Some(&token)).await.status == 200 {
            return Ok(begun.elapsed());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let state = lab.last_operation(&service).await.context("the broker is away")?;
    anyhow::bail!("{name} is not live: {}", state.body)
}
