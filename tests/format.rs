//! The formats on disk. Goal: files that version 1 has written keep opening with exactly what they hold, and what is
//! written today is what `docs/format.md` says, byte by byte.
//!
//! Method: a golden database under `testdata/v1/`, made once by [`write_the_golden_database`] (run it with
//! `TERRACE_WRITE_GOLDEN=1` only when a new format version gets a directory of its own); and a decoder of tables, log
//! segments and manifests that shares no code with the engine: it is written from the document, section by section,
//! and asserts everything that stands there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use terrace::{Compression, Durability, KeyspaceOptions, Options};
use terrace_io::MemoryFileSystem;

const PAGE: usize = 4096;

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

// What the databases hold.

fn options() -> Options {
    Options::new()
        .memtable_bytes(64 << 10)
        .segment_bytes_max(64 << 10)
        .level_base_bytes(16 << 10)
        .level_multiplier(2)
        .compaction_threads(1)
        .max_value_bytes(1 << 20)
        .durability(Durability::Buffered)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(64 << 10))
}

fn packed_options() -> KeyspaceOptions {
    KeyspaceOptions::new().compression(Compression::Snappy).table_bytes(64 << 10).filter_bits_per_key(7)
}

/// Bytes that do not compress, the same everywhere.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    })
    .take(len)
    .collect()
}

fn value(number: u64) -> Vec<u8> {
    let mut value = format!("value {number} ").repeat(4).into_bytes();
    value.extend(noise(number, (number % 60) as usize));
    value
}

/// Writes the contents through the engine and says what they are: `(default, packed)`.
fn write_contents(options: Options, path: &Path) -> (Contents, Contents) {
    let db = options.open(path).unwrap();
    let packed = db.keyspace_with("packed", packed_options()).unwrap();
    let dropped = db.keyspace("dropped").unwrap();
    dropped.put("gone", "with its keyspace").unwrap();
    db.drop_keyspace("dropped").unwrap();
    let (mut plain_contents, mut packed_contents) = (Contents::new(), Contents::new());
    let mut number = 0;
    for round in 0..3_u64 {
        for index in 0..400_u64 {
            number += 1;
            let key = format!("key {:05}", index * 3 + round).into_bytes();
            db.put(&key, value(number)).unwrap();
            plain_contents.insert(key, value(number));
            let key = format!("packed/{:04}", (index * 17 + round * 5) % 900).into_bytes();
            packed.put(&key, value(number)).unwrap();
            packed_contents.insert(key, value(number));
            if index % 10 == 0 {
                let key = format!("key {:05}", index * 2).into_bytes();
                db.delete(&key).unwrap();
                plain_contents.remove(&key);
            }
        }
        db.settle().unwrap();
    }
    // Corners: empty, long, larger than a page, larger than a u16.
    let corners = [
        (vec![], vec![]),
        (vec![0xff; 3], vec![0; 1]),
        (noise(1, 5000), b"a long key".to_vec()),
        (b"page".to_vec(), noise(2, 4096)),
        (b"pages".to_vec(), noise(3, 10_000)),
        (b"compressible".to_vec(), vec![b'c'; 70_000]),
    ];
    for (key, value) in corners {
        db.put(&key, &value).unwrap();
        packed.put(&key, &value).unwrap();
        plain_contents.insert(key.clone(), value.clone());
        packed_contents.insert(key, value);
    }
    db.flush().unwrap();
    // A live log: put, overwrite and delete, in both, in one batch and alone.
    for index in 0..30_u64 {
        let mut batch = terrace::WriteBatch::new();
        let key = format!("log {index:02}").into_bytes();
        batch.put(&db, &key, value(index));
        batch.put(&packed, &key, value(index + 100));
        plain_contents.insert(key.clone(), value(index));
        packed_contents.insert(key, value(index + 100));
        let old = format!("key {:05}", index * 11 + 1).into_bytes();
        batch.delete(&db, &old);
        plain_contents.remove(&old);
        db.write(batch).unwrap();
    }
    db.put_with("last", "synced", Durability::Sync).unwrap();
    plain_contents.insert(b"last".to_vec(), b"synced".to_vec());
    (plain_contents, packed_contents)
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1")
}

/// A line for each entry: keyspace, key and value in hexadecimal; long values by length and checksum.
fn describe(name: &str, contents: &Contents) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let short = |bytes: &[u8]| match bytes.len() {
        0..=24 => hex(bytes),
        len => format!("{len}:{:08x}", crc32fast::hash(bytes)),
    };
    contents.iter().map(|(key, value)| format!("{name} {} {}\n", short(key), short(value))).collect()
}

/// Makes `testdata/v1/` anew; does nothing without its environment variable.
#[test]
fn write_the_golden_database() {
    if std::env::var_os("TERRACE_WRITE_GOLDEN").is_none() {
        terrace_tests::skipped("write_the_golden_database", "TERRACE_WRITE_GOLDEN is not set");
        return;
    }
    let path = Path::new("/golden");
    let memory = MemoryFileSystem::new();
    let (plain, packed) = write_contents(options().file_system(Arc::new(memory.clone())), path);
    let left = memory.process_kill_clone();
    let home = golden();
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(home.join("db")).unwrap();
    for (name, bytes) in files(&left, path) {
        // The lock file is made by every open, and unfinished files are none of the format.
        if name != "LOCK" && !name.ends_with(".tmp") {
            fs::write(home.join("db").join(name), bytes).unwrap();
        }
    }
    fs::write(home.join("contents.txt"), describe("default", &plain) + &describe("packed", &packed)).unwrap();
}

