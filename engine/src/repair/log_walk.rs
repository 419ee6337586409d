//! The log from its first record to its last, past whatever is damaged in between.

use std::path::PathBuf;

use terrace_io::{Error, FileSystem, Result};
use terrace_wal::{Position, Record, RecordKind, SegmentHeader, SegmentReader};

use super::survey::Survey;
use crate::batch::{Operation, Operations, collect_batch};

/// A batch that was read.
pub(super) struct Batch<'a> {
    pub position: Position,
    /// The sequence number of its first operation.
    pub first: u64,
    pub operations: &'a [Operation<'a>],
    /// How many gaps lie before it.
    pub gaps: usize,
}

/// A place where the history does not go on.
#[derive(Debug)]
pub(super) struct Gap {
    pub path: PathBuf,
    /// The end of the last good record before it.
    pub at: Position,
    /// Where good records go on; `None` if they do not.
    pub resumes: Option<Position>,
    /// The sequence numbers that are missing: from the first to before the second, as far as they are known.
    pub missing: (Option<u64>, Option<u64>),
    /// Records behind it, up to the next gap.
    pub records_behind: u64,
    /// Operations in these.
    pub operations_behind: u64,
}

/// What a walk has seen.
#[derive(Default)]
pub(super) struct Walk {
    pub records: u64,
    pub operations: u64,
    /// Where the history is interrupted, in order.
    pub gaps: Vec<Gap>,
    /// The end of the last good record.
    pub end: Position,
    /// How far the log was durable, as the manifest and all records say.
    pub synced: Position,
    /// Segments that are missing, cut or damaged at their front, and batches that were written wrong.
    pub damages: Vec<Error>,
    pub last_sequence: Option<u64>,
}

impl Walk {
    /// Whether acknowledged bytes are missing at a gap. If not, it is where a crash has torn the log.
    pub fn is_loss(&self, gap: &Gap) -> bool {
        gap.at < self.synced
    }

    /// Whether acknowledged bytes are missing behind the last good record.
    pub fn end_is_loss(&self) -> bool {
        self.end < self.synced
    }
}

/// Which segments are walked through.
pub(super) struct LogSource<'a> {
    pub fs: &'a dyn FileSystem,
    pub survey: &'a Survey,
    pub log_id: [u8; 16],
    /// Numbers and, where known, lengths, ascending.
    pub segments: &'a [(u32, Option<u64>)],
    /// How far the manifest says that the log was durable.
    pub known_synced: Position,
    /// The sequence number that the first record should have, if that is known.
    pub first_sequence: Option<u64>,
}

impl LogSource<'_> {
    /// Goes through all records. Each batch that can be read is given to `take`.
    pub fn walk(&self, take: &mut dyn FnMut(Batch<'_>) -> Result<()>) -> Result<Walk> {
        let mut walk = Walk { synced: self.known_synced, ..Walk::default() };
        let mut expected = self.first_sequence;
        if let Some((number, _)) = self.segments.first() {
            walk.end = Position { segment: *number, offset: terrace_wal::HEADER_BYTES as u32 };
        }
        for &(number, length) in self.segments {
            let Some(mut reader) = self.open(number, length, &mut walk)? else { continue };
            loop {
                let record = match reader.next() {
                    Ok(None) => reader.next_behind_damage()?,
                    Err(error) if error.is_corruption() => {
                        walk.damages.push(error);
                        reader.next_behind_damage()?
                    }
                    record => record?,
                };
                let Some(record) = record else { break };
                self.accept(&record, &mut expected, &mut walk, take)?;
            }
            // Headers of records whose payload is damaged say as much as those of good ones.
            if let Some((_, synced)) = reader.highest_synced_behind()? {
                walk.synced = walk.synced.max(synced);
            }
        }
        Ok(walk)
    }

    fn open(&self, number: u32, length: Option<u64>, walk: &mut Walk) -> Result<Option<SegmentReader>> {
        let path = self.survey.segment_path(number);
        let otherwise = SegmentHeader { number, log_id: self.log_id, length: length.unwrap_or(0) };
        let (reader, damage) = match SegmentReader::open_damaged(self.fs, &path, Some(otherwise)) {
            Err(error) if error.is_not_found() => {
                walk.damages.push(Error::corruption(path, 0, "the log segment is missing"));
                return Ok(None);
            }
            opened => opened?,
        };
        walk.damages.extend(damage);
        let header = reader.header();
        let what = if header.log_id != self.log_id {
            "the log segment belongs to another database".to_owned()
        } else if header.number != number {
            format!("the file is log segment {}, by its header", header.number)
        } else {
            return Ok(Some(reader));
        };
        walk.damages.push(Error::corruption(path, 0, what));
        Ok(None)
    }

    fn accept(
        &self,
        record: &Record,
        expected: &mut Option<u64>,
        walk: &mut Walk,
        take: &mut dyn FnMut(Batch<'_>) -> Result<()>,
    ) -> Result<()> {
        walk.synced = walk.synced.max(record.synced);
        let damaged = |what: &str| {
            let path = self.survey.segment_path(record.position.segment);
            Error::corruption(path, u64::from(record.position.offset), what)
        };
        let (first, operations) = match decode(record) {
            Ok(decoded) => decoded,
            Err(what) => {
                walk.damages.push(damaged(what));
                return Ok(());
            }
        };
        if expected.is_some_and(|expected| expected != first) {
            walk.gaps.push(Gap {
                path: self.survey.segment_path(walk.end.segment),
                at: walk.end,
                resumes: Some(record.position),
                missing: (*expected, Some(first)),
                records_behind: 0,
                operations_behind: 0,
            });
        }
        let count = operations.len() as u64;
        walk.records += 1;
        walk.operations += count;
        if let Some(gap) = walk.gaps.last_mut() {
            gap.records_behind += 1;
            gap.operations_behind += count;
        }
        walk.end = record.end;
        *expected = Some(first + count);
        walk.last_sequence = walk.last_sequence.max(Some(first + count - 1));
        let gaps = walk.gaps.len();
        take(Batch { position: record.position, first, operations: &operations, gaps })
    }
}

fn decode(record: &Record) -> std::result::Result<(u64, Vec<Operation<'_>>), &'static str> {
    if record.kind != RecordKind::Batch {
        return Err("a log record is not a batch");
    }
    let (first, count, operations) = Operations::from_payload(&record.payload)?;
    Ok((first, collect_batch(first, count, operations)?))
}
