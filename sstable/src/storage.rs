//! An open table file: its region or descriptor, what was decoded of its metadata, and which of its blocks have been
//! checked. Everything here trusts nothing that it reads.

use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use terrace_io::{Advice, Checksum, Error, File, OpenMode, PAGE_BYTES, Region, Result, read_exact_at};

use crate::block::{self, BlockHead, EntryHead, Wrong};
use crate::context::{ReadPath, TableContext};
use crate::fences::Fences;
use crate::filter::{self, Filter};
use crate::footer::{FOOTER_BYTES, Footer, KIND_FENCES, KIND_LOCATOR, KIND_PROPERTIES, MetadataBlock};
use crate::locator::{LINE_BYTES, Location, Locator, Lookup};
use crate::metadata::{Bits, Metadata};
use crate::pins::Pinned;
use crate::reach::Reach;
use crate::watch::{self, Watch};
use crate::{Compression, Properties, reread};

mod open;

/// An open table file.
#[derive(Debug)]
pub(crate) struct Storage {
    pub(crate) footer: Footer,
    pub(crate) metadata: Metadata,
    pub(crate) fences: Fences,
    pub(crate) properties: Properties,
    pub(crate) directory: Vec<MetadataBlock>,
    /// Where data blocks are read from if the region does not hold them.
    file: Option<Arc<dyn File>>,
    /// The data blocks whose bytes in the region have been checked.
    verified: Bits,
    filter: OnceLock<Option<Filter>>,
    locator: OnceLock<Option<Locator>>,
    /// Whether every data block is one page of the region, not compressed.
    is_paged: bool,
    /// Whether the region is guarded, so that there is a watch. Beside what each get looks at.
    is_guarded: bool,
    /// Bytes of an entry, on average.
    entry_len: usize,
    /// Over the region, if that is guarded. Then no reader keeps anything of it, and believes only what it has asked for.
    watch: Option<Watch>,
    /// Whether it is read by `pread` because a mapping lost bytes while the file was opened by it.
    has_lost_mapping: bool,
    /// The metadata that is kept in memory, if it is.
    pinned: OnceLock<Pinned>,
    /// Whether it was told that memory and the device disagree about a block.
    told: AtomicBool,
    path: Arc<Path>,
}

/// A data block, checked and not compressed: header and payload.
#[derive(Debug)]
pub(crate) enum Block<'t> {
    /// In place: bytes of the region, from `start` on.
    Region { bytes: &'t [u8], start: usize },
    /// Somewhere else.
    Shared(Arc<[u8]>),
}

impl Deref for Block<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Block::Region { bytes, .. } => bytes,
            Block::Shared(bytes) => bytes,
        }
    }
}

/// An entry, and the block that it is in.
pub(crate) struct LocatedEntry<'t> {
    pub(crate) block: Block<'t>,
    pub(crate) entry: EntryHead,
}

impl LocatedEntry<'_> {
    /// Whether it has this very key.
    #[inline]
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        self.block[self.entry.key_range()] == *key
    }
}

impl Storage {
    /// Reads what stands behind the data region. `region` starts at `region_offset` of the file and reaches to its
    /// end. With `trusting`, checksums of metadata are not looked at.
    pub(crate) fn from_region(
        footer: Footer,
        region: Region,
        region_offset: u64,
        file: Option<Arc<dyn File>>,
        path: Arc<Path>,
        trusting: bool,
    ) -> Result<Storage> {
        let directory = match trusting {
            true => decode_directory(&footer, &region, &path)?,
            false => directory_of(&footer, &region, &path)?,
        };
        let directory_offset = directory_offset(&footer);
        let block = |kind: u32, name: &str| {
            let missing = || Error::corruption(&*path, directory_offset, format!("the table has no {name}"));
            directory.iter().find(|block| block.kind == kind).ok_or_else(missing)
        };
        let watch = Watch::over(&region, &footer);
        let metadata = Metadata::new(region, region_offset, &footer, path.clone());
        if trusting {
            metadata.trust_all();
        }
        let place = block(KIND_PROPERTIES, "properties")?;
        let start = place.offset as usize;
        let properties = Properties::decode(metadata.bytes(start..start + place.len as usize)?)
            .map_err(|what| metadata.damaged(start, what))?;
        let fences = Fences::read(&metadata, block(KIND_FENCES, "fences")?, footer.data_len)?;
        if fences.len() as u64 != properties.data_blocks {
            return Err(metadata.damaged(start, "properties and fences disagree about the number of blocks"));
        }
        let verified = Bits::new(fences.len());
        // A block has a page or more, so as many blocks as pages have one each.
        let is_paged = region_offset == 0
            && file.is_none()
            && properties.compression == Compression::None
            && footer.data_len == fences.len() as u64 * PAGE_BYTES as u64;
        let headers_len = (block::HEADER_BYTES * fences.len()) as u64;
        let entries_len = properties.raw_block_bytes.saturating_sub(headers_len);
        let entry_len = (entries_len / properties.entries.max(1)).saturating_sub(block::SLOT_BYTES as u64);
        let entry_len = entry_len.min(PAGE_BYTES as u64) as usize;
        Ok(Storage {
            footer,
            metadata,
            fences,
            properties,
            directory,
            file,
            verified,
            filter: OnceLock::new(),
            locator: OnceLock::new(),
            is_paged,
            is_guarded: watch.is_some(),
            entry_len,
            watch,
            has_lost_mapping: false,
            pinned: OnceLock::new(),
            told: AtomicBool::new(false),
            path,
        })
    }

