//! Read-only bytes of a file: the path of point reads.
//!
//! A region is a private read-only mapping of the front of a file, or bytes on the heap where a mapping is not
//! to be had (memory file systems, network file systems, tests under Miri). What it looks like to its readers
//! is the same: a `&[u8]` for a pointer and a length, without asking which of the two it is. Regions are shared
//! between threads behind an `Arc` and unmapped when the last reader is gone, which may be long after the file
//! was unlinked.
//!
//! The contract that makes a mapping sound: a mapped file was written and synced before, and is never written
//! or cut again, only unlinked; and the directory is locked, so that no other Terrace does so either. A page
//! that the device cannot read is a fatal signal (`SIGBUS`) for the process: that is the price of reads without
//! a system call. A region that is mapped with the guard of [`crate::sigbus`] on turns to zeros instead, and its
//! readers ask its [`Poison`] before they believe anything.
#![expect(unsafe_code, reason = "mappings, and a slice that borrows from its own owner")]

use std::fmt;
use std::fs;
use std::io;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{Mmap, MmapOptions};

mod pin;
mod resident_pages;

use crate::Advice;
use crate::sigbus::{Guard, Poison};
pub use pin::Pin;
pub use resident_pages::ResidentPages;

/// Read-only bytes of a file, mapped or on the heap.
///
/// ```
/// use terrace_io::Region;
/// let region = Region::from_vec(b"terrace".to_vec());
/// assert_eq!(&region[..3], b"ter");
/// assert!(!region.is_mapped());
/// ```
pub struct Region {
    /// All the bytes; points into `backing`, which neither moves them nor lets anyone change them.
    bytes: NonNull<[u8]>,
    backing: Backing,
    /// Whether a copy has taken the place of pages of the mapping.
    is_copied: AtomicBool,
}

/// Who owns the bytes.
enum Backing {
    Mapped {
        /// Goes before the mapping does.
        guard: Option<Guard>,
        mapping: Mmap,
        /// What tells the file from all others as long as it is mapped.
        file: FileIdentity,
    },
    /// Kept only to be freed.
    Heap { _bytes: Vec<u8> },
}

// SAFETY: `bytes` is only ever read, through `&self`, and what it points to belongs to `backing`, which is `Send`.
unsafe impl Send for Region {}
// SAFETY: as above: shared access reads immutable bytes, and `backing` is `Sync`.
unsafe impl Sync for Region {}

impl Region {
    /// A region on the heap.
    pub fn from_vec(bytes: Vec<u8>) -> Region {
        let pointer = NonNull::from(bytes.as_slice());
        Region { bytes: pointer, backing: Backing::Heap { _bytes: bytes }, is_copied: AtomicBool::new(false) }
    }

    /// Maps the first `len` bytes of a file, which has at least as many.
    pub(crate) fn map(file: &fs::File, len: usize) -> io::Result<Region> {
        if len == 0 {
            return Ok(Region::from_vec(Vec::new()));
        }
        let identity = FileIdentity::of(file)?;
        // SAFETY: the callers of `File::map` promise that the file is neither written nor cut while the region
        // lives (see the head of this file); its length was checked by our caller.
        let mapping = unsafe { MmapOptions::new().len(len).map_copy_read_only(file)? };
        let pointer = NonNull::from(&mapping[..]);
        let guard = Guard::new(mapping.as_ptr().expose_provenance(), mapping.len());
        Ok(Region {
            bytes: pointer,
            backing: Backing::Mapped { guard, mapping, file: identity },
            is_copied: AtomicBool::new(false),
        })
    }

    /// Whether the bytes are a mapping of the file, so that the first touch of a page may wait for the device.
    pub fn is_mapped(&self) -> bool {
        matches!(self.backing, Backing::Mapped { .. })
    }

    /// What says whether the bytes were lost, if the region is guarded (see [`crate::sigbus`]): whoever reads it must ask
    /// afterwards, and believe nothing of what was read if it is set. Whether it is guarded never changes.
    pub fn poison(&self) -> Option<&Poison> {
        let Backing::Mapped { guard, .. } = &self.backing else { return None };
        guard.as_ref().map(Guard::poison)
    }

    /// Tells the operating system how a range will be used (`madvise`), rounded outwards to pages. A hint: what
    /// lies behind the end is ignored, errors are too, and it does nothing on the heap.
    pub fn advise(&self, advice: Advice, range: Range<usize>) {
        let Backing::Mapped { mapping, .. } = &self.backing else { return };
        let Some((start, len)) = clamped(range, mapping.len()) else { return };
        let checked = match advice {
            Advice::Normal => memmap2::Advice::Normal,
            Advice::Random => memmap2::Advice::Random,
            Advice::Sequential => memmap2::Advice::Sequential,
            Advice::WillNeed => memmap2::Advice::WillNeed,
            // A copy that took the place of pages would be lost.
            Advice::DontNeed if self.is_copied.load(Ordering::Relaxed) => return,
            Advice::DontNeed => {
                let forget = memmap2::UncheckedAdvice::DontNeed;
                // SAFETY: forgetting pages of a read-only mapping of a file loses nothing: the next touch
                // brings the same bytes back from the file.
                let _ = unsafe { mapping.unchecked_advise_range(forget, start, len) };
                return;
            }
        };
        let _ = mapping.advise_range(checked, start, len);
    }

