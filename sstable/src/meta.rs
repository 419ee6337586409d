//! What the manifest keeps about a table, and how table files are named.

use terrace_io::PAGE_BYTES;

use crate::locator;

/// A table as the manifest knows it: enough to decide whether to open it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableMeta {
    /// Its number, which names its file.
    pub number: u64,
    /// Random, repeated in the file: tells a table from another one under its name.
    pub table_id: u64,
    /// Bytes of the file.
    pub file_len: u64,
    /// How many entries it has, of all kinds.
    pub entries: u64,
    /// How many of them are tombstones.
    pub deletes: u64,
    /// The smallest sequence number in it.
    pub smallest_sequence: u64,
    /// The largest sequence number in it.
    pub largest_sequence: u64,
    /// Its first key.
    pub smallest_key: Box<[u8]>,
    /// Its last key.
    pub largest_key: Box<[u8]>,
}

impl TableMeta {
    /// About how many bytes the table's filter and fences take, with the default filter and short keys.
    pub fn filter_and_fences_bytes(&self) -> u64 {
        const FENCE_BYTES: u64 = 24;
        self.entries.saturating_mul(10) / 8 + self.file_len / PAGE_BYTES as u64 * FENCE_BYTES
    }

    /// About how many bytes the table's locator takes, if it has one.
    pub fn locator_bytes(&self) -> u64 {
        locator::bytes_for(self.entries)
    }
}

/// The name of the file of table `number`: `000012.sst`.
pub fn table_file_name(number: u64) -> String {
    format!("{number:06}.sst")
}

/// The name that the file has while it is written: `000012.sst.tmp`.
pub fn table_tmp_file_name(number: u64) -> String {
    format!("{number:06}.sst.tmp")
}

/// The number of the table whose file has this name, if it is a table's name.
pub fn parse_table_file_name(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".sst")?.parse().ok()?;
    (table_file_name(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for number in [0, 1, 12, 999_999, 1_000_000, u64::MAX] {
            assert_eq!(parse_table_file_name(&table_file_name(number)), Some(number));
            assert_eq!(parse_table_file_name(&table_tmp_file_name(number)), None);
        }
        for name in
            ["", ".sst", "12.sst", "+00012.sst", "000012.log", "0000012.sst", "000012.sst.tmp", "a00012.sst"]
        {
            assert_eq!(parse_table_file_name(name), None, "{name}");
        }
    }
}