    /// Whether a chunk of metadata holds anything but filter, locator and blocks of unknown kinds. Without those every
    /// entry can still be read, by cursors at least: a get that needs a part of the filter or the locator whose
    /// checksum is wrong fails.
    pub(crate) fn is_required(&self, chunk: usize) -> bool {
        let (start, end) = ((chunk * PAGE_BYTES) as u64, ((chunk + 1) * PAGE_BYTES) as u64);
        let holds = |block: &&MetadataBlock| block.offset < end && block.offset + block.len > start;
        let mut held = self.directory.iter().filter(holds).peekable();
        held.peek().is_none() || held.any(|block| block.kind >> 31 == 1)
    }

    /// Whether all chunks that a metadata block lies in have the right checksum.
    pub(crate) fn is_intact(&self, block: &MetadataBlock) -> bool {
        let chunks = block.offset as usize / PAGE_BYTES
            ..(block.offset + block.len).div_ceil(PAGE_BYTES as u64) as usize;
        chunks.into_iter().all(|chunk| self.metadata.verify(chunk).is_ok())
    }

    /// Whether its region is guarded, so that nothing may keep a part of it.
    #[inline]
    pub(crate) fn is_guarded(&self) -> bool {
        self.is_guarded
    }

    /// Whether its region is known to have lost bytes.
    #[inline]
    pub(crate) fn is_lost(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_lost)
    }

    /// Whether its region, or one by which it was to be read, has lost bytes.
    pub(crate) fn has_lost_mapping(&self) -> bool {
        self.has_lost_mapping || self.is_lost()
    }

    /// Whether its region had lost bytes by the time that `result` had been read from it: see [`Watch::is_lost_after`].
    #[inline]
    pub(crate) fn is_lost_after<T>(&self, result: &T) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.is_lost_after(self.metadata.region(), result))
    }

    /// Refuses if what [`Storage::is_lost_after`] looks at is not within reach.
    pub(crate) fn reach_end<'t>(&'t self, reach: impl Reach<'t>) -> Result<()> {
        let len = self.metadata.region().len();
        reach.region(len.saturating_sub(watch::END_BYTES)..len).map(|_| ())
    }

    /// Counts and tells, once, that its region has lost bytes.
    pub(crate) fn tell_loss(&self, context: &TableContext) {
        if self.watch.as_ref().is_some_and(Watch::is_to_be_told) {
            tell_loss(context, &self.path);
        }
    }

    /// Whether the region holds the data blocks.
    pub(crate) fn is_whole(&self) -> bool {
        self.file.is_none()
    }

    /// How point reads reach the data blocks.
    pub(crate) fn read_path(&self) -> ReadPath {
        match &self.file {
            Some(_) => ReadPath::Pread,
            None if self.metadata.region().is_mapped() => ReadPath::Mapping,
            None => ReadPath::Heap,
        }
    }

    /// Where a data block is in the file; nowhere, if it cannot be told.
    pub(crate) fn place_of_block(&self, index: usize) -> Range<u64> {
        if index >= self.fences.len() {
            return 0..0;
        }
        if self.is_paged {
            // Not by the fences: the get itself may not have looked at them.
            let start = (index * PAGE_BYTES) as u64;
            return start..start + PAGE_BYTES as u64;
        }
        self.extent(index).unwrap_or(0..0)
    }

    /// Where the filter is in the file.
    pub(crate) fn filter_place(&self) -> Range<u64> {
        self.place_of(filter::place(&self.directory))
    }

    /// Where the fences are in the file.
    pub(crate) fn fences_place(&self) -> Range<u64> {
        self.place_of(self.directory.iter().find(|block| block.kind == KIND_FENCES))
    }

    fn place_of(&self, block: Option<&MetadataBlock>) -> Range<u64> {
        let offset = self.footer.meta_offset();
        block.map_or(0..0, |block| offset + block.offset..offset + block.offset + block.len)
    }

    /// Tells the system that a block is in use, which a get has just read.
    #[cold]
    pub(crate) fn mark_used(&self, index: usize) {
        if let Some(start) = self.is_paged.then_some(index * PAGE_BYTES) {
            self.metadata.region().mark_used(start);
        }
    }

    /// Tells the system how its mapping will be used from here on, as the context has it now.
    pub(crate) fn advise(&self, context: &TableContext) {
        let region = self.metadata.region();
        region.advise(context.advice.get().of_data(), 0..region.len());
    }

    /// Where in the metadata begins what gets need of it now: behind the locator, which comes first and is the larger part,
    /// if they do without.
    fn needed_from(&self, context: &TableContext) -> usize {
        let unused = self.locator_place().filter(|_| !context.uses_locators.load(Ordering::Relaxed));
        unused.filter(|locator| locator.offset == 0).map_or(0, |locator| locator.len as usize)
    }

    /// Keeps in memory what gets need of the metadata, if that is not done yet and there is room for it.
    pub(crate) fn pin_metadata(&self, context: &TableContext) -> Result<()> {
        let region = self.metadata.region();
        if self.pinned.get().is_some() || !region.is_mapped() {
            return Ok(());
        }
        let range = self.metadata.behind(self.needed_from(context));
        let pin = || context.fs.open(&self.path, OpenMode::Read)?.pin(region, range.clone());
        if let Some(pinned) = context.pins.pin(range.len() as u64, pin) {
            // Two may have pinned the same; what the second did had no effect, and is counted no more once it is dropped.
            let _ = self.pinned.set(pinned?);
        }
        Ok(())
    }

    /// Gives back what holds the file's bytes.
    pub(crate) fn into_region(self) -> Region {
        self.metadata.into_region()
    }

    /// The filter, if the table has one that can be used. Read at the first call.
    #[inline]
    pub(crate) fn filter<'t>(&'t self, reach: impl Reach<'t>) -> Result<Option<&'t Filter>> {
        match self.filter.get() {
            Some(filter) => Ok(filter.as_ref()),
            None => self.read_filter(reach),
        }
    }

    #[cold]
    fn read_filter<'t>(&'t self, reach: impl Reach<'t>) -> Result<Option<&'t Filter>> {
        let read = match filter::place(&self.directory) {
            Some(place) => Some(Filter::read(reach, place)?),
            None => None,
        };
        let filter = self.filter.get_or_init(|| match read? {
            Ok(filter) => Some(filter),
            Err(what) => {
                tracing::warn!(path = %self.path.display(), "goes without its filter: {what}");
                None
            }
        });
        Ok(filter.as_ref())
    }

    /// The locator, if the table has one that can be used. Its header is read at the first call.
    #[inline]
    pub(crate) fn locator<'t>(&'t self, reach: impl Reach<'t>) -> Result<Option<&'t Locator>> {
        match self.locator.get() {
            Some(locator) => Ok(locator.as_ref()),
            None => self.read_locator(reach),
        }
    }

    /// The locator, if it was read before.
    #[inline]
    pub(crate) fn known_locator(&self) -> Option<&Locator> {
        self.locator.get()?.as_ref()
    }

    #[cold]
    fn read_locator<'t>(&'t self, reach: impl Reach<'t>) -> Result<Option<&'t Locator>> {
        let read = match self.locator_place() {
            Some(place) => Some(self.locator_at(reach, place)?),
            None => None,
        };
        let locator = self.locator.get_or_init(|| match read? {
            Ok(locator) => Some(locator),
            Err(what) => {
                tracing::warn!(path = %self.path.display(), "goes without its locator: {what}");
                None
            }
        });
        Ok(locator.as_ref())
    }

    /// Where the locator is, if the table has one.
    pub(crate) fn locator_place(&self) -> Option<&MetadataBlock> {
        self.directory.iter().find(|block| block.kind == KIND_LOCATOR)
    }

    /// Reads the header of the locator there. The inner error says why it is refused.
    pub(crate) fn locator_at<'t>(
        &'t self,
        reach: impl Reach<'t>,
        place: &MetadataBlock,
    ) -> Result<Result<Locator, Wrong>> {
        let start = place.offset as usize;
        let header = reach.bytes(start..start + LINE_BYTES.min(place.len as usize))?;
        Ok(Locator::read(place, header))
    }

    /// Bytes of heap that the open table takes.
    pub(crate) fn heap_bytes(&self) -> u64 {
        let filter_bytes = self.filter.get().and_then(Option::as_ref).map_or(0, Filter::heap_bytes);
        let verified_bytes = (self.fences.len() as u64 + self.metadata.chunks() as u64) / 8;
        self.metadata.heap_bytes() + filter_bytes + verified_bytes + size_of::<Storage>() as u64
    }

    /// Where block `index` is in the file.
    #[inline]
    pub(crate) fn extent(&self, index: usize) -> Result<Range<u64>> {
        self.fences.extent(&self.metadata, index)
    }

    /// Block `index`. A block that cannot be read in place goes into the cache if `keep` is set.
    #[inline]
    pub(crate) fn block(&self, context: &TableContext, index: usize, keep: bool) -> Result<Block<'_>> {
        self.block_in_reach(&self.metadata, context, index, keep)
    }

    #[inline]
    pub(crate) fn block_in_reach<'t>(
        &'t self,
        reach: impl Reach<'t>,
        context: &TableContext,
        index: usize,
        keep: bool,
    ) -> Result<Block<'t>> {
        let extent = self.fences.extent(reach, index)?;
        if self.file.is_none() && self.properties.compression == Compression::None {
            return self.raw_block(reach, context, index, &extent);
        }
        self.block_elsewhere(reach, context, index, extent, keep)
    }

    /// The entry at a location that the locator gave.
    #[inline]
    pub(crate) fn located_entry<'t, R: Reach<'t>>(
        &'t self,
        context: &TableContext,
        lookup: &Lookup<'t, R>,
        location: Location,
    ) -> Result<LocatedEntry<'t>> {
        if location.block >= self.fences.len() {
            return Err(lookup.leads_nowhere(location));
        }
        let block = self.located_block(lookup.reach(), context, location.block)?;
        block::fetch(&block, location.slot, self.entry_len);
        let damaged = |what| self.damaged_block(location.block, what);
        let head = BlockHead::read(&block).map_err(damaged)?;
        if location.slot >= head.count {
            return Err(lookup.leads_nowhere(location));
        }
        let entry = head.entry(&block, location.slot).map_err(damaged)?;
        Ok(LocatedEntry { block, entry })
    }

    /// Has the entry at a location that the locator gave fetched, from memory or from the device, and does not wait.
    pub(crate) fn prefetch_located(&self, location: Location) {
        let (Some(end), true) = (location.block.checked_add(1), self.is_paged) else { return };
        if end > self.fences.len() {
            return;
        }
        let (start, end) = (location.block * PAGE_BYTES, end * PAGE_BYTES);
        let region = self.metadata.region();
        block::fetch(&region[start..end], location.slot, self.entry_len);
        if !self.verified.contains(location.block) {
            region.advise(Advice::WillNeed, start..end);
        }
    }

    /// Block `index`, which exists, as [`Storage::block`] gives it; but where it is follows from its number if that can
    /// be, without a look at the fences.
    #[inline]
    fn located_block<'t>(
        &'t self,
        reach: impl Reach<'t>,
        context: &TableContext,
        index: usize,
    ) -> Result<Block<'t>> {
        if self.is_paged {
            let start = index * PAGE_BYTES;
            return self.raw_block(reach, context, index, &(start as u64..(start + PAGE_BYTES) as u64));
        }
        self.block_in_reach(reach, context, index, true)
    }

    /// The bytes of a block in the region, checked at their first touch. If they are wrong there and right on the
    /// device, those of the device.
    #[inline]
    fn raw_block<'t, R: Reach<'t>>(
        &'t self,
        reach: R,
        context: &TableContext,
        index: usize,
        extent: &Range<u64>,
    ) -> Result<Block<'t>> {
        let bytes = reach.region(extent.start as usize..extent.end as usize)?;
        if !self.verified.contains(index) {
            if R::WAITS {
                self.will_need(extent);
            }
            if let Some(right) = self.check_in_reach(reach, context, extent.start, bytes)? {
                return Ok(Block::Shared(right));
            }
            self.verified.insert(index);
        }
        Ok(Block::Region { bytes, start: extent.start as usize })
    }

    /// Has a block of several pages read at once: mapped at random, its pages would be read one after the other.
    fn will_need(&self, extent: &Range<u64>) {
        if extent.end - extent.start > PAGE_BYTES as u64 {
            self.metadata.region().advise(Advice::WillNeed, extent.start as usize..extent.end as usize);
        }
    }

    /// Never inlined: it would make the frame of every get larger.
    #[inline(never)]
    fn block_elsewhere<'t, R: Reach<'t>>(
        &'t self,
        reach: R,
        context: &TableContext,
        index: usize,
        extent: Range<u64>,
        keep: bool,
    ) -> Result<Block<'t>> {
        let table_id = self.footer.table_id;
        let cached = context.cache.as_ref().and_then(|cache| cache.get(table_id, extent.start));
        if let Some(block) = cached {
            context.counters.cache_lookup(true);
            return Ok(Block::Shared(block));
        }
        let block = match &self.file {
            None => {
                if R::WAITS && self.verified.contains(index) {
                    self.will_need(&extent);
                }
                let raw = self.raw_block(reach, context, index, &extent)?;
                if !block::is_compressed(&raw) {
                    return Ok(raw);
                }
                match self.is_guarded() {
                    false => self.decompress(extent.start, &raw)?,
                    true => {
                        self.reach_end(reach)?;
                        self.decompress_copy(extent.start, &raw)?
                    }
                }
            }
            Some(file) => {
                let mut raw = zeros((extent.end - extent.start) as usize);
                let bytes = Arc::get_mut(&mut raw).expect("nobody else has seen the new bytes");
                reach.read(&**file, bytes, extent.start)?;
                if let Some(right) = self.check_in_reach(reach, context, extent.start, &raw)? {
                    raw = right;
                }
                let compressed = self.is_compressed(&raw);
                if compressed { self.decompress(extent.start, &raw)? } else { raw }
            }
        };
        context.counters.cache_lookup(false);
        if let Some(cache) = context.cache.as_ref().filter(|_| keep) {
            cache.insert(table_id, extent.start, &block);
        }
        Ok(Block::Shared(block))
    }

    /// Whether block `index` of the region has been checked since the table was opened.
    pub(crate) fn is_verified(&self, index: usize) -> bool {
        self.verified.contains(index)
    }

    /// Compares a raw block with its checksum. If that is wrong, but right on the device, gives the bytes that are
    /// there: to be used instead.
    pub(crate) fn check(&self, context: &TableContext, offset: u64, raw: &[u8]) -> Result<Option<Arc<[u8]>>> {
        self.check_in_reach(&self.metadata, context, offset, raw)
    }

    #[cold]
    fn check_in_reach<'t, R: Reach<'t>>(
        &self,
        _: R,
        context: &TableContext,
        offset: u64,
        raw: &[u8],
    ) -> Result<Option<Arc<[u8]>>> {
        if block::has_right_checksum(self.footer.table_id, offset, raw) {
            context.counters.block_checked(true);
            return Ok(None);
        }
        if !R::WAITS {
            return Err(Error::would_wait(&*self.path));
        }
        if self.is_lost_after(&raw) {
            // Whoever asked will ask again elsewhere: nothing is counted or told of these bytes.
            return Err(self.lost(offset));
        }
        let reread = reread::block_of(&*context.fs, &self.path, self.footer.table_id, offset, raw.len());
        if reread.is_err() {
            context.counters.block_checked(false);
        } else {
            context.counters.disagreement();
            if !self.told.swap(true, Ordering::Relaxed) {
                let path = self.path.display();
                tracing::warn!(%path, offset, "the page cache is wrong and the device is right");
            }
        }
        reread.map(Some)
    }

    /// Whether a raw block of this table is to be decompressed.
    pub(crate) fn is_compressed(&self, raw: &[u8]) -> bool {
        self.properties.compression == Compression::Snappy && block::is_compressed(raw)
    }

    /// Whether block `index` is compressed in the file.
    pub(crate) fn is_block_compressed(&self, index: usize) -> Result<bool> {
        let extent = self.extent(index)?;
        let mut header = [0; block::HEADER_BYTES];
        match &self.file {
            None => {
                let raw = &self.metadata.region()[extent.start as usize..extent.end as usize];
                Ok(self.is_compressed(raw))
            }
            Some(file) => {
                read_exact_at(&**file, &mut header, extent.start)?;
                Ok(self.is_compressed(&header))
            }
        }
    }

    /// As [`Storage::decompress`], of bytes that may be lost meanwhile: the decoder, which is not ours, sees some that do
    /// not change, and what comes out was not lost before, since others will find it in the cache.
    fn decompress_copy(&self, offset: u64, raw: &[u8]) -> Result<Arc<[u8]>> {
        let copy = raw.to_vec();
        if self.is_lost_after(&copy) {
            return Err(self.lost(offset));
        }
        self.decompress(offset, &copy)
    }

    fn decompress(&self, offset: u64, raw: &[u8]) -> Result<Arc<[u8]>> {
        let wrong = |what| self.damaged(offset, what);
        let mut out = zeros(block::decompressed_len(raw).map_err(wrong)?);
        let bytes = Arc::get_mut(&mut out).expect("nobody else has seen the new bytes");
        block::decompress(raw, bytes).map_err(wrong)?;
        Ok(out)
    }

    /// The sequence number of the first entry of block `index`.
    #[inline(never)]
    pub(crate) fn first_sequence<'t>(
        &'t self,
        reach: impl Reach<'t>,
        context: &TableContext,
        index: usize,
    ) -> Result<u64> {
        let block = self.block_in_reach(reach, context, index, true)?;
        let first = BlockHead::read(&block).and_then(|head| head.entry(&block, 0));
        first.map(|entry| entry.sequence).map_err(|what| self.damaged_block(index, what))
    }

    /// The error that says what is wrong at `offset` of the file.
    #[cold]
    pub(crate) fn damaged(&self, offset: u64, what: Wrong) -> Error {
        Error::corruption(&*self.path, offset, what)
    }

    /// An error that nobody sees: whoever reads a guarded region does so again elsewhere.
    #[cold]
    fn lost(&self, offset: u64) -> Error {
        self.damaged(offset, "this block was lost while it was read")
    }

    /// The error that says what is wrong with block `index`.
    #[cold]
    pub(crate) fn damaged_block(&self, index: usize, what: Wrong) -> Error {
        match self.extent(index) {
            Ok(extent) => self.damaged(extent.start, what),
            Err(error) => error,
        }
    }
}

