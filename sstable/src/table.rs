//! A table: one sorted, immutable file. Opened at its first use, shared behind an `Arc`, read by any thread.
//!
//! A get walks: key range, locator, block; or, in a table without a locator, key range, filter, fences, block. In an
//! uncompressed table that is mapped it allocates nothing and counts no references: the value that it finds is borrowed
//! from the mapping.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use terrace_io::{Error, PAGE_BYTES, Region, Result};

use crate::block::{BlockHead, EntryHead};
use crate::context::{TableContext, TableFile, TableRemains};
use crate::key::compare_keys;
use crate::locator::{self, Locator, Lookup};
use crate::meta::{parse_table_file_name, table_file_name};
use crate::observe::{Observer, ReadStep};
use crate::reach::{InMemory, Reach, Watched};
use crate::storage::{Block, Storage};
use crate::{
    Compression, Kind, LocatorHeader, Properties, ReadPath, ScanMode, Slice, TableCursor, TableMeta,
};

/// How long an answer about what is in memory is believed.
const RESIDENCY_BELIEVED: Duration = Duration::from_secs(1);

/// A table file.
pub struct Table {
    context: Arc<TableContext>,
    meta: TableMeta,
    file: Arc<TableFile>,
    storage: OnceLock<Storage>,
    /// The file as it is read once its mapping has lost bytes: by `pread`.
    unmapped: OnceLock<Box<Storage>>,
    /// Held while the file is opened, so that it is opened once.
    opening: Mutex<()>,
    /// When it was last asked whether the file is in memory, and the answer.
    residency: Mutex<Option<(Instant, bool)>>,
}

impl Table {
    /// The table that the manifest describes. No I/O: the file is opened and checked at its first use, whose error it
    /// is if that fails; the next use tries again.
    pub fn new(context: Arc<TableContext>, meta: TableMeta) -> Arc<Table> {
        let path = context.dir.join(table_file_name(meta.number));
        Table::at(context, meta, TableFile::new(path.into()))
    }

    /// The same table, to be opened anew: by the path that its context says now. The file stays until both are gone.
    pub fn again(&self) -> Arc<Table> {
        Table::at(Arc::clone(&self.context), self.meta.clone(), Arc::clone(&self.file))
    }

    /// Opens a table file without a database around it: what the manifest would say comes from the file itself.
    pub fn open_file(context: Arc<TableContext>, path: &Path) -> Result<Arc<Table>> {
        let path: Arc<Path> = path.into();
        let storage = Storage::open(&context, &path, None)?;
        let properties = &storage.properties;
        let named = path.file_name().and_then(|name| parse_table_file_name(name.to_str()?));
        let file_len = storage.footer.file_len().expect("the length was checked against the file's");
        let meta = TableMeta {
            number: named.unwrap_or(properties.number),
            table_id: storage.footer.table_id,
            file_len,
            entries: properties.entries,
            deletes: properties.deletes,
            smallest_sequence: properties.smallest_sequence,
            largest_sequence: properties.largest_sequence,
            smallest_key: properties.smallest_key.clone(),
            largest_key: properties.largest_key.clone(),
        };
        let table = Table::at(context, meta, TableFile::new(path));
        let set = table.storage.set(storage);
        debug_assert!(set.is_ok(), "nobody else has seen the new table");
        Ok(table)
    }

    fn at(context: Arc<TableContext>, meta: TableMeta, file: Arc<TableFile>) -> Arc<Table> {
        Arc::new(Table {
            context,
            meta,
            file: file.for_table(),
            storage: OnceLock::new(),
            unmapped: OnceLock::new(),
            opening: Mutex::new(()),
            residency: Mutex::new(None),
        })
    }

    /// What the manifest says of it.
    pub fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Opens it now, if it is not open: an error says that it cannot be read.
    pub fn check(&self) -> Result<()> {
        self.storage().map(|_| ())
    }

    /// What the file says about itself.
    pub fn properties(&self) -> Result<Properties> {
        Ok(self.storage()?.properties.clone())
    }

    /// What the file's locator says of itself, if it has one that can be used.
    pub fn locator(&self) -> Result<Option<LocatorHeader>> {
        self.read(|storage| Ok(storage.locator(&storage.metadata)?.map(|locator| locator.header)))
    }

