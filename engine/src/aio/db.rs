//! The asynchronous handle to a database.

use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use terrace_io::Result;

use super::keyspace::AsyncKeyspace;
use super::reader::{COLD_READS_MAX, Lanes};
use super::snapshot::AsyncSnapshot;
use crate::access::{Access, ReadOnly, ReadWrite};
use crate::batch::WriteBatch;
use crate::checkpoint::CheckpointReport;
use crate::db::Db;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::options::{Durability, KeyspaceOptions, Options};
use crate::scrub::{ScrubOptions, ScrubReport};

/// A [`Db`] whose operations are futures and streams, for tasks that must not wait: the same database, the same handles
/// behind it. It is also a handle to the keyspace `default`, as a [`Db`] is. Cheap to clone, usable from any task.
///
/// A read of what is in memory completes at its first poll; any other is done by a thread of the runtime's pool for
/// blocking work. Writes of all tasks are committed together by one such thread. Everything else has one for as long as it
/// takes. So no future here waits for the disk where it is polled, on a runtime of one thread too; timers and I/O drivers
/// are not needed. The pool must not be full of work that waits for these futures. (Under memory pressure there is one exception: [`Keyspace::get_if_resident`](crate::Keyspace::get_if_resident).)
///
/// A future that is dropped before its first poll has done nothing. Dropped later, a read leaves nothing behind; a write,
/// or any other change, happens all the same, and completely; but perhaps later than another one that is begun after it:
/// writes of each [`Durability`] are committed in the order in which they were first polled, and a dropped write of one may
/// come after an awaited one of the other, or after a clear. Nothing bounds what dropped writes may wait to be
/// written: who gives up on writes after some time should not begin them anew at once.
///
/// Clone it instead of making a second one of the same [`Db`]: clones share their threads, and so their groups of writes.
/// Each method does what that of the same name of [`Db`] does; what is said here is what differs. Dropping the last handle
/// never waits for the log or for writes; after a close, and of a database that is open for reading only, it unmaps tables,
/// which takes longer the more of them is in memory.
///
/// ```
/// use terrace::AsyncDb;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("db");
/// let db = AsyncDb::open(&path).await?;
/// db.put("hello", "world").await?; // survives power loss once it returns
/// assert_eq!(db.get("hello").await?.as_deref(), Some(&b"world"[..]));
/// db.close().await?;
/// # Ok(())
/// # }
/// ```
pub struct AsyncDb<A: Access = ReadWrite> {
    db: Db<A>,
    default: AsyncKeyspace<A>,
}

/// An [`AsyncDb`] that only reads, while another process may write: see [`Db::open_read_only`].
pub type ReadOnlyAsyncDb = AsyncDb<ReadOnly>;

impl<A: Access> Clone for AsyncDb<A> {
    fn clone(&self) -> Self {
        AsyncDb { db: self.db.clone(), default: self.default.clone() }
    }
}

impl<A: Access> fmt::Debug for AsyncDb<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncDb").field("db", &self.db).finish()
    }
}

impl<A: Access> Deref for AsyncDb<A> {
    type Target = AsyncKeyspace<A>;

    fn deref(&self) -> &AsyncKeyspace<A> {
        &self.default
    }
}

impl<A: Access> From<Db<A>> for AsyncDb<A> {
    fn from(db: Db<A>) -> Self {
        AsyncDb::with_cold_reads(db, COLD_READS_MAX)
    }
}

/// Reading, for handles of both kinds.
impl<A: Access> AsyncDb<A> {
    /// Of an open database, with at most `threads` that wait at once for reads of what is not in memory, and so at most
    /// that many such reads before the device. [`AsyncDb::from`] takes 32: with fewer a fast device is not busy, with
    /// more on few processors the threads are in each other's way. A runtime that has fewer threads for blocking work
    /// gives no more.
    pub fn with_cold_reads(db: Db<A>, threads: usize) -> Self {
        let default = AsyncKeyspace::new((*db).clone(), Lanes::new(threads));
        AsyncDb { db, default }
    }

    /// The same database for threads that may wait.
    pub fn blocking(&self) -> &Db<A> {
        &self.db
    }

    /// The directory it was opened in.
    pub fn path(&self) -> &Path {
        self.db.path()
    }

    /// The names of all keyspaces, `default` first, then in the order in which they were created.
    pub fn keyspace_names(&self) -> Result<Vec<String>> {
        self.db.keyspace_names()
    }

    /// The keyspace of a name, if there is one. Creates none.
    pub fn find_keyspace(&self, name: &str) -> Result<Option<AsyncKeyspace<A>>> {
        let found = self.db.find_keyspace(name)?;
        Ok(found.map(|keyspace| AsyncKeyspace::new(keyspace, self.lanes().clone())))
    }

    /// A view of the whole database as it is now.
    pub fn snapshot(&self) -> Result<AsyncSnapshot<A>> {
        Ok(AsyncSnapshot::new(self.db.snapshot()?, self.lanes().clone()))
    }

    /// What is wrong, if anything.
    pub fn health(&self) -> Health {
        self.db.health()
    }

    /// Figures about the database. To gather them takes as long as to ask what of all tables is in memory.
    pub async fn metrics(&self) -> Result<Metrics> {
        self.run(|db| Ok(db.metrics())).await
    }

