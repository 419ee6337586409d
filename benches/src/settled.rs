//! The database that reads are measured on: loaded in random order, settled, and warm.

use std::hint::black_box;
use std::path::PathBuf;

use tempfile::TempDir;
use terrace::{Db, Durability, Options, Result};

use crate::{Records, scratch_directory, touch};

/// Writes every record in random order, one put each, buffered. Does not settle.
///
/// # Errors
/// Whatever the database says.
pub fn load(db: &Db, records: Records) -> Result<()> {
    (0..records.count)
        .try_for_each(|number| db.put_with(records.key(number), records.value(number), Durability::Buffered))
}

/// A database with no compaction owed, of which every page was touched since it was opened. Goes when it is dropped.
#[derive(Debug)]
pub struct Settled {
    /// The open database.
    pub db: Db,
    /// What is in it.
    pub records: Records,
    directory: TempDir,
}

impl Settled {
    /// Loads, settles, closes and opens a database with default options, reads every record once, and prints how it
    /// looks.
    ///
    /// # Panics
    /// If anything fails or a record is missing: there is nothing to measure then.
    pub fn new(records: Records) -> Settled {
        let directory = scratch_directory().expect("a directory to work in can be made");
        let settled = Settled::load(&directory, records).expect("the database can be loaded");
        let db = Options::new().open(settled).expect("it opens");
        for number in 0..records.count {
            let found = db.get_with(records.key(number), touch).expect("every record can be read");
            black_box(found.expect("every record is there"));
        }
        let metrics = db.metrics();
        let levels = metrics.levels.iter().filter(|level| level.tables > 0);
        let levels: Vec<String> = levels.map(|level| format!("L{}: {}", level.level, level.tables)).collect();
        // Not to standard output: what lists benchmarks reads that.
        eprintln!(
            "{} records in {}: tables {}; {:.1} B per record; compaction owes {} B",
            records.count,
            directory.path().display(),
            levels.join(", "),
            metrics.disk_bytes as f64 / records.count as f64,
            metrics.compaction_debt_bytes,
        );
        Settled { db, records, directory }
    }

    fn load(directory: &TempDir, records: Records) -> Result<PathBuf> {
        let path = directory.path().join("db");
        let db = Options::new().open(&path)?;
        load(&db, records)?;
        db.settle()?;
        db.close()?;
        Ok(path)
    }

    /// Where the database is.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("db")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settled_database_has_its_records_in_tables() {
        let settled = Settled::new(Records::new(2_000));
        let metrics = settled.db.metrics();
        assert_eq!(metrics.keyspaces[0].table_entries, 2_000);
        assert_eq!(metrics.compaction_debt_bytes, 0);
        assert_eq!(settled.db.iter().unwrap().count(), 2_000);
        let records = settled.records;
        assert!(records.misses(100).iter().all(|key| settled.db.get(key).unwrap().is_none()));
    }
}
