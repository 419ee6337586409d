//! `ycsb`: YCSB's core workloads on any engine that is built in, with the drivers of Terrace's own `ycsb`.

#![forbid(unsafe_code)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use terrace_compare::engine::{Durability, Engine, Error, OpenOptions};
use terrace_compare::engines::EngineName;
use terrace_compare::store::EngineStore;
use terrace_tools::columns::Columns;
use terrace_tools::figures;
use terrace_tools::tool::{self, Failure};
use terrace_tools::ycsb::driver::{self, Measured, Phase, Work};
use terrace_tools::ycsb::latency::Summary;
use terrace_tools::ycsb::record::RECORDS_MAX;
use terrace_tools::ycsb::sequence::Sequence;
use terrace_tools::ycsb::{Distribution, InsertOrder, RecordShape, Workload};

const EXAMPLES: &str = "\
Examples:
  ycsb load --engine redb --dir /data/redb --records 1000000
  ycsb run --engine redb --dir /data/redb --workload a,b,c --threads 2

Exit code: 0, or 1 if records were missing or wrong, or 2 for wrong usage or a failure.";

/// Measures an engine with YCSB's core workloads.
#[derive(Debug, Parser)]
#[command(name = "ycsb", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load records into a new database.
    Load(Load),
    /// Run workloads on a database that was loaded.
    Run(Run),
}

#[derive(Debug, Args)]
struct Load {
    /// How many records.
    #[arg(long, value_name = "N", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u64).range(1..RECORDS_MAX))]
    records: u64,

    /// Bytes of a value.
    #[arg(long, value_name = "BYTES", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    value_size: u32,

    /// Whether records are inserted all over the key space or one behind the other.
    #[arg(long, value_name = "ORDER", default_value = "hashed")]
    insert_order: InsertOrder,

    /// Records in a batch: they are written together, and each counts the time of its batch.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    batch: u64,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Run {
    /// The workloads, separated by commas; they run one after the other.
    #[arg(long, value_name = "A,..", required = true, value_delimiter = ',', ignore_case = true)]
    workload: Vec<Workload>,

    /// How many operations each workload has.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    operations: u64,

    /// A request distribution in place of each workload's own.
    #[arg(long, value_name = "NAME")]
    request_distribution: Option<Distribution>,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// The engine.
    #[arg(long, value_name = "NAME")]
    engine: EngineName,

    /// The directory that the database is in.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// Threads that ask for operations.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,

    /// What acknowledged writes survive: `sync` power loss, `buffered` the process.
    #[arg(long, value_name = "WHAT", default_value = "buffered")]
    durability: DurabilityName,

    /// Start this many operations per second, all threads together; latencies then count from the time an operation
    /// was meant to start. Without, as many as possible.
    #[arg(long, value_name = "RATE", value_parser = positive)]
    target: Option<f64>,

    /// Check each value that is read and the order of each scan.
    #[arg(long)]
    verify: bool,

    /// Where random numbers start; the same seed makes the same requests.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,

    /// Write the figures to a file as JSON too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DurabilityName {
    Sync,
    Buffered,
}

/// What a database was loaded with, kept beside it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Description {
    engine: EngineName,
    records: u64,
    value_size: u32,
    insert_order: InsertOrder,
}

/// The figures of one phase.
#[derive(Debug, Serialize)]
struct PhaseFigures {
    phase: String,
    seconds: f64,
    missing: u64,
    wrong: u64,
    by_operation: Vec<Summary>,
}

fn main() -> ExitCode {
    let arguments: Arguments = tool::parse_arguments("ycsb");
    tool::run("ycsb", || match arguments.command {
        Command::Load(load) => run_load(&load),
        Command::Run(run) => run_workloads(&run),
    })
}

fn run_load(load: &Load) -> tool::Result {
    let common = &load.common;
    common.engine.check_built().map_err(failure)?;
    if description_path(&common.dir).exists() {
        return Err(Failure::error(format!(
            "{} was loaded before; use another directory",
            common.dir.display()
        )));
    }
    let description = Description {
        engine: common.engine,
        records: load.records,
        value_size: load.value_size,
        insert_order: load.insert_order,
    };
    let engine = open(common, &description)?;
    let sequence = Sequence::new(0);
    let phase = phase(common, &description, Work::Load { batch: load.batch }, load.records);
    let figures = run_phase("load", &*engine, &phase, &sequence)?;
    engine.settle().and_then(|()| engine.close()).map_err(failure)?;
    describe(&common.dir, &description)?;
    finish(common, vec![figures])
}

