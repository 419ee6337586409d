//! `terrace put`, `terrace delete` and `terrace compact`.

use std::io::Read;
use std::path::Path;

use terrace_tools::bounds::{bounds, bytes_of};
use terrace_tools::environment::DirectorySize;
use terrace_tools::figures;
use terrace_tools::tool::{self, Failure, Result};

use crate::arguments::{Compact, Delete, Put, notation};
use crate::database::{open_keyspace, open_or_create};

/// Puts one key.
pub fn put(arguments: &Put) -> Result {
    let notation = notation(arguments.hex);
    let key = bytes_of("key", &arguments.key, notation)?;
    let value = match &arguments.value {
        Some(value) => bytes_of("value", value, notation)?,
        None => {
            let mut text = Vec::new();
            // One byte more than the longest value in its longest notation is enough to have it refused.
            let limit = 2 * terrace_sstable::VALUE_BYTES_MAX as u64 + 1;
            std::io::stdin()
                .lock()
                .take(limit)
                .read_to_end(&mut text)
                .map_err(|error| stdin_failure(&error))?;
            notation.read(&text).map_err(|error| Failure::error(format!("the value has {error}")))?
        }
    };
    let (db, keyspace) = open_or_create(&arguments.database, arguments.durability.value())?;
    keyspace.put(key, value)?;
    Ok(db.close()?)
}

/// Deletes one key.
pub fn delete(arguments: &Delete) -> Result {
    let key = bytes_of("key", &arguments.key, notation(arguments.hex))?;
    let (db, keyspace) = open_keyspace(&arguments.database)?;
    keyspace.delete_with(key, arguments.durability.value())?;
    Ok(db.close()?)
}

/// Compacts a range and says what it gained.
pub fn compact(arguments: &Compact) -> Result {
    let range = bounds(&arguments.range.from, &arguments.range.to, notation(arguments.hex))?;
    let (db, keyspace) = open_keyspace(&arguments.database)?;
    let dir = &arguments.database.dir;
    let before = table_bytes(dir)?;
    keyspace.compact_range(range)?;
    db.close()?;
    let after = table_bytes(dir)?;
    let summary =
        format!("compacted; tables {} before, {} now", figures::bytes(before), figures::bytes(after));
    tool::say("terrace", &summary);
    Ok(())
}

fn table_bytes(dir: &Path) -> Result<u64> {
    let size = DirectorySize::of(dir).map_err(|error| Failure::file("list", dir, &error))?;
    Ok(size.table_bytes)
}

fn stdin_failure(error: &std::io::Error) -> Failure {
    Failure::error(format!("cannot read standard input: {error}"))
}
