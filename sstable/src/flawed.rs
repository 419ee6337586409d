//! A file system with flaws in known places, for tests: bytes that only the page cache has wrong, and bytes that cannot
//! be read.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use terrace_io::{
    Advice, DirectoryLock, Error, File, FileSystem, Medium, OpenMode, Operation, Region, Result,
};

/// The number of a byte of every file; none at first.
#[derive(Debug)]
pub(crate) struct Place(AtomicUsize);

impl Default for Place {
    fn default() -> Place {
        Place(AtomicUsize::new(usize::MAX))
    }
}

impl Place {
    pub(crate) fn set(&self, at: u64) {
        self.0.store(at as usize, Ordering::Relaxed);
    }

    /// Where it is among `len` bytes from `offset` on, if it is.
    fn within(&self, len: usize, offset: u64) -> Option<usize> {
        self.0.load(Ordering::Relaxed).checked_sub(offset as usize).filter(|at| *at < len)
    }
}

/// What is wrong with the files.
#[derive(Debug, Default)]
pub(crate) struct Flaws {
    /// The page cache has one bit of it wrong.
    pub(crate) spoiled: Place,
    /// It cannot be read through the page cache.
    pub(crate) stuck: Place,
    /// It cannot be read past the page cache.
    pub(crate) unreadable: Place,
}

impl Flaws {
    /// A place that cannot be read in any way.
    pub(crate) fn lose(&self, at: u64) {
        self.stuck.set(at);
        self.unreadable.set(at);
    }
}

/// A file system with flaws.
#[derive(Debug)]
pub(crate) struct Flawed {
    pub(crate) inner: Arc<dyn FileSystem>,
    pub(crate) flaws: Arc<Flaws>,
}

#[derive(Debug)]
struct FlawedFile {
    inner: Arc<dyn File>,
    flaws: Arc<Flaws>,
}

impl FlawedFile {
    fn spoil(&self, bytes: &mut [u8], offset: u64) {
        if let Some(at) = self.flaws.spoiled.within(bytes.len(), offset) {
            bytes[at] ^= 0x10;
        }
    }

    fn check(&self, place: &Place, len: usize, offset: u64) -> Result<()> {
        match place.within(len, offset) {
            Some(_) => Err(Error::io(self.path(), Operation::Read, ErrorKind::Other.into())),
            None => Ok(()),
        }
    }
}

impl FileSystem for Flawed {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.inner.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> Result<Vec<String>> {
        self.inner.read_dir(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        let inner = self.inner.open(path, mode)?;
        Ok(Arc::new(FlawedFile { inner, flaws: Arc::clone(&self.flaws) }))
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.rename(from, to)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.hard_link(from, to)
    }
    fn remove_file(&self, path: &Path) -> Result<()> {
        self.inner.remove_file(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.inner.sync_dir(path)
    }
    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirectoryLock>> {
        self.inner.lock_dir(path)
    }
    fn lock_dir_shared(&self, path: &Path) -> Result<Option<Box<dyn DirectoryLock>>> {
        self.inner.lock_dir_shared(path)
    }
    fn medium(&self, path: &Path) -> Result<Medium> {
        self.inner.medium(path)
    }
}

impl File for FlawedFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }
    fn len(&self) -> Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.check(&self.flaws.stuck, buf.len(), offset)?;
        let read = self.inner.read_at(buf, offset)?;
        self.spoil(&mut buf[..read], offset);
        Ok(read)
    }
    fn read_past_cache_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.check(&self.flaws.unreadable, buf.len(), offset)?;
        self.inner.read_past_cache_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        self.inner.write_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.inner.set_len(len)
    }
    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }
    fn start_writeback(&self, offset: u64, len: u64) {
        self.inner.start_writeback(offset, len);
    }
    fn advise(&self, advice: Advice, offset: u64, len: u64) {
        self.inner.advise(advice, offset, len);
    }
    fn is_shared(&self) -> Result<bool> {
        self.inner.is_shared()
    }
    fn map(&self, len: usize) -> Result<Region> {
        let mut bytes = self.inner.map(len)?.to_vec();
        self.spoil(&mut bytes, 0);
        Ok(Region::from_vec(bytes))
    }
}
