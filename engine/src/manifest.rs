//! The manifest file: a record log of version edits (`docs/format.md` §4) and the catalog that they add up to.
//!
//! A commit is durable when it returns. It is called under the manifest's mutex by whoever changes the set of files:
//! flush, compaction, keyspace operations, log segments. When the file has grown well past what a snapshot would
//! take, it is replaced by one, by rename.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use terrace_io::{Bug, Error, FileSystem, Operation, Result};
use terrace_sstable::parse_table_file_name;
use terrace_wal::{GrowingLog, HEADER_BYTES, RecordKind, parse_segment_file_name, segment_holds_records};

use crate::catalog::{Catalog, DEFAULT_KEYSPACE, Edit, EditError, NEXT_TABLE_MAX, decode, encode};
use crate::directory::RESTORING;
use crate::manifest_image::ManifestImage;
use crate::poison::Poison;

pub(crate) const MANIFEST: &str = "MANIFEST";
pub(crate) const MANIFEST_TEMPORARY: &str = "MANIFEST.tmp";

/// The newest manifest format that this build reads; fields are the unit of change.
const FIELDS_SUPPORTED: u64 = 12;

/// A manifest is rewritten once it is this long and four times longer than right after the last rewrite.
const REWRITE_BYTES_MIN: u64 = 256 << 10;

pub(crate) struct Manifest {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    /// `None` until the first commit after an open: until then nothing is written.
    log: Option<GrowingLog>,
    generation: u32,
    /// Length right after the last rewrite.
    snapshot_bytes: u64,
    /// Whether the file holds one record, which was durable before the file got its name.
    is_snapshot: bool,
    catalog: Catalog,
    poison: Arc<Poison>,
    bytes_written: u64,
    closed: bool,
}

impl Manifest {
    /// Writes the first manifest of a database, or the next generation of one.
    pub fn create(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        catalog: Catalog,
        generation: u32,
        poison: Arc<Poison>,
    ) -> Result<Manifest> {
        let end = write_temporary(&*fs, dir, &catalog, generation)?;
        let log = put_in_place(&*fs, dir, &catalog, generation, end)?;
        let dir = dir.to_owned();
        fs.sync_dir(&dir)?;
        let snapshot_bytes = log.len();
        Ok(Manifest {
            fs,
            dir,
            log: Some(log),
            generation,
            snapshot_bytes,
            is_snapshot: true,
            catalog,
            poison,
            bytes_written: snapshot_bytes,
            closed: false,
        })
    }

    /// Reads the manifest of a database. `None` if there is no such file. Writes nothing: what a torn commit may have
    /// left behind the end is erased by the first commit, once everything else was found to be sound.
    pub fn open(fs: Arc<dyn FileSystem>, dir: &Path, poison: Arc<Poison>) -> Result<Option<Manifest>> {
        let Some(image) = ManifestImage::read(&*fs, dir)? else { return Ok(None) };
        let dir = dir.to_owned();
        let (bytes_written, closed) = (0, false);
        Ok(Some(Manifest {
            fs,
            dir,
            log: None,
            generation: image.generation,
            snapshot_bytes: image.end,
            is_snapshot: image.records == 1,
            catalog: image.catalog,
            poison,
            bytes_written,
            closed,
        }))
    }

    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Bytes that this manifest has written since it was opened.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// Makes sure that everything it says is durable, before anything is deleted because of it. What was read when it
    /// was opened may be in the page cache only: its last commit may have died before its sync, or of it.
    pub fn make_durable(&mut self) -> Result<()> {
        match self.is_snapshot {
            true => self.fs.sync_dir(&self.dir),
            false => self.rewrite(),
        }
    }

    /// Refuses commits from here on: the directory is about to be unlocked.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Records an edit durably and applies it to the catalog.
    ///
    /// After an error nothing has changed, and a full disk may be tried again. If the database is poisoned afterwards,
    /// the edit may still be found by the next recovery: the files that it names must be left where they are.
    pub fn commit(&mut self, edit: Edit) -> Result<()> {
        self.poison.check()?;
        if self.closed {
            return Err(Error::Closed);
        }
        if self.len() > REWRITE_BYTES_MIN.max(4 * self.snapshot_bytes) {
            self.try_rewrite();
            self.poison.check()?;
        }
        let len = self.len();
        self.is_snapshot = false;
        if let Err(error) = self.append(&encode(&edit)) {
            if !error.is_disk_full() || Bug::FullDiskPoisons.is_planted() {
                self.poison.set(error.clone());
            }
            return Err(error);
        }
        if let Some(Err(error)) = self.log.as_ref().map(GrowingLog::sync) {
            let cause = self.poison.set(error);
            return Err(Error::OutcomeUnknown { cause });
        }
        self.bytes_written += self.len() - len;
        let had_log = !self.catalog.segments.is_empty();
        for change in edit {
            self.catalog.apply(change).expect("an edit made from the catalog does not contradict it");
        }
        if had_log && self.catalog.segments.is_empty() {
            // A log that holds records shows if the manifest has lost its end. Without one, a single record does: it
            // is whole or it is not. This edit is durable whatever comes of that, and a failure poisons.
            self.try_rewrite();
        }
        Ok(())
    }

