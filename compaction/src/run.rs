//! Writing tables: what a flush and a compaction do. Does no locking, and touches nothing but the files that it
//! creates.

use std::path::Path;
use std::sync::Arc;

use terrace_io::{Bug, CacheUse, Error, FileSystem, Result};
use terrace_sstable::{
    Cause, Cursor, Kind, SEQUENCE_MAX, TableIdentity, TableMeta, TableOptions, TableWriter, table_file_name,
    table_tmp_file_name,
};

use crate::cut::Cutter;
use crate::retention::{Retention, Verdict};
use crate::span::{KeyRange, SizedKeyRange, Span};

/// How many entries go by between two looks at whether the job was cancelled.
const ENTRIES_PER_CANCEL_CHECK: u64 = 64;

/// Where tables are written to and what they say about themselves.
pub struct Output<'a> {
    /// The file system.
    pub fs: &'a Arc<dyn FileSystem>,
    /// The database's directory.
    pub dir: &'a Path,
    /// The database's id.
    pub database_id: [u8; 16],
    /// The keyspace's id.
    pub keyspace_id: u32,
    /// The keyspace's name.
    pub keyspace_name: &'a str,
    /// The level that the tables are for.
    pub level: u8,
    /// Why they are written.
    pub cause: Cause,
    /// How they are written.
    pub options: &'a TableOptions,
    /// The size at which a table is full. A flush into level 0 makes one table, whatever its size, since level 0 is
    /// judged by the number of its tables.
    pub table_bytes: u64,
    /// What the job may leave in the page cache. Where it is to be sparing, blocks of the outputs are kept only if any of
    /// their entries was in memory before: what replaces what is read often will be read often.
    pub cache_use: CacheUse,
    /// Gives each table its number.
    pub next_number: &'a (dyn Fn() -> u64 + Sync),
}

/// What may be left out, and where tables are cut.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// The sequence numbers of the live snapshots, ascending. For each the newest version at or below it is kept, and
    /// the newest of all. If the cursor may give versions newer than what new readers see, that number belongs here
    /// too.
    pub snapshots: &'a [u64],
    /// The smallest and the largest key of every table below the output level, in any order. Not looked at for level
    /// 0: a flush drops no tombstones, since older memtables may still be on their way.
    pub deeper: &'a [KeyRange],
    /// The tables of the level below the output level, by key: smallest key, largest key, bytes.
    pub next_level: &'a [SizedKeyRange],
    /// Sequence numbers up to this may be stored as 0 where nothing deeper can hold the key: the smaller of the oldest
    /// snapshot and what new readers see.
    pub elide_below: u64,
    /// Asked now and then; if it says yes, the job ends with [`Error::Closed`].
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The tables, by key. None if nothing survived.
    pub tables: Vec<TableMeta>,
    /// How many entries the cursor gave.
    pub entries_in: u64,
    /// How many were written.
    pub entries_out: u64,
    /// How many tombstones were left out because they hid nothing any more.
    pub tombstones_dropped: u64,
    /// The length of all the tables' files.
    pub bytes_written: u64,
}

/// Streams a cursor, from its first entry, into tables: a memtable at flush, merged tables at compaction.
///
/// Versions that no reader can see are dropped, and so are tombstones that hide nothing. The tables are disjoint and
/// durable, the directory's entries for them included. After an error nothing of them is left, as far as the file
/// system allows.
pub fn write_tables<C: Cursor>(cursor: &mut C, output: &Output<'_>, rules: &Rules<'_>) -> Result<Outcome> {
    write_part(cursor, output, rules, Part::WHOLE)
}

/// The part of a cursor's entries that one writer of several takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    /// The first key; `None` to begin with the first entry.
    pub(crate) from: Option<&'a [u8]>,
    /// The first key that is not taken; `None` to end with the last entry.
    pub(crate) to: Option<&'a [u8]>,
}

impl Part<'_> {
    pub(crate) const WHOLE: Part<'static> = Part { from: None, to: None };
}

/// [`write_tables`] of a part of the entries.
pub(crate) fn write_part<C: Cursor>(
    cursor: &mut C,
    output: &Output<'_>,
    rules: &Rules<'_>,
    part: Part<'_>,
) -> Result<Outcome> {
    let mut tables = TableSet::new(output, rules);
    let written = copy_survivors(cursor, &mut tables, output, rules, part).and_then(|counts| {
        tables.finish_table()?;
        if !tables.finished.is_empty() && !Bug::TableNameNotSynced.is_planted() {
            output.fs.sync_dir(output.dir)?;
        }
        Ok(counts)
    });
    match written {
        Ok(mut outcome) => {
            outcome.tables = tables.finished;
            outcome.entries_out = outcome.tables.iter().map(|table| table.entries).sum();
            outcome.bytes_written = outcome.tables.iter().map(|table| table.file_len).sum();
            Ok(outcome)
        }
        Err(error) => {
            tables.remove();
            Err(error)
        }
    }
}

