//! Backups. Goal: a backup holds the database as it was at one moment of the call, and what is restored is that; a directory
//! keeps each table once; bytes of tables leave without passing through the process; and whatever is cut off, changed,
//! forged or put elsewhere is refused, and leaves nothing.
//!
//! Method: backups are made, in a directory and as streams, while others write, flush, compact, create, clear and drop,
//! and what is restored of them is compared with the history that the writers keep. Then streams are cut at every byte
//! and changed at every byte, files of a directory too, and what must be refused is asked for. What crashes and faults
//! leave of a backup and of a restore is in `backup_faults.rs`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use terrace::{
    BackupReport, Backups, Db, Durability, Error, Options, RestoreOptions, Severity, StreamOptions,
    StreamReport, restore_stream,
};
use terrace_io::{
    FaultFileSystem, FaultRule, FileSystem, MemoryFileSystem, OpenMode, Operation, OsFileSystem, write_all_at,
};
use terrace_tests::copies::{Running, assert_sound, names, open, ravage, step};
use terrace_tests::filled::{contents, fill, options};
use terrace_tests::oracle::{History, read_all};
use terrace_tests::sweep::Sweep;
use terrace_tests::workload::{Generator, ValueLengths};
use terrace_tests::{Trace, covered, seeds};

/// Where the database is in memory.
const DIR: &str = "/database";
/// Where its backups are.
const BACKUPS: &str = "/backups";
/// Where they are restored.
const COPY: &str = "/restored";

fn backups(fs: &Arc<dyn FileSystem>) -> Backups {
    Backups::new(BACKUPS).file_system(fs.clone())
}

fn restoring(fs: &Arc<dyn FileSystem>) -> RestoreOptions {
    RestoreOptions::new().file_system(fs.clone())
}

/// A backup as a stream, in memory.
fn stream_of(db: &Db, options: &StreamOptions) -> (Vec<u8>, StreamReport) {
    let mut file = tempfile::tempfile().unwrap();
    let report = db.backup_to_stream(&file, options).unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(report.bytes, bytes.len() as u64);
    assert_eq!(report.bytes_in_kernel + report.bytes_through_memory, report.bytes_sent);
    (bytes, report)
}

/// Removes what was restored and has been looked at.
fn remove(fs: &dyn FileSystem, dir: &str) {
    names(fs, dir).iter().for_each(|name| fs.remove_file(&Path::new(dir).join(name)).unwrap());
}

/// Nothing is left but what every directory has that was locked once.
#[track_caller]
fn assert_nothing_is_left(fs: &dyn FileSystem, dir: impl AsRef<Path>) {
    let names = names(fs, dir);
    assert!(names.iter().all(|name| name == "LOCK"), "{names:?}");
}

/// Every file of the backups is right, and none is too many.
#[track_caller]
fn assert_exact(fs: &Arc<dyn FileSystem>) {
    let report = backups(fs).verify(None).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
    let tables = names(&**fs, BACKUPS).iter().filter(|name| name.ends_with(".sst")).count();
    assert_eq!(report.tables, tables as u64, "a table that no backup names");
}

