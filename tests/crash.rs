//! Goal: whenever the machine or the process stops, the next open finds a first part of the history, whole batches
//! only, that contains every write that was acknowledged as surviving that.
//!
//! Method: a small workload runs on a file system in memory that knows what was synced. Before each operation that
//! changes a file it is copied as it could be found after a crash right then: with everything unsynced lost, with
//! everything kept, with names lost and bytes kept, with bytes lost and names kept, torn in six ways, and as a killed
//! process leaves it. Meanwhile other threads open these images and ask the oracle (`terrace_tests::oracle`); each is
//! opened for reading only before, which must show the same and change nothing. Of some
//! images the recovery is crashed in the same way, and those images must hold what the first one held. Of some, the
//! recovered database is written to and opened again.
//!
//! Most images are equal to others. What was found in an image is remembered by its fingerprint, and an equal one is
//! not opened again: what was found must be right for this one too, which may have to hold more.
//!
//! A workload that never comes to an operation says nothing about it: what came up is counted, and all of it must.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use terrace::{Compression, Db, Durability, FileSystem, KeyspaceOptions, Options, WriteBatch};
use terrace_io::{CrashPolicy, MemoryFileSystem, Mutation, OpenMode};
use terrace_tests::model::{Bytes, Change, DEFAULT, Model, Write};
use terrace_tests::oracle::{History, read_all};
use terrace_tests::tally::Tally;
use terrace_tests::workload::{Generator, ValueLengths};
use terrace_tests::{Trace, covered, seeds};

/// Torn images of each point.
const TORN: u64 = 6;

/// Images that may wait to be looked at: the workload waits when there are more.
const WAITING_MAX: usize = 64;

/// Of one image in so many that are looked at, the recovery is crashed too.
const SECOND_CRASH_ONE_IN: u64 = 100;

/// A manifest that is longer is written anew while the database runs, because it has grown.
const MANIFEST_GROWN_BYTES: usize = 256 << 10;

/// What a workload does, and so what crashes come in the middle of.
const MUST_HAPPEN: &[&str] = &[
    "point: table create",
    "point: table write",
    "point: table sync",
    "point: table rename",
    "point: table remove",
    "point: segment create",
    "point: segment write",
    "point: segment sync",
    "point: segment rename",
    "point: segment remove",
    "point: manifest create",
    "point: manifest write",
    "point: manifest sync",
    "point: manifest rename",
    "point: directory sync directory",
    "event: batches",
    "event: clears",
    "event: closes",
    "event: compactions",
    "event: creates",
    "event: drops",
    "event: flushes",
    "event: losses of the handle",
    "event: manifests replaced",
    "event: puts",
    "event: segments recycled",
    "event: trivial moves",
];

#[test]
fn one_writer() {
    let (generator, options) = (usual, plain);
    Test {
        what: "one_writer",
        usual: 6,
        steps: 70,
        weights: WEIGHTS,
        generator,
        options,
        must_happen: MUST_HAPPEN,
    }
    .run();
}

#[test]
fn compressed_and_retired_early() {
    let what = "compressed_and_retired_early";
    let options = |file_system| {
        let defaults = KeyspaceOptions::new().table_bytes(64 << 10).compression(Compression::Snappy);
        plain(file_system).keyspace_defaults(defaults).log_bytes_max(128 << 10).memtables_max(2)
    };
    Test { what, usual: 3, steps: 70, weights: WEIGHTS, generator: usual, options, must_happen: MUST_HAPPEN }
        .run();
}

/// Tables that begin and end with long keys make long edits, and so a manifest that is soon too long.
#[test]
fn a_manifest_that_grows() {
    let what = "a_manifest_that_grows";
    let generator = |seed| {
        let values = ValueLengths { usual: 10..500, paged_one_in: 50, large: (1000, 0..1) };
        Generator::new(seed, 8, 2, values)
    };
    let must_happen = &["event: manifests replaced because they had grown"];
    Test { what, usual: 3, steps: 40, weights: FLUSHES, generator, options: plain, must_happen }.run();
}

