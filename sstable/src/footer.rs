//! The fixed end of a table file and the directory in front of it: where everything else is. Frozen: `docs/format.md`
//! §2.1 and §2.3.

use std::path::Path;

use terrace_io::{Checksum, Error, File, PAGE_BYTES, Result, read_exact_at};

/// Bytes of the footer.
pub(crate) const FOOTER_BYTES: usize = 64;
/// The version of the format that this code writes, and the newest that it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"TERRASST";

/// Bytes of an entry of the directory.
pub(crate) const DIRECTORY_ENTRY_BYTES: usize = 24;
/// Set in a kind if a reader that does not know it must refuse the table.
const KIND_REQUIRED: u32 = 1 << 31;
/// The Bloom filter's kind.
pub(crate) const KIND_BLOOM_FILTER: u32 = 3;
/// The blocked filter's kind.
pub(crate) const KIND_BLOCKED_FILTER: u32 = 6;
/// The locator's kind.
pub(crate) const KIND_LOCATOR: u32 = 4;
/// The fences' kind.
pub(crate) const KIND_FENCES: u32 = KIND_REQUIRED | 1;
/// The properties' kind.
pub(crate) const KIND_PROPERTIES: u32 = KIND_REQUIRED | 2;

/// The last 64 bytes of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Random, not zero; the manifest repeats it, and the seed of every checksum in the table.
    pub table_id: u64,
    /// Bytes of the data region.
    pub data_len: u64,
    /// Bytes of the metadata region.
    pub meta_len: u64,
    /// Bytes of the directory.
    pub directory_len: u32,
    /// Checksum of the chunk checksums and the directory, and so of everything but the data blocks, which have their own.
    pub tail_crc: u32,
    /// The version of the format.
    pub format_version: u32,
}

impl Footer {
    /// Reads the footer of a table file, and nothing else of it.
    ///
    /// [`Error::Corruption`] and [`Error::UnsupportedFormat`] if it is none that this version reads.
    pub fn read(file: &dyn File) -> Result<Footer> {
        let len = file.len()?;
        let Some(offset) = len.checked_sub(FOOTER_BYTES as u64) else {
            return Err(Error::corruption(file.path(), 0, format!("{len} bytes are no table")));
        };
        let mut bytes = [0; FOOTER_BYTES];
        read_exact_at(file, &mut bytes, offset)?;
        Footer::decode(&bytes, len, file.path())
    }

