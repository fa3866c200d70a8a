//! The typed form of `gatehouse.authz.v1.Cedar`: bounds, and which resource a path is about. The schema, the policies
//! and the entities are read by the crate `policy`.

use std::{borrow::Cow, collections::BTreeSet};

use crate::{
    Invalid,
    path::{PathPattern, RequestPath},
    pb,
};

/// What a service decides with Cedar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cedar {
    /// What the service adds to the schema of the engine; may be empty.
    pub schema: String,
    /// In Cedar's policy syntax.
    pub policies: String,
    /// The first that matches says which resource a request is about.
    pub resources: Vec<Mapping>,
    /// A list in Cedar's JSON format of entities.
    pub entities: Option<String>,
}

/// Which entity stands behind a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// A type of entity, of the schema.
    pub entity: String,
    path: Vec<Part>,
    is_exact: bool,
    id: Vec<Part>,
}

/// A segment of a path, or a piece of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Capture(String),
}

/// What a path is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<'a> {
    /// Of the entity.
    pub id: String,
    /// By name; as the upstream reads them.
    pub captures: Vec<(&'a str, &'a str)>,
}

/// As many as a person writes; they are read by each sidecar and for each change.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// Of operators' lists. Each service that names one has a copy of it in each sidecar.
pub const MAX_ENTITIES_BYTES: usize = 1024 * 1024;
/// They are tried one after another, for each request; and each policy is validated for each type of resource, which for
/// 64 KiB of policies and as many types takes some tenths of a second.
const MAX_RESOURCES: usize = 20;
/// The longest path or id of a mapping, in bytes.
const MAX_TEMPLATE_BYTES: usize = 1024;
/// The longest name of a capture, in bytes.
const MAX_NAME_BYTES: usize = 64;

impl TryFrom<pb::authz::Cedar> for Cedar {
    type Error = Invalid;

    fn try_from(wire: pb::authz::Cedar) -> Result<Self, Invalid> {
        for (field, text) in [("schema", &wire.schema), ("policies", &wire.policies)] {
            if text.len() > MAX_TEXT_BYTES {
                return Err(Invalid::new(field, text.len(), "at most 65536 bytes"));
            }
        }
        if wire.policies.trim().is_empty() {
            return Err(Invalid::missing("policies", "at least one policy"));
        }
        if wire.entities.len() > MAX_ENTITIES_BYTES {
            return Err(Invalid::new("entities", wire.entities.len(), "at most 1048576 bytes"));
        }
        if wire.resources.len() > MAX_RESOURCES {
            return Err(Invalid::new("resources", wire.resources.len(), "at most 20"));
        }
        let resources = (wire.resources.iter().enumerate())
            .map(|(at, wire)| {
                Mapping::parse(&wire.path, &wire.entity, &wire.id)
                    .map_err(|why| why.within(&format!("resources[{at}]")))
            })
            .collect::<Result<_, _>>()?;
        let entities = Some(wire.entities).filter(|entities| !entities.is_empty());
        Ok(Self { schema: wire.schema, policies: wire.policies, resources, entities })
    }
}

impl Mapping {
    /// Reads `/docs/{doc}`, `Doc` and `{doc}`. Whether there is such a type of entity, the schema says.
    pub fn parse(path: &str, entity: &str, id: &str) -> Result<Self, Invalid> {
        let is_word = |word: &str| {
            word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if entity.len() > MAX_TEMPLATE_BYTES || !entity.split("::").all(is_word) {
            return Err(Invalid::new("entity", entity, "a type of entity such as Doc or App::Doc"));
        }
        let (is_exact, parts) = segments(path).map_err(|why| why.within("path"))?;
        let mut names = BTreeSet::new();
        for part in &parts {
            let Part::Capture(name) = part else { continue };
            if !names.insert(name.as_str()) {
                return Err(Invalid::new("path", path, format!("each capture once, not {{{name}}} again")));
            }
        }
        let id = pieces(id, &names).map_err(|why| why.within("id"))?;
        Ok(Self { entity: entity.to_owned(), path: parts, is_exact, id })
    }

    /// The names of its captures.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.path.iter().filter_map(|part| match part {
            Part::Capture(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// The resource that a path is about, if it is one of these.
    pub fn find<'a>(&'a self, path: &'a DecodedPath<'_>) -> Option<Found<'a>> {
        let segments = &path.segments;
        if segments.len() < self.path.len() || (self.is_exact && segments.len() > self.path.len()) {
            return None;
        }
        let mut captures = Vec::new();
        for (part, segment) in self.path.iter().zip(segments) {
            match part {
                Part::Literal(literal) if literal == segment => {}
                Part::Capture(name) if !segment.is_empty() => captures.push((name.as_str(), &**segment)),
                Part::Literal(_) | Part::Capture(_) => return None,
            }
        }
        let value_of =
            |name: &str| captures.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let id = self.id.iter().map(|part| match part {
            Part::Literal(literal) => literal.as_str(),
            // Each was looked up when this was read.
            Part::Capture(name) => value_of(name).unwrap_or_default(),
        });
        Some(Found { id: id.collect(), captures })
    }
}

