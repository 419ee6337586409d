//! The manifest as it stands in its file at one moment, read without writing anything: by whoever is going to write to
//! the database, and by those who read while somebody else does.

use std::path::Path;

use terrace_io::{Error, FileSystem, Result};
use terrace_wal::{Position, Record, RecordKind, SegmentReader};
use xxhash_rust::xxh3::xxh3_128;

use crate::catalog::Catalog;
use crate::manifest::{MANIFEST, apply, check_whole, decode_edit};

/// What the file said when it was read.
pub(crate) struct ManifestImage {
    /// What its edits add up to.
    pub catalog: Catalog,
    /// Which of the files that have followed one another under this name it is.
    pub generation: u32,
    /// Where its records end.
    pub end: u64,
    /// How many there are.
    pub records: u64,
    /// The last of them.
    last: RecordMark,
}

/// Where a record stands, and what it says: to find out later whether it still does. A write that fails may leave its
/// record for a while, until the next one takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordMark {
    /// Where it starts.
    pub start: Position,
    payload_hash: u128,
}

impl RecordMark {
    /// Of a record that was read.
    pub fn of(record: &Record) -> RecordMark {
        RecordMark { start: record.position, payload_hash: xxh3_128(&record.payload) }
    }
}

impl ManifestImage {
    /// Reads the manifest of a database. `None` if there is no such file.
    ///
    /// # Errors
    /// [`Error::Corruption`] and [`Error::UnsupportedFormat`] if it cannot be believed. While somebody writes to it, the
    /// former may also mean that it has changed in the meantime.
    pub fn read(fs: &dyn FileSystem, dir: &Path) -> Result<Option<ManifestImage>> {
        let path = dir.join(MANIFEST);
        let mut reader = match SegmentReader::open(fs, &path) {
            Ok(reader) => reader,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut image = ManifestImage {
            catalog: Catalog::default(),
            generation: reader.header().number,
            end: 0,
            records: 0,
            last: RecordMark { start: Position::default(), payload_hash: 0 },
        };
        while let Some(record) = reader.next()? {
            let offset = u64::from(record.position.offset);
            if record.kind != RecordKind::VersionEdit {
                return Err(Error::corruption(&path, offset, "a manifest record is not a version edit"));
            }
            apply(&mut image.catalog, decode_edit(&record.payload, &path, offset)?, &path, offset)?;
            image.end = record.end.offset.into();
            image.records += 1;
            image.last = RecordMark::of(&record);
        }
        check_whole(&image.catalog, reader.header().log_id, &path)?;
        reader.require_end()?;
        Ok(Some(image))
    }

    /// Whether the file still says this and no more. Reads the last record, and looks behind it.
    pub fn is_current(&self, fs: &dyn FileSystem, dir: &Path) -> Result<bool> {
        let mut reader = match SegmentReader::open(fs, &dir.join(MANIFEST)) {
            Err(error) if error.is_not_found() => return Ok(false),
            opened => opened?,
        };
        let header = reader.header();
        if header.number != self.generation || header.log_id != self.catalog.database_id {
            return Ok(false);
        }
        reader.skip_to(self.last.start.offset.into())?;
        let last_stands = reader.next()?.is_some_and(|record| RecordMark::of(&record) == self.last);
        Ok(last_stands && reader.next()?.is_none())
    }
}
