//! Saving what can be read of a damaged database into a new one.
//!
//! Everything that counts is read once, merged by keyspace with the newest version of a key first, and written to
//! tables at the bottom of a new tree; the manifest comes last, so that an interrupted salvage leaves nothing that
//! opens.
//!
//! What counts depends on the manifest. If it can be believed, its tables do, and the part of the log that was not
//! flushed, up to the first place where records are missing: that is what recovery would read. If it cannot, every
//! table counts that it is not known to have removed, and of the log the last row of segments without a missing number.
//! By tables that were obsolete, deleted keys and old values may come back then, and keys that were deleted and written
//! again be missing. The log is right also in part: it holds the end of the history, so whatever happened to a key after
//! a record in it is in it too.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use terrace_compaction::LEVELS;
use terrace_io::{CacheUse, Error, FileSystem, Operation, Result};
use terrace_sstable::{ScanMode, Table, TableMeta, TableSalvage, table_file_name};
use terrace_wal::{SegmentReader, segment_holds_records};

use super::log_walk::{LogSource, Walk};
use super::merge::{Merged, Run, Source, SourceTable, TableOutcome, merge, runs};
use super::survey::{ReadManifest, Survey};
use super::target::{NewTables, Owner, Target};
use super::{
    Finding, Lost, ManifestState, REWRITE, SalvageOptions, SalvageReport, SalvagedKeyspace, Severity,
};
use crate::KeyspaceOptions;
use crate::catalog::{Catalog, DEFAULT_KEYSPACE};
use crate::memtable::Memtable;
use crate::new_database::{Contents, NewDatabase, NewKeyspace};
use crate::recovery::MAX_VALUE_BYTES;

/// Heap that a keyspace's part of the log may take before it is written to a table.
const MEMTABLE_BYTES: u64 = 64 << 20;

/// Makes a new database in `to`, which must be missing or empty, of everything that can still be read in `from`: the
/// newest readable version of each key, in the keyspaces it had with the options they had, as far as these are known.
/// What was flushed to a table that cannot be read is not looked for in the log, although it may still be there.
///
/// `from` is locked against writers and never changed. Memory is needed for a few windows and blocks and for 64 MiB of
/// log for each keyspace, however large the database is. (A dry run holds all keys of the log in memory.)
///
/// # Errors
/// [`Error::Locked`] if one of the two is in use; [`Error::NotADatabase`] if `from` holds nothing to salvage;
/// [`Error::InvalidArgument`] if `to` is not empty or lies in `from`; [`Error::UnsupportedFormat`] if a newer version
/// wrote it, or one file of it that counts; errors of the file system. What was written to `to` by then is removed.
/// Damage is no error, it is in the report.
///
/// ```
/// # fn main() -> terrace::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let (old, new) = (directory.path().join("old"), directory.path().join("new"));
/// let db = terrace::Db::open(&old)?;
/// db.put("hello", "world")?;
/// db.close()?;
/// std::fs::remove_file(old.join("MANIFEST")).unwrap();
/// assert!(terrace::Db::open(&old).is_err());
///
/// let report = terrace::salvage(&old, &new, &terrace::SalvageOptions::new())?;
/// assert!(report.is_complete());
/// let db = terrace::Db::open(&new)?;
/// assert_eq!(db.get("hello")?.as_deref(), Some(&b"world"[..]));
/// # db.close()
/// # }
/// ```
pub fn salvage(
    from: impl AsRef<Path>,
    to: impl AsRef<Path>,
    options: &SalvageOptions,
) -> Result<SalvageReport> {
    let (fs, from, to) = (options.file_system.clone(), from.as_ref(), to.as_ref());
    drop(Survey::list(&*fs, from)?);
    NewDatabase::check_place(&*fs, from, to)?;
    let _lock = fs.lock_dir_shared(from)?;
    let survey = Survey::new(&*fs, from)?;
    let mut plan = Plan::new(&*fs, survey, options)?;
    if options.dry_run {
        plan.read_log(&mut Spill { fs: &fs, target: None })?;
        plan.merge(&fs, None)?;
        return Ok(plan.report);
    }
    let target = Target::new(NewDatabase::begin(fs.clone(), from, to)?);
    let written = plan
        .read_log(&mut Spill { fs: &fs, target: Some(&target) })
        .and_then(|()| plan.merge(&fs, Some(&target)))
        .and_then(|keyspaces| plan.write_manifest(&target, keyspaces));
    match written {
        Ok(()) => Ok(plan.report),
        Err(error) => {
            target.remove();
            Err(error)
        }
    }
}

