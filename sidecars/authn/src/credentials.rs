//! What a request presents as proof.

use sidecar::ext_authz::Facts;

/// The credential of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presented<'a> {
    /// None.
    Nothing,
    /// `Authorization: Bearer …` (RFC 6750 section 2.1).
    Bearer(&'a str),
    /// A scheme that no method here reads, or not readable at all.
    Unreadable,
    /// More than one of a kind: which one would count?
    Several,
}

/// Reads the `Authorization` header. Envoy joins several of them with a comma, which no token contains.
pub(crate) fn presented<'a>(facts: &Facts<'a>) -> Presented<'a> {
    let values = facts.header("authorization");
    let value = match values.as_slice() {
        [] => return Presented::Nothing,
        [value] => *value,
        _ => return Presented::Several,
    };
    let Ok(text) = std::str::from_utf8(value) else { return Presented::Unreadable };
    if text.contains(',') {
        return Presented::Several;
    }
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            Presented::Bearer(token.trim_matches(' '))
        }
        _ => Presented::Unreadable,
    }
}
