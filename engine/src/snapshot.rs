//! Views of the whole database at one moment, and the registry that keeps what they need from being compacted away.

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::{Duration, Instant};

use terrace_io::{Bug, Result};
use terrace_sstable::Slice;

use crate::access::{Access, ReadWrite, of_different_databases};
use crate::db::Handle;
use crate::if_resident::IfResident;
use crate::iter::{Cursor, Iter, owned_bounds, prefix_bounds};
use crate::keyspace::{Keyspace, KeyspaceInner};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::version::{Hit, State};

/// The live snapshots of a database.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    live: Mutex<BTreeMap<SnapshotId, Instant>>,
    next: AtomicU64,
}

/// Sequence number first, so that the oldest view comes first; then a number of its own.
pub(crate) type SnapshotId = (u64, u64);

impl Snapshots {
    /// Registers a view of everything published so far. `visible` is read under the registry's lock, so that a
    /// compaction that does not see the snapshot has only inputs that are older than it.
    pub fn register(&self, visible: impl FnOnce() -> u64) -> SnapshotId {
        let mut live = self.live.lock();
        let id = (visible(), self.next.fetch_add(1, Ordering::Relaxed));
        live.insert(id, Instant::now());
        id
    }

    /// Gives a view up, and lets `forget` forget what was kept for it: whatever no snapshot before a moment needs.
    pub fn release(&self, id: SnapshotId, forget: impl FnOnce(&dyn Fn(u64) -> bool)) {
        self.live.lock().remove(&id);
        self.frozen(|_, any_before| forget(any_before));
    }

    /// The sequence numbers that live snapshots see up to, ascending, each once.
    pub fn sequences(&self) -> Vec<u64> {
        if Bug::SnapshotVersionDropped.is_planted() {
            return Vec::new();
        }
        let mut sequences: Vec<u64> = self.live.lock().keys().map(|&(sequence, _)| sequence).collect();
        sequences.dedup();
        sequences
    }

    /// How many are live, and the age of the oldest.
    pub fn count_and_oldest(&self) -> (usize, Duration) {
        let live = self.live.lock();
        (live.len(), live.values().min().map_or(Duration::ZERO, Instant::elapsed))
    }

    /// Runs `change` while no snapshot is taken or given up: whatever it changes, each snapshot sees all of it or
    /// nothing. It gets the number of the next snapshot (those with smaller numbers were taken before now), and
    /// a function that says whether one with a number below another is live.
    pub fn frozen(&self, change: impl FnOnce(u64, &dyn Fn(u64) -> bool)) {
        let live = self.live.lock();
        let any_before = |moment: u64| live.keys().any(|&(_, number)| number < moment);
        change(self.next.load(Ordering::Relaxed), &any_before);
    }
}

/// The whole database as it was at one moment: consistent across keyspaces, unmoved by later writes, deletes, clears
/// and drops. Cheap to make and to clone. While it lives, compaction keeps the versions that it sees; the tables that one
/// of a [`crate::ReadOnlyDb`] sees, it keeps itself.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let db = terrace::Db::open(directory.path())?;
/// db.put("key", "before")?;
/// let snapshot = db.snapshot()?;
/// db.put("key", "after")?;
/// assert_eq!(snapshot.get(&db, "key")?.as_deref(), Some(&b"before"[..]));
/// # Ok(())
/// # }
/// ```
pub struct Snapshot<A: Access = ReadWrite> {
    inner: Arc<A::Snapshot>,
}

impl<A: Access> Clone for Snapshot<A> {
    fn clone(&self) -> Self {
        Snapshot { inner: self.inner.clone() }
    }
}

impl<A: Access> std::fmt::Debug for Snapshot<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("inner", &self.inner).finish()
    }
}

/// A snapshot in the registry, as long as somebody has it.
pub(crate) struct Registration {
    handle: Arc<Handle>,
    id: SnapshotId,
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration").field("sequence", &self.id.0).finish()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let core = &self.handle.core;
        core.snapshots.release(self.id, |any_before| {
            for keyspace in core.keyspaces.load().values() {
                keyspace.forget_cleared(any_before);
            }
        });
    }
}

