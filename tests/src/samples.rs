//! Files that the engine wrote, in memory, each kind as a test needs it: tables with and without compression, a log
//! that fills its first segment and goes on in a second, a manifest of many edits. With what they hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use terrace::{Compression, Db, Durability, FilterKind, KeyspaceOptions, Options, WriteBatch};
use terrace_io::{FileSystem, MemoryFileSystem};
use terrace_sstable::{
    Cause, Cursor, Kind, ScanMode, Table, TableContext, TableIdentity, TableMeta, TableOptions, TableWriter,
    compare_internal, table_file_name,
};
use terrace_wal::SegmentReader;

use crate::eventually;
use crate::model::{Bytes, Change, DEFAULT, Model, Write};

/// Random choices of the tests of damaged and forged bytes.
pub type Random = Xoshiro256PlusPlus;

/// The files of one directory: names and bytes.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The keyspace whose tables are compressed.
pub const PACKED: &str = "packed";

/// Where the databases are.
pub fn dir() -> &'static Path {
    Path::new("/database")
}

/// Where a file of them is.
pub fn path(name: &str) -> PathBuf {
    dir().join(name)
}

/// Random choices that a seed repeats.
pub fn random(seed: u64) -> Random {
    Random::seed_from_u64(seed)
}

/// The options of every database here: small, and with one thread for compactions.
pub fn options(fs: &MemoryFileSystem) -> Options {
    Options::new()
        .memtable_bytes(256 << 10)
        .segment_bytes_max(64 << 10)
        .level_base_bytes(96 << 10)
        .level_multiplier(2)
        .l0_trigger(4)
        .compaction_threads(1)
        .block_cache_bytes(256 << 10)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(64 << 10))
        .file_system(Arc::new(fs.clone()))
}

/// All the files.
pub fn files(fs: &MemoryFileSystem) -> Files {
    files_in(fs, dir())
}

/// All the files of another directory.
pub fn files_in(fs: &MemoryFileSystem, dir: &Path) -> Files {
    let names = fs.read_dir(dir).expect("the directory is there").into_iter();
    names.map(|name| (name.clone(), fs.file_bytes(&dir.join(&name)).expect("it was listed"))).collect()
}

/// The names of files that end so, in order.
pub fn names(fs: &MemoryFileSystem, suffix: &str) -> Vec<String> {
    let mut names = fs.read_dir(dir()).expect("the directory is there");
    names.retain(|name| name.ends_with(suffix));
    names.sort();
    names
}

/// A file system with these files.
pub fn from_files(files: &Files) -> MemoryFileSystem {
    let fs = MemoryFileSystem::new();
    fs.create_dir_all(dir()).expect("memory has room for a directory");
    for (name, bytes) in files {
        put_file(&fs, name, bytes.clone());
    }
    fs
}

/// Puts a file there, or other bytes in its place.
pub fn put_file(fs: &MemoryFileSystem, name: &str, bytes: Vec<u8>) {
    if fs.file_bytes(&path(name)).is_err() {
        drop(fs.open(&path(name), terrace_io::OpenMode::CreateNew).expect("there is no such file"));
        fs.sync_dir(dir()).expect("memory can be synced");
    }
    fs.replace_bytes(&path(name), bytes).expect("the file is there");
}

/// How many bytes there are before the zeros at the end.
pub fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// A value: half of it compresses.
pub fn value(random: &mut Random, len: usize) -> Vec<u8> {
    let mut value = vec![b'v'; len];
    random.fill_bytes(&mut value[len / 2..]);
    value
}

/// A database as a kill left it, and its history: the state after each change, the newest last.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its files.
    pub fs: MemoryFileSystem,
    /// The states.
    pub history: Vec<Model>,
}

impl Sample {
    /// What it holds.
    pub fn newest(&self) -> &Model {
        self.history.last().expect("a history has a state")
    }

    /// A copy to be damaged.
    pub fn copy(&self) -> MemoryFileSystem {
        self.fs.process_kill_clone()
    }

    /// The names of files that end so, in order.
    pub fn names(&self, suffix: &str) -> Vec<String> {
        names(&self.fs, suffix)
    }

    /// The bytes of a file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.fs.file_bytes(&path(name)).expect("the file is there")
    }
}

/// A database that is being made.
struct Maker {
    db: Db,
    fs: MemoryFileSystem,
    random: Random,
    history: Vec<Model>,
}

impl Maker {
    fn new(seed: u64) -> Maker {
        let fs = MemoryFileSystem::new();
        let db = options(&fs).open(dir()).expect("a new database opens");
        let packed = KeyspaceOptions::new().compression(Compression::Snappy).table_bytes(64 << 10);
        db.keyspace_with(PACKED, packed.block_bytes(4096)).expect("a new keyspace can be made");
        let mut empty = Model::default();
        empty.apply(&Change::Create(PACKED.to_owned()));
        Maker { db, fs, random: random(seed), history: vec![empty] }
    }

