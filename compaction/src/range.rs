//! Picking for `compact_range`: what was asked for, whether the shape of the tree needs it or not.

use std::ops::Bound;

use crate::LEVELS;
use crate::pick::{Choice, Job, Reason};
use crate::shape::Shape;
use crate::span::Span;
use crate::targets::{Policy, targets};

/// One step of compacting a range of keys: all of `level` that overlaps it, merged into the next level that holds
/// data, or into `bottom`. Going through the levels from 0 to `bottom` brings the range down.
///
/// At the bottom itself the tables that overlap the range are rewritten in place, if that may drop something: from the
/// first to the last that has tombstones or sequence numbers. Asking again may give the same answer, since
/// snapshots can hold on to both: ask once.
///
/// `None` if there is nothing to do in this level. While jobs are running it can also mean that one of them stands in
/// the way: ask again when `shape.running` is empty.
pub fn pick_range(
    shape: &Shape<'_>,
    policy: &Policy,
    level: usize,
    range: (Bound<&[u8]>, Bound<&[u8]>),
    bottom: usize,
) -> Option<Choice> {
    let bottom = match bottom.min(LEVELS - 1) {
        0 => targets(&shape.level_bytes(), policy).base_level,
        bottom => bottom,
    };
    if level > bottom {
        return None;
    }
    if level == bottom {
        return rewrite(shape, level, range);
    }
    let source = if level == 0 { closed_under_older(shape, range) } else { overlapping(shape, level, range) };
    if source.is_empty() || source.iter().any(|&place| shape.levels[level][place].busy) {
        return None;
    }
    let output_level = (level + 1..bottom).find(|&below| !shape.levels[below].is_empty()).unwrap_or(bottom);
    let disjoint = level > 0 || are_disjoint(shape, &source);
    let job = Job::new(shape, level, source, output_level);
    if job.is_blocked() {
        return None;
    }
    // Nothing is lost by not rewriting them now: they are rewritten at the bottom if that may drop something.
    let trivial_move = job.output.is_empty() && disjoint;
    Some(job.choose(trivial_move, Reason::Range, 0.0))
}

/// The tables of a level below level 0 that overlap a range.
fn overlapping(shape: &Shape<'_>, level: usize, range: (Bound<&[u8]>, Bound<&[u8]>)) -> Vec<usize> {
    (0..shape.levels[level].len()).filter(|&place| shape.span(level, place).overlaps_range(range)).collect()
}

/// The tables of level 0 that overlap a range, and every older one that overlaps one of them, and so on.
fn closed_under_older(shape: &Shape<'_>, range: (Bound<&[u8]>, Bound<&[u8]>)) -> Vec<usize> {
    let mut taken: Vec<usize> = Vec::new();
    for place in 0..shape.levels[0].len() {
        let span = shape.span(0, place);
        if span.overlaps_range(range) || taken.iter().any(|&newer| shape.span(0, newer).overlaps(span)) {
            taken.push(place);
        }
    }
    taken
}

/// Whether no two of some tables of level 0 overlap.
fn are_disjoint(shape: &Shape<'_>, places: &[usize]) -> bool {
    let mut spans: Vec<Span<'_>> = places.iter().map(|&place| shape.span(0, place)).collect();
    spans.sort_by_key(|span| span.smallest);
    spans.windows(2).all(|pair| !pair[0].overlaps(pair[1]))
}

/// Rewriting tables of the bottom level in place.
fn rewrite(shape: &Shape<'_>, level: usize, range: (Bound<&[u8]>, Bound<&[u8]>)) -> Option<Choice> {
    let mut worthwhile = overlapping(shape, level, range);
    worthwhile.retain(|&place| {
        let meta = shape.levels[level][place].meta;
        meta.deletes > 0 || meta.largest_sequence > 0
    });
    let (first, last) = (*worthwhile.first()?, *worthwhile.last()?);
    let job = Job::alone(shape, level, (first..=last).collect(), level);
    if shape.any_busy(level, first..last + 1) || shape.is_being_written(level, job.span) {
        return None;
    }
    Some(job.choose(false, Reason::Range, 0.0))
}
