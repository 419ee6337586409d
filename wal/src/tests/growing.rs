//! The log that grows: the manifest's.

use std::io::ErrorKind;
use std::sync::Arc;

use terrace_io::{CrashPolicy, FaultFileSystem, FaultKind, FaultRule, OpenMode, Operation};

use super::*;
use crate::{GrowingLog, SegmentReader};

fn path() -> &'static Path {
    Path::new("/db/MANIFEST")
}

fn create(fs: &dyn FileSystem) -> GrowingLog {
    let log = GrowingLog::create(fs, path(), LOG_ID, 3).unwrap();
    fs.sync_dir(dir()).unwrap();
    log
}

fn append_synced(log: &mut GrowingLog, payload: &[u8]) {
    log.append(RecordKind::VersionEdit, payload).unwrap();
    log.sync().unwrap();
}

/// All payloads and the end, if the log may end there.
fn read(fs: &dyn FileSystem) -> Result<(Vec<Vec<u8>>, u64)> {
    let mut reader = SegmentReader::open(fs, path())?;
    let mut payloads = Vec::new();
    while let Some(record) = reader.next()? {
        assert_eq!((record.kind, record.synced), (RecordKind::VersionEdit, record.position));
        payloads.push(record.payload);
    }
    reader.require_end()?;
    Ok((payloads, reader.end().offset.into()))
}

fn edits(lens: &[usize]) -> Vec<Vec<u8>> {
    (1..).zip(lens).map(|(sequence, len)| payload(sequence, *len)).collect()
}

#[test]
fn it_grows_by_pages_of_zeros() {
    let fs = new_fs();
    let mut log = create(&fs);
    let edits = edits(&[10, 5000, 4096, 8, 300_000, 100, 70_000]);
    for edit in &edits {
        append_synced(&mut log, edit);
        let bytes = fs.file_bytes(path()).unwrap();
        assert_eq!(bytes.len() % 4096, 0);
        assert!(bytes[log.len() as usize..].iter().all(|byte| *byte == 0));
        assert!(bytes.len() as u64 <= log.len() + 5 * 4096);
    }
    assert_eq!(read(&fs).unwrap(), (edits, log.len()));
}

#[test]
fn it_goes_on_after_reopening() {
    let fs = new_fs();
    drop(create(&fs));
    let edits = edits(&[100, 4000, 50, 9000, 8, 8, 8, 123]);
    for (count, edit) in edits.iter().enumerate() {
        let (before, end) = read(&fs).unwrap();
        assert_eq!(before[..], edits[..count]);
        let mut log = GrowingLog::open_for_append(&fs, path(), LOG_ID, 3, end).unwrap();
        assert_eq!(log.len(), end);
        append_synced(&mut log, edit);
    }
    assert_eq!(read(&fs).unwrap().0, edits);
}

#[test]
fn only_the_right_log_is_opened() {
    let fs = new_fs();
    let mut log = create(&fs);
    append_synced(&mut log, b"edit");
    let end = log.len();
    let open = |log_id, number, end| GrowingLog::open_for_append(&fs, path(), log_id, number, end);
    open(LOG_ID, 3, end).unwrap();
    assert_corrupt(open([0; 16], 3, end), path(), 0);
    assert_corrupt(open(LOG_ID, 4, end), path(), 0);
    assert_corrupt(open(LOG_ID, 3, 4104), path(), 4096);
    assert_corrupt(open(LOG_ID, 3, 0), path(), 4096);
    assert!(GrowingLog::create(&fs, path(), LOG_ID, 4).is_err(), "a log is never overwritten");
}

