//! The end of a log file, where records are written, and what a failed write may have left behind it.

use std::sync::Arc;

use terrace_io::{LogFile, PAGE_BYTES, Result};

/// Zeros are written in pieces of this size: larger ones would leave large folios in the page cache, through which
/// every small write afterwards would have to walk.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// The place where the next record goes.
///
/// A write that fails may have left any part of its bytes in the file, even all of them. They stay invisible: what is
/// written next goes to the same place, and covers all that the failed one may have reached, with zeros where it is
/// shorter. Otherwise a record of which the caller was told that it failed could follow one that succeeded.
#[derive(Debug)]
pub(crate) struct Tail {
    file: Arc<LogFile>,
    /// Where the next record goes.
    end: u64,
    /// How far failed writes may have reached; nothing has, if this is not beyond `end`.
    failed_end: u64,
}

impl Tail {
    pub(crate) fn new(file: LogFile, end: u64) -> Tail {
        Tail { file: Arc::new(file), end, failed_end: 0 }
    }

    pub(crate) fn file(&self) -> &Arc<LogFile> {
        &self.file
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Writes `bytes` at the end and moves the end behind them. After an error it has not moved.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.end + bytes.len() as u64;
        if self.failed_end > end {
            // Behind the new end first: a record that stands there must be gone before one leads up to it.
            self.write_zeros(end, self.failed_end)?;
            self.failed_end = end;
        }
        if let Err(error) = self.write_whole_pages(bytes) {
            self.failed_end = end;
            return Err(error);
        }
        self.end = end;
        Ok(())
    }

    /// Writes `bytes` at the end, and zeros behind them to the end of a page that is written to for the first time.
    ///
    /// The kernel may have dropped a page that was filled long ago from its cache, and would read it from the disk
    /// before it could change a part of it: a wait of milliseconds in the middle of a small write. A page that is
    /// written as a whole needs no reading, and then stays, for it is dirty.
    fn write_whole_pages(&self, bytes: &[u8]) -> Result<()> {
        const PAGE: u64 = PAGE_BYTES as u64;
        let end = self.end + bytes.len() as u64;
        let last_page = end / PAGE * PAGE;
        let is_begun = last_page < self.end;
        if is_begun || end == last_page || last_page + PAGE > self.file.len() {
            return self.file.write_at(bytes, self.end);
        }
        let (before, rest) = bytes.split_at((last_page - self.end) as usize);
        if !before.is_empty() {
            self.file.write_at(before, self.end)?;
        }
        let mut page = [0; PAGE_BYTES];
        page[..rest.len()].copy_from_slice(rest);
        self.file.write_at(&page, last_page)
    }

    /// Says that bytes before `to` may be left from writes that are not to be read: as if an append had failed.
    pub(crate) fn note_leftovers(&mut self, to: u64) {
        self.failed_end = self.failed_end.max(to);
    }

    /// Overwrites what failed writes may have left.
    pub(crate) fn erase_failed(&mut self) -> Result<()> {
        if self.failed_end > self.end {
            self.write_zeros(self.end, self.failed_end)?;
            self.failed_end = self.end;
        }
        Ok(())
    }

    fn write_zeros(&self, mut from: u64, to: u64) -> Result<()> {
        while from < to {
            let piece = (to - from).min(ZEROS.len() as u64);
            self.file.write_at(&ZEROS[..piece as usize], from)?;
            from += piece;
        }
        Ok(())
    }
}
