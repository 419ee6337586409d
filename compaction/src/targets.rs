//! How large each level should be, and how far the tree is from that. Pure arithmetic over the sizes of the levels.
//!
//! # How many levels are in use
//!
//! Let `B` be `level_base_bytes`, about what one compaction takes from level 0, and `N` the size of the bottom.
//!
//! Merging level 0 straight into the bottom rewrites the bottom for each `B` that arrives: a byte is written
//! `1 + N/B` times. With a level of `M` bytes between, it is written `1 + M/B` times into that level and `1 + N/M`
//! times out of it, least for `M = sqrt(N B)`, where the sum is `2 (1 + sqrt(N/B))`. The two costs meet at
//! `N/B = 3 + 2 sqrt(2)`, about 6: below it a level between costs more than it saves, and what is more, each level is
//! one more place for a reader to look. So:
//!
//! - up to `N = 6 B` level 0 is merged straight into the bottom;
//! - beyond it there are as few levels between as keep the ratio of neighbouring sizes within `level_multiplier`, and
//!   their sizes are spaced evenly, in ratio, between `B` and `N`;
//! - a level that is there already is given up only when half of what called for it is gone, so that a tree whose
//!   size swings around a threshold does not build and drain a level over and over.
//!
//! Sizes are counted from the bottom up, so that nearly all data is in the bottom level and space that is lost to
//! versions out of date stays a fraction of it, however small the tree is.

use crate::LEVELS;

const BOTTOM: usize = LEVELS - 1;

/// Up to this many times `level_base_bytes` level 0 is merged straight into the bottom level.
const DIRECT_RATIO_MAX: u64 = 6;

/// The settings that the shape of the tree follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Level 0 is compacted once it has this many tables.
    pub l0_trigger: usize,
    /// Whether hardly any tables come in. Then [`L0_TRIGGER_QUIET`] of them in level 0 are enough, unless merging them
    /// would rewrite more than [`QUIET_REWRITE_MAX`] times their bytes: readers gain, and there is time.
    pub quiet: bool,
    /// The size that the first level below level 0 has at least. It should be about what one compaction takes from
    /// level 0, `l0_trigger` times the size of a flush: with much smaller ones, each small batch would rewrite a large
    /// bottom.
    pub level_base_bytes: u64,
    /// How many times larger a level may be than the one above it.
    pub level_multiplier: u64,
    /// The size at which a table is full.
    pub table_bytes: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            l0_trigger: 4,
            quiet: false,
            level_base_bytes: 256 << 20,
            level_multiplier: 10,
            table_bytes: 64 << 20,
        }
    }
}

/// Tables in level 0 that are compacted in quiet times.
pub const L0_TRIGGER_QUIET: usize = 4;
/// How many times their own bytes the tables of level 0 may lead to be rewritten in quiet times.
pub const QUIET_REWRITE_MAX: u64 = 8;

impl Policy {
    /// How many tables of level 0 start a compaction into `base_level`.
    pub(crate) fn l0_trigger(&self, level_bytes: &[u64; LEVELS], base_level: usize) -> usize {
        let is_cheap = level_bytes[base_level] <= level_bytes[0].saturating_mul(QUIET_REWRITE_MAX);
        let trigger = if self.quiet && is_cheap { L0_TRIGGER_QUIET } else { usize::MAX };
        trigger.min(self.l0_trigger).max(1)
    }
}

/// The sizes that the levels should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    /// Where level 0 is merged into. The levels between are empty.
    pub base_level: usize,
    /// The size that each level may have before it is compacted. Level 0 goes by the number of its tables and has 0
    /// here; levels above the base have 0 and are empty; the bottom level takes whatever comes and has `u64::MAX`. A
    /// level from the base on can have 0 too: it is being given up.
    pub bytes: [u64; LEVELS],
}

/// The sizes that the levels should have, given those that they have.
///
/// ```
/// use terrace_compaction::{Policy, targets};
/// const GIB: u64 = 1 << 30;
///
/// let small = targets(&[0, 0, 0, 0, 0, 0, GIB], &Policy::default());
/// assert_eq!(small.base_level, 6);
/// let large = targets(&[0, 0, 0, 0, 0, 0, 4 * GIB], &Policy::default());
/// assert_eq!((large.base_level, large.bytes[5]), (5, GIB));
/// ```
pub fn targets(level_bytes: &[u64; LEVELS], policy: &Policy) -> Targets {
    let largest = level_bytes[1..].iter().copied().max().unwrap_or(0);
    let first = (1..LEVELS).find(|&level| level_bytes[level] > 0).unwrap_or(BOTTOM);
    let present = BOTTOM - first;
    let between =
        present.clamp(levels_between(largest, policy), levels_between(largest.saturating_mul(2), policy));

    let mut bytes = [0; LEVELS];
    bytes[BOTTOM] = u64::MAX;
    let span = largest as f64 / policy.level_base_bytes.max(1) as f64;
    let ratio = span.max(1.0).powf(1.0 / (between as f64 + 1.0));
    let mut size = largest as f64;
    for level in (BOTTOM - between..BOTTOM).rev() {
        size /= ratio;
        bytes[level] = (size as u64).max(policy.level_base_bytes).max(1);
    }
    Targets { base_level: (BOTTOM - between).min(first), bytes }
}

