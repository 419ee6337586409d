//! The file that reads are measured on.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use terrace_io::{Advice, File, FileSystem, OpenMode, OsFileSystem, PAGE_BYTES, Region, write_all_at};

use crate::paths::Outcome;

/// Bytes of a small read: a record and its head.
pub(crate) const RECORD_BYTES: usize = 128;

/// A file of bytes that do not repeat. Removed when it is dropped.
pub(crate) struct Subject {
    path: PathBuf,
    pub len: u64,
}

impl Subject {
    /// Writes it in pieces of `piece_bytes`, and syncs it.
    pub fn write(dir: &Path, name: &str, len: u64, piece_bytes: usize) -> Outcome<Subject> {
        let path = dir.join(name);
        let mut piece = vec![0; piece_bytes];
        Xoshiro256PlusPlus::seed_from_u64(1).fill(&mut piece[..]);
        let file = OsFileSystem.open(&path, OpenMode::CreateNew)?;
        let subject = Subject { path, len };
        let mut offset = 0;
        while offset < len {
            piece[..8].copy_from_slice(&offset.to_le_bytes());
            let now = piece_bytes.min((len - offset) as usize);
            write_all_at(&*file, &piece[..now], offset)?;
            file.start_writeback(offset, now as u64);
            offset += now as u64;
        }
        file.sync()?;
        Ok(subject)
    }

    pub fn pages(&self) -> u64 {
        self.len / PAGE_BYTES as u64
    }

    /// A descriptor of its own, with readahead state of its own.
    pub fn open(&self) -> Outcome<Arc<dyn File>> {
        Ok(OsFileSystem.open(&self.path, OpenMode::Read)?)
    }

    /// A mapping of the whole file, with an advice.
    pub fn map(&self, advice: Advice) -> Outcome<Region> {
        let region = self.open()?.map(usize::try_from(self.len)?)?;
        region.advise(advice, 0..region.len());
        Ok(region)
    }

    /// A mapping of the whole file, all of it in memory and mapped.
    pub fn map_warm(&self) -> Outcome<Region> {
        let region = self.map(Advice::Normal)?;
        for at in (0..region.len()).step_by(PAGE_BYTES) {
            black_box(region[at]);
        }
        region.advise(Advice::Random, 0..region.len());
        Ok(region)
    }

    /// Lets the system forget what it has of the file in memory. Nobody may have it mapped.
    pub fn forget(&self) -> Outcome<()> {
        self.open()?.advise(Advice::DontNeed, 0, self.len);
        Ok(())
    }

    /// Brings all of it into memory.
    pub fn read_all(&self) -> Outcome<()> {
        let file = self.open()?;
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < self.len {
            offset += match file.read_at(&mut buffer, offset)? {
                0 => return Err(format!("{} ends at {offset}", self.path.display()).into()),
                read => read as u64,
            };
        }
        Ok(())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = OsFileSystem.remove_file(&self.path);
    }
}

/// Adds up bytes, so that all of them are read. Their length is a multiple of 8.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
    black_box(words.fold(0, u64::wrapping_add))
}

/// Reads a word of each cache line.
pub(crate) fn touch_lines(bytes: &[u8]) {
    let words = bytes.chunks(64).map(|line| u64::from(line[0]));
    black_box(words.fold(0, u64::wrapping_add));
}

/// Numbers at random below a limit.
pub(crate) struct Draw {
    random: Xoshiro256PlusPlus,
    limit: u64,
    /// 0, but nobody who compiles this knows.
    nothing: u64,
}

impl Draw {
    pub fn below(limit: u64) -> Draw {
        let random = Xoshiro256PlusPlus::seed_from_u64(2);
        Draw { random, limit: limit.max(1), nothing: black_box(0) }
    }

    /// The next number, which cannot be known before `read` is: so that a read waits for the one before.
    pub fn after(&mut self, read: u64) -> u64 {
        self.next() ^ (read & self.nothing)
    }

    pub fn next(&mut self) -> u64 {
        self.random.random_range(0..self.limit)
    }
}