/// `=/a/{b}` or `/a/{b}`; whether it is one path only.
fn segments(path: &str) -> Result<(bool, Vec<Part>), Invalid> {
    let rule = "a path of segments such as /docs/{doc} or =/docs/{doc}, each {capture} a whole segment";
    if path.len() > MAX_TEMPLATE_BYTES {
        return Err(Invalid::new("", path, "at most 1024 bytes"));
    }
    let is_exact = path.starts_with('=');
    let inner = path.strip_prefix('=').unwrap_or(path).strip_prefix('/');
    let inner = inner.ok_or_else(|| Invalid::new("", path, rule))?;
    let (mut plain, mut parts) = (String::new(), Vec::new());
    for segment in inner.split('/') {
        let capture = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        parts.push(match capture {
            Some(name) if is_name(name) => Part::Capture(name.to_owned()),
            _ if segment.contains(['{', '}', '%']) => return Err(Invalid::new("", path, rule)),
            _ => Part::Literal(segment.to_owned()),
        });
        plain.push('/');
        plain.push_str(if capture.is_some() { "x" } else { segment });
    }
    // What no request can have is a mistake: the same reader says what that is.
    PathPattern::parse(&plain).map_err(|why| Invalid::new("", path, why.rule))?;
    // A slash at the end of a prefix says nothing; that of a literal path is one of its characters.
    if !is_exact && parts.last() == Some(&Part::Literal(String::new())) {
        parts.pop();
    }
    Ok((is_exact, parts))
}

/// `{a}`, `{a}/{b}`, `main`. No two ways of filling it yield the same id: what is captured has no slash in it.
fn pieces(id: &str, names: &BTreeSet<&str>) -> Result<Vec<Part>, Invalid> {
    if id.is_empty() || id.len() > MAX_TEMPLATE_BYTES {
        return Err(Invalid::new("", id, "1 to 1024 bytes such as {doc} or {space}/{doc}"));
    }
    let (mut parts, mut rest) = (Vec::new(), id);
    let mut may_capture = true;
    while let Some((literal, after)) = rest.split_once('{') {
        let (name, after) = after
            .split_once('}')
            .filter(|(name, _)| names.contains(name))
            .ok_or_else(|| Invalid::new("", id, "the captures of its path in braces"))?;
        if !(may_capture || literal.contains('/')) {
            return Err(Invalid::new("", id, "a slash between two captures"));
        }
        may_capture = false;
        parts.extend((!literal.is_empty()).then(|| Part::Literal(literal.to_owned())));
        parts.push(Part::Capture(name.to_owned()));
        rest = after;
    }
    parts.extend((!rest.is_empty()).then(|| Part::Literal(rest.to_owned())));
    if parts.iter().any(|part| matches!(part, Part::Literal(text) if text.contains(['{', '}']))) {
        return Err(Invalid::new("", id, "the captures of its path in braces"));
    }
    Ok(parts)
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// A path as the upstream reads it: percent-decoded once. A segment has no slash, and nothing is encoded in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedPath<'a> {
    text: Cow<'a, str>,
    segments: Vec<Cow<'a, str>>,
}

impl<'a> From<RequestPath<'a>> for DecodedPath<'a> {
    fn from(path: RequestPath<'a>) -> Self {
        let path = path.as_str();
        let segments = path.trim_start_matches('/').split('/').map(decoded).collect();
        Self { text: decoded(path), segments }
    }
}

