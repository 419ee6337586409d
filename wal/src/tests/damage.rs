//! Damage: told from the end of the log wherever something says that the damaged bytes were synced, with file and
//! offset, and never read as something else.

use std::collections::BTreeMap;
use std::sync::Arc;

use terrace_io::{FaultFileSystem, FaultRule, Operation};

use super::*;
use crate::{SegmentReader, record_len};

const LEN: u64 = 2048;

/// Two segments; the second is not full. Each record says that all before it is synced.
struct Sample {
    fs: MemoryFileSystem,
    segments: Vec<(u32, u64)>,
    payloads: Vec<Vec<u8>>,
    /// Where each record stands, and how many bytes of it are not padding.
    records: Vec<(Position, u64)>,
    /// Where each record ends.
    ends: Vec<Position>,
}

fn sample() -> Sample {
    let fs = new_fs();
    let payloads: Vec<_> = (1..=12).map(|sequence| payload(sequence, 90 + sequence as usize * 13)).collect();
    let first = write_segment(&fs, 1, LEN, Position::default(), &payloads[..7]);
    let second = write_segment(&fs, 2, LEN, first[7], &payloads[7..]);
    let starts = first[..7].iter().chain(&second[..5]);
    let records = starts.zip(&payloads).map(|(place, payload)| (*place, 24 + payload.len() as u64)).collect();
    let ends = first[1..].iter().chain(&second[1..]).copied().collect();
    Sample { fs, segments: vec![(1, LEN), (2, LEN)], payloads, records, ends }
}

impl Sample {
    fn bytes(&self, number: u32) -> Vec<u8> {
        self.fs.file_bytes(&segment_path(number)).unwrap()
    }

    fn replay(&self, known_synced: Position) -> Result<(Vec<Vec<u8>>, Position)> {
        replay(&self.fs, &self.segments, known_synced)
    }

    /// Where the log seems to end if record `index` is damaged.
    fn end_before(&self, index: usize) -> Position {
        if index == 0 { self.records[0].0 } else { self.ends[index - 1] }
    }

    /// Checks what is read when `first` is the first record that is damaged, and no record behind it is left as a
    /// witness, or one is.
    #[track_caller]
    fn check_lost(&self, first: usize, witness_left: bool) {
        let end = self.end_before(first);
        let result = self.replay(Position::default());
        if witness_left {
            assert_corrupt(result, &segment_path(end.segment), end.offset.into());
        } else {
            let (payloads, found_end) = result.unwrap();
            assert_eq!((payloads.as_slice(), found_end), (&self.payloads[..first], end));
        }
        let from_manifest = self.replay(self.ends[first]);
        assert_corrupt(from_manifest, &segment_path(end.segment), end.offset.into());
        if !witness_left {
            self.replay(end).unwrap();
        }
    }
}

#[test]
fn a_flip_of_any_bit_is_found() {
    let sample = sample();
    let all = (sample.payloads.clone(), sample.ends[11]);
    for number in [1, 2] {
        let intact = sample.bytes(number);
        for at in 0..intact.len() {
            let mut bytes = intact.clone();
            bytes[at] ^= 1 << (at * 5 % 8);
            sample.fs.replace_bytes(&segment_path(number), bytes).unwrap();
            let hit = sample.records.iter().position(|(place, len)| {
                let start = u64::from(place.offset);
                place.segment == number && (start..start + len).contains(&(at as u64))
            });
            if at < 64 {
                let error = sample.replay(Position::default()).unwrap_err();
                assert!(error.is_corruption(), "{error}");
                assert_eq!(error.path(), Some(segment_path(number).as_path()));
            } else if let Some(record) = hit {
                // The record behind says that this one was synced.
                sample.check_lost(record, record + 1 < sample.records.len());
            } else {
                assert_eq!(
                    sample.replay(sample.ends[11]).unwrap(),
                    all,
                    "padding at {at} of segment {number}"
                );
            }
        }
        sample.fs.replace_bytes(&segment_path(number), intact).unwrap();
    }
    assert_eq!(sample.replay(sample.ends[11]).unwrap(), all);
}

