//! Files in the reference server's format. A key that is not known refuses the whole file, with the line where it stands.

use serde::Deserialize;

use super::{Defaults, Descriptor, Domain};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    domain: String,
    #[serde(default)]
    descriptors: Vec<Descriptor>,
}

/// More than any that people write; a file of another kind is not read into memory for nothing.
const MAX_FILE_BYTES: usize = 16 << 20;

/// Reads files, by name and text. With `merge`, files of one domain are one, as `MERGE_DOMAIN_CONFIG` has it.
///
/// # Errors
/// The first mistake, with the name of its file, and the line or the field.
pub(crate) fn read(
    files: &[(String, String)],
    merge: bool,
    defaults: &Defaults,
) -> Result<Vec<Domain>, String> {
    let mut domains: Vec<(String, Vec<Descriptor>, String)> = Vec::new();
    for (name, text) in files {
        if text.len() > MAX_FILE_BYTES {
            return Err(format!("{name}: at most {MAX_FILE_BYTES} bytes, got {}", text.len()));
        }
        let File { domain, descriptors } =
            serde_norway::from_str(text).map_err(|error| format!("{name}: {error}"))?;
        match domains.iter_mut().find(|(other, ..)| *other == domain) {
            None => domains.push((domain, descriptors, name.clone())),
            Some((_, all, _)) if merge => all.extend(descriptors),
            Some((.., first)) => {
                return Err(format!("{name}: domain: {domain:?} stands in {first} too"));
            }
        }
    }
    let compile = |(domain, descriptors, name): (String, Vec<Descriptor>, String)| {
        Domain::compile(domain, descriptors, defaults).map_err(|error| format!("{name}: {error}"))
    };
    domains.into_iter().map(compile).collect()
}
