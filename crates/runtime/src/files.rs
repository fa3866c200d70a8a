//! Files that change, and files that must not be seen half written.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;

/// A save of several files is one change: a certificate and its key, the files of a checkout.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Tells when something in some folders changes. Folders and not files, since a file that is replaced by a rename, or
/// lies behind a link that is, is another file.
#[derive(Debug)]
pub struct FileWatch {
    watcher: RecommendedWatcher,
    events: watch::Receiver<()>,
}

impl FileWatch {
    /// Watches from now on. Of what changes in the folders, `concerns_us` chooses.
    ///
    /// # Errors
    /// A folder is not there, or the system watches no more of them.
    pub fn new(
        folders: &[PathBuf],
        concerns_us: impl Fn(&Path) -> bool + Send + 'static,
    ) -> notify::Result<Self> {
        let (sender, events) = watch::channel(());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let concerns_us = |event: &notify::Event| event.paths.iter().any(|path| concerns_us(path));
            if event.is_ok_and(|event| !event.kind.is_access() && concerns_us(&event)) {
                sender.send_replace(());
            }
        })?;
        for folder in folders {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { watcher, events })
    }

    /// Waits until something has changed, and then until the rest of the same save has too.
    pub async fn changed(&mut self) {
        if self.events.changed().await.is_err() {
            // The system has stopped telling.
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(DEBOUNCE).await;
        self.events.mark_unchanged();
    }

    /// Watches what has the folder's name now: what is watched is a folder, not its name. One that is gone is
    /// watched no more.
    pub fn renew(&mut self, folder: &Path) {
        let _was_gone = self.watcher.unwatch(folder);
        let _is_gone = self.watcher.watch(folder, RecursiveMode::NonRecursive);
    }
}

/// The folder in which a file is.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a folder that only its owner can read, where it is not there yet.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes a file that only its owner can read, of parts. After a crash there is the old one or the new one; when this
/// returns, the new one is on disk.
pub fn replace(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    // Two instances of a sidecar share a folder while one takes over from the other.
    unfinished.push(format!(".{}.new", std::process::id()));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    fs::File::open(folder_of(path))?.sync_all()
}

/// Bytes before what is kept with [`replace_checked`].
const CHECKSUM_BYTES: usize = blake3::OUT_LEN;

/// Writes a file as [`replace`] does, with a BLAKE3 checksum before its body.
pub fn replace_checked(path: &Path, body: &[u8]) -> io::Result<()> {
    replace(path, &[blake3::hash(body).as_bytes(), body])
}

/// The body of such a file. `None` when it is cut short or changed.
pub fn read_checked(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let bytes = fs::read(path)?;
    let Some((checksum, body)) = bytes.split_at_checked(CHECKSUM_BYTES) else { return Ok(None) };
    Ok((blake3::hash(body).as_bytes() == checksum).then(|| body.to_vec()))
}
