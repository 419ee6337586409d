//! Many threads at once. Goal: what holds for one thread holds for all: own writes are readable, counters never go
//! back, batches are whole under every view, what is kept stays what it was, acknowledged writes are found again.
//! Method: threads that write, read, take snapshots, iterate, compact, scrub, clear, create and drop at the same time,
//! each checking its invariants all along; small memtables, so that flushes and compactions run all the time, and
//! tables are deleted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use terrace::{
    Db, Durability, Error, Keyspace, KeyspaceOptions, Options, ScrubOptions, Slice, Snapshot, WriteBatch,
};
use terrace_io::{CrashPolicy, FileSystem, MemoryFileSystem};
use terrace_tests::{covered, rounds};

fn small() -> Options {
    Options::new()
        .memtable_bytes(64 << 10)
        .segment_bytes_max(64 << 10)
        .level_base_bytes(128 << 10)
        .l0_trigger(2)
        .compaction_threads(2)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(64 << 10))
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap()[..12].parse().unwrap()
}

/// A value that says its number and has some weight.
fn weighty(number: u64) -> String {
    format!("{number:012}{}", "x".repeat(100))
}

/// Everything at once.
struct Stage {
    db: Db,
    left: Keyspace,
    right: Keyspace,
    scratch: Keyspace,
    done: AtomicBool,
    /// What each counting thread has had acknowledged.
    counted: [AtomicU64; COUNTERS],
    /// What each of the other threads has done, in turns.
    turns: [AtomicU64; OTHERS.len()],
}

