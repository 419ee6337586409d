//! A keyspace: an ordered map of its own inside a database, sharing its log and its batches.

use std::fmt;
use std::ops::{Deref, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use terrace_io::{Error, Result};
use terrace_sstable::{Kind, Slice};

use crate::access::{Access, ReadWrite};
use crate::batch::{check_sizes, encode_operation};
use crate::commit::Request;
use crate::compact;
use crate::current::Current;
use crate::if_resident::IfResident;
use crate::iter::{Cursor, Iter, borrowed, owned_bounds, prefix_bounds};
use crate::options::{Durability, KeyspaceOptions};
use crate::read_stats::{ReadStats, Recorder};
use crate::version::{Hit, State};

/// Times are quiet once no table was flushed for so long.
const QUIET_AFTER: Duration = Duration::from_secs(5);

/// What the database keeps of a keyspace, shared by all handles to it.
pub(crate) struct KeyspaceInner {
    pub id: u32,
    pub name: String,
    pub options: KeyspaceOptions,
    /// Which open database it belongs to.
    pub instance: u64,
    pub dropped: AtomicBool,
    /// Its sealed memtables are to be flushed even if they are few.
    pub flush_wanted: AtomicBool,
    /// When a table was last added to level 0, or the keyspace opened.
    flushed_at: Mutex<Instant>,
    current: Current<State>,
}

impl KeyspaceInner {
    pub fn new(id: u32, name: String, options: KeyspaceOptions, instance: u64, state: State) -> Self {
        KeyspaceInner {
            id,
            name,
            options,
            instance,
            dropped: AtomicBool::new(false),
            flush_wanted: AtomicBool::new(false),
            flushed_at: Mutex::new(Instant::now()),
            current: Current::new(state),
        }
    }

    /// Says that a table was added to level 0.
    pub fn was_flushed(&self) {
        *self.flushed_at.lock() = Instant::now();
    }

    /// When times will be quiet if no more tables are flushed.
    pub fn quiet_from(&self) -> Instant {
        *self.flushed_at.lock() + QUIET_AFTER
    }

    /// [`Error::KeyspaceDropped`] if it was.
    #[inline]
    pub fn check_exists(&self) -> Result<()> {
        match self.dropped.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(Error::KeyspaceDropped { name: self.name.clone() }),
        }
    }
}

/// To what its readers see.
impl Deref for KeyspaceInner {
    type Target = Current<State>;

    #[inline]
    fn deref(&self) -> &Current<State> {
        &self.current
    }
}

impl std::fmt::Debug for KeyspaceInner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyspaceInner").field("id", &self.id).field("name", &self.name).finish()
    }
}

/// A handle to a keyspace. Cheap to clone, usable from any thread. Made by [`crate::Db::keyspace`]; a [`crate::Db`]
/// is itself a handle to the keyspace `default`. Those of a [`crate::ReadOnlyDb`] can be read from in the same ways,
/// and have no others.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let db = terrace::Db::open(directory.path())?;
/// let users = db.keyspace("users")?;
/// users.put("alice", "1")?;
/// assert_eq!(users.get("alice")?.as_deref(), Some(&b"1"[..]));
/// users.delete("alice")?;
/// assert!(!users.contains_key("alice")?);
/// # Ok(())
/// # }
/// ```
pub struct Keyspace<A: Access = ReadWrite> {
    handle: Arc<A::Handle>,
    inner: Arc<A::Keyspace>,
}

impl<A: Access> Clone for Keyspace<A> {
    fn clone(&self) -> Self {
        Keyspace { handle: self.handle.clone(), inner: self.inner.clone() }
    }
}

impl<A: Access> fmt::Debug for Keyspace<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyspace").field("handle", &self.handle).field("inner", &self.inner).finish()
    }
}

/// Reading, for handles of both kinds.
impl<A: Access> Keyspace<A> {
    pub(crate) fn new(handle: Arc<A::Handle>, inner: Arc<A::Keyspace>) -> Self {
        Keyspace { handle, inner }
    }

