//! Error sweep. Goal: whichever call to the file system fails, how, and for how long, no synced write is lost, no wrong
//! value is read, nothing hangs, and what can go on goes on.
//!
//! Method: a workload of everything that a user can do, three opens among it, runs over a file system in memory that
//! numbers all calls, whatever their kind. Each case runs it again with one call failing, or that and all later ones of
//! its kind, or every call from there on. The workload goes on after errors, as a stubborn user might, and all that it
//! reads is right or an error of the file system. Then these must hold what `terrace_tests::course` allows: what a
//! killed process or a power cut leaves, at some moment after the fault and at the end; and, once the file system works
//! again, the database in the same process, which goes on unless it is poisoned for a reason that is allowed, and its
//! directory when it is opened again.
//!
//! A short read or write that happens once is never noticed. Interrupted calls fail here as any other: that the
//! system's are repeated is shown by `real_faults.rs`. How often calls come varies a little with the background: a case
//! names a kind of call and the number from which on the next one of that kind fails.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use terrace::{
    Compression, Db, Durability, Error, Iter, KeyspaceOptions, Options, PointReads, Snapshot, WriteBatch,
};
use terrace_io::{CrashPolicy, FaultKind, FaultRule, MemoryFileSystem, Mutation, Operation};
use terrace_tests::course::{Bounds, Course};
use terrace_tests::faulty::Bench;
use terrace_tests::model::{Bytes, Change, DEFAULT, Model, Write};
use terrace_tests::oracle::read_all;
use terrace_tests::sweep::{Sweep, Told};
use terrace_tests::workload::noise;
use terrace_tests::{covered, eventually};

const EINTR: FaultKind = FaultKind::Os(4);
const EIO: FaultKind = FaultKind::Os(5);
const ENOMEM: FaultKind = FaultKind::Os(12);
const EACCES: FaultKind = FaultKind::Os(13);
const EMFILE: FaultKind = FaultKind::Os(24);
const ENOSPC: FaultKind = FaultKind::Os(28);
const EDQUOT: FaultKind = FaultKind::Os(122);
/// It has happened, and is reported as failed.
const AFTER: FaultKind = FaultKind::ErrorAfterEffect(ErrorKind::TimedOut);

/// Cases that are run unless the environment says otherwise.
const USUAL_CASES: u64 = 2500;

/// How a kind of call can fail.
fn kinds(operation: Operation) -> &'static [FaultKind] {
    match operation {
        Operation::Read => &[EIO, EINTR, FaultKind::ShortRead],
        Operation::Write => &[EIO, EINTR, ENOSPC, EDQUOT, FaultKind::ShortWrite, AFTER],
        Operation::SetLength => &[EIO, EINTR, ENOSPC, EDQUOT, AFTER],
        Operation::Sync => &[EIO, EINTR, ENOSPC, EDQUOT, AFTER],
        Operation::SyncDirectory => &[EIO, EINTR, EMFILE, ENOSPC, AFTER],
        Operation::Open | Operation::ReadDirectory => &[EIO, EINTR, EACCES, EMFILE],
        Operation::Create => &[EIO, EINTR, EACCES, EMFILE, ENOSPC, EDQUOT, AFTER],
        Operation::Lock => &[EIO, EINTR, EACCES, EMFILE, ENOSPC],
        Operation::Rename | Operation::Remove => &[EIO, EINTR, EACCES, ENOSPC, AFTER],
        Operation::CreateDirectory => &[EIO, EACCES, ENOSPC, AFTER],
        Operation::Map => &[EIO, ENOMEM],
        Operation::Metadata => &[EIO],
        other => panic!("nobody has thought of how to {other} can fail"),
    }
}

/// For how long it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasting {
    Once,
    /// And so does every later call of the kind.
    Forever,
    /// Every later call of any kind fails with `EIO`: the device is gone.
    Gone,
}

/// The options that the workload runs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Mapped,
    /// Reads by `pread`, compressed tables, and a log that may not grow.
    Pread,
}