/// The stream itself: gives the entries that survive to `tables`, and says what it counted.
fn copy_survivors<C: Cursor>(
    cursor: &mut C,
    tables: &mut TableSet<'_>,
    output: &Output<'_>,
    rules: &Rules<'_>,
    part: Part<'_>,
) -> Result<Outcome> {
    let deeper = (output.level > 0)
        .then(|| rules.deeper.iter().map(|(smallest, largest)| Span { smallest, largest }).collect());
    let mut retention = Retention::new(rules.snapshots, rules.elide_below, deeper);
    let mut outcome = Outcome::default();
    let mut key: Vec<u8> = Vec::new();
    // Sequence numbers of tombstones of the current key, whose fate is not known yet.
    let mut held: Vec<u64> = Vec::new();

    match part.from {
        Some(from) => cursor.seek(from, SEQUENCE_MAX)?,
        None => cursor.seek_to_first()?,
    }
    while cursor.valid() {
        if outcome.entries_in.is_multiple_of(ENTRIES_PER_CANCEL_CHECK) && (rules.cancelled)() {
            return Err(Error::Closed);
        }
        if outcome.entries_in == 0 || cursor.key() != key {
            if part.to.is_some_and(|to| cursor.key() >= to) {
                break;
            }
            outcome.tombstones_dropped += settle_held(&mut held, &key, &mut retention, tables)?;
            key.clear();
            key.extend_from_slice(cursor.key());
            retention.start_key();
            tables.start_key();
        }
        outcome.entries_in += 1;
        tables.is_cached = output.cache_use != CacheUse::Sparing || cursor.was_resident();
        match retention.judge(&key, cursor.sequence(), cursor.kind()) {
            Verdict::Drop => {}
            Verdict::Hold => held.push(cursor.sequence()),
            Verdict::Keep(sequence) => {
                for tombstone in held.drain(..) {
                    tables.add(&key, tombstone, Kind::Delete, &[])?;
                }
                tables.add(&key, sequence, cursor.kind(), cursor.value())?;
            }
        }
        cursor.next()?;
    }
    outcome.tombstones_dropped += settle_held(&mut held, &key, &mut retention, tables)?;
    Ok(outcome)
}

/// After the last version of a key: writes the tombstones still held, or drops them and says how many.
fn settle_held(
    held: &mut Vec<u64>,
    key: &[u8],
    retention: &mut Retention<'_>,
    tables: &mut TableSet<'_>,
) -> Result<u64> {
    if held.is_empty() {
        return Ok(0);
    }
    if !retention.tombstones_must_stay(key) {
        let dropped = held.len() as u64;
        held.clear();
        return Ok(dropped);
    }
    for tombstone in held.drain(..) {
        tables.add(key, tombstone, Kind::Delete, &[])?;
    }
    Ok(0)
}

/// The tables of one job: those that are finished and the one being written.
struct TableSet<'a> {
    output: &'a Output<'a>,
    /// `None` for level 0: never cut.
    cutter: Option<Cutter<'a>>,
    /// Whether no entry of the current key was written yet.
    at_key_start: bool,
    /// Whether the page cache is to keep what is added.
    is_cached: bool,
    writer: Option<TableWriter>,
    finished: Vec<TableMeta>,
    /// The numbers of all that were begun.
    numbers: Vec<u64>,
}

impl<'a> TableSet<'a> {
    fn new(output: &'a Output<'a>, rules: &Rules<'a>) -> Self {
        let cutter = (output.level > 0).then(|| Cutter::new(output.table_bytes, rules.next_level));
        TableSet {
            output,
            cutter,
            at_key_start: true,
            is_cached: true,
            writer: None,
            finished: Vec::new(),
            numbers: Vec::new(),
        }
    }

    /// The entries of a greater key follow: here a table may be cut.
    fn start_key(&mut self) {
        self.at_key_start = true;
    }

    /// Writes an entry, in internal order.
    fn add(&mut self, key: &[u8], sequence: u64, kind: Kind, value: &[u8]) -> Result<()> {
        if std::mem::take(&mut self.at_key_start)
            && let Some(cutter) = &mut self.cutter
            && cutter.cuts_before(key, self.writer.as_ref().map(TableWriter::estimated_len))
        {
            self.finish_table()?;
        }
        if self.writer.is_none() {
            self.writer = Some(self.begin_table()?);
        }
        let writer = self.writer.as_mut().expect("it was just begun");
        writer.set_cached(self.is_cached);
        writer.add(key, sequence, kind, value)
    }

    fn begin_table(&mut self) -> Result<TableWriter> {
        let number = (self.output.next_number)();
        self.numbers.push(number);
        let identity = TableIdentity {
            database_id: self.output.database_id,
            keyspace_id: self.output.keyspace_id,
            keyspace_name: self.output.keyspace_name.to_owned(),
            number,
            level: self.output.level,
            cause: self.output.cause,
        };
        let mut writer = TableWriter::create(self.output.fs, self.output.dir, identity, self.output.options)?;
        if self.output.cache_use == CacheUse::Sparing {
            writer.spare_memory();
        }
        Ok(writer)
    }

    fn finish_table(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            let meta = writer.finish()?;
            tracing::debug!(
                table = meta.number,
                bytes = meta.file_len,
                level = self.output.level,
                "wrote a table"
            );
            self.finished.push(meta);
        }
        Ok(())
    }

    /// Removes every trace, as far as possible. What cannot be removed is a leftover that the next open deletes.
    fn remove(self) {
        if let Some(writer) = self.writer {
            writer.abandon();
        }
        remove_files(self.output, self.numbers);
    }
}

/// Removes the files of tables that were begun or finished, as far as possible.
pub(crate) fn remove_files(output: &Output<'_>, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        for name in [table_file_name(number), table_tmp_file_name(number)] {
            if let Err(error) = output.fs.remove_file(&output.dir.join(name))
                && !error.is_not_found()
            {
                tracing::debug!(%error, "a table of a failed job stays behind");
            }
        }
    }
}

#[cfg(test)]
mod tests;
