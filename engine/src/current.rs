//! What readers of a keyspace see now, replaced as a whole while they read.
//!
//! A reader loads the current state and keeps it for as long as it likes; a state that was replaced goes with its last
//! reader, and with it the tables that nobody else has. Whoever replaces takes a lock; readers take none, but for
//! one that is overtaken ([`crate::swap`]).

use std::sync::Arc;

use crate::swap::{Guard, Swap};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The last sequence number that readers see. What has been inserted up to it, they find.
pub(crate) struct Visible(AtomicU64);

impl Visible {
    pub fn new(sequence: u64) -> Self {
        Visible(AtomicU64::new(sequence))
    }

    /// Shows readers everything up to `sequence`, which this thread has inserted or seen inserted.
    pub fn publish(&self, sequence: u64) {
        self.0.store(sequence, Ordering::Release);
    }

    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// The current state `S`, and states from before a clear.
pub(crate) struct Current<S> {
    /// Replaced under `replacing`, read by anyone.
    state: Swap<S>,
    replacing: Mutex<()>,
    /// States from before a clear, for snapshots from before it: `(moment of the clear, state)`, oldest first.
    cleared: Mutex<Vec<(u64, Arc<S>)>>,
    has_cleared: AtomicBool,
}

impl<S: Send + Sync + 'static> Current<S> {
    pub fn new(state: S) -> Self {
        Current {
            state: Swap::new(state),
            replacing: Mutex::new(()),
            cleared: Mutex::default(),
            has_cleared: AtomicBool::new(false),
        }
    }

    /// The current state, without counting a reference: for a look, not to keep.
    #[inline]
    pub fn peek(&self) -> Guard<'_, S> {
        self.state.load()
    }

    /// The current state, to keep.
    pub fn state(&self) -> Arc<S> {
        self.state.load_full()
    }

    /// What there is to read now, for a look: the state, and the sequence number up to which it counts.
    #[inline]
    pub fn peek_at(&self, visible: &Visible) -> (Guard<'_, S>, u64) {
        // The state first: a sequence number read before it could ask for versions that it no longer holds.
        let state = self.peek();
        (state, visible.get())
    }

    /// What there is to read now, to keep.
    pub fn state_at(&self, visible: &Visible) -> (Arc<S>, u64) {
        let state = self.state();
        (state, visible.get())
    }

    /// The state for snapshot number `snapshot`: that of before a clear, if the snapshot is from before it.
    pub fn state_for(&self, snapshot: u64) -> Arc<S> {
        // Loaded first: if it is one from after a clear, then what is kept of before is seen below.
        let state = self.state();
        if self.has_cleared.load(Ordering::Acquire) {
            let cleared = self.cleared.lock();
            if let Some((_, kept)) = cleared.iter().find(|(moment, _)| snapshot < *moment) {
                return kept.clone();
            }
        }
        state
    }

    /// Replaces the state by what `change` makes of it.
    pub fn replace<R>(&self, change: impl FnOnce(&S) -> (S, R)) -> R {
        let _replacing = self.replacing.lock();
        let (state, result) = change(&self.state.load());
        self.state.store(Arc::new(state));
        result
    }

    /// Keeps the state of before a clear for the snapshots taken before `moment`, and forgets those that no live
    /// snapshot needs. Called before the clear replaces the state.
    pub fn keep_cleared(&self, moment: u64, needed: impl Fn(u64) -> bool) {
        let mut cleared = self.cleared.lock();
        cleared.push((moment, self.state()));
        cleared.retain(|(moment, _)| needed(*moment));
        self.has_cleared.store(!cleared.is_empty(), Ordering::Release);
    }

    /// Forgets states of before a clear that no live snapshot needs.
    pub fn forget_cleared(&self, needed: impl Fn(u64) -> bool) {
        if self.has_cleared.load(Ordering::Acquire) {
            let mut cleared = self.cleared.lock();
            cleared.retain(|(moment, _)| needed(*moment));
            self.has_cleared.store(!cleared.is_empty(), Ordering::Release);
        }
    }
}
