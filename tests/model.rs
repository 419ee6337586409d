//! Goal: whatever is done to a database, in whatever order, it reads like a map in memory.
//!
//! Method: random operations on a database and on the reference model, compared all along: writes, batches across
//! keyspaces, flushes, compactions, keyspaces created, cleared and dropped, the database closed or dropped and opened
//! again; reads now, through snapshots from before, and through iterators and cursors that stay open meanwhile. Tables,
//! memtables, levels and segments are as small as they may be, so that a few thousand operations go through all of them.
//! Most cases live in memory, some on real files.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use terrace::{
    Compression, Db, Durability, Error, FileSystem, Keyspace, KeyspaceOptions, Options, PointReads,
};
use terrace::{Snapshot, WriteBatch};
use terrace_io::{MemoryFileSystem, OsFileSystem};
use terrace_tests::model::{Bounds, Change, DEFAULT, Map, Model, Write, abbreviated, entries_in};
use terrace_tests::view::{Scan, View, Walk, check_all, check_points, check_scan, open_scan};
use terrace_tests::workload::{Generator, ValueLengths, borrowed};
use terrace_tests::{Trace, seeds};

/// One case in so many lives on real files.
const REAL_ONE_IN: u64 = 4;

const STEPS: usize = 2_500;

fn small_tables() -> KeyspaceOptions {
    KeyspaceOptions::new().table_bytes(64 << 10)
}

/// Everything small: many memtables, tables and levels.
fn small() -> Options {
    Options::new()
        .memtable_bytes(64 << 10)
        .segment_bytes_max(64 << 10)
        .log_bytes_max(512 << 10)
        .l0_trigger(2)
        .level_base_bytes(96 << 10)
        .level_multiplier(3)
        .keyspace_defaults(small_tables())
}

#[test]
fn small_levels_synced() {
    run_cases("small_levels_synced", small);
}

#[test]
fn small_levels_buffered() {
    run_cases("small_levels_buffered", || small().durability(Durability::Buffered).compaction_threads(2));
}

#[test]
fn snappy_with_a_small_cache() {
    run_cases("snappy_with_a_small_cache", || {
        let defaults = small_tables().compression(Compression::Snappy);
        small().keyspace_defaults(defaults).block_cache_bytes(64 << 10).durability(Durability::Buffered)
    });
}

#[test]
fn without_filter_by_pread() {
    run_cases("without_filter_by_pread", || {
        let defaults = small_tables().filter_bits_per_key(0);
        small().keyspace_defaults(defaults).point_reads(PointReads::Pread).durability(Durability::Buffered)
    });
}

#[test]
fn snappy_without_cache_or_filter_by_pread() {
    run_cases("snappy_without_cache_or_filter_by_pread", || {
        let defaults =
            small_tables().compression(Compression::Snappy).filter_bits_per_key(0).block_bytes(4096);
        small().keyspace_defaults(defaults).block_cache_bytes(0).point_reads(PointReads::Pread)
    });
}

#[test]
fn mostly_memtables() {
    run_cases("mostly_memtables", || Options::new().durability(Durability::Buffered).memtable_bytes(8 << 20));
}

fn run_cases(name: &str, options: fn() -> Options) {
    for seed in seeds(3) {
        Case::new(name, seed, options()).run();
    }
}

/// What a case does in a step.
#[derive(Debug, Clone, Copy)]
enum Step {
    Put,
    Delete,
    Batch,
    Points,
    Scan,
    TakeSnapshot,
    ReadSnapshot,
    DropSnapshot,
    OpenIterator,
    MoveIterators,
    OpenCursor,
    MoveCursors,
    LetGo,
    Sync,
    Flush,
    CompactRange,
    Settle,
    Sizes,
    Create,
    DropKeyspace,
    Clear,
    CheckAll,
    Close,
    DropDb,
}

