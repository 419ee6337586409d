//! Keys as the engine orders them: user key, sequence number and kind. The numbers here are frozen by the formats.

use std::cmp::Ordering;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 65_536;

/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 30;

/// The largest sequence number.
pub const SEQUENCE_MAX: u64 = (1 << 56) - 1;

/// What an entry does to its key. The values are frozen: they are on disk. 3 to 5 are reserved for range deletes,
/// merge operands and value pointers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Sets it to the value.
    Put = 1,
    /// Removes it; the value is empty.
    Delete = 2,
}

impl Kind {
    /// The kind that a byte on disk means, if this version knows it.
    #[inline]
    pub fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Put),
            2 => Some(Kind::Delete),
            _ => None,
        }
    }
}

/// Internal order: key ascending, then sequence number descending, so that the newest version comes first.
#[inline]
pub fn compare_internal(a_key: &[u8], a_sequence: u64, b_key: &[u8], b_sequence: u64) -> Ordering {
    a_key.cmp(b_key).then_with(|| b_sequence.cmp(&a_sequence))
}

/// As `a.cmp(b)`, without a call for keys that differ in their first 8 bytes, as most do that are compared in a search.
#[inline]
pub(crate) fn compare_keys(a: &[u8], b: &[u8]) -> Ordering {
    if let (Some(a), Some(b)) = (a.first_chunk::<8>(), b.first_chunk::<8>()) {
        let (a, b) = (u64::from_be_bytes(*a), u64::from_be_bytes(*b));
        if a != b {
            return a.cmp(&b);
        }
    }
    a.cmp(b)
}

/// The first 8 bytes, zero-padded, as a number that orders like them (except that padding ties with zeros).
#[inline]
pub(crate) fn prefix(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<8>() {
        Some(chunk) => u64::from_be_bytes(*chunk),
        None => {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            u64::from_be_bytes(padded)
        }
    }
}

/// How many bytes `a` and `b` have in common at their start.
pub(crate) fn shared_prefix_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_order_puts_new_versions_first() {
        assert_eq!(compare_internal(b"a", 1, b"b", 9), Ordering::Less);
        assert_eq!(compare_internal(b"a", 9, b"a", 1), Ordering::Less);
        assert_eq!(compare_internal(b"a", 1, b"a", 1), Ordering::Equal);
        assert_eq!(compare_internal(b"", 1, b"\0", 9), Ordering::Less);
    }

    #[test]
    fn keys_compare_as_slices_do() {
        let keys: [&[u8]; 8] =
            [b"", b"a", b"abcdefg", b"abcdefgh", b"abcdefgh\0", b"abcdefghi", b"abcdefgi", b"\xff"];
        for a in keys {
            for b in keys {
                assert_eq!(compare_keys(a, b), a.cmp(b), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn prefixes_order_like_their_bytes() {
        let keys: [&[u8]; 7] =
            [b"", b"\0", b"a", b"a\0b", b"abcdefgh", b"abcdefghi", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"];
        for pair in keys.windows(2) {
            assert!(prefix(pair[0]) <= prefix(pair[1]), "{pair:?}");
        }
        assert_eq!(prefix(b"ab"), 0x6162_0000_0000_0000);
    }

    #[test]
    fn kinds_round_trip() {
        for byte in 0..=255 {
            if let Some(kind) = Kind::from_byte(byte) {
                assert_eq!(kind as u8, byte);
            } else {
                assert!(!(1..=2).contains(&byte));
            }
        }
    }
}
