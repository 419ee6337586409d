//! What is written comes back, where it was said to be.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{HEADER_BYTES, RECORD_HEADER_BYTES, SegmentReader, parse_segment_file_name, record_len};

#[test]
fn file_names_stand_for_one_number_each() {
    for number in [0, 1, 12, 999_999, 1_000_000, u32::MAX] {
        assert_eq!(parse_segment_file_name(&segment_file_name(number)), Some(number));
    }
    for name in [
        "1.log",
        "0000001.log",
        "000001.sst",
        "000001",
        ".log",
        "+00001.log",
        "99999999999.log",
        "00001a.log",
    ] {
        assert_eq!(parse_segment_file_name(name), None, "{name}");
    }
}

#[test]
fn record_lengths_are_header_payload_and_padding() {
    assert_eq!(RECORD_HEADER_BYTES, 24);
    assert_eq!([1, 8, 9, 16].map(record_len), [32, 32, 40, 40]);
}

#[test]
fn a_new_segment_is_zeros_behind_its_header() {
    let fs = new_fs();
    for (number, fill) in [(1, Fill::Zeros), (2, Fill::Sparse)] {
        let writer = SegmentWriter::create(&fs, dir(), LOG_ID, number, 100_000, fill).unwrap();
        assert_eq!(
            (writer.number(), writer.len(), writer.remaining()),
            (number, 100_000, 100_000 - HEADER_BYTES)
        );
        let bytes = fs.file_bytes(&segment_path(number)).unwrap();
        assert_eq!(bytes.len(), 100_000);
        assert!(bytes[64..].iter().all(|byte| *byte == 0));
        let mut reader = SegmentReader::open(&fs, &segment_path(number)).unwrap();
        assert_eq!(reader.next().unwrap(), None);
        assert_eq!(reader.highest_synced_behind().unwrap(), None);
        assert!(!reader.has_records().unwrap());
    }
}

#[test]
fn impossible_lengths_are_refused() {
    let fs = new_fs();
    for len in [0, 8, 63, 65, 4097, 1 << 32, u64::MAX] {
        let made = SegmentWriter::create(&fs, dir(), LOG_ID, 1, len, Fill::Sparse);
        assert!(matches!(made, Err(Error::InvalidArgument(_))), "{len}");
    }
    assert!(fs.read_dir(dir()).unwrap().is_empty());
}

#[test]
fn a_segment_is_filled_to_its_last_byte_and_no_further() {
    let fs = new_fs();
    let mut writer = SegmentWriter::create(&fs, dir(), LOG_ID, 1, 64 + 48 + 32, Fill::Zeros).unwrap();
    append(&mut writer, Position::default(), &[payload(1, 24)]).unwrap();
    let too_long = append(&mut writer, Position::default(), &[payload(2, 9)]);
    assert!(matches!(too_long, Err(Error::InvalidArgument(_))));
    append(&mut writer, Position::default(), &[payload(2, 8)]).unwrap();
    assert_eq!(writer.remaining(), 0);
    let (payloads, end) = replay(&fs, &[(1, 144)], writer.position()).unwrap();
    assert_eq!((payloads, end), (vec![payload(1, 24), payload(2, 8)], writer.position()));
}

#[test]
fn a_payload_longer_than_a_default_segment_gets_one_of_its_size() {
    const DEFAULT: u64 = 16 * 1024;
    let fs = new_fs();
    let small = write_segment(&fs, 1, DEFAULT, Position::default(), &[payload(1, 100)]);
    // Longer than the readers' windows, too.
    let large = payload(2, 3_000_001);
    let len = HEADER_BYTES + record_len(large.len());
    let mut writer = SegmentWriter::create(&fs, dir(), LOG_ID, 2, len, Fill::Sparse).unwrap();
    let mut group = Vec::new();
    let (head, body) = large.split_at(12);
    writer.encode(&mut group, RecordKind::Batch, small[1], &[head, &[], body]);
    let end = writer.append(&group).unwrap();
    assert_eq!(writer.remaining(), 0);
    write_segment(&fs, 3, DEFAULT, end, &[payload(3, 5000), payload(4, 8)]);
    let (payloads, _) = replay(&fs, &[(1, DEFAULT), (2, len), (3, DEFAULT)], end).unwrap();
    assert!(payloads == [payload(1, 100), large, payload(3, 5000), payload(4, 8)]);
}

#[test]
fn an_unused_segment_in_between_is_passed_over() {
    let fs = new_fs();
    let first = write_segment(&fs, 1, 4096, Position::default(), &[payload(1, 100)]);
    write_segment(&fs, 2, 4096, Position::default(), &[]);
    let third = write_segment(&fs, 3, 4096, first[1], &[payload(2, 100)]);
    write_segment(&fs, 4, 4096, Position::default(), &[]);
    let segments = [1, 2, 3, 4].map(|number| (number, 4096));
    let (payloads, end) = replay(&fs, &segments, third[1]).unwrap();
    assert_eq!((payloads.len(), end), (2, third[1]));
}

#[test]
fn a_log_without_segments_is_empty() {
    // What the manifest knows to be synced is about segments that are retired since.
    let (payloads, end) = replay(&new_fs(), &[], Position { segment: 9, offset: 1000 }).unwrap();
    assert_eq!((payloads.len(), end), (0, Position::default()));
}

