//! Envoy's response flags, by the short names that its operators know.

/// In the order of `CoreResponseFlag` (envoy/stream_info/stream_info.h, 1.40): the place is the bit.
const NAMES: [&str; 30] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX",
    "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO",
];

const RATE_LIMITED: u64 = 1 << 11;

/// The bits of `response.flags`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(pub u64);

impl Flags {
    /// As `%RESPONSE_FLAGS%` shows them: `UF,URX`. `None` where there are none.
    pub(crate) fn names(self) -> Option<String> {
        let set = (0..u64::BITS as usize).filter(|bit| self.0 >> bit & 1 == 1);
        let names: Vec<String> = set.map(name).collect();
        (!names.is_empty()).then(|| names.join(","))
    }

    pub(crate) fn is_rate_limited(self) -> bool {
        self.0 & RATE_LIMITED != 0
    }
}

/// A flag of a later Envoy shows its number.
fn name(bit: usize) -> String {
    NAMES.get(bit).map_or_else(|| format!("bit{bit}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_shown_as_envoy_shows_them() {
        assert_eq!(Flags(0).names(), None);
        assert_eq!(Flags(1 << 8).names().as_deref(), Some("NR"));
        assert_eq!(Flags(1 << 5 | 1 << 15).names().as_deref(), Some("UF,URX"));
        assert_eq!(Flags(1 << 29 | 1 << 30).names().as_deref(), Some("UDO,bit30"));
    }

    #[test]
    fn rate_limited_is_the_flag_rl() {
        assert_eq!(Flags(RATE_LIMITED).names().as_deref(), Some("RL"));
        assert!(Flags(RATE_LIMITED).is_rate_limited());
        assert!(!Flags(1).is_rate_limited());
    }
}
