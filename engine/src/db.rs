//! The database handle.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use terrace_io::{Error, Result};
use terrace_sstable::{Advice, PointReads};

use crate::access::{Access, ReadWrite};
use crate::backup::{BackupReport, StreamOptions, StreamReport};
use crate::batch::WriteBatch;
use crate::checkpoint::CheckpointReport;
use crate::core::Core;
use crate::health::Health;
use crate::keyspace::Keyspace;
use crate::metrics::Metrics;
use crate::options::{Durability, KeyspaceOptions, Options};
use crate::recovery;
use crate::scrub::{ScrubOptions, ScrubReport};
use crate::snapshot::Snapshot;

/// How long an open waits for a handle of the same process that was dropped, but whose threads have not ended yet.
const DROPPED_WAIT: Duration = Duration::from_secs(20);

/// Databases whose last handle was dropped without a close, and whose threads are still ending: the instance, for two
/// file systems can have the same path, and the directory.
static ENDING: Mutex<BTreeMap<u64, PathBuf>> = Mutex::new(BTreeMap::new());
static ENDED: Condvar = Condvar::new();

/// An open database, and a handle to its keyspace `default`: `db.put(..)`, `db.get(..)`, `db.range(..)` and all other
/// methods of [`Keyspace`] work on it. Cheap to clone, usable from any thread.
///
/// One process at a time has a database open for writing. Others get [`Error::Locked`], but any number may read it
/// meanwhile: [`Db::open_read_only`].
///
/// Dropping the last handle never waits for I/O: background threads are told to end, and what was not written to tables
/// is in the log, where the next open finds it. [`Db::close`] finishes instead, and says how that went.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("db");
/// let db = terrace::Db::open(&path)?;
/// db.put("hello", "world")?;
/// assert_eq!(db.get("hello")?.as_deref(), Some(&b"world"[..]));
/// db.close()?;
/// # Ok(())
/// # }
/// ```
pub struct Db<A: Access = ReadWrite> {
    default: Keyspace<A>,
}

impl<A: Access> Clone for Db<A> {
    fn clone(&self) -> Self {
        Db { default: self.default.clone() }
    }
}

impl<A: Access> std::fmt::Debug for Db<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("default", &self.default).finish()
    }
}

/// What user-facing handles share. When the last one goes, the threads are told to end.
pub(crate) struct Handle {
    pub core: Arc<Core>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("dir", &self.core.dir).finish()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.core.check_open().is_ok() {
            ENDING.lock().insert(self.core.instance, full_path(&self.core.dir));
            self.core.stop();
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        *self.lock.lock() = None;
        if ENDING.lock().remove(&self.instance).is_some() {
            ENDED.notify_all();
        }
    }
}

impl<A: Access> Deref for Db<A> {
    type Target = Keyspace<A>;

    fn deref(&self) -> &Keyspace<A> {
        &self.default
    }
}

/// Reading, for handles of both kinds.
impl<A: Access> Db<A> {
    pub(crate) fn of(default: Keyspace<A>) -> Self {
        Db { default }
    }

    /// The directory it was opened in.
    pub fn path(&self) -> &Path {
        A::dir(self.default.handle())
    }

    /// The names of all keyspaces, `default` first, then in the order in which they were created.
    pub fn keyspace_names(&self) -> Result<Vec<String>> {
        let keyspaces = A::keyspaces(self.default.handle())?;
        Ok(keyspaces.iter().map(|keyspace| A::name(keyspace).to_owned()).collect())
    }

    /// The keyspace of a name, if there is one. Creates none.
    pub fn find_keyspace(&self, name: &str) -> Result<Option<Keyspace<A>>> {
        let handle = self.default.handle();
        let found = A::keyspaces(handle)?.into_iter().find(|keyspace| A::name(keyspace) == name);
        Ok(found.map(|inner| Keyspace::new(handle.clone(), inner)))
    }

    /// A view of the whole database as it is now.
    pub fn snapshot(&self) -> Result<Snapshot<A>> {
        Ok(Snapshot::new(A::snapshot(self.default.handle())?))
    }

    /// What is wrong, if anything. Of a [`crate::ReadOnlyDb`] only what opening and reading it has shown: what happens in the
    /// background of a database, only the process knows that writes to it.
    pub fn health(&self) -> Health {
        A::health(self.default.handle())
    }

