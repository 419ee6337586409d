//! Long reads from front to back, or from back to front: the path of scans, compactions, verification and backup.
//!
//! Reads large windows with `pread` through a descriptor of the reader's own, so that its readahead state is nobody
//! else's, and asks for the next window ahead. The page cache can be told to forget what was passed ([`CacheUse`]);
//! pages that point readers have mapped stay. A device error here is an error, never a signal.
//!
//! One thread owns a reader; the buffers it hands out may go anywhere.

use std::ops::Range;
use std::sync::Arc;

use crate::{Advice, Error, File, Result, read_exact_at};

/// What a long read leaves in the page cache, and how much of it it takes meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheUse {
    /// What was read stays, as with any read.
    Keep,
    /// What was passed is forgotten, unless it is mapped.
    DropBehind,
    /// The same, and no more is read ahead than the next window: the kernel's own readahead, which may be many megabytes,
    /// is turned off. For a process that has less memory than data.
    Sparing,
}

/// A reader of a range of a file through a window.
///
/// ```
/// use std::path::Path;
/// use terrace_io::{CacheUse, FileSystem, MemoryFileSystem, OpenMode, ScanReader};
/// # fn main() -> terrace_io::Result<()> {
/// let file = MemoryFileSystem::new().open(Path::new("a"), OpenMode::CreateNew)?;
/// file.write_at(b"one two three", 0)?;
/// let mut reader = ScanReader::new(file, 0..13, ScanReader::WINDOW_BYTES, CacheUse::Keep);
/// let (buffer, range) = reader.read(4, 3)?;
/// assert_eq!(&buffer[range], b"two");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ScanReader {
    file: Arc<dyn File>,
    /// What may be read.
    range: Range<u64>,
    window_bytes: usize,
    cache_use: CacheUse,
    /// The bytes of `window`. Shared with those who still hold what they read.
    buffer: Arc<Vec<u8>>,
    /// What the buffer holds of the file; empty before the first read and after a failed one.
    window: Range<u64>,
    /// What was asked to be read ahead last.
    ahead: Range<u64>,
}

impl ScanReader {
    /// A window that is large enough for full throughput.
    pub const WINDOW_BYTES: usize = 512 * 1024;

    /// A window that takes little memory, at some cost in throughput.
    pub const SMALL_WINDOW_BYTES: usize = 128 * 1024;

    /// A reader of `range`, in windows of `window_bytes` (or more, where one read asks for more).
    pub fn new(file: Arc<dyn File>, range: Range<u64>, window_bytes: usize, cache_use: CacheUse) -> Self {
        let advice = match cache_use {
            CacheUse::Keep | CacheUse::DropBehind => Advice::Sequential,
            CacheUse::Sparing => Advice::Random,
        };
        file.advise(advice, range.start, range.end.saturating_sub(range.start));
        ScanReader {
            file,
            range,
            window_bytes: window_bytes.max(1),
            cache_use,
            buffer: Arc::new(Vec::new()),
            window: 0..0,
            ahead: 0..0,
        }
    }

    /// The bytes `offset..offset + len`: a shared buffer, and where in it they are. Holding on to the buffer
    /// keeps its bytes as they are; the reader then takes a new one for its next window.
    ///
    /// [`Error::Corruption`] if they do not lie in the range of the reader, or the file ends before they do.
    pub fn read(&mut self, offset: u64, len: usize) -> Result<(Arc<Vec<u8>>, Range<usize>)> {
        let end =
            offset.checked_add(len as u64).filter(|end| offset >= self.range.start && *end <= self.range.end);
        let Some(end) = end else {
            let what = format!("{len} bytes from there leave the range {:?} that is being read", self.range);
            return Err(Error::corruption(self.file.path(), offset, what));
        };
        if len > 0 && (offset < self.window.start || end > self.window.end) {
            self.move_window(offset, end)?;
        }
        if len == 0 {
            return Ok((Arc::clone(&self.buffer), 0..0));
        }
        let start = (offset - self.window.start) as usize;
        Ok((Arc::clone(&self.buffer), start..start + len))
    }

