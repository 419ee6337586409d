//! Checking a database: everything in its directory, against itself and against each other.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use terrace_io::{FileSystem, OsFileSystem, Result};
use terrace_sstable::{TableMeta, parse_table_file_name};
use terrace_wal::parse_segment_file_name;

use super::log_walk::{LogSource, Walk};
use super::survey::{ReadManifest, Survey};
use super::{Finding, RESTORE, REWRITE, Severity};
use crate::catalog::Catalog;
use crate::manifest::{MANIFEST, is_temporary};

const LEFTOVER: &str = "nothing: the next open removes it";
const KEEP: &str = "keep it: it may hold what is missing elsewhere; `terrace salvage` can use it";
const TORN: &str = "nothing: it was never said to be durable, and recovery ends the log there";
const LOST_END: &str = "restore the manifest from a backup, or rebuild the database with `terrace salvage`";

/// How a database is verified.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    threads: usize,
    file_system: Arc<dyn FileSystem>,
}

impl VerifyOptions {
    /// The defaults, which each method below states.
    pub fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
        VerifyOptions { threads, file_system: Arc::new(OsFileSystem) }
    }

    /// Tables that are read at once (default: as many as there are processors, at most 4).
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// The file system that the database lives on (default: the operating system's).
    pub fn file_system(mut self, file_system: Arc<dyn FileSystem>) -> Self {
        self.file_system = file_system;
        self
    }
}

impl Default for VerifyOptions {
    fn default() -> Self {
        VerifyOptions::new()
    }
}

/// What [`verify`] has read and found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// What was found, by file and offset.
    pub findings: Vec<Finding>,
    /// Edits of the manifest that were read.
    pub manifest_edits: u64,
    /// Tables that were read.
    pub tables: u64,
    /// Bytes of these.
    pub table_bytes: u64,
    /// Blocks in them that are right.
    pub blocks: u64,
    /// Entries in them that are right.
    pub entries: u64,
    /// Records of the log that are right.
    pub log_records: u64,
    /// Operations in these.
    pub log_operations: u64,
}

impl VerifyReport {
    /// Whether nothing is wrong. Notes are no fault.
    pub fn is_ok(&self) -> bool {
        self.severity().is_none_or(|severity| severity == Severity::Note)
    }

    /// The worst that was found.
    pub fn severity(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }
}

/// Checks everything in a database that is not open: the manifest, every table down to each checksum, the order of
/// entries, filter and locator, the log, and whether they agree with each other. Goes on past damage and lists all of
/// it.
///
/// Files are opened for reading only, read by `pread` and dropped from the page cache behind; nothing is changed. The
/// directory is locked meanwhile: others may verify it at the same time, but nobody can open it. (A copy that has no
/// file `LOCK` cannot be locked without changing it; nobody keeps others from opening that.)
///
/// # Errors
/// [`Error::Locked`](crate::Error::Locked) while the database is open: its files change under a reader's eyes. There is
/// [`crate::Db::scrub`] for that. [`Error::NotADatabase`](crate::Error::NotADatabase) if there is no database,
/// [`Error::UnsupportedFormat`](crate::Error::UnsupportedFormat) if a newer version wrote its manifest, and errors of
/// the file system where nothing can be verified. Damage is no error, it is in the report.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("db");
/// let db = terrace::Db::open(&path)?;
/// db.put("hello", "world")?;
/// db.close()?;
/// let report = terrace::verify(&path, &terrace::VerifyOptions::new())?;
/// assert!(report.is_ok(), "{:?}", report.findings);
/// assert_eq!((report.tables, report.entries), (1, 1));
/// # Ok(())
/// # }
/// ```
pub fn verify(path: impl AsRef<Path>, options: &VerifyOptions) -> Result<VerifyReport> {
    let (fs, dir) = (&*options.file_system, path.as_ref());
    // First, so that a directory that is none of ours is told as that.
    drop(Survey::list(fs, dir)?);
    let _lock = fs.lock_dir_shared(dir)?;
    let survey = Survey::new(fs, dir)?;
    let mut report = VerifyReport::default();
    let manifest = check_manifest(&survey, &mut report);
    let catalog = manifest.map(|manifest| &manifest.catalog);
    let mut known = HashMap::new();
    if let Some(catalog) = catalog {
        check_catalog(&survey, catalog, &mut report);
        for keyspace in catalog.keyspaces.values() {
            known.extend(keyspace.levels.iter().flatten().map(|meta| (meta.number, meta)));
        }
        check_log(fs, &survey, catalog, &mut report)?;
        check_names(&survey, catalog, &survey.unknown_segments(fs, catalog)?, &mut report);
    }
    check_other_names(&survey, &mut report);
    // Without a manifest that can be believed, every table may matter.
    let numbers: Vec<u64> =
        survey.table_numbers().filter(|number| catalog.is_none() || known.contains_key(number)).collect();
    check_tables(options, &survey, &numbers, &known, &mut report);
    report.findings.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
    Ok(report)
}