/// Log segments: numbers and, where known, lengths.
type Segments = Vec<(u32, Option<u64>)>;

/// What is to be read.
struct Plan {
    survey: Survey,
    /// Whether the manifest is believed.
    is_intact: bool,
    past_gaps: bool,
    /// What the manifest says; empty without one.
    catalog: Catalog,
    keyspaces: BTreeMap<u32, PlannedKeyspace>,
    /// Keyspaces that are known to be gone.
    dropped: HashSet<u32>,
    last_sequence: u64,
    longest_value: u64,
    report: SalvageReport,
}

struct PlannedKeyspace {
    name: String,
    is_name_known: bool,
    options: KeyspaceOptions,
    /// The log's operations up to it are in tables.
    flushed_through: u64,
    tables: Vec<SourceTable>,
    log: LogPart,
    report: SalvagedKeyspace,
}

/// What the log held of a keyspace.
#[derive(Default)]
struct LogPart {
    memtable: Option<Arc<Memtable>>,
    /// Written when the memtable was full.
    tables: Vec<TableMeta>,
}

impl PlannedKeyspace {
    fn new(name: String, options: KeyspaceOptions, flushed_through: u64) -> PlannedKeyspace {
        let report = SalvagedKeyspace {
            name: name.clone(),
            tables_read: 0,
            tables_lost: 0,
            entries_read: 0,
            entries_lost: 0,
            log_operations: 0,
            keys_kept: 0,
        };
        let (tables, log) = (Vec::new(), LogPart::default());
        PlannedKeyspace { name, is_name_known: true, options, flushed_through, tables, log, report }
    }

    /// One of which only the id is known.
    fn nameless(id: u32) -> PlannedKeyspace {
        let keyspace = PlannedKeyspace::new(format!("recovered-{id}"), KeyspaceOptions::new(), 0);
        PlannedKeyspace { is_name_known: false, ..keyspace }
    }
}

/// Where the log goes that does not fit in memory; nowhere in a dry run, which keeps no values.
struct Spill<'a> {
    fs: &'a Arc<dyn FileSystem>,
    target: Option<&'a Target>,
}

impl Plan {
    fn new(fs: &dyn FileSystem, mut survey: Survey, options: &SalvageOptions) -> Result<Plan> {
        let manifest = survey.manifest.take();
        let state = match &manifest {
            None => ManifestState::Missing,
            Some(manifest) => match doubt(fs, &survey, manifest)? {
                Some(why) => ManifestState::Damaged(why),
                None => ManifestState::Intact,
            },
        };
        let is_intact = state == ManifestState::Intact;
        let (catalog, removed) = match manifest {
            Some(manifest) => (manifest.catalog, manifest.removed_tables),
            None => (Catalog::default(), HashSet::new()),
        };
        let mut plan = Plan {
            survey,
            is_intact,
            past_gaps: options.past_gaps || !is_intact,
            dropped: (0..catalog.next_keyspace).filter(|id| !catalog.keyspaces.contains_key(id)).collect(),
            last_sequence: catalog.last_sequence,
            longest_value: 0,
            keyspaces: BTreeMap::new(),
            catalog,
            report: SalvageReport {
                manifest: state,
                keyspaces: Vec::new(),
                log_records: 0,
                lost: Vec::new(),
                notes: Vec::new(),
                deleted_keys_may_return: !is_intact,
            },
        };
        for (&id, known) in &plan.catalog.keyspaces {
            let (name, options) = (known.name.clone(), known.options.clone());
            plan.keyspaces.insert(id, PlannedKeyspace::new(name, options, known.flushed_through));
        }
        plan.add_named_tables();
        plan.add_other_tables(fs, &removed, options)?;
        plan.forget_namesakes();
        let default = || PlannedKeyspace::new(DEFAULT_KEYSPACE.to_owned(), KeyspaceOptions::new(), 0);
        plan.keyspaces.entry(0).or_insert_with(default);
        Ok(plan)
    }

