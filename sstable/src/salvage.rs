//! What can still be read of a damaged table: every entry of every block whose checksum is right, in order, by `pread`.
//!
//! Blocks are found by the fences, if these can be read at all, whatever their checksums say: a block vouches for
//! itself, since its checksum covers the table's id and its own place. One that is wrong is read once more past the
//! page cache.
//!
//! Without fences, in a file that was cut for one, blocks are looked for by their checksums alone. That takes knowing
//! the table's id, from the footer or from the manifest. In a table without compression every page is tried; in a
//! Snappy table a block begins where the one before ends, so that all behind the first damaged block is lost, and there
//! is no second look past the page cache where no block is found. (To try every byte behind it would cost the square of
//! the length.)
//!
//! One thread owns a salvage; nothing is ever written.

use std::cmp::Ordering;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use terrace_io::{
    CacheUse, Checksum, Error, File, FileSystem, OpenMode, PAGE_BYTES, Result, ScanReader, read_exact_at,
    read_exact_past_cache_at,
};

use crate::block::{self, BLOCK_BYTES_MAX, BlockHead, EntryHead, HEADER_BYTES, SHARED_PAYLOAD_BYTES_MAX};
use crate::damaged::{self, Flaw, ReadExact};
use crate::footer::{FOOTER_BYTES, Footer, KIND_PROPERTIES};
use crate::storage::{Storage, has_right_tail};
use crate::{
    Compression, KEY_BYTES_MAX, Kind, Properties, SEQUENCE_MAX, VALUE_BYTES_MAX, compare_internal, reread,
    varint,
};

/// A part of a table that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostBlocks {
    /// Where it is in the file, as far as that is known.
    pub bytes: Range<u64>,
    /// The last key that was read before it: no lost entry has a smaller key. `None` at the start of the table.
    pub keys_from: Option<Box<[u8]>>,
    /// The first key that was read behind it: no lost entry has a larger key. `None` at the end of the table.
    pub keys_to: Option<Box<[u8]>>,
    /// What is wrong with the first block of it.
    pub what: String,
}

/// How blocks are found.
#[derive(Debug)]
enum Blocks {
    /// By the fences; the next one's number, and where the last one ends whose place is known.
    Fences { storage: Box<Storage>, index: usize, end: u64 },
    /// By their checksums; where the next one should start, where there are none any more, and whether there may have
    /// been some behind that.
    Checksums { at: u64, end: u64, is_cut: bool },
}

/// Reads what is left of a table.
#[derive(Debug)]
pub struct TableSalvage {
    file: Arc<dyn File>,
    file_len: u64,
    table_id: u64,
    compression: Compression,
    properties: Option<Properties>,
    blocks: Blocks,
    reader: ScanReader,
    metadata_damage: Option<Error>,
    lost: Vec<LostBlocks>,
    /// Whether the last of `lost` still grows.
    losing: bool,
    entries_read: u64,
    block: Vec<u8>,
    head: BlockHead,
    slot: usize,
    entry: EntryHead,
    last: Option<(Vec<u8>, u64)>,
}

