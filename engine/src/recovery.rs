//! Opening a database: finding out what is there, and bringing it back to the state that its history ended in.
//!
//! Recovery restores a prefix of the history, whole batches only, that contains every synced write. What it replays
//! from the log may be in the page cache only, so it is made durable before anything new is accepted: written to
//! tables, recorded in one edit that also retires the old segments. A crash anywhere in between finds the same log
//! again. Nothing is deleted before that edit is durable.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use terrace_io::{Bug, Error, FileSystem, Result};
use terrace_sstable::{
    BlockCache, Cause, Table, TableContext, TableMeta, parse_table_file_name, table_file_name,
};
use terrace_wal::{LogReader, Position, parse_segment_file_name};

use crate::batch::Operation;
use crate::catalog::{Catalog, CatalogKeyspace, Change, NEXT_TABLE_MAX};
use crate::commit::{Committer, Writer};
use crate::core::{Core, Keyspaces};
use crate::counters::Counters;
use crate::current::Visible;
use crate::directory;
use crate::flush::write_memtables;
use crate::keyspace::KeyspaceInner;
use crate::log::Log;
use crate::log_keeper::{self, LogKeeper};
use crate::manifest::{Manifest, is_temporary, require_whole_log};
use crate::memory::Memory;
use crate::options::Options;
use crate::poison::Poison;
use crate::replay::History;
use crate::scrub;
use crate::service::{self, Service};
use crate::snapshot::Snapshots;
use crate::swap::Swap;
use crate::throttle::Throttle;
use crate::version::{State, Version};
use crate::work::{self, Work};

/// The default of [`Options::max_value_bytes`].
pub(crate) const MAX_VALUE_BYTES: u64 = 64 << 20;

/// Opens, recovers and starts a database.
pub(crate) fn open(dir: &Path, options: &Options) -> Result<Arc<Core>> {
    let fs = options.file_system.clone();
    directory::prepare(&*fs, dir, options.create_if_missing)?;
    let lock = match fs.lock_dir(dir) {
        Err(Error::Locked { .. }) if Bug::LockIgnored.is_planted() => None,
        lock => Some(lock?),
    };
    // Looked at again: another process may have had it until now.
    let names = directory::prepare(&*fs, dir, options.create_if_missing)?;

    let poison = Arc::new(Poison::default());
    let manifest = match Manifest::open(fs.clone(), dir, poison.clone())? {
        Some(manifest) => manifest,
        None => {
            let max_value_bytes = options.max_value_bytes.unwrap_or(MAX_VALUE_BYTES);
            let defaults = options.keyspace_defaults.clone();
            let catalog = Catalog::new(random_id(), now_micros(), max_value_bytes, defaults);
            Manifest::create(fs.clone(), dir, catalog, 1, poison.clone())?
        }
    };
    check_options(manifest.catalog(), options)?;

    let (service, tasks) = Service::new(fs.clone());
    let (log_keeper, log_tasks) = LogKeeper::new();
    let mut core = build_core(fs, dir, options, manifest, poison, (service, log_keeper), &names)?;
    let span = tracing::info_span!("recovery", dir = %dir.display());
    span.in_scope(|| {
        replay(&core, &names)?;
        core.manifest.lock().make_durable()?;
        persist_options(&core)?;
        remove_leftovers(&core, &names);
        Ok::<_, Error>(())
    })?;
    core.lock = Mutex::new(lock);

    core.judge_memory();
    let core = Arc::new(core);
    core.work_changed();
    let mut threads = Vec::new();
    let mut spawn = |name: &str, run: Box<dyn FnOnce(&Core) + Send>| {
        let shared = core.clone();
        let run = move || {
            let _alarm = Alarm(&shared);
            run(&shared);
        };
        let thread = std::thread::Builder::new().name(format!("terrace-{name}")).spawn(run);
        threads.push(thread.map_err(|error| Error::io(dir, terrace_io::Operation::Open, error))?);
        Ok(())
    };
    let started = (|| {
        spawn("flush", Box::new(work::flush_worker))?;
        for _ in 0..options.compaction_threads {
            spawn("compact", Box::new(work::compaction_worker))?;
        }
        spawn("log", Box::new(move |core| log_keeper::run(core, &log_tasks)))?;
        if let Some(interval) = options.scrub_interval {
            spawn("scrub", Box::new(move |core| scrub::run(core, interval)))?;
        }
        spawn("service", Box::new(move |core| service::run(core, &tasks)))
    })();
    if let Err(error) = started {
        core.stop();
        return Err(error);
    }
    *core.threads.lock() = threads;
    Ok(core)
}

