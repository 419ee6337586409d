//! What the fuzz targets do with their input: one function for each, which takes any bytes. `fuzz/` hands them to
//! cargo-fuzz, and `corpus.rs` runs each over its committed corpus and over changed copies of that.
//!
//! An input is a part of a file. The rest of the file is sound, or made to fit, and every checksum is put right, so
//! that a fuzzer need not guess them. What reads the file is the public surface of the crates: see [`crate::exercise`].

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use terrace::{
    Backups, Compression, Db, Durability, FileSystem, FilterKind, KeyspaceOptions, RestoreOptions,
    StreamOptions, WriteBatch, restore_stream,
};
use terrace_io::MemoryFileSystem;

use crate::exercise;
use crate::forge::table::{BLOCKED_FILTER, BLOOM_FILTER, FENCES, LOCATOR, PROPERTIES, Parts};
use crate::forge::{log as forge_log, put_varint, stream as forge_stream, table as forge_table, u32_at};
use crate::samples::{self, Files, dir, files, options};

/// A function that takes any bytes. Says whether they were let in: whether they came by the checks at the door
/// (lengths, headers, order) to what the target is there for. A corpus of which nothing is let in tests the door only.
pub type Target = fn(&[u8]) -> bool;

/// The targets, by the names that `fuzz/` gives them.
pub const TARGETS: [(&str, Target); 10] = [
    ("block", block),
    ("metadata", metadata),
    ("footer", footer),
    ("table", table),
    ("snappy", snappy),
    ("log", log),
    ("manifest", manifest),
    ("batch", batch),
    ("backup", backup),
    ("api", api),
];

/// Longer inputs than this only take longer.
const INPUT_BYTES_MAX: usize = 64 << 10;

/// Where the corpora are.
pub fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

/// Keys that some tables have.
fn keys() -> Vec<Vec<u8>> {
    [&b""[..], b"user000000000017", b"key", b"\xff"].map(<[u8]>::to_vec).into()
}

/// A small sound table.
fn sound(compression: Compression) -> &'static Parts {
    static SOUND: OnceLock<[Parts; 2]> = OnceLock::new();
    let sound = SOUND.get_or_init(|| {
        [Compression::None, Compression::Snappy].map(|compression| {
            let filter = filter_of(compression).0;
            Parts::read(&samples::table(1, 6000, compression, (filter, 10), true).bytes)
        })
    });
    &sound[compression as usize]
}

fn compression(byte: u8) -> Compression {
    if byte & 1 == 0 { Compression::None } else { Compression::Snappy }
}

/// The filter of the sound table, and its metadata block: one kind for each compression.
fn filter_of(compression: Compression) -> (FilterKind, u32) {
    match compression {
        Compression::None => (FilterKind::Blocked, BLOCKED_FILTER),
        Compression::Snappy => (FilterKind::Bloom, BLOOM_FILTER),
    }
}

/// A table of one block: the bytes behind its checksum.
fn one_block(compression: Compression, rest: &[u8]) -> Vec<u8> {
    let mut parts = sound(compression).clone();
    let block = [&[0; 4], rest].concat();
    let mut fences = Vec::new();
    for number in [1_u32, 0] {
        fences.extend_from_slice(&number.to_le_bytes());
    }
    for number in [0_u64, 0, block.len() as u64] {
        fences.extend_from_slice(&number.to_le_bytes());
    }
    fences.extend_from_slice(&[0; 8]);
    let mut properties = Vec::new();
    for tag in 1..=18 {
        let number = match tag {
            10 => 1,
            12 => compression as u8,
            _ => 1,
        };
        let bytes: &[u8] = match tag {
            1 => &[9; 16],
            3 => b"things",
            15 => b"",
            16 => &[0xff; 20],
            _ => &[number],
        };
        put_varint(&mut properties, tag);
        put_varint(&mut properties, bytes.len() as u64);
        properties.extend_from_slice(bytes);
    }
    parts.metadata = vec![(FENCES, fences), (PROPERTIES, properties)];
    parts.data = block;
    parts.write()
}