/// How many levels should stand between level 0 and a bottom level of so many bytes.
fn levels_between(bottom_bytes: u64, policy: &Policy) -> usize {
    let base = u128::from(policy.level_base_bytes.max(1));
    let multiplier = u128::from(policy.level_multiplier.max(2));
    let bottom = u128::from(bottom_bytes);
    if bottom <= base * u128::from(DIRECT_RATIO_MAX) {
        return 0;
    }
    let mut reach = base.saturating_mul(multiplier).saturating_mul(multiplier);
    let mut between = 1;
    while bottom > reach && between < BOTTOM - 1 {
        reach = reach.saturating_mul(multiplier);
        between += 1;
    }
    between
}

/// About how many bytes compaction has yet to write until the tree has its shape: 0 once it has.
///
/// Level 0 counts by how far it is over its allowance of `l0_trigger - 1` tables: with *n* tables and *k* of them over
/// it, *k/n* of what merging all of them into the base level would write. So the debt does not leap when the trigger
/// is reached, rises with each flush that compaction does not keep up with, and comes near the full cost when far
/// behind. A level beyond its target counts its excess, times what moving a byte to the next level rewrites there.
pub fn debt_bytes(level_bytes: &[u64; LEVELS], l0_tables: usize, policy: &Policy) -> u64 {
    let targets = targets(level_bytes, policy);
    let mut debt = 0.0;
    let mut arriving = 0.0;
    if l0_tables >= policy.l0_trigger.max(1) {
        let over = (l0_tables - policy.l0_trigger.max(1) + 1) as f64 / l0_tables as f64;
        debt += over * (level_bytes[0] as f64 + level_bytes[targets.base_level] as f64);
        arriving = over * level_bytes[0] as f64;
    }
    for level in targets.base_level..BOTTOM {
        let size = level_bytes[level] as f64 + arriving;
        arriving = (size - targets.bytes[level] as f64).max(0.0);
        if arriving > 0.0 {
            debt += arriving * (1.0 + level_bytes[level + 1] as f64 / size);
        }
    }
    debt.ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn sized(sizes: &[(usize, u64)]) -> [u64; LEVELS] {
        let mut bytes = [0; LEVELS];
        for &(level, size) in sizes {
            bytes[level] = size;
        }
        bytes
    }

    #[test]
    fn small_trees_merge_straight_into_the_bottom() {
        for size in [0, MIB, 300 * MIB, 1536 * MIB] {
            let targets = targets(&sized(&[(6, size)]), &Policy::default());
            assert_eq!(targets.base_level, 6, "{size}");
            assert_eq!(targets.bytes[..6], [0; 6], "{size}");
        }
    }

    #[test]
    fn larger_trees_get_levels_evenly_spaced() {
        let policy = Policy::default();
        let one = targets(&sized(&[(6, 4 * GIB)]), &policy);
        assert_eq!((one.base_level, one.bytes[5]), (5, GIB));
        let two = targets(&sized(&[(6, 256 * 27 * 8 * MIB)]), &policy);
        assert_eq!(two.base_level, 4);
        assert!(two.bytes[5].abs_diff(256 * 36 * MIB) < MIB && two.bytes[4].abs_diff(256 * 6 * MIB) < MIB);
        // The most there can be: every level in use, never level 0.
        assert_eq!(
            targets(&sized(&[(6, u64::MAX)]), &Policy { level_base_bytes: 1, ..policy }).base_level,
            1
        );
    }

    #[test]
    fn a_level_is_given_up_late_and_drained_then() {
        let policy = Policy::default();
        let kept = targets(&sized(&[(5, 100 * MIB), (6, 800 * MIB)]), &policy);
        assert_eq!(kept.base_level, 5);
        assert!(kept.bytes[5] > 256 * MIB);
        let drained = targets(&sized(&[(5, 100 * MIB), (6, 700 * MIB)]), &policy);
        assert_eq!((drained.base_level, drained.bytes[5]), (5, 0));
        assert!(debt_bytes(&sized(&[(5, 100 * MIB), (6, 700 * MIB)]), 0, &policy) >= 100 * MIB);
    }

    #[test]
    fn the_base_is_never_below_data() {
        let policy = Policy { level_base_bytes: MIB, ..Policy::default() };
        for level in 1..LEVELS {
            for size in [1, MIB, 100 * MIB, 1 << 50] {
                assert!(targets(&sized(&[(level, 1), (6, size)]), &policy).base_level <= level);
            }
        }
    }

    #[test]
    fn debt_is_nothing_when_settled_and_rises_with_each_flush() {
        let policy = Policy::default();
        let debt =
            |tables: u64| debt_bytes(&sized(&[(0, tables * 64 * MIB), (6, GIB)]), tables as usize, &policy);
        assert_eq!(debt(3), 0);
        // One table of four is over: a quarter of merging 256 MiB into 1 GiB.
        assert_eq!(debt(4), 320 * MIB);
        for tables in 4..100 {
            assert!(debt(tables + 1) > debt(tables));
            assert!(debt(tables + 1) - debt(tables) < 320 * MIB);
        }
    }

    #[test]
    fn debt_goes_on_through_the_levels() {
        let policy = Policy::default();
        let full = targets(&sized(&[(6, 4 * GIB)]), &policy).bytes[5];
        assert_eq!(debt_bytes(&sized(&[(5, full), (6, 4 * GIB)]), 0, &policy), 0);
        let excess = debt_bytes(&sized(&[(5, full + 100 * MIB), (6, 4 * GIB)]), 0, &policy);
        assert!(excess > 400 * MIB && excess < 500 * MIB, "{excess}");
    }
}
