//! The error table. Goal: whatever is wrong with a directory, a file or an argument, the caller gets an error that
//! names the place, nothing on disk is changed by a refused open, and no key is ever silently missing or wrong.
//!
//! Method: a small database with tables on several levels, two keyspaces and a live log is built once in memory; each
//! case damages a copy of it and looks at everything through the public API. What needs a real file system (locks,
//! permissions, a full disk) runs in temporary directories and, where root is needed, in a mount namespace of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use terrace::{Compression, Db, Durability, Error, FileSystem, KeyspaceOptions, Options, WriteBatch};
use terrace_io::{FaultFileSystem, FaultRule, MemoryFileSystem, OpenMode, Operation};

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// The file system as a whole: names and bytes.
type Files = BTreeMap<String, Vec<u8>>;

fn small() -> Options {
    Options::new()
        .memtable_bytes(64 << 10)
        .segment_bytes_max(64 << 10)
        .level_base_bytes(96 << 10)
        .level_multiplier(2)
        .l0_trigger(2)
        .compaction_threads(1)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(64 << 10))
}

fn over(fs: &MemoryFileSystem) -> Options {
    small().file_system(Arc::new(fs.clone()))
}

fn dir() -> &'static Path {
    Path::new("/errors")
}

fn files(fs: &MemoryFileSystem) -> Files {
    let names = fs.read_dir(dir()).unwrap().into_iter();
    names.map(|name| (name.clone(), fs.file_bytes(&dir().join(name)).unwrap())).collect()
}

/// A database and what it holds. Its log is live: `tail` are the keys of the records in it, oldest first.
struct Fixture {
    fs: MemoryFileSystem,
    default: Contents,
    packed: Contents,
    tail: Vec<Vec<u8>>,
}

fn value(number: u64) -> Vec<u8> {
    // Half of it compresses.
    let mut value = vec![b'v'; 50];
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for _ in 0..50 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.push(state as u8);
    }
    value
}

fn build(live_log: bool) -> Fixture {
    let fs = MemoryFileSystem::new();
    let db = over(&fs).open(dir()).unwrap();
    let snappy = KeyspaceOptions::new().compression(Compression::Snappy).table_bytes(64 << 10);
    let packed = db.keyspace_with("packed", snappy).unwrap();
    let (mut default_contents, mut packed_contents) = (Contents::new(), Contents::new());
    for round in 0..4_u64 {
        for index in 0..500_u64 {
            let key = format!("key {:05}", (index * 7 + round * 131) % 2000).into_bytes();
            let value = value(round * 1000 + index);
            db.put_with(&key, &value, Durability::Buffered).unwrap();
            default_contents.insert(key.clone(), value.clone());
            if index % 4 == 0 {
                packed.put_with(&key, &value, Durability::Buffered).unwrap();
                packed_contents.insert(key.clone(), value);
            }
            if index % 9 == 0 {
                db.delete_with(&key, Durability::Buffered).unwrap();
                default_contents.remove(&key);
            }
        }
        db.settle().unwrap();
    }
    // A value that spans pages.
    let long = value(77).repeat(200);
    db.put("long", &long).unwrap();
    default_contents.insert(b"long".to_vec(), long);
    db.settle().unwrap();

    let mut tail = Vec::new();
    if live_log {
        for index in 0..40_u64 {
            let key = format!("tail {index:03}").into_bytes();
            let value = value(9000 + index);
            db.put(&key, &value).unwrap();
            default_contents.insert(key.clone(), value);
            tail.push(key);
        }
    }
    assert!(db.health().is_ok(), "{:?}", db.health());
    let tables = db.metrics().levels.iter().filter(|level| level.tables > 0).count();
    assert!(tables >= 2, "the fixture has {tables} levels");
    let copy = fs.process_kill_clone();
    if !live_log {
        db.close().unwrap();
        return Fixture { fs, default: default_contents, packed: packed_contents, tail };
    }
    Fixture { fs: copy, default: default_contents, packed: packed_contents, tail }
}

/// As a kill leaves it, with records in the log.
fn live() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| build(true))
}

/// Closed: everything is in tables.
fn closed() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| build(false))
}

impl Fixture {
    fn copy(&self) -> MemoryFileSystem {
        self.fs.process_kill_clone()
    }

    fn names(&self, suffix: &str) -> Vec<String> {
        self.fs.read_dir(dir()).unwrap().into_iter().filter(|name| name.ends_with(suffix)).collect()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.fs.file_bytes(&dir().join(name)).unwrap()
    }
}

