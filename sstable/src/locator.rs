//! The locator: a static hash table from the keys of a table to the block and slot where the newest version of each
//! stands. A get waits for memory twice: for a bucket, and for the block, of which header, slot and entry are fetched
//! at once, the entry where it should be if all are of one length; a third time if it is not there. A get of a key that
//! is not there waits for a bucket only, as a rule. The locator is read where it lies in the file. Frozen:
//! `docs/format.md` §2.7.

use std::ops::Range;

use terrace_io::{Result, equal_words};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::footer::MetadataBlock;
use crate::metadata::Metadata;
use crate::reach::Reach;

/// Bytes of the header and of a bucket: a cache line.
pub(crate) const LINE_BYTES: usize = 64;
/// Bytes of a word of a bucket.
pub(crate) const WORD_BYTES: usize = 4;
/// Entries that a bucket has room for: all of its words but the first.
pub(crate) const BUCKET_ENTRIES_MAX: u32 = 15;
/// Keys for each bucket, on average. At 12, one bucket in five overflows.
const BUCKET_KEYS: u64 = 12;
/// No lookup looks at more buckets. Tables of half a million keys need up to about 30.
pub(crate) const LOOKUP_BUCKETS_MAX: u32 = 64;
/// An entry keeps at least 8 of its bits for the fingerprint.
const LOCATION_BITS_MAX: u8 = 24;
/// The first word of a bucket: how many entries it has, and whether to look on in the next.
const COUNT: u32 = 0x0f;
const OVERFLOW: u32 = 1 << 31;

/// What the locator of table `table_id` knows of a key.
#[inline]
pub(crate) fn hash(key: &[u8], table_id: u64) -> u64 {
    xxh3_64_with_seed(key, table_id)
}

/// How many bytes a locator for so many keys takes.
pub(crate) fn bytes_for(keys: u64) -> u64 {
    keys / BUCKET_KEYS * LINE_BYTES as u64
}

/// How many bits a number needs; 0 needs none.
pub(crate) fn bits_for(number: u64) -> u8 {
    (u64::BITS - number.leading_zeros()) as u8
}

/// What a table's locator says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocatorHeader {
    /// How many buckets it has.
    pub buckets: u32,
    /// Bits of the slot in an entry.
    pub slot_bits: u8,
    /// Bits of block and slot in an entry; the rest of its 32 are the fingerprint.
    pub location_bits: u8,
    /// The number of distinct keys in the table.
    pub keys: u64,
}

impl LocatorHeader {
    /// That of a locator for `keys` keys in a table of so many blocks, whose largest slot is `slot_max`. `None` if the
    /// locations would be too wide.
    pub(crate) fn new(keys: u64, blocks: u64, slot_max: u64) -> Option<LocatorHeader> {
        let slot_bits = bits_for(slot_max);
        let location_bits = slot_bits + bits_for(blocks.saturating_sub(1));
        let buckets = u32::try_from(keys.div_ceil(BUCKET_KEYS).max(1)).ok()?;
        (location_bits <= LOCATION_BITS_MAX).then_some(LocatorHeader {
            buckets,
            slot_bits,
            location_bits,
            keys,
        })
    }

    /// How long the locator is.
    pub(crate) fn encoded_len(&self) -> usize {
        LINE_BYTES * (1 + self.buckets as usize)
    }

    fn encode(&self) -> [u8; LINE_BYTES] {
        let mut bytes = [0; LINE_BYTES];
        bytes[..4].copy_from_slice(&self.buckets.to_le_bytes());
        bytes[4..6].copy_from_slice(&[self.slot_bits, self.location_bits]);
        bytes[8..16].copy_from_slice(&self.keys.to_le_bytes());
        bytes
    }

    /// The bucket where the search for a key begins.
    #[inline]
    fn home(&self, hash: u64) -> u32 {
        (((hash >> 32) * u64::from(self.buckets)) >> 32) as u32
    }

    /// The fingerprint of a key, where it stands in an entry. No location is wider than 24 bits.
    #[inline]
    fn fingerprint(&self, hash: u64) -> u32 {
        (hash as u32) << self.location_bits
    }