/// Poisons the database if its thread panics, so that nobody waits for work that will not be done.
struct Alarm<'a>(&'a Core);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0
                .poison
                .set(Error::invalid("a background thread of the database has panicked: this is a bug"));
            self.0.work.changed.notify_all();
        }
    }
}

/// Records options that may change and have.
fn persist_options(core: &Core) -> Result<()> {
    let mut manifest = core.manifest.lock();
    let catalog = manifest.catalog();
    if core.max_value_bytes == catalog.max_value_bytes {
        return Ok(());
    }
    let id = catalog.database_id;
    let created_micros = catalog.created_micros;
    manifest.commit(vec![Change::Database { id, created_micros, max_value_bytes: core.max_value_bytes }])
}

fn check_options(catalog: &Catalog, options: &Options) -> Result<()> {
    match options.max_value_bytes {
        Some(wanted) if wanted < catalog.max_value_bytes => Err(Error::invalid(format!(
            "the database was created with max_value_bytes = {}; it cannot be opened with {wanted}",
            catalog.max_value_bytes
        ))),
        _ => Ok(()),
    }
}

fn build_core(
    fs: Arc<dyn FileSystem>,
    dir: &Path,
    options: &Options,
    manifest: Manifest,
    poison: Arc<Poison>,
    (service, log_keeper): (Service, LogKeeper),
    names: &[String],
) -> Result<Core> {
    static INSTANCES: AtomicU64 = AtomicU64::new(1);
    let instance = INSTANCES.fetch_add(1, Ordering::Relaxed);
    let mut tables = TableContext::new(fs.clone(), dir);
    tables.reclaim = Some(Arc::new(service.clone()));
    tables.point_reads = options.point_reads.into();
    tables.advice = options.advice.into();
    if options.block_cache_bytes > 0 {
        tables.cache = Some(Arc::new(BlockCache::new(options.block_cache_bytes)));
    }
    let tables = Arc::new(tables);

    let catalog = manifest.catalog();
    let present: HashSet<&str> = names.iter().map(String::as_str).collect();
    let metas = catalog.keyspaces.values().flat_map(|keyspace| keyspace.levels.iter().flatten());
    let missing = metas.map(|meta| table_file_name(meta.number)).filter(|name| !present.contains(&**name));
    let missing_tables: Vec<PathBuf> = missing.map(|name| dir.join(name)).collect();
    for path in &missing_tables {
        tracing::error!(path = %path.display(), "a table is missing: reads of its keys will fail");
    }
    let open_keyspace = |(&id, known): (&u32, &CatalogKeyspace)| {
        let version = Version::from_levels(&known.levels, |meta| Table::new(tables.clone(), meta.clone()));
        let state = State::new(version, options.one_memtable_bytes());
        let inner = KeyspaceInner::new(id, known.name.clone(), known.options.clone(), instance, state);
        (id, Arc::new(inner))
    };
    let keyspaces: Keyspaces = catalog.keyspaces.iter().map(open_keyspace).collect();
    // Leftovers, also half-written ones, are only removed once recovery has succeeded: it must not meet them.
    let number = |name: &String| parse_table_file_name(name.strip_suffix(".tmp").unwrap_or(name));
    // A file with a number that no table can have come to is nobody's, and is removed with the others.
    let on_disk =
        names.iter().filter_map(number).filter(|number| *number < NEXT_TABLE_MAX).max().unwrap_or(0);
    let next_table = catalog.next_table.max(on_disk.saturating_add(1));
    let (database_id, last_sequence) = (catalog.database_id, catalog.last_sequence);
    let max_value_bytes = options.max_value_bytes.unwrap_or(0).max(catalog.max_value_bytes);

    let manifest = Arc::new(Mutex::new(manifest));
    let (segment_bytes_max, spares_max) = (options.segment_bytes_max, options.spare_segments());
    let log =
        Log::new(fs.clone(), dir.to_owned(), segment_bytes_max, spares_max, manifest.clone(), poison.clone());
    Ok(Core {
        fs,
        dir: dir.to_owned(),
        options: options.clone(),
        instance,
        database_id,
        max_value_bytes,
        poison,
        manifest,
        log,
        committer: Committer::new(Writer::new(last_sequence)),
        visible: Visible::new(last_sequence),
        keyspaces: Swap::new(keyspaces),
        snapshots: Snapshots::default(),
        tables,
        memory: Memory::new(options),
        next_table: AtomicU64::new(next_table),
        work: Work::default(),
        throttle: Throttle::default(),
        service,
        log_keeper,
        scrubber: Arc::default(),
        counters: Counters::default(),
        missing_tables,
        obsolete: Mutex::default(),
        stopping: AtomicBool::new(false),
        closed: AtomicBool::new(false),
        closing: Mutex::default(),
        threads: Mutex::default(),
        lock: Mutex::new(None),
        opened: Instant::now(),
    })
}

