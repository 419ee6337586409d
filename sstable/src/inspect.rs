//! What is in a table, for people who look inside: its layout, and how a key is looked up in it.

use std::ops::Range;
use std::sync::Arc;

use terrace_io::Result;

use crate::block::BlockHead;
use crate::cursor::{Cursor, ScanMode};
use crate::footer::{Footer, MetadataBlock};
use crate::storage::Storage;
use crate::{Kind, Properties, Slice, Table, TableContext};
use crate::{filter, locator};

/// The parts of a table file.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Its end.
    pub footer: Footer,
    /// What it says about itself.
    pub properties: Properties,
    /// The data blocks, in order.
    pub blocks: Vec<BlockInfo>,
    /// The metadata blocks, in ascending order of kind. Their offsets count from [`Footer::meta_offset`].
    pub metadata: Vec<MetadataBlock>,
}

/// A data block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockInfo {
    /// Where it starts in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub len: u64,
    /// Bytes without compression; as many if it has none.
    pub raw_len: u64,
    /// How many entries it has.
    pub entries: u64,
    /// Whether it is compressed.
    pub compressed: bool,
    /// Its first key.
    pub first_key: Vec<u8>,
    /// Its fence: not above the first key, and above the last of the block before (or equal to both).
    pub separator: Vec<u8>,
}

/// Reads all blocks of a table and tells where its parts are.
pub fn layout(table: &Table) -> Result<Layout> {
    table.read(|storage| layout_of(storage, table.context()))
}

fn layout_of(storage: &Storage, context: &TableContext) -> Result<Layout> {
    let mut blocks = Vec::new();
    for index in 0..storage.fences.len() {
        let extent = storage.extent(index)?;
        let block = storage.block(context, index, false)?;
        let wrong = |what| storage.damaged_block(index, what);
        let head = BlockHead::read(&block).map_err(wrong)?;
        let first = head.entry(&block, 0).map_err(wrong)?;
        blocks.push(BlockInfo {
            offset: extent.start,
            len: extent.end - extent.start,
            raw_len: block.len() as u64,
            entries: head.count as u64,
            compressed: storage.is_block_compressed(index)?,
            first_key: block[first.key_range()].to_vec(),
            separator: storage.fences.separator(&storage.metadata, index)?,
        });
    }
    Ok(Layout {
        footer: storage.footer,
        properties: storage.properties.clone(),
        blocks,
        metadata: storage.directory.clone(),
    })
}

/// How a key is looked up in a table, step by step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whether the key lies in the table's key range. If not, a get stops here.
    pub in_range: bool,
    /// What the locator says; `None` without one. If it leads to nothing, a get stops here.
    pub locator: Option<Located>,
    /// Whether the filter lets the key through; `None` without a filter. If not, a get stops here. Where there is a
    /// locator, a get does not ask it.
    pub filter: Option<bool>,
    /// What kind of filter it is, in words; `None` if the table has none, be it one that can be used or not.
    pub filter_name: Option<&'static str>,
    /// Where in the file the filter looks for the key; empty without a filter.
    pub filter_place: Range<u64>,
    /// Where the fences are in the file.
    pub fences_place: Range<u64>,
    /// The data block that the fences point to.
    pub block: usize,
    /// Where it is in the file.
    pub block_offset: u64,
    /// Bytes of it in the file.
    pub block_len: u64,
    /// How many entries it has.
    pub block_entries: u64,
    /// Whether it is compressed.
    pub block_compressed: bool,
    /// The first slot of the block at or after the key; `None` if that is in the next block, or nowhere.
    pub slot: Option<usize>,
    /// All versions of the key in the table, newest first.
    pub versions: Vec<VersionInfo>,
    /// Which of the versions a reader at the snapshot sees.
    pub visible: Option<usize>,
}

/// What a locator says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The bucket where the lookup began.
    pub home: u32,
    /// How many buckets it looked at.
    pub buckets: u32,
    /// Where these are in the file.
    pub places: Vec<Range<u64>>,
    /// By which an entry is known to be the key's, as far as it goes.
    pub fingerprint: u32,
    /// How many entries of other keys it was led to, because they have the same fingerprint.
    pub mistaken: u32,
    /// Block and slot of the key's newest version, if the key is in the table.
    pub place: Option<(usize, usize)>,
}