/// A data block: first a byte that says whether the table is a compressed one, then the block behind its checksum. It
/// is let in if all of its entries can be read.
pub fn block(data: &[u8]) -> bool {
    let Some((first, rest)) = data.split_first() else { return false };
    rest.len() <= INPUT_BYTES_MAX && exercise::table(&one_block(compression(*first), rest), &keys()).scanned
}

/// A payload in Snappy's format: first the number of entries of its block, 2 bytes. It is let in as a block is.
pub fn snappy(data: &[u8]) -> bool {
    let Some((count, payload)) = data.split_first_chunk::<2>() else { return false };
    let block = [&count[..], &[1, 0, 1, 0, 0, 0, 0, 0, 0, 0], payload].concat();
    payload.len() <= INPUT_BYTES_MAX
        && exercise::table(&one_block(Compression::Snappy, &block), &keys()).scanned
}

/// The kinds of metadata blocks of a sound table, as the inputs of [`metadata`] number them.
fn metadata_kinds(compression: Compression) -> [u32; 4] {
    [FENCES, filter_of(compression).1, PROPERTIES, LOCATOR]
}

/// A metadata block: first a byte that says which one of which table, then its bytes. It is let in if the table opens.
pub fn metadata(data: &[u8]) -> bool {
    let Some((first, rest)) = data.split_first().filter(|(_, rest)| rest.len() <= INPUT_BYTES_MAX) else {
        return false;
    };
    let compression = compression(*first);
    let mut parts = sound(compression).clone();
    let kind = metadata_kinds(compression)[usize::from(first >> 1) % 4];
    *parts.block(kind).expect("sound tables have all of them") = rest.to_vec();
    if kind == filter_of(compression).1 {
        // Nobody asks the filter of a table that has a locator.
        parts.metadata.retain(|(kind, _)| *kind != LOCATOR);
    }
    exercise::table(&parts.write(), &keys()).opened
}

/// The end of a table: first a byte that says of which one, then what stands behind its metadata: chunk checksums
/// (which are put right), directory, footer. It is let in if the table opens.
pub fn footer(data: &[u8]) -> bool {
    let Some((first, tail)) = data.split_first().filter(|(_, tail)| tail.len() <= INPUT_BYTES_MAX) else {
        return false;
    };
    let mut file = sound(compression(*first)).write();
    let end = file.len() - tail_len(&file);
    file.truncate(end);
    file.extend_from_slice(tail);
    forge_table::repair(&mut file);
    exercise::table(&file, &keys()).opened
}

/// How much of a table stands behind its metadata.
fn tail_len(file: &[u8]) -> usize {
    let footer = file.len() - 64;
    let meta_len = u32_at(file, footer + 16).expect("a footer") as usize;
    4 * meta_len.div_ceil(4096) + u32_at(file, footer + 24).expect("a footer") as usize + 64
}

/// A whole table. It is let in if it opens.
pub fn table(data: &[u8]) -> bool {
    let mut file = data.to_vec();
    forge_table::repair(&mut file);
    data.len() <= INPUT_BYTES_MAX && exercise::table(&file, &keys()).opened
}

/// A log of two segments, or one that grows: the length of the first, 2 bytes, then the files. It is let in if some
/// record is good.
pub fn log(data: &[u8]) -> bool {
    let Some((len, rest)) = data.split_first_chunk::<2>().filter(|(_, rest)| rest.len() <= INPUT_BYTES_MAX)
    else {
        return false;
    };
    let (first, second) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
    let mut segments = [first.to_vec(), second.to_vec()];
    for segment in &mut segments {
        forge_log::repair(segment);
    }
    exercise::log(&[&segments[0], &segments[1]]) > 0
}

/// Where the database is whose files inputs are put into. Inputs name its tables and its id, so it is always the same.
pub fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/fuzz")
}

