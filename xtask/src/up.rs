//! `up`: build in release, then run.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::Context as _;

use crate::{build, shell::root};

/// Builds, and becomes `gatehouse up`: Ctrl-C is its own.
pub(crate) fn run(options: &[&str]) -> anyhow::Result<()> {
    let bin = build::release(&[])?;
    let error = Command::new(bin.join("gatehouse")).arg("up").args(options).current_dir(root()).exec();
    Err(error).context("starting gatehouse")
}