#[test]
fn the_golden_database_keeps_opening() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("db");
    fs::create_dir(&path).unwrap();
    let entries = fs::read_dir(golden().join("db")).expect("the golden database is there");
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.unwrap();
        fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
        names.push(entry.file_name().into_string().unwrap());
    }
    assert!(names.iter().any(|name| name.ends_with(".log")), "{names:?}");
    assert!(names.iter().filter(|name| name.ends_with(".sst")).count() >= 4, "{names:?}");
    let wanted = fs::read_to_string(golden().join("contents.txt")).unwrap();
    // Opened as it is, and again as the first open has left it.
    for round in 0..2 {
        let db = Options::new().open(&path).unwrap();
        assert_eq!(db.keyspace_names().unwrap(), ["default", "packed"]);
        db.keyspace_with("packed", packed_options()).unwrap();
        let mut found = String::new();
        for name in ["default", "packed"] {
            let keyspace = db.keyspace(name).unwrap();
            let contents: Contents = keyspace
                .iter()
                .unwrap()
                .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap())
                .collect();
            for (key, value) in &contents {
                assert_eq!(keyspace.get(key).unwrap().as_deref(), Some(&value[..]));
            }
            found += &describe(name, &contents);
        }
        assert!(found == wanted, "round {round}: the golden database holds something else");
        assert!(db.health().is_ok());
        if round == 0 {
            db.settle().unwrap();
        }
        db.close().unwrap();
    }
}

fn files(memory: &MemoryFileSystem, path: &Path) -> BTreeMap<String, Vec<u8>> {
    use terrace_io::FileSystem;
    let names = memory.read_dir(path).unwrap().into_iter();
    names.map(|name| (name.clone(), memory.file_bytes(&path.join(name)).unwrap())).collect()
}

// The decoder. Section numbers are those of docs/format.md.

/// Bytes that are taken from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(len);
        self.0 = rest;
        front
    }
    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }
    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take(2).try_into().unwrap())
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }
    fn varint(&mut self) -> u64 {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.u8();
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
        }
        panic!("a varint of more than ten bytes");
    }
    fn prefixed(&mut self) -> &'a [u8] {
        let len = self.varint() as usize;
        self.take(len)
    }
    fn zeros(&mut self, len: usize) {
        assert!(self.take(len).iter().all(|byte| *byte == 0), "reserved bytes are zero");
    }
}

fn crc(seed: &[&[u8]], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    seed.iter().for_each(|part| hasher.update(part));
    hasher.update(bytes);
    hasher.finalize()
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    key: Vec<u8>,
    sequence: u64,
    kind: u8,
    value: Vec<u8>,
}

#[derive(Debug)]
struct Table {
    id: u64,
    entries: Vec<Entry>,
    compression: u64,
    compressed_blocks: usize,
    blocks: usize,
    level: u64,
    has_locator: bool,
}

