//! What the documents promise.

use std::path::Path;

use crate::{files::sources, project, read, tracked};

#[test]
fn the_readme_names_its_two_commands() {
    let readme = read("README.md");
    for command in ["cargo xtask up", "cargo xtask test"] {
        assert!(readme.contains(command), "README.md does not name `{command}`");
    }
}

#[test]
fn the_documents_are_there() {
    for path in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE"]
    {
        assert!(read(path).len() > 500, "{path} says next to nothing");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for path in tracked()
        .into_iter()
        .filter(|path| Path::new(path).extension().is_some_and(|extension| extension == "md"))
    {
        let folder = project().join(&path);
        let folder = folder.parent().expect("a file is in a folder").to_owned();
        let text = read(&path);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let elsewhere = file.is_empty() || file.contains("://");
            assert!(elsewhere || folder.join(file).exists(), "{path} links to {target}");
        }
    }
}

#[test]
fn ci_runs_the_test_command_and_nothing_more() {
    let script = read(".ci/run");
    let commands: Vec<_> =
        script.lines().filter(|line| line.contains("cargo")).filter(|line| !line.starts_with('#')).collect();
    assert_eq!(commands.last(), Some(&"exec cargo xtask test"), "{commands:?}");
}

#[test]
fn the_architecture_names_every_dependency() {
    let manifest = read("Cargo.toml");
    let section = manifest.split("# Others'; ARCHITECTURE.md says why each.").nth(1).expect("the list");
    let section = section.split("[workspace.lints").next().unwrap_or_default();
    let architecture = read("ARCHITECTURE.md");
    for line in section.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, _)) = line.split_once(" = ") else { continue };
        assert!(architecture.contains(&format!("`{name}`")), "ARCHITECTURE.md does not say why {name}");
    }
}

#[test]
fn every_rule_of_the_protocol_has_a_test_of_its_number() {
    let text = read("docs/xds-conformance.md");
    let rules: Vec<u32> = text.lines().filter_map(|line| line.split_once(". ")?.0.parse().ok()).collect();
    assert_eq!(rules, (1..=63).collect::<Vec<_>>());
    let mut tested = std::collections::BTreeSet::new();
    for (_, text) in sources() {
        for name in text.split("fn rule_").skip(1) {
            // `rule_50_51_and_53_…`: all numbers at the beginning.
            let numbers = name.split('_').take_while(|part| *part == "and" || part.parse::<u32>().is_ok());
            tested.extend(numbers.filter_map(|part| part.parse::<u32>().ok()));
        }
    }
    assert_eq!(rules.into_iter().filter(|rule| !tested.contains(rule)).collect::<Vec<_>>(), [0; 0]);
}

#[test]
fn every_must_of_the_broker_has_a_test_of_its_number() {
    let text = read("docs/osb-conformance.md");
    let listed = text.lines().filter_map(|line| line.strip_prefix("- ")?.split_once(". "));
    let listed: std::collections::BTreeSet<_> = listed.map(|(number, _)| number.to_lowercase()).collect();
    assert!(listed.len() > 40, "{listed:?}");
    let mut tested = std::collections::BTreeSet::new();
    for (_, text) in sources() {
        for name in text.split("fn osb_").skip(1) {
            let is_number = |part: &&str| {
                let digits = part.get(1..).unwrap_or_default();
                **part == *"and" || (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
            };
            let numbers = name.split('_').take_while(is_number).filter(|part| *part != "and");
            tested.extend(numbers.map(str::to_owned));
        }
    }
    assert_eq!(listed, tested);
}