/// Brings back what the log holds beyond the tables.
fn replay(core: &Core, names: &[String]) -> Result<()> {
    let catalog = core.manifest.lock().catalog().clone();
    require_whole_log(&*core.fs, &core.dir, &catalog, names)?;
    if catalog.segments.is_empty() {
        return Ok(());
    }
    let segments: Vec<(u32, u64)> =
        catalog.segments.iter().map(|(&number, &length)| (number, length)).collect();
    let mut reader = LogReader::new(&*core.fs, &core.dir, catalog.database_id, &segments, catalog.log_synced);
    let mut replay = Replay { core, catalog: &catalog, last_sequence: None, tables: BTreeMap::new() };
    let outcome = replay.run(&mut reader);
    if outcome.is_err() && core.poison.cause().is_none() {
        // Refused, so nothing may have changed.
        replay.tables.values().for_each(|tables| core.remove_files(tables));
    }
    outcome
}

struct Replay<'a> {
    core: &'a Core,
    catalog: &'a Catalog,
    /// The last sequence number that was read; `None` before the first record.
    last_sequence: Option<u64>,
    /// Tables written so far, by keyspace, oldest first.
    tables: BTreeMap<u32, Vec<TableMeta>>,
}

impl Replay<'_> {
    fn run(&mut self, reader: &mut LogReader<'_>) -> Result<()> {
        let mut history = History::new(&self.core.dir, self.catalog);
        let mut end = reader.last_good_end();
        while let Some(record) = reader.next()? {
            let Some(batch) = history.accept(&record)? else { break };
            let taken = if Bug::BatchTorn.is_planted() { 1 } else { batch.operations.len() };
            for (sequence, operation) in (batch.first..).zip(&batch.operations[..taken]) {
                self.apply(sequence, operation, batch.segment)?;
            }
            self.last_sequence = Some(history.next_sequence() - 1);
            end = record.end;
        }
        // Either this is the end, or something behind it proves that acknowledged bytes were lost.
        reader.require_not_synced_beyond(end)?;
        self.finish(end)
    }

    fn apply(&mut self, sequence: u64, operation: &Operation<'_>, segment: u32) -> Result<()> {
        let keyspaces = self.core.keyspaces.load();
        // A keyspace without an entry was dropped: ids are not used again.
        let Some(keyspace) = keyspaces.get(&operation.keyspace_id) else { return Ok(()) };
        if sequence <= self.catalog.keyspaces[&operation.keyspace_id].flushed_through {
            return Ok(());
        }
        let memtable = keyspace.peek().memtable.clone();
        memtable.insert(operation.pair, operation.key_len, sequence, operation.kind, segment);
        // As much as a flush writes, in one memtable: nobody waits for an insert here.
        if memtable.heap_bytes() >= self.core.options.memtable_bytes {
            self.write_tables(keyspace)?;
        }
        Ok(())
    }

    /// Writes what was replayed of a keyspace to tables, and starts a new memtable.
    fn write_tables(&mut self, keyspace: &KeyspaceInner) -> Result<()> {
        let memtable = keyspace.peek().memtable.clone();
        if memtable.is_empty() {
            return Ok(());
        }
        let tables = write_memtables(self.core, keyspace, &[memtable], Cause::Recovery, &|| false)?;
        self.tables.entry(keyspace.id).or_default().extend(tables);
        keyspace.replace(|state| {
            let bytes = self.core.options.one_memtable_bytes();
            (State::new(Version::clone(&state.version), bytes), ())
        });
        Ok(())
    }

    /// Records the outcome, durably, and shows it.
    fn finish(&mut self, end: Position) -> Result<()> {
        let core = self.core;
        if Bug::ReplayedNotDurable.is_planted() && self.tables.is_empty() {
            let last_sequence = self.last_sequence.unwrap_or(0).max(self.catalog.last_sequence);
            core.visible.publish(last_sequence);
            core.committer.lock().last_sequence = last_sequence;
            return Ok(());
        }
        let keyspaces = core.keyspaces.load_full();
        keyspaces.values().try_for_each(|keyspace| self.write_tables(keyspace))?;
        let replayed = if Bug::SequenceReused.is_planted() { None } else { self.last_sequence };
        let last_sequence = replayed.unwrap_or(0).max(self.catalog.last_sequence);
        let mut edit = Vec::new();
        for (&keyspace, metas) in &self.tables {
            edit.extend(metas.iter().map(|meta| Change::TableAdded {
                keyspace,
                level: 0,
                meta: meta.clone(),
            }));
        }
        edit.extend(keyspaces.keys().map(|&id| Change::KeyspaceFlushed { id, through: last_sequence }));
        edit.push(Change::NextTable(core.peek_table_number()));
        edit.push(Change::LastSequence(last_sequence));
        edit.push(Change::SegmentsRetired {
            below: self.catalog.last_segment + 1,
            first_sequence: last_sequence + 1,
        });
        let mut manifest = core.manifest.lock();
        // A record says that those before it are durable, so they must be before the next one is written.
        manifest.make_durable()?;
        manifest.commit(edit)?;
        drop(manifest);

        for (id, metas) in std::mem::take(&mut self.tables) {
            let added = metas.into_iter().map(|meta| (0, Table::new(core.tables.clone(), meta))).collect();
            keyspaces[&id].replace(|state| {
                (State::new(state.version.with(&[], added), core.options.one_memtable_bytes()), ())
            });
        }
        core.visible.publish(last_sequence);
        core.committer.lock().last_sequence = last_sequence;
        tracing::info!(last_sequence, %end, "the log was replayed");
        Ok(())
    }
}

