//! Databases of which a copy is made, a checkpoint or a backup, while calls of the file system fail and machines stop:
//! what the tests of both share.
//!
//! A [`Stage`] is a small database over a file system in memory that numbers all calls; every run makes the same ones. A
//! [`Fault`] is one way in which one of them fails. [`Stage::photograph`] takes images of what crashes could leave.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use terrace::{
    Compression, Db, Durability, Error, KeyspaceOptions, Options, VerifyOptions, WriteBatch, verify,
};
use terrace_io::{CrashPolicy, FaultKind, FaultRule, FileSystem, MemoryFileSystem, Mutation, Operation};

use crate::faulty::Bench;
use crate::model::{Bytes, Change, DEFAULT, Model, Write};
use crate::oracle::read_all;
use crate::workload::noise;

/// The database.
pub const DIR: &str = "/database";
/// A keyspace with compressed tables.
pub const PACKED: &str = "packed";

/// The device fails.
pub const EIO: FaultKind = FaultKind::Os(5);
const EACCES: FaultKind = FaultKind::Os(13);
/// The other name would be on another device.
pub const EXDEV: FaultKind = FaultKind::Os(18);
const EMFILE: FaultKind = FaultKind::Os(24);
const ENOSPC: FaultKind = FaultKind::Os(28);
/// It has happened, and is reported as failed.
const AFTER: FaultKind = FaultKind::ErrorAfterEffect(ErrorKind::TimedOut);

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
pub enum Lasting {
    /// Then all is well again.
    Once,
    /// And so does every later call of the kind.
    Forever,
    /// Every later call of any kind fails with `EIO`.
    Gone,
}

/// A call that fails.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Its number, counted from the beginning of the copy.
    pub call: u64,
    /// What it does.
    pub operation: Operation,
    /// How it fails.
    pub kind: FaultKind,
    /// And for how long.
    pub lasting: Lasting,
}

impl Fault {
    /// All ways in which these calls can fail.
    pub fn all(calls: &[Operation]) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (call, &operation) in (0..).zip(calls) {
            let fault = Fault { call, operation, kind: EIO, lasting: Lasting::Gone };
            for &kind in kinds(operation) {
                let lasting = [Lasting::Once, Lasting::Forever];
                faults.extend(lasting.map(|lasting| Fault { kind, lasting, ..fault.clone() }));
            }
            faults.push(fault);
        }
        faults
    }

    /// The rule for it, from the call with the number `from` on.
    pub fn rule(&self, from: u64) -> FaultRule {
        let rule = match self.lasting {
            Lasting::Once => FaultRule::on(self.operation).once(),
            Lasting::Forever => FaultRule::on(self.operation),
            Lasting::Gone => FaultRule::on_all(),
        };
        rule.kind(self.kind).from_call(from + self.call)
    }

    /// What it is about is done all the same.
    pub fn is_harmless(&self) -> bool {
        let is_short = matches!(self.kind, FaultKind::ShortRead | FaultKind::ShortWrite);
        self.kind == EXDEV || is_short && self.lasting == Lasting::Once
    }
}

/// Nothing is flushed, and no segment made, but when it is asked for: every run makes the same calls.
pub fn options(bench: &Bench) -> Options {
    bench.options().memtable_bytes(4 << 20).segment_bytes_max(4 << 20)
}

/// A batch in both keyspaces, and what it does to the model.
///
/// # Panics
///
/// If it is refused.
pub fn write(db: &Db, model: &mut Model, number: u64, durability: Durability) {
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
pub fn keys() -> Vec<Bytes> {
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

/// A database of which a copy is about to be made.
pub struct Stage {
    /// What it lies on.
    pub bench: Bench,
    /// The open database.
    pub db: Db,
    /// What it holds: after what was synced, and after each write since.
    pub states: Vec<Model>,
    /// The number of the next call.
    pub first_call: u64,
}

impl Stage {
    /// A new one. Links are refused if it says so.
    ///
    /// # Panics
    ///
    /// If the database does not open.
    pub fn new(is_linked: bool) -> Stage {
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

    /// What the database holds.
    pub fn now(&self) -> &Model {
        &self.states[self.states.len() - 1]
    }

    /// From now on takes images before each mutation, once so many calls of the file system have been made: those that a
    /// crash could leave, each once.
    pub fn photograph(&self, from_call: u64, seed: u64) -> Arc<Mutex<Vec<Image>>> {
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
}

/// What crashes may leave of a file system, with a word for each.
pub fn crashes(memory: &MemoryFileSystem, seed: u64) -> impl Iterator<Item = (String, MemoryFileSystem)> {
    let fixed =
        [CrashPolicy::DropUnsynced, CrashPolicy::KeepAll, CrashPolicy::DropEntries, CrashPolicy::DropBytes];
    let torn = (0..3).map(move |number| CrashPolicy::Torn { seed: seed.wrapping_mul(3) + number });
    let killed = ("killed".to_owned(), memory.process_kill_clone());
    let crashed = |policy| (format!("{policy:?}"), memory.crash_clone(policy));
    fixed.into_iter().chain(torn).map(crashed).collect::<Vec<_>>().into_iter().chain([killed])
}

/// What a crash has left.
pub struct Image {
    /// When it was taken, and how the machine has stopped.
    pub what: String,
    /// What is there.
    pub fs: MemoryFileSystem,
}

/// The names in a directory, sorted; none if it is not there.
pub fn names(fs: &MemoryFileSystem, dir: &str) -> Vec<String> {
    let mut names = fs.read_dir(Path::new(dir)).unwrap_or_default();
    names.sort();
    names
}

/// A copy that opens is whole. Says whether there is one; if not, an open says so.
///
/// # Panics
///
/// If it is half of one.
pub fn check_copy(bench: &Bench, at: &str, expected: &Model, what: &str) -> bool {
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
        Err(error) => panic!("{what}: what is left of a copy seems to be one: {error}"),
    }
}
