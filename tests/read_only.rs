//! Goal: who opens a database for reading only sees a first part of its history, whole batches, the same for all
//! keyspaces, whatever the writer does at that very moment; never goes back; leaves no trace; and hears of real damage.
//!
//! Method: a file system lets the writer take a step before the n-th call that the reader makes of it, for every n: so
//! each step comes between any two things that an open or a refresh does. What is seen then must be the state before the
//! step, after it, or after a part of it that is a change of its own. Two steps come before calls that are drawn. The rest is one test for each promise of
//! `Db::open_read_only`. `tests/processes.rs` has readers and a writer in processes of their own.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use rand::RngExt;
use terrace::{
    Compression, Db, Durability, Error, FileSystem, KeyspaceOptions, Options, PointReads, ReadOnlyDb, Result,
    WriteBatch,
};
use terrace_io::{
    FaultFileSystem, FaultKind, FaultRule, File, MemoryFileSystem, OpenMode, Operation, Region,
};
use terrace_tests::model::{Bytes, Change, DEFAULT, Model, Write};
use terrace_tests::oracle::{History, read_all};
use terrace_tests::samples::random;
use terrace_tests::twisted::{Twist, Twisted};
use terrace_tests::workload::noise;
use terrace_tests::{Trace, covered, eventually, seeds};

const DIR: &str = "/db";

/// Everything small, so that a short history goes through everything.
fn options(fs: Arc<dyn FileSystem>) -> Options {
    Options::new()
        .durability(Durability::Buffered)
        .memtable_bytes(64 << 10)
        .segment_bytes_max(64 << 10)
        .l0_trigger(2)
        .level_base_bytes(64 << 10)
        .compaction_threads(1)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(64 << 10))
        .file_system(fs)
}

fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::from(text.as_ref())
}

/// A database, and the history of its changes.
struct Writer {
    fs: MemoryFileSystem,
    db: Option<Db>,
    history: Arc<History>,
    puts: u64,
}

impl Writer {
    fn new() -> Writer {
        let fs = MemoryFileSystem::new();
        let db = options(Arc::new(fs.clone())).open(DIR).unwrap();
        Writer { fs, db: Some(db), history: Arc::default(), puts: 0 }
    }

    fn db(&self) -> &Db {
        self.db.as_ref().unwrap()
    }

    fn change(&mut self, change: Change) {
        self.history.begin(&change);
        let db = self.db.as_ref().unwrap();
        match &change {
            Change::Create(name) => drop(db.keyspace(name).unwrap()),
            Change::Drop(name) => db.drop_keyspace(name).unwrap(),
            Change::Clear(name) => db.keyspace(name).unwrap().clear().unwrap(),
            Change::Batch(writes) => {
                let mut batch = WriteBatch::new();
                for Write { keyspace, key, value } in writes {
                    let keyspace = db.find_keyspace(keyspace).unwrap().unwrap();
                    match value {
                        Some(value) => batch.put(&keyspace, key, value),
                        None => batch.delete(&keyspace, key),
                    }
                }
                db.write(batch).unwrap();
            }
        }
        self.history.acknowledge();
    }

    /// Puts something to all keyspaces at once, each time something else, mostly to the same keys, and deletes one.
    fn put_everywhere(&mut self, value_len: usize) {
        self.puts += 1;
        let number = self.puts;
        let model = self.history.now();
        let writes = model.keyspaces().keys().flat_map(|keyspace| {
            let write = |key: u64, value: Option<Bytes>| Write {
                keyspace: keyspace.clone(),
                key: bytes(format!("key {key}")),
                value,
            };
            let value = format!("{number:0value_len$}");
            [write(number % 5, Some(bytes(value))), write((number + 2) % 5, None)]
        });
        let writes = writes.collect();
        self.change(Change::Batch(writes));
    }

    /// Tables in two keyspaces, and batches in the log that are in both.
    fn with_history() -> Writer {
        let mut writer = Writer::new();
        writer.change(Change::Create("other".to_owned()));
        (0..7).for_each(|_| writer.put_everywhere(10));
        writer.db().flush().unwrap();
        (0..4).for_each(|_| writer.put_everywhere(10));
        writer.db().find_keyspace("other").unwrap().unwrap().compact_range::<&[u8]>(..).unwrap();
        (0..3).for_each(|_| writer.put_everywhere(10));
        writer
    }

    fn close(&mut self) {
        self.db.take().unwrap().close().unwrap();
    }

    fn reopen(&mut self) {
        self.db = None;
        self.db = Some(options(Arc::new(self.fs.clone())).open(DIR).unwrap());
    }
}

/// What the writer does in between.
#[derive(Debug, Clone, Copy)]
enum Step {
    Put,
    PutsThatRecycle,
    Flush,
    PutAndFlush,
    Settle,
    Clear,
    ClearAndPut,
    CreateAndPut,
    Drop,
    DropCreateAndPut,
    Close,
    CloseAndPut,
    Kill,
}

const STEPS: [Step; 13] = [
    Step::Put,
    Step::PutsThatRecycle,
    Step::Flush,
    Step::PutAndFlush,
    Step::Settle,
    Step::Clear,
    Step::ClearAndPut,
    Step::CreateAndPut,
    Step::Drop,
    Step::DropCreateAndPut,
    Step::Close,
    Step::CloseAndPut,
    Step::Kill,
];