/// Says what is wrong with the manifest; gives it back if it can be believed.
fn check_manifest<'a>(survey: &'a Survey, report: &mut VerifyReport) -> Option<&'a ReadManifest> {
    let path = survey.dir.join(MANIFEST);
    let Some(manifest) = &survey.manifest else {
        let what = "the manifest is missing";
        report.findings.push(Finding::new(Severity::Loss, path, None, what, LOST_END));
        return None;
    };
    report.manifest_edits = manifest.edits;
    if let Some(error) = &manifest.damage {
        report.findings.push(Finding::of(error, path, Severity::Loss, LOST_END));
        return None;
    }
    Some(manifest)
}

/// What the manifest says, against itself and against the names in the directory.
fn check_catalog(survey: &Survey, catalog: &Catalog, report: &mut VerifyReport) {
    let manifest = survey.dir.join(MANIFEST);
    for keyspace in catalog.keyspaces.values() {
        for meta in keyspace.levels.iter().flatten() {
            if !survey.has_table(meta.number) {
                let what = format!(
                    "the table is missing: {} entries of keyspace {:?}, from {:?} to {:?}",
                    meta.entries,
                    keyspace.name,
                    String::from_utf8_lossy(&meta.smallest_key),
                    String::from_utf8_lossy(&meta.largest_key)
                );
                let path = survey.table_path(meta.number);
                report.findings.push(Finding::new(Severity::Loss, path, None, what, RESTORE));
            }
            if meta.largest_sequence > keyspace.flushed_through {
                let what = format!(
                    "table {} has sequence number {}, but keyspace {:?} is said to be flushed to {} only",
                    meta.number, meta.largest_sequence, keyspace.name, keyspace.flushed_through
                );
                report.findings.push(Finding::new(Severity::Damage, &manifest, None, what, LOST_END));
            }
            if meta.number >= catalog.next_table {
                let what =
                    format!("table {} is not below the next number, {}", meta.number, catalog.next_table);
                report.findings.push(Finding::new(Severity::Damage, &manifest, None, what, LOST_END));
            }
        }
    }
}

/// Tables and log segments that the manifest does not name. `unknown` are the segments that it should.
fn check_names(survey: &Survey, catalog: &Catalog, unknown: &[u32], report: &mut VerifyReport) {
    let mut note = |path, what: &str, advice| {
        report.findings.push(Finding::new(Severity::Note, path, None, what, advice));
    };
    let mut named = catalog.keyspaces.values().flat_map(|keyspace| keyspace.levels.iter().flatten());
    let is_whole = unknown.is_empty() && named.all(|meta| survey.has_table(meta.number));
    for number in survey.table_numbers().filter(|&number| !catalog.holds_table(number)) {
        let advice = if is_whole { LEFTOVER } else { KEEP };
        note(survey.table_path(number), "a table that the manifest does not name", advice);
    }
    for number in survey.segment_numbers() {
        if !catalog.segments.contains_key(&number) && !unknown.contains(&number) {
            note(survey.segment_path(number), "a log segment that is retired", LEFTOVER);
        }
    }
}

/// Files that are not tables, log segments or what every database has.
fn check_other_names(survey: &Survey, report: &mut VerifyReport) {
    for name in &survey.names {
        let is_data = parse_table_file_name(name).is_some() || parse_segment_file_name(name).is_some();
        if is_data || ["LOCK", MANIFEST, "lost+found"].contains(&&**name) {
            continue;
        }
        let (what, advice) = match is_temporary(name) {
            true => ("a file that was never finished", LEFTOVER),
            false => ("a file that is not of the database", "nothing: it is left alone"),
        };
        report.findings.push(Finding::new(Severity::Note, survey.dir.join(name), None, what, advice));
    }
}

