//! `terrace checkpoint`: a copy of a database as it is now, in a directory of its own.

use std::io::{self, Write};

use serde_json::json;
use terrace::CheckpointReport;
use terrace_tools::columns::Columns;
use terrace_tools::figures;
use terrace_tools::tool::{self, Result};

use crate::arguments::{Checkpoint, OutputFormat};
use crate::database::open;

/// Makes a checkpoint and prints what it was made of.
pub fn checkpoint(arguments: &Checkpoint) -> Result {
    let db = open(&arguments.dir)?;
    let report = db.checkpoint(&arguments.new)?;
    db.close()?;
    let mut out = tool::output();
    match arguments.format {
        OutputFormat::Json => {
            let report = json!({
                "sequence": report.sequence,
                "tables_linked": report.tables_linked,
                "bytes_linked": report.bytes_linked,
                "tables_copied": report.tables_copied,
                "bytes_copied": report.bytes_copied,
                "tables_written": report.tables_written,
                "bytes_written": report.bytes_written,
            });
            tool::write_json(&mut out, &report, true)?;
        }
        OutputFormat::Text => write_text(&mut out, &report)?,
    }
    Ok(out.flush()?)
}

fn write_text(out: &mut dyn Write, report: &CheckpointReport) -> io::Result<()> {
    write_tables(
        out,
        &[
            ("linked", report.tables_linked, report.bytes_linked),
            ("copied", report.tables_copied, report.bytes_copied),
            ("written", report.tables_written, report.bytes_written),
        ],
    )
}

/// What became of how many tables, and of how many bytes.
pub fn write_tables(out: &mut dyn Write, rows: &[(&str, u64, u64)]) -> io::Result<()> {
    let mut columns = Columns::new(["", ">tables", ">bytes"]);
    for &(what, tables, bytes) in rows {
        columns.row([what.to_owned(), figures::count(tables), figures::bytes(bytes)]);
    }
    write!(out, "{columns}")
}