/// What came of a damaged copy.
#[derive(Debug, Default)]
struct Outcome {
    refused: Option<Error>,
    /// Errors of reads.
    errors: Vec<Error>,
    missing_tables: Vec<PathBuf>,
}

impl Outcome {
    fn is_whole(&self) -> bool {
        self.refused.is_none() && self.errors.is_empty() && self.missing_tables.is_empty()
    }

    /// Every error, of the open or of reads.
    fn all(&self) -> impl Iterator<Item = &Error> {
        self.refused.iter().chain(&self.errors)
    }
}

fn assert_names_place(error: &Error, case: &str) {
    let is_damage = error.is_corruption() || error.is_not_found() || matches!(error, Error::NotADatabase { .. });
    assert!(is_damage, "{case}: {error:?}");
    let path = error.path().unwrap_or_else(|| panic!("{case}: the error names no file: {error}"));
    assert!(path.starts_with(dir()), "{case}: {error}");
    assert!(error.to_string().contains(&*path.to_string_lossy()), "{case}: {error}");
}

/// Opens a damaged copy and reads everything: all that is read is right, all that is not is an error. Of the keys in
/// `lost` each may be missing.
fn examine(fixture: &Fixture, fs: &MemoryFileSystem, lost: &[Vec<u8>], case: &str) -> Outcome {
    let before = files(fs);
    let db = match over(fs).open(dir()) {
        Ok(db) => db,
        Err(error) => {
            assert_names_place(&error, case);
            let after = files(fs);
            let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&before), names(&after), "{case}: a refused open added or removed files");
            for (name, bytes) in &before {
                assert!(after[name] == *bytes, "{case}: a refused open changed {name}");
            }
            return Outcome { refused: Some(error), ..Outcome::default() };
        }
    };
    let mut outcome = Outcome { missing_tables: db.health().missing_tables, ..Outcome::default() };
    let names = db.keyspace_names().unwrap();
    assert_eq!(names, ["default", "packed"], "{case}");
    for (name, contents) in [("default", &fixture.default), ("packed", &fixture.packed)] {
        let keyspace = db.keyspace(name).unwrap();
        for (key, value) in contents {
            match keyspace.get(key) {
                Ok(Some(found)) => assert!(*found == value[..], "{case}: {name}: a wrong value of {}", key.escape_ascii()),
                Ok(None) => {
                    assert!(lost.contains(key), "{case}: {name}: {} is silently missing", key.escape_ascii());
                }
                Err(error) => outcome.errors.push(error),
            }
        }
        assert_eq!(keyspace.get("no such key").ok().flatten().as_deref(), None, "{case}");
        // Scans give the right entries up to an error, from both ends.
        for backward in [false, true] {
            let mut wanted = contents.iter().filter(|(key, _)| !lost.contains(key));
            let mut iter = keyspace.iter().unwrap();
            loop {
                let entry = if backward { iter.next_back() } else { iter.next() };
                match entry {
                    None => {
                        assert!(wanted.next().is_none(), "{case}: {name}: a scan ends too early without an error");
                        break;
                    }
                    Some(Ok((key, _))) if lost.contains(&key.to_vec()) => {}
                    Some(Ok((key, value))) => {
                        let next = if backward { wanted.next_back() } else { wanted.next() };
                        let (wanted_key, wanted_value) = next.expect("no entry more than there are");
                        assert!(*key == wanted_key[..] && *value == wanted_value[..], "{case}: {name}: a scan");
                    }
                    Some(Err(error)) => {
                        let again = if backward { iter.next_back() } else { iter.next() };
                        assert!(again.is_some_and(|again| again.is_err()), "{case}: an iterator forgot its error");
                        outcome.errors.push(error);
                        break;
                    }
                }
            }
        }
    }
    for error in &outcome.errors {
        assert_names_place(error, case);
    }
    drop(db);
    outcome
}

/// Damages a file in a copy and examines it.
fn damage(fixture: &Fixture, name: &str, lost: &[Vec<u8>], case: &str, change: impl FnOnce(&mut Vec<u8>)) -> Outcome {
    let fs = fixture.copy();
    let path = dir().join(name);
    let mut bytes = fs.file_bytes(&path).unwrap();
    change(&mut bytes);
    fs.replace_bytes(&path, bytes).unwrap();
    examine(fixture, &fs, lost, &format!("{name}: {case}"))
}

