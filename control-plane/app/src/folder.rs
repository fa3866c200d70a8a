//! Watches the folder of operators' templates: its files, and that it is still the same folder.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use notify::{RecursiveMode, Watcher as _};
use templates::{TemplateError, Templates};
use tokio::sync::watch;

/// Where the templates are.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    pub(crate) path: Option<PathBuf>,
    /// Whether the default ones are there too.
    pub(crate) with_defaults: bool,
}

impl Folder {
    pub(crate) fn load(&self) -> Result<Templates, TemplateError> {
        match &self.path {
            Some(path) if !self.with_defaults => Templates::load_only(path),
            path => Templates::load(path.as_deref()),
        }
    }
}

/// A save of several files is one change.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Counts up when something in the folder changes, or the folder is replaced, by a rename or a link. Without a
/// folder it never does.
pub(crate) fn watch(folder: Option<&Path>) -> anyhow::Result<watch::Receiver<u64>> {
    let (sender, receiver) = watch::channel(0);
    let Some(folder) = folder else {
        // Nothing to watch; the channel must stay open all the same.
        tokio::spawn(async move { sender.closed().await });
        return Ok(receiver);
    };
    let folder = std::path::absolute(folder).context("--templates")?;
    let parent = folder.parent().context("--templates: a folder below the root")?.to_owned();
    let (events, mut happened) = watch::channel(0_u64);
    let ours = folder.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // The folder beside it may be busy.
        let concerns_us = |event: &notify::Event| event.paths.iter().any(|path| path.starts_with(&ours));
        if event.is_ok_and(|event| !event.kind.is_access() && concerns_us(&event)) {
            events.send_modify(|count| *count += 1);
        }
    })?;
    for watched in [&parent, &folder] {
        watcher
            .watch(watched, RecursiveMode::NonRecursive)
            .with_context(|| format!("--templates: watching {}", watched.display()))?;
    }
    tokio::spawn(async move {
        while happened.changed().await.is_ok() {
            tokio::time::sleep(DEBOUNCE).await;
            happened.mark_unchanged();
            // What is watched is a folder, not its name: take the one that has the name now. When there is none,
            // its coming is an event of the parent.
            let _was_gone = watcher.unwatch(&folder);
            let _is_gone = watcher.watch(&folder, RecursiveMode::NonRecursive);
            sender.send_modify(|count| *count += 1);
        }
    });
    Ok(receiver)
}
