//! Forged files: fields are changed, and every checksum is put right again, so that decoders are met by values that no
//! checksum keeps from them.
//!
//! [`table`], [`log`] and [`manifest`] know where the fields of each file are; here is what is done to one. The forgers
//! take a sound file apart, change a few fields of a few parts, and put it together again; what is checked by a length
//! or a place elsewhere is sometimes moved along, sometimes not. [`table::repair`], [`log::repair`] and
//! [`stream::repair`] put the checksums of any bytes right, as far as they have a place.

pub mod log;
pub mod manifest;
pub mod stream;
pub mod table;

use std::ops::Range;

use rand::{Rng, RngExt};

use crate::samples::Random;

/// How a field is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Little-endian, as long as its range.
    Fixed,
    /// Unsigned LEB128.
    Varint,
    /// Bytes that mean nothing.
    Bytes,
}

/// Where a field is.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its bytes.
    pub at: Range<usize>,
    /// How they are written.
    pub form: Form,
}

/// Reads fields from the front of bytes, and notes where they are. Reading stops, with `None`, where the bytes end.
#[derive(Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Those that were read.
    pub found: Vec<Field>,
}

impl<'a> Fields<'a> {
    /// The fields from `at` on.
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Fields { bytes, at, found: Vec::new() }
    }

    /// Where the next one is.
    pub fn at(&self) -> usize {
        self.at
    }

    fn take(&mut self, len: usize, form: Form) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len())?;
        let taken = &self.bytes[self.at..end];
        self.found.push(Field { at: self.at..end, form });
        self.at = end;
        Some(taken)
    }

    /// A little-endian number.
    pub fn fixed(&mut self, len: usize) -> Option<u64> {
        let bytes = self.take(len, Form::Fixed)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// A varint.
    pub fn varint(&mut self) -> Option<u64> {
        let (value, len) = read_varint(&self.bytes[self.at..])?;
        self.take(len, Form::Varint)?;
        Some(value)
    }

    /// Bytes that mean nothing.
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        self.take(len, Form::Bytes)
    }

    /// A varint and as many bytes.
    pub fn prefixed(&mut self) -> Option<&'a [u8]> {
        let len = self.varint()?;
        self.bytes(usize::try_from(len).ok()?)
    }
}

/// The varint at the front, and its length.
pub fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let len = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
    let value = bytes[..len].iter().rev().fold(0, |value: u64, byte| value << 7 | u64::from(byte & 0x7f));
    Some((value, len))
}

/// Appends a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A number that a decoder may not expect in the place of `old`. `len` is a length that means something there.
pub fn odd_number(random: &mut Random, old: u64, len: usize) -> u64 {
    const EDGES: [u64; 24] = [
        0,
        1,
        2,
        15,
        16,
        127,
        128,
        255,
        256,
        4095,
        4096,
        65_535,
        65_536,
        65_537,
        1 << 20,
        (1 << 30) + 1,
        (1 << 31) - 1,
        1 << 31,
        u32::MAX as u64,
        1 << 32,
        (1 << 56) - 1,
        1 << 56,
        1 << 63,
        u64::MAX,
    ];
    match random.random_range(0..10) {
        0 | 1 => EDGES[random.random_range(0..EDGES.len())],
        2 => EDGES[random.random_range(0..EDGES.len())].wrapping_sub(random.random_range(0..40)),
        3 => old.wrapping_add(1),
        4 => old.wrapping_sub(1),
        5 => old ^ 1 << random.random_range(0..64),
        6 => (len as u64).wrapping_add(random.random_range(0..32)).wrapping_sub(16),
        7 => old.wrapping_mul(random.random_range(0..9)),
        8 => random.random_range(0..=(len as u64).max(1)),
        _ => random.next_u64() >> random.random_range(0..64),
    }
}

/// Changes one of the fields. What follows it moves if it gets longer or shorter.
pub fn change_field(random: &mut Random, bytes: &mut Vec<u8>, fields: &[Field]) {
    let Some(last) = fields.len().checked_sub(1) else { return };
    let Field { at, form } = fields[random.random_range(0..=last)].clone();
    if at.end > bytes.len() {
        return;
    }
    match form {
        Form::Fixed => {
            let old = bytes[at.clone()].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            let new = odd_number(random, old, bytes.len());
            let len = at.len();
            bytes[at].copy_from_slice(&new.to_le_bytes()[..len]);
        }
        Form::Varint => {
            let old = read_varint(&bytes[at.clone()]).map_or(0, |(value, _)| value);
            let mut new = Vec::new();
            put_varint(&mut new, odd_number(random, old, bytes.len()));
            match random.random_range(0..12) {
                // One that does not end, or ends in zeros.
                0 => new = vec![0xff; 11],
                1 => {
                    *new.last_mut().expect("a varint has a byte") |= 0x80;
                    new.push(0);
                }
                // One that covers what stands behind it.
                2 => {
                    let end = (at.start + new.len()).min(bytes.len());
                    new.truncate(end - at.start);
                    bytes[at.start..end].copy_from_slice(&new);
                    return;
                }
                _ => {}
            }
            bytes.splice(at, new);
        }
        Form::Bytes => match random.random_range(0..5) {
            0 => drop(bytes.splice(at, [])),
            1 => {
                let twice = [&bytes[at.clone()], &bytes[at.clone()]].concat();
                bytes.splice(at, twice);
            }
            2 => bytes[at].fill([0, 0xff][random.random_range(0..2)]),
            3 => random.fill_bytes(&mut bytes[at]),
            _ => {
                if !at.is_empty() {
                    let place = random.random_range(at);
                    bytes[place] ^= 1 << random.random_range(0..8);
                }
            }
        },
    }
}

/// Changes bytes without regard to what they mean.
pub fn change_bytes(random: &mut Random, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        bytes.push(random.random());
        return;
    }
    let place = random.random_range(0..bytes.len());
    let len = random.random_range(0..(bytes.len() - place).min(64) + 1);
    match random.random_range(0..7) {
        0 => bytes[place] = random.random(),
        1 => bytes[place] ^= 1 << random.random_range(0..8),
        2 => bytes.truncate(place),
        3 => drop(bytes.drain(place..place + len)),
        4 => {
            let piece = bytes[place..place + len].to_vec();
            let to = random.random_range(0..=bytes.len());
            bytes.splice(to..to, piece);
        }
        5 => {
            let to = random.random_range(0..=bytes.len() - len);
            bytes.copy_within(place..place + len, to);
        }
        _ => random.fill_bytes(&mut bytes[place..place + len]),
    }
}

pub(crate) fn crc(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// The little-endian number at `at`; `None` if the bytes end before.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let number = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(number.try_into().expect("4 bytes")))
}

/// The little-endian number at `at`; `None` if the bytes end before.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let number = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(number.try_into().expect("8 bytes")))
}
