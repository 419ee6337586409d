//! The file-system seam: everything that Terrace asks of a file system, and nothing more.
//!
//! Implementations return [`Error::Io`](crate::Error::Io) with the path and the operation. They may be called from any
//! thread. `Interrupted` is retried inside; short reads and writes are passed on, as the operating system would.

use std::fmt::Debug;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Error, Operation, Pin, Region, Result};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// A file that must not exist yet, for reading and writing.
    CreateNew,
}

/// What a directory stands on: where it is not [`Medium::Local`], a mapping may fault for reasons that are not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// A local disk, or memory.
    Local,
    /// A local disk, but in a directory that other users own or may write to: they could cut a mapped file short.
    Shared,
    /// NFS, SMB and the like: a mapping could fault on a server's failure.
    Network,
}

/// How a range of a file or mapping will be used. Advice never changes what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// No particular pattern.
    Normal,
    /// At random: no readahead.
    Random,
    /// From front to back.
    Sequential,
    /// Soon: start reading it now.
    WillNeed,
    /// Not again soon: the page cache may forget it.
    DontNeed,
}

/// A file system.
pub trait FileSystem: Debug + Send + Sync + 'static {
    /// Creates a directory, and those above it, durably. Succeeds if it exists.
    fn create_dir_all(&self, path: &Path) -> Result<()>;

    /// The names of the entries of a directory, in no particular order. Names that are not UTF-8 are given lossily.
    fn read_dir(&self, path: &Path) -> Result<Vec<String>>;

    /// Opens a regular file. Symbolic links are not followed; anything else is refused.
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>>;

    /// Renames a file, replacing one at `to`. Durable after [`FileSystem::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Gives a file a second name, which must be free: from then on it has both, and keeps each when the other is
    /// removed. Durable after [`FileSystem::sync_dir`] of the new name's directory.
    ///
    /// Where that cannot be, but a copy can, the error is of kind `CrossesDevices`, `TooManyLinks`, `PermissionDenied`
    /// or, also where nobody has implemented it, `Unsupported`: see [`Error::is_link_refused`].
    fn hard_link(&self, from: &Path, to: &Path) -> Result<()> {
        let _ = to;
        Err(Error::io(from, Operation::Link, ErrorKind::Unsupported.into()))
    }

    /// The one name of a file or directory that exists, from the root and without links, `.` and `..`. Where nobody has
    /// implemented it, the path as it is: then two names of one place are taken for two places.
    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        Ok(path.to_owned())
    }

    /// Removes a file. Open handles and mappings of it stay valid.
    fn remove_file(&self, path: &Path) -> Result<()>;

    /// Makes the entries of a directory durable: creations, links, renames and removals so far.
    fn sync_dir(&self, path: &Path) -> Result<()>;

    /// Locks a directory for this process by its file `LOCK`, which is created if need be and never removed.
    /// [`Error::Locked`] if somebody has it. The lock goes when the guard is dropped or the process ends.
    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirectoryLock>>;

    /// Locks a directory against those who would write to it, without changing anything in it: readers share the lock,
    /// and [`FileSystem::lock_dir`] is refused meanwhile. `None` if there is no file `LOCK`, since then nobody has ever
    /// had it open for writing. [`Error::Locked`] if somebody has it locked for writing.
    fn lock_dir_shared(&self, path: &Path) -> Result<Option<Box<dyn DirectoryLock>>>;

    /// What `path` stands on.
    fn medium(&self, path: &Path) -> Result<Medium>;
}