/// One thread writes the history, another makes backups, in turn in a directory and as a stream: each is restored as the
/// state after some first part of it, which holds what was acknowledged before the call and nothing that began after it.
#[test]
fn a_backup_is_the_database_at_one_moment() {
    const TEST: &str = "a_backup_is_the_database_at_one_moment";
    const STEPS: usize = 800;
    let (mut made, mut sum) = (0, BackupReport::default());
    for seed in seeds(3) {
        let _trace = Trace::new(TEST, seed);
        let fs: Arc<dyn FileSystem> = Arc::new(MemoryFileSystem::new());
        let values = ValueLengths { usual: 10..2_500, paged_one_in: 12, large: (60, 60_000..150_000) };
        let mut generator = Generator::new(seed, 60, 1, values);
        let keys = generator.keys().to_vec();
        let db = options(fs.clone()).open(DIR).unwrap();
        let (history, running) = (History::default(), AtomicU64::new(1));
        let mut kept = BTreeMap::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _running = Running(&running);
                (0..STEPS).for_each(|_| step(&db, &history, &mut generator));
            });
            for round in 0.. {
                let is_last = running.load(Ordering::SeqCst) == 0;
                let least = history.acknowledged();
                let most;
                let mut number = None;
                if round % 2 == 0 {
                    let report = db.backup(BACKUPS).unwrap();
                    most = history.begun();
                    number = Some(report.number);
                    sum.tables_shared += report.tables_shared;
                    sum.tables_copied += report.tables_copied;
                    sum.tables_written += report.tables_written;
                    let restored = backups(&fs).restore(number, COPY).unwrap();
                    assert_eq!(restored.sequence, report.sequence);
                } else {
                    let (stream, report) = stream_of(&db, &StreamOptions::new());
                    most = history.begun();
                    let restored = restore_stream(&stream[..], COPY, &restoring(&fs)).unwrap();
                    assert_eq!((restored.sequence, restored.tables), (report.sequence, report.tables_sent));
                }
                assert_sound(&fs, COPY);
                let copy = open(&fs, COPY);
                let found = read_all(&copy, &keys).unwrap_or_else(|why| panic!("round {round}: {why}"));
                history.find(&found, least..=most).unwrap_or_else(|why| panic!("round {round}: {why}"));
                copy.close().unwrap();
                remove(&*fs, COPY);
                kept.extend(number.map(|number| (number, found)));
                made += 1;
                if is_last {
                    break;
                }
            }
        });
        db.close().unwrap();
        assert_sound(&fs, DIR);
        // All of them are still what they were, also once half of them are gone.
        assert_exact(&fs);
        for number in kept.keys().copied().filter(|number| number % 2 == 0).collect::<Vec<u64>>() {
            backups(&fs).delete(number).unwrap();
            kept.remove(&number);
        }
        assert_exact(&fs);
        for (number, then) in kept {
            backups(&fs).restore(Some(number), COPY).unwrap();
            let copy = open(&fs, COPY);
            assert!(read_all(&copy, &keys).unwrap() == then, "backup {number}");
            copy.close().unwrap();
            remove(&*fs, COPY);
        }
    }
    covered(TEST, format_args!("{made} backups, {sum:?}"));
    assert!(sum.tables_shared > 0 && sum.tables_copied > 0 && sum.tables_written > 0, "{sum:?}");
}

/// A database with tables, and with something in memory.
fn filled(fs: &Arc<dyn FileSystem>) -> (Db, terrace_tests::filled::Written) {
    let db = options(fs.clone()).open(DIR).unwrap();
    let mut written = fill(&db, 5, 4);
    db.settle().unwrap();
    db.put_with("in memory", "only", Durability::Buffered).unwrap();
    written.put("default", b"in memory", b"only");
    (db, written)
}

#[track_caller]
fn assert_restores(fs: &Arc<dyn FileSystem>, number: Option<u64>, expected: &terrace_tests::filled::Written) {
    backups(fs).restore(number, COPY).unwrap();
    assert_sound(fs, COPY);
    let copy = open(fs, COPY);
    assert_eq!(contents(&copy), expected.now);
    copy.close().unwrap();
    remove(&**fs, COPY);
}

#[test]
fn a_backup_copies_only_what_is_new() {
    let fs: Arc<dyn FileSystem> = Arc::new(MemoryFileSystem::new());
    let (db, written) = filled(&fs);
    let first = db.backup(BACKUPS).unwrap();
    assert!((first.number, first.tables_shared, first.tables_written) == (1, 0, 1), "{first:?}");
    assert!(first.tables_copied > 2, "{first:?}");
    // What is in memory is written again, and nothing else.
    let second = db.backup(BACKUPS).unwrap();
    assert_eq!((second.number, second.tables_copied, second.tables_written), (2, 0, 1));
    assert_eq!((second.tables_shared, second.bytes_shared), (first.tables_copied, first.bytes_copied));
    db.flush().unwrap();
    let third = db.backup(BACKUPS).unwrap();
    assert_eq!((third.tables_copied, third.tables_written), (1, 0), "the table that was flushed");
    assert_eq!(third.tables_shared, first.tables_copied);
    assert_exact(&fs);

    // A restored database goes on by itself, with the same numbers for other tables, into the same directory.
    backups(&fs).restore(Some(1), "/other").unwrap();
    let other = open(&fs, "/other");
    assert_eq!(contents(&other), written.now);
    ravage(&db);
    ravage(&other);
    other.put("of the other", "alone").unwrap();
    other.flush().unwrap();
    let (here, there) = (contents(&db), contents(&other));
    assert_eq!(db.backup(BACKUPS).unwrap().number, 4);
    assert_eq!(other.backup(BACKUPS).unwrap().number, 5);
    db.close().unwrap();
    other.close().unwrap();
    assert_exact(&fs);
    let restored = |number: u64| {
        backups(&fs).restore(Some(number), COPY).unwrap();
        let copy = open(&fs, COPY);
        let found = contents(&copy);
        copy.close().unwrap();
        remove(&*fs, COPY);
        found
    };
    assert!(restored(4) == here && restored(5) == there && there != here);

    // What goes is what nobody else needs.
    let list = backups(&fs).list().unwrap().backups;
    assert!(list.iter().map(|backup| backup.number).eq(1..=5), "{list:?}");
    let bytes = |fs: &Arc<dyn FileSystem>| -> u64 {
        let names = names(&**fs, BACKUPS).into_iter().filter(|name| name.ends_with(".sst"));
        let len =
            |name: String| fs.open(&Path::new(BACKUPS).join(name), OpenMode::Read).unwrap().len().unwrap();
        names.map(len).sum()
    };
    let before = bytes(&fs);
    backups(&fs).delete(2).unwrap();
    assert_eq!(before - bytes(&fs), list[1].bytes_own);
    assert!(list[1].bytes_own > 0 && list[1].bytes_own < list[1].bytes, "{list:?}");
    assert_restores(&fs, Some(1), &written);
    assert_eq!(backups(&fs).keep_newest(2).unwrap(), [1, 3]);
    assert_exact(&fs);
    assert!(restored(4) == here && restored(5) == there);
    assert_eq!(backups(&fs).keep_newest(2).unwrap(), [0; 0]);
}

