//! What the tests of this crate share: tables in memory, their forgery, a model of a cursor, and random bytes that a
//! seed repeats.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use terrace_io::{CacheUse, Checksum, FileSystem, MemoryFileSystem, PAGE_BYTES, Result};

use crate::block_builder::seal;
use crate::flawed::{Flawed, Flaws};
use crate::footer::FOOTER_BYTES;
use crate::metadata::chunk_checksum;
use crate::storage::tail_checksum;
use crate::*;

/// An entry: key, sequence number, kind, value.
pub(crate) type Entry = (Vec<u8>, u64, Kind, Vec<u8>);

/// A put.
pub(crate) fn put(key: impl AsRef<[u8]>, sequence: u64, value: impl AsRef<[u8]>) -> Entry {
    (key.as_ref().to_vec(), sequence, Kind::Put, value.as_ref().to_vec())
}

/// Entries in internal order, of each key and sequence number the first.
pub(crate) fn in_order(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by(|a, b| compare_internal(&a.0, a.1, &b.0, b.1));
    entries.dedup_by(|b, a| a.0 == b.0 && a.1 == b.1);
    entries
}

/// A directory of tables in memory.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    pub(crate) memory: MemoryFileSystem,
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) dir: PathBuf,
}

impl Tables {
    pub(crate) fn new() -> Tables {
        let memory = MemoryFileSystem::new();
        let dir = PathBuf::from("/db");
        memory.create_dir_all(&dir).unwrap();
        Tables { fs: Arc::new(memory.clone()), memory, dir }
    }

    /// Table 1 of these entries, alone: what the manifest would say of it, and its bytes.
    pub(crate) fn with(compression: Compression, entries: &[Entry]) -> (Tables, TableMeta, Vec<u8>) {
        let tables = Tables::new();
        let meta = tables.write(1, &options(compression), entries);
        let bytes = tables.bytes(&tables.path(1));
        (tables, meta, bytes)
    }

    /// Gives table 1 other bytes.
    pub(crate) fn replace(&self, bytes: Vec<u8>) {
        self.memory.replace_bytes(&self.path(1), bytes).unwrap();
    }

    /// The same files with flaws.
    pub(crate) fn flawed(&self, flaws: &Arc<Flaws>) -> Arc<dyn FileSystem> {
        Arc::new(Flawed { inner: Arc::clone(&self.fs), flaws: Arc::clone(flaws) })
    }

    pub(crate) fn writer(&self, number: u64, options: &TableOptions) -> TableWriter {
        TableWriter::create(&self.fs, &self.dir, identity(number), options).unwrap()
    }

    pub(crate) fn write(&self, number: u64, options: &TableOptions, entries: &[Entry]) -> TableMeta {
        let mut writer = self.writer(number, options);
        for (key, sequence, kind, value) in entries {
            writer.add(key, *sequence, *kind, value).unwrap();
        }
        writer.finish().unwrap()
    }

    /// A table that is mapped (as far as memory is), however small.
    pub(crate) fn context(&self) -> TableContext {
        TableContext { heap_table_bytes: 0, ..TableContext::new(self.fs.clone(), &self.dir) }
    }

    /// Every way of reading: mapped, on the heap, and by `pread` with and without a cache.
    pub(crate) fn contexts(&self) -> Vec<Arc<TableContext>> {
        let cache = Some(Arc::new(BlockCache::new(1 << 20)));
        let contexts = [
            self.context(),
            TableContext { heap_table_bytes: u64::MAX, cache: cache.clone(), ..self.context() },
            TableContext { point_reads: PointReads::Pread.into(), ..self.context() },
            TableContext { point_reads: PointReads::Pread.into(), cache, ..self.context() },
        ];
        contexts.map(Arc::new).into()
    }

    pub(crate) fn table(&self, meta: &TableMeta) -> Arc<Table> {
        Table::new(Arc::new(self.context()), meta.clone())
    }

    pub(crate) fn path(&self, number: u64) -> PathBuf {
        self.dir.join(table_file_name(number))
    }

    pub(crate) fn verify(&self, number: u64) -> VerifyReport {
        verify(&*self.fs, &self.path(number))
    }

    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        self.memory.file_bytes(path).unwrap()
    }
}

/// What a get at `snapshot` must find.
pub(crate) fn expected<'a>(entries: &'a [Entry], key: &[u8], snapshot: u64) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.0 == key && entry.1 <= snapshot)
}

