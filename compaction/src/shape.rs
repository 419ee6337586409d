//! What the picker looks at: the tables of each level, which of them are in use, and what is running.

use std::ops::Range;

use terrace_sstable::TableMeta;

use crate::span::Span;
use crate::{Choice, LEVELS};

/// A table that may be compacted.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// What the manifest knows about it.
    pub meta: &'a TableMeta,
    /// Whether it is an input of a running job.
    pub busy: bool,
}

/// A version of the tree as the picker sees it.
#[derive(Debug, Clone, Default)]
pub struct Shape<'a> {
    /// The tables: level 0 from the newest to the oldest, the others by key and disjoint.
    pub levels: [Vec<Candidate<'a>>; LEVELS],
    /// The choices that are being carried out: what they will write is not in `levels` yet, and two jobs must not
    /// write overlapping tables into one level.
    pub running: Vec<&'a Choice>,
}

impl<'a> Shape<'a> {
    /// The bytes in each level.
    pub fn level_bytes(&self) -> [u64; LEVELS] {
        std::array::from_fn(|level| self.levels[level].iter().map(|table| table.meta.file_len).sum())
    }

    /// The tables of a level below level 0 that overlap a span, as a range of places. If none does, an empty range
    /// where they would stand.
    pub(crate) fn overlapping(&self, level: usize, span: Span<'_>) -> Range<usize> {
        debug_assert!(level > 0);
        let tables = &self.levels[level];
        let start = tables.partition_point(|table| *table.meta.largest_key < *span.smallest);
        let end = start + tables[start..].partition_point(|table| *table.meta.smallest_key <= *span.largest);
        start..end
    }

    /// Whether any table of a range of places is an input of a running job.
    pub(crate) fn any_busy(&self, level: usize, places: Range<usize>) -> bool {
        self.levels[level][places].iter().any(|table| table.busy)
    }

    /// Whether a running job may write into a level within a span.
    pub(crate) fn is_being_written(&self, level: usize, span: Span<'_>) -> bool {
        self.running.iter().any(|job| job.output_level == level && job.span().overlaps(span))
    }

    /// The span of one table.
    pub(crate) fn span(&self, level: usize, place: usize) -> Span<'a> {
        Span::of(self.levels[level][place].meta)
    }

    /// The bytes of a range of places.
    pub(crate) fn bytes(&self, level: usize, places: Range<usize>) -> u64 {
        self.levels[level][places].iter().map(|table| table.meta.file_len).sum()
    }

    /// The same tables with nothing running.
    pub(crate) fn idle(&self) -> Shape<'a> {
        let levels = std::array::from_fn(|level| {
            self.levels[level].iter().map(|table| Candidate { busy: false, ..*table }).collect()
        });
        Shape { levels, running: Vec::new() }
    }
}
