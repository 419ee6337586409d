//! The writing of a table: entries in internal order go in, a synced file under its final name comes out.
//!
//! The file is written once, front to back, under a temporary name. Filter and locator are built at the end, from 8
//! and 12 bytes kept for each key; fences are collected as blocks start. One thread owns a writer.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use terrace_io::{Checksum, Error, FileSystem, PAGE_BYTES, Result, SequentialWriter};

use crate::block::{FLAG_SNAPPY, HEADER_BYTES, SLOT_BYTES};
use crate::block_builder::{BlockBuilder, entry_head, header, plain_entry_len, seal};
use crate::fences::FencesBuilder;
use crate::filter;
use crate::footer::{
    DIRECTORY_ENTRY_BYTES, FORMAT_VERSION, Footer, KIND_FENCES, KIND_LOCATOR, KIND_PROPERTIES, MetadataBlock,
};
use crate::locator::{self, LINE_BYTES, LocatorBuilder};
use crate::metadata::chunk_checksum;
use crate::storage::tail_checksum;
use crate::{
    Cause, Compression, KEY_BYTES_MAX, Kind, Properties, SEQUENCE_MAX, TableMeta, TableOptions,
    VALUE_BYTES_MAX, compare_internal, table_file_name, table_tmp_file_name,
};

/// The longest payload of a page.
const PAGE_PAYLOAD_BYTES: usize = PAGE_BYTES - HEADER_BYTES;
/// As many as can be needed: nearly a page of padding, and a slot.
const ZEROS: [u8; PAGE_BYTES + SLOT_BYTES] = [0; PAGE_BYTES + SLOT_BYTES];

/// Whose table it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableIdentity {
    /// The database's id.
    pub database_id: [u8; 16],
    /// The keyspace's id.
    pub keyspace_id: u32,
    /// The keyspace's name.
    pub keyspace_name: String,
    /// The table's number: names the file, and is never used again.
    pub number: u64,
    /// The level that it is written for.
    pub level: u8,
    /// Why it is written.
    pub cause: Cause,
}

/// Writes one table.
///
/// Dropping an unfinished writer removes the file. After an error the writer is good for nothing else: what went
/// wrong once may have left half a block behind.
pub struct TableWriter {
    fs: Arc<dyn FileSystem>,
    path: PathBuf,
    tmp_path: PathBuf,
    /// Gone once the table is finished or has failed.
    file: Option<SequentialWriter>,
    options: TableOptions,
    block: BlockBuilder,
    /// Whether entries that are added are expected to be read soon, and whether any in the block is.
    is_cached: bool,
    block_is_cached: bool,
    /// A block being encoded, and the same compressed.
    raw: Vec<u8>,
    compressed: Vec<u8>,
    encoder: snap::raw::Encoder,
    fences: FencesBuilder,
    digests: Vec<u64>,
    /// Gone if the table cannot have one, or is to have none.
    locator: Option<LocatorBuilder>,
    table_id: u64,
    last_key: Vec<u8>,
    last_sequence: u64,
    /// What the table will say about itself; grows with the entries.
    properties: Properties,
}

impl TableWriter {
    /// Starts the table `identity.number` in `dir`, under a temporary name.
    pub fn create(
        fs: &Arc<dyn FileSystem>,
        dir: &Path,
        identity: TableIdentity,
        options: &TableOptions,
    ) -> Result<TableWriter> {
        options.check()?;
        let tmp_path = dir.join(table_tmp_file_name(identity.number));
        let file = SequentialWriter::create(&**fs, &tmp_path)?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let properties = Properties {
            database_id: identity.database_id,
            keyspace_id: identity.keyspace_id,
            keyspace_name: identity.keyspace_name,
            number: identity.number,
            created_micros: u64::try_from(created.as_micros()).unwrap_or(u64::MAX),
            entries: 0,
            deletes: 0,
            raw_key_bytes: 0,
            raw_value_bytes: 0,
            data_blocks: 0,
            raw_block_bytes: 0,
            compression: options.compression,
            smallest_sequence: u64::MAX,
            largest_sequence: 0,
            smallest_key: Box::default(),
            largest_key: Box::default(),
            cause: identity.cause,
            level: identity.level,
        };
        Ok(TableWriter {
            fs: Arc::clone(fs),
            path: dir.join(table_file_name(identity.number)),
            tmp_path,
            file: Some(file),
            options: options.clone(),
            block: BlockBuilder::default(),
            is_cached: true,
            block_is_cached: false,
            raw: Vec::new(),
            compressed: Vec::new(),
            encoder: snap::raw::Encoder::new(),
            fences: FencesBuilder::default(),
            digests: Vec::new(),
            locator: options.locator.then(LocatorBuilder::default),
            table_id: random_table_id(),
            last_key: Vec::new(),
            last_sequence: 0,
            properties,
        })
    }

