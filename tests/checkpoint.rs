//! Checkpoints. Goal: a checkpoint of a database that is in use is a whole database, as the other one was at one moment
//! of the call, and from then on neither knows of the other.
//!
//! Method: checkpoints are made while others write, flush, compact, create, clear and drop, and compared with the history
//! that the writers keep; on file systems that link and on those that do not; then one of the two is written to,
//! compacted and deleted, and the other one read. What must be refused is asked for. What crashes and faults leave of a
//! checkpoint is in `checkpoint_faults.rs`.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use terrace::{
    CheckpointReport, Compression, Db, Durability, Error, FilterKind, KeyspaceOptions, Options,
    SalvageOptions, VerifyOptions, WriteBatch, salvage, verify,
};
use terrace_io::{
    FaultFileSystem, FaultKind, FaultRule, FileSystem, MemoryFileSystem, OpenMode, Operation, OsFileSystem,
};
use terrace_tests::copies::{Running, assert_sound, names, open, ravage, step};
use terrace_tests::filled::{KEYSPACES, contents, fill, options};
use terrace_tests::model::DEFAULT;
use terrace_tests::oracle::{History, read_all};
use terrace_tests::workload::{Generator, ValueLengths};
use terrace_tests::{Trace, covered, eventually, seeds, skipped};

/// Where the database is in memory.
const DIR: &str = "/database";
/// Where its checkpoint goes.
const COPY: &str = "/copies/first";

/// A link is refused with this by a file system of another device, without links, that allows none, or no more.
const LINK_REFUSALS: [i32; 4] = [18, 95, 1, 31];

/// Every file of a new checkpoint is right, and none is too many.
#[track_caller]
fn assert_exact(fs: &Arc<dyn FileSystem>, dir: impl AsRef<Path>) {
    let report = verify(dir, &VerifyOptions::new().threads(1).file_system(fs.clone())).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}

/// Removes the files of a checkpoint that has been looked at.
fn remove(fs: &dyn FileSystem, dir: &str) {
    names(fs, dir).iter().for_each(|name| fs.remove_file(&Path::new(dir).join(name)).unwrap());
}

/// Nothing is left but what every directory has that was locked once.
#[track_caller]
fn assert_nothing_is_left(fs: &dyn FileSystem, dir: impl AsRef<Path>) {
    let names = names(fs, dir);
    assert!(names.iter().all(|name| name == "LOCK"), "{names:?}");
}

/// Adds up what checkpoints were made of.
#[derive(Debug, Default)]
struct Sum {
    checkpoints: u64,
    linked: u64,
    copied: u64,
    written: u64,
}

impl Sum {
    fn add(&mut self, report: &CheckpointReport) {
        self.checkpoints += 1;
        self.linked += report.tables_linked;
        self.copied += report.tables_copied;
        self.written += report.tables_written;
    }
}