    /// Figures about the database. Of a [`crate::ReadOnlyDb`] those about what it shows and how that is read; those of
    /// writing are 0.
    pub fn metrics(&self) -> Metrics {
        A::metrics(self.default.handle())
    }
}

impl Db {
    /// Opens the database in a directory with the default [`Options`], or creates it if the directory is missing or
    /// empty. Recovers it first, if it was not closed.
    ///
    /// # Errors
    /// [`Error::Locked`] if it is open elsewhere; [`Error::NotADatabase`] if the directory holds something else;
    /// [`Error::Corruption`] and [`Error::UnsupportedFormat`] if it cannot be recovered: then nothing was changed.
    pub fn open(path: impl AsRef<Path>) -> Result<Db> {
        Options::new().open(path)
    }

    pub(crate) fn open_with(path: &Path, options: Options) -> Result<Db> {
        options.check()?;
        let core = match recovery::open(path, &options) {
            Err(Error::Locked { .. }) => {
                // Once more in any case: its threads may have ended just now.
                wait_until_ended(path);
                recovery::open(path, &options)?
            }
            outcome => outcome?,
        };
        let default = core.keyspaces.load().get(&0).cloned();
        let default = default.expect("recovery makes sure of keyspace 0");
        Ok(Db { default: Keyspace::new(Arc::new(Handle { core }), default) })
    }

    fn core(&self) -> &Core {
        &self.default.handle().core
    }

