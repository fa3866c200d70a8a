//! Reads property values in the form in which a proxy-wasm host hands them over. Never trusts a length.
//!
//! Envoy's `serializeValue`: text as it is, integers, times and durations as 8 bytes little-endian (times
//! and durations in nanoseconds), doubles as their 8 bytes, and a map as the ABI writes header maps: the
//! count, the length of each name and value, then the bytes, each with a NUL behind it.

/// Text, with what is not UTF-8 replaced.
pub fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// An integer, a time or a duration; `None` for another type, and for one below zero.
pub fn integer(bytes: &[u8]) -> Option<u64> {
    let value = i64::from_le_bytes(bytes.try_into().ok()?);
    u64::try_from(value).ok()
}

/// Protobuf's `Struct` knows only doubles; past this they no longer count by one.
const LARGEST_WHOLE: f64 = 9_007_199_254_740_992.0;

/// A number of a `Struct`, where it is a whole one.
pub(crate) fn whole(bytes: &[u8]) -> Option<u64> {
    let value = f64::from_le_bytes(bytes.try_into().ok()?);
    if value.fract() != 0.0 || !(0.0..=LARGEST_WHOLE).contains(&value) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Some(value as u64)
}

/// A truth.
pub(crate) fn flag(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

/// A map that the host has serialized.
#[derive(Debug, Clone, Copy)]
pub struct Map<'a> {
    lengths: &'a [u8],
    body: &'a [u8],
}

impl<'a> Map<'a> {
    /// Finds the parts. `None` when the bytes end before them.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk()?;
        let lengths = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(8)?;
        let (lengths, body) = rest.split_at_checked(lengths)?;
        Some(Self { lengths, body })
    }

    /// The value of `name`, as bytes. `None` also where the map breaks off before it.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        let mut body = self.body;
        for lengths in self.lengths.chunks_exact(8) {
            let (name_length, value_length) = lengths.split_first_chunk()?;
            let entry = item(&mut body, *name_length)?;
            let value = item(&mut body, value_length.try_into().ok()?)?;
            if entry == name.as_bytes() {
                return Some(value);
            }
        }
        None
    }
}

/// Cuts one name or value, and the NUL behind it, from the front of `body`.
fn item<'a>(body: &mut &'a [u8], length: [u8; 4]) -> Option<&'a [u8]> {
    let length = usize::try_from(u32::from_le_bytes(length)).ok()?;
    let (item, rest) = body.split_at_checked(length)?;
    let (0, rest) = rest.split_first()? else { return None };
    *body = rest;
    Some(item)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What Envoy's `PairsUtil::marshalPairs` writes.
    pub(crate) fn pairs(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = u32::try_from(entries.len()).unwrap().to_le_bytes().to_vec();
        for (name, value) in entries {
            bytes.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
            bytes.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
        }
        for (name, value) in entries {
            bytes.extend([name.as_bytes(), b"\0", value, b"\0"].concat());
        }
        bytes
    }

    #[test]
    fn values_of_a_map_are_found_by_name() {
        let bytes =
            pairs(&[("sub", b"ann"), ("rev", &7f64.to_le_bytes()), ("decided", &[1]), ("empty", b"")]);
        let map = Map::read(&bytes).unwrap();
        assert_eq!(map.get("sub"), Some(&b"ann"[..]));
        assert_eq!(map.get("rev").and_then(whole), Some(7));
        assert_eq!(map.get("decided").and_then(flag), Some(true));
        assert_eq!(map.get("empty"), Some(&b""[..]));
        assert_eq!(map.get("absent"), None);
    }

    #[test]
    fn text_that_is_not_utf_8_is_replaced() {
        assert_eq!(text(b"a\xff\xfeb".to_vec()), "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn numbers_that_are_not_whole_are_absent() {
        for value in [-1.0, 0.5, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(whole(&value.to_le_bytes()), None, "{value}");
        }
        assert_eq!(whole(b"seven"), None);
        assert_eq!(integer(&(-1i64).to_le_bytes()), None);
        assert_eq!(integer(b"abc"), None);
        assert_eq!(integer(&200i64.to_le_bytes()), Some(200));
    }

    #[test]
    fn a_map_that_breaks_off_ends_there() {
        let bytes = pairs(&[("a", b"first"), ("b", b"second")]);
        let map = Map::read(&bytes[..bytes.len() - 3]).unwrap();
        assert_eq!(map.get("a"), Some(&b"first"[..]));
        assert_eq!(map.get("b"), None);
        assert!(Map::read(&[255, 255, 255, 255]).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), name in ".{0,4}") {
            if let Some(map) = Map::read(&bytes) {
                let _ = map.get(&name);
            }
        }
    }
}