/// Real files, into a pipe, a socket and a file: no byte of a table is in this process.
#[test]
#[cfg(target_os = "linux")]
fn bytes_of_tables_leave_by_the_kernel_alone() {
    let place = tempfile::tempdir().unwrap();
    let fs: Arc<dyn FileSystem> = Arc::new(OsFileSystem);
    let db = options(fs.clone()).open(place.path().join("db")).unwrap();
    let mut written = fill(&db, 7, 6);
    db.put_with("in memory", "only", Durability::Buffered).unwrap();
    written.put("default", b"in memory", b"only");
    let check = |how: &str, report: StreamReport| {
        let StreamReport { bytes_in_kernel, bytes_through_memory, bytes_sent, .. } = report;
        assert_eq!((bytes_in_kernel, bytes_through_memory), (bytes_sent, 0), "{how}: {report:?}");
        assert!(report.tables_sent > 3 && report.bytes > bytes_sent, "{how}: {report:?}");
        let at = place.path().join(how);
        assert_sound(&fs, &at);
        let copy = open(&fs, &at);
        assert_eq!(contents(&copy), written.now, "{how}");
        copy.close().unwrap();
    };
    let through = |how: &str, reader: Box<dyn Read + Send>, writer: std::os::fd::OwnedFd| {
        let at = place.path().join(how);
        let report = thread::scope(|scope| {
            let restored = scope.spawn(move || restore_stream(reader, at, &RestoreOptions::new()));
            let report = db.backup_to_stream(&writer, &StreamOptions::new()).unwrap();
            drop(writer);
            restored.join().unwrap().unwrap();
            report
        });
        check(how, report);
    };
    let (reader, writer) = std::io::pipe().unwrap();
    through("pipe", Box::new(reader), writer.into());
    let (reader, writer) = UnixStream::pair().unwrap();
    through("socket", Box::new(reader), writer.into());
    let path = place.path().join("stream");
    let report = db.backup_to_stream(File::create(&path).unwrap(), &StreamOptions::new()).unwrap();
    restore_stream(File::open(&path).unwrap(), place.path().join("file"), &RestoreOptions::new()).unwrap();
    check("file", report);
    // Nothing is left in the directory of the database that was made to be sent.
    db.close().unwrap();
    let report = terrace::verify(place.path().join("db"), &terrace::VerifyOptions::new()).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");

    // What refuses the kernel's ways is written, and that is said.
    let db = open(&fs, place.path().join("db"));
    let appended = File::options().append(true).create(true).open(place.path().join("appended")).unwrap();
    let report = db.backup_to_stream(appended.as_fd(), &StreamOptions::new()).unwrap();
    assert_eq!((report.bytes_in_kernel, report.bytes_through_memory), (0, report.bytes_sent));
    db.close().unwrap();
}

