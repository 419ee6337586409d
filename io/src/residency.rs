//! What of a file is in memory, without bringing anything in by asking.
//!
//! `cachestat` (Linux 6.5) counts the pages of a range in one call. Where it is not to be had, `mincore` answers for each
//! page of a mapping that is made for it and never touched. Both tell of the page cache: whoever brought a page in, it
//! is there for all. Since Linux 5.2 they tell only those who own the file or may write to it (others would hear
//! from `mincore` that everything is in memory, so it is not asked). Elsewhere the answer is an error, never a guess.
//!
//! An answer is true of the moment at which it was given: what is in memory may be gone by the next one.
#![cfg_attr(target_os = "linux", expect(unsafe_code, reason = "cachestat has no safe wrapper"))]

use std::io::{self, ErrorKind};
use std::ops::{AddAssign, Range};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::{Advice, Error, File, Operation, Region, Result, read_exact_at};

/// How many pages of a range are in memory, and how many it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageCount {
    /// Pages that are in memory.
    pub resident: u64,
    /// Pages that the range touches.
    pub total: u64,
}

impl PageCount {
    /// The share of the pages that is in memory; 0 where there are none.
    pub fn share(self) -> f64 {
        if self.total == 0 { 0.0 } else { self.resident as f64 / self.total as f64 }
    }
}

impl AddAssign for PageCount {
    fn add_assign(&mut self, more: PageCount) {
        self.resident += more.resident;
        self.total += more.total;
    }
}

/// Tells what of a file is in memory, and reads it without changing that.
///
/// ```
/// use terrace_io::{FileSystem, OpenMode, OsFileSystem, Residency};
/// # fn main() -> terrace_io::Result<()> {
/// # let temporary = tempfile::tempdir().unwrap();
/// let file = OsFileSystem.open(&temporary.path().join("a"), OpenMode::CreateNew)?;
/// file.write_at(&[7; 10_000], 0)?;
/// match Residency::of(file) {
///     Ok(residency) => println!("{:?} of it", residency.pages(0..10_000)?),
///     Err(error) => println!("it is not known: {error}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Residency {
    file: Arc<dyn File>,
    len: u64,
    page_bytes: u64,
    way: Way,
}

/// How the kernel is asked.
#[derive(Debug)]
enum Way {
    Cachestat,
    Mincore(Region),
}

impl Residency {
    /// Prepares to ask about a file that is not written to meanwhile. The descriptor should be nobody else's: it is told
    /// that it will be read at random, since readahead would bring in what was not asked for.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be found out: the file is not one of the operating system's, the system cannot tell, or
    /// it does not tell this user.
    pub fn of(file: Arc<dyn File>) -> Result<Residency> {
        let refused = |source: io::Error| Error::io(file.path(), Operation::Metadata, source);
        let Some(descriptor) = file.descriptor() else {
            return Err(refused(ErrorKind::Unsupported.into()));
        };
        let len = file.len()?;
        let way = match cachestat(descriptor, 0..1) {
            Ok(_) => Way::Cachestat,
            Err(_) if !may_know(descriptor) => {
                let what = "only its owner, and who may write to it, is told what of it is in memory";
                return Err(refused(io::Error::new(ErrorKind::PermissionDenied, what)));
            }
            Err(_) => Way::Mincore(mapping(&*file, len)?),
        };
        file.advise(Advice::Random, 0, len);
        Ok(Residency { len, page_bytes: page_bytes(), way, file })
    }

    /// By which call the kernel is asked.
    pub fn way(&self) -> &'static str {
        match self.way {
            Way::Cachestat => "cachestat",
            Way::Mincore(_) => "mincore",
        }
    }

    /// The file.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// The length that the file had.
    pub fn file_len(&self) -> u64 {
        self.len
    }

    /// Bytes of a page of the page cache.
    pub fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// How many of the pages that `range` touches are in memory. What lies behind the end of the file does not count.
    pub fn pages(&self, range: Range<u64>) -> Result<PageCount> {
        let range = self.aligned(range);
        if range.is_empty() {
            return Ok(PageCount::default());
        }
        let total = (range.end - range.start).div_ceil(self.page_bytes);
        let asked = match &self.way {
            Way::Cachestat => cachestat(self.file.descriptor().ok_or_else(|| self.unknown())?, range),
            Way::Mincore(region) => {
                let range = range.start as usize..range.end as usize;
                region.resident_pages(range).ok_or_else(|| ErrorKind::Unsupported.into())
            }
        };
        let resident = asked.map_err(|error| Error::io(self.file.path(), Operation::Metadata, error))?;
        // Between two pages that it counts, the kernel may let go of one and take another.
        Ok(PageCount { resident: resident.min(total), total })
    }

    /// Which of the pages that `range` touches are in memory: ranges of whole pages (the last may end with the file), apart
    /// from each other, ascending.
    pub fn resident(&self, range: Range<u64>) -> Result<Vec<Range<u64>>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        // Halves that are neither in memory nor out of it as a whole are halved again, the first one first.
        let mut asked = vec![self.aligned(range)];
        while let Some(range) = asked.pop() {
            let PageCount { resident, total } = self.pages(range.clone())?;
            if resident == 0 {
                continue;
            }
            if resident < total {
                let middle = range.start + total / 2 * self.page_bytes;
                asked.push(middle..range.end);
                asked.push(range.start..middle);
                continue;
            }
            match found.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => found.push(range),
            }
        }
        Ok(found)
    }

    /// Reads the bytes at `offset`, and leaves the page cache as it was: pages that were not in memory are let go of
    /// again, as far as the kernel does that. An end of file in between is [`Error::Corruption`].
    pub fn read_unnoticed(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let range = offset..offset.saturating_add(buf.len() as u64);
        let mut was_resident = self.resident(range.clone())?;
        let read = read_exact_at(&*self.file, buf, offset);
        let all = self.aligned(range);
        was_resident.push(all.end..all.end);
        let mut at = all.start;
        for resident in was_resident {
            self.file.advise(Advice::DontNeed, at, resident.start - at);
            at = resident.end;
        }
        read
    }

    /// The pages that a range of the file touches.
    fn aligned(&self, range: Range<u64>) -> Range<u64> {
        let end = range.end.min(self.len);
        if range.start >= end {
            return 0..0;
        }
        let start = range.start / self.page_bytes * self.page_bytes;
        start..end.next_multiple_of(self.page_bytes).min(self.len)
    }

    fn unknown(&self) -> Error {
        Error::io(self.file.path(), Operation::Metadata, ErrorKind::Unsupported.into())
    }
}

