//! Picking from level 0, whose tables overlap and must leave it from the oldest to the newest.

use crate::pick::{Choice, Job, Reason, small_bytes};
use crate::shape::Shape;
use crate::span::Span;
use crate::targets::Policy;

/// The most tables of level 0 in one job: each is an open cursor with a buffer.
const TABLES_MAX: usize = 64;

/// The job that takes the most tables out of level 0, or all at once that can go as they are.
pub(crate) fn pick(shape: &Shape<'_>, policy: &Policy, base_level: usize, score: f64) -> Option<Choice> {
    let mut jobs: Vec<Job<'_, '_>> = components(shape, takeable(shape, base_level))
        .into_iter()
        .map(|places| Job::new(shape, 0, places, base_level))
        .collect();
    join_small_neighbours(&mut jobs, shape, policy, base_level);
    for job in &mut jobs {
        job.absorb_small_neighbours(policy);
    }
    let (moves, merges): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.can_move(policy));
    if !moves.is_empty() {
        let places = moves.into_iter().flat_map(|job| job.source).collect();
        let job = Job::alone(shape, 0, places, base_level);
        return Some(job.choose(true, Reason::Level0Count, score));
    }
    let job = merges.into_iter().reduce(|a, b| if b.weight() > a.weight() { b } else { a })?;
    Some(job.choose(false, Reason::Level0Count, score))
}

/// The places, from the oldest, of the tables that could go to the base level now without leaving an older table
/// behind that they overlap.
fn takeable(shape: &Shape<'_>, base_level: usize) -> Vec<usize> {
    let mut staying: Vec<Span<'_>> = Vec::new();
    let mut takeable = Vec::new();
    for place in (0..shape.levels[0].len()).rev() {
        let span = shape.span(0, place);
        let free = takeable.len() < TABLES_MAX
            && !shape.levels[0][place].busy
            && !staying.iter().any(|older| older.overlaps(span))
            && !Job::new(shape, 0, vec![place], base_level).is_blocked();
        if free {
            takeable.push(place);
        } else {
            staying.push(span);
        }
    }
    takeable
}

/// The tables in groups, by key, so that tables of two groups never overlap: each group can go on its own.
fn components(shape: &Shape<'_>, mut places: Vec<usize>) -> Vec<Vec<usize>> {
    places.sort_by_key(|&place| shape.span(0, place).smallest);
    let mut groups: Vec<(Span<'_>, Vec<usize>)> = Vec::new();
    for place in places {
        let span = shape.span(0, place);
        match groups.last_mut() {
            Some((whole, group)) if whole.overlaps(span) => {
                *whole = whole.join(span);
                group.push(place);
            }
            _ => groups.push((span, vec![place])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Makes one job of small ones that stand next to each other, with no table of the base level between.
fn join_small_neighbours<'s, 'a>(
    jobs: &mut Vec<Job<'s, 'a>>,
    shape: &'s Shape<'a>,
    policy: &Policy,
    base_level: usize,
) {
    let small = small_bytes(policy);
    let mut joined: Vec<Job<'s, 'a>> = Vec::new();
    for job in jobs.drain(..) {
        if let Some(last) = joined.last_mut()
            && last.bytes() < small
            && job.bytes() < small
            && last.output.end >= job.output.start
        {
            let both = last.source.iter().chain(&job.source).copied().collect();
            let both = Job::new(shape, 0, both, base_level);
            if !both.is_blocked() {
                *last = both;
                continue;
            }
        }
        joined.push(job);
    }
    *jobs = joined;
}
