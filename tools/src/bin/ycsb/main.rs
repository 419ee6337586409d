//! `ycsb`: measures a Terrace database with YCSB's core workloads. The driver is `terrace_tools::ycsb`; this reads
//! the arguments, decides on the phases, shows progress and prints the report.

#![forbid(unsafe_code)]

mod arguments;
mod interrupt;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use terrace::Compression;
use terrace_tools::environment::{Environment, FileSystemKind, peak_resident_bytes};
use terrace_tools::progress;
use terrace_tools::tool::{self, Failure, Result};
use terrace_tools::ycsb::driver::{Phase, Work};
use terrace_tools::ycsb::report::{Header, PhaseReport, Report};
use terrace_tools::ycsb::{Description, Distribution, InsertOrder, RecordShape, Session, Settings, Workload};

use arguments::{Arguments, Command, Common, Records};

const RECORDS_DEFAULT: u64 = 1_000_000;
const SHAPE_DEFAULT: RecordShape = RecordShape { fields: 1, field_length: 100 };

fn main() -> ExitCode {
    let arguments: Arguments = tool::parse_arguments("ycsb");
    tool::run("ycsb", || {
        let plan = match arguments.command {
            None => {
                let demonstration = arguments.demonstration;
                Plan {
                    dir: demonstration.dir,
                    must_be_new: true,
                    load: Some(Load { batch: 1, compression: demonstration.compression.value() }),
                    workloads: Workload::IN_ORDER.to_vec(),
                    records: demonstration.records,
                    operations: demonstration.operations,
                    distribution: demonstration.request_distribution,
                    common: demonstration.common,
                }
            }
            Some(Command::Load(load)) => Plan {
                dir: Some(load.dir),
                must_be_new: false,
                load: Some(Load { batch: load.batch, compression: load.compression.value() }),
                workloads: Vec::new(),
                records: load.records,
                operations: 0,
                distribution: None,
                common: load.common,
            },
            Some(Command::Run(run)) => Plan {
                dir: Some(run.dir),
                must_be_new: false,
                load: None,
                workloads: run.workload,
                records: run.records,
                operations: run.operations,
                distribution: run.request_distribution,
                common: run.common,
            },
        };
        plan.run()
    })
}

/// What is to be done: perhaps a load, then some workloads.
struct Plan {
    /// Where; a temporary directory if it is not said.
    dir: Option<PathBuf>,
    must_be_new: bool,
    load: Option<Load>,
    workloads: Vec<Workload>,
    records: Records,
    operations: u64,
    distribution: Option<Distribution>,
    common: Common,
}

struct Load {
    batch: u64,
    compression: Compression,
}

impl Plan {
    fn run(&self) -> Result {
        tool::install_log(self.common.verbose);
        let begun = Instant::now();
        // Removed when it goes out of scope, which is after the database was closed.
        let temporary = match self.dir {
            Some(_) => None,
            None => {
                let temporary = temporary_dir()?;
                interrupt::remove_when_interrupted(temporary.path().to_owned())?;
                Some(temporary)
            }
        };
        let dir = match (&self.dir, &temporary) {
            (Some(dir), _) => dir.as_path(),
            (None, Some(temporary)) => temporary.path(),
            (None, None) => unreachable!("without a directory there is a temporary one"),
        };
        if self.must_be_new && self.dir.is_some() {
            check_new(dir)?;
        }
        let settings = Settings {
            dir: dir.to_owned(),
            durability: self.common.durability.value(),
            compression: self.load.as_ref().map_or(Compression::None, |load| load.compression),
        };
        let session = self.open(&settings)?;
        let header = self.header(dir, temporary.is_some(), &session);
        let mut text = self.text_output();
        header.write_text(&mut text)?;
        writeln!(text)?;
        text.flush()?;

        let mut phases = Vec::new();
        let mut done = |phase: PhaseReport| {
            let written = phase.write_line(&mut text).and_then(|()| text.flush());
            phases.push(phase);
            written
        };
        if let Some(load) = &self.load {
            done(self.load(&session, load)?)?;
            done(settle(&session)?)?;
        }
        for &workload in &self.workloads {
            done(self.workload(&session, workload)?)?;
        }
        if !self.workloads.is_empty() {
            done(settle(&session)?)?;
        }

        let report = Report {
            header: Header { records: session.description(), ..header },
            phases,
            engine: session.engine_work(),
            space: session.space()?,
            peak_resident_bytes: peak_resident_bytes(),
            seconds: begun.elapsed().as_secs_f64(),
        };
        session.close()?;
        writeln!(text)?;
        report.write_text(&mut text)?;
        text.flush()?;
        drop(text);
        self.write_json(&report)?;
        match report.failed_reads() {
            0 => Ok(()),
            failed => Err(Failure::Negative(format!("{failed} reads found a record missing or wrong"))),
        }
    }

