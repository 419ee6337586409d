//! A memtable: the newest writes of one keyspace, sorted in memory. The log has them too.
//!
//! One thread inserts at a time (the leader of a commit group), any number read without locks. An entry is one heap
//! allocation that holds key and value together and is shared by reference count, so values read from a memtable
//! outlive it without a copy. The order is the internal one: key ascending, sequence number descending. The first
//! eight bytes of the key stand inline in the skip list's node, so that most comparisons touch nothing else.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::ops::Bound;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_skiplist::SkipMap;
use terrace_io::Result;
use terrace_sstable::{Cursor, Kind, SEQUENCE_MAX, Slice};
use terrace_wal::Position;

/// Bytes that an entry costs besides its key and value: the node with its average tower, and the allocation's header.
const ENTRY_OVERHEAD_BYTES: u64 = 112;

/// One 64-bit word of filter for so many bytes of heap: of five entries of 16 B + 100 B.
const HEAP_BYTES_PER_FILTER_WORD: u64 = 1024;
const FILTER_WORDS_MAX: u64 = 1 << 24;

/// Entries that a cursor takes from the skip list at a time: few right after a seek, then ever more.
const CURSOR_CHUNK_FIRST: usize = 4;
const CURSOR_CHUNK_MAX: usize = 256;

/// Entries that are freed between two pauses, and how long these are.
const FREED_AT_ONCE: usize = 128;
const FREEING_PAUSE: Duration = Duration::from_micros(20);

/// One version of one key.
#[derive(Clone)]
struct Entry {
    prefix: u64,
    /// Sequence number, then kind in the low 8 bits.
    stamp: u64,
    key_len: u32,
    pair: Arc<[u8]>,
}

impl Entry {
    fn key(&self) -> &[u8] {
        &self.pair[..self.key_len as usize]
    }

    fn sequence(&self) -> u64 {
        self.stamp >> 8
    }

    fn kind(&self) -> Kind {
        Kind::from_byte(self.stamp as u8).expect("a memtable holds only kinds that were put into it")
    }

    fn key_slice(&self) -> Slice {
        Slice::from_shared(self.pair.clone(), 0..self.key_len as usize)
    }

    fn value_slice(&self) -> Slice {
        Slice::from_shared(self.pair.clone(), self.key_len as usize..self.pair.len())
    }
}

/// What entries are compared by; also implemented by the key of a lookup, so that a lookup allocates nothing.
struct Place<'a> {
    prefix: u64,
    key: &'a [u8],
    sequence: u64,
}

trait Placed {
    fn place(&self) -> Place<'_>;
}

impl Placed for Entry {
    fn place(&self) -> Place<'_> {
        Place { prefix: self.prefix, key: self.key(), sequence: self.sequence() }
    }
}

impl Placed for Place<'_> {
    fn place(&self) -> Place<'_> {
        Place { ..*self }
    }
}

fn prefix_of(key: &[u8]) -> u64 {
    match key.first_chunk() {
        Some(chunk) => u64::from_be_bytes(*chunk),
        None => {
            let mut padded = [0; 8];
            padded[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(padded)
        }
    }
}

impl Ord for dyn Placed + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.place(), other.place());
        a.prefix.cmp(&b.prefix).then_with(|| a.key.cmp(b.key)).then_with(|| b.sequence.cmp(&a.sequence))
    }
}

impl PartialOrd for dyn Placed + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Placed + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for dyn Placed + '_ {}

impl<'a> Borrow<dyn Placed + 'a> for Entry {
    fn borrow(&self) -> &(dyn Placed + 'a) {
        self
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.prefix
            .cmp(&other.prefix)
            .then_with(|| self.key().cmp(other.key()))
            .then_with(|| other.sequence().cmp(&self.sequence()))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// The newest writes of one keyspace.
pub(crate) struct Memtable {
    map: SkipMap<Entry, ()>,
    /// Tells for most keys that are not in the map that they are not, for one look instead of a search: two bits for
    /// each key, both in one word.
    filter: OnceLock<Box<[AtomicU64]>>,
    filter_words: u64,
    heap_bytes: AtomicU64,
    /// The log segment of the first entry; `u32::MAX` while there is none.
    first_segment: AtomicU32,
    /// Where the log must be synced to before a table made of this may become visible, and the last sequence number
    /// that can be in it. Set when it is sealed.
    sealed: OnceLock<Sealed>,
}

/// What is known of a memtable once no more writes go to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sealed {
    pub log_end: Position,
    pub last_sequence: u64,
}

impl Memtable {
    /// An empty one, which is to take about `heap_bytes`.
    pub fn new(heap_bytes: u64) -> Self {
        Memtable {
            map: SkipMap::new(),
            filter: OnceLock::new(),
            filter_words: (heap_bytes / HEAP_BYTES_PER_FILTER_WORD).clamp(1, FILTER_WORDS_MAX),
            heap_bytes: AtomicU64::new(0),
            first_segment: AtomicU32::new(u32::MAX),
            sealed: OnceLock::new(),
        }
    }