fn usual(seed: u64) -> Generator {
    // Rarely, a batch that does not fit in a segment.
    Generator::new(
        seed,
        60,
        1,
        ValueLengths { usual: 10..2_500, paged_one_in: 12, large: (60, 60_000..150_000) },
    )
}

/// Everything small, so that a short history goes through everything.
fn plain(file_system: Arc<dyn FileSystem>) -> Options {
    Options::new()
        .memtable_bytes(64 << 10)
        .segment_bytes_max(64 << 10)
        .l0_trigger(2)
        .level_base_bytes(64 << 10)
        .level_multiplier(2)
        .compaction_threads(1)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(64 << 10))
        .file_system(file_system)
}

/// A kind of workload, and how much of it.
struct Test {
    what: &'static str,
    /// How many seeds the usual version tries.
    usual: u64,
    /// How many steps the workload takes, besides one of each kind.
    steps: usize,
    weights: Weights,
    generator: fn(u64) -> Generator,
    options: fn(Arc<dyn FileSystem>) -> Options,
    /// What should have been counted by then. More seeds are tried until it has, but not many.
    must_happen: &'static [&'static str],
}

impl Test {
    fn run(&self) {
        let Test { what, usual, must_happen, .. } = *self;
        let all = Tally::default();
        let (mut tried, mut last) = (0, 0);
        for seed in seeds(usual) {
            all.merge(self.run_one(seed));
            (tried, last) = (tried + 1, seed);
        }
        // Fewer were asked for: then nobody relies on what came up.
        let all_asked_for = tried >= usual;
        while all_asked_for && tried < 4 * usual && !all.missing(must_happen).is_empty() {
            (tried, last) = (tried + 1, last.wrapping_add(1));
            all.merge(self.run_one(last));
        }
        println!("{what}: points: {}", all.show("point: "));
        println!("{what}: events: {}", all.show("event: "));
        covered(
            what,
            format_args!(
                "{} crash points ({}), {} images ({}), {} of them distinct; {} of second crashes, {} of them \
                 distinct; {}",
                all.sum("file: "),
                all.show("file: "),
                all.sum("image: "),
                all.show("image: "),
                all.get("distinct"),
                all.get("nested"),
                all.get("nested distinct"),
                all.show("event: "),
            ),
        );
        let missing = all.missing(must_happen);
        assert!(missing.is_empty() || !all_asked_for, "the workload never came to {missing:?}");
    }

    fn run_one(&self, seed: u64) -> Tally {
        let Test { what, options, steps, weights, .. } = *self;
        println!("{what}: seed {seed}");
        let generator = (self.generator)(seed);
        let case = Case {
            what: what.to_owned(),
            seed,
            directory: PathBuf::from(format!("{what}-{seed}")),
            options,
            history: Arc::default(),
            keys: generator.keys().to_vec(),
            tally: Arc::default(),
            replaces_manifest: Arc::default(),
            known: Mutex::default(),
            looked_at: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            failures: Mutex::default(),
        };
        let fs = MemoryFileSystem::new();
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let receiver = Mutex::new(receiver);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| case.look_at_images(&receiver));
            }
            fs.set_hook(photographer(&fs, &case, sender));
            let hooked = Hooked(&fs);
            Workload::new(&case, fs.clone(), generator).run(steps, weights);
            drop(hooked);
        });
        let failures = case.failures.into_inner().unwrap();
        if let Some(first) = failures.first() {
            let repeat = format!("TERRACE_SEED={seed} TERRACE_CASES=1");
            panic!(
                "{} of {} images failed ({repeat}); the first: {first}",
                failures.len(),
                case.tally.sum("image: ")
            );
        }
        Arc::into_inner(case.tally).expect("the hook is gone, and the threads that might be in it have ended")
    }
}

/// How an image was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Power(CrashPolicy),
    Kill,
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Cause::Kill => "image: killed",
            Cause::Power(CrashPolicy::DropUnsynced) => "image: nothing unsynced",
            Cause::Power(CrashPolicy::KeepAll) => "image: everything",
            Cause::Power(CrashPolicy::DropEntries) => "image: bytes without names",
            Cause::Power(CrashPolicy::DropBytes) => "image: names without bytes",
            Cause::Power(CrashPolicy::Torn { .. }) => "image: torn",
        }
    }
}

