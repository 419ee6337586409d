//! Models of what threads do to each other: the real [`GroupCommit`], [`GroupSync`], [`Swap`], [`Current`] and
//! [`Snapshots`] between threads that loom runs in every order with up to [`PREEMPTIONS`] preemptions, with the answers that the
//! memory model allows a load. (Some things are simpler than they are: `crate::sync` tells which.)
//!
//! Around them stands as little as will do: a memtable is a row of flags, a file a number. `docs/testing.md` says
//! how they are run.

use std::collections::BTreeSet;
use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;
use terrace_io::{Error, Result};
use terrace_wal::Position;

use crate::current::{Current, Visible};
use crate::group_commit::GroupCommit;
use crate::group_sync::GroupSync;
use crate::poison::Poison;
use crate::snapshot::Snapshots;
use crate::swap::Swap;
use crate::sync::{Mutex, refuse_a_fence};

/// A thread is stopped in favour of another at most so often. (One that waits has not been stopped.) Most mistakes need
/// one or two.
const PREEMPTIONS: usize = 3;

/// Runs a model in every order, and says how many there were.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Unless the environment says otherwise.
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    let runs = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = runs.clone();
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    println!("covered: {name}: {} orders", runs.load(std::sync::atomic::Ordering::Relaxed));
}

/// Threads that commit, as `Core::write` does, and read their own writes.
struct Committing {
    committer: GroupCommit<Vec<u32>, u32, std::result::Result<u64, u32>>,
    visible: Visible,
    /// Entry `i` has sequence number `i + 1`.
    memtable: [AtomicU32; 3],
}

impl Committing {
    /// As `Core::commit_requests`: the log, the memtable, the published number.
    fn commit_requests(&self, log: &mut Vec<u32>, requests: &[u32]) -> Vec<std::result::Result<u64, u32>> {
        let outcomes = requests.iter().map(|&request| {
            if request == REFUSED {
                return Err(request);
            }
            log.push(request);
            self.memtable[log.len() - 1].store(request, Ordering::Relaxed);
            Ok(log.len() as u64)
        });
        let outcomes = outcomes.collect();
        self.visible.publish(log.len() as u64);
        outcomes
    }

    fn write(&self, request: u32) {
        let outcome = match self.committer.try_lock() {
            Some(mut log) => self.commit_requests(&mut log, &[request])[0],
            None => self.committer.commit(request, 1, |log, group| {
                let requests: Vec<u32> = group.iter().map(|waiter| waiter.request).collect();
                let outcomes = self.commit_requests(log, &requests);
                group.iter().zip(outcomes).for_each(|(waiter, outcome)| waiter.tell(outcome));
            }),
        };
        let now = self.visible.get();
        match outcome {
            Ok(sequence) => {
                assert!(now >= sequence, "acknowledged before it was published");
                let found = self.memtable[sequence as usize - 1].load(Ordering::Relaxed);
                assert_eq!(found, request, "the outcome is that of another request");
            }
            Err(refused) => assert_eq!((refused, request), (REFUSED, REFUSED)),
        }
        self.look(now);
    }

    fn look(&self, now: u64) {
        let published = &self.memtable[..now as usize];
        assert!(
            published.iter().all(|entry| entry.load(Ordering::Relaxed) != 0),
            "published before inserted"
        );
    }
}

/// A request that cannot be committed, among others that can.
const REFUSED: u32 = 99;

#[test]
fn loom_commits_in_groups() {
    explore(|| {
        let stage = Arc::new(Committing {
            committer: GroupCommit::new(Vec::new()),
            visible: Visible::new(0),
            memtable: Default::default(),
        });
        let writers = [10, REFUSED].map(|request| {
            let stage = stage.clone();
            thread::spawn(move || stage.write(request))
        });
        stage.look(stage.visible.get());
        stage.write(11);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let log: BTreeSet<u32> = stage.committer.lock().iter().copied().collect();
        assert_eq!((log, stage.visible.get()), (BTreeSet::from([10, 11]), 2), "each is committed once");
    });
}

/// A file that a sync makes durable as far as it is written, except that one sync fails and loses what was there: those
/// after it succeed, and prove nothing.
#[derive(Default)]
struct File {
    written: AtomicU32,
    durable: AtomicU32,
    fails: bool,
    lost: AtomicBool,
}

