//! Limits from a folder of files, as the reference server has them: read when something changes there, or when what the
//! folder's name leads to is exchanged. A mistake leaves what was in force.

use std::{fs, path::PathBuf, sync::Arc};

use runtime::files::{FileWatch, folder_of};

use crate::{config, metrics::Metrics, state::State};

/// Where the files are.
#[derive(Debug, Clone)]
pub struct Folder {
    /// What is exchanged as a whole, often a symbolic link: `RUNTIME_ROOT`.
    pub root: PathBuf,
    /// In it, what holds the files.
    pub below: PathBuf,
    /// Whether files of one domain are one.
    pub merge: bool,
}

impl Folder {
    fn path(&self) -> PathBuf {
        self.root.join(&self.below)
    }

    /// Its files by name, in the order of their names.
    fn read(&self) -> Result<Vec<(String, String)>, String> {
        let folder = self.path();
        let failed = |path: &PathBuf, error: std::io::Error| format!("{}: {error}", path.display());
        let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
            .map_err(|error| failed(&folder, error))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
            })
            // Editors keep their own beside them.
            .filter(|path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')))
            .collect();
        paths.sort();
        let read = |path: PathBuf| {
            let text = fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
            Ok((path.display().to_string(), text))
        };
        paths.into_iter().map(read).collect()
    }

    /// Puts what it holds in force.
    ///
    /// # Errors
    /// The first mistake; then what was in force still is.
    pub fn load(&self, state: &State, metrics: &Metrics) -> Result<(), String> {
        let domains = self.read().and_then(|files| config::read(&files, self.merge, state.defaults()));
        metrics.loaded(domains.is_ok());
        state.replace(domains?.into_iter().map(Arc::new));
        Ok(())
    }

    /// Loads it whenever something changes, and calls `loaded` each time that it could.
    ///
    /// # Errors
    /// The folders cannot be watched.
    pub async fn follow(
        self,
        state: Arc<State>,
        metrics: Metrics,
        mut loaded: impl FnMut() + Send,
    ) -> Result<(), notify::Error> {
        // The folder in which the link lies, for when it is exchanged; and what it leads to.
        let parent = folder_of(&self.root).to_owned();
        let mut watch = FileWatch::new(&[parent], |_| true)?;
        watch.renew(&self.path());
        // Something may have changed before it was watched.
        loop {
            match self.load(&state, &metrics) {
                Ok(()) => {
                    loaded();
                    tracing::info!(folder = %self.path().display(), "limits are loaded");
                }
                Err(error) => tracing::error!(error, "limits are refused; what was in force still is"),
            }
            watch.changed().await;
            watch.renew(&self.path());
        }
    }
}