/// §2.
fn decode_table(name: &str, file: &[u8], database_id: &[u8]) -> Table {
    // §2.1
    let footer = &file[file.len() - 64..];
    let mut bytes = Bytes(footer);
    let (id, data_len, meta_len) = (bytes.u64(), bytes.u64() as usize, bytes.u64() as usize);
    let (directory_len, tail_crc) = (bytes.u32() as usize, bytes.u32());
    bytes.zeros(16);
    assert_eq!(bytes.u32(), 1, "format version");
    assert_eq!(bytes.u32(), crc(&[], &footer[..52]), "footer crc");
    assert_eq!(bytes.take(8), b"TERRASST");
    assert!(id != 0 && meta_len % 8 == 0 && directory_len % 24 == 0);
    let meta_offset = data_len.next_multiple_of(PAGE);
    let chunks = meta_len.div_ceil(PAGE);
    assert_eq!(file.len(), meta_offset + meta_len + 4 * chunks + directory_len + 64);
    assert!(file[data_len..meta_offset].iter().all(|byte| *byte == 0), "zeros to the next page");
    let tail = &file[meta_offset + meta_len..file.len() - 64];
    let id_bytes = id.to_le_bytes();
    assert_eq!(tail_crc, crc(&[&id_bytes], tail));
    // §2.3
    let mut checksums = Bytes(&tail[..4 * chunks]);
    for chunk in 0..chunks {
        let place = meta_offset + PAGE * chunk;
        let end = (place + PAGE).min(meta_offset + meta_len);
        let offset = (place as u64).to_le_bytes();
        assert_eq!(checksums.u32(), crc(&[&id_bytes, &offset], &file[place..end]), "chunk {chunk}");
    }
    let mut directory = Bytes(&tail[4 * chunks..]);
    let mut blocks = BTreeMap::new();
    let mut offsets_of = BTreeMap::new();
    let mut extents = Vec::new();
    while !directory.0.is_empty() {
        let kind = directory.u32();
        directory.zeros(4);
        let (offset, len) = (directory.u64() as usize, directory.u64() as usize);
        assert!(offset % 8 == 0 && offset + len <= meta_len);
        extents.push((offset, offset + len));
        assert!(blocks.last_key_value().is_none_or(|(last, _)| *last < kind), "ascending kinds");
        offsets_of.insert(kind, offset);
        blocks.insert(kind, &file[meta_offset + offset..meta_offset + offset + len]);
    }
    extents.sort();
    assert!(extents.windows(2).all(|pair| pair[0].1 <= pair[1].0), "blocks do not overlap");
    assert!(
        blocks.keys().all(|kind| [0x8000_0001, 0x8000_0002, 3, 4, 6].contains(kind)),
        "{:x?}",
        blocks.keys()
    );
    // §2.5
    let mut properties = BTreeMap::new();
    let mut bytes = Bytes(blocks[&0x8000_0002]);
    while !bytes.0.is_empty() {
        let tag = bytes.varint();
        assert!(properties.last_key_value().is_none_or(|(last, _)| *last < tag), "ascending tags");
        properties.insert(tag, bytes.prefixed());
    }
    assert!(properties.keys().copied().eq(1..=18), "{:?}", properties.keys());
    let integer = |tag: u64| {
        let mut bytes = Bytes(properties[&tag]);
        let value = bytes.varint();
        assert!(bytes.0.is_empty());
        value
    };
    assert_eq!(properties[&1], database_id);
    assert_eq!(format!("{:06}.sst", integer(4)), name);
    let keyspace = std::str::from_utf8(properties[&3]).unwrap();
    assert_eq!(integer(2), if keyspace == "default" { 0 } else { 1 }, "{keyspace}");
    assert!(integer(5) > 1_500_000_000_000_000, "microseconds since 1970");
    assert!((1..=3).contains(&integer(17)) && integer(18) <= 6);
    // §2.4
    let mut bytes = Bytes(blocks[&0x8000_0001]);
    let (count, shared_len) = (bytes.u32() as usize, bytes.u32() as usize);
    assert!(count >= 1 && count as u64 == integer(10));
    let prefixes: Vec<u64> = (0..count).map(|_| bytes.u64()).collect();
    let offsets: Vec<u64> = (0..=count).map(|_| bytes.u64()).collect();
    let ends: Vec<usize> = (0..=count).map(|_| bytes.u32() as usize).collect();
    let strings = bytes.0;
    assert_eq!((ends[0], *ends.last().unwrap()), (shared_len, strings.len()));
    assert_eq!(offsets[count] as usize, data_len);
    // §2.2
    let compression = integer(12);
    let mut entries: Vec<Entry> = Vec::new();
    let mut places: Vec<(u32, u32)> = Vec::new();
    let mut compressed_blocks = 0;
    let mut raw_block_bytes = 0;
    for index in 0..count {
        let continues = offsets[index] >> 63 == 1;
        let place = |offset: u64| (offset & !(1 << 63)) as usize;
        let (start, end) = (place(offsets[index]), place(offsets[index + 1]));
        assert!(start < end && (index > 0 || start == 0), "blocks are contiguous");
        let block = &file[start..end];
        let mut bytes = Bytes(block);
        let offset = (start as u64).to_le_bytes();
        assert_eq!(bytes.u32(), crc(&[&id_bytes, &offset], &block[4..]), "block {index}");
        let (entry_count, flags, base_sequence) = (bytes.u16() as usize, bytes.u16(), bytes.u64());
        assert!(entry_count >= 1 && flags <= 1);
        let payload = if flags & 1 == 1 {
            compressed_blocks += 1;
            assert_eq!(compression, 1, "only Snappy tables have compressed blocks");
            snap::raw::Decoder::new().decompress_vec(bytes.0).unwrap()
        } else {
            bytes.0.to_vec()
        };
        if compression == 0 {
            assert!(start % PAGE == 0 && end % PAGE == 0, "whole pages");
            assert!(end - start == PAGE || entry_count == 1, "one page, or one entry");
        }
        assert!(payload.len() <= 65_535 || entry_count == 1);
        let slots_start = payload.len() - 2 * entry_count;
        let mut slots = Bytes(&payload[slots_start..]);
        let mut at = 0;
        let first = entries.len();
        for number in 0..entry_count {
            assert_eq!(slots.u16() as usize, at, "slots name the entries, one behind the other");
            let mut entry = Bytes(&payload[at..slots_start]);
            let before = entry.0.len();
            let tag = entry.u8();
            assert!(tag >> 5 == 0 && [1, 2].contains(&(tag & 15)), "tag {tag} of entry {number}");
            let (key_len, value_len) = (entry.varint() as usize, entry.varint() as usize);
            let delta = if tag & 16 != 0 { entry.varint() } else { 0 };
            let (key, value) = (entry.take(key_len).to_vec(), entry.take(value_len).to_vec());
            assert!(tag & 15 == 1 || value.is_empty(), "a tombstone has no value");
            let len = before - entry.0.len();
            assert!(
                compression != 0 || len <= PAGE - 18 || entry_count == 1,
                "a long entry has a block of its own"
            );
            at += len;
            entries.push(Entry { key, sequence: base_sequence + delta, kind: tag & 15, value });
            places.push((index as u32, number as u32));
        }
        raw_block_bytes += 16 + at + 2 * entry_count;
        let padding = &payload[at..slots_start];
        assert!(
            padding.iter().all(|byte| *byte == 0) && (compression == 0 || flags == 0 || padding.is_empty())
        );
        // The separator of the block.
        let rest = &strings[ends[index]..ends[index + 1]];
        let separator = [&strings[..shared_len], rest].concat();
        let mut eight = [0; 8];
        let inline = rest.len().min(8);
        eight[..inline].copy_from_slice(&rest[..inline]);
        assert_eq!(prefixes[index], u64::from_be_bytes(eight));
        let first_key = &entries[first].key;
        match first.checked_sub(1).map(|last| &entries[last].key) {
            Some(last_key) if last_key == first_key => assert!(continues && separator == *first_key),
            last_key => {
                assert!(!continues && separator <= *first_key);
                assert!(last_key.is_none_or(|last_key| *last_key < separator));
            }
        }
    }
    for pair in entries.windows(2) {
        let order = pair[0].key.cmp(&pair[1].key).then(pair[1].sequence.cmp(&pair[0].sequence));
        assert!(order.is_lt(), "internal order");
    }
    if let Some(locator) = blocks.get(&4) {
        assert_eq!(offsets_of[&4] % 64, 0);
        check_locator(locator, id, &entries, &places, count);
    }
    if let Some(filter) = blocks.get(&6) {
        assert_eq!(offsets_of[&6] % 64, 0);
        check_blocked_filter(filter, id, &entries);
    }
    // The properties agree.
    let sum = |of: fn(&Entry) -> usize| entries.iter().map(of).sum::<usize>() as u64;
    assert_eq!(integer(6), entries.len() as u64);
    assert_eq!(integer(7), sum(|entry| usize::from(entry.kind == 2)));
    assert_eq!(integer(8), sum(|entry| entry.key.len()));
    assert_eq!(integer(9), sum(|entry| entry.value.len()));
    assert_eq!(integer(11), raw_block_bytes as u64, "headers included, no alignment");
    assert_eq!(integer(13), entries.iter().map(|entry| entry.sequence).min().unwrap());
    assert_eq!(integer(14), entries.iter().map(|entry| entry.sequence).max().unwrap());
    assert_eq!(properties[&15], entries[0].key);
    assert_eq!(properties[&16], entries.last().unwrap().key);
    let has_locator = blocks.contains_key(&4);
    Table { id, entries, compression, compressed_blocks, blocks: count, level: integer(18), has_locator }
}

