//! Writes that fail, some after having left bytes in the file.

use std::io::ErrorKind;
use std::sync::Arc;

use terrace_io::{FaultFileSystem, FaultKind, FaultRule, Operation};

use super::*;

const LEN: u64 = 8 * 1024;

fn faulty() -> (FaultFileSystem, SegmentWriter) {
    let fs = FaultFileSystem::new(Arc::new(new_fs()));
    let writer = SegmentWriter::create(&fs, dir(), LOG_ID, 1, LEN, Fill::Zeros).unwrap();
    (fs, writer)
}

fn fail_once(fs: &FaultFileSystem, kind: FaultKind) {
    fs.clear();
    fs.add(FaultRule::on(Operation::Write).kind(kind).once());
}

#[test]
fn short_writes_are_gone_on_with() {
    let (fs, mut writer) = faulty();
    for sequence in 1..=10 {
        fail_once(&fs, FaultKind::ShortWrite);
        append(&mut writer, Position::default(), &[payload(sequence, 333)]).unwrap();
    }
    assert_eq!(fs.injected(), 10);
    assert_eq!(replay(&fs, &[(1, LEN)], writer.position()).unwrap().0.len(), 10);
}

#[test]
fn a_failed_append_is_repeated_at_its_place() {
    let (fs, mut writer) = faulty();
    let first = append(&mut writer, Position::default(), &[payload(1, 100)]).unwrap();
    fail_once(&fs, FaultKind::Error(ErrorKind::Other));
    append(&mut writer, first, &[payload(2, 100)]).unwrap_err();
    assert_eq!(writer.position(), first);
    append(&mut writer, first, &[payload(2, 200)]).unwrap();
    let (payloads, end) = replay(&fs, &[(1, LEN)], writer.position()).unwrap();
    assert_eq!((payloads, end), (vec![payload(1, 100), payload(2, 200)], writer.position()));
}

/// The sequence numbers of a group that failed are used again. All of it has reached the file: its second record
/// stands right where the record that takes the place of its first one ends, and would continue the sequence.
#[test]
fn records_of_a_failed_append_do_not_follow_those_of_the_next() {
    for records in 1..=4 {
        let (fs, mut writer) = faulty();
        let failed: Vec<_> = (1..=5).map(|sequence| payload(sequence, 100)).collect();
        fail_once(&fs, FaultKind::ErrorAfterEffect(ErrorKind::Other));
        append(&mut writer, Position::default(), &failed).unwrap_err();
        let left = replay(&fs, &[(1, LEN)], Position::default()).unwrap().0;
        assert_eq!(left.len(), 5, "the failed append has left its records");

        // A second failure, of less, does not make the first one forgotten.
        fail_once(&fs, FaultKind::Error(ErrorKind::Other));
        append(&mut writer, Position::default(), &[payload(1, 50)]).unwrap_err();

        append(&mut writer, Position::default(), &failed[..records]).unwrap();
        let (payloads, end) = replay(&fs, &[(1, LEN)], Position::default()).unwrap();
        assert_eq!((payloads.as_slice(), end), (&failed[..records], writer.position()));
    }
}

#[test]
fn a_sealed_segment_holds_nothing_of_a_failed_append() {
    let (fs, mut writer) = faulty();
    let end = append(&mut writer, Position::default(), &[payload(1, 100)]).unwrap();
    writer.seal().unwrap();
    fail_once(&fs, FaultKind::ErrorAfterEffect(ErrorKind::Other));
    append(&mut writer, end, &[payload(2, 100), payload(3, 2000)]).unwrap_err();
    fail_once(&fs, FaultKind::Error(ErrorKind::Other));
    writer.seal().unwrap_err();
    writer.seal().unwrap();
    let next = write_segment(&fs, 2, LEN, end, &[payload(2, 300)]);
    let (payloads, found_end) = replay(&fs, &[(1, LEN), (2, LEN)], Position::default()).unwrap();
    assert_eq!((payloads, found_end), (vec![payload(1, 100), payload(2, 300)], next[1]));
    let bytes = fs.open(&segment_path(1), terrace_io::OpenMode::Read).unwrap();
    let mut rest = vec![1; LEN as usize];
    let read = bytes.read_at(&mut rest, end.offset.into()).unwrap();
    assert!(rest[..read].iter().all(|byte| *byte == 0));
}

#[test]
fn short_reads_and_failed_reads() {
    const LEN: u64 = 1 << 20;
    let fs = FaultFileSystem::new(Arc::new(new_fs()));
    let mut writer = SegmentWriter::create(&fs, dir(), LOG_ID, 1, LEN, Fill::Zeros).unwrap();
    for sequence in 1..=10 {
        append(&mut writer, Position::default(), &[payload(sequence, 60_000)]).unwrap();
    }
    fs.add(FaultRule::on(Operation::Read).kind(FaultKind::ShortRead));
    assert_eq!(replay(&fs, &[(1, LEN)], writer.position()).unwrap().0.len(), 10);

    fs.clear();
    // An error of the device is an error, never the end of the log; once it has passed, reading goes on where it was.
    let mut reader = LogReader::new(&fs, dir(), LOG_ID, &[(1, LEN)], Position::default());
    let mut read = vec![reader.next().unwrap().unwrap().payload];
    fs.add(FaultRule::on(Operation::Read).times(3));
    let mut errors = 0;
    loop {
        match reader.next() {
            Ok(Some(record)) => read.push(record.payload),
            Ok(None) => break,
            Err(error) => {
                assert!(matches!(error, Error::Io { operation: Operation::Read, .. }), "{error}");
                assert!((2..10).contains(&read.len()), "the error comes in the middle");
                errors += 1;
            }
        }
    }
    assert_eq!(errors, 3);
    assert!(read == (1..=10).map(|sequence| payload(sequence, 60_000)).collect::<Vec<_>>());
    fs.add(FaultRule::on(Operation::Read).skip(1));
    assert!(matches!(reader.require_not_synced_beyond(writer.position()), Err(Error::Io { .. })));
}

#[test]
fn a_file_that_cannot_be_opened_is_not_missing() {
    let (fs, _) = faulty();
    fs.add(FaultRule::on(Operation::Open).error(ErrorKind::PermissionDenied));
    let error = replay(&fs, &[(1, LEN)], Position::default()).unwrap_err();
    assert!(matches!(error, Error::Io { operation: Operation::Open, .. }), "{error}");
}

#[test]
fn failures_to_make_a_segment_are_told() {
    for operation in [Operation::Create, Operation::Write, Operation::Sync] {
        let fs = FaultFileSystem::new(Arc::new(new_fs()));
        fs.add(FaultRule::on(operation));
        let error = SegmentWriter::create(&fs, dir(), LOG_ID, 1, LEN, Fill::Zeros).unwrap_err();
        assert!(matches!(error, Error::Io { operation: told, .. } if told == operation), "{error}");
    }
    for operation in [Operation::Open, Operation::Read, Operation::Rename, Operation::Write, Operation::Sync]
    {
        let (fs, _) = faulty();
        fs.add(FaultRule::on(operation));
        let error = SegmentWriter::recycle(&fs, dir(), LOG_ID, 1, 2).unwrap_err();
        assert!(matches!(error, Error::Io { operation: told, .. } if told == operation), "{error}");
    }
    // The header's own write and sync, too.
    for operation in [Operation::Write, Operation::Sync] {
        let fs = FaultFileSystem::new(Arc::new(new_fs()));
        fs.add(FaultRule::on(operation).skip(1));
        SegmentWriter::create(&fs, dir(), LOG_ID, 1, LEN, Fill::Zeros).unwrap_err();
    }
}
