//! Checkpoints under crashes and faults. Goal: whenever the machine or the process stops, and whichever call to the file
//! system fails, what is found in the place of a checkpoint is a whole one or none; one that was acknowledged is whole;
//! and the database is what it was before.
//!
//! Method: a small database over a file system in memory that numbers all calls. While a checkpoint is made of it, linked
//! or copied, the file system is copied before each operation that changes a file, as a crash right then could leave
//! it. In other cases one call fails, or all of a kind, or all, and the crash comes while the checkpoint cleans up. In
//! each of these images the database must be opened, and the checkpoint be whole or be refused; and the next checkpoint
//! must be made, or say what is in its way.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use terrace::{
    Compression, Db, Durability, Error, KeyspaceOptions, Options, VerifyOptions, WriteBatch, verify,
};
use terrace_io::{CrashPolicy, FaultKind, FaultRule, FileSystem, MemoryFileSystem, Mutation, Operation};
use terrace_tests::covered;
use terrace_tests::faulty::Bench;
use terrace_tests::model::{Bytes, Change, DEFAULT, Model, Write};
use terrace_tests::oracle::read_all;
use terrace_tests::sweep::{Sweep, Told};
use terrace_tests::workload::noise;

/// The database.
const DIR: &str = "/database";
/// Its checkpoint.
const COPY: &str = "/checkpoints/first";
/// One of after a fault.
const LATER: &str = "/checkpoints/later";
/// A keyspace with compressed tables.
const PACKED: &str = "packed";

const EIO: FaultKind = FaultKind::Os(5);
const EACCES: FaultKind = FaultKind::Os(13);
const EXDEV: FaultKind = FaultKind::Os(18);
const EMFILE: FaultKind = FaultKind::Os(24);
const ENOSPC: FaultKind = FaultKind::Os(28);
/// It has happened, and is reported as failed.
const AFTER: FaultKind = FaultKind::ErrorAfterEffect(ErrorKind::TimedOut);

/// Cases with faults that are run unless the environment says otherwise.
const USUAL_CASES: u64 = 150;

/// In one image of so many a checkpoint is made anew.
const AGAIN_ONE_IN: usize = 4;

/// How a kind of call can fail.
fn kinds(operation: Operation) -> &'static [FaultKind] {
    match operation {
        Operation::Link => &[EIO, ENOSPC, AFTER, EXDEV],
        Operation::Read => &[EIO, FaultKind::ShortRead],
        Operation::Write => &[EIO, ENOSPC, FaultKind::ShortWrite, AFTER],
        Operation::Sync | Operation::Create | Operation::Rename | Operation::CreateDirectory => {
            &[EIO, ENOSPC, AFTER]
        }
        Operation::SyncDirectory | Operation::Remove => &[EIO, AFTER],
        Operation::Open | Operation::ReadDirectory => &[EIO, EMFILE],
        Operation::Lock => &[EIO, EACCES],
        Operation::SetLength | Operation::Map | Operation::Metadata => &[EIO],
        other => panic!("nobody has thought of how to {other} can fail"),
    }
}

/// For how long it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasting {
    Once,
    /// And so does every later call of the kind.
    Forever,
    /// Every later call of any kind fails with `EIO`.
    Gone,
}

#[derive(Debug, Clone)]
struct Case {
    is_linked: bool,
    /// The number of the call, counted from the beginning of the checkpoint.
    call: u64,
    operation: Operation,
    kind: FaultKind,
    lasting: Lasting,
}

impl Case {
    fn all(is_linked: bool, calls: &[Operation]) -> Vec<Case> {
        let mut cases = Vec::new();
        for (call, &operation) in (0..).zip(calls) {
            // Those that are to be copied have their links refused anyway.
            if operation == Operation::Link && !is_linked {
                continue;
            }
            let case = Case { is_linked, call, operation, kind: EIO, lasting: Lasting::Gone };
            for &kind in kinds(operation) {
                let lasting = [Lasting::Once, Lasting::Forever];
                cases.extend(lasting.map(|lasting| Case { kind, lasting, ..case.clone() }));
            }
            cases.push(case);
        }
        cases
    }

    fn rule(&self) -> FaultRule {
        let rule = match self.lasting {
            Lasting::Once => FaultRule::on(self.operation).once(),
            Lasting::Forever => FaultRule::on(self.operation),
            Lasting::Gone => FaultRule::on_all(),
        };
        rule.kind(self.kind)
    }

    /// The checkpoint is made all the same.
    fn is_harmless(&self) -> bool {
        let is_short = matches!(self.kind, FaultKind::ShortRead | FaultKind::ShortWrite);
        self.kind == EXDEV || is_short && self.lasting == Lasting::Once
    }
}

