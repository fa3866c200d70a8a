//! `cargo xtask soak fuzz [MINUTES]`: everything that reads what clients and others send, with inputs that nobody means.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tests::fuzz;

const MINUTES: u64 = 5;

#[allow(clippy::print_stdout)]
fn main() -> anyhow::Result<()> {
    let minutes: u64 =
        std::env::args().nth(1).map_or(Ok(MINUTES), |text| text.parse()).context("minutes: a number")?;
    // Other inputs each time; the number brings them back.
    let seed = match std::env::var("GATEHOUSE_SEED") {
        Ok(seed) => seed.parse().context("GATEHOUSE_SEED: a number")?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let targets = fuzz::targets();
    println!("GATEHOUSE_SEED={seed}, {minutes} minutes, {} targets", targets.len());
    let each = Duration::from_secs(minutes * 60) / u32::try_from(targets.len())?;
    for target in targets {
        let inputs = target.run_for(seed, each);
        println!("{}: {inputs} inputs, and all that must hold does", target.name);
    }
    Ok(())
}
