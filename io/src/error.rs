//! The one error type of Terrace. Every crate returns it and the engine exports it as `terrace::Error`.
//!
//! Each variant says what happened and where; its documentation says what the caller should do.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `Result` with Terrace's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Cheap to clone, so that one failure can be told to everyone who waited for it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file. The `source` says why. A full disk
    /// ([`Error::is_disk_full`]) passes once there is space; other errors usually mean a failing device or
    /// missing permissions.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done to it.
        operation: Operation,
        /// The operating system's answer.
        source: Arc<std::io::Error>,
    },

    /// Bytes on disk are not what was written, or contradict each other. Nothing was changed. Restore the file from
    /// a backup, or inspect it with `sst-dump verify`.
    #[error("{} is damaged at offset {offset}: {what}", path.display())]
    Corruption {
        /// The damaged file.
        path: PathBuf,
        /// Where the damaged structure starts, in bytes from the start of the file.
        offset: u64,
        /// What was expected and what was found.
        what: String,
    },

    /// The file was written by a newer (or unknown) version of the format. Open it with the version of Terrace that
    /// wrote it.
    #[error("{} has format version {found}; this version of Terrace reads up to {supported}", path.display())]
    UnsupportedFormat {
        /// The file.
        path: PathBuf,
        /// The version that it claims.
        found: u64,
        /// The newest version that this build reads.
        supported: u64,
    },

    /// The directory is not a Terrace database and does not look like the beginning of one. Give the path of a
    /// database, or of an empty or new directory.
    #[error("{} is not a Terrace database: {what}", path.display())]
    NotADatabase {
        /// The directory.
        path: PathBuf,
        /// What was found there.
        what: String,
    },

    /// Another process (or another handle of this one) has the database open. Close it there first.
    #[error("{} is in use by {holder}", path.display())]
    Locked {
        /// The database directory.
        path: PathBuf,
        /// Who holds the lock, as far as is known.
        holder: String,
    },

    /// A database that is opened for reading only was changed by its writer again and again while it was read, and no
    /// moment was found at which it stood still. What was seen before can still be read. Try again.
    #[error("{} was changed during each of {attempts} attempts to read it", path.display())]
    Busy {
        /// The database directory.
        path: PathBuf,
        /// How many attempts were made.
        attempts: u32,
    },

    /// An argument was refused: a key or value over its limit, a reversed range, options that contradict those the
    /// database was created with. Nothing was changed.
    #[error("{0}")]
    InvalidArgument(String),

    /// The keyspace was dropped after this handle to it was made. Writes and reads through the handle are refused;
    /// snapshots and iterators from before the drop go on.
    #[error("keyspace {name:?} was dropped")]
    KeyspaceDropped {
        /// Its name.
        name: String,
    },

    /// The database was closed with `close()`. Open it again.
    #[error("the database is closed")]
    Closed,

    /// An earlier sync of the log or the manifest failed, and what is on disk is no longer known. Reads go on; no
    /// write is accepted any more. Find out what is wrong with the device, then open the database again: no
    /// synced write is lost.
    #[error("the database takes no more writes since an earlier failure: {cause}")]
    Poisoned {
        /// The failure that caused it, the first one.
        cause: Arc<Error>,
    },

    /// The write was handed to the log, but the sync that would have made it durable failed: it may or may not
    /// survive. The database is poisoned from here on; open it again to see which it is.
    #[error("the outcome of the write is unknown, because the log could not be synced: {cause}")]
    OutcomeUnknown {
        /// Why the sync failed.
        cause: Arc<Error>,
    },
}

impl Error {
    /// An [`Error::Io`].
    pub fn io(path: impl Into<PathBuf>, operation: Operation, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), operation, source: Arc::new(source) }
    }

    /// An [`Error::Corruption`].
    pub fn corruption(path: impl Into<PathBuf>, offset: u64, what: impl Into<String>) -> Self {
        Error::Corruption { path: path.into(), offset, what: what.into() }
    }

    /// An [`Error::InvalidArgument`].
    pub fn invalid(what: impl Into<String>) -> Self {
        Error::InvalidArgument(what.into())
    }

    /// Whether this is a full disk, quota or file system: it passes once there is space.
    pub fn is_disk_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Error::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    /// Whether this says that a file or directory does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }

    /// Whether this says that there were no more descriptors or no more memory: nothing about the file.
    pub fn is_out_of_resources(&self) -> bool {
        use rustix::io::Errno;
        let Error::Io { source, .. } = self else { return false };
        let is = |errno: &Errno| source.raw_os_error() == Some(errno.raw_os_error());
        source.kind() == std::io::ErrorKind::OutOfMemory || [Errno::MFILE, Errno::NFILE].iter().any(is)
    }

    /// The error of a reader that would have to wait for the device, and is not to.
    pub fn would_wait(path: impl Into<PathBuf>) -> Self {
        Error::io(path, Operation::Read, std::io::ErrorKind::WouldBlock.into())
    }

    /// Whether this says that what was asked for is not in memory, and that the reader was not to wait for it.
    pub fn is_would_wait(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Whether this says that a name is taken already.
    pub fn is_already_there(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists)
    }

    /// Whether this says that a file cannot be linked where it should be, although a copy of it may well be made there:
    /// that is another file system, or one without links, or the file has as many names as it may have.
    pub fn is_link_refused(&self) -> bool {
        use std::io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
        let Error::Io { operation: Operation::Link, source, .. } = self else { return false };
        matches!(source.kind(), CrossesDevices | TooManyLinks | PermissionDenied | Unsupported)
    }

    /// Whether this says that bytes on disk are damaged, missing or of another format.
    pub fn is_corruption(&self) -> bool {
        matches!(self, Error::Corruption { .. } | Error::UnsupportedFormat { .. })
    }

    /// The file that the error is about, where it is about one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Error::Io { path, .. }
            | Error::Corruption { path, .. }
            | Error::UnsupportedFormat { path, .. }
            | Error::NotADatabase { path, .. }
            | Error::Locked { path, .. }
            | Error::Busy { path, .. } => Some(path),
            Error::Poisoned { cause } | Error::OutcomeUnknown { cause } => cause.path(),
            _ => None,
        }
    }
}

/// What was being done to a file when it failed. Also the kinds of call that faults are injected into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Opening a file that exists.
    Open,
    /// Creating a file.
    Create,
    /// Reading bytes.
    Read,
    /// Writing bytes.
    Write,
    /// Changing the length of a file.
    SetLength,
    /// Making a file durable.
    Sync,
    /// Mapping a file into memory.
    Map,
    /// Renaming a file.
    Rename,
    /// Giving a file a second name.
    Link,
    /// Removing a file.
    Remove,
    /// Asking for a file's length or kind.
    Metadata,
    /// Creating a directory.
    CreateDirectory,
    /// Listing a directory.
    ReadDirectory,
    /// Making a directory's entries durable.
    SyncDirectory,
    /// Locking a directory.
    Lock,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Open => "open",
            Operation::Create => "create",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::SetLength => "set the length of",
            Operation::Sync => "sync",
            Operation::Map => "map",
            Operation::Rename => "rename",
            Operation::Link => "link",
            Operation::Remove => "remove",
            Operation::Metadata => "inspect",
            Operation::CreateDirectory => "create directory",
            Operation::ReadDirectory => "list directory",
            Operation::SyncDirectory => "sync directory",
            Operation::Lock => "lock",
        })
    }
}