impl TableSalvage {
    /// Opens a table file. `known` is the table's id and compression, where the manifest says them.
    ///
    /// # Errors
    /// If nothing can be read of it: [`Error::Corruption`] if there are neither fences nor a known id to find blocks
    /// by, or if this is another table than the known one; [`Error::UnsupportedFormat`] if its footer or its directory
    /// is intact and says so: what it means is not known then, deletes for one; errors of the file system.
    pub fn open(fs: &dyn FileSystem, path: &Path, known: Option<(u64, Compression)>) -> Result<TableSalvage> {
        let file = fs.open(path, OpenMode::Read)?;
        let file_len = file.len()?;
        let footer = match read_footer(&*file, path, file_len) {
            Err(error @ Error::UnsupportedFormat { .. }) => return Err(error),
            read => read,
        };
        if let (Some((expected, _)), Ok(footer)) = (known, &footer)
            && footer.table_id != expected
        {
            let what = format!("this is table {:016x}, and {expected:016x} should be here", footer.table_id);
            return Err(Error::corruption(path, file_len - FOOTER_BYTES as u64, what));
        }
        let (storage, mut metadata_damage) = match &footer {
            Ok(footer) => read_metadata(&*file, path, *footer)?,
            Err(error) => (None, Some(error.clone())),
        };
        let table_id = footer.as_ref().map(|footer| footer.table_id).ok().or(known.map(|(id, _)| id));
        let Some(table_id) = table_id else {
            return Err(footer.err().unwrap_or_else(|| Error::corruption(path, 0, "the table has no id")));
        };
        // What it says about itself is believed only if it is intact: it decides whose entries these are.
        let properties = storage.as_ref().and_then(intact_properties);
        let compression = known.map(|(_, compression)| compression);
        let compression = compression.or(properties.as_ref().map(|properties| properties.compression));
        let Some(compression) = compression else {
            let missing = || Error::corruption(path, 0, "the table's properties cannot be read");
            return Err(metadata_damage.take().unwrap_or_else(missing));
        };
        let data_end = footer.as_ref().map_or(file_len, |footer| footer.data_len.min(file_len));
        let blocks = match storage {
            Some(storage) => Blocks::Fences { storage: Box::new(storage), index: 0, end: 0 },
            None => Blocks::Checksums { at: 0, end: data_end, is_cut: footer.is_err() },
        };
        let reader =
            ScanReader::new(Arc::clone(&file), 0..data_end, ScanReader::WINDOW_BYTES, CacheUse::DropBehind);
        Ok(TableSalvage {
            file,
            file_len,
            table_id,
            compression,
            properties,
            blocks,
            reader,
            metadata_damage,
            lost: Vec::new(),
            losing: false,
            entries_read: 0,
            block: Vec::new(),
            head: BlockHead::EMPTY,
            slot: 0,
            entry: EntryHead::NONE,
            last: None,
        })
    }

