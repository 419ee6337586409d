//! The report of a run: what it ran on, what came out, as JSON or as tables.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::latency::Summary;
use super::{Description, Distribution};
use crate::columns::Columns;
use crate::environment::{DirectorySize, Environment, FileSystemKind};
use crate::figures;
use crate::ycsb::record::KEY_BYTES;

/// What a run was asked to do, and where.
#[derive(Debug, Clone, Serialize)]
pub struct Header {
    /// The machine and the versions.
    pub environment: Environment,
    /// The directory of the database.
    pub dir: PathBuf,
    /// Whether it is removed at the end.
    pub temporary: bool,
    /// What the directory is on.
    pub file_system: FileSystemKind,
    /// `sync` or `buffered`.
    pub durability: &'static str,
    /// `none` or `snappy`.
    pub compression: &'static str,
    /// How many records there are or will be, after the load.
    pub records: Description,
    /// Threads that ask for operations.
    pub threads: u32,
    /// Operations per second that are started, all threads together.
    pub target_per_second: Option<f64>,
    /// What the latencies count from: `start` of the operation, or the time it was `intended` to start.
    pub latency_from: &'static str,
    /// A request distribution in place of each workload's own.
    pub request_distribution: Option<Distribution>,
    /// Where random numbers start.
    pub seed: u64,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where it comes from.
    #[serde(flatten)]
    pub header: Header,
    /// What was run, in this order.
    pub phases: Vec<PhaseReport>,
    /// What the engine did, all phases together.
    pub engine: EngineWork,
    /// What the database takes on disk at the end.
    pub space: SpaceReport,
    /// Peak of the resident memory, mapped tables included.
    pub peak_resident_bytes: Option<u64>,
    /// From the beginning to the end.
    pub seconds: f64,
}

/// One phase.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PhaseReport {
    /// Its name: `load`, `settle`, a workload's letter.
    pub name: String,
    /// What it consists of.
    pub description: String,
    /// Threads that asked for operations; 0 if the engine worked alone.
    pub threads: u32,
    /// Operations per second that were started.
    pub target_per_second: Option<f64>,
    /// How many operations it had.
    pub operations: u64,
    /// How long it took.
    pub seconds: f64,
    /// Latencies by kind of operation.
    pub by_operation: Vec<Summary>,
    /// Records that must exist and were not found.
    pub missing: u64,
    /// Values that were not those of their record.
    pub wrong: u64,
    /// Records that scans returned.
    pub records_scanned: u64,
    /// What the engine did meanwhile.
    pub engine: EngineWork,
    /// What the database takes on disk afterwards, where it has settled.
    pub space: Option<SpaceReport>,
}

/// What the engine did during a phase, in the foreground and behind it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EngineWork {
    /// Bytes of keys and values that were written by the user.
    pub user_bytes_written: u64,
    /// Bytes written to log, manifest and tables.
    pub disk_bytes_written: u64,
    /// Why writers had to wait.
    pub stalls: Vec<StallReport>,
    /// Page faults of the process that needed no I/O.
    pub minor_faults: u64,
    /// Page faults of the process that waited for I/O.
    pub major_faults: u64,
}

/// Waiting of writers for one reason.
#[derive(Debug, Clone, Serialize)]
pub struct StallReport {
    /// The reason.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// How long in all.
    pub seconds: f64,
    /// The longest since the database was opened.
    pub longest_seconds: f64,
}

/// What the database takes on disk.
#[derive(Debug, Clone, Serialize)]
pub struct SpaceReport {
    /// What the file system says, and which files it is.
    #[serde(flatten)]
    pub size: DirectorySize,
    /// The records it holds.
    pub records: u64,
    /// Their keys and values.
    pub user_bytes: u64,
    /// Allocated bytes for each byte of them.
    pub per_user_byte: f64,
    /// Allocated bytes for each record.
    pub per_record: f64,
}

impl EngineWork {
    /// Bytes written to disk for each byte that the user wrote, if he wrote any.
    pub fn write_amplification(&self) -> Option<f64> {
        let written = self.user_bytes_written;
        (written > 0).then(|| self.disk_bytes_written as f64 / written as f64)
    }

