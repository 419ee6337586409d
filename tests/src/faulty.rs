//! Databases over a file system in memory that fails on command, and what tests of them need: a limit to their
//! patience, and a file system that forgets what a failed sync has lost.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use terrace::{Db, FileSystem, KeyspaceOptions, Options};
use terrace_io::{CrashPolicy, FaultFileSystem, File, MemoryFileSystem};

use crate::twisted::{Twist, Twisted};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a test that must not hang, for [`PATIENCE`] at most.
///
/// # Panics
///
/// If it does.
pub fn watched<R: Send + 'static>(what: impl Into<String>, run: impl FnOnce() -> R + Send + 'static) -> R {
    let what = what.into();
    let (done, outcome) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let result = run();
        let _ = done.send(result);
    });
    match outcome.recv_timeout(PATIENCE) {
        Ok(result) => {
            thread.join().unwrap();
            result
        }
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(thread.join().unwrap_err()),
    }
}

/// Does what Linux does after a sync that failed: what was not written by then counts as written, so that no later
/// sync makes it durable.
#[derive(Debug, Clone)]
struct Forgetful(MemoryFileSystem);

impl Twist for Forgetful {
    fn sync(&self, file: &dyn File) -> terrace::Result<()> {
        file.sync().inspect_err(|_| {
            // A file that was removed meanwhile has nothing to lose.
            let _ = self.0.lose_unsynced(file.path());
        })
    }
}

/// A database directory under faults.
#[derive(Debug, Clone)]
pub struct Bench {
    /// Where everything lies.
    pub memory: MemoryFileSystem,
    /// What fails.
    pub faults: FaultFileSystem,
    /// The database.
    pub dir: PathBuf,
}

impl Bench {
    /// An empty one, with a name of its own.
    #[expect(clippy::new_without_default, reason = "no two are equal")]
    pub fn new() -> Bench {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let dir = PathBuf::from(format!("/faults-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        Bench::over(MemoryFileSystem::new(), dir)
    }

    /// What a file system in memory holds, without faults.
    pub fn over(memory: MemoryFileSystem, dir: PathBuf) -> Bench {
        let faults = FaultFileSystem::new(Arc::new(memory.clone()));
        Bench { memory, faults, dir }
    }

    /// Everything small, so that a short history goes through everything.
    pub fn options(&self) -> Options {
        Options::new()
            .memtable_bytes(64 << 10)
            .segment_bytes_max(64 << 10)
            .level_base_bytes(64 << 10)
            .l0_trigger(2)
            .compaction_threads(1)
            .keyspace_defaults(KeyspaceOptions::new().table_bytes(64 << 10))
            .file_system(self.file_system())
    }

    /// What it lies on: fails on command, and forgets what a failed sync has lost.
    pub fn file_system(&self) -> Arc<dyn FileSystem> {
        Arc::new(Twisted::new(self.faults.clone(), Forgetful(self.memory.clone())))
    }

    /// Opens it.
    ///
    /// # Panics
    ///
    /// If it does not open.
    pub fn open(&self) -> Db {
        self.options().open(&self.dir).unwrap()
    }

    /// What a crash of the machine leaves, without faults.
    pub fn crashed(&self, policy: CrashPolicy) -> Bench {
        Bench::over(self.memory.crash_clone(policy), self.dir.clone())
    }

    /// What a killed process leaves, without faults.
    pub fn killed(&self) -> Bench {
        Bench::over(self.memory.process_kill_clone(), self.dir.clone())
    }
}
