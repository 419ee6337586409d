//! Snapshots that are read without waiting.

use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;

use terrace_io::Result;
use terrace_sstable::Slice;

use super::keyspace::AsyncKeyspace;
use super::reader::{Lanes, Reader};
use super::stream::AsyncIter;
use crate::access::{Access, ReadWrite};
use crate::iter::{owned_bounds, prefix_bounds};
use crate::snapshot::Snapshot;

/// A [`Snapshot`] whose reads are futures. Made by [`AsyncDb::snapshot`](crate::AsyncDb::snapshot).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let db = terrace::AsyncDb::open(directory.path()).await?;
/// db.put("key", "before").await?;
/// let snapshot = db.snapshot()?;
/// db.put("key", "after").await?;
/// assert_eq!(snapshot.get(&db, "key").await?.as_deref(), Some(&b"before"[..]));
/// # Ok(())
/// # }
/// ```
pub struct AsyncSnapshot<A: Access = ReadWrite> {
    snapshot: Snapshot<A>,
    lanes: Arc<Lanes>,
}

impl<A: Access> Clone for AsyncSnapshot<A> {
    fn clone(&self) -> Self {
        AsyncSnapshot { snapshot: self.snapshot.clone(), lanes: self.lanes.clone() }
    }
}

impl<A: Access> fmt::Debug for AsyncSnapshot<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncSnapshot").field("snapshot", &self.snapshot).finish()
    }
}

impl<A: Access> AsyncSnapshot<A> {
    pub(crate) fn new(snapshot: Snapshot<A>, lanes: Arc<Lanes>) -> Self {
        AsyncSnapshot { snapshot, lanes }
    }

    /// The same snapshot for threads that may wait.
    pub fn blocking(&self) -> &Snapshot<A> {
        &self.snapshot
    }

    /// The sequence number up to which it sees writes.
    pub fn sequence(&self) -> u64 {
        self.snapshot.sequence()
    }

    fn reader(&self, keyspace: &AsyncKeyspace<A>) -> Reader<A> {
        Reader {
            keyspace: keyspace.blocking().clone(),
            snapshot: Some(self.snapshot.clone()),
            lanes: self.lanes.clone(),
        }
    }

    /// See [`AsyncKeyspace::get`].
    pub async fn get(&self, keyspace: &AsyncKeyspace<A>, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        self.reader(keyspace).get(key.as_ref()).await
    }

    /// See [`AsyncKeyspace::get_with`].
    pub async fn get_with<R>(
        &self,
        keyspace: &AsyncKeyspace<A>,
        key: impl AsRef<[u8]>,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        Ok(self.get(keyspace, key).await?.map(|value| read(&value)))
    }

    /// See [`AsyncKeyspace::multi_get`].
    pub async fn multi_get<K: AsRef<[u8]>>(
        &self,
        keyspace: &AsyncKeyspace<A>,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Slice>>> {
        let keys = keys.into_iter().map(|key| key.as_ref().to_vec()).collect();
        self.reader(keyspace).multi_get(keys).await
    }

    /// See [`AsyncKeyspace::contains_key`].
    pub async fn contains_key(&self, keyspace: &AsyncKeyspace<A>, key: impl AsRef<[u8]>) -> Result<bool> {
        self.reader(keyspace).contains_key(key.as_ref()).await
    }

    /// See [`AsyncKeyspace::iter`].
    pub fn iter(&self, keyspace: &AsyncKeyspace<A>) -> Result<AsyncIter> {
        self.range::<&[u8]>(keyspace, ..)
    }

    /// See [`AsyncKeyspace::range`].
    pub fn range<K: AsRef<[u8]>>(
        &self,
        keyspace: &AsyncKeyspace<A>,
        range: impl RangeBounds<K>,
    ) -> Result<AsyncIter> {
        AsyncIter::new(&self.reader(keyspace), owned_bounds(range)?)
    }

    /// See [`AsyncKeyspace::prefix`].
    pub fn prefix(&self, keyspace: &AsyncKeyspace<A>, prefix: impl AsRef<[u8]>) -> Result<AsyncIter> {
        AsyncIter::new(&self.reader(keyspace), prefix_bounds(prefix.as_ref()))
    }
}