    /// Takes less memory for what goes to the file, in smaller writes. To be called before the first entry is added.
    pub fn spare_memory(&mut self) {
        if let Some(file) = &mut self.file {
            file.spare_memory();
        }
    }

    /// Whether the page cache is to keep the entries that are added from here on (at first: yes). It keeps a block if it
    /// is to keep any entry of it, and metadata always.
    pub fn set_cached(&mut self, is_cached: bool) {
        self.is_cached = is_cached;
    }

    /// Adds an entry behind the last one. A caller that may do without the sequence number passes 0, which takes
    /// no space.
    ///
    /// [`Error::InvalidArgument`] for an entry that is not behind the last in internal order, or over a limit.
    pub fn add(&mut self, key: &[u8], sequence: u64, kind: Kind, value: &[u8]) -> Result<()> {
        self.check(key, sequence, kind, value)?;
        let is_new_key = self.properties.entries == 0 || self.last_key != key;
        let limit = match self.options.compression {
            Compression::None => PAGE_PAYLOAD_BYTES,
            Compression::Snappy => self.options.block_bytes as usize,
        };
        let entry_len = plain_entry_len(key.len(), value.len());
        let alone = self.options.compression == Compression::None && entry_len + SLOT_BYTES > limit;
        if alone {
            self.finish_block()?;
            self.start_block(key)?;
            self.write_alone(key, sequence, kind, value)?;
        } else {
            if self.block.is_empty() {
                self.start_block(key)?;
            }
            if !self.block.try_add(key, sequence, kind, value, limit) {
                self.finish_block()?;
                self.start_block(key)?;
                let added = self.block.try_add(key, sequence, kind, value, limit);
                debug_assert!(added, "an empty block takes any entry");
            }
            self.block_is_cached |= self.is_cached;
        }

        let properties = &mut self.properties;
        if properties.entries == 0 {
            properties.smallest_key = key.into();
        }
        properties.entries += 1;
        properties.deletes += u64::from(kind == Kind::Delete);
        properties.raw_key_bytes += key.len() as u64;
        properties.raw_value_bytes += value.len() as u64;
        properties.smallest_sequence = properties.smallest_sequence.min(sequence);
        properties.largest_sequence = properties.largest_sequence.max(sequence);
        if let Some(locator) = &mut self.locator {
            locator.add(is_new_key.then(|| locator::hash(key, self.table_id)));
        }
        if is_new_key {
            if self.options.filter_bits_per_key > 0 {
                self.digests.push(filter::digest(self.options.filter, key, self.table_id));
            }
            self.last_key.clear();
            self.last_key.extend_from_slice(key);
        }
        self.last_sequence = sequence;
        Ok(())
    }

    fn check(&self, key: &[u8], sequence: u64, kind: Kind, value: &[u8]) -> Result<()> {
        if key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX || sequence > SEQUENCE_MAX {
            let (key_len, value_len) = (key.len(), value.len());
            let what = format!(
                "an entry is over a limit: key {key_len} B, value {value_len} B, sequence {sequence}"
            );
            return Err(Error::invalid(what));
        }
        if kind == Kind::Delete && !value.is_empty() {
            return Err(Error::invalid("a tombstone with a value was added to a table"));
        }
        if self.properties.entries > 0
            && compare_internal(&self.last_key, self.last_sequence, key, sequence).is_ge()
        {
            let (last, key) = (self.last_key.escape_ascii(), key.escape_ascii());
            let what = format!(
                "entries were added to a table out of order: \"{key}\" at {sequence} after \"{last}\" at {}",
                self.last_sequence
            );
            return Err(Error::invalid(what));
        }
        Ok(())
    }

    /// How many entries were added.
    pub fn entries(&self) -> u64 {
        self.properties.entries
    }

    /// About how long the file would be if the table were finished now.
    pub fn estimated_len(&self) -> u64 {
        let written = self.file.as_ref().map_or(0, SequentialWriter::position);
        let filter = match self.options.filter_bits_per_key {
            0 => 0,
            bits => filter::encoded_len(self.options.filter, self.digests.len(), bits),
        };
        let block = if self.block.is_empty() { 0 } else { HEADER_BYTES + self.block.payload_len() };
        let locator = self.locator.as_ref().map_or(0, LocatorBuilder::encoded_len);
        let metadata = filter + locator + self.fences.encoded_len() + 512;
        written + (block + metadata + metadata / 1000) as u64
    }

