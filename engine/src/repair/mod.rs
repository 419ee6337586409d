//! What to do about damage: [`verify`] says what is wrong with a database, [`salvage`] saves what can be read of it.
//!
//! Both take the directory as it is: they lock it against writers, open its files for reading only and change nothing
//! in it. Both read by `pread`, so that a bad place on a device is an error and not a signal, and both go on past
//! damage. `survey.rs` reads the manifest and `log_walk.rs` the log for the two of them, as far as they can be read.
//!
//! For a database that is open there is [`crate::Db::scrub`].

mod log_walk;
mod merge;
mod salvage;
mod salvage_report;
mod survey;
mod target;
mod verify;

use std::fmt;
use std::path::PathBuf;

use terrace_io::Error;

pub use salvage::salvage;
pub use salvage_report::{Lost, ManifestState, SalvageOptions, SalvageReport, SalvagedKeyspace};
pub(crate) use verify::table_findings;
pub use verify::{VerifyOptions, VerifyReport, verify};

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// Nothing is wrong: a crash or an interrupted job has left something that the next open removes or ignores.
    Note,
    /// Something is wrong, but every entry can still be read, by a scan at least: a get may need a damaged filter or
    /// locator.
    Damage,
    /// Entries cannot be read, or the database cannot be opened.
    Loss,
}

impl Severity {
    /// `note`, `damage` or `loss`.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Damage => "damage",
            Severity::Loss => "loss",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that was found in a file of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// Where in it, in bytes from its start; `None` if it is about the file as a whole.
    pub offset: Option<u64>,
    /// How bad it is.
    pub severity: Severity,
    /// What was expected and what was found.
    pub what: String,
    /// What to do about it.
    pub advice: &'static str,
}

impl Finding {
    pub(crate) fn new(
        severity: Severity,
        file: impl Into<PathBuf>,
        offset: Option<u64>,
        what: impl Into<String>,
        advice: &'static str,
    ) -> Finding {
        Finding { file: file.into(), offset, severity, what: what.into(), advice }
    }

    /// From an error that names its file, or is about `file`.
    pub(crate) fn of(
        error: &Error,
        file: impl Into<PathBuf>,
        severity: Severity,
        advice: &'static str,
    ) -> Finding {
        match error {
            Error::Corruption { path, offset, what } => {
                Finding::new(severity, path, Some(*offset), what.clone(), advice)
            }
            error => Finding::new(severity, file, None, error.to_string(), advice),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.file.display())?;
        if let Some(offset) = self.offset {
            write!(f, ", offset {offset}")?;
        }
        write!(f, ": {}", self.what)
    }
}

#[cfg(test)]
mod tests;

pub(crate) const RESTORE: &str =
    "restore the file from a backup, or save what can be read with `terrace salvage`";
pub(crate) const REWRITE: &str =
    "nothing is lost yet: make a new database of it with `terrace salvage`, and look after the device";
