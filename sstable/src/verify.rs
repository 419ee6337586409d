//! Checks a whole table file, by `pread`, and goes on past damage: what an operator wants to know is all that is
//! wrong, not what is wrong first.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use terrace_io::{
    Advice, CacheUse, Error, File, FileSystem, OpenMode, PAGE_BYTES, Result, ScanReader, read_exact_at,
    read_exact_past_cache_at,
};

use crate::block::{self, BlockHead, SLOT_BYTES};
use crate::damaged::{ReadExact, read_metadata};
use crate::filter::{self, Filter};
use crate::footer::{FOOTER_BYTES, Footer};
use crate::locator::Location;
use crate::locator_check::LocatorCheck;
use crate::meta::parse_table_file_name;
use crate::storage::Storage;
use crate::{
    Compression, KEY_BYTES_MAX, Kind, Properties, SEQUENCE_MAX, VALUE_BYTES_MAX, compare_internal, reread,
};

/// Damages beyond this are counted, not listed.
const DAMAGES_LISTED_MAX: usize = 1000;

/// A place in a table that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where the damaged structure starts, in bytes from the start of the file.
    pub offset: u64,
    /// What was expected and what was found.
    pub what: String,
    /// Whether entries are lost by it. If not, a scan still reads all of them: filter, locator, statistics or padding
    /// is damaged, or the page cache and not the file. (A get that needs a damaged part of filter or locator may fail.)
    pub loses_entries: bool,
}

/// What [`verify`] found.
#[derive(Debug, Clone)]
pub struct VerifyReport {
    /// The file.
    pub path: PathBuf,
    /// Its length.
    pub file_len: u64,
    /// Data blocks that were read and found right.
    pub blocks: u64,
    /// Entries that were read and found right.
    pub entries: u64,
    /// What is wrong, in the order of discovery; at most 1,000 places.
    pub damages: Vec<Damage>,
    /// How many places are wrong.
    pub damage_count: u64,
    /// Whether entries are lost by any of them.
    pub loses_entries: bool,
    /// What the table says about itself, if that could be read.
    pub properties: Option<Properties>,
    /// The end of the file, if that could be read.
    pub footer: Option<Footer>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.damage_count == 0
    }

    fn new(path: &Path) -> VerifyReport {
        VerifyReport {
            path: path.into(),
            file_len: 0,
            blocks: 0,
            entries: 0,
            damages: Vec::new(),
            damage_count: 0,
            loses_entries: false,
            properties: None,
            footer: None,
        }
    }

    fn damage(&mut self, offset: u64, what: impl Into<String>) {
        self.add(Damage { offset, what: what.into(), loses_entries: true });
    }

    /// Damage by which no entry is lost.
    fn harmless(&mut self, offset: u64, what: impl Into<String>) {
        self.add(Damage { offset, what: what.into(), loses_entries: false });
    }

    /// Counts a place, and lists it if there is room.
    pub(crate) fn add(&mut self, damage: Damage) {
        self.damage_count += 1;
        self.loses_entries |= damage.loses_entries;
        if self.damages.len() < DAMAGES_LISTED_MAX {
            self.damages.push(damage);
        }
    }

    fn error(&mut self, offset: u64, error: &Error) {
        match error {
            Error::Corruption { offset, what, .. } => self.damage(*offset, what.clone()),
            error => self.damage(offset, error.to_string()),
        }
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} blocks, {} entries", self.path.display(), self.blocks, self.entries)?;
        match self.damage_count {
            0 => write!(f, ", no damage"),
            count => write!(f, ", {count} damaged places"),
        }
    }
}

/// Checks everything in a table file: all checksums, the order of entries, fences, filter, locator, and what the
/// properties say. Errors are part of the report, those of the file system included.
pub fn verify(fs: &dyn FileSystem, path: &Path) -> VerifyReport {
    match fs.open(path, OpenMode::Read) {
        Ok(file) => verify_file(file, path),
        Err(error) => {
            let mut report = VerifyReport::new(path);
            report.error(0, &error);
            report
        }
    }
}

