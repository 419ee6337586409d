//! Goal: when the page cache and the device do not agree, the answer is right: bytes that are wrong in memory are read
//! once more past it before they are believed, and that is counted.
//!
//! Method: a database on an ext4 of its own, in a file, on a loop device. It needs root, and is skipped where that is
//! not allowed. The place of a value in that file is found by its bytes. They are changed there, below the file system,
//! and read through it at the moments at which the page cache shall know the wrong ones or the right ones.

#![cfg(unix)]

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use terrace::{Db, Error, Options, PointReads, ScrubOptions};
use terrace_tests::loop_mount::LoopMount;
use terrace_tests::workload::noise;
use terrace_tests::{covered, skipped};

const KEYS: u64 = 2000;

/// The least size of the file system's blocks: a file's bytes lie together so far.
const PIECE_BYTES: usize = 1024;

fn key(index: u64) -> String {
    format!("{index:06}")
}

/// Bytes that come by nowhere else.
fn value(index: u64) -> Vec<u8> {
    noise(index, 200)
}

/// A database on a device whose bytes can be changed behind the file system's back.
struct Fixture {
    mount: LoopMount,
    dir: PathBuf,
    /// A key, and where its value begins in the image.
    index: u64,
    place: u64,
}

impl Fixture {
    fn new(directory: &Path) -> Result<Fixture, String> {
        let mount = LoopMount::new(directory, "ext4")?;
        let dir = mount.point.join("db");
        let db = Db::open(&dir).unwrap();
        for index in 0..KEYS {
            db.put_with(key(index), value(index), terrace::Durability::Buffered).unwrap();
        }
        db.close().unwrap();
        let index = KEYS / 2;
        let (table, at) = find_in_tables(&dir, &value(index)).expect("the value is in a table");
        // The value alone is in the log too, whose blocks are still on the device.
        let start = at / PIECE_BYTES * PIECE_BYTES;
        let bytes = fs::read(table).unwrap();
        drop(db);
        mount.unmount().unwrap();
        let place =
            find_piece(&mount.image, &bytes[start..start + PIECE_BYTES]).expect("the table is in the image");
        let place = place + (at - start) as u64;
        Ok(Fixture { mount, dir, index, place })
    }

    /// Changes the first byte of the value on the device, or changes it back. The device reads its file through the
    /// cache of the file system that it lies on, so that this is there at once.
    fn flip(&self) {
        let image = OpenOptions::new().read(true).write(true).open(&self.mount.image).unwrap();
        let mut byte = [0];
        image.read_exact_at(&mut byte, self.place).unwrap();
        image.write_all_at(&[byte[0] ^ 0x10], self.place).unwrap();
        image.sync_all().unwrap();
    }

    /// Mounts it, and lets the page cache know the tables as they are on the device now.
    fn mount_and_read(&self) {
        self.mount.mount().unwrap();
        for entry in fs::read_dir(&self.dir).unwrap() {
            fs::read(entry.unwrap().path()).unwrap();
        }
    }

    fn unmount(&self) {
        self.mount.unmount().unwrap();
    }

    fn open(&self, point_reads: PointReads) -> Db {
        Options::new().point_reads(point_reads).open(&self.dir).unwrap()
    }

    /// Whether the page cache has the value.
    fn is_right_in_cache(&self) -> bool {
        find_in_tables(&self.dir, &value(self.index)).is_some()
    }
}

/// The table that holds bytes, and where in it. By plain reads, so that it is the page cache that is asked.
fn find_in_tables(dir: &Path, wanted: &[u8]) -> Option<(PathBuf, usize)> {
    let tables = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut tables = tables.filter(|path| path.extension().is_some_and(|extension| extension == "sst"));
    tables.find_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(wanted.len()).position(|window| window == wanted)?;
        Some((path, at))
    })
}

/// Where a piece begins in an image, in which pieces lie at multiples of their size.
fn find_piece(image: &Path, wanted: &[u8]) -> Option<u64> {
    let mut image = BufReader::with_capacity(1 << 20, File::open(image).unwrap());
    let mut piece = vec![0; PIECE_BYTES];
    (0..).map(|number| number * PIECE_BYTES as u64).find_map(|at| match image.read_exact(&mut piece) {
        Ok(()) => (piece == wanted).then_some(Some(at)),
        Err(_) => Some(None),
    })?
}

/// Everything is there and right, in every way of reading.
fn assert_whole(db: &Db) {
    for index in 0..KEYS {
        assert!(db.get(key(index)).unwrap().as_deref() == Some(&value(index)[..]), "{index}");
    }
    let mut scanned = 0;
    for (index, entry) in (0..).zip(db.iter().unwrap()) {
        let (found, content) = entry.unwrap();
        assert!(*found == *key(index).as_bytes() && *content == value(index)[..], "{index}");
        scanned += 1;
    }
    assert_eq!(scanned, KEYS);
}

#[test]
fn what_the_page_cache_has_wrong_is_read_past_it() {
    const TEST: &str = "what_the_page_cache_has_wrong_is_read_past_it";
    let directory = tempfile::tempdir().unwrap();
    let fixture = match Fixture::new(directory.path()) {
        Ok(fixture) => fixture,
        Err(why) => return skipped(TEST, format_args!("a file system on a loop device: {why}")),
    };
    let ways = [PointReads::Mmap, PointReads::Pread];

    // Wrong in memory, right on the device.
    fixture.flip();
    fixture.mount_and_read();
    fixture.flip();
    for way in ways {
        assert!(!fixture.is_right_in_cache(), "the page cache has the wrong bytes");
        let db = fixture.open(way);
        assert_whole(&db);
        let metrics = db.metrics();
        assert!(metrics.page_cache_disagreements > 0, "{way:?}: it is counted");
        assert_eq!(metrics.checksum_failures, 0, "{way:?}: nothing is damaged");
        assert!(db.scrub(&ScrubOptions::default()).unwrap().findings.is_empty(), "{way:?}");
        assert!(db.health().is_ok(), "{way:?}");
        db.close().unwrap();
    }
    fixture.unmount();

    // Right in memory, wrong on the device: the scrub's to find.
    fixture.mount_and_read();
    fixture.flip();
    for way in ways {
        assert!(fixture.is_right_in_cache(), "the page cache has the right bytes");
        let db = fixture.open(way);
        assert!(db.get(key(fixture.index)).unwrap().as_deref() == Some(&value(fixture.index)[..]));
        let metrics = db.metrics();
        assert_eq!((metrics.page_cache_disagreements, metrics.checksum_failures), (0, 0), "{way:?}");
        let report = db.scrub(&ScrubOptions::default()).unwrap();
        assert_eq!(report.findings.len(), 1, "{way:?}: the scrub reads past the page cache");
        db.close().unwrap();
    }
    fixture.unmount();

    // Wrong in both.
    fixture.mount_and_read();
    for way in ways {
        let db = fixture.open(way);
        let error = db.get(key(fixture.index)).unwrap_err();
        assert!(matches!(error, Error::Corruption { .. }), "{error}");
        let metrics = db.metrics();
        assert_eq!(metrics.page_cache_disagreements, 0, "{way:?}");
        assert!(metrics.checksum_failures > 0, "{way:?}");
        db.close().unwrap();
    }
    fixture.unmount();
    covered(TEST, format_args!("3 disagreements in {} ways of reading", ways.len()));
}
