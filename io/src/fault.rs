//! A file system that fails when it is told to.
//!
//! Wraps any other [`FileSystem`] and every file opened through it. Rules say which calls fail, and how;
//! without rules everything is passed on. Rules, counters and the wrapped file system are shared between
//! clones. Any thread may add rules at any time, also for files that are open.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{
    Advice, DirectoryLock, Error, File, FileSystem, Medium, OpenMode, Operation, Pin, Region, Result,
};

/// What happens to a call that a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// It has no effect and fails with an error of this kind.
    Error(io::ErrorKind),
    /// It has no effect and fails with this `errno`.
    Os(i32),
    /// It takes effect and is reported as failed nevertheless, with an error of this kind.
    ErrorAfterEffect(io::ErrorKind),
    /// A write of more than one byte writes the first half. Other calls are passed on.
    ShortWrite,
    /// A read of more than one byte reads at most half. Other calls are passed on.
    ShortRead,
}

/// Which calls fail, and how.
///
/// ```
/// use std::io::ErrorKind;
/// use terrace_io::{FaultRule, Operation};
/// // The fourth sync of a log fails, and none after it.
/// let rule = FaultRule::on(Operation::Sync).path(".log").skip(3).once();
/// // Every write fails from now on.
/// let rule = FaultRule::on(Operation::Write).error(ErrorKind::StorageFull);
/// ```
#[derive(Debug, Clone)]
pub struct FaultRule {
    /// The kind of call. Every kind if `None`.
    pub operation: Option<Operation>,
    /// A part of the path of the file (of one of the two, in a rename or a link). Every path if `None`.
    pub path_contains: Option<String>,
    /// Calls with a smaller number are let through. All calls are numbered together, whatever their kind and file, from
    /// 0 for the first one since the file system was made.
    pub from_call: u64,
    /// How many matching calls are let through first.
    pub skip: u64,
    /// How many calls fail after that. All of them if `None`.
    pub times: Option<u64>,
    /// What happens to them.
    pub kind: FaultKind,
}

impl FaultRule {
    /// Every call of a kind fails, with an I/O error (`EIO`), until the methods below narrow it down.
    pub fn on(operation: Operation) -> Self {
        FaultRule { operation: Some(operation), ..FaultRule::on_all() }
    }

    /// Every call of every kind fails with an I/O error, as on a device that is gone, until the methods below narrow it
    /// down.
    pub fn on_all() -> Self {
        const EIO: i32 = 5;
        let kind = FaultKind::Os(EIO);
        FaultRule { operation: None, path_contains: None, from_call: 0, skip: 0, times: None, kind }
    }

    /// Only for paths that contain this.
    #[must_use]
    pub fn path(mut self, part: impl Into<String>) -> Self {
        self.path_contains = Some(part.into());
        self
    }

    /// Only calls with this number or a later one: see [`FaultRule::from_call`].
    #[must_use]
    pub fn from_call(mut self, number: u64) -> Self {
        self.from_call = number;
        self
    }

    /// Lets this many matching calls through first.
    #[must_use]
    pub fn skip(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// Fails this many calls, and no more.
    #[must_use]
    pub fn times(mut self, calls: u64) -> Self {
        self.times = Some(calls);
        self
    }

    /// Fails one call.
    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Fails with an error of this kind, without effect.
    #[must_use]
    pub fn error(self, kind: io::ErrorKind) -> Self {
        self.kind(FaultKind::Error(kind))
    }

    /// What happens to the calls.
    #[must_use]
    pub fn kind(mut self, kind: FaultKind) -> Self {
        self.kind = kind;
        self
    }

    fn matches(&self, number: u64, operation: Operation, paths: &[&Path]) -> bool {
        let contains =
            |part: &String| paths.iter().any(|path| path.to_string_lossy().contains(part.as_str()));
        number >= self.from_call
            && self.operation.is_none_or(|wanted| wanted == operation)
            && self.path_contains.as_ref().is_none_or(contains)
    }
}

/// A file system that fails when it is told to. Clones are the same one.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
/// use terrace_io::{FaultFileSystem, FaultRule, FileSystem, MemoryFileSystem, OpenMode, Operation};
/// # fn main() -> terrace_io::Result<()> {
/// let fs = FaultFileSystem::new(Arc::new(MemoryFileSystem::new()));
/// let file = fs.open(Path::new("a"), OpenMode::CreateNew)?;
/// fs.add(FaultRule::on(Operation::Sync).once());
/// assert!(file.sync().is_err());
/// assert!(file.sync().is_ok());
/// assert_eq!((fs.calls(Operation::Sync), fs.injected()), (2, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FaultFileSystem {
    inner: Arc<dyn FileSystem>,
    faults: Arc<Faults>,
}

