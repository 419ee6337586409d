//! Goal: whenever the machine or the process stops, the next open finds a first part of the history, whole batches only,
//! that contains every write that was acknowledged as surviving that.
//!
//! Method: a small workload runs on a file system in memory that knows what was synced. Before each operation that
//! changes a file it is copied as it could be found after a crash right then: with everything unsynced lost, with
//! everything kept, torn in several ways, and as a killed process leaves it. Meanwhile other threads open these images
//! and ask the oracle (`terrace_tests::oracle`). Of some images the recovery is crashed in the same way, and those
//! images must hold what the first one held. Of some, the recovered database is written to and opened again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use terrace::{Compression, Db, Durability, FileSystem, KeyspaceOptions, Options, WriteBatch};
use terrace_io::{CrashPolicy, MemoryFileSystem, OpenMode};
use terrace_tests::model::{Bytes, Change, DEFAULT, Model, Write};
use terrace_tests::oracle::{History, read_all};
use terrace_tests::workload::{Generator, ValueLengths};
use terrace_tests::{Trace, covered, seeds};

const STEPS: usize = 70;

/// Images that may wait to be looked at: the workload waits when there are more.
const WAITING_MAX: usize = 32;

/// Of one image in so many, the recovery is crashed too.
const SECOND_CRASH_ONE_IN: u64 = 40;

#[test]
fn one_writer() {
    let images: u64 = seeds(3).map(|seed| run("one_writer", seed, plain)).sum();
    covered("one_writer", format_args!("{images} images"));
}

#[test]
fn compressed_and_retired_early() {
    let options = |file_system| {
        let defaults = KeyspaceOptions::new().table_bytes(64 << 10).compression(Compression::Snappy);
        plain(file_system).keyspace_defaults(defaults).log_bytes_max(128 << 10).memtables_max(2)
    };
    let images: u64 = seeds(2).map(|seed| run("compressed_and_retired_early", seed, options)).sum();
    covered("compressed_and_retired_early", format_args!("{images} images"));
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

/// How an image was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Power(CrashPolicy),
    Kill,
}

/// What a crash left.
struct Image {
    cause: Cause,
    /// Before which mutation the crash came.
    index: u64,
    fs: MemoryFileSystem,
    /// How many changes must have survived.
    least: usize,
    /// The same, if the power fails during the recovery.
    durable: usize,
    /// How many changes had begun.
    most: usize,
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
        Image { cause, index, fs: copy, least, durable, most: history.begun() }
    }
}

/// A crash during a recovery: before which mutation, how, and what it left.
type SecondCrash = (u64, CrashPolicy, MemoryFileSystem);

/// What a case shares with those who look at its images.
struct Case {
    what: String,
    seed: u64,
    directory: PathBuf,
    options: fn(Arc<dyn FileSystem>) -> Options,
    history: Arc<History>,
    keys: Vec<Bytes>,
    images: AtomicU64,
    failed: AtomicBool,
    failures: Mutex<Vec<String>>,
}

fn run(what: &str, seed: u64, options: fn(Arc<dyn FileSystem>) -> Options) -> u64 {
    println!("{what}: seed {seed}");
    // Rarely, a batch that does not fit in a segment.
    let values = ValueLengths { usual: 10..2_500, paged_one_in: 12, large: (60, 60_000..150_000) };
    let generator = Generator::new(seed, 60, 1, values);
    let case = Case {
        what: what.to_owned(),
        seed,
        directory: PathBuf::from(format!("{what}-{seed}")),
        options,
        history: Arc::default(),
        keys: generator.keys().to_vec(),
        images: AtomicU64::new(0),
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
        fs.set_hook(Some(photographer(&fs, &case.history, sender, seed)));
        let hooked = Hooked(&fs);
        Workload::new(&case, fs.clone(), generator).run();
        drop(hooked);
    });
    let failures = case.failures.into_inner().unwrap();
    if let Some(first) = failures.first() {
        let repeat = format!("TERRACE_SEED={seed} TERRACE_CASES=1");
        panic!(
            "{} of {} images failed ({repeat}); the first: {first}",
            failures.len(),
            case.images.into_inner()
        );
    }
    case.images.into_inner()
}

/// Takes the hook away when it goes, also by a panic. The sender of images goes with it, and so do those who wait for
/// images.
struct Hooked<'a>(&'a MemoryFileSystem);

impl Drop for Hooked<'_> {
    fn drop(&mut self) {
        self.0.set_hook(None);
    }
}

/// Takes images before each mutation.
fn photographer(
    fs: &MemoryFileSystem,
    history: &Arc<History>,
    images: SyncSender<Image>,
    seed: u64,
) -> Arc<dyn Fn(u64) + Send + Sync> {
    let (fs, history) = (fs.clone(), history.clone());
    Arc::new(move |index| {
        let torn = |number: u64| Cause::Power(CrashPolicy::Torn { seed: seed ^ (4 * index + number) });
        let causes = [Cause::Power(CrashPolicy::DropUnsynced), Cause::Kill, torn(0), torn(1)];
        // What is kept after a power cut differs little from what a killed process leaves: less often.
        let kept = index.is_multiple_of(4).then_some(Cause::Power(CrashPolicy::KeepAll));
        for cause in causes.into_iter().chain(kept) {
            // An error says that nobody looks any more: one failure is enough.
            drop(images.send(Image::take(&fs, &history, cause, index)));
        }
    })
}

