//! `terrace verify`: checks every file of a database, and says how bad it is with the exit code.

use std::io::Write;

use serde_json::{Value, json};
use terrace::{Finding, Severity, VerifyOptions, VerifyReport};
use terrace_tools::figures;
use terrace_tools::tool::{self, Failure, Result};

use crate::arguments::{OutputFormat, Verify};

/// Something is wrong, and nothing lost.
const DAMAGE: u8 = 1;
/// Something is lost.
pub const LOSS: u8 = 3;
/// Nothing could be done.
pub const FAILED: u8 = 4;

/// Verifies a database and prints what was found.
pub fn verify(arguments: &Verify) -> Result {
    let options = VerifyOptions::new();
    let options = match arguments.threads {
        Some(threads) => options.threads(threads.into()),
        None => options,
    };
    let report = terrace::verify(&arguments.dir, &options)
        .map_err(|error| Failure::Code(FAILED, format!("nothing was verified: {error}")))?;
    verdict(arguments.format, &report)
}

/// Prints what was found, and ends as that is.
pub fn verdict(format: OutputFormat, report: &VerifyReport) -> Result {
    let printed = print(format, report);
    // It stands also if nobody reads to the end.
    match report.severity() {
        Some(Severity::Damage) => Err(Failure::Code(DAMAGE, "damaged, but nothing is lost".to_owned())),
        Some(Severity::Loss) => Err(Failure::Code(LOSS, "damaged, and something is lost".to_owned())),
        _ => printed,
    }
}

fn print(format: OutputFormat, report: &VerifyReport) -> Result {
    let mut out = tool::output();
    match format {
        OutputFormat::Json => tool::write_json(&mut out, &as_json(report), true)?,
        OutputFormat::Text => write_text(&mut out, report)?,
    }
    Ok(out.flush()?)
}

fn write_text(out: &mut dyn Write, report: &VerifyReport) -> Result {
    write_findings(out, &report.findings)?;
    writeln!(
        out,
        "read: {} manifest edits; {} tables, {} in {} blocks with {} entries; {} log records with {} operations",
        figures::count(report.manifest_edits),
        figures::count(report.tables),
        figures::bytes(report.table_bytes),
        figures::count(report.blocks),
        figures::count(report.entries),
        figures::count(report.log_records),
        figures::count(report.log_operations)
    )?;
    let count = |severity: Severity| {
        figures::count(report.findings.iter().filter(|finding| finding.severity == severity).count() as u64)
    };
    if report.is_ok() {
        writeln!(out, "all right; {} notes", count(Severity::Note))?;
    } else {
        writeln!(
            out,
            "{} findings of loss, {} of damage, {} notes",
            count(Severity::Loss),
            count(Severity::Damage),
            count(Severity::Note)
        )?;
    }
    Ok(())
}

/// A line for each finding, and one for what to do about it.
pub fn write_findings(out: &mut dyn Write, findings: &[Finding]) -> Result {
    for finding in findings {
        writeln!(out, "{finding}")?;
        if !finding.advice.is_empty() {
            writeln!(out, "    to do: {}", finding.advice)?;
        }
    }
    Ok(())
}

/// Findings as JSON.
pub fn findings_json(findings: &[Finding]) -> Vec<Value> {
    let object = |finding: &Finding| {
        json!({
            "severity": finding.severity.as_str(),
            "file": finding.file.to_string_lossy(),
            "offset": finding.offset,
            "what": finding.what,
            "to_do": finding.advice,
        })
    };
    findings.iter().map(object).collect()
}

fn as_json(report: &VerifyReport) -> Value {
    json!({
        "ok": report.is_ok(),
        "severity": report.severity().map(Severity::as_str),
        "findings": findings_json(&report.findings),
        "manifest_edits": report.manifest_edits,
        "tables": report.tables,
        "table_bytes": report.table_bytes,
        "blocks": report.blocks,
        "entries": report.entries,
        "log_records": report.log_records,
        "log_operations": report.log_operations,
    })
}
