//! The error table. Goal: whatever is wrong with a directory, a file or an argument, the caller gets an error that
//! names the place, nothing on disk is changed by a refused open, and no key is ever silently missing or wrong.
//!
//! Method: a small database with tables on several levels, two keyspaces and a live log is built once in memory; each
//! case damages a copy of it and looks at everything through the public API. What needs a real file system (locks,
//! permissions) runs in temporary directories and, where root is needed, in a mount namespace of its own.
//! Files with flipped bits, cut or mixed up, are in `damage.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use terrace::{Compression, Db, Durability, Error, FileSystem, KeyspaceOptions, Options, WriteBatch};
use terrace_io::{FaultFileSystem, FaultRule, MemoryFileSystem, OpenMode, Operation};
use terrace_tests::child::{self, child, namespaced_child};
use terrace_tests::exercise::{Outcome, damaged};
use terrace_tests::model::{Change, DEFAULT, Model, Write};
use terrace_tests::samples::{self, Files, Sample, dir, files, options, path};
use terrace_tests::skipped;

/// As a kill leaves it, with records in the log.
fn live() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| samples::tables(1))
}

/// Closed: everything is in tables.
fn closed() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| samples::manifest(2, true))
}

/// Reads everything of a damaged copy of a sample: all that is read is right, all that is not is an error.
fn examine(sample: &Sample, fs: &MemoryFileSystem) -> Outcome {
    damaged(fs, &[sample.newest()])
}

