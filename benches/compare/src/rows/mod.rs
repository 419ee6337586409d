//! The rows of the comparison: what is measured.

mod draws;
mod limited;
mod mixed;
mod opening;
mod reads;
mod scans;
mod writes;
mod ycsb;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use terrace_benches::Memory;

use crate::database::{Kept, Setting, warm};
use crate::engine::{Durability, Engine, Result};
use crate::engines::EngineName;
use crate::results::{Measurement, Told, Unit};
use terrace_benches::device_read_bytes;

/// A row of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Row {
    /// Write every record in random order and settle.
    FillRandom,
    /// Heap per key once everything was read.
    Heap,
    /// Get random records.
    ReadRandom,
    /// Get random records, some far more often than others.
    ReadZipf,
    /// Get records that are not there.
    ReadMissing,
    /// Get random records as they were when the thread began.
    ReadView,
    /// Seek a random record and read 100 from there.
    Seek,
    /// Read everything in order.
    Scan,
    /// Open and get one record.
    Open,
    /// Gets and scans while 64 MiB of recent writes are not in tables yet.
    Unflushed,
    /// One thread reads while another writes.
    ReadWhileWriting,
    /// YCSB's workloads A to F.
    Ycsb,
    /// Gets while the process may use less memory than the database has bytes (needs control groups).
    Limited,
    /// Overwrite as many records as there are, at random, and settle.
    Overwrite,
    /// The same three times over.
    Overwrite3,
    /// How long single puts take while one thread overwrites without pause.
    PutLatency,
    /// Puts that wait for the disk.
    SyncedPut,
}

/// Rows that are measured by one process, one after the other, on one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Session {
    /// Makes the database.
    Fill,
    /// Only reads it.
    Reads,
    /// Reads it with little memory.
    Limited,
    /// Changes a copy: each such row has a process of its own.
    Changes(Row),
}

/// Rows whose figures are shown together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Point reads.
    Reads,
    /// Scans.
    Scans,
    /// Writes.
    Writes,
    /// Reads and writes together.
    Mixed,
    /// Reads of more than memory holds.
    Limited,
    /// Opening, memory.
    Rest,
}

impl Group {
    /// All of them.
    pub const ALL: [Group; 6] =
        [Group::Reads, Group::Scans, Group::Writes, Group::Mixed, Group::Limited, Group::Rest];

    /// Its name, also of its plot's file.
    pub fn name(self) -> &'static str {
        match self {
            Group::Reads => "reads",
            Group::Scans => "scans",
            Group::Writes => "writes",
            Group::Mixed => "mixed",
            Group::Limited => "limited",
            Group::Rest => "rest",
        }
    }
}

impl Row {
    /// As on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().expect("no row is hidden").get_name().to_owned()
    }

    /// What it does.
    pub fn describe(self) -> String {
        let value = self.to_possible_value().expect("no row is hidden");
        value.get_help().map(ToString::to_string).unwrap_or_default()
    }

    /// What writes survive when they are acknowledged, in this row.
    pub fn durability(self) -> Durability {
        match self {
            Row::SyncedPut => Durability::Synced,
            _ => Durability::Buffered,
        }
    }

    /// Whether an engine can take part.
    pub fn admits(self, engine: EngineName) -> bool {
        engine != EngineName::Raw || matches!(self, Row::ReadRandom | Row::SyncedPut)
    }

    /// With which others it is measured.
    pub fn session(self) -> Session {
        match self {
            Row::FillRandom => Session::Fill,
            Row::Heap
            | Row::ReadRandom
            | Row::ReadZipf
            | Row::ReadMissing
            | Row::ReadView
            | Row::Seek
            | Row::Scan
            | Row::Open => Session::Reads,
            Row::Limited => Session::Limited,
            row => Session::Changes(row),
        }
    }

    /// With which others it is shown.
    pub fn group(self) -> Group {
        match self {
            Row::ReadRandom | Row::ReadZipf | Row::ReadMissing | Row::ReadView => Group::Reads,
            Row::Limited => Group::Limited,
            Row::Seek | Row::Scan => Group::Scans,
            Row::FillRandom | Row::Overwrite | Row::Overwrite3 | Row::PutLatency | Row::SyncedPut => {
                Group::Writes
            }
            Row::Unflushed | Row::ReadWhileWriting | Row::Ycsb => Group::Mixed,
            Row::Heap | Row::Open => Group::Rest,
        }
    }
}