#[test]
fn crashes_leave_all_synced_edits_and_perhaps_the_next() {
    let mut cut = 0;
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut fs = new_fs();
        let mut log = create(&fs);
        let mut kept: Vec<Vec<u8>> = Vec::new();
        for step in 0..20 {
            let mut len = 8 + random.below(300) as usize;
            if random.one_in(4) {
                len = 8 + random.below(20_000) as usize;
            }
            let edit = payload(seed * 100 + step, len);
            log.append(RecordKind::VersionEdit, &edit).unwrap();
            if !random.one_in(3) {
                log.sync().unwrap();
                kept.push(edit);
                continue;
            }
            let policy = match random.below(4) {
                0 => CrashPolicy::DropUnsynced,
                1 => CrashPolicy::KeepAll,
                _ => CrashPolicy::Torn { seed: random.next() },
            };
            fs = fs.crash_clone(policy);
            let (found, end) = read(&fs).unwrap_or_else(|error| panic!("seed {seed}, {policy:?}: {error}"));
            assert_eq!(found[..kept.len()], kept[..], "seed {seed}, {policy:?}");
            match &found[kept.len()..] {
                [] => cut += 1,
                [last] if *last == edit => kept.push(edit),
                other => panic!("seed {seed}, {policy:?}: {} edits out of nowhere", other.len()),
            }
            log = GrowingLog::open_for_append(&fs, path(), LOG_ID, 3, end).unwrap();
        }
    }
    assert!(cut > 200, "only {cut} edits were lost: too few torn ones");
}

/// A file that ends with its records is whole, and where nothing is left nothing is erased.
#[test]
fn only_what_is_left_is_erased() {
    let memory = new_fs();
    let mut log = create(&memory);
    append_synced(&mut log, &payload(1, 40));
    let (end, intact) = (log.len(), memory.file_bytes(path()).unwrap());
    let last = intact.len() - 1;
    // Further behind than what is read at once.
    let mut long = intact.clone();
    long.resize(600 * 1024, 0);
    long[600 * 1024 - 1] = 1;
    memory.replace_bytes(path(), long).unwrap();
    GrowingLog::open_for_append(&memory, path(), LOG_ID, 3, end).unwrap();
    assert!(memory.file_bytes(path()).unwrap()[end as usize..].iter().all(|byte| *byte == 0));
    for (len, leftover) in
        [(end as usize, None), (last + 1, None), (last + 1, Some(end as usize)), (last + 1, Some(last))]
    {
        let mut bytes = intact[..len].to_vec();
        leftover.into_iter().for_each(|at: usize| bytes[at] = 1);
        memory.replace_bytes(path(), bytes).unwrap();
        let fs = FaultFileSystem::new(Arc::new(memory.clone()));
        let mut log = GrowingLog::open_for_append(&fs, path(), LOG_ID, 3, end).unwrap();
        assert_eq!(fs.calls(Operation::Write) > 0, leftover.is_some(), "{len} {leftover:?}");
        assert!(memory.file_bytes(path()).unwrap() == intact[..len]);
        append_synced(&mut log, &payload(2, 40));
        assert_eq!(read(&memory).unwrap().0, [payload(1, 40), payload(2, 40)]);
    }
}

/// For salvage: of a file whose header is gone, the records are read all the same.
#[test]
fn records_are_read_without_the_header() {
    let fs = new_fs();
    let mut log = create(&fs);
    let edits = edits(&[40, 5000, 300]);
    edits.iter().for_each(|edit| append_synced(&mut log, edit));
    let header = *SegmentReader::open(&fs, path()).unwrap().header();
    let mut bytes = fs.file_bytes(path()).unwrap();
    bytes[..64].fill(0);
    fs.replace_bytes(path(), bytes).unwrap();
    assert!(SegmentReader::open_damaged(&fs, path(), None).is_err());
    let (mut reader, damage) = SegmentReader::open_damaged(&fs, path(), Some(header)).unwrap();
    assert!(damage.is_some());
    for edit in edits {
        assert_eq!(reader.next().unwrap().unwrap().payload, edit);
    }
    assert_eq!(reader.next().unwrap(), None);
}

#[test]
fn what_stands_behind_the_end_is_erased_before_it_goes_on() {
    // Edits of one length, none synced; the first is lost, the second survives behind the end.
    let fs = new_fs();
    let mut log = create(&fs);
    let end = log.len();
    let edits = edits(&[40, 40]);
    log.append(RecordKind::VersionEdit, &edits[0]).unwrap();
    let second = log.len();
    log.append(RecordKind::VersionEdit, &edits[1]).unwrap();
    let mut bytes = fs.file_bytes(path()).unwrap();
    bytes[end as usize..second as usize].fill(0);
    fs.replace_bytes(path(), bytes).unwrap();

    let mut log = GrowingLog::open_for_append(&fs, path(), LOG_ID, 3, end).unwrap();
    let crashed = fs.crash_clone(CrashPolicy::DropUnsynced);
    assert!(crashed.file_bytes(path()).unwrap()[end as usize..].iter().all(|byte| *byte == 0));
    append_synced(&mut log, &payload(7, 40));
    assert_eq!(read(&fs).unwrap(), (vec![payload(7, 40)], second));
}

