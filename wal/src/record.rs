//! Records and their headers (`docs/format.md` §3.2).

use std::path::Path;

use terrace_io::{Bug, Checksum, Error, Result};

use crate::Position;

/// Bytes of a record before its payload. Frozen.
pub const RECORD_HEADER_BYTES: usize = 24;

/// Records start at multiples of this. Frozen.
pub(crate) const ALIGNMENT: u64 = 8;

/// What a record's payload is. Frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A batch of operations.
    Batch = 1,
    /// An edit of the manifest.
    VersionEdit = 2,
}

/// A record that was read, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What the payload is.
    pub kind: RecordKind,
    /// Where the record starts.
    pub position: Position,
    /// Where it ends, padding included: the place of the next record, if it is in the same segment.
    pub end: Position,
    /// How far the log was known to be durable when the record was written.
    pub synced: Position,
    /// The bytes that were logged, at least one.
    pub payload: Vec<u8>,
}

/// The bytes that a record with a payload of `payload_len` bytes takes in a segment: header and padding included.
pub fn record_len(payload_len: usize) -> u64 {
    (RECORD_HEADER_BYTES as u64 + payload_len as u64).next_multiple_of(ALIGNMENT)
}

/// The start of every checksum in one segment of one log.
///
/// Two seeds that differ in the number alone never give the same checksum for the same bytes (a CRC tells apart
/// messages of one length that differ within 32 bits), so what an earlier life of a recycled segment left at some
/// offset is never taken for a record of this life.
#[derive(Debug, Clone)]
pub(crate) struct Seed(Checksum);

impl Seed {
    pub(crate) fn new(log_id: &[u8; 16], number: u32) -> Seed {
        let number = if Bug::RecycledRecordAccepted.is_planted() { 0 } else { number };
        Seed(Checksum::new().bytes(log_id).u32(number))
    }

    fn header_crc(&self, offset: u64, fields: &[u8]) -> u32 {
        self.0.clone().u64(offset).bytes(fields).finish()
    }

    pub(crate) fn payload_crc(&self, payload: &[u8]) -> u32 {
        self.0.clone().bytes(payload).finish()
    }
}

/// The fields of a record header whose checksum was right. They may still be nonsense: see [`RecordHeader::check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) payload_crc: u32,
    pub(crate) payload_len: u32,
    pub(crate) synced: Position,
    kind: u8,
    reserved: [u8; 3],
}

impl RecordHeader {
    /// The header in `bytes`, which stand at `offset` of a segment; `None` if its checksum is wrong.
    pub(crate) fn decode(
        seed: &Seed,
        offset: u64,
        bytes: &[u8; RECORD_HEADER_BYTES],
    ) -> Option<RecordHeader> {
        (u32_at(bytes, 0) == seed.header_crc(offset, &bytes[4..])).then(|| RecordHeader::fields(bytes))
    }

    fn fields(bytes: &[u8; RECORD_HEADER_BYTES]) -> RecordHeader {
        RecordHeader {
            payload_crc: u32_at(bytes, 4),
            payload_len: u32_at(bytes, 8),
            synced: Position { segment: u32_at(bytes, 12), offset: u32_at(bytes, 16) },
            kind: bytes[20],
            reserved: [bytes[21], bytes[22], bytes[23]],
        }
    }

    /// Whether `bytes` may be a record header at all: a test that costs next to nothing and that neither zeros nor
    /// most other bytes pass.
    pub(crate) fn is_plausible(bytes: &[u8; RECORD_HEADER_BYTES]) -> bool {
        bytes[21..24] == [0; 3] && matches!(bytes[20], 1 | 2)
    }

    /// Whether `bytes`, which are plausible, could be a header at `position` of a segment that ends at `limit`, were
    /// its checksum right.
    pub(crate) fn could_stand_at(bytes: &[u8; RECORD_HEADER_BYTES], position: Position, limit: u64) -> bool {
        let header = RecordHeader::fields(bytes);
        header.payload_len > 0
            && u64::from(position.offset) + record_len(header.payload_len as usize) <= limit
            && header.synced <= position
    }

    /// Whether the fields make sense for a record at `position` of a segment that ends at `limit`.
    ///
    /// A wrong field under a right checksum was written so: it is corruption, never the end of a log.
    pub(crate) fn check(&self, path: &Path, position: Position, limit: u64) -> Result<RecordKind> {
        let wrong = |what: String| Err(Error::corruption(path, position.offset.into(), what));
        if self.reserved != [0; 3] {
            return wrong("a reserved byte of the record header is not zero".into());
        }
        if self.payload_len == 0 {
            return wrong("the record has no payload".into());
        }
        if u64::from(position.offset) + record_len(self.payload_len as usize) > limit {
            return wrong(format!("the record has {} bytes, more than the segment", self.payload_len));
        }
        if self.synced > position {
            return wrong(format!("the record says that the log was synced beyond it, to {}", self.synced));
        }
        match self.kind {
            1 => Ok(RecordKind::Batch),
            2 => Ok(RecordKind::VersionEdit),
            kind => wrong(format!("there is no record kind {kind}")),
        }
    }
}

fn u32_at(bytes: &[u8; RECORD_HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Appends a record that will stand at `offset` of the segment with this `seed` to `out`.
///
/// # Panics
///
/// If the parts are empty together or have more than `u32::MAX` bytes: the layers above limit their sizes.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    seed: &Seed,
    offset: u64,
    kind: RecordKind,
    synced: Position,
    parts: &[&[u8]],
) {
    let payload_len: usize = parts.iter().map(|part| part.len()).sum();
    assert!(payload_len > 0, "a record has a payload");
    let length_field =
        u32::try_from(payload_len).expect("batches and edits are limited to far less than 4 GiB");

    let start = out.len();
    let end = start + record_len(payload_len) as usize;
    out.reserve(end - start);
    out.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
    for part in parts {
        out.extend_from_slice(part);
    }
    let payload_crc = seed.payload_crc(&out[start + RECORD_HEADER_BYTES..]);
    out.resize(end, 0);

    let header = &mut out[start..start + RECORD_HEADER_BYTES];
    header[4..8].copy_from_slice(&payload_crc.to_le_bytes());
    header[8..12].copy_from_slice(&length_field.to_le_bytes());
    header[12..16].copy_from_slice(&synced.segment.to_le_bytes());
    header[16..20].copy_from_slice(&synced.offset.to_le_bytes());
    header[20] = kind as u8;
    let header_crc = seed.header_crc(offset, &header[4..]);
    header[0..4].copy_from_slice(&header_crc.to_le_bytes());
}