/// A small stream, of a database in which something is in a table of each of two keyspaces, and in memory.
fn small_stream() -> Vec<u8> {
    let fs: Arc<dyn FileSystem> = Arc::new(MemoryFileSystem::new());
    let db = options(fs.clone()).open(DIR).unwrap();
    db.keyspace("other").unwrap().put("key", "of the other").unwrap();
    db.flush().unwrap();
    db.put("key", "value").unwrap();
    let (stream, report) = stream_of(&db, &StreamOptions::new());
    assert_eq!(report.tables_sent, 2);
    let restored = restore_stream(&stream[..], COPY, &restoring(&fs)).unwrap();
    assert_eq!(restored.tables, 2);
    db.close().unwrap();
    stream
}

/// A stream that is not as it was sent becomes neither a database nor a backup; says why it was refused.
#[track_caller]
fn assert_refused(stream: &[u8], what: &str) -> Vec<Error> {
    let fs: Arc<dyn FileSystem> = Arc::new(MemoryFileSystem::new());
    let restored = restore_stream(stream, COPY, &restoring(&fs)).map(drop);
    let received = backups(&fs).receive(stream).map(drop);
    let errors = [restored, received].map(|outcome| match outcome {
        Err(error) => error,
        Ok(()) => panic!("{what}: it was accepted"),
    });
    assert_nothing_is_left(&*fs, COPY);
    let left = names(&*fs, BACKUPS);
    assert!(left.iter().all(|name| name == "LOCK" || name == "BACKUPS"), "{what}: {left:?}");
    errors.into()
}

#[test]
fn a_stream_that_is_cut_off_anywhere_is_refused() {
    const TEST: &str = "a_stream_that_is_cut_off_anywhere_is_refused";
    let stream = small_stream();
    let case = |(): &mut (), len: u64| {
        let what = format!("{len} of {} bytes", stream.len());
        for error in assert_refused(&stream[..len as usize], &what) {
            let Error::Corruption { path, offset, what } = error else { panic!("{what}: {error:?}") };
            assert_eq!((path.as_path(), offset), (Path::new("the stream"), len), "{what}");
            assert!(what.contains("not whole"), "{what}");
        }
    };
    Sweep::new(TEST, stream.len() as u64, 3000).run(|| (), case);
    // Whatever follows is not of the stream.
    let fs: Arc<dyn FileSystem> = Arc::new(MemoryFileSystem::new());
    let mut input = [&stream[..], b"the next"].concat();
    let mut rest = &input[..];
    restore_stream(&mut rest, COPY, &restoring(&fs)).unwrap();
    assert_eq!(rest, b"the next");
    input.truncate(0);
    assert_refused(&input, "nothing");
}

#[test]
fn every_changed_byte_of_a_stream_is_found() {
    const TEST: &str = "every_changed_byte_of_a_stream_is_found";
    let stream = small_stream();
    let case = |(): &mut (), number: u64| {
        let (at, bit) = (number / 8, number % 8);
        let mut changed = stream.clone();
        changed[at as usize] ^= 1 << bit;
        for error in assert_refused(&changed, &format!("bit {bit} of byte {at}")) {
            assert!(error.is_corruption() && error.path().is_some(), "{error:?}");
        }
    };
    Sweep::new(TEST, stream.len() as u64 * 8, 4000).run(|| (), case);
}

/// Pieces of one stream in another, doubled, swapped and left out.
#[test]
fn a_stream_of_pieces_is_refused() {
    let (one, two) = (small_stream(), small_stream());
    assert_eq!(one.len(), two.len());
    let at = |stream: &[u8], magic: &[u8]| {
        (0..stream.len() - 8).filter(|&at| stream[at..].starts_with(magic)).collect::<Vec<usize>>()
    };
    let (tables, end) = (at(&one, b"TERRATAB"), at(&one, b"TERRAEND")[0]);
    let [first, second] = tables[..] else { panic!("{tables:?}") };
    for (what, pieces) in [
        ("the first table left out", vec![&one[..first], &one[second..]]),
        ("the second table left out", vec![&one[..second], &one[end..]]),
        ("the first table twice", vec![&one[..second], &one[first..second], &one[end..]]),
        ("the end of another", vec![&one[..end], &two[end..]]),
        ("a table of another", vec![&one[..second], &two[second..end], &one[end..]]),
        ("all but the head of another", vec![&one[..first], &two[first..]]),
        ("a table too many", vec![&one[..end], &two[first..]]),
    ] {
        for error in assert_refused(&pieces.concat(), what) {
            assert!(matches!(error, Error::Corruption { .. }), "{what}: {error:?}");
        }
    }
    let (fs, swapped) = (MemoryFileSystem::new(), [&one[..first], &one[second..end], &one[first..second]]);
    let fs: Arc<dyn FileSystem> = Arc::new(fs);
    let swapped = [&swapped.concat()[..], &one[end..]].concat();
    restore_stream(&swapped[..], COPY, &restoring(&fs)).unwrap();
    assert_sound(&fs, COPY);
}

