//! Handles of a database that is opened for reading only: what they do besides reading, and where they read.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use terrace_io::{Error, Result};

use crate::access::{Backend, ReadOnly, of_different_databases};
use crate::follower::{Follower, KnownKeyspace, View};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::options::{KeyspaceOptions, Options};
use crate::swap::Guard;
use crate::version::State;
use crate::{Db, Keyspace, Snapshot};

/// A database that is opened for reading only, while somebody else may be writing to it: see [`Db::open_read_only`].
pub type ReadOnlyDb = Db<ReadOnly>;

/// A keyspace of a [`ReadOnlyDb`].
pub type ReadOnlyKeyspace = Keyspace<ReadOnly>;

/// A snapshot of a [`ReadOnlyDb`].
pub type ReadOnlySnapshot = Snapshot<ReadOnly>;

impl Db {
    /// Opens the database in a directory for reading only, with the default [`Options`]: by any number of processes, and
    /// also while one of them (or this one) has it open for writing.
    ///
    /// It shows a first part of the history, whole batches only and the same for all keyspaces: all that the files held
    /// when it was opened, and from [`Db::refresh`] on, all that they hold then. That includes writes that are not
    /// durable yet, as it does for readers in the writer's process. (A write that has *failed* may be seen too, until
    /// as many operations as it had have been written in its place; refreshes say that nothing has changed meanwhile.) A database that was not closed is shown as its recovery would leave it.
    ///
    /// Nothing in the directory is created, written, synced, locked or removed. It may belong to somebody else, or be
    /// on a file system that is mounted for reading only. A writer notices nothing and waits for nobody.
    ///
    /// All tables are opened and mapped at once, which takes some tens of microseconds for each, so that none is lost to a
    /// compaction of the writer: a file that was removed while it is mapped takes its space on the disk until
    /// nobody reads it any more ([`crate::Metrics::pinned_bytes`] says how much that is). Pages of tables are in memory
    /// once, however many processes read them. What is not in tables is read from the log into the heap: as much as the
    /// writer has in its memtables, and at most what its log may hold ([`Options::log_bytes_max`]). Dropping the last
    /// handle is all it takes to close it; there are no threads.
    ///
    /// # Errors
    /// [`Error::NotADatabase`] if there is none, or not yet; [`Error::Corruption`] and [`Error::UnsupportedFormat`]
    /// where [`Db::open`] says so; [`Error::Busy`] if the writer was faster again and again. A table that is missing
    /// although the writer has not removed it is in [`Db::health`], as for [`Db::open`], and so reads of its keys
    /// fail and others go on.
    ///
    /// ```
    /// # fn main() -> terrace::Result<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let path = directory.path().join("db");
    /// use terrace::Db;
    /// let writer = Db::open(&path)?; // in another process, as a rule
    /// writer.put("apple", "green")?;
    ///
    /// let reader = Db::open_read_only(&path)?;
    /// assert_eq!(reader.get("apple")?.as_deref(), Some(&b"green"[..]));
    ///
    /// writer.put("apple", "red")?;
    /// assert_eq!(reader.get("apple")?.as_deref(), Some(&b"green"[..]));
    /// assert!(reader.refresh()?);
    /// assert_eq!(reader.get("apple")?.as_deref(), Some(&b"red"[..]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// There is no way to write:
    ///
    /// ```compile_fail
    /// # let path = "/nowhere";
    /// let reader = terrace::Db::open_read_only(path).unwrap();
    /// reader.put("apple", "blue").unwrap();
    /// ```
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<ReadOnlyDb> {
        Options::new().open_read_only(path)
    }
}

impl Db<ReadOnly> {
    fn follow(path: &Path, options: &Options) -> Result<ReadOnlyDb> {
        let handle = Arc::new(Follower::open(path, options)?);
        let default = handle.view().keyspaces.first().map(|keyspace| keyspace.known.clone());
        let default = default.expect("a manifest without keyspace 0 is refused");
        Ok(Db::of(Keyspace::new(handle, default)))
    }

    /// Moves on to what the files hold now. Says whether it shows something else from here on than before: new writes,
    /// or the same in other tables. It never goes back, and moves for all keyspaces, and for all clones of this handle,
    /// at once. Iterators, snapshots and values from before keep what they saw.
    ///
    /// It costs what was written since, and some hundred microseconds; where nothing is ever synced, a MiB of the log is
    /// read again. One thread does it at a time; readers do not wait for it.
    ///
    /// # Errors
    /// As for [`Db::open_read_only`]. What was shown before still is.
    pub fn refresh(&self) -> Result<bool> {
        self.handle().refresh()
    }