const WEIGHTS: &[(u32, Step)] = &[
    (700, Step::Put),
    (150, Step::Delete),
    (200, Step::Batch),
    (200, Step::Points),
    (120, Step::Scan),
    (20, Step::TakeSnapshot),
    (100, Step::ReadSnapshot),
    (12, Step::DropSnapshot),
    (30, Step::OpenIterator),
    (150, Step::MoveIterators),
    (15, Step::OpenCursor),
    (150, Step::MoveCursors),
    (15, Step::LetGo),
    (5, Step::Sync),
    (12, Step::Flush),
    (8, Step::CompactRange),
    (3, Step::Settle),
    (10, Step::Sizes),
    (10, Step::Create),
    (4, Step::DropKeyspace),
    (4, Step::Clear),
    (8, Step::CheckAll),
    (4, Step::Close),
    (4, Step::DropDb),
];

/// A snapshot and what it sees, with handles to the keyspaces of its time: some may be dropped since.
struct Pinned {
    snapshot: Snapshot,
    keyspaces: Vec<(Keyspace, Arc<Map>)>,
}

struct Case {
    generator: Generator,
    options: Options,
    directory: PathBuf,
    /// Keeps real files as long as the case.
    _real: Option<tempfile::TempDir>,
    db: Option<Db>,
    keyspaces: BTreeMap<String, Keyspace>,
    /// Handles to keyspaces that were dropped.
    dropped: Vec<Keyspace>,
    model: Model,
    snapshots: Vec<Pinned>,
    scans: Vec<Scan>,
    walks: Vec<Walk>,
    trace: Trace,
}

