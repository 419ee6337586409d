//! Opens databases for commands: those that put may create one, all others must not; those that only read leave no trace,
//! and so work while another process has the database open.

use std::path::Path;

use terrace::{Access, Db, Durability, Keyspace, Options, ReadOnlyDb, ReadOnlyKeyspace};
use terrace_tools::tool::{Failure, Result};

use crate::arguments::Database;

/// Opens a database and a keyspace to put into; both are created if need be.
pub fn open_or_create(database: &Database, durability: Durability) -> Result<(Db, Keyspace)> {
    let db = Options::new().durability(durability).open(&database.dir)?;
    let keyspace = db.keyspace(&database.keyspace)?;
    Ok((db, keyspace))
}

/// Opens a database that must exist.
pub fn open(dir: &Path) -> Result<Db> {
    Ok(Options::new().create_if_missing(false).open(dir)?)
}

/// Opens a database and a keyspace that must both exist.
pub fn open_keyspace(database: &Database) -> Result<(Db, Keyspace)> {
    let db = open(&database.dir)?;
    let keyspace = find_keyspace(&db, &database.keyspace)?;
    Ok((db, keyspace))
}

/// Opens a database for reading.
pub fn open_to_read(dir: &Path) -> Result<ReadOnlyDb> {
    Ok(Db::open_read_only(dir)?)
}

/// Opens a keyspace for reading.
pub fn open_keyspace_to_read(database: &Database) -> Result<ReadOnlyKeyspace> {
    find_keyspace(&open_to_read(&database.dir)?, &database.keyspace)
}

/// A keyspace that must exist.
pub fn find_keyspace<A: Access>(db: &Db<A>, name: &str) -> Result<Keyspace<A>> {
    if let Some(keyspace) = db.find_keyspace(name)? {
        return Ok(keyspace);
    }
    let (dir, there) = (db.path().display(), db.keyspace_names()?.join(", "));
    Err(Failure::error(format!("{dir} has no keyspace {name:?}; it has: {there}")))
}
