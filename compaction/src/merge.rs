//! The merging of tables: all inputs of a job as one cursor, streamed past the page cache; and a large job divided by
//! key between several threads.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, scope};

use terrace_io::{CacheUse, Error, Result};
use terrace_sstable::{MergeCursor, RunCursor, ScanMode, Table};

use crate::run::{Outcome, Output, Part, Rules, remove_files, write_part};

/// A part of a job reads so many full tables at least: dividing it leaves one table more that is not full.
const PART_TABLES_MIN: u64 = 2;
/// All parts of a job together have so many cursors at most: each is an open file and a buffer.
const CURSORS_MAX: usize = 256;
/// How many places of each input are looked at to find where a job can be divided.
const SAMPLES_PER_TABLE: usize = 16;

/// The tables of a choice, given like its inputs: levels from above, level 0 from the newest table to the oldest, the
/// others by key.
pub type Inputs = [(usize, Vec<Arc<Table>>)];

/// Merges tables into new ones, as [`write_tables`](crate::write_tables) does, on up to `threads` threads at once, this
/// one included. Each takes a part of the keys.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
/// use terrace_compaction::{Output, Rules, merge_tables};
/// use terrace_io::{CacheUse, FileSystem, MemoryFileSystem};
/// use terrace_sstable::{Cause, Kind, Table, TableContext, TableIdentity, TableOptions, TableWriter};
///
/// # fn main() -> terrace_io::Result<()> {
/// let fs: Arc<dyn FileSystem> = Arc::new(MemoryFileSystem::new());
/// let dir = Path::new("/db");
/// fs.create_dir_all(dir)?;
/// let context = Arc::new(TableContext::new(Arc::clone(&fs), dir));
/// let table = |number, entries: &[(&str, u64, Kind, &str)]| {
///     let (database_id, keyspace_name) = ([7; 16], "default".to_owned());
///     let (keyspace_id, level, cause) = (0, 0, Cause::Flush);
///     let identity = TableIdentity { database_id, keyspace_id, keyspace_name, number, level, cause };
///     let mut writer = TableWriter::create(&fs, dir, identity, &TableOptions::default())?;
///     for (key, sequence, kind, value) in entries {
///         writer.add(key.as_bytes(), *sequence, *kind, value.as_bytes())?;
///     }
///     Ok::<_, terrace_io::Error>(Table::new(Arc::clone(&context), writer.finish()?))
/// };
/// let older = table(1, &[("ice", 1, Kind::Put, "cold"), ("tea", 2, Kind::Put, "hot")])?;
/// let newer = table(2, &[("ice", 3, Kind::Delete, ""), ("tea", 4, Kind::Put, "iced")])?;
///
/// let output = Output {
///     fs: &fs,
///     dir,
///     database_id: [7; 16],
///     keyspace_id: 0,
///     keyspace_name: "default",
///     level: 6,
///     cause: Cause::Compaction,
///     options: &TableOptions::default(),
///     table_bytes: 64 << 20,
///     cache_use: CacheUse::DropBehind,
///     next_number: &|| 3,
/// };
/// let rules = Rules { snapshots: &[], deeper: &[], next_level: &[], elide_below: 4, cancelled: &|| false };
/// let outcome = merge_tables(&[(0, vec![newer, older])], &output, &rules, 1)?;
/// assert_eq!((outcome.entries_in, outcome.entries_out, outcome.tombstones_dropped), (4, 1, 1));
/// let merged = Table::new(context, outcome.tables[0].clone());
/// assert_eq!(merged.get(b"tea", 4)?.expect("it was put").value(), b"iced");
/// assert!(merged.get(b"ice", 4)?.is_none());
/// # Ok(())
/// # }
/// ```
pub fn merge_tables(
    inputs: &Inputs,
    output: &Output<'_>,
    rules: &Rules<'_>,
    threads: usize,
) -> Result<Outcome> {
    let bytes: u64 = inputs.iter().flat_map(|(_, tables)| tables).map(|table| table.meta().file_len).sum();
    let parts_max = bytes / output.table_bytes.saturating_mul(PART_TABLES_MIN).max(1);
    let cursors = input_cursor(inputs, output.cache_use).into_sources().len();
    let parts =
        threads.min(usize::try_from(parts_max).unwrap_or(usize::MAX)).min(CURSORS_MAX / cursors.max(1));
    let borders = match NonZero::new(parts) {
        // Level 0 is judged by the number of its tables. If the inputs cannot be divided because they are damaged, the
        // one who reads them says so.
        Some(parts) if parts.get() > 1 && output.level > 0 => borders(inputs, parts).unwrap_or_default(),
        _ => Vec::new(),
    };
    merge_between(inputs, output, rules, &borders)
}

