//! Goal: a database that is larger than its memory leaves in the page cache what is read often. Compactions neither push
//! it out nor start it anew, and the metadata that every get needs stays.
//!
//! Method: a database on a real file system that is told that it has little memory. Its pages are put out of the page
//! cache, some keys are read, and what the system says of pages (`mincore`, reads of the calling thread) is compared with
//! what should be there. Where pages cannot be put out of the cache, as on a file system in memory, tests say that they
//! were skipped.

use std::path::Path;

use terrace::{Db, Durability, Options, PinMetadata, PointReads};
use terrace_io::{Advice, FileSystem, OpenMode, OsFileSystem, Region};
use terrace_tests::skipped;

const KEYS: u32 = 60_000;
/// In one piece, so that the blocks that hold them hold nothing else, but for two.
const HOT: std::ops::Range<u32> = 20_000..26_000;

fn key(number: u32) -> String {
    format!("key{number:06}")
}

fn options(memory_bytes: u64) -> Options {
    Options::new()
        .durability(Durability::Buffered)
        .memtable_bytes(512 << 10)
        .memory_bytes(memory_bytes)
        .point_reads(PointReads::Mmap)
}

/// The tables' files of a database that is closed, mapped.
fn tables(dir: &Path) -> Vec<Region> {
    let mut names = OsFileSystem.read_dir(dir).unwrap();
    names.retain(|name| name.ends_with(".sst"));
    let map = |name: &String| {
        let file = OsFileSystem.open(&dir.join(name), OpenMode::Read).unwrap();
        file.map(usize::try_from(file.len().unwrap()).unwrap()).unwrap()
    };
    names.iter().map(map).collect()
}

/// Puts the tables out of the page cache. Says whether they went.
fn evict(dir: &Path) -> bool {
    for name in OsFileSystem.read_dir(dir).unwrap() {
        let file = OsFileSystem.open(&dir.join(name), OpenMode::Read).unwrap();
        file.advise(Advice::DontNeed, 0, file.len().unwrap());
    }
    tables(dir).iter().all(|table| table.resident_bytes() == Some(0))
}

/// A database of some 7 MiB, put out of the page cache. `None` if that cannot be.
fn evicted(test: &str) -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().unwrap();
    let db = options(1 << 30).open(dir.path()).unwrap();
    for number in 0..KEYS {
        db.put(key(number), [number as u8; 100]).unwrap();
    }
    db.settle().unwrap();
    db.close().unwrap();
    if !evict(dir.path()) {
        skipped(test, "the temporary directory keeps pages that it is told to forget");
        return None;
    }
    Some(dir)
}

/// How many of some keys can be got without a read of the device.
fn resident(db: &Db, numbers: impl Iterator<Item = u32>) -> usize {
    let is_resident = |number: &u32| {
        let (value, stats) = db.get_with_stats(key(*number)).unwrap();
        assert_eq!(*value.unwrap(), [*number as u8; 100]);
        stats.data().device_bytes == 0
    };
    numbers.filter(is_resident).count()
}

#[test]
fn what_replaces_what_was_in_memory_is_in_memory() {
    let Some(dir) = evicted("what_replaces_what_was_in_memory_is_in_memory") else { return };
    let db = options(4 << 20).open(dir.path()).unwrap();
    let cold = || (0..KEYS).step_by(97).filter(|number| !HOT.contains(number));
    assert_eq!(HOT.filter(|&number| db.get(key(number)).unwrap().is_none()).count(), 0);
    // So that everything must be written anew.
    for number in (0..KEYS).step_by(1000) {
        db.put(key(number), [number as u8; 100]).unwrap();
    }
    let before = db.metrics().compaction_bytes_written;
    db.compact_range::<&[u8]>(..).unwrap();
    assert!(db.metrics().compaction_bytes_written - before > 6 << 20, "not everything was written anew");

    let (hot, all_hot) = (resident(&db, HOT.step_by(7)), HOT.step_by(7).count());
    assert!(hot * 20 >= all_hot * 19, "{hot} of {all_hot} keys that were read before are in memory");
    let (in_memory, all_cold) = (resident(&db, cold()), cold().count());
    assert!(in_memory * 10 < all_cold, "{in_memory} of {all_cold} keys that nobody read are in memory");
    db.close().unwrap();
}

#[test]
fn with_memory_enough_everything_new_is_in_memory() {
    let Some(dir) = evicted("with_memory_enough_everything_new_is_in_memory") else { return };
    let db = options(1 << 30).open(dir.path()).unwrap();
    for number in (0..KEYS).step_by(1000) {
        db.put(key(number), [number as u8; 100]).unwrap();
    }
    db.compact_range::<&[u8]>(..).unwrap();
    let (in_memory, all) = (resident(&db, (0..KEYS).step_by(97)), (0..KEYS).step_by(97).count());
    assert!(in_memory * 20 >= all * 19, "{in_memory} of {all} keys are in memory");
    db.close().unwrap();
}