    /// The key of the last entry; empty before the first.
    pub fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Completes the file, syncs it and gives it its final name. The caller syncs the directory. The table has at
    /// least one entry; without one, or on any error, the file is removed.
    pub fn finish(mut self) -> Result<TableMeta> {
        if self.properties.entries == 0 {
            return Err(Error::invalid("a table without entries was finished"));
        }
        self.finish_block()?;
        let data_len = self.position();
        self.append(true, |this| &ZEROS[..(data_len.next_multiple_of(PAGE_BYTES as u64) - this) as usize])?;
        self.properties.data_blocks = self.fences.len() as u64;
        self.properties.largest_key = self.last_key.as_slice().into();

        let (metadata, directory) = self.metadata(data_len)?;
        let meta_offset = self.position();
        let mut tail = Vec::with_capacity(4 * metadata.len().div_ceil(PAGE_BYTES) + directory.len());
        for (i, chunk) in metadata.chunks(PAGE_BYTES).enumerate() {
            let sum = chunk_checksum(self.table_id, meta_offset + (i * PAGE_BYTES) as u64, chunk);
            tail.extend_from_slice(&sum.to_le_bytes());
        }
        tail.extend_from_slice(&directory);
        let footer = Footer {
            table_id: self.table_id,
            data_len,
            meta_len: metadata.len() as u64,
            directory_len: directory.len() as u32,
            tail_crc: tail_checksum(self.table_id, &tail),
            format_version: FORMAT_VERSION,
        };
        let mut file = self.file.take().ok_or_else(failed_before)?;
        let written = (file.append(&metadata))
            .and_then(|()| file.append(&tail))
            .and_then(|()| file.append(&footer.encode()))
            .and_then(|()| file.finish())
            .and_then(|len| self.fs.rename(&self.tmp_path, &self.path).map(|()| len));
        let file_len = match written {
            Ok(len) => len,
            Err(error) => {
                let _ = self.fs.remove_file(&self.tmp_path);
                return Err(error);
            }
        };
        let properties = &self.properties;
        Ok(TableMeta {
            number: properties.number,
            table_id: self.table_id,
            file_len,
            entries: properties.entries,
            deletes: properties.deletes,
            smallest_sequence: properties.smallest_sequence,
            largest_sequence: properties.largest_sequence,
            smallest_key: properties.smallest_key.clone(),
            largest_key: properties.largest_key.clone(),
        })
    }

    /// Gives up and removes the file, as dropping the writer does.
    pub fn abandon(self) {}

