//! The manifest of a backup: which tables it consists of, and what they are to the database. Plain data, and its bytes:
//! `docs/format.md` §5.2. Frozen.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use terrace_io::{Checksum, Error, File, FileSystem, OpenMode, Result, read_exact_at};
use terrace_sstable::{Footer, TableMeta};
use terrace_wal::Position;

use crate::catalog::{Catalog, Change, encode};
use crate::manifest::{apply, check_whole, decode_edit};
use crate::recovery::now_micros;
use crate::repair::table_findings;

/// The version of the format that this code writes, and the newest that it reads.
pub(super) const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"TERRABKM";
const HEADER_BYTES: usize = 32;

/// No manifest is longer: millions of tables.
pub(super) const MANIFEST_BYTES_MAX: u64 = 1 << 30;

/// What a table is, whatever its number and wherever it lies. Whoever has bytes that verify under it has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TableKey {
    pub table_id: u64,
    pub file_len: u64,
    pub tail_crc: u32,
}

impl TableKey {
    /// Of a file, by its footer. [`Error::Corruption`] if it is not the table that `meta` says.
    pub fn of(file: &dyn File, meta: &TableMeta) -> Result<TableKey> {
        let footer = Footer::read(file)?;
        let file_len = file.len()?;
        if (footer.table_id, file_len) != (meta.table_id, meta.file_len) {
            let what = format!(
                "this is table {:016x} of {file_len} bytes, and {:016x} of {} bytes should be here",
                footer.table_id, meta.table_id, meta.file_len
            );
            return Err(Error::corruption(file.path(), 0, what));
        }
        Ok(TableKey { table_id: footer.table_id, file_len, tail_crc: footer.tail_crc })
    }

    /// The name of its file in a backup directory.
    pub fn file_name(&self) -> String {
        format!("{:016x}-{:08x}-{}.sst", self.table_id, self.tail_crc, self.file_len)
    }

    /// The table whose file in a backup directory has this name, if it is one.
    pub fn parse_file_name(name: &str) -> Option<TableKey> {
        let mut parts = name.strip_suffix(".sst")?.splitn(3, '-');
        let table_id = u64::from_str_radix(parts.next()?, 16).ok()?;
        let tail_crc = u32::from_str_radix(parts.next()?, 16).ok()?;
        let key = TableKey { table_id, tail_crc, file_len: parts.next()?.parse().ok()? };
        (key.file_name() == name).then_some(key)
    }
}

/// A table of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackupTable {
    pub key: TableKey,
    pub meta: TableMeta,
}

impl BackupTable {
    /// Reads all of a file and makes sure that it is this table, undamaged. An error is about the file that it was copied
    /// from, if there is one.
    pub fn verify(&self, fs: &dyn FileSystem, file: &Path, source: Option<&Path>) -> Result<()> {
        let report = terrace_sstable::verify(fs, file);
        let finding = table_findings(&report, Some(&self.meta)).into_iter().next();
        let found = finding.map(|finding| (finding.offset.unwrap_or(0), finding.what)).or_else(|| {
            let is_other = report.footer.is_none_or(|footer| footer.tail_crc != self.key.tail_crc);
            is_other.then(|| (self.key.file_len, "its metadata are those of another table".to_owned()))
        });
        let Some((offset, what)) = found else { return Ok(()) };
        Err(match source {
            Some(source) => {
                Error::corruption(source, offset, format!("{what} (in the copy {})", file.display()))
            }
            None => Error::corruption(file, offset, what),
        })
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackupManifest {
    pub created_micros: u64,
    pub catalog: Catalog,
    /// In the order in which the catalog names them.
    pub tables: Vec<BackupTable>,
}

impl BackupManifest {
    /// Of a catalog without a log. `key` says what its tables are.
    pub fn new(catalog: Catalog, key: impl Fn(&TableMeta) -> Result<TableKey>) -> Result<BackupManifest> {
        let metas = catalog.keyspaces.values().flat_map(|keyspace| keyspace.levels.iter().flatten());
        let tables = metas.map(|meta| Ok(BackupTable { key: key(meta)?, meta: meta.clone() }));
        let tables = tables.collect::<Result<_>>()?;
        Ok(BackupManifest { created_micros: now_micros(), catalog, tables })
    }

    /// Bytes of its tables.
    pub fn table_bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.key.file_len).sum()
    }

