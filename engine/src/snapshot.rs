//! Views of the whole database at one moment, and the registry that keeps what they need from being compacted away.

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::{Duration, Instant};

use terrace_io::{Bug, Error, Result};
use terrace_sstable::Slice;

use crate::db::Handle;
use crate::iter::{Cursor, Iter, owned_bounds, prefix_bounds};
use crate::keyspace::Keyspace;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::version::State;

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
/// and drops. Cheap to make and to clone. While it lives, compaction keeps the versions that it sees.
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
#[derive(Debug, Clone)]
pub struct Snapshot {
    registration: Arc<Registration>,
}

struct Registration {
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

impl Snapshot {
    pub(crate) fn new(handle: Arc<Handle>) -> Self {
        let core = &handle.core;
        let id = core.snapshots.register(|| core.visible.get());
        Snapshot { registration: Arc::new(Registration { handle, id }) }
    }

    /// The sequence number up to which it sees writes.
    pub fn sequence(&self) -> u64 {
        self.registration.id.0
    }

    fn state(&self, keyspace: &Keyspace) -> Result<Arc<State>> {
        let handle = &self.registration.handle;
        handle.core.check_open()?;
        if !Arc::ptr_eq(&handle.core, &keyspace.handle().core) {
            return Err(Error::invalid("the snapshot and the keyspace belong to different databases"));
        }
        Ok(keyspace.inner().state_for(self.registration.id.1))
    }

    /// See [`Keyspace::get`].
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        let state = self.state(keyspace)?;
        Ok(state.find(key.as_ref(), self.sequence())?.map(|hit| hit.into_slice()))
    }

    /// See [`Keyspace::get_with`].
    pub fn get_with<R>(
        &self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        let state = self.state(keyspace)?;
        Ok(state.find(key.as_ref(), self.sequence())?.map(|hit| read(hit.value())))
    }

    /// See [`Keyspace::multi_get`].
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Slice>>> {
        let state = self.state(keyspace)?;
        let keys: Vec<K> = keys.into_iter().collect();
        state.find_all(&keys, self.sequence())
    }

    /// See [`Keyspace::contains_key`].
    pub fn contains_key(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<bool> {
        let state = self.state(keyspace)?;
        Ok(state.find(key.as_ref(), self.sequence())?.is_some())
    }

    /// See [`Keyspace::iter`].
    pub fn iter(&self, keyspace: &Keyspace) -> Result<Iter> {
        self.range::<&[u8]>(keyspace, ..)
    }

    /// See [`Keyspace::range`].
    pub fn range<K: AsRef<[u8]>>(&self, keyspace: &Keyspace, range: impl RangeBounds<K>) -> Result<Iter> {
        Ok(Iter::new(self.state(keyspace)?, self.sequence(), owned_bounds(range)?))
    }

    /// See [`Keyspace::prefix`].
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Result<Iter> {
        Ok(Iter::new(self.state(keyspace)?, self.sequence(), prefix_bounds(prefix.as_ref())))
    }

    /// See [`Keyspace::cursor`].
    pub fn cursor(&self, keyspace: &Keyspace) -> Result<Cursor> {
        Ok(Cursor::new(self.state(keyspace)?, self.sequence()))
    }
}