    /// The tables that the manifest names.
    fn add_named_tables(&mut self) {
        for (id, known) in &self.catalog.keyspaces {
            let keyspace = self.keyspaces.get_mut(id).expect("every keyspace of the catalog was added");
            for meta in known.levels.iter().flatten() {
                let path = self.survey.table_path(meta.number);
                if self.survey.has_table(meta.number) {
                    keyspace.tables.push(SourceTable {
                        number: meta.number,
                        path,
                        known: Some((meta.table_id, known.options.table.compression)),
                        smallest_key: meta.smallest_key.clone(),
                        largest_key: meta.largest_key.clone(),
                        largest_sequence: meta.largest_sequence,
                        entries: meta.entries,
                    });
                } else {
                    let what = match self.is_intact {
                        true => "the table is missing",
                        false => {
                            "the table is missing: its entries are lost, unless it became obsolete after the part of \
                             the manifest that can be read"
                        }
                    };
                    keyspace.report.tables_lost += 1;
                    keyspace.report.entries_lost += meta.entries;
                    self.report.lost.push(Lost {
                        file: path,
                        bytes: None,
                        keyspace: Some(known.name.clone()),
                        keys_from: Some(meta.smallest_key.clone()),
                        keys_to: Some(meta.largest_key.clone()),
                        entries: Some(meta.entries),
                        what: what.into(),
                    });
                }
            }
        }
    }

    /// The tables that the manifest does not name, if they count.
    fn add_other_tables(
        &mut self,
        fs: &dyn FileSystem,
        removed: &HashSet<u64>,
        options: &SalvageOptions,
    ) -> Result<()> {
        let numbers: Vec<u64> =
            self.survey.table_numbers().filter(|&number| !self.catalog.holds_table(number)).collect();
        for number in numbers {
            let path = self.survey.table_path(number);
            let unused = |what: &str| {
                let advice = "nothing, unless data is missing: then salvage with all tables";
                Finding::new(Severity::Note, &path, None, what, advice)
            };
            if self.is_intact && !options.all_tables {
                self.report.notes.push(unused("not used: the manifest does not name this table"));
                continue;
            }
            if removed.contains(&number) && !options.all_tables {
                self.report.notes.push(unused("not used: the manifest says that this table is obsolete"));
                continue;
            }
            let salvage = TableSalvage::open(fs, &path, None);
            let properties = match &salvage {
                Ok(salvage) => salvage.properties().cloned(),
                Err(Error::Corruption { .. } | Error::Io { operation: Operation::Read, .. }) => None,
                Err(error) => return Err(error.clone()),
            };
            let Some(properties) = properties else {
                let damage = match &salvage {
                    Ok(salvage) => salvage.metadata_damage().map(Error::to_string),
                    Err(error) => Some(error.to_string()),
                };
                let why = damage.unwrap_or_else(|| "its properties cannot be read".into());
                self.report.lost.push(Lost {
                    file: path,
                    bytes: None,
                    keyspace: None,
                    keys_from: None,
                    keys_to: None,
                    entries: None,
                    what: format!("whose table this is cannot be told: {why}"),
                });
                continue;
            };
            if self.dropped.contains(&properties.keyspace_id) {
                self.report.notes.push(unused("not used: the keyspace of this table was dropped"));
                continue;
            }
            self.report.deleted_keys_may_return = true;
            let keyspace = self.keyspaces.entry(properties.keyspace_id).or_insert_with(|| {
                let options = KeyspaceOptions::new().compression(properties.compression);
                PlannedKeyspace::new(properties.keyspace_name.clone(), options, 0)
            });
            // Whatever came before a table's newest operation is in tables too: memtables are flushed in order.
            keyspace.flushed_through = keyspace.flushed_through.max(properties.largest_sequence);
            keyspace.tables.push(SourceTable {
                number,
                path,
                known: None,
                smallest_key: properties.smallest_key,
                largest_key: properties.largest_key,
                largest_sequence: properties.largest_sequence,
                entries: properties.entries,
            });
        }
        Ok(())
    }

