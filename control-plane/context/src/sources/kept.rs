//! Last good values on disk, so that a restart while a source is away loses nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use runtime::files;

/// A folder that only its owner can read: values may be secrets.
#[derive(Debug, Clone)]
pub(crate) struct Kept(Arc<PathBuf>);

impl Kept {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        files::private_folder(folder)?;
        Ok(Self(Arc::new(folder.to_owned())))
    }

    pub(crate) fn load(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.join(name)).ok()
    }

    /// Whole, or as it was.
    pub(crate) fn keep(&self, name: &str, text: &str) -> io::Result<()> {
        files::replace(&self.0.join(name), &[text.as_bytes()])
    }
}
