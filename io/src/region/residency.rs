//! Which pages of a mapping are in memory (`mincore`). Asking touches none of them.

use memmap2::Mmap;

/// Which pages of a region were in memory when it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Residency {
    page_bytes: usize,
    /// One for each page, from the first on.
    pages: Vec<bool>,
}

impl Residency {
    pub(super) fn of(mapping: &Mmap) -> Option<Residency> {
        let page_bytes = page_bytes()?;
        let mut pages = Vec::with_capacity(mapping.len().div_ceil(page_bytes));
        for_each_page(mapping, |is_resident, _| pages.push(is_resident))?;
        Some(Residency { page_bytes, pages })
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

fn page_bytes() -> Option<usize> {
    // SAFETY: `sysconf` has no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()
}

/// Says of each page whether it is in memory, and how many bytes of the mapping it has. Asks in pieces, so that a large
/// mapping does not need a large answer.
#[cfg(target_os = "linux")]
fn for_each_page(mapping: &Mmap, mut each: impl FnMut(bool, usize)) -> Option<()> {
    const PIECE_PAGES: usize = 16 * 1024;
    let page_bytes = page_bytes()?;
    let mut answer = vec![0u8; PIECE_PAGES.min(mapping.len().div_ceil(page_bytes))];
    for piece in mapping.chunks(PIECE_PAGES * page_bytes) {
        let start = piece.as_ptr().cast_mut().cast();
        // SAFETY: `start..start + len` lies in the mapping and `start` on a page boundary, since mappings start on
        // one; `answer` has a byte for each of its pages. The memory itself is not touched.
        let refused = unsafe { libc::mincore(start, piece.len(), answer.as_mut_ptr()) } != 0;
        if refused {
            return None;
        }
        for (flags, page) in answer.iter().zip(piece.chunks(page_bytes)) {
            each(flags & 1 != 0, page.len());
        }
    }
    Some(())
}

#[cfg(not(target_os = "linux"))]
fn for_each_page(_mapping: &Mmap, _each: impl FnMut(bool, usize)) -> Option<()> {
    None
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
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
    fn pages_that_the_cache_forgot_are_not() {
        use std::io::Write;
        // Not in memory alone, as a temporary directory may be.
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let region = Region::map(&file, 1 << 20).unwrap();
        region.advise(Advice::Random, 0..1 << 20);
        if region.resident_bytes() != Some(0) {
            eprintln!("skipped: this file system keeps pages that it is told to forget");
            return;
        }
        assert_eq!(region[30 << 12], 7);
        let residency = region.residency().unwrap();
        assert!(residency.contains(30 << 12));
        assert!(!residency.contains(200 << 12), "a page far away was read too");
    }
}