    /// Of keyspaces with one name, all but the last were dropped: a name can be used again only then.
    fn forget_namesakes(&mut self) {
        let mut names = BTreeSet::new();
        let ids: Vec<u32> = self.keyspaces.keys().rev().copied().collect();
        for id in ids {
            let name = self.keyspaces[&id].name.clone();
            if id == 0 || names.insert(name) {
                continue;
            }
            self.dropped.insert(id);
            for table in self.keyspaces.remove(&id).map_or(Vec::new(), |keyspace| keyspace.tables) {
                let what = "not used: the keyspace of this table was dropped, and its name used again";
                self.report.notes.push(Finding::new(Severity::Note, table.path, None, what, ""));
            }
        }
    }

    /// The segments of the log that count, and the id that they must have.
    fn segments(&mut self, fs: &dyn FileSystem) -> Result<(Segments, Option<[u8; 16]>)> {
        if self.is_intact {
            let segments = self.catalog.segments.iter().map(|(&number, &length)| (number, Some(length)));
            return Ok((segments.collect(), Some(self.catalog.database_id)));
        }
        let on_disk = self.survey.segment_numbers();
        let mut log_id = Some(self.catalog.database_id).filter(|id| *id != [0; 16]);
        for &number in &on_disk {
            if log_id.is_some() {
                break;
            }
            match SegmentReader::open_damaged(fs, &self.survey.segment_path(number), None) {
                Ok((reader, _)) => log_id = Some(reader.header().log_id),
                Err(Error::Corruption { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut numbers = last_row(&on_disk, self.catalog.first_segment);
        let mut recycled = None;
        if let Some((&last, others)) = on_disk.split_last()
            && last > self.catalog.last_segment
            && let Some(earlier) = self.earlier_life(fs, last, log_id)?
        {
            let live = last_row(others, self.catalog.first_segment);
            // What is recycled was retired, and has lost its old name.
            if live.first().is_some_and(|first| earlier < *first) && !others.contains(&earlier) {
                (numbers, recycled) = (live, Some(last));
            }
        }
        for number in on_disk.into_iter().filter(|number| !numbers.contains(number)) {
            let what = match recycled {
                Some(recycled) if recycled == number => "not used: this log segment was being recycled",
                _ => "not used: this log segment seems to be retired",
            };
            let path = self.survey.segment_path(number);
            self.report.notes.push(Finding::new(Severity::Note, path, None, what, ""));
        }
        let length = |number: &u32| self.catalog.segments.get(number).copied();
        Ok((numbers.iter().map(|number| (*number, length(number))).collect(), log_id))
    }

    /// The number that a segment of this log has by its header, if its name says a later one and it holds no record under
    /// that.
    fn earlier_life(
        &self,
        fs: &dyn FileSystem,
        number: u32,
        log_id: Option<[u8; 16]>,
    ) -> Result<Option<u32>> {
        let header = match SegmentReader::open_damaged(fs, &self.survey.segment_path(number), None) {
            Ok((reader, None)) => *reader.header(),
            Ok(_) | Err(Error::Corruption { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_earlier = header.number < number && Some(header.log_id) == log_id;
        let is_unused = is_earlier && !segment_holds_records(fs, &self.survey.dir, header.log_id, number)?;
        Ok(is_unused.then_some(header.number))
    }

    /// Reads what the log holds beyond the tables.
    fn read_log(&mut self, spill: &mut Spill<'_>) -> Result<()> {
        let fs = &**spill.fs;
        let (segments, log_id) = self.segments(fs)?;
        let Some(log_id) = log_id else {
            for (number, _) in segments {
                self.report.lost.push(Lost {
                    file: self.survey.segment_path(number),
                    bytes: None,
                    keyspace: None,
                    keys_from: None,
                    keys_to: None,
                    entries: None,
                    what: "no header of a log segment can be read, so that records cannot be told".into(),
                });
            }
            return Ok(());
        };
        let mut keyspaces = std::mem::take(&mut self.keyspaces);
        let (dropped, past_gaps, is_intact) = (&self.dropped, self.past_gaps, self.is_intact);
        let (mut records, mut longest_value) = (0, 0);
        let source = LogSource {
            fs,
            survey: &self.survey,
            log_id,
            segments: &segments,
            known_synced: if is_intact { self.catalog.log_synced } else { Default::default() },
            first_sequence: is_intact.then_some(self.catalog.log_first_sequence),
        };
        let walked = source.walk(&mut |batch| {
            if batch.gaps > 0 && !past_gaps {
                return Ok(());
            }
            records += 1;
            for (sequence, operation) in (batch.first..).zip(batch.operations) {
                let id = operation.keyspace_id;
                if dropped.contains(&id) || is_intact && !keyspaces.contains_key(&id) {
                    continue;
                }
                let keyspace = keyspaces.entry(id).or_insert_with(|| PlannedKeyspace::nameless(id));
                if sequence <= keyspace.flushed_through {
                    continue;
                }
                keyspace.report.log_operations += 1;
                longest_value = longest_value.max((operation.pair.len() - operation.key_len) as u64);
                let pair = match spill.target {
                    Some(_) => operation.pair,
                    None => &operation.pair[..operation.key_len],
                };
                let memtable =
                    keyspace.log.memtable.get_or_insert_with(|| Arc::new(Memtable::new(MEMTABLE_BYTES)));
                memtable.insert(pair, operation.key_len, sequence, operation.kind, batch.position.segment);
                if memtable.heap_bytes() >= MEMTABLE_BYTES
                    && let Some(target) = spill.target
                {
                    let owner = Owner { id, name: &keyspace.name, options: &keyspace.options };
                    keyspace.log.tables.extend(target.spill(owner, memtable)?);
                    keyspace.log.memtable = None;
                }
            }
            Ok(())
        });
        for (id, keyspace) in &keyspaces {
            if !keyspace.is_name_known {
                let what =
                    format!("the name of keyspace {id} is not known; it is called {:?}", keyspace.name);
                let advice = "move its entries to where they belong, unless the keyspace was dropped";
                self.report.notes.push(Finding::new(Severity::Note, &self.survey.dir, None, what, advice));
            }
        }
        self.keyspaces = keyspaces;
        self.longest_value = self.longest_value.max(longest_value);
        self.report.log_records = records;
        let walk = walked?;
        self.last_sequence = self.last_sequence.max(walk.last_sequence.unwrap_or(0));
        if !segments.is_empty() {
            self.report_walk(&walk);
        }
        Ok(())
    }

    fn report_walk(&mut self, walk: &Walk) {
        let lost = |file: &Path, bytes: Option<Range<u64>>, entries, what: String| Lost {
            file: file.to_owned(),
            bytes,
            keyspace: None,
            keys_from: None,
            keys_to: None,
            entries,
            what,
        };
        for error in &walk.damages {
            if let Error::Corruption { path, offset, what } = error {
                self.report.lost.push(lost(path, Some(*offset..*offset), None, what.clone()));
            }
        }
        for gap in &walk.gaps {
            let start = u64::from(gap.at.offset);
            let end = gap.resumes.filter(|resumes| resumes.segment == gap.at.segment);
            let bytes = start..end.map_or(start, |end| u64::from(end.offset));
            let missing = gap.missing.0.zip(gap.missing.1).and_then(|(from, to)| to.checked_sub(from));
            let behind = match self.past_gaps {
                true => "they were applied",
                false => "they were not applied",
            };
            let what = format!(
                "records are missing here; {} records with {} operations follow up to the next such place: {behind}",
                gap.records_behind, gap.operations_behind
            );
            if walk.is_loss(gap) {
                let entries = missing.map(|missing| match self.past_gaps {
                    true => missing,
                    false => missing + gap.operations_behind,
                });
                self.report.lost.push(lost(&gap.path, Some(bytes), entries, what));
            } else {
                let what = format!("{what}; nothing says that they were ever durable");
                let advice = "to apply them, salvage past gaps";
                self.report.notes.push(Finding::new(Severity::Note, &gap.path, Some(start), what, advice));
            }
        }
        if walk.end_is_loss() {
            let path = self.survey.segment_path(walk.end.segment);
            let start = u64::from(walk.end.offset);
            let what = format!("the log ends here, but was durable to {}", walk.synced);
            self.report.lost.push(lost(&path, Some(start..start), None, what));
        }
    }

    /// Merges every keyspace, into tables of the target if there is one. Gives these.
    fn merge(
        &mut self,
        fs: &Arc<dyn FileSystem>,
        target: Option<&Target>,
    ) -> Result<BTreeMap<u32, Vec<TableMeta>>> {
        let mut written = BTreeMap::new();
        for (&id, keyspace) in &mut self.keyspaces {
            let sequences = keyspace.tables.iter().map(|table| table.largest_sequence);
            self.last_sequence = sequences.fold(self.last_sequence, u64::max);
            let mut sources: Vec<Source> = runs(std::mem::take(&mut keyspace.tables))
                .into_iter()
                .map(|run| Source::Run(Box::new(Run::new(fs.clone(), run))))
                .collect();
            sources.extend(
                keyspace.log.memtable.take().map(|memtable| Source::Log(Box::new(memtable.cursor()))),
            );
            let spilled: Vec<TableMeta> = std::mem::take(&mut keyspace.log.tables);
            if let Some(target) = target {
                for meta in &spilled {
                    let table = Table::new(target.context.clone(), meta.clone());
                    let mode = ScanMode::Stream(CacheUse::DropBehind);
                    sources.push(Source::Log(Box::new(table.cursor(mode))));
                }
            }
            let owner = Owner { id, name: &keyspace.name, options: &keyspace.options };
            let mut tables = NewTables::new(target, owner);
            let mut longest_value = 0;
            let merged = merge(sources, |key, value| {
                longest_value = longest_value.max(value.len() as u64);
                tables.add(key, value)
            })?;
            written.insert(id, tables.finish()?);
            self.longest_value = self.longest_value.max(longest_value);
            self.last_sequence = self.last_sequence.max(merged.last_sequence);
            for meta in spilled {
                if let Some(target) = target {
                    target.new.fs.remove_file(&target.new.dir.join(table_file_name(meta.number)))?;
                }
            }
            report_merged(merged, keyspace, &mut self.report);
        }
        self.report.keyspaces = self.keyspaces.values().map(|keyspace| keyspace.report.clone()).collect();
        Ok(written)
    }

    /// Writes the manifest of the new database: from here on it opens.
    fn write_manifest(&self, target: &Target, mut written: BTreeMap<u32, Vec<TableMeta>>) -> Result<()> {
        let known =
            if self.catalog.max_value_bytes > 0 { self.catalog.max_value_bytes } else { MAX_VALUE_BYTES };
        let keyspaces = self.keyspaces.iter().map(|(&id, keyspace)| {
            let metas = written.remove(&id).unwrap_or_default();
            NewKeyspace {
                id,
                name: &keyspace.name,
                options: &keyspace.options,
                tables: metas.into_iter().map(|meta| (LEVELS - 1, meta)).collect(),
            }
        });
        target.new.finish(Contents {
            max_value_bytes: known.max(self.longest_value),
            last_sequence: self.last_sequence,
            next_table: target.next_number(),
            next_keyspace: self.catalog.next_keyspace,
            keyspaces: keyspaces.collect(),
        })
    }
}

/// The last of these segments, ascending, that have no missing number between them. What stands before, and what is
/// below the `first` that the manifest had not retired, was flushed.
fn last_row(numbers: &[u32], first: u32) -> Vec<u32> {
    let mut row: Vec<u32> = Vec::new();
    for &number in numbers.iter().filter(|&&number| number >= first) {
        if row.last().is_some_and(|last| last + 1 != number) {
            row.clear();
        }
        row.push(number);
    }
    row
}

/// Why a manifest is not to be believed, if it is not: it is damaged, or it seems to have lost its end, since files are
/// there that it does not know of.
fn doubt(fs: &dyn FileSystem, survey: &Survey, manifest: &ReadManifest) -> Result<Option<String>> {
    if let Some(error) = &manifest.damage {
        return Ok(Some(error.to_string()));
    }
    let catalog = &manifest.catalog;
    if let Some(number) = survey.unknown_segments(fs, catalog)?.first() {
        return Ok(Some(format!("it does not know log segment {number}, which holds records")));
    }
    let metas = catalog.keyspaces.values().flat_map(|keyspace| keyspace.levels.iter().flatten());
    let missing_table = metas.map(|meta| meta.number).find(|&number| !survey.has_table(number));
    let on_disk = survey.segment_numbers();
    let missing_segment = catalog.segments.keys().find(|number| !on_disk.contains(number));
    let newer_table = survey.table_numbers().find(|&number| number >= catalog.next_table);
    Ok(match (missing_table, missing_segment, newer_table) {
        (Some(missing), _, Some(newer)) => Some(format!(
            "it names table {missing}, which is missing, and does not know table {newer}, which is younger"
        )),
        (None, Some(missing), Some(newer)) => Some(format!(
            "it names log segment {missing}, which is missing, and does not know table {newer}, which is younger"
        )),
        _ => None,
    })
}

/// Puts what became of a keyspace's tables into the reports.
fn report_merged(merged: Merged, keyspace: &mut PlannedKeyspace, report: &mut SalvageReport) {
    keyspace.report.keys_kept = merged.kept;
    for TableOutcome { table, entries_read, lost, metadata_damage, unreadable } in merged.outcomes {
        keyspace.report.entries_read += entries_read;
        let missing = table.entries.saturating_sub(entries_read);
        keyspace.report.entries_lost += missing;
        let entry = |bytes, keys_from, keys_to, entries, what| Lost {
            file: table.path.clone(),
            bytes,
            keyspace: Some(keyspace.name.clone()),
            keys_from,
            keys_to,
            entries,
            what,
        };
        let (smallest, largest) = (Some(table.smallest_key.clone()), Some(table.largest_key.clone()));
        if let Some(error) = unreadable {
            keyspace.report.tables_lost += 1;
            let what = format!("nothing of the table can be read: {error}");
            report.lost.push(entry(None, smallest, largest, Some(missing), what));
            continue;
        }
        keyspace.report.tables_read += 1;
        let entries = (lost.len() == 1).then_some(missing);
        // Fences that were damaged can give a place twice, and nothing is lost by that.
        let is_lost = missing > 0;
        if is_lost && lost.is_empty() {
            let what = "entries are missing, and where is not known".to_owned();
            let range = (smallest.clone(), largest.clone());
            report.lost.push(entry(None, range.0, range.1, Some(missing), what));
        }
        for part in lost.into_iter().filter(|_| is_lost) {
            let (from, to) = (part.keys_from.or(smallest.clone()), part.keys_to.or(largest.clone()));
            report.lost.push(entry(Some(part.bytes), from, to, entries, part.what));
        }
        if let Some(error) = metadata_damage {
            report.notes.push(Finding::of(&error, &table.path, Severity::Damage, REWRITE));
        }
    }
}