/// Looks every entry up, at snapshots around its own, and keys that are nearly those.
pub(crate) fn check_gets(table: &Arc<Table>, entries: &[Entry]) {
    for (at, entry) in entries.iter().enumerate() {
        for snapshot in [entry.1, entry.1.saturating_sub(1), entry.1 + 1, u64::MAX] {
            let expected = expected(entries, &entry.0, snapshot);
            let found = table.get(&entry.0, snapshot).unwrap();
            let is = found.as_ref().map(|found| (found.sequence(), found.kind(), found.value()));
            assert_eq!(is, expected.map(|entry| (entry.1, entry.2, &entry.3[..])), "entry {at}");
            match table.get_resident(&entry.0, snapshot) {
                Ok(resident) => {
                    let is = resident.as_ref().map(|found| (found.sequence(), found.kind(), found.value()));
                    assert_eq!(is, expected.map(|entry| (entry.1, entry.2, &entry.3[..])), "entry {at}");
                }
                Err(error) => assert!(error.is_would_wait(), "{error}"),
            }
            if let (Some(found), Some(entry)) = (found, expected) {
                assert_eq!(found.into_slice(table), entry.3);
            }
        }
        let mut other = entry.0.clone();
        other.push(1);
        assert_eq!(
            table.get(&other, u64::MAX).unwrap().is_some(),
            expected(entries, &other, u64::MAX).is_some()
        );
    }
}

/// Where the parts of a table are, so that they can be sealed again after a change.
pub(crate) struct Parts {
    pub(crate) footer: Footer,
    /// Start and end of each data block.
    pub(crate) blocks: Vec<(usize, usize)>,
}

impl Parts {
    pub(crate) fn of(tables: &Tables, meta: &TableMeta) -> Parts {
        let layout = layout(&tables.table(meta)).unwrap();
        let blocks =
            layout.blocks.iter().map(|block| (block.offset as usize, (block.offset + block.len) as usize));
        Parts { footer: layout.footer, blocks: blocks.collect() }
    }

    /// Makes every checksum right.
    pub(crate) fn seal(&self, bytes: &mut [u8]) {
        for &(start, end) in &self.blocks {
            seal(&mut bytes[start..end], self.footer.table_id, start as u64);
        }
        self.seal_metadata(bytes);
    }

    /// Makes the checksums of metadata and footer right.
    pub(crate) fn seal_metadata(&self, bytes: &mut [u8]) {
        let meta = self.footer.meta_offset() as usize;
        let tail = self.footer.tail_offset() as usize;
        for chunk in 0..self.footer.chunks() as usize {
            let at = meta + chunk * PAGE_BYTES;
            let sum = chunk_checksum(self.footer.table_id, at as u64, &bytes[at..tail.min(at + PAGE_BYTES)]);
            bytes[tail + 4 * chunk..tail + 4 * chunk + 4].copy_from_slice(&sum.to_le_bytes());
        }
        self.seal_tail(bytes);
    }

    /// Makes the checksums of directory and footer right.
    pub(crate) fn seal_tail(&self, bytes: &mut [u8]) {
        let tail = self.footer.tail_offset() as usize;
        let end = bytes.len() - FOOTER_BYTES;
        let crc = tail_checksum(self.footer.table_id, &bytes[tail..end]);
        bytes[end + 28..end + 32].copy_from_slice(&crc.to_le_bytes());
        let crc = Checksum::new().bytes(&bytes[end..end + 52]).finish();
        bytes[end + 52..end + 56].copy_from_slice(&crc.to_le_bytes());
    }
}

pub(crate) fn identity(number: u64) -> TableIdentity {
    TableIdentity {
        database_id: [9; 16],
        keyspace_id: 3,
        keyspace_name: "things".into(),
        number,
        level: 2,
        cause: Cause::Compaction,
    }
}

pub(crate) fn options(compression: Compression) -> TableOptions {
    TableOptions { compression, block_bytes: 4096, ..TableOptions::default() }
}

pub(crate) const COMPRESSIONS: [Compression; 2] = [Compression::None, Compression::Snappy];
pub(crate) const MODES: [ScanMode; 5] = [
    ScanMode::Auto,
    ScanMode::Mapping,
    ScanMode::Stream(CacheUse::Keep),
    ScanMode::Stream(CacheUse::DropBehind),
    ScanMode::Stream(CacheUse::Sparing),
];

/// The entry that a cursor stands on.
pub(crate) fn current(cursor: &impl Cursor) -> Option<Entry> {
    cursor.valid().then(|| {
        assert_eq!(cursor.key_slice(), *cursor.key());
        assert_eq!(cursor.value_slice(), *cursor.value());
        (cursor.key().to_vec(), cursor.sequence(), cursor.kind(), cursor.value().to_vec())
    })
}

/// Everything from where the cursor stands, to the end.
pub(crate) fn collect(cursor: &mut impl Cursor, forward: bool) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    while let Some(entry) = current(cursor) {
        entries.push(entry);
        if forward { cursor.next()? } else { cursor.prev()? }
    }
    Ok(entries)
}

/// Something that a cursor is asked to do.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    First,
    Last,
    /// To the key of an entry, changed as the second number says, at a sequence number near its own.
    Seek(Index, u8, i8),
    SeekBefore(Index, u8),
    Next,
    Prev,
}

pub(crate) fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => Just(Step::First),
        1 => Just(Step::Last),
        4 => (any::<Index>(), 0..5_u8, -2..3_i8).prop_map(|(at, change, near)| Step::Seek(at, change, near)),
        3 => (any::<Index>(), 0..5_u8).prop_map(|(at, change)| Step::SeekBefore(at, change)),
        12 => Just(Step::Next),
        12 => Just(Step::Prev),
    ];
    prop::collection::vec(step, 1..count)
}

