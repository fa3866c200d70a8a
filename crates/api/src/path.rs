//! Paths, as policies name them and as requests carry them. Both sidecars read a path with this one parser,
//! so that they cannot disagree about what it is.

mod template;

use std::{borrow::Cow, fmt};

pub use template::{PathTemplate, Segment};

use crate::Invalid;

/// The longest pattern that a policy may hold, in bytes.
const MAX_PATTERN_BYTES: usize = 1024;

/// A literal `=/path`, or a prefix of whole segments `/path`. Never a regex.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// Matches this path only.
    Exact(String),
    /// Matches this path and all below it; the text has no slash at its end (so `/` is the empty text).
    Prefix(String),
}

impl PathPattern {
    /// Reads `=/exact` or `/prefix`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let path = text.strip_prefix('=').unwrap_or(text);
        if text.len() > MAX_PATTERN_BYTES {
            return Err(Invalid::new("", text, "at most 1024 bytes"));
        }
        if let Err(refusal) = RequestPath::parse(path) {
            return Err(Invalid::new("", text, format!("a path like `/a/b` or `=/a/b` ({refusal})")));
        }
        if path.contains(['?', '*']) {
            return Err(Invalid::new("", text, "a path without a query, wildcard or regex"));
        }
        Ok(if text.starts_with('=') {
            Self::Exact(path.to_owned())
        } else {
            Self::Prefix(path.trim_end_matches('/').to_owned())
        })
    }

    /// Whole segments: `/a` matches `/a` and `/a/b`, not `/ab`.
    pub fn matches(&self, path: &RequestPath<'_>) -> bool {
        match self {
            Self::Exact(exact) => path.0 == exact,
            Self::Prefix(prefix) => path
                .0
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "={path}"),
            Self::Prefix(path) if path.is_empty() => f.write_str("/"),
            Self::Prefix(path) => f.write_str(path),
        }
    }
}

/// The path of a request without its query, once nothing in it can mean something else to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestPath<'a>(&'a str);

/// Why a path cannot be decided upon. Envoy normalises dots and slashes before it asks; what is left of
/// these was hidden from it, or would be read in another way by the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmbiguousPath {
    /// Absolute form, `*`, or empty.
    #[error("it must start with a slash")]
    NotAbsolute,
    /// `;x=1` is part of the segment for some upstreams, and a parameter for others.
    #[error("it must not hold a path parameter (`;`)")]
    Parameter,
    /// `%25` is a percent sign that a second decoding would turn into something else.
    #[error("it must not be encoded twice (`%25`)")]
    EncodedTwice,
    /// `%2f`, `%5c` or a backslash.
    #[error("it must not hold an encoded slash or a backslash")]
    HiddenSlash,
    /// `.`, `..`, or an empty segment inside.
    #[error("it must not hold dot segments or empty segments")]
    DotSegment,
    /// Overlong forms such as `%c0%ae` are a dot to some decoders.
    #[error("it must be UTF-8 once it is decoded")]
    Encoding,
    /// A control character, white space, `#`, or an encoded control character.
    #[error("it must not hold control characters, white space or a fragment")]
    Control,
}

impl<'a> RequestPath<'a> {
    /// Cuts the query off and refuses what is ambiguous.
    pub fn parse(path_and_query: &'a str) -> Result<Self, AmbiguousPath> {
        let path = path_and_query.split_once('?').map_or(path_and_query, |(path, _)| path);
        if !path.starts_with('/') {
            return Err(AmbiguousPath::NotAbsolute);
        }
        if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#') {
            return Err(AmbiguousPath::Control);
        }
        if path.contains(';') {
            return Err(AmbiguousPath::Parameter);
        }
        if path.contains('\\') {
            return Err(AmbiguousPath::HiddenSlash);
        }
        for (at, _) in path.match_indices('%') {
            let code = path.get(at + 1..at + 3).unwrap_or("");
            match u8::from_str_radix(code, 16) {
                Ok(b'%') | Err(_) => return Err(AmbiguousPath::EncodedTwice),
                Ok(b'/' | b'\\') => return Err(AmbiguousPath::HiddenSlash),
                Ok(b';') => return Err(AmbiguousPath::Parameter),
                Ok(b'.') => return Err(AmbiguousPath::DotSegment),
                Ok(byte) if byte < b' ' || byte == 0x7f => return Err(AmbiguousPath::Control),
                Ok(b'?' | b'#') => return Err(AmbiguousPath::Control),
                Ok(_) => {}
            }
        }
        if !decodes_to_utf8(path) {
            return Err(AmbiguousPath::Encoding);
        }
        let inner = path[1..].strip_suffix('/').unwrap_or(&path[1..]);
        if path != "/" && inner.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(AmbiguousPath::DotSegment);
        }
        Ok(Self(path))
    }

    /// The path, as Envoy forwards it.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// What stands between the slashes, decoded once. A slash at the end makes an empty one; so does the path `/`.
    pub fn segments(self) -> impl Iterator<Item = Cow<'a, str>> {
        self.0[1..].split('/').map(decoded)
    }
}

