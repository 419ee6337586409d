//! The file system of the operating system.
//!
//! Plain system calls and no state of its own. Nothing here follows a symbolic link in place of a file, lets a
//! descriptor leak into child processes, or makes files that others can read. Hints (`sync_file_range`,
//! `posix_fadvise`) do nothing where the operating system has none.
#![cfg_attr(target_os = "linux", expect(unsafe_code, reason = "sync_file_range has no safe wrapper"))]

use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};

use crate::fs::copy_through_memory;
use crate::{
    Advice, DirectoryLock, Error, File, FileSystem, Medium, OpenMode, Operation, Pin, Region, Result,
};
use direct::DirectFile;

mod direct;

/// The file whose lock is the directory's.
const LOCK_FILE_NAME: &str = "LOCK";
/// The process id in the lock file takes as many bytes, spaces included.
const HOLDER_BYTES: usize = 16;

/// `RWF_DONTCACHE`, which is younger than the crate that names the others.
#[cfg(target_os = "linux")]
pub(crate) const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(libc::RWF_DONTCACHE as u32);

/// Who a directory is in use by, if it is not a writer.
const SHARED_HOLDER: &str = "somebody who verifies or salvages it";

/// The file system of the operating system. It has no state: all values are the same one.
///
/// ```
/// use terrace_io::{FileSystem, OpenMode, OsFileSystem};
/// # fn main() -> terrace_io::Result<()> {
/// # let temporary = tempfile::tempdir().unwrap();
/// let directory = temporary.path().join("database");
/// OsFileSystem.create_dir_all(&directory)?;
/// let file = OsFileSystem.open(&directory.join("a"), OpenMode::CreateNew)?;
/// file.write_at(b"terrace", 0)?;
/// file.sync()?;
/// OsFileSystem.sync_dir(&directory)?;
/// assert_eq!(file.len()?, 7);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct OsFileSystem;

