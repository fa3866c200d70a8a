//! Watches the folder of operators' templates: its files, and that it is still the same folder.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use runtime::files::FileWatch;
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
    let ours = folder.clone();
    // The folder beside it may be busy.
    let mut files = FileWatch::new(&[parent, folder.clone()], move |changed| changed.starts_with(&ours))
        .context("--templates: watching it")?;
    tokio::spawn(async move {
        loop {
            files.changed().await;
            // When there is none by the name now, its coming is an event of the parent.
            files.renew(&folder);
            sender.send_modify(|count| *count += 1);
        }
    });
    Ok(receiver)
}
