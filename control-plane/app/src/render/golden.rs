//! Tests of templates by data: a folder each, with what templates see and what is expected of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

use super::{text, unified, world::World};

const EXPECTED: &str = "expected.yaml";

/// Checks every case in the folder, or writes down what each yields. Whether all are as expected.
#[allow(clippy::print_stdout, clippy::print_stderr)]
pub(crate) fn check(world: &World, folder: &Path, update: bool) -> anyhow::Result<bool> {
    let cases = entries(folder)?.into_iter().filter(|path| path.is_dir()).collect::<Vec<_>>();
    ensure!(!cases.is_empty(), "--golden: {} has no folders, which are the cases", folder.display());
    let mut different = 0;
    for case in &cases {
        let name = case.file_name().unwrap_or_default().to_string_lossy();
        let found = outcome(world, case).with_context(|| format!("--golden: {name}"))?;
        let path = case.join(EXPECTED);
        if update {
            fs::write(&path, found).with_context(|| path.display().to_string())?;
            continue;
        }
        let expected = fs::read_to_string(&path)
            .with_context(|| format!("--golden: {}: --update writes it", path.display()))?;
        if expected != found {
            different += 1;
            print!(
                "{}",
                unified(&expected, &found, &format!("{name} expected"), &format!("{name} rendered"))
            );
        }
    }
    let verb = if update { "written".to_owned() } else { format!("{different} of them different") };
    eprintln!("{} cases, {verb}", cases.len());
    Ok(different == 0)
}

/// What comes of a case: its resources, or the refusal, which may be just what is expected.
fn outcome(world: &World, case: &Path) -> anyhow::Result<String> {
    let mut world = world.clone();
    for path in entries(case)? {
        match path.file_name().and_then(|name| name.to_str()).unwrap_or_default() {
            EXPECTED => {}
            "context.yaml" => world.read_context(&path)?,
            "node.yaml" => world.read_node(&path)?,
            "services" => entries(&path)?.iter().try_for_each(|file| world.read_service(file))?,
            other => anyhow::bail!("one of context.yaml, node.yaml, services and {EXPECTED}, got {other:?}"),
        }
    }
    match world.render() {
        Ok(resources) => text(&resources),
        Err(error) => Ok(format!("# refused\n{error:#}\n")),
    }
}

/// In the order of their names, which is the same everywhere. Hidden ones are no part of it.
fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        paths.retain(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')));
        paths.sort();
        Ok(paths)
    };
    read().with_context(|| folder.display().to_string())
}
