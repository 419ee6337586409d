//! A file system in memory that knows what a crash may take.
//!
//! It keeps apart what was written and what was synced, for the bytes of files and for the entries of
//! directories, so that at any moment a copy can be made of what a crash right then could leave behind:
//!
//! - the bytes and the length of a file are durable after [`File::sync`](crate::File::sync) on any handle of it;
//! - creations, links, renames and removals are durable after
//!   [`FileSystem::sync_dir`](crate::FileSystem::sync_dir). A synced file whose entry was not synced is lost with its entry; a removed one may come back; and a rename that was not
//!   synced leaves the file under its old name or its new one, never under both or none;
//! - directories are durable when created.
//!
//! `contents.rs` has the first rule, `entries.rs` the second, `handle.rs` the open file; here is what users of
//! the file system see. Files cost twice their bytes, and what was written since the last sync once more; a
//! copy costs what is changed in it or the original afterwards. All of it may be used from any thread. A crash
//! copy is taken at one moment, between two calls.

mod contents;
mod entries;
mod handle;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::{DirectoryLock, Error, File, FileSystem, Medium, OpenMode, Operation, Result};
use contents::Contents;
use entries::{Entries, Inode};
use handle::MemoryFile;

/// The file whose existence shows that a directory was locked once.
const LOCK_FILE_NAME: &str = "LOCK";

/// What a crash leaves of that which was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPolicy {
    /// Nothing: files are as of their last sync, directories too.
    DropUnsynced,
    /// Everything.
    KeepAll,
    /// The bytes of files, all of them, but no changes of names: a file that is new is lost with all that it holds.
    DropEntries,
    /// The changes of names, all of them, but no bytes: a file that is new has its name and is empty.
    DropBytes,
    /// Some of it. Each sector of 512 bytes of a file is as it was after any one of the writes to it since the
    /// sync; the length is any that the file had or grew through since. Of the changes to each name any first
    /// part survived. Names are lost independently of bytes.
    Torn {
        /// Decides what survives: the same seed on the same history gives the same result.
        seed: u64,
    },
}

/// An operation that is about to change something.
#[derive(Debug, Clone, Copy)]
pub struct Mutation<'a> {
    /// How many there were before it since the file system was made.
    pub index: u64,
    /// What it does.
    pub operation: Operation,
    /// The file or directory that it changes: of a rename or a link the file under its old name.
    pub path: &'a Path,
    /// The new name of a file that is renamed or linked.
    pub to: Option<&'a Path>,
}

/// Called before each mutation.
type Hook = Arc<dyn Fn(&Mutation<'_>) + Send + Sync>;

/// A file system in memory that knows what a crash may take. Clones are the same file system.
///
/// ```
/// use std::path::Path;
/// use terrace_io::{CrashPolicy, FileSystem, MemoryFileSystem, OpenMode};
/// # fn main() -> terrace_io::Result<()> {
/// let fs = MemoryFileSystem::new();
/// let directory = Path::new("database");
/// fs.create_dir_all(directory)?;
/// let file = fs.open(&directory.join("a"), OpenMode::CreateNew)?;
/// file.write_at(b"synced", 0)?;
/// file.sync()?;
/// assert!(fs.crash_clone(CrashPolicy::DropUnsynced).read_dir(directory)?.is_empty());
/// fs.sync_dir(directory)?;
/// file.write_at(b", written", 6)?;
/// let crashed = fs.crash_clone(CrashPolicy::DropUnsynced);
/// assert_eq!(crashed.file_bytes(&directory.join("a"))?, b"synced");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryFileSystem {
    shared: Arc<Shared>,
}

/// What all clones and all open files share.
#[derive(Default)]
struct Shared {
    /// Taken for reading while a file's contents are used, for writing while entries change or a copy is made.
    /// Taken before the lock of any contents, never while one is held.
    state: RwLock<State>,
    /// Who has a directory locked: readers, or `None` for the one that writes.
    locked: Mutex<BTreeMap<PathBuf, Option<usize>>>,
    hook: RwLock<Option<Hook>>,
    mutations: AtomicU64,
}

#[derive(Default)]
struct State {
    entries: Entries,
    capacity: Option<u64>,
}

impl State {
    /// How many more bytes files may have.
    fn room(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.entries.total_bytes()))
    }
}

impl Shared {
    /// Counts a mutation that is about to be made and lets the hook see the state before it. No lock is held,
    /// so that the hook may copy the file system.
    fn before_mutation(&self, operation: Operation, path: &Path, to: Option<&Path>) {
        let index = self.mutations.fetch_add(1, Ordering::SeqCst);
        let hook = self.hook.read().clone();
        if let Some(hook) = hook {
            hook(&Mutation { index, operation, path, to });
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("mutations", &self.mutations).finish_non_exhaustive()
    }
}

impl MemoryFileSystem {
    /// An empty file system. The directories `""` and `/` exist.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(state: State) -> Self {
        MemoryFileSystem { shared: Arc::new(Shared { state: RwLock::new(state), ..Shared::default() }) }
    }