impl FaultFileSystem {
    /// Wraps a file system, without rules yet.
    pub fn new(inner: Arc<dyn FileSystem>) -> Self {
        FaultFileSystem { inner, faults: Arc::default() }
    }

    /// Adds a rule. A call is decided by the first rule, in the order of their addition, that wants it to fail;
    /// those behind it do not see that call.
    pub fn add(&self, rule: FaultRule) {
        self.faults.state.lock().rules.push(rule);
    }

    /// Removes all rules. The counters go on.
    pub fn clear(&self) {
        self.faults.state.lock().rules.clear();
    }

    /// How many calls of a kind there were, failed ones included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.faults.state.lock().calls.get(&operation).copied().unwrap_or(0)
    }

    /// How many faults were injected.
    pub fn injected(&self) -> u64 {
        self.faults.state.lock().injected
    }

    /// The call that the first fault was injected into, and its file.
    pub fn first_injected(&self) -> Option<(Operation, PathBuf)> {
        self.faults.state.lock().first_injected.clone()
    }

    /// From now on remembers every call, failed ones included, for [`FaultFileSystem::recorded`].
    pub fn record(&self) {
        self.faults.state.lock().recorded.get_or_insert_default();
    }

    /// The calls since [`FaultFileSystem::record`], with their files, in order. If that was asked for before the first
    /// call, their places are their numbers.
    pub fn recorded(&self) -> Vec<(Operation, PathBuf)> {
        self.faults.state.lock().recorded.clone().unwrap_or_default()
    }
}