/// As [`verify`], of a file that is open.
pub fn verify_file(file: Arc<dyn File>, path: &Path) -> VerifyReport {
    let mut report = VerifyReport::new(path);
    let len = match file.len() {
        Ok(len) => len,
        Err(error) => {
            report.error(0, &error);
            return report;
        }
    };
    report.file_len = len;
    match open_twice(&*file, path, len, &mut report) {
        Ok(storage) => {
            report.footer = Some(storage.footer);
            report.properties = Some(storage.properties.clone());
            check_entries(Arc::clone(&file), &storage, &mut report);
        }
        Err(error) => report.error(len, &error),
    }
    file.advise(Advice::DontNeed, 0, len);
    report
}

/// Reads and checks all metadata, and once more past the page cache if something is wrong with it.
fn open_twice(file: &dyn File, path: &Path, len: u64, report: &mut VerifyReport) -> Result<Storage> {
    let mut first = report.clone();
    let opened = open(file, path, len, &mut first, read_exact_at);
    if opened.is_ok() && first.is_ok() {
        return opened;
    }
    let mut second = report.clone();
    match open(file, path, len, &mut second, read_exact_past_cache_at) {
        Ok(storage) if second.is_ok() => {
            let offset = first.damages.first().map_or(len, |damage| damage.offset);
            report.harmless(offset, "the metadata is wrong in the page cache and right on the device");
            Ok(storage)
        }
        _ => {
            *report = first;
            opened
        }
    }
}

/// Reads and checks all metadata. An error only if there is no going on.
fn open(
    file: &dyn File,
    path: &Path,
    len: u64,
    report: &mut VerifyReport,
    read: ReadExact,
) -> Result<Storage> {
    if len < FOOTER_BYTES as u64 {
        return Err(Error::corruption(path, 0, format!("{len} bytes are too few for a table")));
    }
    let mut bytes = [0; FOOTER_BYTES];
    read(file, &mut bytes, len - FOOTER_BYTES as u64)?;
    let footer = Footer::decode(&bytes, len, path)?;
    let storage = read_metadata(file, &path.into(), footer, read, &mut |flaw| match flaw.error {
        Error::Corruption { offset, what, .. } if !flaw.is_required => {
            let what = format!("{what}; no entry is lost, but gets that need this part fail");
            report.harmless(offset, what);
        }
        error => report.error(flaw.offset, &error),
    })?;
    check_padding(file, &footer, report);
    Ok(storage)
}

/// Between data and metadata there are zeros.
fn check_padding(file: &dyn File, footer: &Footer, report: &mut VerifyReport) {
    let mut padding = [0; PAGE_BYTES];
    let padding = &mut padding[..(footer.meta_offset() - footer.data_len) as usize];
    match read_exact_at(file, padding, footer.data_len) {
        Ok(()) if padding.iter().all(|byte| *byte == 0) => {}
        Ok(()) => report.harmless(footer.data_len, "the bytes behind the data region are not zero"),
        Err(error) => report.error(footer.data_len, &error),
    }
}

/// What has been seen of the entries.
#[derive(Default)]
struct Seen {
    last: Option<(Vec<u8>, u64)>,
    first_key: Option<Vec<u8>>,
    entries: u64,
    deletes: u64,
    key_bytes: u64,
    value_bytes: u64,
    raw_block_bytes: u64,
    sequences: Option<(u64, u64)>,
    /// The last key before the block, unless the block before could not be read.
    key_before: Option<Vec<u8>>,
}

