//! `terrace backup`, `terrace restore` and `terrace backups`: backups are made in a directory or sent as a stream, become
//! databases again, and are looked after.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use terrace::{BackupInfo, BackupList, BackupReport, RestoreOptions, RestoreReport, StreamOptions};
use terrace_tools::columns::Columns;
use terrace_tools::tool::{self, Failure, Result};
use terrace_tools::{calendar, figures};

use crate::arguments::{
    Backup, Backups, DeleteBackups, KeepBackups, ListBackups, OutputFormat, ReceiveBackup, Restore,
    VerifyBackups,
};
use crate::checkpoint::write_tables;
use crate::database::open;
use crate::verify::{FAILED, findings_json, verdict, write_findings};

/// Makes a backup and prints what it was made of, or sends it.
pub fn backup(arguments: &Backup) -> Result {
    if arguments.stream && io::stdout().is_terminal() {
        let what = "standard output is a terminal: send the stream to a file, or to another command";
        return Err(Failure::error(what));
    }
    let db = open(&arguments.dir)?;
    let Some(backups) = &arguments.backups else {
        let options =
            arguments.since.iter().fold(StreamOptions::new(), |options, manifest| options.since(manifest));
        // Nobody else writes to it, and nothing was written before, so that nothing waits in a buffer.
        let report = db.backup_to_stream(io::stdout(), &options)?;
        db.close()?;
        if report.bytes_through_memory > 0 {
            let bytes = figures::bytes(report.bytes_through_memory);
            let what = "were read and written: neither the kernel nor what standard output is does it in another way";
            tool::say("terrace", &format!("{bytes} of tables {what}"));
        }
        return Ok(());
    };
    let report = db.backup(backups)?;
    db.close()?;
    print_backup(arguments.format, &report)
}

/// Makes a database of a backup and prints what it has.
pub fn restore(arguments: &Restore) -> Result {
    let report = match &arguments.backups {
        Some(backups) => terrace::Backups::new(backups).restore(arguments.number, &arguments.new)?,
        None => terrace::restore_stream(standard_input()?, &arguments.new, &RestoreOptions::new())?,
    };
    let mut out = tool::output();
    match arguments.format {
        OutputFormat::Json => {
            let RestoreReport { sequence, tables, bytes, .. } = report;
            let report = json!({ "sequence": sequence, "tables": tables, "bytes": bytes });
            tool::write_json(&mut out, &report, true)?;
        }
        OutputFormat::Text => write_tables(&mut out, &[("restored", report.tables, report.bytes)])?,
    }
    Ok(out.flush()?)
}

/// Looks after the backups in a directory.
pub fn backups(command: &Backups) -> Result {
    match command {
        Backups::List(arguments) => list(arguments),
        Backups::Verify(arguments) => verify(arguments),
        Backups::Delete(arguments) => delete(arguments),
        Backups::Keep(arguments) => keep(arguments),
        Backups::Receive(arguments) => receive(arguments),
    }
}

fn at(path: &Path) -> terrace::Backups {
    terrace::Backups::new(path)
}

fn list(ListBackups { backups, format }: &ListBackups) -> Result {
    let list = at(backups).list()?;
    let mut out = tool::output();
    match format {
        OutputFormat::Json => tool::write_json(&mut out, &list_json(&list), true)?,
        OutputFormat::Text => {
            write_findings(&mut out, &list.findings)?;
            let mut columns = Columns::new([">number", "made", ">sequence", ">tables", ">bytes", ">its own"]);
            for backup in &list.backups {
                columns.row([
                    backup.number.to_string(),
                    calendar::utc(backup.created),
                    figures::count(backup.sequence),
                    figures::count(backup.tables),
                    figures::bytes(backup.bytes),
                    figures::bytes(backup.bytes_own),
                ]);
            }
            write!(out, "{columns}")?;
        }
    }
    out.flush()?;
    match list.findings.len() {
        0 => Ok(()),
        count => Err(Failure::Negative(format!("{count} backups cannot be read"))),
    }
}

fn list_json(list: &BackupList) -> Value {
    let backup = |backup: &BackupInfo| {
        let since = backup.created.duration_since(UNIX_EPOCH).unwrap_or_default();
        json!({
            "number": backup.number,
            "created_micros": since.as_micros() as u64,
            "sequence": backup.sequence,
            "tables": backup.tables,
            "bytes": backup.bytes,
            "bytes_own": backup.bytes_own,
        })
    };
    json!({
        "backups": list.backups.iter().map(backup).collect::<Vec<Value>>(),
        "findings": findings_json(&list.findings),
    })
}

fn verify(VerifyBackups { backups, number, format }: &VerifyBackups) -> Result {
    let report = at(backups)
        .verify(*number)
        .map_err(|error| Failure::Code(FAILED, format!("nothing was verified: {error}")))?;
    verdict(*format, &report)
}

fn delete(DeleteBackups { backups, numbers }: &DeleteBackups) -> Result {
    let backups = at(backups);
    numbers.iter().try_for_each(|&number| Ok(backups.delete(number)?))
}

fn keep(KeepBackups { backups, count }: &KeepBackups) -> Result {
    let deleted = at(backups).keep_newest(*count as usize)?;
    let mut out = tool::output();
    for number in deleted {
        writeln!(out, "deleted {number}")?;
    }
    Ok(out.flush()?)
}

fn receive(ReceiveBackup { backups, format }: &ReceiveBackup) -> Result {
    let report = at(backups).receive(standard_input()?)?;
    print_backup(*format, &report)
}

/// Standard input, for a stream.
fn standard_input() -> Result<io::StdinLock<'static>> {
    if io::stdin().is_terminal() {
        return Err(Failure::error("standard input is a terminal: a stream comes from a file or a command"));
    }
    Ok(io::stdin().lock())
}

fn print_backup(format: OutputFormat, report: &BackupReport) -> Result {
    let mut out = tool::output();
    match format {
        OutputFormat::Json => {
            let report = json!({
                "number": report.number,
                "sequence": report.sequence,
                "tables_shared": report.tables_shared,
                "bytes_shared": report.bytes_shared,
                "tables_copied": report.tables_copied,
                "bytes_copied": report.bytes_copied,
                "tables_written": report.tables_written,
                "bytes_written": report.bytes_written,
            });
            tool::write_json(&mut out, &report, true)?;
        }
        OutputFormat::Text => {
            writeln!(out, "backup {}\n", report.number)?;
            write_tables(
                &mut out,
                &[
                    ("shared", report.tables_shared, report.bytes_shared),
                    ("copied", report.tables_copied, report.bytes_copied),
                    ("written", report.tables_written, report.bytes_written),
                ],
            )?;
        }
    }
    Ok(out.flush()?)
}
