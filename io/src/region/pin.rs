//! Keeping pages of a mapping in memory: locked where the system allows it, and otherwise as a copy in their place.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::ptr;

use memmap2::{Mmap, MmapMut};

/// How a range of a region is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// As pages of the page cache, which other processes share.
    Locked,
    /// As memory of this process.
    Copied,
}

/// See [`super::Region::pin`]. The range lies in the mapping, and `file` is the file that is mapped.
pub(super) fn pin(mapping: &Mmap, file: &fs::File, range: Range<usize>) -> io::Result<Pin> {
    // Read at once: locking brings in a page at a time where the mapping is advised to be read at random.
    let _ = mapping.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
    let start = mapping[range.clone()].as_ptr();
    // SAFETY: the range lies in the mapping, which is not touched by this: what cannot be read is an error.
    if unsafe { libc::mlock(start.cast(), range.len()) } == 0 {
        return Ok(Pin::Locked);
    }
    // A lock that failed half-way may have been noted.
    // SAFETY: as above.
    let _ = unsafe { libc::munlock(start.cast(), range.len()) };
    replace(mapping, file, range).map(|()| Pin::Copied)
}

/// Where the last page of a mapping begins.
pub(super) fn last_page(len: usize) -> usize {
    len.saturating_sub(1) / page_bytes() * page_bytes()
}

fn page_bytes() -> usize {
    // SAFETY: `sysconf` has no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(crate::PAGE_BYTES)
}

/// Puts a copy of the range in its place, read from the file.
#[cfg(target_os = "linux")]
fn replace(mapping: &Mmap, file: &fs::File, range: Range<usize>) -> io::Result<()> {
    let page_bytes = page_bytes();
    let start = range.start / page_bytes * page_bytes;
    let end = range.end.next_multiple_of(page_bytes);
    let mut copy = MmapMut::map_anon(end - start)?;
    // What lies behind the end of the mapping nobody looks at.
    let mapped_len = end.min(mapping.len()) - start;
    file.read_exact_at(&mut copy[..mapped_len], start as u64)?;
    let copy = copy.make_read_only()?;
    let (from, to) = (copy.as_ptr().cast_mut(), mapping.as_ptr().wrapping_add(start).cast_mut());
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: `to..to + len` is whole pages of `mapping`, and `from..from + len` all of `copy`. Readers of the mapping
    // see the same bytes before and after, since the file does not change; in between the kernel lets no access through
    // (it holds the lock of the address space all along), so no reader sees a hole. `copy` is forgotten: what it owned
    // belongs to `mapping` now, which unmaps its whole range in the end.
    let moved = unsafe { libc::mremap(from.cast(), copy.len(), copy.len(), flags, to) };
    if ptr::eq(moved, libc::MAP_FAILED) {
        let error = io::Error::last_os_error();
        close_hole(file, to.cast(), copy.len(), start);
        return Err(error);
    }
    std::mem::forget(copy);
    Ok(())
}

