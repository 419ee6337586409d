//! The arguments of `ycsb`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use terrace::{Compression, Durability};
use terrace_tools::ycsb::record::RECORDS_MAX;
use terrace_tools::ycsb::{Distribution, InsertOrder, RecordShape, Workload};

const EXAMPLES: &str = "\
Examples:
  ycsb                                          the demonstration: a load, then A, B, C, F, D and E
  ycsb --durability sync --operations 100000    the same, with writes that survive power loss
  ycsb load --dir /data/t --records 10000000    ten million records of 16 B + 100 B
  ycsb run --dir /data/t --workload c --threads 4 --operations 5000000
  ycsb run --dir /data/t --workload a,b --target 50000 --json report.json

Keys have 16 bytes. The workloads are YCSB's core workloads:
  A  50 % read, 50 % update               zipfian
  B  95 % read, 5 % update                zipfian
  C  100 % read                           zipfian
  D  95 % read, 5 % insert                latest
  E  95 % scan of 1 to 100, 5 % insert    zipfian
  F  50 % read, 50 % read-modify-write    zipfian

Exit code: 0, or 1 if records were missing or wrong, or 2 for wrong usage or a failure.";

/// Measures a Terrace database with YCSB's core workloads.
///
/// Without a command it runs the demonstration: it loads a million records into a temporary directory, lets the
/// database settle, and runs workloads A, B, C, F, D and E in this order, with two threads and buffered writes.
#[derive(Debug, Parser)]
#[command(name = "ycsb", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    pub demonstration: Demonstration,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load records into a database, which is created if need be.
    Load(Load),
    /// Run workloads on a database that was loaded.
    Run(Run),
}

#[derive(Debug, Args)]
pub struct Demonstration {
    /// A new directory for the database, which is kept; without, a temporary one that is removed.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    #[command(flatten)]
    pub records: Records,

    /// Compression of the tables; a database that exists keeps its own.
    #[arg(long, value_name = "NAME", default_value = "none")]
    pub compression: CompressionName,

    /// How many operations each workload has.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub operations: u64,

    /// A request distribution in place of each workload's own.
    #[arg(long, value_name = "NAME")]
    pub request_distribution: Option<Distribution>,

    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub struct Load {
    /// The directory of the database.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,

    #[command(flatten)]
    pub records: Records,

    /// Compression of the tables; a database that exists keeps its own.
    #[arg(long, value_name = "NAME", default_value = "none")]
    pub compression: CompressionName,

    /// Records in a batch: they are written together, and each counts the time of its batch.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub batch: u64,

    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub struct Run {
    /// The directory of the database.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,

    /// The workloads, separated by commas; they run one after the other.
    #[arg(long, value_name = "A,..", required = true, value_delimiter = ',', ignore_case = true)]
    pub workload: Vec<Workload>,

    #[command(flatten)]
    pub records: Records,

    /// How many operations each workload has.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub operations: u64,

    /// A request distribution in place of each workload's own.
    #[arg(long, value_name = "NAME")]
    pub request_distribution: Option<Distribution>,

    #[command(flatten)]
    pub common: Common,
}

/// What the records are. A database remembers what it was loaded with: `run` needs none of these.
#[derive(Debug, Args)]
pub struct Records {
    /// How many records: to load (default: 1000000), or to run on (default: all that were loaded).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..RECORDS_MAX))]
    pub records: Option<u64>,

    /// Fields of a value (default: 1).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub fields: Option<u32>,

    /// Bytes of a field (default: 100).
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    pub field_length: Option<u32>,

    /// Bytes of a value: the same as one field of this length.
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["fields", "field_length"],
          value_parser = clap::value_parser!(u32).range(..=1 << 26))]
    pub value_size: Option<u32>,

    /// Whether records are inserted all over the key space or one behind the other (default: hashed).
    #[arg(long, value_name = "ORDER")]
    pub insert_order: Option<InsertOrder>,
}

impl Records {
    /// The shape that is asked for, what is not said taken from `default`.
    pub fn shape(&self, default: RecordShape) -> RecordShape {
        match self.value_size {
            Some(bytes) => RecordShape { fields: 1, field_length: bytes },
            None => RecordShape {
                fields: self.fields.unwrap_or(default.fields),
                field_length: self.field_length.unwrap_or(default.field_length),
            },
        }
    }
}

#[derive(Debug, Args)]
pub struct Common {
    /// Threads that ask for operations.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,

    /// What acknowledged writes survive.
    #[arg(long, value_name = "WHAT", default_value = "buffered")]
    pub durability: DurabilityName,

    /// Start this many operations per second, all threads together; latencies then count from the time an operation
    /// was meant to start. Without, as many as possible.
    #[arg(long, value_name = "RATE", value_parser = positive)]
    pub target: Option<f64>,

    /// Let updates write all fields instead of reading a record and writing one of its fields anew.
    #[arg(long)]
    pub write_all_fields: bool,

    /// Check each value that is read and the order of each scan.
    #[arg(long)]
    pub verify: bool,

    /// Where random numbers start; the same seed makes the same requests.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,

    /// Write the report to a file as JSON too; `-` is standard output, and then tables go to standard error.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Say what the engine does; twice to say more.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DurabilityName {
    /// Power loss: each write waits for the disk.
    Sync,
    /// The process, but not the machine: each write waits for the kernel.
    Buffered,
}

impl DurabilityName {
    pub fn value(self) -> Durability {
        match self {
            DurabilityName::Sync => Durability::Sync,
            DurabilityName::Buffered => Durability::Buffered,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            DurabilityName::Sync => "sync",
            DurabilityName::Buffered => "buffered",
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum CompressionName {
    /// Blocks of one page, read in place.
    None,
    /// Larger blocks, compressed.
    Snappy,
}

impl CompressionName {
    pub fn value(self) -> Compression {
        match self {
            CompressionName::None => Compression::None,
            CompressionName::Snappy => Compression::Snappy,
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("a rate is a number above 0".to_owned()),
    }
}
