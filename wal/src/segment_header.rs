//! The first 64 bytes of a segment, and the name of its file (`docs/format.md` §1 and §3.1).

use std::path::Path;

use terrace_io::{Checksum, Error, Result};

/// Bytes of a segment before its first record. Frozen.
pub const HEADER_BYTES: u64 = 64;

/// [`HEADER_BYTES`] as a length in memory.
pub(crate) const HEADER_LEN: usize = 64;

/// Frozen.
const MAGIC: [u8; 8] = *b"TERRALOG";

/// Frozen.
const FORMAT_VERSION: u32 = 1;

/// Where the header's own checksum stands; everything before it is covered.
const CRC_OFFSET: usize = 60;

/// Offsets in a log are `u32`, so a segment can be no longer than this.
pub(crate) const LENGTH_MAX: u64 = u32::MAX as u64;

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Its number in the log.
    pub number: u32,
    /// The log that it belongs to.
    pub log_id: [u8; 16],
    /// Its bytes, header included; 0 for a log that grows.
    pub length: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.log_id);
        bytes[32..40].copy_from_slice(&self.length.to_le_bytes());
        let crc = Checksum::new().bytes(&bytes[..CRC_OFFSET]).finish();
        bytes[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Whether the checksum is right, in whatever version.
    pub(crate) fn is_intact(bytes: &[u8; HEADER_LEN]) -> bool {
        u32_at(bytes, CRC_OFFSET) == Checksum::new().bytes(&bytes[..CRC_OFFSET]).finish()
    }

    /// Checks everything that the header can say about itself; `path` is for the error.
    pub(crate) fn decode(path: &Path, bytes: &[u8; HEADER_LEN]) -> Result<SegmentHeader> {
        if bytes[0..8] != MAGIC {
            return Err(Error::corruption(path, 0, "a log segment starts with TERRALOG, this file does not"));
        }
        let version = u32_at(bytes, 8);
        if version != FORMAT_VERSION {
            let (found, supported) = (version.into(), FORMAT_VERSION.into());
            return Err(Error::UnsupportedFormat { path: path.into(), found, supported });
        }
        let (stored, computed) =
            (u32_at(bytes, CRC_OFFSET), Checksum::new().bytes(&bytes[..CRC_OFFSET]).finish());
        if stored != computed {
            let what =
                format!("the segment header's checksum is {stored:08x}, its bytes give {computed:08x}");
            return Err(Error::corruption(path, 0, what));
        }
        if let Some(i) = bytes[40..CRC_OFFSET].iter().position(|byte| *byte != 0) {
            return Err(Error::corruption(
                path,
                40 + i as u64,
                "a reserved byte of the segment header is not zero",
            ));
        }
        let mut log_id = [0; 16];
        log_id.copy_from_slice(&bytes[16..32]);
        let length = u64::from(u32_at(bytes, 32)) | u64::from(u32_at(bytes, 36)) << 32;
        if length != 0 && !(HEADER_BYTES..=LENGTH_MAX).contains(&length) {
            return Err(Error::corruption(path, 32, format!("no segment can be {length} bytes long")));
        }
        Ok(SegmentHeader { number: u32_at(bytes, 12), log_id, length })
    }
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The name of a segment's file: `000012.log`.
///
/// ```
/// assert_eq!(terrace_wal::segment_file_name(12), "000012.log");
/// assert_eq!(terrace_wal::segment_file_name(12_345_678), "12345678.log");
/// ```
pub fn segment_file_name(number: u32) -> String {
    format!("{number:06}.log")
}

/// The number of the segment that a file name stands for, if it is exactly what [`segment_file_name`] gives.
///
/// ```
/// assert_eq!(terrace_wal::parse_segment_file_name("000012.log"), Some(12));
/// assert_eq!(terrace_wal::parse_segment_file_name("12.log"), None);
/// ```
pub fn parse_segment_file_name(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".log")?.parse().ok()?;
    (segment_file_name(number) == name).then_some(number)
}
