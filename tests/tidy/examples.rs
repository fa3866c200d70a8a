//! The service files of `examples` are what the broker takes, and what the guides say of them is there.

use std::fs;

use model::{ServiceFile, UpstreamRule};

#[test]
fn every_example_is_a_service_file_that_the_broker_takes() {
    let root = tests::project();
    for folder in ["examples", "examples/auth", "examples/authz"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap_or_default();
            if path.extension().is_none_or(|extension| extension != "yaml") || !text.contains("\nhosts:") {
                continue;
            }
            let value =
                serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let read = ServiceFile::parse(&value, UpstreamRule::LoopbackAllowed);
            assert!(read.is_ok(), "{}: {}", path.display(), read.unwrap_err());
        }
    }
}

/// Each kind of credential has an example, a section with the same words in it, and a row in the README.
#[test]
fn every_method_has_a_page_and_a_row() {
    let root = tests::project();
    let (page, readme) = (root.join("docs/authentication.md"), root.join("README.md"));
    let (page, readme) = (fs::read_to_string(page).unwrap(), fs::read_to_string(readme).unwrap());
    let schema = model::service_schema();
    let methods = schema["definitions"]["auth_method"]["properties"].as_object().unwrap();
    for method in methods.keys() {
        assert!(page.contains(&format!("\n## {method}\n")), "docs/authentication.md has no section {method}");
        assert!(readme.contains(&format!("| `{method}`")), "the README has no row {method}");
        let example = root.join(format!("examples/auth/{}.yaml", method.replace('_', "-")));
        let example = fs::read_to_string(&example).unwrap_or_else(|_| panic!("{}", example.display()));
        assert!(example.contains(&format!("- {method}:")), "the example of {method}");
    }
}
