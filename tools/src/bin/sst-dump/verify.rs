//! `sst-dump verify`: checks everything in table files, and goes on past what is damaged.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use terrace_io::OpenMode;
use terrace_sstable::VerifyReport;
use terrace_tools::figures;
use terrace_tools::tool::{self, Failure, Result};

use crate::arguments::Verify;

/// Checks each file. A file that cannot be opened does not keep the others from being checked.
pub fn verify(arguments: &Verify) -> Result {
    let (mut damaged, mut unopened) = (0, 0);
    let printed = check_all(arguments, &mut damaged, &mut unopened);
    // The verdict stands also if nobody reads to the end.
    match (damaged, unopened) {
        (0, 0) => printed,
        (_, 0) => Err(Failure::Negative(match arguments.files.len() {
            1 => "the file is damaged".to_owned(),
            files => format!("{damaged} of {files} files are damaged"),
        })),
        (_, 1) if arguments.files.len() == 1 => Err(Failure::error("nothing was checked")),
        (0, unopened) => {
            Err(Failure::error(format!("{unopened} of {} files were not checked", arguments.files.len())))
        }
        (damaged, unopened) => Err(Failure::error(format!(
            "{damaged} of {} files are damaged, and {unopened} were not checked",
            arguments.files.len()
        ))),
    }
}

/// Checks and prints each file, and counts those that are damaged and those that cannot be opened.
fn check_all(arguments: &Verify, damaged: &mut u64, unopened: &mut u64) -> Result {
    let mut out = tool::output();
    for file in &arguments.files {
        let report = match check(file) {
            Ok(report) => report,
            Err(Failure::Error(message)) => {
                *unopened += 1;
                out.flush()?;
                tool::say("sst-dump", &message);
                continue;
            }
            Err(other) => return Err(other),
        };
        *damaged += u64::from(!report.is_ok());
        if arguments.output.json() {
            tool::write_json(&mut out, &object(file, &report), false)?;
        } else {
            write_text(&mut out, file, &report)?;
        }
    }
    Ok(out.flush()?)
}

fn check(file: &Path) -> Result<VerifyReport> {
    let (fs, path) = (crate::file_system(), crate::resolve(file)?);
    drop(fs.open(&path, OpenMode::Read)?);
    Ok(terrace_sstable::verify(&*fs, &path))
}

fn write_text(out: &mut dyn Write, file: &Path, report: &VerifyReport) -> Result {
    let counts = format!(
        "{} entries in {} blocks, {}",
        figures::count(report.entries),
        figures::count(report.blocks),
        figures::bytes(report.file_len)
    );
    if report.is_ok() {
        writeln!(out, "{}: all right: {counts}", file.display())?;
        return Ok(());
    }
    let places = if report.damage_count == 1 { "place" } else { "places" };
    writeln!(out, "{}: damaged in {} {places}; found right: {counts}", file.display(), report.damage_count)?;
    for damage in &report.damages {
        writeln!(out, "  offset {}: {}", damage.offset, damage.what)?;
    }
    let unlisted = report.damage_count.saturating_sub(report.damages.len() as u64);
    if unlisted > 0 {
        writeln!(out, "  and {} more", figures::count(unlisted))?;
    }
    Ok(())
}

fn object(file: &Path, report: &VerifyReport) -> Value {
    let damages: Vec<Value> =
        report.damages.iter().map(|damage| json!({ "offset": damage.offset, "what": damage.what })).collect();
    json!({
        "file": file.to_string_lossy(),
        "ok": report.is_ok(),
        "file_bytes": report.file_len,
        "blocks": report.blocks,
        "entries": report.entries,
        "damage_count": report.damage_count,
        "damages": damages,
    })
}
