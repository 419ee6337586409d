//! One sync for many: the first thread that needs the log to be durable syncs for all that was written by then, and the
//! others wait for it. That happens outside the commit lock, so that the next group is written meanwhile and no
//! buffered writer waits for a disk.
//!
//! Threads that write again as soon as they are told fall into two halves: while a sync runs for one, the other writes,
//! and then the next sync begins before the first has come back. So whoever syncs next waits a little for those that
//! the last sync has served, as long as they do come.

use std::time::{Duration, Instant};

use terrace_io::{Error, Result};
use terrace_wal::Position;

use crate::poison::Poison;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// How far the log is written and how far it is durable. `F` is a file of it.
pub(crate) struct GroupSync<F> {
    state: Mutex<SyncState<F>>,
    changed: Condvar,
    /// `SyncState::synced`, for record headers.
    synced: AtomicU64,
    pub syncs: AtomicU64,
}

struct SyncState<F> {
    /// The end of the last record.
    written: Position,
    synced: Position,
    /// Files that hold bytes between `synced` and `written`, oldest first; the last one is being appended to.
    unsynced: Vec<F>,
    running: bool,
    gathering: Gathering,
}

/// Who comes for a sync, and how long it pays to wait for them.
#[derive(Default)]
struct Gathering {
    /// Threads that came since the last sync began: it does not serve them.
    arrived: usize,
    /// As many would have come if those that the last sync has served came back.
    expected: usize,
    /// How long the last sync took.
    sync_time: Duration,
    /// Syncs that begin at once, since some have waited in vain.
    rest: u32,
    /// How many the next vain wait will cost.
    next_rest: u32,
}

/// Nobody waits longer for others to come.
const GATHER_MAX: Duration = Duration::from_micros(500);
/// After waits in vain so many syncs at most begin at once.
const REST_MAX: u32 = 256;

impl Gathering {
    /// How long to wait for those that are missing.
    fn limit(&mut self) -> Duration {
        if self.arrived >= self.expected {
            return Duration::ZERO;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return Duration::ZERO;
        }
        (self.sync_time / 2).min(GATHER_MAX)
    }

    /// Says how a wait ended.
    fn waited(&mut self) {
        let in_vain = self.arrived < self.expected;
        self.next_rest = if in_vain { (2 * self.next_rest).clamp(1, REST_MAX) } else { 0 };
        self.rest = self.next_rest;
    }
}

fn pack(position: Position) -> u64 {
    u64::from(position.segment) << 32 | u64::from(position.offset)
}

fn unpack(packed: u64) -> Position {
    Position { segment: (packed >> 32) as u32, offset: packed as u32 }
}

impl<F: Clone> GroupSync<F> {
    pub fn new() -> Self {
        let (written, synced) = (Position::default(), Position::default());
        GroupSync {
            state: Mutex::new(SyncState {
                written,
                synced,
                unsynced: Vec::new(),
                running: false,
                gathering: Gathering::default(),
            }),
            changed: Condvar::new(),
            synced: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        }
    }

    /// Where the next record goes, more or less: everything acknowledged so far lies before.
    pub fn written(&self) -> Position {
        self.state.lock().written
    }

    /// How far the log is known to be durable.
    pub fn synced(&self) -> Position {
        unpack(self.synced.load(Relaxed))
    }

    /// Whether no file is appended to.
    pub fn is_at_rest(&self) -> bool {
        self.state.lock().unsynced.is_empty()
    }

    /// From here on, records go to `file`. `written` stays where the last one ended: what is said to be synced is
    /// always the end of a record.
    pub fn begin_file(&self, file: F) {
        self.state.lock().unsynced.push(file);
    }

    /// Records have been written up to `end`.
    pub fn set_written(&self, end: Position) {
        self.state.lock().written = end;
    }

    /// Nothing that was written is needed any more, and nothing is appended to its files.
    pub fn leave_files(&self) {
        let mut state = self.state.lock();
        state.unsynced.clear();
        state.synced = state.written;
        self.synced.store(pack(state.written), Relaxed);
    }

    /// Makes everything before `position` durable: syncs each file with `sync`, or waits for the thread that does.
    ///
    /// [`Error::OutcomeUnknown`] if the sync fails: the database is poisoned then.
    pub fn sync_through(
        &self,
        position: Position,
        poison: &Poison,
        sync: impl Fn(&F) -> Result<()>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        state.gathering.arrived += usize::from(state.synced < position);
        loop {
            if state.synced >= position {
                return Ok(());
            }
            if let Some(cause) = poison.cause() {
                return Err(Error::OutcomeUnknown { cause: cause.clone() });
            }
            if state.running {
                self.changed.wait(&mut state);
                continue;
            }
            state = self.sync_files(state, poison, &sync);
        }
    }