#[test]
fn a_stream_leaves_out_what_its_receiver_has() {
    let fs: Arc<dyn FileSystem> = Arc::new(MemoryFileSystem::new());
    let (db, mut written) = filled(&fs);
    let (full, report) = stream_of(&db, &StreamOptions::new());
    let received = backups(&fs).receive(&full[..]).unwrap();
    assert_eq!((received.number, received.tables_copied), (1, report.tables_sent));
    assert_restores(&fs, None, &written);

    // One that ends early and brings what is there: that stays.
    let before = names(&*fs, BACKUPS);
    assert!(backups(&fs).receive(&full[..full.len() - 1]).unwrap_err().is_corruption());
    assert_eq!(names(&*fs, BACKUPS), before);
    assert_restores(&fs, Some(1), &written);

    db.put("later", "one").unwrap();
    written.put("default", b"later", b"one");
    let since = StreamOptions::new().since("/backups/000001.backup");
    let (part, report) = stream_of(&db, &since);
    assert!((report.tables_sent, report.tables_left_out) == (1, received.tables_copied - 1), "{report:?}");
    let refused = restore_stream(&part[..], COPY, &restoring(&fs)).unwrap_err();
    assert!(matches!(&refused, Error::InvalidArgument(what) if what.contains("leaves out")), "{refused}");
    assert!(fs.read_dir(Path::new(COPY)).unwrap().is_empty(), "it was not begun");
    let elsewhere = Backups::new("/elsewhere").file_system(fs.clone());
    let refused = elsewhere.receive(&part[..]).unwrap_err();
    assert!(matches!(&refused, Error::InvalidArgument(what) if what.contains("leaves out")), "{refused}");
    assert_eq!(names(&*fs, "/elsewhere"), ["BACKUPS", "LOCK"]);

    let received = backups(&fs).receive(&part[..]).unwrap();
    assert_eq!((received.number, received.tables_copied), (2, 1));
    assert_eq!(received.tables_shared, report.tables_left_out);
    assert_restores(&fs, Some(2), &written);
    assert_exact(&fs);
    // A file that is no manifest of a backup.
    let since = StreamOptions::new().since("/database/MANIFEST");
    assert!(db.backup_to_stream(tempfile::tempfile().unwrap(), &since).unwrap_err().is_corruption());
    db.close().unwrap();
}

/// Every byte of every file of a directory: what is restored is right, or it is refused, and verify finds it.
#[test]
fn every_changed_byte_of_a_directory_is_found() {
    const TEST: &str = "every_changed_byte_of_a_directory_is_found";
    let memory = MemoryFileSystem::new();
    let fs: Arc<dyn FileSystem> = Arc::new(memory.clone());
    backups(&fs).receive(&small_stream()[..]).unwrap();
    let files = names(&*fs, BACKUPS).into_iter().filter(|name| name != "LOCK");
    let files: Vec<_> = files.map(|name| Path::new(BACKUPS).join(name)).collect();
    let lengths: Vec<u64> = files.iter().map(|path| memory.file_bytes(path).unwrap().len() as u64).collect();
    let case = |(): &mut (), number: u64| {
        let (mut at, mut file) = (number / 8, 0);
        while at >= lengths[file] {
            (at, file) = (at - lengths[file], file + 1);
        }
        let (path, memory) = (&files[file], memory.process_kill_clone());
        let mut bytes = memory.file_bytes(path).unwrap();
        bytes[at as usize] ^= 1 << (number % 8);
        memory.replace_bytes(path, bytes).unwrap();
        let fs: Arc<dyn FileSystem> = Arc::new(memory);
        let error = backups(&fs).restore(None, COPY).unwrap_err();
        assert!(error.is_corruption() && error.path() == Some(&**path), "{}: {error:?}", path.display());
        assert!(fs.read_dir(Path::new(COPY)).map_or(true, |names| names.iter().all(|name| name == "LOCK")));
        match backups(&fs).verify(None) {
            Ok(report) => {
                let finding = report.findings.first().expect("it is found");
                assert!(finding.file == *path && finding.severity > Severity::Note, "{finding}");
            }
            Err(error) => assert!(error.is_corruption() && path.ends_with("BACKUPS"), "{error}"),
        }
    };
    Sweep::new(TEST, lengths.iter().sum::<u64>() * 8, 3000).run(|| (), case);
}