/// Whether some error is about the file.
fn blames(outcome: &Outcome, name: &str) -> bool {
    outcome.all().any(|error| error.path() == Some(&*dir().join(name)))
}

/// Up to `count` positions spread over a length, its ends among them.
fn positions(len: usize, count: usize) -> Vec<usize> {
    let step = (len / count).max(1) | 1;
    let mut positions: Vec<usize> = (0..len).step_by(step).collect();
    positions.extend([len.saturating_sub(1)]);
    positions
}

fn last_record(fixture: &Fixture) -> &[Vec<u8>] {
    &fixture.tail[fixture.tail.len() - 1..]
}

#[test]
fn the_undamaged_fixtures_are_whole() {
    for (fixture, case) in [(live(), "live"), (closed(), "closed")] {
        let outcome = examine(fixture, &fixture.copy(), &[], case);
        assert!(outcome.is_whole(), "{case}: {outcome:?}");
        assert!(fixture.names(".sst").len() >= 4, "{case}");
    }
    assert_eq!(closed().names(".log").len(), 0, "a closed database has no log");
    assert!(!live().names(".log").is_empty());
}

#[test]
fn a_missing_table_fails_only_its_keys() {
    let fixture = live();
    for name in fixture.names(".sst") {
        let fs = fixture.copy();
        fs.remove_file(&dir().join(&name)).unwrap();
        let outcome = examine(fixture, &fs, &[], &name);
        assert!(outcome.refused.is_none(), "a missing table does not keep the others away: {outcome:?}");
        assert_eq!(outcome.missing_tables, [dir().join(&name)], "health shows it");
        assert!(blames(&outcome, &name), "{name}: {outcome:?}");
        assert!(outcome.errors.len() < fixture.default.len() + fixture.packed.len(), "others can be read");
    }
}

#[test]
fn damaged_tables_are_errors_of_their_keys() {
    let fixture = live();
    let names = fixture.names(".sst");
    for (index, name) in names.iter().enumerate() {
        for (what, len) in [("empty", 0), ("one byte", 1), ("half", fixture.bytes(name).len() / 2)] {
            let outcome = damage(fixture, name, &[], what, |bytes| bytes.truncate(len));
            assert!(outcome.refused.is_none() && blames(&outcome, name), "{name}: {what}: {outcome:?}");
        }
        let outcome = damage(fixture, name, &[], "not a table", |bytes| bytes.fill(b'x'));
        assert!(outcome.refused.is_none() && blames(&outcome, name), "{name}: {outcome:?}");
        let other = fixture.bytes(&names[(index + 1) % names.len()]);
        let outcome = damage(fixture, name, &[], "another table", |bytes| *bytes = other);
        assert!(outcome.refused.is_none() && blames(&outcome, name), "{name}: {outcome:?}");
        let outcome = damage(fixture, name, &[], "longer", |bytes| bytes.extend_from_slice(&[0; 4096]));
        assert!(outcome.refused.is_none() && blames(&outcome, name), "{name}: {outcome:?}");
        for (version, what) in [(2_u32, "newer version"), (0, "version zero"), (u32::MAX, "unknown version")] {
            let outcome = damage(fixture, name, &[], what, |bytes| {
                let footer = bytes.len() - 64;
                bytes[footer + 48..footer + 52].copy_from_slice(&version.to_le_bytes());
                let crc = crc32fast::hash(&bytes[footer..footer + 52]);
                bytes[footer + 52..footer + 56].copy_from_slice(&crc.to_le_bytes());
            });
            let found = outcome.errors.iter().any(|error| {
                matches!(error, Error::UnsupportedFormat { path, found, supported: 1 }
                    if path.ends_with(name) && *found == u64::from(version))
            });
            assert!(found, "{name}: {what}: {outcome:?}");
        }
    }
}

#[test]
fn a_table_of_another_database_is_an_error() {
    let (fixture, stranger) = (live(), closed());
    let name = &fixture.names(".sst")[0];
    let theirs = stranger.bytes(&stranger.names(".sst")[0]);
    let outcome = damage(fixture, name, &[], "a table of another database", |bytes| *bytes = theirs);
    assert!(blames(&outcome, name), "{outcome:?}");
}

