//! `cargo xtask soak ratelimit-sim [SECONDS]`: limits of a simulated fleet of 2,000 nodes in 13 regions, as a table:
//! what passed, beside the limit.

use anyhow::Context as _;
use ratelimit::simulator::{Size, cases, run};

const SECONDS: u64 = 20;
const NODES: usize = 2_000;
const REGIONS: usize = 13;

#[allow(clippy::print_stdout)]
fn main() -> anyhow::Result<()> {
    let seconds =
        std::env::args().nth(1).map_or(Ok(SECONDS), |text| text.parse()).context("seconds: a number")?;
    let seed: u64 = match std::env::var("GATEHOUSE_SEED") {
        Ok(seed) => seed.parse().context("GATEHOUSE_SEED: a number")?,
        Err(_) => 2_026,
    };
    println!("GATEHOUSE_SEED={seed}, {NODES} nodes, {REGIONS} regions, {seconds} seconds\n");
    println!(
        "| case | requests | largest window: admitted ÷ limit | admitted ÷ possible | store operations a request |"
    );
    println!("|---|---|---|---|---|");
    for case in cases() {
        let ran = run(&case, Size { nodes: NODES, regions: REGIONS, seconds }, seed);
        println!(
            "| {} | {} | {:.3} | {:.3} | {:.3} |",
            case.name, ran.requests, ran.admitted_to_limit, ran.used, ran.ops_per_request
        );
    }
    Ok(())
}
