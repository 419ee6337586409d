//! Reads files of any bytes, damaged or forged, in every way there is: as tables, as logs, as databases. What comes of
//! it may be an error, but only one that says where, and it must come in a number of steps that the length of the file
//! bounds. A panic in a thread of the database counts as one here.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};

use terrace::{Access, Db, Durability, Error, Keyspace};
use terrace_io::{CacheUse, FileSystem, MemoryFileSystem};
use terrace_sstable::{
    BlockCache, Cursor, PointReads, SEQUENCE_MAX, ScanMode, Table, TableContext, explain, layout, verify,
};
use terrace_wal::{GrowingLog, LogReader, Position, RecordKind, SegmentReader, segment_holds_records};

use crate::model::{Map, Model};
use crate::samples::{Files, dir, files, from_files, options, path, put_file};

/// Entries of a forged table that are read in one scan: there may be thousands in a block, all in the same place.
const SCANNED_MAX: usize = 3000;

/// Panics of threads that belong to a database.
static BACKGROUND_PANICS: AtomicU64 = AtomicU64::new(0);

/// From now on counts panics in threads that databases have started.
pub fn watch_background() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("terrace-")) {
                BACKGROUND_PANICS.fetch_add(1, Ordering::SeqCst);
            }
            usual(panic);
        }));
    });
}

/// Fails if there was such a panic.
///
/// # Panics
///
/// Then.
pub fn assert_no_background_panic() {
    assert_eq!(BACKGROUND_PANICS.load(Ordering::SeqCst), 0, "a thread of a database has panicked");
}

/// Checks that an error about damage says where it is. `len` is the length of the file, or of the longest there is.
///
/// # Panics
///
/// If it does not.
pub fn assert_says_where(error: &Error, len: usize) {
    let is_place = match error {
        Error::Corruption { path, offset, .. } => path.starts_with(dir()) && *offset <= len as u64,
        Error::UnsupportedFormat { path, .. } | Error::NotADatabase { path, .. } => path.starts_with(dir()),
        error => error.is_not_found() && error.path().is_some_and(|path| path.starts_with(dir())),
    };
    assert!(is_place, "not an error about damage that says where: {error:?}");
}

/// What reading a table gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableOutcome {
    /// Whether it opened.
    pub opened: bool,
    /// Whether a whole scan went through.
    pub scanned: bool,
    /// Whether [`verify`] found nothing wrong.
    pub sound: bool,
}

/// Reads a file of these bytes as a table: opens it, scans it both ways, looks up `keys` and some of those found, takes
/// it apart and verifies it. On the heap, and by `pread`.
///
/// # Panics
///
/// If an error does not say where, a scan does not end, or a table without damage cannot be read.
pub fn table(bytes: &[u8], keys: &[Vec<u8>]) -> TableOutcome {
    let fs = from_files(&Files::from([("000001.sst".to_owned(), bytes.to_vec())]));
    let shared: Arc<dyn FileSystem> = Arc::new(fs.clone());
    let place = path("000001.sst");
    let len = bytes.len();
    let report = verify(&fs, &place);
    let mut outcome = TableOutcome { sound: report.is_ok(), ..TableOutcome::default() };
    for point_reads in [PointReads::Mmap, PointReads::Pread] {
        let is_heap = point_reads == PointReads::Mmap;
        let context = Arc::new(TableContext {
            point_reads: point_reads.into(),
            heap_table_bytes: 0,
            // Mostly: decompressing a block for every get takes its time.
            cache: (!len.is_multiple_of(4)).then(|| Arc::new(BlockCache::new(64 << 10))),
            ..TableContext::new(shared.clone(), dir())
        });
        let table = match Table::open_file(context, &place) {
            Ok(table) => table,
            Err(error) => {
                assert!(!outcome.sound, "a table without damage does not open: {error}");
                assert_says_where(&error, len);
                return outcome;
            }
        };
        outcome.opened = true;
        let modes = match is_heap {
            true => [ScanMode::Auto, ScanMode::Mapping],
            false => [ScanMode::Auto, ScanMode::Stream(CacheUse::DropBehind)],
        };
        let mut found: Vec<Vec<u8>> = keys.to_vec();
        for (mode, forward) in modes.into_iter().zip([true, false]) {
            match scan(&table, mode, forward, len, &mut found) {
                Ok(entries) => {
                    outcome.scanned = true;
                    let expected = (report.entries as usize).min(SCANNED_MAX);
                    assert!(!outcome.sound || entries == expected, "{entries} entries, not {expected}");
                }
                Err(error) => {
                    assert!(!outcome.sound, "a table without damage cannot be scanned: {error}");
                    assert_says_where(&error, len);
                }
            }
        }
        for (index, key) in found.iter().enumerate() {
            for snapshot in [SEQUENCE_MAX, u64::MAX, 7] {
                match table.get(key, snapshot) {
                    Ok(Some(found)) => assert!(found.value().len() <= 22 * len),
                    Ok(None) => assert!(
                        !outcome.sound || snapshot == 7 || index < keys.len(),
                        "a table without damage has lost {}",
                        key.escape_ascii()
                    ),
                    Err(error) => {
                        assert!(!outcome.sound, "a table without damage gives {error}");
                        assert_says_where(&error, len);
                    }
                }
            }
            if let Err(error) = table.approximate_offset(key) {
                assert_says_where(&error, len);
            }
        }
        if !is_heap {
            continue;
        }
        for key in found.iter().take(3) {
            let _ = explain(&table, key, 50_000).map_err(|error| assert_says_where(&error, len));
        }
        let _ = layout(&table).map_err(|error| assert_says_where(&error, len));
        let _ = table.properties().map_err(|error| assert_says_where(&error, len));
    }
    outcome
}