    /// Where the records end.
    fn len(&self) -> u64 {
        self.log.as_ref().map_or(self.snapshot_bytes, GrowingLog::len)
    }

    fn append(&mut self, payload: &[u8]) -> Result<()> {
        let log = match &mut self.log {
            Some(log) => log,
            none => {
                let (path, id) = (self.dir.join(MANIFEST), self.catalog.database_id);
                let end = self.snapshot_bytes;
                none.insert(GrowingLog::open_for_append(&*self.fs, &path, id, self.generation, end)?)
            }
        };
        log.append(RecordKind::VersionEdit, payload)
    }

    fn try_rewrite(&mut self) {
        if let Err(error) = self.rewrite() {
            // Unless that has poisoned, the old file is still the manifest and still good: a rewrite can wait.
            tracing::warn!(%error, "the manifest could not be rewritten");
        }
    }

    /// Replaces the file by one with a single record. An error leaves the old one in use, or poisons.
    fn rewrite(&mut self) -> Result<()> {
        let Some(generation) = self.generation.checked_add(1) else {
            return Err(Error::invalid("the manifest has used up its 4 billion generations"));
        };
        let end = write_temporary(&*self.fs, &self.dir, &self.catalog, generation)?;
        // Both files say the same until the next commit, which must not go to one whose name is or could be lost.
        let replaced = put_in_place(&*self.fs, &self.dir, &self.catalog, generation, end)
            .and_then(|log| self.fs.sync_dir(&self.dir).map(|()| log));
        match replaced {
            Ok(log) => {
                self.generation = generation;
                self.snapshot_bytes = end;
                self.is_snapshot = true;
                self.bytes_written += end;
                self.log = Some(log);
                Ok(())
            }
            // Nothing was renamed.
            Err(error @ Error::Io { operation: Operation::Rename, .. }) if error.is_disk_full() => Err(error),
            Err(error) => {
                let cause = self.poison.set(error);
                Err(Error::Poisoned { cause })
            }
        }
    }
}

/// Whether a file with this name is half made, and so nothing but a leftover.
pub(crate) fn is_temporary(name: &str) -> bool {
    [MANIFEST_TEMPORARY, RESTORING].contains(&name)
        || name.strip_suffix(".tmp").is_some_and(|table| parse_table_file_name(table).is_some())
}

/// Log segments behind the last that the catalog knows, in a directory with these names, that hold records: then the
/// manifest has lost its end. Without records, such a segment is a leftover of one that was being made.
pub(crate) fn unknown_segments(
    fs: &dyn FileSystem,
    dir: &Path,
    catalog: &Catalog,
    names: &[String],
) -> Result<Vec<u32>> {
    let mut unknown: Vec<u32> = names.iter().filter_map(|name| parse_segment_file_name(name)).collect();
    unknown.retain(|number| *number > catalog.last_segment);
    unknown.sort_unstable();
    let mut found = Vec::new();
    for number in unknown {
        if segment_holds_records(fs, dir, catalog.database_id, number)? {
            found.push(number);
        }
    }
    Ok(found)
}

/// Refuses a manifest that has lost its end: see [`unknown_segments`].
pub(crate) fn require_whole_log(
    fs: &dyn FileSystem,
    dir: &Path,
    catalog: &Catalog,
    names: &[String],
) -> Result<()> {
    match unknown_segments(fs, dir, catalog, names)?.first() {
        None => Ok(()),
        Some(number) => {
            let what = format!(
                "the manifest does not know log segment {number}, which holds records: it has lost its end"
            );
            Err(Error::corruption(dir.join(MANIFEST), 0, what))
        }
    }
}