    /// A new file system as it could be found after a crash of the machine now. Everything in it is durable; locks
    /// and open files are gone, the hook too; the capacity is the same.
    pub fn crash_clone(&self, policy: CrashPolicy) -> MemoryFileSystem {
        let state = self.shared.state.write();
        MemoryFileSystem::with(State { entries: state.entries.after_crash(policy), capacity: state.capacity })
    }

    /// A new file system as the process would leave it if it were killed now: everything written is there, but what
    /// was not synced is still not durable. Locks and open files are gone, the hook too; the capacity is the same.
    pub fn process_kill_clone(&self) -> MemoryFileSystem {
        let state = self.shared.state.write();
        MemoryFileSystem::with(State { entries: state.entries.copy(), capacity: state.capacity })
    }

    /// From now on calls `hook` before every operation that changes something (create, write, set length, sync, link,
    /// rename, remove, sync directory), whether it will succeed or not. The hook may make copies of this file system;
    /// if it changes it, it is called for that too.
    pub fn set_hook(&self, hook: impl Fn(&Mutation<'_>) + Send + Sync + 'static) {
        *self.shared.hook.write() = Some(Arc::new(hook));
    }

    /// From now on calls no hook. One that was called before may still run.
    pub fn remove_hook(&self) {
        *self.shared.hook.write() = None;
    }

    /// How many operations that change something there were so far: the index of the next one.
    pub fn mutations(&self) -> u64 {
        self.shared.mutations.load(Ordering::SeqCst)
    }

    /// The bytes of a file, as a reader would find them now.
    pub fn file_bytes(&self, path: &Path) -> Result<Vec<u8>> {
        let state = self.shared.state.read();
        let inode = state.entries.file(&normal(path)).map_err(|kind| failed(path, Operation::Read, kind))?;
        let contents = inode.contents.read();
        Ok(contents.current().to_vec())
    }

    /// A hash of all names, of the bytes that are found under them, and of which of both are durable. Equal for equal
    /// file systems; of two that differ it is different, except once in 2^64 times. In between lies what a torn crash
    /// would mix; of that nothing is in it. Bytes are hashed once, however many copies share them.
    pub fn fingerprint(&self) -> u64 {
        // No file may change while it is looked at.
        self.shared.state.write().entries.fingerprint()
    }

    /// Puts other bytes in the place of those of a file, as a fault of the device might: durable at once, and
    /// not counted as a mutation.
    pub fn replace_bytes(&self, path: &Path, bytes: Vec<u8>) -> Result<()> {
        let state = self.shared.state.read();
        let inode = state.entries.file(&normal(path)).map_err(|kind| failed(path, Operation::Write, kind))?;
        *inode.contents.write() = Contents::durable(Arc::new(bytes.into()));
        Ok(())
    }

    /// What a failed sync does on Linux: everything not synced in the file is still read, but counts as written
    /// back, so that no later sync makes it durable. For use with a fault that lets the sync fail; not counted
    /// as a mutation.
    pub fn lose_unsynced(&self, path: &Path) -> Result<()> {
        let state = self.shared.state.read();
        let inode = state.entries.file(&normal(path)).map_err(|kind| failed(path, Operation::Sync, kind))?;
        inode.contents.write().lose_pending();
        Ok(())
    }

    /// The lengths of all files that have a name, added up, each counted once however many names it has.
    pub fn total_bytes(&self) -> u64 {
        self.shared.state.read().entries.total_bytes()
    }

    /// Limits [`MemoryFileSystem::total_bytes`]: what would go beyond is refused as by a full disk
    /// ([`Error::is_disk_full`]), and of a write that fits in part, that part is written.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.state.write().capacity = bytes;
    }
}

