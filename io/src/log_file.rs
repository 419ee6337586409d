//! A log's file: of fixed length, written in place, synced on its own.
//!
//! The space is written once, before the first record, so that later writes change neither the file's length
//! nor its extents and a sync has only data to wait for. It is written in pieces of 64 KiB: the page cache
//! keeps each piece as one folio, and small writes into large folios are slow. What goes where is the log's
//! business; here is only how.
//!
//! [`LogFile::sync`] may run on one thread while another one writes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::{Error, File, FileSystem, OpenMode, Result, write_all_at};

/// What space is filled with.
static ZEROS: [u8; LogFile::FILL_BYTES] = [0; LogFile::FILL_BYTES];

/// A file of fixed length that is written in place.
///
/// ```
/// use std::path::Path;
/// use terrace_io::{LogFile, MemoryFileSystem};
/// # fn main() -> terrace_io::Result<()> {
/// let log = LogFile::create(&MemoryFileSystem::new(), Path::new("000001.log"), 4096)?;
/// log.write_at(b"record", 64)?;
/// log.sync()?;
/// assert!(log.write_at(b"record", 4095).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LogFile {
    file: Arc<dyn File>,
    /// How far writes may go. Grows only in `extend_to`, after the space was written.
    len: AtomicU64,
    /// Held while extending: two at once could put zeros over records.
    extending: Mutex<()>,
}

impl LogFile {
    /// How much is written at once while space is prepared.
    pub const FILL_BYTES: usize = 64 * 1024;

    /// A new file of `len` bytes, filled with zeros by writing them, and synced. Its directory is the caller's to
    /// sync. If that fails, the file is removed again as far as possible.
    pub fn create(fs: &dyn FileSystem, path: &Path, len: u64) -> Result<LogFile> {
        LogFile::create_with(fs, path, len, |file| write_zeros(file, 0, len))
    }

    /// The same without writing the zeros, so that it takes no time and perhaps no space; later writes cost more.
    pub fn create_sparse(fs: &dyn FileSystem, path: &Path, len: u64) -> Result<LogFile> {
        LogFile::create_with(fs, path, len, |file| file.set_len(len))
    }

    fn create_with(
        fs: &dyn FileSystem,
        path: &Path,
        len: u64,
        fill: impl FnOnce(&dyn File) -> Result<()>,
    ) -> Result<LogFile> {
        let file = fs.open(path, OpenMode::CreateNew)?;
        match fill(&*file).and_then(|()| file.sync()) {
            Ok(()) => Ok(LogFile::over(file, len)),
            Err(error) => {
                // The first error is the one to tell; a file that stays behind is found by its name later.
                let _ = fs.remove_file(path);
                Err(error)
            }
        }
    }

    /// An existing file, with the length it has.
    pub fn open(fs: &dyn FileSystem, path: &Path) -> Result<LogFile> {
        let file = fs.open(path, OpenMode::ReadWrite)?;
        let len = file.len()?;
        Ok(LogFile::over(file, len))
    }

    fn over(file: Arc<dyn File>, len: u64) -> LogFile {
        LogFile { file, len: AtomicU64::new(len), extending: Mutex::new(()) }
    }

    /// How many bytes there is room for, from the start of the file.
    #[expect(clippy::len_without_is_empty, reason = "a log file has room or it is of no use")]
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Writes all of `bytes` at `offset`; a short write is gone on with where it ended. After an error any part of
    /// them may have been written: write the same place again, or leave it behind.
    ///
    /// [`Error::InvalidArgument`] if they would go past the end; nothing is written then.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let len = self.len();
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > len) {
            let what = format!(
                "{} bytes at offset {offset} do not fit in {}, which has {len}",
                bytes.len(),
                self.path().display()
            );
            return Err(Error::invalid(what));
        }
        write_all_at(&*self.file, bytes, offset)
    }

    /// Appends zeros up to a length of `len`; does nothing if it is that long already. Durable with the next sync.
    /// After an error the length is what it was.
    pub fn extend_to(&self, len: u64) -> Result<()> {
        let _extending = self.extending.lock();
        let old_len = self.len();
        if len > old_len {
            write_zeros(&*self.file, old_len, len)?;
            self.len.store(len, Ordering::Release);
        }
        Ok(())
    }

    /// Reads up to `buf.len()` bytes at `offset`; fewer at the end of the file.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.file.read_at(buf, offset)
    }

    /// Makes everything durable whose write ended before this began. After an error it is not known what is
    /// durable, and trying again does not help.
    pub fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}