/// §2.6: the filter is built again.
fn check_blocked_filter(bytes: &[u8], table_id: u64, entries: &[Entry]) {
    let mut keys: Vec<&[u8]> = entries.iter().map(|entry| &*entry.key).collect();
    keys.dedup();
    let mut header = Bytes(&bytes[..64]);
    let (lines, probes) = (header.u32() as usize, header.u8());
    header.zeros(59);
    // Whoever writes the tables of these tests asks for 7 or 10 bits for each key.
    let asked = [(7, 4), (10, 6)].into_iter().find(|asked| asked.1 == probes);
    assert_eq!(lines, (keys.len() * asked.expect("a known number of probes").0).div_ceil(512));
    let mut built = vec![[0_u8; 64]; lines];
    for key in keys {
        let mut product = xxhash_rust::xxh3::xxh3_64_with_seed(key, table_id);
        let line = &mut built[((product >> 32) as usize * lines) >> 32];
        for _ in 0..probes {
            product = product.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let bit = (product >> 55) as usize;
            line[bit / 8] |= 1 << (bit % 8);
        }
    }
    assert!(built.concat() == bytes[64..]);
}

/// §2.7: every key is looked up, and the whole is written again.
fn check_locator(bytes: &[u8], table_id: u64, entries: &[Entry], places: &[(u32, u32)], blocks: usize) {
    let mut newest: Vec<usize> = (0..entries.len()).collect();
    newest.retain(|&index| index == 0 || entries[index - 1].key != entries[index].key);
    let mut header = Bytes(&bytes[..64]);
    let buckets = u64::from(header.u32());
    let (slot_bits, location_bits) = (u32::from(header.u8()), u32::from(header.u8()));
    header.zeros(2);
    assert_eq!(header.u64(), newest.len() as u64, "distinct keys");
    header.zeros(48);
    assert_eq!(buckets, newest.len().div_ceil(12).max(1) as u64);
    assert_eq!(bytes.len() as u64, 64 + 64 * buckets);
    let bits = |number: u32| (0..32).find(|bits| u64::from(number) < 1 << bits).unwrap();
    assert_eq!(slot_bits, bits(places.iter().map(|place| place.1).max().unwrap()));
    assert_eq!(location_bits, slot_bits + bits(blocks as u32 - 1));
    assert!(location_bits <= 24);

    let words = |bucket: u64| -> Vec<u32> {
        let mut line = Bytes(&bytes[64 + 64 * bucket as usize..][..64]);
        (0..16).map(|_| line.u32()).collect()
    };
    let hash = |key: &[u8]| xxhash_rust::xxh3::xxh3_64_with_seed(key, table_id);
    let home = |hash: u64| ((hash >> 32) * buckets) >> 32;
    let fingerprint = |hash: u64| (hash & ((1 << (32 - location_bits)) - 1)) as u32;
    // Where a key may stand. Location bits may be none, which no shift of 32 bits can do.
    let candidates = |key: &[u8]| {
        let mut found = Vec::new();
        let mut bucket = home(hash(key));
        for _ in 0..64 {
            let words = words(bucket);
            for &word in &words[1..=(words[0] & 15) as usize] {
                if word >> location_bits == fingerprint(hash(key)) {
                    let location = u64::from(word) & ((1 << location_bits) - 1);
                    found.push(((location >> slot_bits) as u32, (location & ((1 << slot_bits) - 1)) as u32));
                }
            }
            if words[0] >> 31 == 0 {
                return found;
            }
            bucket = (bucket + 1) % buckets;
        }
        panic!("a lookup goes through more than 64 buckets");
    };
    for &index in &newest {
        let found = candidates(&entries[index].key);
        assert!(found.contains(&places[index]), "{:?} is not led to", entries[index].key);
        assert!(found.iter().all(|place| places.contains(place)), "a location that does not exist");
        candidates(&[&entries[index].key[..], b"?"].concat());
    }

    let mut expected = vec![[0_u32; 16]; buckets as usize];
    for &index in &newest {
        let hash = hash(&entries[index].key);
        let mut bucket = home(hash) as usize;
        while expected[bucket][0] & 15 == 15 {
            expected[bucket][0] |= 1 << 31;
            bucket = (bucket + 1) % expected.len();
        }
        expected[bucket][0] += 1;
        let (block, slot) = places[index];
        let entry = (expected[bucket][0] & 15) as usize;
        expected[bucket][entry] = fingerprint(hash) << location_bits | block << slot_bits | slot;
    }
    for (bucket, expected) in expected.iter().enumerate() {
        assert_eq!(words(bucket as u64), expected, "bucket {bucket}");
    }
}

