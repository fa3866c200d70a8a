//! `cargo xtask bench onboard`: 50 services one after another, each from its OSB PUT to the first 200 through
//! Envoy, in a running edge.

use serde_json::json;
use tests::{
    Lab,
    figures::{percentile, print, rounded},
};

const SERVICES: usize = 50;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let lab = Lab::start().await;
    let took = lab.onboard(SERVICES).await;
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
