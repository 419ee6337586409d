//! A memtable: the newest writes of one keyspace, sorted in memory. The log has them too.
//!
//! One thread inserts at a time (the leader of a commit group), any number read, as a rule without locks. The entries
//! lie in an arena ([`crate::arena`]), in which they stay until the memtable goes, and are ordered by a tree
//! ([`crate::tree`]): key ascending, sequence number descending. A value that a reader keeps keeps a piece of the
//! arena, not the memtable.

use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use terrace_io::Result;
use terrace_sstable::{Cursor, Kind, SEQUENCE_MAX, Slice};
use terrace_wal::Position as LogPosition;
use xxhash_rust::xxh3::xxh3_64;

use crate::arena::{Entry, EntryId};
use crate::tree::{Place, Position, Tree};

/// One 64-bit word of filter for so many bytes of heap: of six entries of 16 B + 100 B.
const HEAP_BYTES_PER_FILTER_WORD: u64 = 1024;
const FILTER_WORDS_MAX: u64 = 1 << 24;

/// The newest writes of one keyspace.
pub(crate) struct Memtable {
    tree: Tree,
    /// Tells for most keys that are not in the tree that they are not, for one look instead of a search: two bits for
    /// each key, both in one word.
    filter: OnceLock<Box<[AtomicU64]>>,
    filter_words: u64,
    heap_bytes: AtomicU64,
    len: AtomicU64,
    /// The log segment of the first entry; `u32::MAX` while there is none.
    first_segment: AtomicU32,
    /// Where the log must be synced to before a table made of this may become visible, and the last sequence number
    /// that can be in it. Set when it is sealed.
    sealed: OnceLock<Sealed>,
}

/// What is known of a memtable once no more writes go to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sealed {
    pub log_end: LogPosition,
    pub last_sequence: u64,
}

impl Memtable {
    /// An empty one, which is to take about `heap_bytes`.
    pub fn new(heap_bytes: u64) -> Self {
        Memtable {
            tree: Tree::new(),
            filter: OnceLock::new(),
            filter_words: (heap_bytes / HEAP_BYTES_PER_FILTER_WORD).clamp(1, FILTER_WORDS_MAX),
            heap_bytes: AtomicU64::new(0),
            len: AtomicU64::new(0),
            first_segment: AtomicU32::new(u32::MAX),
            sealed: OnceLock::new(),
        }
    }

    /// Adds a version. `pair` is key and value together. `segment` is where the log has it.
    pub fn insert(&self, pair: &[u8], key_len: usize, sequence: u64, kind: Kind, segment: u32) {
        // Before the entry: whoever may see that must see these. Published together with the sequence number.
        let filter = self.filter.get_or_init(|| (0..self.filter_words).map(|_| AtomicU64::new(0)).collect());
        let (word, bits) = filter_bits(filter, &pair[..key_len]);
        word.fetch_or(bits, Relaxed);
        let bytes = self.tree.insert(pair, key_len, sequence, kind) as u64;
        self.heap_bytes.store(bytes + size_of_val(&**filter) as u64, Relaxed);
        self.len.fetch_add(1, Relaxed);
        if segment < self.first_segment.load(Relaxed) {
            self.first_segment.store(segment, Relaxed);
        }
    }

    /// The newest version of `key` that is not newer than `snapshot`.
    pub fn get(&self, key: &[u8], snapshot: u64) -> Option<Stored<'_>> {
        // There is none before the first entry.
        let (word, bits) = filter_bits(self.filter.get()?, key);
        if word.load(Relaxed) & bits != bits {
            return None;
        }
        self.tree.get(key, snapshot).map(|id| Stored { memtable: self, id })
    }

    /// Heap that it takes.
    pub fn heap_bytes(&self) -> u64 {
        self.heap_bytes.load(Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.first_segment.load(Relaxed) == u32::MAX
    }

    /// How many versions it holds.
    pub fn len(&self) -> usize {
        self.len.load(Relaxed) as usize
    }

    /// The segment that it keeps alive, if it holds anything.
    pub fn first_segment(&self) -> Option<u32> {
        Some(self.first_segment.load(Relaxed)).filter(|&segment| segment != u32::MAX)
    }

    /// Says that no more writes will come.
    pub fn seal(&self, sealed: Sealed) {
        self.sealed.set(sealed).expect("a memtable is sealed once, by the thread that commits");
    }

    pub fn sealed(&self) -> Option<Sealed> {
        self.sealed.get().copied()
    }

    /// Bytes of keys and values in a range.
    pub fn approximate_bytes(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> u64 {
        let in_range = |key: &[u8]| match to {
            Bound::Included(to) => key <= to,
            Bound::Excluded(to) => key < to,
            Bound::Unbounded => true,
        };
        let mut position = match from {
            Bound::Included(key) => self.tree.seek(Place { key, sequence: SEQUENCE_MAX }),
            Bound::Excluded(key) => {
                let mut position = self.tree.seek(Place { key, sequence: 0 });
                if position.id().is_some_and(|id| self.tree.entry(id).key == key) {
                    self.tree.advance(&mut position);
                }
                position
            }
            Bound::Unbounded => self.tree.first(),
        };
        let mut bytes = 0;
        while let Some(entry) =
            position.id().map(|id| self.tree.entry(id)).filter(|entry| in_range(entry.key))
        {
            bytes += (entry.key.len() + entry.value.len()) as u64;
            self.tree.advance(&mut position);
        }
        bytes
    }

    /// A cursor that keeps the memtable alive.
    pub fn cursor(self: &Arc<Self>) -> MemtableCursor {
        MemtableCursor { memtable: self.clone(), position: Position::default() }
    }
}

/// A version of a key that was found in a memtable, where it lies.
pub(crate) struct Stored<'m> {
    memtable: &'m Memtable,
    id: EntryId,
}

