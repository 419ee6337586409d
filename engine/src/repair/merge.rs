//! Merging what salvage reads: damaged tables, and what the log held, as one sequence of the newest versions.
//!
//! Sources are read in key order, of one key the highest sequence number first. Two versions can have the same number
//! only if that is 0, which the bottom of a tree has instead of the true one: then the table with the higher number is
//! the younger one and wins. That happens only where tables are read that no version of the database held together.
//! (There a version with its true number also wins over one without, although it may be the older of the two, if its
//! table is obsolete. In tables that are not obsolete it is the newer one, and which are is not known. The version may
//! be a delete: a key that was deleted and written again can be missing then.)
//!
//! Tables that do not overlap are read one after the other, so that of a level only one is open at a time.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use terrace_io::{Error, FileSystem, Result};
use terrace_sstable::{Compression, Cursor, Kind, LostBlocks, TableSalvage};

/// A table to read.
#[derive(Debug, Clone)]
pub(super) struct SourceTable {
    pub number: u64,
    pub path: PathBuf,
    /// Its id and compression, if the manifest says them.
    pub known: Option<(u64, Compression)>,
    pub smallest_key: Box<[u8]>,
    pub largest_key: Box<[u8]>,
    pub largest_sequence: u64,
    pub entries: u64,
}

/// What became of a table.
#[derive(Debug)]
pub(super) struct TableOutcome {
    pub table: SourceTable,
    pub entries_read: u64,
    pub lost: Vec<LostBlocks>,
    /// What is wrong with its metadata, and costs nothing by itself.
    pub metadata_damage: Option<Error>,
    /// Why it could not be read at all.
    pub unreadable: Option<Error>,
}

/// Divides tables into runs: in each, every table ends before the next begins.
pub(super) fn runs(mut tables: Vec<SourceTable>) -> Vec<VecDeque<SourceTable>> {
    tables.sort_by(|a, b| a.smallest_key.cmp(&b.smallest_key));
    // Runs by the last key of each; the one that has ended first takes the next table, if it has ended at all.
    let mut ends: BTreeMap<(Box<[u8]>, usize), usize> = BTreeMap::new();
    let mut runs: Vec<VecDeque<SourceTable>> = Vec::new();
    for table in tables {
        let free = ends.first_key_value().filter(|((end, _), _)| **end < *table.smallest_key);
        let run = match free.map(|(end, &run)| (end.clone(), run)) {
            Some((end, run)) => {
                ends.remove(&end);
                run
            }
            None => {
                runs.push(VecDeque::new());
                runs.len() - 1
            }
        };
        ends.insert((table.largest_key.clone(), run), run);
        runs[run].push_back(table);
    }
    runs
}

/// Something to merge.
pub(super) enum Source {
    /// Tables of the damaged database.
    Run(Box<Run>),
    /// What the log held: in memory, or in a table that was written of it.
    Log(Box<dyn Cursor>),
}

/// Tables that are read one after the other.
pub(super) struct Run {
    fs: Arc<dyn FileSystem>,
    waiting: VecDeque<SourceTable>,
    current: Option<(SourceTable, TableSalvage)>,
    /// The last key of the tables before, which the next must be behind.
    passed: Option<Vec<u8>>,
    done: Vec<TableOutcome>,
}

impl Run {
    pub fn new(fs: Arc<dyn FileSystem>, tables: VecDeque<SourceTable>) -> Run {
        Run { fs, waiting: tables, current: None, passed: None, done: Vec::new() }
    }

    /// Goes to the next entry. `false` at the end.
    ///
    /// # Errors
    /// [`Error::UnsupportedFormat`] from a table of a newer format, which is not damage: what it deletes must not be
    /// passed over. Tables that are damaged are none.
    fn advance(&mut self) -> Result<bool> {
        loop {
            if let Some((_, salvage)) = &mut self.current {
                while salvage.advance() {
                    // Never so, unless a table holds keys outside of the range that it was said to have.
                    if self.passed.as_deref().is_none_or(|passed| passed < salvage.key()) {
                        return Ok(true);
                    }
                }
            }
            self.finish();
            let Some(table) = self.waiting.pop_front() else { return Ok(false) };
            match TableSalvage::open(&*self.fs, &table.path, table.known) {
                Ok(salvage) => self.current = Some((table, salvage)),
                Err(error @ Error::UnsupportedFormat { .. }) => return Err(error),
                Err(error) => self.done.push(TableOutcome {
                    table,
                    entries_read: 0,
                    lost: Vec::new(),
                    metadata_damage: None,
                    unreadable: Some(error),
                }),
            }
        }
    }

