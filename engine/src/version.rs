//! What a reader of a keyspace sees: its memtables and its tables at one moment, all immutable as a whole.
//!
//! A [`State`] is replaced, never changed: readers load the current one without a lock and keep it as long as they
//! like. `get` starts here and walks down: memtable, sealed memtables, then tables from the newest to the oldest.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;

use terrace_compaction::{Candidate, Choice, LEVELS, Shape};
use terrace_io::Result;
use terrace_sstable::{Found, Kind, Slice, Table, TableMeta};

use crate::memtable::{Memtable, Stored};

/// A key range, as borrowed bounds.
pub(crate) type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The tables of a keyspace at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    /// Level 0 newest first; the others by key, disjoint.
    pub levels: [Arc<[Arc<Table>]>; LEVELS],
}

impl Version {
    pub fn empty() -> Self {
        Version { levels: std::array::from_fn(|_| Arc::from([])) }
    }

    /// From the catalog's order (level 0 oldest first), with each table made by `table`.
    pub fn from_levels(levels: &[Vec<TableMeta>; LEVELS], table: impl Fn(&TableMeta) -> Arc<Table>) -> Self {
        Version {
            levels: std::array::from_fn(|level| match level {
                0 => levels[0].iter().rev().map(&table).collect(),
                _ => levels[level].iter().map(&table).collect(),
            }),
        }
    }

    /// Without some tables and with others. Tables added to level 0 are newer than those there.
    pub fn with(&self, removed: &[u64], added: Vec<(usize, Arc<Table>)>) -> Version {
        let mut levels: [Vec<Arc<Table>>; LEVELS] = std::array::from_fn(|level| {
            let kept = self.levels[level].iter().filter(|table| !removed.contains(&table.meta().number));
            kept.cloned().collect()
        });
        for (level, table) in added {
            let tables = &mut levels[level];
            let index = match level {
                0 => 0,
                _ => tables.partition_point(|known| known.meta().smallest_key < table.meta().smallest_key),
            };
            tables.insert(index, table);
        }
        Version { levels: levels.map(Arc::from) }
    }

    pub fn tables(&self) -> impl Iterator<Item = (usize, &Arc<Table>)> {
        self.levels
            .iter()
            .enumerate()
            .flat_map(|(level, tables)| tables.iter().map(move |table| (level, table)))
    }

    pub fn level_bytes(&self) -> [u64; LEVELS] {
        std::array::from_fn(|level| self.levels[level].iter().map(|table| table.meta().file_len).sum())
    }

    /// For the picker, with the compactions that run.
    pub fn shape<'a>(&'a self, running: Vec<&'a Choice>) -> Shape<'a> {
        let inputs = running.iter().flat_map(|choice| &choice.inputs).flat_map(|(_, numbers)| numbers);
        let busy: HashSet<u64> = inputs.copied().collect();
        let candidate = |table: &'a Arc<Table>| Candidate {
            meta: table.meta(),
            busy: busy.contains(&table.meta().number),
        };
        let levels = std::array::from_fn(|level| self.levels[level].iter().map(candidate).collect());
        Shape { levels, running }
    }

    /// The newest version of a key that is not newer than `snapshot`, with the table that holds it.
    fn find(&self, key: &[u8], snapshot: u64) -> Result<Option<(Found<'_>, &Arc<Table>)>> {
        for table in self.levels[0].iter() {
            if let Some(found) = table.get(key, snapshot)? {
                return Ok(Some((found, table)));
            }
        }
        for tables in &self.levels[1..] {
            let index = tables.partition_point(|table| *table.meta().largest_key < *key);
            if let Some(table) = tables.get(index)
                && let Some(found) = table.get(key, snapshot)?
            {
                return Ok(Some((found, table)));
            }
        }
        Ok(None)
    }
}

/// Everything a reader of a keyspace sees.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub memtable: Arc<Memtable>,
    /// Memtables that wait to be written to tables, newest first.
    pub sealed: Vec<Arc<Memtable>>,
    pub version: Arc<Version>,
}

/// A value that was found, still where it lies.
pub(crate) enum Hit<'a> {
    Memory(Stored<'a>),
    Table(Found<'a>, &'a Arc<Table>),
}

impl Hit<'_> {
    pub fn value(&self) -> &[u8] {
        match self {
            Hit::Memory(stored) => stored.value(),
            Hit::Table(found, _) => found.value(),
        }
    }

    /// The value with what keeps it alive.
    pub fn into_slice(self) -> Slice {
        match self {
            Hit::Memory(stored) => stored.into_slice(),
            Hit::Table(found, table) => found.into_slice(table),
        }
    }
}

impl State {
    /// With an empty memtable that is to take about `memtable_bytes`.
    pub fn new(version: Version, memtable_bytes: u64) -> Self {
        State {
            memtable: Arc::new(Memtable::new(memtable_bytes)),
            sealed: Vec::new(),
            version: Arc::new(version),
        }
    }

    /// Looks a key up: its newest version that is not newer than `snapshot`, unless that is a delete.
    pub fn find(&self, key: &[u8], snapshot: u64) -> Result<Option<Hit<'_>>> {
        for memtable in std::iter::once(&self.memtable).chain(&self.sealed) {
            if let Some(stored) = memtable.get(key, snapshot) {
                return Ok((stored.kind() == Kind::Put).then_some(Hit::Memory(stored)));
            }
        }
        let found = self.version.find(key, snapshot)?;
        Ok(found.filter(|(found, _)| found.kind == Kind::Put).map(|(found, table)| Hit::Table(found, table)))
    }

    /// Memtables with anything in them, newest first.
    pub fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.memtable).chain(&self.sealed).filter(|memtable| !memtable.is_empty())
    }
}

/// Whether a table holds keys of a range.
pub(crate) fn overlaps(meta: &TableMeta, (from, to): KeyRange<'_>) -> bool {
    let from_below = match from {
        Bound::Included(from) => from <= &*meta.largest_key,
        Bound::Excluded(from) => from < &*meta.largest_key,
        Bound::Unbounded => true,
    };
    let to_above = match to {
        Bound::Included(to) => to >= &*meta.smallest_key,
        Bound::Excluded(to) => to > &*meta.smallest_key,
        Bound::Unbounded => true,
    };
    from_below && to_above
}
