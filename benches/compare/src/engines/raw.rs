//! No engine: what a log costs at least. Each put is one `pwrite` and one `fdatasync` into a file that was written
//! before, so that nothing about it changes but its bytes.

use std::fs::{File, OpenOptions as FileOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use terrace_tools::ycsb::record::Key;

use crate::engine::{Durability, Engine, OpenOptions, ReadsInPlace, Result, Span, View};

/// Bytes of the file; a put after the last goes to its start again.
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
    Ok(Box::new(Raw { file, written: AtomicU64::new(0), durability: options.durability }))
}

struct Raw {
    file: File,
    written: AtomicU64,
    durability: Durability,
}

impl Raw {
    fn cannot<T>(&self) -> Result<T> {
        Err("`raw` can only be written".into())
    }
}

impl ReadsInPlace for Raw {
    fn find<T>(&self, _: &[u8], _: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        self.cannot()
    }

    fn each(&self, _: Span<'_>, _: impl FnMut(&[u8], &[u8])) -> Result {
        self.cannot()
    }
}

impl Engine for Raw {
    fn settings(&self) -> Vec<String> {
        let sync = if self.durability == Durability::Synced { " and one fdatasync" } else { "" };
        vec![format!(
            "one pwrite of key, value and {OVERHEAD_BYTES} bytes{sync} per put, into {FILE_BYTES} written bytes"
        )]
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
