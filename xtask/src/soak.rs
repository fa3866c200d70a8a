//! `soak`: long runs, which are no part of the tests.

use std::process::Command;

use crate::{
    build,
    shell::{root, run},
};

/// `broker`: services are ordered while control planes are killed. `fuzz`: inputs that nobody means.
pub(crate) fn run_long(name: &str, options: &[&str]) -> anyhow::Result<()> {
    build::for_tests()?;
    let soak = build::target_dir().join("debug").join(format!("soak-{name}"));
    run(Command::new(soak).args(options).current_dir(root()))
}
