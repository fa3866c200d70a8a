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

/// `Authorization: <scheme> <credential>` (RFC 9110 section 11.6.2).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Authorization<'a> {
    /// Nothing, or not one that can be read.
    Other(Presented<'a>),
    Of {
        scheme: &'a str,
        credential: &'a str,
    },
}

impl<'a> Authorization<'a> {
    pub(crate) fn of(facts: &Facts<'a>) -> Self {
        match header(facts, "authorization") {
            Presented::One(text) => match text.split_once(' ') {
                Some((scheme, credential)) => Self::Of { scheme, credential: credential.trim_matches(' ') },
                None => Self::Other(Presented::Unreadable),
            },
            other => Self::Other(other),
        }
    }

    /// What it holds of this scheme.
    pub(crate) fn presented(self, wanted: &str) -> Presented<'a> {
        match self {
            Self::Of { scheme, credential } if scheme.eq_ignore_ascii_case(wanted) => {
                Presented::One(credential)
            }
            Self::Of { .. } => Presented::Nothing,
            Self::Other(other) => other,
        }
    }

    pub(crate) fn is_there(self) -> bool {
        !matches!(self, Self::Other(Presented::Nothing))
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

/// A cookie (RFC 6265 section 4.2). Sites sign out by an empty one, so that is none.
pub(crate) fn cookie<'a>(facts: &Facts<'a>, name: &str) -> Presented<'a> {
    let pairs = facts.header("cookie").into_iter().flat_map(|value| value.split(|byte| *byte == b';'));
    let mut found = pairs.filter_map(|pair| {
        let (key, value) = pair.trim_ascii().split_at_checked(name.len())?;
        let value = value.strip_prefix(b"=").filter(|_| key == name.as_bytes())?;
        (!value.is_empty()).then_some(value)
    });
    match (found.next(), found.next()) {
        (None, _) => Presented::Nothing,
        (Some(value), None) => std::str::from_utf8(value).map_or(Presented::Unreadable, Presented::One),
        (Some(_), Some(_)) => Presented::Several,
    }
}

/// The certificate of the client's TLS handshake.
pub(crate) fn certificate<'a>(facts: &Facts<'a>) -> Presented<'a> {
    match facts.certificate() {
        "" => Presented::Nothing,
        certificate => Presented::One(certificate),
    }
}