    pub(crate) fn inner(&self) -> &Arc<A::Keyspace> {
        &self.inner
    }

    pub(crate) fn handle(&self) -> &Arc<A::Handle> {
        &self.handle
    }

    /// Its name.
    pub fn name(&self) -> &str {
        A::name(&self.inner)
    }

    /// The options that it was created with.
    pub fn options(&self) -> &KeyspaceOptions {
        A::options(&self.inner)
    }

    /// The value of a key. It borrows from where it lies (a table's mapping, a memtable) and keeps that alive: nothing
    /// is copied out of an uncompressed table.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        let (state, visible) = A::look(&self.handle, &self.inner)?;
        Ok(state.find(key.as_ref(), visible)?.map(|hit| hit.into_slice()))
    }

    /// The value of a key, as [`Keyspace::get`] gives it, if that takes nothing that is not in memory: for callers that
    /// must not wait for the disk. With [`IfResident::WouldWait`], hand the same get to a thread that may.
    ///
    /// Each page of tables, their metadata included, is asked for with `mincore` before it is looked at, which takes
    /// about 0.3 µs for each; blocks of tables that are read by `pread` are read with `RWF_NOWAIT`. Where the
    /// operating system does not tell what is in memory, nothing of a mapped file is taken for it, and neither is a
    /// table that was not read from since it was opened, nor a value of more than 64 KiB in a table.
    ///
    /// Under memory pressure the system may evict a mapped page between the answer and the look: then this get waits for
    /// the disk after all. And it may evict the pages of the value at any time after: it keeps its table mapped, not in memory.
    ///
    /// ```
    /// use terrace::IfResident;
    /// # fn main() -> terrace::Result<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = terrace::Db::open(directory.path())?;
    /// db.put("pear", "green")?;
    /// match db.get_if_resident("pear")? {
    ///     IfResident::Resident(value) => assert_eq!(value.as_deref(), Some(&b"green"[..])),
    ///     IfResident::WouldWait => unreachable!("it was written just now, and is in memory"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_if_resident(&self, key: impl AsRef<[u8]>) -> Result<IfResident<Option<Slice>>> {
        let (state, visible) = A::look(&self.handle, &self.inner)?;
        IfResident::of(state.find_resident(key.as_ref(), visible).map(|hit| hit.map(Hit::into_slice)))
    }

    /// Shows the value of a key to `read`, where it lies: the cheapest way to look at one.
    pub fn get_with<R>(&self, key: impl AsRef<[u8]>, read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        let (state, visible) = A::look(&self.handle, &self.inner)?;
        Ok(state.find(key.as_ref(), visible)?.map(|hit| read(hit.value())))
    }

    /// The value of a key, as [`Keyspace::get`] gives it, and what it took to find it: the tables that were asked, by
    /// which path, what was looked at, page faults, bytes read from the device. Takes about a microsecond more for each
    /// table that is asked.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = terrace::Db::open(directory.path())?;
    /// db.put("pear", "green")?;
    /// db.flush()?;
    /// let (value, stats) = db.get_with_stats("pear")?;
    /// assert_eq!(value.as_deref(), Some(&b"green"[..]));
    /// assert_eq!(stats.tables[0].level, 0);
    /// assert_eq!(stats.tables[0].blocks(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_with_stats(&self, key: impl AsRef<[u8]>) -> Result<(Option<Slice>, ReadStats)> {
        let (state, visible) = A::look(&self.handle, &self.inner)?;
        let mut recorder = Recorder::start();
        let found = state.find_observed(key.as_ref(), visible, &mut recorder)?;
        Ok((found.map(|hit| hit.into_slice()), recorder.finish()))
    }

    /// The values of many keys, in their order, all as of one moment. Faster than a get for each, since waits for
    /// memory overlap: about twice as fast for a batch of 32 in uncompressed tables that are larger than the processor's
    /// caches (measured on x86-64; other processors are given no hints).
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Slice>>> {
        let (state, visible) = A::state(&self.handle, &self.inner)?;
        let keys: Vec<K> = keys.into_iter().collect();
        state.find_all(&keys, visible)
    }

    /// Whether a key has a value.
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let (state, visible) = A::look(&self.handle, &self.inner)?;
        Ok(state.find(key.as_ref(), visible)?.is_some())
    }

    /// All entries, in key order, from both ends.
    pub fn iter(&self) -> Result<Iter> {
        self.range::<&[u8]>(..)
    }

    /// The entries with keys in a range, in key order, from both ends.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the range starts after its end.
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<Iter> {
        let (state, visible) = A::state(&self.handle, &self.inner)?;
        let bounds = owned_bounds(range)?;
        Ok(Iter::new(state, visible, bounds))
    }

    /// The entries whose keys begin with `prefix`, in key order, from both ends.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Iter> {
        let (state, visible) = A::state(&self.handle, &self.inner)?;
        Ok(Iter::new(state, visible, prefix_bounds(prefix.as_ref())))
    }

    /// A lending cursor over all entries, as they are now.
    pub fn cursor(&self) -> Result<Cursor> {
        let (state, visible) = A::state(&self.handle, &self.inner)?;
        Ok(Cursor::new(state, visible))
    }

    /// Roughly how many bytes the entries with keys in a range take: on disk for those in tables, in memory for the
    /// rest. On settled data it is within 10 % for ranges of more than a few blocks.
    pub fn approximate_size<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<u64> {
        let (state, _) = A::state(&self.handle, &self.inner)?;
        let bounds = owned_bounds(range)?;
        compact::approximate_size(&state, borrowed(&bounds))
    }
}