#[test]
fn metadata_is_kept_in_memory_as_far_as_it_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let db = options(1 << 30).open(dir.path()).unwrap();
    for number in 0..KEYS {
        db.put(key(number), [number as u8; 100]).unwrap();
    }
    db.settle().unwrap();
    db.close().unwrap();
    let pinned = |options: Options| {
        let db = options.open(dir.path()).unwrap();
        // What is to be done beside it is done once this has been waited for.
        db.settle().unwrap();
        assert!((0..KEYS).step_by(97).all(|number| db.contains_key(key(number)).unwrap()));
        let metrics = db.metrics();
        assert_eq!(metrics.read_paths.mapped + metrics.read_paths.heap, metrics.keyspaces[0].tables);
        let pinned = metrics.metadata_locked_bytes + metrics.metadata_copied_bytes;
        db.close().unwrap();
        pinned
    };
    assert_eq!(pinned(options(1 << 30)), 0, "there is memory enough");
    let (by_filters, everything) =
        (pinned(options(2 << 20)), pinned(options(2 << 20).pin_metadata(PinMetadata::Always)));
    // 10 bits for each key of the filter, and a fence for each of some 1,800 blocks; locators take five times as much.
    assert!((60_000 * 10 / 8..2 << 19).contains(&by_filters), "{by_filters} B");
    assert_eq!(by_filters, everything, "gets do not go by locators in either");
    let with_locators = pinned(options(1 << 30).pin_metadata(PinMetadata::Always));
    assert!(with_locators > by_filters + 3 * u64::from(KEYS), "{with_locators} B");
    assert_eq!(pinned(options(2 << 20).pin_metadata(PinMetadata::Never)), 0);
    assert_eq!(pinned(options(256 << 10)), 0, "more than a quarter of so little");
}

/// Whatever is read by whom at the time, nothing of it is lost or another value.
#[test]
fn the_way_of_reading_changes_while_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let db = options(1 << 30).open(dir.path()).unwrap();
    for number in 0..KEYS {
        db.put(key(number), [number as u8; 100]).unwrap();
    }
    db.settle().unwrap();
    let is_mapped = |db: &Db| {
        assert!((0..KEYS).step_by(97).all(|number| db.contains_key(key(number)).unwrap()));
        let paths = db.metrics().read_paths;
        // Some may be so small that they are on the heap.
        let open = paths.mapped + paths.pread + paths.heap;
        assert_eq!(open, db.metrics().keyspaces[0].tables, "{paths:?}");
        assert!(paths.mapped == 0 || paths.pread == 0, "{paths:?}");
        paths.mapped > 0
    };
    assert!(is_mapped(&db));
    let held = db.get(key(7)).unwrap().unwrap();
    let mut entries = db.iter().unwrap();
    assert_eq!(&*entries.next().unwrap().unwrap().0, key(0).as_bytes());

    db.set_point_reads(PointReads::Pread).unwrap();
    assert!(!is_mapped(&db));
    let error = db.set_advice(terrace::Advice::Normal).unwrap_err().to_string();
    assert!(error.contains("point_reads") && error.contains("advice"), "{error}");
    // Everything is written anew while old readers are there.
    for number in (0..KEYS).step_by(1000) {
        db.put(key(number), [number as u8; 100]).unwrap();
    }
    db.compact_range::<&[u8]>(..).unwrap();
    db.set_point_reads(PointReads::Mmap).unwrap();
    assert!(is_mapped(&db));
    db.set_advice(terrace::Advice::Normal).unwrap();
    let error = db.set_point_reads(PointReads::Pread).unwrap_err().to_string();
    assert!(error.contains("point_reads") && error.contains("advice"), "{error}");
    assert!(is_mapped(&db));
    assert_eq!(*held, [7; 100]);
    assert_eq!(entries.count(), KEYS as usize - 1);
    drop(held);

    db.set_advice(terrace::Advice::Auto).unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for number in (0..KEYS).step_by(3) {
                        assert_eq!(*db.get(key(number)).unwrap().unwrap(), [number as u8; 100]);
                    }
                })
            })
            .collect();
        let mut changes = 0;
        while !readers.iter().all(|reader| reader.is_finished()) {
            let path = if changes % 2 == 0 { PointReads::Pread } else { PointReads::Mmap };
            db.set_point_reads(path).unwrap();
            changes += 1;
        }
        assert!(changes > 1);
    });
    db.set_point_reads(PointReads::Mmap).unwrap();
    // The files of the tables that were merged are gone, with the last that read them.
    db.settle().unwrap();
    let files = OsFileSystem.read_dir(dir.path()).unwrap();
    let files = files.iter().filter(|name| name.ends_with(".sst")).count();
    assert_eq!(files, db.metrics().keyspaces[0].tables);
    db.close().unwrap();
}
