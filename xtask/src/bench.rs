//! `bench`: figures from a release build.

use std::process::Command;

use crate::{
    build,
    shell::{root, run},
};

/// `onboard`: a running edge, services one after another. `fleet`: a control plane and thousands of proxies. `render` and
/// `rest`: beside what the Python predecessor does.
pub(crate) fn run_release(name: &str, options: &[&str]) -> anyhow::Result<()> {
    let bench = format!("bench-{name}");
    let bin = build::release(std::slice::from_ref(&bench))?;
    run(Command::new(bin.join(bench)).args(options).current_dir(root()))
}