/// One thread writes the history, another makes checkpoints: each is the state after some first part of it, which holds what
/// was acknowledged before the call and nothing that began after it.
#[test]
fn a_checkpoint_is_the_database_at_one_moment() {
    const TEST: &str = "a_checkpoint_is_the_database_at_one_moment";
    const STEPS: usize = 1200;
    let (mut sum, mut overtaken) = (Sum::default(), 0);
    for seed in seeds(4) {
        let _trace = Trace::new(TEST, seed);
        let memory = MemoryFileSystem::new();
        let faults = FaultFileSystem::new(Arc::new(memory.clone()));
        // Some tables are linked and others copied.
        for errno in LINK_REFUSALS {
            let rule = FaultRule::on(Operation::Link).kind(FaultKind::Os(errno));
            faults.add(rule.path(format!("{errno}.sst")));
        }
        let fs: Arc<dyn FileSystem> = Arc::new(faults);
        let values = ValueLengths { usual: 10..2_500, paged_one_in: 12, large: (60, 60_000..150_000) };
        let mut generator = Generator::new(seed, 60, 1, values);
        let keys = generator.keys().to_vec();
        let db = options(fs.clone()).open(DIR).unwrap();
        let (history, running) = (History::default(), AtomicU64::new(1));
        thread::scope(|scope| {
            scope.spawn(|| {
                let _running = Running(&running);
                (0..STEPS).for_each(|_| step(&db, &history, &mut generator));
            });
            for number in 0.. {
                let is_last = running.load(Ordering::SeqCst) == 0;
                let path = format!("/checkpoint {number}");
                let least = history.acknowledged();
                let report = db.checkpoint(&path).unwrap();
                let most = history.begun();
                assert_exact(&fs, &path);
                let copy = open(&fs, &path);
                let found = read_all(&copy, &keys).unwrap_or_else(|why| panic!("{path}: {why}"));
                let count = history.find(&found, least..=most).unwrap_or_else(|why| panic!("{path}: {why}"));
                overtaken += u64::from(least < count);
                copy.close().unwrap();
                sum.add(&report);
                remove(&*fs, &path);
                if is_last {
                    break;
                }
            }
        });
        db.close().unwrap();
        assert_sound(&fs, DIR);
    }
    covered(TEST, format_args!("{sum:?}, {overtaken} of them of a moment after the call had begun"));
    assert!(sum.linked > 0 && sum.copied > 0 && sum.written > 0, "{sum:?}");
}

const WRITERS: usize = 4;

/// Many threads count in two keyspaces at once, by batches that also say how far the others were: in a checkpoint the
/// two agree, all of a count is there, and whatever somebody had seen is there too.
#[test]
fn batches_of_many_writers_are_whole_and_in_order() {
    const TEST: &str = "batches_of_many_writers_are_whole_and_in_order";
    const COUNTS: u64 = 3000;
    let memory = MemoryFileSystem::new();
    let fs: Arc<dyn FileSystem> = Arc::new(memory.clone());
    let db = options(fs.clone()).open(DIR).unwrap();
    let packed = KeyspaceOptions::new().compression(Compression::Snappy).table_bytes(64 << 10);
    let other = db.keyspace_with("other", packed).unwrap();
    let [begun, acknowledged]: [[AtomicU64; WRITERS]; 2] = Default::default();
    let running = AtomicU64::new(WRITERS as u64);
    let now = |counters: &[AtomicU64; WRITERS]| -> [u64; WRITERS] {
        std::array::from_fn(|writer| counters[writer].load(Ordering::SeqCst))
    };
    let write = |writer: usize| {
        for count in 1..=COUNTS {
            let seen = now(&acknowledged).map(|count| format!("{count:08}")).join(" ");
            let mut batch = WriteBatch::new();
            batch.put(&db, format!("counter {writer}"), format!("{count:08}"));
            batch.put(&db, format!("entry {writer} {count:08}"), [b'x'; 150]);
            batch.put(&other, format!("counter {writer}"), format!("{count:08} {seen}"));
            begun[writer].store(count, Ordering::SeqCst);
            let durability = if count % 50 == 0 { Durability::Sync } else { Durability::Buffered };
            db.write_with(batch, durability).unwrap();
            acknowledged[writer].store(count, Ordering::SeqCst);
        }
    };
    let numbers = |text: &[u8]| -> Vec<u64> {
        let text = std::str::from_utf8(text).unwrap();
        text.split(' ').map(|number| number.parse().unwrap()).collect()
    };
    let mut sum = Sum::default();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (write, running) = (&write, &running);
            scope.spawn(move || {
                let _running = Running(running);
                write(writer);
            });
        }
        for number in 0.. {
            let is_last = running.load(Ordering::SeqCst) == 0;
            let path = format!("/checkpoint {number}");
            let least = now(&acknowledged);
            sum.add(&db.checkpoint(&path).unwrap());
            let most = now(&begun);
            let copy = open(&fs, &path);
            let other = copy.keyspace("other").unwrap();
            let counters: [u64; WRITERS] = std::array::from_fn(|writer| {
                let counter = copy.get(format!("counter {writer}")).unwrap();
                counter.map_or(0, |counter| numbers(&counter)[0])
            });
            for (writer, &count) in counters.iter().enumerate() {
                assert!((least[writer]..=most[writer]).contains(&count), "{least:?} {counters:?} {most:?}");
                let entries = copy.prefix(format!("entry {writer} ")).unwrap();
                let entries: Vec<u64> = entries.map(|entry| numbers(&entry.unwrap().0[8..])[0]).collect();
                assert!(entries.iter().copied().eq(1..=count), "{count} and {} entries", entries.len());
                let there = other.get(format!("counter {writer}")).unwrap();
                let there = there.map_or(vec![0; 1 + WRITERS], |there| numbers(&there));
                assert_eq!(there[0], count, "half of a batch");
                let is_caused = there[1..].iter().zip(&counters).all(|(seen, count)| seen <= count);
                assert!(is_caused, "{:?} were seen, but {counters:?} are there", &there[1..]);
            }
            copy.close().unwrap();
            assert_sound(&fs, &path);
            remove(&*fs, &path);
            if is_last {
                break;
            }
        }
    });
    covered(TEST, format_args!("{sum:?} beside {} batches", COUNTS * WRITERS as u64));
    assert!(sum.written > 0 && sum.linked > 0, "{sum:?}");
    db.close().unwrap();
}