    /// The bytes on disk.
    pub fn encode(&self) -> Vec<u8> {
        let edit = encode(&self.catalog.snapshot());
        let mut out = Vec::with_capacity(HEADER_BYTES + edit.len() + 4 * self.tables.len() + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&(self.tables.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.created_micros.to_le_bytes());
        out.extend_from_slice(&(edit.len() as u64).to_le_bytes());
        out.extend_from_slice(&edit);
        for table in &self.tables {
            out.extend_from_slice(&table.key.tail_crc.to_le_bytes());
        }
        let crc = Checksum::new().bytes(&out).finish();
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads what [`BackupManifest::encode`] wrote and stands at `start` of `path`.
    pub fn decode(bytes: &[u8], path: &Path, start: u64) -> Result<BackupManifest> {
        let damaged = |at: usize, what: &str| Err(Error::corruption(path, start + at as u64, what));
        let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return damaged(0, "it is too short for the manifest of a backup");
        };
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes of 32"));
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes of 32"));
        if header[..8] != MAGIC {
            return damaged(0, "it does not begin as the manifest of a backup does (no magic)");
        }
        let Some((body, crc)) = bytes.split_last_chunk::<4>().filter(|(body, _)| body.len() >= HEADER_BYTES)
        else {
            return damaged(0, "it is too short for the manifest of a backup");
        };
        if Checksum::new().bytes(body).finish() != u32::from_le_bytes(*crc) {
            return damaged(0, "the checksum of the manifest is wrong");
        }
        let (version, table_count, edit_len) = (u32_at(8), u32_at(12), u64_at(24));
        if version != FORMAT_VERSION {
            let (found, supported) = (u64::from(version), u64::from(FORMAT_VERSION));
            return Err(Error::UnsupportedFormat { path: path.to_owned(), found, supported });
        }
        let body = &body[HEADER_BYTES..];
        let lists_len = u64::from(table_count) * 4;
        if edit_len.checked_add(lists_len) != Some(body.len() as u64) {
            return damaged(0, "the lengths in the manifest do not add up to its length");
        }
        let (edit, sums) = body.split_at(edit_len as usize);
        let sums: Vec<u32> =
            sums.chunks_exact(4).map(|sum| u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]])).collect();
        BackupManifest::checked(edit, &sums, u64_at(16), path, start)
    }

    /// Makes sure that an edit is one of a backup: §5.2.
    fn checked(
        edit: &[u8],
        sums: &[u32],
        created_micros: u64,
        path: &Path,
        start: u64,
    ) -> Result<BackupManifest> {
        let offset = start + HEADER_BYTES as u64;
        let damaged = |what: &str| Err(Error::corruption(path, offset, what));
        let edit = decode_edit(edit, path, offset)?;
        let is_of_backup = edit.iter().all(|change| match change {
            Change::KeyspaceDropped { .. } | Change::TableRemoved { .. } | Change::SegmentAdded { .. } => {
                false
            }
            Change::SegmentsRetired { below, .. } => *below <= 1,
            Change::LogSynced(position) => *position == Position::default(),
            _ => true,
        });
        if !is_of_backup {
            return damaged("the manifest names a log, or takes away what it has named");
        }
        let metas: Vec<TableMeta> = (edit.iter())
            .filter_map(|change| match change {
                Change::TableAdded { meta, .. } => Some(meta.clone()),
                _ => None,
            })
            .collect();
        if metas.len() != sums.len() {
            return damaged("the manifest does not name as many tables as it has checksums");
        }
        let mut catalog = Catalog::default();
        apply(&mut catalog, edit, path, offset)?;
        check_whole(&catalog, catalog.database_id, path)?;
        if catalog.last_sequence.checked_add(1) != Some(catalog.log_first_sequence) {
            return damaged("the log of the manifest does not begin behind its tables");
        }
        // In the order of the catalog, in which it is written again.
        let sums: HashMap<u64, u32> =
            metas.iter().map(|meta| meta.number).zip(sums.iter().copied()).collect();
        let of = |change: Change| match change {
            Change::TableAdded { meta, .. } => {
                let tail_crc = sums[&meta.number];
                let key = TableKey { table_id: meta.table_id, file_len: meta.file_len, tail_crc };
                Some(BackupTable { key, meta })
            }
            _ => None,
        };
        let tables: Vec<BackupTable> = catalog.snapshot().into_iter().filter_map(of).collect();
        let mut seen = HashSet::new();
        if !tables.iter().all(|table| seen.insert(table.key)) {
            return damaged("the manifest names a table twice");
        }
        Ok(BackupManifest { created_micros, catalog, tables })
    }

    /// Reads the manifest in a file.
    pub fn read(fs: &dyn FileSystem, path: &Path) -> Result<BackupManifest> {
        let file = fs.open(path, OpenMode::Read)?;
        let len = file.len()?;
        if len > MANIFEST_BYTES_MAX {
            let what = format!("{len} bytes are no manifest of a backup");
            return Err(Error::corruption(path, 0, what));
        }
        let mut bytes = vec![0; len as usize];
        read_exact_at(&*file, &mut bytes, 0)?;
        BackupManifest::decode(&bytes, path, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyspaceOptions;

    fn meta(number: u64, smallest: &str, largest: &str) -> TableMeta {
        TableMeta {
            number,
            table_id: number * 77,
            file_len: 4096,
            entries: 10,
            deletes: 1,
            smallest_sequence: 3,
            largest_sequence: 12,
            smallest_key: smallest.as_bytes().into(),
            largest_key: largest.as_bytes().into(),
        }
    }

    fn catalog(more: Vec<Change>) -> Catalog {
        let mut catalog = Catalog::new([7; 16], 99, 1 << 20, KeyspaceOptions::new());
        let mut edit = vec![
            Change::TableAdded { keyspace: 0, level: 0, meta: meta(9, "a", "z") },
            Change::TableAdded { keyspace: 0, level: 3, meta: meta(3, "m", "n") },
            Change::TableAdded { keyspace: 0, level: 3, meta: meta(4, "a", "c") },
            Change::KeyspaceFlushed { id: 0, through: 12 },
            Change::SegmentsRetired { below: 1, first_sequence: 13 },
        ];
        edit.extend(more);
        edit.into_iter().for_each(|change| catalog.apply(change).unwrap());
        catalog
    }

    fn manifest(more: Vec<Change>) -> BackupManifest {
        let key = |meta: &TableMeta| {
            let TableMeta { table_id, file_len, number, .. } = *meta;
            Ok(TableKey { table_id, file_len, tail_crc: number as u32 })
        };
        BackupManifest::new(catalog(more), key).unwrap()
    }

    fn decode(bytes: &[u8]) -> Result<BackupManifest> {
        BackupManifest::decode(bytes, Path::new("b"), 0)
    }

    #[test]
    fn a_manifest_comes_back_and_no_changed_byte_of_it() {
        let manifest = manifest(Vec::new());
        let bytes = manifest.encode();
        assert_eq!(decode(&bytes).unwrap(), manifest);
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).unwrap_err().is_corruption(), "{len}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(decode(&changed).unwrap_err().is_corruption(), "{at}");
        }
        assert!(decode(&[&bytes[..], b"more"].concat()).is_err());
    }

    fn forged(change: impl Fn(&mut Vec<u8>)) -> Result<BackupManifest> {
        let mut bytes = manifest(Vec::new()).encode();
        bytes.truncate(bytes.len() - 4);
        change(&mut bytes);
        let crc = Checksum::new().bytes(&bytes).finish();
        bytes.extend_from_slice(&crc.to_le_bytes());
        decode(&bytes)
    }

    #[test]
    fn forged_fields_are_refused() {
        assert!(forged(|_| ()).is_ok());
        let newer = forged(|bytes| bytes[8] = 2).unwrap_err();
        assert!(matches!(newer, Error::UnsupportedFormat { found: 2, supported: 1, .. }), "{newer}");
        assert!(forged(|bytes| bytes[12..16].fill(0xff)).is_err());
        assert!(forged(|bytes| bytes[24..32].fill(0xff)).is_err());
        assert!(forged(|bytes| bytes.truncate(HEADER_BYTES)).is_err());
        // One more checksum than tables.
        assert!(
            forged(|bytes| {
                bytes[12] += 1;
                bytes.extend_from_slice(&[0; 4]);
            })
            .is_err()
        );
        // Every byte of the edit: an error, or another catalog, and no panic.
        for at in HEADER_BYTES..manifest(Vec::new()).encode().len() - 4 {
            for flip in [1, 0x80, 0xff] {
                let _ = forged(|bytes| bytes[at] ^= flip);
            }
        }
    }

    /// What is written to the log of a database that is restored must not be taken for something else.
    #[test]
    fn a_log_that_begins_elsewhere_is_refused() {
        let begins_at = |first_sequence| {
            let more = vec![Change::SegmentsRetired { below: 1, first_sequence }];
            decode(&manifest(more).encode())
        };
        assert!(begins_at(13).is_ok());
        assert!(begins_at(14).unwrap_err().is_corruption());
    }

    #[test]
    fn a_log_and_the_same_table_twice_are_refused() {
        let twice = TableMeta { number: 20, ..meta(9, "a", "b") };
        for change in [
            Change::SegmentAdded { number: 1, length: 4096 },
            Change::SegmentsRetired { below: 2, first_sequence: 13 },
            Change::LogSynced(Position { segment: 1, offset: 64 }),
        ] {
            assert!(decode(&manifest(vec![change.clone()]).encode()).is_err(), "{change:?}");
        }
        let mut manifest = manifest(vec![Change::TableAdded { keyspace: 0, level: 0, meta: twice }]);
        assert!(decode(&manifest.encode()).is_ok(), "its checksum is another");
        manifest.tables[1].key.tail_crc = manifest.tables[0].key.tail_crc;
        assert!(decode(&manifest.encode()).is_err());
    }

    #[test]
    fn names_come_back() {
        let key = TableKey { table_id: 0xabc, file_len: 12_345, tail_crc: 0xdef };
        assert_eq!(key.file_name(), "0000000000000abc-00000def-12345.sst");
        assert_eq!(TableKey::parse_file_name(&key.file_name()), Some(key));
        for name in ["000001.sst", "abc-def-1.sst", "0000000000000abc-00000def-+12345.sst", "a-b-c-d.sst", ""]
        {
            assert_eq!(TableKey::parse_file_name(name), None, "{name}");
        }
    }
}