struct Record {
    start: u32,
    end: u32,
    kind: u8,
    synced: (u32, u32),
    payload: Vec<u8>,
}

struct Segment {
    number: u32,
    log_id: Vec<u8>,
    length: u64,
    records: Vec<Record>,
}

/// §3.1 and §3.2.
fn decode_segment(file: &[u8]) -> Segment {
    let header = &file[..64];
    let mut bytes = Bytes(header);
    assert_eq!(bytes.take(8), b"TERRALOG");
    assert_eq!(bytes.u32(), 1, "format version");
    let number = bytes.u32();
    let log_id = bytes.take(16).to_vec();
    let length = bytes.u64();
    bytes.zeros(20);
    assert_eq!(bytes.u32(), crc(&[], &header[..60]));
    let number_bytes = number.to_le_bytes();
    let seed: [&[u8]; 2] = [&log_id, &number_bytes];
    let limit = if length == 0 { file.len() } else { length as usize };
    let mut records: Vec<Record> = Vec::new();
    let mut at = 64;
    while at + 24 <= limit {
        let mut bytes = Bytes(&file[at..]);
        let (header_crc, payload_crc, payload_len) = (bytes.u32(), bytes.u32(), bytes.u32() as usize);
        let synced = (bytes.u32(), bytes.u32());
        let kind = bytes.u8();
        let offset = (at as u64).to_le_bytes();
        if header_crc != crc(&[seed[0], seed[1], &offset], &file[at + 4..at + 24]) {
            break;
        }
        bytes.zeros(3);
        assert!(payload_len >= 1 && at + 24 + payload_len <= limit);
        let payload = bytes.take(payload_len).to_vec();
        assert_eq!(payload_crc, crc(&seed, &payload));
        let end = (at + 24 + payload_len).next_multiple_of(8);
        assert!(synced <= (number, at as u32), "a synced position is not beyond the record");
        records.push(Record { start: at as u32, end: end as u32, kind, synced, payload });
        at = end;
    }
    Segment { number, log_id, length, records }
}

/// A table as the manifest knows it: keyspace, level, table id, file length, entries, smallest and largest key.
type Placed = (u64, u8, u64, u64, u64, Vec<u8>, Vec<u8>);

/// The newest version of each key of each keyspace: sequence number, and the value unless it is a delete.
type Newest = BTreeMap<(u64, Vec<u8>), (u64, Option<Vec<u8>>)>;

#[derive(Debug, Default)]
struct State {
    id: Vec<u8>,
    max_value_bytes: u64,
    keyspaces: BTreeMap<u64, String>,
    /// By number.
    tables: BTreeMap<u64, Placed>,
    flushed: BTreeMap<u64, u64>,
    segments: BTreeMap<u64, u64>,
    last_sequence: u64,
    next_keyspace: u64,
    log_synced: (u64, u64),
}

/// §4.
fn decode_manifest(file: &[u8]) -> State {
    assert_eq!(file.len() % PAGE, 0, "whole pages");
    let log = decode_segment(file);
    assert_eq!(log.length, 0);
    let mut state = State::default();
    for record in &log.records {
        assert_eq!(record.kind, 2, "a version edit");
        assert_eq!(record.synced, (log.number, record.start), "its synced offset is its own");
        apply_edit(&record.payload, &mut state);
    }
    assert_eq!(state.id, log.log_id, "a log is identified by the database");
    state
}

