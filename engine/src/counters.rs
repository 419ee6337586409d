//! What the engine counts, for [`crate::Metrics`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use terrace_compaction::LEVELS;

/// Running totals since the database was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub user_bytes_written: AtomicU64,
    pub flushes: AtomicU64,
    pub flush_bytes_written: AtomicU64,
    pub compactions: AtomicU64,
    pub trivial_moves: AtomicU64,
    pub level_read: [AtomicU64; LEVELS],
    pub level_written: [AtomicU64; LEVELS],
}

impl Counters {
    /// A flush has written tables of level 0.
    pub fn flush_written(&self, bytes: u64) {
        self.flush_bytes_written.fetch_add(bytes, Relaxed);
        self.level_written[0].fetch_add(bytes, Relaxed);
    }
}
