//! Background work: who flushes and who compacts, and when.
//!
//! One thread flushes, some compact. Each looks for work whenever something changed and sleeps otherwise. A failure is
//! remembered for [`crate::Health`], and the work is tried again after a pause: nothing is lost by a flush that failed,
//! since the log still has it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use terrace_compaction::{Choice, L0_TRIGGER_QUIET, Policy, pick};
use terrace_io::{Error, Result};

use crate::core::Core;
use crate::flush::MEMTABLES_PER_FLUSH;
use crate::keyspace::KeyspaceInner;
use crate::{compact, flush};

/// A failed job is tried again after this long, and each further time after twice as long, up to the other.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// What the workers share.
#[derive(Default)]
pub(crate) struct Work {
    pub state: Mutex<WorkState>,
    /// Signalled whenever there may be new work, and whenever some is done.
    pub changed: Condvar,
}

#[derive(Default)]
pub(crate) struct WorkState {
    /// Running compactions, with their keyspaces.
    pub compacting: Vec<(u32, Arc<Choice>)>,
    /// Keyspaces that a manual compaction has to itself.
    pub manual: HashSet<u32>,
    /// How many checkpoints and backups are being made.
    pub copies: usize,
    pub flush_trouble: Option<Trouble>,
    pub compaction_trouble: HashMap<u32, Trouble>,
}

impl WorkState {
    /// The compactions that run in a keyspace.
    pub fn compacting_in(&self, keyspace: u32) -> impl Iterator<Item = &Choice> {
        self.compacting.iter().filter(move |(id, _)| *id == keyspace).map(|(_, choice)| &**choice)
    }
}

/// A job that failed and will be tried again.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub error: Error,
    /// When the attempt began that failed.
    pub began: Instant,
    pub retry_at: Instant,
    pause: Duration,
}

impl Trouble {
    fn after(error: Error, began: Instant, before: Option<&Trouble>) -> Self {
        let pause = before.map_or(RETRY_FIRST, |before| (2 * before.pause).min(RETRY_LAST));
        // Space may be freed at any time, and looking for it costs little.
        let pause = if error.is_disk_full() { pause.min(Duration::from_secs(1)) } else { pause };
        Trouble { error, began, retry_at: Instant::now() + pause, pause }
    }

    /// Tries again at once. Says when: what fails from here on has failed anew.
    pub fn retry_now<'a>(troubles: impl Iterator<Item = &'a mut Trouble>) -> Instant {
        let now = Instant::now();
        troubles.for_each(|trouble| trouble.retry_at = now);
        now
    }

    fn holds(trouble: Option<&Trouble>) -> bool {
        trouble.is_some_and(|trouble| Instant::now() < trouble.retry_at)
    }
}

impl Core {
    /// Wakes whoever waits for work or for its end, and adjusts the throttle to what is owed now.
    pub fn work_changed(&self) {
        {
            // Held, so that a newer limit is not replaced by an older one, and nobody is between looking and sleeping.
            let _state = self.work.state.lock();
            self.throttle.set(self.pressures());
        }
        self.work.changed.notify_all();
    }

    fn next_flush(&self) -> Option<Arc<KeyspaceInner>> {
        if self.poison.cause().is_some() {
            return None;
        }
        // The one that keeps the oldest log alive.
        let keyspaces = self.keyspaces.load();
        let oldest = keyspaces.values().filter_map(|keyspace| {
            let state = keyspace.peek();
            let oldest = state.sealed.last()?;
            let ready =
                state.sealed.len() >= MEMTABLES_PER_FLUSH || keyspace.flush_wanted.load(Ordering::Relaxed);
            ready.then_some((oldest.first_segment()?, keyspace))
        });
        oldest.min_by_key(|(segment, _)| *segment).map(|(_, keyspace)| keyspace.clone())
    }

    fn next_compaction(&self, state: &WorkState) -> Option<(Arc<KeyspaceInner>, Arc<Choice>)> {
        if self.poison.cause().is_some() {
            return None;
        }
        let keyspaces = self.keyspaces.load();
        let free = keyspaces.values().filter(|keyspace| {
            !state.manual.contains(&keyspace.id)
                && !Trouble::holds(state.compaction_trouble.get(&keyspace.id))
        });
        let choices = free.filter_map(|keyspace| {
            let version = keyspace.peek().version.clone();
            let shape = version.shape(state.compacting_in(keyspace.id).collect());
            let choice = pick(&shape, &self.policy(keyspace))?;
            Some((keyspace.clone(), Arc::new(choice)))
        });
        choices.max_by(|(_, a), (_, b)| a.score.total_cmp(&b.score))
    }

    /// Forgets troubles of compactions that are not needed any more: the keyspace was cleared, compacted by hand, or
    /// is gone.
    fn forget_compaction_troubles(&self, state: &mut WorkState) {
        let keyspaces = self.keyspaces.load();
        state.compaction_trouble.retain(|id, _| {
            keyspaces.get(id).is_some_and(|keyspace| {
                let version = keyspace.peek().version.clone();
                // What failed in quiet times is needed still.
                let policy = Policy { quiet: true, ..self.policy(keyspace) };
                pick(&version.shape(Vec::new()), &policy).is_some()
            })
        });
    }

