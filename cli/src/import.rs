//! `gatehouse import`: another control plane's configuration into ours, and a list of what could not come along.

mod sovereign;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use console::style;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, clap::Subcommand)]
enum From {
    /// Configuration of Sovereign, the Python control plane that Envoy polls
    Sovereign {
        /// Its configuration files; later ones over earlier ones
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The folder that templates, sources and settings are written to; must not be there yet
        #[arg(long)]
        into: PathBuf,
    },
}

/// What came of an import.
#[derive(Debug, Default)]
struct Imported {
    /// By their paths in the new folder.
    files: Vec<(String, String)>,
    /// What could not come along, and what to do about it.
    left: Vec<String>,
}

#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let From::Sovereign { files, into } = &args.from;
    ensure!(!into.exists(), "--into: {} is there already; nothing was written", into.display());
    let imported = sovereign::import(files)?;
    for (name, text) in &imported.files {
        write(&into.join(name), text)?;
        println!("  {} {}", style("wrote").green(), into.join(name).display());
    }
    for left in &imported.left {
        println!("  {} {left}", style("left").yellow());
    }
    println!(
        "
Look at it, then see what comes of it:

  gatehouse-control-plane render --no-default-templates --templates {0}/templates --sources {0}/sources.yaml --edge {0}/edge.yaml --polling",
        into.display()
    );
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
