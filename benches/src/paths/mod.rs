//! The ways to read and write a file, each measured beside the others on the machine at hand: what the engine's defaults
//! stand on. `docs/io-paths.md` has the figures and what follows from them.
//!
//! Within a group the cases take turns, and a figure is the median of its rounds, so that a machine that is busy for a
//! while disturbs all of them. Reads go through what the engine reads by ([`terrace_io::Region`],
//! [`terrace_io::ScanReader`], [`terrace_io::File`]), and add up what they read.

mod appends;
mod blocks;
mod defaults;
mod point_reads;
mod scans;
mod series;
mod subject;
mod table_writes;

use std::path::PathBuf;
use std::time::Duration;

pub use defaults::{Verdict, judge};
pub use series::{Group, Series, Unit, panels};

/// What goes wrong here is for whoever runs it to read.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// How much is measured, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A directory on the disk to be measured. What is written there is removed again.
    pub dir: PathBuf,
    /// Bytes of the file that is read: some pages at least, and less than the memory that is free.
    pub file_bytes: u64,
    /// How long each case runs in each round, at most.
    pub time: Duration,
    /// How often everything is measured.
    pub rounds: u32,
}

/// Measures a group.
///
/// # Errors
/// If the directory cannot be written, or what was written cannot be read.
pub fn measure(group: Group, settings: &Settings) -> Outcome<Vec<Series>> {
    match group {
        Group::Warm => point_reads::warm(settings),
        Group::FirstTouch => point_reads::first_touch(settings),
        Group::Cold => point_reads::cold(settings),
        Group::Blocks => blocks::measure(settings),
        Group::WarmScans => scans::warm(settings),
        Group::ColdScans => scans::cold(settings),
        Group::DurableAppends => appends::durable(settings),
        Group::BufferedAppends => appends::buffered(settings),
        Group::TableWrites => table_writes::measure(settings),
    }
}