    fn stall_text(&self) -> String {
        let count: u64 = self.stalls.iter().map(|stall| stall.count).sum();
        let seconds: f64 = self.stalls.iter().map(|stall| stall.seconds).sum();
        match count {
            0 => "0".to_owned(),
            _ => format!("{} ({})", figures::count(count), figures::time(Duration::from_secs_f64(seconds))),
        }
    }
}

impl PhaseReport {
    /// A phase in which only the engine worked.
    pub fn of_engine(name: &str, elapsed: Duration, engine: EngineWork) -> Self {
        PhaseReport {
            name: name.to_owned(),
            seconds: elapsed.as_secs_f64(),
            engine,
            ..PhaseReport::default()
        }
    }

    /// Writes the line that a phase is worth once it is over.
    pub fn write_line(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let time = figures::time(Duration::from_secs_f64(self.seconds));
        if self.operations == 0 {
            return writeln!(out, "{:<7}{time}: {}", self.name, self.description);
        }
        let rate = figures::rate(self.operations, self.seconds);
        write!(out, "{:<7}{time}: {}: {rate} operations/s", self.name, self.description)?;
        if self.records_scanned > 0 {
            let scanned = figures::rate(self.records_scanned, self.seconds);
            write!(out, ", {scanned} records/s scanned")?;
        }
        writeln!(out)
    }
}

impl SpaceReport {
    /// From the size of the directory and what is in it.
    pub fn new(size: DirectorySize, description: Description) -> Self {
        let record_bytes = KEY_BYTES as u64 + description.shape.value_bytes();
        let user_bytes = description.records.saturating_mul(record_bytes);
        let ratio = |bytes: u64, by: u64| if by == 0 { 0.0 } else { bytes as f64 / by as f64 };
        SpaceReport {
            records: description.records,
            user_bytes,
            per_user_byte: ratio(size.allocated_bytes, user_bytes),
            per_record: ratio(size.allocated_bytes, description.records),
            size,
        }
    }

    fn text(&self) -> String {
        format!(
            "{:.3} bytes on disk for each user byte: {} for {} records of {:.1} B; tables {}, log {}, other {}",
            self.per_user_byte,
            figures::bytes(self.size.allocated_bytes),
            figures::count(self.records),
            self.per_record,
            figures::bytes(self.size.table_bytes),
            figures::bytes(self.size.log_bytes),
            figures::bytes(self.size.other_bytes),
        )
    }
}

impl Report {
    /// Records that were lost or wrong, in any phase.
    pub fn failed_reads(&self) -> u64 {
        self.phases.iter().map(|phase| phase.missing + phase.wrong).sum()
    }

    /// Writes the tables.
    pub fn write_text(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut latencies = Columns::new([
            "phase",
            "operation",
            ">operations",
            ">per second",
            ">mean",
            ">p50",
            ">p99",
            ">p99.9",
            ">max",
        ]);
        let mut phases = Columns::new([
            "phase",
            ">seconds",
            ">user data",
            ">written",
            ">write ampl.",
            ">stalls",
            ">minor faults",
            ">major faults",
        ]);
        for phase in &self.phases {
            for summary in &phase.by_operation {
                latencies.row([
                    phase.name.clone(),
                    summary.operation.name().to_owned(),
                    figures::count(summary.count),
                    figures::count(summary.per_second.round() as u64),
                    figures::nanoseconds(summary.mean_ns.round() as u64),
                    figures::nanoseconds(summary.p50_ns),
                    figures::nanoseconds(summary.p99_ns),
                    figures::nanoseconds(summary.p999_ns),
                    figures::nanoseconds(summary.max_ns),
                ]);
            }
            phases.row(phase_row(&phase.name, phase.seconds, &phase.engine));
        }
        phases.row(phase_row("all", self.seconds, &self.engine));
        write!(out, "{latencies}\n{phases}")?;
        self.write_totals(out)
    }

