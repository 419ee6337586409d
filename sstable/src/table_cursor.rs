//! The cursor over one table. Moving on decodes one slot and one entry head; keys and values are never copied.
//!
//! In [`ScanMode::Auto`] a scan starts out on the mapping, asks for a few blocks ahead once it proves to go on in one
//! direction, and after [`LONG_SCAN_BLOCKS`] blocks goes over to a [`ScanReader`] of its own, unless the table is in
//! memory anyway.

use std::ops::Range;
use std::sync::Arc;

use terrace_io::{Advice, CacheUse, OpenMode, ResidentPages, Result, ScanReader};

use crate::block::{self, BlockHead, EntryHead, Wrong};
use crate::cursor::{Cursor, ScanMode};
use crate::reach::Watched;
use crate::storage::Block;
use crate::{Kind, Slice, Table};

/// Blocks that go by in one direction before a scan counts as long.
const LONG_SCAN_BLOCKS: u32 = 64;
/// The same where every block costs a system call.
const LONG_SCAN_BLOCKS_PREAD: u32 = 4;
/// Blocks that go by in one direction before blocks are asked for ahead.
const PREFETCH_AFTER_BLOCKS: u32 = 4;
/// How many are asked for at once.
const PREFETCH_BLOCKS: u32 = 16;
/// And how many bytes at most.
const PREFETCH_BYTES_MAX: usize = 1 << 20;
/// Blocks of a scan that go into the block cache: a long scan would only flush it.
const CACHED_BLOCKS: u32 = 8;

/// A cursor over one table. Owns a reference to it; may be sent to another thread.
#[derive(Debug)]
pub struct TableCursor {
    table: Arc<Table>,
    mode: ScanMode,
    /// Set while it streams.
    reader: Option<ScanReader>,
    /// Which pages were in memory before it began to read sparingly, if that can be told.
    residency: Option<ResidentPages>,
    /// Whether the block that is held was.
    was_resident: bool,
    /// What streamed blocks are decompressed into, and blocks of a guarded region copied, once there was one.
    scratch: Option<Arc<Vec<u8>>>,
    held: Held,
    head: BlockHead,
    /// The block that is held.
    index: usize,
    slot: usize,
    entry: EntryHead,
    valid: bool,
    /// How many blocks went by in one direction.
    run: u32,
    forward: bool,
}

/// What keeps the current block.
#[derive(Debug)]
enum Held {
    Nothing,
    /// Bytes of the table's region, which is not guarded.
    Region(Range<usize>),
    Shared(Arc<[u8]>),
    /// A part of a window, decompressed bytes, or a copy of bytes of a guarded region.
    Buffer(Arc<Vec<u8>>, Range<usize>),
}

impl TableCursor {
    pub(crate) fn new(table: Arc<Table>, mode: ScanMode) -> TableCursor {
        TableCursor {
            table,
            mode,
            reader: None,
            residency: None,
            was_resident: true,
            scratch: None,
            held: Held::Nothing,
            head: BlockHead::EMPTY,
            index: 0,
            slot: 0,
            entry: EntryHead::NONE,
            valid: false,
            run: 0,
            forward: true,
        }
    }

    /// The table that it goes over.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The current block.
    #[inline]
    fn block(&self) -> &[u8] {
        match &self.held {
            Held::Nothing => &[],
            Held::Region(range) => &self.table.region_bytes()[range.clone()],
            Held::Shared(bytes) => bytes,
            Held::Buffer(bytes, range) => &bytes[range.clone()],
        }
    }

    #[cold]
    fn wrong(&mut self, what: Wrong) -> terrace_io::Error {
        self.valid = false;
        match self.table.storage() {
            Ok(storage) => storage.damaged_block(self.index, what),
            Err(error) => error,
        }
    }

    /// Stands on entry `slot` of the current block.
    #[inline]
    fn stand_on(&mut self, slot: usize) -> Result<()> {
        match self.head.entry(self.block(), slot) {
            Ok(entry) => {
                self.entry = entry;
                self.slot = slot;
                self.valid = true;
                Ok(())
            }
            Err(what) => Err(self.wrong(what)),
        }
    }