/// The bytes of every table in a directory, and how many names each has.
fn tables(dir: &Path) -> BTreeMap<String, (Vec<u8>, u64)> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let tables = entries.filter(|path| path.extension().is_some_and(|extension| extension == "sst"));
    let read = |path: PathBuf| {
        let names = std::fs::metadata(&path).unwrap().nlink();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), (std::fs::read(&path).unwrap(), names))
    };
    tables.map(read).collect()
}

/// On real files, from `place` to `elsewhere`: whatever is done to the one, the other stays as it was.
fn go_apart(place: &Path, elsewhere: &Path, is_linked: bool) {
    let fs: Arc<dyn FileSystem> = Arc::new(OsFileSystem);
    let (first, second, third) = (place.join("first"), elsewhere.join("second"), elsewhere.join("third"));
    let db = options(fs.clone()).open(&first).unwrap();
    let mut written = fill(&db, 11, 6);
    // Nothing is compacted by itself then, and what is linked keeps both names.
    db.settle().unwrap();
    let snapshot = db.snapshot().unwrap();
    db.put("after the snapshot", "there").unwrap();
    written.put("default", b"after the snapshot", b"there");
    let report = db.checkpoint(&second).unwrap();
    assert!(report.tables_written > 0, "{report:?}");
    let (linked, copied) = (report.tables_linked, report.tables_copied);
    assert!(if is_linked { linked > 2 && copied == 0 } else { linked == 0 && copied > 2 }, "{report:?}");
    let before = tables(&second);
    let lengths = before.values().map(|(bytes, _)| bytes.len() as u64).sum::<u64>();
    assert_eq!(lengths, report.bytes_linked + report.bytes_copied + report.bytes_written);
    let shared = before.values().filter(|(_, names)| *names == 2).count() as u64;
    assert_eq!((shared, before.len() as u64), (linked, linked + copied + report.tables_written));

    // The old one goes on, and so does its snapshot.
    ravage(&db);
    assert_ne!(contents(&db), written.now);
    assert!(!snapshot.contains_key(&db, "after the snapshot").unwrap());
    drop(snapshot);
    let without_names = |tables: BTreeMap<String, (Vec<u8>, u64)>| -> BTreeMap<String, Vec<u8>> {
        tables.into_iter().map(|(name, (bytes, _))| (name, bytes)).collect()
    };
    assert!(without_names(tables(&second)) == without_names(before), "tables of the checkpoint have changed");
    assert_sound(&fs, &second);
    let copy = open(&fs, &second);
    assert_eq!(contents(&copy), written.now);
    assert!(copy.health().is_ok());

    // A checkpoint of the checkpoint, while both are open; then the first one goes, with all its files.
    let of_copy = copy.checkpoint(&third).unwrap();
    assert!(of_copy.tables_written == 0 && of_copy.tables_linked > 2, "{of_copy:?}");
    let state = contents(&db);
    ravage(&copy);
    assert_eq!(contents(&db), state, "what was done to the checkpoint was done to the database");
    db.close().unwrap();
    copy.close().unwrap();
    assert_sound(&fs, &first);
    std::fs::remove_dir_all(&first).unwrap();
    std::fs::remove_dir_all(&second).unwrap();
    assert_sound(&fs, &third);
    let copy = open(&fs, &third);
    assert_eq!(contents(&copy), written.now);
    ravage(&copy);
    copy.close().unwrap();
    assert_sound(&fs, &third);
}