#[test]
fn a_segment_cut_anywhere_is_found() {
    let sample = sample();
    for number in [1, 2] {
        let intact = sample.bytes(number);
        for len in 0..intact.len() {
            sample.fs.replace_bytes(&segment_path(number), intact[..len].to_vec()).unwrap();
            assert_corrupt(
                SegmentReader::open(&sample.fs, &segment_path(number)),
                &segment_path(number),
                len as u64,
            );
            assert_corrupt(sample.replay(Position::default()), &segment_path(number), len as u64);
        }
        // A longer file is none of our business.
        let mut longer = intact.clone();
        longer.extend_from_slice(&[0xee; 1000]);
        sample.fs.replace_bytes(&segment_path(number), longer).unwrap();
        assert_eq!(sample.replay(sample.ends[11]).unwrap().0, sample.payloads);
        sample.fs.replace_bytes(&segment_path(number), intact).unwrap();
    }
}

#[test]
fn zeros_from_any_record_on_are_found() {
    let sample = sample();
    for number in [1, 2] {
        let intact = sample.bytes(number);
        for (index, (place, _)) in sample.records.iter().enumerate().filter(|(_, (p, _))| p.segment == number)
        {
            let mut bytes = intact.clone();
            bytes[place.offset as usize..].fill(0);
            sample.fs.replace_bytes(&segment_path(number), bytes).unwrap();
            // The second segment's records are witnesses of the first one's.
            sample.check_lost(index, number == 1);
        }
        sample.fs.replace_bytes(&segment_path(number), intact).unwrap();
    }
}

/// Records of which none says anything about what is synced, except the last, which says what `synced` says.
fn with_hole(synced: Position, hole: usize) -> (MemoryFileSystem, Vec<Position>) {
    let fs = new_fs();
    let mut writer = SegmentWriter::create(&fs, dir(), LOG_ID, 1, 64 * 1024, Fill::Zeros).unwrap();
    let mut places = vec![writer.position()];
    for sequence in 1..=20 {
        let synced = if sequence == 20 { synced } else { Position::default() };
        places.push(append(&mut writer, synced, &[payload(sequence, 1000)]).unwrap());
    }
    let mut bytes = fs.file_bytes(&segment_path(1)).unwrap();
    bytes[places[hole].offset as usize..places[hole + 1].offset as usize].fill(0);
    fs.replace_bytes(&segment_path(1), bytes).unwrap();
    (fs, places)
}

#[test]
fn a_hole_is_the_end_above_what_is_known_synced_and_corruption_below() {
    let (_, places) = with_hole(Position::default(), 5);
    for synced in 0..=19 {
        let says = if synced == 0 { Position::default() } else { places[synced] };
        let (fs, places) = with_hole(says, 5);
        let result = replay(&fs, &[(1, 64 * 1024)], Position::default());
        if synced <= 5 {
            let (payloads, end) = result.unwrap();
            assert_eq!((payloads.len(), end), (5, places[5]));
        } else {
            assert_corrupt(result, &segment_path(1), places[5].offset.into());
        }
        // The same in one segment's own words.
        let mut reader = SegmentReader::open(&fs, &segment_path(1)).unwrap();
        while reader.next().unwrap().is_some() {}
        let witness = reader.highest_synced_behind().unwrap().unwrap();
        assert_eq!(witness.1, says);
        assert!(says == Position::default() || witness.0 == places[19]);
        assert_eq!(reader.require_end().is_err(), synced > 5);
    }
}

#[test]
fn what_the_manifest_knows_counts_where_nothing_else_is_left() {
    let sample = sample();
    let mut bytes = sample.bytes(2);
    bytes[64..].fill(0);
    sample.fs.replace_bytes(&segment_path(2), bytes).unwrap();
    let (payloads, end) = sample.replay(sample.ends[6]).unwrap();
    assert_eq!((payloads.len(), end), (7, sample.ends[6]));
    for known in &sample.ends[7..] {
        assert_corrupt(sample.replay(*known), &segment_path(1), sample.ends[6].offset.into());
    }
}

