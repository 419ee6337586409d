//! A database under test: opens it, runs phases against it, and notes what the engine did in each.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use terrace::{Compression, Db, Durability, Error, KeyspaceOptions, Metrics, Options, Result, StallReason};

use super::Description;
use super::driver::{self, Measured, Phase};
use super::report::{EngineWork, PhaseReport, SpaceReport, StallReport};
use super::sequence::Sequence;
use super::store::TerraceStore;
use crate::environment::DirectorySize;

/// How long obsolete tables may take to disappear before they are counted as space used.
const DELETION_PATIENCE: Duration = Duration::from_secs(2);

/// How a database is opened.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it is.
    pub dir: PathBuf,
    /// What acknowledged writes survive.
    pub durability: Durability,
    /// Compression of its tables, decided when it is created.
    pub compression: Compression,
}

/// An open database and the numbers of its records.
#[derive(Debug)]
pub struct Session {
    db: Db,
    store: TerraceStore,
    sequence: Sequence,
    description: Description,
}

impl Session {
    /// Opens or creates a database to be loaded with more records like `like`, whose number is ignored. One that
    /// holds other records is refused.
    pub fn load(settings: &Settings, like: Description) -> Result<Session> {
        let db = options(settings).open(&settings.dir)?;
        let description = match Description::read(&db)? {
            Some(found) if found.shape == like.shape && found.insert_order == like.insert_order => found,
            Some(found) => {
                return Err(Error::invalid(format!(
                    "{} holds records of {} inserted {}; load others into another directory",
                    settings.dir.display(),
                    found.shape,
                    found.insert_order.describe()
                )));
            }
            None if db.iter()?.next().transpose()?.is_some() => {
                return Err(Error::invalid(format!(
                    "{} holds data that was not loaded by ycsb; use another directory",
                    settings.dir.display()
                )));
            }
            None => {
                // Said before the first record, so that a load that is cut short can be started again.
                let empty = Description { records: 0, ..like };
                empty.write(&db)?;
                empty
            }
        };
        Ok(Session::of(db, description))
    }

    /// Opens a database that was loaded before. With `records`, only the first that many take part, and inserts
    /// write those behind them anew.
    pub fn open(settings: &Settings, records: Option<u64>) -> Result<Session> {
        let db = options(settings).create_if_missing(false).open(&settings.dir)?;
        let dir = settings.dir.display();
        match Description::read(&db)? {
            Some(Description { records: found, .. }) if records.is_some_and(|records| records > found) => {
                Err(Error::invalid(format!("{dir} holds {found} records, not {}", records.unwrap_or(found))))
            }
            Some(description) if description.records > 0 => {
                let mut session = Session::of(db, description);
                session.sequence = Sequence::new(records.unwrap_or(description.records));
                Ok(session)
            }
            _ => Err(Error::invalid(format!(
                "{dir} holds no records of ycsb; load some first with `ycsb load --dir {dir}`"
            ))),
        }
    }

    fn of(db: Db, description: Description) -> Session {
        let store = TerraceStore::new(&db);
        Session { db, store, sequence: Sequence::new(description.records), description }
    }

    /// What the database holds now.
    pub fn description(&self) -> Description {
        Description { records: self.sequence.present().max(self.description.records), ..self.description }
    }

    /// How its tables are compressed.
    pub fn compression(&self) -> Compression {
        match *self.db.options() == keyspace_options(Compression::Snappy) {
            true => Compression::Snappy,
            false => Compression::None,
        }
    }

    /// Runs a phase and keeps count of the records that it inserts.
    pub fn run(&self, name: &str, phase: &Phase, watch: impl FnMut(u64)) -> Result<PhaseReport> {
        let before = self.db.metrics();
        let present = self.sequence.present();
        let measured = driver::run(&self.store, phase, &self.sequence, watch)?;
        if self.sequence.present() != present {
            self.description().write(&self.db)?;
        }
        Ok(phase_report(name, phase, measured, engine_work(&before, &self.db.metrics())))
    }

