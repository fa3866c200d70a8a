//! A service file from disk, checked before anything is sent.

use std::{fs, path::Path};

use anyhow::Context as _;
use model::{ServiceFile, UpstreamRule};
use serde_json::Value;

/// The file as it is sent, and as it was understood.
pub(crate) struct Loaded {
    pub(crate) parameters: Value,
    pub(crate) service: ServiceFile,
}

/// Reads and checks a service file. Whether loopback upstreams are allowed, the broker knows.
pub(crate) fn load(path: &Path) -> anyhow::Result<Loaded> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    // The generic reader refuses duplicate keys, which JSON would lose.
    let yaml: serde_norway::Value =
        serde_norway::from_str(&text).with_context(|| path.display().to_string())?;
    let parameters = serde_json::to_value(yaml).with_context(|| path.display().to_string())?;
    let service = ServiceFile::parse(&parameters, UpstreamRule::LoopbackAllowed)
        .map_err(|error| anyhow::anyhow!("{}:\n  {}", path.display(), error.0.join("\n  ")))?;
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