impl<'m> Stored<'m> {
    fn entry(&self) -> Entry<'m> {
        self.memtable.tree.entry(self.id)
    }

    pub fn kind(&self) -> Kind {
        self.entry().kind()
    }

    pub fn value(&self) -> &'m [u8] {
        self.entry().value
    }

    /// The value with what keeps it alive.
    pub fn into_slice(self) -> Slice {
        self.memtable.tree.value_slice(self.id)
    }
}

/// The word of a filter and the bits in it that stand for a key.
fn filter_bits<'a>(filter: &'a [AtomicU64], key: &[u8]) -> (&'a AtomicU64, u64) {
    let hash = xxh3_64(key);
    let bits = (1 << (hash & 63)) | (1 << ((hash >> 6) & 63));
    // The upper half of the hash picks the word: a multiplication instead of a division.
    (&filter[(((hash >> 32) * filter.len() as u64) >> 32) as usize], bits)
}

impl fmt::Debug for Memtable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memtable").field("len", &self.len()).field("heap_bytes", &self.heap_bytes()).finish()
    }
}

/// Walks a memtable in both directions. Later inserts may or may not be seen: they have sequence numbers that no reader
/// of this cursor asks for.
#[derive(Debug)]
pub(crate) struct MemtableCursor {
    memtable: Arc<Memtable>,
    position: Position,
}

impl MemtableCursor {
    fn id(&self) -> EntryId {
        self.position.id().expect("a cursor is asked for an entry only where it is valid")
    }

    fn entry(&self) -> Entry<'_> {
        self.memtable.tree.entry(self.id())
    }
}

impl Cursor for MemtableCursor {
    fn seek_to_first(&mut self) -> Result<()> {
        self.position = self.memtable.tree.first();
        Ok(())
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.position = self.memtable.tree.last();
        Ok(())
    }

    fn seek(&mut self, key: &[u8], sequence: u64) -> Result<()> {
        self.position = self.memtable.tree.seek(Place { key, sequence });
        Ok(())
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        // Nothing sorts between the last version of the key before and the newest possible version of this one.
        self.position = self.memtable.tree.seek_before(Place { key, sequence: u64::MAX });
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.memtable.tree.advance(&mut self.position);
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        self.memtable.tree.retreat(&mut self.position);
        Ok(())
    }

    fn valid(&self) -> bool {
        self.position.id().is_some()
    }

    fn key(&self) -> &[u8] {
        self.entry().key
    }

    fn sequence(&self) -> u64 {
        self.entry().sequence()
    }

    fn kind(&self) -> Kind {
        self.entry().kind()
    }

    fn value(&self) -> &[u8] {
        self.entry().value
    }

    fn key_slice(&self) -> Slice {
        self.memtable.tree.key_slice(self.id())
    }

    fn value_slice(&self) -> Slice {
        self.memtable.tree.value_slice(self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memtable(entries: &[(&str, u64, &str)]) -> Arc<Memtable> {
        let memtable = Memtable::new(1 << 20);
        for (key, sequence, value) in entries {
            let pair = [key.as_bytes(), value.as_bytes()].concat();
            memtable.insert(&pair, key.len(), *sequence, Kind::Put, 3);
        }
        Arc::new(memtable)
    }

    #[test]
    fn the_newest_version_that_a_snapshot_may_see_is_found() {
        let memtable = memtable(&[("a", 1, "a1"), ("a", 5, "a5"), ("ab", 3, "ab3"), ("a\0", 2, "a02")]);
        let get =
            |key: &str, snapshot| memtable.get(key.as_bytes(), snapshot).map(|found| found.value().to_vec());
        assert_eq!(get("a", 4).as_deref(), Some(&b"a1"[..]));
        assert_eq!(get("a", 5).as_deref(), Some(&b"a5"[..]));
        assert_eq!(get("a\0", 9).as_deref(), Some(&b"a02"[..]));
        assert_eq!(get("ab", 2), None);
        assert_eq!(get("", 9), None);
        assert_eq!(memtable.first_segment(), Some(3));
    }

    #[test]
    fn a_cursor_walks_both_ways() {
        let memtable = Memtable::new(1 << 20);
        let count = 1_000;
        for index in 0..count {
            memtable.insert(format!("{index:06}").as_bytes(), 6, index + 1, Kind::Put, 1);
        }
        let mut cursor = Arc::new(memtable).cursor();
        cursor.seek_to_first().unwrap();
        for index in 0..count {
            assert_eq!(cursor.key(), format!("{index:06}").as_bytes());
            // One back and two forth, at every place.
            if index > 0 {
                cursor.prev().unwrap();
                assert_eq!(cursor.key(), format!("{:06}", index - 1).as_bytes());
                cursor.next().unwrap();
            }
            cursor.next().unwrap();
        }
        assert!(!cursor.valid());
        cursor.seek_to_last().unwrap();
        for index in (0..count).rev() {
            assert_eq!(cursor.key(), format!("{index:06}").as_bytes());
            cursor.prev().unwrap();
        }
        assert!(!cursor.valid());
        cursor.seek(b"000100", SEQUENCE_MAX).unwrap();
        assert_eq!(cursor.key(), b"000100");
        cursor.seek_before(b"000100").unwrap();
        assert_eq!(cursor.key(), b"000099");
    }
}