impl FileSystem for OsFileSystem {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<String>> {
        let list = || {
            let entries = fs::read_dir(path)?;
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        uninterrupted(list).map_err(|source| Error::io(path, Operation::ReadDirectory, source))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        let (flags, operation) = match mode {
            OpenMode::Read => (OFlags::RDONLY, Operation::Open),
            OpenMode::ReadWrite => (OFlags::RDWR, Operation::Open),
            OpenMode::CreateNew => (OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, Operation::Create),
        };
        let file = open_regular(path, flags).map_err(|source| Error::io(path, operation, source))?;
        Ok(Arc::new(OsFile { path: path.to_owned(), file, direct: OnceLock::new() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        retry_on_intr(|| rustix::fs::rename(from, to))
            .map_err(|errno| refused(from, Operation::Rename, errno))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<()> {
        match retry_on_intr(|| rustix::fs::link(from, to)) {
            // The standard library does not know all of these by their kind.
            Err(errno) if [Errno::OPNOTSUPP, Errno::NOTSUP, Errno::NOSYS].contains(&errno) => {
                Err(Error::io(from, Operation::Link, io::ErrorKind::Unsupported.into()))
            }
            linked => linked.map_err(|errno| refused(from, Operation::Link, errno)),
        }
    }

    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        fs::canonicalize(path).map_err(|source| Error::io(path, Operation::Metadata, source))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        retry_on_intr(|| rustix::fs::unlink(path)).map_err(|errno| refused(path, Operation::Remove, errno))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        sync_dir(path).map_err(|errno| refused(path, Operation::SyncDirectory, errno))
    }

    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirectoryLock>> {
        let lock_path = path.join(LOCK_FILE_NAME);
        let failed = |source| Error::io(&lock_path, Operation::Lock, source);
        let file = open_regular(&lock_path, OFlags::RDWR | OFlags::CREATE).map_err(failed)?;
        match retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => {
                // Who it is serves error messages only: a full disk must not keep a database from being opened.
                // It is written over, not cut off first: where the file system tells the device at once which blocks
                // are free (`discard`), cutting off takes longer than the rest of an open.
                if file.metadata().is_ok_and(|metadata| metadata.len() > HOLDER_BYTES as u64) {
                    let _ = file.set_len(HOLDER_BYTES as u64);
                }
                let holder = format!("{:<HOLDER_BYTES$}", std::process::id());
                if file.write_all_at(holder.as_bytes(), 0).is_err() {
                    let _ = file.set_len(0);
                }
                Ok(Box::new(OsDirectoryLock { _file: file }))
            }
            Err(Errno::WOULDBLOCK) => {
                Err(Error::Locked { path: path.to_owned(), holder: lock_holder(&file) })
            }
            Err(errno) => Err(failed(errno.into())),
        }
    }

    fn lock_dir_shared(&self, path: &Path) -> Result<Option<Box<dyn DirectoryLock>>> {
        let lock_path = path.join(LOCK_FILE_NAME);
        let failed = |source| Error::io(&lock_path, Operation::Lock, source);
        let file = match open_regular(&lock_path, OFlags::RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        match retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared)) {
            Ok(()) => Ok(Some(Box::new(OsDirectoryLock { _file: file }))),
            Err(Errno::WOULDBLOCK) => {
                Err(Error::Locked { path: path.to_owned(), holder: lock_holder(&file) })
            }
            Err(errno) => Err(failed(errno.into())),
        }
    }

    fn medium(&self, path: &Path) -> Result<Medium> {
        medium(path).map_err(|errno| refused(path, Operation::Metadata, errno))
    }
}

fn refused(path: &Path, operation: Operation, errno: Errno) -> Error {
    Error::io(path, operation, errno.into())
}

/// Opens a regular file and refuses everything else, without waiting for the other end of a pipe.
fn open_regular(path: &Path, flags: OFlags) -> io::Result<fs::File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let descriptor = retry_on_intr(|| rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR))?;
    match FileType::from_raw_mode(rustix::fs::fstat(&descriptor)?.st_mode) {
        FileType::RegularFile => Ok(fs::File::from(descriptor)),
        FileType::Directory => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// The directory that a path lies in; `.` for a bare name. `None` for a root.
fn parent(path: &Path) -> Option<&Path> {
    let parent = path.parent()?;
    Some(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

/// Creates what is missing from the top down, each entry synced before the next.
fn create_dir_all(path: &Path) -> Result<()> {
    let mut missing = Vec::new();
    let mut existing = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        match fs::metadata(existing) {
            Ok(metadata) if metadata.is_dir() => break,
            Ok(_) => {
                let source = io::ErrorKind::NotADirectory.into();
                return Err(Error::io(existing, Operation::CreateDirectory, source));
            }
            Err(source) => match parent(existing) {
                Some(above) if source.kind() == io::ErrorKind::NotFound => {
                    missing.push(existing);
                    existing = above;
                }
                _ => return Err(Error::io(existing, Operation::CreateDirectory, source)),
            },
        }
    }
    if let Some(above) = parent(existing) {
        // It may exist since a process that was killed before it could sync the entry. Where we may not look into
        // the directory above, it was not us who created it.
        match sync_dir(above) {
            Ok(()) | Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {}
            Err(errno) => return Err(refused(above, Operation::SyncDirectory, errno)),
        }
    }
    for directory in missing.into_iter().rev() {
        match retry_on_intr(|| rustix::fs::mkdir(directory, Mode::RWXU)) {
            Ok(()) => {}
            Err(Errno::EXIST) if directory.is_dir() => {}
            Err(errno) => return Err(refused(directory, Operation::CreateDirectory, errno)),
        }
        if let Some(above) = parent(directory) {
            sync_dir(above).map_err(|errno| refused(above, Operation::SyncDirectory, errno))?;
        }
    }
    Ok(())
}

fn sync_dir(path: &Path) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let descriptor = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?;
    match retry_on_intr(|| rustix::fs::fsync(&descriptor)) {
        // Some network file systems cannot sync a directory: its entries are the server's to keep.
        Err(Errno::INVAL) => Ok(()),
        result => result,
    }
}

#[cfg(not(target_vendor = "apple"))]
fn sync_data(file: &fs::File) -> rustix::io::Result<()> {
    retry_on_intr(|| rustix::fs::fdatasync(file))
}

/// `fsync` alone leaves the bytes in the device's volatile cache here.
#[cfg(target_vendor = "apple")]
fn sync_data(file: &fs::File) -> rustix::io::Result<()> {
    retry_on_intr(|| rustix::fs::fcntl_fullfsync(file))
}

/// What the holder of a lock wrote into its file.
fn lock_holder(file: &fs::File) -> String {
    // Those who share the lock write nothing into the file; what stands there is from whoever wrote before them.
    if retry_on_intr(|| rustix::fs::flock(file, FlockOperation::NonBlockingLockShared)).is_ok() {
        return SHARED_HOLDER.to_owned();
    }
    let mut text = [0; HOLDER_BYTES];
    let read = file.read_at(&mut text, 0).unwrap_or(0);
    let process = std::str::from_utf8(&text[..read]).ok().and_then(|text| text.trim().parse::<u32>().ok());
    match process {
        Some(process) => format!("process {process}"),
        None => "another process".to_owned(),
    }
}

#[cfg(target_os = "linux")]
fn medium(path: &Path) -> rustix::io::Result<Medium> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // The type of the field differs between architectures; all magic numbers fit in 32 bits.
    #[allow(clippy::unnecessary_cast, reason = "it is an i64 on some architectures and a u32 on others")]
    let magic = retry_on_intr(|| rustix::fs::statfs(path))?.f_type as u64 as u32;
    Ok(match magic {
        0x0000_6969 // NFS
        | 0x0000_517B // SMB
        | 0xFF53_4D42 // CIFS
        | 0xFE53_4D42 // SMB2
        | 0x5346_414F // AFS
        | 0x6B41_4653 // kAFS
        | 0x7375_7245 // Coda
        | 0x0102_1997 // 9P
        | 0x00C3_6400 // Ceph
        => Medium::Network,
        _ => local_medium(path)?,
    })
}

/// Without magic numbers to go by, a file system that exists is taken for local.
#[cfg(not(target_os = "linux"))]
fn medium(path: &Path) -> rustix::io::Result<Medium> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    local_medium(path)
}