    /// Puts the current table to those that are done.
    fn finish(&mut self) {
        let Some((table, salvage)) = self.current.take() else { return };
        self.passed = Some(table.largest_key.to_vec());
        self.done.push(TableOutcome {
            entries_read: salvage.entries_read(),
            lost: salvage.lost().to_vec(),
            metadata_damage: salvage.metadata_damage().cloned(),
            unreadable: None,
            table,
        });
    }

    fn salvage(&self) -> &TableSalvage {
        &self.current.as_ref().expect("a run that has advanced stands in a table").1
    }
}

impl Source {
    /// Goes to its next entry. `false` at the end.
    fn advance(&mut self, is_first: bool) -> Result<bool> {
        match self {
            Source::Run(run) => run.advance(),
            Source::Log(cursor) => {
                if is_first {
                    cursor.seek_to_first()?;
                } else {
                    cursor.next()?;
                }
                Ok(cursor.valid())
            }
        }
    }

    fn key(&self) -> &[u8] {
        match self {
            Source::Run(run) => run.salvage().key(),
            Source::Log(cursor) => cursor.key(),
        }
    }

    fn sequence(&self) -> u64 {
        match self {
            Source::Run(run) => run.salvage().sequence(),
            Source::Log(cursor) => cursor.sequence(),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Source::Run(run) => run.salvage().kind(),
            Source::Log(cursor) => cursor.kind(),
        }
    }

    fn value(&self) -> &[u8] {
        match self {
            Source::Run(run) => run.salvage().value(),
            Source::Log(cursor) => cursor.value(),
        }
    }

    /// Which of two versions with the same number is younger: the larger.
    fn age(&self) -> u64 {
        match self {
            Source::Run(run) => run.current.as_ref().map_or(0, |(table, _)| table.number),
            Source::Log(_) => u64::MAX,
        }
    }

    fn order(&self, other: &Source) -> Ordering {
        let rank = |source: &Source| Reverse((source.sequence(), source.age()));
        self.key().cmp(other.key()).then_with(|| rank(self).cmp(&rank(other)))
    }
}

/// What was merged.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub outcomes: Vec<TableOutcome>,
    /// Keys that have a value.
    pub kept: u64,
    pub last_sequence: u64,
}

/// Gives the newest version of every key to `keep`, in key order, unless that is a delete.
pub(super) fn merge(
    mut sources: Vec<Source>,
    mut keep: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<Merged> {
    let mut merged = Merged::default();
    let mut standing = Vec::new();
    for (index, source) in sources.iter_mut().enumerate() {
        if source.advance(true)? {
            standing.push(index);
        }
    }
    let mut last_key: Option<Vec<u8>> = None;
    while let Some(place) =
        (0..standing.len()).min_by(|&a, &b| sources[standing[a]].order(&sources[standing[b]]))
    {
        let source = &mut sources[standing[place]];
        merged.last_sequence = merged.last_sequence.max(source.sequence());
        if last_key.as_deref() != Some(source.key()) {
            let key = last_key.get_or_insert_default();
            key.clear();
            key.extend_from_slice(source.key());
            if source.kind() == Kind::Put {
                keep(source.key(), source.value())?;
                merged.kept += 1;
            }
        }
        if !source.advance(false)? {
            standing.swap_remove(place);
        }
    }
    for source in sources {
        if let Source::Run(run) = source {
            merged.outcomes.extend(run.done);
        }
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(number: u64, smallest: &str, largest: &str) -> SourceTable {
        SourceTable {
            number,
            path: PathBuf::new(),
            known: None,
            smallest_key: smallest.as_bytes().into(),
            largest_key: largest.as_bytes().into(),
            largest_sequence: 0,
            entries: 1,
        }
    }

    #[test]
    fn runs_are_disjoint_and_few() {
        let tables = vec![
            table(1, "a", "c"),
            table(2, "d", "f"),
            table(3, "b", "e"),
            table(4, "g", "g"),
            table(5, "f", "h"),
            table(6, "c", "c"),
        ];
        let runs = runs(tables);
        assert_eq!(runs.iter().map(VecDeque::len).sum::<usize>(), 6);
        assert_eq!(runs.len(), 3, "as many as overlap at one key");
        for run in &runs {
            let pairs = run.iter().zip(run.iter().skip(1));
            assert!(pairs.into_iter().all(|(a, b)| a.largest_key < b.smallest_key), "{run:?}");
        }
    }
}
