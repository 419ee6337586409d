//! What the comparison asks of an engine.
//!
//! The methods that are measured return sums instead of lending bytes, so that each engine's own code reads the value
//! where it lies and no call through a pointer comes between two entries of a scan.

use terrace_benches::{KEY_BYTES, VALUE_BYTES};
use terrace_tools::ycsb::record::Key;

/// What goes wrong in an engine or in a measurement.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What everything here returns.
pub type Result<T = ()> = std::result::Result<T, Error>;

/// Bytes of a record that the user gave: key and value.
pub const RECORD_BYTES: u64 = (KEY_BYTES + VALUE_BYTES) as u64;

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The process, but not the machine: nobody waits for the disk.
    Buffered,
    /// Power loss: each write waits for the disk.
    Synced,
}

/// How an engine is opened.
#[derive(Debug, Clone, Copy)]
pub struct OpenOptions {
    /// What writes survive.
    pub durability: Durability,
    /// How many records there are or will be: caches are made larger than all of them.
    pub records: u64,
    /// Bytes that a memtable may hold before it is written to a table, where the engine has such a thing; its own
    /// default without.
    pub memtable_bytes: Option<u64>,
    /// Bytes of memory that the process may use, page cache included, if that is less than everything takes.
    pub memory_bytes: Option<u64>,
}

impl OpenOptions {
    /// Buffered, with the engine's own memtables.
    pub fn buffered(records: u64) -> Self {
        OpenOptions { durability: Durability::Buffered, records, memtable_bytes: None, memory_bytes: None }
    }

    /// Bytes of cache for an engine that has one: 2 GiB, or two and a half times the records if that is more; half of
    /// the memory if that is limited.
    pub fn cache_bytes(&self) -> u64 {
        if let Some(bytes) = self.memory_bytes {
            return bytes / 2;
        }
        (2 << 30).max(self.records.saturating_mul(RECORD_BYTES) / 2 * 5)
    }
}

/// The way that a scan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Upwards.
    Forward,
    /// Downwards.
    Reverse,
}

/// What a scan visits.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// The first key, if it is there, otherwise the next one in the direction; the very first or last without.
    pub from: Option<&'a [u8]>,
    /// The direction.
    pub direction: Direction,
    /// At most so many entries.
    pub limit: u64,
}

impl Span<'_> {
    /// Everything.
    pub fn all(direction: Direction) -> Span<'static> {
        Span { from: None, direction, limit: u64::MAX }
    }
}

/// What a scan read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Touched {
    /// How many entries.
    pub entries: u64,
    /// The sum of all their bytes.
    pub sum: u64,
}

impl Touched {
    /// Reads one entry.
    #[inline]
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.entries += 1;
        self.sum = self.sum.wrapping_add(sum(key)).wrapping_add(sum(value));
    }
}

/// Reads every byte.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    rest.iter().fold(words, |sum, &byte| sum.wrapping_add(u64::from(byte)))
}

/// How an engine shows what it holds: the part of reading that is its own. What is read is neither copied nor passed
/// through a pointer to a function, unless the engine does so itself.
pub trait ReadsInPlace {
    /// Shows the value of a key to `read`. Sees every write that was acknowledged before.
    fn find<T>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>>;

    /// Shows the entries of a span to `visit`.
    fn each(&self, span: Span<'_>, visit: impl FnMut(&[u8], &[u8])) -> Result;
}

/// The reads that are measured, the same for all, and compiled for each.
pub trait Reads {
    /// The sum of a value's bytes. Sees every write that was acknowledged before.
    fn get(&self, key: &[u8]) -> Result<Option<u64>>;

    /// Copies a value into `value`, replacing what it holds; whether there is one.
    fn read(&self, key: &[u8], value: &mut Vec<u8>) -> Result<bool>;

    /// Reads every byte of a span.
    fn touch(&self, span: Span<'_>) -> Result<Touched>;

    /// Passes the entries of a span to `visit`.
    fn scan(&self, span: Span<'_>, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result;
}

impl<E: ReadsInPlace> Reads for E {
    fn get(&self, key: &[u8]) -> Result<Option<u64>> {
        self.find(key, sum)
    }

    fn read(&self, key: &[u8], value: &mut Vec<u8>) -> Result<bool> {
        value.clear();
        Ok(self.find(key, |found| value.extend_from_slice(found))?.is_some())
    }

    fn touch(&self, span: Span<'_>) -> Result<Touched> {
        let mut touched = Touched::default();
        self.each(span, |key, value| touched.add(key, value))?;
        Ok(touched)
    }

    fn scan(&self, span: Span<'_>, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result {
        self.each(span, visit)
    }
}

/// An open engine. Called from several threads at once.
pub trait Engine: Reads + Sync {
    /// How it is set up, a line for each thing that matters.
    fn settings(&self) -> Vec<String>;

    /// Writes a record, whether or not it exists.
    fn put(&self, key: &[u8], value: &[u8]) -> Result;

    /// Writes several records at once.
    fn put_batch(&self, records: &[(Key, Vec<u8>)]) -> Result;

    /// Removes a key.
    fn delete(&self, key: &[u8]) -> Result;

    /// A view of everything as it is now, for the thread that made it, which reads nothing else meanwhile.
    fn view(&self) -> Result<Box<dyn View + '_>>;

    /// Makes everything durable, and waits until the engine has nothing left to do.
    fn settle(&self) -> Result;

    /// Rewrites everything into as little space as the engine can. Whether it can do so at all.
    fn compact(&mut self) -> Result<bool>;

    /// Closes it.
    fn close(self: Box<Self>) -> Result;
}

/// A state of an engine that stays as it was.
pub trait View {
    /// The sum of a value's bytes.
    fn get(&self, key: &[u8]) -> Result<Option<u64>>;
}