    /// Syncs the files although every record in them may be durable: for what was erased behind these. Like every
    /// sync, that is one at a time: the system tells of a failure only once.
    ///
    /// [`Error::OutcomeUnknown`] if the sync fails: the database is poisoned then.
    pub fn sync_again(&self, poison: &Poison, sync: impl Fn(&F) -> Result<()>) -> Result<()> {
        let mut state = self.state.lock();
        while state.running {
            self.changed.wait(&mut state);
        }
        if poison.cause().is_none() {
            drop(self.sync_files(state, poison, &sync));
        }
        match poison.cause() {
            Some(cause) => Err(Error::OutcomeUnknown { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Waits for those that the last sync has served to come back, as long as that can pay.
    fn gather<'a>(&'a self, mut state: MutexGuard<'a, SyncState<F>>) -> MutexGuard<'a, SyncState<F>> {
        let limit = state.gathering.limit();
        // A model has no time to wait for.
        if limit.is_zero() || cfg!(terrace_loom) {
            return state;
        }
        let began = Instant::now();
        while state.gathering.arrived < state.gathering.expected && began.elapsed() < limit {
            drop(state);
            std::thread::yield_now();
            state = self.state.lock();
        }
        state.gathering.waited();
        state
    }

    /// Syncs all files for everything that is written now. A failure poisons.
    fn sync_files<'a>(
        &'a self,
        mut state: MutexGuard<'a, SyncState<F>>,
        poison: &Poison,
        sync: &impl Fn(&F) -> Result<()>,
    ) -> MutexGuard<'a, SyncState<F>> {
        state.running = true;
        state = self.gather(state);
        let target = state.written;
        let served = std::mem::take(&mut state.gathering.arrived);
        let files = state.unsynced.clone();
        drop(state);
        let began = Instant::now();
        let outcome = files.iter().try_for_each(sync);
        let sync_time = began.elapsed();
        self.syncs.fetch_add(files.len() as u64, Relaxed);
        let mut state = self.state.lock();
        state.running = false;
        state.gathering.sync_time = sync_time;
        state.gathering.expected = served + state.gathering.arrived;
        match outcome {
            Ok(()) => {
                state.synced = target;
                self.synced.store(pack(target), Relaxed);
                // The newest of them may have been appended to since, so it stays.
                let done = files.len().saturating_sub(1).min(state.unsynced.len());
                state.unsynced.drain(..done);
            }
            Err(error) => drop(poison.set(error)),
        }
        self.changed.notify_all();
        state
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn at(segment: u32, offset: u32) -> Position {
        Position { segment, offset }
    }

    #[test]
    fn a_log_at_rest_owes_no_sync() {
        let sync = GroupSync::new();
        let (poison, synced) = (Poison::default(), std::cell::RefCell::new(Vec::new()));
        let through = |position| {
            sync.sync_through(position, &poison, |file| {
                synced.borrow_mut().push(*file);
                Ok(())
            })
            .unwrap();
            synced.take()
        };
        assert!(sync.is_at_rest() && through(at(0, 0)).is_empty());
        sync.begin_file("first");
        sync.set_written(at(1, 500));
        sync.begin_file("second");
        sync.set_written(at(2, 300));
        assert!(!sync.is_at_rest());
        // All that is written, whatever was asked for; the last file is appended to, and stays.
        assert_eq!(through(at(1, 200)), ["first", "second"]);
        assert_eq!((sync.synced(), sync.syncs.load(Relaxed)), (at(2, 300), 2));
        assert!(through(at(2, 300)).is_empty());
        sync.set_written(at(2, 600));
        assert_eq!(through(at(2, 301)), ["second"]);
        sync.set_written(at(2, 900));
        sync.leave_files();
        assert!(sync.is_at_rest());
        assert_eq!((sync.written(), sync.synced()), (at(2, 900), at(2, 900)));
        assert!(through(at(2, 900)).is_empty());
    }

    #[test]
    fn waiting_in_vain_is_given_up() {
        let mut gathering = Gathering { sync_time: Duration::from_millis(1), ..Gathering::default() };
        let mut waits = 0;
        for _ in 0..1000 {
            (gathering.arrived, gathering.expected) = (1, 2);
            if !gathering.limit().is_zero() {
                waits += 1;
                gathering.waited();
            }
        }
        assert!((8..16).contains(&waits), "{waits}");
        // One that came back in time is waited for again at once.
        gathering.rest = 0;
        gathering.arrived = 2;
        gathering.waited();
        gathering.arrived = 1;
        assert_eq!(gathering.limit(), GATHER_MAX);
        gathering.sync_time = Duration::from_micros(100);
        assert_eq!(gathering.limit(), Duration::from_micros(50));
    }

    #[test]
    fn threads_share_syncs() {
        const THREADS: u32 = 4;
        const PUTS: u32 = 100;
        let (sync, poison, barrier) = (GroupSync::new(), Poison::default(), Barrier::new(THREADS as usize));
        let written = Mutex::new(0);
        sync.begin_file(());
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..PUTS {
                        let end = {
                            let mut written = written.lock();
                            *written += 1;
                            sync.set_written(at(1, *written));
                            at(1, *written)
                        };
                        let slow = |(): &()| {
                            std::thread::sleep(Duration::from_millis(2));
                            Ok(())
                        };
                        sync.sync_through(end, &poison, slow).unwrap();
                        assert!(sync.synced() >= end);
                    }
                });
            }
        });
        let syncs = sync.syncs.load(Relaxed);
        // Two halves would need two for each round, and threads that do not share four.
        assert!((u64::from(PUTS)..=u64::from(2 * PUTS + PUTS / 2)).contains(&syncs), "{syncs}");
    }
}
