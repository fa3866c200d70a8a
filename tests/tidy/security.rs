//! docs/security.md has a line for each known attack; the sources have the tests that it names.

use std::collections::BTreeSet;

use crate::{files::sources, read};

/// Of the list of known attacks.
const LINES: u32 = 48;

/// A file, and the name of a function in it.
type Test = (String, String);

/// Number, ids and tests of each line of the table.
fn lines() -> Vec<(u32, String, Vec<Test>)> {
    let text = read("docs/security.md");
    let section = text.split("## What was tried").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let line = |line: &str| {
        let cells: Vec<_> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let [number, _, ids, _, tests] = cells.as_slice() else { return None };
        let tests = tests.split('`').skip(1).step_by(2);
        let tests = tests.map(|test| test.split_once("::").expect("a test is `path.rs::name`"));
        let tests = tests.map(|(path, name)| (path.to_owned(), name.to_owned())).collect();
        Some((number.parse().ok()?, (*ids).to_owned(), tests))
    };
    section.lines().filter_map(line).collect()
}

#[test]
fn every_known_attack_has_a_line_and_a_test_that_is_there() {
    let lines = lines();
    let numbers: Vec<_> = lines.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, (1..=LINES).collect::<Vec<_>>());
    for (number, _, tests) in &lines {
        assert!(!tests.is_empty(), "line {number} names no test");
        for (path, name) in tests {
            let text = read(path);
            let at = text
                .find(&format!("fn {name}("))
                .unwrap_or_else(|| panic!("line {number}: no {path}::{name}"));
            let before = text[..at].trim_end().trim_end_matches("async").trim_end();
            // Or a line of a table, each of which is a test.
            let table = text.split("table! {").nth(1).and_then(|rest| rest.split('}').next());
            let is_listed = table.is_some_and(|table| table.contains(&format!(" {name},")));
            assert!(before.ends_with("test]") || is_listed, "line {number}: {path}::{name} is no test");
        }
    }
}

#[test]
fn the_tests_of_a_line_bear_its_ids() {
    for (number, ids, tests) in lines() {
        // Those that were cited from memory are not vouched for.
        for id in ids.split(", ").filter(|id| id.starts_with("CVE-") && !id.ends_with("[M]")) {
            let id = id.to_lowercase().replace('-', "_");
            assert!(tests.iter().any(|(_, name)| name.contains(&id)), "line {number}: no test bears {id}");
        }
    }
}

#[test]
fn every_attack_that_is_tried_has_a_line() {
    let listed: BTreeSet<_> = lines().into_iter().flat_map(|(.., tests)| tests).collect();
    for (path, text) in sources().filter(|(path, _)| path.starts_with("tests/flow/attacks/")) {
        for rest in text.split("#[tokio::test]\nasync fn ").skip(1) {
            let name = rest.split('(').next().unwrap_or_default().to_owned();
            assert!(listed.contains(&(path.clone(), name.clone())), "{path}::{name} is in no line");
        }
    }
}
