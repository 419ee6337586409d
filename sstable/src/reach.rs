//! How a get reaches the bytes of a table: by waiting for the device where it must, or not at all.
//!
//! A get is written once, over [`Reach`]. [`Metadata`] itself is the reach of a get that waits: it looks. [`InMemory`] is
//! that of one which must not: before it looks at a page for the first time it asks the operating system whether the page
//! is in memory, and gives up ([`Error::is_would_wait`]) if it is not, if nobody can tell, if it is one of very many, or if
//! what it finds would have to be read once more. So no page of metadata or data is forgotten: there is no other way to the bytes.
//!
//! **The race.** Between the answer and the look, the system may evict the page; then the look waits for the device after
//! all. That is some hundred nanoseconds for a page that was looked at before in nearly every case, and nothing rules it
//! out. Tables that are read by `pread` have no such race: their blocks are asked for with `RWF_NOWAIT`. What a reader of a
//! guarded table looks at last, the end of the file, is asked for too.

use std::cell::Cell;
use std::ops::Range;

use terrace_io::{Error, File, PAGE_BYTES, Result, read_exact_at};

use crate::metadata::Metadata;

/// A look at more than this at once is not worth having inline: to check it, or to ask for each of its pages, takes as
/// long as it takes another thread to be woken.
const LOOK_BYTES_MAX: usize = 64 << 10;

/// See the module. `'t` is how long the table lives.
pub(crate) trait Reach<'t>: Copy {
    /// Whether it waits for the device.
    const WAITS: bool;

    /// The metadata region of the table.
    fn metadata(self) -> &'t Metadata;

    /// The bytes of a range of the metadata region, checked.
    fn bytes(self, range: Range<usize>) -> Result<&'t [u8]>;

    /// The line of 64 bytes at `at` of the metadata region, which is a multiple of 64. Checked.
    fn line(self, at: usize) -> Result<&'t [u8; 64]>;

    /// The bytes of a range of the region that holds the metadata and perhaps the data. They need not be right.
    fn region(self, range: Range<usize>) -> Result<&'t [u8]>;

    /// Fills `buf` from `offset` of a file.
    fn read(self, file: &dyn File, buf: &mut [u8], offset: u64) -> Result<()>;

    /// The little-endian number at `at` of the metadata region, checked.
    #[inline]
    fn u64(self, at: usize) -> Result<u64> {
        let bytes = self.bytes(at..at + 8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("8 bytes were asked for")))
    }

    /// The little-endian number at `at` of the metadata region, checked.
    #[inline]
    fn u32(self, at: usize) -> Result<u32> {
        let bytes = self.bytes(at..at + 4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("4 bytes were asked for")))
    }
}

impl<'t> Reach<'t> for &'t Metadata {
    const WAITS: bool = true;

    #[inline]
    fn metadata(self) -> &'t Metadata {
        self
    }

    #[inline]
    fn bytes(self, range: Range<usize>) -> Result<&'t [u8]> {
        Metadata::bytes(self, range)
    }

    #[inline]
    fn line(self, at: usize) -> Result<&'t [u8; 64]> {
        Metadata::line(self, at)
    }

    #[inline]
    fn region(self, range: Range<usize>) -> Result<&'t [u8]> {
        Ok(&Metadata::region(self)[range])
    }

    fn read(self, file: &dyn File, buf: &mut [u8], offset: u64) -> Result<()> {
        read_exact_at(file, buf, offset)
    }
}

/// The reach of a get in a table that is guarded (see `watch.rs`): the same as that of [`Metadata`]. A type of its own, so that
/// the compiler makes such gets apart from the others, which they would make slower.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched<'t>(pub(crate) &'t Metadata);

impl<'t> Reach<'t> for Watched<'t> {
    const WAITS: bool = true;

    #[inline]
    fn metadata(self) -> &'t Metadata {
        self.0
    }

    #[inline]
    fn bytes(self, range: Range<usize>) -> Result<&'t [u8]> {
        self.0.bytes(range)
    }

    #[inline]
    fn line(self, at: usize) -> Result<&'t [u8; 64]> {
        self.0.line(at)
    }

    #[inline]
    fn region(self, range: Range<usize>) -> Result<&'t [u8]> {
        Reach::region(self.0, range)
    }

    fn read(self, file: &dyn File, buf: &mut [u8], offset: u64) -> Result<()> {
        Reach::read(self.0, file, buf, offset)
    }
}

/// The reach of one get that does not wait. For one thread, and for some microseconds: what was in memory when the get
/// looked at it, it takes for being there still.
#[derive(Debug)]
pub(crate) struct InMemory<'t> {
    metadata: &'t Metadata,
    /// The pages of the region that were asked for last.
    known: Cell<(usize, usize)>,
}

impl<'t> InMemory<'t> {
    pub(crate) fn new(metadata: &'t Metadata) -> InMemory<'t> {
        InMemory { metadata, known: Cell::new((0, 0)) }
    }

    /// Refuses a range of the region that would have to be waited for.
    fn ask(&self, range: &Range<usize>) -> Result<()> {
        if range.end - range.start > LOOK_BYTES_MAX {
            return Err(self.would_wait());
        }
        let (start, end) = (range.start / PAGE_BYTES, range.end.div_ceil(PAGE_BYTES));
        let (known_start, known_end) = self.known.get();
        if known_start <= start && end <= known_end {
            return Ok(());
        }
        if !self.metadata.region().is_resident(start * PAGE_BYTES..end * PAGE_BYTES) {
            return Err(self.would_wait());
        }
        self.known.set((start, end));
        Ok(())
    }

    #[cold]
    fn would_wait(&self) -> Error {
        Error::would_wait(self.metadata.path())
    }
}

impl<'t> Reach<'t> for &InMemory<'t> {
    const WAITS: bool = false;

    fn metadata(self) -> &'t Metadata {
        self.metadata
    }

    fn bytes(self, range: Range<usize>) -> Result<&'t [u8]> {
        if range.end.saturating_sub(range.start) > LOOK_BYTES_MAX {
            return Err(self.would_wait());
        }
        for (place, chunk) in self.metadata.unverified(&range) {
            // A chunk is checked as a whole.
            self.ask(&place)?;
            self.ask(&self.metadata.place_of_checksum(chunk))?;
            if !self.metadata.verify_in_memory(chunk) {
                return Err(self.would_wait());
            }
        }
        if let Some(place) = self.metadata.place_in_region(&range) {
            self.ask(&place)?;
        }
        // Whatever lies outside is refused there.
        self.metadata.bytes(range)
    }

    fn line(self, at: usize) -> Result<&'t [u8; 64]> {
        let bytes = self.bytes(at..at + 64)?;
        Ok(bytes.try_into().expect("64 bytes were asked for"))
    }

    fn region(self, range: Range<usize>) -> Result<&'t [u8]> {
        self.ask(&range)?;
        Ok(&self.metadata.region()[range])
    }

    fn read(self, file: &dyn File, buf: &mut [u8], offset: u64) -> Result<()> {
        match file.read_resident_at(buf, offset)? {
            Some(read) if read == buf.len() => Ok(()),
            // Part of it, or nothing; the end of the file is for those to tell who wait.
            _ => Err(self.would_wait()),
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
#[path = "reach_tests.rs"]
mod tests;
