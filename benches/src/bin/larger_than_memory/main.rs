//! A database several times larger than the memory that its process may use: does everything still work, and how well do
//! reads do beside plain `pread`s of the same pages?
//!
//! Each measurement is a process in a control group with a memory limit, page cache included. It begins with nothing of
//! the database in memory. Where no such group can be made it says so and stops. `docs/io-paths.md` has the figures.

#![forbid(unsafe_code)]

mod phases;
mod trace;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;
use terrace::Options;
use terrace_benches::{MemoryLimit, Records, copy_directory, forget_pages, load, scratch_directory};

use phases::{Child, Figures, Phase, Way};

/// What goes wrong here is for whoever runs it to read.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(about = "Measures a database that is larger than memory")]
enum Arguments {
    /// Measures.
    Run(Run),
    /// What `run` starts within the limit.
    #[command(hide = true)]
    Child(Child),
}

#[derive(clap::Args)]
struct Run {
    /// Records of 16 B + 100 B: a GiB of them.
    #[arg(long, default_value_t = 9_256_395)]
    records: u64,
    /// MiB that a process may use. Below 32 MiB memtables take 2 MiB, otherwise 8.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 16])]
    limit_mib: Vec<u64>,
    /// What to measure (default: everything).
    #[arg(long, value_enum, value_delimiter = ',')]
    phases: Vec<Phase>,
    /// How gets reach the data (default: all ways).
    #[arg(long, value_enum, value_delimiter = ',')]
    ways: Vec<Way>,
    /// Seconds of each phase, after half as many to get going.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// How often; the ways take turns.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Keep the database in this directory, and use it again next time (default: a new one that is removed).
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Arguments::parse() {
        Arguments::Run(run) => measure(&run),
        Arguments::Child(child) => child.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("larger_than_memory: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(run: &Run) -> Outcome<()> {
    if let Err(why) = MemoryLimit::new(1 << 30) {
        println!("skipped: no memory limit can be set here ({why})");
        return Ok(());
    }
    let scratch = scratch_directory()?;
    let dir = run.dir.as_deref().unwrap_or(scratch.path());
    let records = Records::new(run.records);
    let database = prepare(dir, records)?;
    let mut failed = 0;
    let phases = if run.phases.is_empty() { Phase::ALL.to_vec() } else { run.phases.clone() };
    for &mib in &run.limit_mib {
        println!("\n{mib} MiB for {} MiB of records", (records.count * 116) >> 20);
        for &phase in &phases {
            let ways = match phase.has_ways() {
                true if run.ways.is_empty() => Way::ALL.to_vec(),
                true => run.ways.clone(),
                false => vec![Way::Mmap],
            };
            let mut all: Vec<Outcome<Vec<Figures>>> = ways.iter().map(|_| Ok(Vec::new())).collect();
            for _ in 0..run.rounds {
                for (way, outcome) in ways.iter().zip(&mut all) {
                    let Ok(figures) = outcome else { continue };
                    let child = Child {
                        dir: database.clone(),
                        records: run.records,
                        phase,
                        way: *way,
                        seconds: run.seconds,
                        memtable_mib: if mib < 32 { 2 } else { 8 },
                        limit_mib: mib,
                        group: PathBuf::new(),
                    };
                    match start(dir, child, mib << 20) {
                        Ok(measured) => figures.push(measured),
                        Err(error) => *outcome = Err(error),
                    }
                }
            }
            for (way, outcome) in ways.iter().zip(all) {
                let name = format!("{}, {}", phase.name(), way.name());
                match outcome {
                    Ok(figures) => println!("  {name:<22} {}", Figures::median(figures)),
                    Err(error) => {
                        println!("  {name:<22} FAILED: {error}");
                        failed += 1;
                    }
                }
            }
        }
    }
    match failed {
        0 => Ok(()),
        failed => Err(format!("{failed} measurements failed").into()),
    }
}

/// The database, settled, and the traces of gets that go with it.
fn prepare(dir: &Path, records: Records) -> Outcome<PathBuf> {
    let database = dir.join(format!("records-{}", records.count));
    if !database.exists() {
        println!("loading {} records", records.count);
        let loading = dir.join("loading");
        let _ = std::fs::remove_dir_all(&loading);
        let db = Options::new().open(&loading)?;
        load(&db, records)?;
        db.settle()?;
        db.close()?;
        std::fs::rename(&loading, &database)?;
    }
    trace::write_all(&database, records)?;
    Ok(database)
}

/// Runs one measurement in a process of its own.
fn start(dir: &Path, mut child: Child, limit_bytes: u64) -> Outcome<Figures> {
    // What writes does so to a copy.
    let copy = dir.join("copy");
    if child.phase.writes() {
        let _ = std::fs::remove_dir_all(&copy);
        copy_directory(&child.dir, &copy)?;
        child.dir = copy.clone();
    }
    forget_pages(&child.dir)?;
    // Nobody writes while others are measured.
    std::thread::sleep(Duration::from_millis(100));
    let limit = MemoryLimit::new(limit_bytes)?;
    child.group = limit.dir().to_owned();
    let output = Command::new(std::env::current_exe()?)
        .arg("child")
        .args(child.to_arguments())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let kills = limit.kills().unwrap_or(0);
    if child.phase.writes() {
        std::fs::remove_dir_all(&copy)?;
    }
    if kills > 0 || !output.status.success() {
        return Err(format!("{}, killed {kills} times for want of memory", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
