//! `lint`: what needs no run.

use std::{path::PathBuf, process::Command};

use crate::{
    build,
    shell::{self, cargo, root, say},
};

/// What `deny.toml` is written for.
const DENY_VERSION: &str = "0.20.2";

/// Everything that needs no run.
pub(crate) fn run() -> anyhow::Result<()> {
    style()?;
    shell::run(cargo().args(["test", "--package", "tests", "--test", "tidy"]))?;
    say("cargo deny");
    shell::run(Command::new(deny()?).current_dir(root()).args(["check", "bans", "licenses", "sources"]))
}

/// rustfmt and clippy, for both targets.
pub(crate) fn style() -> anyhow::Result<()> {
    say("rustfmt");
    shell::run(cargo().args(["fmt", "--all", "--check"]))?;
    say("clippy");
    shell::run(cargo().args(["clippy", "--all-targets", "--", "--deny", "warnings"]))?;
    build::add_target()?;
    shell::run(cargo().args([
        "clippy",
        "--package",
        "access-log-filter",
        "--target",
        "wasm32-wasip1",
        "--profile",
        "wasm",
        "--",
        "--deny",
        "warnings",
    ]))
}

/// From the project's tools, installed there on the first call.
fn deny() -> anyhow::Result<PathBuf> {
    let tools = root().join(".gatehouse/tools");
    let program = tools.join("bin/cargo-deny");
    if !program.exists() {
        say("installing cargo-deny (once, a few minutes)");
        shell::run(
            cargo()
                .args(["install", "--locked", "--version", DENY_VERSION, "cargo-deny", "--root"])
                .arg(&tools),
        )?;
    }
    Ok(program)
}
