//! Follows the file that says which platforms may order what.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use model::platforms::Platforms;
use runtime::files::{FileWatch, folder_of};
use tokio::sync::watch;

/// The platforms, and the task that follows their file, where there is one.
pub(crate) struct Followed {
    pub(crate) platforms: watch::Receiver<Arc<Platforms>>,
    sender: watch::Sender<Arc<Platforms>>,
    file: Option<(PathBuf, FileWatch)>,
}

/// Reads the file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Platforms> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_norway::from_str(&text).with_context(|| path.display().to_string())
}

impl Followed {
    /// Begins with platforms that were read; without a file they stay as they are.
    pub(crate) fn new(platforms: Platforms, file: Option<&Path>) -> anyhow::Result<Self> {
        let file = match file {
            None => None,
            Some(path) => {
                let name = path.file_name().map(ToOwned::to_owned);
                let is_it = move |changed: &Path| changed.file_name() == name.as_deref();
                let watch = FileWatch::new(&[folder_of(path).to_owned()], is_it);
                Some((path.to_owned(), watch.with_context(|| format!("watching {}", path.display()))?))
            }
        };
        let (sender, platforms) = watch::channel(Arc::new(platforms));
        Ok(Self { platforms, sender, file })
    }

    /// Reads the file anew when it changes. One that cannot be used changes nothing.
    pub(crate) async fn follow(self) {
        let Some((path, mut watch)) = self.file else { return std::future::pending().await };
        loop {
            watch.changed().await;
            match read(&path) {
                Ok(platforms) => {
                    tracing::info!(path = %path.display(), "new platforms");
                    self.sender.send_replace(Arc::new(platforms));
                }
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the platforms stay as they were");
                }
            }
        }
    }
}
