//! What the kernel, and the file system of a directory, can do beyond what every Unix can. For whoever chooses an I/O
//! path, and for `terrace doctor`.
//!
//! It is asked for and tried, never inferred from a version: distributions carry features back, and a `seccomp` filter
//! takes them away. Everything here may be missing, and nothing may depend on it: [`Support::No`] says how the system
//! refused. Asking changes nothing: files that are needed for it have no name, and are gone with their descriptor.
//!
//! The kernel is asked once per process ([`KernelCapabilities::get`]), by whichever thread comes first. A file system is
//! asked each time ([`FileSystemCapabilities::of_dir`]), since each directory may be on another one; it takes up to
//! some milliseconds, so keep the answer.

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use rustix::io::Errno;

use crate::{Error, Operation, Result};

/// Whether something can be done here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It was tried, and done.
    Yes,
    /// It was refused.
    No {
        /// The error number by which it was refused. `EPERM` mostly comes from a `seccomp` filter; a kernel that does
        /// not know a call says `ENOSYS`, and one that does not know a flag of it `EINVAL` or `EOPNOTSUPP`.
        errno: i32,
    },
}

impl Support {
    /// Whether it can be done.
    pub fn is_yes(self) -> bool {
        self == Support::Yes
    }

    /// Whether a policy forbids it, so that a newer kernel would not help.
    pub fn is_forbidden(self) -> bool {
        let forbidden = [Errno::PERM, Errno::ACCESS];
        matches!(self, Support::No { errno } if forbidden.iter().any(|known| known.raw_os_error() == errno))
    }
}

/// `yes`, or `no: ` and what the system said.
impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Support::Yes => f.write_str("yes"),
            Support::No { errno } => write!(f, "no: {}", std::io::Error::from_raw_os_error(errno)),
        }
    }
}

impl<T> From<rustix::io::Result<T>> for Support {
    fn from(answer: rustix::io::Result<T>) -> Self {
        match answer {
            Ok(_) => Support::Yes,
            Err(errno) => Support::No { errno: errno.raw_os_error() },
        }
    }
}

/// What the kernel does for this process, whatever the file system.
///
/// ```
/// let kernel = terrace_io::KernelCapabilities::get();
/// println!("membarrier: {}", kernel.membarrier);
/// assert_eq!(kernel, terrace_io::KernelCapabilities::get());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelCapabilities {
    /// `membarrier(PRIVATE_EXPEDITED)`, since Linux 4.14: one thread orders the memory of all (`fence.rs`).
    pub membarrier: Support,
    /// `cachestat`, since Linux 6.5: how much of a range of a file is in memory, in one call and without a mapping.
    pub cachestat: Support,
    /// `madvise(MADV_POPULATE_READ)`, since Linux 5.14: brings a range of a mapping into memory, and says so if it
    /// cannot instead of sending a signal.
    pub populate_read: Support,
    /// `pwritev2(RWF_DSYNC)`, since Linux 4.7: a write that is durable once it returns, in one call.
    pub synced_writes: Support,
}

impl KernelCapabilities {
    /// What this kernel does for this process. Asked at the first call, which may take milliseconds.
    pub fn get() -> &'static KernelCapabilities {
        static ANSWER: OnceLock<KernelCapabilities> = OnceLock::new();
        ANSWER.get_or_init(system::kernel)
    }
}

/// What the file system of a directory does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystemCapabilities {
    /// `preadv2(RWF_NOWAIT)`, since Linux 4.14: reads what is in memory, and `EAGAIN` instead of waiting for the device.
    pub nowait_reads: Support,
    /// `preadv2(RWF_DONTCACHE)`, since Linux 6.14: reads and writes that leave nothing behind in the page cache.
    pub uncached_io: Support,
    /// Whether 2 MiB that are written at once become one page of the page cache, which a mapping of the file maps as
    /// one. `None` if they cannot be written or the system does not say. False may also mean that free memory is in
    /// pieces at the moment.
    pub huge_pages: Option<bool>,
}

impl FileSystemCapabilities {
    /// Asks the file system of an existing directory, by a file of 2 MiB without a name in it. Nothing of it is left,
    /// and nothing is synced.
    ///
    /// [`Error::Io`] if there is no directory at `dir`, or no such file can be made in it: it may not be written, or
    /// the file system has no files without a name (NFS, older overlayfs, some FUSE file systems).
    ///
    /// ```
    /// # fn main() -> terrace_io::Result<()> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # #[cfg(target_os = "linux")] {
    /// let capabilities = terrace_io::FileSystemCapabilities::of_dir(directory.path())?;
    /// println!("reads that do not wait: {}", capabilities.nowait_reads);
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    pub fn of_dir(dir: &Path) -> Result<FileSystemCapabilities> {
        system::file_system(dir).map_err(|errno| Error::io(dir, Operation::Create, errno.into()))
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::File;
    use std::io::{IoSlice, IoSliceMut};
    use std::os::fd::{AsFd, OwnedFd};
    use std::path::Path;

    use rustix::fs::{MemfdFlags, Mode, OFlags};
    use rustix::io::{Errno, ReadWriteFlags, Result, retry_on_intr};
    use rustix::thread::{MembarrierCommand, membarrier};

    use super::{FileSystemCapabilities, KernelCapabilities};
    use crate::os::DONTCACHE;
    use crate::{Region, residency};

    /// What the largest pages of the page cache hold where pages have 4 KiB, and what tables are written in.
    const HUGE_BYTES: usize = 2 << 20;

    pub(super) fn kernel() -> KernelCapabilities {
        let file = retry_on_intr(|| rustix::fs::memfd_create("terrace", MemfdFlags::CLOEXEC));
        let with_file = |ask: fn(&OwnedFd) -> Result<()>| match &file {
            Ok(file) => ask(file).into(),
            Err(errno) => Err::<(), Errno>(*errno).into(),
        };
        KernelCapabilities {
            // Registering is what the call is refused by, and what fences need anyway. More than once does no harm.
            membarrier: membarrier(MembarrierCommand::RegisterPrivateExpedited).into(),
            cachestat: with_file(cachestat),
            populate_read: populate_read().into(),
            synced_writes: with_file(|file| {
                retry_on_intr(|| {
                    rustix::io::pwritev2(file, &[IoSlice::new(b"terrace")], 0, ReadWriteFlags::DSYNC)
                })
                .map(|_| ())
            }),
        }
    }

    pub(super) fn file_system(dir: &Path) -> Result<FileSystemCapabilities> {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = File::from(retry_on_intr(|| rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR))?);
        Ok(FileSystemCapabilities {
            nowait_reads: read(&file, ReadWriteFlags::NOWAIT).into(),
            uncached_io: read(&file, DONTCACHE).into(),
            huge_pages: has_huge_pages(&file),
        })
    }