impl File {
    fn sync(&self) -> Result<()> {
        let written = self.written.load(Ordering::Acquire);
        if self.fails && !self.lost.swap(true, Ordering::AcqRel) {
            return Err(Error::invalid("a sync that fails"));
        }
        if !self.fails {
            self.durable.fetch_max(written, Ordering::AcqRel);
        }
        Ok(())
    }

    /// What is on the disk at this moment, whatever this thread has heard of: hence no load.
    fn durable(&self) -> u32 {
        self.durable.fetch_max(0, Ordering::AcqRel)
    }
}

/// The log as a commit lock with the segment that is appended to, and the number of records in all.
struct Syncing {
    sync: GroupSync<Arc<File>>,
    poison: Poison,
    appender: Mutex<(usize, u32)>,
    files: [Arc<File>; 2],
}

impl Syncing {
    fn new(fails: bool) -> Arc<Syncing> {
        let files = std::array::from_fn(|_| Arc::new(File { fails, ..File::default() }));
        let stage = Syncing {
            sync: GroupSync::new(),
            poison: Poison::default(),
            appender: Mutex::new((0, 0)),
            files,
        };
        stage.sync.begin_file(stage.files[0].clone());
        Arc::new(stage)
    }

    /// As `Appender::forget_failed`: erases what a failed append has left behind the records of one segment, goes on in
    /// the next, and makes sure of both. Says whether it has.
    fn erase(&self) -> bool {
        let (segment, records) = &mut *self.appender.lock();
        let erased = &self.files[*segment];
        let end = *records + 1;
        erased.written.store(end, Ordering::Release);
        *segment += 1;
        self.sync.begin_file(self.files[*segment].clone());
        match self.sync.sync_again(&self.poison, |file| file.sync()) {
            Ok(()) => assert!(erased.durable() >= end, "what was erased can come back"),
            Err(Error::OutcomeUnknown { .. }) => assert!(self.poison.check().is_err()),
            Err(error) => panic!("{error}"),
        }
        self.poison.check().is_ok()
    }

    /// Appends a record, perhaps to the next segment, and waits for it to be durable. Says whether it is.
    fn write(&self, rolls: bool) -> bool {
        let end = {
            let (segment, records) = &mut *self.appender.lock();
            if rolls {
                *segment += 1;
                self.sync.begin_file(self.files[*segment].clone());
            }
            *records += 1;
            self.files[*segment].written.store(*records, Ordering::Release);
            let end = Position { segment: *segment as u32, offset: *records };
            self.sync.set_written(end);
            end
        };
        let outcome = self.sync.sync_through(end, &self.poison, |file| file.sync());
        let durable = self.files[end.segment as usize].durable();
        match &outcome {
            Ok(()) => assert!(durable >= end.offset, "acknowledged before it was durable"),
            Err(Error::OutcomeUnknown { .. }) => assert!(self.poison.check().is_err()),
            Err(error) => panic!("{error}"),
        }
        // Whatever is known to be synced, is.
        let synced = self.sync.synced();
        assert!(self.files[synced.segment as usize].durable() >= synced.offset, "{synced:?} is not");
        outcome.is_ok()
    }
}