    #[inline]
    fn following(&self, bucket: u32) -> u32 {
        if bucket + 1 == self.buckets { 0 } else { bucket + 1 }
    }
}

/// Collects hashes and locations while a table is written: 12 bytes for each key.
#[derive(Debug, Default)]
pub(crate) struct LocatorBuilder {
    hashes: Vec<u64>,
    /// For each key its newest entry: which of the table's it is. (Its block and slot follow from `firsts`.)
    newest: Vec<u32>,
    /// The first entry of each block: which of the table's it is.
    firsts: Vec<u32>,
    /// How many entries there are. What is not too wide has at most 2^24, and those of one block.
    entries: u32,
    /// The largest slot of the blocks before the last.
    slot_max: u32,
}

impl LocatorBuilder {
    /// Another block starts. False if there are too many for a locator by now: then the builder is of no more use.
    pub(crate) fn start_block(&mut self) -> bool {
        self.slot_max = self.largest_slot();
        self.firsts.push(self.entries);
        self.header().is_some()
    }

    /// An entry is added to the last block: with its hash if it is the first of its key.
    pub(crate) fn add(&mut self, hash: Option<u64>) {
        if let Some(hash) = hash {
            self.hashes.push(hash);
            self.newest.push(self.entries);
        }
        self.entries += 1;
    }

    /// How long [`LocatorBuilder::finish`] will be.
    pub(crate) fn encoded_len(&self) -> usize {
        self.header().map_or(0, |header| header.encoded_len())
    }

    fn largest_slot(&self) -> u32 {
        let of_last = self.firsts.last().map_or(0, |first| (self.entries - first).saturating_sub(1));
        self.slot_max.max(of_last)
    }

    fn header(&self) -> Option<LocatorHeader> {
        let (keys, blocks) = (self.hashes.len() as u64, self.firsts.len() as u64);
        LocatorHeader::new(keys, blocks, self.largest_slot().into())
    }

    /// The bytes on disk. `None` if the locations are too wide, or if some lookup would have to look at too many
    /// buckets.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        let header = self.header()?;
        let mut bytes = vec![0; header.encoded_len()];
        let (first, buckets) = bytes.split_at_mut(LINE_BYTES);
        first.copy_from_slice(&header.encode());
        let (buckets, _) = buckets.as_chunks_mut::<LINE_BYTES>();
        let mut block = 0;
        for (&hash, &newest) in self.hashes.iter().zip(&self.newest) {
            while self.firsts.get(block + 1).is_some_and(|first| *first <= newest) {
                block += 1;
            }
            let location = (block as u32) << header.slot_bits | (newest - self.firsts[block]);
            if !insert(buckets, &header, hash, location) {
                return None;
            }
        }
        // A lookup of a key that is not there goes through all the buckets in a row that overflow.
        let mut in_a_row = 0;
        for bucket in buckets.iter().chain(buckets.iter().take(LOOKUP_BUCKETS_MAX as usize)) {
            in_a_row = if word(bucket, 0) & OVERFLOW == 0 { 0 } else { in_a_row + 1 };
            if in_a_row == LOOKUP_BUCKETS_MAX {
                return None;
            }
        }
        Some(bytes)
    }
}

/// Enters a key in the first bucket from its home on that has room. False if that is too far.
fn insert(buckets: &mut [[u8; LINE_BYTES]], header: &LocatorHeader, hash: u64, location: u32) -> bool {
    let mut index = header.home(hash);
    for _ in 0..LOOKUP_BUCKETS_MAX {
        let bucket = &mut buckets[index as usize];
        let first = word(bucket, 0);
        let count = first & COUNT;
        if count < BUCKET_ENTRIES_MAX {
            set_word(bucket, 0, first + 1);
            set_word(bucket, count as usize + 1, header.fingerprint(hash) | location);
            return true;
        }
        set_word(bucket, 0, first | OVERFLOW);
        index = header.following(index);
    }
    false
}

/// Word `index` (below 16) of a bucket.
#[inline]
fn word(bucket: &[u8; LINE_BYTES], index: usize) -> u32 {
    u32::from_le_bytes(bucket.as_chunks::<WORD_BYTES>().0[index])
}

