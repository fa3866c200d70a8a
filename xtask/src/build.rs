//! Builds what runs: our binaries, and the Wasm modules that Envoy loads.

use std::{path::PathBuf, process::Command};

use crate::shell::{cargo, output, root, run, say};

/// Which profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

const WASM_TARGET: &str = "wasm32-wasip1";

/// All binaries and modules. Where the binaries are.
pub(crate) fn everything(profile: Profile) -> anyhow::Result<PathBuf> {
    wasm()?;
    say("building");
    let mut build = cargo();
    build.args(["build", "--bins"]);
    if profile == Profile::Release {
        build.arg("--release");
    }
    run(&mut build)?;
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => "release",
    };
    Ok(target_dir().join(folder))
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
