//! The writing of a new file from front to back, as tables are written.
//!
//! Bytes are collected into chunks of 2 MiB that start on multiples of their size, so that the file system gets
//! large aligned writes, and the device is set to work on each chunk as soon as it is handed over, so that the
//! final sync has little left to wait for. Bytes that nobody is expected to read soon can be kept out of the page cache;
//! then a chunk goes out in several writes, since the page cache lets go of whole writes only. One thread owns a writer;
//! nobody reads the file before [`SequentialWriter::finish`].

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::{Advice, Error, File, FileSystem, OpenMode, Result, write_all_at, write_all_uncached_at};

/// So far behind the last write the device is expected to have what was written: where the page cache could not be told
/// to let go of it by itself, it is told now.
const LAG_BYTES: u64 = 2 * SequentialWriter::CHUNK_BYTES as u64;

/// The writer of a new file.
///
/// A failed write makes the file worthless: every later call returns the same error. Remove the file and write it
/// again from its source.
///
/// ```
/// use std::path::Path;
/// use terrace_io::{MemoryFileSystem, SequentialWriter};
/// # fn main() -> terrace_io::Result<()> {
/// let fs = MemoryFileSystem::new();
/// let mut writer = SequentialWriter::create(&fs, Path::new("000001.sst"))?;
/// writer.append(b"terr")?;
/// writer.append(b"ace")?;
/// assert_eq!(writer.finish()?, 7);
/// assert_eq!(fs.file_bytes(Path::new("000001.sst"))?, b"terrace");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SequentialWriter {
    file: Arc<dyn File>,
    chunk_bytes: usize,
    /// How much has been written to the file: a multiple of the chunk size until the end.
    written: u64,
    /// What comes next, less than a chunk. Grows with what is appended: a small table has a small buffer.
    buffer: Vec<u8>,
    /// The parts of the file that the page cache is to let go of, ascending, those in the buffer included.
    uncached: Vec<Range<u64>>,
    /// How many of them it was told about.
    told: usize,
    /// The first failure.
    failure: Option<Error>,
}

impl SequentialWriter {
    /// How much is written at once, and what the writes are aligned to: a large page, since the page cache keeps a file
    /// in pieces as it was written.
    pub const CHUNK_BYTES: usize = 2 * 1024 * 1024;
    /// How much is written at once where memory is short, and large pages cannot be expected to stay.
    pub const SMALL_CHUNK_BYTES: usize = 256 * 1024;

    /// Creates the file, which must not exist yet.
    pub fn create(fs: &dyn FileSystem, path: &Path) -> Result<Self> {
        let file = fs.open(path, OpenMode::CreateNew)?;
        Ok(SequentialWriter {
            file,
            chunk_bytes: SequentialWriter::CHUNK_BYTES,
            written: 0,
            buffer: Vec::new(),
            uncached: Vec::new(),
            told: 0,
            failure: None,
        })
    }

    /// From here on small chunks are written: takes less memory. To be called before anything is appended.
    pub fn spare_memory(&mut self) {
        debug_assert_eq!(self.position(), 0, "chunks stay aligned");
        self.chunk_bytes = SequentialWriter::SMALL_CHUNK_BYTES;
    }