fn check_log(
    fs: &dyn FileSystem,
    survey: &Survey,
    catalog: &Catalog,
    report: &mut VerifyReport,
) -> Result<()> {
    for number in survey.unknown_segments(fs, catalog)? {
        let what = format!("the manifest does not know log segment {number}, which holds records");
        let path = survey.dir.join(MANIFEST);
        report.findings.push(Finding::new(Severity::Loss, path, None, what, LOST_END));
    }
    let segments: Vec<(u32, Option<u64>)> =
        catalog.segments.iter().map(|(&number, &length)| (number, Some(length))).collect();
    let source = LogSource {
        fs,
        survey,
        log_id: catalog.database_id,
        segments: &segments,
        known_synced: catalog.log_synced,
        first_sequence: Some(catalog.log_first_sequence),
    };
    let mut unknown_keyspaces = Vec::new();
    let walk = source.walk(&mut |batch| {
        if batch.operations.iter().any(|operation| operation.keyspace_id >= catalog.next_keyspace) {
            unknown_keyspaces.push(batch.position);
        }
        Ok(())
    })?;
    for position in unknown_keyspaces {
        let what = "a batch writes to a keyspace that the manifest does not know";
        let (path, offset) = (survey.segment_path(position.segment), Some(u64::from(position.offset)));
        report.findings.push(Finding::new(Severity::Loss, path, offset, what, LOST_END));
    }
    report.log_records = walk.records;
    report.log_operations = walk.operations;
    if !segments.is_empty() {
        report_walk(survey, &walk, report);
    }
    Ok(())
}

fn report_walk(survey: &Survey, walk: &Walk, report: &mut VerifyReport) {
    let damages = walk.damages.iter();
    report.findings.extend(
        damages.map(|error| Finding::of(error, error.path().unwrap_or(&survey.dir), Severity::Loss, RESTORE)),
    );
    for gap in &walk.gaps {
        let (severity, advice) = match walk.is_loss(gap) {
            true => (Severity::Loss, RESTORE),
            false => (Severity::Note, TORN),
        };
        let number = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
        let what = format!(
            "no good record stands here; operations {} to before {} are missing, {} records follow",
            number(gap.missing.0),
            number(gap.missing.1),
            gap.records_behind
        );
        let offset = Some(u64::from(gap.at.offset));
        report.findings.push(Finding::new(severity, &gap.path, offset, what, advice));
    }
    if walk.end_is_loss() {
        let what = format!("no good record stands here, but the log was durable to {}", walk.synced);
        let (path, offset) = (survey.segment_path(walk.end.segment), Some(u64::from(walk.end.offset)));
        report.findings.push(Finding::new(Severity::Loss, path, offset, what, RESTORE));
    }
}

/// Reads tables, several at once.
fn check_tables(
    options: &VerifyOptions,
    survey: &Survey,
    numbers: &[u64],
    known: &HashMap<u64, &TableMeta>,
    report: &mut VerifyReport,
) {
    let next = AtomicUsize::new(0);
    let shared = Mutex::new(report);
    let work = || {
        while let Some(&number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
            let table = terrace_sstable::verify(&*options.file_system, &survey.table_path(number));
            let findings = table_findings(&table, known.get(&number).copied());
            let mut report = shared.lock();
            report.tables += 1;
            report.table_bytes += table.file_len;
            report.blocks += table.blocks;
            report.entries += table.entries;
            report.findings.extend(findings);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..options.threads.min(numbers.len()) {
            scope.spawn(work);
        }
        work();
    });
}

