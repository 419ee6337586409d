//! Random reads: in memory, at the first touch of a mapping, and from the disk.

use terrace_io::{Advice, PAGE_BYTES, read_exact_at};

use crate::device_read_bytes;
use crate::paths::series::{Case, repeat, take_turns};
use crate::paths::subject::{Draw, RECORD_BYTES, Subject, sum};
use crate::paths::{Group, Outcome, Series, Settings, Unit};

/// Reads in a row between two looks at the clock, if they take less than a microsecond.
const BATCH: u64 = 1024;
/// Reads from the disk, at most: few beside the pages of the file, so that hardly any is met twice.
const COLD_READS: u64 = 2000;
/// The pieces in which files get large pages, and those in which they get small ones, where the file system has both.
const LARGE_PIECES: usize = 2 << 20;
const SMALL_PIECES: usize = PAGE_BYTES;

/// The lengths that are read.
const LENGTHS: [(usize, &str); 2] = [(RECORD_BYTES, "128 B"), (PAGE_BYTES, "4 KiB")];

/// In memory and mapped. Each read waits for the one before, as a get does that follows from another.
pub(crate) fn warm(settings: &Settings) -> Outcome<Vec<Series>> {
    let subject = Subject::write(&settings.dir, "warm", settings.file_bytes, LARGE_PIECES)?;
    let region = subject.map_warm()?;
    let file = subject.open()?;
    let mut cases = Vec::new();
    for (len, shown) in LENGTHS {
        let places = subject.len / len as u64;
        let region = &region;
        cases.push(Case::new(format!("mapping, {shown}"), move || {
            let (mut draw, mut read) = (Draw::below(places), 0);
            let (nanos, _) = repeat(settings.time, u64::MAX, BATCH, || {
                let at = draw.after(read) as usize * len;
                read = sum(&region[at..at + len]);
                Ok(())
            })?;
            Ok(vec![nanos])
        }));
        let file = &file;
        cases.push(Case::new(format!("pread, {shown}"), move || {
            let (mut draw, mut read) = (Draw::below(places), 0);
            let mut buffer = vec![0; len];
            let (nanos, _) = repeat(settings.time, u64::MAX, BATCH, || {
                read_exact_at(&**file, &mut buffer, draw.after(read) * len as u64)?;
                read = sum(&buffer);
                Ok(())
            })?;
            Ok(vec![nanos])
        }));
    }
    take_turns(Group::Warm, &[("time of a read", Unit::Nanoseconds)], settings, cases)
}

/// In memory, but not mapped: what a fault costs that needs no disk.
pub(crate) fn first_touch(settings: &Settings) -> Outcome<Vec<Series>> {
    let large = Subject::write(&settings.dir, "large", settings.file_bytes, LARGE_PIECES)?;
    let small = Subject::write(&settings.dir, "small", settings.file_bytes, SMALL_PIECES)?;
    let mut cases = Vec::new();
    for (subject, pieces) in [(&large, "written by 2 MiB"), (&small, "written by 4 KiB")] {
        subject.read_all()?;
        cases.push(Case::new(format!("mapping, {pieces}, at random"), move || {
            let region = subject.map(Advice::Random)?;
            let mut draw = Draw::below(subject.pages());
            // Few beside the pages there are, since each fault maps some of its neighbours as well.
            let (nanos, _) = repeat(settings.time, COLD_READS, 1, || {
                let at = draw.next() as usize * PAGE_BYTES;
                sum(&region[at..at + RECORD_BYTES]);
                Ok(())
            })?;
            Ok(vec![nanos])
        }));
        cases.push(Case::new(format!("mapping, {pieces}, in order"), move || {
            let region = subject.map(Advice::Random)?;
            let mut pages = (0..subject.pages() as usize).cycle();
            let (nanos, _) = repeat(settings.time, subject.pages(), BATCH, || {
                let at = pages.next().expect("a file has pages") * PAGE_BYTES;
                sum(&region[at..at + RECORD_BYTES]);
                Ok(())
            })?;
            Ok(vec![nanos])
        }));
    }
    take_turns(Group::FirstTouch, &[("time of a page", Unit::Nanoseconds)], settings, cases)
}

/// From the disk.
pub(crate) fn cold(settings: &Settings) -> Outcome<Vec<Series>> {
    let subject = &Subject::write(&settings.dir, "cold", settings.file_bytes, LARGE_PIECES)?;
    let mut cases = Vec::new();
    for (len, shown) in LENGTHS {
        let places = subject.len / len as u64;
        for (advice, ahead, name) in [
            (Advice::Normal, false, "mapping, no advice"),
            (Advice::Random, false, "mapping, random"),
            (Advice::Random, true, "mapping, random, WILLNEED"),
        ] {
            cases.push(Case::new(format!("{name}, {shown}"), move || {
                subject.forget()?;
                let region = subject.map(advice)?;
                let mut draw = Draw::below(places);
                let before = device_read_bytes();
                let (nanos, reads) = repeat(settings.time, COLD_READS, 1, || {
                    let at = draw.next() as usize * len;
                    if ahead {
                        region.advise(Advice::WillNeed, at..at + len);
                    }
                    sum(&region[at..at + len]);
                    Ok(())
                })?;
                Ok(vec![nanos, (device_read_bytes() - before) as f64 / reads as f64])
            }));
        }
        for (advice, name) in [(Advice::Normal, "pread, no advice"), (Advice::Random, "pread, random")] {
            cases.push(Case::new(format!("{name}, {shown}"), move || {
                subject.forget()?;
                let file = subject.open()?;
                file.advise(advice, 0, subject.len);
                let mut draw = Draw::below(places);
                let mut buffer = vec![0; len];
                let before = device_read_bytes();
                let (nanos, reads) = repeat(settings.time, COLD_READS, 1, || {
                    read_exact_at(&*file, &mut buffer, draw.next() * len as u64)?;
                    sum(&buffer);
                    Ok(())
                })?;
                Ok(vec![nanos, (device_read_bytes() - before) as f64 / reads as f64])
            }));
        }
    }
    let figures = [("time of a read", Unit::Nanoseconds), ("read from the disk for it", Unit::Bytes)];
    take_turns(Group::Cold, &figures, settings, cases)
}