fn check_entries(file: Arc<dyn File>, storage: &Storage, report: &mut VerifyReport) {
    let filter = storage.filter(&storage.metadata).unwrap_or_else(|error| {
        report.error(storage.footer.meta_offset(), &error);
        None
    });
    let place = filter::place(&storage.directory);
    if let Some(place) = place.filter(|_| filter.is_none()) {
        report.harmless(storage.footer.meta_offset() + place.offset, "the filter cannot be used");
    }
    let mut locator = check_of_locator(storage, report);
    // One with a wrong checksum, which has been told, says nothing about the entries.
    let filter = filter.filter(|_| place.is_some_and(|place| storage.is_intact(place)));
    let data_len = storage.footer.data_len;
    let mut reader =
        ScanReader::new(Arc::clone(&file), 0..data_len, ScanReader::WINDOW_BYTES, CacheUse::DropBehind);
    let mut seen = Seen::default();
    let mut end_before = 0;
    let count_before = report.damage_count;
    for index in 0..storage.fences.len() {
        let extent = match storage.extent(index) {
            Ok(extent) => extent,
            Err(error) => {
                report.error(storage.footer.meta_offset(), &error);
                seen.last = None;
                continue;
            }
        };
        if extent.start != end_before {
            report.damage(extent.start, format!("block {index} does not start where the one before ends"));
        }
        end_before = extent.end;
        seen.key_before = seen.last.as_ref().map(|last| last.0.clone());
        let read = read_block(&*file, &mut reader, storage, &extent, report)
            .map_err(|error| report.error(extent.start, &error));
        // The first thing that is wrong with a block is told, and the block given up then.
        let checked = read.is_ok_and(|block| {
            check_block(&block, index, storage, (filter, locator.as_mut()), &mut seen)
                .map(|entries| report.entries += entries)
                .map_err(|wrong| report.damage(extent.start, format!("block {index}: {wrong}")))
                .is_ok()
        });
        if checked {
            report.blocks += 1;
        } else {
            seen.last = None;
        }
        if let Some(locator) = &mut locator {
            locator.tell(report);
        }
    }
    let is_complete = report.blocks == storage.fences.len() as u64;
    if let Some(locator) = locator {
        locator.finish(is_complete, report);
    }
    if report.damage_count == count_before {
        check_properties(storage, &seen, report);
    }
}

/// A check of the locator, if the table has one. One that readers do without is damage.
fn check_of_locator<'s>(storage: &'s Storage, report: &mut VerifyReport) -> Option<LocatorCheck<'s>> {
    let place = storage.locator_place()?;
    // One with a wrong checksum has been told.
    if !storage.is_intact(place) {
        return None;
    }
    let offset = storage.footer.meta_offset() + place.offset;
    match storage.locator_at(&storage.metadata, place) {
        Ok(Ok(locator)) => return Some(LocatorCheck::new(storage, locator)),
        Ok(Err(what)) => report.harmless(offset, format!("the locator cannot be used: {what}")),
        Err(error) => report.error(offset, &error),
    }
    None
}