fn run_workloads(run: &Run) -> tool::Result {
    let common = &run.common;
    let path = description_path(&common.dir);
    let bytes = fs::read(&path).map_err(|error| Failure::file("read", &path, &error))?;
    let description: Description = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::error(format!("{} cannot be understood: {error}", path.display())))?;
    if description.engine != common.engine {
        let (found, wanted) = (description.engine.name(), common.engine.name());
        return Err(Failure::error(format!(
            "{} was loaded by {found}, not by {wanted}",
            common.dir.display()
        )));
    }
    let engine = open(common, &description)?;
    let sequence = Sequence::new(description.records);
    let mut figures = Vec::new();
    for &workload in &run.workload {
        let distribution = run.request_distribution.unwrap_or(workload.distribution());
        let phase = phase(common, &description, Work::Mix { workload, distribution }, run.operations);
        figures.push(run_phase(&workload.letter().to_string(), &*engine, &phase, &sequence)?);
    }
    engine.settle().and_then(|()| engine.close()).map_err(failure)?;
    describe(&common.dir, &Description { records: sequence.present(), ..description })?;
    finish(common, figures)
}

fn open(common: &Common, description: &Description) -> tool::Result<Box<dyn Engine>> {
    let durability = match common.durability {
        DurabilityName::Sync => Durability::Synced,
        DurabilityName::Buffered => Durability::Buffered,
    };
    let options = OpenOptions { durability, ..OpenOptions::buffered(description.records) };
    common.engine.open(&common.dir.join("db"), &options).map_err(failure)
}

fn phase(common: &Common, description: &Description, work: Work, operations: u64) -> Phase {
    Phase {
        work,
        operations,
        threads: common.threads,
        target: common.target,
        seed: common.seed,
        order: description.insert_order,
        shape: RecordShape { fields: 1, field_length: description.value_size },
        update_one_field: true,
        verify: common.verify,
    }
}

fn run_phase(
    name: &str,
    engine: &dyn Engine,
    phase: &Phase,
    sequence: &Sequence,
) -> tool::Result<PhaseFigures> {
    let measured: Measured = driver::run(&EngineStore(engine), phase, sequence, |_| {}).map_err(failure)?;
    Ok(PhaseFigures {
        phase: name.to_owned(),
        seconds: measured.elapsed.as_secs_f64(),
        missing: measured.missing,
        wrong: measured.wrong,
        by_operation: measured.latencies.summaries(measured.elapsed),
    })
}

/// Prints the figures, and says whether reads found what they should.
fn finish(common: &Common, figures: Vec<PhaseFigures>) -> tool::Result {
    let mut table =
        Columns::new(["phase", "operation", ">count", ">per second", ">p50", ">p99", ">p99.9", ">longest"]);
    for phase in &figures {
        for summary in &phase.by_operation {
            table.row([
                phase.phase.clone(),
                summary.operation.name().to_owned(),
                figures::count(summary.count),
                figures::count(summary.per_second as u64),
                figures::nanoseconds(summary.p50_ns),
                figures::nanoseconds(summary.p99_ns),
                figures::nanoseconds(summary.p999_ns),
                figures::nanoseconds(summary.max_ns),
            ]);
        }
    }
    let mut out = tool::output();
    write!(out, "{}\n{table}", common.engine.name())?;
    out.flush()?;
    if let Some(path) = &common.json {
        let mut bytes = Vec::new();
        tool::write_json(&mut bytes, &figures, true)?;
        fs::write(path, bytes).map_err(|error| Failure::file("write", path, &error))?;
    }
    match figures.iter().map(|phase| phase.missing + phase.wrong).sum::<u64>() {
        0 => Ok(()),
        failed => Err(Failure::Negative(format!("{failed} reads found a record missing or wrong"))),
    }
}

fn describe(dir: &Path, description: &Description) -> tool::Result {
    let path = description_path(dir);
    let mut bytes = Vec::new();
    tool::write_json(&mut bytes, description, true)?;
    fs::write(&path, bytes).map_err(|error| Failure::file("write", &path, &error))
}

/// Beside the database, as no engine expects a foreign file among its own.
fn description_path(dir: &Path) -> PathBuf {
    dir.join("ycsb.json")
}

fn failure(error: Error) -> Failure {
    Failure::error(error.to_string())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("a rate is a number above 0".to_owned()),
    }
}
