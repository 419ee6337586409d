//! What to compact next. Pure: a [`Shape`] and a [`Policy`] go in, a [`Choice`] comes out. Called under the engine's
//! version lock by whichever thread has time for a job; it takes microseconds.
//!
//! # Why a choice is safe
//!
//! A job takes tables of one level, its *source*, and the tables of the output level that overlap them. The levels
//! between are empty. The *span* of a job goes from the smallest to the largest key of its inputs; what it writes lies
//! within.
//!
//! - **Within a level.** All tables of the output level that overlap the source are inputs. Those span further than
//!   the source, but being disjoint from their neighbours they overlap no others. So what is written overlaps nothing
//!   that stays.
//! - **Newer above older.** Below level 0 a level has one table at most that holds a key. In level 0, when a table
//!   goes down, every older table there that overlaps it goes too, in the same job. Newer ones may stay.
//! - **Parallel jobs.** An input of a running job is never taken. If a table of level 0 cannot be taken, none that is
//!   newer and overlaps it is. A job whose span overlaps that of a running one with the same output level waits:
//!   their outputs might overlap, even where no input does, since an output may reach across a gap between inputs.
//! - **Tombstones.** Older data for a key of a job is among its inputs or below its output level when the job
//!   starts, and can only go down. So the key ranges below, taken at the start, go on covering it.

use std::cmp::Reverse;

use terrace_sstable::TableMeta;

use crate::shape::Shape;
use crate::span::Span;
use crate::targets::{Policy, targets};
use crate::{LEVELS, level, level0};

/// A job: what to merge, and where to.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Levels, from above, and the numbers of the tables to take from each: in level 0 from the newest to the oldest,
    /// in the others by key.
    pub inputs: Vec<(usize, Vec<u64>)>,
    /// Where the merged tables go.
    pub output_level: usize,
    /// The tables need not be rewritten: they only change their level.
    pub trivial_move: bool,
    /// Why.
    pub reason: Reason,
    /// How pressing it is: 1 is the threshold. 0 for a choice that was asked for.
    pub score: f64,
    /// The smallest key of all inputs.
    pub smallest_key: Box<[u8]>,
    /// The largest key of all inputs.
    pub largest_key: Box<[u8]>,
}

impl Choice {
    pub(crate) fn span(&self) -> Span<'_> {
        Span { smallest: &self.smallest_key, largest: &self.largest_key }
    }
}

/// Why something is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Level 0 has many tables.
    Level0Count,
    /// A level is larger than it should be.
    LevelBytes,
    /// A table above the bottom consists of tombstones for the larger part: what they hide is below and wastes space.
    Tombstones,
    /// Somebody asked for it ([`pick_range`](crate::pick_range)).
    Range,
}