    /// Some operations on keys of `keyspace`, or of both.
    fn writes(&mut self, count: usize, keyspace: Option<&str>) -> Vec<Write> {
        let operation = |_| {
            let names = [DEFAULT, PACKED];
            let name = keyspace.unwrap_or_else(|| names[self.random.random_range(0..names.len())]);
            let key = format!("key {:05}", self.random.random_range(0..2000));
            let len = if self.random.random_ratio(1, 60) { 5000 } else { self.random.random_range(0..200) };
            let value = (!self.random.random_ratio(1, 8)).then(|| value(&mut self.random, len).into());
            Write { keyspace: name.to_owned(), key: Bytes::from(key.as_bytes()), value }
        };
        (0..count).map(operation).collect()
    }

    fn write(&mut self, writes: Vec<Write>, durability: Durability) {
        let mut batch = WriteBatch::new();
        for write in &writes {
            let keyspace = self.db.keyspace(&write.keyspace).expect("it was made");
            match &write.value {
                Some(value) => batch.put(&keyspace, &write.key, value),
                None => batch.delete(&keyspace, &write.key),
            }
        }
        self.db.write_with(batch, durability).expect("memory takes writes");
        let mut state = self.history.last().expect("a history has a state").clone();
        state.apply(&Change::Batch(writes));
        self.history.push(state);
    }

    /// Waits until what the background has taken up is done.
    fn rest(&self, tables_at_rest: bool) {
        let count = |suffix: &str| {
            let names = self.fs.read_dir(dir()).expect("the directory is there");
            names.iter().filter(|name| name.ends_with(suffix)).count()
        };
        let live = || self.db.metrics().levels.iter().map(|level| level.tables).sum::<usize>();
        eventually("the background is at rest", || {
            (!tables_at_rest || count(".sst") == live()) && count(".tmp") == 0
        });
        assert!(self.db.health().is_ok(), "{:?}", self.db.health());
    }

    fn finish(self) -> Sample {
        self.rest(true);
        Sample { fs: self.fs.process_kill_clone(), history: self.history }
    }
}

/// A database whose log has a first segment of 64 KiB, full of batches, and a second with a few. All batches but the
/// last one are synced, and say so; the last one was never synced.
pub fn log(seed: u64) -> Sample {
    let mut maker = Maker::new(seed);
    let segments = |fs: &MemoryFileSystem| {
        let files = files(fs).into_iter().filter(|(name, _)| name.ends_with(".log"));
        files.filter(|(_, bytes)| used(bytes) > 64).count()
    };
    while segments(&maker.fs) < 2 {
        let count = maker.random.random_range(1..4);
        let writes = maker.writes(count, None);
        maker.write(writes, Durability::Sync);
    }
    for index in 0..6 {
        let writes = maker.writes(2, None);
        maker.write(writes, if index < 5 { Durability::Sync } else { Durability::Buffered });
    }
    maker.finish()
}

/// A database of a few records, all of them in one segment: small enough to be forged often.
pub fn small_log(seed: u64) -> Sample {
    let mut maker = Maker::new(seed);
    for _ in 0..8 {
        let writes = maker.writes(2, None);
        maker.write(writes, Durability::Sync);
    }
    maker.finish()
}

/// A database with a few small tables of both keyspaces and a few records in its log.
pub fn small(seed: u64) -> Sample {
    let mut maker = Maker::new(seed);
    for round in 0..3 {
        let writes = maker.writes(25, [Some(DEFAULT), Some(PACKED), None][round]);
        maker.write(writes, Durability::Sync);
        maker.db.flush().expect("memory takes tables");
    }
    for _ in 0..5 {
        let writes = maker.writes(2, None);
        maker.write(writes, Durability::Sync);
    }
    maker.finish()
}

/// A database whose manifest has one page of edits, full for the most part: flushes, compactions, log segments. With a
/// live log, or closed, which leaves one edit.
pub fn manifest(seed: u64, closed: bool) -> Sample {
    let mut maker = Maker::new(seed);
    let used = |fs: &MemoryFileSystem| used(&fs.file_bytes(&path("MANIFEST")).expect("it is there"));
    while used(&maker.fs) < 3000 {
        let keyspace = if maker.random.random_ratio(1, 4) { PACKED } else { DEFAULT };
        let writes = maker.writes(20, Some(keyspace));
        maker.write(writes, Durability::Sync);
        maker.db.flush().expect("memory takes tables");
        maker.rest(false);
    }
    if !closed {
        let writes = maker.writes(3, None);
        maker.write(writes, Durability::Sync);
        return maker.finish();
    }
    maker.rest(true);
    maker.db.close().expect("memory takes tables");
    Sample { fs: maker.fs.process_kill_clone(), history: maker.history }
}

