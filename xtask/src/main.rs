//! The commands of the house. Each sets up what it needs, so that a fresh clone is enough.

mod bench;
mod build;
mod descriptors;
mod lint;
mod shell;
mod soak;
mod test;
mod up;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask <command>

  up [OPTIONS]           build in release, fetch Envoy, and run everything on this machine
  test [NAME]            everything that CI runs; with a name, the tests whose name contains it
  bench onboard [--json] from the broker request to the first 200 through Envoy
  bench authn [--json]   decisions of the authentication sidecar, beside a server that decides nothing
  bench broker [--json]  orders and jobs, with 100 and with 10,000 services stored
  bench fleet [--json] [--proxies N] [--services N] [--changes N] [--curve FILE.svg]
                         a change's way to a simulated fleet; cold start, reconnect, memory
  bench ratelimit [--json]
                         answers of the rate-limit sidecar, beside a server that does nothing
  bench render [--json]  templates to resources, beside Jinja2 and PyYAML
  bench rest [--json]    polls of 10,000 clusters, beside the Python predecessor
  bench revoke [--json]  how long a revoked token stays good
  soak broker [MINUTES]  services are ordered while control planes are killed; 5 minutes
  soak fuzz [MINUTES]    inputs that nobody means, for all that reads what others send; 5 minutes
  soak ratelimit-sim [SECONDS]
                         limits of a simulated fleet of 2,000 nodes, as a table
  lint                   rustfmt, clippy, the tidy tests, cargo-deny
  descriptors            make crates/api/envoy.binpb anew from the pinned protos
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["up", options @ ..] => up::run(options),
        ["test"] => test::run(None),
        ["test", name] => test::run(Some(name)),
        [
            "bench",
            name @ ("onboard" | "authn" | "broker" | "fleet" | "ratelimit" | "render" | "rest" | "revoke"),
            options @ ..,
        ] => bench::run_release(name, options),
        ["soak", name @ ("broker" | "fuzz" | "ratelimit-sim"), options @ ..] => soak::run_long(name, options),
        ["lint"] => lint::run(),
        ["descriptors"] => descriptors::run(),
        _ => Err(anyhow::anyhow!("no such command: {}\n\n{USAGE}", args.join(" "))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