/// [`Medium::Local`], or [`Medium::Shared`].
fn local_medium(path: &Path) -> rustix::io::Result<Medium> {
    let metadata = fs::metadata(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(if is_shared(&metadata) { Medium::Shared } else { Medium::Local })
}

/// Whether somebody else than this user and root may write: the owner, a group that is not this user's own, or everybody.
fn is_shared(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    const GROUP_WRITES: u32 = 0o020;
    const ALL_WRITE: u32 = 0o002;
    let (owner, group, mode) = (metadata.uid(), metadata.gid(), metadata.mode());
    let is_ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    let is_own_group = group == 0 || group == rustix::process::getegid().as_raw();
    !is_ours || mode & ALL_WRITE != 0 || (mode & GROUP_WRITES != 0 && !is_own_group)
}

/// Closing the descriptor gives up the lock.
#[derive(Debug)]
struct OsDirectoryLock {
    _file: fs::File,
}

impl DirectoryLock for OsDirectoryLock {}

/// An open file and the path it was opened by.
#[derive(Debug)]
struct OsFile {
    path: PathBuf,
    file: fs::File,
    /// For reads past the page cache, once there was one.
    direct: OnceLock<DirectFile>,
}

impl OsFile {
    fn failed(&self, operation: Operation) -> impl Fn(io::Error) -> Error + '_ {
        move |source| Error::io(&self.path, operation, source)
    }
}

impl File for OsFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(self.failed(Operation::Metadata))?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        uninterrupted(|| self.file.read_at(buf, offset)).map_err(self.failed(Operation::Read))
    }

    #[cfg(target_os = "linux")]
    fn read_resident_at(&self, buf: &mut [u8], offset: u64) -> Result<Option<usize>> {
        use rustix::io::ReadWriteFlags;
        let mut pieces = [io::IoSliceMut::new(buf)];
        let read = || rustix::io::preadv2(&self.file, &mut pieces, offset, ReadWriteFlags::NOWAIT);
        match retry_on_intr(read) {
            Ok(read) => Ok(Some(read)),
            // Not in memory; or this kernel, a filter before it or the file system knows no such reads.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => Ok(None),
            Err(errno) => Err(self.failed(Operation::Read)(errno.into())),
        }
    }

    fn read_past_cache_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let direct = self.direct.get_or_init(|| DirectFile::of(&self.file));
        if let Some(read) = direct.read_at(buf, offset) {
            return read.map_err(self.failed(Operation::Read));
        }
        advise(&self.file, Advice::DontNeed, offset, buf.len() as u64);
        self.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        uninterrupted(|| self.file.write_at(buf, offset)).map_err(self.failed(Operation::Write))
    }

    fn write_uncached_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        match write_uncached(&self.file, buf, offset) {
            Some(written) => Ok(written),
            None => self.write_at(buf, offset),
        }
    }

    fn copy_range(&self, source: &dyn File, offset: u64, len: u64) -> Result<u64> {
        let copied = source.descriptor().and_then(|source| copy_in_kernel(source, &self.file, offset, len));
        copied.map_or_else(|| copy_through_memory(self, source, offset, len), Ok)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        uninterrupted(|| self.file.set_len(len)).map_err(self.failed(Operation::SetLength))
    }

    fn sync(&self) -> Result<()> {
        sync_data(&self.file).map_err(|errno| refused(&self.path, Operation::Sync, errno))
    }

    fn start_writeback(&self, offset: u64, len: u64) {
        start_writeback(&self.file, offset, len);
    }

    fn advise(&self, advice: Advice, offset: u64, len: u64) {
        advise(&self.file, advice, offset, len);
    }

    fn is_shared(&self) -> Result<bool> {
        Ok(is_shared(&self.file.metadata().map_err(self.failed(Operation::Metadata))?))
    }

    fn map(&self, len: usize) -> Result<Region> {
        let failed = self.failed(Operation::Map);
        if self.len()? < len as u64 {
            let what = format!("the file is shorter than the {len} bytes to be mapped");
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, what)));
        }
        Region::map(&self.file, len).map_err(failed)
    }

    fn pin(&self, region: &Region, range: Range<usize>) -> Result<Pin> {
        region.pin(&self.file, range).map_err(self.failed(Operation::Map))
    }
}

