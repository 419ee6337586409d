//! Which pages of a mapping are in memory (`mincore`). Asking touches none of them.

use memmap2::Mmap;

/// Which pages of a region were in memory when it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResidentPages {
    page_bytes: usize,
    /// One for each page, from the first on.
    pages: Vec<bool>,
}

impl ResidentPages {
    pub(super) fn of(mapping: &Mmap) -> Option<ResidentPages> {
        let page_bytes = page_bytes()?;
        let mut pages = Vec::with_capacity(mapping.len().div_ceil(page_bytes));
        for_each_page(mapping, |is_resident, _| pages.push(is_resident))?;
        Some(ResidentPages { page_bytes, pages })
    }

    /// Whether the page that holds the byte at `offset` was in memory. What lies behind the end was not.
    #[inline]
    pub fn contains(&self, offset: usize) -> bool {
        self.pages.get(offset / self.page_bytes).copied().unwrap_or(false)
    }
}

/// How many bytes of a mapping are in memory.
pub(super) fn resident_bytes(mapping: &Mmap) -> Option<u64> {
    let mut bytes = 0;
    for_each_page(mapping, |is_resident, len| bytes += if is_resident { len as u64 } else { 0 })?;
    Some(bytes)
}

/// How many pages of a part of a mapping that starts on a page are in memory.
pub(super) fn count(mapped: &[u8]) -> Option<u64> {
    let mut pages = 0;
    for_each_page(mapped, |is_resident, _| pages += u64::from(is_resident))?;
    Some(pages)
}

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
pub(super) fn is_resident(mapping: &Mmap, start: usize, len: usize) -> bool {
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
pub(super) fn is_resident(_mapping: &Mmap, _start: usize, _len: usize) -> bool {
    false
}

/// Says of each page whether it is in memory, and how many bytes of the mapping it has. Asks in pieces, so that a large
/// mapping does not need a large answer.
#[cfg(target_os = "linux")]
fn for_each_page(mapped: &[u8], mut each: impl FnMut(bool, usize)) -> Option<()> {
    const PIECE_PAGES: usize = 16 * 1024;
    let page_bytes = page_bytes()?;
    let mut answer = vec![0u8; PIECE_PAGES.min(mapped.len().div_ceil(page_bytes))];
    for piece in mapped.chunks(PIECE_PAGES * page_bytes) {
        if !mincore(piece, page_bytes, &mut answer) {
            return None;
        }
        for (flags, page) in answer.iter().zip(piece.chunks(page_bytes)) {
            each(flags & 1 != 0, page.len());
        }
    }
    Some(())
}

#[cfg(not(target_os = "linux"))]
fn for_each_page(_mapped: &[u8], _each: impl FnMut(bool, usize)) -> Option<()> {
    None
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::Write;

    use super::super::tests::mapped;
    use crate::{Advice, Region};

    #[test]
    fn touched_pages_are_resident() {
        let region = mapped(&vec![7; 10_000]);
        assert_eq!(region.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 70_000);
        assert_eq!(region.resident_bytes(), Some(10_000));
        let residency = region.residency().unwrap();
        assert!([0, 4095, 4096, 9_999].iter().all(|&offset| residency.contains(offset)));
        assert!(!residency.contains(1 << 20) && !residency.contains(usize::MAX));
        let heap = Region::from_vec(vec![7; 10_000]);
        assert_eq!((heap.resident_bytes(), heap.residency()), (None, None));
    }

    #[test]
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
        let residency = region.residency().unwrap();
        assert!(residency.contains(5 * 4096) && !residency.contains(80 * 4096));
        assert!(region.is_resident(5 * 4096..6 * 4096) && region.is_resident(5 * 4096 + 4095..6 * 4096));
        assert!(!region.is_resident(5 * 4096..6 * 4096 + 1) && !region.is_resident(5 * 4096 - 1..6 * 4096));
        region.iter().for_each(|byte| assert_eq!(*byte, 7));
        assert!(region.is_resident(0..usize::MAX) && region.is_resident(100 * 4096..region.len()));
        assert!(region.is_resident(region.len()..region.len() + 1), "nothing is ignored");
        assert!(Region::from_vec(vec![7; 10]).is_resident(0..10));
    }
}
