//! From front to back: by a mapping, and by `pread` through windows of different lengths.

use std::time::Instant;

use terrace_io::{Advice, CacheUse, PAGE_BYTES, ScanReader};

use crate::paths::series::{Case, take_turns};
use crate::paths::subject::{Subject, touch_lines};
use crate::paths::{Group, Outcome, Series, Settings, Unit};

/// The windows that are tried.
pub(crate) const WINDOWS: [usize; 7] = [64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];

/// What a window's case is called.
pub(crate) fn window_name(bytes: usize) -> String {
    match bytes >> 10 {
        kibibytes @ ..1024 => format!("pread, {kibibytes} KiB"),
        kibibytes => format!("pread, {} MiB", kibibytes >> 10),
    }
}

pub(crate) fn warm(settings: &Settings) -> Outcome<Vec<Series>> {
    measure(Group::WarmScans, settings, Subject::read_all)
}

pub(crate) fn cold(settings: &Settings) -> Outcome<Vec<Series>> {
    measure(Group::ColdScans, settings, Subject::forget)
}

/// Reads page by page until the time is up or the file ends, and begins with what `prepare` leaves in memory.
fn measure(group: Group, settings: &Settings, prepare: fn(&Subject) -> Outcome<()>) -> Outcome<Vec<Series>> {
    let subject = &Subject::write(&settings.dir, "scan", settings.file_bytes, 2 << 20)?;
    let pages = move || (0..subject.len).step_by(PAGE_BYTES);
    let mut cases = Vec::new();
    for (advice, name) in [
        (Advice::Normal, "mapping, no advice"),
        (Advice::Sequential, "mapping, sequential"),
        (Advice::Random, "mapping, random"),
    ] {
        cases.push(Case::new(name, move || {
            prepare(subject)?;
            let region = subject.map(advice)?;
            let (started, mut read) = (Instant::now(), 0);
            for offset in pages() {
                touch_lines(&region[offset as usize..offset as usize + PAGE_BYTES]);
                read += PAGE_BYTES;
                if started.elapsed() >= settings.time {
                    break;
                }
            }
            Ok(vec![read as f64 / started.elapsed().as_secs_f64()])
        }));
    }
    for window in WINDOWS {
        cases.push(Case::new(window_name(window), move || {
            prepare(subject)?;
            let mut reader = ScanReader::new(subject.open()?, 0..subject.len, window, CacheUse::Keep);
            let (started, mut read) = (Instant::now(), 0);
            for offset in pages() {
                let (buffer, range) = reader.read(offset, PAGE_BYTES)?;
                touch_lines(&buffer[range]);
                read += PAGE_BYTES;
                if started.elapsed() >= settings.time {
                    break;
                }
            }
            Ok(vec![read as f64 / started.elapsed().as_secs_f64()])
        }));
    }
    take_turns(group, &[("speed", Unit::BytesPerSecond)], settings, cases)
}
