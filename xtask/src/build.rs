//! Builds what runs: our binaries, and the Wasm modules that Envoy loads.

use std::{path::PathBuf, process::Command};

use crate::shell::{cargo, output, root, run, say};

const WASM_TARGET: &str = "wasm32-wasip1";

/// What an edge runs on one machine.
const PROGRAMS: [&str; 6] = [
    "gatehouse",
    "gatehouse-control-plane",
    "gatehouse-authn",
    "gatehouse-authz",
    "gatehouse-ratelimit",
    "gatehouse-guard",
];

/// All binaries and modules, as tests run them.
pub(crate) fn for_tests() -> anyhow::Result<()> {
    wasm()?;
    say("building");
    run(cargo().args(["build", "--bins"]))
}

/// The programs, optimised, and `more` binaries. Where they are.
pub(crate) fn release(more: &[String]) -> anyhow::Result<PathBuf> {
    wasm()?;
    say("building");
    let binaries = PROGRAMS.into_iter().chain(more.iter().map(String::as_str));
    // Chosen by binary and not by package: so the features of what they depend on are the same each time.
    run(cargo().args(["build", "--release"]).args(binaries.flat_map(|name| ["--bin", name])))?;
    Ok(target_dir().join("release"))
}

/// The Wasm modules, which are always optimised.
pub(crate) fn wasm() -> anyhow::Result<()> {
    add_target()?;
    say("building the Wasm modules");
    run(cargo().args([
        "build",
        "--package",
        "access-log-filter",
        "--target",
        WASM_TARGET,
        "--profile",
        "wasm",
    ]))
}

/// `rustup target add`, where it is not there; without rustup the toolchain must have it.
pub(crate) fn add_target() -> anyhow::Result<()> {
    let Ok(installed) =
        output(Command::new("rustup").current_dir(root()).args(["target", "list", "--installed"]))
    else {
        return Ok(());
    };
    if installed.lines().any(|target| target == WASM_TARGET) {
        return Ok(());
    }
    say(&format!("adding the target {WASM_TARGET}"));
    run(Command::new("rustup").current_dir(root()).args(["target", "add", WASM_TARGET]))
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