/// What must be found in an image.
#[derive(Debug, Clone, Copy)]
struct Claim {
    /// How many changes must have survived.
    least: usize,
    /// How many changes had begun.
    most: usize,
    cause: Cause,
    /// Before which mutation the crash came.
    index: u64,
    /// The same of a crash during the recovery, if there was one.
    second: Option<(CrashPolicy, u64)>,
}

/// What a crash left.
struct Image {
    claim: Claim,
    fs: MemoryFileSystem,
    /// How many changes must have survived if the power fails during the recovery.
    durable: usize,
}

impl Image {
    fn take(fs: &MemoryFileSystem, history: &History, cause: Cause, index: u64) -> Image {
        // What is promised is read before the copy is made and what is possible after it: work goes on meanwhile.
        let (acknowledged, synced) = (history.acknowledged(), history.synced());
        let (copy, least, durable) = match cause {
            // Everything that was handed to the system survived.
            Cause::Kill => (fs.process_kill_clone(), acknowledged, synced),
            Cause::Power(CrashPolicy::KeepAll) => {
                (fs.crash_clone(CrashPolicy::KeepAll), acknowledged, acknowledged)
            }
            Cause::Power(policy) => (fs.crash_clone(policy), synced, synced),
        };
        let claim = Claim { least, most: history.begun(), cause, index, second: None };
        Image { claim, fs: copy, durable }
    }
}

/// What is known of images by their fingerprint.
enum Known {
    /// Somebody is looking at one. These are the claims to others.
    Underway(Vec<Claim>),
    /// It holds the state after so many changes.
    Holds(usize),
}

/// What a case shares with those who look at its images.
struct Case {
    what: String,
    seed: u64,
    directory: PathBuf,
    options: fn(Arc<dyn FileSystem>) -> Options,
    history: Arc<History>,
    keys: Vec<Bytes>,
    tally: Arc<Tally>,
    /// Whether something is going on that replaces the manifest however long it is.
    replaces_manifest: Arc<AtomicBool>,
    known: Mutex<HashMap<u64, Known>>,
    /// How many images have been looked at.
    looked_at: AtomicU64,
    failed: AtomicBool,
    failures: Mutex<Vec<String>>,
}

/// Takes the hook away when it goes, also by a panic. The sender of images goes with it, and so do those who wait for
/// images.
struct Hooked<'a>(&'a MemoryFileSystem);

impl Drop for Hooked<'_> {
    fn drop(&mut self) {
        self.0.remove_hook();
    }
}

/// Takes images before each mutation.
fn photographer(
    fs: &MemoryFileSystem,
    case: &Case,
    images: SyncSender<Image>,
) -> impl Fn(&Mutation<'_>) + use<> {
    let (fs, history, tally, seed) = (fs.clone(), case.history.clone(), case.tally.clone(), case.seed);
    let replaces_manifest = case.replaces_manifest.clone();
    move |mutation| {
        count_point(&tally, &fs, mutation, replaces_manifest.load(Relaxed));
        let index = mutation.index;
        let torn = |number| CrashPolicy::Torn { seed: seed ^ (TORN * index + number) };
        let policies = [
            CrashPolicy::DropUnsynced,
            CrashPolicy::KeepAll,
            CrashPolicy::DropEntries,
            CrashPolicy::DropBytes,
        ];
        let power = policies.into_iter().chain((0..TORN).map(torn)).map(Cause::Power);
        for cause in power.chain([Cause::Kill]) {
            // An error says that nobody looks any more: one failure is enough.
            drop(images.send(Image::take(&fs, &history, cause, index)));
        }
    }
}

