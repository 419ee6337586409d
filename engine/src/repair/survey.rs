//! What is in the directory, and what the manifest says, as far as it can be read. Changes nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use terrace_io::{Error, FileSystem, Result};
use terrace_sstable::{parse_table_file_name, table_file_name};
use terrace_wal::{RecordKind, SegmentReader, parse_segment_file_name, segment_file_name};

use crate::catalog::{Catalog, Change};
use crate::manifest::{MANIFEST, apply, check_whole, decode_edit, unknown_segments};

/// A directory and its manifest.
pub(super) struct Survey {
    pub dir: PathBuf,
    /// The names in the directory, sorted.
    pub names: Vec<String>,
    /// `None` if there is no such file.
    pub manifest: Option<ReadManifest>,
}

/// A manifest, as far as it could be read.
pub(super) struct ReadManifest {
    pub catalog: Catalog,
    /// Edits that were read.
    pub edits: u64,
    /// Why it is not whole, or not to be believed. The catalog is then that of an earlier time, or empty.
    pub damage: Option<Error>,
    /// Tables that the edits have removed.
    pub removed_tables: HashSet<u64>,
}

impl Survey {
    /// Looks at a directory.
    ///
    /// # Errors
    /// [`Error::NotADatabase`] if there is nothing of a database in it; errors of the file system.
    pub fn new(fs: &dyn FileSystem, dir: &Path) -> Result<Survey> {
        let names = Survey::list(fs, dir)?;
        let manifest = read_manifest(fs, &dir.join(MANIFEST))?;
        Ok(Survey { dir: dir.to_owned(), names, manifest })
    }

    /// The names in a directory, sorted; [`Error::NotADatabase`] if there is nothing of a database in it.
    pub fn list(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<String>> {
        let not_a_database = |what: &str| Error::NotADatabase { path: dir.to_owned(), what: what.to_owned() };
        let mut names = match fs.read_dir(dir) {
            Err(error) if error.is_not_found() => return Err(not_a_database("there is no such directory")),
            listed => listed?,
        };
        names.sort_unstable();
        let is_data = |name: &String| {
            name == MANIFEST
                || parse_table_file_name(name).is_some()
                || parse_segment_file_name(name).is_some()
        };
        if !names.iter().any(is_data) {
            return Err(not_a_database("it holds neither a manifest nor tables nor log segments"));
        }
        Ok(names)
    }

    /// The numbers of the table files.
    pub fn table_numbers(&self) -> impl Iterator<Item = u64> {
        self.names.iter().filter_map(|name| parse_table_file_name(name))
    }

    /// The numbers of the segment files, ascending.
    pub fn segment_numbers(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> =
            self.names.iter().filter_map(|name| parse_segment_file_name(name)).collect();
        numbers.sort_unstable();
        numbers
    }

    pub fn has(&self, name: &str) -> bool {
        self.names.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
    }

    pub fn has_table(&self, number: u64) -> bool {
        self.has(&table_file_name(number))
    }

    pub fn table_path(&self, number: u64) -> PathBuf {
        self.dir.join(table_file_name(number))
    }

    pub fn segment_path(&self, number: u32) -> PathBuf {
        self.dir.join(segment_file_name(number))
    }

    /// Segments behind the last that the catalog knows that hold records: the manifest has lost its end.
    pub fn unknown_segments(&self, fs: &dyn FileSystem, catalog: &Catalog) -> Result<Vec<u32>> {
        unknown_segments(fs, &self.dir, catalog, &self.names)
    }
}

/// The table that a change adds or removes, and whether it adds it.
fn added_or_removed(change: &Change) -> Option<(u64, bool)> {
    match change {
        Change::TableAdded { meta, .. } => Some((meta.number, true)),
        Change::TableRemoved { number, .. } => Some((*number, false)),
        _ => None,
    }
}

/// What the first so many edits of a manifest, which are known to be good, add up to.
fn catalog_of(fs: &dyn FileSystem, path: &Path, edits: u64) -> Result<Catalog> {
    let (mut reader, _) = SegmentReader::open_damaged(fs, path, None)?;
    let mut catalog = Catalog::default();
    for _ in 0..edits {
        let Some(record) = reader.next()? else { break };
        let offset = u64::from(record.position.offset);
        apply(&mut catalog, decode_edit(&record.payload, path, offset)?, path, offset)?;
    }
    Ok(catalog)
}

fn read_manifest(fs: &dyn FileSystem, path: &Path) -> Result<Option<ReadManifest>> {
    let mut read =
        ReadManifest { catalog: Catalog::default(), edits: 0, damage: None, removed_tables: HashSet::new() };
    let (mut reader, damage) = match SegmentReader::open_damaged(fs, path, None) {
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error @ Error::Corruption { .. }) => {
            read.damage = Some(error);
            return Ok(Some(read));
        }
        opened => opened?,
    };
    read.damage = damage;
    let end = loop {
        let record = match reader.next() {
            Ok(Some(record)) => record,
            Ok(None) => break reader.require_end(),
            Err(error) => break Err(error),
        };
        let offset = u64::from(record.position.offset);
        if record.kind != RecordKind::VersionEdit {
            break Err(Error::corruption(path, offset, "a manifest record is not a version edit"));
        }
        let edit = match decode_edit(&record.payload, path, offset) {
            Ok(edit) => edit,
            Err(error) => break Err(error),
        };
        let tables: Vec<(u64, bool)> = edit.iter().filter_map(added_or_removed).collect();
        if let Err(error) = apply(&mut read.catalog, edit, path, offset) {
            // An edit that contradicts what came before is not half applied.
            read.catalog = catalog_of(fs, path, read.edits)?;
            break Err(error);
        }
        read.edits += 1;
        for (number, is_added) in tables {
            match is_added {
                true => drop(read.removed_tables.remove(&number)),
                false => drop(read.removed_tables.insert(number)),
            }
        }
    };
    match end {
        Err(error @ Error::Corruption { .. }) => drop(read.damage.get_or_insert(error)),
        end => end?,
    }
    if let Err(error) = check_whole(&read.catalog, reader.header().log_id, path) {
        read.damage.get_or_insert(error);
    }
    Ok(Some(read))
}