impl FileSystem for FaultFileSystem {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.faults.around(Operation::CreateDirectory, &[path], || self.inner.create_dir_all(path))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<String>> {
        self.faults.around(Operation::ReadDirectory, &[path], || self.inner.read_dir(path))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        let operation = match mode {
            OpenMode::Read | OpenMode::ReadWrite => Operation::Open,
            OpenMode::CreateNew => Operation::Create,
        };
        let inner = self.faults.around(operation, &[path], || self.inner.open(path, mode))?;
        Ok(Arc::new(FaultFile { inner, faults: Arc::clone(&self.faults) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.faults.around(Operation::Rename, &[from, to], || self.inner.rename(from, to))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<()> {
        self.faults.around(Operation::Link, &[from, to], || self.inner.hard_link(from, to))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.faults.around(Operation::Remove, &[path], || self.inner.remove_file(path))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.faults.around(Operation::SyncDirectory, &[path], || self.inner.sync_dir(path))
    }

    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirectoryLock>> {
        self.faults.around(Operation::Lock, &[path], || self.inner.lock_dir(path))
    }

    fn lock_dir_shared(&self, path: &Path) -> Result<Option<Box<dyn DirectoryLock>>> {
        self.faults.around(Operation::Lock, &[path], || self.inner.lock_dir_shared(path))
    }

    fn medium(&self, path: &Path) -> Result<Medium> {
        self.faults.around(Operation::Metadata, &[path], || self.inner.medium(path))
    }
}

/// A file whose calls go past the rules. What is copied goes through memory, so that they see all of it.
#[derive(Debug)]
struct FaultFile {
    inner: Arc<dyn File>,
    faults: Arc<Faults>,
}

impl FaultFile {
    fn around<T>(&self, operation: Operation, call: impl FnOnce() -> Result<T>) -> Result<T> {
        self.faults.around(operation, &[self.inner.path()], call)
    }
}

impl File for FaultFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn len(&self) -> Result<u64> {
        self.around(Operation::Metadata, || self.inner.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let fault = self.faults.decide(Operation::Read, &[self.path()]);
        let len = if fault == Some(FaultKind::ShortRead) { at_most_half(buf.len()) } else { buf.len() };
        inject(fault, Operation::Read, self.path(), || self.inner.read_at(&mut buf[..len], offset))
    }

    fn read_past_cache_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let fault = self.faults.decide(Operation::Read, &[self.path()]);
        let len = if fault == Some(FaultKind::ShortRead) { at_most_half(buf.len()) } else { buf.len() };
        inject(fault, Operation::Read, self.path(), || self.inner.read_past_cache_at(&mut buf[..len], offset))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        let fault = self.faults.decide(Operation::Write, &[self.path()]);
        let len = if fault == Some(FaultKind::ShortWrite) { at_most_half(buf.len()) } else { buf.len() };
        inject(fault, Operation::Write, self.path(), || self.inner.write_at(&buf[..len], offset))
    }

    fn write_uncached_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        let fault = self.faults.decide(Operation::Write, &[self.path()]);
        let len = if fault == Some(FaultKind::ShortWrite) { at_most_half(buf.len()) } else { buf.len() };
        inject(fault, Operation::Write, self.path(), || self.inner.write_uncached_at(&buf[..len], offset))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.around(Operation::SetLength, || self.inner.set_len(len))
    }

    fn sync(&self) -> Result<()> {
        self.around(Operation::Sync, || self.inner.sync())
    }

    fn start_writeback(&self, offset: u64, len: u64) {
        self.inner.start_writeback(offset, len);
    }

    fn advise(&self, advice: Advice, offset: u64, len: u64) {
        self.inner.advise(advice, offset, len);
    }

    fn is_shared(&self) -> Result<bool> {
        self.around(Operation::Metadata, || self.inner.is_shared())
    }

    fn map(&self, len: usize) -> Result<Region> {
        self.around(Operation::Map, || self.inner.map(len))
    }

    fn pin(&self, region: &Region, range: Range<usize>) -> Result<Pin> {
        self.around(Operation::Map, || self.inner.pin(region, range))
    }
}

/// Half of a length, but enough to get on.
fn at_most_half(len: usize) -> usize {
    (len / 2).max(len.min(1))
}

/// The rules and the counters, shared by the file system and its files.
#[derive(Debug, Default)]
struct Faults {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Their `skip` and `times` count down.
    rules: Vec<FaultRule>,
    calls: HashMap<Operation, u64>,
    /// The number of the next call of any kind.
    next_call: u64,
    injected: u64,
    first_injected: Option<(Operation, PathBuf)>,
    recorded: Option<Vec<(Operation, PathBuf)>>,
}

impl Faults {
    /// Counts a call and says what is to happen to it.
    fn decide(&self, operation: Operation, paths: &[&Path]) -> Option<FaultKind> {
        let mut state = self.state.lock();
        *state.calls.entry(operation).or_default() += 1;
        let number = state.next_call;
        state.next_call += 1;
        if let Some(recorded) = &mut state.recorded {
            recorded.push((operation, paths[0].to_owned()));
        }
        for rule in state.rules.iter_mut().filter(|rule| rule.matches(number, operation, paths)) {
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            match &mut rule.times {
                Some(0) => continue,
                Some(times) => *times -= 1,
                None => {}
            }
            let kind = rule.kind;
            state.injected += 1;
            state.first_injected.get_or_insert_with(|| (operation, paths[0].to_owned()));
            return Some(kind);
        }
        None
    }

