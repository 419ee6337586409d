//! RocksDB, once with its block cache and once reading mapped tables.
//!
//! After its tuning guide: full filters of 10 bits per key that stay in memory with the indexes, a hash index in each
//! data block, a lock-free cache larger than the data, a background job for each processor.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, CompactOptions, DB, DBCompressionType,
    DataBlockIndexType, Options, ReadOptions, Snapshot, WaitForCompactOptions, WriteBatch, WriteOptions,
};
use terrace_tools::ycsb::record::Key;

use crate::engine::{Direction, Durability, Engine, OpenOptions, ReadsInPlace, Result, Span, View, sum};

/// How table blocks are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// By `pread` into a cache of blocks.
    BlockCache,
    /// In mapped files, without a cache of its own.
    Mmap,
}

/// Opens it.
pub fn open(dir: &Path, options: &OpenOptions, reads: Reads) -> Result<Box<dyn Engine>> {
    let cache_bytes = options.cache_bytes();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut tables = BlockBasedOptions::default();
    tables.set_bloom_filter(10.0, false);
    tables.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    let mut chosen = Options::default();
    let cached = match reads {
        Reads::BlockCache => {
            // 0: it finds out itself how large entries are.
            tables.set_block_cache(&Cache::new_hyper_clock_cache(usize::try_from(cache_bytes)?, 0));
            format!("hyper clock cache of {cache_bytes}")
        }
        Reads::Mmap => {
            tables.disable_cache();
            chosen.set_allow_mmap_reads(true);
            "allow_mmap_reads, no block cache".to_owned()
        }
    };
    chosen.set_block_based_table_factory(&tables);
    chosen.create_if_missing(true);
    chosen.set_compression_type(DBCompressionType::None);
    chosen.set_bottommost_compression_type(DBCompressionType::None);
    chosen.set_level_compaction_dynamic_level_bytes(true);
    chosen.set_max_background_jobs(i32::try_from(processors.max(2))?);
    chosen.set_bytes_per_sync(1 << 20);
    if let Some(bytes) = options.memtable_bytes {
        chosen.set_write_buffer_size(usize::try_from(bytes)?);
    }
    let synced = options.durability == Durability::Synced;
    let mut settings = vec![
        cached,
        "full Bloom filters of 10 bits per key, index and filters outside of the cache".to_owned(),
        "data blocks of 4 KiB with a hash index, dynamic level bytes, bytes_per_sync 1 MiB".to_owned(),
        format!("max_background_jobs {}, WriteOptions.sync {synced}", processors.max(2)),
        "no compression; checksums as by default: verified when a block is read from a file or a mapping"
            .to_owned(),
    ];
    if let Some(bytes) = options.memtable_bytes {
        settings.push(format!("write_buffer_size {bytes}"));
    }
    let mut write = WriteOptions::default();
    write.set_sync(synced);
    Ok(Box::new(RocksDb { db: DB::open(&chosen, dir)?, read: ReadOptions::default(), write, settings }))
}

struct RocksDb {
    db: DB,
    read: ReadOptions,
    write: WriteOptions,
    settings: Vec<String>,
}

impl ReadsInPlace for RocksDb {
    #[inline]
    fn find<T>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        Ok(self.db.get_pinned_opt(key, &self.read)?.map(|value| read(&value)))
    }

    #[inline]
    fn each(&self, span: Span<'_>, mut visit: impl FnMut(&[u8], &[u8])) -> Result {
        let mut entries = self.db.raw_iterator();
        match (span.direction, span.from) {
            (Direction::Forward, Some(from)) => entries.seek(from),
            (Direction::Forward, None) => entries.seek_to_first(),
            (Direction::Reverse, Some(from)) => entries.seek_for_prev(from),
            (Direction::Reverse, None) => entries.seek_to_last(),
        }
        let mut left = span.limit;
        while left > 0 {
            let Some((key, value)) = entries.item() else { break };
            visit(key, value);
            left -= 1;
            match span.direction {
                _ if left == 0 => {}
                Direction::Forward => entries.next(),
                Direction::Reverse => entries.prev(),
            }
        }
        Ok(entries.status()?)
    }
}

impl Engine for RocksDb {
    fn settings(&self) -> Vec<String> {
        self.settings.clone()
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result {
        Ok(self.db.put_opt(key, value, &self.write)?)
    }

    fn put_batch(&self, records: &[(Key, Vec<u8>)]) -> Result {
        let mut batch = WriteBatch::default();
        for (key, value) in records {
            batch.put(key, value);
        }
        Ok(self.db.write_opt(batch, &self.write)?)
    }

    fn delete(&self, key: &[u8]) -> Result {
        Ok(self.db.delete_opt(key, &self.write)?)
    }

    fn view(&self) -> Result<Box<dyn View + '_>> {
        Ok(Box::new(RocksDbView { snapshot: self.db.snapshot() }))
    }

    fn settle(&self) -> Result {
        let mut options = WaitForCompactOptions::default();
        options.set_flush(true);
        Ok(self.db.wait_for_compact(&options)?)
    }

    fn compact(&mut self) -> Result<bool> {
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        self.db.compact_range_opt::<&[u8], &[u8]>(None, None, &options);
        self.settle()?;
        Ok(true)
    }

    fn close(self: Box<Self>) -> Result {
        Ok(self.db.flush_wal(true)?)
    }
}

struct RocksDbView<'a> {
    snapshot: Snapshot<'a>,
}

impl View for RocksDbView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<u64>> {
        Ok(self.snapshot.get_pinned(key)?.map(|value| sum(&value)))
    }
}