#[test]
fn a_witness_in_a_third_segment_counts_when_two_are_lost() {
    let sample = sample();
    write_segment(&sample.fs, 3, LEN, sample.ends[11], &[payload(13, 50)]);
    let segments = [(1, LEN), (2, LEN), (3, LEN)];
    assert_eq!(replay(&sample.fs, &segments, Position::default()).unwrap().0.len(), 13);
    let mut bytes = sample.bytes(2);
    bytes[64..].fill(0);
    sample.fs.replace_bytes(&segment_path(2), bytes).unwrap();
    let result = replay(&sample.fs, &segments, Position::default());
    assert_corrupt(result, &segment_path(1), sample.ends[6].offset.into());
}

#[test]
fn a_missing_segment_is_corruption() {
    for missing in [1, 2] {
        let sample = sample();
        sample.fs.remove_file(&segment_path(missing)).unwrap();
        assert_corrupt(sample.replay(Position::default()), &segment_path(missing), 0);
    }
}

#[test]
fn a_segment_missing_behind_the_end_is_corruption_too() {
    let sample = sample();
    let segments = [(1, LEN), (2, LEN), (3, LEN), (4, LEN)];
    write_segment(&sample.fs, 3, LEN, Position::default(), &[payload(99, 50)]);
    // Reading stops at segment 3, which does not continue: segment 4 is looked for only to find out whether it may.
    assert_corrupt(replay(&sample.fs, &segments, Position::default()), &segment_path(4), 0);
}

#[test]
fn swapped_segments_are_corruption() {
    let sample = sample();
    let (one, two) = (sample.bytes(1), sample.bytes(2));
    sample.fs.replace_bytes(&segment_path(1), two.clone()).unwrap();
    assert_corrupt(sample.replay(Position::default()), &segment_path(1), 0);
    sample.fs.replace_bytes(&segment_path(1), one.clone()).unwrap();
    sample.fs.replace_bytes(&segment_path(2), one.clone()).unwrap();
    assert_corrupt(sample.replay(Position::default()), &segment_path(2), 0);
    // Even under the right header, the records of another segment are none.
    sample.fs.replace_bytes(&segment_path(2), [&two[..64], &one[64..]].concat()).unwrap();
    let (payloads, end) = sample.replay(Position::default()).unwrap();
    assert_eq!((payloads.len(), end), (7, sample.ends[6]));
}

#[test]
fn a_record_moved_to_another_place_is_none() {
    let sample = sample();
    let mut bytes = sample.bytes(1);
    let (place, _) = sample.records[6];
    let record = place.offset as usize..sample.ends[6].offset as usize;
    let copy = bytes[record.clone()].to_vec();
    let to = 64;
    bytes[64..].fill(0);
    bytes[to..to + copy.len()].copy_from_slice(&copy);
    sample.fs.replace_bytes(&segment_path(1), bytes).unwrap();
    let (payloads, _) = replay(&sample.fs, &[(1, LEN)], Position::default()).unwrap();
    assert_eq!(payloads.len(), 0);
}

#[test]
fn segments_of_another_database_or_length_are_corruption() {
    let sample = sample();
    let mut reader = LogReader::new(&sample.fs, dir(), [0; 16], &sample.segments, Position::default());
    for _ in 0..2 {
        assert_corrupt(reader.next(), &segment_path(1), 0);
    }
    assert_corrupt(replay(&sample.fs, &[(1, LEN), (2, LEN + 8)], Position::default()), &segment_path(2), 0);
}

#[test]
fn an_end_outside_of_the_log_is_refused() {
    let sample = sample();
    let mut reader = LogReader::new(&sample.fs, dir(), LOG_ID, &sample.segments, Position::default());
    let result = reader.require_not_synced_beyond(Position { segment: 3, offset: 64 });
    assert!(matches!(result, Err(Error::InvalidArgument(_))), "{result:?}");
}

/// Puts fields into the header of the first record of a segment and makes its checksum right.
fn with_fields(bytes: &mut [u8], fields: &[(usize, &[u8])]) {
    for (at, field) in fields {
        bytes[64 + at..64 + at + field.len()].copy_from_slice(field);
    }
    let checksum = terrace_io::Checksum::new().bytes(&LOG_ID).u32(1).u64(64).bytes(&bytes[68..88]);
    bytes[64..68].copy_from_slice(&checksum.finish().to_le_bytes());
}