impl Writer {
    fn step(&mut self, step: Step) {
        let other = || "other".to_owned();
        if self.db.is_none() {
            self.reopen();
        }
        if !self.history.now().keyspaces().contains_key("other") {
            self.change(Change::Create(other()));
        }
        match step {
            Step::Put => self.put_everywhere(10),
            Step::PutsThatRecycle => {
                // Four segments and more, flushed and used again.
                for _ in 0..3 {
                    (0..24).for_each(|_| self.put_everywhere(4000));
                    self.db().flush().unwrap();
                }
            }
            Step::Flush => self.db().flush().unwrap(),
            Step::PutAndFlush => {
                self.put_everywhere(10);
                self.db().flush().unwrap();
                self.put_everywhere(10);
            }
            Step::Settle => self.db().settle().unwrap(),
            Step::Clear => self.change(Change::Clear(other())),
            Step::ClearAndPut => {
                self.change(Change::Clear(DEFAULT.to_owned()));
                self.put_everywhere(10);
            }
            Step::CreateAndPut => {
                self.change(Change::Create("third".to_owned()));
                self.put_everywhere(10);
            }
            Step::Drop => self.change(Change::Drop(other())),
            Step::DropCreateAndPut => {
                self.change(Change::Drop(other()));
                self.change(Change::Create(other()));
                self.put_everywhere(10);
            }
            Step::Close => self.close(),
            Step::CloseAndPut => {
                self.close();
                self.reopen();
                self.put_everywhere(10);
            }
            Step::Kill => {
                // Without a close the log is replayed.
                self.reopen();
                self.put_everywhere(10);
            }
        }
    }
}

/// Something to be done once.
type Work = Box<dyn FnOnce() + Send>;

/// Has something done before the n-th call that may see what a writer has done.
#[derive(Clone, Default)]
struct Between {
    calls: Arc<AtomicU64>,
    /// How many tables were opened.
    tables: Arc<AtomicU64>,
    work: Arc<Mutex<Vec<(u64, Work)>>>,
}

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Between").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl Between {
    /// Counts calls from 0 again.
    fn begin(&self) {
        self.calls.store(0, SeqCst);
    }

    /// Has something done before call `number`.
    fn before_call(&self, number: u64, work: impl FnOnce() + Send + 'static) {
        self.work.lock().unwrap().push((number, Box::new(work)));
    }

    fn called(&self) {
        let number = self.calls.fetch_add(1, SeqCst);
        let due: Vec<_> = self.work.lock().unwrap().extract_if(.., |(due, _)| *due == number).collect();
        due.into_iter().for_each(|(_, work)| work());
    }

    /// Whether something was not done yet. It will not be done any more.
    fn was_left(&self) -> bool {
        !std::mem::take(&mut *self.work.lock().unwrap()).is_empty()
    }
}

impl Twist for Between {
    fn open(&self, fs: &dyn FileSystem, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        self.called();
        if path.extension().is_some_and(|extension| extension == "sst") {
            self.tables.fetch_add(1, SeqCst);
        }
        fs.open(path, mode)
    }

    fn read_at(&self, file: &dyn File, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.called();
        file.read_at(buf, offset)
    }

    fn map(&self, file: &dyn File, len: usize) -> Result<Region> {
        self.called();
        file.map(len)
    }
}

fn keys() -> Vec<Bytes> {
    (0..5).map(|key| bytes(format!("key {key}"))).collect()
}

/// Which of the states from `least` on a reader shows.
fn find(reader: &ReadOnlyDb, history: &History, least: usize) -> std::result::Result<usize, String> {
    history.find(&read_all(reader, &keys())?, least..=history.begun())
}

/// Takes a step before each call of a refresh, or of an open. Says how many calls there were, over all steps.
fn between_all_calls(of_open: bool) -> u64 {
    let mut all_calls = 0;
    for step in STEPS {
        for number in 0.. {
            let writer = Writer::with_history();
            let (fs, history) = (writer.fs.clone(), writer.history.clone());
            let between = Between::default();
            let twisted: Arc<dyn FileSystem> = Arc::new(Twisted::new(fs, between.clone()));
            let what = format!("{step:?} before call {number}, of_open: {of_open}");
            let open =
                || options(twisted.clone()).open_read_only(DIR).map_err(|error| format!("{what}: {error}"));
            let before = (!of_open).then(|| open().unwrap());
            let begun = history.begun();
            let kept = before.as_ref().map(|reader| {
                assert_eq!(find(reader, &history, begun), Ok(begun), "{what}");
                let keyspaces = [DEFAULT, "other"].map(|name| reader.keyspace(name).unwrap());
                (reader.snapshot().unwrap(), keyspaces, history.now())
            });
            let writer = Arc::new(Mutex::new(writer));
            if before.is_some() {
                // Something to read, so that there are all the calls.
                writer.lock().unwrap().step(Step::PutAndFlush);
            }
            let begun = history.begun();
            let shared = writer.clone();
            between.begin();
            between.before_call(number, move || shared.lock().unwrap().step(step));
            let reader = match before {
                Some(reader) => {
                    assert!(reader.refresh().unwrap_or_else(|error| panic!("{what}: {error}")), "{what}");
                    reader
                }
                None => open().unwrap(),
            };
            let was_left = between.was_left();
            let seen = find(&reader, &history, begun).unwrap_or_else(|why| panic!("{what}: {why}"));
            // What was taken before stays as it was.
            if let Some((snapshot, keyspaces, model)) = &kept {
                for keyspace in keyspaces {
                    let entries = snapshot.iter(keyspace).unwrap().map(Result::unwrap);
                    let entries = entries.map(|(key, value)| (bytes(&*key), bytes(&*value)));
                    let model = model.map(keyspace.name()).iter();
                    assert!(entries.eq(model.map(|(key, value)| (key.clone(), value.clone()))), "{what}");
                }
            }
            reader.refresh().unwrap_or_else(|error| panic!("{what}, once it was over: {error}"));
            assert_eq!(find(&reader, &history, seen), Ok(history.begun()), "{what}, once it was over");
            if was_left {
                all_calls += number;
                break;
            }
        }
    }
    all_calls
}