    /// A seek: the direction is forgotten, and a streaming `Auto` goes back to the mapping.
    fn restart(&mut self) {
        self.valid = false;
        self.run = 0;
        if self.mode == ScanMode::Auto && self.reader.is_some() {
            self.reader = None;
            self.held = Held::Nothing;
        }
    }

    /// Counts a step to a neighbouring block, and acts on what the scan proves to be.
    fn step(&mut self, forward: bool) -> Result<()> {
        if forward != self.forward {
            self.forward = forward;
            self.run = 0;
        }
        self.run += 1;
        if self.mode != ScanMode::Auto || self.reader.is_some() {
            return Ok(());
        }
        let storage = self.table.storage()?;
        if !storage.is_whole() {
            if self.run.is_multiple_of(LONG_SCAN_BLOCKS_PREAD) {
                // As below: the table has a descriptor of its own.
                self.reader = self.stream(CacheUse::Keep).ok();
            }
            return Ok(());
        }
        let region = storage.metadata.region();
        if !region.is_mapped() {
            return Ok(());
        }
        if self.run < LONG_SCAN_BLOCKS {
            if self.run % PREFETCH_BLOCKS == PREFETCH_AFTER_BLOCKS {
                let here = self.table.read(|storage| storage.extent(self.index))?;
                let ahead =
                    PREFETCH_BYTES_MAX.min(PREFETCH_BLOCKS as usize * (here.end - here.start) as usize);
                let (start, end) = (here.start as usize, here.end as usize);
                let data_len = storage.footer.data_len as usize;
                let range =
                    if forward { end..data_len.min(end + ahead) } else { start.saturating_sub(ahead)..start };
                region.advise(Advice::WillNeed, range);
            }
        } else if self.run.is_multiple_of(LONG_SCAN_BLOCKS) && !self.table.is_mostly_resident() {
            // Without a descriptor of its own (there may be no more, or the file may be unlinked) the scan goes on as
            // it was.
            self.reader = self.stream(CacheUse::Keep).ok();
        }
        Ok(())
    }

    /// A reader over the data region, through a descriptor of its own.
    fn stream(&self, cache_use: CacheUse) -> Result<ScanReader> {
        let file = self.table.context().fs.open(self.table.path(), OpenMode::Read)?;
        let data_len = self.table.storage()?.footer.data_len;
        let window_bytes = match cache_use {
            CacheUse::Keep | CacheUse::DropBehind => ScanReader::WINDOW_BYTES,
            CacheUse::Sparing => ScanReader::SMALL_WINDOW_BYTES,
        };
        Ok(ScanReader::new(file, 0..data_len, window_bytes, cache_use))
    }

    /// Makes block `index` the current one, if it is not.
    fn load(&mut self, index: usize) -> Result<()> {
        if self.index == index && !matches!(self.held, Held::Nothing) {
            return Ok(());
        }
        // Let go of the old block first: its buffer can be used again then.
        self.held = Held::Nothing;
        self.index = index;
        let head = self.hold(index).and_then(|held| {
            self.held = held;
            BlockHead::read(self.block()).map_err(|what| self.wrong(what))
        });
        match head {
            Ok(head) => {
                self.head = head;
                Ok(())
            }
            Err(error) => {
                self.valid = false;
                self.held = Held::Nothing;
                Err(error)
            }
        }
    }

    fn hold(&mut self, index: usize) -> Result<Held> {
        if self.table.unguarded().is_some() {
            self.hold_once::<false>(index)
        } else {
            self.hold_guarded(index)
        }
    }

    #[cold]
    #[inline(never)]
    fn hold_guarded(&mut self, index: usize) -> Result<Held> {
        if !self.table.storage()?.is_guarded() {
            // Just opened, or known to be lost and read by `pread`.
            return self.hold_apart(index);
        }
        let held = self.hold_apart(index);
        if self.table.is_lost_after(&held) { self.hold_apart(index) } else { held }
    }

