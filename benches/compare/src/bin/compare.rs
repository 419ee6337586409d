//! `compare`: runs the comparison and makes its results readable. The work is done in the library; this reads the
//! arguments.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use terrace_compare::child::Child;
use terrace_compare::engine::Durability;
use terrace_compare::engines::EngineName;
use terrace_compare::results::Results;
use terrace_compare::rows::{Row, Session};
use terrace_compare::{plot, report, run};
use terrace_tools::columns::Columns;
use terrace_tools::tool::{self, Failure};

const EXAMPLES: &str = "\
Examples:
  compare list
  compare run --engines terrace,fjall,redb --records 1000000 --dir /data/compare --output results.json
  compare run --engines terrace,redb --rows readrandom,scan --rounds 3 --dir /data/compare --output reads.json
  compare report results.json --markdown results.md --plots plots

The directory keeps a loaded database for each engine, which later runs with as many records use again.
Other engines than fjall and redb are built in with `--features lmdb,rocksdb,leveldb`.

Exit code: 0, or 2 for wrong usage or if anything could not be measured.";

/// Compares Terrace with other embedded stores.
#[derive(Debug, Parser)]
#[command(name = "compare", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure engines, and keep every figure in a file.
    Run(Run),
    /// Make a table and plots of a file of results.
    Report(Report),
    /// Show which engines are built in, and the rows.
    List,
    /// Measure some rows of one engine in this process.
    #[command(hide = true)]
    Child(Child),
}

#[derive(Debug, Args)]
struct Run {
    /// The engines (default: all that are built in).
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    engines: Vec<EngineName>,

    /// The rows (default: all).
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    rows: Vec<Row>,

    /// Records in a database, of 16 B + 100 B.
    #[arg(long, value_name = "N", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u64).range(1000..=1_000_000_000))]
    records: u64,

    /// How often everything is measured; the engines take turns.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Seconds of each timed part of a row.
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,

    /// Seconds after which overwriting stops even if not everything was overwritten; the report says so then.
    #[arg(long, value_name = "S", default_value_t = 120.0, value_parser = seconds)]
    write_seconds: f64,

    /// MiB that a process may use in the row `limited`.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    memory_mib: u64,

    /// The directory for the databases, on the disk to be measured.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// The file for the results.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct Report {
    /// The file of results.
    results: PathBuf,

    /// Write the tables to a file (default: standard output, if there are no plots either).
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// Write the plots into a directory.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments: Arguments = tool::parse_arguments("compare");
    tool::run("compare", || match arguments.command {
        Command::Run(run) => measure(run),
        Command::Report(report) => show(&report),
        Command::List => list(),
        Command::Child(child) => {
            let told = child.run().map_err(failure)?;
            tool::write_json(&mut tool::output(), &told, false)
        }
    })
}

fn measure(arguments: Run) -> tool::Result {
    let engines = if arguments.engines.is_empty() { EngineName::built() } else { arguments.engines };
    engines.iter().try_for_each(|engine| engine.check_built()).map_err(failure)?;
    let rows = if arguments.rows.is_empty() { Row::value_variants().to_vec() } else { arguments.rows };
    let plan = run::Plan {
        arguments: terrace_compare::results::Arguments {
            rounds: arguments.rounds,
            seconds: arguments.seconds,
            write_seconds: arguments.write_seconds,
            memory_mib: arguments.memory_mib,
            ..run::arguments(engines, rows, arguments.records)
        },
        dir: arguments.dir,
        output: arguments.output,
    };
    let results = run::run(&plan, |line| tool::say("compare", line)).map_err(failure)?;
    match results.failures.len() {
        0 => Ok(()),
        failed => {
            Err(Failure::error(format!("{failed} measurements failed; {} says which", plan.output.display())))
        }
    }
}

fn show(arguments: &Report) -> tool::Result {
    let path = &arguments.results;
    let bytes = fs::read(path).map_err(|error| Failure::file("read", path, &error))?;
    let results: Results = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::error(format!("{} holds no results: {error}", path.display())))?;
    let text = report::markdown(&results);
    match &arguments.markdown {
        Some(path) => fs::write(path, text).map_err(|error| Failure::file("write", path, &error))?,
        None if arguments.plots.is_none() => print(&text)?,
        None => {}
    }
    if let Some(dir) = &arguments.plots {
        plot::write_all(&results, dir).map_err(|error| write_failure(dir, &error))?;
    }
    Ok(())
}

fn list() -> tool::Result {
    let mut engines = Columns::new(["engine", "built in"]);
    for &engine in EngineName::value_variants() {
        let built = match engine.feature() {
            Some(feature) if !engine.is_built() => format!("no: --features {feature}"),
            _ => "yes".to_owned(),
        };
        engines.row([engine.name().to_owned(), built]);
    }
    let mut rows = Columns::new(["row", "durability", "database", "what"]);
    for &row in Row::value_variants() {
        let durability = match row.durability() {
            Durability::Buffered => "buffered",
            Durability::Synced => "synced",
        };
        let database = match row.session() {
            Session::Fill => "made",
            Session::Reads | Session::Limited => "read",
            Session::Changes(_) => "a copy, changed",
        };
        rows.row([row.name(), durability.to_owned(), database.to_owned(), row.describe()]);
    }
    print(&format!("{engines}\n{rows}"))
}

fn print(text: &str) -> tool::Result {
    use std::io::Write as _;
    let mut out = tool::output();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn failure(error: terrace_compare::engine::Error) -> Failure {
    Failure::error(error.to_string())
}

fn write_failure(path: &Path, error: &std::io::Error) -> Failure {
    Failure::file("write to", path, error)
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 1e6 => Ok(seconds),
        _ => Err("a number of seconds above 0 is wanted".to_owned()),
    }
}
