//! An open file of the file system in memory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Inode, Shared, failed};
use crate::{Advice, File, Operation, Region, Result};

/// An open file. It keeps its inode alive, with or without a name.
#[derive(Debug)]
pub(super) struct MemoryFile {
    path: PathBuf,
    inode: Arc<Inode>,
    shared: Arc<Shared>,
    is_writable: bool,
}

impl MemoryFile {
    pub(super) fn new(path: PathBuf, inode: Arc<Inode>, shared: Arc<Shared>, is_writable: bool) -> Self {
        MemoryFile { path, inode, shared, is_writable }
    }

    /// Changes the contents, given how many bytes the file may grow by. Where the room is limited, nobody else may
    /// change anything at the same time.
    fn change<T>(
        &self,
        operation: Operation,
        change: impl FnOnce(&Inode, u64) -> Result<T, ErrorKind>,
    ) -> Result<T> {
        if !self.is_writable {
            return Err(failed(&self.path, operation, ErrorKind::PermissionDenied));
        }
        self.shared.before_mutation(operation, &self.path, None);
        let state = self.shared.state.read();
        let changed = if state.capacity.is_none() {
            change(&self.inode, u64::MAX)
        } else {
            drop(state);
            let state = self.shared.state.write();
            let room = state.room();
            change(&self.inode, room)
        };
        changed.map_err(|kind| failed(&self.path, operation, kind))
    }
}

impl File for MemoryFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64> {
        let _state = self.shared.state.read();
        Ok(self.inode.contents.read().len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let _state = self.shared.state.read();
        let contents = self.inode.contents.read();
        let bytes = usize::try_from(offset).ok().and_then(|offset| contents.current().get(offset..));
        let bytes = bytes.unwrap_or_default();
        let len = bytes.len().min(buf.len());
        buf[..len].copy_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        self.change(Operation::Write, |inode, room| inode.contents.write().write(buf, offset, room))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change(Operation::SetLength, |inode, room| inode.contents.write().set_len(len, room))
    }

    fn sync(&self) -> Result<()> {
        self.shared.before_mutation(Operation::Sync, &self.path, None);
        let _state = self.shared.state.read();
        self.inode.contents.write().sync();
        Ok(())
    }

    /// Nothing becomes durable by it, as nothing is promised.
    fn start_writeback(&self, _offset: u64, _len: u64) {}

    fn advise(&self, _advice: Advice, _offset: u64, _len: u64) {}

    fn is_shared(&self) -> Result<bool> {
        Ok(false)
    }

    fn map(&self, len: usize) -> Result<Region> {
        let _state = self.shared.state.read();
        let contents = self.inode.contents.read();
        match contents.current().get(..len) {
            Some(bytes) => Ok(Region::from_vec(bytes.to_vec())),
            None => Err(failed(&self.path, Operation::Map, ErrorKind::InvalidInput)),
        }
    }
}
