//! A temporary database does not outlive its run, also where that is interrupted.

use std::fs;
use std::path::PathBuf;

use terrace_tools::tool::{self, Failure, Result};

/// The exit code of a process that was interrupted, by convention.
const INTERRUPTED: i32 = 130;

/// From here on an interrupt (Ctrl-C) removes `dir` and ends the process. To be called once.
pub fn remove_when_interrupted(dir: PathBuf) -> Result {
    let remove_and_end = move || {
        // The engine may create a file in between; it does not create its directory again.
        for _ in 0..100 {
            let _ = fs::remove_dir_all(&dir);
            if !dir.exists() {
                break;
            }
        }
        tool::say("ycsb", "interrupted");
        std::process::exit(INTERRUPTED);
    };
    ctrlc::set_handler(remove_and_end)
        .map_err(|error| Failure::error(format!("cannot arrange for interrupts: {error}")))
}
