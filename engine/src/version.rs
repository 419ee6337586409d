//! What a reader of a keyspace sees: its memtables and its tables at one moment, all immutable as a whole.
//!
//! A [`State`] is replaced, never changed: readers load the current one without a lock and keep it as long as they
//! like. `get` starts here and walks down: memtable, sealed memtables, then tables from the newest to the oldest.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::{Bound, Range};
use std::path::PathBuf;
use std::sync::Arc;

use terrace_compaction::{Candidate, Choice, LEVELS, Shape};
use terrace_io::Result;
use terrace_sstable::{Found, Kind, Slice, Table, TableMeta};

use crate::memtable::{Memtable, Stored};
use crate::read_stats::ReadObserver;
use crate::tree::head_of;

/// How many keys are looked up at once. What is fetched for them, some six cache lines each, stays in the processor's
/// first cache until it is used.
const KEYS_AT_ONCE: usize = 32;

/// A key range, as borrowed bounds.
pub(crate) type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The tables of a keyspace at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    /// Level 0 newest first; the others by key, disjoint.
    pub levels: [Arc<[Arc<Table>]>; LEVELS],
    /// The levels below level 0 that have tables, from above.
    runs: Vec<Run>,
}

/// The tables of a level below level 0, and where each begins and ends: found without a look at the tables, as a rule.
#[derive(Debug, Clone)]
struct Run {
    level: usize,
    tables: Arc<[Arc<Table>]>,
    /// What all their largest keys have in common at the start.
    shared: Box<[u8]>,
    /// The 8 bytes that follow it in each of them.
    ends: Box<[u64]>,
    /// The same of the smallest keys, where they begin so; 0 where they do not, and so are smaller.
    starts: Box<[u64]>,
}

impl Run {
    /// `None` if there is no table.
    fn new(level: usize, tables: &Arc<[Arc<Table>]>) -> Option<Run> {
        let first = &*tables.first()?.meta().largest_key;
        let last = &*tables.last()?.meta().largest_key;
        // They ascend: what the first and the last share, all share.
        let shared_len = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        let shared: Box<[u8]> = first[..shared_len].into();
        let ends = tables.iter().map(|table| head_of(&table.meta().largest_key, shared_len)).collect();
        let start = |table: &Arc<Table>| {
            table.meta().smallest_key.strip_prefix(&*shared).map_or(0, |rest| head_of(rest, 0))
        };
        let starts = tables.iter().map(start).collect();
        Some(Run { level, tables: tables.clone(), shared, ends, starts })
    }

    /// The only table that may have a key: whose smallest and largest key it lies between.
    // A get goes through it for each level.
    #[inline(always)]
    fn table_for(&self, key: &[u8]) -> Option<&Arc<Table>> {
        let Some(rest) = key.strip_prefix(&*self.shared) else {
            // Only the first can begin before what all their ends share.
            return self
                .tables
                .first()
                .filter(|first| *first.meta().smallest_key <= *key && *key < *self.shared);
        };
        let target = head_of(rest, 0);
        // Without branches that nobody can foretell.
        let (mut low, mut left) = (0, self.ends.len());
        while left > 0 {
            let half = left.div_ceil(2);
            low += if self.ends[low + half - 1] < target { half } else { 0 };
            left -= half;
        }
        // Only among equal ones do the whole keys matter.
        if self.ends.get(low) == Some(&target) {
            let equal = self.ends[low..].partition_point(|&end| end == target);
            low += self.tables[low..low + equal].partition_point(|table| *table.meta().largest_key < *key);
        }
        let table = self.tables.get(low)?;
        let is_inside = match self.starts[low].cmp(&target) {
            Ordering::Less => true,
            Ordering::Equal => *table.meta().smallest_key <= *key,
            Ordering::Greater => false,
        };
        is_inside.then_some(table)
    }
}

impl Version {
    pub fn empty() -> Self {
        Version::new(std::array::from_fn(|_| Arc::from([])))
    }

    fn new(levels: [Arc<[Arc<Table>]>; LEVELS]) -> Self {
        let runs = (1..LEVELS).filter_map(|level| Run::new(level, &levels[level])).collect();
        Version { levels, runs }
    }

    /// From the catalog's order (level 0 oldest first), with each table made by `table`.
    pub fn from_levels(levels: &[Vec<TableMeta>; LEVELS], table: impl Fn(&TableMeta) -> Arc<Table>) -> Self {
        Version::new(std::array::from_fn(|level| match level {
            0 => levels[0].iter().rev().map(&table).collect(),
            _ => levels[level].iter().map(&table).collect(),
        }))
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
        Version::new(levels.map(Arc::from))
    }