    /// When times will be quiet, from `looked` on, for keyspaces that quiet would give something to do.
    fn quiet_soon(&self, looked: Instant) -> Vec<Instant> {
        let keyspaces = self.keyspaces.load();
        let waiting =
            keyspaces.values().filter(|known| known.peek().version.levels[0].len() >= L0_TRIGGER_QUIET);
        waiting.map(|keyspace| keyspace.quiet_from()).filter(|&from| from > looked).collect()
    }

    /// Sleeps until there may be work, where there was none at `looked`.
    fn pause(&self, state: &mut MutexGuard<'_, WorkState>, looked: Instant) {
        let poisoned = self.poison.cause().is_some();
        let troubles = state.flush_trouble.iter().chain(state.compaction_trouble.values());
        let retries = troubles.map(|trouble| trouble.retry_at).filter(|&at| at > looked);
        match retries.chain(self.quiet_soon(looked)).min().filter(|_| !poisoned) {
            Some(at) => {
                let soon = Instant::now() + Duration::from_millis(10);
                self.work.changed.wait_until(state, at.max(soon));
            }
            None => self.work.changed.wait(state),
        }
    }

    /// Waits until `done` says so; it is asked whenever work has changed.
    pub fn wait_for_work(&self, mut done: impl FnMut(&WorkState) -> Result<bool>) -> Result<()> {
        let mut state = self.work.state.lock();
        while !done(&state)? {
            self.work.changed.wait_for(&mut state, Duration::from_millis(500));
        }
        Ok(())
    }
}

/// The thread that flushes.
pub(crate) fn flush_worker(core: &Core) {
    let mut state = core.work.state.lock();
    while !core.stopping() {
        let looked = Instant::now();
        let next = core.next_flush();
        if next.is_none() {
            // Whatever failed is gone, or will never be tried again and shows as poison.
            state.flush_trouble = None;
        }
        let held = Trouble::holds(state.flush_trouble.as_ref());
        let Some(keyspace) = next.filter(|_| !held) else {
            core.pause(&mut state, looked);
            continue;
        };
        let began = Instant::now();
        let outcome = MutexGuard::unlocked(&mut state, || flush::flush_sealed(core, &keyspace));
        state.flush_trouble = match outcome {
            Ok(()) | Err(Error::Closed) => None,
            Err(error) => {
                tracing::error!(%error, keyspace = keyspace.name, "a flush failed and will be tried again");
                Some(Trouble::after(error, began, state.flush_trouble.as_ref()))
            }
        };
        MutexGuard::unlocked(&mut state, || core.work_changed());
    }
}

/// A thread that compacts.
pub(crate) fn compaction_worker(core: &Core) {
    let mut state = core.work.state.lock();
    while !core.stopping() {
        let looked = Instant::now();
        let Some((keyspace, choice)) = core.next_compaction(&state) else {
            core.forget_compaction_troubles(&mut state);
            core.pause(&mut state, looked);
            continue;
        };
        let began = Instant::now();
        let outcome = run_compaction(core, &mut state, &keyspace, &choice);
        match outcome {
            Ok(()) | Err(Error::Closed) => drop(state.compaction_trouble.remove(&keyspace.id)),
            Err(error) => {
                tracing::error!(%error, keyspace = keyspace.name, "a compaction failed and will be tried again");
                let trouble = Trouble::after(error, began, state.compaction_trouble.get(&keyspace.id));
                state.compaction_trouble.insert(keyspace.id, trouble);
            }
        }
        MutexGuard::unlocked(&mut state, || core.work_changed());
    }
}

/// A keyspace that the background leaves alone while this lives.
pub(crate) struct Claim<'a> {
    core: &'a Core,
    keyspace: u32,
}

impl Core {
    /// Takes a keyspace out of the background's hands, and waits until its running compactions are done.
    pub fn claim(&self, keyspace: &KeyspaceInner) -> Result<Claim<'_>> {
        let mut state = self.work.state.lock();
        while !state.manual.insert(keyspace.id) {
            if self.stopping() {
                return Err(Error::Closed);
            }
            self.work.changed.wait_for(&mut state, Duration::from_millis(500));
        }
        let claim = Claim { core: self, keyspace: keyspace.id };
        while state.compacting_in(keyspace.id).next().is_some() {
            self.work.changed.wait_for(&mut state, Duration::from_millis(500));
        }
        drop(state);
        Ok(claim)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.core.work.state.lock().manual.remove(&self.keyspace);
        self.core.work_changed();
    }
}

/// Runs one compaction, and says so to the others while it lasts. A large one is divided between the threads that
/// nothing else needs now.
pub(crate) fn run_compaction(
    core: &Core,
    state: &mut MutexGuard<'_, WorkState>,
    keyspace: &KeyspaceInner,
    choice: &Arc<Choice>,
) -> Result<()> {
    state.compacting.push((keyspace.id, choice.clone()));
    let threads = (core.options.compaction_threads + 1).saturating_sub(state.compacting.len()).max(1);
    let outcome = MutexGuard::unlocked(state, || compact::run(core, keyspace, choice, threads));
    state.compacting.retain(|(_, running)| !Arc::ptr_eq(running, choice));
    outcome
}
