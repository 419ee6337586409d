//! Bugs that can be planted, to see that the tests find them. What a test has never been seen to catch, it may not
//! catch.
//!
//! Without the feature `planted-bugs` none of them exists: [`Bug::is_planted`] is a constant then, and the compiler
//! leaves nothing of the places that ask. With it, the variable `TERRACE_PLANTED_BUG` names the one that is planted.
//! `tests/planted.rs` plants each in turn and says which test caught it.

/// A mistake that a storage engine can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A new table's name is not made durable before the manifest names the table.
    TableNameNotSynced,
    /// A new log segment's name is not made durable before records go to it.
    SegmentNameNotSynced,
    /// A write is acknowledged as durable before the log is synced.
    AcknowledgedBeforeSync,
    /// Writes go on after a failed sync.
    PoisonIgnored,
    /// A flush becomes visible before the log is synced through its end.
    FlushedBeforeLogSynced,
    /// What was replayed is not made durable before new writes are taken.
    ReplayedNotDurable,
    /// A record of a recycled segment's earlier life is taken for one of this.
    RecycledRecordAccepted,
    /// A hole in the log below what was synced is taken for its end.
    HoleBelowSyncedSkipped,
    /// After recovery, sequence numbers begin where the tables end.
    SequenceReused,
    /// A tombstone is dropped although older data lies deeper.
    TombstoneDropped,
    /// Compaction forgets the snapshots.
    SnapshotVersionDropped,
    /// An obsolete table is deleted while somebody reads it.
    ReadTableDeleted,
    /// A file's length is believed without a look at the file.
    LengthUnchecked,
    /// Only the first operation of a batch is replayed.
    BatchTorn,
    /// A memtable's reader does not look whether a node has changed.
    NodeVersionIgnored,
    /// A full disk is taken for a failed sync of the manifest.
    FullDiskPoisons,
    /// What a failed append has left in the log is not erased before a change that only the manifest records.
    RefusedNotErased,
    /// The second look at wrong bytes is one at the page cache again.
    PageCacheBelieved,
    /// A directory that another has locked is opened.
    LockIgnored,
    /// A checkpoint takes what was written to memtables after its moment.
    CheckpointTorn,
    /// The names of a checkpoint's tables are not made durable before its manifest.
    CheckpointNamesNotSynced,
    /// The names of a backup's tables are not made durable before its manifest.
    BackupNamesNotSynced,
    /// Tables that were received, for a backup or a restore, are not verified.
    ReceivedUnverified,
    /// A reader does not ask whether the mapping was lost while it read.
    LossNotAsked,
    /// A reader asks, but does not look whether the end of the file is still there.
    LostEndNotSeen,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 25] = [
        Bug::TableNameNotSynced,
        Bug::SegmentNameNotSynced,
        Bug::AcknowledgedBeforeSync,
        Bug::PoisonIgnored,
        Bug::FlushedBeforeLogSynced,
        Bug::ReplayedNotDurable,
        Bug::RecycledRecordAccepted,
        Bug::HoleBelowSyncedSkipped,
        Bug::SequenceReused,
        Bug::TombstoneDropped,
        Bug::SnapshotVersionDropped,
        Bug::ReadTableDeleted,
        Bug::LengthUnchecked,
        Bug::BatchTorn,
        Bug::NodeVersionIgnored,
        Bug::FullDiskPoisons,
        Bug::RefusedNotErased,
        Bug::PageCacheBelieved,
        Bug::LockIgnored,
        Bug::CheckpointTorn,
        Bug::CheckpointNamesNotSynced,
        Bug::BackupNamesNotSynced,
        Bug::ReceivedUnverified,
        Bug::LossNotAsked,
        Bug::LostEndNotSeen,
    ];

    /// Whether this bug is in the program.
    #[cfg(not(feature = "planted-bugs"))]
    #[inline(always)]
    pub const fn is_planted(self) -> bool {
        false
    }

    /// Whether this bug is in the program.
    #[cfg(feature = "planted-bugs")]
    pub fn is_planted(self) -> bool {
        static PLANTED: std::sync::LazyLock<Option<Bug>> =
            std::sync::LazyLock::new(|| {
                let name = std::env::var("TERRACE_PLANTED_BUG").ok()?;
                let bug = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
                Some(bug.unwrap_or_else(|| {
                    panic!("TERRACE_PLANTED_BUG is {name:?}, which is no bug that is known")
                }))
            });
        *PLANTED == Some(self)
    }
}
