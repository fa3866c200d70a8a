//! `gatehouse state`: the control plane's own program does it, since it knows the store.

use std::{ffi::OsString, process::Command};

use anyhow::{Context as _, bail};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `export FILE` or `import FILE`, and the flags that say where the store is: --data-dir, or --aws
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("where this program is")?;
    let program = own.with_file_name("gatehouse-control-plane");
    let status = Command::new(&program).arg("state").args(&args.arguments).status();
    let status = status.with_context(|| program.display().to_string())?;
    if !status.success() {
        bail!("{} state: {status}", program.display());
    }
    Ok(())
}