#[test]
fn every_flipped_bit_of_a_table_is_right_or_an_error() {
    let fixture = live();
    let mut noticed = 0;
    let mut cases = 0;
    for name in fixture.names(".sst") {
        let len = fixture.bytes(&name).len();
        // All of the footer, and places all over the rest.
        let places = positions(len, 40).into_iter().chain((len - 64..len).step_by(3));
        for place in places {
            let outcome = damage(fixture, &name, &[], &format!("bit flipped at {place}"), |bytes| {
                bytes[place] ^= 1 << (place % 8);
            });
            cases += 1;
            noticed += usize::from(!outcome.is_whole());
            if !outcome.is_whole() {
                assert!(outcome.refused.is_none() && blames(&outcome, &name), "{name} at {place}: {outcome:?}");
            }
        }
    }
    // Padding between the regions and bits of the filter that nobody asks for may go unnoticed.
    assert!(noticed * 10 > cases * 8, "{noticed} of {cases} flips were noticed");
}

#[test]
fn damaged_blocks_are_named_by_their_offset() {
    let fixture = live();
    let name = &fixture.names(".sst")[0];
    let outcome = damage(fixture, name, &[], "second block", |bytes| bytes[100] ^= 1);
    let at_start = |error: &&Error| matches!(error, Error::Corruption { offset: 0, what, .. } if what.contains("checksum"));
    assert!(outcome.errors.iter().any(|error| at_start(&error)), "{outcome:?}");
}

#[test]
fn every_flipped_bit_of_the_log_is_right_or_an_error() {
    let fixture = live();
    for name in fixture.names(".log") {
        let bytes = fixture.bytes(&name);
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let has_records = used > 64;
        let places = (0..64).chain(positions(used, 400)).chain(positions(bytes.len(), 16));
        let mut refused = 0;
        for place in places {
            let outcome = damage(fixture, &name, last_record(fixture), &format!("bit flipped at {place}"), |bytes| {
                bytes[place] ^= 1 << (place % 8);
            });
            assert!(outcome.errors.is_empty(), "{name} at {place}: {outcome:?}");
            if outcome.refused.is_some() {
                refused += 1;
                assert!(blames(&outcome, &name), "{name} at {place}: {outcome:?}");
            }
        }
        assert!(!has_records || refused > 300, "{name}: {refused} flips were noticed");
    }
}

#[test]
fn every_cut_of_the_log_is_an_error() {
    let fixture = live();
    for name in fixture.names(".log") {
        for len in positions(fixture.bytes(&name).len(), 60) {
            let outcome = damage(fixture, &name, &[], &format!("cut to {len}"), |bytes| bytes.truncate(len));
            assert!(outcome.refused.is_some() && blames(&outcome, &name), "{name} cut to {len}: {outcome:?}");
        }
    }
}

#[test]
fn a_missing_swapped_foreign_or_newer_log_segment_is_an_error() {
    let fixture = live();
    for name in fixture.names(".log") {
        let fs = fixture.copy();
        fs.remove_file(&dir().join(&name)).unwrap();
        let outcome = examine(fixture, &fs, &[], &format!("{name} missing"));
        assert!(outcome.refused.is_some() && blames(&outcome, &name), "{outcome:?}");

        let stranger = build(true);
        let theirs = stranger.bytes(&stranger.names(".log")[0]);
        let outcome = damage(fixture, &name, &[], "of another database", |bytes| *bytes = theirs);
        assert!(outcome.refused.is_some() && blames(&outcome, &name), "{outcome:?}");

        let outcome = damage(fixture, &name, &[], "overwritten", |bytes| bytes.fill(0));
        assert!(outcome.refused.is_some() && blames(&outcome, &name), "{outcome:?}");

        let outcome = damage(fixture, &name, &[], "newer version", |bytes| set_log_version(bytes, 2));
        let refused = outcome.refused.unwrap();
        assert!(matches!(&refused, Error::UnsupportedFormat { found: 2, supported: 1, .. }), "{refused}");
    }
}

