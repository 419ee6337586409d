//! What a handle may do with a database: [`ReadWrite`], or [`ReadOnly`].
//!
//! Handles ([`crate::Db`], [`crate::Keyspace`], [`crate::Snapshot`]) have it as a parameter. Reading is written once,
//! over what a [`Backend`] says of where there is something to read; writing exists for [`ReadWrite`] alone, so that a
//! program which writes to a database that it has opened for reading is not compiled.

use std::fmt::Debug;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use terrace_io::{Error, Result};

use crate::db::Handle;
use crate::health::Health;
use crate::keyspace::KeyspaceInner;
use crate::metrics::Metrics;
use crate::options::KeyspaceOptions;
use crate::snapshot::Registration;
use crate::swap::Guard;
use crate::version::State;

/// Of handles that read and write: those of [`crate::Db::open`].
#[derive(Debug, Clone, Copy)]
pub enum ReadWrite {}

/// Of handles that only read: those of [`crate::Db::open_read_only`].
#[derive(Debug, Clone, Copy)]
pub enum ReadOnly {}

/// [`ReadWrite`] or [`ReadOnly`]: for functions that read, whatever else their caller may do.
///
/// ```
/// use terrace::{Access, Db, Keyspace};
///
/// fn count<A: Access>(keyspace: &Keyspace<A>) -> terrace::Result<usize> {
///     keyspace.iter()?.try_fold(0, |count, entry| entry.map(|_| count + 1))
/// }
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// let writer = Db::open(directory.path())?;
/// writer.put("apple", "red")?;
/// let reader = Db::open_read_only(directory.path())?;
/// assert_eq!((count(&writer)?, count(&reader)?), (1, 1));
/// # Ok(())
/// # }
/// ```
#[expect(private_bounds, reason = "nobody else can say how handles get at what they read")]
pub trait Access: Backend {}

impl Access for ReadWrite {}
impl Access for ReadOnly {}

/// How handles get at what they read.
pub(crate) trait Backend: Sized + 'static {
    /// What all handles of a database share.
    type Handle: Debug + Send + Sync;
    /// A keyspace, as its handles know it.
    type Keyspace: Debug + Send + Sync;
    /// What keeps a moment in the place where it is.
    type Snapshot: Debug + Send + Sync;
    /// Keeps a state for as long as it is looked at.
    type Look<'h>: Deref<Target = State>;

    /// The directory of the database.
    fn dir(handle: &Self::Handle) -> &Path;
    /// All keyspaces, by id.
    fn keyspaces(handle: &Self::Handle) -> Result<Vec<Arc<Self::Keyspace>>>;
    fn name(keyspace: &Self::Keyspace) -> &str;
    fn options(keyspace: &Self::Keyspace) -> &KeyspaceOptions;

    /// What there is to read of a keyspace now, for a look, and the sequence number up to which it counts.
    fn look<'h>(handle: &'h Self::Handle, keyspace: &'h Self::Keyspace) -> Result<(Self::Look<'h>, u64)>;
    /// The same, to keep.
    fn state(handle: &Self::Handle, keyspace: &Self::Keyspace) -> Result<(Arc<State>, u64)>;

    fn snapshot(handle: &Arc<Self::Handle>) -> Result<Self::Snapshot>;
    /// The sequence number up to which writes count in a snapshot.
    fn snapshot_sequence(snapshot: &Self::Snapshot) -> u64;
    /// What a snapshot sees of a keyspace of the database of `handle`.
    fn snapshot_state(
        snapshot: &Self::Snapshot,
        handle: &Arc<Self::Handle>,
        keyspace: &Self::Keyspace,
    ) -> Result<Arc<State>>;

    fn metrics(handle: &Self::Handle) -> Metrics;
    fn health(handle: &Self::Handle) -> Health;
}

/// The error of a snapshot that is asked for a keyspace of another database.
pub(crate) fn of_different_databases() -> Error {
    Error::invalid("the snapshot and the keyspace belong to different databases")
}

#[inline(always)]
fn check(handle: &Handle, keyspace: &KeyspaceInner) -> Result<()> {
    handle.core.check_open()?;
    keyspace.check_exists()
}

impl Backend for ReadWrite {
    type Handle = Handle;
    type Keyspace = KeyspaceInner;
    type Snapshot = Registration;
    type Look<'h> = Guard<'h, State>;

    fn dir(handle: &Handle) -> &Path {
        &handle.core.dir
    }

    fn keyspaces(handle: &Handle) -> Result<Vec<Arc<KeyspaceInner>>> {
        handle.core.check_open()?;
        Ok(handle.core.keyspaces.load().values().cloned().collect())
    }

    fn name(keyspace: &KeyspaceInner) -> &str {
        &keyspace.name
    }

    fn options(keyspace: &KeyspaceInner) -> &KeyspaceOptions {
        &keyspace.options
    }

    #[inline(always)]
    fn look<'h>(handle: &'h Handle, keyspace: &'h KeyspaceInner) -> Result<(Guard<'h, State>, u64)> {
        check(handle, keyspace)?;
        Ok(keyspace.peek_at(&handle.core.visible))
    }

    #[inline(always)]
    fn state(handle: &Handle, keyspace: &KeyspaceInner) -> Result<(Arc<State>, u64)> {
        check(handle, keyspace)?;
        Ok(keyspace.state_at(&handle.core.visible))
    }

    fn snapshot(handle: &Arc<Handle>) -> Result<Registration> {
        handle.core.check_open()?;
        Ok(Registration::new(handle.clone()))
    }

    fn snapshot_sequence(snapshot: &Registration) -> u64 {
        snapshot.sequence()
    }

    fn snapshot_state(
        snapshot: &Registration,
        handle: &Arc<Handle>,
        keyspace: &KeyspaceInner,
    ) -> Result<Arc<State>> {
        snapshot.state(handle, keyspace)
    }

    fn metrics(handle: &Handle) -> Metrics {
        Metrics::gather(&handle.core)
    }

    fn health(handle: &Handle) -> Health {
        handle.core.health()
    }
}