/// A version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    /// Its sequence number.
    pub sequence: u64,
    /// What it does to the key.
    pub kind: Kind,
    /// Its value.
    pub value: Slice,
}

/// Looks a key up as a reader at `snapshot` would, and tells what each step found. Goes on where a get would stop, so
/// that a wrong filter or key range shows.
pub fn explain(table: &Arc<Table>, key: &[u8], snapshot: u64) -> Result<Explanation> {
    table.read(|storage| explain_in(storage, table, key, snapshot))
}

fn explain_in(storage: &Storage, table: &Arc<Table>, key: &[u8], snapshot: u64) -> Result<Explanation> {
    let (context, meta) = (table.context(), table.meta());
    let block = storage.fences.locate(&storage.metadata, key, snapshot, |index| {
        storage.first_sequence(&storage.metadata, context, index)
    })?;
    let extent = storage.extent(block)?;
    let bytes = storage.block(context, block, false)?;
    let head = BlockHead::read(&bytes).map_err(|what| storage.damaged_block(block, what))?;
    let sought = head.seek(&bytes, key, snapshot).map_err(|what| storage.damaged_block(block, what))?;

    let mut versions = Vec::new();
    let mut cursor = table.cursor(ScanMode::Mapping);
    cursor.seek(key, u64::MAX)?;
    while cursor.valid() && cursor.key() == key {
        let (sequence, kind, value) = (cursor.sequence(), cursor.kind(), cursor.value_slice());
        if versions.last().is_some_and(|newer: &VersionInfo| newer.sequence <= sequence) {
            return Err(
                storage.damaged(extent.start, "the versions of a key from this block on are out of order")
            );
        }
        versions.push(VersionInfo { sequence, kind, value });
        cursor.next()?;
    }
    let filter = storage.filter(&storage.metadata)?;
    let line = filter.and_then(|filter| filter.looks_at(meta.table_id, key));
    Ok(Explanation {
        locator: located(storage, context, key)?,
        in_range: *meta.smallest_key <= *key && *key <= *meta.largest_key,
        filter: filter.map(|filter| filter.may_contain(&storage.metadata, meta.table_id, key)).transpose()?,
        filter_name: filter::place(&storage.directory).map(MetadataBlock::name),
        filter_place: line.map_or_else(|| storage.filter_place(), |line| storage.metadata.place_of(line)),
        fences_place: storage.fences_place(),
        block,
        block_offset: extent.start,
        block_len: extent.end - extent.start,
        block_entries: head.count as u64,
        block_compressed: storage.is_block_compressed(block)?,
        slot: sought.entry.map(|_| sought.slot),
        visible: versions.iter().position(|version| version.sequence <= snapshot),
        versions,
    })
}

/// Looks a key up in the locator.
fn located(storage: &Storage, context: &TableContext, key: &[u8]) -> Result<Option<Located>> {
    let Some(locator) = storage.locator(&storage.metadata)? else { return Ok(None) };
    let hash = locator::hash(key, storage.footer.table_id);
    let mut lookup = locator.lookup(&storage.metadata, hash)?;
    let (mut mistaken, mut place) = (0, None);
    while let Some(location) = lookup.next()? {
        if storage.located_entry(context, &lookup, location)?.has_key(key) {
            place = Some((location.block, location.slot));
            break;
        }
        mistaken += 1;
    }
    let (home, buckets) = (locator.home(hash), lookup.looked_at());
    let bucket = |number: u32| {
        let index = (u64::from(home) + u64::from(number)) % u64::from(locator.header.buckets);
        let at = locator.bucket_at(index as u32);
        storage.metadata.place_of(at..at + locator::LINE_BYTES)
    };
    let places = (0..buckets).map(bucket).collect();
    Ok(Some(Located { home, buckets, places, fingerprint: locator.fingerprint(hash), mistaken, place }))
}
