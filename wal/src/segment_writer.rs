//! The writing side of one segment.

use std::path::Path;
use std::sync::Arc;

use terrace_io::{Error, FileSystem, LogFile, Result};

use crate::record::{self, Seed};
use crate::segment_header::{HEADER_LEN, LENGTH_MAX, SegmentHeader, segment_file_name};
use crate::tail::Tail;
use crate::{HEADER_BYTES, Position, RecordKind};

/// How the bytes of a new segment come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Zeros are written, so that later writes change no extents: for segments that will be recycled.
    Zeros,
    /// The length is set and nothing is written: for a segment made for one large record.
    Sparse,
}

/// The writing side of one segment: records are encoded into a group, and a group is appended with one `pwrite`.
///
/// Appending takes `&mut self` and makes nothing durable. [`SegmentWriter::file`] can be cloned and synced from
/// another thread while appending goes on; a sync covers every append that returned before it was called.
///
/// ```
/// use std::path::Path;
/// use terrace_io::{FileSystem, MemoryFileSystem};
/// use terrace_wal::{Fill, Position, RecordKind, SegmentReader, SegmentWriter};
///
/// let fs = MemoryFileSystem::new();
/// let dir = Path::new("/db");
/// fs.create_dir_all(dir)?;
/// let mut writer = SegmentWriter::create(&fs, dir, [7; 16], 1, 4096, Fill::Zeros)?;
/// fs.sync_dir(dir)?;
///
/// let mut group = Vec::new();
/// writer.encode(&mut group, RecordKind::Batch, Position::default(), &[b"one ", b"payload"]);
/// writer.encode(&mut group, RecordKind::Batch, Position::default(), &[b"another"]);
/// let end = writer.append(&group)?;
/// writer.sync()?;
///
/// let mut reader = SegmentReader::open(&fs, &dir.join("000001.log"))?;
/// assert_eq!(reader.next()?.expect("the first record").payload, b"one payload");
/// let second = reader.next()?.expect("the second record");
/// assert_eq!((second.payload.as_slice(), second.end), (b"another".as_slice(), end));
/// assert_eq!(reader.next()?, None);
/// # Ok::<(), terrace_io::Error>(())
/// ```
#[derive(Debug)]
pub struct SegmentWriter {
    number: u32,
    length: u64,
    seed: Seed,
    tail: Tail,
}

impl SegmentWriter {
    /// Makes a new segment of `len` bytes, header included, and syncs it.
    ///
    /// Before the first append the caller syncs the directory and names the segment in the manifest.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if `len` is no multiple of 8 or not between 64 bytes and 4 GiB; errors of the file
    /// system, among them that the file exists. What was made of the file by then stays.
    pub fn create(
        fs: &dyn FileSystem,
        dir: &Path,
        log_id: [u8; 16],
        number: u32,
        len: u64,
        fill: Fill,
    ) -> Result<SegmentWriter> {
        if !(HEADER_BYTES..=LENGTH_MAX).contains(&len) || !len.is_multiple_of(record::ALIGNMENT) {
            return Err(Error::invalid(format!("a log segment cannot be {len} bytes long")));
        }
        let path = dir.join(segment_file_name(number));
        let file = match fill {
            Fill::Zeros => LogFile::create(fs, &path, len)?,
            Fill::Sparse => LogFile::create_sparse(fs, &path, len)?,
        };
        Self::begin(file, SegmentHeader { number, log_id, length: len })
    }

    /// Makes a new segment of the file of a retired one: it is renamed, and its header written anew and synced.
    ///
    /// The old segment must be durably retired in the manifest. Before the first append the caller syncs the
    /// directory and names the new segment in the manifest. The records of the old one stay in the file and are not
    /// records of the new one.
    ///
    /// # Errors
    ///
    /// [`Error::Corruption`] if the file is not the old segment of this log, which it then stays; errors of the file
    /// system, after which it may have either name.
    pub fn recycle(
        fs: &dyn FileSystem,
        dir: &Path,
        log_id: [u8; 16],
        old: u32,
        number: u32,
    ) -> Result<SegmentWriter> {
        let (from, to) = (dir.join(segment_file_name(old)), dir.join(segment_file_name(number)));
        let length = {
            let file = LogFile::open(fs, &from)?;
            let header = read_header(&file)?;
            if header.number != old || header.log_id != log_id || header.length == 0 {
                return Err(Error::corruption(&from, 0, "the file is not the segment that its name says"));
            }
            if header.length > file.len() {
                let what = format!("the file was cut: its header says {} bytes", header.length);
                return Err(Error::corruption(&from, file.len(), what));
            }
            header.length
        };
        fs.rename(&from, &to)?;
        Self::begin(LogFile::open(fs, &to)?, SegmentHeader { number, log_id, length })
    }