/// An open file. Reads and writes say where; there is no position.
pub trait File: Debug + Send + Sync + 'static {
    /// The path it was opened by, for error messages.
    fn path(&self) -> &Path;

    /// Its length in bytes now.
    fn len(&self) -> Result<u64>;

    /// Whether it is empty now.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads up to `buf.len()` bytes at `offset`; fewer than asked for, down to 0 at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize>;

    /// As [`File::read_at`], but without waiting for the device: only what is in memory now. `None` if nothing of it is,
    /// and where nobody can tell. The answer and the reading are one step: what is evicted meanwhile was read, or
    /// is not waited for.
    fn read_resident_at(&self, buf: &mut [u8], offset: u64) -> Result<Option<usize>> {
        let _ = (buf, offset);
        Ok(None)
    }

    /// As [`File::read_at`], but past the page cache: what the device has, not what is remembered of it. Where the file
    /// system cannot do that, the page cache is asked to forget the range first, which it need not do for pages
    /// that somebody has mapped. Slow, and never needed for a right answer: for finding out whether the two agree.
    fn read_past_cache_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.advise(Advice::DontNeed, offset, buf.len() as u64);
        self.read_at(buf, offset)
    }

    /// Writes up to `buf.len()` bytes at `offset`, extending the file as needed; says how many.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize>;

    /// As [`File::write_at`], for bytes that will not be read soon: the page cache is to let go of them once they are on
    /// the device. A wish: where it cannot be had, this is [`File::write_at`].
    fn write_uncached_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        self.write_at(buf, offset)
    }

    /// Copies up to `len` bytes of another file, from `offset` on, to the same place of this one, extending it as
    /// needed. Says how many: fewer than asked for, down to 0 where `source` has ended. The operating system does it
    /// without this process where it can, and some file systems have both files share the bytes from then on.
    fn copy_range(&self, source: &dyn File, offset: u64, len: u64) -> Result<u64> {
        copy_through_memory(self, source, offset, len)
    }

    /// What the operating system knows the file by, if it is one of its files.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Cuts the file or extends it with zeros. Never called on a file that may be mapped.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Makes the contents durable, and the length (`fdatasync`). After an error nothing is known about what is
    /// durable, and a second call that succeeds does not change that.
    fn sync(&self) -> Result<()>;

    /// Starts writing a range to the device without waiting (`sync_file_range`), so that a later sync is short.
    /// A hint: it may do nothing and reports no errors.
    fn start_writeback(&self, offset: u64, len: u64);

    /// Tells the page cache how a range will be used (`posix_fadvise`). A hint.
    fn advise(&self, advice: Advice, offset: u64, len: u64);

    /// Whether other users own the file or may write to it: then a mapping of it is not safe from them.
    fn is_shared(&self) -> Result<bool>;

    /// Maps the first `len` bytes, which must lie within the file, for reading.
    ///
    /// The file must not be written or cut while the region lives: see [`Region`].
    fn map(&self, len: usize) -> Result<Region>;

    /// Keeps a range of the file in memory for as long as a region lives that this file was mapped to; says how. Ranges
    /// are rounded outwards to pages, and what lies behind the end is ignored. A region on the heap is copied already.
    ///
    /// # Errors
    /// If it cannot be had: then all is as it was before.
    fn pin(&self, region: &Region, range: Range<usize>) -> Result<Pin> {
        let _ = range;
        match region.is_mapped() {
            false => Ok(Pin::Copied),
            true => Err(Error::io(self.path(), Operation::Map, ErrorKind::Unsupported.into())),
        }
    }
}

/// Held while a directory is locked; dropping it unlocks.
pub trait DirectoryLock: Debug + Send + Sync {}

/// Fills `buf` from `offset`, or fails: an end of file in between is [`Error::Corruption`].
pub fn read_exact_at(file: &dyn File, buf: &mut [u8], offset: u64) -> Result<()> {
    fill(file, buf, offset, |buf, offset| file.read_at(buf, offset))
}

/// As [`read_exact_at`], with [`File::read_past_cache_at`].
pub fn read_exact_past_cache_at(file: &dyn File, buf: &mut [u8], offset: u64) -> Result<()> {
    fill(file, buf, offset, |buf, offset| file.read_past_cache_at(buf, offset))
}

fn fill(
    file: &dyn File,
    mut buf: &mut [u8],
    mut offset: u64,
    read_at: impl Fn(&mut [u8], u64) -> Result<usize>,
) -> Result<()> {
    while !buf.is_empty() {
        let read = read_at(buf, offset)?;
        if read == 0 {
            let what = format!("the file ends {} bytes too early", buf.len());
            return Err(Error::corruption(file.path(), offset, what));
        }
        buf = &mut buf[read..];
        offset += read as u64;
    }
    Ok(())
}

/// The piece that is copied at once where bytes go through memory: as long as the pieces in which tables are written.
const COPIED_BYTES_MAX: u64 = 2 << 20;

/// [`File::copy_range`] by reading and writing, a piece at a time.
pub(crate) fn copy_through_memory<F: File + ?Sized>(
    file: &F,
    source: &dyn File,
    offset: u64,
    len: u64,
) -> Result<u64> {
    let mut buf = vec![0; len.min(COPIED_BYTES_MAX) as usize];
    let read = source.read_at(&mut buf, offset)?;
    write_all_at(file, &buf[..read], offset)?;
    Ok(read as u64)
}

/// Writes all of `buf` at `offset`, going on after short writes.
pub fn write_all_at<F: File + ?Sized>(file: &F, buf: &[u8], offset: u64) -> Result<()> {
    write_all(file, buf, offset, |buf, offset| file.write_at(buf, offset))
}

/// As [`write_all_at`], with [`File::write_uncached_at`].
pub fn write_all_uncached_at<F: File + ?Sized>(file: &F, buf: &[u8], offset: u64) -> Result<()> {
    write_all(file, buf, offset, |buf, offset| file.write_uncached_at(buf, offset))
}

fn write_all<F: File + ?Sized>(
    file: &F,
    mut buf: &[u8],
    mut offset: u64,
    write_at: impl Fn(&[u8], u64) -> Result<usize>,
) -> Result<()> {
    while !buf.is_empty() {
        let written = write_at(buf, offset)?;
        if written == 0 {
            let source = std::io::Error::from(std::io::ErrorKind::WriteZero);
            return Err(Error::io(file.path(), Operation::Write, source));
        }
        buf = &buf[written..];
        offset += written as u64;
    }
    Ok(())
}