/// Goes through a table from one end, adds some keys that it meets to `found`, and seeks to some. How many entries
/// there were, or [`SCANNED_MAX`].
fn scan(
    table: &Arc<Table>,
    mode: ScanMode,
    forward: bool,
    len: usize,
    found: &mut Vec<Vec<u8>>,
) -> terrace::Result<usize> {
    let mut cursor = table.cursor(mode);
    for key in found.iter() {
        match forward {
            true => cursor.seek(key, 40_000)?,
            false => cursor.seek_before(key)?,
        }
        if cursor.valid() {
            assert!(cursor.key_slice() == *cursor.key() && cursor.value_slice() == *cursor.value());
            if forward { cursor.prev()? } else { cursor.next()? }
        }
    }
    if forward {
        cursor.seek_to_first()?
    } else {
        cursor.seek_to_last()?
    }
    let mut entries = 0;
    while cursor.valid() && entries < SCANNED_MAX {
        // Each entry takes a slot of 2 bytes, of which Snappy makes 22 times as many at most.
        assert!(entries <= 11 * len, "a scan goes on and on");
        assert!(cursor.key().len() + cursor.value().len() <= 22 * len);
        if entries % 61 == 0 && found.len() < 12 {
            found.push(cursor.key().to_vec());
        }
        entries += 1;
        if forward { cursor.next()? } else { cursor.prev()? }
    }
    Ok(entries)
}

