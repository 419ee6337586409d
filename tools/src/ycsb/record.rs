//! Records: the key of a number, and values that can be checked.
//!
//! A key is 16 bytes: `user` and twelve characters. In hashed order they are base-36 digits of YCSB's hash of the
//! number (62 bits of it), so that inserts fall all over the key space; in insert order they are its decimal digits.
//!
//! A field begins with eight characters that say which write it comes from, and all that follows is computed from
//! them, the number of the record and the number of the field: so any value that is read can be told right or wrong.
//! Every byte of a field is a printable ASCII character, six random bits, which no compressor can do much about.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::fnv_hash;

/// The length of every key.
pub const KEY_BYTES: usize = 16;

/// A key.
pub type Key = [u8; KEY_BYTES];

/// Twelve base-36 digits hold numbers below this.
const HASHED_KEYS: u64 = 36_u64.pow(12);
/// Twelve decimal digits hold numbers below this.
pub const RECORDS_MAX: u64 = 1_000_000_000_000;

/// How many bytes at the start of a field say which write it comes from, and the least length that has them.
const STAMP_BYTES: usize = 8;
const STAMPED_BYTES_MIN: usize = 2 * STAMP_BYTES;

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Whether records are inserted in the order of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InsertOrder {
    /// Each insert lands somewhere in the key space.
    #[default]
    Hashed,
    /// Each insert lands behind the one before.
    Ordered,
}

impl InsertOrder {
    /// For messages.
    pub fn describe(self) -> &'static str {
        match self {
            InsertOrder::Hashed => "in hashed order",
            InsertOrder::Ordered => "in key order",
        }
    }

    /// The key of record `number`.
    pub fn key(self, number: u64) -> Key {
        match self {
            InsertOrder::Hashed => key_of_digits::<36>(fnv_hash(number) % HASHED_KEYS),
            InsertOrder::Ordered => key_of_digits::<10>(number),
        }
    }
}

/// `user` and the last twelve digits of a number: six and six, since each digit waits for the one before it, and what
/// making a key takes is measured with the store.
fn key_of_digits<const BASE: u64>(number: u64) -> Key {
    let half = BASE.pow(6);
    let (mut front, mut back) = (number / half % half, number % half);
    let mut key = *b"user000000000000";
    for at in (4..10).rev() {
        key[at] = DIGITS[(front % BASE) as usize];
        key[at + 6] = DIGITS[(back % BASE) as usize];
        (front, back) = (front / BASE, back / BASE);
    }
    key
}

/// What a value consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordShape {
    /// The number of fields, one after the other.
    pub fields: u32,
    /// The length of each in bytes.
    pub field_length: u32,
}

impl RecordShape {
    /// The length of a value.
    pub fn value_bytes(self) -> u64 {
        u64::from(self.fields) * u64::from(self.field_length)
    }

    /// Makes `value` a value of record `number`, written by the write that drew `stamp`.
    pub fn fill(self, number: u64, stamp: u64, value: &mut Vec<u8>) {
        value.resize(self.value_bytes() as usize, 0);
        for field in 0..self.fields {
            self.fill_field(number, field, stamp, value);
        }
    }

    /// Writes one field of a value anew; `value` has the right length.
    pub fn fill_field(self, number: u64, field: u32, stamp: u64, value: &mut [u8]) {
        let bytes = self.field_mut(field, value);
        let body = if bytes.len() >= STAMPED_BYTES_MIN {
            let (head, body) = bytes.split_at_mut(STAMP_BYTES);
            head.copy_from_slice(&printable(stamp).to_le_bytes());
            body
        } else {
            bytes
        };
        fill_body(number, field, printable(stamp), body);
    }