/// Nothing is flushed, and no segment made, but when it is asked for: every run makes the same calls.
fn options(bench: &Bench) -> Options {
    bench.options().memtable_bytes(4 << 20).segment_bytes_max(4 << 20)
}

/// A batch in both keyspaces, and what it does to the model.
fn write(db: &Db, model: &mut Model, number: u64, durability: Durability) {
    let packed = db.keyspace(PACKED).unwrap();
    let mut batch = WriteBatch::new();
    let mut change = Vec::new();
    for index in 0..6 {
        let key = format!("key {:02}", (7 * number + 3 * index) % 40);
        let value = noise(100 * number + index, 700);
        for (name, keyspace) in [(DEFAULT, &**db), (PACKED, &packed)] {
            let is_delete = (number + index).is_multiple_of(5);
            match is_delete {
                true => batch.delete(keyspace, &key),
                false => batch.put(keyspace, &key, &value),
            }
            change.push(Write {
                keyspace: name.to_owned(),
                key: Bytes::from(key.as_bytes()),
                value: (!is_delete).then(|| Bytes::from(&*value)),
            });
        }
    }
    db.write_with(batch, durability).unwrap();
    model.apply(&Change::Batch(change));
}

/// Every key that is ever written.
fn keys() -> Vec<Bytes> {
    let keys = (0..40).map(|number| Bytes::from(format!("key {number:02}").as_bytes()));
    keys.chain([Bytes::from(&b"afterwards"[..])]).collect()
}

/// A closed database with tables in two levels of two keyspaces.
fn prepared() -> &'static (MemoryFileSystem, Model) {
    static PREPARED: OnceLock<(MemoryFileSystem, Model)> = OnceLock::new();
    PREPARED.get_or_init(|| {
        let bench = Bench::over(MemoryFileSystem::new(), DIR.into());
        let db = options(&bench).open(DIR).unwrap();
        let mut model = Model::default();
        model.apply(&Change::Create(PACKED.to_owned()));
        let tables = KeyspaceOptions::new().table_bytes(64 << 10).compression(Compression::Snappy);
        db.keyspace_with(PACKED, tables).unwrap();
        (0..20).for_each(|number| write(&db, &mut model, number, Durability::Buffered));
        db.settle().unwrap();
        (20..23).for_each(|number| write(&db, &mut model, number, Durability::Buffered));
        db.close().unwrap();
        (bench.memory.crash_clone(CrashPolicy::KeepAll), model)
    })
}

/// A database of which a checkpoint is about to be made.
struct Stage {
    bench: Bench,
    db: Db,
    /// What it holds: after what was synced, and after each write since.
    states: Vec<Model>,
    /// The number of the next call.
    first_call: u64,
}

impl Stage {
    fn new(is_linked: bool) -> Stage {
        let (memory, model) = prepared();
        let bench = Bench::over(memory.process_kill_clone(), DIR.into());
        bench.faults.record();
        let db = options(&bench).open(DIR).unwrap();
        let mut now = model.clone();
        write(&db, &mut now, 30, Durability::Sync);
        let mut states = vec![now.clone()];
        for number in 31..34 {
            write(&db, &mut now, number, Durability::Buffered);
            states.push(now.clone());
        }
        if !is_linked {
            bench.faults.add(FaultRule::on(Operation::Link).kind(EXDEV));
        }
        let first_call = bench.faults.recorded().len() as u64;
        Stage { bench, db, states, first_call }
    }

    fn now(&self) -> &Model {
        &self.states[self.states.len() - 1]
    }

    /// From now on takes images before each mutation, once so many calls of the file system have been made: those that a
    /// crash could leave, each once.
    fn photograph(&self, from_call: u64, seed: u64) -> Arc<Mutex<Vec<Image>>> {
        let images = Arc::new(Mutex::new(Vec::new()));
        let known = Mutex::new(HashSet::new());
        let (bench, taken) = (self.bench.clone(), images.clone());
        self.bench.memory.set_hook(move |mutation: &Mutation<'_>| {
            if bench.faults.recorded().len() as u64 <= from_call {
                return;
            }
            for (cause, fs) in crashes(&bench.memory, seed ^ mutation.index) {
                if known.lock().unwrap().insert(fs.fingerprint()) {
                    let what =
                        format!("{cause}, before {} of {}", mutation.operation, mutation.path.display());
                    taken.lock().unwrap().push(Image { what, fs });
                }
            }
        });
        images
    }

    /// Looks at an image: whether the checkpoint is there. The database is in one of `states`.
    fn check(&self, image: &Image, states: &[Model], is_again: bool) -> bool {
        let Image { what, fs } = image;
        let bench = Bench::over(fs.clone(), DIR.into());
        let is_there = check_copy(&bench, COPY, self.now(), what);
        let db = options(&bench).create_if_missing(false).open(DIR);
        let db = db.unwrap_or_else(|error| panic!("{what}: the database does not open: {error}"));
        let found = read_all(&db, &keys()).unwrap_or_else(|why| panic!("{what}: {why}"));
        assert!(states.contains(&found), "{what}: the database has {:?}", found.difference(self.now()));
        if is_again {
            make_again(&bench, &db, &found, is_there, what);
        }
        db.close().unwrap();
        is_there
    }
}

