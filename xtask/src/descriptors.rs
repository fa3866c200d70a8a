//! Makes `crates/api/envoy.binpb` anew: the descriptors of Envoy's protos, as the crate `envoy-types` carries
//! them, by the real protoc (from PyPI; the Rust one does not resolve Envoy's names).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use crate::shell::{self, cargo, output, root, say};

const GRPCIO_TOOLS: &str = "grpcio-tools==1.85.1";
/// Where imports are looked for, below the crate's `proto`.
const INCLUDES: [&str; 8] = [
    "cel-spec/proto",
    "client_model",
    "googleapis",
    "opentelemetry-proto",
    "protoc-gen-validate",
    "ratelimit/api",
    "xds",
    "data-plane-api",
];
/// Whose files go in; the rest comes along where it is imported.
const ROOTS: [&str; 3] = ["data-plane-api", "ratelimit/api", "xds"];

pub(crate) fn run() -> anyhow::Result<()> {
    let tools = root().join(".gatehouse/tools/grpcio-tools");
    if !tools.exists() {
        say("fetching protoc");
        shell::run(
            Command::new("python3")
                .args(["-m", "pip", "install", "--quiet", GRPCIO_TOOLS, "--target"])
                .arg(&tools),
        )?;
    }
    let protos = protos()?;
    let mut files = BTreeSet::new();
    for folder in ROOTS {
        let folder = protos.join(folder);
        collect(&folder, &folder, &mut files)?;
    }
    let into = root().join("crates/api/envoy.binpb");
    let mut protoc = Command::new("python3");
    protoc
        .args(["-m", "grpc_tools.protoc", "--include_imports"])
        .env("PYTHONPATH", &tools)
        .current_dir(&protos);
    protoc.arg(format!("--descriptor_set_out={}", into.display()));
    protoc.args(INCLUDES.iter().flat_map(|folder| ["-I", folder])).args(&files);
    output(&mut protoc)?;
    say(&format!("{} files in {}", files.len(), into.display()));
    Ok(())
}

/// The crate's own folder, as cargo unpacked it.
fn protos() -> anyhow::Result<PathBuf> {
    let tree = output(cargo().args(["metadata", "--format-version=1", "--locked"]))?;
    let manifest = tree
        .split('"')
        .find(|text| text.contains("/envoy-types-") && text.ends_with("/Cargo.toml"))
        .context("envoy-types is not among the dependencies")?;
    let protos = Path::new(manifest).with_file_name("proto");
    ensure!(protos.is_dir(), "{} is not there", protos.display());
    Ok(protos)
}

fn collect(base: &Path, folder: &Path, files: &mut BTreeSet<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(base, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.insert(path.strip_prefix(base)?.to_owned());
        }
    }
    Ok(())
}