#[test]
fn a_database_and_its_linked_checkpoint_go_apart() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("a"), "").unwrap();
    match std::fs::hard_link(place.path().join("a"), place.path().join("b")) {
        Ok(()) => go_apart(place.path(), place.path(), true),
        Err(error) => skipped("a_database_and_its_linked_checkpoint_go_apart", error),
    }
}

#[test]
fn a_checkpoint_on_another_file_system_is_copied() {
    const TEST: &str = "a_checkpoint_on_another_file_system_is_copied";
    let here = tempfile::tempdir().unwrap();
    let Ok(there) = tempfile::tempdir_in("/dev/shm") else {
        return skipped(TEST, "there is no /dev/shm");
    };
    let device = |directory: &tempfile::TempDir| std::fs::metadata(directory.path()).unwrap().dev();
    match device(&here) == device(&there) {
        true => skipped(TEST, "the temporary directory is in /dev/shm"),
        false => {
            go_apart(here.path(), there.path(), false);
            go_apart(there.path(), here.path(), false);
        }
    }
}

/// A database with tables, and with something in memory.
fn filled(fs: &Arc<dyn FileSystem>) -> (Db, terrace_tests::filled::Written) {
    let db = options(fs.clone()).open(DIR).unwrap();
    let mut written = fill(&db, 5, 4);
    db.put_with("in memory", "only", Durability::Buffered).unwrap();
    written.put("default", b"in memory", b"only");
    (db, written)
}

#[test]
fn what_cannot_be_linked_is_copied() {
    let memory = MemoryFileSystem::new();
    let faults = FaultFileSystem::new(Arc::new(memory.clone()));
    let fs: Arc<dyn FileSystem> = Arc::new(faults.clone());
    let (db, written) = filled(&fs);
    let all = db.checkpoint("/linked").unwrap();
    assert!(all.tables_linked > 2 && all.tables_copied == 0, "{all:?}");
    for (number, errno) in LINK_REFUSALS.into_iter().enumerate() {
        for skip in [0, 2] {
            // Copying goes on after reads and writes that do less than they were asked for.
            faults.add(FaultRule::on(Operation::Link).kind(FaultKind::Os(errno)).skip(skip));
            faults.add(FaultRule::on(Operation::Read).kind(FaultKind::ShortRead).path(".sst").times(40));
            faults.add(FaultRule::on(Operation::Write).kind(FaultKind::ShortWrite).path(".sst").times(40));
            let path = format!("/copies/{number} {skip}");
            let report = db.checkpoint(&path).unwrap();
            faults.clear();
            assert_eq!(report.tables_linked, skip, "errno {errno}: {report:?}");
            assert_eq!(report.tables_linked + report.tables_copied, all.tables_linked);
            assert_eq!(report.bytes_linked + report.bytes_copied, all.bytes_linked);
            assert_sound(&fs, &path);
            let copy = open(&fs, &path);
            assert_eq!(contents(&copy), written.now);
            copy.close().unwrap();
        }
    }
    // Any other error is one of the checkpoint.
    for errno in [2, 5, 28] {
        faults.add(FaultRule::on(Operation::Link).kind(FaultKind::Os(errno)).skip(1));
        let error = db.checkpoint(COPY).unwrap_err();
        faults.clear();
        assert!(matches!(&error, Error::Io { operation: Operation::Link, .. }), "{error:?}");
        assert_nothing_is_left(&*fs, COPY);
    }
    db.checkpoint(COPY).unwrap();
    db.close().unwrap();
}