/// Merges the parts between some keys, at once.
pub(crate) fn merge_between(
    inputs: &Inputs,
    output: &Output<'_>,
    rules: &Rules<'_>,
    borders: &[Vec<u8>],
) -> Result<Outcome> {
    if !borders.is_empty() {
        let whole = write_parts(inputs, output, rules, borders)?;
        let tables = inputs.iter().flat_map(|(_, tables)| tables);
        if whole.entries_in == tables.map(|table| table.meta().entries).sum::<u64>() {
            return Ok(whole);
        }
        // Fences can lead astray where nobody expects them to be wrong. Who reads from front to back needs none.
        tracing::warn!("the parts of a compaction did not meet: it is done again undivided");
        remove_files(output, whole.tables.iter().map(|table| table.number));
    }
    write_part(&mut input_cursor(inputs, output.cache_use), output, rules, Part::WHOLE)
}

/// Merges the parts between the borders, each on a thread of its own.
fn write_parts(
    inputs: &Inputs,
    output: &Output<'_>,
    rules: &Rules<'_>,
    borders: &[Vec<u8>],
) -> Result<Outcome> {
    let failed = AtomicBool::new(false);
    let cancelled = || failed.load(Ordering::Relaxed) || (rules.cancelled)();
    let rules = Rules { cancelled: &cancelled, ..*rules };
    let span = tracing::Span::current();
    let write = |number: usize| {
        let border = |number: usize| borders.get(number).map(Vec::as_slice);
        let part = Part { from: number.checked_sub(1).and_then(border), to: border(number) };
        let written =
            span.in_scope(|| write_part(&mut input_cursor(inputs, output.cache_use), output, &rules, part));
        failed.fetch_or(written.is_err(), Ordering::Relaxed);
        written
    };
    let outcomes: Vec<Result<Outcome>> = scope(|scope| {
        let write = &write;
        let spawn = |number: usize| {
            let thread = Builder::new().name("terrace-compact".to_owned());
            (number, thread.spawn_scoped(scope, move || write(number)))
        };
        let others: Vec<_> = (1..=borders.len()).map(spawn).collect();
        let mut outcomes = vec![write(0)];
        outcomes.extend(others.into_iter().map(|(number, thread)| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            // There may be no more threads.
            Err(_) => write(number),
        }));
        outcomes
    });
    join(outcomes, output)
}

/// The outcomes of the parts of a job, by key, as one. If a part failed, the tables of the others are removed.
fn join(outcomes: Vec<Result<Outcome>>, output: &Output<'_>) -> Result<Outcome> {
    let mut whole = Outcome::default();
    let mut failure: Option<Error> = None;
    for outcome in outcomes {
        match outcome {
            Ok(part) => {
                whole.tables.extend(part.tables);
                whole.entries_in += part.entries_in;
                whole.entries_out += part.entries_out;
                whole.tombstones_dropped += part.tombstones_dropped;
                whole.bytes_written += part.bytes_written;
            }
            // The others ended because of the first one.
            Err(Error::Closed) => failure = failure.or(Some(Error::Closed)),
            Err(error) => failure = failure.filter(|known| !matches!(known, Error::Closed)).or(Some(error)),
        }
    }
    match failure {
        None => Ok(whole),
        Some(error) => {
            remove_files(output, whole.tables.iter().map(|table| table.number));
            Err(error)
        }
    }
}

/// Up to `parts - 1` keys, ascending, that divide the inputs into parts of about as many bytes.
fn borders(inputs: &Inputs, parts: NonZero<usize>) -> Result<Vec<Vec<u8>>> {
    // Each stands for the bytes from it on to the next of the same table.
    let mut samples: Vec<(Vec<u8>, u64)> = Vec::new();
    for table in inputs.iter().flat_map(|(_, tables)| tables) {
        let keys = table.dividing_keys(SAMPLES_PER_TABLE - 1)?;
        let bytes = table.meta().file_len / (keys.len() as u64 + 1);
        samples.push((table.meta().smallest_key.to_vec(), bytes));
        samples.extend(keys.into_iter().map(|key| (key, bytes)));
    }
    samples.sort_unstable();
    let share = samples.iter().map(|(_, bytes)| bytes).sum::<u64>() / parts.get() as u64;
    let mut borders: Vec<Vec<u8>> = Vec::new();
    let mut before = 0;
    for (key, bytes) in samples {
        if before >= share * (borders.len() as u64 + 1)
            && borders.len() + 1 < parts.get()
            && borders.last() != Some(&key)
        {
            borders.push(key);
        }
        before += bytes;
    }
    Ok(borders)
}

/// The merged cursor over the inputs of a job. It opens tables as it reaches them.
pub(crate) fn input_cursor(inputs: &Inputs, cache_use: CacheUse) -> MergeCursor<RunCursor> {
    let mode = ScanMode::Stream(cache_use);
    let mut runs = Vec::new();
    for (level, tables) in inputs {
        if *level == 0 {
            runs.extend(tables.iter().map(|table| RunCursor::new(Arc::from([Arc::clone(table)]), mode)));
        } else if !tables.is_empty() {
            runs.push(RunCursor::new(tables.as_slice().into(), mode));
        }
    }
    MergeCursor::new(runs)
}
