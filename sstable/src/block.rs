//! Data blocks as they are read: checked, decompressed, and searched by their slots. Frozen: `docs/format.md` §2.2.
//!
//! A block is handled as its raw bytes: the 16-byte header, then the payload without compression. [`BlockHead`]
//! holds what its header says, so that whoever owns the bytes can go from entry to entry without reading it again.

use terrace_io::{Bug, Checksum, PAGE_BYTES, prefetch};

use crate::key::{KEY_BYTES_MAX, Kind, VALUE_BYTES_MAX, compare_keys};
use crate::{Compression, varint};

/// Bytes of a block's header.
pub(crate) const HEADER_BYTES: usize = 16;
/// Bytes of a slot.
pub(crate) const SLOT_BYTES: usize = 2;
/// The longest payload of a block with several entries.
pub(crate) const SHARED_PAYLOAD_BYTES_MAX: usize = 65_535;
/// Flag: the payload is compressed with Snappy.
pub(crate) const FLAG_SNAPPY: u16 = 1;
/// Bit of a tag: a sequence delta follows.
pub(crate) const TAG_DELTA: u8 = 1 << 4;
/// The longest payload: one entry of the longest key and value, and its slot.
const PAYLOAD_BYTES_MAX: usize = 1 + 5 + 5 + 10 + KEY_BYTES_MAX + VALUE_BYTES_MAX + SLOT_BYTES;
/// The longest block: that payload and the header, in whole pages.
pub(crate) const BLOCK_BYTES_MAX: usize = (HEADER_BYTES + PAYLOAD_BYTES_MAX).next_multiple_of(PAGE_BYTES);
/// No Snappy element gives more bytes than this for each of its own (a copy of 64 bytes takes 3).
const SNAPPY_EXPANSION_MAX: usize = 22;

/// The checksum of a block at `offset` of the file; `rest` is everything behind the checksum itself.
#[inline]
pub(crate) fn checksum(table_id: u64, offset: u64, rest: &[u8]) -> u32 {
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&table_id.to_le_bytes());
    seed[8..].copy_from_slice(&offset.to_le_bytes());
    Checksum::new().bytes(&seed).bytes(rest).finish()
}

/// Whether the bytes are those of a block at `offset`.
#[inline]
pub(crate) fn has_right_checksum(table_id: u64, offset: u64, block: &[u8]) -> bool {
    match block.split_first_chunk::<4>() {
        Some((crc, rest)) => u32::from_le_bytes(*crc) == checksum(table_id, offset, rest),
        None => false,
    }
}

/// What the header of an uncompressed block says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockHead {
    /// How many entries there are.
    pub(crate) count: usize,
    /// Where the slots start.
    slots: usize,
    base_sequence: u64,
}

/// Where an entry is in its block, and the parts of it that are not bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryHead {
    key_start: u32,
    value_start: u32,
    value_end: u32,
    pub(crate) kind: Kind,
    pub(crate) sequence: u64,
}

impl EntryHead {
    /// What a cursor holds before it has an entry.
    pub(crate) const NONE: EntryHead =
        EntryHead { key_start: 0, value_start: 0, value_end: 0, kind: Kind::Delete, sequence: 0 };

    /// Where the key is in the block.
    #[inline]
    pub(crate) fn key_range(&self) -> std::ops::Range<usize> {
        self.key_start as usize..self.value_start as usize
    }

    /// Where the value is in the block.
    #[inline]
    pub(crate) fn value_range(&self) -> std::ops::Range<usize> {
        self.value_start as usize..self.value_end as usize
    }
}

/// What [`BlockHead::seek`] found.
pub(crate) struct Sought {
    /// The slot of the first entry at or after the target; the count of entries if there is none.
    pub(crate) slot: usize,
    /// That entry, and whether it has the very key.
    pub(crate) entry: Option<(EntryHead, bool)>,
}

/// What is wrong with a block, for an error message.
pub(crate) type Wrong = &'static str;

const WRONG_ENTRY: Wrong = "an entry of this block is malformed";

