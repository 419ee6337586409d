//! The service thread: it lets go of what the last reader has left, since that takes time that nobody's hot path should
//! spend: unmapping tables, deleting obsolete files, freeing memtables. It also keeps metadata in memory where that is
//! scarce. Before all that, it has the process made ready for cheap reads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use terrace_io::{FileSystem, prepare_fences};
use terrace_sstable::{Reclaim, TableRemains};

use crate::core::Core;
use crate::memory::MARKS_INTERVAL;
use crate::memtable::Memtable;

/// How often memtables that somebody still reads are looked at again.
const MEMTABLE_INTERVAL: Duration = Duration::from_millis(500);

/// A chore.
pub(crate) enum Task {
    /// Unmap a table, and delete its file if it is obsolete.
    Remains(TableRemains),
    /// Free a memtable once its last reader is gone.
    Memtable(Arc<Memtable>),
    /// Keep metadata of tables in memory.
    PinMetadata,
    /// Say when everything that was queued before is done.
    Report(Sender<()>),
    /// Finish what is queued, and end.
    Stop,
}

/// How chores reach the service thread. Outlives it: what comes too late is done by the caller.
#[derive(Clone)]
pub(crate) struct Service {
    tasks: Sender<Task>,
    fs: Arc<dyn FileSystem>,
}

impl Service {
    pub fn new(fs: Arc<dyn FileSystem>) -> (Service, Receiver<Task>) {
        let (tasks, receiver) = crossbeam_channel::unbounded();
        (Service { tasks, fs }, receiver)
    }

    /// Queues a chore. Never waits.
    pub fn send(&self, task: Task) {
        if let Err(refused) = self.tasks.send(task)
            && let Task::Remains(remains) = refused.into_inner()
        {
            dispose(&*self.fs, remains);
        }
    }

    /// Waits until everything that was queued before is done.
    pub fn finish_queued(&self) {
        let (done, wait) = crossbeam_channel::bounded(1);
        self.send(Task::Report(done));
        // An error says that the thread has ended, and with it the queue.
        let _ = wait.recv();
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Service")
    }
}

impl Reclaim for Service {
    fn reclaim(&self, remains: TableRemains) {
        self.send(Task::Remains(remains));
    }
}

fn dispose(fs: &dyn FileSystem, remains: TableRemains) {
    if let Some(path) = remains.dispose()
        && let Err(error) = fs.remove_file(&path)
        && !error.is_not_found()
    {
        tracing::warn!(%error, "an obsolete table stays until the next open");
    }
}

/// The service thread.
pub(crate) fn run(core: &Core, tasks: &Receiver<Task>) {
    // In this thread: an open and its first reads need not wait for it.
    prepare_fences();
    core.learn_memory();
    let mut memtables: Vec<Arc<Memtable>> = Vec::new();
    let mut judged = Instant::now();
    loop {
        // Those that somebody still reads wait for another time.
        memtables.retain(|memtable| Arc::strong_count(memtable) > 1);
        let is_scarce = core.memory.is_scarce();
        if is_scarce && judged.elapsed() >= MARKS_INTERVAL {
            core.judge_marks();
            judged = Instant::now();
        }
        let task = match memtables.is_empty() && !is_scarce {
            true => tasks.recv().map_err(RecvTimeoutError::from),
            false => tasks.recv_timeout(MEMTABLE_INTERVAL.min(MARKS_INTERVAL)),
        };
        match task {
            Ok(Task::Remains(remains)) => {
                dispose(&*core.fs, remains);
                if core.tables.pins.was_short() {
                    core.pin_metadata();
                }
            }
            Ok(Task::Memtable(memtable)) => memtables.push(memtable),
            Ok(Task::PinMetadata) => core.pin_metadata(),
            // Nobody may be waiting any more.
            Ok(Task::Report(done)) => drop(done.send(())),
            Ok(Task::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    // What comes after the last of these stays until the next open.
    while let Ok(task) = tasks.try_recv() {
        if let Task::Remains(remains) = task {
            dispose(&*core.fs, remains);
        }
    }
}
