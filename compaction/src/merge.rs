//! The cursor that a job reads: all its inputs merged, streamed past the page cache.

use std::sync::Arc;

use terrace_sstable::{MergeCursor, RunCursor, ScanMode, Table};

/// The merged cursor over the tables of a choice, given like its inputs: levels from above, level 0 from the newest
/// table to the oldest, the others by key. It opens tables as it reaches them.
pub fn input_cursor(levels: &[(usize, Vec<Arc<Table>>)]) -> MergeCursor<RunCursor> {
    let mode = ScanMode::Stream { drop_behind: true };
    let mut runs = Vec::new();
    for (level, tables) in levels {
        if *level == 0 {
            runs.extend(tables.iter().map(|table| RunCursor::new(Arc::from([Arc::clone(table)]), mode)));
        } else if !tables.is_empty() {
            runs.push(RunCursor::new(tables.as_slice().into(), mode));
        }
    }
    MergeCursor::new(runs)
}
