//! `terrace salvage`: saves what can be read of a damaged database into a new one, and says what was lost.

use std::io::Write;

use serde_json::{Map, Value, json};
use terrace::{Lost, ManifestState, SalvageOptions, SalvageReport};
use terrace_tools::columns::Columns;
use terrace_tools::figures;
use terrace_tools::notation::{Notation, insert_json};
use terrace_tools::tool::{self, Failure, Result};

use crate::arguments::{OutputFormat, Salvage};
use crate::verify::{FAILED, LOSS, findings_json, write_findings};

/// Salvages a database and prints what became of it.
pub fn salvage(arguments: &Salvage) -> Result {
    let options = SalvageOptions::new()
        .dry_run(arguments.dry_run)
        .past_gaps(arguments.past_gaps)
        .all_tables(arguments.all_tables);
    let report = terrace::salvage(&arguments.dir, &arguments.new, &options)
        .map_err(|error| Failure::Code(FAILED, format!("nothing was salvaged: {error}")))?;
    let printed = print(arguments.format, &report);
    // It stands also if nobody reads to the end.
    if report.is_complete() {
        return printed;
    }
    let places = if report.lost.len() == 1 { "place" } else { "places" };
    Err(Failure::Code(LOSS, format!("something was lost, in {} {places}", report.lost.len())))
}

fn print(format: OutputFormat, report: &SalvageReport) -> Result {
    let mut out = tool::output();
    match format {
        OutputFormat::Json => tool::write_json(&mut out, &as_json(report), true)?,
        OutputFormat::Text => write_text(&mut out, report)?,
    }
    Ok(out.flush()?)
}

fn manifest(state: &ManifestState) -> String {
    match state {
        ManifestState::Intact => "intact".to_owned(),
        ManifestState::Damaged(why) => format!("damaged: {why}"),
        ManifestState::Missing => "missing".to_owned(),
        _ => "unknown".to_owned(),
    }
}

fn write_text(out: &mut dyn Write, report: &SalvageReport) -> Result {
    write_findings(out, &report.notes)?;
    for lost in &report.lost {
        write_lost(out, lost)?;
    }
    writeln!(out, "manifest    {}", manifest(&report.manifest))?;
    writeln!(out, "log         {} records applied", figures::count(report.log_records))?;
    if report.deleted_keys_may_return {
        writeln!(
            out,
            "beware      deleted keys and old values may be back, and what was deleted and written again may be \
             missing: tables were used that may have been obsolete"
        )?;
    }
    let mut keyspaces = Columns::new([
        "keyspace",
        ">keys kept",
        ">tables read",
        ">lost",
        ">entries read",
        ">lost",
        ">from the log",
    ]);
    for keyspace in &report.keyspaces {
        keyspaces.row([
            keyspace.name.clone(),
            figures::count(keyspace.keys_kept),
            figures::count(keyspace.tables_read),
            figures::count(keyspace.tables_lost),
            figures::count(keyspace.entries_read),
            figures::count(keyspace.entries_lost),
            figures::count(keyspace.log_operations),
        ]);
    }
    write!(out, "\n{keyspaces}")?;
    Ok(())
}

fn write_lost(out: &mut dyn Write, lost: &Lost) -> Result {
    write!(out, "lost: {}", lost.file.display())?;
    if let Some(bytes) = &lost.bytes {
        write!(out, ", bytes {} to {}", bytes.start, bytes.end)?;
    }
    if let Some(keyspace) = &lost.keyspace {
        write!(out, ", keyspace {keyspace:?}")?;
    }
    if let Some(entries) = lost.entries {
        write!(out, ", {} entries", figures::count(entries))?;
    }
    writeln!(out, ": {}", lost.what)?;
    if let (Some(from), Some(to)) = (&lost.keys_from, &lost.keys_to) {
        let shown = |key: &[u8]| Notation::Escaped.display(key);
        writeln!(out, "    keys from \"{}\" to \"{}\", both included", shown(from), shown(to))?;
    }
    Ok(())
}

fn as_json(report: &SalvageReport) -> Value {
    let keyspaces = report.keyspaces.iter().map(|keyspace| {
        json!({
            "name": keyspace.name,
            "keys_kept": keyspace.keys_kept,
            "tables_read": keyspace.tables_read,
            "tables_lost": keyspace.tables_lost,
            "entries_read": keyspace.entries_read,
            "entries_lost": keyspace.entries_lost,
            "log_operations": keyspace.log_operations,
        })
    });
    let lost = report.lost.iter().map(|lost| {
        let mut object = Map::new();
        object.insert("file".into(), lost.file.to_string_lossy().into());
        let bytes = lost.bytes.as_ref();
        object.insert("from_byte".into(), bytes.map(|bytes| bytes.start).into());
        object.insert("to_byte".into(), bytes.map(|bytes| bytes.end).into());
        object.insert("keyspace".into(), lost.keyspace.clone().into());
        for (name, key) in [("keys_from", &lost.keys_from), ("keys_to", &lost.keys_to)] {
            if let Some(key) = key {
                insert_json(&mut object, name, key, Notation::Bare);
            }
        }
        object.insert("entries".into(), lost.entries.into());
        object.insert("what".into(), lost.what.clone().into());
        Value::Object(object)
    });
    json!({
        "complete": report.is_complete(),
        "manifest": manifest(&report.manifest),
        "keyspaces": keyspaces.collect::<Vec<Value>>(),
        "log_records": report.log_records,
        "lost": lost.collect::<Vec<Value>>(),
        "notes": findings_json(&report.notes),
        "deleted_keys_may_return": report.deleted_keys_may_return,
    })
}
