//! Terrace, with its default options.

use std::path::Path;

use terrace::{Db, Options, Snapshot, WriteBatch};
use terrace_tools::ycsb::record::Key;

use crate::engine::{Direction, Durability, Engine, OpenOptions, ReadsInPlace, Result, Span, View, sum};

/// Opens it.
pub fn open(dir: &Path, options: &OpenOptions) -> Result<Box<dyn Engine>> {
    let durability = match options.durability {
        Durability::Buffered => terrace::Durability::Buffered,
        Durability::Synced => terrace::Durability::Sync,
    };
    let mut chosen = Options::new().durability(durability);
    let mut settings = vec![
        "default options: no compression, checksums verified once per block and open".to_owned(),
        format!("durability {durability:?}"),
    ];
    if let Some(bytes) = options.memtable_bytes {
        chosen = chosen.memtable_bytes(bytes);
        settings.push(format!("memtable_bytes {bytes}"));
    }
    if let Some(bytes) = options.memory_bytes {
        chosen = chosen.memory_bytes(bytes);
        settings.push(format!("memory_bytes {bytes}"));
    }
    Ok(Box::new(Terrace { db: chosen.open(dir)?, settings }))
}

struct Terrace {
    db: Db,
    settings: Vec<String>,
}

impl ReadsInPlace for Terrace {
    #[inline]
    fn find<T>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        Ok(self.db.get_with(key, read)?)
    }

    #[inline]
    fn each(&self, span: Span<'_>, mut visit: impl FnMut(&[u8], &[u8])) -> Result {
        let mut cursor = self.db.cursor()?;
        let mut valid = match (span.direction, span.from) {
            (Direction::Forward, Some(from)) => cursor.seek(from)?,
            (Direction::Forward, None) => cursor.seek_to_first()?,
            (Direction::Reverse, Some(from)) => cursor.seek_for_prev(from)?,
            (Direction::Reverse, None) => cursor.seek_to_last()?,
        };
        let mut left = span.limit;
        while valid && left > 0 {
            visit(cursor.key(), cursor.value());
            left -= 1;
            valid = left > 0
                && match span.direction {
                    Direction::Forward => cursor.next()?,
                    Direction::Reverse => cursor.prev()?,
                };
        }
        Ok(())
    }
}

impl Engine for Terrace {
    fn settings(&self) -> Vec<String> {
        self.settings.clone()
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result {
        Ok(self.db.put(key, value)?)
    }

    fn put_batch(&self, records: &[(Key, Vec<u8>)]) -> Result {
        let mut batch = WriteBatch::new();
        for (key, value) in records {
            batch.put(&self.db, key, value);
        }
        Ok(self.db.write(batch)?)
    }

    fn delete(&self, key: &[u8]) -> Result {
        Ok(self.db.delete(key)?)
    }

    fn view(&self) -> Result<Box<dyn View + '_>> {
        Ok(Box::new(TerraceView { db: &self.db, snapshot: self.db.snapshot()? }))
    }

    fn settle(&self) -> Result {
        Ok(self.db.settle()?)
    }

    fn compact(&mut self) -> Result<bool> {
        self.db.compact_range::<&[u8]>(..)?;
        Ok(true)
    }

    fn close(self: Box<Self>) -> Result {
        Ok(self.db.close()?)
    }
}

struct TerraceView<'a> {
    db: &'a Db,
    snapshot: Snapshot,
}

impl View for TerraceView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<u64>> {
        Ok(self.snapshot.get_with(self.db, key, sum)?)
    }
}