    /// Appends bytes. They may stay in the buffer until more come, or until the end.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.check()?;
        let chunk_bytes = self.chunk_bytes;
        while !bytes.is_empty() {
            if self.buffer.is_empty() && bytes.len() >= chunk_bytes {
                // Whole chunks go out without being copied.
                let (chunks, rest) = bytes.split_at(bytes.len() - bytes.len() % chunk_bytes);
                self.write_chunks(chunks)?;
                bytes = rest;
            } else {
                let room = chunk_bytes - self.buffer.len();
                let (now, rest) = bytes.split_at(room.min(bytes.len()));
                // Grows like any vector, but not beyond a chunk.
                let (len, capacity) = (self.buffer.len(), self.buffer.capacity());
                if len + now.len() > capacity {
                    let wanted = (2 * capacity).max(len + now.len()).min(chunk_bytes);
                    self.buffer.reserve_exact(wanted - len);
                }
                self.buffer.extend_from_slice(now);
                bytes = rest;
                if self.buffer.len() == chunk_bytes {
                    self.write_buffer()?;
                }
            }
        }
        Ok(())
    }

    /// Appends bytes that the page cache is to let go of once they are on the device.
    pub fn append_uncached(&mut self, bytes: &[u8]) -> Result<()> {
        let (start, end) = (self.position(), self.position() + bytes.len() as u64);
        match self.uncached.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.uncached.push(start..end),
        }
        self.append(bytes)
    }

    /// How many bytes have been appended: where the next ones go.
    pub fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Writes what is left and makes the file durable. Its directory entry is the caller's to sync. Returns its
    /// length.
    pub fn finish(mut self) -> Result<u64> {
        self.check()?;
        self.write_buffer()?;
        self.file.sync()?;
        // What was told before was perhaps not on the device then.
        self.told = 0;
        self.forget(self.written);
        Ok(self.written)
    }

    fn check(&self) -> Result<()> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn write_buffer(&mut self) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.write_chunks(&buffer)?;
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }

    /// Writes at the end of what is written. The writer has failed for good if this does.
    fn write_chunks(&mut self, bytes: &[u8]) -> Result<()> {
        for chunk in bytes.chunks(self.chunk_bytes) {
            if let Err(error) = self.write_chunk(chunk) {
                self.failure = Some(error.clone());
                return Err(error);
            }
            self.file.start_writeback(self.written, chunk.len() as u64);
            self.written += chunk.len() as u64;
            self.forget(self.written.saturating_sub(LAG_BYTES));
        }
        Ok(())
    }

    /// Writes each stretch of a chunk as it is to be kept.
    fn write_chunk(&self, mut chunk: &[u8]) -> Result<()> {
        let mut offset = self.written;
        let first = self.uncached.partition_point(|range| range.end <= offset);
        for range in &self.uncached[first..] {
            let cached_len = range.start.saturating_sub(offset).min(chunk.len() as u64) as usize;
            let (cached, rest) = chunk.split_at(cached_len);
            write_all_at(&*self.file, cached, offset)?;
            offset += cached_len as u64;
            let uncached_len = (range.end - range.start.max(offset)).min(rest.len() as u64) as usize;
            let (uncached, rest) = rest.split_at(uncached_len);
            write_all_uncached_at(&*self.file, uncached, offset)?;
            offset += uncached_len as u64;
            chunk = rest;
        }
        write_all_at(&*self.file, chunk, offset)
    }

    /// Has the page cache let go of what it should, below `end`.
    fn forget(&mut self, end: u64) {
        while let Some(range) = self.uncached.get(self.told).filter(|range| range.end <= end) {
            self.file.advise(Advice::DontNeed, range.start, range.end - range.start);
            self.told += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::{Call, Recorder};
    use crate::{FaultFileSystem, FaultKind, FaultRule, MemoryFileSystem, Operation};

    const PATH: &str = "000001.sst";
    const CHUNK_BYTES: usize = SequentialWriter::CHUNK_BYTES;
    const CHUNK: u64 = CHUNK_BYTES as u64;

    /// Bytes that differ from place to place.
    fn bytes(len: usize) -> Vec<u8> {
        (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    #[test]
    fn pieces_of_every_size_come_out_as_aligned_chunks() {
        let expected = bytes(5 * CHUNK_BYTES + 12_345);
        for piece in
            [4096, 65_537, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, usize::MAX]
        {
            let fs = Recorder::default();
            let mut writer = SequentialWriter::create(&fs, Path::new(PATH)).unwrap();
            for piece in expected.chunks(piece) {
                let position = writer.position();
                writer.append(piece).unwrap();
                assert_eq!(writer.position(), position + piece.len() as u64);
            }
            assert_eq!(writer.finish().unwrap(), expected.len() as u64);
            let mut calls = Vec::new();
            for offset in (0..5 * CHUNK).step_by(CHUNK_BYTES) {
                calls.extend([Call::Write(offset, CHUNK_BYTES), Call::StartWriteback(offset, CHUNK)]);
            }
            calls.extend([
                Call::Write(5 * CHUNK, 12_345),
                Call::StartWriteback(5 * CHUNK, 12_345),
                Call::Sync,
            ]);
            assert_eq!(fs.take(), calls, "pieces of {piece}");
            assert!(fs.memory.file_bytes(Path::new(PATH)).unwrap() == expected, "pieces of {piece}");
        }
    }

    #[test]
    fn what_is_not_to_be_cached_is_written_apart() {
        let expected = bytes(CHUNK_BYTES + 50_000);
        let fs = Recorder::default();
        let mut writer = SequentialWriter::create(&fs, Path::new(PATH)).unwrap();
        let (cached, uncached) = (0..10_000, 10_000..30_000);
        writer.append(&expected[cached]).unwrap();
        writer.append_uncached(&expected[uncached.start..20_000]).unwrap();
        writer.append_uncached(&expected[20_000..uncached.end]).unwrap();
        writer.append(&expected[uncached.end..CHUNK_BYTES - 1000]).unwrap();
        // Across the border of two chunks.
        writer.append_uncached(&expected[CHUNK_BYTES - 1000..CHUNK_BYTES + 2000]).unwrap();
        writer.append(&expected[CHUNK_BYTES + 2000..]).unwrap();
        assert_eq!(writer.finish().unwrap(), expected.len() as u64);
        let calls = [
            Call::Write(0, 10_000),
            Call::WriteUncached(10_000, 20_000),
            Call::Write(30_000, CHUNK_BYTES - 31_000),
            Call::WriteUncached(CHUNK - 1000, 1000),
            Call::StartWriteback(0, CHUNK),
            Call::WriteUncached(CHUNK, 2000),
            Call::Write(CHUNK + 2000, 48_000),
            Call::StartWriteback(CHUNK, 50_000),
            Call::Sync,
            Call::Advise(Advice::DontNeed, 10_000, 20_000),
            Call::Advise(Advice::DontNeed, CHUNK - 1000, 3000),
        ];
        assert_eq!(fs.take(), calls);
        assert!(fs.memory.file_bytes(Path::new(PATH)).unwrap() == expected);
    }

    #[test]
    fn where_memory_is_short_chunks_are_small() {
        let expected = bytes(600_000);
        let fs = Recorder::default();
        let mut writer = SequentialWriter::create(&fs, Path::new(PATH)).unwrap();
        writer.spare_memory();
        expected.chunks(1000).for_each(|piece| writer.append(piece).unwrap());
        assert!(writer.buffer.capacity() <= SequentialWriter::SMALL_CHUNK_BYTES);
        writer.finish().unwrap();
        let writes = fs.take().into_iter().filter(|call| matches!(call, Call::Write(..)));
        let expected_writes = [(0, 262_144), (262_144, 262_144), (524_288, 75_712)];
        assert!(writes.eq(expected_writes.map(|(offset, len)| Call::Write(offset, len))));
        assert!(fs.memory.file_bytes(Path::new(PATH)).unwrap() == expected);
    }

    #[test]
    fn what_is_not_cached_is_forgotten_along_the_way() {
        let expected = bytes(4 * CHUNK_BYTES);
        let fs = Recorder::default();
        let mut writer = SequentialWriter::create(&fs, Path::new(PATH)).unwrap();
        for piece in expected.chunks(CHUNK_BYTES / 4) {
            writer.append(&piece[..4096]).unwrap();
            writer.append_uncached(&piece[4096..]).unwrap();
        }
        let forgotten =
            fs.take().into_iter().filter(|call| matches!(call, Call::Advise(Advice::DontNeed, ..)));
        assert_eq!(forgotten.count(), 8, "of the first two chunks of four");
        writer.finish().unwrap();
        assert!(fs.memory.file_bytes(Path::new(PATH)).unwrap() == expected);
    }

    #[test]
    fn a_small_file_has_a_small_buffer() {
        let fs = Recorder::default();
        let mut writer = SequentialWriter::create(&fs, Path::new(PATH)).unwrap();
        assert_eq!(writer.buffer.capacity(), 0);
        writer.append(&[1; 1000]).unwrap();
        assert!(writer.buffer.capacity() < 10_000);
        assert_eq!(fs.take(), []);
        assert_eq!(writer.finish().unwrap(), 1000);
    }

    #[test]
    fn an_empty_file_is_synced_too() {
        let fs = Recorder::default();
        assert_eq!(SequentialWriter::create(&fs, Path::new(PATH)).unwrap().finish().unwrap(), 0);
        assert_eq!(fs.take(), [Call::Sync]);
        SequentialWriter::create(&fs, Path::new(PATH)).unwrap_err();
    }

    #[test]
    fn a_failure_is_final() {
        let memory = MemoryFileSystem::new();
        let fs = FaultFileSystem::new(Arc::new(memory.clone()));
        fs.add(FaultRule::on(Operation::Write).skip(1).once());
        let mut writer = SequentialWriter::create(&fs, Path::new(PATH)).unwrap();
        writer.append(&[1; CHUNK_BYTES]).unwrap();
        writer.append(&[2; CHUNK_BYTES - 1]).unwrap();
        let first = writer.append(&[2; 2]).unwrap_err();
        assert_eq!(writer.append(&[3]).unwrap_err().to_string(), first.to_string());
        assert_eq!(writer.finish().unwrap_err().to_string(), first.to_string());
        assert_eq!((fs.calls(Operation::Write), fs.calls(Operation::Sync)), (2, 0));
    }

    #[test]
    fn a_failed_sync_is_a_failure_to_finish() {
        let fs = FaultFileSystem::new(Arc::new(MemoryFileSystem::new()));
        fs.add(FaultRule::on(Operation::Sync));
        let mut writer = SequentialWriter::create(&fs, Path::new(PATH)).unwrap();
        writer.append(&[1]).unwrap();
        writer.finish().unwrap_err();
    }

    #[test]
    fn short_writes_go_on_and_a_full_disk_is_reported() {
        let expected = bytes(2 * CHUNK_BYTES + 99);
        let memory = MemoryFileSystem::new();
        let fs = FaultFileSystem::new(Arc::new(memory.clone()));
        fs.add(FaultRule::on(Operation::Write).kind(FaultKind::ShortWrite).times(20));
        let mut writer = SequentialWriter::create(&fs, Path::new(PATH)).unwrap();
        writer.append(&expected).unwrap();
        writer.finish().unwrap();
        assert_eq!(fs.injected(), 20);
        assert!(memory.file_bytes(Path::new(PATH)).unwrap() == expected);

        memory.set_capacity(Some(memory.total_bytes() + CHUNK + 5));
        let mut writer = SequentialWriter::create(&fs, Path::new("b")).unwrap();
        assert!(writer.append(&expected).unwrap_err().is_disk_full());
        assert_eq!(memory.file_bytes(Path::new("b")).unwrap().len(), CHUNK_BYTES + 5);
    }
}