/// Counts what is done to which kind of file.
fn count_point(tally: &Tally, fs: &MemoryFileSystem, mutation: &Mutation<'_>, replaces_manifest: bool) {
    let Mutation { operation, path, to, .. } = *mutation;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let kind = match &*name {
        "MANIFEST" | "MANIFEST.tmp" => "manifest",
        "LOCK" => "lock file",
        _ if name.ends_with(".sst") || name.ends_with(".sst.tmp") => "table",
        _ if name.ends_with(".log") => "segment",
        _ => "directory",
    };
    tally.add(&format!("file: {kind}"), 1);
    tally.add(&format!("point: {kind} {operation}"), 1);
    match to {
        Some(_) if kind == "segment" => tally.add("event: segments recycled", 1),
        Some(to) if kind == "manifest" => {
            // It grows by more than it needs: zeros at the end.
            let old = fs.file_bytes(to).unwrap_or_default();
            let end = old.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            if end > MANIFEST_GROWN_BYTES && !replaces_manifest {
                tally.add("event: manifests replaced because they had grown", 1);
            } else if end > 0 {
                tally.add("event: manifests replaced", 1);
            }
        }
        _ => {}
    }
}

impl Case {
    fn look_at_images(&self, images: &Mutex<Receiver<Image>>) {
        loop {
            let image = images.lock().unwrap().recv();
            let Ok(image) = image else { break };
            if self.failed.load(Relaxed) {
                continue;
            }
            self.tally.add(image.claim.cause.name(), 1);
            let original = image.fs.process_kill_clone();
            if let Err(why) = self.judge(&image.fs, image.claim, || self.look_at(&image)) {
                self.failed.store(true, Relaxed);
                let kept = keep(&original, &self.directory, image.claim.index);
                let failure = format!(
                    "{}, seed {}: {why}\nthe image is kept in {}",
                    self.what,
                    self.seed,
                    kept.display()
                );
                self.failures.lock().unwrap().push(failure);
            }
        }
    }

    /// Looks at an image, unless it is equal to one that is known: then what that one holds must do.
    fn judge(
        &self,
        fs: &MemoryFileSystem,
        claim: Claim,
        look: impl FnOnce() -> Result<usize, String>,
    ) -> Result<(), String> {
        let fingerprint = fs.fingerprint();
        match self.known.lock().unwrap().entry(fingerprint) {
            Entry::Vacant(entry) => {
                entry.insert(Known::Underway(Vec::new()));
            }
            Entry::Occupied(mut entry) => {
                return match entry.get_mut() {
                    Known::Holds(count) => self.check_known(*count, claim),
                    Known::Underway(claims) => {
                        claims.push(claim);
                        Ok(())
                    }
                };
            }
        }
        self.tally.add(if claim.second.is_some() { "nested distinct" } else { "distinct" }, 1);
        let count = look().map_err(|why| format!("{claim:?}: {why}"))?;
        match self.known.lock().unwrap().insert(fingerprint, Known::Holds(count)) {
            Some(Known::Underway(claims)) => {
                claims.into_iter().try_for_each(|claim| self.check_known(count, claim))
            }
            _ => unreachable!("only the one who looks says what is there"),
        }
    }

    fn check_known(&self, count: usize, claim: Claim) -> Result<(), String> {
        let found = self.history.find_again(count, claim.least..=claim.most);
        found.map(drop).map_err(|why| format!("{claim:?}, equal to an image from before: {why}"))
    }

    fn open(&self, fs: &MemoryFileSystem) -> Result<Db, String> {
        let options = (self.options)(Arc::new(fs.clone()));
        options.open(&self.directory).map_err(|error| format!("it does not open: {error}"))
    }

    /// Opens what is there for reading only, which changes nothing: what is in it.
    fn read(&self, fs: &MemoryFileSystem) -> Result<Model, String> {
        let before = fs.mutations();
        let reader = (self.options)(Arc::new(fs.clone())).open_read_only(&self.directory);
        let reader = reader.map_err(|error| format!("it does not open for reading only: {error}"))?;
        let found = read_all(&reader, &self.keys)?;
        match fs.mutations() - before {
            0 => Ok(found),
            mutations => Err(format!("opened for reading only, it was changed {mutations} times")),
        }
    }

