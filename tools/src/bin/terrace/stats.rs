//! `terrace stats`: what a database consists of, and its health as far as its files show it.

use std::io::{self, Write};

use serde_json::{Value, json};
use terrace::{Health, Metrics};
use terrace_tools::columns::Columns;
use terrace_tools::environment::DirectorySize;
use terrace_tools::figures;
use terrace_tools::tool::{self, Failure, Result};

use crate::arguments::{OutputFormat, Stats};
use crate::database::{find_keyspace, open_to_read};

/// Prints them.
pub fn stats(arguments: &Stats) -> Result {
    let dir = &arguments.dir;
    let db = open_to_read(dir)?;
    let (mut metrics, health) = (db.metrics(), db.health());
    if let Some(name) = &arguments.keyspace {
        find_keyspace(&db, name)?;
        metrics.keyspaces.retain(|keyspace| keyspace.name == *name);
    }
    let size = DirectorySize::of(dir).map_err(|error| Failure::file("list", dir, &error))?;
    let mut out = tool::output();
    match arguments.format {
        OutputFormat::Json => tool::write_json(&mut out, &as_json(&metrics, &health, &size), true)?,
        OutputFormat::Text => write_text(&mut out, &metrics, &health, &size)?,
    }
    Ok(out.flush()?)
}

fn write_text(
    out: &mut dyn Write,
    metrics: &Metrics,
    health: &Health,
    size: &DirectorySize,
) -> io::Result<()> {
    let mut keyspaces = Columns::new([
        "keyspace",
        ">entries",
        ">deletes",
        ">tables",
        ">table bytes",
        ">memtables",
        ">memtable bytes",
    ]);
    for keyspace in &metrics.keyspaces {
        keyspaces.row([
            keyspace.name.clone(),
            figures::count(keyspace.table_entries),
            figures::count(keyspace.table_deletes),
            figures::count(keyspace.tables as u64),
            figures::bytes(keyspace.table_bytes),
            figures::count(keyspace.memtables as u64),
            figures::bytes(keyspace.memtable_bytes),
        ]);
    }
    let mut levels = Columns::new([">level", ">tables", ">bytes"]);
    for level in metrics.levels.iter().filter(|level| level.tables > 0) {
        levels.row([
            level.level.to_string(),
            figures::count(level.tables as u64),
            figures::bytes(level.bytes),
        ]);
    }
    writeln!(out, "{keyspaces}")?;
    if levels.is_empty() {
        writeln!(out, "no tables\n")?;
    } else {
        writeln!(out, "{levels}")?;
    }
    writeln!(
        out,
        "on disk          {}: tables {}, log {}, other {}",
        figures::bytes(size.allocated_bytes),
        figures::bytes(size.table_bytes),
        figures::bytes(size.log_bytes),
        figures::bytes(size.other_bytes)
    )?;
    writeln!(out, "compaction debt  {}", figures::bytes(metrics.compaction_debt_bytes))?;
    if health.is_ok() {
        return writeln!(out, "health           all right");
    }
    for trouble in troubles(health) {
        writeln!(out, "health           {trouble}")?;
    }
    Ok(())
}

/// What is wrong, a sentence each.
fn troubles(health: &Health) -> Vec<String> {
    let poisoned = health.poisoned.iter().map(|error| format!("no more writes are accepted: {error}"));
    let flush = health.flush.iter().map(|error| format!("the last flush failed: {error}"));
    let compactions = health
        .compactions
        .iter()
        .map(|(keyspace, error)| format!("the last compaction of keyspace {keyspace:?} failed: {error}"));
    let missing = health.missing_tables.iter().map(|path| format!("{} is missing", path.display()));
    let damaged = health.damaged.iter().map(ToString::to_string);
    let lost = health.lost_mappings.iter();
    let lost = lost.map(|path| format!("a mapped page of {} could not be read", path.display()));
    poisoned.chain(flush).chain(compactions).chain(missing).chain(damaged).chain(lost).collect()
}

fn as_json(metrics: &Metrics, health: &Health, size: &DirectorySize) -> Value {
    let keyspaces = metrics.keyspaces.iter().map(|keyspace| {
        json!({
            "name": keyspace.name,
            "table_entries": keyspace.table_entries,
            "table_deletes": keyspace.table_deletes,
            "tables": keyspace.tables,
            "table_bytes": keyspace.table_bytes,
            "memtables": keyspace.memtables,
            "memtable_bytes": keyspace.memtable_bytes,
        })
    });
    let levels = metrics
        .levels
        .iter()
        .map(|level| json!({ "level": level.level, "tables": level.tables, "bytes": level.bytes }));
    json!({
        "keyspaces": keyspaces.collect::<Vec<Value>>(),
        "levels": levels.collect::<Vec<Value>>(),
        "on_disk": size,
        "compaction_debt_bytes": metrics.compaction_debt_bytes,
        "healthy": health.is_ok(),
        "troubles": troubles(health),
    })
}
