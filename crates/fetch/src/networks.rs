//! Which addresses may be asked: those of the public internet, and those that operators allow. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::network::Network;

/// The networks that operators allow, beside the public internet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed(Vec<Network>);

impl Allowed {
    /// These networks.
    pub fn new(networks: Vec<Network>) -> Self {
        Self(networks)
    }

    /// Whether operators allow an address: itself, or the IPv4 address that it leads to.
    pub fn lists(&self, address: IpAddr) -> bool {
        let led_to = embedded(address.to_canonical()).map(IpAddr::V4);
        [Some(address), led_to]
            .into_iter()
            .flatten()
            .any(|one| self.0.iter().any(|network| network.holds(one)))
    }

    /// Why an address may not be asked; `None` where it may.
    pub fn denies(&self, address: IpAddr) -> Option<&'static str> {
        if self.lists(address) { None } else { inside(address) }
    }
}

/// Blocks of IPv4 that are no place on the public internet (IANA IPv4 special-purpose address registry, RFC 6890).
const INSIDE_V4: [([u8; 4], u8, &str); 15] = [
    ([0, 0, 0, 0], 8, "unspecified"),
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "shared (CGNAT)"),
    ([127, 0, 0, 0], 8, "loopback"),
    ([169, 254, 0, 0], 16, "link-local"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "reserved"),
    ([192, 0, 2, 0], 24, "documentation"),
    ([192, 88, 99, 0], 24, "reserved"),
    ([192, 168, 0, 0], 16, "private"),
    ([198, 18, 0, 0], 15, "benchmark"),
    ([198, 51, 100, 0], 24, "documentation"),
    ([203, 0, 113, 0], 24, "documentation"),
    ([224, 0, 0, 0], 4, "multicast"),
    // Broadcast is its last one.
    ([240, 0, 0, 0], 4, "reserved"),
];

/// The same of IPv6 inside of 2000::/3; nothing outside of that is a place at all (RFC 4291 section 2.4).
const INSIDE_V6: [([u16; 8], u8, &str); 3] = [
    // Teredo, ORCHID, benchmarks and more.
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "reserved"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation"),
];

/// What an address is, if it is not one of the public internet.
fn inside(address: IpAddr) -> Option<&'static str> {
    let canonical = address.to_canonical();
    if let Some(four) = embedded(canonical) {
        return inside_v4(four);
    }
    match canonical {
        IpAddr::V4(four) => inside_v4(four),
        IpAddr::V6(six) => inside_v6(six),
    }
}

fn inside_v4(address: Ipv4Addr) -> Option<&'static str> {
    INSIDE_V4.iter().find_map(|(first, prefix, what)| {
        let network = Network::new(IpAddr::V4(Ipv4Addr::from(*first)), *prefix);
        network.holds(IpAddr::V4(address)).then_some(*what)
    })
}

fn inside_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_loopback() {
        return Some("loopback");
    }
    if address.is_unspecified() {
        return Some("unspecified");
    }
    match address.segments()[0] {
        first if first & 0xfe00 == 0xfc00 => return Some("private"),
        first if first & 0xffc0 == 0xfe80 => return Some("link-local"),
        first if first & 0xff00 == 0xff00 => return Some("multicast"),
        first if first & 0xe000 != 0x2000 => return Some("reserved"),
        _ => {}
    }
    INSIDE_V6.iter().find_map(|(first, prefix, what)| {
        let network = Network::new(IpAddr::V6(Ipv6Addr::from(*first)), *prefix);
        network.holds(IpAddr::V6(address)).then_some(*what)
    })
}

/// The IPv4 address that an IPv6 address leads to: NAT64 (RFC 6052), 6to4 (RFC 3056), ISATAP (RFC 5214). Mapped ones
/// (RFC 4291) are IPv4 already.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(six) = address else { return None };
    let four = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match six.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => four(high, low),
        // Only where the rest is public too: the prefix of another one is judged by itself.
        [first, _, _, _, 0 | 0x200, 0x5efe, high, low] if first & 0xe000 == 0x2000 => four(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(networks: &[&str]) -> Allowed {
        Allowed::new(networks.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[track_caller]
    fn check(address: &str, why: Option<&str>) {
        assert_eq!(Allowed::default().denies(address.parse().unwrap()), why, "{address}");
    }

    #[test]
    fn the_public_internet_may_be_asked() {
        for address in
            ["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255"]
        {
            check(address, None);
        }
        for address in
            ["172.32.0.0", "192.0.1.1", "192.167.1.1", "198.17.1.1", "198.20.0.0", "223.255.255.255"]
        {
            check(address, None);
        }
        for address in
            ["2606:4700::1111", "2a00:1450::1", "2001:200::1", "::ffff:1.1.1.1", "64:ff9b::101:101"]
        {
            check(address, None);
        }
        check("2002:101:101::1", None);
    }

    #[test]
    fn addresses_inside_may_not() {
        for (address, what) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("10.0.0.1", "private"),
            ("100.64.0.1", "shared (CGNAT)"),
            ("100.127.255.255", "shared (CGNAT)"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("169.254.169.254", "link-local"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.8", "reserved"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "reserved"),
            ("192.168.1.1", "private"),
            ("198.18.0.1", "benchmark"),
            ("198.19.255.255", "benchmark"),
            ("198.51.100.7", "documentation"),
            ("203.0.113.9", "documentation"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("fc00::1", "private"),
            ("fd00:ec2::254", "private"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "reserved"),
            ("ff02::1", "multicast"),
            ("100::1", "reserved"),
            ("2001::1", "reserved"),
            ("2001:2::1", "reserved"),
            ("2001:db8::1", "documentation"),
            ("3fff::1", "documentation"),
            ("5f00::1", "reserved"),
            ("64:ff9b:1::a00:1", "reserved"),
            ("::7f00:1", "reserved"),
        ] {
            check(address, Some(what));
        }
    }

    #[test]
    fn ipv4_in_the_clothes_of_ipv6_is_what_it_leads_to() {
        for (address, what) in [
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:169.254.169.254", "link-local"),
            ("64:ff9b::a9fe:a9fe", "link-local"),
            ("64:ff9b::7f00:1", "loopback"),
            ("2002:7f00:1::1", "loopback"),
            ("2002:a00:1::", "private"),
            ("2606:4700::5efe:a00:1", "private"),
            ("2606:4700::200:5efe:7f00:1", "loopback"),
        ] {
            check(address, Some(what));
        }
    }

    #[test]
    fn what_operators_allow_may_be_asked_in_every_form() {
        let allowed = allowed(&["127.0.0.0/8", "10.1.2.0/24", "fd00::/8"]);
        for address in
            ["127.0.0.1", "::ffff:127.0.0.1", "10.1.2.3", "64:ff9b::a01:203", "2002:a01:203::1", "fd12::1"]
        {
            assert_eq!(allowed.denies(address.parse().unwrap()), None, "{address}");
            assert!(allowed.lists(address.parse().unwrap()), "{address}");
        }
        for address in ["10.1.3.1", "::1", "fc00::1", "169.254.169.254"] {
            assert!(allowed.denies(address.parse().unwrap()).is_some(), "{address}");
        }
        assert!(!allowed.lists("1.1.1.1".parse().unwrap()), "public, and not listed");
    }
}