/// The most pressing job that can start now, or `None` if no job is needed or all that are needed have to wait for
/// running ones.
///
/// ```
/// use terrace_compaction::{Candidate, Policy, Shape, pick};
/// use terrace_sstable::TableMeta;
///
/// let table = |number, smallest: &[u8], largest: &[u8]| TableMeta {
///     number,
///     table_id: number,
///     file_len: 64 << 20,
///     entries: 500_000,
///     deletes: 0,
///     smallest_sequence: 1,
///     largest_sequence: 9,
///     smallest_key: smallest.into(),
///     largest_key: largest.into(),
/// };
/// let level0 = [table(14, b"c", b"y"), table(13, b"a", b"x"), table(12, b"b", b"z"), table(11, b"a", b"q")];
/// let bottom = [table(1, b"b", b"f"), table(2, b"g", b"k")];
/// let mut shape = Shape::default();
/// shape.levels[0] = level0.iter().map(|meta| Candidate { meta, busy: false }).collect();
/// shape.levels[6] = bottom.iter().map(|meta| Candidate { meta, busy: false }).collect();
///
/// let choice = pick(&shape, &Policy::default()).expect("level 0 has reached its trigger");
/// assert_eq!(choice.inputs, [(0, vec![14, 13, 12, 11]), (6, vec![1, 2])]);
/// assert_eq!(choice.output_level, 6);
/// ```
pub fn pick(shape: &Shape<'_>, policy: &Policy) -> Option<Choice> {
    let level_bytes = shape.level_bytes();
    let targets = targets(&level_bytes, policy);
    let l0_trigger = policy.l0_trigger(&level_bytes, targets.base_level);
    let mut needs: Vec<(f64, usize)> = Vec::new();
    let free_in_level0 = shape.levels[0].iter().filter(|table| !table.busy).count();
    if free_in_level0 >= l0_trigger {
        needs.push((free_in_level0 as f64 / l0_trigger as f64, 0));
    }
    for level in targets.base_level..LEVELS - 1 {
        let free = shape.levels[level].iter().filter(|table| !table.busy);
        let free: u64 = free.map(|table| table.meta.file_len).sum();
        let target = targets.bytes[level];
        if free > target {
            let target = if target > 0 { target } else { policy.level_base_bytes.max(1) };
            needs.push(((free as f64 / target as f64).max(1.0), level));
        }
    }
    needs.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));

    let mut level0_waits = false;
    for (score, level) in needs {
        let choice = if level == 0 {
            let choice = level0::pick(shape, policy, targets.base_level, score);
            level0_waits = choice.is_none();
            choice
        } else if level0_waits && level == targets.base_level {
            // Level 0 waits for tables of this level. Taking more of them away could keep it waiting for ever.
            None
        } else {
            level::pick(shape, policy, level, Reason::LevelBytes, score, |_| true)
        };
        if choice.is_some() {
            return choice;
        }
    }
    if level0_waits {
        return None;
    }
    (targets.base_level..LEVELS - 1)
        .find_map(|level| level::pick(shape, policy, level, Reason::Tombstones, 1.0, is_mostly_tombstones))
}

/// Whether the tree has the shape that it should have: [`pick`] would find nothing to do even if nothing were running.
/// What running jobs will make of it does not count before they are done.
pub fn is_settled(shape: &Shape<'_>, policy: &Policy) -> bool {
    pick(&shape.idle(), policy).is_none()
}

fn is_mostly_tombstones(meta: &TableMeta) -> bool {
    meta.deletes > 0 && meta.deletes.saturating_mul(2) >= meta.entries
}

/// A choice being put together: tables of a source level and those of the output level that they overlap.
pub(crate) struct Job<'s, 'a> {
    shape: &'s Shape<'a>,
    source_level: usize,
    /// Places in the source level, in its order.
    pub(crate) source: Vec<usize>,
    output_level: usize,
    /// Places in the output level.
    pub(crate) output: std::ops::Range<usize>,
    pub(crate) span: Span<'a>,
}

impl<'s, 'a> Job<'s, 'a> {
    /// With some places of the source level, at least one. They need not be next to each other.
    pub(crate) fn new(
        shape: &'s Shape<'a>,
        source_level: usize,
        mut source: Vec<usize>,
        output_level: usize,
    ) -> Self {
        source.sort_unstable();
        let spans = source.iter().map(|&place| shape.span(source_level, place));
        let span = spans.reduce(Span::join).expect("a job has a source");
        let output = shape.overlapping(output_level, span);
        let mut job = Job { shape, source_level, source, output_level, output, span };
        job.span = job.span_with(job.output.clone());
        job
    }

    /// The same tables alone: to be moved as they are, or rewritten in their own level.
    pub(crate) fn alone(
        shape: &'s Shape<'a>,
        source_level: usize,
        mut source: Vec<usize>,
        output_level: usize,
    ) -> Self {
        source.sort_unstable();
        let spans = source.iter().map(|&place| shape.span(source_level, place));
        let span = spans.reduce(Span::join).expect("a job has a source");
        Job { shape, source_level, source, output_level, output: 0..0, span }
    }

