//! LMDB: a copy-on-write B-tree in a memory map, one writer at a time, through `heed`.
//!
//! Each put and each get is a transaction of its own; a view keeps one open. Its guide: a map larger than the data will
//! ever be, and readers that keep their slot (`heed` does by default).

use std::ops::Bound;
use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, RoTxn, RwTxn, WithTls};
use terrace_tools::ycsb::record::Key;

use crate::engine::{
    Direction, Durability, Engine, OpenOptions, RECORD_BYTES, ReadsInPlace, Result, Span, View, sum,
};

type Records = Database<'static, Bytes, Bytes>;

/// Opens it.
pub fn open(dir: &Path, options: &OpenOptions) -> Result<Box<dyn Engine>> {
    let map_bytes =
        (64 << 30).max(options.records.saturating_mul(RECORD_BYTES * 16)).next_multiple_of(1 << 30);
    let mut flags = match options.durability {
        Durability::Buffered => EnvFlags::NO_SYNC | EnvFlags::NO_META_SYNC,
        Durability::Synced => EnvFlags::empty(),
    };
    // What its documentation says to do where the database is larger than memory.
    flags.set(EnvFlags::NO_READ_AHEAD, options.memory_bytes.is_some());
    let mut chosen = EnvOpenOptions::new();
    chosen.map_size(usize::try_from(map_bytes)?).max_readers(126);
    let env = open_env(&mut chosen, flags, dir)?;
    let txn = env.read_txn()?;
    let records = env.open_databases_and_commit(txn, |opener, txn| {
        opener.open_database::<Bytes, Bytes>(txn, None).map(CommitOrAbort::<_, ()>::Commit)
    })?;
    let records = records.unwrap_commit().ok_or("LMDB has no main database")?;
    let settings = vec![
        match options.memory_bytes {
            None => format!("map size {map_bytes}, no WRITEMAP, readahead as it is"),
            Some(_) => format!("map size {map_bytes}, no WRITEMAP, NORDAHEAD"),
        },
        match options.durability {
            Durability::Buffered => "NOSYNC, NOMETASYNC".to_owned(),
            Durability::Synced => "no flag: each commit is synced".to_owned(),
        },
        "one transaction per put and per get".to_owned(),
        "no cache but the system's, no compression and no checksums: it has none".to_owned(),
    ];
    Ok(Box::new(Lmdb { env, records, settings }))
}

#[expect(unsafe_code, reason = "heed passes LMDB's own conditions on to its caller")]
fn open_env(options: &mut EnvOpenOptions, flags: EnvFlags, dir: &Path) -> heed::Result<Env<WithTls>> {
    // SAFETY: the flags only say when LMDB syncs. Nobody else opens or changes the files while the comparison runs, and
    // they are on a local file system.
    unsafe { options.flags(flags).open(dir) }
}

struct Lmdb {
    env: Env<WithTls>,
    records: Records,
    settings: Vec<String>,
}

impl Lmdb {
    fn write(&self, change: impl FnOnce(&mut RwTxn<'_>) -> heed::Result<()>) -> Result {
        let mut txn = self.env.write_txn()?;
        change(&mut txn)?;
        Ok(txn.commit()?)
    }
}

impl ReadsInPlace for Lmdb {
    #[inline]
    fn find<T>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        let txn = self.env.read_txn()?;
        Ok(self.records.get(&txn, key)?.map(read))
    }

    #[inline]
    fn each(&self, span: Span<'_>, mut visit: impl FnMut(&[u8], &[u8])) -> Result {
        let txn = self.env.read_txn()?;
        let limit = usize::try_from(span.limit).unwrap_or(usize::MAX);
        let from = span.from.map_or(Bound::Unbounded, Bound::Included);
        match span.direction {
            Direction::Forward => {
                for entry in self.records.range(&txn, &(from, Bound::Unbounded))?.take(limit) {
                    let (key, value) = entry?;
                    visit(key, value);
                }
            }
            Direction::Reverse => {
                for entry in self.records.rev_range(&txn, &(Bound::Unbounded, from))?.take(limit) {
                    let (key, value) = entry?;
                    visit(key, value);
                }
            }
        }
        Ok(())
    }
}

impl Engine for Lmdb {
    fn settings(&self) -> Vec<String> {
        self.settings.clone()
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result {
        self.write(|txn| self.records.put(txn, key, value))
    }

    fn put_batch(&self, records: &[(Key, Vec<u8>)]) -> Result {
        self.write(|txn| records.iter().try_for_each(|(key, value)| self.records.put(txn, key, value)))
    }

    fn delete(&self, key: &[u8]) -> Result {
        self.write(|txn| self.records.delete(txn, key).map(drop))
    }

    fn view(&self) -> Result<Box<dyn View + '_>> {
        Ok(Box::new(LmdbView { records: &self.records, txn: self.env.read_txn()? }))
    }

    fn settle(&self) -> Result {
        Ok(self.env.force_sync()?)
    }

    /// It can only write a compact copy of itself.
    fn compact(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn close(self: Box<Self>) -> Result {
        self.env.force_sync()?;
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}

struct LmdbView<'a> {
    records: &'a Records,
    txn: RoTxn<'a, WithTls>,
}

impl View for LmdbView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<u64>> {
        Ok(self.records.get(&self.txn, key)?.map(sum))
    }
}