/// A table of the database that is damaged does not get into a backup, and one in a directory is replaced where the next
/// backup sees that it is another.
#[test]
fn damage_does_not_spread() {
    let memory = MemoryFileSystem::new();
    let fs: Arc<dyn FileSystem> = Arc::new(memory.clone());
    let (db, written) = filled(&fs);
    db.backup(BACKUPS).unwrap();
    let table = |dir: &str| {
        let path = |name: String| Path::new(dir).join(name);
        let mut tables: Vec<_> =
            names(&*fs, dir).into_iter().filter(|name| name.ends_with(".sst")).map(path).collect();
        tables.sort_by_key(|path| memory.file_bytes(path).unwrap().len());
        tables.pop().unwrap()
    };
    // Cut off: the length tells. Then it is written anew.
    let cut = table(BACKUPS);
    let bytes = memory.file_bytes(&cut).unwrap();
    memory.replace_bytes(&cut, bytes[..bytes.len() - 1].to_vec()).unwrap();
    let report = backups(&fs).verify(Some(1)).unwrap();
    assert_eq!((report.findings[0].file.as_path(), report.severity()), (&*cut, Some(Severity::Loss)));
    assert!(backups(&fs).restore(Some(1), COPY).unwrap_err().is_corruption());
    assert_nothing_is_left(&*fs, COPY);
    let report = db.backup(BACKUPS).unwrap();
    assert_eq!((report.tables_copied, report.tables_written), (1, 1));
    assert!(memory.file_bytes(&cut).unwrap() == bytes);
    assert_restores(&fs, Some(1), &written);
    // Missing: the same.
    fs.remove_file(&cut).unwrap();
    let error = backups(&fs).restore(Some(1), COPY).unwrap_err();
    assert!(error.is_corruption() && error.to_string().contains("missing"), "{error}");
    assert_eq!(db.backup(BACKUPS).unwrap().tables_copied, 1);
    assert_restores(&fs, Some(1), &written);
    // A manifest that cannot be read: the others can, and no table goes that it may name.
    let path = Path::new(BACKUPS).join("000002.backup");
    let manifest = memory.file_bytes(&path).unwrap();
    let mut changed = manifest.clone();
    changed[100] ^= 1;
    memory.replace_bytes(&path, changed).unwrap();
    let list = backups(&fs).list().unwrap();
    assert!(list.backups.iter().map(|backup| backup.number).eq([1, 3]), "{list:?}");
    assert_eq!((list.findings.len(), &list.findings[0].file), (1, &path));
    let tables = || names(&*fs, BACKUPS).iter().filter(|name| name.ends_with(".sst")).count();
    let before = tables();
    backups(&fs).delete(3).unwrap();
    assert_eq!((backups(&fs).keep_newest(1).unwrap(), tables()), (vec![], before));
    assert_restores(&fs, Some(1), &written);
    assert!(backups(&fs).restore(None, COPY).unwrap_err().is_corruption(), "the newest, and no older one");
    backups(&fs).delete(2).unwrap();
    assert!(tables() < before);
    assert_exact(&fs);

    // In the database: any bit of a block. (It has to be one that the directory does not have.)
    backups(&fs).delete(1).unwrap();
    db.close().unwrap();
    let damaged = table(DIR);
    let mut bytes = memory.file_bytes(&damaged).unwrap();
    bytes[5000] ^= 1;
    memory.replace_bytes(&damaged, bytes).unwrap();
    let db = open(&fs, DIR);
    let error = db.backup(BACKUPS).unwrap_err();
    let Error::Corruption { path, offset, .. } = &error else { panic!("{error:?}") };
    assert!(*path == damaged && *offset <= 5000, "{error}");
    assert_eq!(names(&*fs, BACKUPS), ["BACKUPS", "LOCK"]);
    // The sender of a stream does not see it. The receiver does.
    let (stream, _) = stream_of(&db, &StreamOptions::new());
    for error in assert_refused(&stream, "a damaged table") {
        assert!(matches!(&error, Error::Corruption { offset: found, .. } if found == offset), "{error}");
    }
    db.close().unwrap();
}