#[test]
fn a_step_of_the_writer_between_any_two_calls_of_a_refresh() {
    let calls = between_all_calls(false);
    covered("steps between calls of a refresh", format_args!("{calls} calls, {} steps", STEPS.len()));
    assert!(calls > 10 * STEPS.len() as u64, "{calls}");
}

#[test]
fn a_step_of_the_writer_between_any_two_calls_of_an_open() {
    let calls = between_all_calls(true);
    covered("steps between calls of an open", format_args!("{calls} calls, {} steps", STEPS.len()));
    assert!(calls > 10 * STEPS.len() as u64, "{calls}");
}

/// Any two steps, before any two calls of an open and of some refreshes.
#[test]
fn two_steps_of_the_writer_between_calls() {
    let (mut taken, mut moves) = (0, 0);
    for seed in seeds(300) {
        let _trace = Trace::new("two_steps_of_the_writer_between_calls", seed);
        let mut random = random(seed);
        let writer = Writer::with_history();
        let (fs, history) = (writer.fs.clone(), writer.history.clone());
        let writer = Arc::new(Mutex::new(writer));
        let between = Between::default();
        let twisted: Arc<dyn FileSystem> = Arc::new(Twisted::new(fs, between.clone()));
        let (mut reader, mut seen, mut told) = (None::<ReadOnlyDb>, 0, Vec::new());
        for _ in 0..4 {
            let begun = history.begun();
            between.begin();
            let first = random.random_range(0..25);
            for number in [first, first + random.random_range(0..15)] {
                let step = STEPS[random.random_range(0..STEPS.len())];
                told.push(format!("{step:?} before call {number}"));
                let shared = writer.clone();
                between.before_call(number, move || shared.lock().unwrap().step(step));
            }
            let reader = match &reader {
                Some(reader) => {
                    moves += u64::from(reader.refresh().unwrap_or_else(|error| panic!("{told:?}: {error}")));
                    reader
                }
                None => reader.insert(options(twisted.clone()).open_read_only(DIR).unwrap()),
            };
            taken += 2 - between.work.lock().unwrap().len();
            between.was_left();
            seen = find(reader, &history, begun.max(seen)).unwrap_or_else(|why| panic!("{told:?}: {why}"));
        }
    }
    covered("two steps between calls", format_args!("{taken} steps, {moves} refreshes that moved"));
    assert!(taken > 0 && moves > 0);
}

/// A step before each and every look at the manifest: then no two looks at the manifest agree. It ends, and what was seen before still
/// is.
#[test]
fn a_writer_that_never_stands_still_is_told() {
    #[derive(Debug, Clone)]
    struct Restless(Arc<Mutex<Option<Db>>>);
    impl Twist for Restless {
        fn open(&self, fs: &dyn FileSystem, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
            if let Some(db) = &*self.0.lock().unwrap()
                && path.ends_with("MANIFEST")
            {
                db.put("restless", "").unwrap();
                db.flush().unwrap();
            }
            fs.open(path, mode)
        }
    }
    let mut writer = Writer::with_history();
    let restless = Restless(Arc::default());
    let twisted = Twisted::new(writer.fs.clone(), restless.clone());
    let reader = options(Arc::new(twisted)).open_read_only(DIR).unwrap();
    *restless.0.lock().unwrap() = writer.db.clone();
    let refused = reader.refresh().unwrap_err();
    assert!(matches!(&refused, Error::Busy { path, .. } if path == Path::new(DIR)), "{refused}");
    assert_eq!(find(&reader, &writer.history, 0), Ok(writer.history.begun()));
    assert_eq!(reader.get("restless").unwrap(), None);
    *restless.0.lock().unwrap() = None;
    assert!(reader.refresh().unwrap());
    assert_eq!(reader.get("restless").unwrap().as_deref(), Some(&b""[..]));
    writer.close();
}

