//! Names of hosts, as rules have them and as requests carry them.

use std::{borrow::Cow, fmt};

use crate::Invalid;

/// A DNS name, or every name below one: `*.example.test`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This one. In lower case.
    Exact(String),
    /// Those that end in a dot and this. In lower case.
    Below(String),
}

/// RFC 1035 section 2.3.4.
const MAX_BYTES: usize = 253;

impl HostPattern {
    /// Reads a name in lower case, without a port or a dot at its end.
    ///
    /// # Errors
    /// It is something else, which no request's host would ever be.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
        if name.len() > MAX_BYTES || !name.split('.').all(is_label) {
            return Err(Invalid::new("", text, "a DNS name in lower case, or `*.` and one"));
        }
        let name = name.to_owned();
        Ok(if text.starts_with("*.") { Self::Below(name) } else { Self::Exact(name) })
    }

    /// The host of a request as rules have it: in lower case, without a port or a dot at its end.
    pub fn normal(host: &str) -> Cow<'_, str> {
        let host = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        }
    }

    /// The names that a host is below, the nearest first.
    pub fn above(host: &str) -> impl Iterator<Item = &str> {
        host.match_indices('.').filter(|(at, _)| *at > 0).map(|(at, _)| &host[at + 1..])
    }

    /// Whether each host that matches the other one matches this.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(own), Self::Exact(other)) => own == other,
            (Self::Exact(_), Self::Below(_)) => false,
            (Self::Below(own), Self::Exact(other)) => Self::above(other).any(|name| name == own),
            (Self::Below(own), Self::Below(other)) => {
                own == other || Self::above(other).any(|name| name == own)
            }
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_however_it_is_written() {
        for host in ["A.example.TEST", "a.example.test.", "a.example.test:8443", "A.example.test.:80"] {
            assert_eq!(HostPattern::normal(host), "a.example.test");
        }
        assert_eq!(HostPattern::above("a.b.c").collect::<Vec<_>>(), ["b.c", "c"]);
        assert_eq!(HostPattern::above(".b").count(), 0, "nothing is no name");
    }

    #[test]
    fn what_no_host_can_be_is_refused() {
        for text in ["", "A.test", "a..test", "a.test.", "*", "*.", "a.*.test", "a b", "a:80", "::1", "a_b"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_covers_what_is_below_it() {
        let covers = |wide: &str, narrow: &str| {
            HostPattern::parse(wide).unwrap().covers(&HostPattern::parse(narrow).unwrap())
        };
        assert!(covers("*.a.test", "x.a.test") && covers("*.a.test", "x.y.a.test"));
        assert!(covers("*.a.test", "*.b.a.test") && covers("a.test", "a.test"));
        assert!(
            !covers("*.a.test", "a.test")
                && !covers("*.a.test", "xa.test")
                && !covers("x.a.test", "*.a.test")
        );
    }
}