impl BlockHead {
    /// What a cursor holds before it has a block.
    pub(crate) const EMPTY: BlockHead = BlockHead { count: 0, slots: 0, base_sequence: 0 };

    /// Reads the header of an uncompressed block.
    #[inline]
    pub(crate) fn read(block: &[u8]) -> Result<BlockHead, Wrong> {
        let Some((header, payload)) = block.split_first_chunk::<HEADER_BYTES>() else {
            return Err("this block is shorter than its header");
        };
        if u16::from_le_bytes([header[6], header[7]]) != 0 {
            return Err("this block has unknown flags");
        }
        // The last slot is checked first, and without need of the header, so that the processor fetches both ends of
        // the block at once: waiting for memory is what a search spends its time on.
        let last_slot =
            payload.last_chunk::<SLOT_BYTES>().map_or(0, |slot| usize::from(u16::from_le_bytes(*slot)));
        if last_slot >= payload.len() {
            return Err("the last slot of this block points out of it");
        }
        let count = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let base_sequence = u64::from_le_bytes(*header.last_chunk::<8>().expect("8 of 16 bytes"));
        if count == 0 || SLOT_BYTES * count >= payload.len() {
            return Err("the entry count of this block does not fit its length");
        }
        if count > 1 && payload.len() > SHARED_PAYLOAD_BYTES_MAX
            || payload.len() > u32::MAX as usize - HEADER_BYTES
        {
            return Err("this block is too long");
        }
        Ok(BlockHead { count, slots: block.len() - SLOT_BYTES * count, base_sequence })
    }

    /// Reads the entry in `slot` (below the count) of `block`, which is the one that the head was read from.
    #[inline]
    pub(crate) fn entry(&self, block: &[u8], slot: usize) -> Result<EntryHead, Wrong> {
        let (entries, slots) = block.split_at_checked(self.slots).ok_or(WRONG_ENTRY)?;
        let at = slots.get(SLOT_BYTES * slot..SLOT_BYTES * slot + 2).ok_or(WRONG_ENTRY)?;
        let start = HEADER_BYTES + usize::from(u16::from_le_bytes([at[0], at[1]]));
        // By far most entries have lengths of one byte and no delta.
        if let Some([tag, key_len, value_len, ..]) = entries.get(start..)
            && (key_len | value_len) < 0x80
            && let Some(kind) = Kind::from_byte(*tag)
        {
            let key_start = start + 3;
            let value_start = key_start + usize::from(*key_len);
            let value_end = value_start + usize::from(*value_len);
            if value_end > entries.len() {
                return Err(WRONG_ENTRY);
            }
            return Ok(EntryHead {
                key_start: key_start as u32,
                value_start: value_start as u32,
                value_end: value_end as u32,
                kind,
                sequence: self.base_sequence,
            });
        }
        self.any_entry(entries, start).ok_or(WRONG_ENTRY)
    }

    /// Where the entry in `slot` starts in the block.
    pub(crate) fn start(&self, block: &[u8], slot: usize) -> Result<usize, Wrong> {
        let at = self.slots + SLOT_BYTES * slot;
        let bytes = block.get(at..at + SLOT_BYTES).ok_or(WRONG_ENTRY)?;
        Ok(HEADER_BYTES + usize::from(u16::from_le_bytes([bytes[0], bytes[1]])))
    }

    fn any_entry(&self, entries: &[u8], start: usize) -> Option<EntryHead> {
        let (tag, rest) = entries.get(start..)?.split_first()?;
        let kind = Kind::from_byte(tag & 0x0f)?;
        if tag & !(0x0f | TAG_DELTA) != 0 {
            return None;
        }
        let (key_len, key_len_len) = varint::read32(rest)?;
        let rest = &rest[key_len_len..];
        let (value_len, value_len_len) = varint::read32(rest)?;
        let mut rest = &rest[value_len_len..];
        let mut sequence = self.base_sequence;
        if tag & TAG_DELTA != 0 {
            let (delta, delta_len) = varint::read(rest)?;
            sequence = sequence.checked_add(delta)?;
            rest = &rest[delta_len..];
        }
        let needed = u64::from(key_len) + u64::from(value_len);
        if needed > rest.len() as u64 && !Bug::LengthUnchecked.is_planted() {
            return None;
        }
        let key_start = entries.len() - rest.len();
        let value_start = key_start + key_len as usize;
        Some(EntryHead {
            key_start: key_start as u32,
            value_start: value_start as u32,
            value_end: (value_start + value_len as usize) as u32,
            kind,
            sequence,
        })
    }

