//! The filter: tells for most keys that are not in a table that they are not. There are two kinds; a table says by the
//! kind of the metadata block which it has. Only 8 bytes a key wait until their number is known.

mod blocked;
mod bloom;

use std::ops::Range;

use terrace_io::Result;

use crate::block::Wrong;
use crate::footer::{KIND_BLOCKED_FILTER, KIND_BLOOM_FILTER, MetadataBlock};
use crate::locator::LINE_BYTES;
use crate::reach::Reach;
use crate::{FilterKind, locator};
use blocked::BlockedFilter;
use bloom::BloomFilter;

/// The filter of a table.
#[derive(Debug)]
pub(crate) enum Filter {
    Blocked(BlockedFilter),
    Bloom(Box<BloomFilter>),
}

/// What a filter of this kind knows of a key of the table with this id.
#[inline]
pub(crate) fn digest(kind: FilterKind, key: &[u8], table_id: u64) -> u64 {
    match kind {
        FilterKind::Blocked => locator::hash(key, table_id),
        FilterKind::Bloom => bloom::digest(key),
    }
}

/// The bytes on disk of a filter over `digests` (at least one, each once) with `bits_per_key` bits for each.
pub(crate) fn build(kind: FilterKind, digests: &[u64], bits_per_key: u8) -> Vec<u8> {
    match kind {
        FilterKind::Blocked => BlockedFilter::build(digests, bits_per_key),
        FilterKind::Bloom => BloomFilter::build(digests, bits_per_key),
    }
}

/// How long [`build`] will be.
pub(crate) fn encoded_len(kind: FilterKind, keys: usize, bits_per_key: u8) -> usize {
    match kind {
        FilterKind::Blocked => BlockedFilter::encoded_len(keys, bits_per_key),
        FilterKind::Bloom => BloomFilter::encoded_len(keys, bits_per_key),
    }
}

/// The kind of metadata block that it is.
pub(crate) fn block_kind(kind: FilterKind) -> u32 {
    match kind {
        FilterKind::Blocked => KIND_BLOCKED_FILTER,
        FilterKind::Bloom => KIND_BLOOM_FILTER,
    }
}

/// What its offset in the metadata region is a multiple of.
pub(crate) fn alignment(kind: FilterKind) -> usize {
    match kind {
        FilterKind::Blocked => LINE_BYTES,
        FilterKind::Bloom => 8,
    }
}

/// Where the filter is, if the table has one.
pub(crate) fn place(directory: &[MetadataBlock]) -> Option<&MetadataBlock> {
    directory.iter().find(|block| [KIND_BLOCKED_FILTER, KIND_BLOOM_FILTER].contains(&block.kind))
}

impl Filter {
    /// Reads the filter at `place`, or of a blocked one the header. The inner error says why it is refused.
    pub(crate) fn read<'t>(reach: impl Reach<'t>, place: &MetadataBlock) -> Result<Result<Filter, Wrong>> {
        if place.kind == KIND_BLOCKED_FILTER {
            return Ok(BlockedFilter::read(reach, place)?.map(Filter::Blocked));
        }
        let start = place.offset as usize;
        let bytes = reach.bytes(start..start + place.len as usize)?;
        Ok(BloomFilter::read(bytes).map(|filter| Filter::Bloom(Box::new(filter))))
    }

    /// Whether a key may be in the table, whose id this is and whose metadata is reached. If not, it is not.
    #[inline]
    pub(crate) fn may_contain<'t>(&self, reach: impl Reach<'t>, table_id: u64, key: &[u8]) -> Result<bool> {
        match self {
            Filter::Blocked(filter) => filter.may_contain(reach, locator::hash(key, table_id)),
            Filter::Bloom(filter) => Ok(filter.may_contain(key)),
        }
    }

    /// Where in the metadata region it looks for a key; `None` if that is all over it.
    pub(crate) fn looks_at(&self, table_id: u64, key: &[u8]) -> Option<Range<usize>> {
        let Filter::Blocked(filter) = self else { return None };
        let at = filter.line_at(locator::hash(key, table_id));
        Some(at..at + LINE_BYTES)
    }

    /// Bytes of heap.
    pub(crate) fn heap_bytes(&self) -> u64 {
        match self {
            Filter::Blocked(_) => 0,
            Filter::Bloom(filter) => filter.heap_bytes(),
        }
    }
}