/// Removes the files that the manifest does not name, best effort.
fn remove_leftovers(core: &Core, names: &[String]) {
    let catalog = core.manifest.lock().catalog().clone();
    for name in names {
        let leftover = if let Some(number) = parse_table_file_name(name) {
            // While tables are missing, those that nobody knows may be what is left of their contents.
            !catalog.holds_table(number) && core.missing_tables.is_empty()
        } else if let Some(number) = parse_segment_file_name(name) {
            !catalog.segments.contains_key(&number)
        } else {
            is_temporary(name)
        };
        if !leftover {
            continue;
        }
        tracing::debug!(name, "a leftover of an earlier run is removed");
        if let Err(error) = core.fs.remove_file(&core.dir.join(name)) {
            tracing::warn!(%error, "a leftover of an earlier run stays");
        }
    }
}

/// A number that no other database has.
pub(crate) fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    for half in id.chunks_mut(8) {
        // The standard library seeds each `RandomState` from the operating system.
        half.copy_from_slice(&RandomState::new().build_hasher().finish().to_le_bytes());
    }
    id
}

pub(crate) fn now_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use terrace_io::{FaultFileSystem, FaultRule, MemoryFileSystem, Operation};
    use terrace_sstable::SEQUENCE_MAX;

    use super::*;
    use crate::VerifyOptions;

    /// A new database whose manifest says more.
    fn database_with(edit: Vec<Change>) -> Options {
        let fs: Arc<dyn FileSystem> = Arc::new(MemoryFileSystem::new());
        let options = Options::new().file_system(fs.clone());
        options.clone().open("/db").unwrap().close().unwrap();
        let mut manifest = Manifest::open(fs, Path::new("/db"), Arc::default()).unwrap().unwrap();
        manifest.commit(edit).unwrap();
        options
    }

    /// Whether a database opens; if not, its manifest is at fault, and `verify` says the same.
    fn opens(options: &Options) -> bool {
        let verify = VerifyOptions::new().file_system(options.file_system.clone());
        let report = crate::verify("/db", &verify).unwrap();
        let Err(error) = options.clone().open("/db") else {
            assert!(report.is_ok(), "{report:?}");
            return true;
        };
        assert_eq!(error.path(), Some(Path::new("/db/MANIFEST")), "{error}");
        let found = report.findings.iter().any(|finding| error.to_string().ends_with(&finding.what));
        assert!(found, "{error} is not in {report:?}");
        false
    }

    #[test]
    fn a_new_database_has_a_name_and_a_date_of_its_own() {
        let before = now_micros();
        let catalogs = [(); 2].map(|()| {
            let fs: Arc<dyn FileSystem> = Arc::new(MemoryFileSystem::new());
            Options::new().file_system(fs.clone()).open("/db").unwrap().close().unwrap();
            Manifest::open(fs, Path::new("/db"), Arc::default()).unwrap().unwrap().catalog().clone()
        });
        assert_ne!(catalogs[0].database_id, catalogs[1].database_id);
        // 2020, in microseconds.
        assert!(before > 1_577_836_800_000_000);
        for catalog in catalogs {
            assert!((before..=now_micros()).contains(&catalog.created_micros));
        }
    }

    /// A log of any length is replayed in the memory of a flush, and makes as few tables as that allows.
    #[test]
    fn a_long_log_is_replayed_in_parts() {
        let fs = MemoryFileSystem::new();
        let options = |fs: &MemoryFileSystem| Options::new().file_system(Arc::new(fs.clone()));
        let db = options(&fs).open("/db").unwrap();
        for index in 0..400 {
            db.put(format!("{index:03}"), [b'x'; 1000]).unwrap();
        }
        for (memtable_bytes, tables) in [(64 << 10, 5..=20), (64 << 20, 1..=1)] {
            let db = options(&fs.process_kill_clone()).memtable_bytes(memtable_bytes).l0_trigger(100);
            let db = db.open("/db").unwrap();
            let level0 = db.metrics().levels[0].tables;
            assert!(tables.contains(&level0), "{level0} tables of {memtable_bytes} bytes");
            assert_eq!(db.iter().unwrap().count(), 400);
        }
    }

    /// A manifest whose sync has failed may name the tables of the replay for all that: they must stay.
    #[test]
    fn tables_of_a_replay_stay_if_the_manifest_may_name_them() {
        let memory = MemoryFileSystem::new();
        let options = |fs: Arc<dyn FileSystem>| Options::new().file_system(fs);
        let db = options(Arc::new(memory.clone())).open("/db").unwrap();
        for index in 0..400 {
            db.put(format!("{index:03}"), [b'x'; 1000]).unwrap();
        }
        let mut refused = 0;
        for skip in 0..20 {
            let killed = memory.process_kill_clone();
            let faults = FaultFileSystem::new(Arc::new(killed.clone()));
            faults.add(FaultRule::on(Operation::Sync).path("MANIFEST").skip(skip));
            let replayed = options(Arc::new(faults)).memtable_bytes(64 << 10).open("/db");
            refused += u32::from(replayed.is_err());
            drop(replayed);
            let db = options(Arc::new(killed)).open("/db").unwrap();
            assert_eq!(db.iter().unwrap().map(Result::unwrap).count(), 400, "after {skip} syncs");
        }
        assert!(
            (3..20).contains(&refused),
            "those of a new manifest and of the commit, and no more: {refused}"
        );
    }

    /// What is half made goes, and what is not ours stays.
    #[test]
    fn leftovers_are_removed_by_their_names() {
        let fs = MemoryFileSystem::new();
        let options = Options::new().file_system(Arc::new(fs.clone()));
        let db = options.clone().open("/db").unwrap();
        db.put("key", "value").unwrap();
        db.close().unwrap();
        let before = fs.read_dir(Path::new("/db")).unwrap();
        let leftovers = ["MANIFEST.tmp", "000099.sst.tmp", "000099.sst", "000099.log"];
        let others = ["notes.tmp", "99.sst.tmp", "notes"];
        for name in leftovers.iter().chain(&others) {
            fs.open(&Path::new("/db").join(name), terrace_io::OpenMode::CreateNew).unwrap();
        }
        let db = options.open("/db").unwrap();
        assert_eq!(db.get("key").unwrap().as_deref(), Some(&b"value"[..]));
        db.close().unwrap();
        let mut after = fs.read_dir(Path::new("/db")).unwrap();
        after.retain(|name| !others.contains(&&**name));
        assert_eq!(after, before);
        assert_eq!(fs.read_dir(Path::new("/db")).unwrap().len(), before.len() + others.len());
    }

    /// A database that has used up its numbers is none that was ever written.
    #[test]
    fn a_manifest_with_a_huge_next_table_number_is_damaged() {
        for (next, is_right) in
            [(NEXT_TABLE_MAX, true), (NEXT_TABLE_MAX + 1, false), (NEXT_TABLE_MAX + 2, false)]
        {
            let options = database_with(vec![Change::NextTable(next)]);
            assert_eq!(opens(&options), is_right, "{next}");
            if is_right {
                let db = options.open("/db").unwrap();
                db.put("key", "value").unwrap();
                db.close().unwrap();
            }
        }
    }

    #[test]
    fn a_manifest_without_the_default_keyspace_is_damaged() {
        let dropped = Change::KeyspaceDropped { id: 0 };
        let renamed = Change::KeyspaceAdded {
            id: 0,
            name: "other".to_owned(),
            options: crate::KeyspaceOptions::default(),
        };
        assert!(!opens(&database_with(vec![dropped.clone()])));
        assert!(!opens(&database_with(vec![dropped, renamed])));
    }

    /// Sequence numbers end well before they overflow: writes are refused then, and reads are not.
    #[test]
    fn the_last_sequence_numbers_are_never_given_out() {
        let last = SEQUENCE_MAX - (1 << 40);
        for (before, writes) in [(last - 1, 2), (last, 1), (last + 1, 0), (last + 2, 0), (SEQUENCE_MAX, 0)] {
            let options = database_with(vec![Change::LastSequence(before)]);
            let db = options.clone().open("/db").unwrap();
            let written = (0..5).take_while(|index: &u8| db.put([*index], "value").is_ok()).count();
            assert_eq!(written, writes, "from {before}");
            assert_eq!(db.iter().unwrap().count(), writes);
            db.close().unwrap();
            assert_eq!(options.open("/db").unwrap().iter().unwrap().count(), writes);
        }
    }
}
