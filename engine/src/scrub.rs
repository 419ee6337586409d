//! The scrub: reading every block of every live table again, cold ones included, to find rot before a reader does.
//!
//! It reads past the page cache, since a cached page says nothing of the device; through descriptors of its own, so
//! that it keeps no table; and at a bounded rate. Between two reads it looks whether the database is being closed and
//! whether the table is still live, so that neither waits for it and no file stays on disk because of it. It holds no
//! lock while it reads.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use terrace_io::{Advice, Error, File, OpenMode, Operation, Region, Result};
use terrace_sstable::{TableMeta, table_file_name, verify_file};

use crate::core::Core;
use crate::keyspace::KeyspaceInner;
use crate::repair::{Finding, RESTORE, Severity, table_findings};

/// How long a wait lasts before it is looked again whether the table is still live.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The longest single read, in bytes.
const READ_BYTES_MAX: u64 = 1 << 20;
/// The longest where the rate is low.
const READ_BYTES_MIN: u64 = 64 << 10;

/// Time that slow reads have taken is made up for by faster ones up to this.
const CREDIT_MAX: Duration = Duration::from_secs(1);

/// How a scrub reads. See [`crate::Db::scrub`].
#[derive(Debug, Clone)]
pub struct ScrubOptions {
    bytes_per_second: Option<u64>,
}

impl ScrubOptions {
    /// The default, which the method below states.
    pub fn new() -> Self {
        ScrubOptions { bytes_per_second: None }
    }

    /// Bytes to read in a second, at most (default: as [`crate::Options::scrub_bytes_per_second`] says). 0 for as many
    /// as the device gives.
    pub fn bytes_per_second(mut self, bytes: u64) -> Self {
        self.bytes_per_second = Some(bytes);
        self
    }
}

impl Default for ScrubOptions {
    fn default() -> Self {
        ScrubOptions::new()
    }
}

/// What a scrub has read and found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ScrubReport {
    /// What is wrong, in the order in which it was found.
    pub findings: Vec<Finding>,
    /// Tables that were read.
    pub tables: u64,
    /// Tables that became obsolete before they were read to their end.
    pub tables_skipped: u64,
    /// Bytes of the tables that were read.
    pub bytes: u64,
    /// Blocks in them that are right.
    pub blocks: u64,
    /// Entries in them that are right.
    pub entries: u64,
}

impl ScrubReport {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.findings.is_empty()
    }
}

/// What is known of damage in live tables, and how those who wait for the next read are woken.
#[derive(Default)]
pub(crate) struct Scrubber {
    damaged: Mutex<BTreeMap<u64, Vec<Finding>>>,
    /// Whether the database is being closed.
    stopping: Mutex<bool>,
    stopped: Condvar,
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrubber")
    }
}

impl Scrubber {
    /// Ends all scrubs. Called once the database is being closed.
    pub fn stop(&self) {
        *self.stopping.lock() = true;
        self.stopped.notify_all();
    }

    /// Waits. Says no if the database is being closed.
    pub fn wait(&self, time: Duration) -> bool {
        let until = Instant::now().checked_add(time);
        let mut stopping = self.stopping.lock();
        while !*stopping {
            match until {
                Some(until) if self.stopped.wait_until(&mut stopping, until).timed_out() => break,
                Some(_) => {}
                // Longer than the clock counts.
                None => self.stopped.wait(&mut stopping),
            }
        }
        !*stopping
    }
}

impl Core {
    /// See [`crate::Db::scrub`].
    pub fn scrub(&self, options: &ScrubOptions) -> Result<ScrubReport> {
        let rate = options.bytes_per_second.unwrap_or(self.options.scrub_bytes_per_second);
        let pace = Arc::new(Pace { rate, begun: Instant::now(), due: Mutex::default() });
        let mut tables: Vec<(Arc<KeyspaceInner>, TableMeta)> = Vec::new();
        for keyspace in self.keyspaces.load().values() {
            let version = keyspace.peek().version.clone();
            tables.extend(version.tables().map(|(_, table)| (keyspace.clone(), table.meta().clone())));
        }
        let mut report = ScrubReport::default();
        for (keyspace, meta) in tables {
            self.scrub_table(keyspace, &meta, &pace, &mut report)?;
        }
        Ok(report)
    }