    /// What the table says about itself, if that is intact.
    pub fn properties(&self) -> Option<&Properties> {
        self.properties.as_ref()
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// What is wrong with footer or metadata, if anything. No entry is lost by that alone.
    pub fn metadata_damage(&self) -> Option<&Error> {
        self.metadata_damage.as_ref()
    }

    /// What was lost so far, in the order of the file.
    pub fn lost(&self) -> &[LostBlocks] {
        &self.lost
    }

    /// Entries read so far.
    pub fn entries_read(&self) -> u64 {
        self.entries_read
    }

    /// Goes to the next entry that can be read, in internal order. `false` at the end.
    pub fn advance(&mut self) -> bool {
        if self.slot < self.head.count {
            self.slot += 1;
        }
        while self.slot >= self.head.count {
            if !self.next_block() {
                return false;
            }
            self.slot = 0;
        }
        let entry = self.head.entry(&self.block, self.slot);
        self.entry = entry.expect("every entry was decoded when the block was taken");
        self.entries_read += 1;
        true
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.block[self.entry.key_range()]
    }

    /// The sequence number.
    pub fn sequence(&self) -> u64 {
        self.entry.sequence
    }

    /// What the entry does to its key.
    pub fn kind(&self) -> Kind {
        self.entry.kind
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        &self.block[self.entry.value_range()]
    }

    /// Reads the next block that is right. `false` behind the last.
    fn next_block(&mut self) -> bool {
        self.head = BlockHead::EMPTY;
        loop {
            let (extent, read) = match &mut self.blocks {
                Blocks::Fences { storage, index, end } => {
                    if *index >= storage.fences.len() {
                        return false;
                    }
                    *index += 1;
                    match storage.extent(*index - 1) {
                        Ok(extent) => {
                            *end = extent.end;
                            (extent.clone(), self.read_block(&extent))
                        }
                        // Where it is cannot be told; it is not before the one before.
                        Err(error) => (*end..*end, Err(message(&error))),
                    }
                }
                Blocks::Checksums { at, end, is_cut } => {
                    let (start, end, was_cut) = (*at, *end, *is_cut);
                    if start + HEADER_BYTES as u64 >= end {
                        *at = end;
                        *is_cut = false;
                        if start < end || was_cut {
                            self.lose(start..end, "the file was cut, or its end is damaged".into());
                        }
                        return false;
                    }
                    let (extent, read) = self.find_block(start, end);
                    self.blocks = Blocks::Checksums { at: extent.end, end, is_cut: was_cut };
                    (extent, read)
                }
            };
            match read.and_then(|block| self.take(block)) {
                Ok(()) => return true,
                Err(what) => self.lose(extent, what),
            }
        }
    }

    /// The bytes of a block whose place is known, checked and not compressed.
    fn read_block(&mut self, extent: &Range<u64>) -> Result<Vec<u8>, String> {
        let read = reread::block_through(&*self.file, &mut self.reader, self.table_id, extent);
        let (raw, _) = read.map_err(|error| message(&error))?;
        Ok(block::unpacked(&raw, self.compression)?)
    }

    /// Looks for a block that starts at `start`, of a length that only its checksum tells. If there is none, says how
    /// far it is to where the next could start.
    fn find_block(&mut self, start: u64, end: u64) -> (Range<u64>, Result<Vec<u8>, String>) {
        let nothing = || Err("no block with a right checksum starts here".to_owned());
        if self.compression == Compression::Snappy {
            return match self.packed_block_end(start, end) {
                Ok(Some(found)) => (start..found, self.read_block(&(start..found))),
                Ok(None) => (start..end, nothing()),
                Err(error) => (start..end, Err(message(&error))),
            };
        }
        let page = start..(start + PAGE_BYTES as u64).min(end);
        let read = self.read_block(&page);
        if read.is_ok() {
            return (page, read);
        }
        match self.lone_block_end(start, end) {
            Some(found) => match self.read_block(&(start..found)) {
                Ok(block) => (start..found, Ok(block)),
                Err(what) => (page, Err(what)),
            },
            None => (page, read),
        }
    }

    /// Where a block of whole pages ends that holds one entry and says how long that is.
    fn lone_block_end(&self, start: u64, end: u64) -> Option<u64> {
        let mut bytes = [0; HEADER_BYTES + 21];
        let len = bytes.len().min(usize::try_from(end - start).ok()?);
        read_exact_at(&*self.file, &mut bytes[..len], start).ok()?;
        if bytes[4..6] != [1, 0] {
            return None;
        }
        let rest = &bytes[HEADER_BYTES + 1..len];
        let (key_len, key_len_len) = varint::read32(rest)?;
        let (value_len, value_len_len) = varint::read32(&rest[key_len_len..])?;
        let head_len = HEADER_BYTES + 1 + key_len_len + value_len_len;
        let without_delta =
            head_len as u64 + u64::from(key_len) + u64::from(value_len) + block::SLOT_BYTES as u64;
        let delta_len = if bytes[HEADER_BYTES] & block::TAG_DELTA != 0 {
            varint::read(&rest[key_len_len + value_len_len..])?.1 as u64
        } else {
            0
        };
        let found = start + (without_delta + delta_len).next_multiple_of(PAGE_BYTES as u64);
        (found <= end && found - start <= BLOCK_BYTES_MAX as u64).then_some(found)
    }

    /// Where a packed block ends: the first place that makes its checksum right and its bytes a block.
    fn packed_block_end(&mut self, start: u64, end: u64) -> Result<Option<u64>> {
        let mut header = [0; HEADER_BYTES];
        read_exact_at(&*self.file, &mut header, start)?;
        let wanted = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let longest = if header[4..6] == [1, 0] {
            BLOCK_BYTES_MAX
        } else {
            HEADER_BYTES + snap::raw::max_compress_len(SHARED_PAYLOAD_BYTES_MAX)
        };
        let limit = end.min(start + longest as u64);
        let mut sum = Checksum::new().u64(self.table_id).u64(start).bytes(&header[4..]);
        let mut at = start + HEADER_BYTES as u64;
        while at < limit {
            let len = (limit - at).min(16 * 1024) as usize;
            let (buffer, range) = self.reader.read(at, len)?;
            for (i, byte) in buffer[range].iter().enumerate() {
                sum = sum.bytes(std::slice::from_ref(byte));
                let found = at + i as u64 + 1;
                if sum.clone().finish() == wanted
                    && self.read_block(&(start..found)).is_ok_and(|block| check_entries(&block, None).is_ok())
                {
                    return Ok(Some(found));
                }
            }
            at += len as u64;
        }
        Ok(None)
    }

    /// Makes a block the current one, if it is one and goes on where the one before ended.
    fn take(&mut self, block: Vec<u8>) -> Result<(), String> {
        let last = self.last.as_ref().map(|(key, sequence)| (&key[..], *sequence));
        let (head, first_key, last) = check_entries(&block, last)?;
        if std::mem::take(&mut self.losing)
            && let Some(lost) = self.lost.last_mut()
        {
            lost.keys_to = Some(first_key);
        }
        self.last = Some(last);
        self.head = head;
        self.block = block;
        Ok(())
    }

    fn lose(&mut self, bytes: Range<u64>, what: String) {
        if let Some(lost) = self.lost.last_mut().filter(|_| self.losing) {
            lost.bytes.end = lost.bytes.end.max(bytes.end);
            return;
        }
        self.losing = true;
        let keys_from = self.last.as_ref().map(|(key, _)| key.as_slice().into());
        self.lost.push(LostBlocks { bytes, keys_from, keys_to: None, what });
    }
}

/// What a block holds: its head, its first key, and its last key and sequence number.
type Checked = (BlockHead, Box<[u8]>, (Vec<u8>, u64));

/// Checks every entry of a block, and that they come behind `last`.
fn check_entries(block: &[u8], last: Option<(&[u8], u64)>) -> Result<Checked, String> {
    let head = BlockHead::read(block)?;
    let mut before = last;
    let mut first_key = None;
    for slot in 0..head.count {
        let entry = head.entry(block, slot)?;
        let (key, value) = (&block[entry.key_range()], &block[entry.value_range()]);
        if key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX || entry.sequence > SEQUENCE_MAX {
            return Err(format!("entry {slot} of the block is over a limit"));
        }
        if let Some((last_key, last_sequence)) = before
            && compare_internal(last_key, last_sequence, key, entry.sequence) != Ordering::Less
        {
            return Err(format!("entry {slot} of the block is not behind the one before"));
        }
        first_key.get_or_insert(key);
        before = Some((key, entry.sequence));
    }
    let (first_key, (last_key, sequence)) =
        first_key.zip(before).ok_or_else(|| "the block is empty".to_owned())?;
    Ok((head, first_key.into(), (last_key.to_vec(), sequence)))
}

fn message(error: &Error) -> String {
    match error {
        Error::Corruption { what, .. } => what.clone(),
        error => error.to_string(),
    }
}

/// The footer, past the page cache if it is wrong or cannot be read there. If it is no better on the device, the error
/// is that of the first look.
fn read_footer(file: &dyn File, path: &Path, file_len: u64) -> Result<Footer> {
    let Some(at) = file_len.checked_sub(FOOTER_BYTES as u64) else {
        return Err(Error::corruption(path, 0, format!("{file_len} bytes are too few for a table")));
    };
    let footer = |read: ReadExact| {
        let mut bytes = [0; FOOTER_BYTES];
        read(file, &mut bytes, at)?;
        Footer::decode(&bytes, file_len, path)
    };
    match footer(read_exact_at) {
        Ok(footer) => Ok(footer),
        Err(error @ Error::UnsupportedFormat { .. }) => Err(error),
        Err(error) => footer(read_exact_past_cache_at).map_err(|second| match second {
            Error::UnsupportedFormat { .. } => second,
            _ => error,
        }),
    }
}

/// The metadata as the device has it, checksums or not, if it can be read, and what is wrong with it first. An error
/// only if it is of an unknown format.
fn read_metadata(file: &dyn File, path: &Path, footer: Footer) -> Result<(Option<Storage>, Option<Error>)> {
    let mut damage = None;
    let mut keep_first = |flaw: Flaw| {
        damage.get_or_insert(flaw.error);
    };
    match damaged::read_metadata(file, &path.into(), footer, read_exact_past_cache_at, &mut keep_first) {
        Ok(storage) => Ok((Some(storage), damage)),
        Err(error @ Error::UnsupportedFormat { .. }) => Err(error),
        Err(error) => Ok((None, Some(damage.unwrap_or(error)))),
    }
}

fn intact_properties(storage: &Storage) -> Option<Properties> {
    let place = storage.directory.iter().find(|block| block.kind == KIND_PROPERTIES)?;
    let is_intact = has_right_tail(&storage.footer, storage.metadata.region()) && storage.is_intact(place);
    is_intact.then(|| storage.properties.clone())
}

#[cfg(test)]
#[path = "salvage_tests.rs"]
mod tests;