/// What is wrong with a table, by itself and against what the manifest says of it.
pub(crate) fn table_findings(
    table: &terrace_sstable::VerifyReport,
    meta: Option<&TableMeta>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let severity = |loses_entries| match loses_entries {
        true => (Severity::Loss, RESTORE),
        false => (Severity::Damage, REWRITE),
    };
    for damage in &table.damages {
        let (severity, advice) = severity(damage.loses_entries);
        let (path, offset) = (&table.path, Some(damage.offset));
        findings.push(Finding::new(severity, path, offset, damage.what.clone(), advice));
    }
    let unlisted = table.damage_count - table.damages.len() as u64;
    if unlisted > 0 {
        let what = format!("and {unlisted} more places in this file");
        let (severity, advice) = severity(table.loses_entries);
        findings.push(Finding::new(severity, &table.path, None, what, advice));
    }
    let Some(meta) = meta else { return findings };
    let mut contradicts = |offset: u64, what: String| {
        let loss = Severity::Loss;
        findings.push(Finding::new(loss, &table.path, Some(offset), what, RESTORE));
    };
    if table.file_len != meta.file_len {
        let what = format!("the file has {} bytes and should have {}", table.file_len, meta.file_len);
        contradicts(table.file_len.min(meta.file_len), what);
    }
    if let Some(footer) = table.footer.filter(|footer| footer.table_id != meta.table_id) {
        let what =
            format!("this is table {:016x}, and {:016x} should be here", footer.table_id, meta.table_id);
        contradicts(table.file_len, what);
    }
    // A table whose own statistics are wrong was told above.
    if let Some(properties) = table.properties.as_ref().filter(|_| table.is_ok()) {
        let says = (
            properties.entries,
            properties.deletes,
            properties.smallest_sequence,
            properties.largest_sequence,
        );
        let known = (meta.entries, meta.deletes, meta.smallest_sequence, meta.largest_sequence);
        if says != known {
            let what = format!(
                "the table has entries, deletes, smallest and largest sequence {says:?}, the manifest says {known:?}"
            );
            contradicts(0, what);
        }
        if properties.smallest_key != meta.smallest_key || properties.largest_key != meta.largest_key {
            contradicts(0, "the table has another key range than the manifest says".into());
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use terrace_io::MemoryFileSystem;
    use terrace_wal::{GrowingLog, RecordKind, SegmentReader};

    use super::*;
    use crate::catalog::{Change, encode};
    use crate::{KeyspaceOptions, Options};

    /// While a table is missing, one that nobody names may be it.
    #[test]
    fn a_table_without_a_name_is_kept_while_another_is_missing() {
        let memory = MemoryFileSystem::new();
        let (fs, dir): (Arc<dyn FileSystem>, _) = (Arc::new(memory.clone()), Path::new("/db"));
        let db = Options::new().file_system(fs.clone()).open(dir).unwrap();
        db.put("key", "value").unwrap();
        db.close().unwrap();
        let names = memory.read_dir(dir).unwrap();
        let table = names.iter().find(|name| parse_table_file_name(name).is_some()).unwrap();
        let stray = dir.join(terrace_sstable::table_file_name(77));
        memory.rename(&dir.join(table), &stray).unwrap();
        let report = verify(dir, &VerifyOptions::new().file_system(fs)).unwrap();
        let found = report.findings.iter().find(|finding| finding.file == stray).unwrap();
        assert_eq!((found.severity, found.advice), (Severity::Note, KEEP));
        assert_eq!(report.severity(), Some(Severity::Loss));
    }

    /// A manifest whose edits contradict each other is found with the place of the edit that does.
    #[test]
    fn edits_that_contradict_each_other_are_found() {
        let meta = |number: u64, smallest: &str, largest: &str| TableMeta {
            number,
            table_id: number,
            file_len: 4096,
            entries: 2,
            deletes: 0,
            smallest_sequence: 0,
            largest_sequence: 0,
            smallest_key: smallest.as_bytes().into(),
            largest_key: largest.as_bytes().into(),
        };
        let added = |level, meta| Change::TableAdded { keyspace: 0, level, meta };
        let cases: [Vec<Change>; 4] = [
            vec![added(3, meta(1, "a", "m")), added(3, meta(2, "m", "z"))],
            vec![added(3, meta(1, "a", "c")), added(0, meta(1, "x", "z"))],
            vec![Change::TableRemoved { keyspace: 0, level: 3, number: 5 }],
            vec![Change::KeyspaceAdded { id: 7, name: "default".into(), options: KeyspaceOptions::new() }],
        ];
        for edit in cases {
            let memory = MemoryFileSystem::new();
            let (fs, dir): (Arc<dyn FileSystem>, _) = (Arc::new(memory.clone()), Path::new("/db"));
            Options::new().file_system(fs.clone()).open(dir).unwrap().close().unwrap();
            let path = dir.join(MANIFEST);
            let mut reader = SegmentReader::open(&*fs, &path).unwrap();
            while reader.next().unwrap().is_some() {}
            let (header, end) = (*reader.header(), u64::from(reader.end().offset));
            let mut log =
                GrowingLog::open_for_append(&*fs, &path, header.log_id, header.number, end).unwrap();
            log.append(RecordKind::VersionEdit, &encode(&edit)).unwrap();
            let report = verify(dir, &VerifyOptions::new().file_system(fs)).unwrap();
            let finding = &report.findings[0];
            assert_eq!((&finding.file, finding.offset, finding.severity), (&path, Some(end), Severity::Loss));
        }
    }
}