/// Reads files of these bytes as the segments of a log, numbered from 1, and the first of them as a log that grows.
/// How many records were good.
///
/// # Panics
///
/// If an error does not say where, or reading does not end.
pub fn log(segments: &[&[u8]]) -> usize {
    let names = (1..).map(terrace_wal::segment_file_name);
    let files: Files = names.zip(segments.iter().map(|bytes| bytes.to_vec())).collect();
    let fs = from_files(&files);
    let len = segments.iter().map(|bytes| bytes.len()).max().unwrap_or(0);
    let mut log_id = [0; 16];
    let mut known = Vec::new();
    let mut good = 0;
    for (number, name) in (1..).zip(files.keys()) {
        let place = path(name);
        let mut reader = match SegmentReader::open(&fs, &place) {
            Ok(reader) => reader,
            Err(error) => {
                assert_says_where(&error, len);
                continue;
            }
        };
        let header = *reader.header();
        log_id = header.log_id;
        known.push((number, header.length));
        let mut count = 0;
        let outcome = loop {
            match reader.next() {
                Ok(Some(record)) => {
                    count += 1;
                    assert!(count * 32 <= len, "a segment goes on and on");
                    assert!(record.payload.len() < len && record.end.offset as usize <= len + 8);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        good += count;
        let at = reader.end();
        let asked = outcome
            .and_then(|()| reader.highest_synced_behind().map(|_| ()))
            .and_then(|()| reader.require_end())
            .and_then(|()| reader.has_records().map(|_| ()));
        let _ = asked.map_err(|error| assert_says_where(&error, len));
        let _ = segment_holds_records(&fs, dir(), header.log_id, number)
            .map_err(|error| assert_says_where(&error, len));
        if header.length == 0 && number == 1 {
            let copy = fs.process_kill_clone();
            let id = header.log_id;
            let end = at.offset.into();
            match GrowingLog::open_for_append(&copy, &place, id, header.number, end) {
                Ok(mut log) => {
                    log.append(RecordKind::VersionEdit, b"more").expect("memory takes records");
                    log.sync().expect("memory can be synced");
                    let mut again = SegmentReader::open(&copy, &place).expect("it was open");
                    let mut records = 0;
                    while again.next().expect("what follows a good record was appended").is_some() {
                        records += 1;
                    }
                    assert_eq!(records, count + 1, "what was appended is read, and nothing behind it");
                }
                Err(error) => assert_says_where(&error, len),
            }
        }
    }
    for synced in [Position::default(), Position { segment: 1, offset: 100 }] {
        let mut reader = LogReader::new(&fs, dir(), log_id, &known, synced);
        let mut count = 0;
        let outcome = loop {
            match reader.next() {
                Ok(Some(_)) => count += 1,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
            assert!(count * 32 <= len * segments.len(), "a log goes on and on");
        };
        let end = reader.last_good_end();
        let ended = outcome.and_then(|()| reader.require_not_synced_beyond(end));
        let _ = ended.map_err(|error| assert_says_where(&error, len));
    }
    good
}

/// Opens a database of these files, which may be forged, for reading only and reads everything; then opens it, writes something, flushes, compacts, closes
/// it and opens it once more. Whether it opened.
///
/// # Panics
///
/// If the database does, in any thread, or does not hold what was written to it.
pub fn database(forged: &Files) -> bool {
    watch_background();
    let fs = from_files(forged);
    // What a forged length may make it write.
    fs.set_capacity(Some(fs.total_bytes() + (16 << 20)));
    if let Ok(reader) = options(&fs).open_read_only(dir()) {
        let _ = (reader.refresh(), reader.metrics(), reader.health(), reader.snapshot());
        for name in reader.keyspace_names().unwrap_or_default() {
            let Ok(keyspace) = reader.keyspace(&name) else { continue };
            read_some(&keyspace);
            let _ = keyspace.approximate_size("a".."k");
        }
    }
    let db = match options(&fs).open(dir()) {
        Ok(db) => db,
        Err(error) => {
            assert_no_background_panic();
            // A forged generation may be the last that there can be, which is no fault of a file.
            let is_used_up = matches!(&error, Error::InvalidArgument(what) if what.contains("generations"));
            let is_placed = error.path().is_some_and(|path| path.starts_with(dir()));
            assert!(is_placed || is_used_up, "an error that does not say where: {error:?}");
            return false;
        }
    };
    let written = write_and_settle(&db);
    let _ = db.close();
    drop(db);
    assert_no_background_panic();
    // What it makes of forged files it can read again, or says that it cannot.
    if let Ok(db) = options(&fs).open(dir()) {
        if written && let Ok(found) = db.get("a key of the exercise") {
            assert_eq!(found.as_deref(), Some(&b"its value"[..]), "what was written is there");
        }
        let _ = db.close();
    }
    assert_no_background_panic();
    true
}

/// Whether a write was accepted.
fn write_and_settle(db: &Db) -> bool {
    let _ = (db.metrics().write_amplification(), db.health().is_ok());
    let names = db.keyspace_names().unwrap_or_default();
    for name in &names {
        let Ok(keyspace) = db.keyspace(name) else { continue };
        read_some(&keyspace);
    }
    let mut written = true;
    for (key, value) in [("a key of the exercise", "its value"), ("another", "and its value")] {
        written &= db.put_with(key, value, Durability::Buffered).is_ok();
    }
    let snapshot = db.snapshot();
    let _ = db.sync();
    let _ = db.flush();
    if db.health().is_ok() && db.settle().is_ok() {
        for name in names {
            let Ok(keyspace) = db.keyspace(&name) else { continue };
            let _ = keyspace.compact_range::<&[u8]>(..);
            let _ = keyspace.approximate_size("a".."k");
            read_some(&keyspace);
        }
    }
    drop(snapshot);
    let _ = db.metrics();
    written
}

fn read_some<A: Access>(keyspace: &Keyspace<A>) {
    let Ok(iter) = keyspace.iter() else { return };
    let mut keys = Vec::new();
    for entry in iter.take(SCANNED_MAX) {
        let Ok((key, _)) = entry else { break };
        if keys.len() < 20 {
            keys.push(key.to_vec());
        }
    }
    if let Ok(mut cursor) = keyspace.cursor() {
        // Back and forth, among keys that may not be in order.
        for key in &keys {
            let _ = cursor.seek_for_prev(key);
            for forward in [false, false, true, true, true, false, true] {
                let _ = if forward { cursor.next() } else { cursor.prev() };
            }
        }
    }
    if let Ok(iter) = keyspace.iter() {
        iter.rev().take(SCANNED_MAX).take_while(|entry| entry.is_ok()).for_each(drop);
    }
    for key in keys.iter().map(|key| &key[..]).chain([&b"key 00100"[..], b""]) {
        let _ = keyspace.get(key);
    }
}

/// What came of a database with damaged files.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Why it did not open.
    pub refused: Option<Error>,
    /// Errors of reads.
    pub errors: Vec<Error>,
    /// The tables whose files are missing, as its health says.
    pub missing_tables: Vec<PathBuf>,
    /// Which of the states that it may be in it is in, as far as it could be read. They are numbered as they were
    /// given.
    pub state: usize,
}

impl Outcome {
    /// Whether nothing was noticed.
    pub fn is_whole(&self) -> bool {
        self.refused.is_none() && self.errors.is_empty() && self.missing_tables.is_empty()
    }

    /// Every error, of the open or of reads.
    pub fn all(&self) -> impl Iterator<Item = &Error> {
        self.refused.iter().chain(&self.errors)
    }

    /// Whether some error is about the file.
    pub fn blames(&self, name: &str) -> bool {
        self.all().any(|error| error.path() == Some(&*path(name)))
    }
}

/// Opens a database with damaged files and reads everything. It must be in one of `states`: every read gives the right
/// answer or an error that says where. An open that is refused changes nothing. One for reading only changes nothing
/// at all, is refused if the other is, and shows the same state.
///
/// # Panics
///
/// If not.
pub fn damaged(fs: &MemoryFileSystem, states: &[&Model]) -> Outcome {
    watch_background();
    let before = files(fs);
    let longest = before.values().map(Vec::len).max().unwrap_or(0);
    let assert_says_where = |error: &Error| {
        let name = error.path().and_then(Path::file_name).and_then(|name| name.to_str());
        let file = name.and_then(|name| before.get(name));
        assert_says_where(error, file.map_or(longest, Vec::len));
    };
    let reader = options(fs).open_read_only(dir());
    let changed = files(fs) != before;
    assert!(!changed, "an open for reading only has changed something");
    let db = match options(fs).open(dir()) {
        Ok(db) => db,
        Err(error) => {
            assert_says_where(&error);
            match reader {
                Ok(_) => panic!("an open for reading only does not mind that {error}"),
                Err(other) => assert_says_where(&other),
            }
            let mut after = files(fs);
            // Every open leaves its lock file there.
            after.retain(|name, _| name != "LOCK" || before.contains_key(name));
            assert!(before == after, "a refused open has changed something: {error}");
            return Outcome { refused: Some(error), ..Outcome::default() };
        }
    };
    let missing_tables = db.health().missing_tables;
    let reader = reader.unwrap_or_else(|error| panic!("an open for reading only is refused: {error}"));
    assert_eq!(reader.health().missing_tables, missing_tables);
    let mut whys = Vec::new();
    for (state, model) in states.iter().enumerate() {
        match compare(&db, model) {
            Ok(errors) => {
                errors.iter().for_each(assert_says_where);
                // What it has open are the files from before the recovery.
                match compare(&reader, model) {
                    Ok(errors) => errors.iter().for_each(assert_says_where),
                    Err(why) => panic!("opened for reading only, it is in another state: {why}"),
                }
                drop(db);
                assert_no_background_panic();
                return Outcome { errors, missing_tables, state, ..Outcome::default() };
            }
            Err(why) => whys.push(why),
        }
    }
    panic!("the database is in no state that it may be in: {whys:?}");
}

/// Compares all that can be read of a database with a model: gives the errors of reads, or the first wrong answer.
fn compare<A: Access>(db: &Db<A>, model: &Model) -> Result<Vec<Error>, String> {
    let names = db.keyspace_names().map_err(|error| error.to_string())?;
    if !names.iter().eq(model.keyspaces().keys()) {
        return Err(format!("its keyspaces are {names:?}"));
    }
    let mut errors = Vec::new();
    for (name, map) in model.keyspaces() {
        let keyspace = db.find_keyspace(name).map_err(|error| error.to_string())?;
        let keyspace = keyspace.ok_or_else(|| format!("{name} is listed, but not there"))?;
        for (key, value) in map.iter() {
            match keyspace.get(key) {
                Ok(Some(found)) if *found == **value => {}
                Ok(None) => return Err(format!("{name}: {} is silently missing", key.escape_ascii())),
                Ok(Some(_)) => return Err(format!("{name}: a wrong value of {}", key.escape_ascii())),
                Err(error) => errors.push(error),
            }
        }
        for number in 0..2000 {
            let key = format!("key {number:05}");
            if map.contains_key(key.as_bytes()) {
                continue;
            }
            match keyspace.get(&key) {
                Ok(None) => {}
                Ok(Some(_)) => return Err(format!("{name}: {key:?} should not be there")),
                Err(error) => errors.push(error),
            }
        }
        for backward in [false, true] {
            if let Some(error) =
                compare_scan(&keyspace, map, backward).map_err(|why| format!("{name}: {why}"))?
            {
                errors.push(error);
            }
        }
    }
    Ok(errors)
}

/// A scan from one end gives the right entries up to an error, which it then keeps to.
fn compare_scan<A: Access>(
    keyspace: &Keyspace<A>,
    map: &Map,
    backward: bool,
) -> Result<Option<Error>, String> {
    let mut iter = keyspace.iter().map_err(|error| error.to_string())?;
    let mut wanted = map.iter();
    loop {
        let entry = if backward { iter.next_back() } else { iter.next() };
        let next = if backward { wanted.next_back() } else { wanted.next() };
        match (entry, next) {
            (None, None) => return Ok(None),
            (Some(Err(error)), _) => {
                let again = if backward { iter.next_back() } else { iter.next() };
                return match again {
                    Some(Err(_)) => Ok(Some(error)),
                    _ => Err("an iterator forgot its error".into()),
                };
            }
            (Some(Ok((key, value))), Some((wanted_key, wanted_value)))
                if *key == **wanted_key && *value == **wanted_value => {}
            (Some(Ok((key, _))), _) => return Err(format!("a scan gives {}", key.escape_ascii())),
            (None, Some((key, _))) => return Err(format!("a scan ends before {}", key.escape_ascii())),
        }
    }
}

/// Puts damaged bytes in the place of a file of a copy, and reads everything: see [`damaged`].
///
/// # Panics
///
/// As there.
pub fn damaged_file(
    copy: &MemoryFileSystem,
    name: &str,
    states: &[&Model],
    change: impl FnOnce(&mut Vec<u8>),
) -> Outcome {
    let mut bytes = copy.file_bytes(Path::new(&path(name))).expect("the file is there");
    change(&mut bytes);
    put_file(copy, name, bytes);
    damaged(copy, states)
}
