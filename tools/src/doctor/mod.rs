//! What on this machine matters to an engine that maps its tables, and what to change.
//!
//! Gathering and judging are apart. [`Facts`] is plain data: what system calls answered ([`Answers`]) and what files
//! below a [`Root`](terrace_io::machine::Root) say. [`judge`] turns facts into [`Finding`]s and looks at nothing else, so that
//! every finding can be tested on any machine. Nothing here locks, opens or changes a database, and nothing fails: what
//! cannot be found out is a finding of state [`State::Unknown`] that says why.
//!
//! The files below this one: `answers.rs` makes the system calls, `facts.rs` and `device.rs` read the files, `parse.rs`
//! knows their forms, and `checks/` judges, one file for each thing that is looked at.

mod answers;
mod checks;
mod device;
mod facts;
mod parse;

use std::fmt;

pub use answers::{Answers, Database, Space};
pub use checks::judge;
pub use device::BlockDevice;
pub use facts::{DirtyLimits, Facts};
pub use parse::{Limit, Limits, Memory, Pressure, Release};

/// How things stand with one thing that was looked at, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Nothing to do.
    Ok,
    /// It could not be found out.
    Unknown,
    /// Worth knowing: it costs something, or will under a load that is not there yet.
    Note,
    /// It puts data, or the process, or most of the speed at risk.
    Warn,
}

impl State {
    /// `ok`, `unknown`, `note` or `warn`.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Unknown => "unknown",
            State::Note => "note",
            State::Warn => "warn",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it stands.
    pub state: State,
    /// What was looked at. These names stay.
    pub name: &'static str,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// What to change, as a command or a setting where there is one; empty if nothing.
    pub to_do: String,
}

impl Finding {
    fn new(state: State, name: &'static str, found: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding { state, name, found: found.into(), why: why.into(), to_do: String::new() }
    }

    fn ok(name: &'static str, found: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding::new(State::Ok, name, found, why)
    }

    fn note(name: &'static str, found: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding::new(State::Note, name, found, why)
    }

    fn warn(name: &'static str, found: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding::new(State::Warn, name, found, why)
    }

    /// `found` is why it is not known, and `why` what it would be good for.
    fn unknown(name: &'static str, found: impl fmt::Display, why: impl Into<String>) -> Finding {
        Finding::new(State::Unknown, name, found.to_string(), why)
    }

    fn with_advice(mut self, to_do: impl Into<String>) -> Finding {
        self.to_do = to_do.into();
        self
    }
}
