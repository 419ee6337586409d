//! Goal: what concurrent callers see is what they would see if each call happened at one moment between its start and
//! its end: gets, puts, deletes, batches over two keyspaces, clears, and reads of many keys through snapshots,
//! iterators and `multi_get`.
//!
//! Method: a few threads make random calls on four keys in two keyspaces, while another one flushes and compacts.
//! Every value is written once, so a read says which write it saw. Each call is noted with stamps of one clock from
//! before and after it, and `terrace_tests::linearizable` looks for an order that explains them all. Histories are
//! short and many: what is found wrong can be read. In half of the databases most calls meet each other, in the others
//! they meet flushes and compactions.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use terrace::{Db, Durability, Keyspace, KeyspaceOptions, Options, WriteBatch};
use terrace_io::MemoryFileSystem;
use terrace_tests::linearizable::{Action, Call, Contents, KEYS, check};
use terrace_tests::{Trace, covered, seeds};

const CALLERS: usize = 4;
const CALLS: usize = 40;
/// Short histories of one database in memory.
const HISTORIES: u64 = 300;
/// Of one that flushes and compacts without a pause.
const HISTORIES_DISTURBED: u64 = 150;
/// Of one on disk, where each sync is waited for.
const HISTORIES_ON_DISK: u64 = 10;

/// A value that says its number, of many lengths, so that memtables fill.
fn value(number: u64) -> Vec<u8> {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(8 + [0, 8, 100, 100, 1000][number as usize % 5], number as u8);
    value
}

fn number(value: &[u8]) -> u64 {
    let number = u64::from_le_bytes(*value.first_chunk().expect("a value begins with its number"));
    assert!(value == self::value(number), "the value of {number} is not what was written");
    number
}

/// A database and the clock of those who call it.
struct Stage {
    db: Db,
    /// Key `k` is in keyspace `k % 2`: neighbours are apart.
    keyspaces: [Keyspace; 2],
    clock: AtomicU64,
    next_value: AtomicU64,
    /// Whether there are flushes and compactions without a pause.
    is_disturbed: bool,
}

impl Stage {
    fn open(path: &Path, options: &Options, is_disturbed: bool) -> Stage {
        let db = options.clone().open(path).unwrap();
        let keyspaces = ["even", "odd"].map(|name| db.keyspace(name).unwrap());
        Stage { db, keyspaces, clock: AtomicU64::new(0), next_value: AtomicU64::new(1), is_disturbed }
    }