    /// Reads with `flags`. Flags are refused before anything is looked at, so an empty file does.
    pub(super) fn read(file: &File, flags: ReadWriteFlags) -> Result<()> {
        let mut byte = [0];
        match retry_on_intr(|| rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], 0, flags)) {
            // What is not there yet would have to be waited for: that is the flag's answer.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn populate_read() -> Result<()> {
        let answer = memmap2::MmapMut::map_anon(crate::PAGE_BYTES)
            .and_then(|mapping| mapping.advise(memmap2::Advice::PopulateRead));
        answer.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    fn cachestat(file: &OwnedFd) -> Result<()> {
        let answer = residency::cachestat(file.as_fd(), 0..crate::PAGE_BYTES as u64);
        answer.map(|_| ()).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOSYS))
    }

    /// Writes as tables are written, maps as they are mapped, and looks at what became of it.
    fn has_huge_pages(file: &File) -> Option<bool> {
        use std::os::unix::fs::FileExt;
        if file.write_at(&vec![1; HUGE_BYTES], 0).ok()? < HUGE_BYTES {
            return None;
        }
        let region = Region::map(file, HUGE_BYTES).ok()?;
        // The first touch maps the page as a whole, if it is one.
        std::hint::black_box(region[0]);
        Some(region.huge_mapped_bytes()? > 0)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::path::Path;

    use rustix::io::{Errno, Result};

    use super::{FileSystemCapabilities, KernelCapabilities, Support};

    const NONE: Support = Support::No { errno: Errno::NOSYS.raw_os_error() };

    pub(super) fn kernel() -> KernelCapabilities {
        KernelCapabilities { membarrier: NONE, cachestat: NONE, populate_read: NONE, synced_writes: NONE }
    }

    pub(super) fn file_system(_dir: &Path) -> Result<FileSystemCapabilities> {
        Ok(FileSystemCapabilities { nowait_reads: NONE, uncached_io: NONE, huge_pages: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_says_how() {
        let refused = Support::from(Err::<(), Errno>(Errno::NOSYS));
        assert_eq!(refused, Support::No { errno: Errno::NOSYS.raw_os_error() });
        assert!(refused.to_string().starts_with("no: ") && !refused.is_yes() && !refused.is_forbidden());
        assert!(Support::from(Err::<(), Errno>(Errno::PERM)).is_forbidden());
        assert!(Support::from(Ok(())).is_yes());
        assert_eq!(Support::Yes.to_string(), "yes");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn flags_that_no_kernel_knows_are_refused() {
        let file = tempfile::tempfile().unwrap();
        let unknown = rustix::io::ReadWriteFlags::from_bits_retain(1 << 30);
        assert_eq!(system::read(&file, unknown), Err(Errno::OPNOTSUPP));
        assert_eq!(system::read(&file, rustix::io::ReadWriteFlags::empty()), Ok(()));
    }

    /// A kernel may know more than its version says, but not less, unless a filter stands before it.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_kernel_does_what_its_version_promises() {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let is_filtered = status.lines().any(|line| line.starts_with("Seccomp:") && !line.ends_with('0'));
        let kernel = KernelCapabilities::get();
        for (name, since, answer) in [
            ("RWF_DSYNC", (4, 7), kernel.synced_writes),
            ("membarrier", (4, 14), kernel.membarrier),
            ("MADV_POPULATE_READ", (5, 14), kernel.populate_read),
            ("cachestat", (6, 5), kernel.cachestat),
        ] {
            assert!(answer.is_yes() || version < since || is_filtered, "{name} on {release}: {answer}");
        }
        assert_eq!(*KernelCapabilities::get(), system::kernel(), "it does not change its mind");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn asking_a_file_system_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        // Where files must have names, that is the answer.
        if let Ok(answer) = FileSystemCapabilities::of_dir(dir.path()) {
            assert_eq!(answer.nowait_reads, FileSystemCapabilities::of_dir(dir.path()).unwrap().nowait_reads);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for wrong in [file, dir.path().join("nowhere")] {
            let error = FileSystemCapabilities::of_dir(&wrong).unwrap_err();
            assert_eq!(error.path(), Some(&*wrong), "{error}");
        }
    }
}