    /// Reads a window that holds `offset..end`, extended in the direction of travel.
    fn move_window(&mut self, offset: u64, end: u64) -> Result<()> {
        let window_bytes = self.window_bytes as u64;
        let old = std::mem::replace(&mut self.window, 0..0);
        // Backwards only if it goes on from the last window: a far jump back is a new start, which goes forwards.
        let backwards = offset < old.start && end.saturating_add(window_bytes) >= old.start;
        let new = if backwards {
            end.saturating_sub(window_bytes).max(self.range.start).min(offset)..end
        } else {
            offset..offset.saturating_add(window_bytes).min(self.range.end).max(end)
        };
        self.fill(&new)?;
        self.window = new.clone();

        let ahead = if backwards {
            new.start.saturating_sub(window_bytes).max(self.range.start)..new.start
        } else {
            new.end..new.end.saturating_add(window_bytes).min(self.range.end)
        };
        if !ahead.is_empty() {
            self.file.advise(Advice::WillNeed, ahead.start, ahead.end - ahead.start);
        }
        self.ahead = ahead;
        // What both windows hold may be needed again, if a piece lies across their edge.
        self.forget(old.start..old.end.min(new.start));
        self.forget(old.start.max(new.end)..old.end);
        Ok(())
    }

    /// Reads `window` into the buffer, or into a new one if the last is still held by someone.
    fn fill(&mut self, window: &Range<u64>) -> Result<()> {
        let len = window.end - window.start;
        if len > self.window_bytes as u64 {
            // Somebody's length decides how much is allocated: it must be in the file.
            let file_len = self.file.len()?;
            if window.end > file_len {
                let what = format!("{len} bytes are expected from there, but the file ends at {file_len}");
                return Err(Error::corruption(self.file.path(), window.start, what));
            }
        }
        let len = usize::try_from(len).map_err(|_| Error::invalid("a read larger than the address space"))?;
        let reusable = self.buffer.capacity() <= 2 * self.window_bytes.max(len);
        let buffer = match Arc::get_mut(&mut self.buffer) {
            Some(buffer) if reusable => buffer,
            _ => {
                self.buffer = Arc::new(Vec::with_capacity(len));
                Arc::get_mut(&mut self.buffer).expect("nobody else has seen the new buffer")
            }
        };
        buffer.resize(len, 0);
        read_exact_at(&*self.file, buffer, window.start)
    }

    fn forget(&self, range: Range<u64>) {
        if self.cache_use != CacheUse::Keep && range.start < range.end {
            self.file.advise(Advice::DontNeed, range.start, range.end - range.start);
        }
    }
}