    /// The newest version of `key` with a sequence number of at most `snapshot`, tombstones included; `None` if the
    /// table has none.
    #[inline]
    pub fn get<'t>(&'t self, key: &[u8], snapshot: u64) -> Result<Option<Found<'t>>> {
        if self.spans(key) { self.get_within(key, snapshot, &mut ()) } else { Ok(None) }
    }

    /// [`Table::get`] for a key that the table [spans](Table::spans), with an observer of its steps.
    pub fn get_within<'t>(
        &'t self,
        key: &[u8],
        snapshot: u64,
        observer: &mut impl Observer,
    ) -> Result<Option<Found<'t>>> {
        if snapshot < self.meta.smallest_sequence {
            return Ok(None);
        }
        match self.unguarded() {
            Some(storage) => self.get_in_reach(storage, &storage.metadata, key, snapshot, observer),
            None => self.get_copied(key, snapshot, observer),
        }
    }

    /// As [`Table::get_within`], from a table whose mapping may be lost at any time, or that is not open yet.
    #[cold]
    #[inline(never)]
    fn get_copied<'t>(
        &'t self,
        key: &[u8],
        snapshot: u64,
        observer: &mut impl Observer,
    ) -> Result<Option<Found<'t>>> {
        self.read(|storage| {
            let found = self.get_in_reach(storage, Watched(&storage.metadata), key, snapshot, observer)?;
            Ok(if storage.is_guarded() { found.map(Found::copied) } else { found })
        })
    }

    /// [`Table::get`] for a key that the table [spans](Table::spans), if that needs nothing that is not in memory:
    /// otherwise [`Error::is_would_wait`]. What it can wrongly take for being in memory, and for how long, says
    /// `reach.rs`. A table that was not opened yet is not in memory.
    pub fn get_resident<'t>(&'t self, key: &[u8], snapshot: u64) -> Result<Option<Found<'t>>> {
        if snapshot < self.meta.smallest_sequence {
            return Ok(None);
        }
        let Some(storage) = self.storage.get() else { return Err(Error::would_wait(self.path())) };
        if storage.is_guarded() {
            return self.get_resident_copied(storage, key, snapshot);
        }
        let reach = InMemory::new(&storage.metadata);
        self.get_in_reach(storage, &reach, key, snapshot, &mut ())
    }

    /// As [`Table::get_resident`], from a table whose mapping may be lost at any time. Once it is, the answer comes by
    /// `pread`, if the file has been opened that way: to open it is to wait.
    #[cold]
    #[inline(never)]
    fn get_resident_copied<'t>(
        &'t self,
        guarded: &'t Storage,
        key: &[u8],
        snapshot: u64,
    ) -> Result<Option<Found<'t>>> {
        let would_wait = || Error::would_wait(self.path());
        let storage: &Storage = match guarded.is_lost() {
            true => self.unmapped.get().ok_or_else(would_wait)?,
            false => guarded,
        };
        let reach = InMemory::new(&storage.metadata);
        let found = self.get_in_reach(storage, &reach, key, snapshot, &mut ());
        let found = found.map(|found| found.map(Found::copied));
        storage.reach_end(&reach)?;
        if storage.is_lost_after(&found) { Err(would_wait()) } else { found }
    }

    #[inline(always)]
    fn get_in_reach<'t, R: Reach<'t>>(
        &'t self,
        storage: &'t Storage,
        reach: R,
        key: &[u8],
        snapshot: u64,
        observer: &mut impl Observer,
    ) -> Result<Option<Found<'t>>> {
        let (metadata, table_id) = (&storage.metadata, storage.footer.table_id);
        if self.uses_locator()
            && let Some(locator) = storage.locator(reach)?
        {
            let hash = locator::hash(key, table_id);
            observer.before(ReadStep::Locator, || metadata.place_of(locator.home_bytes(hash)));
            let lookup = locator.lookup(reach, hash)?;
            if lookup.is_over() {
                self.context.counters.locator_negative();
                return Ok(None);
            }
            return self.find_located(storage, lookup, key, snapshot, observer);
        }
        let filter = storage.filter(reach)?;
        if let Some(filter) = filter {
            observer.before(ReadStep::Filter, || storage.filter_place());
            if !filter.may_contain(reach, table_id, key)? {
                self.context.counters.filter_negative();
                return Ok(None);
            }
        }
        let found = self.find(storage, reach, key, snapshot, observer)?;
        if filter.is_some() {
            self.context.counters.filter_positive(found.is_some());
        }
        Ok(found)
    }

    /// Whether gets go by the locator, if there is one. Where they do not, [`Table::prefetch_location`] and
    /// [`Table::prefetch_entry`] are of no use.
    #[inline]
    pub fn uses_locator(&self) -> bool {
        self.context.uses_locators.load(Ordering::Relaxed)
    }

    /// Whether `key` is neither before the first key of the table nor behind the last.
    #[inline]
    pub fn spans(&self, key: &[u8]) -> bool {
        compare_keys(key, &self.meta.smallest_key).is_ge()
            && compare_keys(key, &self.meta.largest_key).is_le()
    }

    /// The first of two steps before a [`Table::get`] that will not have to wait for memory: has the processor fetch
    /// what says where `key` is. Between the steps, and before the get, there is time for other keys.
    #[inline]
    pub fn prefetch_location(&self, key: &[u8]) {
        if let Some((storage, locator)) = self.locator_for(key) {
            locator.prefetch(&storage.metadata, locator::hash(key, storage.footer.table_id));
        }
    }

    /// The second step: looks where `key` is and has the entry fetched, from the device too if its block has not been
    /// needed yet. Says whether there seems to be an entry; what is wrong, the get will say.
    #[inline]
    pub fn prefetch_entry(&self, key: &[u8]) -> bool {
        let Some((storage, locator)) = self.locator_for(key) else { return false };
        let lookup = locator.lookup(&storage.metadata, locator::hash(key, storage.footer.table_id));
        let Ok(Some(location)) = lookup.and_then(|mut lookup| lookup.next()) else { return false };
        storage.prefetch_located(location);
        true
    }

    /// The locator, if the table may have `key`, and has a locator that was used before.
    #[inline]
    fn locator_for(&self, key: &[u8]) -> Option<(&Storage, &Locator)> {
        let storage = self.storage.get().filter(|_| self.spans(key))?;
        Some((storage, storage.known_locator()?))
    }

    /// Where the locator leads, which knows every key of the table.
    fn find_located<'t, R: Reach<'t>>(
        &'t self,
        storage: &'t Storage,
        mut lookup: Lookup<'t, R>,
        key: &[u8],
        snapshot: u64,
        observer: &mut impl Observer,
    ) -> Result<Option<Found<'t>>> {
        let counters = &self.context.counters;
        let mut is_mistaken = false;
        while let Some(location) = lookup.next()? {
            observer.before(ReadStep::Block, || storage.place_of_block(location.block));
            let located = storage.located_entry(&self.context, &lookup, location)?;
            if located.has_key(key) {
                if located.entry.sequence <= snapshot {
                    counters.locator_positive(true);
                    if R::WAITS && self.context.marks_use.load(Ordering::Relaxed) {
                        storage.mark_used(location.block);
                    }
                    return Ok(Some(Found::new(located.block, located.entry)));
                }
                // The newest version is too new: the others stand behind it, perhaps blocks away.
                let found = self.find(storage, lookup.reach(), key, snapshot, observer)?;
                counters.locator_positive(found.is_some());
                return Ok(found);
            }
            is_mistaken = true;
        }
        if is_mistaken {
            counters.locator_positive(false);
        } else {
            counters.locator_negative();
        }
        Ok(None)
    }

    /// By the fences.
    fn find<'t, R: Reach<'t>>(
        &'t self,
        storage: &'t Storage,
        reach: R,
        key: &[u8],
        snapshot: u64,
        observer: &mut impl Observer,
    ) -> Result<Option<Found<'t>>> {
        observer.before(ReadStep::Fences, || storage.fences_place());
        let mut index = storage
            .fences
            .locate(reach, key, snapshot, |index| storage.first_sequence(reach, &self.context, index))?;
        loop {
            observer.before(ReadStep::Block, || storage.place_of_block(index));
            let block = storage.block_in_reach(reach, &self.context, index, true)?;
            let sought = BlockHead::read(&block).and_then(|head| head.seek(&block, key, snapshot));
            match sought.map_err(|what| storage.damaged_block(index, what))?.entry {
                Some((entry, true)) => {
                    // A page that has gone meanwhile would be read again, and waited for.
                    if R::WAITS && self.context.marks_use.load(Ordering::Relaxed) {
                        storage.mark_used(index);
                    }
                    return Ok(Some(Found::new(block, entry)));
                }
                Some((_, false)) => return Ok(None),
                None => {}
            }
            // The versions of the key may go on in the next block, and only then.
            index += 1;
            if index == storage.fences.len() || !storage.fences.continues(reach, index)? {
                return Ok(None);
            }
        }
    }

    /// A cursor over the table, which keeps it alive. Not positioned yet; no I/O until it is.
    pub fn cursor(self: &Arc<Self>, mode: ScanMode) -> TableCursor {
        TableCursor::new(Arc::clone(self), mode)
    }

    /// Says that the file is not needed any more: when the last reference goes, its [`TableRemains`] say so.
    pub fn mark_obsolete(&self) {
        self.file.mark_obsolete();
    }

    /// About where in the file `key` stands or would stand, in bytes from the start: the start of its block, or its end if
    /// there is one entry in it, and that is before the key.
    pub fn approximate_offset(&self, key: &[u8]) -> Result<u64> {
        if key <= &*self.meta.smallest_key {
            return Ok(0);
        }
        if key > &*self.meta.largest_key {
            return Ok(self.storage()?.footer.data_len);
        }
        self.read(|storage| self.offset_in(storage, key))
    }

    fn offset_in(&self, storage: &Storage, key: &[u8]) -> Result<u64> {
        let first_sequence = |index| storage.first_sequence(&storage.metadata, &self.context, index);
        let index = storage.fences.locate(&storage.metadata, key, u64::MAX, first_sequence)?;
        let extent = storage.extent(index)?;
        let is_long = extent.end - extent.start > PAGE_BYTES as u64;
        if is_long && storage.properties.compression == Compression::None {
            // Of several pages, so it holds one entry, perhaps of many megabytes: all of it is before the key, or nothing.
            let block = storage.block(&self.context, index, false)?;
            let only = BlockHead::read(&block).and_then(|head| head.entry(&block, 0));
            let only = only.map_err(|what| storage.damaged_block(index, what))?;
            if block[only.key_range()] < *key {
                return Ok(extent.end);
            }
        }
        Ok(extent.start)
    }

    /// Up to `count` keys at which the table can be divided, ascending, with about as many bytes between any two. None
    /// is above the largest key.
    pub fn dividing_keys(&self, count: usize) -> Result<Vec<Vec<u8>>> {
        self.read(|storage| dividing_keys(storage, count))
    }

    /// How point reads reach its data blocks. `None` before its first use.
    pub fn read_path(&self) -> Option<ReadPath> {
        let storage = self.storage.get()?;
        Some(if storage.is_lost() { ReadPath::Pread } else { storage.read_path() })
    }

    /// Whether its mapping has lost bytes while it was guarded ([`terrace_io::sigbus`]), so that it is read by `pread`.
    pub fn has_lost_mapping(&self) -> bool {
        self.storage.get().is_some_and(Storage::has_lost_mapping)
    }

    /// Keeps in memory what gets need of the table's metadata, as long as the table lives: locked, or copied where the
    /// system allows no more locking. Does nothing if it is done, if [`Pins`](crate::Pins) have no more room, or if the
    /// file is not mapped: then it is on the heap. Opens the table if it is not open.
    ///
    /// # Errors
    /// If the table cannot be opened, or its metadata neither locked nor copied.
    pub fn pin_metadata(&self) -> Result<()> {
        self.read(|storage| storage.pin_metadata(&self.context))
    }

    /// [`Table::read_path`], once nobody is opening the table: after this, it is by what the context says now.
    pub fn settled_read_path(&self) -> Option<ReadPath> {
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        self.read_path()
    }

    /// Tells the system anew how the mapping will be used, if there is one: as the context has it now.
    pub fn advise(&self) {
        // Who is opening it may have asked what to advise before it was changed.
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(storage) = self.storage.get() {
            storage.advise(&self.context);
        }
    }

    /// How many bytes of the file's mapping are in memory. `None` if it is not open, not mapped, or the operating
    /// system does not say.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.mapping()?.resident_bytes()
    }

    /// How many bytes of the file are mapped.
    pub fn mapped_bytes(&self) -> u64 {
        self.mapping().map_or(0, |region| region.len() as u64)
    }

    /// The mapping that it is read by.
    fn mapping(&self) -> Option<&Region> {
        let storage = self.storage.get().filter(|storage| !storage.is_lost())?;
        Some(storage.metadata.region()).filter(|region| region.is_mapped())
    }

    /// How many bytes of heap the table takes: filter, and whatever of the file was read instead of mapped.
    pub fn heap_bytes(&self) -> u64 {
        let keys_len = self.meta.smallest_key.len() + self.meta.largest_key.len();
        let own = (size_of::<Table>() + keys_len) as u64;
        let storages = self.storage.get().into_iter().chain(self.unmapped.get().map(|storage| &**storage));
        own + storages.map(Storage::heap_bytes).sum::<u64>()
    }

    /// Whether nearly all of the file is in memory, so that reading it through the mapping costs no faults.
    pub(crate) fn is_mostly_resident(&self) -> bool {
        let mut residency = self.residency.lock().unwrap_or_else(PoisonError::into_inner);
        match *residency {
            Some((asked, answer)) if asked.elapsed() < RESIDENCY_BELIEVED => answer,
            _ => {
                let answer = self.resident_bytes().is_some_and(|bytes| bytes >= self.meta.file_len / 8 * 7);
                *residency = Some((Instant::now(), answer));
                answer
            }
        }
    }

    /// The open file, if its mapping is not guarded: then nothing of it is ever lost. `None` also if it is not open.
    #[inline]
    pub(crate) fn unguarded(&self) -> Option<&Storage> {
        self.storage.get().filter(|storage| !storage.is_guarded())
    }

    /// The open file.
    #[inline]
    pub(crate) fn storage(&self) -> Result<&Storage> {
        match self.unguarded() {
            Some(storage) => Ok(storage),
            None => self.guarded(),
        }
    }

    /// [`Table::storage`] of a table that is guarded or not open yet.
    #[cold]
    #[inline(never)]
    fn guarded(&self) -> Result<&Storage> {
        match self.storage.get() {
            Some(storage) if storage.is_lost() => self.unmapped(storage),
            Some(storage) => Ok(storage),
            None => self.open(),
        }
    }

    /// Does something with the open file that keeps nothing of it. If the mapping turns out to be lost by the time it is
    /// done, whatever came of it, an error too, is thrown away, and it is done again by `pread`.
    #[inline]
    pub(crate) fn read<'t, R>(&'t self, mut operation: impl FnMut(&'t Storage) -> Result<R>) -> Result<R> {
        let storage = self.storage()?;
        let result = operation(storage);
        if storage.is_lost_after(&result) {
            drop(result);
            return operation(self.unmapped(storage)?);
        }
        result
    }

    /// The file by `pread`, since `lost`, its mapping, has lost bytes.
    #[cold]
    fn unmapped(&self, lost: &Storage) -> Result<&Storage> {
        if let Some(storage) = self.unmapped.get() {
            return Ok(storage);
        }
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(storage) = self.unmapped.get() {
            return Ok(storage);
        }
        lost.tell_loss(&self.context);
        let storage = Storage::open_by_pread(&self.context, &self.file.path, Some(&self.meta))?;
        self.expect_known(&storage)?;
        Ok(self.unmapped.get_or_init(|| Box::new(storage)))
    }

    /// Whether the mapping was lost by the time that `result` had been read from it.
    pub(crate) fn is_lost_after<T>(&self, result: &T) -> bool {
        self.storage.get().is_some_and(|storage| storage.is_lost_after(result))
    }

    #[cold]
    fn open(&self) -> Result<&Storage> {
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(storage) = self.storage.get() {
            return Ok(storage);
        }
        let storage = Storage::open(&self.context, &self.file.path, Some(&self.meta))?;
        self.expect_known(&storage)?;
        Ok(self.storage.get_or_init(|| storage))
    }

    /// An error, if the file is not the one that the manifest knows.
    fn expect_known(&self, storage: &Storage) -> Result<()> {
        let (properties, meta) = (&storage.properties, &self.meta);
        if properties.entries != meta.entries
            || properties.smallest_key != meta.smallest_key
            || properties.largest_key != meta.largest_key
        {
            let what = "the table's properties are not those that the manifest knows";
            return Err(Error::corruption(&*self.file.path, storage.footer.meta_offset(), what));
        }
        Ok(())
    }

    /// Has every page of a range of the region, which has been read from and is not guarded, come into memory, and waits for that.
    pub(crate) fn bring_in(&self, range: &Range<usize>) {
        let region = self.storage.get().map(|storage| storage.metadata.region());
        let Some(region) = region.filter(|region| region.is_mapped()) else { return };
        if range.len() > PAGE_BYTES {
            // All at once: mapped at random, they would be read one after the other.
            region.advise(terrace_io::Advice::WillNeed, range.clone());
        }
        for at in range.clone().step_by(PAGE_BYTES).chain(range.clone().last()) {
            std::hint::black_box(region[at]);
        }
    }

    /// What the table shares with others.
    #[inline]
    pub(crate) fn context(&self) -> &TableContext {
        &self.context
    }

    /// The region of a table that has been read from, and is not guarded.
    #[inline]
    pub(crate) fn region_bytes(&self) -> &[u8] {
        self.storage.get().expect("a table that was read from is open").metadata.region()
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if let Some(reclaim) = &self.context.reclaim {
            let region = self.storage.take().map(Storage::into_region);
            reclaim.reclaim(TableRemains::new(Arc::clone(&self.file), region));
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("path", &self.file.path)
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

fn dividing_keys(storage: &Storage, count: usize) -> Result<Vec<Vec<u8>>> {
    let blocks = storage.fences.len();
    let mut keys = Vec::with_capacity(count);
    for number in 1..=count {
        let index = blocks * number / (count + 1);
        let key = storage.fences.separator(&storage.metadata, index)?;
        if index > 0 && keys.last() != Some(&key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// What [`Table::get`] found: a version of a key. Borrows the table.
#[derive(Debug)]
pub struct Found<'t> {
    sequence: u64,
    /// [`Kind`] as a number, as wide as the rest: what moves in whole words moves fast.
    kind: u64,
    value: Value<'t>,
}

#[derive(Debug)]
enum Value<'t> {
    /// Bytes of the table's region.
    Region(&'t [u8]),
    Shared(Arc<[u8]>, Range<u32>),
}

impl<'t> Found<'t> {
    #[inline]
    fn new(block: Block<'t>, entry: EntryHead) -> Found<'t> {
        let value = match block {
            Block::Region { bytes, .. } => Value::Region(&bytes[entry.value_range()]),
            Block::Shared(bytes) => {
                let range = entry.value_range();
                Value::Shared(bytes, range.start as u32..range.end as u32)
            }
        };
        Found { sequence: entry.sequence, kind: entry.kind as u64, value }
    }

    /// The same, with a value that is its own.
    #[inline]
    fn copied(self) -> Found<'t> {
        let value = match self.value {
            Value::Region(bytes) => Value::Shared(Arc::from(bytes), 0..bytes.len() as u32),
            shared @ Value::Shared(..) => shared,
        };
        Found { value, ..self }
    }

    /// What it does to the key.
    #[inline]
    pub fn kind(&self) -> Kind {
        if self.kind == Kind::Put as u64 { Kind::Put } else { Kind::Delete }
    }

    /// Its sequence number.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The value; empty for a tombstone.
    #[inline]
    pub fn value(&self) -> &[u8] {
        match &self.value {
            Value::Region(bytes) => bytes,
            Value::Shared(bytes, range) => &bytes[range.start as usize..range.end as usize],
        }
    }

    /// The value, pinned: `table` is the one that it was found in.
    #[inline]
    pub fn into_slice(self, table: &Arc<Table>) -> Slice {
        match self.value {
            Value::Region(bytes) => {
                let start = bytes.as_ptr().addr() - table.region_bytes().as_ptr().addr();
                Slice::from_table(Arc::clone(table), start..start + bytes.len())
            }
            Value::Shared(bytes, range) => {
                Slice::from_shared(bytes, range.start as usize..range.end as usize)
            }
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
