//! `cargo xtask soak broker [MINUTES]`: 200 services are ordered, changed and deleted while control planes are killed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tests::Storm;

const SERVICES: usize = 200;
const MINUTES: u64 = 5;

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() -> anyhow::Result<()> {
    let minutes =
        std::env::args().nth(1).map_or(Ok(MINUTES), |text| text.parse()).context("minutes: a number")?;
    // Another storm each time; the number brings one back.
    let seed = match std::env::var("GATEHOUSE_SEED") {
        Ok(seed) => seed.parse().context("GATEHOUSE_SEED: a number")?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    println!("GATEHOUSE_SEED={seed}, {minutes} minutes, {SERVICES} services");
    let storm = Storm { services: SERVICES, duration: Duration::from_secs(minutes * 60), seed };
    let weathered = storm.pass().await;
    println!(
        "{} operations while processes were killed {} times: nothing is lost, doubled or left over",
        weathered.operations, weathered.kills
    );
    Ok(())
}