    /// Waits until everything is in tables and no compaction is owed.
    pub fn settle(&self) -> Result<PhaseReport> {
        let (before, begun) = (self.db.metrics(), Instant::now());
        self.db.settle()?;
        let elapsed = begun.elapsed();
        let report = PhaseReport::of_engine("settle", elapsed, engine_work(&before, &self.db.metrics()));
        Ok(PhaseReport { space: Some(self.space()?), ..report })
    }

    /// What the database takes on disk now, once the tables that it needs no more are gone: they are deleted
    /// behind everyone's back, which takes a moment.
    pub fn space(&self) -> Result<SpaceReport> {
        let path = self.db.path();
        let give_up = Instant::now() + DELETION_PATIENCE;
        loop {
            let size = DirectorySize::of(path)
                .map_err(|error| Error::io(path, terrace_io::Operation::ReadDirectory, error))?;
            let live: u64 = self.db.metrics().levels.iter().map(|level| level.bytes).sum();
            if size.table_bytes <= live || Instant::now() >= give_up {
                return Ok(SpaceReport::new(size, self.description()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the engine did since it was opened.
    pub fn engine_work(&self) -> EngineWork {
        let metrics = self.db.metrics();
        EngineWork {
            stalls: stalls(None, &metrics),
            user_bytes_written: metrics.user_bytes_written,
            disk_bytes_written: disk_bytes_written(&metrics),
            minor_faults: metrics.minor_faults,
            major_faults: metrics.major_faults,
        }
    }

    /// Closes the database.
    pub fn close(self) -> Result<()> {
        self.db.close()
    }
}

fn options(settings: &Settings) -> Options {
    Options::new().durability(settings.durability).keyspace_defaults(keyspace_options(settings.compression))
}

fn keyspace_options(compression: Compression) -> KeyspaceOptions {
    KeyspaceOptions::new().compression(compression)
}

fn phase_report(name: &str, phase: &Phase, measured: Measured, engine: EngineWork) -> PhaseReport {
    PhaseReport {
        threads: phase.threads,
        target_per_second: phase.target,
        operations: measured.latencies.count(),
        by_operation: measured.latencies.summaries(measured.elapsed),
        missing: measured.missing,
        wrong: measured.wrong,
        records_scanned: measured.scanned,
        ..PhaseReport::of_engine(name, measured.elapsed, engine)
    }
}

fn engine_work(before: &Metrics, after: &Metrics) -> EngineWork {
    EngineWork {
        user_bytes_written: after.user_bytes_written.saturating_sub(before.user_bytes_written),
        disk_bytes_written: disk_bytes_written(after).saturating_sub(disk_bytes_written(before)),
        stalls: stalls(Some(before), after),
        minor_faults: after.minor_faults.saturating_sub(before.minor_faults),
        major_faults: after.major_faults.saturating_sub(before.major_faults),
    }
}

/// Everything that was written: log, manifest, flushed tables, compacted tables.
fn disk_bytes_written(metrics: &Metrics) -> u64 {
    metrics.log_bytes_written
        + metrics.manifest_bytes_written
        + metrics.flush_bytes_written
        + metrics.compaction_bytes_written
}

/// Stalls by reason, those that `before` knew already taken off.
fn stalls(before: Option<&Metrics>, after: &Metrics) -> Vec<StallReport> {
    let earlier = |reason: StallReason| {
        let stalls = before.map_or(&[][..], |before| &before.stalls);
        let found = stalls.iter().find(|stall| stall.reason == reason);
        found.map_or((0, Duration::ZERO), |stall| (stall.count, stall.total))
    };
    after
        .stalls
        .iter()
        .map(|stall| {
            let (count, total) = earlier(stall.reason);
            StallReport {
                count: stall.count.saturating_sub(count),
                seconds: stall.total.saturating_sub(total).as_secs_f64(),
                longest_seconds: stall.longest.as_secs_f64(),
                reason: stall.reason.as_str().to_owned(),
            }
        })
        .filter(|stall| stall.count > 0)
        .collect()
}