#[derive(Debug, Clone)]
struct Case {
    variant: Variant,
    /// The number of the call.
    call: u64,
    operation: Operation,
    kind: FaultKind,
    lasting: Lasting,
}

impl Case {
    fn rule(&self) -> FaultRule {
        let rule = match self.lasting {
            Lasting::Once => FaultRule::on(self.operation).once(),
            Lasting::Forever => FaultRule::on(self.operation),
            Lasting::Gone => FaultRule::on_all(),
        };
        rule.kind(self.kind).from_call(self.call)
    }

    /// Nobody should notice.
    fn is_harmless(&self) -> bool {
        self.lasting == Lasting::Once && matches!(self.kind, FaultKind::ShortRead | FaultKind::ShortWrite)
    }

    /// All cases of a workload that made these calls.
    fn all(variant: Variant, calls: impl IntoIterator<Item = Operation>) -> Vec<Case> {
        let mut cases = Vec::new();
        for (call, operation) in (0..).zip(calls) {
            let case = Case { variant, call, operation, kind: EIO, lasting: Lasting::Gone };
            for &kind in kinds(operation) {
                let lasting = [Lasting::Once, Lasting::Forever];
                cases.extend(lasting.map(|lasting| Case { kind, lasting, ..case.clone() }));
            }
            cases.push(case);
        }
        cases
    }
}

/// Every key that is ever written.
fn keys() -> Vec<Bytes> {
    let long = (0..LONG_VALUES).map(|index| format!("long {index}"));
    let short = ["a", "b", "last", "pair", "afterwards"].map(str::to_owned);
    short.into_iter().chain(long).map(|key| Bytes::from(key.as_bytes())).collect()
}

/// So many of [`LONG_BYTES`] fill a segment of the log, and more than two memtables.
const LONG_VALUES: usize = 6;
const LONG_BYTES: usize = 12_000;

/// Long, incompressible, and unlike any other.
fn long_value(session: usize, index: usize) -> Vec<u8> {
    noise((session * LONG_VALUES + index) as u64, LONG_BYTES)
}

/// What a crash left.
struct Image {
    what: &'static str,
    fs: MemoryFileSystem,
    bounds: Bounds,
}

impl Image {
    fn take(bench: &Bench, course: &Course, what: &'static str, policy: Option<CrashPolicy>) -> Image {
        // What is promised is read before the copy is made and what is possible after it: work goes on meanwhile.
        let is_power_cut = policy.is_some_and(|policy| policy != CrashPolicy::KeepAll);
        let least = course.bounds(is_power_cut).least;
        let fs = match policy {
            Some(policy) => bench.memory.crash_clone(policy),
            None => bench.memory.process_kill_clone(),
        };
        Image { what, fs, bounds: Bounds { least, most: course.bounds(false).most } }
    }

    fn take_any(bench: &Bench, course: &Course, number: u64) -> Image {
        match number % 3 {
            0 => Image::take(bench, course, "killed", None),
            1 => Image::take(bench, course, "power cut", Some(CrashPolicy::DropUnsynced)),
            _ => Image::take(bench, course, "torn by a power cut", Some(CrashPolicy::Torn { seed: number })),
        }
    }
}

/// A snapshot and an iterator from before, and what they may show.
struct Watch {
    snapshot: Option<Snapshot>,
    begun: Option<(Iter, Vec<(Bytes, Bytes)>)>,
    expected: Vec<Model>,
}

/// One run of the workload.
struct Run {
    bench: Bench,
    variant: Variant,
    course: Arc<Course>,
    keys: Vec<Bytes>,
    /// What the user was told.
    errors: Vec<Error>,
    /// Whether an open that has failed must succeed the second time.
    is_once: bool,
}

impl Run {
    fn new(variant: Variant) -> Run {
        let (bench, course, keys) = (Bench::new(), Arc::default(), keys());
        Run { bench, variant, course, keys, errors: Vec::new(), is_once: true }
    }