    /// Adds a version. `pair` is key and value together. `segment` is where the log has it.
    pub fn insert(&self, pair: &[u8], key_len: usize, sequence: u64, kind: Kind, segment: u32) {
        let prefix = prefix_of(&pair[..key_len]);
        // Before the entry: whoever may see that must see these. Published together with the sequence number.
        let filter = self.filter.get_or_init(|| (0..self.filter_words).map(|_| AtomicU64::new(0)).collect());
        let (word, bits) = filter_bits(filter, &pair[..key_len]);
        word.fetch_or(bits, Relaxed);
        let stamp = sequence << 8 | kind as u64;
        let entry = Entry { prefix, stamp, key_len: key_len as u32, pair: pair.into() };
        self.map.insert(entry, ());
        self.heap_bytes.fetch_add(pair.len() as u64 + ENTRY_OVERHEAD_BYTES, Relaxed);
        self.first_segment.fetch_min(segment, Relaxed);
    }

    /// The newest version of `key` that is not newer than `snapshot`.
    pub fn get(&self, key: &[u8], snapshot: u64) -> Option<(Kind, Slice)> {
        // There is none before the first entry.
        let (word, bits) = filter_bits(self.filter.get()?, key);
        if word.load(Relaxed) & bits != bits {
            return None;
        }
        let place = Place { prefix: prefix_of(key), key, sequence: snapshot };
        let bound: Bound<&(dyn Placed + '_)> = Bound::Included(&place);
        let found = self.map.lower_bound::<dyn Placed + '_>(bound)?;
        let entry = found.key();
        (entry.prefix == place.prefix && entry.key() == key).then(|| (entry.kind(), entry.value_slice()))
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
        self.map.len()
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

    /// Bytes of keys and values in a range, estimated from its first entries.
    pub fn approximate_bytes(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> u64 {
        let in_range = |key: &[u8]| match to {
            Bound::Included(to) => key <= to,
            Bound::Excluded(to) => key < to,
            Bound::Unbounded => true,
        };
        let place = |key, sequence| Place { prefix: prefix_of(key), key, sequence };
        let start = match from {
            Bound::Included(key) => Bound::Included(place(key, SEQUENCE_MAX)),
            Bound::Excluded(key) => Bound::Excluded(place(key, 0)),
            Bound::Unbounded => Bound::Unbounded,
        };
        let bound = start.as_ref().map(|place| place as &dyn Placed);
        let mut next = self.map.lower_bound::<dyn Placed + '_>(bound);
        let mut bytes = 0;
        while let Some(entry) = next.filter(|entry| in_range(entry.key().key())) {
            bytes += entry.key().pair.len() as u64;
            next = entry.next();
        }
        bytes
    }

    /// Frees it entry by entry, with pauses. An allocator has locks, and a thread that frees a hundred thousand pieces
    /// in one go can keep one from a writer for tens of milliseconds.
    pub fn free_gently(self) {
        for (index, entry) in self.map.into_iter().enumerate() {
            drop(entry);
            if index % FREED_AT_ONCE == FREED_AT_ONCE - 1 {
                std::thread::sleep(FREEING_PAUSE);
            }
        }
    }

    /// A cursor that keeps the memtable alive.
    pub fn cursor(self: &Arc<Self>) -> MemtableCursor {
        MemtableCursor {
            memtable: self.clone(),
            chunk: Vec::new(),
            at: 0,
            ascending: true,
            chunk_len: CURSOR_CHUNK_FIRST,
        }
    }
}

/// The word of a filter and the bits in it that stand for a key.
fn filter_bits<'a>(filter: &'a [AtomicU64], key: &[u8]) -> (&'a AtomicU64, u64) {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    let hash = hasher.finish();
    let bits = (1 << (hash & 63)) | (1 << ((hash >> 6) & 63));
    // The upper half of the hash picks the word: a multiplication instead of a division.
    (&filter[(((hash >> 32) * filter.len() as u64) >> 32) as usize], bits)
}

impl fmt::Debug for Memtable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memtable").field("len", &self.len()).field("heap_bytes", &self.heap_bytes()).finish()
    }
}

/// Walks a memtable in both directions. Takes its entries in chunks, so that the skip list is searched once for many
/// entries; later inserts may or may not be seen (they have sequence numbers that no reader of this cursor asks for).
#[derive(Debug)]
pub(crate) struct MemtableCursor {
    memtable: Arc<Memtable>,
    /// Entries in the direction of travel.
    chunk: Vec<Entry>,
    at: usize,
    ascending: bool,
    /// How many entries to take next.
    chunk_len: usize,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}", self.key(), self.sequence())
    }
}