/// An open may come at any moment of the creation of a database too.
#[test]
fn a_database_that_is_being_created_is_there_or_is_none() {
    let fs = MemoryFileSystem::new();
    let outcomes: Arc<Mutex<Vec<bool>>> = Arc::default();
    let (copy, seen) = (fs.clone(), outcomes.clone());
    fs.set_hook(move |_| {
        let opened = options(Arc::new(copy.process_kill_clone())).open_read_only(DIR);
        match &opened {
            Ok(reader) => assert_eq!(reader.iter().unwrap().count(), 0),
            Err(error) => assert!(matches!(error, Error::NotADatabase { .. }), "{error}"),
        }
        seen.lock().unwrap().push(opened.is_ok());
    });
    let db = options(Arc::new(fs.clone())).open(DIR).unwrap();
    fs.remove_hook();
    let outcomes = outcomes.lock().unwrap().clone();
    assert!(outcomes.len() > 5 && outcomes.is_sorted() && outcomes.contains(&true), "{outcomes:?}");
    db.close().unwrap();
}

/// Refuses every call that could change something, and none of them is made.
#[test]
fn nothing_is_asked_of_the_file_system_but_to_read() {
    for is_closed in [false, true] {
        let mut writer = Writer::with_history();
        if is_closed {
            writer.close();
        }
        let faults = FaultFileSystem::new(Arc::new(writer.fs.clone()));
        for operation in [
            Operation::Create,
            Operation::Write,
            Operation::SetLength,
            Operation::Sync,
            Operation::Rename,
            Operation::Remove,
            Operation::CreateDirectory,
            Operation::SyncDirectory,
            Operation::Lock,
        ] {
            faults.add(FaultRule::on(operation).error(std::io::ErrorKind::ReadOnlyFilesystem));
        }
        let wait = writer.db.as_ref().map(Db::settle);
        assert!(wait.is_none_or(|settled| settled.is_ok()));
        if !is_closed {
            writer.put_everywhere(10);
        }
        let before = writer.fs.mutations();
        let reader = options(Arc::new(faults.clone())).open_read_only(DIR).unwrap();
        assert_eq!(find(&reader, &writer.history, 0), Ok(writer.history.begun()));
        reader.refresh().unwrap();
        drop(reader);
        assert_eq!(writer.fs.mutations(), before, "something was changed");
        assert_eq!(faults.injected(), 0, "something was tried");
    }
}

/// Files go when the writer lets go of them, whoever reads them; and who reads them goes on.
#[test]
fn iterators_outlive_refreshes_and_the_deletion_of_their_tables() {
    for (point_reads, compression) in [
        (PointReads::Mmap, Compression::None),
        (PointReads::Mmap, Compression::Snappy),
        (PointReads::Pread, Compression::None),
        (PointReads::Pread, Compression::Snappy),
    ] {
        let what = format!("{point_reads:?}, {compression:?}");
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("db");
        let options = || {
            let keyspace = KeyspaceOptions::new().table_bytes(256 << 10).compression(compression);
            Options::new()
                .durability(Durability::Buffered)
                .memtable_bytes(512 << 10)
                .point_reads(point_reads)
                .keyspace_defaults(keyspace)
        };
        let tables = || -> Vec<PathBuf> {
            let paths = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
            paths.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect()
        };
        let writer = options().open(&dir).unwrap();
        let other = writer.keyspace("other").unwrap();
        let value = |round: u64, key: u32| noise(round << 32 | u64::from(key), 400);
        for key in 0..8000_u32 {
            writer.put(key.to_be_bytes(), value(1, key)).unwrap();
            other.put(key.to_be_bytes(), value(1, key)).unwrap();
        }
        writer.settle().unwrap();
        let old = tables();
        assert!(old.len() > 10, "{what}: {} tables", old.len());

        let reader = options().open_read_only(&dir).unwrap();
        let snapshot = reader.snapshot().unwrap();
        let kept = reader.get(7_u32.to_be_bytes()).unwrap().unwrap();
        let reader_other = reader.keyspace("other").unwrap();
        let (mut forward, mut backward) = (reader.iter().unwrap(), reader_other.iter().unwrap().rev());
        let mut cursor = reader.cursor().unwrap();
        // One has begun, in its first table; the others have not.
        assert_eq!(*forward.next().unwrap().unwrap().1, value(1, 0)[..]);

        for key in 0..8000_u32 {
            writer.put(key.to_be_bytes(), value(2, key)).unwrap();
        }
        writer.drop_keyspace("other").unwrap();
        drop(other);
        writer.flush().unwrap();
        writer.compact_range::<&[u8]>(..).unwrap();
        eventually("the old tables are deleted", || old.iter().all(|path| !path.exists()));

        // Also before a refresh.
        assert_eq!(
            reader.get(4000_u32.to_be_bytes()).unwrap().as_deref(),
            Some(&value(1, 4000)[..]),
            "{what}"
        );
        assert!(reader.refresh().unwrap());
        assert_eq!(
            reader.get(4000_u32.to_be_bytes()).unwrap().as_deref(),
            Some(&value(2, 4000)[..]),
            "{what}"
        );
        let metrics = reader.metrics();
        assert_eq!(metrics.pinned_tables, old.len(), "{what}");
        assert!(metrics.pinned_bytes > 2 * 8000 * 100, "{what}");
        let dropped = reader_other.get("").unwrap_err();
        assert!(matches!(dropped, Error::KeyspaceDropped { .. }), "{dropped}");
        for key in 1..8000_u32 {
            assert_eq!(*forward.next().unwrap().unwrap().1, value(1, key)[..], "{what}");
        }
        for key in (0..8000_u32).rev() {
            assert_eq!(*backward.next().unwrap().unwrap().1, value(1, key)[..], "{what}");
        }
        assert!(cursor.seek(5000_u32.to_be_bytes()).unwrap() && cursor.value() == value(1, 5000), "{what}");
        assert_eq!(snapshot.get(&reader, 1_u32.to_be_bytes()).unwrap().as_deref(), Some(&value(1, 1)[..]));
        assert_eq!(snapshot.iter(&reader_other).unwrap().count(), 8000, "{what}");
        assert_eq!(*kept, value(1, 7)[..], "{what}");
        drop((forward, backward, cursor, snapshot, kept));
        assert_eq!(reader.metrics().pinned_tables, 0, "{what}");
        writer.close().unwrap();
    }
}