    pub fn tables(&self) -> impl Iterator<Item = (usize, &Arc<Table>)> {
        self.levels
            .iter()
            .enumerate()
            .flat_map(|(level, tables)| tables.iter().map(move |table| (level, table)))
    }

    /// The tables whose mapping has lost bytes: see [`crate::Health::lost_mappings`].
    pub fn lost_mappings(&self) -> Vec<PathBuf> {
        let lost = self.tables().filter(|(_, table)| table.has_lost_mapping());
        lost.map(|(_, table)| table.path().to_owned()).collect()
    }

    /// With each table replaced by what `change` makes of it: the same table, read in another way.
    pub fn map_tables(&self, change: impl Fn(&Arc<Table>) -> Arc<Table>) -> Version {
        Version::new(std::array::from_fn(|level| self.levels[level].iter().map(&change).collect()))
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

    /// The tables that may have a key, newest entries first; below level 0 only those that it lies in.
    #[inline]
    fn tables_for(&self, key: &[u8]) -> impl Iterator<Item = &Arc<Table>> {
        self.levels[0].iter().chain(self.runs.iter().filter_map(move |run| run.table_for(key)))
    }

    /// The newest version of a key that is not newer than `snapshot`, with the table that holds it.
    #[inline]
    fn find<'v>(
        &'v self,
        key: &[u8],
        snapshot: u64,
        observer: &mut impl ReadObserver,
    ) -> Result<Option<Hit<'v>>> {
        let hit = |found: Found<'v>, table| (found.kind() == Kind::Put).then_some(Hit::Table(found, table));
        for table in &*self.levels[0] {
            if table.spans(key) {
                observer.table(0, table);
                if let Some(found) = table.get_within(key, snapshot, observer)? {
                    return Ok(hit(found, table));
                }
            }
        }
        for run in &self.runs {
            if let Some(table) = run.table_for(key) {
                observer.table(run.level, table);
                if let Some(found) = table.get_within(key, snapshot, observer)? {
                    return Ok(hit(found, table));
                }
            }
        }
        Ok(None)
    }

    /// As [`Version::find`], as far as that needs nothing that is not in memory.
    fn find_resident(&self, key: &[u8], snapshot: u64) -> Result<Option<Hit<'_>>> {
        for table in self.tables_for(key).filter(|table| table.spans(key)) {
            if let Some(found) = table.get_resident(key, snapshot)? {
                return Ok((found.kind() == Kind::Put).then_some(Hit::Table(found, table)));
            }
        }
        Ok(None)
    }

    /// Has fetched what [`Version::find`] will look at for each of these keys, as far as one can tell: the processor waits
    /// for all of them at once.
    fn prefetch<'k>(&self, keys: impl Iterator<Item = &'k [u8]> + Clone) {
        // All tables share the answer.
        if self.tables().next().is_none_or(|(_, table)| !table.uses_locator()) {
            return;
        }
        for key in keys.clone() {
            self.tables_for(key).for_each(|table| table.prefetch_location(key));
        }
        for key in keys {
            self.tables_for(key).any(|table| table.prefetch_entry(key));
        }
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

impl<'a> Hit<'a> {
    /// Nothing, if it is a delete.
    #[inline]
    fn of_stored(stored: Stored<'a>) -> Option<Hit<'a>> {
        (stored.kind() == Kind::Put).then_some(Hit::Memory(stored))
    }

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

    /// Of a keyspace in which nothing is, and nothing will be.
    pub fn empty() -> Self {
        State::new(Version::empty(), 0)
    }

    /// Looks a key up: its newest version that is not newer than `snapshot`, unless that is a delete.
    pub fn find(&self, key: &[u8], snapshot: u64) -> Result<Option<Hit<'_>>> {
        self.find_observed(key, snapshot, &mut ())
    }

    /// The same, and tells an observer what it does.
    #[inline(always)]
    pub fn find_observed(
        &self,
        key: &[u8],
        snapshot: u64,
        observer: &mut impl ReadObserver,
    ) -> Result<Option<Hit<'_>>> {
        match self.find_in_memory(key, snapshot) {
            Some(stored) => Ok(Hit::of_stored(stored)),
            None => self.version.find(key, snapshot, observer),
        }
    }

    /// The same, if it needs nothing that is not in memory: otherwise [`terrace_io::Error::is_would_wait`].
    pub fn find_resident(&self, key: &[u8], snapshot: u64) -> Result<Option<Hit<'_>>> {
        match self.find_in_memory(key, snapshot) {
            Some(stored) => Ok(Hit::of_stored(stored)),
            None => self.version.find_resident(key, snapshot),
        }
    }

    #[inline]
    fn find_in_memory(&self, key: &[u8], snapshot: u64) -> Option<Stored<'_>> {
        let newest = self.memtable.get(key, snapshot);
        newest.or_else(|| self.sealed.iter().find_map(|memtable| memtable.get(key, snapshot)))
    }

    /// Looks many keys up, as [`State::find`] does.
    pub fn find_all<K: AsRef<[u8]>>(&self, keys: &[K], snapshot: u64) -> Result<Vec<Option<Slice>>> {
        let mut values = Vec::with_capacity(keys.len());
        let mut in_memory = Vec::with_capacity(KEYS_AT_ONCE);
        for group in keys.chunks(KEYS_AT_ONCE) {
            in_memory.extend(group.iter().map(|key| self.find_in_memory(key.as_ref(), snapshot)));
            let rest = group.iter().zip(&in_memory).filter(|(_, stored)| stored.is_none());
            self.version.prefetch(rest.map(|(key, _)| key.as_ref()));
            for (key, stored) in group.iter().zip(in_memory.drain(..)) {
                let hit = match stored {
                    Some(stored) => Hit::of_stored(stored),
                    None => self.version.find(key.as_ref(), snapshot, &mut ())?,
                };
                values.push(hit.map(Hit::into_slice));
            }
        }
        Ok(values)
    }

    /// Memtables with anything in them, newest first.
    pub fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.memtable).chain(&self.sealed).filter(|memtable| !memtable.is_empty())
    }
}

