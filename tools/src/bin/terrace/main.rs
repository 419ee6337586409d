//! `terrace`: the everyday command line on a database directory. Each command opens the database, does its work and
//! closes it; commands that read open it for reading only, also while another process writes to it, and change nothing.
//! `verify`, `salvage` and `residency` do not open it: they read its files. `doctor` looks at the machine.

#![forbid(unsafe_code)]

mod arguments;
mod backup;
mod checkpoint;
mod database;
mod doctor;
mod load;
mod read;
mod residency;
mod salvage;
mod stats;
mod verify;
mod write;

use std::process::ExitCode;

use terrace_tools::tool;

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    let arguments: Arguments = tool::parse_arguments("terrace");
    tool::run("terrace", || {
        tool::install_log(arguments.verbose);
        match arguments.command {
            Command::Load(arguments) => load::load(&arguments),
            Command::Get(arguments) => read::get(&arguments),
            Command::Put(arguments) => write::put(&arguments),
            Command::Delete(arguments) => write::delete(&arguments),
            Command::Scan(arguments) => read::scan(&arguments),
            Command::Stats(arguments) => stats::stats(&arguments),
            Command::Residency(arguments) => residency::residency(&arguments),
            Command::Compact(arguments) => write::compact(&arguments),
            Command::Checkpoint(arguments) => checkpoint::checkpoint(&arguments),
            Command::Backup(arguments) => backup::backup(&arguments),
            Command::Restore(arguments) => backup::restore(&arguments),
            Command::Backups(arguments) => backup::backups(&arguments),
            Command::Verify(arguments) => verify::verify(&arguments),
            Command::Salvage(arguments) => salvage::salvage(&arguments),
            Command::Doctor(arguments) => doctor::doctor(&arguments),
        }
    })
}