/// A write that has failed can be seen until the next one takes its place, and not any longer: also if that has the same
/// length, and the same sequence number.
#[test]
fn what_has_failed_is_forgotten_once_something_else_is_there() {
    let memory = MemoryFileSystem::new();
    let faults = FaultFileSystem::new(Arc::new(memory.clone()));
    let writer = options(Arc::new(faults.clone())).open(DIR).unwrap();
    writer.put("a", "first").unwrap();
    let reader = options(Arc::new(memory.clone())).open_read_only(DIR).unwrap();
    let snapshot = reader.snapshot().unwrap();

    // It is written, said to have failed, and cannot be erased.
    let kind = FaultKind::ErrorAfterEffect(std::io::ErrorKind::Other);
    faults.add(FaultRule::on(Operation::Write).path(".log").kind(kind).once());
    faults.add(FaultRule::on(Operation::Write).path(".log"));
    let mut batch = WriteBatch::new();
    batch.put(&writer, "a", "wrong");
    batch.put(&writer, "b", "wrong");
    writer.write(batch).unwrap_err();
    assert!(reader.refresh().unwrap(), "it is there to be read");
    assert_eq!(reader.get("a").unwrap().as_deref(), Some(&b"wrong"[..]));

    faults.clear();
    let mut batch = WriteBatch::new();
    batch.put(&writer, "a", "right");
    batch.put(&writer, "c", "right");
    writer.write(batch).unwrap();
    assert!(reader.refresh().unwrap());
    let shown: Vec<(Vec<u8>, Vec<u8>)> =
        reader.iter().unwrap().map(|entry| entry.unwrap()).map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
    assert_eq!(shown, [(b"a".to_vec(), b"right".to_vec()), (b"c".to_vec(), b"right".to_vec())]);
    assert_eq!(snapshot.get(&reader, "a").unwrap().as_deref(), Some(&b"first"[..]));
    assert_eq!(reader.snapshot().unwrap().sequence(), snapshot.sequence() + 2);

    // A failed one that is longer than what takes its place: nothing goes back meanwhile.
    let kind = FaultKind::ErrorAfterEffect(std::io::ErrorKind::Other);
    faults.add(FaultRule::on(Operation::Write).path(".log").kind(kind).once());
    faults.add(FaultRule::on(Operation::Write).path(".log"));
    let mut batch = WriteBatch::new();
    (0..3).for_each(|key| batch.put(&writer, format!("d{key}"), "wrong"));
    writer.write(batch).unwrap_err();
    assert!(reader.refresh().unwrap());
    let seen = reader.snapshot().unwrap().sequence();
    faults.clear();
    writer.put("a", "later").unwrap();
    assert!(!reader.refresh().unwrap(), "its history is shorter than what was seen");
    assert_eq!(reader.snapshot().unwrap().sequence(), seen);
    (0..3).for_each(|_| writer.put("a", "latest").unwrap());
    assert!(reader.refresh().unwrap());
    assert_eq!(reader.get("a").unwrap().as_deref(), Some(&b"latest"[..]));
    assert_eq!(reader.get("d0").unwrap(), None);
}

/// The same of what only the manifest records.
#[test]
fn what_has_failed_in_the_manifest_is_forgotten_too() {
    let memory = MemoryFileSystem::new();
    let faults = FaultFileSystem::new(Arc::new(memory.clone()));
    let writer = options(Arc::new(faults.clone())).open(DIR).unwrap();
    let reader = options(Arc::new(memory)).open_read_only(DIR).unwrap();
    let kind = FaultKind::ErrorAfterEffect(std::io::ErrorKind::StorageFull);
    faults.add(FaultRule::on(Operation::Write).path("MANIFEST").kind(kind).once());
    writer.keyspace("wrong").unwrap_err();
    assert!(reader.refresh().unwrap(), "it is there to be read");
    assert_eq!(reader.keyspace_names().unwrap(), [DEFAULT, "wrong"]);
    let (wrong, snapshot) = (reader.keyspace("wrong").unwrap(), reader.snapshot().unwrap());
    // It gets the same id, and its edit has the same length.
    let written = writer.keyspace("right").unwrap();
    assert!(reader.refresh().unwrap());
    assert_eq!(reader.keyspace_names().unwrap(), [DEFAULT, "right"]);
    written.put("key", "value").unwrap();
    assert!(reader.refresh().unwrap());
    let right = reader.keyspace("right").unwrap();
    assert_eq!(right.get("key").unwrap().as_deref(), Some(&b"value"[..]));
    assert!(matches!(wrong.get("key"), Err(Error::KeyspaceDropped { name }) if name == "wrong"));
    assert_eq!(snapshot.get(&wrong, "key").unwrap(), None);
    assert!(matches!(snapshot.get(&right, "key"), Err(Error::KeyspaceDropped { .. })));
    writer.close().unwrap();
}

