//! Which client certificates are accepted, beside that their CA is trusted.

use crate::{Invalid, pb};

/// Whose certificates. One pattern must match.
#[derive(Debug, Clone)]
pub struct Mtls {
    /// SPIFFE ids.
    pub spiffe: Vec<SpiffePattern>,
    /// DNS names, in lower case.
    pub dns: Vec<String>,
}

/// A SPIFFE id, or all below a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffePattern {
    /// Without the `*`; ends in `/` then.
    text: String,
    is_prefix: bool,
}

/// More is better said by a path.
const MAX_PATTERNS: usize = 100;

impl SpiffePattern {
    /// Reads `spiffe://domain/path` or `spiffe://domain/path/*`.
    fn parse(text: &str) -> Option<Self> {
        let (id, is_prefix) = text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
        let (domain, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let is_domain =
            !domain.is_empty() && domain.bytes().all(|byte| !byte.is_ascii_uppercase() && plain(byte));
        let whole =
            if is_prefix { path.strip_suffix('/').or((path.is_empty()).then_some(""))? } else { path };
        let is_name = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(plain);
        let is_path = (is_prefix && whole.is_empty()) || whole.split('/').all(is_name);
        (is_domain && is_path).then(|| Self { text: id.to_owned(), is_prefix })
    }

    /// Whether an id is meant. Compared byte for byte; nothing in an id is a wildcard.
    pub fn matches(&self, id: &str) -> bool {
        if !self.is_prefix {
            return id == self.text;
        }
        let rest = id.strip_prefix(&self.text);
        rest.is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
    }
}

impl TryFrom<pb::authn::Mtls> for Mtls {
    type Error = Invalid;

    fn try_from(wire: pb::authn::Mtls) -> Result<Self, Invalid> {
        let patterns = wire.spiffe.len() + wire.dns.len();
        if patterns == 0 || patterns > MAX_PATTERNS {
            return Err(Invalid::new("spiffe", patterns, "1 to 100 SPIFFE ids and DNS names"));
        }
        let spiffe = (wire.spiffe.iter().enumerate())
            .map(|(at, text)| {
                SpiffePattern::parse(text).ok_or_else(|| {
                    let rule = "spiffe://domain/path, the last segment may be `*`";
                    Invalid::new(format!("spiffe[{at}]"), text, rule)
                })
            })
            .collect::<Result<_, _>>()?;
        for (at, name) in wire.dns.iter().enumerate() {
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
            if name.is_empty() || !name.bytes().all(plain) {
                return Err(Invalid::new(format!("dns[{at}]"), name, "a DNS name in lower case"));
            }
        }
        Ok(Self { spiffe, dns: wire.dns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_whole_segments_and_nothing_else() {
        let exact = SpiffePattern::parse("spiffe://td/ns/a").unwrap();
        assert!(exact.matches("spiffe://td/ns/a"));
        for other in ["spiffe://td/ns/a/b", "spiffe://td/ns/A", "spiffe://td/ns/a/", "x spiffe://td/ns/a"] {
            assert!(!exact.matches(other), "{other}");
        }
        let below = SpiffePattern::parse("spiffe://td/ns/*").unwrap();
        assert!(below.matches("spiffe://td/ns/a") && below.matches("spiffe://td/ns/a/b"));
        for other in [
            "spiffe://td/ns",
            "spiffe://td/ns/",
            "spiffe://td/ns/../x",
            "spiffe://td/nsx/a",
            "spiffe://td/ns//a",
        ] {
            assert!(!below.matches(other), "{other}");
        }
        assert!(SpiffePattern::parse("spiffe://td/*").unwrap().matches("spiffe://td/a"));
    }

    #[test]
    fn a_pattern_that_could_mean_more_is_refused() {
        for text in [
            "",
            "*",
            "spiffe://*",
            "spiffe://*/a",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://td/a*",
            "spiffe://td/*/a",
            "spiffe://td/a/../b",
            "https://td/a",
            "spiffe://TD/a",
            "spiffe://td/.*",
            "spiffe://td/a@b",
        ] {
            assert!(SpiffePattern::parse(text).is_none(), "{text}");
        }
        assert!(Mtls::try_from(pb::authn::Mtls::default()).is_err(), "whoever has a certificate");
    }
}
