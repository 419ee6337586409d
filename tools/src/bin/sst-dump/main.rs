//! `sst-dump`: looks inside a table file. It opens the file read-only and needs no database around it: what it says
//! comes from the file alone.

#![forbid(unsafe_code)]

mod arguments;
mod explain;
mod get;
mod layout;
mod printer;
mod properties;
mod scan;
mod verify;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use terrace_io::{FileSystem, OsFileSystem};
use terrace_sstable::{Table, TableContext};
use terrace_tools::tool::{self, Failure, Result};

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    let arguments: Arguments = tool::parse_arguments("sst-dump");
    tool::run("sst-dump", || {
        tool::install_log(arguments.verbose);
        match &arguments.command {
            Command::Properties(arguments) => properties::properties(arguments),
            Command::Layout(arguments) => layout::layout(arguments),
            Command::Scan(arguments) => scan::scan(arguments),
            Command::Get(arguments) => get::get(arguments),
            Command::Verify(arguments) => verify::verify(arguments),
        }
    })
}

/// The file system that the file is on.
fn file_system() -> Arc<dyn FileSystem> {
    Arc::new(OsFileSystem)
}

/// The file itself, wherever links lead: the engine follows none, but whoever types a path means what it leads to.
fn resolve(path: &Path) -> Result<std::path::PathBuf> {
    fs::canonicalize(path).map_err(|error| Failure::file("open", path, &error))
}

/// Opens a table file.
fn open(path: &Path) -> Result<Arc<Table>> {
    let path = resolve(path)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    Ok(Table::open_file(Arc::new(TableContext::new(file_system(), dir)), &path)?)
}
