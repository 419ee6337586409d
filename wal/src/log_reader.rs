//! Reading a log from segment to segment, and telling its end from damage (`docs/format.md` §3.4).

use std::fmt;
use std::path::{Path, PathBuf};

use terrace_io::{Bug, Error, FileSystem, Result};

use crate::segment_header::segment_file_name;
use crate::segment_reader::{SegmentReader, lost_record};
use crate::{HEADER_BYTES, Position, Record};

/// Reads the records of a log that the manifest names segment by segment.
///
/// Where no good record stands in a segment, it goes on with the next one: a record that did not fit stands there.
/// It cannot know whether a record was lost in between, for payloads are opaque here. So the caller checks that each
/// record continues the one before, and at the first that does not, or when there are no more, calls
/// [`LogReader::require_not_synced_beyond`] with the end of the last record that it accepted: the log ends there, or
/// it is damaged there.
pub struct LogReader<'a> {
    fs: &'a dyn FileSystem,
    dir: PathBuf,
    log_id: [u8; 16],
    /// Numbers and lengths, ascending.
    segments: Vec<(u32, u64)>,
    known_synced: Position,
    /// Where reading starts; `(0, 0)` for the beginning.
    start: Position,
    /// The first segment in `segments` that is not read to its end, and its reader once it is open.
    next_segment: usize,
    reader: Option<SegmentReader>,
    last_good_end: Position,
}

impl<'a> LogReader<'a> {
    /// A reader of the segments with these numbers and lengths, in `dir`. `known_synced` is how far the manifest says
    /// that the log was durable.
    pub fn new(
        fs: &'a dyn FileSystem,
        dir: &Path,
        log_id: [u8; 16],
        segments: &[(u32, u64)],
        known_synced: Position,
    ) -> LogReader<'a> {
        let mut segments = segments.to_vec();
        segments.sort_unstable();
        let last_good_end = match segments.first() {
            Some((number, _)) => Position { segment: *number, offset: HEADER_BYTES as u32 },
            None => Position::default(),
        };
        let dir = dir.to_path_buf();
        LogReader {
            fs,
            dir,
            log_id,
            segments,
            known_synced,
            start: Position::default(),
            next_segment: 0,
            reader: None,
            last_good_end,
        }
    }

    /// Starts at a record that was read before, or behind one, instead of at the beginning. A place in a segment that
    /// is not named stands for the beginning of the next one that is.
    pub fn starting_at(mut self, start: Position) -> LogReader<'a> {
        self.next_segment = self.segments.partition_point(|(number, _)| *number < start.segment);
        if self.segments.get(self.next_segment).is_some_and(|(number, _)| *number == start.segment) {
            self.start = start;
            self.last_good_end = start;
        }
        self
    }

    /// The next record, from this segment or a later one; `None` after the last segment.
    ///
    /// # Errors
    ///
    /// [`Error::Corruption`] if a segment is missing, cut, damaged in its header or not the one that the manifest
    /// names, or if a record was written with impossible fields; errors of the file system. Asking again gives the
    /// same error, or goes on if it has passed.
    #[expect(clippy::should_implement_trait, reason = "it fails, and may be asked again")]
    pub fn next(&mut self) -> Result<Option<Record>> {
        while let Some((number, length)) = self.segments.get(self.next_segment).copied() {
            let mut reader = match self.reader.take() {
                Some(reader) => reader,
                None => {
                    let mut reader = self.open(number, length)?;
                    if number == self.start.segment {
                        reader.skip_to(self.start.offset.into())?;
                    }
                    reader
                }
            };
            let record = reader.next();
            if let Ok(None) = record {
                self.next_segment += 1;
                continue;
            }
            self.reader = Some(reader);
            if let Ok(Some(record)) = &record {
                self.last_good_end = record.end;
            }
            return record;
        }
        Ok(None)
    }

    /// The end of the last record that [`LogReader::next`] gave, or the place of the first record of the log. (At a
    /// record that does not continue the one before, the log ended at the end of the one before.)
    pub fn last_good_end(&self) -> Position {
        self.last_good_end
    }

    /// Checks that the log may end at `end`: that neither the manifest nor any record header from there on, in that
    /// segment and all later ones, says that the log was durable beyond it.
    ///
    /// # Errors
    ///
    /// [`Error::Corruption`] at `end` if one does, or as for [`LogReader::next`] if one of the segments is missing
    /// or damaged; [`Error::InvalidArgument`] if `end` is in none of the segments; errors of the file system.
    pub fn require_not_synced_beyond(&mut self, end: Position) -> Result<()> {
        if self.segments.is_empty() || Bug::HoleBelowSyncedSkipped.is_planted() {
            // Whatever the log held is retired.
            return Ok(());
        }
        self.require_known_segment(end)?;
        let path = self.dir.join(segment_file_name(end.segment));
        if self.known_synced > end {
            return Err(lost_record(&path, end, None, self.known_synced));
        }
        for (number, length) in self.segments.iter().copied().filter(|(number, _)| *number >= end.segment) {
            let from = if number == end.segment { end.offset.into() } else { HEADER_BYTES };
            require_not_beyond(end, &path, self.open(number, length)?.highest_synced_from(from)?)?;
        }
        Ok(())
    }

    /// As [`LogReader::require_not_synced_beyond`], but looks only at the first 256 KiB behind `end`, and not into other
    /// segments: for one who asks again and again, because the log may be written to.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn require_not_synced_near(&mut self, end: Position) -> Result<()> {
        self.require_known_segment(end)?;
        for (number, length) in self.segments.iter().copied().filter(|(number, _)| *number == end.segment) {
            let path = self.dir.join(segment_file_name(number));
            let highest = self.open(number, length)?.highest_synced_near(end.offset.into())?;
            require_not_beyond(end, &path, highest)?;
        }
        Ok(())
    }

    fn require_known_segment(&self, end: Position) -> Result<()> {
        match self.segments.iter().any(|(number, _)| *number == end.segment) {
            true => Ok(()),
            false => Err(Error::invalid(format!("{end} is not in the log"))),
        }
    }

    fn open(&self, number: u32, length: u64) -> Result<SegmentReader> {
        let path = self.dir.join(segment_file_name(number));
        let reader = match SegmentReader::open(self.fs, &path) {
            Err(error) if error.is_not_found() => {
                return Err(Error::corruption(path, 0, "the log segment is missing, the manifest names it"));
            }
            opened => opened?,
        };
        let header = reader.header();
        let what = if header.log_id != self.log_id {
            "the log segment belongs to another database".into()
        } else if header.number != number {
            format!("the file is log segment {}, by its header", header.number)
        } else if header.length != length {
            format!("the log segment has {} bytes by its header, {length} by the manifest", header.length)
        } else {
            return Ok(reader);
        };
        Err(Error::corruption(path, 0, what))
    }
}

/// Refuses a log that ends at `end`, in the file `path`, if a record says that it was synced beyond.
fn require_not_beyond(end: Position, path: &Path, highest: Option<(Position, Position)>) -> Result<()> {
    match highest {
        Some((witness, synced)) if synced > end => Err(lost_record(path, end, Some(witness), synced)),
        _ => Ok(()),
    }
}

impl fmt::Debug for LogReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogReader { dir, segments, known_synced, last_good_end, .. } = self;
        f.debug_struct("LogReader")
            .field("dir", dir)
            .field("segments", segments)
            .field("known_synced", known_synced)
            .field("last_good_end", last_good_end)
            .finish_non_exhaustive()
    }
}