#[test]
fn places_that_are_something_else_are_refused() {
    let memory = MemoryFileSystem::new();
    let fs: Arc<dyn FileSystem> = Arc::new(memory.clone());
    let (db, _) = filled(&fs);
    let create = |path: &str, bytes: &[u8]| {
        let path = Path::new(path);
        fs.create_dir_all(path.parent().unwrap()).unwrap();
        let file = fs.open(path, OpenMode::CreateNew).unwrap();
        write_all_at(&*file, bytes, 0).unwrap();
    };
    create("/full/notes", b"");
    let newer = b"TERRABAK\x02\0\0\0";
    create("/newer/BACKUPS", &[&newer[..], &crc32fast::hash(newer).to_le_bytes()].concat());
    create("/torn/BACKUPS", b"TERRABAK\x02\0\0\0\xc0\xc1\xc2\xc3");
    options(fs.clone()).open("/other").unwrap().close().unwrap();
    let refused = |path: &str, words: &[&str]| {
        let before = memory.fingerprint();
        let error = db.backup(path).unwrap_err();
        let Error::InvalidArgument(what) = &error else { panic!("{path}: {error:?}") };
        assert!(words.iter().all(|word| what.contains(word)), "{path}: {what}");
        assert_eq!(memory.fingerprint(), before, "{path}: something has changed");
    };
    refused("", &["empty", "current directory"]);
    refused("/database/backups", &["lies in /database"]);
    refused("/copies/../database", &["lies in /database"]);
    refused("/full", &["neither empty", "notes"]);
    refused("/other", &["neither empty"]);
    assert!(matches!(db.backup("/newer"), Err(Error::UnsupportedFormat { found: 2, .. })));
    assert!(matches!(db.backup("/torn"), Err(Error::Corruption { .. })));

    db.backup(BACKUPS).unwrap();
    let lock = fs.lock_dir(Path::new(BACKUPS)).unwrap();
    assert!(matches!(db.backup(BACKUPS), Err(Error::Locked { .. })));
    assert!(matches!(backups(&fs).restore(None, COPY), Err(Error::Locked { .. })));
    assert!(matches!(backups(&fs).delete(1), Err(Error::Locked { .. })));
    assert_eq!(backups(&fs).list().unwrap().backups.len(), 1);
    drop(lock);

    let invalid = |outcome: terrace::Result<()>, word: &str| {
        let error = outcome.unwrap_err();
        assert!(matches!(&error, Error::InvalidArgument(what) if what.contains(word)), "{error:?}");
    };
    let restore = |number, path: &str| backups(&fs).restore(number, path).map(drop);
    invalid(restore(Some(7), COPY), "no backup 7");
    invalid(restore(None, "/full"), "not empty");
    invalid(restore(None, DIR), "not empty");
    invalid(restore(None, ""), "current directory");
    invalid(restore(None, "/backups/inner"), "lies in /backups");
    invalid(backups(&fs).delete(7), "no backup 7");
    for place in ["/nowhere", "/full", "/other"] {
        let there = Backups::new(place).file_system(fs.clone());
        let before = memory.fingerprint();
        for outcome in [
            there.list().map(drop),
            there.verify(None).map(drop),
            there.restore(None, COPY).map(drop),
            there.delete(1),
            there.keep_newest(1).map(drop),
        ] {
            invalid(outcome, "no directory");
        }
        assert_eq!(memory.fingerprint(), before, "{place}: something has changed");
    }
    // A file of somebody else's among the backups stays.
    create("/backups/notes.txt", b"mine");
    create("/backups/000009.backup.tmp", b"half");
    let notes = backups(&fs).verify(None).unwrap();
    assert!(notes.is_ok() && notes.findings.len() == 2, "{notes:?}");
    db.backup(BACKUPS).unwrap();
    let left = names(&*fs, BACKUPS);
    assert!(left.contains(&"notes.txt".to_owned()) && !left.contains(&"000009.backup.tmp".to_owned()));
    db.close().unwrap();
    assert!(matches!(db.backup(BACKUPS), Err(Error::Closed)));
}