impl DecodedPath<'_> {
    /// The whole path, without its query.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A request's path is UTF-8 once it is decoded, and two hex digits follow each `%`.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        bytes.extend(u8::from_str_radix(code, 16));
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id, and the captures, of a request's path.
    #[track_caller]
    fn check(path: &str, id: &str, requested: &str, expected: Option<&str>) {
        let mapping = Mapping::parse(path, "Doc", id).unwrap();
        let requested = RequestPath::parse(requested).unwrap().into();
        let found = mapping.find(&requested).map(|found| {
            let captures = found.captures.iter().map(|(name, value)| format!(" {name}={value}"));
            format!("{}{}", found.id, captures.collect::<String>())
        });
        assert_eq!(found.as_deref(), expected, "{path} {requested:?}");
    }

    #[test]
    fn a_capture_is_one_whole_segment() {
        check("/docs/{doc}", "{doc}", "/docs/1?x=/2", Some("1 doc=1"));
        check("/docs/{doc}", "{doc}", "/docs/1/comments", Some("1 doc=1"));
        check("/docs/{doc}", "{doc}", "/docs", None);
        check("/docs/{doc}", "{doc}", "/docs/", None);
        check("/docs/{doc}", "{doc}", "/docsx/1", None);
        check("=/docs/{doc}", "{doc}", "/docs/1", Some("1 doc=1"));
        check("=/docs/{doc}", "{doc}", "/docs/1/", None);
        check("=/docs/{doc}", "{doc}", "/docs/1/comments", None);
        check("/s/{space}/d/{doc}", "{space}/{doc}", "/s/a/d/b", Some("a/b space=a doc=b"));
        check("/", "all", "/anything/at/all", Some("all"));
        check("=/", "root", "/", Some("root"));
        check("=/", "root", "/a", None);
        check("/a/", "a", "/a", Some("a"));
    }

    #[test]
    fn a_path_is_read_as_the_upstream_does() {
        check("/docs/{doc}", "{doc}", "/docs/gr%C3%BCn", Some("grün doc=grün"));
        check("/a:b/{doc}", "{doc}", "/a%3Ab/%40x", Some("@x doc=@x"));
        let path = DecodedPath::from(RequestPath::parse("/a%3Ab/%40x?y=%41").unwrap());
        assert_eq!(path.as_str(), "/a:b/@x");
    }

    #[test]
    fn what_can_never_be_requested_is_refused() {
        for (path, id) in [
            ("", "x"),
            ("docs", "x"),
            ("/docs/{doc", "x"),
            ("/docs/{}", "x"),
            ("/docs/{Doc}", "x"),
            ("/docs/a{doc}", "x"),
            ("/docs/{doc}.txt", "x"),
            ("/a//b", "x"),
            ("//", "x"),
            ("/a//", "x"),
            ("/a/../b", "x"),
            ("/a;b", "x"),
            ("/a%20b", "x"),
            ("/a*", "x"),
            ("/{a}/{a}", "x"),
            ("/{a}", ""),
            ("/{a}", "{b}"),
            ("/{a}", "{a"),
            ("/{a}", "a}"),
            ("/{a}/{b}", "{a}{b}"),
            ("/{a}/{b}", "{a}-{b}"),
        ] {
            assert!(Mapping::parse(path, "Doc", id).is_err(), "{path} {id}");
        }
        for entity in ["", "a b", "Doc::", "1", "Doc::\"x\""] {
            assert!(Mapping::parse("/a", entity, "x").is_err(), "{entity}");
        }
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut pb::authz::Cedar), expected: &str) {
        let resource =
            pb::authz::cedar::Resource { path: "/d/{d}".into(), entity: "D".into(), id: "{d}".into() };
        let policies = "permit (principal, action, resource);".into();
        let mut wire = pb::authz::Cedar { policies, resources: vec![resource], ..Default::default() };
        assert!(Cedar::try_from(wire.clone()).is_ok());
        change(&mut wire);
        assert_eq!(Cedar::try_from(wire).unwrap_err().to_string(), expected);
    }

    #[test]
    fn everything_is_bounded() {
        refused(|wire| wire.policies = " ".into(), "policies: at least one policy, got nothing");
        refused(
            |wire| wire.policies = " ".repeat(MAX_TEXT_BYTES + 1),
            "policies: at most 65536 bytes, got \"65537\"",
        );
        refused(
            |wire| wire.schema = " ".repeat(MAX_TEXT_BYTES + 1),
            "schema: at most 65536 bytes, got \"65537\"",
        );
        refused(
            |wire| wire.entities = " ".repeat(MAX_ENTITIES_BYTES + 1),
            "entities: at most 1048576 bytes, got \"1048577\"",
        );
        refused(
            |wire| wire.resources = vec![wire.resources[0].clone(); 21],
            "resources: at most 20, got \"21\"",
        );
        refused(
            |wire| wire.resources[0].id = "{x}".into(),
            "resources[0].id: the captures of its path in braces, got \"{x}\"",
        );
    }
}