impl Drop for ScanReader {
    fn drop(&mut self) {
        self.forget(self.window.clone());
        self.forget(self.ahead.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::recorder::{Call, Recorder};
    use crate::{FaultFileSystem, FaultKind, FaultRule, FileSystem, MemoryFileSystem, OpenMode, Operation};

    const PATH: &str = "000001.sst";

    /// Bytes that differ from place to place.
    fn bytes(len: usize) -> Vec<u8> {
        (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    fn file(fs: &dyn FileSystem, bytes: &[u8]) -> Arc<dyn File> {
        let file = fs.open(Path::new(PATH), OpenMode::CreateNew).unwrap();
        crate::write_all_at(&*file, bytes, 0).unwrap();
        file
    }

    fn recorded(bytes: &[u8]) -> (Recorder, Arc<dyn File>) {
        let fs = Recorder::default();
        let file = file(&fs, bytes);
        fs.take();
        (fs, file)
    }

    #[track_caller]
    fn check(reader: &mut ScanReader, all: &[u8], offset: usize, len: usize) {
        let (buffer, range) = reader.read(offset as u64, len).unwrap();
        assert_eq!(buffer[range], all[offset..offset + len], "{len} bytes at {offset}");
    }

    #[test]
    fn a_scan_forwards_reads_each_window_once_and_ahead() {
        let all = bytes(3500);
        let (fs, file) = recorded(&all);
        let mut reader = ScanReader::new(file, 100..3400, 1000, CacheUse::DropBehind);
        assert_eq!(fs.take(), [Call::Advise(Advice::Sequential, 100, 3300)]);
        for offset in (100..3400).step_by(100) {
            check(&mut reader, &all, offset, 100);
        }
        drop(reader);
        let expected = [
            Call::Read(100, 1000),
            Call::Advise(Advice::WillNeed, 1100, 1000),
            Call::Read(1100, 1000),
            Call::Advise(Advice::WillNeed, 2100, 1000),
            Call::Advise(Advice::DontNeed, 100, 1000),
            Call::Read(2100, 1000),
            Call::Advise(Advice::WillNeed, 3100, 300),
            Call::Advise(Advice::DontNeed, 1100, 1000),
            Call::Read(3100, 300),
            Call::Advise(Advice::DontNeed, 2100, 1000),
            Call::Advise(Advice::DontNeed, 3100, 300),
        ];
        assert_eq!(fs.take(), expected);
    }

    #[test]
    fn a_scan_backwards_does_the_same() {
        let all = bytes(3500);
        let (fs, file) = recorded(&all);
        let mut reader = ScanReader::new(file, 100..3400, 1000, CacheUse::DropBehind);
        fs.take();
        for offset in (100..3400).step_by(100).rev() {
            check(&mut reader, &all, offset, 100);
        }
        let expected = [
            Call::Read(3300, 100),
            Call::Read(2300, 1000),
            Call::Advise(Advice::WillNeed, 1300, 1000),
            Call::Advise(Advice::DontNeed, 3300, 100),
            Call::Read(1300, 1000),
            Call::Advise(Advice::WillNeed, 300, 1000),
            Call::Advise(Advice::DontNeed, 2300, 1000),
            Call::Read(300, 1000),
            Call::Advise(Advice::WillNeed, 100, 200),
            Call::Advise(Advice::DontNeed, 1300, 1000),
            Call::Read(100, 200),
            Call::Advise(Advice::DontNeed, 300, 1000),
        ];
        assert_eq!(fs.take(), expected);
    }

    #[test]
    fn any_order_and_size_gives_the_right_bytes() {
        let all = bytes(20_000);
        let fs = MemoryFileSystem::new();
        let mut reader = ScanReader::new(file(&fs, &all), 0..20_000, 512, CacheUse::DropBehind);
        let mut random = 1u64;
        let mut held = Vec::new();
        for step in 0..5000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let offset = (random >> 33) as usize % 20_001;
            let len = ((random >> 20) as usize % 1500).min(20_000 - offset);
            check(&mut reader, &all, offset, len);
            if step % 10 == 0 {
                held.push((reader.read(offset as u64, len).unwrap(), offset, len));
            }
        }
        for ((buffer, range), offset, len) in held {
            assert_eq!(buffer[range], all[offset..offset + len], "a buffer changed while it was held");
        }
    }

    #[test]
    fn a_buffer_is_reused_unless_it_is_held() {
        let all = bytes(4000);
        let fs = MemoryFileSystem::new();
        let mut reader = ScanReader::new(file(&fs, &all), 0..4000, 1000, CacheUse::Keep);
        let address = |reader: &mut ScanReader, offset| Arc::as_ptr(&reader.read(offset, 10).unwrap().0);
        let first = address(&mut reader, 0);
        assert_eq!(address(&mut reader, 1000), first);
        let (held, _) = reader.read(1000, 10).unwrap();
        assert_ne!(address(&mut reader, 2000), first);
        assert_eq!(held[..], all[1000..2000]);
    }

    #[test]
    fn a_large_buffer_is_not_kept() {
        let all = bytes(100_000);
        let fs = MemoryFileSystem::new();
        let mut reader = ScanReader::new(file(&fs, &all), 0..100_000, 1000, CacheUse::Keep);
        check(&mut reader, &all, 0, 90_000);
        check(&mut reader, &all, 95_000, 10);
        assert!(reader.buffer.capacity() < 10_000);
    }

    #[test]
    fn what_lies_outside_is_corruption() {
        let all = bytes(1000);
        let fs = MemoryFileSystem::new();
        let file = file(&fs, &all);
        let mut reader = ScanReader::new(Arc::clone(&file), 100..900, 512, CacheUse::Keep);
        for (offset, len) in [(99, 1), (900, 1), (899, 2), (u64::MAX, 2), (100, usize::MAX)] {
            let refused = reader.read(offset, len);
            assert!(matches!(refused, Err(Error::Corruption { .. })), "{len} bytes at {offset}: {refused:?}");
        }
        assert_eq!(reader.read(900, 0).unwrap().1, 0..0);

        // The range is wrong: an absurd length allocates nothing, and a window at the end says that it is damaged.
        let mut reader = ScanReader::new(file, 0..u64::MAX, 512, CacheUse::Keep);
        for (offset, len) in [(0, usize::MAX / 2), (0, 1001), (999, 2), (5000, 1)] {
            assert!(reader.read(offset, len).unwrap_err().is_corruption(), "{len} bytes at {offset}");
        }
    }

    #[test]
    fn a_failed_read_is_not_mistaken_for_a_window() {
        let all = bytes(4000);
        let fs = FaultFileSystem::new(Arc::new(MemoryFileSystem::new()));
        let mut reader = ScanReader::new(file(&fs, &all), 0..4000, 1000, CacheUse::Keep);
        check(&mut reader, &all, 0, 10);
        fs.add(FaultRule::on(Operation::Read).kind(FaultKind::ShortRead).times(3));
        fs.add(FaultRule::on(Operation::Read).once());
        reader.read(1500, 10).unwrap_err();
        check(&mut reader, &all, 0, 10);
        check(&mut reader, &all, 1500, 10);
        check(&mut reader, &all, 0, 10);
        assert_eq!(fs.injected(), 4);
    }
}
