//! Data blocks as they are written: entries are collected until no more fit, then encoded at once, when the base
//! sequence number is known.

use crate::block::{HEADER_BYTES, SLOT_BYTES, TAG_DELTA, checksum};
use crate::key::Kind;
use crate::varint;

/// An entry that waits to be encoded; its bytes are in the builder.
#[derive(Debug)]
struct Pending {
    kind: Kind,
    sequence: u64,
    key_len: usize,
    value_len: usize,
}

/// Collects the entries of one block after the other.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    entries: Vec<Pending>,
    /// Keys and values, one after the other.
    bytes: Vec<u8>,
    /// Length of all entries without their sequence deltas.
    plain_len: usize,
    /// Length of the deltas.
    deltas_len: usize,
    base_sequence: u64,
}

/// The length of an entry without a sequence delta.
pub(crate) fn plain_entry_len(key_len: usize, value_len: usize) -> usize {
    1 + varint::len(key_len as u64) + varint::len(value_len as u64) + key_len + value_len
}

fn delta_len(sequence: u64, base: u64) -> usize {
    if sequence == base { 0 } else { varint::len(sequence - base) }
}

impl BlockBuilder {
    /// Whether it holds no entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How long the payload is, slots included.
    pub(crate) fn payload_len(&self) -> usize {
        self.plain_len + self.deltas_len + SLOT_BYTES * self.entries.len()
    }

    /// Adds an entry if the payload does not get longer than `limit` by it, or if it is the first.
    pub(crate) fn try_add(
        &mut self,
        key: &[u8],
        sequence: u64,
        kind: Kind,
        value: &[u8],
        limit: usize,
    ) -> bool {
        let base = if self.is_empty() { sequence } else { self.base_sequence.min(sequence) };
        let deltas_len = if base == self.base_sequence || self.is_empty() {
            self.deltas_len + delta_len(sequence, base)
        } else {
            self.entries.iter().map(|entry| delta_len(entry.sequence, base)).sum()
        };
        let plain_len = self.plain_len + plain_entry_len(key.len(), value.len());
        let payload_len = plain_len + deltas_len + SLOT_BYTES * (self.entries.len() + 1);
        if !self.is_empty() && (payload_len > limit || self.entries.len() == usize::from(u16::MAX)) {
            return false;
        }
        self.entries.push(Pending { kind, sequence, key_len: key.len(), value_len: value.len() });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        (self.plain_len, self.deltas_len, self.base_sequence) = (plain_len, deltas_len, base);
        true
    }

    /// Encodes the block into `out`, with a payload of at least `payload_len_min`: header (its checksum still
    /// missing, see [`seal`]), entries, zeros, slots. Starts over.
    pub(crate) fn finish_into(&mut self, out: &mut Vec<u8>, payload_len_min: usize) {
        let payload_len = self.payload_len().max(payload_len_min);
        out.clear();
        out.extend_from_slice(&header(self.entries.len() as u16, 0, self.base_sequence));
        let mut slots = Vec::with_capacity(SLOT_BYTES * self.entries.len());
        let mut rest = &self.bytes[..];
        for entry in &self.entries {
            slots.extend_from_slice(&((out.len() - HEADER_BYTES) as u16).to_le_bytes());
            let delta = entry.sequence - self.base_sequence;
            entry_head(out, entry.kind, entry.key_len, entry.value_len, delta);
            let (bytes, after) = rest.split_at(entry.key_len + entry.value_len);
            out.extend_from_slice(bytes);
            rest = after;
        }
        out.resize(HEADER_BYTES + payload_len - slots.len(), 0);
        out.extend_from_slice(&slots);
        self.entries.clear();
        self.bytes.clear();
        (self.plain_len, self.deltas_len, self.base_sequence) = (0, 0, 0);
    }

    /// Gives back memory that an unusually large entry took.
    pub(crate) fn shrink(&mut self, capacity: usize) {
        self.bytes.shrink_to(capacity);
    }
}

/// The header of a block, without its checksum.
pub(crate) fn header(entry_count: u16, flags: u16, base_sequence: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[4..6].copy_from_slice(&entry_count.to_le_bytes());
    header[6..8].copy_from_slice(&flags.to_le_bytes());
    header[8..].copy_from_slice(&base_sequence.to_le_bytes());
    header
}

/// Appends what stands before the key of an entry.
pub(crate) fn entry_head(out: &mut Vec<u8>, kind: Kind, key_len: usize, value_len: usize, delta: u64) {
    out.push(kind as u8 | if delta == 0 { 0 } else { TAG_DELTA });
    varint::write(out, key_len as u64);
    varint::write(out, value_len as u64);
    if delta != 0 {
        varint::write(out, delta);
    }
}

/// Fills in the checksum of a block that will stand at `offset`.
pub(crate) fn seal(block: &mut [u8], table_id: u64, offset: u64) {
    let crc = checksum(table_id, offset, &block[4..]);
    block[..4].copy_from_slice(&crc.to_le_bytes());
}
