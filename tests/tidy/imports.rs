//! ARCHITECTURE.md lists which of our crates imports which; cargo knows what is true.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

use crate::{project, read};

type Imports = BTreeMap<String, Vec<String>>;

/// The lines `crate -> import, import` of the section "Imports".
fn written() -> Imports {
    let text = read("ARCHITECTURE.md");
    let section = text.split("## Imports").nth(1).expect("a section Imports");
    let block = section.split("```").nth(1).expect("a block");
    let line = |line: &str| {
        let (name, imports) = line.split_once("->")?;
        let mut imports: Vec<_> = imports
            .split(',')
            .map(str::trim)
            .filter(|import| !import.is_empty())
            .map(str::to_owned)
            .collect();
        imports.sort();
        Some((name.trim().to_owned(), imports))
    };
    block.lines().filter_map(line).collect()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(project())
        .output()
        .expect("cargo runs");
    serde_json::from_slice(&output.stdout).expect("metadata is JSON")
}

fn names(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.map(|package| package["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn actual() -> Imports {
    let metadata = metadata();
    let ours = names(&metadata);
    let package = |package: &Value| {
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let names = dependencies.filter_map(|dependency| dependency["name"].as_str().map(str::to_owned));
        let mut imports: Vec<_> = names.filter(|name| ours.contains(name)).collect();
        imports.sort();
        imports.dedup();
        (package["name"].as_str().unwrap_or_default().to_owned(), imports)
    };
    metadata["packages"].as_array().into_iter().flatten().map(package).collect()
}

#[test]
fn the_imports_are_those_of_the_map() {
    let (written, actual) = (written(), actual());
    for (name, imports) in &actual {
        assert_eq!(written.get(name), Some(imports), "ARCHITECTURE.md and Cargo.toml differ about {name}");
    }
    assert_eq!(written.len(), actual.len(), "ARCHITECTURE.md lists a crate that is not there");
}

#[test]
fn the_rules_of_the_map_hold() {
    let imports = actual();
    let sidecars = ["authn", "authz", "ratelimit", "guard"];
    let control_plane = [
        "model",
        "broker",
        "queue",
        "worker",
        "store",
        "keys",
        "context",
        "templates",
        "resources",
        "ads",
        "app",
    ];
    for (name, imports) in &imports {
        let is_sidecar = sidecars.contains(&name.as_str());
        for import in imports {
            let import = import.as_str();
            assert!(import != "tests" && import != "app", "{name} imports {import}");
            // The guard puts the others together.
            let may_import = !is_sidecar || name == "guard";
            assert!(may_import || !sidecars.contains(&import), "{name} imports the sidecar {import}");
            assert!(
                !(is_sidecar && control_plane.contains(&import)),
                "{name} imports {import} of the control plane"
            );
        }
    }
    for pure in ["api", "runtime", "access-log", "lab"] {
        assert_eq!(imports[pure], Vec::<String>::new(), "{pure} imports none of ours");
    }
    // A service file is read with the engine that decides by it: no IO either.
    assert_eq!(
        (&imports["model"], &imports["policy"]),
        (&vec!["api".into(), "policy".into()], &vec!["api".into()])
    );
}

#[test]
fn the_members_stand_in_the_order_of_the_map() {
    let manifest = read("Cargo.toml");
    let members =
        manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).expect("members");
    let members: Vec<_> = members
        .split('"')
        .skip(1)
        .step_by(2)
        .filter_map(|path| path.rsplit('/').next())
        .map(str::to_owned)
        .collect();
    let text = read("ARCHITECTURE.md");
    let block =
        text.split("## Imports").nth(1).and_then(|section| section.split("```").nth(1)).expect("a block");
    let listed: Vec<_> =
        block.lines().filter_map(|line| Some(line.split_once("->")?.0.trim().to_owned())).collect();
    assert_eq!(members, listed);
}