#[test]
fn impossible_fields_under_a_good_checksum_are_corruption() {
    let sample = sample();
    let intact = sample.bytes(1);
    let too_long = (LEN - 64 - 24 + 1) as u32;
    let cases: BTreeMap<&str, Vec<(usize, Vec<u8>)>> = BTreeMap::from([
        ("no payload", vec![(8, vec![0; 4])]),
        ("longer than the segment", vec![(8, too_long.to_le_bytes().to_vec())]),
        ("longest", vec![(8, vec![0xff; 4])]),
        ("synced beyond itself", vec![(12, vec![1, 0, 0, 0, 65, 0, 0, 0])]),
        ("synced in a later segment", vec![(12, vec![2, 0, 0, 0, 0, 0, 0, 0])]),
        ("kind 0", vec![(20, vec![0])]),
        ("kind 3", vec![(20, vec![3])]),
        ("reserved", vec![(23, vec![1])]),
    ]);
    for (name, fields) in &cases {
        let mut bytes = intact.clone();
        let fields: Vec<_> = fields.iter().map(|(at, field)| (*at, field.as_slice())).collect();
        with_fields(&mut bytes, &fields);
        sample.fs.replace_bytes(&segment_path(1), bytes).unwrap();
        let mut reader = SegmentReader::open(&sample.fs, &segment_path(1)).unwrap();
        for _ in 0..2 {
            let result = reader.next();
            assert!(result.is_err(), "{name}");
            assert_corrupt(result, &segment_path(1), 64);
        }
    }
    // What is changed here is the checksum's business only: with the fields as they were, the record is good.
    let mut bytes = intact.clone();
    with_fields(&mut bytes, &[]);
    assert_eq!(bytes, intact);
}

/// Puts fields into a segment's header and makes its checksum right.
fn opened_with_header(sample: &Sample, fields: &[(usize, &[u8])]) -> Result<SegmentReader> {
    let mut bytes = sample.bytes(1);
    for (at, field) in fields {
        bytes[*at..at + field.len()].copy_from_slice(field);
    }
    let crc = terrace_io::Checksum::new().bytes(&bytes[..60]).finish();
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    sample.fs.replace_bytes(&segment_path(1), bytes).unwrap();
    SegmentReader::open(&sample.fs, &segment_path(1))
}

#[test]
fn impossible_segment_headers_are_refused() {
    let path = segment_path(1);
    assert!(opened_with_header(&sample(), &[]).is_ok());
    assert_corrupt(opened_with_header(&sample(), &[(0, b"TERRASST")]), &path, 0);
    assert_corrupt(opened_with_header(&sample(), &[(40, &[1])]), &path, 40);
    assert_corrupt(opened_with_header(&sample(), &[(59, &[1])]), &path, 59);
    for length in [1, 63, 1 << 32, u64::MAX] {
        assert_corrupt(opened_with_header(&sample(), &[(32, &length.to_le_bytes())]), &path, 32);
    }
    let newer = opened_with_header(&sample(), &[(8, &2_u32.to_le_bytes())]);
    assert!(matches!(newer, Err(Error::UnsupportedFormat { found: 2, supported: 1, .. })), "{newer:?}");
}

#[test]
fn a_log_that_grows_is_no_segment() {
    let sample = sample();
    opened_with_header(&sample, &[(32, &[0; 8])]).unwrap();
    assert_corrupt(sample.replay(Position::default()), &segment_path(1), 0);
}

#[test]
fn random_bytes_are_never_a_record_and_never_a_panic() {
    let fs = new_fs();
    let mut random = Random(1);
    write_segment(&fs, 1, 1 << 20, Position::default(), &[payload(1, 100)]);
    let intact = fs.file_bytes(&segment_path(1)).unwrap();
    let mut found = 0;
    for _ in 0..20 {
        let mut bytes = intact.clone();
        for word in bytes[64 + record_len(100) as usize..].chunks_mut(8) {
            // Half of the words look like the end of a plausible record header.
            let value = random.next();
            let value = if random.one_in(2) { value & 0xff_ff_ff_ff | 1 << 32 } else { value };
            word.copy_from_slice(&value.to_le_bytes());
        }
        fs.replace_bytes(&segment_path(1), bytes).unwrap();
        let (payloads, _) = replay(&fs, &[(1, 1 << 20)], Position::default()).unwrap();
        found += payloads.len();
    }
    assert_eq!(found, 20);
}