#[test]
fn loom_shares_syncs() {
    explore(|| {
        let stage = Syncing::new(false);
        let writers = [true, false].map(|rolls| {
            let stage = stage.clone();
            thread::spawn(move || assert!(stage.write(rolls)))
        });
        assert!(stage.write(false));
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}

#[test]
fn loom_fails_syncs_for_good() {
    explore(|| {
        let stage = Syncing::new(true);
        let writers = [true, false].map(|rolls| {
            let stage = stage.clone();
            thread::spawn(move || assert!(!stage.write(rolls)))
        });
        assert!(!stage.write(false));
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}

#[test]
fn loom_erases_beside_syncs() {
    explore(|| {
        let stage = Syncing::new(false);
        let writers = [(); 2].map(|()| {
            let stage = stage.clone();
            thread::spawn(move || assert!(stage.write(false)))
        });
        assert!(stage.erase());
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}

/// The system tells of a failed sync once: whoever is told, none goes on.
#[test]
fn loom_erases_beside_failing_syncs() {
    explore(|| {
        let stage = Syncing::new(true);
        let writer = {
            let stage = stage.clone();
            thread::spawn(move || assert!(!stage.write(false)))
        };
        assert!(!stage.erase());
        writer.join().unwrap();
        assert!(!stage.write(false));
    });
}

/// Knows whether it is looked at after it was dropped; or, if `is_strict`, without being ordered before: loom tells
/// accesses that are ordered from those that are not, as long as nobody counts a reference.
struct Value {
    number: u32,
    /// 1 until it is dropped.
    whole: AtomicU32,
    is_strict: bool,
    _alive: Arc<()>,
}

impl Value {
    fn look(&self) -> u32 {
        assert_eq!(self.whole.load(Ordering::Relaxed), 1, "it is looked at after it went");
        self.number
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        match self.is_strict {
            true => self.whole.with_mut(|whole| *whole = 0),
            false => self.whole.store(0, Ordering::Relaxed),
        }
    }
}

/// Replaces a value twice while two threads read. If `is_refused`, the first fence of that fails.
fn swap_values(is_strict: bool, is_refused: bool, read: fn(&Swap<Value>)) {
    let alive = Arc::new(());
    let value = |number| Value { number, whole: AtomicU32::new(1), is_strict, _alive: alive.clone() };
    let swap = Arc::new(Swap::new(value(0)));
    let readers = [(); 2].map(|()| {
        let swap = swap.clone();
        thread::spawn(move || read(&swap))
    });
    if is_refused {
        refuse_a_fence();
    }
    swap.store(Arc::new(value(1)));
    swap.store(Arc::new(value(2)));
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert_eq!(swap.load().look(), 2);
    assert_eq!(Arc::strong_count(&alive), 2, "only the last is left");
}

#[test]
fn loom_swaps_values_behind_those_that_look() {
    let read = |swap: &Swap<Value>| {
        let first = swap.load().look();
        assert!(swap.load().look() >= first, "an old value is back");
    };
    for is_refused in [false, true] {
        explore(move || swap_values(true, is_refused, read));
    }
}

#[test]
fn loom_swaps_values_that_are_counted() {
    let read = |swap: &Swap<Value>| {
        let outer = swap.load();
        // More than a thread has hazards for.
        let inner = swap.load();
        assert!(inner.look() >= outer.look(), "an old value is back");
        let kept = outer.to_arc();
        drop(outer);
        inner.look();
        kept.look();
    };
    explore(move || swap_values(false, false, read));
}

/// Versions of one key: flag `i` says that there is the version with sequence number `i`.
type Versions = [AtomicBool; 5];

/// Some of the versions, in a file that is deleted when it is let go of.
struct Table {
    versions: Vec<u64>,
    deleted: Arc<AtomicBool>,
}

impl Drop for Table {
    fn drop(&mut self) {
        self.deleted.store(true, Ordering::Release);
    }
}

/// As `crate::version::State`: memtables, newest first, and a table.
struct State {
    memtables: Vec<Arc<Versions>>,
    table: Arc<Table>,
}

impl State {
    fn find(&self, snapshot: u64) -> Option<u64> {
        assert!(!self.table.deleted.load(Ordering::Acquire), "a table is deleted while it is read");
        for memtable in &self.memtables {
            let versions = memtable.iter().enumerate().rev();
            let mut versions = versions.filter(|(version, _)| *version as u64 <= snapshot);
            if let Some((version, _)) = versions.find(|(_, is_there)| is_there.load(Ordering::Relaxed)) {
                return Some(version as u64);
            }
        }
        self.table.versions.iter().rev().copied().find(|version| *version <= snapshot)
    }
}

/// A keyspace with one key, of which version 1 is in a table.
struct Reading {
    current: Current<State>,
    visible: Visible,
    snapshots: Snapshots,
    deleted: [Arc<AtomicBool>; 3],
}

impl Reading {
    fn new() -> Arc<Reading> {
        let deleted: [_; 3] = std::array::from_fn(|_| Arc::new(AtomicBool::new(false)));
        let table = Arc::new(Table { versions: vec![1], deleted: deleted[0].clone() });
        let current = Current::new(State { memtables: vec![Arc::default()], table });
        Arc::new(Reading { current, visible: Visible::new(1), snapshots: Snapshots::default(), deleted })
    }

    fn write(&self, version: u64) {
        self.current.peek().memtables[0][version as usize].store(true, Ordering::Relaxed);
        self.visible.publish(version);
    }

    fn seal(&self) {
        self.current.replace(|state| {
            let memtables = std::iter::once(Arc::default()).chain(state.memtables.iter().cloned()).collect();
            (State { memtables, table: state.table.clone() }, ())
        });
    }

    /// As a flush with a compaction behind it: merges the sealed memtables and the table into a new one, with the
    /// versions that are needed.
    fn compact(&self, number: usize) {
        let state = self.current.state();
        let sealed = State { memtables: state.memtables[1..].to_vec(), table: state.table.clone() };
        let needed = self.snapshots.sequences().into_iter().chain([u64::MAX]);
        let versions: BTreeSet<u64> = needed.filter_map(|snapshot| sealed.find(snapshot)).collect();
        let versions = versions.into_iter().collect();
        let table = Arc::new(Table { versions, deleted: self.deleted[number].clone() });
        self.current.replace(|state| {
            let mut memtables = state.memtables.clone();
            memtables.truncate(memtables.len() - sealed.memtables.len());
            (State { memtables, table }, ())
        });
    }

    /// Runs `read` against a thread that writes and one that compacts.
    fn disturb(read: fn(&Reading)) {
        let stage = Reading::new();
        let others = [read, |stage| stage.compact(1)].map(|other| {
            let stage = stage.clone();
            thread::spawn(move || other(&stage))
        });
        stage.write(2);
        stage.seal();
        stage.write(3);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(stage.current.peek().find(stage.visible.get()), Some(3), "a write is lost");
        stage.seal();
        stage.compact(2);
        assert_eq!(stage.current.peek().find(stage.visible.get()), Some(3), "a write is lost");
        let deleted = stage.deleted.each_ref().map(|deleted| deleted.load(Ordering::Acquire));
        assert_eq!(deleted, [true, true, false], "tables go once they are replaced, and not before");
    }
}

#[test]
fn loom_reads_while_states_are_replaced() {
    let read = |stage: &Reading| {
        let mut before = stage.visible.get();
        for _ in 0..2 {
            let (state, visible) = stage.current.peek_at(&stage.visible);
            let found = state.find(visible).expect("there is always a version");
            assert!(found >= before && found <= visible, "{found} of {visible} after {before}");
            before = found;
        }
    };
    explore(move || Reading::disturb(read));
}

#[test]
fn loom_takes_snapshots_while_states_are_replaced() {
    let read = |stage: &Reading| {
        let id = stage.snapshots.register(|| stage.visible.get());
        for _ in 0..2 {
            assert_eq!(stage.current.state_for(id.1).find(id.0), Some(id.0), "a snapshot stands still");
        }
        stage.snapshots.release(id, |any_before| stage.current.forget_cleared(any_before));
    };
    explore(move || Reading::disturb(read));
}

#[test]
fn loom_clears_under_snapshots() {
    explore(|| {
        let stage = Reading::new();
        let cleared = Arc::new(AtomicBool::new(false));
        let readers = [(); 2].map(|()| {
            let (stage, cleared) = (stage.clone(), cleared.clone());
            thread::spawn(move || {
                let was_cleared = cleared.load(Ordering::Acquire);
                let id = stage.snapshots.register(|| stage.visible.get());
                let look = || stage.current.state_for(id.1).find(id.0);
                let seen = look();
                assert!(!was_cleared || seen.is_none(), "what was cleared is back");
                assert_eq!(look(), seen, "a snapshot stands still over a clear");
                stage.snapshots.release(id, |any_before| stage.current.forget_cleared(any_before));
            })
        });
        // As `Core::clear_keyspace`.
        stage.snapshots.frozen(|moment, any_before| {
            stage.current.keep_cleared(moment, any_before);
            stage.current.replace(|_| {
                let table = Arc::new(Table { versions: vec![], deleted: stage.deleted[1].clone() });
                (State { memtables: vec![], table }, ())
            });
        });
        cleared.store(true, Ordering::Release);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert!(stage.deleted[0].load(Ordering::Acquire), "what was kept for snapshots goes with the last");
        assert!(!stage.deleted[1].load(Ordering::Acquire));
    });
}
