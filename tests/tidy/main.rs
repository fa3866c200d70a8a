//! What a reader relies on and no compiler checks: the map is true, files are where they say, and the words that
//! promise something are kept.

// A test that cannot go on says so and ends.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::missing_panics_doc)]

mod examples;
mod files;
mod imports;
mod security;
mod words;

use std::process::Command;

use tests::project;

fn read(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file that belongs to the project.
fn tracked() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(project())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "the project is a git checkout");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|path| project().join(path).is_file())
        .map(str::to_owned)
        .collect()
}