    /// Apart from the way of unguarded tables, so that this stays in one piece.
    #[inline(never)]
    fn hold_apart(&mut self, index: usize) -> Result<Held> {
        self.hold_once::<true>(index)
    }

    /// As [`TableCursor::hold`], to be believed unless the mapping was lost meanwhile. Keeps nothing of a guarded one.
    /// `MAY_BE_LOST`, unless it is known that the table is not guarded.
    #[inline(always)]
    fn hold_once<const MAY_BE_LOST: bool>(&mut self, index: usize) -> Result<Held> {
        if let ScanMode::Stream(cache_use) = self.mode
            && self.reader.is_none()
        {
            if cache_use == CacheUse::Sparing {
                // Before the first read, which changes it.
                self.residency = self.table.storage()?.metadata.region().residency();
            }
            self.reader = Some(self.stream(cache_use)?);
        }
        let (storage, context) = (self.table.storage()?, self.table.context());
        let Some(reader) = &mut self.reader else {
            let keep = self.run < CACHED_BLOCKS;
            let block = match MAY_BE_LOST {
                false => storage.block(context, index, keep)?,
                true => storage.block_in_reach(Watched(&storage.metadata), context, index, keep)?,
            };
            return Ok(match block {
                Block::Region { bytes, .. } if MAY_BE_LOST && storage.is_guarded() => {
                    let copy = unshared(&mut self.scratch);
                    copy.clear();
                    copy.extend_from_slice(bytes);
                    Held::Buffer(Arc::clone(self.scratch.get_or_insert_default()), 0..bytes.len())
                }
                Block::Region { bytes, start } => Held::Region(start..start + bytes.len()),
                Block::Shared(bytes) => Held::Shared(bytes),
            });
        };
        let extent = storage.extent(index)?;
        if let Some(residency) = &self.residency {
            self.was_resident = residency.contains(extent.start as usize);
        }
        let (buffer, range) = reader.read(extent.start, (extent.end - extent.start) as usize)?;
        let raw = &buffer[range.clone()];
        // What is about to be written again under a new checksum is always checked.
        let right = if self.mode != ScanMode::Auto || !storage.is_verified(index) {
            storage.check(context, extent.start, raw)?
        } else {
            None
        };
        let raw = right.as_deref().unwrap_or(raw);
        if !storage.is_compressed(raw) {
            return Ok(right.map_or(Held::Buffer(buffer, range), Held::Shared));
        }
        let wrong = |what| storage.damaged(extent.start, what);
        let len = block::decompressed_len(raw).map_err(wrong)?;
        let out = unshared(&mut self.scratch);
        out.resize(len, 0);
        block::decompress(raw, out).map_err(wrong)?;
        Ok(Held::Buffer(Arc::clone(self.scratch.get_or_insert_default()), 0..len))
    }

    /// Goes to the block that has the first entry at or after `(key, sequence)`, or else to the one before it, and
    /// says in which slot it would be.
    fn approach(&mut self, key: &[u8], sequence: u64) -> Result<usize> {
        self.restart();
        let index = match self.table.unguarded() {
            Some(storage) => storage.fences.locate(&storage.metadata, key, sequence, |index| {
                storage.first_sequence(&storage.metadata, self.table.context(), index)
            })?,
            None => self.locate_guarded(key, sequence)?,
        };
        self.load(index)?;
        let sought = self.head.seek(self.block(), key, sequence);
        sought.map(|sought| sought.slot).map_err(|what| self.wrong(what))
    }

    /// As the search of [`TableCursor::approach`], in a table whose mapping may be lost at any time, or that is not open yet.
    #[cold]
    #[inline(never)]
    fn locate_guarded(&self, key: &[u8], sequence: u64) -> Result<usize> {
        let context = self.table.context();
        self.table.read(|storage| {
            let reach = Watched(&storage.metadata);
            storage.fences.locate(reach, key, sequence, |index| storage.first_sequence(reach, context, index))
        })
    }