/// What was let go of because of such a record is there again once another one stands in its place.
#[test]
fn what_has_failed_in_the_manifest_takes_nothing_away() {
    for step in ["clear", "drop", "flush"] {
        let memory = MemoryFileSystem::new();
        let faults = FaultFileSystem::new(Arc::new(memory.clone()));
        let writer = options(Arc::new(faults.clone())).open(DIR).unwrap();
        let dropped = writer.keyspace("dropped").unwrap();
        writer.put("key", "value").unwrap();
        dropped.put("key", "other").unwrap();
        let reader = options(Arc::new(memory)).open_read_only(DIR).unwrap();
        let kind = FaultKind::ErrorAfterEffect(std::io::ErrorKind::StorageFull);
        faults.add(FaultRule::on(Operation::Write).path("MANIFEST").kind(kind).once());
        let outcome = match step {
            "clear" => writer.clear(),
            "drop" => writer.drop_keyspace("dropped"),
            _ => writer.flush(),
        };
        // A flush is tried again by itself, perhaps before its error is told.
        assert!(outcome.is_err() || step == "flush", "{step}");
        assert_eq!(faults.injected(), 1, "{step}");
        // What it shows of that is between; but a table that is not there must not be shown.
        let seen = reader.refresh();
        match step {
            "flush" => assert_eq!(reader.get("key").unwrap().as_deref(), Some(&b"value"[..])),
            _ => assert!(seen.unwrap(), "{step}: it is there to be read"),
        }
        writer.keyspace("in its place").unwrap();
        assert!(reader.refresh().unwrap(), "{step}");
        assert_eq!(reader.get("key").unwrap().as_deref(), Some(&b"value"[..]), "{step}");
        let other = reader.keyspace("dropped").unwrap().get("key").unwrap();
        assert_eq!(other.as_deref(), Some(&b"other"[..]), "{step}");
        writer.close().unwrap();
    }
}

/// One table that cannot be read does not take the others away; but where descriptors have run out, nothing is shown that
/// the writer could remove before it is read.
#[test]
fn a_table_that_cannot_be_read_is_one_table() {
    let memory = MemoryFileSystem::new();
    let faults = FaultFileSystem::new(Arc::new(memory.clone()));
    let writer = options(Arc::new(memory)).open(DIR).unwrap();
    let other = writer.keyspace("other").unwrap();
    writer.put("key", "value").unwrap();
    writer.flush().unwrap();
    let reader = options(Arc::new(faults.clone())).open_read_only(DIR).unwrap();
    other.put("key", "other").unwrap();
    writer.flush().unwrap();
    let fails = |kind| FaultRule::on(Operation::Open).path(".sst").kind(kind);
    const EMFILE: i32 = 24;
    faults.add(fails(FaultKind::Os(EMFILE)));
    reader.refresh().unwrap_err();
    options(Arc::new(faults.clone())).open_read_only(DIR).unwrap_err();
    assert_eq!(reader.keyspace("other").unwrap().get("key").unwrap(), None, "what was seen before still is");
    faults.clear();
    faults.add(fails(FaultKind::Error(std::io::ErrorKind::PermissionDenied)));
    assert!(reader.refresh().unwrap());
    assert_eq!(reader.get("key").unwrap().as_deref(), Some(&b"value"[..]));
    reader.keyspace("other").unwrap().get("key").unwrap_err();
    writer.close().unwrap();
}

/// A manifest that is written anew may be much shorter than it was.
#[test]
fn a_manifest_that_has_shrunk_is_read_from_its_beginning() {
    let mut writer = Writer::with_history();
    for round in 0..100 {
        let name = format!("{round:0>200}");
        writer.change(Change::Create(name.clone()));
        writer.change(Change::Drop(name));
    }
    let reader = options(Arc::new(writer.fs.clone())).open_read_only(DIR).unwrap();
    let len = || writer.fs.file_bytes(&Path::new(DIR).join("MANIFEST")).unwrap().len();
    let before = len();
    writer.db().close().unwrap();
    assert!(len() < before / 2, "{} of {before} bytes", len());
    assert!(reader.refresh().unwrap());
    assert_eq!(find(&reader, &writer.history, 0), Ok(writer.history.begun()));
}

