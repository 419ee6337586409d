//! No engine: what reads and a log cost at least. A get is one read of a value's length, at a place of a mapped file
//! that follows from the key. Each put is one `pwrite` and one `fdatasync` into a file that was written before, so that
//! nothing about it changes but its bytes.

use std::fs::{File, OpenOptions as FileOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use terrace_benches::VALUE_BYTES;
use terrace_io::{Advice, FileSystem, OpenMode, OsFileSystem, Region};
use terrace_tools::ycsb::record::Key;

use crate::engine::{Durability, Engine, OpenOptions, RECORD_BYTES, ReadsInPlace, Result, Span, View};

/// Bytes of the file that is written; a put after the last goes to its start again.
const FILE_BYTES: u64 = 64 << 20;

/// What an engine adds to a record in its log, about.
const OVERHEAD_BYTES: usize = 24;

/// Opens it.
pub fn open(dir: &Path, options: &OpenOptions) -> Result<Box<dyn Engine>> {
    let path = dir.join("raw.log");
    let file = FileOptions::new().create(true).truncate(false).write(true).open(path)?;
    let zeros = vec![0; 1 << 20];
    for offset in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset)?;
    }
    file.sync_all()?;
    // Nothing is read where puts are synced.
    let mapped = match options.durability {
        Durability::Buffered => map(&dir.join("raw.dat"), options.records * RECORD_BYTES)?,
        Durability::Synced => Region::from_vec(Vec::new()),
    };
    Ok(Box::new(Raw { mapped, file, written: AtomicU64::new(0), durability: options.durability }))
}

/// Maps a file of so many bytes, as tables are written and mapped. Writes it first, if it is not there.
fn map(path: &Path, len: u64) -> Result<Region> {
    if !std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == len) {
        let (mut file, piece) = (File::create(path)?, vec![1; 2 << 20]);
        for offset in (0..len).step_by(piece.len()) {
            file.write_all(&piece[..piece.len().min((len - offset) as usize)])?;
        }
        file.sync_all()?;
    }
    let region = OsFileSystem.open(path, OpenMode::Read)?.map(len as usize)?;
    region.advise(Advice::Random, 0..region.len());
    Ok(region)
}

struct Raw {
    mapped: Region,
    file: File,
    written: AtomicU64,
    durability: Durability,
}

impl Raw {
    fn cannot<T>(&self) -> Result<T> {
        Err("`raw` can only read at random and write".into())
    }
}

impl ReadsInPlace for Raw {
    fn find<T>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        let places = self.mapped.len().saturating_sub(VALUE_BYTES);
        let spread = key.as_chunks::<8>().0.iter().fold(0, |spread: u64, word| {
            (spread.rotate_left(32) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        let at = ((u128::from(spread) * places as u128) >> 64) as usize;
        Ok(self.mapped.get(at..at + VALUE_BYTES).map(read))
    }

    fn each(&self, _: Span<'_>, _: impl FnMut(&[u8], &[u8])) -> Result {
        self.cannot()
    }
}

impl Engine for Raw {
    fn settings(&self) -> Vec<String> {
        let sync = if self.durability == Durability::Synced { " and one fdatasync" } else { "" };
        let put = format!(
            "one pwrite of key, value and {OVERHEAD_BYTES} bytes{sync} per put, into {FILE_BYTES} written bytes"
        );
        let get = format!("one read of {VALUE_BYTES} bytes per get, of {} mapped bytes", self.mapped.len());
        vec![if self.mapped.is_mapped() { get } else { put }]
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result {
        let mut record = Vec::with_capacity(key.len() + value.len() + OVERHEAD_BYTES);
        record.extend_from_slice(key);
        record.extend_from_slice(value);
        record.resize(key.len() + value.len() + OVERHEAD_BYTES, 0);
        let length = record.len() as u64;
        let slot = self.written.fetch_add(1, Ordering::Relaxed) % (FILE_BYTES / length);
        self.file.write_all_at(&record, slot * length)?;
        if self.durability == Durability::Synced {
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn put_batch(&self, records: &[(Key, Vec<u8>)]) -> Result {
        records.iter().try_for_each(|(key, value)| self.put(key, value))
    }

    fn delete(&self, _: &[u8]) -> Result {
        self.cannot()
    }

    fn view(&self) -> Result<Box<dyn View + '_>> {
        self.cannot()
    }

    fn settle(&self) -> Result {
        Ok(self.file.sync_all()?)
    }

    fn compact(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn close(self: Box<Self>) -> Result {
        Ok(())
    }
}
