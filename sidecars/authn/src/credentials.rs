//! What a request presents as proof.

use sidecar::ext_authz::Facts;

/// The credential of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presented<'a> {
    /// None.
    Nothing,
    /// This one.
    One(&'a str),
    /// A scheme that no method here reads, or not readable at all.
    Unreadable,
    /// More than one of a kind: which one would count?
    Several,
}

/// `Authorization: Bearer …` (RFC 6750 section 2.1).
pub(crate) fn bearer<'a>(facts: &Facts<'a>) -> Presented<'a> {
    match header(facts, "authorization") {
        Presented::One(text) => match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                Presented::One(token.trim_matches(' '))
            }
            _ => Presented::Unreadable,
        },
        other => other,
    }
}

/// A header that holds nothing but a credential. Envoy joins several of them with a comma, which no credential contains.
pub(crate) fn header<'a>(facts: &Facts<'a>, name: &str) -> Presented<'a> {
    let values = facts.header(name);
    let value = match values.as_slice() {
        [] => return Presented::Nothing,
        [value] => *value,
        _ => return Presented::Several,
    };
    match std::str::from_utf8(value) {
        Ok(text) if text.contains(',') => Presented::Several,
        Ok(text) => Presented::One(text),
        Err(_) => Presented::Unreadable,
    }
}