/// What crashes may leave of a file system, with a word for each.
fn crashes(memory: &MemoryFileSystem, seed: u64) -> impl Iterator<Item = (String, MemoryFileSystem)> {
    let fixed =
        [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll, CrashPolicy::DropEntries, CrashPolicy::DropBytes];
    let torn = (0..3).map(move |number| CrashPolicy::Torn { seed: seed.wrapping_mul(3) + number });
    let killed = ("killed".to_owned(), memory.process_kill_clone());
    let crashed = |policy| (format!("{policy:?}"), memory.crash_clone(policy));
    fixed.into_iter().chain(torn).map(crashed).collect::<Vec<_>>().into_iter().chain([killed])
}

/// What a crash has left.
struct Image {
    what: String,
    fs: MemoryFileSystem,
}

fn names(fs: &MemoryFileSystem, dir: &str) -> Vec<String> {
    let mut names = fs.read_dir(Path::new(dir)).unwrap_or_default();
    names.sort();
    names
}

/// A checkpoint that opens is whole. Says whether there is one; if not, an open says so.
fn check_copy(bench: &Bench, at: &str, expected: &Model, what: &str) -> bool {
    let has_manifest = names(&bench.memory, at).iter().any(|name| name == "MANIFEST");
    match options(bench).create_if_missing(false).open(at) {
        Ok(copy) => {
            let found = read_all(&copy, &keys()).unwrap_or_else(|why| panic!("{what}: {at}: {why}"));
            assert_eq!(found.difference(expected), None, "{what}: {at}");
            copy.close().unwrap_or_else(|error| panic!("{what}: {at}: {error}"));
            let how = VerifyOptions::new().threads(1).file_system(Arc::new(bench.memory.clone()));
            let report = verify(at, &how).unwrap();
            assert!(report.is_ok(), "{what}: {report:?}");
            true
        }
        Err(Error::Corruption { .. } | Error::NotADatabase { .. }) if !has_manifest => false,
        Err(error) => panic!("{what}: what is left of a checkpoint seems to be one: {error}"),
    }
}

