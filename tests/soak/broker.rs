//! `cargo xtask soak broker [MINUTES [aws]]`: services are ordered, changed and deleted while control planes are killed,
//! on SQLite or at an emulator of AWS.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tests::Storm;

const SERVICES: usize = 200;
/// The emulator is slow: of more, most would never be ordered.
const SERVICES_ON_AWS: usize = 40;
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
    let aws = match std::env::args().nth(2).as_deref() {
        None => false,
        Some("aws") => true,
        Some(other) => anyhow::bail!("aws or nothing, got {other:?}"),
    };
    let services = if aws { SERVICES_ON_AWS } else { SERVICES };
    println!("GATEHOUSE_SEED={seed}, {minutes} minutes, {services} services");
    let storm = Storm { services, duration: Duration::from_secs(minutes * 60), operations: 0, aws, seed };
    let weathered = storm.pass().await;
    println!(
        "{} operations while processes were killed {} times: nothing is lost, doubled or left over",
        weathered.operations, weathered.kills
    );
    Ok(())
}
