//! Opens databases for commands: those that put may create one, all others must not.

use std::path::Path;

use terrace::{Db, Durability, Keyspace, Options};
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
    check_keyspace(&db, &database.dir, &database.keyspace)?;
    let keyspace = db.keyspace(&database.keyspace)?;
    Ok((db, keyspace))
}

/// Refuses a keyspace that does not exist: asking the engine for it would create it.
pub fn check_keyspace(db: &Db, dir: &Path, name: &str) -> Result {
    let names = db.keyspace_names()?;
    if names.iter().any(|found| found == name) {
        return Ok(());
    }
    let there = names.join(", ");
    Err(Failure::error(format!("{} has no keyspace {name:?}; it has: {there}", dir.display())))
}
