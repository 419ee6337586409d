//! For unit tests: a file in memory that keeps a record of what is asked of it, hints included.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Advice, DirectoryLock, File, FileSystem, Medium, MemoryFileSystem, OpenMode, Region, Result};

/// One call, with offset and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Read(u64, usize),
    Write(u64, usize),
    WriteUncached(u64, usize),
    SetLen(u64),
    Sync,
    StartWriteback(u64, u64),
    Advise(Advice, u64, u64),
}

/// A file system in memory whose files record the calls to them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder {
    pub(crate) memory: MemoryFileSystem,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Recorder {
    /// The calls since this was asked last.
    pub(crate) fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock())
    }
}

impl FileSystem for Recorder {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.memory.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<String>> {
        self.memory.read_dir(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        let inner = self.memory.open(path, mode)?;
        Ok(Arc::new(RecordedFile { inner, calls: Arc::clone(&self.calls) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.memory.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<()> {
        self.memory.hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.memory.remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.memory.sync_dir(path)
    }

    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirectoryLock>> {
        self.memory.lock_dir(path)
    }

    fn lock_dir_shared(&self, path: &Path) -> Result<Option<Box<dyn DirectoryLock>>> {
        self.memory.lock_dir_shared(path)
    }

    fn medium(&self, path: &Path) -> Result<Medium> {
        self.memory.medium(path)
    }
}

#[derive(Debug)]
struct RecordedFile {
    inner: Arc<dyn File>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl RecordedFile {
    fn record(&self, call: Call) {
        self.calls.lock().push(call);
    }
}

impl File for RecordedFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn len(&self) -> Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.record(Call::Read(offset, buf.len()));
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        self.record(Call::Write(offset, buf.len()));
        self.inner.write_at(buf, offset)
    }

    fn write_uncached_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        self.record(Call::WriteUncached(offset, buf.len()));
        self.inner.write_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.record(Call::SetLen(len));
        self.inner.set_len(len)
    }

    fn sync(&self) -> Result<()> {
        self.record(Call::Sync);
        self.inner.sync()
    }

    fn start_writeback(&self, offset: u64, len: u64) {
        self.record(Call::StartWriteback(offset, len));
    }

    fn advise(&self, advice: Advice, offset: u64, len: u64) {
        self.record(Call::Advise(advice, offset, len));
    }

    fn is_shared(&self) -> Result<bool> {
        self.inner.is_shared()
    }

    fn map(&self, len: usize) -> Result<Region> {
        self.inner.map(len)
    }
}
