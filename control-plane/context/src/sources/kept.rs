//! Last good values on disk, so that a restart while a source is away loses nothing.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A folder that only its owner can read: values may be secrets.
#[derive(Debug, Clone)]
pub(crate) struct Kept(Arc<PathBuf>);

impl Kept {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self(Arc::new(folder.to_owned())))
    }

    pub(crate) fn load(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.join(name)).ok()
    }

    /// Whole, or as it was.
    pub(crate) fn keep(&self, name: &str, text: &str) -> io::Result<()> {
        let (path, next) = (self.0.join(name), self.0.join(format!("{name}.next")));
        let mut file =
            fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(next, path)
    }
}
