//! Flush: from the sealed memtables of a keyspace to a table in level 0.
//!
//! Memtables are small, so that inserting into one stays cheap, and flushed several at a time, so that tables are not:
//! see [`MEMTABLES_PER_FLUSH`]. The table becomes visible only once the log is durable through the memtables' end, for
//! all keyspaces: otherwise one keyspace's half of a batch could survive a power cut in a table while the other's is
//! lost with the log. The same edit retires the log segments that no memtable needs any more.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use terrace_compaction::{Output, Rules, write_tables};
use terrace_io::{Bug, Result};
use terrace_sstable::{Cause, MergeCursor, Table, TableMeta};

use crate::catalog::Change;
use crate::core::Core;
use crate::keyspace::KeyspaceInner;
use crate::manifest::Manifest;
use crate::memtable::Memtable;
use crate::service::Task;
use crate::version::State;

/// The memory that a user grants before a flush ([`crate::Options::memtable_bytes`]) is filled by so many memtables,
/// one after the other: inserting into a tree of 32 MiB takes five sixths of the time that one of 64 MiB takes, since
/// more of its nodes are in the processor's caches; a flush that merges several writes no more than before.
pub(crate) const MEMTABLES_PER_FLUSH: usize = 4;

/// Writes memtables, newest first, to a table of level 0, which nobody knows of yet.
pub(crate) fn write_memtables(
    core: &Core,
    keyspace: &KeyspaceInner,
    memtables: &[Arc<Memtable>],
    cause: Cause,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<TableMeta>> {
    let output = Output {
        fs: &core.fs,
        dir: &core.dir,
        database_id: core.database_id,
        keyspace_id: keyspace.id,
        keyspace_name: &keyspace.name,
        level: 0,
        cause,
        options: &keyspace.options.table,
        table_bytes: keyspace.options.table_bytes,
        // What was in a memtable was in memory, and stays there.
        cache_use: core.memory.cache_use(),
        next_number: &|| core.next_table_number(),
    };
    let snapshots = core.snapshots.sequences();
    let rules = Rules { snapshots: &snapshots, deeper: &[], next_level: &[], elide_below: 0, cancelled };
    let mut cursor = MergeCursor::new(memtables.iter().map(|memtable| memtable.cursor()).collect());
    let outcome = write_tables(&mut cursor, &output, &rules)?;
    drop(cursor);
    core.memory.job_done();
    core.counters.flush_written(outcome.bytes_written);
    Ok(outcome.tables)
}

/// Flushes all sealed memtables of a keyspace.
pub(crate) fn flush_sealed(core: &Core, keyspace: &KeyspaceInner) -> Result<()> {
    let memtables = keyspace.peek().sealed.clone();
    let (Some(newest), Some(oldest)) = (memtables.first(), memtables.last()) else { return Ok(()) };
    let sealed = newest.sealed().expect("it is among the sealed ones");
    let bytes: u64 = memtables.iter().map(|memtable| memtable.heap_bytes()).sum();
    let span = tracing::info_span!("flush", keyspace = keyspace.name, memtables = memtables.len(), bytes);
    let _entered = span.enter();

    let tables = write_memtables(core, keyspace, &memtables, Cause::Flush, &|| core.stopping())?;
    let retired = (|| {
        if !Bug::FlushedBeforeLogSynced.is_planted() {
            core.log.sync_through(sealed.log_end)?;
        }
        let mut manifest = core.manifest.lock();
        let dropped = keyspace.dropped.load(Ordering::Acquire);
        if dropped || !keyspace.peek().sealed.last().is_some_and(|known| Arc::ptr_eq(known, oldest)) {
            // The keyspace was cleared or dropped meanwhile.
            core.remove_files(&tables);
            return Ok(Vec::new());
        }
        let add =
            |meta: &TableMeta| Change::TableAdded { keyspace: keyspace.id, level: 0, meta: meta.clone() };
        let mut edit: Vec<Change> = tables.iter().map(add).collect();
        edit.push(Change::KeyspaceFlushed { id: keyspace.id, through: sealed.last_sequence });
        edit.push(Change::LastSequence(sealed.last_sequence));
        edit.push(Change::NextTable(core.peek_table_number()));
        edit.push(Change::LogSynced(core.log.synced()));
        let retired = retire_segments(core, &manifest, &memtables, &mut edit);
        manifest.commit(edit)?;

        let added = tables.iter().map(|meta| (0, Table::new(core.tables.clone(), meta.clone()))).collect();
        keyspace.replace(|state| {
            let mut sealed = state.sealed.clone();
            sealed.truncate(sealed.len() - memtables.len());
            keyspace.flush_wanted.fetch_and(!sealed.is_empty(), Ordering::Relaxed);
            let version = Arc::new(state.version.with(&[], added));
            (State { memtable: state.memtable.clone(), sealed, version }, ())
        });
        keyspace.was_flushed();
        core.judge_memory();
        Ok(retired)
    })();
    match retired {
        Ok(retired) => {
            core.log.release(&retired);
            memtables.into_iter().for_each(|memtable| core.service.send(Task::Memtable(memtable)));
            core.counters.flushes.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => {
            if core.poison.cause().is_none() {
                core.remove_files(&tables);
            }
            Err(error)
        }
    }
}

/// Adds to an edit that the log segments which no memtable needs are retired, and says which. Those in `flushed` need
/// none any more.
pub(crate) fn retire_segments(
    core: &Core,
    manifest: &Manifest,
    flushed: &[Arc<Memtable>],
    edit: &mut Vec<Change>,
) -> Vec<(u32, u64)> {
    // Read before the memtables: whatever is written from here on goes to this segment or a later one.
    let mut below = core.log.active_segment();
    for keyspace in core.keyspaces.load().values() {
        let state = keyspace.peek();
        let is_live = |memtable: &&Arc<Memtable>| !flushed.iter().any(|gone| Arc::ptr_eq(memtable, gone));
        let live = state.memtables().filter(is_live);
        below = live.filter_map(|memtable| memtable.first_segment()).fold(below, u32::min);
    }
    let Some(first_sequence) = core.log.first_sequence_from(below) else { return Vec::new() };
    let retired: Vec<_> = manifest.catalog().segments.range(..below).map(|(&n, &len)| (n, len)).collect();
    if !retired.is_empty() {
        edit.push(Change::SegmentsRetired { below, first_sequence });
    }
    retired
}