/// After a move that failed: it may have taken away what was in its place before it failed, for want of memory. What was
/// mapped there is mapped again. If somebody else has got the place meanwhile, this process ends: readers of the mapping
/// would read what is not the file's.
#[cfg(target_os = "linux")]
fn close_hole(file: &fs::File, start: *mut libc::c_void, len: usize, offset: usize) {
    use std::os::fd::AsRawFd;
    let mut resident = vec![0_u8; len.div_ceil(crate::PAGE_BYTES)];
    // SAFETY: `resident` has a byte for each page, and the memory is not touched.
    if unsafe { libc::mincore(start, len, resident.as_mut_ptr()) } == 0 {
        return; // All of it is still mapped.
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE;
    let Ok(offset) = libc::off_t::try_from(offset) else { std::process::abort() };
    // SAFETY: nothing that is mapped is replaced; `start` and `offset` are on page boundaries.
    let mapped = unsafe { libc::mmap(start, len, libc::PROT_READ, flags, file.as_raw_fd(), offset) };
    if !ptr::eq(mapped, start) {
        std::process::abort();
    }
}

#[cfg(not(target_os = "linux"))]
fn replace(_mapping: &Mmap, _file: &fs::File, _range: Range<usize>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::Region;

    fn file(bytes: &[u8]) -> fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// Bytes that differ from place to place.
    fn bytes(len: usize) -> Vec<u8> {
        (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    #[test]
    fn what_is_pinned_stays_the_same() {
        let all = bytes(100_000);
        let file = file(&all);
        for range in [0..1, 0..100_000, 5000..70_000, 4096..8192, 99_999..100_000, 50..50, 90_000..200_000] {
            let region = Region::map(&file, all.len()).unwrap();
            region.pin(&file, range).unwrap();
            assert_eq!(*region, all[..]);
        }
    }

    #[test]
    fn a_copy_takes_the_place_of_pages_that_are_being_read() {
        let all = bytes(1 << 20);
        let file = file(&all);
        let region = Region::map(&file, all.len()).unwrap();
        let super::super::Backing::Mapped { mapping, .. } = &region.backing else { panic!("it is mapped") };
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..200 {
                            assert_eq!(*region, all[..]);
                        }
                    })
                })
                .collect();
            for round in 0..200 {
                let start = round * 4096;
                replace(mapping, &file, start..start + 30_000).unwrap();
            }
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
        // The copies are this process's own: the file can no longer be seen through them.
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let start = format!("{:x}-", region.as_ptr().addr());
        let line = maps.lines().find(|line| line.starts_with(&start)).unwrap();
        assert!(line.ends_with(" 0") || line.trim_end().ends_with(" 0"), "anonymous memory: {line}");
        assert_eq!(*region, all[..]);
    }

    #[test]
    fn a_hole_is_closed_with_what_was_there() {
        let all = bytes(100_000);
        let file = file(&all);
        let region = Region::map(&file, all.len()).unwrap();
        let start = region[8192..].as_ptr().cast_mut().cast();
        close_hole(&file, start, 20_480, 8192);
        assert_eq!(*region, all[..], "there is none");
        // SAFETY: the pages are this region's, and nobody looks at them before they are mapped again.
        assert_eq!(unsafe { libc::munmap(start, 20_480) }, 0);
        close_hole(&file, start, 20_480, 8192);
        assert_eq!(*region, all[..]);
    }

    #[test]
    fn the_end_of_a_file_is_copied_as_it_is_mapped() {
        let all = bytes(10_000);
        let file = file(&all);
        for len in [10_000, 9000, 8193, 8192, 1] {
            let region = Region::map(&file, len).unwrap();
            let super::super::Backing::Mapped { mapping, .. } = &region.backing else {
                panic!("it is mapped")
            };
            replace(mapping, &file, 0..len).unwrap();
            assert_eq!(*region, all[..len]);
        }
    }

    /// Whatever is kept in memory of a guarded region, its end shows that the file was cut.
    #[test]
    fn the_last_page_of_a_guarded_region_is_never_a_copy() {
        crate::sigbus::install().unwrap();
        let all = vec![7; 10 * crate::PAGE_BYTES];
        for range in [0..all.len(), 4096..8192, all.len() - 4097..all.len(), all.len() - 1..all.len()] {
            let file = file(&all);
            let region = Region::map(&file, all.len()).unwrap();
            region.pin(&file, range.clone()).unwrap();
            let super::super::Backing::Mapped { mapping, .. } = &region.backing else {
                panic!("it is mapped")
            };
            if let Some(range) = region.pinnable(range.clone()) {
                replace(mapping, &file, range).unwrap();
            }
            assert_eq!(*region, all[..]);
            file.set_len(all.len() as u64 - 10).unwrap();
            let (cut, is_set) = (all.len() - 10, || region.poison().unwrap().is_set());
            assert_eq!((region[cut - 1], region[cut], is_set()), (7, 0, false), "{range:?}");
            file.set_len(4096).unwrap();
            assert_eq!((region[cut - 1], is_set()), (0, true), "{range:?}");
            assert!(region.iter().all(|byte| *byte == 0), "copies are gone too");
        }
    }

    #[test]
    fn another_file_is_refused() {
        let (first, second) = (file(&bytes(5000)), file(&bytes(5000)));
        let region = Region::map(&first, 5000).unwrap();
        let refused = region.pin(&second, 0..5000).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(Region::from_vec(vec![1; 10]).pin(&second, 0..10).unwrap(), Pin::Copied);
    }
}
