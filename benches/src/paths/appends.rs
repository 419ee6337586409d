//! A log's appends: into a file that grows, one whose space was reserved, one that was written before.

use std::path::Path;
use std::time::Instant;

use hdrhistogram::Histogram;
use terrace_io::{File, FileSystem, LogFile, OpenMode, OsFileSystem, write_all_at};

use crate::paths::series::{Case, repeat, take_turns};
use crate::paths::{Group, Outcome, Series, Settings, Unit};

/// A record of 16 B + 100 B, as the log keeps it.
const RECORD: [u8; 140] = [7; 140];
/// A segment of the log.
const SEGMENT_BYTES: u64 = 16 << 20;

/// The pieces in which the file is written before, for appends that nobody waits for.
pub(crate) const FILLS: [usize; 6] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20];

/// What a case of [`buffered`] is called.
pub(crate) fn fill_name(bytes: usize) -> String {
    format!("written before by {} KiB", bytes >> 10)
}

/// A file that is gone when its measuring is over.
struct Temporary<'p>(&'p Path);

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        let _ = OsFileSystem.remove_file(self.0);
    }
}

/// Each made durable before the next.
pub(crate) fn durable(settings: &Settings) -> Outcome<Vec<Series>> {
    let path = &settings.dir.join("log");
    let mut cases = vec![
        Case::new("grows, fdatasync", || {
            let _removed = Temporary(path);
            let file = OsFileSystem.open(path, OpenMode::CreateNew)?;
            median_time(settings, |offset| {
                write_all_at(&*file, &RECORD, offset)?;
                Ok(file.sync()?)
            })
        }),
        Case::new("written before, fdatasync", || {
            let _removed = Temporary(path);
            let log = LogFile::create(&OsFileSystem, path, SEGMENT_BYTES)?;
            median_time(settings, |offset| {
                log.write_at(&RECORD, offset)?;
                Ok(log.sync()?)
            })
        }),
    ];
    #[cfg(target_os = "linux")]
    {
        cases.push(Case::new("reserved, fdatasync", || {
            let _removed = Temporary(path);
            let file = linux::reserved(path, SEGMENT_BYTES)?;
            let log = OsFileSystem.open(path, OpenMode::ReadWrite)?;
            drop(file);
            median_time(settings, |offset| {
                write_all_at(&*log, &RECORD, offset)?;
                Ok(log.sync()?)
            })
        }));
        if linux::has_dsync(path)? {
            cases.push(Case::new("written before, RWF_DSYNC", || {
                let _removed = Temporary(path);
                drop(LogFile::create(&OsFileSystem, path, SEGMENT_BYTES)?);
                let file = std::fs::OpenOptions::new().write(true).open(path)?;
                median_time(settings, |offset| linux::write_dsync(&file, &RECORD, offset))
            }));
        }
    }
    take_turns(Group::DurableAppends, &[("time, p50", Unit::Nanoseconds)], settings, cases)
}

/// Appends until the time is up or the segment is full: the median of the times.
fn median_time(settings: &Settings, mut append: impl FnMut(u64) -> Outcome<()>) -> Outcome<Vec<f64>> {
    let mut times = Histogram::<u64>::new(3)?;
    let mut offsets = (0..SEGMENT_BYTES - RECORD.len() as u64).step_by(RECORD.len()).cycle();
    repeat(settings.time, u64::MAX, 1, || {
        let started = Instant::now();
        append(offsets.next().expect("a segment has room"))?;
        times.record(u64::try_from(started.elapsed().as_nanos())?)?;
        Ok(())
    })?;
    Ok(vec![times.value_at_quantile(0.5) as f64])
}

/// Nobody waits; the file was written before, in pieces of different lengths.
pub(crate) fn buffered(settings: &Settings) -> Outcome<Vec<Series>> {
    let path = &settings.dir.join("log");
    let mut cases = vec![Case::new("grows", || {
        let _removed = Temporary(path);
        mean_time(settings, &*OsFileSystem.open(path, OpenMode::CreateNew)?)
    })];
    for piece in FILLS {
        cases.push(Case::new(fill_name(piece), move || {
            let _removed = Temporary(path);
            let file = OsFileSystem.open(path, OpenMode::CreateNew)?;
            let zeros = vec![0; piece];
            for offset in (0..SEGMENT_BYTES).step_by(piece) {
                write_all_at(&*file, &zeros, offset)?;
            }
            file.sync()?;
            mean_time(settings, &*file)
        }));
    }
    take_turns(Group::BufferedAppends, &[("time", Unit::Nanoseconds)], settings, cases)
}

/// Fills a segment once, or a part of it if the time is up before.
fn mean_time(settings: &Settings, file: &dyn File) -> Outcome<Vec<f64>> {
    let mut offset = 0;
    let (nanos, _) = repeat(settings.time, SEGMENT_BYTES / RECORD.len() as u64, 256, || {
        write_all_at(file, &RECORD, offset)?;
        offset += RECORD.len() as u64;
        Ok(())
    })?;
    Ok(vec![nanos])
}

/// What other systems do not have.
#[cfg(target_os = "linux")]
mod linux {
    use std::fs::{File, OpenOptions};
    use std::io::IoSlice;
    use std::path::Path;

    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::{Errno, ReadWriteFlags, pwritev2};

    use super::{Outcome, RECORD, Temporary};

    /// A new file with space that nothing was written to.
    pub fn reserved(path: &Path, len: u64) -> Outcome<File> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, len) {
            // Then it stays a file that grows.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(file),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes, and returns when that is durable.
    pub fn write_dsync(file: &File, bytes: &[u8], offset: u64) -> Outcome<()> {
        match pwritev2(file, &[IoSlice::new(bytes)], offset, ReadWriteFlags::DSYNC)? {
            written if written == bytes.len() => Ok(()),
            written => Err(format!("a write of {} bytes ended after {written}", bytes.len()).into()),
        }
    }

    /// Whether kernel and file system know how to.
    pub fn has_dsync(path: &Path) -> Outcome<bool> {
        let _removed = Temporary(path);
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        Ok(write_dsync(&file, &RECORD, 0).is_ok())
    }
}
