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
    Mapped(Mmap),
    /// Kept only to be freed.
    Heap {
        _bytes: Vec<u8>,
    },
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
        Ok(Region { bytes: pointer, backing: Backing::Mapped(mapping) })
    }

    /// Whether the bytes are a mapping of the file, so that the first touch of a page may wait for the device.
    pub fn is_mapped(&self) -> bool {
        matches!(self.backing, Backing::Mapped(_))
    }

    /// Tells the operating system how a range will be used (`madvise`), rounded outwards to pages. A hint: what
    /// lies behind the end is ignored, errors are too, and it does nothing on the heap.
    pub fn advise(&self, advice: Advice, range: Range<usize>) {
        let Backing::Mapped(mapping) = &self.backing else { return };
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

    /// How many of the bytes are in memory now (`mincore`), in whole pages. `None` on the heap, and where the
    /// operating system does not say.
    pub fn resident_bytes(&self) -> Option<u64> {
        let Backing::Mapped(mapping) = &self.backing else { return None };
        let mut bytes = 0;
        each_resident_page(mapping, |page_bytes| bytes += page_bytes as u64)?;
        Some(bytes)
    }

    /// How many pages of a range that starts on a page, and within the region, are in memory now. `None` as above.
    pub(crate) fn resident_pages(&self, range: Range<usize>) -> Option<u64> {
        let Backing::Mapped(mapping) = &self.backing else { return None };
        let mut pages = 0;
        each_resident_page(mapping.get(range.start..range.end.min(mapping.len()))?, |_| pages += 1)?;
        Some(pages)
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

/// Tells of each page of a part of a mapping that starts on a page, if it is in memory, how many of the bytes it has.
/// Asks in pieces, so that a large mapping does not need a large answer.
#[cfg(target_os = "linux")]
fn each_resident_page(mapped: &[u8], mut found: impl FnMut(usize)) -> Option<()> {
    const PIECE_PAGES: usize = 16 * 1024;
    // SAFETY: `sysconf` has no preconditions.
    let page_bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    let mut answer = vec![0u8; PIECE_PAGES.min(mapped.len().div_ceil(page_bytes))];
    for piece in mapped.chunks(PIECE_PAGES * page_bytes) {
        let start = piece.as_ptr().cast_mut().cast();
        // SAFETY: `start..start + len` lies in a mapping, and `answer` has a byte for each page of it. (If `start` is
        // not on a page boundary the kernel refuses.) The memory itself is not touched.
        let refused = unsafe { libc::mincore(start, piece.len(), answer.as_mut_ptr()) } != 0;
        if refused {
            return None;
        }
        let pages = answer.iter().zip(piece.chunks(page_bytes));
        pages.filter(|(flags, _)| **flags & 1 != 0).for_each(|(_, page)| found(page.len()));
    }
    Some(())
}

#[cfg(not(target_os = "linux"))]
fn each_resident_page(_mapped: &[u8], _found: impl FnMut(usize)) -> Option<()> {
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
