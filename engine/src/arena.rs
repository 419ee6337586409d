//! Where a memtable keeps its entries: chunks of memory that one thread fills from front to back, while any number of
//! others read what is already there.
//!
//! Nothing in a chunk changes or goes before the whole chunk does, so an entry is found by its [`EntryId`] for as long
//! as the arena lives, and a value can be handed out with a reference to its chunk alone. Freeing a memtable of a
//! hundred thousand entries frees some dozens of chunks: an allocator that has to merge a hundred thousand small
//! pieces holds its lock for tens of milliseconds, in which writers wait.
//!
//! An entry is its stamp (`u64`: sequence number, then kind in the low 8 bits), the lengths of key and value (`u32`
//! each), key and value.

#![expect(
    unsafe_code,
    reason = "bytes are written while others before them are read; see the comment of `Chunk`"
)]

use std::cell::UnsafeCell;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use terrace_io::prefetch;
use terrace_sstable::{Kind, Slice, SliceOwner};

/// The capacity of the first chunk; each further one has twice as much, up to the most.
const CHUNK_BYTES_FIRST: usize = 4 << 10;
/// What a reference to one value keeps in memory at most, beside large values.
const CHUNK_BYTES_MAX: usize = 256 << 10;
/// Entries from this size on have a chunk of their own.
const ALONE_BYTES: usize = 32 << 10;

/// Bytes in front of a key: stamp and lengths.
const HEAD_BYTES: usize = 16;

/// Bytes that are written once, front to back. Those below `published` never change again; those above are touched by
/// nobody but the one [`ChunkWriter`]. Aligned, so that the counter of references is not where all readers look.
#[repr(align(64))]
struct Chunk {
    bytes: Box<[UnsafeCell<MaybeUninit<u8>>]>,
    published: AtomicUsize,
}

// SAFETY: threads that share a chunk read bytes below `published` only, which do not change, and whose writing happened
// before `published` was raised (release) and read (acquire). The bytes above it are reached through the chunk's only
// `ChunkWriter`, by one thread at a time, since that takes `&mut`.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        let len = self.published.load(Ordering::Acquire);
        // SAFETY: the first `len` bytes lie within the allocation, are initialised, and do not change while the chunk
        // lives, as said above.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().cast(), len) }
    }
}

impl SliceOwner for Chunk {
    fn bytes(&self) -> &[u8] {
        Chunk::bytes(self)
    }

    fn heap_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// The right to append to a chunk: there is one for each, and it makes the chunk.
struct ChunkWriter(Arc<Chunk>);

impl ChunkWriter {
    fn new(capacity: usize) -> ChunkWriter {
        let bytes = Box::<[UnsafeCell<MaybeUninit<u8>>]>::new_uninit_slice(capacity);
        // SAFETY: an uninitialised byte is a valid `MaybeUninit`.
        let bytes = unsafe { bytes.assume_init() };
        ChunkWriter(Arc::new(Chunk { bytes, published: AtomicUsize::new(0) }))
    }

    fn room(&self) -> usize {
        self.0.bytes.len() - self.0.published.load(Ordering::Relaxed)
    }

    /// Appends `head` and `pair`, for which there is room, and publishes them. Says where they start.
    fn append(&mut self, head: &[u8; HEAD_BYTES], pair: &[u8]) -> usize {
        assert!(HEAD_BYTES + pair.len() <= self.room(), "whoever appends has made sure that there is room");
        let start = self.0.published.load(Ordering::Relaxed);
        let end = start + HEAD_BYTES + pair.len();
        let unpublished = UnsafeCell::raw_get(self.0.bytes[start..end].as_ptr()).cast::<u8>();
        // SAFETY: `start..end` lies within the allocation, above what is published: nobody reads it, and only this
        // writer, borrowed mutably, writes it. `head` and `pair` are other memory, since nothing can borrow this.
        unsafe {
            unpublished.copy_from_nonoverlapping(head.as_ptr(), HEAD_BYTES);
            unpublished.add(HEAD_BYTES).copy_from_nonoverlapping(pair.as_ptr(), pair.len());
        }
        self.0.published.store(end, Ordering::Release);
        start
    }
}

/// Which entry of an arena: the chunk's index above, the offset in it below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct EntryId(u64);

impl EntryId {
    pub fn to_bits(self) -> u64 {
        self.0
    }

    pub fn from_bits(bits: u64) -> EntryId {
        EntryId(bits)
    }

    fn chunk(self) -> usize {
        (self.0 >> 32) as usize
    }

    fn offset(self) -> usize {
        self.0 as u32 as usize
    }
}

/// One version of one key, where it lies.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    stamp: u64,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

impl Entry<'_> {
    pub fn sequence(&self) -> u64 {
        self.stamp >> 8
    }

    pub fn kind(&self) -> Kind {
        Kind::from_byte(self.stamp as u8).expect("an arena holds only kinds that were put into it")
    }
}

/// The entries of a memtable, in the order of their coming.
#[derive(Default)]
pub(crate) struct Arena {
    chunks: boxcar::Vec<Arc<Chunk>>,
}

/// The right to add to an arena.
#[derive(Default)]
pub(crate) struct ArenaWriter {
    /// The chunk that is being filled, and its index.
    current: Option<(ChunkWriter, usize)>,
    next_capacity: usize,
    /// Of all chunks.
    heap_bytes: usize,
}

impl ArenaWriter {
    /// How many bytes of heap the arena takes.
    pub fn heap_bytes(&self) -> usize {
        self.heap_bytes
    }
}