impl Case {
    fn look_at_images(&self, images: &Mutex<Receiver<Image>>) {
        loop {
            let image = images.lock().unwrap().recv();
            let Ok(image) = image else { break };
            if self.failed.load(Relaxed) {
                continue;
            }
            let number = self.images.fetch_add(1, Relaxed);
            let original = image.fs.process_kill_clone();
            if let Err(why) = self.look_at(&image, number) {
                self.failed.store(true, Relaxed);
                let kept = keep(&original, &self.directory, image.index);
                let Image { cause, index, least, most, .. } = image;
                let failure = format!(
                    "{}, seed {}: crash before mutation {index} ({cause:?}), {least} to {most} changes: {why}\n\
                     the image is kept in {}",
                    self.what,
                    self.seed,
                    kept.display()
                );
                self.failures.lock().unwrap().push(failure);
            }
        }
    }

    fn open(&self, fs: &MemoryFileSystem) -> Result<Db, String> {
        let options = (self.options)(Arc::new(fs.clone()));
        options.open(&self.directory).map_err(|error| format!("it does not open: {error}"))
    }

    /// Opens what is there and closes it again: what is in it, and after how many changes that is the state.
    fn recover(
        &self,
        fs: &MemoryFileSystem,
        least: usize,
        most: usize,
    ) -> Result<(Db, Model, usize), String> {
        let db = self.open(fs)?;
        let found = read_all(&db, &self.keys)?;
        let count = self.history.find(&found, least..=most)?;
        Ok((db, found, count))
    }

    fn look_at(&self, image: &Image, number: u64) -> Result<(), String> {
        let crash_recovery = number.is_multiple_of(SECOND_CRASH_ONE_IN);
        // None once the recovery is over: a background thread may be in the hook still.
        let second: Arc<Mutex<Option<Vec<SecondCrash>>>> = Arc::new(Mutex::new(Some(Vec::new())));
        if crash_recovery {
            let (fs, second) = (image.fs.clone(), second.clone());
            image.fs.set_hook(Some(Arc::new(move |index| {
                let torn = CrashPolicy::Torn { seed: number ^ index };
                for policy in [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll, torn] {
                    let crashed = fs.crash_clone(policy);
                    second
                        .lock()
                        .unwrap()
                        .iter_mut()
                        .for_each(|second| second.push((index, policy, crashed.clone())));
                }
            })));
        }
        let opened = self.recover(&image.fs, image.least, image.most);
        image.fs.set_hook(None);
        let second = second.lock().unwrap().take().expect("it is taken once");
        let (db, found, count) = opened?;

        if image.cause == Cause::Kill || number.is_multiple_of(4) {
            // What was recovered is durable: the power may fail now.
            let cut = image.fs.crash_clone(CrashPolicy::DropUnsynced);
            let again = self.recover(&cut, image.least, image.most);
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

        for (index, policy, fs) in second {
            // What the first crash had left was durable, except after a kill: then only what was synced is.
            let least = if image.cause == Cause::Kill { image.durable } else { count };
            let outcome = self.recover(&fs, least, count).and_then(|(db, ..)| close(&db));
            self.images.fetch_add(1, Relaxed);
            outcome.map_err(|why| {
                format!("found {count} changes, but after a second crash, before mutation {index} ({policy:?}): {why}")
            })?;
        }
        Ok(())
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

const WEIGHTS: &[(u32, Step)] = &[
    (60, Step::Write),
    (70, Step::Batch),
    (6, Step::Sync),
    (6, Step::Flush),
    (4, Step::CompactRange),
    (2, Step::Settle),
    (9, Step::Create),
    (4, Step::DropKeyspace),
    (4, Step::Clear),
    (4, Step::Close),
    (4, Step::DropDb),
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

    fn run(mut self) {
        for _ in 0..STEPS {
            if self.case.failed.load(Relaxed) {
                break;
            }
            let step = self.generator.weighted(WEIGHTS);
            self.trace.step(format!("{step:?}, after {} changes", self.case.history.begun()));
            self.step(step);
        }
        self.db.take().unwrap().close().unwrap();
        self.case.history.acknowledge_synced();
    }

    fn step(&mut self, step: Step) {
        let history = &*self.case.history;
        let db = self.db.clone().expect("it is open between two steps");
        let model = history.now();
        let names: Vec<String> = model.keyspaces().keys().cloned().collect();
        let name = self.generator.pick(&names).clone();
        match step {
            Step::Write | Step::Batch => {
                let operations = if matches!(step, Step::Batch) { 2..9 } else { 1..2 };
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
                db.settle().unwrap();
                history.acknowledge_synced();
            }
            Step::Create => {
                let name = format!("keyspace {}", self.generator.number(0..4));
                if !names.contains(&name) {
                    history.begin(&Change::Create(name.clone()));
                    db.keyspace(&name).unwrap();
                    history.acknowledge_synced();
                }
            }
            Step::DropKeyspace if name == DEFAULT => {}
            Step::DropKeyspace => {
                history.begin(&Change::Drop(name.clone()));
                db.drop_keyspace(&name).unwrap();
                history.acknowledge_synced();
            }
            Step::Clear => {
                history.begin(&Change::Clear(name.clone()));
                db.keyspace(&name).unwrap().clear().unwrap();
                history.acknowledge_synced();
            }
            Step::Close => {
                db.close().unwrap();
                history.acknowledge_synced();
                drop(db);
                self.reopen();
            }
            Step::DropDb => {
                drop(db);
                self.reopen();
            }
        }
    }

    /// Lets go of the database and opens it again: what was acknowledged is durable then.
    fn reopen(&mut self) {
        self.db = None;
        let db = (self.case.options)(Arc::new(self.fs.clone())).open(&self.case.directory).unwrap();
        self.case.history.acknowledge_synced();
        let found = read_all(&db, &self.case.keys).unwrap();
        self.db = Some(db);
        assert_eq!(found.difference(&self.case.history.now()), None);
    }
}