/// The file as a mapping, of which nothing is touched.
fn mapping(file: &dyn File, len: u64) -> Result<Region> {
    let too_large = || Error::io(file.path(), Operation::Map, ErrorKind::OutOfMemory.into());
    let region = file.map(usize::try_from(len).map_err(|_| too_large())?)?;
    match len == 0 || region.resident_pages(0..1).is_some() {
        true => Ok(region),
        false => Err(Error::io(file.path(), Operation::Metadata, ErrorKind::Unsupported.into())),
    }
}

/// Whether the kernel tells this user about the file. It asks the file system for more than can be seen from here, so this
/// errs towards no.
fn may_know(descriptor: BorrowedFd<'_>) -> bool {
    let user = rustix::process::geteuid();
    let Ok(stat) = rustix::fs::fstat(descriptor) else { return false };
    let is_writable =
        || rustix::fs::fcntl_getfl(descriptor).is_ok_and(|flags| flags.intersects(rustix::fs::OFlags::RDWR));
    user.is_root() || stat.st_uid == user.as_raw() || is_writable()
}

/// Bytes of a page of the page cache.
fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(target_os = "linux")]
pub(crate) use system::cachestat;

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::ops::Range;
    use std::os::fd::{AsRawFd, BorrowedFd};

    /// The number of `cachestat`: the same on all architectures that came late enough.
    const CACHESTAT: Option<libc::c_long> = if cfg!(any(
        target_arch = "x86_64",
        target_arch = "x86",
        target_arch = "aarch64",
        target_arch = "arm",
        target_arch = "riscv64",
        target_arch = "powerpc64",
        target_arch = "s390x",
        target_arch = "loongarch64",
    )) {
        Some(451)
    } else {
        None
    };

    /// How many of the pages that a range, which is not empty, touches are in the page cache.
    pub(crate) fn cachestat(file: BorrowedFd<'_>, range: Range<u64>) -> io::Result<u64> {
        /// `struct cachestat`: pages in the cache, dirty, being written, evicted, recently evicted.
        type Counts = [u64; 5];
        // `struct cachestat_range`: offset, length.
        let range: [u64; 2] = [range.start, range.end - range.start];
        let mut counts: Counts = [0; 5];
        let no_flags: libc::c_uint = 0;
        let number = CACHESTAT.ok_or(io::ErrorKind::Unsupported)?;
        // SAFETY: the descriptor is open, and the kernel reads a `cachestat_range` and writes a `cachestat`, whose
        // layouts these are; both live until it returns.
        let answer =
            unsafe { libc::syscall(number, file.as_raw_fd(), &raw const range, &raw mut counts, no_flags) };
        if answer == 0 { Ok(counts[0]) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(not(target_os = "linux"))]
fn cachestat(_file: BorrowedFd<'_>, _range: Range<u64>) -> io::Result<u64> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::*;
    use crate::{FileSystem, MemoryFileSystem, OpenMode, OsFileSystem};

    const PAGES: u64 = 100;

    /// A file of 100 pages less a byte, of which nothing is in memory; `None`, with a message, where the file system keeps
    /// everything there.
    fn cold_file(dir: &Path) -> Option<Arc<dyn File>> {
        let path = dir.join("file");
        let bytes: Vec<u8> = (0..PAGES * page_bytes() - 1).map(|at| (at / 7) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = OsFileSystem.open(&path, OpenMode::Read).unwrap();
        file.sync().unwrap();
        file.advise(Advice::DontNeed, 0, bytes.len() as u64);
        let mapped = file.map(bytes.len()).unwrap();
        let resident = mapped.resident_pages(0..bytes.len());
        if resident != Some(0) {
            eprintln!("skipped: the file system lets go of nothing, {resident:?} pages are in memory");
            return None;
        }
        Some(file)
    }

    /// The same file asked in both ways; only in one where the kernel has no `cachestat`.
    fn both_ways(file: &Arc<dyn File>) -> Vec<Residency> {
        let len = file.len().unwrap();
        let mincore = Way::Mincore(mapping(&**file, len).unwrap());
        let by = |way| Residency { file: file.clone(), len, page_bytes: page_bytes(), way };
        let mut ways = vec![by(mincore)];
        match cachestat(file.descriptor().unwrap(), 0..1) {
            Ok(_) => ways.push(by(Way::Cachestat)),
            Err(error) => eprintln!("cachestat is not to be had: {error}"),
        }
        ways
    }

    #[test]
    fn what_was_read_is_in_memory_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let Some(file) = cold_file(dir.path()) else { return };
        let page = page_bytes();
        file.advise(Advice::Random, 0, PAGES * page);
        let mut buf = vec![0; page as usize];
        for read in [3, 10, 11, 12, 13, 50, PAGES - 1] {
            file.read_at(&mut buf, read * page).unwrap();
        }
        let len = PAGES * page - 1;
        let expected = [3..4, 10..14, 50..51, PAGES - 1..PAGES]
            .map(|pages| pages.start * page..(pages.end * page).min(len));
        for residency in both_ways(&file) {
            let way = residency.way();
            assert_eq!(residency.resident(0..u64::MAX).unwrap(), expected, "{way}");
            let count = |range: Range<u64>| {
                let PageCount { resident, total } = residency.pages(range).unwrap();
                (resident, total)
            };
            assert_eq!(count(0..len), (7, PAGES), "{way}");
            assert_eq!(count(0..u64::MAX), (7, PAGES), "{way}");
            assert_eq!(count(3 * page..3 * page + 1), (1, 1), "{way}");
            assert_eq!(count(4 * page - 1..4 * page + 1), (1, 2), "{way}");
            assert_eq!(count(12 * page + 7..15 * page + 7), (2, 4), "{way}");
            assert_eq!(count(len - 1..len + 100), (1, 1), "{way}");
            assert_eq!((count(len..len + 1), count(7..7)), ((0, 0), (0, 0)));
            assert_eq!(
                residency.resident(11 * page..51 * page).unwrap(),
                [11..14, 50..51].map(|pages| pages.start * page..pages.end * page)
            );
            assert_eq!(residency.resident(20 * page..40 * page).unwrap(), []);
        }
    }

    #[test]
    fn a_read_can_leave_memory_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let Some(file) = cold_file(dir.path()) else { return };
        let residency = Residency::of(file.clone()).unwrap();
        let page = residency.page_bytes();
        let mut warm = vec![0; 2 * page as usize];
        file.read_at(&mut warm, 20 * page).unwrap();
        file.read_at(&mut warm[..1], 50 * page).unwrap();
        let before = residency.resident(0..u64::MAX).unwrap();
        assert_eq!(before, [20 * page..22 * page, 50 * page..51 * page], "nothing is read ahead");
        for range in [0..1, 5 * page + 3..30 * page + 9, 99 * page..100 * page - 1] {
            let mut buf = vec![0; (range.end - range.start) as usize];
            residency.read_unnoticed(&mut buf, range.start).unwrap();
            assert!(buf.iter().zip(range.clone()).all(|(byte, at)| *byte == (at / 7) as u8), "{range:?}");
            assert_eq!(residency.resident(0..u64::MAX).unwrap(), before, "{range:?}");
        }
        assert!(residency.read_unnoticed(&mut [0; 2], PAGES * page - 2).unwrap_err().is_corruption());
    }

    #[test]
    fn what_cannot_be_known_is_an_error() {
        let file = MemoryFileSystem::new().open(Path::new("a"), OpenMode::CreateNew).unwrap();
        let error = Residency::of(file).unwrap_err();
        assert!(error.to_string().starts_with("cannot inspect a: "), "{error}");
        // Of an empty file everything is known.
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = OsFileSystem.open(file.path(), OpenMode::Read).unwrap();
        for residency in both_ways(&file).into_iter().chain([Residency::of(file.clone()).unwrap()]) {
            assert_eq!(residency.pages(0..u64::MAX).unwrap(), PageCount::default());
            assert_eq!(residency.resident(0..u64::MAX).unwrap(), []);
        }
        assert_eq!(PageCount::default().share(), 0.0);
        assert_eq!(PageCount { resident: 1, total: 4 }.share(), 0.25);
    }

    /// Users without the right to know would be told by `mincore` that everything is in memory.
    #[test]
    fn who_may_know_is_known() {
        let own = tempfile::tempfile().unwrap();
        assert!(may_know(own.as_fd()));
        let is_root = rustix::process::geteuid().is_root();
        let others = std::fs::File::open("/proc/version").unwrap();
        assert_eq!(may_know(others.as_fd()), is_root);
    }
}