/// Damages a file in a copy and examines it.
fn damage(sample: &Sample, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Outcome {
    let fs = sample.copy();
    let mut bytes = sample.bytes(name);
    change(&mut bytes);
    fs.replace_bytes(&path(name), bytes).unwrap();
    examine(sample, &fs)
}

#[test]
fn the_undamaged_fixtures_are_whole() {
    for sample in [live(), closed()] {
        let outcome = examine(sample, &sample.copy());
        assert!(outcome.is_whole(), "{outcome:?}");
        assert!(sample.names(".sst").len() >= 3);
    }
    assert_eq!(closed().names(".log").len(), 0, "a closed database has no log");
    assert!(!live().names(".log").is_empty());
}

#[test]
fn a_missing_table_fails_only_its_keys() {
    let sample = live();
    for name in sample.names(".sst") {
        let fs = sample.copy();
        fs.remove_file(&path(&name)).unwrap();
        let outcome = examine(sample, &fs);
        assert!(outcome.refused.is_none(), "a missing table does not keep the others away: {outcome:?}");
        assert_eq!(outcome.missing_tables, [path(&name)], "health shows it");
        assert!(outcome.blames(&name), "{name}: {outcome:?}");
        let others = outcome.errors.iter().filter(|error| error.path() != Some(&*path(&name)));
        assert_eq!(others.count(), 0, "the others can be read: {outcome:?}");
    }
}

#[test]
fn damaged_tables_are_errors_of_their_keys() {
    let sample = live();
    let names = sample.names(".sst");
    for (index, name) in names.iter().enumerate() {
        for (what, len) in [("empty", 0), ("one byte", 1), ("half", sample.bytes(name).len() / 2)] {
            let outcome = damage(sample, name, |bytes| bytes.truncate(len));
            assert!(outcome.refused.is_none() && outcome.blames(name), "{name}: {what}: {outcome:?}");
        }
        let outcome = damage(sample, name, |bytes| bytes.fill(b'x'));
        assert!(outcome.refused.is_none() && outcome.blames(name), "{name}: {outcome:?}");
        let other = sample.bytes(&names[(index + 1) % names.len()]);
        let outcome = damage(sample, name, |bytes| *bytes = other);
        assert!(outcome.refused.is_none() && outcome.blames(name), "{name}: {outcome:?}");
        let outcome = damage(sample, name, |bytes| bytes.extend_from_slice(&[0; 4096]));
        assert!(outcome.refused.is_none() && outcome.blames(name), "{name}: {outcome:?}");
        for (version, what) in [(2_u32, "newer version"), (u32::MAX, "unknown version")] {
            let outcome = damage(sample, name, |bytes| {
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
    let (sample, stranger) = (live(), closed());
    let name = &sample.names(".sst")[0];
    let theirs = stranger.bytes(&stranger.names(".sst")[0]);
    let outcome = damage(sample, name, |bytes| *bytes = theirs);
    assert!(outcome.blames(name), "{outcome:?}");
}

#[test]
fn damaged_blocks_are_named_by_their_offset() {
    let sample = live();
    let name = &sample.names(".sst")[0];
    let outcome = damage(sample, name, |bytes| bytes[100] ^= 1);
    let at_start = |error: &Error| match error {
        Error::Corruption { offset, what, .. } => *offset == 0 && what.contains("checksum"),
        _ => false,
    };
    assert!(outcome.errors.iter().any(at_start), "{outcome:?}");
}

#[test]
fn a_missing_swapped_foreign_or_newer_log_segment_is_an_error() {
    let sample = live();
    for name in sample.names(".log") {
        let fs = sample.copy();
        fs.remove_file(&path(&name)).unwrap();
        let outcome = examine(sample, &fs);
        assert!(outcome.refused.is_some() && outcome.blames(&name), "{outcome:?}");

        let stranger = samples::tables(3);
        let theirs = stranger.bytes(&stranger.names(".log")[0]);
        let outcome = damage(sample, &name, |bytes| *bytes = theirs);
        assert!(outcome.refused.is_some() && outcome.blames(&name), "{outcome:?}");

        let outcome = damage(sample, &name, |bytes| bytes.fill(0));
        assert!(outcome.refused.is_some() && outcome.blames(&name), "{outcome:?}");

        let outcome = damage(sample, &name, |bytes| set_log_version(bytes, 2));
        let refused = outcome.refused.unwrap();
        assert!(matches!(&refused, Error::UnsupportedFormat { found: 2, supported: 1, .. }), "{refused}");
    }
}

#[test]
fn swapped_log_segments_are_an_error() {
    // Writes until there are several segments that hold records.
    let fs = MemoryFileSystem::new();
    let db = options(&fs).memtable_bytes(64 << 20).open(dir()).unwrap();
    let mut random = samples::random(1);
    let mut model = Model::default();
    for index in 0..1500 {
        let (key, value) = (format!("{index:05}"), samples::value(&mut random, 100));
        db.put(&key, &value).unwrap();
        let (key, value) = (key.as_bytes().into(), Some(value.into()));
        model.apply(&Change::Batch(vec![Write { keyspace: DEFAULT.to_owned(), key, value }]));
    }
    let sample = Sample { fs: fs.process_kill_clone(), history: vec![model] };
    assert!(examine(&sample, &sample.copy()).is_whole());
    let names = sample.names(".log");
    assert!(names.len() >= 3, "{names:?}");
    let copy = sample.copy();
    let (a, b) = (sample.bytes(&names[0]), sample.bytes(&names[1]));
    copy.replace_bytes(&path(&names[0]), b).unwrap();
    copy.replace_bytes(&path(&names[1]), a).unwrap();
    let outcome = examine(&sample, &copy);
    assert!(outcome.refused.is_some() && outcome.blames(&names[0]), "{outcome:?}");

    // Damage in the middle of a log that is longer than a memtable: refused before anything is changed.
    let second = &names[1];
    for place in [64, 100, 2000, 30_000] {
        let outcome = damage(&sample, second, |bytes| bytes[place] ^= 4);
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
    for (sample, state) in [(live(), "live"), (closed(), "closed")] {
        let refused = |outcome: Outcome, what: &str| {
            let error = outcome.refused.unwrap_or_else(|| panic!("{state}: {what}: the open succeeded"));
            assert_eq!(error.path(), Some(&*path("MANIFEST")), "{state}: {what}: {error}");
            error
        };
        let fs = sample.copy();
        fs.remove_file(&path("MANIFEST")).unwrap();
        refused(examine(sample, &fs), "missing");

        for len in [0, 1, 63, 64, 65] {
            let outcome = damage(sample, "MANIFEST", |bytes| bytes.truncate(len));
            refused(outcome, "cut");
        }
        refused(damage(sample, "MANIFEST", |bytes| bytes.fill(0)), "zeros");
        let theirs = samples::tables(3).bytes("MANIFEST");
        let outcome = damage(sample, "MANIFEST", |bytes| *bytes = theirs);
        assert!(!outcome.is_whole(), "{state}: the manifest of another database");

        let outcome = damage(sample, "MANIFEST", |bytes| set_log_version(bytes, 9));
        let error = refused(outcome, "newer version");
        assert!(matches!(error, Error::UnsupportedFormat { found: 9, supported: 1, .. }), "{error}");
    }
}

#[test]
fn an_unknown_field_of_the_manifest_is_an_unsupported_format() {
    let sample = closed();
    let fs = sample.copy();
    let path = path("MANIFEST");
    let (id, generation, end) = {
        let mut reader = terrace_wal::SegmentReader::open(&fs, &path).unwrap();
        while reader.next().unwrap().is_some() {}
        (reader.header().log_id, reader.header().number, u64::from(reader.end().offset))
    };
    let mut log = terrace_wal::GrowingLog::open_for_append(&fs, &path, id, generation, end).unwrap();
    log.append(terrace_wal::RecordKind::VersionEdit, &[99, 1, 0]).unwrap();
    log.sync().unwrap();
    let outcome = examine(sample, &fs);
    let refused = outcome.refused.unwrap();
    assert!(matches!(refused, Error::UnsupportedFormat { found: 99, .. }), "{refused}");
}

// Directories.

/// Names and bytes of a real directory.
fn real_files(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect()
}

#[test]
fn a_locked_directory_is_refused() {
    const TEST: &str = "a_locked_directory_is_refused";
    if is_child() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("db");
    let db = Options::new().open(&path).unwrap();
    db.put("key", "value").unwrap();
    let before = real_files(&path);
    let Err(Error::Locked { path: locked, holder }) = Options::new().open(&path) else {
        panic!("opened twice")
    };
    assert_eq!(locked, path);
    assert!(holder.contains(&std::process::id().to_string()), "{holder}");
    assert_eq!(child(TEST, &path, "open", &[]), format!("Locked {}", path.display()));
    assert_eq!(real_files(&path), before, "a refused open changes nothing");
    db.close().unwrap();
    assert_eq!(child(TEST, &path, "open", &[]), "opened");
    let db = Options::new().open(&path).unwrap();
    assert_eq!(db.get("key").unwrap().as_deref(), Some(&b"value"[..]));
}

#[test]
fn what_is_not_a_database_is_refused_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("photos");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("cat.jpeg"), "purr").unwrap();
    let error = Options::new().open(&path).unwrap_err();
    assert!(matches!(&error, Error::NotADatabase { path: named, .. } if *named == path), "{error}");
    assert!(error.to_string().contains("cat.jpeg"), "{error}");
    assert_eq!(real_files(&path).into_keys().collect::<Vec<_>>(), ["cat.jpeg"]);

    // A file in place of a directory.
    let file = path.join("cat.jpeg");
    let error = Options::new().open(&file).unwrap_err();
    assert_eq!(error.path(), Some(&*file), "{error}");
    let below = file.join("db");
    let error = Options::new().open(&below).unwrap_err();
    assert!(error.path().is_some_and(|path| path.starts_with(&file)), "{error}");

    // Missing or empty, when none may be created.
    for (name, make) in [("missing", false), ("empty", true)] {
        let path = home.path().join(name);
        if make {
            fs::create_dir(&path).unwrap();
        }
        let error = Options::new().create_if_missing(false).open(&path).unwrap_err();
        assert!(matches!(&error, Error::NotADatabase { path: named, .. } if *named == path), "{error}");
        assert!(!make && !path.exists() || make && real_files(&path).is_empty(), "{name}");
    }
}

#[test]
fn directories_in_place_of_files_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("db");
    let db = Options::new().open(&path).unwrap();
    db.put("key", "value").unwrap();
    db.close().unwrap();
    let mut paths = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let table = paths.find(|path| path.extension().is_some_and(|extension| extension == "sst")).unwrap();
    let bytes = fs::read(&table).unwrap();
    fs::remove_file(&table).unwrap();
    fs::create_dir(&table).unwrap();
    let db = Options::new().open(&path).unwrap();
    let error = db.get("key").unwrap_err();
    assert_eq!(error.path(), Some(&*table), "{error}");
    drop(db);
    fs::remove_dir(&table).unwrap();
    fs::write(&table, bytes).unwrap();
    let db = Options::new().open(&path).unwrap();
    assert_eq!(db.get("key").unwrap().as_deref(), Some(&b"value"[..]));
}

#[test]
fn a_file_system_that_denies_everything_says_so() {
    for operation in
        [Operation::CreateDirectory, Operation::Create, Operation::Lock, Operation::ReadDirectory]
    {
        let memory = MemoryFileSystem::new();
        let fs = FaultFileSystem::new(Arc::new(memory.clone()));
        fs.add(FaultRule::on(operation).error(std::io::ErrorKind::PermissionDenied));
        let path = Path::new("/denied");
        let error = Options::new().file_system(Arc::new(fs)).open(path).unwrap_err();
        assert!(
            matches!(&error, Error::Io { .. }) && error.to_string().contains("/denied"),
            "{operation}: {error}"
        );
    }
    // A database whose files cannot be opened.
    for (part, operation) in [("MANIFEST", Operation::Open), (".log", Operation::Open), ("", Operation::Lock)]
    {
        let memory = live().copy();
        let before = files(&memory);
        let fs = FaultFileSystem::new(Arc::new(memory.clone()));
        fs.add(FaultRule::on(operation).path(part).error(std::io::ErrorKind::PermissionDenied));
        let error = Options::new().file_system(Arc::new(fs)).open(dir()).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(error.path().map(|path| path.starts_with(dir())), Some(true), "{error}");
        assert!(files(&memory) == before, "{part}: the refused open changed something");
    }
}

/// Whether this is a process that [`child`] has started: then it has opened the database.
fn is_child() -> bool {
    child::is_child(|_, path| match Options::new().open(path) {
        Ok(_) => "opened".to_owned(),
        Err(Error::Locked { path, .. }) => format!("Locked {}", path.display()),
        Err(error) => format!("refused: {error}"),
    })
}

#[test]
fn a_read_only_file_system_is_refused() {
    const TEST: &str = "a_read_only_file_system_is_refused";
    if is_child() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("db");
    let db = Options::new().open(&path).unwrap();
    db.put("key", "value").unwrap();
    db.close().unwrap();
    let before = real_files(&path);
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\"";
    for (target, part) in [(path.clone(), "db"), (home.path().join("new"), "new")] {
        let said = namespaced_child(TEST, &target, home.path(), "open", script);
        if said.contains("cannot launch") {
            skipped(TEST, format_args!("a read-only mount needs root and mount namespaces: {said}"));
            return;
        }
        assert!(said.starts_with("refused: ") && said.contains(part) && said.contains("ead-only"), "{said}");
    }
    assert_eq!(real_files(&path), before);
}

#[cfg(unix)]
#[test]
fn a_directory_without_permission_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    const TEST: &str = "a_directory_without_permission_is_refused";
    if is_child() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("db");
    Options::new().open(&path).unwrap().close().unwrap();
    let before = real_files(&path);
    let set = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    // Root ignores modes, so as root the child is nobody, if that can be arranged.
    let is_root = fs::write(path.join("probe"), "").is_ok() && {
        set(&path, 0o500);
        let ignored = fs::write(path.join("probe2"), "").is_ok();
        set(&path, 0o700);
        let _ = fs::remove_file(path.join("probe2"));
        ignored
    };
    fs::remove_file(path.join("probe")).unwrap();
    let launcher: &[&str] =
        if is_root { &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] } else { &[] };
    set(home.path(), 0o755);
    set(&path, 0o000);
    let said = child(TEST, &path, "open", launcher);
    set(&path, 0o700);
    if said.contains("cannot launch") {
        skipped(
            TEST,
            format_args!("as root, permissions need setpriv and a test binary that others may run: {said}"),
        );
        return;
    }
    assert!(said.starts_with("refused: ") && said.contains("ermission") && said.contains("db"), "{said}");
    assert_eq!(real_files(&path), before);
}

// Arguments and handles.

/// The message of an [`Error::InvalidArgument`].
fn invalid<T: std::fmt::Debug>(outcome: terrace::Result<T>) -> String {
    match outcome {
        Err(Error::InvalidArgument(what)) => what,
        other => panic!("expected an invalid argument, not {other:?}"),
    }
}

fn memory_db(path: &str) -> Db {
    Options::new().file_system(Arc::new(MemoryFileSystem::new())).max_value_bytes(1000).open(path).unwrap()
}

#[test]
fn keys_and_values_have_limits() {
    let db = memory_db("/limits");
    let longest = vec![7; 65_536];
    let too_long = vec![7; 65_537];
    db.put(&longest, vec![1; 1000]).unwrap();
    db.put("", "").unwrap();
    assert!(invalid(db.put(&too_long, "")).contains("65537"));
    assert!(invalid(db.delete(&too_long)).contains("65537"));
    assert!(invalid(db.put("key", vec![1; 1001])).contains("1001"));
    // One bad operation refuses the batch, all of it.
    for bad in [&too_long[..], b"value too long"] {
        let mut batch = WriteBatch::new();
        batch.put(&db, "before", "x");
        batch.put(&db, bad, vec![0; if bad.len() > 20 { 1 } else { 1001 }]);
        batch.put(&db, "after", "x");
        invalid(db.write(batch));
        assert!(!db.contains_key("before").unwrap() && !db.contains_key("after").unwrap());
    }
    // Reads of keys that cannot exist find nothing.
    assert_eq!(db.get(&too_long).unwrap().as_deref(), None);
    for flushed in [false, true] {
        if flushed {
            db.settle().unwrap();
        }
        assert_eq!(db.get("").unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(db.get(&longest).unwrap().as_deref(), Some(&[1; 1000][..]));
        assert_eq!(db.iter().unwrap().count(), 2);
    }
    assert!(db.health().is_ok());
}

#[test]
fn a_reversed_range_is_refused_everywhere() {
    let db = memory_db("/ranges");
    db.put("b", "1").unwrap();
    let snapshot = db.snapshot().unwrap();
    assert!(invalid(db.range("z".."a")).contains('z'));
    invalid(db.range("b"..="a"));
    invalid(db.compact_range("z".."a"));
    invalid(db.approximate_size("z".."a"));
    invalid(snapshot.range(&db, "z".."a"));
    // Empty ranges are fine.
    assert_eq!(db.range("b".."b").unwrap().count(), 0);
    assert_eq!(db.range("b"..="b").unwrap().count(), 1);
    let excluded = (std::ops::Bound::Excluded("b"), std::ops::Bound::Excluded("b"));
    assert_eq!(db.range::<&str>(excluded).unwrap().count(), 0);
    assert_eq!(db.range::<&str>(excluded).unwrap().rev().count(), 0);
}

#[test]
fn a_dropped_keyspace_refuses_its_handles() {
    let db = memory_db("/dropped");
    let gone = db.keyspace("gone").unwrap();
    gone.put("key", "value").unwrap();
    db.drop_keyspace("gone").unwrap();
    let dropped = |error: Option<Error>| {
        assert!(matches!(&error, Some(Error::KeyspaceDropped { name }) if name == "gone"), "{error:?}");
    };
    dropped(gone.put("key", "value").err());
    dropped(gone.delete("key").err());
    dropped(gone.get("key").err());
    dropped(gone.get_with("key", |_| ()).err());
    dropped(gone.multi_get(["key"]).err());
    dropped(gone.contains_key("key").err());
    dropped(gone.iter().err());
    dropped(gone.prefix("k").err());
    dropped(gone.cursor().err());
    dropped(gone.clear().err());
    dropped(gone.compact_range::<&str>(..).err());
    dropped(gone.approximate_size::<&str>(..).err());
    // A batch with a dropped keyspace does nothing to the others.
    let mut batch = WriteBatch::new();
    batch.put(&db, "half", "a batch");
    batch.put(&gone, "other", "half");
    dropped(db.write(batch).err());
    assert!(!db.contains_key("half").unwrap());
    invalid(db.drop_keyspace("gone"));
    invalid(db.drop_keyspace("never was"));
    invalid(db.drop_keyspace("default"));
    // A new one of the same name has nothing to do with it.
    let new = db.keyspace("gone").unwrap();
    assert_eq!(new.iter().unwrap().count(), 0);
    dropped(gone.get("key").err());
}

#[test]
fn a_closed_database_refuses_its_handles() {
    let db = memory_db("/closed");
    let keyspace = db.keyspace("other").unwrap();
    keyspace.put("key", "value").unwrap();
    let snapshot = db.snapshot().unwrap();
    let clone = db.clone();
    let mut batch = WriteBatch::new();
    batch.put(&keyspace, "key", "value");
    db.close().unwrap();
    let closed = |error: Option<Error>| assert!(matches!(&error, Some(Error::Closed)), "{error:?}");
    closed(clone.put("key", "value").err());
    closed(keyspace.put("key", "value").err());
    closed(keyspace.delete("key").err());
    closed(keyspace.get("key").err());
    closed(keyspace.multi_get(["key"]).err());
    closed(keyspace.contains_key("key").err());
    closed(keyspace.iter().err());
    closed(keyspace.cursor().err());
    closed(keyspace.clear().err());
    closed(keyspace.compact_range::<&str>(..).err());
    closed(keyspace.approximate_size::<&str>(..).err());
    closed(snapshot.get(&keyspace, "key").err());
    closed(snapshot.iter(&keyspace).err());
    closed(db.write(batch).err());
    closed(db.keyspace("new").err());
    closed(db.keyspace_names().err());
    closed(db.drop_keyspace("other").err());
    closed(db.snapshot().err());
    closed(db.sync().err());
    closed(db.flush().err());
    closed(db.settle().err());
    // Closing again is fine, and so is asking how it was.
    clone.close().unwrap();
    let _ = (db.metrics(), db.health());
}

#[test]
fn a_batch_for_another_database_is_refused() {
    let (one, two) = (memory_db("/one"), memory_db("/two"));
    let mut batch = WriteBatch::new();
    batch.put(&one, "key", "one");
    batch.put(&two, "key", "two");
    invalid(one.write(batch.clone()));
    invalid(two.write(batch));
    assert!(!one.contains_key("key").unwrap() && !two.contains_key("key").unwrap());
    invalid(one.snapshot().unwrap().get(&two, "key"));
    // The same directory opened again is another database to a batch from before.
    let fs = MemoryFileSystem::new();
    let db = options(&fs).open("/again").unwrap();
    let mut stale = WriteBatch::new();
    stale.put(&db, "key", "value");
    db.close().unwrap();
    let db = options(&fs).open("/again").unwrap();
    invalid(db.write(stale));
}

#[test]
fn persisted_options_are_checked() {
    let fs = MemoryFileSystem::new();
    let with_limit = |bytes: u64| options(&fs).max_value_bytes(bytes);
    let db = with_limit(5000).open("/options").unwrap();
    let snappy = KeyspaceOptions::new().compression(Compression::Snappy);
    db.keyspace_with("packed", snappy.clone()).unwrap();
    for other in
        [KeyspaceOptions::new(), snappy.clone().table_bytes(1 << 20), snappy.clone().filter_bits_per_key(0)]
    {
        let what = invalid(db.keyspace_with("packed", other));
        assert!(what.contains("packed"), "{what}");
    }
    db.keyspace_with("packed", snappy.clone()).unwrap();
    // Opened without options it is what it was.
    assert_eq!(*db.keyspace("packed").unwrap().options(), snappy);
    db.close().unwrap();

    let before: Files = {
        let names = fs.read_dir(Path::new("/options")).unwrap().into_iter();
        names.map(|name| (name.clone(), fs.file_bytes(&Path::new("/options").join(name)).unwrap())).collect()
    };
    let what = invalid(with_limit(4999).open("/options"));
    assert!(what.contains("5000") && what.contains("4999"), "{what}");
    for (name, bytes) in before {
        assert!(fs.file_bytes(&Path::new("/options").join(&name)).unwrap() == bytes, "{name} was changed");
    }
    // No limit means the one that it has, and a larger one can be asked for.
    let db = options(&fs).open("/options").unwrap();
    invalid(db.put("key", vec![0; 5001]));
    db.put("key", vec![0; 5000]).unwrap();
    db.close().unwrap();
    let db = with_limit(6000).open("/options").unwrap();
    db.put("key", vec![0; 6000]).unwrap();
    assert_eq!(*db.keyspace("packed").unwrap().options(), snappy);
    db.close().unwrap();
    // And is its limit from then on.
    invalid(with_limit(5999).open("/options"));
    let db = options(&fs).open("/options").unwrap();
    db.put("key", vec![0; 6000]).unwrap();
    invalid(db.put("key", vec![0; 6001]));
}

#[test]
fn options_that_cannot_be_are_refused() {
    let open =
        |options: Options| invalid(options.file_system(Arc::new(MemoryFileSystem::new())).open("/nonsense"));
    open(Options::new().memtable_bytes(0));
    open(Options::new().memtables_max(1));
    open(Options::new().segment_bytes_max(0));
    open(Options::new().segment_bytes_max(u64::MAX));
    open(Options::new().max_value_bytes(u64::MAX));
    open(Options::new().compaction_threads(0));
    open(Options::new().l0_trigger(0));
    open(Options::new().level_multiplier(1));
    open(Options::new().sync_interval(Some(Duration::ZERO)));
    open(Options::new().scrub_interval(Some(Duration::ZERO)));
    open(Options::new().keyspace_defaults(KeyspaceOptions::new().block_bytes(0)));
    open(Options::new().keyspace_defaults(KeyspaceOptions::new().table_bytes(0)));
    open(Options::new().keyspace_defaults(KeyspaceOptions::new().filter_bits_per_key(65)));
    let db = memory_db("/names");
    invalid(db.keyspace(""));
    invalid(db.keyspace(&"n".repeat(256)));
    db.keyspace(&"n".repeat(255)).unwrap();
    invalid(db.keyspace_with("bad", KeyspaceOptions::new().block_bytes(u32::MAX)));
    assert_eq!(db.keyspace_names().unwrap().len(), 2);
    db.close().unwrap();
    // Longer than any clock counts, which is never.
    let never = Options::new().sync_interval(Some(Duration::MAX)).scrub_interval(Some(Duration::MAX));
    let db = never.file_system(Arc::new(MemoryFileSystem::new())).open("/never").unwrap();
    db.put_with("key", "value", Durability::Buffered).unwrap();
    assert!(db.health().is_ok());
    db.close().unwrap();
}

/// A file that is named like a table of a number that no database comes to does not use up the numbers.
#[test]
fn a_stray_table_with_a_huge_number_is_in_nobodys_way() {
    let memory = MemoryFileSystem::new();
    for number in [1 << 59, (1 << 59) + 1, 1 << 60, (1_u64 << 60) + 1, u64::MAX] {
        let dir = PathBuf::from(format!("/stray-{number}"));
        options(&memory).open(&dir).unwrap().close().unwrap();
        let stray = dir.join(terrace_sstable::table_file_name(number));
        memory.open(&stray, OpenMode::CreateNew).unwrap().sync().unwrap();
        for round in 0..3_u32 {
            let db = options(&memory).open(&dir).unwrap_or_else(|error| panic!("{number}: {error}"));
            db.put(round.to_be_bytes(), "value").unwrap();
            db.close().unwrap();
        }
        let db = options(&memory).open(&dir).unwrap();
        assert_eq!(db.iter().unwrap().count(), 3, "{number}");
    }
}

/// Damage at the very head of the log, while the manifest knows of later writes: another keyspace was created since.
/// The records of the next segments are good, but the history has lost its beginning, and nothing may be given up.
#[test]
fn a_log_that_has_lost_its_head_is_refused() {
    let memory = MemoryFileSystem::new();
    let dir = Path::new("/head");
    let options = || Options::new().file_system(Arc::new(memory.clone())).segment_bytes_max(64 << 10);
    let db = options().open(dir).unwrap();
    for number in 0..3_000 {
        db.put(format!("{number:06}"), [b'v'; 100]).unwrap();
    }
    db.keyspace("later").unwrap();
    let killed = memory.process_kill_clone();
    drop(db);

    let first = dir.join("000001.log");
    let mut bytes = killed.file_bytes(&first).unwrap();
    bytes[64 + 24 + 20] ^= 1;
    killed.replace_bytes(&first, bytes).unwrap();
    let names = || {
        let mut names = killed.read_dir(dir).unwrap();
        names.sort();
        names
    };
    let before = names();
    let error = Options::new().file_system(Arc::new(killed.clone())).open(dir).unwrap_err();
    assert!(matches!(&error, Error::Corruption { path, offset: 64, .. } if *path == first), "{error}");
    assert_eq!(names(), before, "a refused open removes nothing");
}