/// Repeats a call that a signal interrupted.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Has the kernel copy a range (`copy_file_range`), which shares the blocks where the file system can (reflink). `None` if
/// nothing was copied, whatever the reason: kernels, file systems and containers refuse this in many ways, and some say
/// that there is nothing to copy. What is wrong with the files, reading and writing will tell.
#[cfg(target_os = "linux")]
fn copy_in_kernel(from: BorrowedFd<'_>, to: &fs::File, offset: u64, len: u64) -> Option<u64> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let copied = retry_on_intr(|| {
        let (mut from_offset, mut to_offset) = (offset, offset);
        rustix::fs::copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), len)
    });
    copied.ok().filter(|copied| *copied > 0).map(|copied| copied as u64)
}

#[cfg(not(target_os = "linux"))]
fn copy_in_kernel(_from: BorrowedFd<'_>, _to: &fs::File, _offset: u64, _len: u64) -> Option<u64> {
    None
}

/// Writes what the page cache is to let go of soon (`RWF_DONTCACHE`, since Linux 6.14). `None` where the kernel or the
/// file system refuses, before anything is written.
#[cfg(target_os = "linux")]
fn write_uncached(file: &fs::File, buf: &[u8], offset: u64) -> Option<usize> {
    let written = retry_on_intr(|| rustix::io::pwritev2(file, &[io::IoSlice::new(buf)], offset, DONTCACHE));
    // Kernels, file systems and sandboxes refuse it in many ways. What is wrong otherwise, a plain write will tell.
    written.ok()
}

#[cfg(not(target_os = "linux"))]
fn write_uncached(_file: &fs::File, _buf: &[u8], _offset: u64) -> Option<usize> {
    None
}

#[cfg(target_os = "linux")]
fn start_writeback(file: &fs::File, offset: u64, len: u64) {
    use std::os::fd::AsRawFd;
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return };
    if len == 0 {
        return; // It would mean everything up to the end.
    }
    let descriptor = file.as_raw_fd();
    // SAFETY: no memory is involved, and the descriptor is open for as long as `file` is borrowed.
    let _ = unsafe { libc::sync_file_range(descriptor, offset, len, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(not(target_os = "linux"))]
fn start_writeback(_file: &fs::File, _offset: u64, _len: u64) {}

#[cfg(target_os = "linux")]
fn advise(file: &fs::File, advice: Advice, offset: u64, len: u64) {
    // A length of 0 would mean everything up to the end.
    let Some(len) = std::num::NonZeroU64::new(len) else { return };
    let advice = match advice {
        Advice::Normal => rustix::fs::Advice::Normal,
        Advice::Random => rustix::fs::Advice::Random,
        Advice::Sequential => rustix::fs::Advice::Sequential,
        Advice::WillNeed => rustix::fs::Advice::WillNeed,
        Advice::DontNeed => rustix::fs::Advice::DontNeed,
    };
    let _ = rustix::fs::fadvise(file, offset, Some(len), advice);
}

#[cfg(not(target_os = "linux"))]
fn advise(_file: &fs::File, _advice: Advice, _offset: u64, _len: u64) {}

#[cfg(test)]
mod tests;