impl Registration {
    pub fn new(handle: Arc<Handle>) -> Self {
        let core = &handle.core;
        let id = core.snapshots.register(|| core.visible.get());
        Registration { handle, id }
    }

    pub fn sequence(&self) -> u64 {
        self.id.0
    }

    /// What it sees of a keyspace of the database of `handle`.
    pub fn state(&self, handle: &Handle, keyspace: &KeyspaceInner) -> Result<Arc<State>> {
        self.handle.core.check_open()?;
        if !Arc::ptr_eq(&self.handle.core, &handle.core) {
            return Err(of_different_databases());
        }
        Ok(keyspace.state_for(self.id.1))
    }
}

impl<A: Access> Snapshot<A> {
    pub(crate) fn new(inner: A::Snapshot) -> Self {
        Snapshot { inner: Arc::new(inner) }
    }

    /// The sequence number up to which it sees writes.
    pub fn sequence(&self) -> u64 {
        A::snapshot_sequence(&self.inner)
    }

    pub(crate) fn state(&self, keyspace: &Keyspace<A>) -> Result<Arc<State>> {
        A::snapshot_state(&self.inner, keyspace.handle(), keyspace.inner())
    }

    /// See [`Keyspace::get`].
    pub fn get(&self, keyspace: &Keyspace<A>, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        let state = self.state(keyspace)?;
        Ok(state.find(key.as_ref(), self.sequence())?.map(|hit| hit.into_slice()))
    }

    /// See [`Keyspace::get_if_resident`].
    pub fn get_if_resident(
        &self,
        keyspace: &Keyspace<A>,
        key: impl AsRef<[u8]>,
    ) -> Result<IfResident<Option<Slice>>> {
        let state = self.state(keyspace)?;
        let found = state.find_resident(key.as_ref(), self.sequence());
        IfResident::of(found.map(|hit| hit.map(Hit::into_slice)))
    }

    /// See [`Keyspace::get_with`].
    pub fn get_with<R>(
        &self,
        keyspace: &Keyspace<A>,
        key: impl AsRef<[u8]>,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        let state = self.state(keyspace)?;
        Ok(state.find(key.as_ref(), self.sequence())?.map(|hit| read(hit.value())))
    }

    /// See [`Keyspace::multi_get`].
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace<A>,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Slice>>> {
        let state = self.state(keyspace)?;
        let keys: Vec<K> = keys.into_iter().collect();
        state.find_all(&keys, self.sequence())
    }

    /// See [`Keyspace::contains_key`].
    pub fn contains_key(&self, keyspace: &Keyspace<A>, key: impl AsRef<[u8]>) -> Result<bool> {
        let state = self.state(keyspace)?;
        Ok(state.find(key.as_ref(), self.sequence())?.is_some())
    }

    /// See [`Keyspace::iter`].
    pub fn iter(&self, keyspace: &Keyspace<A>) -> Result<Iter> {
        self.range::<&[u8]>(keyspace, ..)
    }

    /// See [`Keyspace::range`].
    pub fn range<K: AsRef<[u8]>>(&self, keyspace: &Keyspace<A>, range: impl RangeBounds<K>) -> Result<Iter> {
        Ok(Iter::new(self.state(keyspace)?, self.sequence(), owned_bounds(range)?))
    }

    /// See [`Keyspace::prefix`].
    pub fn prefix(&self, keyspace: &Keyspace<A>, prefix: impl AsRef<[u8]>) -> Result<Iter> {
        Ok(Iter::new(self.state(keyspace)?, self.sequence(), prefix_bounds(prefix.as_ref())))
    }

    /// See [`Keyspace::cursor`].
    pub fn cursor(&self, keyspace: &Keyspace<A>) -> Result<Cursor> {
        Ok(Cursor::new(self.state(keyspace)?, self.sequence()))
    }
}