impl Case {
    fn new(name: &str, seed: u64, options: Options) -> Case {
        let trace = Trace::new(name, seed);
        let real = seed.is_multiple_of(REAL_ONE_IN).then(|| tempfile::tempdir().unwrap());
        let file_system: Arc<dyn FileSystem> = match real {
            Some(_) => Arc::new(OsFileSystem),
            None => Arc::new(MemoryFileSystem::new()),
        };
        // Dropped databases of one process are told apart by their paths, also those in memory.
        let directory = match &real {
            Some(real) => real.path().join("db"),
            None => PathBuf::from(format!("{name}-{seed}")),
        };
        println!("{name}: seed {seed}, in {}", directory.display());
        let values = ValueLengths { usual: 0..600, paged_one_in: 40, large: (700, 1 << 20..4 << 20) };
        let mut case = Case {
            generator: Generator::new(seed, 400, 6, values),
            options: options.file_system(file_system),
            directory,
            _real: real,
            db: None,
            keyspaces: BTreeMap::new(),
            dropped: Vec::new(),
            model: Model::default(),
            snapshots: Vec::new(),
            scans: Vec::new(),
            walks: Vec::new(),
            trace,
        };
        case.open();
        case
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            let step = self.generator.weighted(WEIGHTS);
            self.step(step);
            let health = self.db().health();
            assert!(health.is_ok(), "{health:?}");
        }
        self.check_all();
        self.close();
        self.open();
        self.check_all();
        self.step(Step::Settle);
        self.check_all();
        assert_eq!(self.db().metrics().checksum_failures, 0);
        self.close();
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("it is open between two steps")
    }

    /// A keyspace that exists, and what is in it.
    fn keyspace(&mut self) -> (Keyspace, Arc<Map>) {
        let names = self.names();
        let name = self.generator.pick(&names);
        (self.keyspaces[name].clone(), self.model.map(name).clone())
    }

    fn names(&self) -> Vec<String> {
        self.model.keyspaces().keys().cloned().collect()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Put | Step::Delete => self.write_one(matches!(step, Step::Put)),
            Step::Batch => self.write_batch(),
            Step::Points => {
                let (keyspace, map) = self.keyspace();
                self.trace.step(format!("point reads in {:?}", keyspace.name()));
                check_points(View::Now(&keyspace), &map, &mut self.generator);
            }
            Step::Scan => {
                let (keyspace, map) = self.keyspace();
                self.trace.step(format!("scan of {:?}", keyspace.name()));
                check_scan(View::Now(&keyspace), &map, &mut self.generator);
                self.check_refused(&keyspace);
            }
            Step::TakeSnapshot => self.take_snapshot(),
            Step::ReadSnapshot => self.read_snapshot(),
            Step::DropSnapshot if self.snapshots.is_empty() => {}
            Step::DropSnapshot => {
                let index = self.generator.number(0..self.snapshots.len());
                self.trace.step(format!("drop of snapshot {index}"));
                self.snapshots.swap_remove(index);
            }
            Step::OpenIterator => {
                let (keyspace, map) = self.keyspace();
                self.trace.step(format!("a lasting iterator over {:?}", keyspace.name()));
                let (iter, expected) = open_scan(View::Now(&keyspace), &map, &mut self.generator);
                self.scans.push(Scan::new(iter, expected));
            }
            Step::MoveIterators => {
                self.trace.step(format!("steps of {} iterators", self.scans.len()));
                for scan in &mut self.scans {
                    let steps = self.generator.number(0..6);
                    let _ = (0..steps).all(|_| scan.step(self.generator.one_in(2)));
                }
            }
            Step::OpenCursor => {
                let (keyspace, map) = self.keyspace();
                self.trace.step(format!("a lasting cursor over {:?}", keyspace.name()));
                self.walks.push(Walk::new(View::Now(&keyspace), &map));
            }
            Step::MoveCursors => {
                self.trace.step(format!("steps of {} cursors", self.walks.len()));
                for walk in &mut self.walks {
                    let steps = self.generator.number(0..12);
                    (0..steps).for_each(|_| walk.step(&mut self.generator));
                }
            }
            Step::LetGo => {
                self.trace.step("some iterators and cursors are dropped".to_owned());
                self.scans.retain(|_| !self.generator.one_in(2));
                self.walks.retain(|_| !self.generator.one_in(2));
            }
            Step::Sync => {
                self.trace.step("sync".to_owned());
                self.db().sync().unwrap();
            }
            Step::Flush => {
                self.trace.step("flush".to_owned());
                self.db().flush().unwrap();
            }
            Step::CompactRange => {
                let (keyspace, _) = self.keyspace();
                let bounds = self.generator.bounds();
                self.trace.step(format!("compact_range of {:?}", keyspace.name()));
                keyspace.compact_range::<&[u8]>(borrowed(&bounds)).unwrap();
            }
            Step::Settle => {
                self.trace.step("settle".to_owned());
                self.db().settle().unwrap();
                self.check_settled();
            }
            Step::Sizes => self.check_sizes(),
            Step::Create => self.create_keyspace(),
            Step::DropKeyspace => self.drop_keyspace(),
            Step::Clear => {
                let (keyspace, _) = self.keyspace();
                self.trace.step(format!("clear of {:?}", keyspace.name()));
                keyspace.clear().unwrap();
                assert_eq!(keyspace.approximate_size::<&[u8]>(..).unwrap(), 0);
                self.model.apply(&Change::Clear(keyspace.name().to_owned()));
            }
            Step::CheckAll => self.check_all(),
            Step::Close => {
                self.close();
                self.open();
            }
            Step::DropDb => {
                self.trace.step("drop of the database".to_owned());
                self.let_handles_go();
                self.db = None;
                self.open();
            }
        }
    }

    fn write_one(&mut self, is_put: bool) {
        let (keyspace, _) = self.keyspace();
        let key = self.generator.key();
        let value = is_put.then(|| self.generator.value());
        let name = keyspace.name().to_owned();
        let len = value.as_ref().map(|value| value.len());
        self.trace.step(format!("write of {} in {name:?}, {len:?} bytes", abbreviated(&key)));
        let durability = match self.generator.number(0..3) {
            0 => Some(Durability::Sync),
            1 => Some(Durability::Buffered),
            _ => None,
        };
        let outcome = match (&value, durability) {
            (Some(value), None) => keyspace.put(&key, value),
            (Some(value), Some(durability)) => keyspace.put_with(&key, value, durability),
            (None, None) => keyspace.delete(&key),
            (None, Some(durability)) => keyspace.delete_with(&key, durability),
        };
        outcome.unwrap();
        self.model.apply(&Change::Batch(vec![Write { keyspace: name, key, value }]));
    }

    fn write_batch(&mut self) {
        let names = self.names();
        let operations = if self.generator.one_in(20) { 50..400 } else { 0..12 };
        let writes = self.generator.batch(&names, operations);
        self.trace.step(format!("batch of {} operations", writes.len()));
        let mut batch = WriteBatch::new();
        for Write { keyspace, key, value } in &writes {
            match value {
                Some(value) => batch.put(&self.keyspaces[keyspace], key, value),
                None => batch.delete(&self.keyspaces[keyspace], key),
            }
        }
        assert_eq!(batch.len(), writes.len());
        let durability = *self.generator.pick(&[Durability::Sync, Durability::Buffered]);
        self.db().write_with(batch, durability).unwrap();
        self.model.apply(&Change::Batch(writes));
    }

    fn take_snapshot(&mut self) {
        self.trace.step(format!("snapshot, with {} before", self.snapshots.len()));
        let mut keyspaces = Vec::new();
        for (name, map) in self.model.keyspaces() {
            keyspaces.push((self.keyspaces[name].clone(), map.clone()));
        }
        let snapshot = self.db().snapshot().unwrap();
        self.snapshots.push(Pinned { snapshot, keyspaces });
    }

    fn read_snapshot(&mut self) {
        let Some(last) = self.snapshots.len().checked_sub(1) else { return };
        let index = self.generator.number(0..last + 1);
        let Pinned { snapshot, keyspaces } = &self.snapshots[index];
        let (keyspace, map) = self.generator.pick(keyspaces);
        self.trace.step(format!("reads of {:?} through snapshot {index}", keyspace.name()));
        let view = View::Then(snapshot, keyspace);
        match self.generator.number(0..6) {
            0 => check_all(view, map),
            1 => {
                let mut walk = Walk::new(view, map);
                (0..20).for_each(|_| walk.step(&mut self.generator));
            }
            2 => {
                // An iterator of a snapshot may outlive it.
                let (iter, expected) = open_scan(view, map, &mut self.generator);
                self.scans.push(Scan::new(iter, expected));
            }
            3 => check_scan(view, map, &mut self.generator),
            _ => check_points(view, map, &mut self.generator),
        }
    }

    /// What must be refused, and change nothing.
    fn check_refused(&mut self, keyspace: &Keyspace) {
        let (a, b) = (self.generator.key(), self.generator.key());
        if a != b {
            let reversed: Bounds<'_> =
                (Bound::Included(a.as_ref().max(&b)), Bound::Excluded(a.as_ref().min(&b)));
            let refused = keyspace.range::<&[u8]>(reversed);
            assert!(matches!(refused, Err(Error::InvalidArgument(_))), "a reversed range: {refused:?}");
        }
        if self.generator.one_in(10) {
            let refused = keyspace.put(vec![b'k'; (64 << 10) + 1], "");
            assert!(matches!(refused, Err(Error::InvalidArgument(_))), "a key that is too long: {refused:?}");
        }
        for keyspace in &self.dropped {
            assert!(matches!(keyspace.get(&a), Err(Error::KeyspaceDropped { .. })));
            assert!(matches!(keyspace.put(&a, &b), Err(Error::KeyspaceDropped { .. })));
        }
    }

    /// Sizes of ranges, which background work may change at any moment: only what is certain.
    fn check_sizes(&mut self) {
        let (keyspace, map) = self.keyspace();
        self.trace.step(format!("sizes in {:?}", keyspace.name()));
        let size = |bounds: Bounds<'_>| keyspace.approximate_size::<&[u8]>(bounds).unwrap();
        if !map.is_empty() {
            assert!(size((Bound::Unbounded, Bound::Unbounded)) > 0);
        }
        let bounds = self.generator.bounds();
        size(borrowed(&bounds));
        self.check_refused(&keyspace);
    }

    /// Nothing happens in the background now, so that figures can be compared.
    fn check_settled(&mut self) {
        let metrics = self.db().metrics();
        assert_eq!(metrics.log_bytes, 0, "the log was given back");
        for figures in &metrics.keyspaces {
            let keyspace = &self.keyspaces[&figures.name];
            let map = self.model.map(&figures.name);
            let all = (Bound::Unbounded, Bound::Unbounded);
            let size = |bounds: Bounds<'_>| keyspace.approximate_size::<&[u8]>(bounds).unwrap();
            assert_eq!(size(all), figures.table_bytes, "all of {:?} is what its tables take", figures.name);
            assert!(figures.table_entries - figures.table_deletes >= map.len() as u64);
            if *keyspace.options() == small_tables() {
                let raw: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
                assert!(size(all) >= raw as u64, "{} bytes take {}", raw, size(all));
            }
            let middle = self.generator.probe();
            let below = size((Bound::Unbounded, Bound::Excluded(&middle)));
            let above = size((Bound::Included(&middle), Bound::Unbounded));
            let slack = metrics.levels.len() as u64 * (16 << 10);
            let (whole, shown) = (size(all), abbreviated(&middle));
            let near = below + above <= whole + slack && whole <= below + above + slack;
            assert!(near, "{below} below {shown} and {above} from there, of {whole} in {:?}", figures.name);
            let held = entries_in(map, (Bound::Unbounded, Bound::Excluded(&middle)));
            let raw: u64 = held.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
            if *keyspace.options() == small_tables() {
                assert!(below + slack >= raw, "{raw} bytes below a key take about {below}");
            }
        }
    }

    fn create_keyspace(&mut self) {
        let name = format!("keyspace {}", self.generator.number(0..5));
        self.trace.step(format!("create of {name:?}"));
        let keyspace = match self.model.keyspaces().contains_key(&name) {
            true => self.db().keyspace(&name).unwrap(),
            false => {
                let compression = *self.generator.pick(&[Compression::None, Compression::Snappy]);
                let bits = *self.generator.pick(&[0, 4, 10]);
                let options = small_tables().compression(compression).filter_bits_per_key(bits);
                self.db().keyspace_with(&name, options).unwrap()
            }
        };
        self.keyspaces.insert(name.clone(), keyspace);
        self.model.apply(&Change::Create(name));
    }

    fn drop_keyspace(&mut self) {
        let names = self.names();
        let name = self.generator.pick(&names).clone();
        self.trace.step(format!("drop of {name:?}"));
        if name == DEFAULT {
            assert!(matches!(self.db().drop_keyspace(&name), Err(Error::InvalidArgument(_))));
            return;
        }
        self.db().drop_keyspace(&name).unwrap();
        self.dropped.extend(self.keyspaces.remove(&name));
        self.model.apply(&Change::Drop(name));
    }

    fn check_all(&mut self) {
        self.trace.step("check of everything".to_owned());
        let mut names = self.db().keyspace_names().unwrap();
        assert_eq!(names[0], DEFAULT);
        names.sort();
        assert_eq!(names, self.names());
        for (name, map) in self.model.keyspaces() {
            check_all(View::Now(&self.keyspaces[name]), map);
        }
    }

    /// Lets go of everything that keeps the database open. Iterators and cursors do not.
    fn let_handles_go(&mut self) {
        self.snapshots.clear();
        self.keyspaces.clear();
        self.dropped.clear();
    }

    fn close(&mut self) {
        self.trace.step("close".to_owned());
        self.db().close().unwrap();
        assert!(matches!(self.db().get("key"), Err(Error::Closed)));
        self.let_handles_go();
        self.db = None;
        // They pin what they need, not the database.
        self.step(Step::MoveIterators);
        self.step(Step::MoveCursors);
    }

    fn open(&mut self) {
        self.scans.iter_mut().for_each(|scan| scan.outlived = true);
        self.walks.iter_mut().for_each(|walk| walk.outlived = true);
        self.trace.step("open".to_owned());
        let db = self.options.clone().open(&self.directory).unwrap();
        for name in self.model.keyspaces().keys() {
            let keyspace = db.keyspace(name).unwrap();
            self.keyspaces.insert(name.clone(), keyspace);
        }
        self.db = Some(db);
    }
}
