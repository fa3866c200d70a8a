//! `bench`: figures from a release build.

use std::process::Command;

use crate::{
    build::{Profile, everything},
    shell::{root, run},
};

/// `onboard`: a running edge, services one after another. `fleet`: a control plane and thousands of proxies. `render` and
/// `rest`: beside what the Python predecessor does.
pub(crate) fn run_release(name: &str, options: &[&str]) -> anyhow::Result<()> {
    let bin = everything(Profile::Release)?;
    run(Command::new(bin.join(format!("bench-{name}"))).args(options).current_dir(root()))
}