/// Damage that recovery would report is reported, by an open and by a refresh, and what was seen before still is.
#[test]
fn damage_is_told_and_takes_nothing_away() {
    let mut writer = Writer::with_history();
    let begun = writer.history.begun();
    let reader = options(Arc::new(writer.fs.clone())).open_read_only(DIR).unwrap();
    let sound = writer.fs.process_kill_clone();
    // Two synced records, the second of which says that the first was.
    writer.put_everywhere(10);
    writer.db().sync().unwrap();
    let end_of_first = last_log_bytes(&writer.fs).1;
    writer.put_everywhere(10);
    writer.db().sync().unwrap();
    writer.put_everywhere(10);
    let (path, _) = last_log_bytes(&writer.fs);
    let good = writer.fs.file_bytes(&path).unwrap();
    let mut bad = good.clone();
    bad[end_of_first - 1] ^= 1;
    writer.fs.replace_bytes(&path, bad).unwrap();
    for _ in 0..3 {
        let told = reader.refresh().unwrap_err();
        assert!(matches!(&told, Error::Corruption { path: file, .. } if *file == path), "{told}");
        assert_eq!(find(&reader, &writer.history, 0), Ok(begun));
        let refused = options(Arc::new(writer.fs.clone())).open_read_only(DIR).unwrap_err();
        assert_eq!(refused.to_string(), told.to_string());
    }
    writer.fs.replace_bytes(&path, good).unwrap();
    assert!(reader.refresh().unwrap());
    assert_eq!(find(&reader, &writer.history, begun), Ok(writer.history.begun()));

    // A manifest that is damaged before its end, and one that is gone.
    let manifest = Path::new(DIR).join("MANIFEST");
    let flip = || {
        let mut bytes = writer.fs.file_bytes(&manifest).unwrap();
        bytes[100] ^= 1;
        writer.fs.replace_bytes(&manifest, bytes).unwrap();
    };
    flip();
    writer.db().flush().unwrap();
    let told = reader.refresh().unwrap_err();
    assert!(matches!(&told, Error::Corruption { path, .. } if *path == manifest), "{told}");
    flip();
    assert!(reader.refresh().unwrap());
    assert_eq!(find(&reader, &writer.history, begun), Ok(writer.history.begun()));
    let away = sound.clone();
    let reader = options(Arc::new(sound)).open_read_only(DIR).unwrap();
    away.remove_file(&manifest).unwrap();
    let told = reader.refresh().unwrap_err();
    assert!(told.to_string().contains("the manifest is missing"), "{told}");
    assert_eq!(find(&reader, &writer.history, 0), Ok(begun));
}

/// The last log segment, and where its records end.
fn last_log_bytes(fs: &MemoryFileSystem) -> (PathBuf, usize) {
    let names = fs.read_dir(Path::new(DIR)).unwrap();
    let with_records = |name: &&String| {
        let bytes = fs.file_bytes(&Path::new(DIR).join(name)).unwrap();
        name.ends_with(".log") && bytes[64..].iter().any(|byte| *byte != 0)
    };
    let name = names.iter().filter(with_records).max().unwrap();
    let path = Path::new(DIR).join(name);
    let end = fs.file_bytes(&path).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (path, end)
}

/// What cannot be opened, and why.
#[test]
fn what_is_no_database_is_told() {
    let refused =
        |fs: &MemoryFileSystem| options(Arc::new(fs.clone())).open_read_only(DIR).unwrap_err().to_string();
    let fs = MemoryFileSystem::new();
    assert!(refused(&fs).contains("there is no such directory"));
    fs.create_dir_all(Path::new(DIR)).unwrap();
    assert!(refused(&fs).contains("the directory is empty"));
    fs.lock_dir(Path::new(DIR)).unwrap();
    assert!(refused(&fs).contains("the directory is empty"));
    fs.open(&Path::new(DIR).join("notes"), OpenMode::CreateNew).unwrap();
    assert!(refused(&fs).contains("\"notes\""));
    assert_eq!(fs.read_dir(Path::new(DIR)).unwrap().len(), 2, "nothing was created");

    // A newer format: the version stands behind the magic number, and a checksum behind that does not matter.
    let writer = Writer::with_history();
    let newer = writer.fs.process_kill_clone();
    let manifest = Path::new(DIR).join("MANIFEST");
    let mut changed = newer.file_bytes(&manifest).unwrap();
    changed[8..12].copy_from_slice(&2_u32.to_le_bytes());
    newer.replace_bytes(&manifest, changed).unwrap();
    let error = options(Arc::new(newer)).open_read_only(DIR).unwrap_err();
    assert!(matches!(error, Error::UnsupportedFormat { found: 2, .. }), "{error}");

    // Another database in the same place.
    let reader = options(Arc::new(writer.fs.clone())).open_read_only(DIR).unwrap();
    let other = Writer::new();
    let bytes = other.fs.file_bytes(&manifest).unwrap();
    writer.fs.replace_bytes(&manifest, bytes).unwrap();
    let error = reader.refresh().unwrap_err();
    assert!(
        matches!(&error, Error::NotADatabase { what, .. } if what.contains("another database")),
        "{error}"
    );
    assert_eq!(find(&reader, &writer.history, 0), Ok(writer.history.begun()));

    assert!(reader.find_keyspace("third").unwrap().is_none());
    let missing = reader.keyspace("third").unwrap_err();
    assert!(
        missing.to_string().contains("no keyspace \"third\" among [\"default\", \"other\"]"),
        "{missing}"
    );
    let snapshot = reader.snapshot().unwrap();
    let stranger = options(Arc::new(other.fs.clone())).open_read_only(DIR).unwrap();
    let error = snapshot.get(&stranger, "key").unwrap_err();
    assert!(error.to_string().contains("different databases"), "{error}");
}