/// A database with tables on several levels of both keyspaces and a live log.
pub fn tables(seed: u64) -> Sample {
    let mut maker = Maker::new(seed);
    for round in 0..6 {
        for _ in 0..if round < 4 { 40 } else { 4 } {
            let writes = maker.writes(25, None);
            maker.write(writes, Durability::Buffered);
        }
        if round < 4 { maker.db.settle() } else { maker.db.flush() }.expect("memory takes tables");
    }
    let writes = maker.writes(3, None);
    maker.write(writes, Durability::Sync);
    let levels = maker.db.metrics().levels.iter().filter(|level| level.tables > 0).count();
    assert!(levels >= 2, "tables of {levels} levels");
    maker.finish()
}

/// An entry of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// The sequence number.
    pub sequence: u64,
    /// Put or delete.
    pub kind: Kind,
    /// The value; empty for a delete.
    pub value: Vec<u8>,
}

/// A table file that is alone, number 1 of its directory, and what it holds.
#[derive(Debug, Clone)]
pub struct TableSample {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What a manifest would say of it.
    pub meta: TableMeta,
    /// Its entries, in order.
    pub entries: Vec<Entry>,
    /// How it was to be compressed.
    pub compression: Compression,
}

/// A table as a flush writes it, with about so many bytes of keys and values: versions of keys that go on over blocks,
/// tombstones, values of many pages. Gets ask its filter only if it has no locator.
pub fn table(
    seed: u64,
    bytes: usize,
    compression: Compression,
    (filter, filter_bits_per_key): (FilterKind, u8),
    locator: bool,
) -> TableSample {
    let mut random = random(seed);
    let mut entries: Vec<Entry> = Vec::new();
    let mut total = 0;
    let mut number = 0_u64;
    while total < bytes {
        number += random.random_range(1..9);
        let key = match number % 5 {
            0 => number.to_be_bytes().to_vec(),
            _ => format!("user{number:012}").into_bytes(),
        };
        let versions = match random.random_range(0..40) {
            0 => 30.min(bytes / 400),
            1..6 => 2,
            _ => 1,
        };
        for _ in 0..versions {
            let sequence = random.random_range(1..100_000);
            let kind = if random.random_ratio(1, 9) { Kind::Delete } else { Kind::Put };
            let len = if random.random_ratio(1, 150) { bytes / 6 } else { random.random_range(0..150) };
            let value = if kind == Kind::Put { value(&mut random, len) } else { Vec::new() };
            total += key.len() + value.len() + 8;
            entries.push(Entry { key: key.clone(), sequence, kind, value });
        }
    }
    entries.sort_by(|a, b| compare_internal(&a.key, a.sequence, &b.key, b.sequence));
    entries.dedup_by(|b, a| a.key == b.key && a.sequence == b.sequence);

    let memory = MemoryFileSystem::new();
    memory.create_dir_all(dir()).expect("memory has room for a directory");
    let fs: Arc<dyn FileSystem> = Arc::new(memory.clone());
    let identity = TableIdentity {
        database_id: [9; 16],
        keyspace_id: 3,
        keyspace_name: "things".into(),
        number: 1,
        level: 2,
        cause: Cause::Flush,
    };
    let options = TableOptions { compression, filter, filter_bits_per_key, block_bytes: 4096, locator };
    let mut writer = TableWriter::create(&fs, dir(), identity, &options).expect("the options are sound");
    for entry in &entries {
        writer.add(&entry.key, entry.sequence, entry.kind, &entry.value).expect("entries are in order");
    }
    let meta = writer.finish().expect("memory takes tables");
    let bytes = memory.file_bytes(&path(&table_file_name(1))).expect("it was written");
    let sample = TableSample { bytes, meta, entries, compression };
    let table = Table::new(Arc::new(TableContext::new(fs, dir())), sample.meta.clone());
    let mut cursor = table.cursor(ScanMode::Auto);
    cursor.seek_to_first().expect("the table is sound");
    for entry in &sample.entries {
        assert!(cursor.valid() && cursor.key() == entry.key && cursor.value() == entry.value);
        cursor.next().expect("the table is sound");
    }
    sample
}

/// Where the records of a sound log file stand: start and end of each, padding included.
pub fn records(bytes: &[u8], name: &str) -> Vec<std::ops::Range<usize>> {
    let fs = from_files(&Files::from([(name.to_owned(), bytes.to_vec())]));
    let mut reader = SegmentReader::open(&fs, &path(name)).expect("the file is sound");
    let mut records = Vec::new();
    while let Some(record) = reader.next().expect("the file is sound") {
        records.push(record.position.offset as usize..record.end.offset as usize);
    }
    records
}