    fn stamp(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn place(&self, key: usize) -> (&Keyspace, [u8; 9]) {
        let mut name = *b"key 0 end";
        name[4] += key as u8;
        (&self.keyspaces[key % 2], name)
    }

    /// Calls at random. Other keys lie between those that are looked at, and make trees and tables grow.
    fn call(&self, thread: usize, mut rng: Xoshiro256PlusPlus) -> Vec<Call> {
        (0..CALLS)
            .map(|_| {
                if rng.random_ratio(if self.is_disturbed { 3 } else { 1 }, 10) {
                    let ballast = rng.random_range(0..200_usize);
                    let key = format!("key {} {ballast}", ballast % 5);
                    self.keyspaces[ballast % 2].put_with(key, [7; 100], Durability::Buffered).unwrap();
                }
                let key = rng.random_range(0..KEYS);
                let kind = rng.random_range(0..100);
                let start = self.stamp();
                let action = match kind {
                    0..40 => self.read(kind, key),
                    40..42 => self.clear(key % 2),
                    _ => self.write(kind, key, &mut rng),
                };
                Call { thread, start, end: self.stamp(), action }
            })
            .collect()
    }

    fn read(&self, kind: u32, key: usize) -> Action {
        let (keyspace, name) = self.place(key);
        let same = [key % 2, key % 2 + 2];
        let found = |value: Option<terrace::Slice>| value.map_or(0, |value| number(&value));
        Action::Read(match kind {
            0..10 => vec![(key, found(keyspace.get(name).unwrap()))],
            10..18 => vec![(key, keyspace.get_with(name, number).unwrap().unwrap_or(0))],
            18..23 => {
                let values = keyspace.multi_get(same.map(|key| self.place(key).1)).unwrap();
                same.into_iter().zip(values.into_iter().map(found)).collect()
            }
            23..28 => {
                let mut seen = same.map(|key| (key, 0));
                let mut note = |name: &[u8], value: &[u8]| {
                    let known = seen.iter_mut().find(|(key, _)| self.place(*key).1 == *name);
                    known.into_iter().for_each(|(_, seen)| *seen = number(value));
                };
                let iter = keyspace.iter().unwrap().map(Result::unwrap);
                match kind % 2 {
                    0 => iter.for_each(|(name, value)| note(&name, &value)),
                    _ => iter.rev().for_each(|(name, value)| note(&name, &value)),
                }
                seen.to_vec()
            }
            _ => {
                let snapshot = self.db.snapshot().unwrap();
                let read = |key: usize| {
                    let (keyspace, name) = self.place(key);
                    (key, found(snapshot.get(keyspace, name).unwrap()))
                };
                let seen: Vec<_> = (0..KEYS).map(read).collect();
                let again: Vec<_> = (0..KEYS).rev().map(read).collect();
                assert!(again.iter().rev().eq(&seen), "a snapshot stands still: {seen:?}, then {again:?}");
                seen
            }
        })
    }

    fn write(&self, kind: u32, key: usize, rng: &mut Xoshiro256PlusPlus) -> Action {
        let durability = if kind.is_multiple_of(8) { Durability::Sync } else { Durability::Buffered };
        let keys = if kind < 70 { vec![key] } else { vec![key, (key + rng.random_range(1..KEYS)) % KEYS] };
        let writes: Vec<_> = keys
            .into_iter()
            .map(|key| match rng.random_ratio(1, 4) {
                true => (key, 0),
                false => (key, self.next_value.fetch_add(1, Ordering::Relaxed)),
            })
            .collect();
        if let [(key, written)] = writes[..] {
            let (keyspace, name) = self.place(key);
            match written {
                0 => keyspace.delete_with(name, durability).unwrap(),
                _ => keyspace.put_with(name, value(written), durability).unwrap(),
            }
        } else {
            let mut batch = WriteBatch::new();
            for &(key, written) in &writes {
                // The more there is before and between, the longer it takes to become visible.
                for ballast in 0..rng.random_range(0..10) {
                    batch.put(&self.keyspaces[ballast % 2], format!("key {ballast}"), [7; 100]);
                }
                let (keyspace, name) = self.place(key);
                match written {
                    0 => batch.delete(keyspace, name),
                    _ => batch.put(keyspace, name, value(written)),
                };
            }
            self.db.write_with(batch, durability).unwrap();
        }
        Action::Wrote(writes)
    }

    fn clear(&self, parity: usize) -> Action {
        self.keyspaces[parity].clear().unwrap();
        Action::Wrote((0..KEYS).filter(|key| key % 2 == parity).map(|key| (key, 0)).collect())
    }

    fn contents(&self) -> Contents {
        let read = |key| {
            let (keyspace, name) = self.place(key);
            keyspace.get_with(name, number).unwrap().unwrap_or(0)
        };
        std::array::from_fn(read)
    }

    /// Flushes and compacts until there is nothing more to disturb.
    fn disturb(&self, done: &AtomicBool) {
        for turn in 0_usize.. {
            if done.load(Ordering::Relaxed) {
                break;
            }
            match turn % 3 {
                0 | 1 => self.db.flush().unwrap(),
                _ => self.keyspaces[turn % 2].compact_range::<&str>(..).unwrap(),
            }
            if !self.is_disturbed {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// What all histories of a database had in them.
#[derive(Default)]
struct Figures {
    histories: u64,
    calls: u64,
    /// Calls that began while another one ran.
    overlapping: u64,
    flushes: u64,
    compactions: u64,
}

fn histories(path: &Path, options: &Options, seed: u64, count: u64, figures: &mut Figures) {
    let stage = Stage::open(path, options, seed % 2 == 1);
    let mut contents = stage.contents();
    let done = AtomicBool::new(false);
    struct Finish<'a>(&'a AtomicBool);
    impl Drop for Finish<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| stage.disturb(&done));
        let _finish = Finish(&done);
        for history in 0..count {
            let together = Barrier::new(CALLERS);
            let calls: Vec<Call> = std::thread::scope(|scope| {
                let caller = |thread: usize| {
                    let (stage, together) = (&stage, &together);
                    let seed =
                        seed.wrapping_mul(1 << 20).wrapping_add(history * CALLERS as u64 + thread as u64);
                    move || {
                        let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
                        together.wait();
                        stage.call(thread, rng)
                    }
                };
                let callers: Vec<_> = (0..CALLERS).map(|thread| scope.spawn(caller(thread))).collect();
                callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
            });
            let possible = check(contents, &calls).unwrap_or_else(|refused| panic!("{refused}"));
            contents = stage.contents();
            assert!(possible.contains(&contents), "at rest {contents:?}, and not one of {possible:?}");
            figures.histories += 1;
            figures.calls += calls.len() as u64;
            figures.overlapping += overlapping(&calls);
        }
    });
    let metrics = stage.db.metrics();
    figures.flushes += metrics.flushes;
    figures.compactions += metrics.compactions;
    drop(stage);
    assert_eq!(Stage::open(path, options, false).contents(), contents, "the same is found again");
}

fn overlapping(calls: &[Call]) -> u64 {
    let runs_at = |at: u64| calls.iter().any(|other| other.start < at && at < other.end);
    calls.iter().filter(|call| runs_at(call.start)).count() as u64
}

fn options() -> Options {
    Options::new()
        .memtable_bytes(64 << 10)
        .segment_bytes_max(64 << 10)
        .level_base_bytes(128 << 10)
        .l0_trigger(2)
        .compaction_threads(1)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(64 << 10))
}

#[test]
fn one_order_explains_what_all_have_seen() {
    let mut figures = Figures::default();
    for seed in seeds(16) {
        let _trace = Trace::new("linearizability", seed);
        if seed % 8 == 0 {
            let home = tempfile::tempdir().unwrap();
            histories(&home.path().join("db"), &options(), seed, HISTORIES_ON_DISK, &mut figures);
        } else {
            let fs = Arc::new(MemoryFileSystem::new());
            let count = if seed % 2 == 1 { HISTORIES_DISTURBED } else { HISTORIES };
            histories(Path::new("/db"), &options().file_system(fs), seed, count, &mut figures);
        }
    }
    let Figures { histories, calls, overlapping, flushes, compactions } = figures;
    assert!(overlapping > calls / 20, "{overlapping} of {calls} calls overlapped: nothing was concurrent");
    covered(
        "linearizability",
        format_args!(
            "{histories} histories, {calls} calls, {overlapping} begun while others ran, {flushes} flushes, \
             {compactions} compactions"
        ),
    );
}