    /// The keyspace of a name.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is none, or was none when this was opened or refreshed: see
    /// [`Db::find_keyspace`].
    pub fn keyspace(&self, name: &str) -> Result<ReadOnlyKeyspace> {
        if let Some(keyspace) = self.find_keyspace(name)? {
            return Ok(keyspace);
        }
        let known = self.keyspace_names()?;
        Err(Error::invalid(format!("there is no keyspace {name:?} among {known:?}")))
    }
}

impl Options {
    /// Opens the database in the directory `path` for reading only: see [`Db::open_read_only`]. Of the options,
    /// [`Options::point_reads`], [`Options::advice`], [`Options::memory_bytes`], [`Options::pin_metadata`],
    /// [`Options::block_cache_bytes`] and [`Options::file_system`] count;
    /// [`Options::memtable_bytes`] says how large the memtables are that the log is read into, not how many; and what
    /// compaction owes, in the metrics, is by the options that are about levels. All others are about writing, and are
    /// ignored.
    pub fn open_read_only(self, path: impl AsRef<Path>) -> Result<ReadOnlyDb> {
        Db::follow(path.as_ref(), &self)
    }
}

/// A state in a view that is looked at.
pub(crate) struct Look<'h> {
    view: Guard<'h, View>,
    index: usize,
}

impl Deref for Look<'_> {
    type Target = State;

    #[inline]
    fn deref(&self) -> &State {
        &self.view.keyspaces[self.index].state
    }
}

/// A view that is kept.
#[derive(Debug)]
pub(crate) struct KeptView {
    handle: Arc<Follower>,
    view: Arc<View>,
}

fn dropped(keyspace: &KnownKeyspace) -> Error {
    Error::KeyspaceDropped { name: keyspace.name.clone() }
}

impl Backend for ReadOnly {
    type Handle = Follower;
    type Keyspace = KnownKeyspace;
    type Snapshot = KeptView;
    type Look<'h> = Look<'h>;

    fn dir(handle: &Follower) -> &Path {
        &handle.dir
    }

    fn keyspaces(handle: &Follower) -> Result<Vec<Arc<KnownKeyspace>>> {
        Ok(handle.view().keyspaces.iter().map(|keyspace| keyspace.known.clone()).collect())
    }

    fn name(keyspace: &KnownKeyspace) -> &str {
        &keyspace.name
    }

    fn options(keyspace: &KnownKeyspace) -> &KeyspaceOptions {
        &keyspace.options
    }

    #[inline]
    fn look<'h>(handle: &'h Follower, keyspace: &'h KnownKeyspace) -> Result<(Look<'h>, u64)> {
        let view = handle.view();
        let index = view.index_of(keyspace).ok_or_else(|| dropped(keyspace))?;
        let sequence = view.sequence;
        Ok((Look { view, index }, sequence))
    }

    fn state(handle: &Follower, keyspace: &KnownKeyspace) -> Result<(Arc<State>, u64)> {
        let view = handle.view();
        let index = view.index_of(keyspace).ok_or_else(|| dropped(keyspace))?;
        Ok((view.keyspaces[index].state.clone(), view.sequence))
    }

    fn snapshot(handle: &Arc<Follower>) -> Result<KeptView> {
        Ok(KeptView { handle: handle.clone(), view: handle.view().to_arc() })
    }

    fn snapshot_sequence(snapshot: &KeptView) -> u64 {
        snapshot.view.sequence
    }

    fn snapshot_state(
        snapshot: &KeptView,
        handle: &Arc<Follower>,
        keyspace: &KnownKeyspace,
    ) -> Result<Arc<State>> {
        let view = &snapshot.view;
        if !Arc::ptr_eq(&snapshot.handle, handle) {
            return Err(of_different_databases());
        }
        match view.index_of(keyspace) {
            Some(index) => Ok(view.keyspaces[index].state.clone()),
            // It has come since.
            None if keyspace.id >= view.image.catalog.next_keyspace => Ok(Arc::new(State::empty())),
            None => Err(dropped(keyspace)),
        }
    }

    fn metrics(handle: &Follower) -> Metrics {
        Metrics::of_follower(handle)
    }

    fn health(handle: &Follower) -> Health {
        handle.health()
    }
}
