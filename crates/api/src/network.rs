//! A block of addresses. Pure.

use std::{fmt, net::IpAddr, str::FromStr};

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

/// A text that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a network such as 10.0.0.0/8 or fd00::/8, {rule}, got {text:?}")]
pub struct InvalidNetwork {
    text: String,
    rule: &'static str,
}

impl InvalidNetwork {
    /// What would be one.
    pub fn rule(&self) -> String {
        format!("a network such as 10.0.0.0/8 or fd00::/8, {}", self.rule)
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let refuse = |rule| InvalidNetwork { text: text.to_owned(), rule };
        let (address, prefix) = text.split_once('/').ok_or_else(|| refuse("with its length"))?;
        let first: IpAddr = address.parse().map_err(|_| refuse("beginning with an address"))?;
        let is_mapped = matches!(first, IpAddr::V6(six) if six.to_ipv4_mapped().is_some());
        if is_mapped {
            return Err(refuse("written as IPv4 where it is"));
        }
        let is_number = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u8 =
            prefix.parse().ok().filter(|_| is_number).ok_or_else(|| refuse("with its length"))?;
        if prefix > width(first) {
            return Err(refuse("at most /32 or /128"));
        }
        let network = Self { first, prefix };
        if masked(first, prefix) != bits(first) {
            // One of the two is a mistake, and nobody can say which.
            return Err(refuse("with no bits behind its length"));
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl Network {
    /// The addresses that share so many first bits with this one.
    pub fn new(address: IpAddr, prefix: u8) -> Self {
        Self { first: of_bits(address, masked(address, prefix)), prefix: prefix.min(width(address)) }
    }

    /// Whether all addresses of another are in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.holds(other.first)
    }

    /// Whether an address is in it. IPv4 addresses that are written as IPv6 are IPv4.
    pub fn holds(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && masked(address, self.prefix) == bits(self.first)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => u128::from(u32::from(four)),
        IpAddr::V6(six) => u128::from(six),
    }
}

fn of_bits(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        // The upper bits of an IPv4 address are none.
        #[allow(clippy::cast_possible_truncation)]
        IpAddr::V4(_) => IpAddr::V4((bits as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(bits.into()),
    }
}

fn masked(address: IpAddr, prefix: u8) -> u128 {
    // A shift by all bits is none.
    let behind = u32::from(width(address) - prefix.min(width(address)));
    bits(address).checked_shr(behind).unwrap_or(0).checked_shl(behind).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_an_address_and_a_length() {
        for good in ["0.0.0.0/0", "::/0", "127.0.0.1/32", "::1/128", "10.0.0.0/8"] {
            assert_eq!(good.parse::<Network>().unwrap().to_string(), good);
        }
        assert!("0.0.0.0/0".parse::<Network>().unwrap().holds("9.9.9.9".parse().unwrap()));
        assert!(!"0.0.0.0/0".parse::<Network>().unwrap().holds("::1".parse().unwrap()));
        for (bad, rule) in [
            ("10.0.0.0", "with its length"),
            ("10.0.0.0/", "with its length"),
            ("10.0.0.0/+8", "with its length"),
            ("10.0.0.0/33", "at most /32"),
            ("::/129", "at most /32 or /128"),
            ("10.0.0.1/8", "with no bits behind its length"),
            ("localhost/8", "beginning with an address"),
            ("::ffff:10.0.0.0/104", "written as IPv4"),
        ] {
            let error = bad.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains(rule) && error.contains(bad), "{error}");
        }
    }

    #[test]
    fn a_network_covers_those_inside_it() {
        let covers = |wide: &str, narrow: &str| {
            wide.parse::<Network>().unwrap().covers(&narrow.parse::<Network>().unwrap())
        };
        assert!(covers("10.0.0.0/8", "10.1.0.0/16") && covers("::/0", "fd00::/8"));
        assert!(!covers("10.1.0.0/16", "10.0.0.0/8") && !covers("10.0.0.0/8", "11.0.0.0/16"));
        assert!(!covers("0.0.0.0/0", "fd00::/8"), "of another kind");
    }
}