/// Whether a table holds keys of a range.
pub(crate) fn overlaps(meta: &TableMeta, (from, to): KeyRange<'_>) -> bool {
    !ends_before(meta, from) && !starts_behind(meta, to)
}

fn ends_before(meta: &TableMeta, from: Bound<&[u8]>) -> bool {
    match from {
        Bound::Included(from) => *meta.largest_key < *from,
        Bound::Excluded(from) => *meta.largest_key <= *from,
        Bound::Unbounded => false,
    }
}

fn starts_behind(meta: &TableMeta, to: Bound<&[u8]>) -> bool {
    match to {
        Bound::Included(to) => *meta.smallest_key > *to,
        Bound::Excluded(to) => *meta.smallest_key >= *to,
        Bound::Unbounded => false,
    }
}

/// Which tables of a run hold keys of a range.
pub(crate) fn overlapping(run: &[Arc<Table>], (from, to): KeyRange<'_>) -> Range<usize> {
    let start = run.partition_point(|table| ends_before(table.meta(), from));
    let end = start + run[start..].partition_point(|table| !starts_behind(table.meta(), to));
    start..end
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use terrace_io::MemoryFileSystem;
    use terrace_sstable::TableContext;

    use super::*;

    fn table(number: u64, smallest: &[u8], largest: &[u8]) -> Arc<Table> {
        let meta = TableMeta {
            number,
            table_id: 1,
            file_len: 1,
            entries: 1,
            deletes: 0,
            smallest_sequence: 1,
            largest_sequence: 1,
            smallest_key: smallest.into(),
            largest_key: largest.into(),
        };
        let context = TableContext::new(Arc::new(MemoryFileSystem::new()), Path::new("/db"));
        Table::new(Arc::new(context), meta)
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let front = prop::sample::select(vec![&b""[..], b"user", b"user0000000000"]);
        let rest = prop::collection::vec(prop::sample::select(vec![0, 1, b'a', 0xff]), 0..12);
        (front, rest).prop_map(|(front, rest)| [front, &rest].concat())
    }

    proptest! {
        #[test]
        fn the_table_for_a_key_is_the_one_that_it_lies_in(
            bounds in prop::collection::btree_set(key(), 1..24),
            keys in prop::collection::vec(key(), 1..20),
        ) {
            let bounds: Vec<Vec<u8>> = bounds.into_iter().collect();
            let tables: Arc<[Arc<Table>]> =
                bounds.chunks(2).zip(0..).map(|(ends, number)| table(number, &ends[0], &ends[ends.len() - 1])).collect();
            let run = Run::new(1, &tables).unwrap();
            for key in keys.iter().chain(&bounds) {
                let spans = |table: &&Arc<Table>| {
                    *table.meta().smallest_key <= **key && **key <= *table.meta().largest_key
                };
                let number = |table: &Arc<Table>| table.meta().number;
                prop_assert_eq!(run.table_for(key).map(number), tables.iter().find(spans).map(number));
                let end = &bounds[bounds.len() / 2];
                let range = (Bound::Included(&key[..]), Bound::Excluded(&end[..]));
                if key <= end {
                    let all: Vec<usize> =
                        (0..tables.len()).filter(|&at| overlaps(tables[at].meta(), range)).collect();
                    prop_assert_eq!(overlapping(&tables, range).collect::<Vec<_>>(), all);
                }
            }
        }
    }
}
