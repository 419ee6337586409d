//! Writing tables over a file system in memory: random versions, snapshots and deeper tables against a brute-force
//! oracle; faults at every call, with nothing left behind; cancelling; where tables are cut.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use terrace_io::{CacheUse, CrashPolicy, FaultFileSystem, FaultKind, FaultRule, MemoryFileSystem, Operation};
use terrace_sstable::{Compression, SEQUENCE_MAX, ScanMode, Table, TableContext};

use super::*;
use crate::merge::{merge_between, merge_tables};

const DIR: &str = "/db";

/// A version: key, sequence number, and the value of a put.
type Version = (Vec<u8>, u64, Option<Vec<u8>>);

/// A directory, and numbers for its tables.
struct Bench {
    fs: Arc<dyn FileSystem>,
    next_number: AtomicU64,
    options: TableOptions,
    cache_use: CacheUse,
    /// How many threads a job may take.
    threads: usize,
    /// Where jobs are divided, if not where they should be.
    borders: Vec<Vec<u8>>,
}

/// Rules with nothing in them, to be changed.
struct OwnRules {
    snapshots: Vec<u64>,
    deeper: Vec<KeyRange>,
    next_level: Vec<SizedKeyRange>,
    elide_below: u64,
    cancelled: Box<dyn Fn() -> bool + Sync>,
}

impl Default for OwnRules {
    fn default() -> Self {
        OwnRules {
            snapshots: Vec::new(),
            deeper: Vec::new(),
            next_level: Vec::new(),
            elide_below: 0,
            cancelled: Box::new(|| false),
        }
    }
}

impl Bench {
    fn new(fs: Arc<dyn FileSystem>) -> Self {
        fs.create_dir_all(Path::new(DIR)).unwrap();
        Bench {
            fs,
            next_number: AtomicU64::new(1),
            options: TableOptions::default(),
            threads: 3,
            cache_use: CacheUse::DropBehind,
            borders: Vec::new(),
        }
    }

    fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// A table of versions in internal order.
    fn table(&self, versions: &[Version]) -> Arc<Table> {
        let identity = TableIdentity {
            database_id: [1; 16],
            keyspace_id: 0,
            keyspace_name: "default".into(),
            number: self.next_number(),
            level: 0,
            cause: Cause::Flush,
        };
        let mut writer = TableWriter::create(&self.fs, Path::new(DIR), identity, &self.options).unwrap();
        for (key, sequence, value) in versions {
            let kind = if value.is_some() { Kind::Put } else { Kind::Delete };
            writer.add(key, *sequence, kind, value.as_deref().unwrap_or(&[])).unwrap();
        }
        self.open(writer.finish().unwrap())
    }

    fn open(&self, meta: TableMeta) -> Arc<Table> {
        Table::new(Arc::new(TableContext::new(Arc::clone(&self.fs), DIR)), meta)
    }

    fn run(
        &self,
        level: u8,
        table_bytes: u64,
        inputs: &[(usize, Vec<Arc<Table>>)],
        rules: &OwnRules,
    ) -> Result<Outcome> {
        let output = Output {
            fs: &self.fs,
            dir: Path::new(DIR),
            database_id: [1; 16],
            keyspace_id: 0,
            keyspace_name: "default",
            level,
            cause: Cause::Compaction,
            options: &self.options,
            table_bytes,
            cache_use: self.cache_use,
            next_number: &|| self.next_number(),
        };
        let rules = Rules {
            snapshots: &rules.snapshots,
            deeper: &rules.deeper,
            next_level: &rules.next_level,
            elide_below: rules.elide_below,
            cancelled: &*rules.cancelled,
        };
        if !self.borders.is_empty() {
            return merge_between(inputs, &output, &rules, &self.borders);
        }
        merge_tables(inputs, &output, &rules, self.threads)
    }

