//! Closed ranges of user keys.

use std::ops::Bound;

use terrace_sstable::TableMeta;

/// The smallest and the largest key of a table.
pub type KeyRange = (Box<[u8]>, Box<[u8]>);

/// The smallest and the largest key of a table, and the bytes of its file.
pub type SizedKeyRange = (Box<[u8]>, Box<[u8]>, u64);

/// The keys from `smallest` to `largest`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span<'a> {
    pub(crate) smallest: &'a [u8],
    pub(crate) largest: &'a [u8],
}

impl<'a> Span<'a> {
    /// The keys of a table.
    pub(crate) fn of(meta: &'a TableMeta) -> Self {
        Span { smallest: &meta.smallest_key, largest: &meta.largest_key }
    }

    /// Whether some key is in both.
    pub(crate) fn overlaps(self, other: Span<'_>) -> bool {
        self.smallest <= other.largest && other.smallest <= self.largest
    }

    /// The smallest span that holds both.
    pub(crate) fn join(self, other: Span<'a>) -> Span<'a> {
        Span { smallest: self.smallest.min(other.smallest), largest: self.largest.max(other.largest) }
    }

    /// Whether some key is in both this span and a range of keys.
    pub(crate) fn overlaps_range(self, (start, end): (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
        let reaches_start = match start {
            Bound::Included(key) => self.largest >= key,
            Bound::Excluded(key) => self.largest > key,
            Bound::Unbounded => true,
        };
        let reaches_end = match end {
            Bound::Included(key) => self.smallest <= key,
            Bound::Excluded(key) => self.smallest < key,
            Bound::Unbounded => true,
        };
        reaches_start && reaches_end
    }
}
