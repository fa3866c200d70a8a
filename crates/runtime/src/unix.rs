//! Unix sockets that survive a crash of their owner.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use tokio::net::UnixListener;

/// Envoy runs as another user of the same group.
const SOCKET_MODE: u32 = 0o660;

/// Binds a socket, in the place of one that nobody listens on any more.
///
/// # Errors
/// `AddrInUse` while another process still answers there.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("{} is served by another process", path.display()),
        ));
    }
    remove(path)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    listen(path)
}

/// Binds a socket in the place of one that may still be listened on: who connects from now on reaches us, and who was
/// connected before stays where it is. At no moment nobody listens.
pub fn take_over(path: &Path) -> io::Result<UnixListener> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".next");
    let beside = Path::new(&beside);
    remove(beside)?;
    let listener = listen(beside)?;
    fs::rename(beside, path)?;
    Ok(listener)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}
