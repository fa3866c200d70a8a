//! The comment that a template opens with.

use serde::Deserialize;

/// What a template yields.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The kind of its resources: `clusters`, `virtual_hosts`, …
    pub kind: String,
    /// How often it is rendered.
    #[serde(default)]
    pub for_each: ForEach,
}

/// How often a template is rendered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForEach {
    /// Once.
    #[default]
    Edge,
    /// Once for each service: a changed service renders nothing of the others.
    Service,
}

/// A header that does not say what the template yields.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum InvalidHeader {
    #[error("a template opens with a comment such as {{# kind: clusters #}}")]
    Missing,
    #[error("the comment at the top is YAML with `kind` and, if wanted, `for_each: service`")]
    Yaml(#[source] serde_norway::Error),
}

/// The header, and the rest with as many empty lines in front as the header has, so that lines keep their numbers.
pub(crate) fn split(source: &str) -> Result<(Header, String), InvalidHeader> {
    let comment = source.trim_start().strip_prefix("{#").ok_or(InvalidHeader::Missing)?;
    let (yaml, body) = comment.split_once("#}").ok_or(InvalidHeader::Missing)?;
    let header = serde_norway::from_str(yaml.trim_matches('-')).map_err(InvalidHeader::Yaml)?;
    let lines = source[..source.len() - body.len()].matches('\n').count();
    Ok((header, "\n".repeat(lines) + body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_kind_and_how_often() {
        let (header, body) = split("{#\nkind: clusters\nfor_each: service\n#}\nresources:\n").unwrap();
        assert_eq!(header, Header { kind: "clusters".into(), for_each: ForEach::Service });
        assert_eq!(body, "\n\n\n\nresources:\n");
    }

    #[test]
    fn a_template_without_a_sound_header_is_refused() {
        for source in
            ["resources: []", "{# kind: clusters", "{# sort: x #}", "{# kind: clusters\nfor_each: planet #}"]
        {
            assert!(split(source).is_err(), "{source}");
        }
    }
}
