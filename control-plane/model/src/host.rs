//! Host names, as services may claim them.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// A DNS name that a service answers to: lower case, at least two labels, no address. `*.example.test` stands for all names
/// below that one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(String);

/// Why a name cannot be onboarded (RFC 1035 section 2.3.1, RFC 1123 section 2.1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a DNS name such as hello.example.test: {rule}, got {name:?}")]
pub struct InvalidHost {
    name: String,
    rule: &'static str,
}

impl TryFrom<String> for Host {
    type Error = InvalidHost;

    fn try_from(name: String) -> Result<Self, InvalidHost> {
        match broken_rule(&name) {
            None => Ok(Self(name)),
            Some(rule) => Err(InvalidHost { name: name.chars().take(80).collect(), rule }),
        }
    }
}

const WILDCARD: &str = "*.";

fn broken_rule(name: &str) -> Option<&'static str> {
    if name.len() > 253 {
        return Some("at most 253 bytes");
    }
    if name.parse::<IpAddr>().is_ok() || name.starts_with('[') {
        return Some("not an IP address");
    }
    let name = name.strip_prefix(WILDCARD).unwrap_or(name);
    if name.contains('*') {
        return Some("a wildcard is the first label, as a whole");
    }
    if !name.contains('.') {
        return Some("at least two labels");
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Some("labels of 1 to 63 bytes");
        }
        if !label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
            return Some("labels of a-z, 0-9 and - (write other scripts as xn--…)");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Some("no label starts or ends with -");
        }
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    last.bytes().all(|byte| byte.is_ascii_digit()).then_some("the last label is not a number")
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.0
    }
}

impl Host {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Of a wildcard, the name that all of its names are below.
    pub fn below(&self) -> Option<&str> {
        self.0.strip_prefix(WILDCARD)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_dns_names_are_hosts() {
        let long = format!("{}.test", "x".repeat(64));
        for name in [
            "",
            "localhost",
            "127.0.0.1",
            "::1",
            "[::1]",
            "*",
            "*.test",
            "a.*.test",
            "a*.example.test",
            "*.*.example.test",
            "Hello.example.test",
            "a..test",
            "-a.test",
            "a-.test",
            "hä.test",
            "a.test.",
            "a.test:80",
            "a/b.test",
            "1.2.3",
            &long,
        ] {
            assert!(Host::try_from(name.to_owned()).is_err(), "{name:?}");
        }
        for name in ["hello.example.test", "xn--hxa.test", "a-1.b", "*.example.test"] {
            assert!(Host::try_from(name.to_owned()).is_ok(), "{name:?}");
        }
    }
}
