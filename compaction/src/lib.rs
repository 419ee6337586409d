//! What Terrace compacts, and how.
//!
//! Flushes put tables into level 0, where they may overlap and the newest comes first. Below it each level is one
//! sorted run of disjoint tables. Compaction merges tables downwards, so that a read asks few of them and the disk
//! does not keep what nobody can see.
//!
//! The crate has two halves. What decides is pure and does no I/O: [`targets`] says how large each level should be,
//! [`pick`] and [`pick_range`] say what to merge next, as a [`Choice`]. What acts takes the decision as a value:
//! [`merge_tables`] streams tables, and [`write_tables`] any cursor (a memtable's), into new tables. The engine stands
//! between them: it keeps the list of running jobs, turns a choice into tables and the outcome into a version.
//!
//! The invariants that both halves keep, whatever runs in parallel:
//!
//! - below level 0 the tables of a level are disjoint, and the versions of one key are in one table of it;
//! - a newer version of a key is never below an older one: reading level by level, level 0 from its newest table
//!   on, finds versions of a key in descending order of sequence number;
//! - what a reader at a live snapshot, or at the present, sees does not change.

#![forbid(unsafe_code)]

mod cut;
mod level;
mod level0;
mod merge;
mod pick;
mod range;
mod retention;
mod run;
mod shape;
mod span;
mod targets;

pub use merge::{Inputs, merge_tables};
pub use pick::{Choice, Reason, is_settled, pick};
pub use range::pick_range;
pub use run::{Outcome, Output, Rules, write_tables};
pub use shape::{Candidate, Shape};
pub use span::{KeyRange, SizedKeyRange};
pub use targets::{L0_TRIGGER_QUIET, Policy, QUIET_REWRITE_MAX, Targets, debt_bytes, targets};

/// The number of levels: 0, where flushes arrive, to 6, the bottom.
pub const LEVELS: usize = 7;