/// Applies a version edit.
fn apply_edit(payload: &[u8], state: &mut State) {
    let mut edit = Bytes(payload);
    while !edit.0.is_empty() {
        let tag = edit.u8();
        let mut body = Bytes(edit.prefixed());
        match tag {
            1 => {
                state.id = body.take(16).to_vec();
                body.varint();
                state.max_value_bytes = body.varint();
            }
            2 => drop(body.varint()),
            3 => state.last_sequence = state.last_sequence.max(body.varint()),
            4 => {
                let id = body.varint();
                let name = String::from_utf8(body.prefixed().to_vec()).unwrap();
                let (compression, filter_bits) = (body.u8(), body.u8());
                let (table_bytes, block_bytes) = (body.varint(), body.varint());
                assert_eq!(compression, u8::from(name == "packed"));
                assert_eq!(filter_bits, if name == "packed" { 7 } else { 10 });
                assert_eq!((table_bytes, block_bytes), (64 << 10, 16 << 10));
                state.keyspaces.insert(id, name);
            }
            5 => drop(state.keyspaces.remove(&body.varint()).unwrap()),
            6 => {
                let (keyspace, level, number) = (body.varint(), body.u8(), body.varint());
                let (table_id, file_len, entries) = (body.u64(), body.varint(), body.varint());
                let (_deletes, smallest, largest) = (body.varint(), body.varint(), body.varint());
                assert!(smallest <= largest && level <= 6);
                let (first, last) = (body.prefixed().to_vec(), body.prefixed().to_vec());
                state.tables.insert(number, (keyspace, level, table_id, file_len, entries, first, last));
            }
            7 => {
                let (keyspace, level, number) = (body.varint(), body.u8(), body.varint());
                let removed = state.tables.remove(&number).unwrap();
                assert_eq!((removed.0, removed.1), (keyspace, level));
            }
            8 => {
                let (id, through) = (body.varint(), body.varint());
                state.flushed.insert(id, through);
            }
            9 => {
                let (number, length) = (body.varint(), body.varint());
                state.segments.insert(number, length);
            }
            10 => {
                let below = body.varint();
                let _first_sequence = body.varint();
                state.segments = state.segments.split_off(&below);
            }
            11 => state.next_keyspace = body.varint(),
            12 => state.log_synced = (body.varint(), body.varint()),
            other => panic!("field {other} is not in the document"),
        }
        assert!(body.0.is_empty(), "field {tag} has more bytes than the document says");
    }
}

/// §5.2. What the edit says, and the `tail_crc` of each table in its order.
fn decode_backup_manifest(file: &[u8]) -> (State, Vec<u32>) {
    let mut bytes = Bytes(file);
    assert_eq!(bytes.take(8), b"TERRABKM");
    assert_eq!(bytes.u32(), 1, "format version");
    let tables = bytes.u32() as usize;
    assert!(bytes.u64() > 1 << 50, "microseconds since 1970");
    let edit_len = bytes.u64() as usize;
    let edit = bytes.take(edit_len);
    let sums = (0..tables).map(|_| bytes.u32()).collect();
    assert_eq!(bytes.u32(), crc(&[], &file[..file.len() - 4]), "the manifest's crc");
    assert!(bytes.0.is_empty());
    let mut state = State::default();
    apply_edit(edit, &mut state);
    assert!(state.segments.is_empty() && state.log_synced == (0, 0), "there is no log");
    assert_eq!(state.tables.len(), tables);
    (state, sums)
}

/// Tables of a backup, by what stands before them in a stream and what they are called in a directory.
type Tables<'a> = BTreeMap<(u64, u64, u32), &'a [u8]>;

/// §5.3. The manifest, and the tables by what stands before them: `table_id`, length, `tail_crc`.
fn decode_stream(stream: &[u8]) -> (State, Vec<u32>, Tables<'_>) {
    let mut bytes = Bytes(stream);
    assert_eq!(bytes.take(8), b"TERRASTR");
    assert_eq!(bytes.u32(), 1, "format version");
    let (tables_sent, manifest_len) = (bytes.u32(), bytes.u64() as usize);
    bytes.zeros(4);
    assert_eq!(bytes.u32(), crc(&[], &stream[..28]), "the header's crc");
    let manifest = bytes.take(manifest_len);
    let seed = &manifest[manifest_len - 4..];
    let mut tables = BTreeMap::new();
    for _ in 0..tables_sent {
        let header = bytes.take(32);
        let mut fields = Bytes(header);
        assert_eq!(fields.take(8), b"TERRATAB");
        let (table_id, len, tail_crc) = (fields.u64(), fields.u64(), fields.u32());
        assert_eq!(fields.u32(), crc(&[seed], &header[..28]), "the crc of what stands before a table");
        assert!(tables.insert((table_id, len, tail_crc), bytes.take(len as usize)).is_none());
    }
    let at = stream.len() - bytes.0.len();
    assert_eq!(bytes.take(8), b"TERRAEND");
    assert_eq!((bytes.u64(), bytes.u32()), (at as u64, tables_sent));
    assert_eq!(bytes.u32(), crc(&[seed], &stream[at..at + 20]), "the crc of the end");
    assert!(bytes.0.is_empty());
    let (state, sums) = decode_backup_manifest(manifest);
    (state, sums, tables)
}