    /// Tells the system that a page, which was just read, is in use: where it is to take pages back, it does not notice by
    /// itself which of those are that are advised to be read at random (since Linux 6.3). Takes as long as a system call.
    pub fn mark_used(&self, offset: usize) {
        #[cfg(target_os = "linux")]
        if let Backing::Mapped { mapping, .. } = &self.backing
            && offset < mapping.len()
        {
            let _ = mapping.advise_range(memmap2::Advice::PopulateRead, offset, 1);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = offset;
    }

    /// How many of the bytes this process has mapped in pages of 2 MiB (`FilePmdMapped` of `/proc/self/smaps`): those of
    /// files that were written in such pieces, once they were touched. `None` on the heap, and where the operating system
    /// does not say.
    pub fn huge_mapped_bytes(&self) -> Option<u64> {
        let smaps = std::fs::read("/proc/self/smaps").ok().filter(|_| self.is_mapped())?;
        let start = self.as_ptr() as usize;
        huge_mapped_bytes(&String::from_utf8_lossy(&smaps), &(start..start + self.len()))
    }

    /// Whether every page of a range, rounded outwards to pages, is in memory now, so that a look at it waits for no
    /// device (`mincore`; a page that is still being read does not count, as it would for `cachestat`). True on the heap.
    /// False where the operating system does not say, which includes files of other users: of those it calls all pages
    /// resident. What lies behind the end is ignored.
    ///
    /// By the time of the look the system may have evicted the page.
    pub fn is_resident(&self, range: Range<usize>) -> bool {
        match &self.backing {
            Backing::Mapped { file, .. } if !file.is_ours => false,
            Backing::Mapped { mapping, .. } => match clamped(range, mapping.len()) {
                Some((start, len)) => resident_pages::is_resident(mapping, start, len),
                None => true,
            },
            Backing::Heap { .. } => true,
        }
    }

    /// How many of the bytes are in memory now (`mincore`), in whole pages. `None` on the heap, and where the
    /// operating system does not say.
    pub fn resident_bytes(&self) -> Option<u64> {
        let Backing::Mapped { mapping, .. } = &self.backing else { return None };
        resident_pages::resident_bytes(mapping)
    }

    /// Which of the bytes are in memory now. `None` on the heap, and where the operating system does not say; all of them,
    /// where it does not say to others than a file's owner.
    pub fn residency(&self) -> Option<ResidentPages> {
        let Backing::Mapped { mapping, .. } = &self.backing else { return None };
        ResidentPages::of(mapping)
    }

    /// How many pages of a range that starts on a page, and within the region, are in memory now. `None` as above.
    pub(crate) fn resident_pages(&self, range: Range<usize>) -> Option<u64> {
        let Backing::Mapped { mapping, .. } = &self.backing else { return None };
        resident_pages::count(mapping.get(range.start..range.end.min(mapping.len()))?)
    }

    /// Keeps a range in memory for as long as the region lives, rounded outwards to pages: locked (`mlock`), so that it
    /// still is the page cache's and other processes share it; or, where the system's limit on locked memory does not
    /// allow that, as a copy in memory of this process, which takes the place of these pages of the mapping. The last page
    /// of a guarded region is left out: it shows whether the file still has its end.
    ///
    /// # Errors
    /// If neither can be had, or `file` is not the file that is mapped; then all is as it was. An error of the device
    /// is an error here, not a signal.
    pub(crate) fn pin(&self, file: &fs::File, range: Range<usize>) -> io::Result<Pin> {
        let Backing::Mapped { mapping, file: mapped, .. } = &self.backing else { return Ok(Pin::Copied) };
        if !FileIdentity::of(file)?.is(mapped) {
            let what = "another file is mapped than the one that is to be kept in memory";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        match self.pinnable(range) {
            Some(range) => {
                // Before it can be so.
                self.is_copied.store(true, Ordering::Relaxed);
                pin::pin(mapping, file, range)
            }
            None => Ok(Pin::Locked),
        }
    }

    /// The part of a range that may be pinned.
    fn pinnable(&self, range: Range<usize>) -> Option<Range<usize>> {
        let len = if self.poison().is_some() { pin::last_page(self.len()) } else { self.len() };
        clamped(range, len).map(|(start, len)| start..start + len)
    }
}

/// What tells an open file from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    number: u64,
    /// Whether it is this user's: only of those the system says which pages are in memory.
    is_ours: bool,
}

impl FileIdentity {
    fn is(&self, other: &FileIdentity) -> bool {
        (self.device, self.number) == (other.device, other.number)
    }

