//! Picking from a level below level 0: the table whose bytes move down for the least rewriting.

use terrace_sstable::TableMeta;

use crate::pick::{Choice, Job, Reason};
use crate::shape::Shape;
use crate::targets::Policy;

/// A job is not extended beyond this many full tables.
const EXTENDED_TABLES_MAX: u64 = 25;

/// The job that moves a table of `level`, one of those that `wanted` accepts, into the next level: the one that
/// overlaps the least there for its size, of equals the first by key.
pub(crate) fn pick(
    shape: &Shape<'_>,
    policy: &Policy,
    level: usize,
    reason: Reason,
    score: f64,
    wanted: impl Fn(&TableMeta) -> bool,
) -> Option<Choice> {
    let mut best: Option<(f64, Job<'_, '_>)> = None;
    for (place, table) in shape.levels[level].iter().enumerate() {
        if table.busy || !wanted(table.meta) {
            continue;
        }
        let overlapped = shape.bytes(level + 1, shape.overlapping(level + 1, shape.span(level, place)));
        let cost = overlapped as f64 / table.meta.file_len.max(1) as f64;
        if best.as_ref().is_some_and(|(least, _)| *least <= cost) {
            continue;
        }
        let job = Job::new(shape, level, vec![place], level + 1);
        if !job.is_blocked() {
            best = Some((cost, job));
        }
    }
    let (_, mut job) = best?;
    extend(&mut job, shape, policy, level);
    job.absorb_small_neighbours(policy);
    let trivial_move = job.can_move(policy);
    Some(job.choose(trivial_move, reason, score))
}

/// Takes along the neighbours in the source level that overlap nothing more in the output level: they go down for
/// no more than their own bytes.
fn extend<'a>(job: &mut Job<'_, 'a>, shape: &Shape<'a>, policy: &Policy, level: usize) {
    let bytes_max = policy.table_bytes.saturating_mul(EXTENDED_TABLES_MAX);
    let place = job.source[0];
    let left = (0..place).rev();
    let right = place + 1..shape.levels[level].len();
    let mut bytes = job.bytes();
    let mut take = |place: usize| {
        let table = &shape.levels[level][place];
        let span = shape.span(level, place);
        let overlapping = shape.overlapping(level + 1, span);
        let fits = !overlapping.is_empty()
            && overlapping.start >= job.output.start
            && overlapping.end <= job.output.end
            && bytes.saturating_add(table.meta.file_len) <= bytes_max;
        if table.busy || !fits || shape.is_being_written(level + 1, job.span.join(span)) {
            return false;
        }
        bytes += table.meta.file_len;
        job.span = job.span.join(span);
        job.source.push(place);
        true
    };
    for place in left {
        if !take(place) {
            break;
        }
    }
    for place in right {
        if !take(place) {
            break;
        }
    }
    job.source.sort_unstable();
}
