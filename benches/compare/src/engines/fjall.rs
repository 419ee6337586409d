//! fjall: an LSM-tree in pure Rust.
//!
//! Its guide for data that fits the cache: a hash index in each block, index and filter blocks pinned. A synced put is
//! an insert and a `persist(SyncData)`.

use std::path::Path;

use fjall::config::{
    BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry, HashRatioPolicy,
    PartitioningPolicy, PinningPolicy,
};
use fjall::{
    CompressionType, Database, Guard, Iter, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot,
};
use terrace_tools::ycsb::record::Key;

use super::quiet;
use crate::engine::{Direction, Durability, Engine, OpenOptions, ReadsInPlace, Result, Span, View, sum};

/// Bytes of hash index per entry of a block.
const HASH_RATIO: f32 = 8.0;

/// Opens it.
pub fn open(dir: &Path, options: &OpenOptions) -> Result<Box<dyn Engine>> {
    let cache_bytes = options.cache_bytes();
    let bloom = FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(10.0));
    let create = || {
        let create = KeyspaceCreateOptions::default()
            .filter_policy(FilterPolicy::all(bloom))
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
            .index_block_compression_policy(CompressionPolicy::all(CompressionType::None))
            .data_block_hash_ratio_policy(HashRatioPolicy::all(HASH_RATIO))
            .index_block_partitioning_policy(PartitioningPolicy::all(false))
            .filter_block_partitioning_policy(PartitioningPolicy::all(false))
            .index_block_pinning_policy(PinningPolicy::all(true))
            .filter_block_pinning_policy(PinningPolicy::all(true));
        match options.memtable_bytes {
            Some(bytes) => create.max_memtable_size(bytes),
            None => create,
        }
    };
    let db = Database::builder(dir).cache_size(cache_bytes).open()?;
    let keyspace = db.keyspace("records", create)?;
    let mut settings = vec![
        format!("cache_size {cache_bytes}, filters of 10 bits per key on all levels"),
        format!("data_block_hash_ratio {HASH_RATIO}, index and filter blocks whole and pinned on all levels"),
        match options.durability {
            Durability::Buffered => "PersistMode::Buffer after each put (its default)".to_owned(),
            Durability::Synced => "persist(SyncData) after each put".to_owned(),
        },
        "no compression, checksums as by default".to_owned(),
    ];
    if options.memtable_bytes.is_some() {
        settings.push("it keeps the memtable size that the keyspace was created with".to_owned());
    }
    Ok(Box::new(Fjall { db, keyspace, durability: options.durability, settings }))
}

struct Fjall {
    db: Database,
    keyspace: Keyspace,
    durability: Durability,
    settings: Vec<String>,
}

impl Fjall {
    fn persist(&self) -> Result {
        match self.durability {
            Durability::Buffered => Ok(()),
            Durability::Synced => Ok(self.db.persist(PersistMode::SyncData)?),
        }
    }
}

impl ReadsInPlace for Fjall {
    #[inline]
    fn find<T>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        Ok(self.keyspace.get(key)?.map(|value| read(&value)))
    }

    fn each(&self, span: Span<'_>, mut visit: impl FnMut(&[u8], &[u8])) -> Result {
        let limit = usize::try_from(span.limit).unwrap_or(usize::MAX);
        let mut pass = |entry: Guard| {
            let (key, value) = entry.into_inner()?;
            visit(&key, &value);
            Ok(())
        };
        let range: Iter = match (span.from, span.direction) {
            (None, _) => self.keyspace.iter(),
            (Some(from), Direction::Forward) => self.keyspace.range(from..),
            (Some(from), Direction::Reverse) => self.keyspace.range(..=from),
        };
        match span.direction {
            Direction::Forward => range.take(limit).try_for_each(&mut pass),
            Direction::Reverse => range.rev().take(limit).try_for_each(&mut pass),
        }
    }
}

impl Engine for Fjall {
    fn settings(&self) -> Vec<String> {
        self.settings.clone()
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result {
        self.keyspace.insert(key, value)?;
        self.persist()
    }

    fn put_batch(&self, records: &[(Key, Vec<u8>)]) -> Result {
        let mut batch = self.db.batch();
        for (key, value) in records {
            batch.insert(&self.keyspace, key.as_slice(), value.as_slice());
        }
        batch.commit()?;
        self.persist()
    }

    fn delete(&self, key: &[u8]) -> Result {
        self.keyspace.remove(key)?;
        self.persist()
    }

    fn view(&self) -> Result<Box<dyn View + '_>> {
        Ok(Box::new(FjallView { keyspace: &self.keyspace, snapshot: self.db.snapshot() }))
    }

    fn settle(&self) -> Result {
        self.db.persist(PersistMode::SyncAll)?;
        self.keyspace.rotate_memtable_and_wait()?;
        quiet::wait(|| self.db.outstanding_flushes() > 0 || self.db.active_compactions() > 0);
        Ok(())
    }

    fn compact(&mut self) -> Result<bool> {
        self.keyspace.major_compact()?;
        Ok(true)
    }

    fn close(self: Box<Self>) -> Result {
        Ok(self.db.persist(PersistMode::SyncAll)?)
    }
}

struct FjallView<'a> {
    keyspace: &'a Keyspace,
    snapshot: Snapshot,
}

impl View for FjallView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<u64>> {
        Ok(self.snapshot.get(self.keyspace, key)?.map(|value| sum(&value)))
    }
}