    /// Has something done with the database on a thread of its own that may wait: whatever has no method here. Once it was
    /// polled it is done, whether or not the future is dropped.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> terrace::Result<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = terrace::AsyncDb::open(directory.path()).await?;
    /// db.put("hello", "world").await?;
    /// let key_bytes = db
    ///     .run(|db| {
    ///         let mut cursor = db.cursor()?;
    ///         cursor.seek_to_first()?;
    ///         Ok(cursor.key().len())
    ///     })
    ///     .await?;
    /// assert_eq!(key_bytes, 5);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Db<A>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let db = self.db.clone();
        self.lanes().run(self.path(), move || operation(&db)).await
    }
}

/// Opens a database on a thread that may wait.
async fn opened<A: Access>(
    path: impl AsRef<Path>,
    open: impl FnOnce(PathBuf) -> Result<Db<A>> + Send + 'static,
) -> Result<AsyncDb<A>> {
    let path = path.as_ref().to_owned();
    let lanes = Lanes::new(COLD_READS_MAX);
    let db = lanes.run(&path.clone(), move || open(path)).await?;
    let default = AsyncKeyspace::new((*db).clone(), lanes);
    Ok(AsyncDb { db, default })
}

impl AsyncDb {
    /// Opens the database in a directory, or creates it: see [`Db::open`]. With options:
    /// [`AsyncDb::open_with`].
    pub async fn open(path: impl AsRef<Path>) -> Result<AsyncDb> {
        AsyncDb::open_with(Options::new(), path).await
    }

    /// The same with options.
    pub async fn open_with(options: Options, path: impl AsRef<Path>) -> Result<AsyncDb> {
        opened(path, |path| options.open(path)).await
    }

    /// Opens the database in a directory for reading only: see [`Db::open_read_only`].
    pub async fn open_read_only(path: impl AsRef<Path>) -> Result<ReadOnlyAsyncDb> {
        opened(path, Db::open_read_only).await
    }

    /// The keyspace of a name: the one that exists, or a new one with the database's defaults.
    pub async fn keyspace(&self, name: &str) -> Result<AsyncKeyspace> {
        let name = name.to_owned();
        let keyspace = self.run(move |db| db.keyspace(&name)).await?;
        Ok(AsyncKeyspace::new(keyspace, self.lanes().clone()))
    }

    /// The keyspace of a name: the one that exists, if it was created with these options, or a new one with them.
    pub async fn keyspace_with(&self, name: &str, options: KeyspaceOptions) -> Result<AsyncKeyspace> {
        let name = name.to_owned();
        let keyspace = self.run(move |db| db.keyspace_with(&name, options)).await?;
        Ok(AsyncKeyspace::new(keyspace, self.lanes().clone()))
    }

    /// Removes a keyspace with everything in it, durably.
    pub async fn drop_keyspace(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.run(move |db| db.drop_keyspace(&name)).await
    }

    /// Writes a batch, all of it or nothing, with the database's durability. The batch is filled with handles of the
    /// blocking API: [`AsyncKeyspace::blocking`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> terrace::Result<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = terrace::AsyncDb::open(directory.path()).await?;
    /// let colours = db.keyspace("colours").await?;
    /// let mut batch = terrace::WriteBatch::new();
    /// batch.put(db.blocking(), "pear", "green");
    /// batch.put(colours.blocking(), "green", "pear");
    /// db.write(batch).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn write(&self, batch: WriteBatch) -> Result<()> {
        self.write_with(batch, self.durability()).await
    }

    /// Writes a batch, all of it or nothing; it survives what `durability` says.
    pub async fn write_with(&self, batch: WriteBatch, durability: Durability) -> Result<()> {
        self.lanes().writers.write(self.db.handle(), batch, durability).await
    }

    /// Makes everything durable that was acknowledged before the first poll.
    pub async fn sync(&self) -> Result<()> {
        self.run(Db::sync).await
    }

    /// Writes all memtables to tables. Not needed for durability.
    pub async fn flush(&self) -> Result<()> {
        self.run(Db::flush).await
    }

    /// Brings the database to rest: see [`Db::settle`].
    pub async fn settle(&self) -> Result<()> {
        self.run(Db::settle).await
    }

    /// Closes the database for all handles, blocking ones too. Writes that were polled before, and not waited for, may
    /// be refused.
    pub async fn close(&self) -> Result<()> {
        self.run(Db::close).await
    }

    /// Reads every block of every table again and checks it: see [`Db::scrub`].
    pub async fn scrub(&self, options: &ScrubOptions) -> Result<ScrubReport> {
        let options = options.clone();
        self.run(move |db| db.scrub(&options)).await
    }

    /// Makes a checkpoint: see [`Db::checkpoint`].
    pub async fn checkpoint(&self, path: impl AsRef<Path>) -> Result<CheckpointReport> {
        let path = path.as_ref().to_owned();
        self.run(move |db| db.checkpoint(path)).await
    }
}

impl ReadOnlyAsyncDb {
    /// Moves on to what the files hold now: see [`Db::refresh`].
    pub async fn refresh(&self) -> Result<bool> {
        self.run(Db::refresh).await
    }
}
