//! Compaction, from the picker's choice to a new version; `compact_range`; and sizes.
//!
//! What to compact and how to merge is the business of the crate `terrace-compaction`. Here a choice is turned into
//! tables, the outcome is recorded in the manifest, and the inputs are let go of: their files are deleted once the
//! last reader is done with them.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use terrace_compaction::{
    Choice, Inputs, LEVELS, Outcome, Output, Policy, Rules, debt_bytes, merge_tables, pick_range,
};
use terrace_io::{Error, Result};
use terrace_sstable::{Cause, Table, TableMeta};

use crate::catalog::Change;
use crate::core::Core;
use crate::flush::MEMTABLES_PER_FLUSH;
use crate::keyspace::KeyspaceInner;
use crate::options::{KeyspaceOptions, Options};
use crate::throttle::Pressure;
use crate::version::{KeyRange, State, Version, overlaps};
use crate::work::run_compaction;

/// How the tree of a keyspace should look.
pub(crate) fn policy(options: &Options, keyspace: &KeyspaceOptions, quiet: bool) -> Policy {
    Policy {
        l0_trigger: options.l0_trigger,
        quiet,
        level_base_bytes: options.base_bytes(),
        level_multiplier: options.level_multiplier,
        table_bytes: keyspace.table_bytes,
    }
}

/// What compaction of a tree still has to do, in bytes.
pub(crate) fn debt(version: &Version, policy: &Policy) -> u64 {
    debt_bytes(&version.level_bytes(), version.levels[0].len(), policy)
}

impl Core {
    /// How the tree of a keyspace should look.
    pub fn policy(&self, keyspace: &KeyspaceInner) -> Policy {
        policy(&self.options, &keyspace.options, keyspace.quiet_from() <= Instant::now())
    }

    /// What compaction of a keyspace still has to do, in bytes.
    pub fn debt(&self, keyspace: &KeyspaceInner, version: &Version) -> u64 {
        debt(version, &self.policy(keyspace))
    }

    /// What each keyspace owes, for the throttle.
    pub fn pressures(&self) -> impl Iterator<Item = Pressure> + use<> {
        let keyspaces = self.keyspaces.load();
        let pressures: Vec<_> = keyspaces
            .values()
            .map(|keyspace| {
                let state = keyspace.peek();
                Pressure {
                    l0_tables: state.version.levels[0].len(),
                    l0_trigger: self.options.l0_trigger,
                    debt_bytes: self.debt(keyspace, &state.version),
                    level_base_bytes: self.options.base_bytes(),
                    sealed_memtables: state.sealed.len() / MEMTABLES_PER_FLUSH,
                    memtables_max: self.options.memtables_max,
                }
            })
            .collect();
        pressures.into_iter()
    }
}

/// Carries out a choice, on up to so many threads.
pub(crate) fn run(core: &Core, keyspace: &KeyspaceInner, choice: &Choice, threads: usize) -> Result<()> {
    let version = keyspace.peek().version.clone();
    let Some(inputs) = find_inputs(&version, choice) else { return Ok(()) };
    if choice.trivial_move {
        return move_tables(core, keyspace, choice);
    }
    let read: u64 = inputs.iter().flat_map(|(_, tables)| tables).map(|table| table.meta().file_len).sum();
    let span = tracing::info_span!(
        "compaction",
        keyspace = keyspace.name,
        reason = ?choice.reason,
        output_level = choice.output_level,
        bytes = read
    );
    let _entered = span.enter();

    let outcome = merge(core, keyspace, choice, &version, &inputs, threads);
    core.memory.job_done();
    let outcome = outcome?;
    let tables = outcome.tables;
    let table = |meta: &TableMeta| (choice.output_level, Table::new(core.tables.clone(), meta.clone()));
    let installed = install(core, keyspace, choice, |_| tables.iter().map(table).collect());
    match &installed {
        Ok(Some(replaced)) => core.let_go(replaced.iter().flat_map(|(_, tables)| tables)),
        Ok(None) => core.remove_files(&tables),
        Err(_) if core.poison.cause().is_none() => core.remove_files(&tables),
        Err(_) => {}
    }
    for (level, tables) in &inputs {
        let bytes: u64 = tables.iter().map(|table| table.meta().file_len).sum();
        core.counters.level_read[*level].fetch_add(bytes, Ordering::Relaxed);
    }
    core.counters.level_written[choice.output_level].fetch_add(outcome.bytes_written, Ordering::Relaxed);
    core.counters.compactions.fetch_add(1, Ordering::Relaxed);
    installed.map(drop)
}