fn set_word(bucket: &mut [u8; LINE_BYTES], index: usize, word: u32) {
    bucket.as_chunks_mut::<WORD_BYTES>().0[index] = word.to_le_bytes();
}

/// The words of a bucket that have such a fingerprint, and count: bit *i* stands for word *i*.
#[inline]
fn matches(bucket: &[u8; LINE_BYTES], fingerprint: u32, fingerprint_mask: u32) -> u32 {
    let equal = equal_words(bucket, fingerprint, fingerprint_mask);
    equal & ((2 << (word(bucket, 0) & COUNT)) - 2)
}

/// The locator of a table: what its header says, and where it is in the metadata region.
#[derive(Debug)]
pub(crate) struct Locator {
    pub(crate) header: LocatorHeader,
    fingerprint_mask: u32,
    /// Where the buckets start in the metadata region.
    start: usize,
}

/// A place in the table where a key may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    /// The number of a data block, which may not exist.
    pub(crate) block: usize,
    /// The number of an entry in it, which may not exist.
    pub(crate) slot: usize,
}

impl Locator {
    /// Reads a locator that `place` gives, of whose bytes `header` are the first 64 (or all, if it has less). The error
    /// says why it is refused.
    pub(crate) fn read(place: &MetadataBlock, header: &[u8]) -> Result<Locator, &'static str> {
        let Some(bytes) = header.first_chunk::<LINE_BYTES>() else {
            return Err("the locator is cut off");
        };
        let header = LocatorHeader {
            buckets: word(bytes, 0),
            slot_bits: bytes[4],
            location_bits: bytes[5],
            keys: u64::from_le_bytes(bytes[8..16].try_into().expect("8 of 64 bytes")),
        };
        if !place.offset.is_multiple_of(LINE_BYTES as u64) {
            return Err("the locator does not start on a line of 64 bytes");
        }
        if bytes[6..8] != [0; 2] || bytes[16..] != [0; 48] {
            return Err("reserved bytes of the locator are not zero");
        }
        if header.buckets == 0 || place.len != LINE_BYTES as u64 * (1 + u64::from(header.buckets)) {
            return Err("the locator's length does not fit its header");
        }
        if header.slot_bits > header.location_bits || header.location_bits > LOCATION_BITS_MAX {
            return Err("the locator's entries have impossible parts");
        }
        let fingerprint_mask = u32::MAX << header.location_bits;
        Ok(Locator { header, fingerprint_mask, start: place.offset as usize + LINE_BYTES })
    }

    /// Where bucket `index` is in the metadata region.
    #[inline]
    pub(crate) fn bucket_at(&self, index: u32) -> usize {
        self.start + LINE_BYTES * index as usize
    }

    /// Begins to look up the key with this hash: looks at its first bucket.
    #[inline]
    pub(crate) fn lookup<'m, R: Reach<'m>>(&'m self, reach: R, hash: u64) -> Result<Lookup<'m, R>> {
        let (home, fingerprint) = (self.header.home(hash), self.header.fingerprint(hash));
        let bucket = self.bucket(reach, home)?;
        Ok(Lookup {
            locator: self,
            reach,
            fingerprint,
            next: self.header.following(home),
            looked_at: 1,
            bucket,
            matches: matches(bucket, fingerprint, self.fingerprint_mask),
        })
    }

    /// Has the processor fetch the bucket where the lookup of a key with this hash will begin.
    #[inline]
    pub(crate) fn prefetch(&self, metadata: &Metadata, hash: u64) {
        metadata.prefetch(self.bucket_at(self.header.home(hash)));
    }

    /// Where in the metadata region the bucket is where a lookup begins.
    pub(crate) fn home_bytes(&self, hash: u64) -> Range<usize> {
        let at = self.bucket_at(self.header.home(hash));
        at..at + LINE_BYTES
    }

    /// The bucket where a lookup begins.
    pub(crate) fn home(&self, hash: u64) -> u32 {
        self.header.home(hash)
    }

    /// What an entry of the key with this hash has to tell it from others.
    pub(crate) fn fingerprint(&self, hash: u64) -> u32 {
        self.header.fingerprint(hash) >> self.header.location_bits
    }

    /// Whether bucket `index` says that a key from it or from before is in a later one, and the words of its entries
    /// and of what is behind them.
    pub(crate) fn contents<'m>(&self, metadata: &'m Metadata, index: u32) -> Result<Contents<'m>> {
        let bucket = self.bucket(metadata, index)?;
        let (first, words) = (word(bucket, 0), bucket.as_chunks::<WORD_BYTES>().0);
        let (entries, rest) = words[1..].split_at((first & COUNT) as usize);
        Ok(Contents { overflows: first & OVERFLOW != 0, entries: entries.len(), rest })
    }

    #[inline]
    fn bucket<'m>(&self, reach: impl Reach<'m>, index: u32) -> Result<&'m [u8; LINE_BYTES]> {
        let at = self.bucket_at(index);
        let bucket = reach.line(at)?;
        if word(bucket, 0) & !(COUNT | OVERFLOW) != 0 {
            let what = "reserved bits of this bucket of the locator are not zero";
            return Err(reach.metadata().damaged(at, what));
        }
        Ok(bucket)
    }
}