    /// Opens what is there: what is in it, and after how many changes that is the state.
    fn recover(
        &self,
        fs: &MemoryFileSystem,
        least: usize,
        most: usize,
    ) -> Result<(Db, Model, usize), String> {
        // Before the first open is over there may be nothing.
        let is_database =
            fs.read_dir(&self.directory).is_ok_and(|names| names.iter().any(|name| name == "MANIFEST"));
        let shown = if is_database { Some(self.read(fs)?) } else { None };
        let db = self.open(fs)?;
        let found = read_all(&db, &self.keys)?;
        if let Some(difference) = shown.and_then(|shown| shown.difference(&found)) {
            return Err(format!("opened for reading only, it has shown something else: {difference}"));
        }
        let count = self.history.find(&found, least..=most)?;
        Ok((db, found, count))
    }

    /// Looks at an image in every way. Says after how many changes it is.
    fn look_at(&self, image: &Image) -> Result<usize, String> {
        let Claim { least, most, cause, .. } = image.claim;
        let number = self.looked_at.fetch_add(1, Relaxed);
        // None once the recovery is over: a background thread may be in the hook still.
        let second = Arc::new(Mutex::new(Some(Vec::new())));
        if number.is_multiple_of(SECOND_CRASH_ONE_IN) {
            let (fs, second) = (image.fs.clone(), second.clone());
            image.fs.set_hook(move |&Mutation { index, .. }| {
                let torn = CrashPolicy::Torn { seed: number ^ index };
                let fixed = [
                    CrashPolicy::DropUnsynced,
                    CrashPolicy::KeepAll,
                    CrashPolicy::DropEntries,
                    CrashPolicy::DropBytes,
                ];
                for policy in fixed.into_iter().chain([torn]) {
                    let crashed = fs.crash_clone(policy);
                    if let Some(second) = &mut *second.lock().unwrap() {
                        second.push((policy, index, crashed));
                    }
                }
            });
        }
        let opened = self.recover(&image.fs, least, most);
        image.fs.remove_hook();
        let second = second.lock().unwrap().take().expect("it is taken once");
        let (db, found, count) = opened?;

        if cause == Cause::Kill || number.is_multiple_of(4) {
            // What was recovered is durable: the power may fail now.
            let cut = image.fs.crash_clone(CrashPolicy::DropUnsynced);
            let again = self.recover(&cut, least, most);
            let (db, again, _) =
                again.map_err(|why| format!("after another crash, once it was open: {why}"))?;
            if let Some(difference) = again.difference(&found) {
                return Err(format!("recovered, but lost by another crash once it was open: {difference}"));
            }
            close(&db)?;
        }
        if number.is_multiple_of(8) {
            self.go_on(&image.fs, db, found, number)?;
        } else {
            close(&db)?;
        }

        for (policy, index, fs) in second {
            // What the first crash had left was durable, except after a kill: then only what was synced is.
            let least = if cause == Cause::Kill { image.durable } else { count };
            let claim = Claim { least, most: count, second: Some((policy, index)), ..image.claim };
            self.tally.add("nested", 1);
            self.judge(&fs, claim, || {
                let (db, _, found) = self.recover(&fs, least, count)?;
                close(&db)?;
                Ok(found)
            })
            .map_err(|why| format!("found {count} changes, but after a second crash: {why}"))?;
        }
        Ok(count)
    }

    /// A recovered database takes writes, and they survive.
    fn go_on(&self, fs: &MemoryFileSystem, db: Db, mut model: Model, number: u64) -> Result<(), String> {
        let failed = |error: terrace::Error| format!("once it was recovered: {error}");
        let key = Bytes::from(&b"after the crash"[..]);
        let name = "a keyspace from after the crash".to_owned();
        let keyspace = db.keyspace(&name).map_err(failed)?;
        let mut batch = WriteBatch::new();
        let writes = [DEFAULT.to_owned(), name.clone()].map(|keyspace| Write {
            keyspace,
            key: key.clone(),
            value: Some(Bytes::from(&number.to_be_bytes()[..])),
        });
        batch.put(&db, &key, number.to_be_bytes());
        batch.put(&keyspace, &key, number.to_be_bytes());
        db.write_with(batch, Durability::Sync).map_err(failed)?;
        model.apply(&Change::Create(name));
        model.apply(&Change::Batch(writes.to_vec()));
        let crashed = fs.crash_clone(CrashPolicy::DropUnsynced);
        match number.is_multiple_of(16) {
            true => close(&db)?,
            false => db.flush().map_err(failed)?,
        }
        drop((db, keyspace));
        for (what, fs) in [("a crash", crashed), ("another", fs.crash_clone(CrashPolicy::DropUnsynced))] {
            let db = self.open(&fs)?;
            let found = read_all(&db, &self.keys)?;
            if let Some(difference) = found.difference(&model) {
                return Err(format!("written after the recovery, but lost by {what}: {difference}"));
            }
            close(&db)?;
        }
        Ok(())
    }
}

