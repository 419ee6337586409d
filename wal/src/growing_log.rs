//! The manifest's log: one file that grows (`docs/format.md` §3.1 and §4).

use std::path::Path;

use terrace_io::{Error, FileSystem, LogFile, PAGE_BYTES, Result};

use crate::record::{self, Seed};
use crate::segment_header::{LENGTH_MAX, SegmentHeader};
use crate::tail::Tail;
use crate::{HEADER_BYTES, Position, RecordKind, SegmentReader};

/// How much the file grows at a time, at least: most appends then change no length.
const GROWTH_PAGES: u64 = 4;

/// A log in one file that grows by whole pages of zeros, written by one thread.
///
/// Each record is synced before the next is appended, and says so: everything before it is known to be durable. A
/// damaged record that has another behind it is therefore always told from the end of the log.
///
/// ```
/// use std::path::Path;
/// use terrace_io::{FileSystem, MemoryFileSystem};
/// use terrace_wal::{GrowingLog, RecordKind, SegmentReader};
///
/// let fs = MemoryFileSystem::new();
/// fs.create_dir_all(Path::new("/db"))?;
/// let path = Path::new("/db/MANIFEST");
/// let mut log = GrowingLog::create(&fs, path, [7; 16], 1)?;
/// log.append(RecordKind::VersionEdit, b"first")?;
/// log.sync()?;
///
/// let mut reader = SegmentReader::open(&fs, path)?;
/// assert_eq!(reader.next()?.expect("a record").payload, b"first");
/// assert_eq!(reader.next()?, None);
/// reader.require_end()?;
///
/// let end = reader.end().offset.into();
/// let mut log = GrowingLog::open_for_append(&fs, path, [7; 16], 1, end)?;
/// log.append(RecordKind::VersionEdit, b"second")?;
/// log.sync()?;
/// # Ok::<(), terrace_io::Error>(())
/// ```
#[derive(Debug)]
pub struct GrowingLog {
    number: u32,
    seed: Seed,
    tail: Tail,
    /// A record being encoded; kept for its capacity.
    buffer: Vec<u8>,
}

impl GrowingLog {
    /// Makes a new log without records in a file that must not exist, and syncs it. The caller syncs the directory.
    pub fn create(fs: &dyn FileSystem, path: &Path, log_id: [u8; 16], number: u32) -> Result<GrowingLog> {
        let file = LogFile::create(fs, path, PAGE_BYTES as u64)?;
        file.write_at(&SegmentHeader { number, log_id, length: 0 }.encode(), 0)?;
        file.sync()?;
        Ok(Self::at(file, log_id, number, HEADER_BYTES))
    }

    /// Opens a log for appending at `end`, the end of its last good record (or 64 if it has none).
    ///
    /// The caller has read it and found that `end` is the end of the log, not damage
    /// ([`SegmentReader::require_end`]). Whatever stands behind `end` is erased, durably: it must not become the
    /// continuation of what is appended.
    ///
    /// # Errors
    ///
    /// [`Error::Corruption`] if the file is not the log that it should be, or shorter than `end`; errors of the file
    /// system.
    pub fn open_for_append(
        fs: &dyn FileSystem,
        path: &Path,
        log_id: [u8; 16],
        number: u32,
        end: u64,
    ) -> Result<GrowingLog> {
        let mut reader = SegmentReader::open(fs, path)?;
        let expected = SegmentHeader { number, log_id, length: 0 };
        if *reader.header() != expected {
            let what = format!("expected {expected:?}, the file has {:?}", reader.header());
            return Err(Error::corruption(path, 0, what));
        }
        let leftover_end = reader.last_nonzero_end(end)?;
        let mut log = Self::at(LogFile::open(fs, path)?, log_id, number, end);
        if leftover_end > end {
            log.tail.note_leftovers(leftover_end);
            log.tail.erase_failed()?;
            log.sync()?;
        }
        Ok(log)
    }

    fn at(file: LogFile, log_id: [u8; 16], number: u32, end: u64) -> GrowingLog {
        GrowingLog {
            number,
            seed: Seed::new(&log_id, number),
            tail: Tail::new(file, end),
            buffer: Vec::new(),
        }
    }

    /// Writes a record behind the last one, growing the file if need be. It is durable after [`GrowingLog::sync`],
    /// which comes before the next append.
    ///
    /// # Errors
    ///
    /// Errors of the file system; [`Error::InvalidArgument`] if the log would be longer than 4 GiB. The position has
    /// not moved: the next append covers whatever this one left.
    ///
    /// # Panics
    ///
    /// If the payload is empty or has more than `u32::MAX` bytes.
    pub fn append(&mut self, kind: RecordKind, payload: &[u8]) -> Result<()> {
        let start = self.tail.end();
        let end = start + record::record_len(payload.len());
        if end.next_multiple_of(PAGE_BYTES as u64) > LENGTH_MAX {
            let path = self.tail.file().path().display();
            return Err(Error::invalid(format!(
                "{path} cannot grow to {end} bytes: it must be written anew"
            )));
        }
        if end > self.tail.file().len() {
            let page = PAGE_BYTES as u64;
            let wanted = (self.tail.file().len() + GROWTH_PAGES * page).max(end).next_multiple_of(page);
            self.tail.file().extend_to(wanted.min(LENGTH_MAX / page * page))?;
        }
        let offset = u32::try_from(start).expect("the length was checked when the log grew to it");
        self.buffer.clear();
        let synced = Position { segment: self.number, offset };
        record::encode(&mut self.buffer, &self.seed, start, kind, synced, &[payload]);
        self.tail.append(&self.buffer)
    }

    /// Makes everything appended so far durable. After an error nothing is known about what is durable.
    pub fn sync(&self) -> Result<()> {
        self.tail.file().sync()
    }

    /// Bytes used: the header and the records.
    #[expect(clippy::len_without_is_empty, reason = "a log has its header at least")]
    pub fn len(&self) -> u64 {
        self.tail.end()
    }
}