/// While a checkpoint copies, everything that it copies becomes obsolete.
#[test]
fn a_checkpoint_holds_on_to_what_it_copies() {
    let memory = MemoryFileSystem::new();
    let faults = FaultFileSystem::new(Arc::new(memory.clone()));
    faults.add(FaultRule::on(Operation::Link).kind(FaultKind::Os(LINK_REFUSALS[0])));
    let fs: Arc<dyn FileSystem> = Arc::new(faults);
    let (db, written) = filled(&fs);
    let ravaged = Arc::new(AtomicBool::new(false));
    let hook = {
        let (db, ravaged) = (db.clone(), ravaged.clone());
        move |mutation: &terrace_io::Mutation<'_>| {
            // After the moment: the first file of the checkpoint.
            let is_first = mutation.operation == Operation::Create
                && mutation.path.starts_with(COPY)
                && mutation.path.extension().is_some_and(|extension| extension != "LOCK");
            if is_first && !ravaged.swap(true, Ordering::SeqCst) {
                ravage(&db);
            }
        }
    };
    memory.set_hook(hook);
    let report = db.checkpoint(COPY).unwrap();
    memory.remove_hook();
    assert!(ravaged.load(Ordering::SeqCst) && report.tables_copied > 2, "{report:?}");
    assert_sound(&fs, COPY);
    let copy = open(&fs, COPY);
    assert_eq!(contents(&copy), written.now);
    copy.close().unwrap();
    // Nothing holds the old tables any more.
    let live: usize = db.metrics().levels.iter().map(|level| level.tables).sum();
    eventually("the old tables are deleted", || {
        names(&*fs, DIR).iter().filter(|name| name.ends_with(".sst")).count() == live
    });
    assert_eq!(db.metrics().pinned_tables, 0);
    db.close().unwrap();
}

/// What shares a table with another database must never change it: nothing that is done to a database, a salvage and a
/// recovery included, writes to a table under its name.
#[test]
fn a_table_is_never_written_under_its_name() {
    let memory = MemoryFileSystem::new();
    memory.set_hook(|mutation| {
        let is_change = matches!(mutation.operation, Operation::Write | Operation::SetLength);
        let is_table = mutation.path.extension().is_some_and(|extension| extension == "sst");
        assert!(!(is_change && is_table), "{mutation:?}");
    });
    let fs: Arc<dyn FileSystem> = Arc::new(memory.clone());
    let (db, written) = filled(&fs);
    db.checkpoint(COPY).unwrap();
    ravage(&db);
    drop(db);
    for dir in [DIR, COPY] {
        let db = open(&fs, dir);
        ravage(&db);
        db.close().unwrap();
    }
    let db = open(&fs, COPY);
    db.checkpoint("/again").unwrap();
    db.close().unwrap();
    fs.remove_file(&Path::new("/again").join("MANIFEST")).unwrap();
    salvage("/again", "/saved", &SalvageOptions::new().file_system(fs.clone())).unwrap();
    assert_sound(&fs, COPY);
    assert!(!written.now.is_empty());
}

#[test]
fn an_empty_database_has_a_checkpoint() {
    let fs: Arc<dyn FileSystem> = Arc::new(MemoryFileSystem::new());
    let db = options(fs.clone()).open(DIR).unwrap();
    let report = db.checkpoint(COPY).unwrap();
    assert_eq!(
        (report, names(&*fs, COPY)),
        (CheckpointReport::default(), vec!["LOCK".into(), "MANIFEST".into()])
    );
    let copy = open(&fs, COPY);
    assert_eq!((copy.iter().unwrap().count(), copy.keyspace_names().unwrap()), (0, vec![DEFAULT.to_owned()]));
    copy.put("key", "value").unwrap();
    // Something was there, and is gone.
    db.put("key", "value").unwrap();
    db.clear().unwrap();
    let again = copy.checkpoint("/again").unwrap();
    assert_eq!((again.tables_written, again.sequence), (1, 1));
    assert_eq!(db.checkpoint("/cleared").unwrap().tables_written, 0);
    assert_eq!(open(&fs, "/cleared").iter().unwrap().count(), 0);
    assert_eq!(open(&fs, "/again").get("key").unwrap().as_deref(), Some(&b"value"[..]));
    // A delete alone is worth a table: it hides what older tables have.
    db.delete("key").unwrap();
    assert_eq!(db.checkpoint("/deleted").unwrap().tables_written, 1);
    assert_eq!(open(&fs, "/deleted").iter().unwrap().count(), 0);
}