    fn options(&self, bench: &Bench) -> Options {
        match self.variant {
            Variant::Mapped => bench.options(),
            Variant::Pread => {
                let tables = KeyspaceOptions::new().table_bytes(64 << 10).compression(Compression::Snappy);
                let options = bench.options().keyspace_defaults(tables);
                options.point_reads(PointReads::Pread).log_bytes_max(128 << 10).block_cache_bytes(0)
            }
        }
    }

    /// Takes an error in, which must be one of the file system and say where.
    fn note<T>(&mut self, outcome: terrace::Result<T>) -> Option<T> {
        let error = match outcome {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let cause = match &error {
            Error::Poisoned { cause } | Error::OutcomeUnknown { cause } => cause,
            error => error,
        };
        let says_where = cause.path().is_some_and(|path| path.starts_with(&self.bench.dir));
        assert!(matches!(cause, Error::Io { .. }) && says_where, "an error of another kind: {error:?}");
        self.errors.push(error);
        None
    }

    /// A bit of everything. `None` if the database cannot be opened any more.
    fn workload(&mut self) -> Option<Db> {
        let mut db = self.open()?;
        for session in 0..3 {
            self.session(&db, session);
            match session {
                0 => drop(db),
                1 => {
                    let closed = db.close();
                    if self.note(closed).is_some() {
                        self.course.all_synced();
                    }
                    drop(db);
                }
                _ => return Some(db),
            }
            db = self.open()?;
        }
        Some(db)
    }

    /// Opens it and finds out what is there. What fails is tried once more.
    fn open(&mut self) -> Option<Db> {
        let bounds = self.course.bounds(false);
        let mut opened = None;
        for attempt in 0..2 {
            let outcome = self.options(&self.bench).open(&self.bench.dir);
            opened = self.note(outcome);
            assert!(opened.is_some() || attempt == 0 || !self.is_once, "opening fails twice");
            if opened.is_some() {
                break;
            }
        }
        let db = opened?;
        let allowed = self.course.after_crash(bounds);
        let found = self.look(&db, &allowed).or_else(|| self.look(&db, &allowed));
        assert!(found.is_some() || !self.is_once, "reading fails twice");
        self.course.resolve(found?);
        Some(db)
    }

    fn session(&mut self, db: &Db, session: usize) {
        use Durability::{Buffered, Sync};
        let value = |what: &str| Some(format!("{what} {session}").into_bytes());
        self.write(db, &[(DEFAULT, "a", value("first"))], Sync);
        self.write(db, &[(DEFAULT, "b", value("first"))], Buffered);
        self.create(db, "other");
        self.write(db, &[("other", "a", value("other"))], Buffered);
        let watch = self.watch(db);
        let pair = |what: &str| [(DEFAULT, "pair", value(what)), ("other", "pair", value(what))];
        self.write(db, &pair("pair"), Buffered);
        self.synced(db.flush());
        for index in 0..LONG_VALUES {
            let key = format!("long {index}");
            self.write(db, &[(DEFAULT, &key, Some(long_value(session, index)))], Buffered);
        }
        self.synced(db.sync());
        self.write(db, &[(DEFAULT, "a", None), (DEFAULT, "b", value("again"))], Sync);
        self.create(db, "temporary");
        self.write(db, &[("temporary", "a", value("temporary"))], Buffered);
        self.look(db, &self.course.alive());
        if self.course.now().keyspaces().contains_key("temporary") {
            self.change(Change::Drop("temporary".to_owned()), || db.drop_keyspace("temporary"));
        }
        self.synced(db.settle());
        self.unwatch(db, watch);
        self.write(db, &pair("another pair"), Buffered);
        if self.course.now().keyspaces().contains_key("other") {
            self.change(Change::Clear("other".to_owned()), || db.keyspace("other")?.clear());
        }
        self.write(db, &[("other", "a", value("cleared"))], Buffered);
        let compacted = db.compact_range::<&str>(..);
        self.note(compacted);
        self.write(db, &pair("last pair"), Buffered);
        self.write(db, &[(DEFAULT, "last", value("last"))], Sync);
        self.look(db, &self.course.alive());
    }

    /// A batch. It is left out if a keyspace is not there.
    fn write(&mut self, db: &Db, writes: &[(&str, &str, Option<Vec<u8>>)], durability: Durability) {
        let now = self.course.now();
        if writes.iter().any(|(keyspace, ..)| !now.keyspaces().contains_key(*keyspace)) {
            return;
        }
        let mut batch = WriteBatch::new();
        let mut change = Vec::new();
        for (keyspace, key, value) in writes {
            // After a drop of unknown outcome it may be gone.
            let Some(handle) = self.note(db.keyspace(keyspace)) else { return };
            match value {
                Some(value) => batch.put(&handle, key, value),
                None => batch.delete(&handle, key),
            }
            let (keyspace, key) = ((*keyspace).to_owned(), Bytes::from(key.as_bytes()));
            change.push(Write { keyspace, key, value: value.as_ref().map(|value| Bytes::from(&**value)) });
        }
        self.course.begin(&Change::Batch(change));
        let outcome = db.write_with(batch, durability);
        self.course.end(&outcome, durability == Durability::Sync);
        self.note(outcome);
    }

    fn create(&mut self, db: &Db, name: &str) {
        if !self.course.now().keyspaces().contains_key(name) {
            self.change(Change::Create(name.to_owned()), || db.keyspace(name).map(drop));
        }
    }

    /// A change that is durable when it is done.
    fn change(&mut self, change: Change, make: impl FnOnce() -> terrace::Result<()>) {
        self.course.begin(&change);
        let outcome = make();
        self.course.end(&outcome, true);
        self.note(outcome);
    }

    /// What makes everything durable, if it succeeds.
    fn synced(&mut self, outcome: terrace::Result<()>) {
        if self.note(outcome).is_some() {
            self.course.all_synced();
        }
    }

    /// Reads everything: right, or an error. What is found, if there was none.
    fn look(&mut self, db: &Db, allowed: &[Model]) -> Option<Model> {
        let names = db.keyspace_names().unwrap();
        let known = self.errors.len();
        let mut gets = Vec::new();
        let mut scans = Vec::new();
        for name in &names {
            let keyspace = db.keyspace(name).unwrap();
            for key in self.keys.clone() {
                if let Some(found) = self.note(keyspace.get(&key)) {
                    gets.push((name, key, found.map(|value| Bytes::from(&*value))));
                }
            }
            let scan = self.note(keyspace.iter()).map(|iter| self.scan(iter, Vec::new()));
            scans.push(scan.unwrap_or_default());
        }
        let is_right = |model: &&Model| {
            names.iter().eq(model.keyspaces().keys())
                && gets.iter().all(|(name, key, found)| model.map(name).get(key) == found.as_ref())
                && names.iter().zip(&scans).all(|(name, scan)| is_scan(scan, model, name))
        };
        let Some(found) = allowed.iter().find(is_right) else {
            let shown = gets.iter().map(|(name, key, found)| {
                let found = found.as_ref().map(|value| terrace_tests::model::abbreviated(value));
                (name, key.escape_ascii().to_string(), found)
            });
            let shown: Vec<_> = shown.collect();
            panic!("wrong values: keyspaces {names:?}, {shown:?}; allowed is {allowed:?}");
        };
        (self.errors.len() == known).then(|| found.clone())
    }

    /// What an iterator gives, behind what it has given before, and whether that is all.
    fn scan(&mut self, iter: Iter, mut found: Vec<(Bytes, Bytes)>) -> Scan {
        for entry in iter {
            let Some((key, value)) = self.note(entry) else { return (found, false) };
            found.push((Bytes::from(&*key), Bytes::from(&*value)));
        }
        (found, true)
    }

    fn watch(&mut self, db: &Db) -> Watch {
        let expected = self.course.alive();
        let snapshot = self.note(db.snapshot());
        let begun = self.note(db.iter()).and_then(|mut iter| {
            let first = iter.next().map(|entry| self.note(entry));
            let found = match first {
                Some(Some((key, value))) => vec![(Bytes::from(&*key), Bytes::from(&*value))],
                Some(None) => return None,
                None => Vec::new(),
            };
            Some((iter, found))
        });
        Watch { snapshot, begun, expected }
    }

    fn unwatch(&mut self, db: &Db, watch: Watch) {
        let mut scans = Vec::new();
        if let Some((iter, found)) = watch.begun {
            scans.push(self.scan(iter, found));
        }
        if let Some(snapshot) = watch.snapshot {
            let default = db.keyspace(DEFAULT).unwrap();
            let iter = self.note(snapshot.iter(&default));
            scans.extend(iter.map(|iter| self.scan(iter, Vec::new())));
        }
        for scan in &scans {
            let is_right = watch.expected.iter().any(|model| is_scan(scan, model, DEFAULT));
            assert!(is_right, "an iterator or a snapshot from before shows something else: {scan:?}");
        }
    }

    /// What is found in an image is allowed, and it takes writes that survive.
    fn check(&self, image: &Image) {
        let Image { what, fs, bounds } = image;
        let bench = Bench::over(fs.clone(), self.bench.dir.clone());
        let db = self.options(&bench).open(&bench.dir);
        let db = db.unwrap_or_else(|error| panic!("{what}: cannot open: {error}"));
        let found = read_all(&db, &self.keys).unwrap_or_else(|why| panic!("{what}: {why}"));
        let allowed = self.course.after_crash(*bounds);
        if !allowed.contains(&found) {
            let against = |model: &Model| found.difference(model).unwrap_or_default();
            let differences: Vec<_> = allowed.iter().map(against).collect();
            panic!("{what}: not what {bounds:?} allow; found against what is allowed: {differences:#?}");
        }
        db.put("afterwards", "yes").unwrap_or_else(|error| panic!("{what}: takes no writes: {error}"));
        let cut = bench.crashed(CrashPolicy::DropUnsynced);
        db.close().unwrap_or_else(|error| panic!("{what}: does not close: {error}"));
        let db = self.options(&cut).open(&cut.dir).unwrap_or_else(|error| panic!("{what}, twice: {error}"));
        let again = read_all(&db, &self.keys).unwrap_or_else(|why| panic!("{what}, twice: {why}"));
        let mut expected = found;
        expected.apply(&afterwards());
        assert_eq!(again.difference(&expected), None, "{what}: lost by a second crash");
    }

    /// The file system works again: what can go on goes on.
    fn go_on(&mut self, db: &Db) {
        let found = self.look(db, &self.course.alive());
        assert!(
            found.is_some(),
            "it cannot be read although the file system works: {:?}",
            self.errors.last()
        );
        let poisoned = db.health().poisoned;
        match &poisoned {
            Some(cause) => {
                assert!(may_poison(cause), "this is no reason to take no more writes: {cause}");
                match db.put("afterwards", "yes") {
                    Err(Error::Poisoned { cause: told }) => assert_eq!(told.to_string(), cause.to_string()),
                    other => panic!("poisoned, but a write gets {other:?}"),
                }
            }
            None => {
                db.settle().unwrap_or_else(|error| panic!("it does not settle afterwards: {error}"));
                self.course.begin(&afterwards());
                let outcome = db.put("afterwards", "yes");
                self.course.end(&outcome, true);
                outcome.unwrap_or_else(|error| panic!("it takes no writes afterwards: {error}"));
                assert!(self.look(db, &self.course.alive()).is_some(), "it cannot be read afterwards");
                // The thread that was in trouble may not have looked yet.
                eventually("it is well afterwards", || db.health().is_ok());
            }
        }
        match db.close() {
            Ok(()) => self.course.all_synced(),
            Err(error) => assert!(poisoned.is_some(), "it does not close afterwards: {error}"),
        }
    }
}

fn afterwards() -> Change {
    let (key, value) = (Bytes::from(&b"afterwards"[..]), Some(Bytes::from(&b"yes"[..])));
    Change::Batch(vec![Write { keyspace: DEFAULT.to_owned(), key, value }])
}

/// What a scan has found, and whether it came to the end.
type Scan = (Vec<(Bytes, Bytes)>, bool);

/// Whether a scan shows a keyspace, or the first part of it and then an error.
fn is_scan((found, is_whole): &Scan, model: &Model, keyspace: &str) -> bool {
    let map = model.map(keyspace);
    let expected = map.iter().take(found.len());
    found.iter().map(|(key, value)| (key, value)).eq(expected) && (!is_whole || found.len() == map.len())
}

/// Whether a failure is a reason to take no more writes: a sync of the log or of the manifest, or anything after which
/// the manifest may be one or the other. Tables never are, nor is a full disk that has refused bytes or a name.
fn may_poison(cause: &Error) -> bool {
    let Error::Io { path, operation, .. } = cause else { return false };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match operation {
        Operation::Sync => name.ends_with(".log") || name.starts_with("MANIFEST"),
        _ if name.ends_with(".log") || name.contains(".sst") => false,
        Operation::Write | Operation::SetLength | Operation::Create | Operation::Rename => {
            !cause.is_disk_full()
        }
        _ => true,
    }
}

/// The calls of the workload without faults.
fn calls(variant: Variant) -> Vec<Operation> {
    let mut run = Run::new(variant);
    run.bench.faults.record();
    let db = run.workload().unwrap();
    let calls = run.bench.faults.recorded();
    run.go_on(&db);
    assert!(run.errors.is_empty(), "{:?}", run.errors);
    assert!(
        calls
            .iter()
            .any(|(operation, path)| *operation == Operation::Rename && path.ends_with("MANIFEST.tmp"))
    );
    calls.into_iter().map(|(operation, _)| operation).collect()
}

/// One case. Says whether its call was met.
fn run(case: &Case, number: u64) -> bool {
    let mut run = Run::new(case.variant);
    run.is_once = case.lasting == Lasting::Once;
    run.bench.faults.add(case.rule());
    // The moment of an image after the fault.
    let delay = number / 3 % 24;
    let (passed, image) = (AtomicU64::new(0), Arc::new(Mutex::new(None)));
    let hook = {
        let (bench, course, image) = (run.bench.clone(), run.course.clone(), image.clone());
        move |_: &Mutation<'_>| {
            if bench.faults.injected() > 0 && passed.fetch_add(1, Relaxed) == delay {
                *image.lock().unwrap() = Some(Image::take_any(&bench, &course, number));
            }
        }
    };
    run.bench.memory.set_hook(hook);
    let db = run.workload();
    run.bench.memory.remove_hook();
    let met = run.bench.faults.injected() > 0;
    if case.is_harmless() {
        assert!(run.errors.is_empty(), "a short call was noticed: {:?}", run.errors);
    }
    let image = image.lock().unwrap().take();
    let images =
        image.into_iter().chain((0..3).map(|way| Image::take_any(&run.bench, &run.course, 3 * number + way)));
    for image in images.collect::<Vec<_>>() {
        run.check(&image);
    }
    run.bench.faults.clear();
    if let Some(db) = db {
        run.go_on(&db);
    }
    let least = run.course.bounds(false);
    run.check(&Image { what: "opened again", fs: run.bench.memory.clone(), bounds: least });
    met
}

#[test]
fn every_call_fails_in_every_way() {
    const TEST: &str = "every_call_fails_in_every_way";
    let variants = [Variant::Mapped, Variant::Pread];
    let cases: Vec<Case> = variants.iter().flat_map(|&variant| Case::all(variant, calls(variant))).collect();
    let met = AtomicU64::new(0);
    let case = |(): &mut (), number: u64| {
        let case = &cases[number as usize];
        let _told = Told(case);
        met.fetch_add(u64::from(run(case, number)), Relaxed);
    };
    let done = Sweep::new(TEST, cases.len() as u64, USUAL_CASES).run(|| (), case);
    // The last calls of a run may not come in the next one, above all where the background is short of processors: of
    // 400, 369 were met beside five more runs on two.
    let met = met.into_inner();
    covered(TEST, format_args!("{met} of {done} faults were met"));
    assert!(done < 100 || met * 4 >= done * 3, "only {met} of {done} faults were met");
}