fn close(db: &Db) -> Result<(), String> {
    db.close().map_err(|error| format!("it does not close: {error}"))
}

/// Writes an image to real files, to be looked at.
fn keep(fs: &MemoryFileSystem, directory: &Path, index: u64) -> PathBuf {
    let to = std::env::temp_dir().join(format!("terrace-crash-{}-{index}", directory.display()));
    std::fs::create_dir_all(&to).unwrap();
    for name in fs.read_dir(directory).unwrap_or_default() {
        if fs.open(&directory.join(&name), OpenMode::Read).is_ok() {
            std::fs::write(to.join(&name), fs.file_bytes(&directory.join(&name)).unwrap()).unwrap();
        }
    }
    to
}

/// What the workload does in a step.
#[derive(Debug, Clone, Copy)]
enum Step {
    Write,
    Batch,
    Sync,
    Flush,
    CompactRange,
    Settle,
    Create,
    DropKeyspace,
    Clear,
    Close,
    DropDb,
}

/// How likely each step is.
type Weights = &'static [(u32, Step)];

/// Nothing that writes the manifest anew.
const FLUSHES: Weights =
    &[(30, Step::Write), (50, Step::Batch), (40, Step::Flush), (10, Step::CompactRange), (5, Step::Create)];

const WEIGHTS: Weights = &[
    (60, Step::Write),
    (70, Step::Batch),
    (6, Step::Sync),
    (6, Step::Flush),
    (4, Step::CompactRange),
    (2, Step::Settle),
    (8, Step::Create),
    (4, Step::DropKeyspace),
    (4, Step::Clear),
    (2, Step::Close),
    (2, Step::DropDb),
];

/// The writer of the history.
struct Workload<'a> {
    case: &'a Case,
    fs: MemoryFileSystem,
    generator: Generator,
    /// None while it is opened again.
    db: Option<Db>,
    trace: Trace,
}

impl<'a> Workload<'a> {
    fn new(case: &'a Case, fs: MemoryFileSystem, generator: Generator) -> Self {
        let trace = Trace::new(&*case.what, case.seed);
        let db = (case.options)(Arc::new(fs.clone())).open(&case.directory).unwrap();
        Workload { case, fs, generator, db: Some(db), trace }
    }

    fn run(mut self, steps: usize, weights: Weights) {
        let mut steps: Vec<Step> = (0..steps).map(|_| self.generator.weighted(weights)).collect();
        // What is rare comes up once at least.
        for &(_, step) in weights {
            steps.insert(self.generator.number(0..steps.len()), step);
        }
        for step in steps {
            if self.case.failed.load(Relaxed) {
                break;
            }
            self.trace.step(format!("{step:?}, after {} changes", self.case.history.begun()));
            self.step(step);
        }
        let db = self.db.take().unwrap();
        self.replacing_manifest(|| db.close()).unwrap();
        self.count_background(&db);
        self.case.history.acknowledge_synced();
    }