/// The files of that database: some tables, and a live log, which is kept without the zeros at its end.
fn database() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let entries = std::fs::read_dir(home()).expect("the files are part of the workspace");
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.expect("a directory can be listed").path();
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            let mut bytes = std::fs::read(&path).expect("the files are part of the workspace");
            if name.ends_with(".log") {
                let len = u32_at(&bytes, 32).expect("a segment has a header");
                bytes.resize(len as usize, 0);
            }
            (name, bytes)
        };
        entries.map(read).collect()
    })
}

/// Writes such a database, and then the seeds of every corpus, which go with it: for a format that has changed.
///
/// # Panics
///
/// If the files cannot be written.
pub fn write_corpora() {
    let home = home();
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(&home).expect("the workspace can be written to");
    for (name, mut bytes) in files(&samples::small(1).fs) {
        if name.ends_with(".log") {
            bytes.truncate(samples::used(&bytes).max(64));
        }
        if name != "LOCK" {
            std::fs::write(home.join(name), bytes).expect("the workspace can be written to");
        }
    }
    for (target, name, bytes) in seeds() {
        std::fs::create_dir_all(corpus(target)).expect("the workspace can be written to");
        std::fs::write(corpus(target).join(name), bytes).expect("the workspace can be written to");
    }
}

/// The log segment of that database that has records.
fn live_segment(files: &Files) -> String {
    let live = |name: &&String| name.ends_with(".log") && samples::used(&files[*name]) > 64;
    files.keys().find(live).expect("its log is live").clone()
}

/// Splits an input into pieces: the length of each, 2 bytes, then its bytes. The last one may be shorter.
fn pieces(mut data: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((len, rest)) = data.split_first_chunk::<2>() {
        let (piece, rest) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
        pieces.push(piece);
        data = rest;
    }
    pieces
}

/// What [`pieces`] takes apart.
fn joined(pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    pieces.into_iter().flat_map(|piece| [&(piece.len() as u16).to_le_bytes()[..], &piece].concat()).collect()
}

/// Edits of a manifest, each one a piece: a database with a live log is opened with them. They are let in if it opens.
pub fn manifest(data: &[u8]) -> bool {
    if data.len() > INPUT_BYTES_MAX {
        return false;
    }
    let mut forged = database().clone();
    let mut parts = forge_log::Parts::read(&forged["MANIFEST"]);
    let number = u32_at(&parts.header, 12).expect("a header");
    let mut at = forge_log::HEADER;
    parts.records.clear();
    for payload in pieces(data).into_iter().filter(|payload| !payload.is_empty()) {
        // A record of a manifest says that everything before it was synced.
        parts.records.push(forge_log::Record::new(2, (number, at as u32), payload.to_vec()));
        at = (at + forge_log::RECORD_HEADER + payload.len()).next_multiple_of(8);
    }
    let mut file = parts.write();
    file.resize(file.len().next_multiple_of(4096), 0);
    forged.insert("MANIFEST".to_owned(), file);
    exercise::database(&forged)
}

/// Batches, each one a piece: the log of a database holds them, as many as its segment has room for. They are let in if
/// there is one and the database opens.
pub fn batch(data: &[u8]) -> bool {
    if data.len() > INPUT_BYTES_MAX {
        return false;
    }
    let mut forged = database().clone();
    let name = live_segment(&forged);
    let mut parts = forge_log::Parts::read(&forged[&name]);
    let mut end = forge_log::HEADER;
    let fits = |payload: &&[u8]| {
        end = (end + forge_log::RECORD_HEADER + payload.len()).next_multiple_of(8);
        end <= parts.len
    };
    let batches = pieces(data).into_iter().filter(|payload| !payload.is_empty()).take_while(fits);
    parts.records = batches.map(|payload| forge_log::Record::new(1, (0, 0), payload.to_vec())).collect();
    let file = parts.write();
    assert_eq!(file.len(), parts.len, "a segment keeps its length");
    forged.insert(name, file);
    exercise::database(&forged) && !parts.records.is_empty()
}

