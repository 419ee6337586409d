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
//! a system call.
#![expect(unsafe_code, reason = "mappings, and a slice that borrows from its own owner")]

use std::fmt;
use std::fs;
use std::io;
use std::ops::{Deref, Range};
use std::ptr::NonNull;

use memmap2::{Mmap, MmapOptions};

use crate::Advice;

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
}

/// Who owns the bytes.
enum Backing {
    Mapped {
        mapping: Mmap,
        /// Whether the file is this user's: only of those the system says which pages are in memory.
        is_ours: bool,
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
        Region { bytes: pointer, backing: Backing::Heap { _bytes: bytes } }
    }

    /// Maps the first `len` bytes of a file, which has at least as many.
    pub(crate) fn map(file: &fs::File, len: usize) -> io::Result<Region> {
        if len == 0 {
            return Ok(Region::from_vec(Vec::new()));
        }
        // SAFETY: the callers of `File::map` promise that the file is neither written nor cut while the region
        // lives (see the head of this file); its length was checked by our caller.
        let mapping = unsafe { MmapOptions::new().len(len).map_copy_read_only(file)? };
        let pointer = NonNull::from(&mapping[..]);
        let is_ours = is_ours(file);
        Ok(Region { bytes: pointer, backing: Backing::Mapped { mapping, is_ours } })
    }

    /// Whether the bytes are a mapping of the file, so that the first touch of a page may wait for the device.
    pub fn is_mapped(&self) -> bool {
        matches!(self.backing, Backing::Mapped { .. })
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
            Backing::Mapped { mapping, is_ours: true } => match clamped(range, mapping.len()) {
                Some((start, len)) => is_resident(mapping, start, len),
                None => true,
            },
            Backing::Mapped { .. } => false,
            Backing::Heap { .. } => true,
        }
    }

    /// How many of the bytes are in memory now (`mincore`), in whole pages. `None` on the heap, and where the
    /// operating system does not say.
    pub fn resident_bytes(&self) -> Option<u64> {
        match &self.backing {
            Backing::Mapped { mapping, .. } => resident_bytes(mapping),
            Backing::Heap { .. } => None,
        }
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

/// Whether the system says of a file of ours which of its pages are in memory.
fn is_ours(file: &fs::File) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata().is_ok_and(|metadata| metadata.uid() == rustix::process::geteuid().as_raw())
}

#[cfg(target_os = "linux")]
fn page_bytes() -> Option<usize> {
    // SAFETY: `sysconf` has no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()
}

/// Says for each page of `piece`, which is a part of a mapping and starts on a page boundary, whether it is in memory.
/// False if the system refuses. `answer` has a byte for each page.
#[cfg(target_os = "linux")]
fn mincore(piece: &[u8], page_bytes: usize, answer: &mut [u8]) -> bool {
    assert!(answer.len() >= piece.len().div_ceil(page_bytes), "there is a byte for each page");
    let start = piece.as_ptr().cast_mut().cast();
    // SAFETY: `start..start + len` lies in memory that is borrowed, and `answer` has a byte for each of its pages, as
    // was just looked at; where `start` is on no page boundary, the call is refused. The memory itself is not touched.
    unsafe { libc::mincore(start, piece.len(), answer.as_mut_ptr()) == 0 }
}

/// Whether all pages that `len` bytes from `start` on lie in are in memory. They lie in the mapping.
#[cfg(target_os = "linux")]
fn is_resident(mapping: &Mmap, start: usize, len: usize) -> bool {
    const PIECE_PAGES: usize = 64;
    let Some(page_bytes) = page_bytes() else { return false };
    let whole = &mapping[start / page_bytes * page_bytes..start + len];
    whole.chunks(PIECE_PAGES * page_bytes).all(|piece| {
        let mut answer = [0; PIECE_PAGES];
        let pages = piece.len().div_ceil(page_bytes);
        mincore(piece, page_bytes, &mut answer) && answer[..pages].iter().all(|flags| flags & 1 != 0)
    })
}

#[cfg(not(target_os = "linux"))]
fn is_resident(_mapping: &Mmap, _start: usize, _len: usize) -> bool {
    false
}

/// Asks in pieces, so that a large mapping does not need a large answer.
#[cfg(target_os = "linux")]
fn resident_bytes(mapping: &Mmap) -> Option<u64> {
    const PIECE_PAGES: usize = 16 * 1024;
    let page_bytes = page_bytes()?;
    let mut answer = vec![0u8; PIECE_PAGES.min(mapping.len().div_ceil(page_bytes))];
    let mut resident = 0u64;
    for piece in mapping.chunks(PIECE_PAGES * page_bytes) {
        if !mincore(piece, page_bytes, &mut answer) {
            return None;
        }
        let pages = answer.iter().zip(piece.chunks(page_bytes));
        resident +=
            pages.filter(|(flags, _)| **flags & 1 != 0).map(|(_, page)| page.len() as u64).sum::<u64>();
    }
    Some(resident)
}

#[cfg(not(target_os = "linux"))]
fn resident_bytes(_mapping: &Mmap) -> Option<u64> {
    None
}

impl Deref for Region {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `bytes` points to the bytes of `backing`, which lives as long as `self` and keeps them in
        // place: a mapping has a fixed address, and the vector is never touched again.
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

    fn mapped(bytes: &[u8]) -> Region {
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
    #[cfg(target_os = "linux")]
    fn touched_pages_are_resident() {
        let region = mapped(&vec![7; 10_000]);
        assert_eq!(region.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 70_000);
        assert_eq!(region.resident_bytes(), Some(10_000));
        assert_eq!(Region::from_vec(vec![7; 10_000]).resident_bytes(), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_range_is_resident_once_it_was_touched_and_not_after_it_was_forgotten() {
        use std::os::fd::AsRawFd;
        // On a disk, for what lives in memory cannot be forgotten.
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&vec![7; 100 * 4096 + 10]).unwrap();
        file.sync_all().unwrap();
        // SAFETY: the descriptor is open.
        let forgotten = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        assert_eq!(forgotten, 0);
        let region = Region::map(&file, 100 * 4096 + 10).unwrap();
        region.advise(Advice::Random, 0..region.len());
        if region.resident_bytes() != Some(0) {
            eprintln!("skipped: this file system does not forget pages");
            return;
        }
        assert!(!region.is_resident(0..1) && !region.is_resident(0..region.len()));
        std::hint::black_box(region[5 * 4096 + 1]);
        let resident: Vec<usize> =
            (0..101).filter(|page| region.is_resident(page * 4096..page * 4096 + 1)).collect();
        assert_eq!(resident, [5]);
        assert!(region.is_resident(5 * 4096..6 * 4096) && region.is_resident(5 * 4096 + 4095..6 * 4096));
        assert!(!region.is_resident(5 * 4096..6 * 4096 + 1) && !region.is_resident(5 * 4096 - 1..6 * 4096));
        region.iter().for_each(|byte| assert_eq!(*byte, 7));
        assert!(region.is_resident(0..usize::MAX) && region.is_resident(100 * 4096..region.len()));
        assert!(region.is_resident(region.len()..region.len() + 1), "nothing is ignored");
        assert!(Region::from_vec(vec![7; 10]).is_resident(0..10));
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
