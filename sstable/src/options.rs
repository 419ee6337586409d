//! How tables are written.

use terrace_io::{Error, Result};

/// How data blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Compression {
    /// Not at all: blocks of one page, read in place.
    #[default]
    None = 0,
    /// With Snappy, where a block gets smaller by at least an eighth.
    Snappy = 1,
}

impl Compression {
    /// The compression that a byte on disk means, if this version knows it.
    pub fn from_byte(byte: u8) -> Option<Compression> {
        match byte {
            0 => Some(Compression::None),
            1 => Some(Compression::Snappy),
            _ => None,
        }
    }
}

/// The kind of a table's filter, which tells for most keys that are not there that they are not. A table that has a
/// locator does not ask it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum FilterKind {
    /// A Bloom filter in lines of 64 bytes: what it says of a key is in one of them, so that building and asking it is
    /// quick; read from the mapping.
    #[default]
    Blocked = 0,
    /// A Bloom filter over the whole table, of the `bloomfilter` crate: lets a little fewer keys through, takes longer to
    /// build and to ask (`docs/performance.md`), and is kept on the heap.
    Bloom = 1,
}

impl FilterKind {
    /// The kind that a number on disk means, if this version knows it.
    pub fn from_byte(byte: u8) -> Option<FilterKind> {
        match byte {
            0 => Some(FilterKind::Blocked),
            1 => Some(FilterKind::Bloom),
            _ => None,
        }
    }
}

/// How a table is written. What is written says for itself how it is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableOptions {
    /// How data blocks are compressed.
    pub compression: Compression,
    /// The kind of the filter.
    pub filter: FilterKind,
    /// Bits of the filter for each key, at most 40; 0 for no filter. 10 let 1% of the keys that are not there
    /// through.
    pub filter_bits_per_key: u8,
    /// Whether the table gets a locator, which takes 5 to 6 bytes for each key and spares gets the search. A table with
    /// very many blocks or entries in a block goes without.
    pub locator: bool,
    /// About how many bytes of entries go into one block of a compressed table, before compression: 4,096 to
    /// 65,000. Tables without compression have blocks of one page.
    pub block_bytes: u32,
}

impl Default for TableOptions {
    fn default() -> Self {
        TableOptions {
            compression: Compression::None,
            filter: FilterKind::Blocked,
            filter_bits_per_key: 10,
            locator: true,
            block_bytes: 16 * 1024,
        }
    }
}

impl TableOptions {
    /// Refuses values out of range.
    pub fn check(&self) -> Result<()> {
        if !(4096..=65_000).contains(&self.block_bytes) {
            return Err(Error::invalid(format!("block_bytes is {}, not 4096 to 65000", self.block_bytes)));
        }
        if self.filter_bits_per_key > 40 {
            let bits = self.filter_bits_per_key;
            return Err(Error::invalid(format!("filter_bits_per_key is {bits}, more than 40")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_range_is_refused() {
        assert!(TableOptions::default().check().is_ok());
        for block_bytes in [0, 4095, 65_001] {
            assert!(TableOptions { block_bytes, ..TableOptions::default() }.check().is_err());
        }
        assert!(TableOptions { filter_bits_per_key: 41, ..TableOptions::default() }.check().is_err());
        for compression in [Compression::None, Compression::Snappy] {
            assert_eq!(Compression::from_byte(compression as u8), Some(compression));
        }
        assert_eq!(Compression::from_byte(2), None);
        for kind in [FilterKind::Blocked, FilterKind::Bloom] {
            assert_eq!(FilterKind::from_byte(kind as u8), Some(kind));
        }
        assert_eq!(FilterKind::from_byte(2), None);
    }
}
