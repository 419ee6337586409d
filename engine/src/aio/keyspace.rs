//! The asynchronous handle to a keyspace.

use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;

use terrace_io::Result;
use terrace_sstable::{Kind, Slice};

use super::reader::{Lanes, Reader};
use super::stream::AsyncIter;
use crate::access::{Access, ReadWrite};
use crate::batch::WriteBatch;
use crate::compact;
use crate::iter::{Bounds, borrowed, owned_bounds, prefix_bounds};
use crate::keyspace::Keyspace;
use crate::options::{Durability, KeyspaceOptions};
use crate::read_stats::ReadStats;

/// A [`Keyspace`] whose reads and writes are futures. Cheap to clone, usable from any task. Made by
/// [`AsyncDb::keyspace`](crate::AsyncDb::keyspace); an [`AsyncDb`](crate::AsyncDb) is itself a handle to the keyspace `default`.
///
/// Each method does what that of the same name of [`Keyspace`] does; what is said here is what differs.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let db = terrace::AsyncDb::open(directory.path()).await?;
/// let users = db.keyspace("users").await?;
/// users.put("alice", "1").await?;
/// assert_eq!(users.get("alice").await?.as_deref(), Some(&b"1"[..]));
/// users.delete("alice").await?;
/// assert!(!users.contains_key("alice").await?);
/// # Ok(())
/// # }
/// ```
pub struct AsyncKeyspace<A: Access = ReadWrite> {
    reader: Reader<A>,
}

impl<A: Access> Clone for AsyncKeyspace<A> {
    fn clone(&self) -> Self {
        AsyncKeyspace { reader: self.reader.clone() }
    }
}

impl<A: Access> fmt::Debug for AsyncKeyspace<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncKeyspace").field("keyspace", &self.reader.keyspace).finish()
    }
}

/// Reading, for handles of both kinds.
impl<A: Access> AsyncKeyspace<A> {
    pub(crate) fn new(keyspace: Keyspace<A>, lanes: Arc<Lanes>) -> Self {
        AsyncKeyspace { reader: Reader { keyspace, snapshot: None, lanes } }
    }

    pub(crate) fn lanes(&self) -> &Arc<Lanes> {
        &self.reader.lanes
    }

    /// The same keyspace for threads that may wait, and to fill a [`WriteBatch`] with.
    pub fn blocking(&self) -> &Keyspace<A> {
        &self.reader.keyspace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.blocking().name()
    }

    /// The options that it was created with.
    pub fn options(&self) -> &KeyspaceOptions {
        self.blocking().options()
    }

    /// The value of a key: at the first poll if all that it takes is in memory, otherwise when another thread has read
    /// it. What is taken for being in memory, and what may happen under memory pressure, says
    /// [`Keyspace::get_if_resident`].
    ///
    /// All of the value is in memory when this returns. The system may evict a value in a table at any time after, and
    /// whoever looks at it then waits for the disk: look at it soon, or copy it.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        self.reader.get(key.as_ref()).await
    }

    /// Shows the value of a key to `read`, on the task that polls.
    pub async fn get_with<R>(
        &self,
        key: impl AsRef<[u8]>,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        Ok(self.reader.get(key.as_ref()).await?.map(|value| read(&value)))
    }

    /// The value of a key, and what it took to find it. Always on another thread, whose costs are counted.
    pub async fn get_with_stats(&self, key: impl AsRef<[u8]>) -> Result<(Option<Slice>, ReadStats)> {
        let (keyspace, key) = (self.blocking().clone(), key.as_ref().to_vec());
        self.reader.read(move |_, _| keyspace.get_with_stats(key)).await
    }

    /// The values of many keys, in their order, all as of one moment. Inline if there are no more than 32 and all are
    /// in memory; otherwise one thread reads them, and asks the device for all of them at once where it can.
    pub async fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Slice>>> {
        let keys = keys.into_iter().map(|key| key.as_ref().to_vec()).collect();
        self.reader.multi_get(keys).await
    }

    /// Whether a key has a value.
    pub async fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.reader.contains_key(key.as_ref()).await
    }

    /// All entries, in key order, from both ends, as they are now.
    pub fn iter(&self) -> Result<AsyncIter> {
        self.range::<&[u8]>(..)
    }

    /// The entries with keys in a range, in key order, from both ends, as they are now.
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<AsyncIter> {
        self.within(owned_bounds(range)?)
    }

    /// The entries whose keys begin with `prefix`, in key order, from both ends, as they are now.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<AsyncIter> {
        self.within(prefix_bounds(prefix.as_ref()))
    }

    fn within(&self, bounds: Bounds) -> Result<AsyncIter> {
        AsyncIter::new(&self.reader, bounds)
    }

    /// Roughly how many bytes the entries with keys in a range take.
    pub async fn approximate_size<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<u64> {
        let bounds = owned_bounds(range)?;
        self.reader.read(move |state, _| compact::approximate_size(&state, borrowed(&bounds))).await
    }
}

/// Writing. A write that is dropped before its first poll has not begun; later, it happens all the same, and completely.
impl AsyncKeyspace {
    /// Writes a value, with the database's durability. It joins the group commit together with those of other tasks.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.put_with(key, value, self.durability()).await
    }

    /// Writes a value that survives what `durability` says.
    pub async fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        durability: Durability,
    ) -> Result<()> {
        self.write_one(Kind::Put, key.as_ref(), value.as_ref(), durability).await
    }

    /// Removes a key, with the database's durability. It need not exist.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.delete_with(key, self.durability()).await
    }

    /// Removes a key; the removal survives what `durability` says.
    pub async fn delete_with(&self, key: impl AsRef<[u8]>, durability: Durability) -> Result<()> {
        self.write_one(Kind::Delete, key.as_ref(), &[], durability).await
    }

    pub(crate) fn durability(&self) -> Durability {
        self.blocking().handle().core.options.durability
    }

    async fn write_one(&self, kind: Kind, key: &[u8], value: &[u8], durability: Durability) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.add(self.blocking().inner(), kind, key, value);
        self.lanes().writers.write(self.blocking().handle(), batch, durability).await
    }

    /// Has something done with the keyspace on a thread of its own.
    async fn run(&self, operation: impl FnOnce(&Keyspace) -> Result<()> + Send + 'static) -> Result<()> {
        let keyspace = self.blocking().clone();
        self.lanes().run(self.reader.dir(), move || operation(&keyspace)).await
    }

    /// Removes every entry, at once and durably.
    pub async fn clear(&self) -> Result<()> {
        self.run(Keyspace::clear).await
    }

    /// Compacts all entries with keys in a range down to the bottom, on a thread of its own, and drops what nobody can
    /// see any more.
    pub async fn compact_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<()> {
        let bounds = owned_bounds(range)?;
        self.run(move |keyspace| keyspace.compact_range(bounds)).await
    }
}