/// A stream of a backup, which is restored, and received into a directory of backups. It is let in if it becomes a
/// database that opens.
///
/// # Panics
///
/// If what is refused leaves something, or an error does not say where.
pub fn backup(data: &[u8]) -> bool {
    if data.len() > INPUT_BYTES_MAX {
        return false;
    }
    let mut stream = data.to_vec();
    forge_stream::repair(&mut stream);
    let memory = MemoryFileSystem::new();
    // What a forged length may make it write.
    memory.set_capacity(Some(16 << 20));
    let fs: Arc<dyn FileSystem> = Arc::new(memory.clone());
    let place = Path::new("/backups");
    let backups = Backups::new(place).file_system(fs.clone());
    let received = backups.receive(&stream[..]);
    let restored = restore_stream(&stream[..], dir(), &RestoreOptions::new().file_system(fs));
    if let Err(error) = &restored {
        // That it leaves out tables is no fault of a stream.
        let is_placed = error.path().is_some() || matches!(error, terrace::Error::InvalidArgument(_));
        assert!(is_placed, "an error that does not say where: {error:?}");
        let left = memory.read_dir(dir()).unwrap_or_default();
        assert!(left.iter().all(|name| name == "LOCK"), "{error}, but this is left: {left:?}");
    }
    match received {
        Err(_) => assert!(backups.list().map_or(true, |list| list.backups.is_empty()), "half a backup"),
        Ok(report) => {
            assert!(
                backups.verify(None).is_ok_and(|report| report.is_ok()),
                "a backup that was not verified"
            );
            backups.restore(Some(report.number), "/again").expect("it was verified");
            backups.delete(report.number).expect("memory can forget it");
        }
    }
    restored.is_ok() && exercise::database(&files(&memory))
}

/// Keys of [`api`]: few, so that they meet each other often, of lengths that decide something.
fn api_key(byte: u8) -> Vec<u8> {
    match byte % 16 {
        0 => Vec::new(),
        1..4 => vec![b'k'; usize::from(byte % 16) * 40],
        _ => format!("k{:03}", byte / 2).into_bytes(),
    }
}

fn api_value(byte: u8, number: usize) -> Vec<u8> {
    let len = [0, 1, 30, 100, 100, 900, 4090, 9000][usize::from(byte) % 8];
    (0..len).map(|at| (at / 16 + number) as u8 ^ byte).collect()
}

