//! `bench`: figures from a release build.

use std::process::Command;

use crate::{
    build::{Profile, everything},
    shell::{root, run},
};

/// `put_to_live`: a release build, a running edge, services one after another.
pub(crate) fn onboard(json: bool) -> anyhow::Result<()> {
    let bin = everything(Profile::Release)?;
    let mut bench = Command::new(bin.join("bench-onboard"));
    bench.current_dir(root());
    if json {
        bench.arg("--json");
    }
    run(&mut bench)
}
