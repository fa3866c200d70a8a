//! Upstream URLs, and which of them no tenant may reach.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

/// Where a route's requests go: `http://10.0.0.1:8080` or `https://backend.example.test`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UpstreamUrl {
    /// Whether Envoy speaks TLS to it.
    pub tls: bool,
    /// A DNS name or an address (IPv6 without brackets).
    pub host: String,
    /// 80 or 443 where the URL names none.
    pub port: u16,
}

/// Why a URL cannot be an upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an upstream such as http://10.0.0.1:8080: {rule}, got {url:?}")]
pub struct InvalidUpstream {
    url: String,
    rule: &'static str,
}

impl TryFrom<String> for UpstreamUrl {
    type Error = InvalidUpstream;

    fn try_from(url: String) -> Result<Self, InvalidUpstream> {
        parse(&url).map_err(|rule| InvalidUpstream { url: url.chars().take(80).collect(), rule })
    }
}

fn parse(url: &str) -> Result<UpstreamUrl, &'static str> {
    let (tls, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        _ => return Err("the scheme is http or https"),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#', '@', '\\']) {
        return Err("no path, query or user: routes forward the path as it is");
    }
    let (host, port) = split_port(authority)?;
    let port = match port {
        None if tls => 443,
        None => 80,
        Some(text) => text.parse().ok().filter(|port| *port != 0).ok_or("a port from 1 to 65535")?,
    };
    if !is_name(host) && host.parse::<IpAddr>().is_err() {
        return Err("the host is a DNS name in lower case or an IP address");
    }
    Ok(UpstreamUrl { tls, host: host.to_owned(), port })
}

/// A DNS name that no resolver reads as an address or looks up in a hosts file; and `localhost`, which is known
/// for what it is.
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        let plain =
            label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        (1..=63).contains(&label.len()) && plain && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    // 127.1, 0x7f000001: some resolvers take a number at the end for an address.
    let number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    host == "localhost" || (host.len() <= 253 && host.contains('.') && host.split('.').all(label) && !number)
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("an IPv6 address closes its bracket")?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err("nothing but a port after an IPv6 address"),
        };
    }
    Ok(authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))))
}

impl UpstreamUrl {
    /// The address, when the host is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether requests to it would stay on the edge node itself.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.ends_with(".localhost")
            || self.host.ends_with(".localdomain")
            || self.address().is_some_and(|address| canonical(address).is_loopback())
    }

    /// Whether it reaches what no tenant may reach through the edge: instance metadata and other
    /// link-local services, multicast, or nothing at all.
    pub fn is_forbidden(&self) -> bool {
        if self.host == "metadata.google.internal" || self.host.starts_with("instance-data.") {
            return true;
        }
        self.address().is_some_and(|address| match canonical(address) {
            IpAddr::V4(v4) => {
                v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0
                    // Alibaba's metadata service; the others are link-local.
                    || v4 == Ipv4Addr::new(100, 100, 100, 200)
            }
            IpAddr::V6(v6) => {
                v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified()
                    // EC2's metadata service.
                    || v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
            }
        })
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped and compatible ones (RFC 4291 section 2.5.5), NAT64
/// (RFC 6052 section 2.1), 6to4 (RFC 3056 section 2).
fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        // `::` and `::1` are what they are.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        match self.address() {
            Some(IpAddr::V6(v6)) => write!(f, "{scheme}://[{v6}]:{}", self.port),
            _ => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl From<UpstreamUrl> for String {
    fn from(url: UpstreamUrl) -> Self {
        url.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<UpstreamUrl, InvalidUpstream> {
        UpstreamUrl::try_from(text.to_owned())
    }

    #[test]
    fn scheme_host_and_port_are_read() {
        for (text, shown) in [
            ("http://10.0.0.1:8080", "http://10.0.0.1:8080"),
            ("http://backend.test/", "http://backend.test:80"),
            ("https://backend.test", "https://backend.test:443"),
            ("http://[::1]:9", "http://[::1]:9"),
        ] {
            assert_eq!(url(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_not_an_upstream_is_refused() {
        for text in [
            "ftp://x",
            "http://",
            "http://x:0",
            "http://x:99999",
            "http://x/path",
            "http://u@x",
            "http://x?q",
            "http://127.1",
            "http://2130706433",
            "http://0x7f000001",
            "http://a.0x7f000001",
            "http://ip6-localhost",
            "http://metadata",
            "http://-a.test",
            "http://a..test",
            "http://A.test",
            "http://[::1",
            "http://[::1]x",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn metadata_and_link_local_addresses_are_forbidden() {
        for text in [
            "http://169.254.169.254",
            "http://[fe80::1]",
            "http://[::ffff:169.254.169.254]",
            "http://0.0.0.0",
            "http://[fd00:ec2::254]",
            "http://224.0.0.1",
            "http://metadata.google.internal",
            "http://instance-data.us-west-2.compute.internal",
            "http://[::169.254.169.254]",
            "http://[64:ff9b::a9fe:a9fe]",
            "http://[2002:a9fe:a9fe::]",
        ] {
            assert!(url(text).unwrap().is_forbidden(), "{text}");
        }
        assert!(url("http://[::ffff:127.0.0.1]").unwrap().is_loopback());
        for text in
            ["http://localhost", "http://localhost.localdomain", "http://[::127.0.0.1]", "http://[::1]"]
        {
            assert!(url(text).unwrap().is_loopback(), "{text}");
        }
        assert!(!url("http://10.0.0.1").unwrap().is_forbidden());
    }
}