    /// The versions in a table.
    fn read(&self, meta: &TableMeta) -> Vec<Version> {
        let table = self.open(meta.clone());
        let mut cursor = table.cursor(ScanMode::Auto);
        cursor.seek_to_first().unwrap();
        let mut versions = Vec::new();
        while cursor.valid() {
            let value = (cursor.kind() == Kind::Put).then(|| cursor.value().to_vec());
            versions.push((cursor.key().to_vec(), cursor.sequence(), value));
            cursor.next().unwrap();
        }
        versions
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.fs.read_dir(Path::new(DIR)).unwrap();
        names.sort();
        names
    }
}

/// What must come out: the versions that some reader sees, computed reader by reader.
fn oracle(versions: &[Version], rules: &OwnRules) -> Vec<Version> {
    let mut keys: BTreeMap<&[u8], Vec<&Version>> = BTreeMap::new();
    for version in versions {
        keys.entry(&version.0).or_default().push(version);
    }
    let mut expected = Vec::new();
    for (key, mut versions) in keys {
        versions.sort_by_key(|version| u64::MAX - version.1);
        let readers = rules.snapshots.iter().copied().chain([SEQUENCE_MAX]);
        let mut seen: Vec<Version> = readers
            .filter_map(|reader| versions.iter().find(|version| version.1 <= reader))
            .map(|v| (*v).clone())
            .collect();
        seen.sort_by_key(|version| u64::MAX - version.1);
        seen.dedup_by_key(|version| version.1);
        if !rules.deeper.iter().any(|(smallest, largest)| **smallest <= *key && *key <= **largest) {
            while seen.last().is_some_and(|version| version.2.is_none()) {
                seen.pop();
            }
            if let Some(oldest) = seen.last_mut()
                && oldest.1 <= rules.elide_below
            {
                oldest.1 = 0;
            }
        }
        expected.extend(seen);
    }
    expected
}

fn visible<'v>(versions: &'v [Version], key: &[u8], snapshot: u64) -> Option<&'v Vec<u8>> {
    let seen = versions.iter().filter(|version| version.0 == key && version.1 <= snapshot);
    seen.max_by_key(|version| version.1).and_then(|version| version.2.as_ref())
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', 255]), 0..4)
}

fn span() -> impl Strategy<Value = KeyRange> {
    (key(), key()).prop_map(|(a, b)| (a.clone().min(b.clone()).into(), a.max(b).into()))
}