/// The next checkpoint in the same place is made, or says what is in its way.
fn make_again(bench: &Bench, db: &Db, expected: &Model, is_there: bool, what: &str) {
    match db.checkpoint(COPY) {
        Ok(_) => assert!(!is_there, "{what}: a checkpoint in the place of another"),
        Err(Error::InvalidArgument(why)) => {
            assert!(why.contains("not empty"), "{what}: {why}");
            assert_eq!(why.contains("interrupted"), !is_there, "{what}: {why}");
            for name in names(&bench.memory, COPY) {
                bench.memory.remove_file(&Path::new(COPY).join(name)).unwrap();
            }
            db.checkpoint(COPY).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        Err(error) => panic!("{what}: {error}"),
    }
    assert!(check_copy(bench, COPY, expected, what));
}

#[test]
fn a_crash_leaves_a_whole_checkpoint_or_none() {
    const TEST: &str = "a_crash_leaves_a_whole_checkpoint_or_none";
    for is_linked in [true, false] {
        let stage = Stage::new(is_linked);
        let images = stage.photograph(0, 11);
        let report = stage.db.checkpoint(COPY).unwrap();
        stage.bench.memory.remove_hook();
        let shared = if is_linked { report.tables_linked } else { report.tables_copied };
        assert!(shared >= 4 && report.tables_written == 2, "{report:?}");
        let images = std::mem::take(&mut *images.lock().unwrap());
        let mut there = 0;
        for (number, image) in images.iter().enumerate() {
            let is_again = number % AGAIN_ONE_IN == 0;
            there += usize::from(stage.check(image, &stage.states, is_again));
        }
        // Acknowledged: whatever comes now, it is there, and so is all of it in the database.
        let now = &stage.states[stage.states.len() - 1..];
        for (cause, fs) in crashes(&stage.bench.memory, 12) {
            let image = Image { what: format!("{cause}, after it was acknowledged"), fs };
            assert!(stage.check(&image, now, true), "{}: it is gone", image.what);
        }
        let how = if is_linked { "linked" } else { "copied" };
        let count = images.len();
        covered(TEST, format_args!("{how}: {count} distinct images of crashes, {there} with a checkpoint"));
        assert!(there > 0 && count - there > 10, "{there} of {count}");
    }
}

/// The calls of a checkpoint without faults.
fn calls(is_linked: bool) -> Vec<Operation> {
    let stage = Stage::new(is_linked);
    stage.db.checkpoint(COPY).unwrap();
    let calls = stage.bench.faults.recorded().split_off(stage.first_call as usize);
    calls.into_iter().map(|(operation, _)| operation).collect()
}

/// One case. Says whether its call was met.
fn run(case: &Case, number: u64, images_seen: &AtomicU64) -> bool {
    let stage = Stage::new(case.is_linked);
    let from_call = stage.first_call + case.call;
    stage.bench.faults.add(case.rule().from_call(from_call));
    let images = stage.photograph(from_call, number);
    let outcome = stage.db.checkpoint(COPY);
    stage.bench.memory.remove_hook();
    let refused_links = if case.is_linked { 0 } else { stage.bench.faults.calls(Operation::Link) };
    let met = stage.bench.faults.injected() > refused_links;
    stage.bench.faults.clear();
    let is_there = outcome.is_ok();
    if let Err(error) = &outcome {
        let cause = match error {
            Error::OutcomeUnknown { cause } | Error::Poisoned { cause } => cause,
            error => error,
        };
        let says_where =
            cause.path().is_some_and(|path| path.starts_with(DIR) || path.starts_with("/checkpoints"));
        assert!(matches!(cause, Error::Io { .. }) && says_where, "an error of another kind: {error:?}");
        assert!(!case.is_harmless(), "what is harmless was noticed: {error}");
        if case.lasting == Lasting::Once {
            let left = names(&stage.bench.memory, COPY);
            assert!(left.iter().all(|name| name == "LOCK"), "{error}, but this is left: {left:?}");
        }
    }
    let images = std::mem::take(&mut *images.lock().unwrap());
    images_seen.fetch_add(images.len() as u64, Relaxed);
    for image in &images {
        stage.check(image, &stage.states, false);
    }
    // What was acknowledged is durable, and what was not is no checkpoint, or a whole one.
    let cut = Bench::over(stage.bench.memory.crash_clone(CrashPolicy::DropUnsynced), DIR.into());
    let survived = check_copy(&cut, COPY, stage.now(), "after all of it, and a power cut");
    assert!(survived || !is_there, "a checkpoint that was acknowledged is gone");
    let found = check_copy(&stage.bench, COPY, stage.now(), "after all of it");
    assert!(found || !is_there);

    // The database goes on, unless it is poisoned.
    let mut expected = stage.now().clone();
    let read = read_all(&stage.db, &keys());
    match &stage.db.health().poisoned {
        None => {
            assert_eq!(read.unwrap().difference(&expected), None);
            stage.db.put("afterwards", "yes").unwrap();
            let (key, value) = (Bytes::from(&b"afterwards"[..]), Some(Bytes::from(&b"yes"[..])));
            expected.apply(&Change::Batch(vec![Write { keyspace: DEFAULT.to_owned(), key, value }]));
            stage.db.checkpoint(LATER).unwrap();
            assert!(check_copy(&stage.bench, LATER, &expected, "after a fault"));
        }
        Some(cause) => {
            let is_sync = matches!(cause, Error::Io { operation: Operation::Sync, .. });
            assert!(is_sync && cause.path().is_some_and(|path| path.starts_with(DIR)), "{cause}");
            assert!(matches!(stage.db.checkpoint(LATER), Err(Error::Poisoned { .. })));
        }
    }
    met
}

#[test]
fn a_checkpoint_fails_without_a_trace() {
    const TEST: &str = "a_checkpoint_fails_without_a_trace";
    let cases: Vec<Case> =
        [true, false].into_iter().flat_map(|is_linked| Case::all(is_linked, &calls(is_linked))).collect();
    let (met, images) = (AtomicU64::new(0), AtomicU64::new(0));
    let case = |(): &mut (), number: u64| {
        let case = &cases[number as usize];
        let _told = Told(case);
        met.fetch_add(u64::from(run(case, number, &images)), Relaxed);
    };
    let done = Sweep::new(TEST, cases.len() as u64, USUAL_CASES).run(|| (), case);
    let (met, images) = (met.into_inner(), images.into_inner());
    covered(TEST, format_args!("{met} of {done} faults were met; {images} images of crashes after them"));
    assert!(done < 50 || met * 4 >= done * 3, "only {met} of {done} faults were met");
}