fn changed(key: &[u8], change: u8) -> Vec<u8> {
    let mut key = key.to_vec();
    match change {
        1 => key.push(0),
        2 => drop(key.pop()),
        3 => {
            if let Some(last) = key.last_mut() {
                *last = last.wrapping_add(1);
            }
        }
        4 => key.truncate(key.len() / 2),
        _ => {}
    }
    key
}

/// Takes a cursor and a position in `entries` through the same steps; they must agree after each.
pub(crate) fn compare_with_model(cursor: &mut impl Cursor, entries: &[Entry], steps: &[Step]) {
    let mut at: Option<usize> = None;
    for step in steps {
        match step {
            Step::First => {
                cursor.seek_to_first().unwrap();
                at = (!entries.is_empty()).then_some(0);
            }
            Step::Last => {
                cursor.seek_to_last().unwrap();
                at = entries.len().checked_sub(1);
            }
            Step::Seek(index, change, near) if !entries.is_empty() => {
                let entry = index.get(entries);
                let (key, sequence) =
                    (changed(&entry.0, *change), entry.1.saturating_add_signed((*near).into()));
                cursor.seek(&key, sequence).unwrap();
                let after = entries.partition_point(|e| compare_internal(&e.0, e.1, &key, sequence).is_lt());
                at = (after < entries.len()).then_some(after);
            }
            Step::SeekBefore(index, change) if !entries.is_empty() => {
                let key = changed(&index.get(entries).0, *change);
                cursor.seek_before(&key).unwrap();
                at = entries.partition_point(|e| e.0 < key).checked_sub(1);
            }
            Step::Next if at.is_some() => {
                cursor.next().unwrap();
                at = at.map(|at| at + 1).filter(|at| *at < entries.len());
            }
            Step::Prev if at.is_some() => {
                cursor.prev().unwrap();
                at = at.and_then(|at| at.checked_sub(1));
            }
            _ => {}
        }
        let (is, should) = (current(cursor), at.map(|at| &entries[at]));
        assert!(is.as_ref() == should, "after {step:?}: {:?}, not {:?}", brief(is.as_ref()), brief(should));
        if let Some(at) = at
            && let Some(same) = cursor.same_key_before()
        {
            let before = at.checked_sub(1).map(|before| &entries[before].0);
            assert_eq!(same, before == Some(&entries[at].0), "after {step:?}");
        }
    }
}

fn brief(entry: Option<&Entry>) -> Option<(String, u64, usize)> {
    let key = |key: &[u8]| key[..key.len().min(40)].escape_ascii().to_string();
    entry.map(|entry| (key(&entry.0), entry.1, entry.3.len()))
}

/// Keys of many kinds: near each other, far apart, empty, up to the longest.
pub(crate) fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(prop::sample::select(vec![0_u8, b'a', b'b', 0xff]), 0..6),
        8 => (0..500_u32).prop_map(|i| format!("user{i:012}").into_bytes()),
        4 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (any::<u8>(), 1000..5000_usize).prop_map(|(byte, len)| vec![byte; len]),
        1 => (0..3_usize, 0..3_u8).prop_map(|(less, byte)| vec![byte; KEY_BYTES_MAX - less]),
    ]
}

/// Values of many lengths, up to some that need many pages.
pub(crate) fn value() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![
        20 => 0..150_usize,
        4 => 3900..4200_usize,
        2 => 4000..20_000_usize,
        1 => 65_000..200_000_usize,
    ];
    // Random bytes do not compress, the others do.
    (len, any::<u64>(), any::<bool>()).prop_map(|(len, seed, random)| {
        let mut random_bytes = Random(seed | 1);
        (0..len).map(|i| if random { random_bytes.next() as u8 } else { (i / 50) as u8 }).collect()
    })
}

/// Entries in internal order; some keys with versions enough for several blocks.
pub(crate) fn entries(keys_max: usize) -> impl Strategy<Value = Vec<Entry>> {
    let versions = prop_oneof![10 => 1..3_usize, 2 => 3..20_usize, 1 => 100..200_usize];
    let of_key = (key(), versions, value(), prop_oneof![Just(0_u64), 0..1000_u64, Just(SEQUENCE_MAX - 2000)]);
    prop::collection::vec(of_key, 1..keys_max).prop_map(|keys| {
        let mut all = Vec::new();
        for (key, versions, value, base) in keys {
            // Long keys and values with many versions would only be slow.
            let versions = if key.len() + value.len() > 5000 { versions.min(4) } else { versions };
            for version in 0..versions as u64 {
                let sequence = base + 3 * version;
                let kind = if sequence % 5 == 4 { Kind::Delete } else { Kind::Put };
                let value = if kind == Kind::Delete { Vec::new() } else { value.clone() };
                all.push((key.clone(), sequence, kind, value));
            }
        }
        in_order(all)
    })
}

/// Random numbers that a seed, not zero, repeats (xorshift).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