    fn begin(file: LogFile, header: SegmentHeader) -> Result<SegmentWriter> {
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        Ok(SegmentWriter {
            number: header.number,
            length: header.length,
            seed: Seed::new(&header.log_id, header.number),
            tail: Tail::new(file, HEADER_BYTES),
        })
    }

    /// The segment's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The segment's length in bytes, header included.
    #[expect(clippy::len_without_is_empty, reason = "a segment has its header at least")]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Where the next record goes.
    pub fn position(&self) -> Position {
        self.position_at(self.tail.end())
    }

    /// Bytes left for records, their headers and padding included.
    pub fn remaining(&self) -> u64 {
        self.length - self.tail.end()
    }

    /// The segment's file, for syncing it while appending goes on.
    pub fn file(&self) -> &Arc<LogFile> {
        self.tail.file()
    }

    /// Encodes a record behind what `group` holds, as it will stand if the group is appended next.
    ///
    /// The payload is the parts, one after the other. `synced` is how far the log is known to be durable: the end of
    /// the last record of which that is known, with all before it, or `Position::default()`. It is never the start of
    /// a segment: as long as nothing in a new segment is durable, it is the end of the last record in the one before.
    /// (If the start of segment 2 were called synced, and a power cut left nothing in segment 2, then the end of the
    /// records in segment 1 would look like a loss.)
    ///
    /// # Panics
    ///
    /// If the payload is empty or has more than `u32::MAX` bytes.
    pub fn encode(&self, group: &mut Vec<u8>, kind: RecordKind, synced: Position, parts: &[&[u8]]) {
        debug_assert!(
            synced == Position::default() || u64::from(synced.offset) > HEADER_BYTES,
            "{synced} is not the end of a record"
        );
        let offset = self.tail.end() + group.len() as u64;
        debug_assert!(offset.is_multiple_of(record::ALIGNMENT), "the group holds whole records");
        record::encode(group, &self.seed, offset, kind, synced, parts);
    }

    /// Writes a group of records at [`SegmentWriter::position`] and says where the next record goes.
    ///
    /// The group must have been encoded since the last append that succeeded, and fit.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the group does not fit; errors of the file system. The position has not moved:
    /// the next append covers whatever the failed one left. Whoever goes on to another segment instead calls
    /// [`SegmentWriter::seal`] first. Until one of them has succeeded, a reader may find records of the failed group.
    pub fn append(&mut self, group: &[u8]) -> Result<Position> {
        let room = self.remaining();
        if group.len() as u64 > room {
            let what = format!("{} bytes do not fit into log segment {}", group.len(), self.number);
            return Err(Error::invalid(format!("{what}, which has room for {room}")));
        }
        self.tail.append(group)?;
        Ok(self.position())
    }

    /// Erases what a failed append may have left, so that no record of it is ever read. Does nothing if the last
    /// append succeeded. To be called before another segment is written to.
    ///
    /// # Errors
    ///
    /// Errors of the file system: what the failed append left is still there, and no later record of this log may
    /// have its sequence numbers.
    pub fn seal(&mut self) -> Result<()> {
        self.tail.erase_failed()
    }

    /// Makes everything appended so far durable. After an error nothing is known about what is durable.
    pub fn sync(&self) -> Result<()> {
        self.tail.file().sync()
    }

    fn position_at(&self, offset: u64) -> Position {
        let offset = u32::try_from(offset).expect("a segment is at most u32::MAX bytes long");
        Position { segment: self.number, offset }
    }
}

fn read_header(file: &LogFile) -> Result<SegmentHeader> {
    let mut bytes = [0; HEADER_LEN];
    let mut filled = 0;
    while filled < HEADER_LEN {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => {
                return Err(Error::corruption(
                    file.path(),
                    filled as u64,
                    "the file is shorter than a segment header",
                ));
            }
            read => filled += read,
        }
    }
    SegmentHeader::decode(file.path(), &bytes)
}
