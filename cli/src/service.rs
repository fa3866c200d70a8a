//! A service file from disk, checked before anything is sent.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use model::{InvalidService, ServiceFile, UpstreamRule};
use serde_json::Value;

use crate::lines::Lines;

/// The file as it is sent, and as it was understood.
pub(crate) struct Loaded {
    pub(crate) parameters: Value,
    pub(crate) service: ServiceFile,
}

/// Reads and checks files, and all in folders; every mistake of every file is told.
pub(crate) fn load_all(paths: &[PathBuf]) -> anyhow::Result<Vec<Loaded>> {
    let (mut loaded, mut wrong) = (Vec::new(), Vec::new());
    let mut seen = std::collections::BTreeMap::new();
    for path in files(paths)? {
        match load(&path) {
            Ok(file) => {
                let name = file.service.service.clone();
                if let Some(other) = seen.insert(name.clone(), path.clone()) {
                    wrong.push(format!("{}: service: {name} is in {} too", path.display(), other.display()));
                }
                loaded.push(file);
            }
            Err(error) => wrong.push(format!("{error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(loaded)
}

/// The files themselves; of a folder what ends with .yaml or .yml, by name.
fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let reading = || format!("reading {}", path.display());
        let mut inside = Vec::new();
        for entry in fs::read_dir(path).with_context(reading)? {
            let file = entry.with_context(reading)?.path();
            if file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                inside.push(file);
            }
        }
        ensure!(!inside.is_empty(), "{}: no file ends with .yaml or .yml", path.display());
        inside.sort();
        all.extend(inside);
    }
    Ok(all)
}

/// The name of a service: as it is given, or as its file has it.
pub(crate) fn name_of(service: &str) -> anyhow::Result<String> {
    let path = Path::new(service);
    Ok(if path.is_file() { load(path)?.service.service } else { service.to_owned() })
}

/// Reads and checks a service file. Whether loopback upstreams are allowed, the broker knows.
pub(crate) fn load(path: &Path) -> anyhow::Result<Loaded> {
    read(path, ServiceFile::parse)
}

/// The same, but for what becomes of the requests in `authz.tests`.
pub(crate) fn load_untested(path: &Path) -> anyhow::Result<ServiceFile> {
    Ok(read(path, ServiceFile::parse_untested)?.service)
}

fn read(
    path: &Path,
    parse: impl Fn(&Value, UpstreamRule) -> Result<ServiceFile, InvalidService>,
) -> anyhow::Result<Loaded> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    // The generic reader refuses duplicate keys, which JSON would lose.
    let yaml: serde_norway::Value =
        serde_norway::from_str(&text).with_context(|| path.display().to_string())?;
    let parameters = serde_json::to_value(yaml).with_context(|| path.display().to_string())?;
    let service = parse(&parameters, UpstreamRule::LoopbackAllowed).map_err(|error| {
        let lines = Lines::of(&text);
        let told: Vec<_> = error.0.iter().map(|message| lines.told(message)).collect();
        anyhow::anyhow!("{}:\n  {}", path.display(), told.join("\n  "))
    })?;
    Ok(Loaded { parameters, service })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_people_copy_are_valid() {
        load(Path::new("../examples/hello.yaml")).unwrap();
        let guide = fs::read_to_string("../docs/service-file.md").unwrap();
        let block = guide.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let parameters: Value = serde_norway::from_str(block).unwrap();
        ServiceFile::parse(&parameters, UpstreamRule::NoLoopback).unwrap();
    }
}
