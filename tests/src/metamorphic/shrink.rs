//! Shrinks a sequence of operations that fails to one that still does: delta debugging (Zeller's ddmin), then simpler
//! operations in place of those that are left.

use std::time::{Duration, Instant};

use super::ops::Op;

/// Leaves out what it can of `ops`, and makes the rest simpler, as long as `fails` says yes and there is time.
pub fn shrink(mut ops: Vec<Op>, time: Duration, mut fails: impl FnMut(&[Op]) -> bool) -> Vec<Op> {
    let until = Instant::now() + time;
    let is_over = || Instant::now() >= until;
    let mut piece = ops.len().div_ceil(2);
    while piece > 0 && !is_over() {
        let before = ops.len();
        // From the end: the last operations are the ones that need what came before.
        let mut end = ops.len();
        while end > 0 && !is_over() {
            let start = end.saturating_sub(piece);
            let without = [&ops[..start], &ops[end..]].concat();
            if fails(&without) {
                ops = without;
            }
            end = start;
        }
        let again = piece == 1 && ops.len() < before;
        piece = if again { 1 } else { piece / 2 };
    }
    let mut at = 0;
    while at < ops.len() && !is_over() {
        let simpler = ops[at].simpler().into_iter().map(|op| {
            let mut ops = ops.clone();
            ops[at] = op;
            ops
        });
        match simpler.into_iter().find(|ops| !is_over() && fails(ops)) {
            Some(found) => ops = found,
            None => at += 1,
        }
    }
    ops
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metamorphic::ops::sequence;

    #[test]
    fn what_matters_is_left() {
        let longest = |ops: &[Op]| {
            let len = |op: &Op| if let Op::Batch { writes, .. } = op { writes.len() } else { 0 };
            ops.iter().map(len).max().unwrap_or(0)
        };
        // Two things have to come in this order, and a batch of five operations or more anywhere.
        let fails = |ops: &[Op]| {
            let sync = ops.iter().position(|op| matches!(op, Op::Sync));
            let flush = ops.iter().rposition(|op| matches!(op, Op::Flush));
            longest(ops) >= 5 && sync.zip(flush).is_some_and(|(sync, flush)| sync < flush)
        };
        let ops = sequence(1, 2_500);
        assert!(fails(&ops));
        let shrunk = shrink(ops, Duration::from_secs(60), fails);
        assert_eq!(shrunk.len(), 3, "{shrunk:?}");
        assert!(fails(&shrunk) && longest(&shrunk) < 10, "{shrunk:?}");
    }

    #[test]
    fn there_is_an_end_to_it() {
        let ops = sequence(2, 200);
        let shrunk = shrink(ops, Duration::ZERO, |_| true);
        assert_eq!(shrunk.len(), 200);
        assert!(shrink(shrunk, Duration::from_secs(60), |_| true).is_empty());
    }
}