/// What an interrupted restore has left is removed by the next one, and by nothing else; and it is nothing else.
#[test]
fn a_restore_removes_its_own_leftovers_alone() {
    let memory = MemoryFileSystem::new();
    let fs: Arc<dyn FileSystem> = Arc::new(memory.clone());
    let (db, written) = filled(&fs);
    db.backup(BACKUPS).unwrap();
    let create = |path: &str| {
        let path = Path::new(path);
        fs.create_dir_all(path.parent().unwrap()).unwrap();
        fs.open(path, OpenMode::CreateNew).unwrap();
    };
    let leave = |dir: &str| {
        for name in ["LOCK", "RESTORING", "000001.sst", "000007.sst", "000008.sst.tmp", "MANIFEST.tmp"] {
            create(&format!("{dir}/{name}"));
        }
    };
    leave(COPY);
    let error = Options::new().file_system(fs.clone()).open(COPY).unwrap_err();
    assert!(matches!(error, Error::NotADatabase { .. }) && error.to_string().contains("restore"), "{error}");
    assert!(matches!(db.checkpoint(COPY), Err(Error::InvalidArgument(_))));
    assert_restores(&fs, None, &written);
    assert!(names(&*fs, COPY).is_empty());

    // Anything else beside them: nothing is touched.
    for other in ["notes", "MANIFEST", "000001.log", "0000000000000abc-00000def-4096.sst"] {
        let dir = format!("/with {other}");
        leave(&dir);
        create(&format!("{dir}/{other}"));
        let before = memory.fingerprint();
        let refused = backups(&fs).restore(None, &dir).unwrap_err();
        assert!(matches!(&refused, Error::InvalidArgument(what) if what.contains("not empty")), "{refused}");
        assert_eq!(memory.fingerprint(), before, "{other}: something has changed");
    }
    // Without the mark they may be anybody's.
    leave("/unmarked");
    fs.remove_file(Path::new("/unmarked/RESTORING")).unwrap();
    assert!(matches!(backups(&fs).restore(None, "/unmarked"), Err(Error::InvalidArgument(_))));

    // A mark that has stayed in a whole database goes when that is opened for writing.
    backups(&fs).restore(None, COPY).unwrap();
    create("/restored/RESTORING");
    assert!(matches!(backups(&fs).restore(None, COPY), Err(Error::InvalidArgument(_))));
    open(&fs, COPY).close().unwrap();
    assert!(!names(&*fs, COPY).contains(&"RESTORING".to_owned()));
    db.close().unwrap();
}

#[test]
fn a_poisoned_database_has_no_backup() {
    for is_own_sync in [true, false] {
        let faults = FaultFileSystem::new(Arc::new(MemoryFileSystem::new()));
        let fs: Arc<dyn FileSystem> = Arc::new(faults.clone());
        let (db, _) = filled(&fs);
        faults.add(FaultRule::on(Operation::Sync).path(".log").once());
        if !is_own_sync {
            let outcome = db.put_with("key", "value", Durability::Sync);
            assert!(matches!(outcome, Err(Error::OutcomeUnknown { .. })));
        }
        for attempt in 0..2 {
            match db.backup(BACKUPS).unwrap_err() {
                Error::OutcomeUnknown { .. } if is_own_sync && attempt == 0 => {}
                Error::Poisoned { .. } if !is_own_sync || attempt > 0 => {}
                error => panic!("attempt {attempt}: {error:?}"),
            }
            assert!(names(&*fs, BACKUPS).iter().all(|name| name == "LOCK" || name == "BACKUPS"));
        }
        let out = tempfile::tempfile().unwrap();
        assert!(matches!(db.backup_to_stream(&out, &StreamOptions::new()), Err(Error::Poisoned { .. })));
        assert_eq!(out.metadata().unwrap().len(), 0);
    }
}

#[test]
fn an_empty_database_has_a_backup() {
    let fs: Arc<dyn FileSystem> = Arc::new(MemoryFileSystem::new());
    let db = options(fs.clone()).open(DIR).unwrap();
    let report = db.backup(BACKUPS).unwrap();
    assert_eq!((report.number, report.sequence, report.tables_copied + report.tables_written), (1, 0, 0));
    let (stream, _) = stream_of(&db, &StreamOptions::new());
    backups(&fs).restore(None, COPY).unwrap();
    restore_stream(&stream[..], "/streamed", &restoring(&fs)).unwrap();
    for dir in [COPY, "/streamed"] {
        let copy = open(&fs, dir);
        assert_eq!(copy.iter().unwrap().count(), 0);
        copy.put("key", "value").unwrap();
        copy.close().unwrap();
        assert_sound(&fs, dir);
    }
    db.close().unwrap();
}