#[test]
fn swapped_log_segments_are_an_error() {
    // Writes until there are several segments that hold records.
    let fs = MemoryFileSystem::new();
    let db = over(&fs).memtable_bytes(64 << 20).open(dir()).unwrap();
    let mut contents = Contents::new();
    for index in 0..1500_u64 {
        let (key, value) = (format!("{index:05}").into_bytes(), value(index));
        db.put(&key, &value).unwrap();
        contents.insert(key, value);
    }
    db.keyspace("packed").unwrap();
    let copy = fs.process_kill_clone();
    let fixture = Fixture { fs: copy, default: contents, packed: Contents::new(), tail: Vec::new() };
    assert!(examine(&fixture, &fixture.copy(), &[], "undamaged").is_whole());
    let mut names = fixture.names(".log");
    names.sort();
    assert!(names.len() >= 3, "{names:?}");
    let copy = fixture.copy();
    let (a, b) = (fixture.bytes(&names[0]), fixture.bytes(&names[1]));
    copy.replace_bytes(&dir().join(&names[0]), b).unwrap();
    copy.replace_bytes(&dir().join(&names[1]), a).unwrap();
    let outcome = examine(&fixture, &copy, &[], "swapped");
    assert!(outcome.refused.is_some() && blames(&outcome, &names[0]), "{outcome:?}");

    // Damage in the middle of a log that is longer than a memtable: refused before anything is changed.
    let second = &names[1];
    for place in [64, 100, 2000, 30_000] {
        let outcome = damage(&fixture, second, &[], &format!("flip at {place}"), |bytes| bytes[place] ^= 4);
        assert!(outcome.refused.is_some(), "{outcome:?}");
    }
}

fn set_log_version(bytes: &mut [u8], version: u32) {
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_damaged_manifest_is_an_error() {
    for (fixture, state) in [(live(), "live"), (closed(), "closed")] {
        let refused = |outcome: Outcome, what: &str| {
            let error = outcome.refused.unwrap_or_else(|| panic!("{state}: {what}: the open succeeded"));
            assert_eq!(error.path(), Some(&*dir().join("MANIFEST")), "{state}: {what}: {error}");
            error
        };
        let fs = fixture.copy();
        fs.remove_file(&dir().join("MANIFEST")).unwrap();
        refused(examine(fixture, &fs, &[], "manifest missing"), "missing");

        for len in [0, 1, 63, 64, 65] {
            let outcome = damage(fixture, "MANIFEST", &[], &format!("cut to {len}"), |bytes| bytes.truncate(len));
            refused(outcome, "cut");
        }
        refused(damage(fixture, "MANIFEST", &[], "zeros", |bytes| bytes.fill(0)), "zeros");
        let theirs = build(true).bytes("MANIFEST");
        let outcome = damage(fixture, "MANIFEST", &[], "of another database", |bytes| *bytes = theirs);
        assert!(!outcome.is_whole(), "{state}: the manifest of another database");

        let outcome = damage(fixture, "MANIFEST", &[], "newer version", |bytes| set_log_version(bytes, 9));
        let error = refused(outcome, "newer version");
        assert!(matches!(error, Error::UnsupportedFormat { found: 9, supported: 1, .. }), "{error}");
    }
}

#[test]
fn an_unknown_field_of_the_manifest_is_an_unsupported_format() {
    let fixture = closed();
    let fs = fixture.copy();
    let path = dir().join("MANIFEST");
    let (id, generation, end) = {
        let mut reader = terrace_wal::SegmentReader::open(&fs, &path).unwrap();
        while reader.next().unwrap().is_some() {}
        (reader.header().log_id, reader.header().number, u64::from(reader.end().offset))
    };
    let mut log = terrace_wal::GrowingLog::open_for_append(&fs, &path, id, generation, end).unwrap();
    log.append(terrace_wal::RecordKind::VersionEdit, &[99, 1, 0]).unwrap();
    log.sync().unwrap();
    let outcome = examine(fixture, &fs, &[], "an unknown field");
    let refused = outcome.refused.unwrap();
    assert!(matches!(refused, Error::UnsupportedFormat { found: 99, .. }), "{refused}");
}

#[test]
fn every_cut_and_flip_of_the_manifest_is_right_or_an_error() {
    for (fixture, state) in [(live(), "live"), (closed(), "closed")] {
        let bytes = fixture.bytes("MANIFEST");
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for len in positions(used, 150).into_iter().chain((0..bytes.len()).step_by(512)) {
            damage(fixture, "MANIFEST", &[], &format!("{state}, cut to {len}"), |bytes| bytes.truncate(len));
        }
        let mut noticed = 0;
        for place in (0..64).chain(positions(used, 300)) {
            let outcome = damage(fixture, "MANIFEST", &[], &format!("{state}, flip at {place}"), |bytes| {
                bytes[place] ^= 1 << (place % 8);
            });
            noticed += usize::from(!outcome.is_whole());
        }
        assert!(noticed > 200, "{state}: {noticed}");
    }
}