#[test]
fn a_checkpoint_has_the_options_of_its_database() {
    let fs: Arc<dyn FileSystem> = Arc::new(MemoryFileSystem::new());
    let other = KeyspaceOptions::new()
        .compression(Compression::Snappy)
        .filter_kind(FilterKind::Bloom)
        .filter_bits_per_key(7)
        .block_bytes(8 << 10)
        .table_bytes(128 << 10);
    let defaults = KeyspaceOptions::new().filter_bits_per_key(3).table_bytes(256 << 10);
    let new =
        Options::new().file_system(fs.clone()).max_value_bytes(3 << 20).keyspace_defaults(defaults.clone());
    let db = new.open(DIR).unwrap();
    for name in ["z", "dropped", "a"] {
        db.keyspace_with(name, other.clone()).unwrap().put(name, name).unwrap();
    }
    db.drop_keyspace("dropped").unwrap();
    db.checkpoint(COPY).unwrap();
    let copy = Options::new().file_system(fs.clone()).open(COPY).unwrap();
    assert_eq!(copy.keyspace_names().unwrap(), [DEFAULT, "z", "a"]);
    assert_eq!(*copy.options(), defaults);
    for name in ["z", "a"] {
        let keyspace = copy.keyspace_with(name, other.clone()).unwrap();
        assert_eq!(keyspace.get(name).unwrap().as_deref(), Some(name.as_bytes()));
    }
    copy.put("long", vec![b'v'; 3 << 20]).unwrap();
    assert!(matches!(copy.put("longer", vec![b'v'; (3 << 20) + 1]), Err(Error::InvalidArgument(_))));
    assert_eq!(copy.keyspace("dropped").unwrap().iter().unwrap().count(), 0);
    copy.close().unwrap();
    let smaller = Options::new().file_system(fs.clone()).max_value_bytes(1 << 20).open(COPY);
    assert!(matches!(smaller, Err(Error::InvalidArgument(_))));
}

