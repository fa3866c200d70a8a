//! Paths of authorization rules: patterns in which a segment can be a capture. Lists of anonymous paths and routes have
//! none.

use std::fmt;

use super::{PathPattern, decoded};
use crate::Invalid;

/// A literal `=/path`, or a prefix of whole segments `/path`; a segment `{name}` is any one segment that is not empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathTemplate {
    text: String,
    /// In order. That of a slash at the end of a literal is empty, and so is the only one of `=/`; a prefix has none of
    /// these.
    pub segments: Vec<Segment>,
    /// Whether nothing may follow.
    pub is_exact: bool,
}

/// What stands between two slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// This, once both are decoded.
    Literal(String),
    /// Anything but nothing, by this name.
    Capture(String),
}

/// Each is a step of the matcher. People write four.
const MAX_SEGMENTS: usize = 64;
/// Of a capture's name, in bytes.
const MAX_NAME_BYTES: usize = 32;

impl PathTemplate {
    /// Reads `=/exact` or `/prefix`, with captures.
    ///
    /// # Errors
    /// It is no [`PathPattern`] once its captures stand for a segment, or they are not told apart.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let plain: Vec<_> =
            text.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
        // What it may hold beside captures is said there.
        PathPattern::parse(&plain.join("/"))
            .map_err(|why| Invalid { value: Invalid::new("", text, "").value, ..why })?;
        let is_exact = text.starts_with('=');
        let path = text.trim_start_matches('=');
        let path = if is_exact { path } else { path.trim_end_matches('/') };
        let mut segments = Vec::new();
        for part in path.split('/').skip(1) {
            let segment = Segment::parse(part).ok_or_else(|| {
                Invalid::new("", text, "captures like `{id}`: whole segments, a-z, 0-9 and _")
            })?;
            if matches!(segment, Segment::Capture(_)) && segments.contains(&segment) {
                return Err(Invalid::new("", text, "each capture once"));
            }
            segments.push(segment);
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(Invalid::new("", text, "at most 64 segments"));
        }
        Ok(Self { text: text.to_owned(), segments, is_exact })
    }

    /// The prefix of everything: what a rule without paths means.
    pub fn everything() -> Self {
        Self { text: "/".into(), segments: Vec::new(), is_exact: false }
    }

    /// Where a capture stands, counted from 0.
    pub fn position(&self, capture: &str) -> Option<usize> {
        self.segments.iter().position(|segment| matches!(segment, Segment::Capture(name) if name == capture))
    }

    /// Whether each path that matches the other one matches this.
    pub fn covers(&self, other: &Self) -> bool {
        let covers = |(own, other): (&Segment, &Segment)| match (own, other) {
            (Segment::Literal(own), Segment::Literal(other)) => own == other,
            (Segment::Capture(_), Segment::Literal(other)) => !other.is_empty(),
            (Segment::Capture(_), Segment::Capture(_)) => true,
            (Segment::Literal(_), Segment::Capture(_)) => false,
        };
        let is_as_long = if self.is_exact {
            other.is_exact && other.segments.len() == self.segments.len()
        } else {
            other.segments.len() >= self.segments.len()
        };
        is_as_long && self.segments.iter().zip(&other.segments).all(covers)
    }
}

impl Segment {
    fn parse(part: &str) -> Option<Self> {
        let Some(open) = part.strip_prefix('{') else {
            let is_plain = !part.contains(['{', '}']);
            return is_plain.then(|| Self::Literal(decoded(part).into_owned()));
        };
        let name = open.strip_suffix('}').filter(|name| is_name(name))?;
        Some(Self::Capture(name.to_owned()))
    }
}

/// A name that a capture can have.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(plain)
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> PathTemplate {
        PathTemplate::parse(text).unwrap()
    }

    #[test]
    fn a_capture_is_a_whole_segment() {
        let users = template("/users/{id}/");
        assert_eq!(users.segments, [Segment::Literal("users".into()), Segment::Capture("id".into())]);
        assert_eq!((users.position("id"), users.position("name"), users.is_exact), (Some(1), None, false));
        assert_eq!(template("=/a/").segments.len(), 2, "a slash at the end of a literal counts");
        assert_eq!(template("/"), PathTemplate::everything());
        assert_eq!(template("/%C3%BC").segments, [Segment::Literal("ü".into())]);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "",
            "a",
            "{id}",
            "/{id",
            "/id}",
            "/a{id}",
            "/{id}a",
            "/{}",
            "/{Id}",
            "/{a-b}",
            "/{{id}}",
            "/{id}/{id}",
            "/{id}*",
            "/a*",
            "/a?b",
            "/../{id}",
            "==/a",
            "/a//{id}",
        ] {
            assert!(PathTemplate::parse(text).is_err(), "{text}");
        }
        let told = PathTemplate::parse("/users/{id}/{id}").unwrap_err().to_string();
        assert_eq!(told, ": each capture once, got \"/users/{id}/{id}\"");
        assert!(PathTemplate::parse(&"/{a}".repeat(65)).is_err());
    }

    #[test]
    fn a_template_covers_what_it_matches_always() {
        let covers = |wide: &str, narrow: &str| template(wide).covers(&template(narrow));
        for (wide, narrow) in [
            ("/", "=/"),
            ("/", "/a/{b}"),
            ("/a", "=/a/"),
            ("/{x}", "/a"),
            ("/{x}", "/{y}/b"),
            ("=/{x}", "=/a"),
        ] {
            assert!(covers(wide, narrow), "{wide} covers {narrow}");
        }
        for (wide, narrow) in
            [("/a", "/"), ("/a", "/{x}"), ("=/a", "/a"), ("/{x}", "=/"), ("/a/{x}", "=/a/"), ("=/a", "=/a/")]
        {
            assert!(!covers(wide, narrow), "{wide} does not cover {narrow}");
        }
    }
}