#[test]
fn a_flip_of_any_bit_is_found() {
    let fs = new_fs();
    let mut log = create(&fs);
    let edits = edits(&[100, 70, 8, 333, 1000]);
    let mut starts = Vec::new();
    for edit in &edits {
        starts.push(log.len());
        append_synced(&mut log, edit);
    }
    let intact = fs.file_bytes(path()).unwrap();
    for at in 0..intact.len() {
        let mut bytes = intact.clone();
        bytes[at] ^= 1 << (at * 3 % 8);
        fs.replace_bytes(path(), bytes).unwrap();
        let hit = starts
            .iter()
            .zip(&edits)
            .position(|(start, edit)| (*start..start + 24 + edit.len() as u64).contains(&(at as u64)));
        match hit {
            _ if at < 64 => assert!(read(&fs).unwrap_err().is_corruption()),
            Some(4) => assert_eq!(read(&fs).unwrap().0[..], edits[..4]),
            Some(record) => assert_corrupt(read(&fs), path(), starts[record]),
            None => assert_eq!(read(&fs).unwrap().0, edits),
        }
    }
}

#[test]
fn every_cut_leaves_whole_edits() {
    let fs = new_fs();
    let mut log = create(&fs);
    let edits = edits(&[100, 70, 8, 333, 5000]);
    let mut ends = Vec::new();
    for edit in &edits {
        append_synced(&mut log, edit);
        ends.push(log.len());
    }
    let intact = fs.file_bytes(path()).unwrap();
    for len in 0..intact.len() as u64 {
        fs.replace_bytes(path(), intact[..len as usize].to_vec()).unwrap();
        if len < 64 {
            assert_corrupt(read(&fs), path(), len);
        } else {
            let whole = ends.iter().filter(|end| **end <= len).count();
            assert_eq!(read(&fs).unwrap().0[..], edits[..whole], "{len}");
        }
    }
}

/// The end of the file is gone, with the last edit, but not that edit's header: it says that all before it is synced.
#[test]
fn the_header_of_a_cut_edit_is_a_witness() {
    let fs = new_fs();
    let mut log = create(&fs);
    append_synced(&mut log, &payload(1, 100));
    append_synced(&mut log, &payload(2, 10_000));
    let mut bytes = fs.file_bytes(path()).unwrap();
    bytes.truncate(4096);
    fs.replace_bytes(path(), bytes.clone()).unwrap();
    assert_eq!(read(&fs).unwrap().0.len(), 1);
    bytes[100] ^= 1;
    fs.replace_bytes(path(), bytes).unwrap();
    assert_corrupt(read(&fs), path(), 64);
}

#[test]
fn a_failed_append_leaves_nothing() {
    let fs = FaultFileSystem::new(Arc::new(new_fs()));
    let mut log = create(&fs);
    append_synced(&mut log, &payload(1, 100));
    let len = log.len();
    fs.add(FaultRule::on(Operation::Write).kind(FaultKind::ErrorAfterEffect(ErrorKind::Other)).once());
    log.append(RecordKind::VersionEdit, &payload(2, 3000)).unwrap_err();
    assert_eq!(log.len(), len);
    append_synced(&mut log, &payload(3, 50));
    assert_eq!(read(&fs).unwrap(), (vec![payload(1, 100), payload(3, 50)], log.len()));
    let file = fs.open(path(), OpenMode::Read).unwrap();
    let mut rest = vec![1; 8192];
    let read = file.read_at(&mut rest, log.len()).unwrap();
    assert!(rest[..read].iter().all(|byte| *byte == 0));
}

#[test]
fn a_full_disk_passes() {
    let fs = new_fs();
    let mut log = create(&fs);
    fs.set_capacity(Some(3 * 4096));
    append_synced(&mut log, &payload(1, 100));
    let error = log.append(RecordKind::VersionEdit, &payload(2, 50_000)).unwrap_err();
    assert!(error.is_disk_full());
    fs.set_capacity(None);
    append_synced(&mut log, &payload(2, 50_000));
    assert_eq!(read(&fs).unwrap(), (vec![payload(1, 100), payload(2, 50_000)], log.len()));
}
