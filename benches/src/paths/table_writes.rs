//! How long the pieces are in which a table is written, and what that means for its readers: the page cache keeps a file
//! in pages as large as it was written in, if the file system can.

use std::hint::black_box;
use std::time::Instant;

use terrace_io::Advice;

use crate::paths::series::{Case, repeat, take_turns};
use crate::paths::subject::{Draw, RECORD_BYTES, Subject, sum};
use crate::paths::{Group, Outcome, Series, Settings, Unit};

/// The pieces that are tried.
pub(crate) const PIECES: [usize; 6] = [4 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20, 4 << 20];

/// What a case is called.
pub(crate) fn name(bytes: usize) -> String {
    format!("by {} KiB", bytes >> 10)
}

pub(crate) fn measure(settings: &Settings) -> Outcome<Vec<Series>> {
    let len = settings.file_bytes / 2;
    let cases = PIECES.map(|piece| {
        Case::new(name(piece), move || {
            let started = Instant::now();
            let subject = Subject::write(&settings.dir, "table", len, piece)?;
            let speed = len as f64 / started.elapsed().as_secs_f64();
            let region = subject.map(Advice::Random)?;
            for at in (0..region.len()).step_by(4096) {
                black_box(region[at]);
            }
            let huge = region.huge_mapped_bytes().unwrap_or(0) as f64 / len as f64;
            let (mut draw, mut read) = (Draw::below(len / RECORD_BYTES as u64), 0);
            let (nanos, _) = repeat(settings.time, u64::MAX, 1024, || {
                let at = draw.after(read) as usize * RECORD_BYTES;
                read = sum(&region[at..at + RECORD_BYTES]);
                Ok(())
            })?;
            Ok(vec![speed, huge, nanos])
        })
    });
    let figures = [
        ("writing, with the sync", Unit::BytesPerSecond),
        ("mapped in pages of 2 MiB", Unit::Share),
        ("time of a random read of 128 B", Unit::Nanoseconds),
    ];
    take_turns(Group::TableWrites, &figures, settings, cases.into())
}
