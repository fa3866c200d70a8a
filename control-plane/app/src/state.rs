//! `state export` and `state import`: all that the store knows, from one kind of store to another.

use std::{
    fs,
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use store::{
    Store,
    state::{self, Record},
};

use crate::{config::Config, engines::Engines};

/// What to do with it.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum StateCommand {
    /// Write it to a file, which must not be there. It holds keys in the clear: only its owner may read it
    Export {
        /// Lines of JSON
        file: std::path::PathBuf,
    },
    /// Read it into a store with nothing in it
    Import {
        /// As export wrote it
        file: std::path::PathBuf,
    },
}

pub(crate) async fn run(config: &mut Config, command: &StateCommand) -> anyhow::Result<()> {
    let store = Engines::open(config).await?.store;
    match command {
        StateCommand::Export { file } => {
            let lines = export(&*store, &config.edge.group, file)
                .await
                .with_context(|| file.display().to_string())?;
            tracing::info!(lines, file = %file.display(), "exported");
        }
        StateCommand::Import { file } => {
            let instances = import(&*store, file).await.with_context(|| file.display().to_string())?;
            tracing::info!(instances, file = %file.display(), "imported");
        }
    }
    Ok(())
}

async fn export(store: &dyn Store, group: &str, path: &Path) -> anyhow::Result<usize> {
    let records = state::export(store, group).await?;
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut file = BufWriter::new(file);
    for record in &records {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    Ok(records.len())
}

async fn import(store: &dyn Store, path: &Path) -> anyhow::Result<usize> {
    let mut records = Vec::new();
    // All of it is read before any of it is written.
    for (at, line) in BufReader::new(fs::File::open(path)?).lines().enumerate() {
        let record: Record = serde_json::from_str(&line?).with_context(|| format!("line {}", at + 1))?;
        records.push(record);
    }
    ensure!(!records.is_empty(), "there is nothing in it");
    Ok(state::import(store, records).await?)
}