#[test]
fn the_place_must_be_missing_or_empty() {
    let memory = MemoryFileSystem::new();
    let fs: Arc<dyn FileSystem> = Arc::new(memory.clone());
    let (db, written) = filled(&fs);
    db.flush().unwrap();
    db.settle().unwrap();
    let create = |path: &str| {
        let path = Path::new(path);
        fs.create_dir_all(path.parent().unwrap()).unwrap();
        fs.open(path, OpenMode::CreateNew).unwrap();
    };
    ["/file", "/full/notes", "/left/000007.sst", "/left/LOCK", "/log/000001.log"]
        .into_iter()
        .for_each(create);
    options(fs.clone()).open("/other").unwrap().close().unwrap();
    let refused = |path: &str, words: &[&str]| {
        let before = memory.fingerprint();
        let error = db.checkpoint(path).unwrap_err();
        let Error::InvalidArgument(what) = &error else { panic!("{path}: {error:?}") };
        assert!(words.iter().all(|word| what.contains(word)), "{path}: {what}");
        assert_eq!(memory.fingerprint(), before, "{path}: something has changed");
    };
    refused("", &["empty", "current directory"]);
    refused(DIR, &["/database lies in /database"]);
    refused("/database/copy", &["lies in /database"]);
    refused("/copies/../database/./copies/first", &["lies in /database"]);
    refused("/full", &["not empty", "notes"]);
    refused("/other", &["not empty"]);
    refused("/log", &["not empty", "000001.log"]);
    refused("/left", &["not empty", "000007.sst", "interrupted", "remove it"]);
    let error = db.checkpoint("/file").unwrap_err();
    assert!(matches!(error, Error::Io { operation: Operation::ReadDirectory, .. }), "{error}");
    fs.create_dir_all(Path::new("/held")).unwrap();
    let held = fs.lock_dir(Path::new("/held")).unwrap();
    assert!(matches!(db.checkpoint("/held"), Err(Error::Locked { .. })));
    drop(held);

    // Those that count as empty, and one that is not there yet.
    fs.create_dir_all(Path::new("/empty")).unwrap();
    create("/tried/MANIFEST.tmp");
    for path in ["/held", "/empty", "/tried", "/far/away/new", "/databases"] {
        db.checkpoint(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        refused(path, &["not empty"]);
        let copy = open(&fs, path);
        assert_eq!(contents(&copy), written.now);
        copy.close().unwrap();
        assert_sound(&fs, path);
    }
    db.close().unwrap();
}

/// Whoever deletes a database does not expect to delete its copy.
#[test]
#[cfg(unix)]
fn a_place_in_the_database_is_refused_by_all_its_names() {
    use std::os::unix::fs::symlink;
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    Db::open(at("db")).unwrap().close().unwrap();
    std::fs::create_dir(at("db/inner")).unwrap();
    symlink(at("db"), at("link")).unwrap();
    symlink(at("db/inner"), at("deep")).unwrap();
    for opened in ["db", "link"] {
        let db = Db::open(at(opened)).unwrap();
        db.put("key", "value").unwrap();
        for place in ["db/copy", "link/copy", "deep/copy", "deep/../copy", "link/far/away", "db/inner"] {
            let error = db.checkpoint(at(place)).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument(_)), "{opened} to {place}: {error}");
        }
        let beside = format!("copy of {opened}");
        db.checkpoint(at(&beside)).unwrap();
        db.close().unwrap();
        assert_eq!(Db::open(at(&beside)).unwrap().get("key").unwrap().as_deref(), Some(&b"value"[..]));
    }
    let names = std::fs::read_dir(at("db")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!names.into_iter().any(|name| name == "copy" || name == "far"));
}

#[test]
fn a_poisoned_database_has_no_checkpoint() {
    for is_own_sync in [true, false] {
        let memory = MemoryFileSystem::new();
        let faults = FaultFileSystem::new(Arc::new(memory.clone()));
        let fs: Arc<dyn FileSystem> = Arc::new(faults.clone());
        let (db, _) = filled(&fs);
        faults.add(FaultRule::on(Operation::Sync).path(".log").once());
        if !is_own_sync {
            assert!(matches!(
                db.put_with("key", "value", Durability::Sync),
                Err(Error::OutcomeUnknown { .. })
            ));
        }
        for attempt in 0..2 {
            match db.checkpoint(COPY).unwrap_err() {
                Error::OutcomeUnknown { .. } if is_own_sync && attempt == 0 => {}
                Error::Poisoned { .. } if !is_own_sync || attempt > 0 => {}
                error => panic!("attempt {attempt}: {error:?}"),
            }
            assert_nothing_is_left(&*fs, COPY);
        }
        assert!(db.health().poisoned.is_some());
    }
}

/// What a checkpoint has survives in the database too, buffered or not.
#[test]
fn a_power_cut_never_leaves_the_database_behind_its_checkpoint() {
    let memory = MemoryFileSystem::new();
    let fs: Arc<dyn FileSystem> = Arc::new(memory.clone());
    let (db, written) = filled(&fs);
    db.checkpoint(COPY).unwrap();
    db.put_with("later", "and buffered", Durability::Buffered).unwrap();
    let cut: Arc<dyn FileSystem> = Arc::new(memory.crash_clone(terrace_io::CrashPolicy::DropUnsynced));
    for dir in [DIR, COPY] {
        assert_eq!(contents(&open(&cut, dir)), written.now, "{dir}");
    }
}