    fn step(&mut self, step: Step) {
        let history = &*self.case.history;
        let tally = &*self.case.tally;
        let db = self.db.clone().expect("it is open between two steps");
        let model = history.now();
        let names: Vec<String> = model.keyspaces().keys().cloned().collect();
        let name = self.generator.pick(&names).clone();
        match step {
            Step::Write | Step::Batch => {
                let operations = if matches!(step, Step::Batch) { 2..9 } else { 1..2 };
                tally.add(if matches!(step, Step::Batch) { "event: batches" } else { "event: puts" }, 1);
                let writes = self.generator.batch(&names, operations);
                let mut batch = WriteBatch::new();
                for Write { keyspace, key, value } in &writes {
                    let keyspace = db.keyspace(keyspace).unwrap();
                    match value {
                        Some(value) => batch.put(&keyspace, key, value),
                        None => batch.delete(&keyspace, key),
                    }
                }
                let synced = self.generator.one_in(3);
                history.begin(&Change::Batch(writes));
                let durability = if synced { Durability::Sync } else { Durability::Buffered };
                db.write_with(batch, durability).unwrap();
                match synced {
                    // A sync is one of everything before it.
                    true => history.acknowledge_synced(),
                    false => history.acknowledge(),
                }
            }
            Step::Sync => {
                db.sync().unwrap();
                history.acknowledge_synced();
            }
            Step::Flush => {
                db.flush().unwrap();
                history.acknowledge_synced();
            }
            Step::CompactRange => {
                let keyspace = db.keyspace(&name).unwrap();
                let bounds = self.generator.bounds();
                keyspace.compact_range::<&[u8]>(terrace_tests::workload::borrowed(&bounds)).unwrap();
            }
            Step::Settle => {
                self.replacing_manifest(|| db.settle()).unwrap();
                history.acknowledge_synced();
            }
            Step::Create => {
                let name = format!("keyspace {}", self.generator.number(0..4));
                if !names.contains(&name) {
                    self.create(&db, name);
                }
            }
            Step::DropKeyspace => {
                let name = match names.iter().find(|name| *name != DEFAULT) {
                    Some(first) if name == DEFAULT => first.clone(),
                    Some(_) => name,
                    None => self.create(&db, "keyspace 4".to_owned()),
                };
                tally.add("event: drops", 1);
                history.begin(&Change::Drop(name.clone()));
                db.drop_keyspace(&name).unwrap();
                history.acknowledge_synced();
            }
            Step::Clear => {
                tally.add("event: clears", 1);
                history.begin(&Change::Clear(name.clone()));
                db.keyspace(&name).unwrap().clear().unwrap();
                history.acknowledge_synced();
            }
            Step::Close => {
                tally.add("event: closes", 1);
                self.replacing_manifest(|| db.close()).unwrap();
                history.acknowledge_synced();
                self.count_background(&db);
                drop(db);
                self.reopen();
            }
            Step::DropDb => {
                tally.add("event: losses of the handle", 1);
                self.count_background(&db);
                drop(db);
                self.reopen();
            }
        }
    }

    fn create(&self, db: &Db, name: String) -> String {
        self.case.tally.add("event: creates", 1);
        self.case.history.begin(&Change::Create(name.clone()));
        db.keyspace(&name).unwrap();
        self.case.history.acknowledge_synced();
        name
    }

    /// Does something that replaces the manifest however long it is.
    fn replacing_manifest<T>(&self, work: impl FnOnce() -> T) -> T {
        self.case.replaces_manifest.store(true, Relaxed);
        let done = work();
        self.case.replaces_manifest.store(false, Relaxed);
        done
    }

    /// Counts what the threads of the database have done since it was opened.
    fn count_background(&self, db: &Db) {
        let metrics = db.metrics();
        let counts = [
            ("event: flushes", metrics.flushes),
            ("event: compactions", metrics.compactions),
            ("event: trivial moves", metrics.trivial_moves),
        ];
        counts.into_iter().for_each(|(name, count)| self.case.tally.add(name, count));
    }

    /// Lets go of the database and opens it again: what was acknowledged is durable then.
    fn reopen(&mut self) {
        self.db = None;
        let options = (self.case.options)(Arc::new(self.fs.clone()));
        let db = self.replacing_manifest(|| options.open(&self.case.directory)).unwrap();
        self.case.history.acknowledge_synced();
        let found = read_all(&db, &self.case.keys).unwrap();
        self.db = Some(db);
        assert_eq!(found.difference(&self.case.history.now()), None);
    }
}
