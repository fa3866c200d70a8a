//! Follows a YAML file that says something to a running process: which platforms may order, what is to go wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use runtime::files::{FileWatch, folder_of};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// What the file says, and the task that follows it, where there is one.
pub(crate) struct Followed<T> {
    pub(crate) value: watch::Receiver<Arc<T>>,
    sender: watch::Sender<Arc<T>>,
    file: Option<(PathBuf, FileWatch)>,
}

/// Reads the file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_norway::from_str(&text).with_context(|| path.display().to_string())
}

impl<T: DeserializeOwned> Followed<T> {
    /// Begins with what was read; without a file it stays so.
    pub(crate) fn new(value: T, file: Option<&Path>) -> anyhow::Result<Self> {
        let file = match file {
            None => None,
            Some(path) => {
                let name = path.file_name().map(ToOwned::to_owned);
                let is_it = move |changed: &Path| changed.file_name() == name.as_deref();
                let watch = FileWatch::new(&[folder_of(path).to_owned()], is_it);
                Some((path.to_owned(), watch.with_context(|| format!("watching {}", path.display()))?))
            }
        };
        let (sender, value) = watch::channel(Arc::new(value));
        Ok(Self { value, sender, file })
    }

    /// Reads the file anew when it changes. One that cannot be used changes nothing.
    pub(crate) async fn follow(self) {
        let Some((path, mut watch)) = self.file else { return std::future::pending().await };
        loop {
            watch.changed().await;
            match read(&path) {
                Ok(value) => {
                    tracing::info!(path = %path.display(), "read anew");
                    self.sender.send_replace(Arc::new(value));
                }
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "everything stays as it was");
                }
            }
        }
    }
}