    /// The keyspace of a name: the one that exists, or a new one with the database's defaults.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        self.core().check_open()?;
        let inner = match self.core().find_keyspace(name) {
            Some(inner) => inner,
            None => self.core().create_keyspace(name, self.core().options.keyspace_defaults.clone())?,
        };
        Ok(Keyspace::new(self.default.handle().clone(), inner))
    }

    /// The keyspace of a name: the one that exists, if it was created with these options, or a new one with them.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it exists with other options.
    pub fn keyspace_with(&self, name: &str, options: KeyspaceOptions) -> Result<Keyspace> {
        self.core().check_open()?;
        let inner = match self.core().find_keyspace(name) {
            Some(inner) => inner,
            None => self.core().create_keyspace(name, options.clone())?,
        };
        if inner.options != options {
            let known = &inner.options;
            return Err(Error::invalid(format!(
                "keyspace {name:?} was created with other options: {known:?}, not {options:?}"
            )));
        }
        Ok(Keyspace::new(self.default.handle().clone(), inner))
    }

    /// Removes a keyspace with everything in it, durably. Its handles give [`Error::KeyspaceDropped`] from here on;
    /// snapshots and iterators from before go on. A new keyspace of the same name has nothing to do with it.
    pub fn drop_keyspace(&self, name: &str) -> Result<()> {
        self.core().check_open()?;
        self.core().drop_keyspace(name)
    }

    /// Writes a batch, all of it or nothing, with the database's durability.
    pub fn write(&self, batch: WriteBatch) -> Result<()> {
        self.write_with(batch, self.core().options.durability)
    }

    /// Writes a batch, all of it or nothing; it survives what `durability` says.
    pub fn write_with(&self, batch: WriteBatch, durability: Durability) -> Result<()> {
        batch.check()?;
        self.core().write(batch.request(), durability)
    }

    /// Makes everything durable that was acknowledged before the call.
    pub fn sync(&self) -> Result<()> {
        self.core().check_open()?;
        self.core().sync()
    }

    /// From here on point reads reach tables in another way: see [`PointReads`]. Readers that have begun go on as they
    /// were: iterators, snapshots' gets and values keep what they have mapped until they are dropped.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for [`PointReads::Pread`] while there is advice for mappings.
    pub fn set_point_reads(&self, path: PointReads) -> Result<()> {
        self.core().set_point_reads(path)
    }

    /// From here on the system is told something else about mapped tables: see [`Advice`].
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for anything but [`Advice::Auto`] with [`PointReads::Pread`], which maps none.
    pub fn set_advice(&self, advice: Advice) -> Result<()> {
        self.core().set_advice(advice)
    }

    /// Writes all memtables to tables, and waits for that. Not needed for durability.
    pub fn flush(&self) -> Result<()> {
        self.core().check_open()?;
        self.core().flush_keyspaces(|_| true)
    }

    /// Flushes, empties level 0, waits until no compaction is owed, and gives the log's space back: what a database
    /// looks like at rest. While others go on writing it may take as long as they do.
    pub fn settle(&self) -> Result<()> {
        self.core().check_open()?;
        self.core().settle()
    }

    /// Closes the database: flushes, stops the background threads and waits for them, and unlocks the directory. From
    /// here on every handle gives [`Error::Closed`]; iterators and values that were read stay valid.
    ///
    /// # Errors
    /// What could not be finished. The database is closed all the same, and no acknowledged write is lost.
    pub fn close(&self) -> Result<()> {
        self.core().close()
    }

    /// Reads every block of every table again, past the page cache, and checks all of it: what was cold for months may
    /// have rotted since it was written. What is wrong is in the report and in [`Db::health`], and is told as an event
    /// of `tracing`. Tables that come after the call was made are not read; those that go meanwhile are left.
    ///
    /// Takes as long as the bytes do at the rate that the options bound; [`crate::Options::scrub_interval`] has it done
    /// in the background. Readers, writers and compactions do not wait for it.
    ///
    /// # Errors
    /// [`Error::Closed`] if the database is closed, also meanwhile. Damage is no error.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = terrace::Db::open(directory.path())?;
    /// db.put("hello", "world")?;
    /// db.flush()?;
    /// let report = db.scrub(&terrace::ScrubOptions::new())?;
    /// assert!(report.is_ok());
    /// assert_eq!(report.entries, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn scrub(&self, options: &ScrubOptions) -> Result<ScrubReport> {
        self.core().check_open()?;
        self.core().scrub(options)
    }

    /// Makes a checkpoint in `path`: a copy of the whole database as it is at one moment during the call, which
    /// [`Db::open`] opens like any other database. Reads, writes, flushes and compactions go on meanwhile.
    ///
    /// It has all keyspaces with their options, and of the history a first part: every write that was acknowledged
    /// before the call, buffered ones too, and whole batches only. When the call returns, all of it is durable, and in
    /// the database itself that part of the history is so too: a power cut never leaves it behind its checkpoint.
    /// From then on they are two databases, whose ids differ. No snapshot is in it.
    ///
    /// `path` must be missing or an empty directory. On the database's own file system tables are hard links, since they
    /// never change: that costs no space until one of the two lets go of a table. Where they cannot be linked they are
    /// copied: by the file system itself if it can (reflink), else by the kernel, else by reading and writing. What is in
    /// memory is written to tables of the checkpoint, so that no log has to be copied, and the database is not flushed,
    /// so that checkpoints can be frequent without many small tables coming of it; call [`Db::flush`] before for a
    /// checkpoint of links alone. Writers wait while it is noted what there is, which takes no I/O: a few microseconds,
    /// and 0.3 µs more for each keyspace. Synced ones may also wait for the sync of the log with which it begins.
    /// Memtables and tables that become obsolete stay until they are written, linked or copied.
    ///
    /// A linked table is one file: what a failing disk does to it, it does to both. For a backup make the checkpoint on
    /// another disk, or copy it there; a copy of a checkpoint is one too. What is damaged in the database is damaged in
    /// the checkpoint as well: nothing is verified on the way.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `path` is not empty or lies in the database's directory; [`Error::Locked`] if
    /// somebody has it; [`Error::Corruption`] if a table is missing (see [`Health::missing_tables`]), since there would
    /// be no whole copy; [`Error::Poisoned`] after a failed sync, and [`Error::OutcomeUnknown`] if it is that of this
    /// call, since nobody knows then what of the history is durable; [`Error::Closed`] if the database is closed, also
    /// meanwhile; errors of the file system. What was made by then is removed, as far as possible, but for the empty
    /// directory and its `LOCK` file. A process that is killed leaves tables without a manifest in `path`: no open and no
    /// further checkpoint takes them for anything, and both say why.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let (path, copy) = (directory.path().join("db"), directory.path().join("copy"));
    /// let db = terrace::Db::open(&path)?;
    /// db.put("key", "before")?;
    /// let report = db.checkpoint(&copy)?;
    /// db.put("key", "after")?;
    /// assert_eq!((report.tables_linked, report.tables_written), (0, 1)); // it was in memory
    ///
    /// let copy = terrace::Db::open(&copy)?;
    /// assert_eq!(copy.get("key")?.as_deref(), Some(&b"before"[..]));
    /// # copy.close()?;
    /// # db.close()
    /// # }
    /// ```
    pub fn checkpoint(&self, path: impl AsRef<Path>) -> Result<CheckpointReport> {
        self.core().check_open()?;
        self.core().checkpoint(path.as_ref())
    }

    /// Adds a backup of the whole database to a directory of them, which is created if need be: the database as it is at
    /// one moment during the call, with all that [`Db::checkpoint`] says of that moment. [`crate::Backups`] lists,
    /// verifies, restores and deletes them.
    ///
    /// Backups are incremental: a table that is in the directory already, of whatever backup, is not copied again. All
    /// others are copied: by the file system itself if it can (reflink), else by the kernel, else by reading and writing;
    /// never linked, so that no disk error and no slip of the hand hits both. What is in memory is written to tables of
    /// the backup, which no later one shares; call [`Db::flush`] before for one that shares all it can. Each new table is
    /// then read where it has come to and verified down to each checksum, and only after the last one the backup exists. A
    /// backup that was interrupted, by whatever and at whatever moment, does not exist, and the next one removes its files.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `path` holds something else, or lies in the database's directory;
    /// [`Error::Locked`] while somebody makes, restores, verifies or deletes a backup there; [`Error::Corruption`] if a
    /// table is missing or damaged, with its path and the offset: there is no backup of a damaged database;
    /// [`Error::Poisoned`], [`Error::OutcomeUnknown`] and [`Error::Closed`] as of [`Db::checkpoint`]; errors of the file
    /// system. What was made by then is removed, as far as possible; the backups from before are not touched.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let (path, backups) = (directory.path().join("db"), directory.path().join("backups"));
    /// let db = terrace::Db::open(&path)?;
    /// db.put("key", "value")?;
    /// db.flush()?;
    /// let first = db.backup(&backups)?;
    /// assert_eq!((first.number, first.tables_copied), (1, 1));
    /// let second = db.backup(&backups)?;
    /// assert_eq!((second.number, second.tables_copied, second.tables_shared), (2, 0, 1));
    /// # db.close()
    /// # }
    /// ```
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<BackupReport> {
        self.core().check_open()?;
        self.core().backup(path.as_ref())
    }

    /// Sends a backup, as [`Db::backup`] makes one, as one stream of bytes into a pipe, a socket or a file, from its
    /// position on. [`crate::restore_stream`] makes a database of it, [`crate::Backups::receive`] a backup in a directory.
    ///
    /// Tables go by `splice`, `sendfile` or `copy_file_range`, without passing through this process; where the kernel
    /// refuses that, they are read and written, and the report says how many bytes went which way. So they are not
    /// verified here: the receiver does that, down to each checksum. A stream that ends early is not whole, and is refused
    /// by whoever receives it. What is in memory is written to a table in the database's directory first, a file without a
    /// name.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `out` is a terminal; [`Error::Corruption`] if a table is missing or another one, or
    /// the manifest in `options` is damaged; [`Error::Io`] with the path `the stream` if `out` cannot be written to;
    /// [`Error::Poisoned`], [`Error::OutcomeUnknown`] and [`Error::Closed`] as of [`Db::checkpoint`]. What has been
    /// sent by then is no whole stream.
    pub fn backup_to_stream(&self, out: impl AsFd, options: &StreamOptions) -> Result<StreamReport> {
        self.core().check_open()?;
        self.core().backup_to_stream(out.as_fd(), options)
    }
}

/// Waits until the threads of a dropped database in this process have ended, if that is who has it locked.
fn wait_until_ended(path: &Path) {
    let path = full_path(path);
    let mut ending = ENDING.lock();
    while ending.values().any(|known| *known == path) {
        if ENDED.wait_for(&mut ending, DROPPED_WAIT).timed_out() {
            break;
        }
    }
}

fn full_path(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