/// As an open for writing does: the database opens, its health says what is missing, other tables are read.
#[test]
fn a_missing_table_costs_what_it_held() {
    let mut writer = Writer::with_history();
    writer.db().settle().unwrap();
    writer.close();
    let tables: Vec<String> = writer
        .fs
        .read_dir(Path::new(DIR))
        .unwrap()
        .into_iter()
        .filter(|name| name.ends_with(".sst"))
        .collect();
    assert_eq!(tables.len(), 2, "one for each keyspace");
    let lost = Path::new(DIR).join(tables.iter().min().unwrap());
    let bytes = writer.fs.file_bytes(&lost).unwrap();
    writer.fs.remove_file(&lost).unwrap();

    let reader = options(Arc::new(writer.fs.clone())).open_read_only(DIR).unwrap();
    assert_eq!(reader.health().missing_tables, std::slice::from_ref(&lost));
    let other = reader.keyspace("other").unwrap();
    let outcomes =
        [reader.iter().unwrap(), other.iter().unwrap()].map(|mut entries| entries.next().unwrap().is_ok());
    assert!(outcomes == [true, false] || outcomes == [false, true], "{outcomes:?}");
    assert!(!reader.refresh().unwrap());

    // Once it is there again, it is read.
    drop(writer.fs.open(&lost, OpenMode::CreateNew).unwrap());
    writer.fs.replace_bytes(&lost, bytes).unwrap();
    assert!(reader.iter().unwrap().chain(other.iter().unwrap()).all(|entry| entry.is_ok()));
}

/// Tables stay open, and what was flushed does not stay in memory.
#[test]
fn a_refresh_opens_what_is_new() {
    let mut writer = Writer::with_history();
    writer.db().settle().unwrap();
    (0..10).for_each(|_| writer.put_everywhere(1000));
    let between = Between::default();
    let twisted = Twisted::new(writer.fs.clone(), between.clone());
    let reader = options(Arc::new(twisted)).open_read_only(DIR).unwrap();
    let opened = || between.tables.swap(0, SeqCst);
    assert_eq!(opened(), 2);
    assert!(!reader.refresh().unwrap());
    writer.put_everywhere(10);
    assert!(reader.refresh().unwrap());
    assert_eq!(find(&reader, &writer.history, 0), Ok(writer.history.begun()));
    assert_eq!(opened(), 0);
    assert!(reader.metrics().memtable_bytes > 10_000);
    writer.db().flush().unwrap();
    assert!(reader.refresh().unwrap());
    assert_eq!(opened(), 2, "one new table for each keyspace");
    assert_eq!(reader.metrics().memtable_bytes, 0);
    assert_eq!(find(&reader, &writer.history, 0), Ok(writer.history.begun()));
}

/// Snapshots see keyspaces that have come later as empty, and those that went as they were.
#[test]
fn snapshots_keep_the_keyspaces_of_their_time() {
    let mut writer = Writer::with_history();
    let reader = options(Arc::new(writer.fs.clone())).open_read_only(DIR).unwrap();
    let (early, other) = (reader.snapshot().unwrap(), reader.keyspace("other").unwrap());
    let held = writer.history.now().map("other").len();
    writer.step(Step::CreateAndPut);
    writer.step(Step::Drop);
    assert!(reader.refresh().unwrap());
    let third = reader.keyspace("third").unwrap();
    assert!(third.iter().unwrap().count() > 0);
    assert_eq!(early.iter(&third).unwrap().count(), 0);
    assert_eq!(early.iter(&other).unwrap().count(), held);
    let late = reader.snapshot().unwrap();
    assert!(matches!(late.iter(&other), Err(Error::KeyspaceDropped { .. })));
    assert_eq!(reader.keyspace_names().unwrap(), [DEFAULT, "third"]);
    assert_eq!((third.name(), third.options()), ("third", reader.options()));
    let all = third.multi_get(["key 0", "key 1", "key 2", "key 3", "key 4"]).unwrap();
    let each = (0..5).map(|key| third.get(format!("key {key}")).unwrap());
    assert!(all.iter().map(Option::as_deref).eq(each.collect::<Vec<_>>().iter().map(Option::as_deref)));
}

#[test]
fn the_model_is_shown_by_handles_of_both_kinds() {
    let mut writer = Writer::with_history();
    writer.db().settle().unwrap();
    writer.put_everywhere(10);
    let reader = options(Arc::new(writer.fs.clone())).open_read_only(DIR).unwrap();
    let (written, read): (Model, Model) =
        (read_all(writer.db(), &keys()).unwrap(), read_all(&reader, &keys()).unwrap());
    assert_eq!(written.difference(&read), None);
    assert_eq!(written.difference(&writer.history.now()), None);
    let (theirs, ours) = (writer.db().metrics(), reader.metrics());
    assert_eq!(theirs.log_bytes, ours.log_bytes);
    let shape = |metrics: &terrace::Metrics| -> Vec<(String, usize, u64, u64)> {
        let keyspaces = metrics.keyspaces.iter();
        keyspaces.map(|k| (k.name.clone(), k.tables, k.table_bytes, k.table_entries)).collect()
    };
    assert_eq!(shape(&theirs), shape(&ours));
    assert!(ours.memtable_bytes > 0 && ours.disk_bytes == theirs.disk_bytes);
    assert_eq!((ours.user_bytes_written, ours.flushes, ours.log_syncs), (0, 0, 0));
}