/// Counts and tells that a mapping has lost bytes.
fn tell_loss(context: &TableContext, path: &Path) {
    context.counters.lost_mapping();
    let path = path.display();
    tracing::warn!(%path, "a mapped page of this table could not be read: it is read by pread from here on. \
        The device fails, or another program has changed the file: see what the kernel's log says, and verify the table");
}

/// Bytes to be filled in, allocated once.
pub(crate) fn zeros(len: usize) -> Arc<[u8]> {
    std::iter::repeat_n(0, len).collect()
}

/// The chunk checksums and the directory. `region` reaches to the end of the file, and has at least these.
fn tail<'r>(footer: &Footer, region: &'r [u8]) -> &'r [u8] {
    let end = region.len() - FOOTER_BYTES;
    &region[end - footer.directory_len as usize - 4 * footer.chunks() as usize..end]
}

/// Where the directory starts in the file.
fn directory_offset(footer: &Footer) -> u64 {
    footer.tail_offset() + 4 * footer.chunks()
}

/// The directory at the end of `region`, which reaches to the end of the file.
fn decode_directory(footer: &Footer, region: &[u8], path: &Path) -> Result<Vec<MetadataBlock>> {
    let bytes = &tail(footer, region)[4 * footer.chunks() as usize..];
    MetadataBlock::decode_directory(bytes, footer.meta_len, path, directory_offset(footer))
}

/// The same, if its checksum is right.
pub(crate) fn directory_of(footer: &Footer, region: &[u8], path: &Path) -> Result<Vec<MetadataBlock>> {
    if !has_right_tail(footer, region) {
        return Err(Error::corruption(path, footer.tail_offset(), "the checksum of the directory is wrong"));
    }
    decode_directory(footer, region, path)
}

/// Whether the chunk checksums and the directory at the end of `region` are as they were written.
pub(crate) fn has_right_tail(footer: &Footer, region: &[u8]) -> bool {
    tail_checksum(footer.table_id, tail(footer, region)) == footer.tail_crc
}

/// The checksum of the chunk checksums and the directory.
pub(crate) fn tail_checksum(table_id: u64, tail: &[u8]) -> u32 {
    Checksum::new().u64(table_id).bytes(tail).finish()
}