/// Writes a catalog as a new manifest, durably, but not yet under its name. Says where its records end.
fn write_temporary(fs: &dyn FileSystem, dir: &Path, catalog: &Catalog, generation: u32) -> Result<u64> {
    let temporary = dir.join(MANIFEST_TEMPORARY);
    match fs.remove_file(&temporary) {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    let written = GrowingLog::create(fs, &temporary, catalog.database_id, generation).and_then(|mut log| {
        log.append(RecordKind::VersionEdit, &encode(&catalog.snapshot()))?;
        log.sync()?;
        Ok(log.len())
    });
    if written.is_err() {
        // Best effort: it is removed before the next attempt anyway.
        let _ = fs.remove_file(&temporary);
    }
    written
}

/// Renames a new manifest into place. The caller syncs the directory. After an error either one may be there.
fn put_in_place(
    fs: &dyn FileSystem,
    dir: &Path,
    catalog: &Catalog,
    generation: u32,
    end: u64,
) -> Result<GrowingLog> {
    let path = dir.join(MANIFEST);
    fs.rename(&dir.join(MANIFEST_TEMPORARY), &path)?;
    GrowingLog::open_for_append(fs, &path, catalog.database_id, generation, end)
}

/// Applies an edit, which stands at `offset` of `path`, to a catalog. After an error, a part of it may be applied.
pub(crate) fn apply(catalog: &mut Catalog, edit: Edit, path: &Path, offset: u64) -> Result<()> {
    let applied = edit.into_iter().try_for_each(|change| catalog.apply(change));
    applied.map_err(|error| refusal(error, path, offset))
}

/// The edit in a record, which stands at `offset` of `path`.
pub(crate) fn decode_edit(payload: &[u8], path: &Path, offset: u64) -> Result<Edit> {
    decode(payload).map_err(|error| refusal(error, path, offset))
}

/// What every manifest says once it is read, whatever else it says: whose it is, which is also in the header of its
/// file, that there is the default keyspace, and that there are numbers left for tables.
pub(crate) fn check_whole(catalog: &Catalog, log_id: [u8; 16], path: &Path) -> Result<()> {
    if catalog.database_id != log_id || catalog.database_id == [0; 16] {
        let what = "the manifest does not begin with the database's identity";
        return Err(Error::corruption(path, HEADER_BYTES, what));
    }
    if catalog.keyspaces.get(&0).is_none_or(|keyspace| keyspace.name != DEFAULT_KEYSPACE) {
        return Err(Error::corruption(path, 0, "the default keyspace is missing"));
    }
    if catalog.next_table > NEXT_TABLE_MAX {
        let next = catalog.next_table;
        let what = format!("the next table's number is {next}, but no database comes that far");
        return Err(Error::corruption(path, 0, what));
    }
    Ok(())
}

fn refusal(error: EditError, path: &Path, offset: u64) -> Error {
    match error {
        EditError::UnknownField(field) => Error::UnsupportedFormat {
            path: path.to_owned(),
            found: u64::from(field),
            supported: FIELDS_SUPPORTED,
        },
        EditError::Damaged(what) => Error::corruption(path, offset, what),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use terrace_io::{FaultFileSystem, FaultRule, MemoryFileSystem};

    use super::*;
    use crate::KeyspaceOptions;
    use crate::catalog::Change;

    const DIR: &str = "/db";

    fn new_catalog(id: [u8; 16]) -> Catalog {
        Catalog::new(id, 1, 1 << 20, KeyspaceOptions::new())
    }

    fn new_fs() -> MemoryFileSystem {
        let fs = MemoryFileSystem::new();
        fs.create_dir_all(Path::new(DIR)).unwrap();
        fs
    }

    fn create(fs: &MemoryFileSystem) -> Manifest {
        Manifest::create(Arc::new(fs.clone()), Path::new(DIR), new_catalog([7; 16]), 1, Arc::default())
            .unwrap()
    }

    fn open(fs: &MemoryFileSystem) -> Result<Option<Manifest>> {
        Manifest::open(Arc::new(fs.clone()), Path::new(DIR), Arc::default())
    }

    fn keyspace(id: u32) -> Edit {
        let name = format!("{id:0>200}");
        vec![Change::KeyspaceAdded { id, name, options: KeyspaceOptions::new() }]
    }

    #[test]
    fn what_is_committed_is_found_again() {
        let fs = new_fs();
        assert!(open(&fs).unwrap().is_none());
        let mut manifest = create(&fs);
        for id in 1..20 {
            manifest.commit(keyspace(id)).unwrap();
        }
        let mut again = open(&fs).unwrap().unwrap();
        assert_eq!(again.catalog(), manifest.catalog());
        again.close();
        assert!(matches!(again.commit(keyspace(20)), Err(Error::Closed)));
        assert_eq!(open(&fs).unwrap().unwrap().catalog(), manifest.catalog());
    }

    /// The identity stands in the header and in the first record, and is not zero.
    #[test]
    fn another_databases_records_are_refused() {
        for (header, record, is_right) in [
            ([7; 16], [7; 16], true),
            ([8; 16], [7; 16], false),
            ([7; 16], [0; 16], false),
            ([0; 16], [0; 16], false),
        ] {
            let fs = new_fs();
            let mut log = GrowingLog::create(&fs, &Path::new(DIR).join(MANIFEST), header, 1).unwrap();
            log.append(RecordKind::VersionEdit, &encode(&new_catalog(record).snapshot())).unwrap();
            assert_eq!(open(&fs).is_ok(), is_right, "{header:?} {record:?}");
        }
    }

    /// A file of one record was durable before it had its name; any other is written anew before it is relied on.
    #[test]
    fn what_may_not_be_durable_is_written_anew() {
        let fs = new_fs();
        create(&fs).commit(keyspace(1)).unwrap();
        for (generation, changes_files) in [(2, true), (2, false)] {
            let before = fs.mutations();
            let mut manifest = open(&fs).unwrap().unwrap();
            manifest.make_durable().unwrap();
            assert_eq!(manifest.generation, generation);
            assert_eq!(fs.mutations() - before > 1, changes_files, "a sync of the directory is all it takes");
        }
    }

    /// So that the file stays within four times of what it has to say, or small.
    #[test]
    fn a_long_manifest_is_written_anew() {
        let fs = new_fs();
        for keyspaces in [0, 1000] {
            let mut manifest = create(&fs);
            (1..=keyspaces).for_each(|id| manifest.commit(keyspace(id)).unwrap());
            manifest.rewrite().unwrap();
            let limit = if keyspaces == 0 { REWRITE_BYTES_MIN } else { 4 * manifest.len() };
            assert!(keyspaces == 0 || limit > REWRITE_BYTES_MIN);
            let mut written = manifest.bytes_written();
            let (generation, mut longest) = (manifest.generation, 0);
            while manifest.generation == generation {
                longest = manifest.len();
                written = manifest.bytes_written();
                manifest.commit(vec![Change::NextTable(1)]).unwrap();
                assert!(longest < 2 * limit, "it is not written anew");
            }
            assert!((limit + 1..limit + 64).contains(&longest), "{longest}, not {limit}");
            // The new file is its header, a record of everything, and one of the last edit.
            assert_eq!(manifest.bytes_written() - written, manifest.len());
            fs.remove_file(&Path::new(DIR).join(MANIFEST)).unwrap();
        }
    }

    /// A disk that is full has renamed nothing. After any other error, nobody knows which file has the name.
    #[test]
    fn only_a_full_disk_leaves_the_old_file_in_use() {
        for (rule, is_full) in [
            (FaultRule::on(Operation::Rename).error(ErrorKind::StorageFull), true),
            (FaultRule::on(Operation::Rename), false),
        ] {
            let memory = new_fs();
            create(&memory);
            let fs = FaultFileSystem::new(Arc::new(memory.clone()));
            let poison = Arc::new(Poison::default());
            let mut manifest =
                Manifest::open(Arc::new(fs.clone()), Path::new(DIR), poison.clone()).unwrap().unwrap();
            manifest.commit(keyspace(1)).unwrap();
            fs.add(rule);
            let error = manifest.rewrite().unwrap_err();
            assert_eq!(error.is_disk_full(), is_full, "{error}");
            assert_eq!(poison.check().is_ok(), is_full);
            assert_eq!(manifest.commit(keyspace(2)).is_ok(), is_full);
            fs.clear();
            assert_eq!(manifest.rewrite().is_ok() && manifest.commit(keyspace(3)).is_ok(), is_full);
            assert_eq!(open(&memory).unwrap().unwrap().catalog(), manifest.catalog());
        }
    }

    /// What an earlier attempt has left goes first, or nothing is done.
    #[test]
    fn a_leftover_that_cannot_be_removed_is_told() {
        let memory = new_fs();
        create(&memory);
        let leftover = Path::new(DIR).join(MANIFEST_TEMPORARY);
        let fs = FaultFileSystem::new(Arc::new(memory.clone()));
        let mut manifest =
            Manifest::open(Arc::new(fs.clone()), Path::new(DIR), Arc::default()).unwrap().unwrap();
        memory.open(&leftover, terrace_io::OpenMode::CreateNew).unwrap();
        fs.add(FaultRule::on(Operation::Remove));
        let error = manifest.rewrite().unwrap_err();
        assert!(matches!(&error, Error::Io { operation: Operation::Remove, path, .. } if *path == leftover));
        fs.clear();
        manifest.rewrite().unwrap();
    }

    #[test]
    fn bytes_written_are_those_of_the_records() {
        let mut manifest = create(&new_fs());
        let created = manifest.bytes_written();
        assert_eq!(created, manifest.len());
        (1..10).for_each(|id| manifest.commit(keyspace(id)).unwrap());
        assert!(manifest.bytes_written() > created + 9 * 200);
        assert_eq!(manifest.bytes_written(), manifest.len());
    }
}
