//! Which pages of a file are in memory, as the system told at one moment: a bit for each.

use std::ops::Range;

/// Which pages of a [`Region`](crate::Region) were in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Residency {
    /// How long the region is.
    len: usize,
    page_bytes: usize,
    /// Bit *i* of word *w* stands for page `64 * w + i`.
    words: Vec<u64>,
}

impl Residency {
    /// Of a region of so many bytes, of which nothing is in memory yet.
    pub(crate) fn none_of(len: usize, page_bytes: usize) -> Residency {
        Residency { len, page_bytes, words: vec![0; len.div_ceil(page_bytes).div_ceil(64)] }
    }

    pub(crate) fn insert(&mut self, page: usize) {
        self.words[page / 64] |= 1 << (page % 64);
    }

    /// How many pages there are, the last one perhaps in part.
    pub fn pages(&self) -> usize {
        self.len.div_ceil(self.page_bytes)
    }

    /// How many bytes a page has.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Whether a page was in memory; those behind the end were not.
    pub fn has_page(&self, page: usize) -> bool {
        self.words.get(page / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// Whether all pages that a range of bytes lies in were in memory.
    pub fn has(&self, bytes: &Range<usize>) -> bool {
        let pages = bytes.start / self.page_bytes..bytes.end.div_ceil(self.page_bytes);
        pages.into_iter().all(|page| self.has_page(page))
    }

    /// How many bytes were in memory, in whole pages but for the last of the region.
    pub fn resident_bytes(&self) -> u64 {
        let pages: u64 = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
        let missing_at_end = (self.pages() * self.page_bytes - self.len) as u64;
        let has_last = self.pages() > 0 && self.has_page(self.pages() - 1);
        pages * self.page_bytes as u64 - if has_last { missing_at_end } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_bytes_are_counted() {
        let mut residency = Residency::none_of(100 * 4096 + 10, 4096);
        assert_eq!((residency.pages(), residency.resident_bytes()), (101, 0));
        residency.insert(0);
        residency.insert(64);
        assert_eq!(residency.resident_bytes(), 2 * 4096);
        residency.insert(100);
        assert_eq!(residency.resident_bytes(), 2 * 4096 + 10);
        assert!(residency.has(&(10..4096)) && residency.has(&(64 * 4096..65 * 4096)));
        assert!(!residency.has(&(10..4097)) && !residency.has(&(63 * 4096..65 * 4096)));
        assert!(residency.has_page(100) && !residency.has_page(101) && !residency.has_page(10_000));
        assert_eq!(Residency::none_of(0, 4096).resident_bytes(), 0);
    }
}
