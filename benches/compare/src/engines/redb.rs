//! redb: a copy-on-write B-tree in pure Rust, one writer at a time.
//!
//! Each put and each get is a transaction of its own; a view keeps one open. Buffered is `Durability::None`, which
//! later commits make durable: settling does one.

use std::path::Path;

use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use terrace_tools::ycsb::record::Key;

use crate::engine::{Direction, Durability, Engine, OpenOptions, ReadsInPlace, Result, Span, View, sum};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");

/// Opens it.
pub fn open(dir: &Path, options: &OpenOptions) -> Result<Box<dyn Engine>> {
    let cache_bytes = options.cache_bytes();
    let db = Database::builder().set_cache_size(usize::try_from(cache_bytes)?).create(dir.join("db.redb"))?;
    let durability = match options.durability {
        Durability::Buffered => redb::Durability::None,
        Durability::Synced => redb::Durability::Immediate,
    };
    let settings = vec![
        format!("cache_size {cache_bytes}"),
        format!("durability {durability:?}, one transaction per put and per get"),
        "no compression; its checksums are verified at recovery only (its default)".to_owned(),
    ];
    let engine = Redb { db, durability, settings };
    if engine.db.begin_read()?.list_tables()?.next().is_none() {
        // So that readers find the table.
        engine.write(|txn| {
            txn.open_table(TABLE)?;
            Ok(())
        })?;
    }
    Ok(Box::new(engine))
}

struct Redb {
    db: Database,
    durability: redb::Durability,
    settings: Vec<String>,
}

impl Redb {
    fn write(&self, change: impl FnOnce(&WriteTransaction) -> Result) -> Result {
        let mut txn = self.db.begin_write()?;
        txn.set_durability(self.durability)?;
        change(&txn)?;
        Ok(txn.commit()?)
    }

    fn table(&self) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>> {
        Ok(self.db.begin_read()?.open_table(TABLE)?)
    }
}

impl ReadsInPlace for Redb {
    #[inline]
    fn find<T>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        Ok(self.table()?.get(key)?.map(|value| read(value.value())))
    }

    fn each(&self, span: Span<'_>, mut visit: impl FnMut(&[u8], &[u8])) -> Result {
        let table = self.table()?;
        let limit = usize::try_from(span.limit).unwrap_or(usize::MAX);
        match span.direction {
            Direction::Forward => {
                let range = match span.from {
                    Some(from) => ReadableTable::range(&table, from..)?,
                    None => table.iter()?,
                };
                for entry in range.take(limit) {
                    let (key, value) = entry?;
                    visit(key.value(), value.value());
                }
            }
            Direction::Reverse => {
                let range = match span.from {
                    Some(from) => ReadableTable::range(&table, ..=from)?,
                    None => table.iter()?,
                };
                for entry in range.rev().take(limit) {
                    let (key, value) = entry?;
                    visit(key.value(), value.value());
                }
            }
        }
        Ok(())
    }
}

impl Engine for Redb {
    fn settings(&self) -> Vec<String> {
        self.settings.clone()
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result {
        self.write(|txn| {
            txn.open_table(TABLE)?.insert(key, value)?;
            Ok(())
        })
    }

    fn put_batch(&self, records: &[(Key, Vec<u8>)]) -> Result {
        self.write(|txn| {
            let mut table = txn.open_table(TABLE)?;
            for (key, value) in records {
                table.insert(key.as_slice(), value.as_slice())?;
            }
            Ok(())
        })
    }

    fn delete(&self, key: &[u8]) -> Result {
        self.write(|txn| {
            txn.open_table(TABLE)?.remove(key)?;
            Ok(())
        })
    }

    fn view(&self) -> Result<Box<dyn View + '_>> {
        Ok(Box::new(RedbView { table: self.table()? }))
    }

    fn settle(&self) -> Result {
        let mut txn = self.db.begin_write()?;
        txn.set_durability(redb::Durability::Immediate)?;
        Ok(txn.commit()?)
    }

    fn compact(&mut self) -> Result<bool> {
        while self.db.compact()? {}
        Ok(true)
    }

    fn close(self: Box<Self>) -> Result {
        Ok(self.db.close()?)
    }
}

struct RedbView {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl View for RedbView {
    fn get(&self, key: &[u8]) -> Result<Option<u64>> {
        Ok(self.table.get(key)?.map(|value| sum(value.value())))
    }
}