impl FileSystem for MemoryFileSystem {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        let directory = normal(path);
        if !self.shared.state.read().entries.is_directory(&directory) {
            self.shared.before_mutation(Operation::CreateDirectory, path, None);
        }
        let created = self.shared.state.write().entries.create_directories(&directory);
        created.map_err(|kind| failed(path, Operation::CreateDirectory, kind))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<String>> {
        let names = self.shared.state.read().entries.names(&normal(path));
        names.map_err(|kind| failed(path, Operation::ReadDirectory, kind))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        let name = normal(path);
        let inode = match mode {
            OpenMode::Read | OpenMode::ReadWrite => {
                let found = self.shared.state.read().entries.file(&name).cloned();
                found.map_err(|kind| failed(path, Operation::Open, kind))?
            }
            OpenMode::CreateNew => {
                self.shared.before_mutation(Operation::Create, path, None);
                let created = self.shared.state.write().entries.create(name);
                created.map_err(|kind| failed(path, Operation::Create, kind))?
            }
        };
        let is_writable = mode != OpenMode::Read;
        Ok(Arc::new(MemoryFile::new(path.to_owned(), inode, Arc::clone(&self.shared), is_writable)))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.shared.before_mutation(Operation::Rename, from, Some(to));
        let renamed = self.shared.state.write().entries.rename(normal(from), normal(to));
        renamed.map_err(|kind| failed(from, Operation::Rename, kind))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<()> {
        self.shared.before_mutation(Operation::Link, from, Some(to));
        let linked = self.shared.state.write().entries.link(&normal(from), normal(to));
        linked.map_err(|kind| failed(from, Operation::Link, kind))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.shared.before_mutation(Operation::Remove, path, None);
        let removed = self.shared.state.write().entries.remove(normal(path));
        removed.map_err(|kind| failed(path, Operation::Remove, kind))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.shared.before_mutation(Operation::SyncDirectory, path, None);
        let synced = self.shared.state.write().entries.sync_directory(&normal(path));
        synced.map_err(|kind| failed(path, Operation::SyncDirectory, kind))
    }

    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirectoryLock>> {
        let directory = normal(path);
        let lock_file = directory.join(LOCK_FILE_NAME);
        let exists = self.shared.state.read().entries.file(&lock_file).is_ok();
        if !exists {
            self.shared.before_mutation(Operation::Create, &lock_file, None);
            match self.shared.state.write().entries.create(lock_file) {
                Ok(_) | Err(ErrorKind::AlreadyExists) => {}
                Err(kind) => return Err(failed(path, Operation::Lock, kind)),
            }
        }
        let mut locked = self.shared.locked.lock();
        if locked.contains_key(&directory) {
            let holder = format!("process {}", std::process::id());
            return Err(Error::Locked { path: path.to_owned(), holder });
        }
        locked.insert(directory.clone(), None);
        drop(locked);
        Ok(Box::new(MemoryLock { directory, shared: Arc::clone(&self.shared) }))
    }

    fn lock_dir_shared(&self, path: &Path) -> Result<Option<Box<dyn DirectoryLock>>> {
        let directory = normal(path);
        if self.shared.state.read().entries.file(&directory.join(LOCK_FILE_NAME)).is_err() {
            return Ok(None);
        }
        match self.shared.locked.lock().entry(directory.clone()).or_insert(Some(0)) {
            Some(readers) => *readers += 1,
            None => {
                let holder = format!("process {}", std::process::id());
                return Err(Error::Locked { path: path.to_owned(), holder });
            }
        }
        Ok(Some(Box::new(MemoryLock { directory, shared: Arc::clone(&self.shared) })))
    }

    fn medium(&self, path: &Path) -> Result<Medium> {
        let state = self.shared.state.read();
        let name = normal(path);
        if state.entries.is_directory(&name) {
            return Ok(Medium::Local);
        }
        let found = state.entries.file(&name).map(|_| Medium::Local);
        found.map_err(|kind| failed(path, Operation::Metadata, kind))
    }
}

/// Gives up the lock when dropped.
#[derive(Debug)]
struct MemoryLock {
    directory: PathBuf,
    shared: Arc<Shared>,
}

impl DirectoryLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut locked = self.shared.locked.lock();
        match locked.get_mut(&self.directory) {
            Some(Some(readers)) if *readers > 1 => *readers -= 1,
            _ => drop(locked.remove(&self.directory)),
        }
    }
}

fn failed(path: &Path, operation: Operation, kind: ErrorKind) -> Error {
    Error::io(path, operation, io::Error::from(kind))
}

/// A path without the parts that say nothing, so that different spellings name the same file.
fn normal(path: &Path) -> PathBuf {
    path.components().filter(|component| *component != Component::CurDir).collect()
}

/// The random numbers of a crash (SplitMix64): small, and the same on every machine.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `last`.
    fn up_to(&mut self, last: usize) -> usize {
        (self.next() % (last as u64 + 1)) as usize
    }

    /// How likely each thing is to survive, in eighths. Extremes are as likely as the middle: with fair coins
    /// alone, a crash that loses one sector of a thousand, or all but one, would never be seen.
    fn survival(&mut self) -> usize {
        [0, 1, 4, 7, 8][self.up_to(4)]
    }

    /// Whether something survives whose chances are so many eighths.
    fn survives(&mut self, eighths: usize) -> bool {
        self.up_to(7) < eighths
    }
}

#[cfg(test)]
mod tests;