    fn around<T>(
        &self,
        operation: Operation,
        paths: &[&Path],
        call: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        inject(self.decide(operation, paths), operation, paths[0], call)
    }
}

/// Makes a call, or does to it what was decided. Made without any lock held.
fn inject<T>(
    fault: Option<FaultKind>,
    operation: Operation,
    path: &Path,
    call: impl FnOnce() -> Result<T>,
) -> Result<T> {
    match fault {
        Some(FaultKind::Error(kind)) => Err(Error::io(path, operation, kind.into())),
        Some(FaultKind::Os(errno)) => Err(Error::io(path, operation, io::Error::from_raw_os_error(errno))),
        Some(FaultKind::ErrorAfterEffect(kind)) => {
            call().and_then(|_| Err(Error::io(path, operation, kind.into())))
        }
        Some(FaultKind::ShortWrite | FaultKind::ShortRead) | None => call(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::MemoryFileSystem;

    fn wrapped() -> (MemoryFileSystem, FaultFileSystem) {
        let memory = MemoryFileSystem::new();
        (memory.clone(), FaultFileSystem::new(Arc::new(memory)))
    }

    #[track_caller]
    fn assert_fails<T>(result: Result<T>, operation: Operation, path: &str) {
        match result {
            Err(Error::Io { path: found, operation: what, source }) => {
                assert_eq!((what, source.raw_os_error()), (operation, Some(5)));
                assert_eq!(found, Path::new(path));
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{operation} did not fail"),
        }
    }

    #[test]
    fn every_kind_of_call_fails_when_told_to_and_has_no_effect() {
        let (memory, fs) = wrapped();
        let path = Path::new("a");
        let file = fs.open(path, OpenMode::CreateNew).unwrap();
        file.write_at(b"before", 0).unwrap();
        let mutations = memory.mutations();
        for operation in [
            Operation::Open,
            Operation::Create,
            Operation::Read,
            Operation::Write,
            Operation::SetLength,
            Operation::Sync,
            Operation::Map,
            Operation::Rename,
            Operation::Link,
            Operation::Remove,
            Operation::Metadata,
            Operation::CreateDirectory,
            Operation::ReadDirectory,
            Operation::SyncDirectory,
            Operation::Lock,
        ] {
            fs.add(FaultRule::on(operation));
        }
        assert_fails(fs.open(path, OpenMode::Read), Operation::Open, "a");
        assert_fails(fs.open(path, OpenMode::ReadWrite), Operation::Open, "a");
        assert_fails(fs.open(Path::new("b"), OpenMode::CreateNew), Operation::Create, "b");
        assert_fails(file.read_at(&mut [0; 9], 0), Operation::Read, "a");
        assert_fails(file.write_at(b"after", 0), Operation::Write, "a");
        assert_fails(file.set_len(1), Operation::SetLength, "a");
        assert_fails(file.sync(), Operation::Sync, "a");
        assert_fails(file.map(1), Operation::Map, "a");
        assert_fails(file.len(), Operation::Metadata, "a");
        assert_fails(fs.rename(path, Path::new("b")), Operation::Rename, "a");
        assert_fails(fs.hard_link(path, Path::new("b")), Operation::Link, "a");
        assert_fails(fs.remove_file(path), Operation::Remove, "a");
        assert_fails(fs.create_dir_all(Path::new("d")), Operation::CreateDirectory, "d");
        assert_fails(fs.read_dir(Path::new("")), Operation::ReadDirectory, "");
        assert_fails(fs.sync_dir(Path::new("")), Operation::SyncDirectory, "");
        assert_fails(fs.lock_dir(Path::new("")), Operation::Lock, "");
        assert_fails(fs.medium(Path::new("")), Operation::Metadata, "");
        assert_eq!(fs.injected(), 17);
        assert_eq!(memory.mutations(), mutations);
        assert_eq!(memory.file_bytes(path).unwrap(), b"before");

        fs.clear();
        assert_eq!(file.len().unwrap(), 6);
        file.sync().unwrap();
        assert_eq!((fs.injected(), fs.calls(Operation::Sync)), (17, 2));
    }

    #[test]
    fn skip_times_and_path_choose_the_calls() {
        let (_, fs) = wrapped();
        let log = fs.open(Path::new("000001.log"), OpenMode::CreateNew).unwrap();
        let table = fs.open(Path::new("000002.sst"), OpenMode::CreateNew).unwrap();
        fs.add(FaultRule::on(Operation::Sync).path(".log").skip(2).times(2));
        let mut failed = Vec::new();
        for call in 0..6 {
            table.sync().unwrap();
            if log.sync().is_err() {
                failed.push(call);
            }
        }
        assert_eq!(failed, [2, 3]);
        assert_eq!((fs.calls(Operation::Sync), fs.injected()), (12, 2));
    }

    #[test]
    fn calls_of_all_kinds_are_numbered_together() {
        let (_, fs) = wrapped();
        fs.record();
        fs.add(FaultRule::on(Operation::Sync).from_call(3).once());
        fs.add(FaultRule::on_all().from_call(5));
        let file = fs.open(Path::new("a"), OpenMode::CreateNew).unwrap();
        file.sync().unwrap();
        file.write_at(b"before", 0).unwrap();
        file.write_at(b"after", 6).unwrap();
        assert_fails(file.sync(), Operation::Sync, "a");
        assert_fails(file.len(), Operation::Metadata, "a");
        assert_fails(fs.sync_dir(Path::new("")), Operation::SyncDirectory, "");
        let calls = fs.recorded().into_iter().map(|(operation, _)| operation);
        let expected = [
            Operation::Create,
            Operation::Sync,
            Operation::Write,
            Operation::Write,
            Operation::Sync,
            Operation::Metadata,
            Operation::SyncDirectory,
        ];
        assert!(calls.eq(expected));
        assert_eq!(fs.first_injected(), Some((Operation::Sync, PathBuf::from("a"))));
    }

    #[test]
    fn a_rename_is_matched_by_either_name() {
        for part in ["from", "to"] {
            let (memory, fs) = wrapped();
            fs.open(Path::new("from"), OpenMode::CreateNew).unwrap();
            fs.add(FaultRule::on(Operation::Rename).path(part).error(ErrorKind::StorageFull).once());
            assert!(fs.rename(Path::new("from"), Path::new("to")).unwrap_err().is_disk_full());
            assert_eq!(memory.read_dir(Path::new("")).unwrap(), ["from"]);
            fs.rename(Path::new("from"), Path::new("to")).unwrap();
        }
    }

    #[test]
    fn the_first_rule_decides_and_the_next_does_not_see_the_call() {
        let (_, fs) = wrapped();
        let file = fs.open(Path::new("a"), OpenMode::CreateNew).unwrap();
        fs.add(FaultRule::on(Operation::Sync).error(ErrorKind::StorageFull).once());
        fs.add(FaultRule::on(Operation::Sync).once());
        assert!(file.sync().unwrap_err().is_disk_full());
        assert_fails(file.sync(), Operation::Sync, "a");
        file.sync().unwrap();
    }

    #[test]
    fn short_calls_do_half_and_never_nothing() {
        let (memory, fs) = wrapped();
        let file = fs.open(Path::new("a"), OpenMode::CreateNew).unwrap();
        fs.add(FaultRule::on(Operation::Write).kind(FaultKind::ShortWrite));
        fs.add(FaultRule::on(Operation::Read).kind(FaultKind::ShortRead));
        assert_eq!(file.write_at(b"terrace", 0).unwrap(), 3);
        assert_eq!(memory.file_bytes(Path::new("a")).unwrap(), b"ter");
        assert_eq!(file.write_at(b"r", 3).unwrap(), 1);
        assert_eq!(file.write_at(b"", 3).unwrap(), 0);
        let mut buf = [0; 4];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 2);
        assert_eq!(&buf, b"te\0\0");
        crate::read_exact_at(&*file, &mut buf, 0).unwrap();
        assert_eq!(&buf, b"terr");
        crate::write_all_at(&*file, b"ace", 4).unwrap();
        assert_eq!(memory.file_bytes(Path::new("a")).unwrap(), b"terrace");
    }

    #[test]
    fn an_error_after_the_effect_has_the_effect() {
        let (memory, fs) = wrapped();
        fs.open(Path::new("a"), OpenMode::CreateNew).unwrap();
        fs.add(FaultRule::on(Operation::Rename).kind(FaultKind::ErrorAfterEffect(ErrorKind::TimedOut)));
        fs.rename(Path::new("a"), Path::new("b")).unwrap_err();
        assert_eq!(memory.read_dir(Path::new("")).unwrap(), ["b"]);
        assert!(fs.rename(Path::new("a"), Path::new("b")).unwrap_err().is_not_found());
    }
}