    fn write_totals(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let loaded = self.phases.iter().find(|phase| phase.name == "load");
        let settled = self.phases.iter().find(|phase| phase.name == "settle");
        writeln!(out)?;
        if let (Some(load), Some(settle)) = (loaded, settled) {
            let rate = figures::rate(load.operations, load.seconds + settle.seconds);
            writeln!(out, "load, settling included  {rate} records/s")?;
        }
        let amplification = figures::factor(self.engine.write_amplification());
        writeln!(
            out,
            "write amplification      {amplification} bytes to disk for each byte of keys and values, log included"
        )?;
        let loaded = settled.and_then(|settle| settle.space.as_ref()).filter(|_| loaded.is_some());
        if let Some(space) = loaded {
            writeln!(out, "space used, loaded       {}", space.text())?;
        }
        if self.phases.len() > 2 || loaded.is_none() {
            writeln!(out, "space used, at the end   {}", self.space.text())?;
        }
        if self.engine.stalls.is_empty() {
            writeln!(out, "stalls                   none")?;
        }
        for (index, stall) in self.engine.stalls.iter().enumerate() {
            let label = if index == 0 { "stalls" } else { "" };
            let time = |seconds| figures::time(Duration::from_secs_f64(seconds));
            writeln!(
                out,
                "{label:<24} {}: {} times, {} in all, {} the longest",
                stall.reason,
                figures::count(stall.count),
                time(stall.seconds),
                time(stall.longest_seconds),
            )?;
        }
        writeln!(
            out,
            "page faults              {} minor, {} major",
            figures::count(self.engine.minor_faults),
            figures::count(self.engine.major_faults),
        )?;
        if let Some(bytes) = self.peak_resident_bytes {
            writeln!(out, "peak resident memory     {}, mapped tables included", figures::bytes(bytes))?;
        }
        Ok(())
    }
}

fn phase_row(name: &str, seconds: f64, engine: &EngineWork) -> [String; 8] {
    [
        name.to_owned(),
        format!("{seconds:.2}"),
        figures::bytes(engine.user_bytes_written),
        figures::bytes(engine.disk_bytes_written),
        figures::factor(engine.write_amplification()),
        engine.stall_text(),
        figures::count(engine.minor_faults),
        figures::count(engine.major_faults),
    ]
}

impl Header {
    /// Writes what a reader must know before the figures.
    pub fn write_text(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let environment = &self.environment;
        let build = if environment.release_build { "release build" } else { "NOT a release build" };
        writeln!(
            out,
            "ycsb         terrace {} ({build}, {}, {})",
            environment.terrace, environment.compiler, environment.target
        )?;
        write!(
            out,
            "machine      {}, {} CPUs, {} memory",
            environment.cpu,
            environment.cpus,
            figures::bytes(environment.memory_bytes)
        )?;
        match environment.memory_limit_bytes {
            Some(limit) => writeln!(out, ", limited to {}", figures::bytes(limit))?,
            None => writeln!(out)?,
        }
        writeln!(out, "kernel       {}", environment.kernel)?;
        let source = &self.file_system.source;
        let on = if source.is_empty() { String::new() } else { format!(" on {source}") };
        let temporary = if self.temporary { ", removed at the end" } else { "" };
        writeln!(out, "directory    {} ({}{on}){temporary}", self.dir.display(), self.file_system.kind)?;
        if self.file_system.is_memory() {
            writeln!(
                out,
                "             this file system is in memory: the figures say nothing about a disk (see --dir)"
            )?;
        }
        writeln!(
            out,
            "records      {} of {KEY_BYTES} B + {}, inserted {}, compression {}",
            figures::count(self.records.records),
            self.records.shape,
            self.records.insert_order.describe(),
            self.compression,
        )?;
        writeln!(
            out,
            "durability   {}",
            match self.durability {
                "sync" => "sync: a write is acknowledged once it survives power loss",
                _ =>
                    "buffered: a write is acknowledged once the kernel has it; it survives the process, not the \
                     machine\n             (--durability sync for writes that survive power loss)",
            }
        )?;
        let threads = if self.threads == 1 { "1 thread" } else { &format!("{} threads", self.threads) };
        write!(out, "requests     {threads}, seed {}, ", self.seed)?;
        match self.target_per_second {
            Some(target) => writeln!(
                out,
                "{} operations/s started (open loop): latencies count from the time meant",
                figures::count(target.round() as u64)
            ),
            None => writeln!(out, "each starts the next operation when the last is done (closed loop)"),
        }
    }
}