    fn of(file: &fs::File) -> io::Result<FileIdentity> {
        use std::os::unix::fs::MetadataExt;
        let metadata = file.metadata()?;
        let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
        Ok(FileIdentity { device: metadata.dev(), number: metadata.ino(), is_ours })
    }
}

/// Start and length of what lies within `len` bytes; `None` if that is nothing.
fn clamped(range: Range<usize>, len: usize) -> Option<(usize, usize)> {
    let end = range.end.min(len);
    (range.start < end).then(|| (range.start, end - range.start))
}

/// The bytes that are mapped in large pages of all mappings in a range of addresses.
fn huge_mapped_bytes(smaps: &str, addresses: &Range<usize>) -> Option<u64> {
    let range = |line: &str| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    };
    let (mut is_ours, mut bytes) = (false, None);
    for line in smaps.lines() {
        if let Some(mapping) = range(line) {
            is_ours = mapping.start < addresses.end && addresses.start < mapping.end;
        } else if let Some(kibibytes) = line.strip_prefix("FilePmdMapped:").filter(|_| is_ours) {
            let kibibytes: u64 = kibibytes.split_whitespace().next()?.parse().ok()?;
            bytes = Some(bytes.unwrap_or(0) + kibibytes * 1024);
        }
    }
    bytes
}

impl Deref for Region {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `bytes` points to the bytes of `backing`, which lives as long as `self` and keeps them in
        // place: a mapping has a fixed address, and the vector is never touched again. Bytes of a guarded mapping may turn
        // to zeros once, when they cannot be read: who reads them copies them and asks the flag before it believes them.
        unsafe { self.bytes.as_ref() }
    }
}

impl AsRef<[u8]> for Region {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("len", &self.len()).field("is_mapped", &self.is_mapped()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    pub(super) fn mapped(bytes: &[u8]) -> Region {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Region::map(&file, bytes.len()).unwrap()
    }

    #[test]
    fn a_mapping_and_the_heap_look_alike() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        for (region, is_mapped) in [(mapped(&bytes), true), (Region::from_vec(bytes.clone()), false)] {
            assert_eq!(*region, bytes[..]);
            assert_eq!(region.is_mapped(), is_mapped);
            let moved = Box::new(region);
            assert_eq!(moved[9_999], bytes[9_999]);
        }
    }

    #[test]
    fn advice_of_every_kind_and_range_changes_no_bytes() {
        let bytes: Vec<u8> = (0..40_000u32).map(|i| (i / 7) as u8).collect();
        let region = mapped(&bytes);
        for advice in [Advice::Normal, Advice::Random, Advice::Sequential, Advice::WillNeed, Advice::DontNeed]
        {
            for range in [0..0, 0..1, 1..4097, 5000..40_000, 39_999..90_000, 90_000..90_001, 0..usize::MAX] {
                region.advise(advice, range);
                assert_eq!(*region, bytes[..]);
            }
        }
    }

    #[test]
    fn advice_never_leaves_the_mapping() {
        assert_eq!(clamped(10..20, 100), Some((10, 10)));
        assert_eq!(clamped(90..101, 100), Some((90, 10)));
        assert_eq!(clamped(0..usize::MAX, 100), Some((0, 100)));
        assert_eq!(clamped(100..101, 100), None);
        assert_eq!(clamped(5..5, 100), None);
        assert_eq!(clamped(Range { start: 9, end: 3 }, 100), None);
    }

    #[test]
    fn the_size_of_mapped_pages_is_read_from_the_right_mappings() {
        let smaps = "\
7f1000000000-7f1000200000 r--p 00000000 fe:00 1234   /data/a - b (deleted)
Size:               2048 kB
FilePmdMapped:      2048 kB
VmFlags: rd mr mw me
7f1000200000-7f1000400000 r--p 00000000 fe:00 1235   /data/b
Size:               2048 kB
FilePmdMapped:         0 kB
7f1000400000-7f1000401000 rw-p 00000000 00:00 0
Size:                  4 kB
";
        let bytes = |start: usize, len: usize| huge_mapped_bytes(smaps, &(start..start + len));
        assert_eq!(bytes(0x7f10_0000_0000, 1), Some(2 << 20));
        assert_eq!(bytes(0x7f10_001f_ffff, 1), Some(2 << 20));
        assert_eq!(bytes(0x7f10_001f_ffff, 2), Some(2 << 20), "two mappings of one region");
        assert_eq!(bytes(0x7f10_0020_0000, 1), Some(0));
        assert_eq!(bytes(0x7f10_0040_0000, 1), None, "an older kernel does not say");
        assert_eq!(bytes(0x7f10_0050_0000, 1), None);
        assert_eq!(huge_mapped_bytes("", &(1..2)), None);
        assert_eq!(Region::from_vec(vec![7; 10]).huge_mapped_bytes(), None);
    }

    #[test]
    fn an_empty_region_is_empty() {
        let file = tempfile::tempfile().unwrap();
        let region = Region::map(&file, 0).unwrap();
        assert!(region.is_empty());
        region.advise(Advice::WillNeed, 0..10);
    }
}
