//! Tests of the log over the memory file system, which can crash in every way that a machine can.
//!
//! Payloads here start with a sequence number, as batches do. [`replay`] reads a log as the engine does: it accepts
//! records as long as they continue the sequence and then asks whether the log may end there.

mod crash;
mod damage;
mod example;
mod failed_writes;
mod growing;
mod recycling;
mod round_trip;
mod tail;

use std::path::{Path, PathBuf};

use terrace_io::{Error, FileSystem, MemoryFileSystem, Result};

use crate::{Fill, LogReader, Position, RecordKind, SegmentWriter, segment_file_name};

const LOG_ID: [u8; 16] = *b"sixteen bytes id";

fn dir() -> &'static Path {
    Path::new("/db")
}

fn segment_path(number: u32) -> PathBuf {
    dir().join(segment_file_name(number))
}

fn new_fs() -> MemoryFileSystem {
    let fs = MemoryFileSystem::new();
    fs.create_dir_all(dir()).unwrap();
    fs
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The payload with this sequence number: `len` bytes that depend on it, at least the 8 of the number.
fn payload(sequence: u64, len: usize) -> Vec<u8> {
    let mut random = Random(sequence);
    let mut bytes = sequence.to_le_bytes().to_vec();
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len.max(8));
    bytes
}

/// Reads a log as the engine does. Gives the payloads and the place where the log ends.
fn replay(
    fs: &dyn FileSystem,
    segments: &[(u32, u64)],
    known_synced: Position,
) -> Result<(Vec<Vec<u8>>, Position)> {
    let mut reader = LogReader::new(fs, dir(), LOG_ID, segments, known_synced);
    let mut end = reader.last_good_end();
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    while let Some(record) = reader.next()? {
        assert_eq!(record.kind, RecordKind::Batch);
        assert_eq!(record.end, reader.last_good_end());
        let sequence = u64::from_le_bytes(*record.payload.first_chunk().unwrap());
        if sequence != payloads.len() as u64 + 1 {
            break;
        }
        end = record.end;
        payloads.push(record.payload);
    }
    reader.require_not_synced_beyond(end)?;
    Ok((payloads, end))
}

/// A new segment with these payloads, each in a group of its own. Every record says that all before it was synced,
/// the first that everything up to `synced` was. Gives where each record stands and, last, where they end.
fn write_segment(
    fs: &dyn FileSystem,
    number: u32,
    len: u64,
    mut synced: Position,
    payloads: &[Vec<u8>],
) -> Vec<Position> {
    let mut writer = SegmentWriter::create(fs, dir(), LOG_ID, number, len, Fill::Zeros).unwrap();
    fs.sync_dir(dir()).unwrap();
    let mut places = vec![writer.position()];
    for payload in payloads {
        synced = append(&mut writer, synced, &[payload]).unwrap();
        places.push(synced);
    }
    writer.sync().unwrap();
    places
}

/// Appends a group of records with these payloads.
fn append<P: AsRef<[u8]>>(writer: &mut SegmentWriter, synced: Position, payloads: &[P]) -> Result<Position> {
    let mut group = Vec::new();
    for payload in payloads {
        writer.encode(&mut group, RecordKind::Batch, synced, &[payload.as_ref()]);
    }
    writer.append(&group)
}

/// Asserts that a result is corruption of this file at this offset.
#[track_caller]
fn assert_corrupt<T: std::fmt::Debug>(result: Result<T>, in_path: &Path, at: u64) {
    match result {
        Err(Error::Corruption { path, offset, what }) => {
            assert_eq!((path.as_path(), offset), (in_path, at), "{what}");
        }
        other => panic!("expected corruption of {} at {at}, got {other:?}", in_path.display()),
    }
}