/// The tables of a backup are those that its manifest names.
fn check_backup(state: &State, sums: &[u32], tables: &Tables<'_>) {
    let named: Vec<(u64, u64)> = state.tables.values().map(|table| (table.2, table.3)).collect();
    assert_eq!(tables.keys().map(|key| (key.0, key.1)).collect::<Vec<_>>(), {
        let mut named = named.clone();
        named.sort();
        named
    });
    let (mut found, mut sums): (Vec<u32>, Vec<u32>) = (tables.keys().map(|key| key.2).collect(), sums.into());
    found.sort();
    sums.sort();
    assert_eq!(found, sums);
    for ((table_id, len, tail_crc), file) in tables {
        assert_eq!(file.len() as u64, *len);
        let mut footer = Bytes(&file[file.len() - 64..]);
        assert_eq!(footer.u64(), *table_id);
        footer.take(20);
        assert_eq!(footer.u32(), *tail_crc);
        let (number, _) = state.tables.iter().find(|(_, table)| table.2 == *table_id).unwrap();
        decode_table(&format!("{number:06}.sst"), file, &state.id);
    }
}

/// Applies a batch (§3.3) to the contents; says which sequence numbers it has.
fn apply_batch(payload: &[u8], state: &State, newest: &mut Newest) -> (u64, u64) {
    let mut bytes = Bytes(payload);
    let (first, count) = (bytes.u64(), u64::from(bytes.u32()));
    assert!(count >= 1);
    for sequence in first..first + count {
        let (kind, keyspace) = (bytes.u8(), bytes.varint());
        let (key_len, value_len) = (bytes.varint() as usize, bytes.varint() as usize);
        let (key, value) = (bytes.take(key_len).to_vec(), bytes.take(value_len).to_vec());
        assert!(kind == 1 || kind == 2 && value.is_empty());
        if state.keyspaces.contains_key(&keyspace)
            && sequence > state.flushed.get(&keyspace).copied().unwrap_or(0)
        {
            newest.insert((keyspace, key), (sequence, (kind == 1).then_some(value)));
        }
    }
    assert!(bytes.0.is_empty());
    (first, first + count - 1)
}

/// Decodes a whole directory and says what the database in it holds.
fn decode_database(files: &BTreeMap<String, Vec<u8>>) -> (BTreeMap<String, Contents>, Vec<Table>) {
    let state = decode_manifest(&files["MANIFEST"]);
    assert_eq!(state.keyspaces[&0], "default");
    assert_eq!(state.max_value_bytes, 1 << 20);
    assert!(state.keyspaces.keys().all(|id| *id < state.next_keyspace));
    let mut tables = Vec::new();
    let mut newest = Newest::new();
    for (number, (keyspace, level, id, file_len, entries, first, last)) in &state.tables {
        let name = format!("{number:06}.sst");
        let table = decode_table(&name, &files[&name], &state.id);
        assert_eq!((table.id, files[&name].len() as u64), (*id, *file_len));
        assert_eq!(table.entries.len() as u64, *entries);
        assert_eq!((&table.entries[0].key, &table.entries.last().unwrap().key), (first, last));
        assert!(table.level <= u64::from(*level), "written for its level or one above, then moved");
        for entry in &table.entries {
            // Of two versions the higher sequence counts; 0 is below all.
            let place = newest.entry((*keyspace, entry.key.clone())).or_insert((0, None));
            if entry.sequence >= place.0 {
                *place = (entry.sequence, (entry.kind == 1).then(|| entry.value.clone()));
            }
        }
        tables.push(table);
    }
    let mut last_sequence = None;
    let mut last_end = (0, 0);
    for (number, length) in &state.segments {
        let file = &files[&format!("{number:06}.log")];
        let segment = decode_segment(file);
        assert_eq!((u64::from(segment.number), segment.length), (*number, *length));
        assert!(segment.log_id == state.id && file.len() as u64 >= *length);
        for record in segment.records {
            assert_eq!(record.kind, 1, "a batch");
            assert!(
                record.synced <= last_end || last_end == (0, 0),
                "{:?} was not written by then",
                record.synced
            );
            let (first, last) = apply_batch(&record.payload, &state, &mut newest);
            assert!(last_sequence.is_none_or(|last| first == last + 1), "no gap and no overlap");
            last_sequence = Some(last);
            last_end = (segment.number, record.end);
        }
    }
    let mut contents: BTreeMap<String, Contents> =
        state.keyspaces.values().map(|name| (name.clone(), Contents::new())).collect();
    for ((keyspace, key), (_, value)) in newest {
        if let Some(value) = value {
            contents.get_mut(&state.keyspaces[&keyspace]).unwrap().insert(key, value);
        }
    }
    (contents, tables)
}

fn check_database(files: &BTreeMap<String, Vec<u8>>, plain: &Contents, packed: &Contents) {
    let (contents, tables) = decode_database(files);
    assert!(contents["default"] == *plain, "the document reads other contents than the engine wrote");
    assert!(contents["packed"] == *packed, "the document reads other contents than the engine wrote");
    assert_eq!(contents.len(), 2);
    assert!(tables.iter().any(|table| table.compression == 0 && table.blocks > 3));
    assert!(tables.iter().any(|table| table.compression == 1 && table.compressed_blocks > 0));
    assert!(tables.iter().all(|table| table.has_locator));
}