/// Fills `from..to`, in pieces that end on multiples of their size.
fn write_zeros(file: &dyn File, from: u64, to: u64) -> Result<()> {
    let piece_bytes = LogFile::FILL_BYTES as u64;
    let mut offset = from;
    while offset < to {
        let end = (offset / piece_bytes + 1).saturating_mul(piece_bytes).min(to);
        let piece = usize::try_from(end - offset).expect("a piece is at most FILL_BYTES");
        write_all_at(file, &ZEROS[..piece], offset)?;
        offset = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::recorder::{Call, Recorder};
    use crate::{CrashPolicy, FaultFileSystem, FaultKind, FaultRule, MemoryFileSystem, Operation};

    const PATH: &str = "000001.log";

    #[test]
    fn a_new_log_is_written_in_aligned_pieces_and_synced() {
        let fs = Recorder::default();
        let log = LogFile::create(&fs, Path::new(PATH), 150_000).unwrap();
        assert_eq!(log.len(), 150_000);
        let expected =
            [Call::Write(0, 65_536), Call::Write(65_536, 65_536), Call::Write(131_072, 18_928), Call::Sync];
        assert_eq!(fs.take(), expected);
        assert_eq!(fs.memory.file_bytes(log.path()).unwrap(), vec![0; 150_000]);

        LogFile::create_sparse(&fs, Path::new("sparse"), 150_000).unwrap();
        assert_eq!(fs.take(), [Call::SetLen(150_000), Call::Sync]);
    }

    #[test]
    fn what_was_synced_survives() {
        let fs = MemoryFileSystem::new();
        let log = LogFile::create(&fs, Path::new(PATH), 8192).unwrap();
        fs.sync_dir(Path::new("")).unwrap();
        log.write_at(b"one", 64).unwrap();
        log.sync().unwrap();
        log.write_at(b"two", 128).unwrap();
        let crashed = fs.crash_clone(CrashPolicy::DropUnsynced);
        let log = LogFile::open(&crashed, Path::new(PATH)).unwrap();
        assert_eq!(log.len(), 8192);
        let mut buf = [1; 128];
        assert_eq!(log.read_at(&mut buf, 64).unwrap(), 128);
        assert_eq!(&buf[..3], b"one");
        assert_eq!(buf[3..], [0; 125]);
        assert_eq!(log.read_at(&mut buf, 8190).unwrap(), 2);
    }

    #[test]
    fn writes_stay_within_the_length() {
        let fs = Recorder::default();
        let log = LogFile::create(&fs, Path::new(PATH), 4096).unwrap();
        fs.take();
        for (len, offset) in [(1, 4096), (2, 4095), (4097, 0), (1, u64::MAX), (0, 4097)] {
            let refused = log.write_at(&vec![1; len], offset);
            assert!(
                matches!(refused, Err(Error::InvalidArgument(_))),
                "{len} bytes at {offset}: {refused:?}"
            );
        }
        assert_eq!(fs.take(), []);
        log.write_at(&[1; 4096], 0).unwrap();
        log.write_at(&[], 4096).unwrap();
        assert_eq!(fs.take(), [Call::Write(0, 4096)]);
    }

    #[test]
    fn extending_appends_zeros_in_aligned_pieces() {
        let fs = Recorder::default();
        let log = LogFile::create(&fs, Path::new(PATH), 4096).unwrap();
        log.write_at(&[7; 4096], 0).unwrap();
        fs.take();
        log.extend_to(4096).unwrap();
        log.extend_to(0).unwrap();
        assert_eq!(fs.take(), []);
        log.extend_to(70_000).unwrap();
        assert_eq!(fs.take(), [Call::Write(4096, 61_440), Call::Write(65_536, 4464)]);
        assert_eq!(log.len(), 70_000);
        log.write_at(&[8; 2], 69_998).unwrap();
        let bytes = fs.memory.file_bytes(Path::new(PATH)).unwrap();
        assert_eq!(bytes[..4096], [7; 4096]);
        assert_eq!(bytes[4096..69_998], vec![0; 65_902]);
        assert_eq!(bytes[69_998..], [8; 2]);
    }

    #[test]
    fn short_writes_go_on_where_they_ended() {
        let memory = MemoryFileSystem::new();
        let fs = FaultFileSystem::new(Arc::new(memory.clone()));
        fs.add(FaultRule::on(Operation::Write).kind(FaultKind::ShortWrite));
        let log = LogFile::create(&fs, Path::new(PATH), 4096).unwrap();
        let record: Vec<u8> = (0..100).collect();
        log.write_at(&record, 1000).unwrap();
        assert!(fs.calls(Operation::Write) > 10);
        let bytes = memory.file_bytes(Path::new(PATH)).unwrap();
        assert_eq!(bytes.len(), 4096);
        assert_eq!(bytes[1000..1100], record[..]);
        assert_eq!((bytes[999], bytes[1100]), (0, 0));
    }

    #[test]
    fn a_log_that_cannot_be_prepared_leaves_nothing_behind() {
        let memory = MemoryFileSystem::new();
        memory.set_capacity(Some(100_000));
        let refused = LogFile::create(&memory, Path::new(PATH), 150_000).unwrap_err();
        assert!(refused.is_disk_full(), "{refused}");
        assert!(LogFile::create_sparse(&memory, Path::new(PATH), 150_000).unwrap_err().is_disk_full());
        let fs = FaultFileSystem::new(Arc::new(memory.clone()));
        fs.add(FaultRule::on(Operation::Sync).once());
        LogFile::create(&fs, Path::new(PATH), 4096).unwrap_err();
        assert_eq!(memory.read_dir(Path::new("")).unwrap(), [""; 0]);
        LogFile::create(&fs, Path::new(PATH), 4096).unwrap();
        let exists = LogFile::create(&fs, Path::new(PATH), 4096).unwrap_err();
        assert!(matches!(exists, Error::Io { source, .. } if source.kind() == ErrorKind::AlreadyExists));
        assert_eq!(memory.total_bytes(), 4096, "the log that existed before was removed");
    }

    #[test]
    fn a_failed_extension_changes_no_length_and_can_be_repeated() {
        let memory = MemoryFileSystem::new();
        let log = LogFile::create(&memory, Path::new(PATH), 4096).unwrap();
        memory.set_capacity(Some(10_000));
        assert!(log.extend_to(12_288).unwrap_err().is_disk_full());
        assert_eq!(log.len(), 4096);
        memory.set_capacity(None);
        log.extend_to(12_288).unwrap();
        assert_eq!((log.len(), memory.total_bytes()), (12_288, 12_288));
    }
}