/// Calls of the engine, compared with a map: each is one byte that says what is called, and one or two arguments. They
/// are let in if there is one.
///
/// # Panics
///
/// If an answer is wrong.
pub fn api(data: &[u8]) -> bool {
    exercise::watch_background();
    let fs = MemoryFileSystem::new();
    let mut bytes = data.iter().copied().take(600);
    let mut next = || bytes.next();
    let open = |fs: &MemoryFileSystem| -> (Db, [terrace::Keyspace; 2]) {
        let db = options(fs).memtable_bytes(64 << 10).open(dir()).expect("the database opens");
        let packed = KeyspaceOptions::new().compression(Compression::Snappy).table_bytes(64 << 10);
        let packed = db.keyspace_with(samples::PACKED, packed).expect("the keyspace is there");
        let default = db.keyspace("default").expect("the keyspace is there");
        (db, [default, packed])
    };
    let (mut db, mut keyspaces) = open(&fs);
    type Map = BTreeMap<Vec<u8>, Vec<u8>>;
    let mut maps: [Map; 2] = Default::default();
    let mut snapshots: Vec<(terrace::Snapshot, [Map; 2])> = Vec::new();
    let mut number = 0;
    while let (Some(call), Some(argument)) = (next(), next()) {
        number += 1;
        let which = usize::from(call >> 7);
        let key = api_key(argument);
        let sync = if call & 0x40 == 0 { Durability::Buffered } else { Durability::Sync };
        match call & 0x3f {
            0..14 => {
                let value = api_value(next().unwrap_or(0), number);
                keyspaces[which].put_with(&key, &value, sync).expect("memory takes writes");
                maps[which].insert(key, value);
            }
            14..20 => {
                keyspaces[which].delete_with(&key, sync).expect("memory takes writes");
                maps[which].remove(&key);
            }
            20..24 => {
                let mut batch = WriteBatch::new();
                for _ in 0..argument % 8 {
                    let (Some(one), Some(two)) = (next(), next()) else { break };
                    let (which, key) = (usize::from(two >> 7), api_key(one));
                    if two & 0x40 == 0 {
                        let value = api_value(two, number);
                        batch.put(&keyspaces[which], &key, &value);
                        maps[which].insert(key, value);
                    } else {
                        batch.delete(&keyspaces[which], &key);
                        maps[which].remove(&key);
                    }
                }
                db.write_with(batch, sync).expect("memory takes writes");
            }
            24..36 => {
                let found = keyspaces[which].get(&key).expect("nothing is damaged");
                assert_eq!(found.as_deref(), maps[which].get(&key).map(|value| &value[..]));
            }
            36..42 => {
                let to = api_key(next().unwrap_or(255));
                if key <= to {
                    let scan = keyspaces[which].range(&key[..]..=&to[..]).expect("the range is not reversed");
                    compare(scan, maps[which].range(key..=to), call & 1 == 0);
                }
            }
            42..45 => {
                let scan = keyspaces[which].prefix(&key).expect("any prefix will do");
                let wanted = maps[which].iter().filter(|(known, _)| known.starts_with(&key));
                compare(scan, wanted, call & 1 == 0);
            }
            45..48 => match snapshots.len() {
                0..4 => snapshots.push((db.snapshot().expect("the database is open"), maps.clone())),
                _ => drop(snapshots.remove(usize::from(argument) % 4)),
            },
            48..53 => {
                for (snapshot, then) in &snapshots {
                    let found = snapshot.get(&keyspaces[which], &key).expect("nothing is damaged");
                    assert_eq!(found.as_deref(), then[which].get(&key).map(|value| &value[..]));
                    let scan = snapshot.range::<&[u8]>(&keyspaces[which], ..).expect("nothing is damaged");
                    compare(scan, then[which].iter(), call & 1 == 0);
                }
            }
            53..55 => db.flush().expect("memory takes tables"),
            55 => db.settle().expect("memory takes tables"),
            56 => keyspaces[which].compact_range(&key[..]..).expect("memory takes tables"),
            57 => {
                keyspaces[which].clear().expect("memory takes edits");
                maps[which].clear();
            }
            58 => db.sync().expect("memory can be synced"),
            59..61 => {
                snapshots.clear();
                db.close().expect("memory takes tables");
                (db, keyspaces) = open(&fs);
            }
            61 => {
                // As a kill leaves it.
                snapshots.clear();
                let copy = fs.process_kill_clone();
                let (again, keyspaces) = open(&copy);
                for (keyspace, map) in keyspaces.iter().zip(&maps) {
                    compare(keyspace.iter().expect("nothing is damaged"), map.iter(), true);
                }
                again.close().expect("memory takes tables");
            }
            _ => drop(db.metrics()),
        }
    }
    for (keyspace, map) in keyspaces.iter().zip(&maps) {
        for front in [true, false] {
            compare(keyspace.iter().expect("nothing is damaged"), map.iter(), front);
        }
        for (key, value) in map {
            let found = keyspace.get(key).expect("nothing is damaged");
            assert_eq!(found.as_deref(), Some(&value[..]));
        }
    }
    drop(snapshots);
    db.close().expect("memory takes tables");
    exercise::assert_no_background_panic();
    number > 0
}

/// A scan from one end gives what is wanted.
fn compare<'a>(
    mut scan: terrace::Iter,
    mut wanted: impl DoubleEndedIterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>,
    front: bool,
) {
    loop {
        let (found, wanted) = match front {
            true => (scan.next(), wanted.next()),
            false => (scan.next_back(), wanted.next_back()),
        };
        let found = found.map(|entry| entry.expect("nothing is damaged"));
        match (found, wanted) {
            (None, None) => return,
            (Some(found), Some(wanted)) => assert!(*found.0 == wanted.0[..] && *found.1 == wanted.1[..]),
            (found, wanted) => panic!("a scan gives {found:?}, not {wanted:?}"),
        }
    }
}