#[test]
fn files_are_what_the_document_says() {
    let path = Path::new("/document");
    let memory = MemoryFileSystem::new();
    let options = options().file_system(Arc::new(memory.clone()));
    let (plain, packed) = write_contents(options.clone(), path);
    // With a live log, opened again, and closed.
    check_database(&files(&memory.process_kill_clone(), path), &plain, &packed);
    let db = options.open(path).unwrap();
    check_database(&files(&memory.process_kill_clone(), path), &plain, &packed);
    db.close().unwrap();
    check_database(&files(&memory, path), &plain, &packed);
}

#[test]
fn backups_are_what_the_document_says() {
    let (path, place) = (Path::new("/document"), Path::new("/backups"));
    let memory = MemoryFileSystem::new();
    let options = options().file_system(Arc::new(memory.clone()));
    write_contents(options.clone(), path);
    let db = options.open(path).unwrap();
    db.put("in memory", "only").unwrap();
    db.backup(place).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    db.backup_to_stream(&file, &terrace::StreamOptions::new()).unwrap();
    db.close().unwrap();

    // §5.1
    let mut files = files(&memory, place);
    files.remove("LOCK").unwrap();
    let marker = files.remove("BACKUPS").unwrap();
    assert_eq!(&marker[..12], b"TERRABAK\x01\0\0\0");
    assert_eq!(marker[12..], crc(&[], &marker[..12]).to_le_bytes());
    let (state, sums) = decode_backup_manifest(&files.remove("000001.backup").unwrap());
    let key = |name: &str| {
        let (id, rest) = name.strip_suffix(".sst").unwrap().split_once('-').unwrap();
        let (tail_crc, len) = rest.split_once('-').unwrap();
        assert_eq!((id.len(), tail_crc.len()), (16, 8), "{name}");
        let hex = |digits: &str| u64::from_str_radix(digits, 16).unwrap();
        (hex(id), len.parse().unwrap(), hex(tail_crc) as u32)
    };
    let tables: Tables<'_> = files.iter().map(|(name, bytes)| (key(name), &bytes[..])).collect();
    check_backup(&state, &sums, &tables);
    assert!(tables.len() > 4 && state.keyspaces.len() == 2, "{state:?}");

    let mut stream = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut stream)).unwrap();
    let (streamed, sums, tables) = decode_stream(&stream);
    check_backup(&streamed, &sums, &tables);
    assert_eq!((streamed.id, streamed.last_sequence), (state.id, state.last_sequence));
}

#[test]
fn the_stream_in_the_document_is_right() {
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/format.md"));
    let document = document.expect("the document is part of the workspace");
    let (_, section) = document.split_once("### 5.3 A stream").expect("the section with the example");
    let mut stream = Vec::new();
    for line in section.lines().filter(|line| line.get(4..6) == Some("  ")) {
        assert_eq!(usize::from_str_radix(&line[..4], 16).unwrap(), stream.len());
        stream.extend(line[6..].split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    let (state, sums, tables) = decode_stream(&stream);
    assert_eq!((state.keyspaces[&0].as_str(), sums.len(), tables.len()), ("default", 0, 0));
    let memory: Arc<dyn terrace::FileSystem> = Arc::new(MemoryFileSystem::new());
    let how = terrace::RestoreOptions::new().file_system(memory.clone());
    terrace::restore_stream(&stream[..], "/restored", &how).unwrap();
    assert_eq!(Options::new().file_system(memory).open("/restored").unwrap().iter().unwrap().count(), 0);
}

#[test]
fn the_golden_files_are_what_the_document_says() {
    let entries = fs::read_dir(golden().join("db")).expect("the golden database is there");
    let files: BTreeMap<String, Vec<u8>> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect();
    let (contents, tables) = decode_database(&files);
    let found = describe("default", &contents["default"]) + &describe("packed", &contents["packed"]);
    assert!(found == fs::read_to_string(golden().join("contents.txt")).unwrap());
    let levels: std::collections::BTreeSet<u64> = tables.iter().map(|table| table.level).collect();
    assert!(levels.len() >= 2, "tables of several levels: {levels:?}");
}

#[test]
fn the_example_in_the_document_is_right() {
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/format.md"));
    // Only where the document is at hand.
    let document = document.expect("the document is part of the workspace");
    let (_, section) = document.split_once("### 3.5 An example").expect("the section with the example");
    let mut bytes = vec![0; 4096];
    for line in section.lines().filter(|line| line.starts_with("000000")) {
        let (offset, rest) = line.split_once("  ").unwrap();
        let offset = usize::from_str_radix(offset, 16).unwrap();
        let hex = rest.split("  |").next().unwrap();
        for (index, byte) in hex.split_whitespace().enumerate() {
            bytes[offset + index] = u8::from_str_radix(byte, 16).unwrap();
        }
    }
    let segment = decode_segment(&bytes);
    assert_eq!((segment.number, segment.length, &segment.log_id[..]), (7, 4096, &b"terrace-example!"[..]));
    assert_eq!(segment.records.len(), 1);
    assert_eq!((segment.records[0].synced, segment.records[0].end), ((6, 128), 112));
    let state = State { keyspaces: BTreeMap::from([(0, "default".to_owned())]), ..State::default() };
    let mut newest = BTreeMap::new();
    assert_eq!(apply_batch(&segment.records[0].payload, &state, &mut newest), (1, 1));
    assert_eq!(newest[&(0, b"key".to_vec())], (1, Some(b"value".to_vec())));
}
