//! Counts the instructions of single operations, which say whether a change made one longer where times are too noisy
//! to say so.
//!
//! `instructions check` runs each operation some thousand times under valgrind's callgrind, which must be installed,
//! and compares the counts with those in `benches/instructions.txt`; `instructions record` writes them there. What is
//! counted is what the calling thread executes in user space, on warm data.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use terrace::{Durability, KeyspaceOptions, Options, sigbus};
use terrace_benches::{Key, Records, scratch_directory, touch};

/// Records in the database that is read.
const RECORDS: u64 = 20_000;
/// Operations that are counted.
const OPERATIONS: usize = 10_000;
/// A count may be so many times what was recorded. Table ids are random, and so is what hashes to where.
const TOLERANCE: f64 = 1.05;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Counts the instructions of single operations.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Count, and fail if an operation takes more instructions than are recorded.
    Check,
    /// Count, and record the counts.
    Record,
    /// Run an operation in functions that callgrind is told to look at.
    #[command(hide = true)]
    Run { operation: Operation, directory: PathBuf },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Operation {
    Get,
    GetWith,
    GetMissing,
    GetBesideMemtables,
    /// With the guard against `SIGBUS` on, as the ones below.
    GuardedGet,
    GuardedGetMissing,
    GuardedCursorNext,
    /// Of 32 keys.
    MultiGet,
    CursorSeek,
    CursorNext,
    CursorPrev,
    IteratorNext,
    IteratorPrev,
    Put,
}

impl Operation {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("no operation is left out");
        value.get_name().to_owned()
    }

    fn is_guarded(self) -> bool {
        matches!(self, Operation::GuardedGet | Operation::GuardedGetMissing | Operation::GuardedCursorNext)
    }
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Check => check(),
        Task::Record => record(),
        Task::Run { operation, directory } => run(operation, &directory).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::from(2)
        }
    }
}

fn recorded_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt")
}

/// Says whether no operation takes more instructions than it should.
fn check() -> Outcome<bool> {
    let path = recorded_path();
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if !has_valgrind() {
        println!("skipped: there is no valgrind here");
        return Ok(true);
    }
    let mut good = true;
    for (operation, counted) in count_all()? {
        let name = operation.name();
        let line = text.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '));
        let recorded: f64 = line.ok_or_else(|| format!("{} lacks {name}", path.display()))?.trim().parse()?;
        let ratio = counted / recorded;
        let verdict = match ratio {
            ratio if ratio > TOLERANCE => "TOO MANY: if there is a reason, run `instructions record`",
            ratio if ratio < 1.0 / TOLERANCE => "fewer: run `instructions record`",
            _ => "as recorded",
        };
        good &= ratio <= TOLERANCE;
        println!("{name:22} {counted:8.0} of {recorded:8.0}  {verdict}");
    }
    Ok(good)
}

fn record() -> Outcome<bool> {
    if !has_valgrind() {
        return Err("there is no valgrind here".into());
    }
    let mut text = String::from(
        "# Instructions of one operation, as `cargo run --release -p terrace-benches --bin instructions record` counts them.\n",
    );
    for (operation, counted) in count_all()? {
        writeln!(text, "{} {counted:.0}", operation.name())?;
    }
    print!("{text}");
    fs::write(recorded_path(), text)?;
    Ok(true)
}

fn has_valgrind() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Each operation, and how many instructions one takes.
fn count_all() -> Outcome<Vec<(Operation, f64)>> {
    let scratch = scratch_directory()?;
    let count = |&operation: &Operation| {
        let directory = scratch.path().join(operation.name());
        // Several tables, as a large database has: two flushes that have to be merged.
        let tables = KeyspaceOptions::new().table_bytes(256 << 10);
        let db = Options::new().keyspace_defaults(tables).open(&directory)?;
        terrace_benches::load(&db, Records::new(RECORDS / 2))?;
        db.flush()?;
        terrace_benches::load(&db, Records::new(RECORDS))?;
        db.settle()?;
        db.close()?;
        Ok((operation, count(operation, &directory)?))
    };
    Operation::value_variants().iter().map(count).collect()
}

fn count(operation: Operation, directory: &Path) -> Outcome<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=*instructions::counted*")
        .arg(std::env::current_exe()?)
        .args(["run", &operation.name()])
        .arg(directory)
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    let collected =
        told.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse::<f64>().ok());
    match collected {
        Some(collected) if output.status.success() && collected > 0.0 => Ok(collected / OPERATIONS as f64),
        _ => Err(format!("{}: {told}", operation.name()).into()),
    }
}

/// Does the operation so often to warm up, and as often again to be counted.
fn run(operation: Operation, directory: &Path) -> Outcome<()> {
    if operation.is_guarded() {
        sigbus::install()?;
    }
    let db = Options::new().durability(Durability::Buffered).open(directory)?;
    let records = Records::new(RECORDS);
    let (hits, misses) = (records.hits(OPERATIONS), records.misses(2 * OPERATIONS));
    let mut hits = hits.iter().cycle();
    let mut misses = misses.iter().cycle();
    let mut hit = || hits.next().expect("a cycle has no end");
    let mut miss = || misses.next().expect("a cycle has no end");
    // Every block is checked once.
    db.iter()?.try_for_each(|entry| entry.map(|_| ()))?;
    match operation {
        Operation::Get | Operation::GuardedGet => twice(|| Ok(db.get(hit())?.as_deref().map(touch))),
        Operation::GetWith => twice(|| db.get_with(hit(), touch)),
        Operation::GetMissing | Operation::GuardedGetMissing => twice(|| db.get_with(miss(), touch)),
        Operation::GetBesideMemtables => {
            (0..OPERATIONS).try_for_each(|_| db.put(miss(), [7; 100]))?;
            twice(|| db.get_with(hit(), touch))
        }
        Operation::MultiGet => {
            let keys: Vec<Key> = (0..32).map(|_| *hit()).collect();
            twice(|| Ok(Some(db.multi_get(&keys)?.len())))
        }
        Operation::CursorSeek => {
            let mut cursor = db.cursor()?;
            twice(|| Ok(cursor.seek(hit())?.then(|| touch(cursor.value()))))
        }
        Operation::CursorNext | Operation::GuardedCursorNext => {
            let mut cursor = db.cursor()?;
            twice(|| Ok((cursor.next()? || cursor.seek_to_first()?).then(|| touch(cursor.value()))))
        }
        Operation::CursorPrev => {
            let mut cursor = db.cursor()?;
            twice(|| Ok((cursor.prev()? || cursor.seek_to_last()?).then(|| touch(cursor.value()))))
        }
        Operation::IteratorNext => {
            let mut entries = db.iter()?;
            twice(|| Ok(entries.next().transpose()?.map(|entry| touch(&entry.1))))
        }
        Operation::IteratorPrev => {
            let mut entries = db.iter()?.rev();
            twice(|| Ok(entries.next().transpose()?.map(|entry| touch(&entry.1))))
        }
        Operation::Put => twice(|| db.put(miss(), [7; 100]).map(Some)),
    }
}

fn twice<T>(mut operation: impl FnMut() -> terrace::Result<T>) -> Outcome<()> {
    let mut operation = || operation().map(|result| drop(black_box(result)));
    (0..OPERATIONS).try_for_each(|_| operation())?;
    Ok(counted(&mut operation)?)
}

/// The function that callgrind is told to look at.
#[inline(never)]
fn counted(operation: &mut dyn FnMut() -> terrace::Result<()>) -> terrace::Result<()> {
    (0..OPERATIONS).try_for_each(|_| operation())
}