    fn scrub_table(
        &self,
        keyspace: Arc<KeyspaceInner>,
        meta: &TableMeta,
        pace: &Arc<Pace>,
        report: &mut ScrubReport,
    ) -> Result<()> {
        let path = self.dir.join(table_file_name(meta.number));
        let subject = Subject { keyspace, number: meta.number };
        let (table, findings) = match self.fs.open(&path, OpenMode::Read) {
            Ok(inner) => {
                let (subject, pace, scrubber) = (subject.clone(), pace.clone(), self.scrubber.clone());
                let given_up = AtomicBool::new(false);
                let file = Arc::new(PacedFile { inner, subject, pace, scrubber, given_up });
                let table = verify_file(file, &path);
                let findings = table_findings(&table, Some(meta));
                (Some(table), findings)
            }
            Err(error) => (None, vec![Finding::of(&error, &path, Severity::Loss, RESTORE)]),
        };
        if self.stopping() {
            return Err(Error::Closed);
        }
        let mut damaged = self.scrubber.damaged.lock();
        damaged.remove(&meta.number);
        // Whatever was read of a table that became obsolete on the way was read in part.
        if !subject.is_live() {
            report.tables_skipped += 1;
            return Ok(());
        }
        report.tables += 1;
        if let Some(table) = table {
            report.bytes += table.file_len;
            report.blocks += table.blocks;
            report.entries += table.entries;
        }
        if !findings.is_empty() {
            damaged.insert(meta.number, findings.clone());
        }
        drop(damaged);
        for finding in &findings {
            tracing::error!(%finding, advice = finding.advice, "a scrub has found damage");
        }
        report.findings.extend(findings);
        Ok(())
    }

    /// What scrubs have found in tables that are still live.
    pub fn scrub_findings(&self) -> Vec<Finding> {
        let mut damaged = self.scrubber.damaged.lock();
        if !damaged.is_empty() {
            let keyspaces = self.keyspaces.load();
            damaged.retain(|&number, _| keyspaces.values().any(|keyspace| holds(keyspace, number)));
        }
        damaged.values().flatten().cloned().collect()
    }
}

/// The thread that scrubs at an interval.
pub(crate) fn run(core: &Core, interval: Duration) {
    while core.scrubber.wait(interval) {
        let span = tracing::info_span!("scrub");
        let outcome = span.in_scope(|| core.scrub(&ScrubOptions::new()));
        if let Ok(report) = outcome {
            let damages = report.findings.len();
            tracing::info!(tables = report.tables, bytes = report.bytes, damages, "a scrub has ended");
        }
    }
}

fn holds(keyspace: &KeyspaceInner, number: u64) -> bool {
    let state = keyspace.peek();
    keyspace.check_exists().is_ok() && state.version.tables().any(|(_, table)| table.meta().number == number)
}

/// The table that is being read.
#[derive(Debug, Clone)]
struct Subject {
    keyspace: Arc<KeyspaceInner>,
    number: u64,
}

impl Subject {
    /// Whether it is still part of the database.
    fn is_live(&self) -> bool {
        holds(&self.keyspace, self.number)
    }
}

/// How fast a scrub goes.
#[derive(Debug)]
struct Pace {
    /// Bytes in a second; 0 for no limit.
    rate: u64,
    begun: Instant,
    /// When the next read may begin, counted from `begun`.
    due: Mutex<Duration>,
}

impl Pace {
    /// The longest read.
    fn step(&self) -> usize {
        let step = if self.rate == 0 { READ_BYTES_MAX } else { self.rate / 8 };
        step.clamp(READ_BYTES_MIN, READ_BYTES_MAX) as usize
    }

