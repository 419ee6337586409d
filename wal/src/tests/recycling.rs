//! Recycled segments: what an earlier life left in them is never read again.

use super::*;
use crate::{SegmentReader, segment_holds_records};
use terrace_io::CrashPolicy;

const LEN: u64 = 8 * 1024;

/// Segment 1, full of records that say that everything before them was synced.
fn old_life(fs: &MemoryFileSystem) -> Vec<Position> {
    let payloads: Vec<_> = (1..=60).map(|sequence| payload(sequence, 100)).collect();
    write_segment(fs, 1, LEN, Position::default(), &payloads)
}

#[test]
fn records_of_an_earlier_life_never_come_back() {
    // The new life writes the same records to the same places, as far as it gets: old ones that continue the
    // sequence, at the right place and with good checksums of their own, stand right behind the end.
    for number in [2, 3, 4, 255, 256, 65_537, 1 << 24, u32::MAX] {
        for records in 0..=60 {
            let fs = new_fs();
            let places = old_life(&fs);
            let mut writer = SegmentWriter::recycle(&fs, dir(), LOG_ID, 1, number).unwrap();
            assert_eq!((writer.number(), writer.len(), writer.position().offset), (number, LEN, 64));
            assert_eq!(fs.read_dir(dir()).unwrap(), [segment_file_name(number)]);
            for sequence in 1..=records {
                append(&mut writer, Position::default(), &[payload(sequence, 100)]).unwrap();
            }
            let (payloads, end) = replay(&fs, &[(number, LEN)], Position::default()).unwrap();
            assert_eq!(payloads.len() as u64, records);
            assert_eq!(end.offset, places[records as usize].offset);
            let mut reader = SegmentReader::open(&fs, &segment_path(number)).unwrap();
            assert_eq!(reader.has_records().unwrap(), records > 0);
            assert_eq!(segment_holds_records(&fs, dir(), LOG_ID, number).unwrap(), records > 0);
        }
    }
}

#[test]
fn a_hole_in_a_recycled_segment_shows_the_old_records_and_ends_the_log() {
    let fs = new_fs();
    let places = old_life(&fs);
    let old = fs.file_bytes(&segment_path(1)).unwrap();
    let mut writer = SegmentWriter::recycle(&fs, dir(), LOG_ID, 1, 2).unwrap();
    for sequence in 1..=60 {
        append(&mut writer, Position::default(), &[payload(sequence, 100)]).unwrap();
    }
    let new = fs.file_bytes(&segment_path(2)).unwrap();
    for hole in 0..60 {
        let mut bytes = new.clone();
        let range = places[hole].offset as usize..places[hole + 1].offset as usize;
        bytes[range.clone()].copy_from_slice(&old[range]);
        fs.replace_bytes(&segment_path(2), bytes).unwrap();
        let (payloads, _) = replay(&fs, &[(2, LEN)], Position::default()).unwrap();
        assert_eq!(payloads.len(), hole);
    }
}

#[test]
fn only_the_segment_that_the_name_says_is_recycled() {
    let fs = new_fs();
    old_life(&fs);
    let bytes = fs.file_bytes(&segment_path(1)).unwrap();
    assert_corrupt(SegmentWriter::recycle(&fs, dir(), [9; 16], 1, 5), &segment_path(1), 0);
    assert!(SegmentWriter::recycle(&fs, dir(), LOG_ID, 4, 5).unwrap_err().is_not_found());

    write_segment(&fs, 2, LEN, Position::default(), &[]);
    fs.replace_bytes(&segment_path(2), bytes.clone()).unwrap();
    assert_corrupt(SegmentWriter::recycle(&fs, dir(), LOG_ID, 2, 5), &segment_path(2), 0);
    for len in [0, 63, 64, 4096] {
        fs.replace_bytes(&segment_path(1), bytes[..len].to_vec()).unwrap();
        assert_corrupt(SegmentWriter::recycle(&fs, dir(), LOG_ID, 1, 5), &segment_path(1), len as u64);
    }
    assert_eq!(fs.file_bytes(&segment_path(2)).unwrap(), bytes, "what is refused is not touched");
}

/// A crash while a segment is being recycled, or made, leaves a file that the manifest does not name. It must be seen
/// to hold no record, whatever state it is in, or the database would not open.
#[test]
fn a_half_made_segment_holds_no_records() {
    let mut states = 0;
    for seed in 0..300 {
        let fs = new_fs();
        old_life(&fs);
        let crashed = {
            let copy = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
            let (inner, copies) = (fs.clone(), copy.clone());
            let first = fs.mutations();
            fs.set_hook(move |mutation| {
                let seed = seed * 100 + mutation.index - first;
                copies.lock().unwrap().push(inner.crash_clone(CrashPolicy::Torn { seed }));
            });
            SegmentWriter::recycle(&fs, dir(), LOG_ID, 1, 2).unwrap();
            SegmentWriter::create(&fs, dir(), LOG_ID, 3, LEN, Fill::Zeros).unwrap();
            fs.remove_hook();
            std::mem::take(&mut *copy.lock().unwrap())
        };
        assert!(crashed.len() > 6);
        for crashed in crashed {
            for number in [2, 3] {
                if crashed.file_bytes(&segment_path(number)).is_ok() {
                    assert!(!segment_holds_records(&crashed, dir(), LOG_ID, number).unwrap());
                    if let Ok(mut reader) = SegmentReader::open(&crashed, &segment_path(number)) {
                        assert!(!reader.has_records().unwrap());
                    }
                    states += 1;
                }
            }
        }
    }
    assert!(states > 300, "only {states} half-made segments were seen");
}

#[test]
fn a_segment_that_the_manifest_lost_holds_records() {
    let fs = new_fs();
    let places = old_life(&fs);
    assert!(segment_holds_records(&fs, dir(), LOG_ID, 1).unwrap());
    assert!(!segment_holds_records(&fs, dir(), [9; 16], 1).unwrap());
    // Even with its header gone and its first records.
    let mut bytes = fs.file_bytes(&segment_path(1)).unwrap();
    bytes[..places[59].offset as usize].fill(0);
    fs.replace_bytes(&segment_path(1), bytes.clone()).unwrap();
    assert!(segment_holds_records(&fs, dir(), LOG_ID, 1).unwrap());
    bytes[..places[60].offset as usize].fill(0);
    fs.replace_bytes(&segment_path(1), bytes).unwrap();
    assert!(!segment_holds_records(&fs, dir(), LOG_ID, 1).unwrap());
    fs.replace_bytes(&segment_path(1), Vec::new()).unwrap();
    assert!(!segment_holds_records(&fs, dir(), LOG_ID, 1).unwrap());
}

#[test]
fn a_file_longer_than_its_segment_is_recycled_at_the_length_of_the_segment() {
    let fs = new_fs();
    old_life(&fs);
    let mut bytes = fs.file_bytes(&segment_path(1)).unwrap();
    bytes.resize(LEN as usize + 4096, 0);
    fs.replace_bytes(&segment_path(1), bytes).unwrap();
    let mut writer = SegmentWriter::recycle(&fs, dir(), LOG_ID, 1, 2).unwrap();
    assert_eq!(writer.remaining(), LEN - 64);
    let refused = append(&mut writer, Position::default(), &[payload(1, LEN as usize)]);
    assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{refused:?}");
    append(&mut writer, Position::default(), &[payload(1, LEN as usize - 64 - 24)]).unwrap();
    assert_eq!(replay(&fs, &[(2, LEN)], writer.position()).unwrap().0.len(), 1);
}
