//! The block cache: decompressed blocks, and blocks read by `pread`. Blocks that can be read in place from a
//! mapping never go in: the page cache has them.

use std::fmt;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

/// What an entry costs beyond its bytes, about.
const OVERHEAD_BYTES: u64 = 96;

/// Blocks of all tables that share it, up to a number of bytes.
pub struct BlockCache {
    blocks: Cache<(u64, u64), Arc<[u8]>, ByBytes>,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<(u64, u64), Arc<[u8]>> for ByBytes {
    fn weight(&self, _: &(u64, u64), block: &Arc<[u8]>) -> u64 {
        block.len() as u64 + OVERHEAD_BYTES
    }
}

impl BlockCache {
    /// A cache that holds about `bytes`.
    pub fn new(bytes: u64) -> BlockCache {
        let blocks_expected = usize::try_from(bytes / (16 * 1024)).unwrap_or(usize::MAX).max(16);
        BlockCache { blocks: Cache::with_weighter(blocks_expected, bytes, ByBytes) }
    }

    /// The block at `offset` of a table.
    pub(crate) fn get(&self, table_id: u64, offset: u64) -> Option<Arc<[u8]>> {
        self.blocks.get(&(table_id, offset))
    }

    /// Keeps a block that was checked.
    pub(crate) fn insert(&self, table_id: u64, offset: u64, block: &Arc<[u8]>) {
        self.blocks.insert((table_id, offset), Arc::clone(block));
    }

    /// Bytes that it holds.
    pub fn used_bytes(&self) -> u64 {
        self.blocks.weight()
    }

    /// Bytes that it may hold.
    pub fn capacity_bytes(&self) -> u64 {
        self.blocks.capacity()
    }
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, capacity) = (self.used_bytes(), self.capacity_bytes());
        f.debug_struct("BlockCache").field("used_bytes", &used).field("capacity_bytes", &capacity).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_its_bytes() {
        let cache = BlockCache::new(1 << 20);
        let block: Arc<[u8]> = Arc::from(vec![1; 10_000]);
        for offset in 0..1000 {
            cache.insert(1, offset, &block);
        }
        assert!(cache.used_bytes() > 0 && cache.used_bytes() <= 1 << 20);
        cache.insert(2, 5, &block);
        assert_eq!(cache.get(2, 5).as_deref(), Some(&*block));
        assert!(cache.get(3, 5).is_none());
    }
}