    /// The metadata region and the directory.
    fn metadata(&mut self, data_len: u64) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut region = Vec::new();
        let mut blocks = Vec::new();
        // Lines of 64 bytes are to be those of the memory that the file is mapped to.
        let mut put = |kind: u32, alignment: usize, bytes: &[u8]| {
            region.resize(region.len().next_multiple_of(alignment), 0);
            blocks.push(MetadataBlock { kind, offset: region.len() as u64, len: bytes.len() as u64 });
            region.extend_from_slice(bytes);
        };
        if let Some(locator) = self.locator.take().and_then(LocatorBuilder::finish) {
            put(KIND_LOCATOR, LINE_BYTES, &locator);
        }
        put(KIND_FENCES, 8, &std::mem::take(&mut self.fences).finish(data_len)?);
        if self.options.filter_bits_per_key > 0 {
            let (kind, bits_per_key) = (self.options.filter, self.options.filter_bits_per_key);
            let bytes = filter::build(kind, &self.digests, bits_per_key);
            put(filter::block_kind(kind), filter::alignment(kind), &bytes);
        }
        put(KIND_PROPERTIES, 8, &self.properties.encode());
        region.resize(region.len().next_multiple_of(8), 0);
        blocks.sort_unstable_by_key(|block| block.kind);
        let mut directory = Vec::with_capacity(blocks.len() * DIRECTORY_ENTRY_BYTES);
        for block in blocks {
            block.encode(&mut directory);
        }
        Ok((region, directory))
    }

    fn position(&self) -> u64 {
        self.file.as_ref().map_or(0, SequentialWriter::position)
    }

    /// Appends what `bytes` gives, which is told the position. A failed writer takes nothing more.
    fn append<'a>(&mut self, is_cached: bool, bytes: impl FnOnce(u64) -> &'a [u8]) -> Result<()> {
        let file = self.file.as_mut().ok_or_else(failed_before)?;
        let bytes = bytes(file.position());
        let appended = if is_cached { file.append(bytes) } else { file.append_uncached(bytes) };
        if appended.is_err() {
            self.fail();
        }
        appended
    }

    fn fail(&mut self) {
        if self.file.take().is_some() {
            let _ = self.fs.remove_file(&self.tmp_path);
        }
    }

    /// A block starts here with `key`.
    fn start_block(&mut self, key: &[u8]) -> Result<()> {
        let position = self.file.as_ref().ok_or_else(failed_before)?.position();
        let last_key = (self.properties.entries > 0).then_some(&self.last_key[..]);
        self.fences.push(last_key, key, position);
        if self.locator.as_mut().is_some_and(|locator| !locator.start_block()) {
            self.locator = None;
        }
        Ok(())
    }

    /// Writes the block that has been collected, if there is one.
    fn finish_block(&mut self) -> Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.properties.raw_block_bytes += (HEADER_BYTES + self.block.payload_len()) as u64;
        let offset = self.position();
        let is_compressed = match self.options.compression {
            Compression::None => {
                self.block.finish_into(&mut self.raw, PAGE_PAYLOAD_BYTES);
                debug_assert_eq!(self.raw.len(), PAGE_BYTES, "the entries of a block fit in its page");
                false
            }
            Compression::Snappy => {
                self.block.finish_into(&mut self.raw, 0);
                self.compress()?
            }
        };
        let mut out = std::mem::take(if is_compressed { &mut self.compressed } else { &mut self.raw });
        seal(&mut out, self.table_id, offset);
        let is_cached = std::mem::take(&mut self.block_is_cached);
        let appended = self.append(is_cached, |_| &out);
        // Large entries are rare: what one needed is not kept.
        out.clear();
        out.shrink_to(1 << 20);
        *(if is_compressed { &mut self.compressed } else { &mut self.raw }) = out;
        self.raw.shrink_to(1 << 20);
        self.block.shrink(1 << 20);
        appended
    }

    /// Compresses the encoded block; says whether it pays.
    fn compress(&mut self) -> Result<bool> {
        let payload = &self.raw[HEADER_BYTES..];
        self.compressed.clear();
        self.compressed.extend_from_slice(&self.raw[..HEADER_BYTES]);
        self.compressed[6..8].copy_from_slice(&FLAG_SNAPPY.to_le_bytes());
        self.compressed.resize(HEADER_BYTES + snap::raw::max_compress_len(payload.len()), 0);
        let len = (self.encoder.compress(payload, &mut self.compressed[HEADER_BYTES..]))
            .map_err(|error| Error::invalid(format!("a block cannot be compressed: {error}")))?;
        self.compressed.truncate(HEADER_BYTES + len);
        Ok(len <= payload.len() - payload.len() / 8)
    }

    /// Writes a block of one entry that does not fit in a page, without copying its value.
    fn write_alone(&mut self, key: &[u8], sequence: u64, kind: Kind, value: &[u8]) -> Result<()> {
        let mut head = header(1, 0, sequence).to_vec();
        entry_head(&mut head, kind, key.len(), value.len(), 0);
        head.extend_from_slice(key);
        let len = head.len() + value.len() + SLOT_BYTES;
        // The slot of the only entry is zero too.
        let zeros = &ZEROS[..len.next_multiple_of(PAGE_BYTES) - len + SLOT_BYTES];
        let offset = self.position();
        let crc = Checksum::new().u64(self.table_id).u64(offset).bytes(&head[4..]).bytes(value).bytes(zeros);
        head[..4].copy_from_slice(&crc.finish().to_le_bytes());
        self.properties.raw_block_bytes += len as u64;
        self.append(self.is_cached, |_| &head)?;
        self.append(self.is_cached, |_| value)?;
        self.append(self.is_cached, |_| zeros)
    }
}

impl Drop for TableWriter {
    fn drop(&mut self) {
        self.fail();
    }
}

impl fmt::Debug for TableWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, entries) = (&self.tmp_path, self.properties.entries);
        f.debug_struct("TableWriter").field("path", path).field("entries", &entries).finish_non_exhaustive()
    }
}

#[cold]
fn failed_before() -> Error {
    Error::invalid("a table writer was used after it had failed")
}

/// A number that no other table has, as far as chance can tell. Not zero.
fn random_table_id() -> u64 {
    loop {
        // The standard library keeps random keys for its hash maps; they differ from call to call.
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        let id = hasher.finish();
        if id != 0 {
            return id;
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
