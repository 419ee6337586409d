//! A file system that is another one, except for what is twisted about it and its files.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use terrace::Result;
use terrace_io::{Advice, DirectoryLock, File, FileSystem, Medium, OpenMode, Region};

/// What is different. Whatever is not said here is as it was.
pub trait Twist: Debug + Clone + Send + Sync + 'static {
    /// As [`FileSystem::open`] of this file system.
    fn open(&self, fs: &dyn FileSystem, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        fs.open(path, mode)
    }

    /// As [`File::read_at`] of this file.
    fn read_at(&self, file: &dyn File, buf: &mut [u8], offset: u64) -> Result<usize> {
        file.read_at(buf, offset)
    }

    /// As [`File::write_at`] of this file.
    fn write_at(&self, file: &dyn File, buf: &[u8], offset: u64) -> Result<usize> {
        file.write_at(buf, offset)
    }

    /// As [`File::sync`] of this file.
    fn sync(&self, file: &dyn File) -> Result<()> {
        file.sync()
    }

    /// As [`FileSystem::medium`] of this file system.
    fn medium(&self, fs: &dyn FileSystem, path: &Path) -> Result<Medium> {
        fs.medium(path)
    }

    /// As [`File::map`] of this file.
    fn map(&self, file: &dyn File, len: usize) -> Result<Region> {
        file.map(len)
    }
}

/// A twisted file system.
#[derive(Debug)]
pub struct Twisted<T> {
    inner: Arc<dyn FileSystem>,
    twist: T,
}

#[derive(Debug)]
struct TwistedFile<T> {
    inner: Arc<dyn File>,
    twist: T,
}

impl<T: Twist> Twisted<T> {
    /// Over `inner`.
    pub fn new(inner: impl FileSystem, twist: T) -> Self {
        Twisted { inner: Arc::new(inner), twist }
    }
}

impl<T: Twist> FileSystem for Twisted<T> {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.inner.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<String>> {
        self.inner.read_dir(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        let inner = self.twist.open(&*self.inner, path, mode)?;
        Ok(Arc::new(TwistedFile { inner, twist: self.twist.clone() }))
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
        self.twist.medium(&*self.inner, path)
    }
}

impl<T: Twist> File for TwistedFile<T> {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn len(&self) -> Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.twist.read_at(&*self.inner, buf, offset)
    }

    fn read_past_cache_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.inner.read_past_cache_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        self.twist.write_at(&*self.inner, buf, offset)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.inner.set_len(len)
    }

    fn sync(&self) -> Result<()> {
        self.twist.sync(&*self.inner)
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
        self.twist.map(&*self.inner, len)
    }
}