#[derive(Debug, Clone)]
struct Scenario {
    /// Key, whether it is a put, length of the value, which input it is in.
    writes: Vec<(Vec<u8>, bool, usize, usize)>,
    snapshots: Vec<u64>,
    deeper: Vec<KeyRange>,
    next_level_bytes: Vec<u64>,
    visible: u64,
    table_bytes: u64,
    compressed: bool,
    oldest_elided: bool,
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let value_len = prop_oneof![20 => 0..300usize, 1 => 4000..9000usize];
    (
        prop::collection::vec((key(), prop::bool::weighted(0.7), value_len, 0..4usize), 1..200),
        prop::collection::btree_set(0..250u64, 0..5),
        prop::collection::vec(span(), 0..4),
        prop::collection::vec(1..200_000u64, 0..5),
        150..260u64,
        prop_oneof![Just(1u64), 4_000..40_000u64, Just(u64::MAX)],
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(
                writes,
                snapshots,
                deeper,
                next_level_bytes,
                visible,
                table_bytes,
                compressed,
                oldest_elided,
            )| Scenario {
                writes,
                snapshots: snapshots.into_iter().collect(),
                deeper,
                next_level_bytes,
                visible,
                table_bytes,
                compressed,
                oldest_elided,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_readers_need_survives_and_nothing_else(scenario in scenario()) {
        let memory = MemoryFileSystem::new();
        let mut bench = Bench::new(Arc::new(memory.clone()));
        bench.threads = 1 + scenario.writes.len() % 4;
        bench.options.compression = if scenario.compressed { Compression::Snappy } else { Compression::None };

        let mut versions: Vec<Version> = Vec::new();
        let mut inputs: [Vec<Version>; 4] = Default::default();
        for (index, (key, put, len, input)) in scenario.writes.iter().enumerate() {
            let first = !versions.iter().any(|version| version.0 == *key);
            // As a compaction before this one may have left it.
            let elided = first && *put && scenario.oldest_elided;
            let sequence = if elided { 0 } else { index as u64 + 1 };
            let value = put.then(|| index.to_le_bytes().iter().copied().cycle().take(*len).collect());
            versions.push((key.clone(), sequence, value));
            inputs[*input].push(versions.last().unwrap().clone());
        }
        for input in &mut inputs {
            input.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        }
        // Three tables of level 0 and a level of several.
        let mut levels = vec![(0, Vec::new()), (5, Vec::new())];
        for input in inputs[..3].iter().filter(|input| !input.is_empty()) {
            levels[0].1.push(bench.table(input));
        }
        let keys: Vec<&[Version]> = inputs[3].chunk_by(|a, b| a.0 == b.0).collect();
        for keys in keys.chunks(7) {
            levels[1].1.push(bench.table(&keys.concat()));
        }

        let (snapshots, deeper) = (scenario.snapshots.clone(), scenario.deeper.clone());
        let mut rules = OwnRules { snapshots, deeper, ..OwnRules::default() };
        rules.elide_below = rules.snapshots.first().copied().unwrap_or(u64::MAX).min(scenario.visible);
        for (index, bytes) in scenario.next_level_bytes.iter().enumerate() {
            let key: Box<[u8]> = [index as u8 * 60].into();
            rules.next_level.push((key.clone(), key, *bytes));
        }
        let before = bench.names();
        let outcome = bench.run(5, scenario.table_bytes, &levels, &rules).unwrap();

        let expected = oracle(&versions, &rules);
        let tables: Vec<Vec<Version>> = outcome.tables.iter().map(|meta| bench.read(meta)).collect();
        let found = tables.concat();
        prop_assert_eq!(&found, &expected);
        prop_assert_eq!(outcome.entries_in, versions.len() as u64);
        prop_assert_eq!(outcome.entries_out, expected.len() as u64);
        prop_assert_eq!(outcome.bytes_written, outcome.tables.iter().map(|meta| meta.file_len).sum::<u64>());
        for pair in outcome.tables.windows(2) {
            prop_assert!(pair[0].largest_key < pair[1].smallest_key);
        }
        if scenario.table_bytes == u64::MAX {
            prop_assert!(outcome.tables.len() <= 1);
        }
        if scenario.table_bytes == 1 {
            prop_assert!(tables.iter().all(|table| table.iter().all(|version| version.0 == table[0].0)));
        }

        // No reader of keys that nothing deeper holds sees a difference.
        for &snapshot in rules.snapshots.iter().chain([&SEQUENCE_MAX]) {
            for (key, ..) in &versions {
                prop_assert_eq!(visible(&found, key, snapshot), visible(&versions, key, snapshot));
            }
        }

        // The new files, and no others, are there, and outlive a power cut.
        let crashed: Arc<dyn FileSystem> = Arc::new(memory.crash_clone(CrashPolicy::DropUnsynced));
        let crashed = Bench::new(crashed);
        for (meta, table) in outcome.tables.iter().zip(&tables) {
            prop_assert_eq!(&crashed.read(meta), table);
        }
        let mut after = before;
        after.extend(outcome.tables.iter().map(|meta| table_file_name(meta.number)));
        after.sort();
        prop_assert_eq!(bench.names(), after);
    }
}

/// Versions of so many keys, one each.
fn puts(keys: u64, value_len: usize) -> Vec<Version> {
    (0..keys).map(|i| (format!("key{i:06}").into_bytes(), i + 1, Some(vec![i as u8; value_len]))).collect()
}

#[test]
fn a_failed_job_leaves_nothing_behind() {
    let operations =
        [Operation::Create, Operation::Write, Operation::Sync, Operation::Rename, Operation::SyncDirectory];
    let kinds = [FaultKind::Error(ErrorKind::StorageFull), FaultKind::ErrorAfterEffect(ErrorKind::Other)];
    for operation in operations {
        for kind in kinds {
            let mut failures = 0;
            for (skip, threads) in (0..).flat_map(|skip| [(skip, 1), (skip, 3)]) {
                let faults = FaultFileSystem::new(Arc::new(MemoryFileSystem::new()));
                let bench = Bench { threads, ..Bench::new(Arc::new(faults.clone())) };
                let input = bench.table(&puts(1000, 100));
                let before = bench.names();
                faults.add(FaultRule::on(operation).skip(skip).once().kind(kind));
                let result = bench.run(6, 40_000, &[(0, vec![input])], &OwnRules::default());
                if faults.injected() == 0 {
                    assert!(result.unwrap().tables.len() > 2);
                    break;
                }
                failures += 1;
                let error = result.expect_err("a fault was injected");
                assert!(error.path().is_some(), "{error}");
                assert_eq!(bench.names(), before, "{operation} {skip} {kind:?}");
            }
            assert!(failures > 0, "{operation} is never called");
        }
    }
}

#[test]
fn a_damaged_input_ends_the_job() {
    let memory = MemoryFileSystem::new();
    let bench = Bench::new(Arc::new(memory.clone()));
    let input = bench.table(&puts(1000, 100));
    let mut bytes = memory.file_bytes(input.path()).unwrap();
    bytes[70_000] ^= 1;
    memory.replace_bytes(input.path(), bytes).unwrap();
    let before = bench.names();
    let error = bench.run(6, 20_000, &[(0, vec![input])], &OwnRules::default()).unwrap_err();
    assert!(error.is_corruption(), "{error}");
    assert_eq!(bench.names(), before);
}

#[test]
fn a_cancelled_job_ends_soon_and_leaves_nothing_behind() {
    let bench = Bench::new(Arc::new(MemoryFileSystem::new()));
    let input = bench.table(&puts(1000, 100));
    let before = bench.names();
    let asked = AtomicU64::new(0);
    let rules = OwnRules {
        cancelled: Box::new(move || asked.fetch_add(1, Ordering::Relaxed) == 10),
        ..OwnRules::default()
    };
    let error = bench.run(6, 20_000, &[(0, vec![input])], &rules).unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
    assert_eq!(bench.names(), before);
}

#[test]
fn a_flush_makes_one_table_with_every_number_and_tombstone() {
    let bench = Bench::new(Arc::new(MemoryFileSystem::new()));
    let mut versions = puts(1000, 100);
    for version in versions.iter_mut().step_by(3) {
        version.2 = None;
    }
    let input = bench.table(&versions);
    let rules = OwnRules { elide_below: SEQUENCE_MAX, ..OwnRules::default() };
    let outcome = bench.run(0, 1, &[(0, vec![input])], &rules).unwrap();
    assert_eq!((outcome.tables.len(), outcome.tombstones_dropped), (1, 0));
    assert_eq!(bench.read(&outcome.tables[0]), versions);
}

#[test]
fn nothing_is_written_when_nothing_survives() {
    let bench = Bench::new(Arc::new(MemoryFileSystem::new()));
    let versions: Vec<Version> =
        puts(100, 0).into_iter().map(|(key, sequence, _)| (key, sequence, None)).collect();
    let input = bench.table(&versions);
    let before = bench.names();
    let outcome = bench.run(6, 1000, &[(5, vec![input])], &OwnRules::default()).unwrap();
    assert_eq!(outcome, Outcome { entries_in: 100, tombstones_dropped: 100, ..Outcome::default() });
    assert_eq!(bench.names(), before);
}

#[test]
fn tables_come_out_at_the_size_asked_for() {
    let bench = Bench { threads: 1, ..Bench::new(Arc::new(MemoryFileSystem::new())) };
    let input = bench.table(&puts(20_000, 100));
    let outcome = bench.run(6, 400_000, &[(0, vec![input])], &OwnRules::default()).unwrap();
    let (_, full) = outcome.tables.split_last().unwrap();
    assert!(full.len() >= 5);
    for meta in full {
        assert!(meta.file_len.abs_diff(400_000) < 20_000, "{}", meta.file_len);
    }
}

#[test]
fn tables_end_where_tables_of_the_next_level_end() {
    let bench = Bench::new(Arc::new(MemoryFileSystem::new()));
    let input = bench.table(&puts(10_000, 100));
    let key = |i: u64| -> Box<[u8]> { format!("key{i:06}").into_bytes().into() };
    // The first ends beyond half a table, the second so soon after that it is passed by.
    let next_level = vec![(key(0), key(2000), 1), (key(2001), key(2100), 1), (key(2500), key(4600), 1)];
    let rules = OwnRules { next_level, ..OwnRules::default() };
    let outcome = bench.run(5, 400_000, &[(0, vec![input])], &rules).unwrap();
    assert_eq!(outcome.tables[0].largest_key, key(2000));
    assert_eq!(outcome.tables[1].largest_key, key(4600));
}

#[test]
fn a_large_job_is_divided_between_threads() {
    let mut bench = Bench::new(Arc::new(MemoryFileSystem::new()));
    let versions = puts(4000, 100);
    let (even, odd): (Vec<_>, Vec<_>) = versions.iter().cloned().partition(|version| version.1 % 2 == 0);
    let inputs =
        [(0, vec![bench.table(&even)]), (6, vec![bench.table(&odd[..1000]), bench.table(&odd[1000..])])];
    for count in [1, 2, 4] {
        bench.threads = count;
        let threads = Arc::new(Mutex::new(HashMap::new()));
        let asking = Arc::clone(&threads);
        let ask = move || {
            *asking.lock().unwrap().entry(std::thread::current().id()).or_insert(0) += 1;
            false
        };
        let rules = OwnRules { cancelled: Box::new(ask), ..OwnRules::default() };
        let outcome = bench.run(6, 50_000, &inputs, &rules).unwrap();
        assert_eq!(outcome.entries_in, 4000);
        let read: Vec<Version> = outcome.tables.iter().flat_map(|meta| bench.read(meta)).collect();
        assert_eq!(read, versions);
        // Asked once for every so many entries: each thread has its share.
        let asked: Vec<u32> = threads.lock().unwrap().values().copied().collect();
        let share = 4000 / ENTRIES_PER_CANCEL_CHECK as u32 / count as u32;
        assert_eq!(asked.len(), count);
        assert!(asked.iter().all(|asked| asked.abs_diff(share) <= share / 4), "{asked:?} of {share}");
    }
    // Too small to be divided more than once.
    bench.threads = 8;
    assert_eq!(bench.run(6, 150_000, &inputs, &OwnRules::default()).unwrap().tables.len(), 4);
}

#[test]
fn parts_that_do_not_meet_are_merged_again_as_one() {
    let mut bench = Bench::new(Arc::new(MemoryFileSystem::new()));
    let versions = puts(4000, 100);
    let input = bench.table(&versions);
    let before = bench.names();
    // The second ends before it begins, and the third takes what the first has taken.
    bench.borders = vec![b"key003000".to_vec(), b"key001000".to_vec()];
    let outcome = bench.run(6, 50_000, &[(0, vec![input])], &OwnRules::default()).unwrap();
    assert_eq!(outcome.entries_in, 4000);
    let read: Vec<Version> = outcome.tables.iter().flat_map(|meta| bench.read(meta)).collect();
    assert_eq!(read, versions);
    assert_eq!(bench.names().len(), before.len() + outcome.tables.len());
    assert!(outcome.tables[0].number > 10, "others were written before: {}", outcome.tables[0].number);
}