/// What tells of keys whether they are in the table, as far as it has that.
type Indexes<'a, 's> = (Option<&'a Filter>, Option<&'a mut LocatorCheck<'s>>);

/// A block without compression, its checksum right.
fn read_block(
    file: &dyn File,
    reader: &mut ScanReader,
    storage: &Storage,
    extent: &Range<u64>,
    report: &mut VerifyReport,
) -> Result<Vec<u8>> {
    let (raw, is_cache_wrong) = reread::block_through(file, reader, storage.footer.table_id, extent)?;
    if is_cache_wrong {
        report.harmless(extent.start, "this block is wrong in the page cache and right on the device");
    }
    let compression = storage.properties.compression;
    if compression == Compression::None
        && !(extent.start.is_multiple_of(PAGE_BYTES as u64) && raw.len().is_multiple_of(PAGE_BYTES))
    {
        return Err(storage.damaged(extent.start, "this block does not fill whole pages"));
    }
    block::unpacked(&raw, compression).map_err(|what| storage.damaged(extent.start, what))
}

/// Checks the entries of a block. Says how many there are, or the first thing that is wrong.
fn check_block(
    block: &[u8],
    index: usize,
    storage: &Storage,
    indexes: Indexes<'_, '_>,
    seen: &mut Seen,
) -> Result<u64, String> {
    let (filter, mut locator) = indexes;
    let head = BlockHead::read(block)?;
    let mut end = block::HEADER_BYTES;
    for slot in 0..head.count {
        let start = head.start(block, slot)?;
        if start != end {
            return Err(format!("entry {slot} starts at {start}, not {end}"));
        }
        let entry = head.entry(block, slot)?;
        end = entry.value_range().end;
        let (key, value) = (&block[entry.key_range()], &block[entry.value_range()]);
        if key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX || entry.sequence > SEQUENCE_MAX {
            return Err(format!("entry {slot} is over a limit"));
        }
        if entry.kind == Kind::Delete && !value.is_empty() {
            return Err(format!("entry {slot} is a tombstone with a value"));
        }
        if slot == 0 {
            check_fence(key, index, storage, seen)?;
        }
        if let Some((last_key, last_sequence)) = &seen.last
            && compare_internal(last_key, *last_sequence, key, entry.sequence) != Ordering::Less
        {
            return Err(format!("entry {slot} is not behind the one before"));
        }
        let may_contain =
            |filter: &Filter| filter.may_contain(&storage.metadata, storage.footer.table_id, key);
        // The filter's checksums are right, so it can be read.
        if filter.is_some_and(|filter| may_contain(filter).is_ok_and(|may| !may)) {
            return Err(format!("the filter does not know the key of entry {slot}"));
        }
        if let Some(locator) = &mut locator {
            locator.entry(slot);
            // Behind a block that could not be read, only the fence tells whether a key has newer versions there.
            let is_newest = match &seen.last {
                Some((last_key, _)) => *last_key != key,
                None => !storage.fences.continues(&storage.metadata, index).is_ok_and(|continues| continues),
            };
            if is_newest {
                locator.key(key, Location { block: index, slot });
            }
        }
        seen.entries += 1;
        seen.deletes += u64::from(entry.kind == Kind::Delete);
        seen.key_bytes += key.len() as u64;
        seen.value_bytes += value.len() as u64;
        let (low, high) = seen.sequences.unwrap_or((entry.sequence, entry.sequence));
        seen.sequences = Some((low.min(entry.sequence), high.max(entry.sequence)));
        seen.first_key.get_or_insert_with(|| key.to_vec());
        seen.last = Some((key.to_vec(), entry.sequence));
    }
    let slots = block.len() - SLOT_BYTES * head.count;
    if block[end..slots].iter().any(|byte| *byte != 0) {
        return Err("there is something between the entries and the slots".into());
    }
    seen.raw_block_bytes += (end + SLOT_BYTES * head.count) as u64;
    Ok(head.count as u64)
}

/// Whether the block's separator lies where it must: see `docs/format.md` §2.4.
fn check_fence(key: &[u8], index: usize, storage: &Storage, seen: &Seen) -> Result<(), String> {
    let separator = storage.fences.separator(&storage.metadata, index).map_err(|error| error.to_string())?;
    let continues = storage.fences.continues(&storage.metadata, index).map_err(|error| error.to_string())?;
    let is_found =
        storage.fences.has_right_prefix(&storage.metadata, index).map_err(|error| error.to_string())?;
    if !is_found {
        return Err("its fence is not found by its first bytes".into());
    }
    if *separator > *key {
        return Err("its fence is above its first key".into());
    }
    let Some(before) = seen.key_before.as_deref() else {
        return if index == 0 && continues {
            Err("the first block continues another".into())
        } else {
            Ok(())
        };
    };
    let right =
        if before == key { continues && *separator == *key } else { !continues && *separator > *before };
    if right { Ok(()) } else { Err("its fence does not divide it from the block before".into()) }
}

fn check_properties(storage: &Storage, seen: &Seen, report: &mut VerifyReport) {
    let properties = &storage.properties;
    let offset = storage.footer.meta_offset();
    let mut check = |name: &str, says: u64, is: u64| {
        if says != is {
            report.harmless(offset, format!("the properties say {name}: {says}, but it is {is}"));
        }
    };
    check("entries", properties.entries, seen.entries);
    check("deletes", properties.deletes, seen.deletes);
    check("key bytes", properties.raw_key_bytes, seen.key_bytes);
    check("value bytes", properties.raw_value_bytes, seen.value_bytes);
    check("raw block bytes", properties.raw_block_bytes, seen.raw_block_bytes);
    let (smallest, largest) = seen.sequences.unwrap_or_default();
    check("smallest sequence", properties.smallest_sequence, smallest);
    check("largest sequence", properties.largest_sequence, largest);
    let last_key = seen.last.as_ref().map(|last| &last.0[..]);
    if seen.first_key.as_deref() != Some(&*properties.smallest_key)
        || last_key != Some(&*properties.largest_key)
    {
        report.harmless(offset, "the properties give another key range than the entries have");
    }
    let named = report.path.file_name().and_then(|name| parse_table_file_name(name.to_str()?));
    if named.is_some_and(|named| named != properties.number) {
        report.harmless(offset, format!("the file is named like another table than {}", properties.number));
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