    /// Finds the first entry at or after `(key, sequence)` in internal order.
    #[inline]
    pub(crate) fn seek(&self, block: &[u8], key: &[u8], sequence: u64) -> Result<Sought, Wrong> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = (low + high) / 2;
            let entry = self.entry(block, middle)?;
            let order = compare_keys(&block[entry.key_range()], key);
            if order.is_lt() | (order.is_eq() & (entry.sequence > sequence)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low == self.count {
            return Ok(Sought { slot: low, entry: None });
        }
        let entry = self.entry(block, low)?;
        let is_same_key = block[entry.key_range()] == *key;
        Ok(Sought { slot: low, entry: Some((entry, is_same_key)) })
    }
}

/// Has the processor fetch the entry in `slot` of a raw block, and the header and the last slots that tell where it is, all
/// at once, if entries are about `entry_len` bytes long: all that a get of a located entry spends its time on are these
/// waits. Nothing depends on the guess.
#[inline]
pub(crate) fn fetch(block: &[u8], slot: usize, entry_len: usize) {
    let start = slot.saturating_mul(entry_len).saturating_add(HEADER_BYTES);
    let bytes = block.as_ptr();
    for at in [
        0,
        block.len().wrapping_sub(1),
        start,
        start.wrapping_add(entry_len / 2),
        start.wrapping_add(entry_len),
    ] {
        prefetch(bytes.wrapping_add(at));
    }
}

/// Whether a raw block says that it is compressed.
#[inline]
pub(crate) fn is_compressed(block: &[u8]) -> bool {
    block.len() >= HEADER_BYTES && u16::from_le_bytes([block[6], block[7]]) & FLAG_SNAPPY != 0
}

/// How long a compressed block is once it is decompressed, header included. Refuses what it cannot be.
pub(crate) fn decompressed_len(block: &[u8]) -> Result<usize, Wrong> {
    let (header, payload) =
        block.split_first_chunk::<HEADER_BYTES>().ok_or("this block is shorter than its header")?;
    if u16::from_le_bytes([header[6], header[7]]) != FLAG_SNAPPY {
        return Err("this block has unknown flags");
    }
    let len = snap::raw::decompress_len(payload).map_err(|_| "this block's Snappy header is malformed")?;
    let max = if header[4..6] == [1, 0] { PAYLOAD_BYTES_MAX } else { SHARED_PAYLOAD_BYTES_MAX };
    if len > max || len > payload.len().saturating_mul(SNAPPY_EXPANSION_MAX) {
        return Err("this block's Snappy header gives an impossible length");
    }
    Ok(HEADER_BYTES + len)
}

/// Decompresses a block into `out`, which is as long as [`decompressed_len`] says.
pub(crate) fn decompress(block: &[u8], out: &mut [u8]) -> Result<(), Wrong> {
    let (header, payload) = block.split_at(HEADER_BYTES);
    out[..HEADER_BYTES].copy_from_slice(header);
    out[6..8].fill(0);
    let len = snap::raw::Decoder::new().decompress(payload, &mut out[HEADER_BYTES..]);
    match len {
        Ok(len) if HEADER_BYTES + len == out.len() => Ok(()),
        _ => Err("this block's Snappy payload is malformed"),
    }
}

/// The bytes of a raw block without compression, where the table has this one.
pub(crate) fn unpacked(raw: &[u8], compression: Compression) -> Result<Vec<u8>, Wrong> {
    if compression == Compression::None || !is_compressed(raw) {
        return Ok(raw.to_vec());
    }
    let mut out = vec![0; decompressed_len(raw)?];
    decompress(raw, &mut out)?;
    Ok(out)
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