fn find_inputs(version: &Version, choice: &Choice) -> Option<Vec<(usize, Vec<Arc<Table>>)>> {
    let find = |level: usize, number: &u64| {
        version.levels[level].iter().find(|table| table.meta().number == *number).cloned()
    };
    let levels = choice.inputs.iter().map(|(level, numbers)| {
        let tables: Option<Vec<_>> = numbers.iter().map(|number| find(*level, number)).collect();
        Some((*level, tables?))
    });
    levels.collect()
}

fn merge(
    core: &Core,
    keyspace: &KeyspaceInner,
    choice: &Choice,
    version: &Version,
    inputs: &Inputs,
    threads: usize,
) -> Result<Outcome> {
    let keys = |table: &Arc<Table>| (table.meta().smallest_key.clone(), table.meta().largest_key.clone());
    let below = &version.levels[(choice.output_level + 1).min(LEVELS)..];
    let deeper: Vec<_> = below.iter().flat_map(|tables| tables.iter().map(keys)).collect();
    let next_level: Vec<_> = below.first().map_or(Vec::new(), |tables| {
        let with_bytes = |table: &Arc<Table>| {
            let (smallest, largest) = keys(table);
            (smallest, largest, table.meta().file_len)
        };
        tables.iter().map(with_bytes).collect()
    });
    // Snapshots after what new readers see: one that comes between sees no less than this.
    let visible = core.visible.get();
    let snapshots = core.snapshots.sequences();
    let elide_below = snapshots.first().copied().unwrap_or(u64::MAX).min(visible);
    let (threads, table_bytes) = core.memory.compaction(threads, keyspace.options.table_bytes);
    let output = Output {
        fs: &core.fs,
        dir: &core.dir,
        database_id: core.database_id,
        keyspace_id: keyspace.id,
        keyspace_name: &keyspace.name,
        level: choice.output_level as u8,
        cause: Cause::Compaction,
        options: &keyspace.options.table,
        table_bytes,
        cache_use: core.memory.cache_use(),
        next_number: &|| core.next_table_number(),
    };
    let cancelled = || core.stopping() || keyspace.dropped.load(Ordering::Relaxed);
    let rules = Rules {
        snapshots: &snapshots,
        deeper: &deeper,
        next_level: &next_level,
        elide_below,
        cancelled: &cancelled,
    };
    merge_tables(inputs, &output, &rules, threads)
}

fn move_tables(core: &Core, keyspace: &KeyspaceInner, choice: &Choice) -> Result<()> {
    let moved = install(core, keyspace, choice, |inputs| {
        let tables = inputs.iter().flat_map(|(_, tables)| tables.iter().cloned());
        tables.map(|table| (choice.output_level, table)).collect()
    });
    core.counters.trivial_moves.fetch_add(1, Ordering::Relaxed);
    moved.map(drop)
}

/// Records that the inputs of a choice are replaced by what `added` makes of them, and shows it to readers. Gives the
/// inputs as they were then: they may be read in another way than when the choice was begun. `None` if they are gone,
/// because the keyspace was cleared or dropped.
fn install(
    core: &Core,
    keyspace: &KeyspaceInner,
    choice: &Choice,
    added: impl FnOnce(&Inputs) -> Vec<(usize, Arc<Table>)>,
) -> Result<Option<Box<Inputs>>> {
    let mut manifest = core.manifest.lock();
    if keyspace.dropped.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let Some(replaced) = find_inputs(&keyspace.peek().version, choice) else { return Ok(None) };
    let added = added(&replaced);
    let numbers = || choice.inputs.iter().flat_map(|(level, numbers)| numbers.iter().map(|&n| (*level, n)));
    let id = keyspace.id;
    let mut edit: Vec<Change> =
        numbers().map(|(level, number)| Change::TableRemoved { keyspace: id, level, number }).collect();
    edit.push(Change::NextTable(core.peek_table_number()));
    edit.extend(added.iter().map(|(level, table)| Change::TableAdded {
        keyspace: id,
        level: *level,
        meta: table.meta().clone(),
    }));
    manifest.commit(edit)?;
    let removed: Vec<u64> = numbers().map(|(_, number)| number).collect();
    keyspace.replace(|state| {
        let version = Arc::new(state.version.with(&removed, added));
        (State { version, ..state.clone() }, ())
    });
    core.judge_memory();
    Ok(Some(replaced.into()))
}