#[test]
fn a_witness_is_found_wherever_it_stands() {
    const LONG: u64 = 600 * 1024;
    let fs = new_fs();
    write_segment(&fs, 1, LONG, Position::default(), &[]);
    let empty = fs.file_bytes(&segment_path(1)).unwrap();
    let seed = crate::record::Seed::new(&LOG_ID, 1);
    let synced = Position { segment: 1, offset: 72 };
    // At the seams of what is read at once, and as the last record that fits.
    let seams = [72, 64 + 256 * 1024, 64 + 512 * 1024, LONG - 32]
        .map(|seam| seam.saturating_sub(64).max(72)..seam + 64);
    for offset in seams.into_iter().flatten().step_by(8).filter(|offset| offset + 32 <= LONG) {
        let mut record = Vec::new();
        crate::record::encode(&mut record, &seed, offset, RecordKind::Batch, synced, &[b"x"]);
        let mut bytes = empty.clone();
        bytes[offset as usize..][..record.len()].copy_from_slice(&record);
        fs.replace_bytes(&segment_path(1), bytes.clone()).unwrap();
        assert_corrupt(replay(&fs, &[(1, LONG)], Position::default()), &segment_path(1), 64);
        // A header is enough, but all of it is needed.
        bytes[offset as usize + 24] ^= 1;
        fs.replace_bytes(&segment_path(1), bytes.clone()).unwrap();
        assert_corrupt(replay(&fs, &[(1, LONG)], Position::default()), &segment_path(1), 64);
        bytes[offset as usize + 4] ^= 1;
        fs.replace_bytes(&segment_path(1), bytes).unwrap();
        replay(&fs, &[(1, LONG)], Position::default()).unwrap();
    }
}

#[test]
fn records_are_read_across_the_seams_of_the_reader() {
    let fs = new_fs();
    let mut random = Random(3);
    let payloads: Vec<_> = (1..=3000)
        .map(|sequence| {
            let most = if random.one_in(50) { 400_000 } else { 2_000 };
            payload(sequence, random.below(most) as usize)
        })
        .collect();
    let len = payloads.iter().map(|payload| record_len(payload.len())).sum::<u64>() + 64;
    let places = write_segment(&fs, 1, len, Position::default(), &payloads);
    let (read, end) = replay(&fs, &[(1, len)], places[3000]).unwrap();
    assert!(read == payloads && end == places[3000]);
}

#[test]
fn behind_damage_reading_goes_on_with_the_next_good_record() {
    let sample = sample();
    let intact = sample.bytes(1);
    for (index, (place, len)) in sample.records.iter().enumerate().take(7) {
        for at in u64::from(place.offset)..u64::from(place.offset) + len {
            let mut bytes = intact.clone();
            bytes[at as usize] ^= 2;
            sample.fs.replace_bytes(&segment_path(1), bytes).unwrap();
            let (mut reader, damage) =
                SegmentReader::open_damaged(&sample.fs, &segment_path(1), None).unwrap();
            assert!(damage.is_none());
            let mut found = Vec::new();
            while let Some(record) = reader.next().unwrap() {
                found.push(record.payload);
            }
            assert_eq!(found, sample.payloads[..index]);
            while let Some(record) = reader.next_behind_damage().unwrap() {
                found.push(record.payload);
                while let Some(record) = reader.next().unwrap() {
                    found.push(record.payload);
                }
            }
            let rest = sample.payloads[..7].iter().enumerate().filter(|(known, _)| *known != index);
            assert_eq!(found, rest.map(|(_, payload)| payload.clone()).collect::<Vec<_>>(), "a flip at {at}");
        }
    }
}