impl Arena {
    /// Adds an entry. `pair` is key and value together; `writer` is the one that this arena has had from the start.
    pub fn append(
        &self,
        writer: &mut ArenaWriter,
        pair: &[u8],
        key_len: usize,
        sequence: u64,
        kind: Kind,
    ) -> EntryId {
        let lengths = (key_len as u64) | ((pair.len() - key_len) as u64) << 32;
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&(sequence << 8 | kind as u64).to_le_bytes());
        head[8..].copy_from_slice(&lengths.to_le_bytes());

        let len = HEAD_BYTES + pair.len();
        if len >= ALONE_BYTES {
            writer.heap_bytes += len;
            let mut alone = ChunkWriter::new(len);
            let offset = alone.append(&head, pair);
            return EntryId((self.chunks.push(alone.0) as u64) << 32 | offset as u64);
        }
        let (chunk, index) = match &mut writer.current {
            Some(current) if current.0.room() >= len => current,
            current => {
                let capacity = writer.next_capacity.clamp(CHUNK_BYTES_FIRST, CHUNK_BYTES_MAX);
                writer.next_capacity = 2 * capacity;
                let capacity = capacity.max(len);
                writer.heap_bytes += capacity;
                let chunk = ChunkWriter::new(capacity);
                let index = self.chunks.push(chunk.0.clone());
                current.insert((chunk, index))
            }
        };
        EntryId((*index as u64) << 32 | chunk.append(&head, pair) as u64)
    }

    /// The entry that `append` gave this id to.
    pub fn entry(&self, id: EntryId) -> Entry<'_> {
        let (head, rest) = self.chunks[id.chunk()].bytes()[id.offset()..]
            .split_first_chunk::<HEAD_BYTES>()
            .expect("an id is that of an entry");
        let (stamp, lengths) = head.split_first_chunk().expect("8 of 16 bytes");
        let lengths = u64::from_le_bytes(*lengths.first_chunk().expect("8 of 16 bytes"));
        let (key, rest) = rest.split_at(lengths as u32 as usize);
        Entry { stamp: u64::from_le_bytes(*stamp), key, value: &rest[..(lengths >> 32) as usize] }
    }

    /// Has the processor fetch an entry that will be looked at soon, and does not wait for it.
    #[inline]
    pub fn prefetch(&self, id: EntryId) {
        if let Some(chunk) = self.chunks.get(id.chunk()) {
            let at = chunk.bytes.as_ptr().cast::<u8>().wrapping_add(id.offset());
            prefetch(at);
            prefetch(at.wrapping_add(64));
        }
    }

    /// The key of an entry, kept alive.
    pub fn key_slice(&self, id: EntryId) -> Slice {
        let start = id.offset() + HEAD_BYTES;
        self.slice(id, start..start + self.entry(id).key.len())
    }

    /// The value of an entry, kept alive.
    pub fn value_slice(&self, id: EntryId) -> Slice {
        let entry = self.entry(id);
        let start = id.offset() + HEAD_BYTES + entry.key.len();
        self.slice(id, start..start + entry.value.len())
    }

    fn slice(&self, id: EntryId, range: Range<usize>) -> Slice {
        let chunk = self.chunks[id.chunk()].clone();
        Slice::from_owner(chunk, range)
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("chunks", &self.chunks.count()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_what_they_were() {
        let (arena, mut writer) = (Arena::default(), ArenaWriter::default());
        let pair = |i: usize| vec![i as u8; [0, 1, 100, 5_000, ALONE_BYTES, 1_000_000][i % 6]];
        let ids: Vec<EntryId> = (0..3_000)
            .map(|i| arena.append(&mut writer, &pair(i), pair(i).len() / 3, i as u64, Kind::Put))
            .collect();
        for (i, &id) in ids.iter().enumerate() {
            let (entry, pair) = (arena.entry(id), pair(i));
            assert_eq!((entry.sequence(), entry.kind()), (i as u64, Kind::Put));
            assert_eq!((entry.key, entry.value), pair.split_at(pair.len() / 3));
            assert_eq!(arena.key_slice(id), *entry.key);
            assert_eq!(arena.value_slice(id), *entry.value);
        }
    }

    #[test]
    fn a_slice_outlives_its_arena() {
        let (arena, mut writer) = (Arena::default(), ArenaWriter::default());
        let id = arena.append(&mut writer, b"keyvalue", 3, 7, Kind::Put);
        let value = arena.value_slice(id);
        drop((arena, writer));
        assert_eq!(value, b"value");
        assert_eq!(value.pinned_bytes(), CHUNK_BYTES_FIRST as u64);
    }

    #[test]
    fn what_is_published_is_read_while_more_is_written() {
        let arena = Arena::default();
        let (ids, seen) = (boxcar::Vec::new(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut writer = ArenaWriter::default();
                for i in 0..100_000_u64 {
                    ids.push(arena.append(&mut writer, &[i as u8; 24], 8, i, Kind::Delete));
                }
            });
            scope.spawn(|| {
                while seen.load(Ordering::Relaxed) < 100_000 {
                    for (i, &id) in ids.iter().skip(seen.load(Ordering::Relaxed)) {
                        let entry = arena.entry(id);
                        assert_eq!((entry.sequence(), entry.key), (i as u64, &[i as u8; 8][..]));
                        assert_eq!((entry.kind(), entry.value), (Kind::Delete, &[i as u8; 16][..]));
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        });
    }
}