    fn span_with(&self, output: std::ops::Range<usize>) -> Span<'a> {
        match (output.clone().next(), output.last()) {
            (Some(first), Some(last)) => {
                let first = self.shape.span(self.output_level, first);
                self.span.join(first).join(self.shape.span(self.output_level, last))
            }
            _ => self.span,
        }
    }

    /// Whether it has to wait for a running job. That its source is free is for the caller to see to.
    pub(crate) fn is_blocked(&self) -> bool {
        self.shape.any_busy(self.output_level, self.output.clone())
            || self.shape.is_being_written(self.output_level, self.span)
    }

    /// The bytes of all its inputs.
    pub(crate) fn bytes(&self) -> u64 {
        let source =
            self.source.iter().map(|&place| self.shape.levels[self.source_level][place].meta.file_len);
        source.sum::<u64>() + self.shape.bytes(self.output_level, self.output.clone())
    }

    /// Takes small neighbours in the output level along, if the job is small itself: else many small flushes of
    /// ascending keys would leave as many small tables. A neighbour is taken only while it is at most four times as
    /// large as the job, so that a byte is rewritten a logarithmic number of times in this way.
    pub(crate) fn absorb_small_neighbours(&mut self, policy: &Policy) {
        loop {
            let bytes = self.bytes();
            if bytes >= small_bytes(policy) {
                return;
            }
            let tables = self.shape.levels[self.output_level].len();
            let left = self.output.start.checked_sub(1).map(|start| (start, start..self.output.end));
            let right =
                (self.output.end < tables).then(|| (self.output.end, self.output.start..self.output.end + 1));
            let taken = [left, right].into_iter().flatten().find(|(place, output)| {
                let neighbour = &self.shape.levels[self.output_level][*place];
                let span = self.span_with(output.clone());
                !neighbour.busy
                    && neighbour.meta.file_len <= bytes.saturating_mul(4)
                    && !self.shape.is_being_written(self.output_level, span)
            });
            let Some((_, output)) = taken else { return };
            self.span = self.span_with(output.clone());
            self.output = output;
        }
    }

    /// Whether the tables can go down as they are: they overlap nothing there and not too much of the level below
    /// (else the next job would be large: rewriting cuts them), and nothing would be gained by rewriting them.
    pub(crate) fn can_move(&self, policy: &Policy) -> bool {
        let [place] = self.source[..] else { return false };
        let meta = self.shape.levels[self.source_level][place].meta;
        let below = self.output_level + 1;
        let overlapped_below = if below < LEVELS {
            self.shape.bytes(below, self.shape.overlapping(below, self.span))
        } else {
            0
        };
        let deepest = (below..LEVELS).all(|level| self.shape.overlapping(level, self.span).is_empty());
        let tombstones_would_go = deepest && meta.deletes.saturating_mul(4) >= meta.entries.max(1);
        self.output.is_empty()
            && !tombstones_would_go
            && overlapped_below <= policy.table_bytes.saturating_mul(10)
    }

    /// The decision.
    pub(crate) fn choose(self, trivial_move: bool, reason: Reason, score: f64) -> Choice {
        debug_assert!(!trivial_move || self.output.is_empty());
        let number = |level: usize| move |place: usize| self.shape.levels[level][place].meta.number;
        let mut inputs =
            vec![(self.source_level, self.source.iter().copied().map(number(self.source_level)).collect())];
        if !self.output.is_empty() {
            inputs.push((self.output_level, self.output.clone().map(number(self.output_level)).collect()));
        }
        Choice {
            inputs,
            output_level: self.output_level,
            trivial_move,
            reason,
            score,
            smallest_key: self.span.smallest.into(),
            largest_key: self.span.largest.into(),
        }
    }

    /// How it ranks among others: the more tables of the source it takes, then the fewer bytes it writes, the better.
    pub(crate) fn weight(&self) -> (usize, Reverse<u64>) {
        (self.source.len(), Reverse(self.bytes()))
    }
}

/// Jobs and tables below this count as small.
pub(crate) fn small_bytes(policy: &Policy) -> u64 {
    policy.table_bytes / 4
}

#[cfg(test)]
mod tests;