impl Session {
    /// The kept database that it needs.
    pub fn needs(self) -> Option<Kept> {
        match self {
            Session::Fill | Session::Changes(Row::SyncedPut) => None,
            Session::Changes(Row::Ycsb) => Some(Kept::Ycsb),
            _ => Some(Kept::Records),
        }
    }
}

/// The sessions that some rows take, in order, each with its rows in order.
pub fn sessions(rows: &[Row]) -> Vec<(Session, Vec<Row>)> {
    let mut sessions: Vec<(Session, Vec<Row>)> = Vec::new();
    let mut rows = rows.to_vec();
    rows.sort_unstable();
    rows.dedup();
    for row in rows {
        match sessions.iter_mut().find(|(session, _)| *session == row.session()) {
            Some((_, rows)) => rows.push(row),
            None => sessions.push((row.session(), vec![row])),
        }
    }
    sessions
}

/// Measures rows of one session.
pub fn measure(setting: &Setting, rows: &[Row]) -> Result<Told> {
    let mut told = Told::default();
    for (session, rows) in sessions(rows) {
        if let Some(kept) = session.needs() {
            setting.prepare(kept)?;
        }
        match session {
            Session::Fill => writes::fill_random(setting, &mut told)?,
            Session::Reads => measure_reads(setting, &rows, &mut told)?,
            Session::Limited => limited::gets(setting, &mut told)?,
            Session::Changes(Row::Unflushed) => mixed::unflushed(setting, &mut told)?,
            Session::Changes(Row::ReadWhileWriting) => mixed::read_while_writing(setting, &mut told)?,
            Session::Changes(Row::Ycsb) => ycsb::all(setting, &mut told)?,
            Session::Changes(Row::PutLatency) => writes::put_latency(setting, &mut told)?,
            Session::Changes(Row::SyncedPut) => writes::synced_put(setting, &mut told)?,
            Session::Changes(row @ (Row::Overwrite | Row::Overwrite3)) => {
                writes::overwrite(setting, row, &mut told)?
            }
            Session::Changes(row) => return Err(format!("{} changes nothing", row.name()).into()),
        }
        crate::usage::remove(&setting.work())?;
    }
    Ok(told)
}

fn measure_reads(setting: &Setting, rows: &[Row], told: &mut Told) -> Result {
    let before = Memory::now().anonymous;
    let engine = setting.open(&setting.kept(Kept::Records))?;
    told.opened(&*engine);
    warm(&*engine, setting.records())?;
    for &row in rows {
        let mut measurement = Measurement::new(row);
        let from_disk = device_read_bytes();
        match row {
            Row::Heap => {
                let heap = Memory::now().anonymous.saturating_sub(before);
                measurement.add("all records read", heap as f64 / setting.records as f64, Unit::BytesPerKey);
            }
            Row::Seek => scans::seek(&*engine, setting, "100 entries", &mut measurement)?,
            Row::Scan => scans::full(&*engine, setting, "", &mut measurement)?,
            // It opens the database itself.
            Row::Open => continue,
            row => reads::point_reads(&*engine, setting, row, &mut measurement)?,
        }
        measurement.note_cold(from_disk);
        told.measurements.push(measurement);
    }
    engine.close()?;
    if rows.contains(&Row::Open) {
        told.measurements.push(opening::open(setting)?);
    }
    Ok(())
}

impl Told {
    /// Notes how an engine was set up.
    pub(crate) fn opened(&mut self, engine: &dyn Engine) {
        let settings = engine.settings();
        if !self.settings.contains(&settings) {
            self.settings.push(settings);
        }
    }
}