    /// Counts bytes that are about to be read, and says how long to wait before.
    fn charge(&self, bytes: usize) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let elapsed = self.begun.elapsed();
        let mut due = self.due.lock();
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        *due = (*due).max(elapsed.saturating_sub(CREDIT_MAX)) + cost;
        due.saturating_sub(elapsed)
    }
}

/// A table file that is read past the page cache, at a pace, for as long as it matters.
#[derive(Debug)]
struct PacedFile {
    inner: Arc<dyn File>,
    subject: Subject,
    pace: Arc<Pace>,
    scrubber: Arc<Scrubber>,
    /// Once the table or the database has gone: whoever reads on is refused at once.
    given_up: AtomicBool,
}

impl PacedFile {
    fn give_up(&self) -> Error {
        self.given_up.store(true, Ordering::Relaxed);
        Error::io(self.inner.path(), Operation::Read, ErrorKind::Interrupted.into())
    }
}

impl File for PacedFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn len(&self) -> Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        // Nothing is charged for what is not read: it would delay the tables behind this one.
        let given_up = self.given_up.load(Ordering::Relaxed);
        if given_up || !self.scrubber.wait(Duration::ZERO) || !self.subject.is_live() {
            return Err(self.give_up());
        }
        let len = buf.len().min(self.pace.step());
        let mut left = self.pace.charge(len);
        while self.scrubber.wait(left.min(LOOK_INTERVAL)) && self.subject.is_live() {
            left = left.saturating_sub(LOOK_INTERVAL);
            if left.is_zero() {
                return self.inner.read_past_cache_at(&mut buf[..len], offset);
            }
        }
        Err(self.give_up())
    }

    fn read_past_cache_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        self.inner.write_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.inner.set_len(len)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn start_writeback(&self, _offset: u64, _len: u64) {}

    /// The page cache is not used, and what readers have in it stays.
    fn advise(&self, _advice: Advice, _offset: u64, _len: u64) {}

    fn is_shared(&self) -> Result<bool> {
        self.inner.is_shared()
    }

    fn map(&self, len: usize) -> Result<Region> {
        self.inner.map(len)
    }
}

#[cfg(test)]
mod tests {
    use terrace_io::{FileSystem, MemoryFileSystem};

    use super::*;
    use crate::Options;

    /// A table that is given up delays none behind it: nothing is charged for what is not read of it.
    #[test]
    fn what_is_given_up_is_not_charged() {
        let memory = MemoryFileSystem::new();
        let db = Options::new().file_system(Arc::new(memory.clone())).open("/db").unwrap();
        db.put("key", "value").unwrap();
        db.flush().unwrap();
        let name = memory.read_dir(Path::new("/db")).unwrap().into_iter().find(|name| name.ends_with(".sst"));
        let path = Path::new("/db").join(name.unwrap());
        let keyspace = db.keyspace("default").unwrap().inner().clone();
        let number = keyspace.peek().version.tables().next().unwrap().1.meta().number;
        // A read of 100 bytes is charged 10 µs.
        let pace = Arc::new(Pace { rate: 10_000_000, begun: Instant::now(), due: Mutex::default() });
        let charged = || *pace.due.lock();
        let file = |number| PacedFile {
            inner: memory.open(&path, OpenMode::Read).unwrap(),
            subject: Subject { keyspace: keyspace.clone(), number },
            pace: pace.clone(),
            scrubber: Arc::default(),
            given_up: AtomicBool::new(false),
        };
        assert_eq!(file(number).read_at(&mut [0; 100], 0).unwrap(), 100);
        let due = charged();
        assert!(due >= Duration::from_micros(10));
        file(number + 1).read_at(&mut [0; 100], 0).unwrap_err();
        let stopped = file(number);
        stopped.scrubber.stop();
        stopped.read_past_cache_at(&mut [0; 100], 0).unwrap_err();
        assert_eq!(charged(), due);
        db.close().unwrap();
    }
}