    fn open(&self, settings: &Settings) -> Result<Session> {
        if self.load.is_some() {
            let like = Description {
                records: 0,
                shape: self.records.shape(SHAPE_DEFAULT),
                insert_order: self.records.insert_order.unwrap_or(InsertOrder::Hashed),
            };
            return Ok(Session::load(settings, like)?);
        }
        let session = Session::open(settings, self.records.records)?;
        let found = session.description();
        let wanted = Description {
            shape: self.records.shape(found.shape),
            insert_order: self.records.insert_order.unwrap_or(found.insert_order),
            ..found
        };
        if wanted != found {
            return Err(Failure::error(format!(
                "{} holds records of {} inserted {}, not of {} inserted {}",
                settings.dir.display(),
                found.shape,
                found.insert_order.describe(),
                wanted.shape,
                wanted.insert_order.describe()
            )));
        }
        Ok(session)
    }

    fn header(&self, dir: &Path, temporary: bool, session: &Session) -> Header {
        let found = session.description();
        let to_load = if self.load.is_some() { self.to_load() } else { 0 };
        Header {
            environment: Environment::current(),
            file_system: FileSystemKind::of(dir),
            dir: dir.to_owned(),
            temporary,
            durability: self.common.durability.name(),
            compression: match session.compression() {
                Compression::None => "none",
                Compression::Snappy => "snappy",
            },
            records: Description { records: found.records + to_load, ..found },
            threads: self.common.threads,
            target_per_second: self.common.target,
            latency_from: if self.common.target.is_some() { "intended" } else { "start" },
            request_distribution: self.distribution,
            seed: self.common.seed,
        }
    }

    fn to_load(&self) -> u64 {
        self.records.records.unwrap_or(RECORDS_DEFAULT)
    }

    fn phase(&self, session: &Session, work: Work, operations: u64) -> Phase {
        let Description { shape, insert_order: order, .. } = session.description();
        Phase {
            work,
            operations,
            threads: self.common.threads,
            target: self.common.target,
            seed: self.common.seed,
            order,
            shape,
            update_one_field: !self.common.write_all_fields,
            verify: self.common.verify,
        }
    }

    fn load(&self, session: &Session, load: &Load) -> Result<PhaseReport> {
        let phase = self.phase(session, Work::Load { batch: load.batch }, self.to_load());
        let bar = progress::bar("load", phase.operations);
        let report = session.run("load", &phase, |done| bar.set_position(done))?;
        Ok(PhaseReport { description: format!("100 % insert, {}", phase.order.describe()), ..report })
    }

    fn workload(&self, session: &Session, workload: Workload) -> Result<PhaseReport> {
        let distribution = self.distribution.unwrap_or(workload.distribution());
        let phase = self.phase(session, Work::Mix { workload, distribution }, self.operations);
        let name = workload.letter().to_string();
        let bar = progress::bar(&name, phase.operations);
        let report = session.run(&name, &phase, |done| bar.set_position(done))?;
        let distribution = format!("{distribution:?}").to_lowercase();
        Ok(PhaseReport { description: format!("{}, {distribution}", workload.describe()), ..report })
    }

    /// Where tables are printed: standard output, unless JSON goes there.
    fn text_output(&self) -> Box<dyn Write> {
        if self.json_to_output() { Box::new(io::stderr()) } else { Box::new(tool::output()) }
    }

    fn json_to_output(&self) -> bool {
        self.common.json.as_deref() == Some(Path::new("-"))
    }

    fn write_json(&self, report: &Report) -> Result {
        let Some(path) = &self.common.json else { return Ok(()) };
        if self.json_to_output() {
            let mut out = tool::output();
            tool::write_json(&mut out, report, true)?;
            return Ok(out.flush()?);
        }
        let mut bytes = Vec::new();
        tool::write_json(&mut bytes, report, true)?;
        fs::write(path, bytes).map_err(|error| Failure::file("write", path, &error))
    }
}

fn settle(session: &Session) -> Result<PhaseReport> {
    let bar = progress::spinner("settle");
    let report = session.settle()?;
    bar.finish_and_clear();
    Ok(PhaseReport { description: "flushes and compactions that were owed are done".to_owned(), ..report })
}

fn temporary_dir() -> Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("terrace-ycsb-").tempdir().map_err(|error| {
        Failure::error(format!(
            "cannot create a temporary directory in {}: {error}",
            std::env::temp_dir().display()
        ))
    })
}

/// The demonstration would say little about a database that holds something already.
fn check_new(dir: &Path) -> Result {
    let is_empty = fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none());
    if is_empty {
        return Ok(());
    }
    Err(Failure::error(format!(
        "{} is not empty; the demonstration takes a new directory (`ycsb run` takes one that was loaded)",
        dir.display()
    )))
}
