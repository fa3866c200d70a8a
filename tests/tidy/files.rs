//! Where things are, and how they begin.

use crate::{read, tracked};

pub(crate) fn sources() -> impl Iterator<Item = (String, String)> {
    let rust =
        |path: &String| std::path::Path::new(path).extension().is_some_and(|extension| extension == "rs");
    tracked().into_iter().filter(rust).map(|path| {
        let text = read(&path);
        (path, text)
    })
}

#[test]
fn every_module_opens_with_a_sentence() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{path} does not say what it holds");
    }
}

#[test]
fn no_file_is_called_mod() {
    for (path, _) in sources() {
        assert!(!path.ends_with("/mod.rs"), "{path}: a module foo lies in foo.rs");
    }
}

/// A file that holds one thing is seldom longer. Tests count too: they are read as well.
const MAX_LINES: usize = 620;

#[test]
fn no_file_is_too_long_to_be_one_thing() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{path} has {lines} lines");
    }
}

#[test]
fn nothing_unfinished_is_left() {
    // Written so that this file does not find itself.
    let marks = [["to", "do!("], ["unimpl", "emented!("], ["FIX", "ME"], ["#[ig", "nore"]]
        .map(|parts| parts.concat());
    for (path, text) in sources() {
        for mark in &marks {
            assert!(!text.contains(mark.as_str()), "{path} holds {mark}");
        }
    }
}

#[test]
fn a_process_ends_in_its_main() {
    let exit = ["process::ex", "it("].concat();
    for (path, text) in sources() {
        assert!(!text.contains(&exit), "{path}: only main says how a process ends");
    }
}

#[test]
fn tests_wait_for_conditions_and_not_for_time() {
    let sleep = ["slee", "p("].concat();
    // A bench measures time, the harness bounds it, and a storm strikes at random times.
    let allowed = |path: &str| {
        ["tests/harness/lab.rs", "tests/harness/storm.rs"].contains(&path) || path.starts_with("tests/bench/")
    };
    for (path, text) in sources().filter(|(path, _)| path.starts_with("tests/")) {
        assert!(allowed(&path) || !text.contains(&sleep), "{path} sleeps");
    }
}