impl MemtableCursor {
    /// Starts anew from a place that was asked for.
    fn jump(&mut self, bound: Bound<&(dyn Placed + '_)>, ascending: bool) {
        self.chunk_len = CURSOR_CHUNK_FIRST;
        self.fill(bound, ascending);
    }

    fn fill(&mut self, bound: Bound<&(dyn Placed + '_)>, ascending: bool) {
        let map = &self.memtable.map;
        let mut next = match ascending {
            true => map.lower_bound::<dyn Placed + '_>(bound),
            false => map.upper_bound::<dyn Placed + '_>(bound),
        };
        self.chunk.clear();
        while let Some(entry) = next {
            self.chunk.push(entry.key().clone());
            if self.chunk.len() == self.chunk_len {
                break;
            }
            next = if ascending { entry.next() } else { entry.prev() };
        }
        self.at = 0;
        self.ascending = ascending;
    }

    fn entry(&self) -> &Entry {
        &self.chunk[self.at]
    }

    fn step(&mut self, ascending: bool) {
        if ascending == self.ascending && self.at + 1 < self.chunk.len() {
            self.at += 1;
            return;
        }
        if ascending != self.ascending && self.at > 0 {
            self.at -= 1;
            return;
        }
        let here = self.entry().clone();
        self.chunk_len = (2 * self.chunk_len).min(CURSOR_CHUNK_MAX);
        self.fill(Bound::Excluded(&here), ascending);
    }
}

impl Cursor for MemtableCursor {
    fn seek_to_first(&mut self) -> Result<()> {
        self.jump(Bound::Unbounded, true);
        Ok(())
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.jump(Bound::Unbounded, false);
        Ok(())
    }

    fn seek(&mut self, key: &[u8], sequence: u64) -> Result<()> {
        let place = Place { prefix: prefix_of(key), key, sequence };
        self.jump(Bound::Included(&place), true);
        Ok(())
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        // Nothing sorts between the last version of the key before and the newest possible version of this one.
        let place = Place { prefix: prefix_of(key), key, sequence: u64::MAX };
        self.jump(Bound::Excluded(&place), false);
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.step(true);
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        self.step(false);
        Ok(())
    }

    fn valid(&self) -> bool {
        self.at < self.chunk.len()
    }

    fn key(&self) -> &[u8] {
        self.entry().key()
    }

    fn sequence(&self) -> u64 {
        self.entry().sequence()
    }

    fn kind(&self) -> Kind {
        self.entry().kind()
    }

    fn value(&self) -> &[u8] {
        let entry = self.entry();
        &entry.pair[entry.key_len as usize..]
    }

    fn key_slice(&self) -> Slice {
        self.entry().key_slice()
    }

    fn value_slice(&self) -> Slice {
        self.entry().value_slice()
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
            |key: &str, snapshot| memtable.get(key.as_bytes(), snapshot).map(|(_, value)| value.to_vec());
        assert_eq!(get("a", 4).as_deref(), Some(&b"a1"[..]));
        assert_eq!(get("a", 5).as_deref(), Some(&b"a5"[..]));
        assert_eq!(get("a\0", 9).as_deref(), Some(&b"a02"[..]));
        assert_eq!(get("ab", 2), None);
        assert_eq!(get("", 9), None);
        assert_eq!(memtable.first_segment(), Some(3));
    }

    #[test]
    fn a_cursor_walks_both_ways_across_chunks() {
        let memtable = Memtable::new(1 << 20);
        let count = 3 * CURSOR_CHUNK_MAX as u64 + 7;
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