/// Small inputs that lead far, of each target: parts of files that the engine wrote.
fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for compression in [Compression::None, Compression::Snappy] {
        let first = compression as u8;
        for (seed, bytes) in [(1, 500), (2, 4000), (3, 9000)] {
            let name = |what: &str| format!("{what}-{}-{bytes}", format!("{compression:?}").to_lowercase());
            let filter = (filter_of(compression).0, if seed == 2 { 4 } else { 10 });
            let sample = samples::table(seed, bytes, compression, filter, true);
            let parts = Parts::read(&sample.bytes);
            seeds.push(("table", name("table"), sample.bytes.clone()));
            for (index, extent) in parts.extents().into_iter().enumerate().take(3) {
                let block = &parts.data[extent];
                seeds.push(("block", name(&format!("block{index}")), [&[first], &block[4..]].concat()));
                if block[6] & 1 == 1 {
                    let payload = [&block[4..6], &block[16..]].concat();
                    seeds.push(("snappy", name(&format!("payload{index}")), payload));
                }
            }
        }
        // The end of the very table whose body it is put behind: any other's is of another length.
        let file = sound(compression).write();
        let tail = [&[first], &file[file.len() - tail_len(&file)..]].concat();
        seeds.push(("footer", format!("tail-{compression:?}").to_lowercase(), tail));
        for (index, kind) in metadata_kinds(compression).into_iter().enumerate() {
            let mut parts = sound(compression).clone();
            let bytes = parts.block(kind).expect("sound tables have all of them").clone();
            let first = first | (index as u8) << 1;
            seeds.push((
                "metadata",
                format!("{kind:x}-{compression:?}").to_lowercase(),
                [&[first], &bytes[..]].concat(),
            ));
        }
    }
    let records = |file: &[u8]| {
        let records = forge_log::Parts::read(file).records.into_iter();
        joined(records.map(|record| record.payload))
    };
    seeds.push(("manifest", "edits".to_owned(), records(&database()["MANIFEST"])));
    seeds.push(("batch", "batches".to_owned(), records(&database()[&live_segment(database())])));
    for (name, sample) in [("small", samples::small_log(1)), ("edits", samples::manifest(1, false))] {
        let manifest = sample.bytes("MANIFEST");
        let used = samples::used(&manifest).next_multiple_of(8);
        let grown = [&(used as u16).to_le_bytes(), &manifest[..used]].concat();
        seeds.push(("log", format!("manifest-{name}"), grown));
    }
    let sample = samples::small_log(2);
    let mut short = forge_log::Parts::read(&sample.bytes(&sample.names(".log")[0]));
    short.len = samples::used(&short.write()).next_multiple_of(8);
    let len = short.len as u64;
    short.header[32..40].copy_from_slice(&len.to_le_bytes());
    let one = short.write();
    short.header[12..16].copy_from_slice(&2_u32.to_le_bytes());
    let both = [&(one.len() as u16).to_le_bytes(), &one[..], &short.write()].concat();
    seeds.push(("log", "segments".to_owned(), both));
    for tables in 0..3 {
        let fs = MemoryFileSystem::new();
        let db = options(&fs).open(dir()).expect("the database opens");
        for number in 0..tables {
            let packed = KeyspaceOptions::new().compression(Compression::Snappy).table_bytes(64 << 10);
            let keyspace = db.keyspace_with(&format!("keyspace {number}"), packed);
            keyspace.and_then(|keyspace| keyspace.put("key", [b'v'; 60])).expect("memory takes writes");
        }
        let mut file = tempfile::tempfile().expect("there is a place for it");
        db.backup_to_stream(&file, &StreamOptions::new()).expect("a file takes it");
        let mut stream = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut stream)).expect("it was written");
        seeds.push(("backup", format!("stream-of-{tables}"), stream));
    }
    for seed in 0..6 {
        use rand::Rng;
        let mut calls = vec![0; 20 << seed];
        samples::random(seed).fill_bytes(&mut calls);
        seeds.push(("api", format!("calls{seed}"), calls));
    }
    seeds
}