#[test]
fn kinds_come_back() {
    let fs = new_fs();
    let mut writer = SegmentWriter::create(&fs, dir(), LOG_ID, 1, 4096, Fill::Zeros).unwrap();
    let mut group = Vec::new();
    for kind in [RecordKind::VersionEdit, RecordKind::Batch] {
        writer.encode(&mut group, kind, Position::default(), &[b"x"]);
    }
    writer.append(&group).unwrap();
    let mut reader = SegmentReader::open(&fs, &segment_path(1)).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().kind, RecordKind::VersionEdit);
    assert_eq!(reader.next().unwrap().unwrap().kind, RecordKind::Batch);
    assert!(reader.has_records().unwrap());
}

#[test]
fn a_file_can_be_synced_from_another_thread_while_records_are_appended() {
    let fs = new_fs();
    let mut writer = SegmentWriter::create(&fs, dir(), LOG_ID, 1, 1 << 20, Fill::Zeros).unwrap();
    fs.sync_dir(dir()).unwrap();
    append(&mut writer, Position::default(), &[payload(1, 100)]).unwrap();
    let file = writer.file().clone();
    std::thread::scope(|scope| {
        scope.spawn(move || file.sync().unwrap());
        for sequence in 2..=1000 {
            append(&mut writer, Position::default(), &[payload(sequence, 100)]).unwrap();
        }
    });
    let crashed = fs.crash_clone(terrace_io::CrashPolicy::DropUnsynced);
    let (payloads, _) = replay(&crashed, &[(1, 1 << 20)], Position::default()).unwrap();
    assert!((1..=1000).contains(&payloads.len()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any groups of any payloads come back in order, at the places that `append` said, across segments.
    #[test]
    fn groups_come_back(groups in vec(vec((8_usize..700, 0_usize..700), 1..5), 1..40)) {
        const LEN: u64 = 8192;
        let fs = new_fs();
        let mut writer = SegmentWriter::create(&fs, dir(), LOG_ID, 1, LEN, Fill::Zeros).unwrap();
        let (mut written, mut ends, mut synced) = (Vec::new(), Vec::new(), Position::default());
        for group in &groups {
            let needed: u64 = group.iter().map(|(len, _)| record_len(*len)).sum();
            if needed > writer.remaining() {
                writer = SegmentWriter::create(&fs, dir(), LOG_ID, writer.number() + 1, LEN, Fill::Zeros).unwrap();
            }
            let mut bytes = Vec::new();
            for (len, cut) in group {
                let payload = payload(written.len() as u64 + 1, *len);
                let (front, back) = payload.split_at((*cut).min(payload.len()));
                writer.encode(&mut bytes, RecordKind::Batch, synced, &[front, back]);
                written.push(payload);
            }
            let before = writer.position();
            let end = writer.append(&bytes).unwrap();
            prop_assert_eq!(end.offset as u64, before.offset as u64 + needed);
            prop_assert_eq!(end, writer.position());
            ends.push((written.len(), end));
            synced = end;
        }
        let segments: Vec<(u32, u64)> = (1..=writer.number()).map(|number| (number, LEN)).collect();
        let mut reader = LogReader::new(&fs, dir(), LOG_ID, &segments, synced);
        let mut read = Vec::new();
        while let Some(record) = reader.next().unwrap() {
            prop_assert!(record.position < record.end && record.synced <= record.position);
            read.push(record.payload);
            if let Ok(at) = ends.binary_search_by_key(&read.len(), |(count, _)| *count) {
                prop_assert_eq!(record.end, ends[at].1);
            }
        }
        prop_assert!(read == written);
        prop_assert_eq!(reader.last_good_end(), synced);
        reader.require_not_synced_beyond(synced).unwrap();
    }
}

/// So that a reader that comes again goes on where it has left, and can look whether what it had read still stands.
#[test]
fn reading_starts_at_any_record_and_behind_any() {
    let fs = new_fs();
    let payloads: Vec<Vec<u8>> = (1..=6).map(|sequence| payload(sequence, 20)).collect();
    let mut places = write_segment(&fs, 1, 4096, Position::default(), &payloads[..4]);
    let behind_first = places[4];
    places.truncate(4);
    places.extend(&write_segment(&fs, 2, 4096, behind_first, &payloads[4..])[..2]);
    let segments = [(1, 4096), (2, 4096)];
    let read_from = |start: Position| {
        let mut reader =
            LogReader::new(&fs, dir(), LOG_ID, &segments, Position::default()).starting_at(start);
        assert_eq!(reader.last_good_end(), start);
        let records = std::iter::from_fn(|| reader.next().unwrap());
        records.map(|record| record.payload).collect::<Vec<_>>()
    };
    for (start, rest) in places.iter().zip(0..) {
        assert_eq!(read_from(*start), payloads[rest..], "from {start}");
    }
    assert_eq!(read_from(behind_first), payloads[4..]);

    // A segment that is not named any more has been read.
    let mut reader = LogReader::new(&fs, dir(), LOG_ID, &segments[1..], Position::default());
    assert_eq!(reader.last_good_end(), places[4]);
    reader = reader.starting_at(places[2]);
    assert_eq!(reader.next().unwrap().unwrap().payload, payloads[4]);
    // No record stands there.
    for offset in [63, 71, 4097] {
        let start = Position { segment: 1, offset };
        let mut reader =
            LogReader::new(&fs, dir(), LOG_ID, &segments, Position::default()).starting_at(start);
        assert_corrupt(reader.next(), &segment_path(1), offset.min(4096).into());
    }
}