    fn next_block(&mut self) -> Result<()> {
        self.valid = false;
        let index = self.index + 1;
        if index < self.table.storage()?.fences.len() {
            self.step(true)?;
            self.load(index)?;
            self.stand_on(0)?;
        }
        Ok(())
    }

    fn previous_block(&mut self) -> Result<()> {
        self.valid = false;
        if self.index > 0 {
            self.step(false)?;
            self.load(self.index - 1)?;
            self.stand_on(self.head.count - 1)?;
        }
        Ok(())
    }

    fn pinned(&self, range: Range<usize>) -> Slice {
        match &self.held {
            Held::Nothing => unreachable!("a valid cursor holds a block"),
            Held::Region(block) => {
                Slice::from_table(Arc::clone(&self.table), block.start + range.start..block.start + range.end)
            }
            Held::Shared(bytes) => Slice::from_shared(Arc::clone(bytes), range),
            Held::Buffer(bytes, block) => {
                Slice::from_buffer(Arc::clone(bytes), block.start + range.start..block.start + range.end)
            }
        }
    }

    #[inline]
    fn assert_valid(&self) {
        assert!(self.valid, "the cursor stands on an entry");
    }
}

/// A buffer that nobody else has: the one that is kept, if that is so.
fn unshared(scratch: &mut Option<Arc<Vec<u8>>>) -> &mut Vec<u8> {
    let scratch = scratch.get_or_insert_default();
    if Arc::get_mut(scratch).is_none() {
        *scratch = Arc::default();
    }
    Arc::get_mut(scratch).expect("nobody else has the scratch buffer")
}

impl Cursor for TableCursor {
    fn seek_to_first(&mut self) -> Result<()> {
        self.restart();
        self.load(0)?;
        self.stand_on(0)
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.restart();
        let last = self.table.storage()?.fences.len() - 1;
        self.load(last)?;
        self.stand_on(self.head.count - 1)
    }

    fn seek(&mut self, key: &[u8], sequence: u64) -> Result<()> {
        let slot = self.approach(key, sequence)?;
        if slot < self.head.count { self.stand_on(slot) } else { self.next_block() }
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        let slot = self.approach(key, u64::MAX)?;
        if slot > 0 { self.stand_on(slot - 1) } else { self.previous_block() }
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        self.assert_valid();
        if self.slot + 1 < self.head.count { self.stand_on(self.slot + 1) } else { self.next_block() }
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        self.assert_valid();
        if self.slot > 0 { self.stand_on(self.slot - 1) } else { self.previous_block() }
    }

    #[inline]
    fn same_key_before(&self) -> Option<bool> {
        let Some(slot) = self.slot.checked_sub(1) else {
            // In the block before, or nowhere.
            return if self.index == 0 { Some(false) } else { None };
        };
        let block = self.block();
        let before = self.head.entry(block, slot).ok()?;
        Some(block[before.key_range()] == block[self.entry.key_range()])
    }

    #[inline]
    fn valid(&self) -> bool {
        self.valid
    }

    #[inline]
    fn key(&self) -> &[u8] {
        self.assert_valid();
        &self.block()[self.entry.key_range()]
    }

    #[inline]
    fn sequence(&self) -> u64 {
        self.assert_valid();
        self.entry.sequence
    }

    #[inline]
    fn kind(&self) -> Kind {
        self.assert_valid();
        self.entry.kind
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.assert_valid();
        &self.block()[self.entry.value_range()]
    }

    fn key_slice(&self) -> Slice {
        self.assert_valid();
        self.pinned(self.entry.key_range())
    }

    fn value_slice(&self) -> Slice {
        self.assert_valid();
        self.pinned(self.entry.value_range())
    }

    fn was_resident(&self) -> bool {
        self.assert_valid();
        self.was_resident
    }
}

#[cfg(test)]
#[path = "table_cursor_tests.rs"]
mod tests;