/// What is in a bucket, for whoever checks it.
pub(crate) struct Contents<'m> {
    /// Whether a key from here or from before is in a later bucket.
    pub(crate) overflows: bool,
    /// How many entries there are.
    pub(crate) entries: usize,
    /// The words behind them.
    pub(crate) rest: &'m [[u8; WORD_BYTES]],
}

/// A key that is being looked up: goes from bucket to bucket and names the places where it may stand.
pub(crate) struct Lookup<'m, R> {
    locator: &'m Locator,
    reach: R,
    fingerprint: u32,
    /// The bucket to be looked at next.
    next: u32,
    /// How many have been looked at.
    looked_at: u32,
    bucket: &'m [u8; LINE_BYTES],
    /// Its words that are still to be named.
    matches: u32,
}

impl<'m, R: Reach<'m>> Lookup<'m, R> {
    /// Whether there are no more places where the key may stand, as can be told from the bucket that was looked at last.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        self.matches == 0 && word(self.bucket, 0) & OVERFLOW == 0
    }

    /// The next place where the key may stand; `None` if there is no more, and if none was it, the key is not there.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Result<Option<Location>> {
        while self.matches == 0 {
            if self.is_over() {
                return Ok(None);
            }
            if self.looked_at == self.locator.header.buckets.min(LOOKUP_BUCKETS_MAX) {
                return Err(self.leads_too_far());
            }
            self.bucket = self.locator.bucket(self.reach, self.next)?;
            self.matches = matches(self.bucket, self.fingerprint, self.locator.fingerprint_mask);
            self.next = self.locator.header.following(self.next);
            self.looked_at += 1;
        }
        let found = self.matches.trailing_zeros() as usize;
        self.matches &= self.matches - 1;
        let location = word(self.bucket, found % 16) & !self.locator.fingerprint_mask;
        let slot_bits = self.locator.header.slot_bits;
        let slot = location & !(u32::MAX << slot_bits);
        Ok(Some(Location { block: (location >> slot_bits) as usize, slot: slot as usize }))
    }

    /// How it gets at the buckets.
    #[inline]
    pub(crate) fn reach(&self) -> R {
        self.reach
    }

    /// How many buckets have been looked at.
    pub(crate) fn looked_at(&self) -> u32 {
        self.looked_at
    }

    /// Where the bucket that was looked at last is in the metadata region.
    pub(crate) fn bucket_at(&self) -> usize {
        let buckets = self.locator.header.buckets;
        self.locator.bucket_at(if self.next == 0 { buckets - 1 } else { self.next - 1 })
    }

    /// The error for a location that does not exist.
    #[cold]
    pub(crate) fn leads_nowhere(&self, location: Location) -> terrace_io::Error {
        let Location { block, slot } = location;
        let what = format!("the locator gives slot {slot} of block {block}, which does not exist");
        self.reach.metadata().damaged(self.bucket_at(), what)
    }

    #[cold]
    fn leads_too_far(&self) -> terrace_io::Error {
        let what = format!("the locator leads through more than {} buckets", self.looked_at());
        self.reach.metadata().damaged(self.bucket_at(), what)
    }
}

#[cfg(test)]
#[path = "locator_tests.rs"]
mod tests;