/// What a thread does until the counting threads are done, and its name in the figures.
type Other = (&'static str, fn(&Stage, &AtomicU64));

const OTHERS: [Other; 10] = [
    ("batches", Stage::pair),
    ("snapshots", Stage::look_at_pairs),
    ("more snapshots", Stage::look_at_pairs),
    ("looks at counters", Stage::look_at_counters),
    ("iterations", Stage::iterate),
    ("snapshots kept", Stage::keep),
    ("flushes and compactions", Stage::compact),
    ("scrubs", Stage::scrub),
    ("clears", Stage::clear),
    ("drops", Stage::come_and_go),
];

const COUNTERS: usize = 3;
const PAIR_KEYS: u64 = 5;

impl Stage {
    /// Whether to go on, for another of the turns that are counted.
    fn running(&self, turns: &AtomicU64) -> bool {
        turns.fetch_add(1, Ordering::Relaxed);
        !self.done.load(Ordering::Relaxed)
    }

    /// Counts up, and reads each of its writes at once.
    fn count(&self, thread: usize, counts: u64) {
        let key = format!("counter {thread}");
        for round in 1..=counts {
            let durability = if round % 50 == 0 { Durability::Sync } else { Durability::Buffered };
            self.db.put_with(&key, weighty(round), durability).unwrap();
            let found = self.db.get(&key).unwrap().expect("an own write is readable");
            assert_eq!(number(&found), round, "an own write is what is read");
            self.counted[thread].store(round, Ordering::Release);
            let ballast = format!("ballast {thread} {:04}", round * 7919 % 1000);
            match round % 5 {
                0 => {
                    self.db.delete_with(&ballast, Durability::Buffered).unwrap();
                    assert!(!self.db.contains_key(&ballast).unwrap(), "an own delete is seen");
                }
                _ => {
                    self.db.put_with(&ballast, weighty(round), Durability::Buffered).unwrap();
                    let found = self.db.get_with(&ballast, number).unwrap();
                    assert_eq!(found, Some(round), "an own write is readable");
                }
            }
        }
    }

    /// Writes the same number to many keys of two keyspaces, over and over.
    fn pair(&self, turns: &AtomicU64) {
        let mut round = 0;
        while self.running(turns) {
            round += 1;
            let mut batch = WriteBatch::new();
            for index in 0..PAIR_KEYS {
                batch.put(&self.left, format!("pair {index}"), weighty(round));
                batch.put(&self.right, format!("pair {}", PAIR_KEYS - index), weighty(round));
            }
            batch.put(&self.scratch, "left", weighty(round));
            batch.put(&self.scratch, "right", weighty(round));
            self.db.write_with(batch, Durability::Buffered).unwrap();
        }
    }

    /// The one number that all pairs have in a snapshot.
    fn pair_number(&self, snapshot: &Snapshot) -> Option<u64> {
        let mut all = Vec::new();
        for keyspace in [&self.left, &self.right] {
            for entry in snapshot.iter(keyspace).unwrap() {
                all.push(number(&entry.unwrap().1));
            }
            let reversed = snapshot.iter(keyspace).unwrap().rev().map(|entry| number(&entry.unwrap().1));
            all.extend(reversed);
        }
        let got = snapshot.multi_get(&self.left, ["pair 0", "pair 4"]).unwrap();
        all.extend(got.iter().flatten().map(|value| number(value)));
        all.dedup();
        assert!(all.len() <= 1, "a batch is seen in part: {all:?}");
        all.first().copied()
    }

    fn look_at_pairs(&self, turns: &AtomicU64) {
        let mut last = None;
        while self.running(turns) {
            let snapshot = self.db.snapshot().unwrap();
            let seen = self.pair_number(&snapshot);
            assert!(seen >= last, "later snapshots see more: {seen:?} after {last:?}");
            last = seen;
            // The scratch keyspace is cleared now and then, but never in the middle of a batch.
            let scratch = |key: &str| snapshot.get(&self.scratch, key).unwrap().map(|value| number(&value));
            let (left, right) = (scratch("left"), scratch("right"));
            assert_eq!(left, right, "half a batch in a cleared keyspace");
            std::thread::yield_now();
            assert_eq!(self.pair_number(&snapshot), seen, "a snapshot stands still");
            assert_eq!(scratch("left"), left, "a snapshot stands still over clears");
        }
    }

    fn look_at_counters(&self, turns: &AtomicU64) {
        let mut last = [0; COUNTERS];
        while self.running(turns) {
            for (thread, last) in last.iter_mut().enumerate() {
                let acknowledged = self.counted[thread].load(Ordering::Acquire);
                let found = self.db.get(format!("counter {thread}")).unwrap();
                let found = found.map_or(0, |value| number(&value));
                assert!(found >= *last && found >= acknowledged, "counter {thread} went back");
                *last = found;
            }
        }
    }

    fn iterate(&self, turns: &AtomicU64) {
        let mut backward = false;
        while self.running(turns) {
            backward = !backward;
            let mut before: Option<Vec<u8>> = None;
            let iter = self.db.iter().unwrap();
            let iter: Box<dyn Iterator<Item = _>> =
                if backward { Box::new(iter.rev()) } else { Box::new(iter) };
            let mut counters = 0;
            for entry in iter {
                let (key, value) = entry.unwrap();
                number(&value);
                if let Some(before) = &before {
                    assert!(
                        if backward { *key < before[..] } else { *key > before[..] },
                        "keys are in order"
                    );
                }
                counters += usize::from(key.starts_with(b"counter"));
                before = Some(key.to_vec());
            }
            assert!(counters <= COUNTERS);
            // An iterator sees each batch whole.
            let mut numbers: Vec<u64> =
                self.left.iter().unwrap().map(|entry| number(&entry.unwrap().1)).collect();
            numbers.dedup();
            assert!(numbers.len() <= 1, "an iterator saw half a batch: {numbers:?}");
        }
    }

    /// Keeps a snapshot, an iterator and values while all that they lie in is flushed, compacted and deleted.
    fn keep(&self, turns: &AtomicU64) {
        while self.running(turns) {
            let snapshot = self.db.snapshot().unwrap();
            let mut iter = snapshot.iter(&self.db).unwrap();
            let entries =
                || -> Vec<(Slice, Slice)> { snapshot.iter(&self.db).unwrap().map(Result::unwrap).collect() };
            let copy = |entries: &[(Slice, Slice)]| -> Vec<[Vec<u8>; 2]> {
                entries.iter().map(|(key, value)| [key.to_vec(), value.to_vec()]).collect()
            };
            let kept = entries();
            let before = copy(&kept);
            let enough = self.db.metrics().flushes + 4;
            while !self.done.load(Ordering::Relaxed) && self.db.metrics().flushes < enough {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(copy(&kept) == before, "values that are kept stay what they were");
            assert!(copy(&entries()) == before, "a snapshot stands still");
            // From both ends in turns.
            let (mut front, mut back) = (Vec::new(), Vec::new());
            while let Some(entry) = iter.next() {
                front.push(entry.unwrap());
                back.extend(iter.next_back().map(Result::unwrap));
            }
            front.extend(back.into_iter().rev());
            assert!(copy(&front) == before, "an iterator stands still");
        }
    }

    fn scrub(&self, turns: &AtomicU64) {
        while self.running(turns) {
            let report = self.db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap();
            assert!(report.is_ok(), "{:?}", report.findings);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn compact(&self, turns: &AtomicU64) {
        let mut turn = 0;
        while self.running(turns) {
            turn += 1;
            match turn % 4 {
                0 => self.db.compact_range::<&str>(..).unwrap(),
                1 => self.db.flush().unwrap(),
                2 => self.left.compact_range("a".."z").unwrap(),
                _ => self.db.sync().unwrap(),
            }
            let metrics = self.db.metrics();
            assert!(metrics.levels.len() == 7 && self.db.health().is_ok());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn clear(&self, turns: &AtomicU64) {
        while self.running(turns) {
            self.scratch.clear().unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn come_and_go(&self, turns: &AtomicU64) {
        let mut round = 0;
        while self.running(turns) {
            round += 1;
            let name = format!("passing {}", round % 3);
            let passing = self.db.keyspace(&name).unwrap();
            assert_eq!(passing.iter().unwrap().count(), 0, "a new keyspace is empty");
            for index in 0..20 {
                passing.put_with(format!("{index}"), weighty(round), Durability::Buffered).unwrap();
            }
            let iter = passing.iter().unwrap();
            self.db.drop_keyspace(&name).unwrap();
            assert!(matches!(passing.get("1"), Err(Error::KeyspaceDropped { .. })));
            assert_eq!(iter.map(Result::unwrap).count(), 20, "an iterator survives the drop");
        }
    }
}

/// Says how often each thread had its turn, added to `totals`.
fn everything_at_once(path: &Path, options: &Options, counts: u64, totals: &mut [u64; OTHERS.len()]) {
    let db = options.clone().open(path).unwrap();
    let keyspace = |name: &str| db.keyspace(name).unwrap();
    let (left, right, scratch) = (keyspace("left"), keyspace("right"), keyspace("scratch"));
    let done = AtomicBool::new(false);
    let stage =
        Stage { left, right, scratch, done, counted: Default::default(), turns: Default::default(), db };
    // Threads that fail must not leave the others running.
    struct Finish<'a>(&'a AtomicBool);
    impl Drop for Finish<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let stage = &stage;
        for ((_, other), turns) in OTHERS.into_iter().zip(&stage.turns) {
            scope.spawn(move || {
                let _finish = Finish(&stage.done);
                other(stage, turns);
            });
        }
        std::thread::scope(|counting| {
            let _finish = Finish(&stage.done);
            let counters: Vec<_> =
                (0..COUNTERS).map(|thread| counting.spawn(move || stage.count(thread, counts))).collect();
            for counter in counters {
                counter.join().unwrap();
            }
        });
    });
    let Stage { db, left, right, scratch, turns, .. } = stage;
    for ((total, turns), (name, _)) in totals.iter_mut().zip(turns).zip(OTHERS) {
        let turns = turns.into_inner();
        assert!(turns > 0, "{name}: never had its turn");
        *total += turns;
    }
    let contents = |db: &Db| -> Vec<_> {
        db.iter()
            .unwrap()
            .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap())
            .collect()
    };
    let before = contents(&db);
    for thread in 0..COUNTERS {
        let found = db.get(format!("counter {thread}")).unwrap().unwrap();
        assert_eq!(number(&found), counts);
    }
    assert_eq!(db.metrics().snapshots, 0);
    drop((left, right, scratch, db));
    let db = options.clone().open(path).unwrap();
    assert!(contents(&db) == before, "what was acknowledged is found again");
    db.settle().unwrap();
    assert!(contents(&db) == before, "and stays the same");
    db.close().unwrap();
}

fn say_totals(what: &str, totals: [u64; OTHERS.len()]) {
    let totals: Vec<String> =
        totals.into_iter().zip(OTHERS).map(|(total, (name, _))| format!("{total} {name}")).collect();
    covered(what, totals.join(", "));
}

#[test]
fn everything_at_once_on_disk() {
    let mut totals = Default::default();
    for _ in rounds(1) {
        let home = tempfile::tempdir().unwrap();
        everything_at_once(&home.path().join("db"), &small(), 1000, &mut totals);
    }
    say_totals("everything at once, on disk", totals);
}

#[test]
fn everything_at_once_in_memory() {
    let mut totals = Default::default();
    for _ in rounds(1) {
        let fs = Arc::new(MemoryFileSystem::new());
        everything_at_once(Path::new("/everything"), &small().file_system(fs), 3000, &mut totals);
    }
    say_totals("everything at once, in memory", totals);
}

#[test]
fn writers_share_syncs() {
    const THREADS: u64 = 8;
    const WRITES: u64 = 100;
    let fs = MemoryFileSystem::new();
    // Each change of a file takes a moment, as on a device: so writers have to wait for each other.
    fs.set_hook(|_| std::thread::sleep(Duration::from_micros(100)));
    let db = small().file_system(Arc::new(fs.clone())).open("/group").unwrap();
    let before = db.metrics().log_syncs;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let db = db.clone();
            scope.spawn(move || {
                for index in 0..WRITES {
                    let durability = if thread % 4 == 3 { Durability::Buffered } else { Durability::Sync };
                    db.put_with(format!("{thread} {index:04}"), "x", durability).unwrap();
                }
            });
        }
    });
    let syncs = db.metrics().log_syncs - before;
    let synced_writes = THREADS * 3 / 4 * WRITES;
    assert!(syncs < synced_writes, "{syncs} syncs for {synced_writes} synced writes");
    assert_eq!(db.iter().unwrap().count() as u64, THREADS * WRITES);
    covered("writers share syncs", format_args!("{syncs} syncs for {synced_writes} synced writes"));
}

#[test]
fn a_crash_among_writers_keeps_a_prefix_of_each() {
    const THREADS: usize = 6;
    let mut crashes = 0;
    for case in rounds(4) {
        let fs = MemoryFileSystem::new();
        let path = format!("/crash-{case}");
        let db = small().file_system(Arc::new(fs.clone())).open(&path).unwrap();
        let other = db.keyspace("other").unwrap();
        let durable: [AtomicU64; THREADS] = Default::default();
        let done = AtomicBool::new(false);
        let mut clones = Vec::new();
        std::thread::scope(|scope| {
            for (thread, durable) in durable.iter().enumerate() {
                let (db, other, done) = (db.clone(), other.clone(), &done);
                scope.spawn(move || {
                    let mut index = 0_u64;
                    while !done.load(Ordering::Relaxed) {
                        index += 1;
                        // Some threads never sync; those that do, do so mixed.
                        let is_synced = thread % 3 == 0 || thread % 3 == 1 && index.is_multiple_of(7);
                        let durability = if is_synced { Durability::Sync } else { Durability::Buffered };
                        let mut batch = WriteBatch::new();
                        batch.put(&db, format!("{thread} {index:08}"), weighty(index));
                        batch.put(&other, format!("{thread} {index:08}"), weighty(index));
                        db.write_with(batch, durability).unwrap();
                        if is_synced {
                            durable.store(index, Ordering::SeqCst);
                        }
                    }
                });
            }
            for seed in 0..6 {
                std::thread::sleep(Duration::from_millis(15));
                // Read first: what is durable now is in the copy.
                let floors: Vec<u64> = durable.iter().map(|durable| durable.load(Ordering::SeqCst)).collect();
                let policy = match seed % 3 {
                    0 => CrashPolicy::DropUnsynced,
                    _ => CrashPolicy::Torn { seed: case * 100 + seed },
                };
                clones.push((floors, policy, fs.crash_clone(policy)));
            }
            done.store(true, Ordering::Relaxed);
        });
        crashes += clones.len();
        for (floors, policy, clone) in clones {
            let db = small().file_system(Arc::new(clone)).open(&path).unwrap();
            let other = db.keyspace("other").unwrap();
            for (thread, floor) in floors.into_iter().enumerate() {
                let keys = |keyspace: &Keyspace| -> Vec<u64> {
                    let entries = keyspace.prefix(format!("{thread} ")).unwrap();
                    entries.map(|entry| number(&entry.unwrap().1)).collect()
                };
                let found = keys(&db);
                let len = found.len() as u64;
                assert!(
                    found.iter().copied().eq(1..=len),
                    "{policy:?}: thread {thread}: a hole in the history"
                );
                assert!(len >= floor, "{policy:?}: thread {thread} has lost synced writes: {len} of {floor}");
                assert_eq!(keys(&other), found, "{policy:?}: half a batch");
            }
        }
    }
    covered("crashes among writers", format_args!("{crashes} crashes of {THREADS} writers"));
}

#[test]
fn closing_among_writers_loses_nothing_acknowledged() {
    let mut closed = 0;
    for case in rounds(5) {
        let fs = Arc::new(MemoryFileSystem::new());
        let options = small().file_system(fs.clone());
        let path = format!("/closing-{case}");
        let db = options.clone().open(&path).unwrap();
        let acknowledged: Vec<u64> = std::thread::scope(|scope| {
            let write = |thread: u64| {
                let db = db.clone();
                move || {
                    for index in 0.. {
                        let durability =
                            if index % 10 == 0 { Durability::Sync } else { Durability::Buffered };
                        match db.put_with(format!("{thread} {index:08}"), weighty(index), durability) {
                            Ok(()) => {}
                            Err(Error::Closed) => return index,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    unreachable!("it ends when the database is closed")
                }
            };
            let writers: Vec<_> = (0..4).map(|thread| scope.spawn(write(thread))).collect();
            std::thread::sleep(Duration::from_millis(10));
            db.close().unwrap();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        drop(db);
        let names = fs.read_dir(Path::new(&path)).unwrap();
        assert!(!names.iter().any(|name| name.ends_with(".log")), "closed: {names:?}");
        let db = options.open(&path).unwrap();
        for (thread, count) in acknowledged.into_iter().enumerate() {
            assert_eq!(db.prefix(format!("{thread} ")).unwrap().count() as u64, count, "thread {thread}");
        }
        closed += 1;
    }
    covered("closing among writers", format_args!("{closed} times of 4 writers"));
}

#[test]
fn one_of_many_openers_wins() {
    let home = tempfile::tempdir().unwrap();
    let mut opened = 0;
    for round in rounds(20) {
        let path = home.path().join(format!("{}", round % 2));
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let openers: Vec<_> = (0..4).map(|_| scope.spawn(|| small().open(&path))).collect();
            openers.into_iter().map(|opener| opener.join().unwrap()).collect()
        });
        let mut open = Vec::new();
        for outcome in outcomes {
            match outcome {
                Ok(db) => open.push(db),
                Err(Error::Locked { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(open.len(), 1);
        open[0].put("key", "value").unwrap();
        open[0].close().unwrap();
        opened += 1;
    }
    covered("one of many openers wins", format_args!("{opened} times of 4"));
}