/// Writing.
impl Keyspace {
    /// Writes a value, with the database's durability.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a key of more than 64 KiB or a value over the database's limit, and whatever
    /// the log says: see [`Error`].
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.put_with(key, value, self.handle.core.options.durability)
    }

    /// Writes a value that survives what `durability` says.
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        durability: Durability,
    ) -> Result<()> {
        self.write_one(Kind::Put, key.as_ref(), value.as_ref(), durability)
    }

    /// Removes a key, with the database's durability. It need not exist.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.delete_with(key, self.handle.core.options.durability)
    }

    /// Removes a key; the removal survives what `durability` says.
    pub fn delete_with(&self, key: impl AsRef<[u8]>, durability: Durability) -> Result<()> {
        self.write_one(Kind::Delete, key.as_ref(), &[], durability)
    }

    fn write_one(&self, kind: Kind, key: &[u8], value: &[u8], durability: Durability) -> Result<()> {
        check_sizes(key, value, 0)?;
        let mut operations = Vec::new();
        encode_operation(&mut operations, kind, self.inner.id, key, value);
        let request = Request {
            operations: &operations,
            count: 1,
            user_bytes: (key.len() + value.len()) as u64,
            value_len_max: value.len() as u64,
            keyspaces: std::slice::from_ref(&self.inner),
        };
        self.handle.core.write(request, durability)
    }

    fn check(&self) -> Result<()> {
        self.handle.core.check_open()?;
        self.inner.check_exists()
    }

    /// Removes every entry, at once and durably, whatever the durability: the tables are let go of, nothing is
    /// written per key. Snapshots and iterators from before still see what was there.
    pub fn clear(&self) -> Result<()> {
        self.check()?;
        self.handle.core.clear_keyspace(&self.inner)
    }

    /// Compacts all entries with keys in a range down to the bottom, now, in this thread, and drops what nobody can
    /// see any more.
    pub fn compact_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<()> {
        self.check()?;
        let bounds = owned_bounds(range)?;
        compact::compact_range(&self.handle.core, &self.inner, borrowed(&bounds))
    }
}