    /// The bytes on disk.
    pub(crate) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..8].copy_from_slice(&self.table_id.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.data_len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.meta_len.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.directory_len.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.tail_crc.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.format_version.to_le_bytes());
        let crc = Checksum::new().bytes(&bytes[..52]).finish();
        bytes[52..56].copy_from_slice(&crc.to_le_bytes());
        bytes[56..].copy_from_slice(&MAGIC);
        bytes
    }

    /// Reads the footer of a file of `file_len` bytes and checks that the lengths in it add up to that.
    pub(crate) fn decode(bytes: &[u8; FOOTER_BYTES], file_len: u64, path: &Path) -> Result<Footer> {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes of 64"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes of 64"));
        let damaged = |what: String| Error::corruption(path, file_len - FOOTER_BYTES as u64, what);
        if bytes[56..] != MAGIC {
            return Err(damaged("it does not end as a table does (no magic)".into()));
        }
        let format_version = u32_at(48);
        let crc = Checksum::new().bytes(&bytes[..52]).finish();
        if format_version != FORMAT_VERSION {
            // Another version keeps version, checksum and magic where they are; damage does not keep the checksum.
            if crc == u32_at(52) && format_version > FORMAT_VERSION {
                let (found, supported) = (u64::from(format_version), u64::from(FORMAT_VERSION));
                return Err(Error::UnsupportedFormat { path: path.into(), found, supported });
            }
            return Err(damaged(format!("the footer has format version {format_version}")));
        }
        if crc != u32_at(52) {
            return Err(damaged("the footer's checksum is wrong".into()));
        }
        let footer = Footer {
            table_id: u64_at(0),
            data_len: u64_at(8),
            meta_len: u64_at(16),
            directory_len: u32_at(24),
            tail_crc: u32_at(28),
            format_version,
        };
        if footer.table_id == 0 {
            return Err(damaged("the table id is zero".into()));
        }
        if bytes[32..48] != [0; 16] {
            return Err(damaged("reserved bytes of the footer are not zero".into()));
        }
        if !footer.meta_len.is_multiple_of(8)
            || !(footer.directory_len as usize).is_multiple_of(DIRECTORY_ENTRY_BYTES)
        {
            return Err(damaged("the lengths in the footer are not multiples of what they should be".into()));
        }
        if footer.file_len() != Some(file_len) {
            return Err(damaged(format!("the lengths in the footer do not add up to {file_len} bytes")));
        }
        Ok(footer)
    }

    /// Where the metadata region starts in the file.
    pub fn meta_offset(&self) -> u64 {
        self.data_len.next_multiple_of(PAGE_BYTES as u64)
    }

    /// How many chunk checksums there are.
    pub fn chunks(&self) -> u64 {
        self.meta_len.div_ceil(PAGE_BYTES as u64)
    }

    /// Where the chunk checksums start in the file.
    pub(crate) fn tail_offset(&self) -> u64 {
        self.meta_offset() + self.meta_len
    }

    /// The length of the file, if the lengths add up to one.
    pub(crate) fn file_len(&self) -> Option<u64> {
        let meta_offset = self.data_len.checked_next_multiple_of(PAGE_BYTES as u64)?;
        let chunks_len = self.chunks().checked_mul(4)?;
        let tail_len = chunks_len + u64::from(self.directory_len) + FOOTER_BYTES as u64;
        meta_offset.checked_add(self.meta_len)?.checked_add(tail_len)
    }
}

