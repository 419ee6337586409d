//! What a database was loaded with, kept in it, so that a later run need not be told again.

use serde::{Deserialize, Serialize};
use terrace::{Db, Error, Result};
use terrace_sstable::VALUE_BYTES_MAX;

use super::record::{InsertOrder, RECORDS_MAX, RecordShape};

/// The keyspace that the description is kept in, and its key there.
const KEYSPACE: &str = "ycsb";
const KEY: &str = "description";

/// The records of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// How many there are, those included that workloads inserted.
    pub records: u64,
    /// What their values consist of.
    #[serde(flatten)]
    pub shape: RecordShape,
    /// How their keys were made.
    pub insert_order: InsertOrder,
}

impl Description {
    /// The description that a database holds, if it was loaded by this driver.
    pub fn read(db: &Db) -> Result<Option<Description>> {
        if !db.keyspace_names()?.iter().any(|name| name == KEYSPACE) {
            return Ok(None);
        }
        let Some(bytes) = db.keyspace(KEYSPACE)?.get(KEY)? else { return Ok(None) };
        let description = serde_json::from_slice(&bytes).map_err(|error| error.to_string());
        let description = description.and_then(Description::checked).map_err(|what| {
            Error::invalid(format!(
                "the description in keyspace {KEYSPACE:?} of {} cannot be understood: {what}",
                db.path().display()
            ))
        })?;
        Ok(Some(description))
    }

    /// Anybody may have written it: refuses what cannot be.
    fn checked(self) -> Result<Description, String> {
        if self.records > RECORDS_MAX {
            return Err(format!("{} records are more than there can be", self.records));
        }
        if self.shape.value_bytes() > VALUE_BYTES_MAX as u64 {
            return Err(format!("no value can have {} bytes", self.shape.value_bytes()));
        }
        Ok(self)
    }

    /// Keeps the description in the database.
    pub fn write(&self, db: &Db) -> Result<()> {
        let bytes = serde_json::to_vec(self).expect("numbers and names can be written as JSON");
        db.keyspace(KEYSPACE)?.put(KEY, bytes)
    }
}