/// A segment as an upstream reads it: `%40` is `@`. Nothing in it can be a slash, and all of it is UTF-8.
pub fn decoded(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    Cow::Owned(String::from_utf8_lossy(&decoded_bytes(segment)).into_owned())
}

/// Every `%` is followed by two hex digits here.
fn decodes_to_utf8(path: &str) -> bool {
    if !path.contains('%') {
        return true;
    }
    std::str::from_utf8(&decoded_bytes(path)).is_ok()
}

fn decoded_bytes(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        bytes.extend(u8::from_str_radix(code, 16));
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, path: &str, expected: bool) {
        let pattern = PathPattern::parse(pattern).unwrap();
        assert_eq!(pattern.matches(&RequestPath::parse(path).unwrap()), expected, "{pattern} ~ {path}");
    }

    #[test]
    fn a_prefix_matches_whole_segments() {
        check("/a", "/a", true);
        check("/a", "/a/", true);
        check("/a", "/a/b?c=/d", true);
        check("/a", "/ab", false);
        check("/a/", "/a/b", true);
        check("/", "/", true);
        check("/", "/anything", true);
    }

    #[test]
    fn a_literal_matches_itself_only() {
        check("=/a", "/a", true);
        check("=/a", "/a?x=1", true);
        check("=/a", "/a/", false);
        check("=/a", "/a/b", false);
        check("=/", "/", true);
        check("=/", "/a", false);
    }

    #[test]
    fn an_ambiguous_path_is_refused() {
        for (path, expected) in [
            ("", AmbiguousPath::NotAbsolute),
            ("*", AmbiguousPath::NotAbsolute),
            ("http://h/x", AmbiguousPath::NotAbsolute),
            ("/;x/admin", AmbiguousPath::Parameter),
            ("/a%3Bx", AmbiguousPath::Parameter),
            ("/a%252e", AmbiguousPath::EncodedTwice),
            ("/a%zz", AmbiguousPath::EncodedTwice),
            ("/a%2", AmbiguousPath::EncodedTwice),
            ("/a%2Fb", AmbiguousPath::HiddenSlash),
            ("/a%5cb", AmbiguousPath::HiddenSlash),
            ("/a\\b", AmbiguousPath::HiddenSlash),
            ("/a/../b", AmbiguousPath::DotSegment),
            ("/a/%2e%2e/b", AmbiguousPath::DotSegment),
            ("//a", AmbiguousPath::DotSegment),
            ("/a//b", AmbiguousPath::DotSegment),
            ("/a%00", AmbiguousPath::Control),
            ("/a b", AmbiguousPath::Control),
            ("/a#b", AmbiguousPath::Control),
            ("/a%3fb", AmbiguousPath::Control),
            ("/a%23b", AmbiguousPath::Control),
            ("/a/%c0%ae%c0%ae/b", AmbiguousPath::Encoding),
            ("/%ff", AmbiguousPath::Encoding),
        ] {
            assert_eq!(RequestPath::parse(path), Err(expected), "{path}");
        }
    }

    #[test]
    fn other_scripts_are_paths_too() {
        assert!(RequestPath::parse("/gr%C3%BC%C3%9Fe/%E2%82%AC").is_ok());
    }

    #[test]
    fn a_pattern_is_never_a_regex() {
        for pattern in ["", "a", "/a*", "/a?b", "==/a", "^/a", "/a/../b"] {
            assert!(PathPattern::parse(pattern).is_err(), "{pattern}");
        }
    }
}
