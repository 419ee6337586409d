//! The thread that keeps the log ready: it makes segments ahead of need, flushes keyspaces that pin too much of the
//! log, and syncs at intervals. It does nothing slow besides, for a writer may be about to need the segment.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::core::Core;

/// A chore of this thread.
pub(crate) enum LogTask {
    /// Make the next segment.
    PrepareSegment,
    /// End.
    Stop,
}

/// How chores reach the thread.
pub(crate) struct LogKeeper {
    tasks: Sender<LogTask>,
}

impl LogKeeper {
    pub fn new() -> (LogKeeper, Receiver<LogTask>) {
        let (tasks, receiver) = crossbeam_channel::unbounded();
        (LogKeeper { tasks }, receiver)
    }

    /// Queues a chore. Never waits.
    pub fn send(&self, task: LogTask) {
        // An error says that the thread has ended: then the writer makes its segment itself.
        let _ = self.tasks.send(task);
    }
}

/// The thread.
pub(crate) fn run(core: &Core, tasks: &Receiver<LogTask>) {
    // None is later than the clock counts.
    let after = |interval: Duration| Instant::now().checked_add(interval);
    let interval = core.options.sync_interval;
    let mut next_sync = interval.and_then(after);
    loop {
        let task = match next_sync {
            Some(at) => tasks.recv_deadline(at),
            None => tasks.recv().map_err(RecvTimeoutError::from),
        };
        match task {
            Ok(LogTask::PrepareSegment) => prepare_segment(core),
            Ok(LogTask::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if next_sync.is_some_and(|at| at <= Instant::now()) {
            // After a failure there is nothing to sync any more; it shows as poison.
            next_sync = match core.sync() {
                Ok(()) => interval.and_then(after),
                Err(_) => None,
            };
        }
    }
}

fn prepare_segment(core: &Core) {
    if let Err(error) = core.log.prepare() {
        // The writer that needs it will try again, and tell its caller.
        tracing::warn!(%error, "no log segment could be made ahead of need");
    }
    core.flush_oldest_log();
}
