//! What the driver asks of a database, and Terrace's answer.

use terrace::{Db, Error, Keyspace, WriteBatch};

use super::record::Key;

/// A database under test. Called from all workers at once.
pub trait Store: Sync {
    /// What goes wrong in it.
    type Error: Send;

    /// Reads the value of `key` into `value`, replacing what it holds; whether there is one.
    fn read(&self, key: &Key, value: &mut Vec<u8>) -> Result<bool, Self::Error>;

    /// Writes a record, whether or not it exists.
    fn write(&self, key: &Key, value: &[u8]) -> Result<(), Self::Error>;

    /// Writes several records as one batch.
    fn write_batch(&self, records: &[(Key, Vec<u8>)]) -> Result<(), Self::Error>;

    /// Passes up to `limit` records to `visit`, in order of their keys from `from` on.
    fn scan(&self, from: &Key, limit: u64, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Self::Error>;
}

/// Records in the default keyspace of a Terrace database.
#[derive(Debug, Clone)]
pub struct TerraceStore {
    db: Db,
    keyspace: Keyspace,
}

impl TerraceStore {
    /// On an open database; writes are as durable as it was opened for.
    pub fn new(db: &Db) -> Self {
        TerraceStore { db: db.clone(), keyspace: Keyspace::clone(db) }
    }
}

impl Store for TerraceStore {
    type Error = Error;

    fn read(&self, key: &Key, value: &mut Vec<u8>) -> Result<bool, Error> {
        value.clear();
        let found = self.keyspace.get_with(key, |bytes| value.extend_from_slice(bytes))?;
        Ok(found.is_some())
    }

    fn write(&self, key: &Key, value: &[u8]) -> Result<(), Error> {
        self.keyspace.put(key, value)
    }

    fn write_batch(&self, records: &[(Key, Vec<u8>)]) -> Result<(), Error> {
        let mut batch = WriteBatch::new();
        for (key, value) in records {
            batch.put(&self.keyspace, key, value);
        }
        self.db.write(batch)
    }

    fn scan(&self, from: &Key, limit: u64, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Error> {
        let mut cursor = self.keyspace.cursor()?;
        let mut valid = cursor.seek(from)?;
        for left in (0..limit).rev() {
            if !valid {
                break;
            }
            visit(cursor.key(), cursor.value());
            valid = left > 0 && cursor.next()?;
        }
        Ok(())
    }
}