/// Where a metadata block is: an entry of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataBlock {
    /// What it is.
    pub kind: u32,
    /// Where it starts in the metadata region.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl MetadataBlock {
    /// What it is, in words.
    pub fn name(&self) -> &'static str {
        match self.kind {
            KIND_BLOOM_FILTER => "Bloom filter",
            KIND_BLOCKED_FILTER => "blocked filter",
            KIND_FENCES => "fences",
            KIND_PROPERTIES => "properties",
            KIND_LOCATOR => "locator",
            0x8000_0005 => "range tombstones",
            _ => "unknown",
        }
    }

    /// Appends the entry.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
    }

    /// Reads a directory, which starts at `offset` of the file.
    pub(crate) fn decode_directory(
        bytes: &[u8],
        meta_len: u64,
        path: &Path,
        offset: u64,
    ) -> Result<Vec<MetadataBlock>> {
        let damaged = |what: &str| Error::corruption(path, offset, what);
        let mut blocks: Vec<MetadataBlock> = Vec::with_capacity(bytes.len() / DIRECTORY_ENTRY_BYTES);
        for entry in bytes.chunks_exact(DIRECTORY_ENTRY_BYTES) {
            let u32_at = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().expect("4 bytes of 24"));
            let u64_at = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("8 bytes of 24"));
            let block = MetadataBlock { kind: u32_at(0), offset: u64_at(8), len: u64_at(16) };
            if u32_at(4) != 0 {
                return Err(damaged("reserved bytes of the directory are not zero"));
            }
            if blocks.last().is_some_and(|last| last.kind >= block.kind) {
                return Err(damaged("the kinds in the directory do not ascend"));
            }
            if !block.offset.is_multiple_of(8)
                || block.offset.checked_add(block.len).is_none_or(|end| end > meta_len)
            {
                return Err(damaged("a metadata block of the directory lies outside of the metadata region"));
            }
            blocks.push(block);
        }
        let mut by_offset: Vec<_> =
            blocks.iter().map(|block| (block.offset, block.offset + block.len)).collect();
        by_offset.sort_unstable();
        if by_offset.windows(2).any(|pair| pair[0].1 > pair[1].0) {
            return Err(damaged("metadata blocks of the directory overlap"));
        }
        let known = [KIND_FENCES, KIND_PROPERTIES];
        let required =
            |block: &&MetadataBlock| block.kind & KIND_REQUIRED != 0 && !known.contains(&block.kind);
        if let Some(block) = blocks.iter().find(required) {
            let (found, supported) = (u64::from(block.kind), u64::from(FORMAT_VERSION));
            return Err(Error::UnsupportedFormat { path: path.into(), found, supported });
        }
        Ok(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer() -> Footer {
        Footer {
            table_id: 7,
            data_len: 5000,
            meta_len: 4104,
            directory_len: 48,
            tail_crc: 9,
            format_version: FORMAT_VERSION,
        }
    }

    const FILE_LEN: u64 = 8192 + 4104 + 2 * 4 + 48 + 64;

    fn forged(change: impl Fn(&mut [u8; FOOTER_BYTES])) -> Result<Footer> {
        let mut bytes = footer().encode();
        change(&mut bytes);
        let crc = Checksum::new().bytes(&bytes[..52]).finish();
        bytes[52..56].copy_from_slice(&crc.to_le_bytes());
        Footer::decode(&bytes, FILE_LEN, Path::new("t"))
    }

    #[test]
    fn round_trip() {
        assert_eq!(forged(|_| ()).unwrap(), footer());
        assert_eq!(footer().meta_offset(), 8192);
        assert!(
            Footer::decode(&footer().encode(), FILE_LEN + 1, Path::new("t")).unwrap_err().is_corruption()
        );
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        for at in 0..FOOTER_BYTES {
            let mut bytes = footer().encode();
            bytes[at] ^= 0x10;
            let error = Footer::decode(&bytes, FILE_LEN, Path::new("t")).unwrap_err();
            assert!(
                matches!(error, Error::Corruption { offset, .. } if offset == FILE_LEN - 64),
                "{at}: {error}"
            );
        }
    }

    #[test]
    fn forged_fields_are_refused() {
        let huge = u64::MAX.to_le_bytes();
        assert!(forged(|b| b[..8].fill(0)).is_err());
        assert!(forged(|b| b[8..16].copy_from_slice(&huge)).is_err());
        assert!(forged(|b| b[16..24].copy_from_slice(&(u64::MAX - 7).to_le_bytes())).is_err());
        assert!(forged(|b| b[24..28].fill(0xff)).is_err());
        assert!(forged(|b| b[33] = 1).is_err());
        let newer = forged(|b| b[48] = 2).unwrap_err();
        assert!(matches!(newer, Error::UnsupportedFormat { found: 2, supported: 1, .. }));
    }

    fn directory(blocks: &[(u32, u64, u64)]) -> Result<Vec<MetadataBlock>> {
        let mut bytes = Vec::new();
        for &(kind, offset, len) in blocks {
            MetadataBlock { kind, offset, len }.encode(&mut bytes);
        }
        MetadataBlock::decode_directory(&bytes, 1000, Path::new("t"), 0)
    }

    #[test]
    fn directories_are_checked() {
        assert_eq!(directory(&[]).unwrap().len(), 0);
        assert_eq!(directory(&[(3, 8, 992), (KIND_FENCES, 0, 8)]).unwrap().len(), 2);
        assert!(directory(&[(3, 8, 993)]).is_err());
        assert!(directory(&[(3, 4, 4)]).is_err());
        assert!(directory(&[(3, 8, u64::MAX)]).is_err());
        assert!(directory(&[(3, 0, 8), (3, 8, 8)]).is_err());
        assert!(directory(&[(3, 0, 16), (4, 8, 8)]).is_err());
        assert!(directory(&[(77, 0, 16)]).is_ok());
        let unknown = directory(&[(0x8000_0005, 0, 16)]).unwrap_err();
        assert!(matches!(unknown, Error::UnsupportedFormat { .. }));
    }
}
