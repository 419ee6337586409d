//! The same gets for every way: which records, in which order, and in which page of which table each lies. Written down
//! before anything is measured, and read again in small pieces, so that it takes no memory from what is measured.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use terrace::{Options, ReadStep};
use terrace_benches::{Records, zipf_indices};
use terrace_io::{Advice, FileSystem, OpenMode, OsFileSystem};

use crate::Outcome;

/// Gets in a trace. At the end it begins again.
const GETS: usize = 1_000_000;
/// A get: the record's number, the table's and the block's, little-endian.
const GET_BYTES: usize = 16;

/// How records are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// Each as often as any other.
    Uniform,
    /// Some far more often: Zipf's law with exponent 0.99.
    Zipf,
}

/// One get.
#[derive(Debug, Clone, Copy)]
pub struct Get {
    pub record: u64,
    pub table: u32,
    pub page: u32,
}

fn path(database: &Path, spread: Spread) -> PathBuf {
    // Beside the database, not in it: that has only its own files.
    let name = database.file_name().unwrap_or_default().to_string_lossy();
    database.with_file_name(format!("{name}-{spread:?}.trace"))
}

/// Writes the traces that are not there yet.
pub fn write_all(database: &Path, records: Records) -> Outcome<()> {
    for spread in [Spread::Uniform, Spread::Zipf] {
        let path = path(database, spread);
        if path.exists() {
            continue;
        }
        println!("tracing {GETS} gets, {spread:?}");
        let db = Options::new().open(database)?;
        let temporary = path.with_extension("part");
        let mut file = BufWriter::new(File::create(&temporary)?);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
        let numbers: Vec<u64> = match spread {
            Spread::Uniform => (0..GETS).map(|_| random.random_range(0..records.count)).collect(),
            Spread::Zipf => zipf_indices(records.count, GETS),
        };
        for record in numbers {
            let (_, stats) = db.get_with_stats(records.key(record))?;
            let read = stats.tables.last().ok_or("a record is not in a table")?;
            let block = read.steps.iter().rev().find(|(step, _)| *step == ReadStep::Block);
            let (_, place) = block.ok_or("a record is not in a block")?;
            file.write_all(&record.to_le_bytes())?;
            file.write_all(&u32::try_from(read.table)?.to_le_bytes())?;
            file.write_all(&u32::try_from(place.start / 4096)?.to_le_bytes())?;
        }
        file.into_inner()?.sync_all()?;
        std::fs::rename(temporary, path)?;
        db.close()?;
    }
    Ok(())
}

/// Reads a trace, over and over.
pub struct Trace {
    path: PathBuf,
    file: BufReader<File>,
}

impl Trace {
    pub fn open(database: &Path, spread: Spread) -> Outcome<Trace> {
        let path = path(database, spread);
        let file = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Trace { path, file: BufReader::with_capacity(64 << 10, file) })
    }

    /// The next get.
    pub fn next(&mut self) -> Outcome<Get> {
        let mut bytes = [0; GET_BYTES];
        match self.file.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                // What was read of it is not to stay in memory.
                let file = OsFileSystem.open(&self.path, OpenMode::Read)?;
                file.advise(Advice::DontNeed, 0, file.len()?);
                self.file.rewind()?;
                self.file.read_exact(&mut bytes)?;
            }
            Err(error) => return Err(error.into()),
        }
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 of 16 bytes"));
        let record = u64::from_le_bytes(bytes[..8].try_into().expect("8 of 16 bytes"));
        Ok(Get { record, table: number(8), page: number(12) })
    }
}