/// Brings all entries of a range down to the bottom, one level after the other.
pub(crate) fn compact_range(core: &Core, keyspace: &KeyspaceInner, range: KeyRange<'_>) -> Result<()> {
    core.flush_keyspaces(|known| known.id == keyspace.id)?;
    // The background leaves the keyspace alone meanwhile, so that the picker's `None` means that nothing is to do.
    let _claim = core.claim(keyspace)?;
    compact_levels(core, keyspace, range)
}

/// Merges what is left in level 0, too little for the background to care, into the level below: readers ask one
/// table less for each, and what they shadow goes.
pub(crate) fn empty_level0(core: &Core, keyspace: &KeyspaceInner) -> Result<()> {
    let _claim = core.claim(keyspace)?;
    let everything = (Bound::Unbounded, Bound::Unbounded);
    let version = keyspace.peek().version.clone();
    // 0 for the bottom: the level that level 0 is merged into as a rule.
    let choice = pick_range(&version.shape(Vec::new()), &core.policy(keyspace), 0, everything, 0);
    choice.map_or(Ok(()), |choice| run_claimed(core, keyspace, choice))
}

fn compact_levels(core: &Core, keyspace: &KeyspaceInner, range: KeyRange<'_>) -> Result<()> {
    // One choice for each level takes all of it that overlaps the range; what is flushed meanwhile came too late.
    for level in 0..LEVELS {
        if core.stopping() {
            return Err(Error::Closed);
        }
        core.poison.check()?;
        let version = keyspace.peek().version.clone();
        let shape = version.shape(Vec::new());
        if let Some(choice) = pick_range(&shape, &core.policy(keyspace), level, range, LEVELS - 1) {
            run_claimed(core, keyspace, choice)?;
        }
    }
    Ok(())
}

/// Runs a compaction in a keyspace that was claimed.
fn run_claimed(core: &Core, keyspace: &KeyspaceInner, choice: Choice) -> Result<()> {
    let mut state = core.work.state.lock();
    let outcome = run_compaction(core, &mut state, keyspace, &Arc::new(choice));
    if outcome.is_ok() {
        state.compaction_trouble.remove(&keyspace.id);
    }
    drop(state);
    // Both end a job early, and look the same to it.
    keyspace.check_exists().and(outcome)
}

/// See [`crate::Keyspace::approximate_size`].
pub(crate) fn approximate_size(state: &State, range: KeyRange<'_>) -> Result<u64> {
    let (from, to) = range;
    let mut bytes: u64 = state.memtables().map(|memtable| memtable.approximate_bytes(from, to)).sum();
    for (_, table) in state.version.tables().filter(|(_, table)| overlaps(table.meta(), range)) {
        bytes += table_share(table, range)?;
    }
    Ok(bytes)
}

/// The part of a table's file that a range covers: of the whole file as much as of its data blocks.
fn table_share(table: &Arc<Table>, (from, to): KeyRange<'_>) -> Result<u64> {
    let TableMeta { smallest_key, largest_key, file_len, .. } = table.meta();
    let start = match from {
        Bound::Included(key) | Bound::Excluded(key) if *key > **smallest_key => {
            Some(table.approximate_offset(key)?)
        }
        _ => None,
    };
    let end = match to {
        Bound::Included(key) if *key < **largest_key => Some(table.approximate_offset(key)?),
        // The last entry alone may be most of the table.
        Bound::Excluded(key) if *key <= **largest_key => Some(table.approximate_offset(key)?),
        _ => None,
    };
    if (start, end) == (None, None) {
        return Ok(*file_len);
    }
    let data_len = table.approximate_offset(&[largest_key, &[0][..]].concat())?;
    let covered = end.unwrap_or(data_len).saturating_sub(start.unwrap_or(0));
    Ok((u128::from(covered) * u128::from(*file_len) / u128::from(data_len.max(1))) as u64)
}
