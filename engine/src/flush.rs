//! Flush: from a sealed memtable to a table in level 0.
//!
//! The table becomes visible only once the log is durable through the memtable's end, for all keyspaces: otherwise one
//! keyspace's half of a batch could survive a power cut in a table while the other's is lost with the log. The same
//! edit retires the log segments that no memtable needs any more.

use std::sync::Arc;

use terrace_compaction::{Output, Rules, write_tables};
use terrace_io::Result;
use terrace_sstable::{Cause, Table, TableMeta};

use crate::catalog::Change;
use crate::core::Core;
use crate::keyspace::KeyspaceInner;
use crate::manifest::Manifest;
use crate::memtable::Memtable;
use crate::service::Task;
use crate::version::State;

/// Writes a memtable to tables of level 0, which nobody knows of yet.
pub(crate) fn write_memtable(
    core: &Core,
    keyspace: &KeyspaceInner,
    memtable: &Arc<Memtable>,
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
        next_number: &|| core.next_table_number(),
    };
    let snapshots = core.snapshots.sequences();
    let rules = Rules { snapshots: &snapshots, deeper: &[], next_level: &[], elide_below: 0, cancelled };
    let outcome = write_tables(&mut memtable.cursor(), &output, &rules)?;
    core.counters.flush_written(outcome.bytes_written);
    Ok(outcome.tables)
}

/// Flushes the oldest sealed memtable of a keyspace.
pub(crate) fn flush_oldest(core: &Core, keyspace: &KeyspaceInner) -> Result<()> {
    let Some(memtable) = keyspace.peek().sealed.last().cloned() else { return Ok(()) };
    let sealed = memtable.sealed().expect("it is among the sealed ones");
    let span = tracing::info_span!("flush", keyspace = keyspace.name, entries = memtable.len());
    let _entered = span.enter();

    let tables = write_memtable(core, keyspace, &memtable, Cause::Flush, &|| core.stopping())?;
    let retired = (|| {
        core.log.sync_through(sealed.log_end)?;
        let mut manifest = core.manifest.lock();
        let dropped = keyspace.dropped.load(std::sync::atomic::Ordering::Acquire);
        if dropped || !keyspace.peek().sealed.last().is_some_and(|oldest| Arc::ptr_eq(oldest, &memtable)) {
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
        let retired = retire_segments(core, &manifest, Some(&memtable), &mut edit);
        manifest.commit(edit)?;

        let added = tables.iter().map(|meta| (0, Table::new(core.tables.clone(), meta.clone()))).collect();
        keyspace.replace(|state| {
            let mut sealed = state.sealed.clone();
            sealed.pop();
            let version = Arc::new(state.version.with(&[], added));
            (State { memtable: state.memtable.clone(), sealed, version }, ())
        });
        Ok(retired)
    })();
    match retired {
        Ok(retired) => {
            core.log.release(&retired);
            core.service.send(Task::Memtable(memtable));
            core.counters.flushes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
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

/// Adds to an edit that the log segments which no memtable needs are retired, and says which. `flushed` is not needed
/// any more.
pub(crate) fn retire_segments(
    core: &Core,
    manifest: &Manifest,
    flushed: Option<&Arc<Memtable>>,
    edit: &mut Vec<Change>,
) -> Vec<(u32, u64)> {
    // Read before the memtables: whatever is written from here on goes to this segment or a later one.
    let mut below = core.log.active_segment();
    for keyspace in core.keyspaces.load().values() {
        let state = keyspace.peek();
        let live =
            state.memtables().filter(|memtable| !flushed.is_some_and(|gone| Arc::ptr_eq(memtable, gone)));
        below = live.filter_map(|memtable| memtable.first_segment()).fold(below, u32::min);
    }
    let Some(first_sequence) = core.log.first_sequence_from(below) else { return Vec::new() };
    let retired: Vec<_> = manifest.catalog().segments.range(..below).map(|(&n, &len)| (n, len)).collect();
    if !retired.is_empty() {
        edit.push(Change::SegmentsRetired { below, first_sequence });
    }
    retired
}