#[test]
fn a_missing_table_is_told_and_nothing_is_left() {
    let memory = MemoryFileSystem::new();
    let faults = FaultFileSystem::new(Arc::new(memory.clone()));
    let fs: Arc<dyn FileSystem> = Arc::new(faults.clone());
    let (db, _) = filled(&fs);
    db.settle().unwrap();
    db.close().unwrap();
    let table = names(&*fs, DIR).into_iter().rfind(|name| name.ends_with(".sst")).unwrap();
    let path = Path::new(DIR).join(table);
    fs.rename(&path, Path::new("/kept")).unwrap();
    let db = open(&fs, DIR);
    assert_eq!(db.health().missing_tables, std::slice::from_ref(&path));
    for is_linked in [true, false] {
        if !is_linked {
            faults.add(FaultRule::on(Operation::Link).kind(FaultKind::Os(LINK_REFUSALS[0])));
        }
        let error = db.checkpoint(COPY).unwrap_err();
        assert!(matches!(&error, Error::Corruption { path: told, .. } if *told == path), "{error}");
        assert!(error.to_string().contains("missing"), "{error}");
        assert_nothing_is_left(&*fs, COPY);
        faults.clear();
    }
    // Once it is back, or nobody needs it any more, all is well.
    fs.rename(Path::new("/kept"), &path).unwrap();
    db.checkpoint("/whole").unwrap();
    assert_sound(&fs, "/whole");
    fs.remove_file(&path).unwrap();
    for name in KEYSPACES {
        db.keyspace(name).unwrap().clear().unwrap();
    }
    db.checkpoint(COPY).unwrap();
    assert_sound(&fs, COPY);
}

#[test]
fn a_close_has_a_checkpoint_give_up() {
    let memory = MemoryFileSystem::new();
    let faults = FaultFileSystem::new(Arc::new(memory.clone()));
    faults.add(FaultRule::on(Operation::Link).kind(FaultKind::Os(LINK_REFUSALS[0])));
    let fs: Arc<dyn FileSystem> = Arc::new(faults);
    let (db, written) = filled(&fs);
    let (began, begins) = std::sync::mpsc::channel();
    let is_closed = Arc::new(AtomicBool::new(false));
    let hook = {
        let (db, is_closed, seen) = (db.clone(), is_closed.clone(), AtomicBool::new(false));
        move |mutation: &terrace_io::Mutation<'_>| {
            let is_table = mutation.path.extension().is_some_and(|extension| extension == "sst");
            let is_first =
                mutation.operation == Operation::Create && mutation.path.starts_with(COPY) && is_table;
            if is_first && !seen.swap(true, Ordering::SeqCst) {
                began.send(()).unwrap();
                // Until nothing is begun any more, since the database is being closed.
                eventually("the database is being closed", || {
                    matches!(db.compact_range::<&[u8]>(..), Err(Error::Closed))
                });
                // A close that does not wait for this needs no longer.
                thread::sleep(Duration::from_millis(300));
                assert!(
                    !is_closed.load(Ordering::SeqCst),
                    "it is closed, and a checkpoint is still being made"
                );
            }
        }
    };
    memory.set_hook(hook);
    thread::scope(|scope| {
        let made = scope.spawn(|| db.checkpoint(COPY));
        begins.recv_timeout(Duration::from_secs(60)).expect("a table is copied");
        db.close().unwrap();
        is_closed.store(true, Ordering::SeqCst);
        // It has given up by now, and has removed what it had made.
        assert_nothing_is_left(&*fs, COPY);
        assert!(matches!(made.join().unwrap(), Err(Error::Closed)));
    });
    memory.remove_hook();
    assert!(matches!(db.checkpoint(COPY), Err(Error::Closed)));
    let db = open(&fs, DIR);
    assert_eq!(contents(&db), written.now);
    db.checkpoint(COPY).unwrap();
    assert_sound(&fs, COPY);
}