#[test]
fn reading_goes_on_behind_every_damaged_payload() {
    let sample = sample();
    let faults = FaultFileSystem::new(Arc::new(sample.fs.clone()));
    for damaged in [[0, 1, 2], [0, 2, 4], [1, 3, 6], [4, 5, 6]] {
        let mut bytes = sample.bytes(1);
        for index in damaged {
            bytes[sample.records[index].0.offset as usize + 30] ^= 1;
        }
        sample.fs.replace_bytes(&segment_path(1), bytes.clone()).unwrap();
        let mut reader = SegmentReader::open(&faults, &segment_path(1)).unwrap();
        let mut found = Vec::new();
        loop {
            while let Some(record) = reader.next().unwrap() {
                found.push(record.payload);
            }
            // A read that fails is told, and loses nothing.
            let end = reader.end();
            faults.add(FaultRule::on(Operation::Read));
            assert!(!reader.next_behind_damage().unwrap_err().is_corruption());
            assert_eq!(reader.end(), end);
            faults.clear();
            let Some(record) = reader.next_behind_damage().unwrap() else { break };
            found.push(record.payload);
        }
        let rest = sample.payloads[..7].iter().enumerate().filter(|(index, _)| !damaged.contains(index));
        assert!(rest.map(|(_, payload)| payload).eq(&found), "{damaged:?}");
        for index in damaged {
            bytes[sample.records[index].0.offset as usize + 30] ^= 1;
        }
        sample.fs.replace_bytes(&segment_path(1), bytes).unwrap();
    }
}

#[test]
fn what_is_left_of_a_segment_is_read() {
    let sample = sample();
    let intact = sample.bytes(1);
    let path = segment_path(1);
    let header = *SegmentReader::open(&sample.fs, &path).unwrap().header();
    let read = |otherwise| {
        let (mut reader, damage) = SegmentReader::open_damaged(&sample.fs, &path, otherwise)?;
        let mut count = 0;
        while reader.next()?.is_some() {
            count += 1;
        }
        assert!(reader.next_behind_damage()?.is_none());
        Ok::<_, Error>((count, damage.is_some()))
    };
    for cut in 0..intact.len() {
        sample.fs.replace_bytes(&path, intact[..cut].to_vec()).unwrap();
        let whole = sample.ends[..7].iter().filter(|end| end.offset as usize <= cut).count();
        assert_eq!(read(Some(header)).unwrap(), (whole, true), "cut at {cut}");
        assert_eq!(read(None).is_ok(), cut >= 64, "cut at {cut}");
    }
    // The version stands at 8, something else at 20.
    for at in [8, 20] {
        let mut bytes = intact.clone();
        bytes[at] ^= 2;
        sample.fs.replace_bytes(&path, bytes).unwrap();
        assert!(read(None).unwrap_err().is_corruption());
        assert_eq!(read(Some(header)).unwrap(), (7, true));
    }
    // A version that was written so is no damage: whoever wrote it can read it.
    sample.fs.replace_bytes(&path, intact).unwrap();
    assert!(opened_with_header(&sample, &[(8, &[3])]).is_err());
    assert!(matches!(read(Some(header)).unwrap_err(), Error::UnsupportedFormat { found: 3, .. }));
}

/// For a reader that comes again and again: right behind an end a writer goes on, and not far from it or elsewhere.
#[test]
fn the_neighbourhood_of_an_end_is_searched() {
    let fs = new_fs();
    let len = 1 << 20;
    let payloads = [payload(1, 20), payload(2, 20), payload(3, 300_000), payload(4, 20)];
    let places = write_segment(&fs, 1, len, Position::default(), &payloads);
    write_segment(&fs, 2, len, places[4], &[payload(5, 20)]);
    let mut reader = LogReader::new(&fs, dir(), LOG_ID, &[(1, len), (2, len)], Position::default());
    for (index, is_told_near) in [(0, true), (1, true), (2, false), (3, false)] {
        let (end, at) = (places[index], places[index].offset.into());
        match is_told_near {
            true => assert_corrupt(reader.require_not_synced_near(end), &segment_path(1), at),
            false => reader.require_not_synced_near(end).unwrap(),
        }
        assert_corrupt(reader.require_not_synced_beyond(end), &segment_path(1), at);
    }
    reader.require_not_synced_near(places[4]).unwrap();
    let elsewhere = reader.require_not_synced_near(Position { segment: 3, offset: 64 });
    assert!(matches!(elsewhere, Err(Error::InvalidArgument(_))));
}