    /// Whether `value` is one that [`RecordShape::fill`] makes for record `number`, with whatever stamps.
    pub fn check(self, number: u64, value: &[u8]) -> bool {
        if value.len() as u64 != self.value_bytes() {
            return false;
        }
        let mut expected = vec![0; self.field_length as usize];
        value.chunks_exact(expected.len().max(1)).zip(0_u32..).all(|(bytes, field)| {
            if bytes.len() < STAMPED_BYTES_MIN {
                return true;
            }
            let (head, body) = bytes.split_at(STAMP_BYTES);
            let stamp = u64::from_le_bytes(head.try_into().expect("a stamp has eight bytes"));
            fill_body(number, field, stamp, &mut expected[STAMP_BYTES..]);
            body == &expected[STAMP_BYTES..]
        })
    }

    fn field_mut(self, field: u32, value: &mut [u8]) -> &mut [u8] {
        let length = self.field_length as usize;
        &mut value[field as usize * length..][..length]
    }
}

impl std::fmt::Display for RecordShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.fields {
            1 => write!(f, "{} B", self.field_length),
            fields => write!(f, "{fields} x {} B", self.field_length),
        }
    }
}

/// Eight characters from space to underscore, one for six bits of each byte.
fn printable(bits: u64) -> u64 {
    (bits & 0x3f3f_3f3f_3f3f_3f3f) + 0x2020_2020_2020_2020
}

fn fill_body(number: u64, field: u32, stamp: u64, body: &mut [u8]) {
    let mut state = stamp ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(field).rotate_left(32);
    for chunk in body.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        chunk.copy_from_slice(&printable(mixed ^ (mixed >> 31)).to_le_bytes()[..chunk.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_are_the_known_ones() {
        assert_eq!(&InsertOrder::Ordered.key(0), b"user000000000000");
        assert_eq!(&InsertOrder::Ordered.key(1_234_567), b"user000001234567");
        // 6284781860667377211 modulo 36^12 in base 36.
        assert_eq!(&InsertOrder::Hashed.key(0), b"userbqyh8goude0r");
    }

    #[test]
    fn ordered_keys_ascend_and_hashed_keys_differ() {
        let ordered: Vec<Key> = (0..2000).map(|number| InsertOrder::Ordered.key(number)).collect();
        assert!(ordered.is_sorted());
        let hashed: Vec<Key> = (0..300_000).map(|number| InsertOrder::Hashed.key(number)).collect();
        assert!(!hashed.is_sorted());
        assert_eq!(hashed.iter().collect::<HashSet<_>>().len(), hashed.len());
    }

    #[test]
    fn right_values_pass_and_wrong_ones_do_not() {
        for (fields, field_length) in [(1, 100), (10, 100), (3, 17), (1, 16)] {
            let shape = RecordShape { fields, field_length };
            let mut value = Vec::new();
            shape.fill(7, 1, &mut value);
            assert_eq!(value.len() as u64, shape.value_bytes());
            assert!(value.iter().all(|byte| (b' '..=b'_').contains(byte)));
            assert!(shape.check(7, &value));
            shape.fill_field(7, fields - 1, 2, &mut value);
            assert!(shape.check(7, &value));
            assert!(!shape.check(8, &value), "another record's value");
            for at in [0, value.len() / 2, value.len() - 1] {
                value[at] ^= 1;
                assert!(!shape.check(7, &value), "a flipped bit at {at}");
                value[at] ^= 1;
            }
            assert!(!shape.check(7, &value[1..]), "too short");
        }
    }

    #[test]
    fn short_and_empty_values_work() {
        for shape in [
            RecordShape { fields: 1, field_length: 0 },
            RecordShape { fields: 0, field_length: 5 },
            RecordShape { fields: 2, field_length: 3 },
        ] {
            let mut value = Vec::new();
            shape.fill(1, 1, &mut value);
            assert!(shape.check(1, &value), "{shape:?}");
        }
    }

    #[test]
    fn two_writes_make_two_values() {
        let shape = RecordShape { fields: 1, field_length: 100 };
        let (mut one, mut two) = (Vec::new(), Vec::new());
        shape.fill(7, 1, &mut one);
        shape.fill(7, 2, &mut two);
        assert_ne!(one, two);
    }
}
