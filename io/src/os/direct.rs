//! Reads past the page cache (`O_DIRECT`), for the scrub and for a second look at bytes that are wrong.
//!
//! The kernel wants offset, length and memory aligned to the device's blocks; a page serves for all devices. So whole
//! pages are read into a buffer of this module's own and copied from there. Not every file system can do this (tmpfs
//! could not for long, some network file systems cannot): then nothing is read, and the caller has another way.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::uninterrupted;
use crate::PAGE_BYTES;

/// Bytes that are read at once, at most.
const PIECE_BYTES: usize = 1 << 20;

/// A descriptor of a file of its own, opened for direct reads, if the file system gives one.
#[derive(Debug)]
pub(super) struct DirectFile {
    file: Option<fs::File>,
    /// Set once the file system has refused a read.
    refused: AtomicBool,
}

impl DirectFile {
    /// Opens `file` once more. By its descriptor, since its name may be gone.
    pub(super) fn of(file: &fs::File) -> DirectFile {
        DirectFile { file: open(file).ok(), refused: AtomicBool::new(false) }
    }

    /// Reads up to `buf.len()` bytes at `offset`. `None` if that cannot be done here.
    pub(super) fn read_at(&self, buf: &mut [u8], offset: u64) -> Option<io::Result<usize>> {
        let file = self.file.as_ref().filter(|_| !self.refused.load(Ordering::Relaxed))?;
        if buf.is_empty() {
            return Some(Ok(0));
        }
        let page = PAGE_BYTES as u64;
        let start = offset / page * page;
        let lead = (offset - start) as usize;
        let wanted = buf.len().min(PIECE_BYTES - PAGE_BYTES);
        let len = (lead + wanted).next_multiple_of(PAGE_BYTES);
        let mut memory = vec![0u8; len + PAGE_BYTES];
        let skip = memory.as_ptr().align_offset(PAGE_BYTES);
        let pages = memory.get_mut(skip..skip.checked_add(len)?)?;
        match uninterrupted(|| file.read_at(pages, start)) {
            // What is short of `offset` says nothing about it: `pread` will.
            Ok(read) if read > 0 && read <= lead => None,
            Ok(read) => {
                let got = read.saturating_sub(lead).min(wanted);
                buf[..got].copy_from_slice(&pages[lead..lead + got]);
                Some(Ok(got))
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) =>
            {
                self.refused.store(true, Ordering::Relaxed);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(target_os = "linux")]
fn open(file: &fs::File) -> io::Result<fs::File> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    let direct = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let (this, that) = (file.metadata()?, direct.metadata()?);
    match (this.dev(), this.ino()) == (that.dev(), that.ino()) {
        true => Ok(direct),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Without a way to open a descriptor's file once more.
#[cfg(not(target_os = "linux"))]
fn open(_file: &fs::File) -> io::Result<fs::File> {
    Err(io::ErrorKind::Unsupported.into())
}
