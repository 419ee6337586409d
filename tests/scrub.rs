//! Scrub. Goal: a scrub of an open database finds what rots behind the page cache, says so in the health, and is in
//! nobody's way.
//!
//! Method: bytes of live tables are changed on the device, in memory and past the page cache of a real disk, under a
//! file system whose cache never learns of it; a scrub that would take minutes meets tables that go and a database that
//! is closed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use terrace::{Durability, Error, KeyspaceOptions, Options, ScrubOptions, Severity};
use terrace_io::{FaultFileSystem, File, MemoryFileSystem, Operation, Region};
use terrace_tests::filled::{KEYSPACES, contents, fill, flip, options};
use terrace_tests::samples::{dir, names};
use terrace_tests::twisted::{Twist, Twisted};
use terrace_tests::{eventually, skipped};

/// Blocks of the table of the slow scrub.
const BLOCKS: u32 = 1500;

/// Bytes in a second that the slow scrub may read: the metadata of that table at once, the data in a minute and a half.
const SLOW: u64 = 64 << 10;

#[test]
fn a_scrub_finds_what_rots_behind_the_cache() {
    let memory = MemoryFileSystem::new();
    let db = options(Arc::new(memory.clone())).open(dir()).unwrap();
    let written = fill(&db, 4, 8);
    db.settle().unwrap();
    assert_eq!(contents(&db), written.now);
    let clean = db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap();
    assert!(clean.is_ok() && clean.tables > 2 && clean.tables_skipped == 0, "{clean:?}");
    assert!(db.health().is_ok());
    let name = names(&memory, ".sst").remove(0);
    flip(&memory, &name, 5000);
    // What was read before is in memory, and right there.
    assert_eq!(contents(&db), written.now);
    let report = db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    let finding = &report.findings[0];
    assert_eq!(finding.file, dir().join(&name));
    assert!(finding.severity == Severity::Loss && finding.offset.is_some_and(|offset| offset <= 5000));
    assert_eq!(db.health().damaged, report.findings);
    assert!(!db.health().is_ok());
    // Mended, as by a device that had a bad moment: the next scrub says so.
    flip(&memory, &name, 5000);
    assert!(db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap().is_ok());
    assert!(db.health().is_ok());
    // Damage goes with its table.
    flip(&memory, &name, 5000);
    db.scrub(&ScrubOptions::new()).unwrap();
    assert!(!db.health().is_ok());
    for name in KEYSPACES {
        db.keyspace(name).unwrap().clear().unwrap();
    }
    assert!(db.health().is_ok(), "{:?}", db.health());
    db.close().unwrap();
    assert!(matches!(db.scrub(&ScrubOptions::new()), Err(Error::Closed)));
}

#[test]
fn a_scrub_in_the_background_shows_in_health() {
    let memory = MemoryFileSystem::new();
    let options = options(Arc::new(memory.clone())).scrub_interval(Some(Duration::from_millis(10)));
    let db = options.open(dir()).unwrap();
    fill(&db, 4, 4);
    db.settle().unwrap();
    assert!(db.health().is_ok());
    let name = names(&memory, ".sst").remove(0);
    flip(&memory, &name, 100);
    eventually("the scrub finds the damage", || !db.health().damaged.is_empty());
    assert_eq!(db.health().damaged[0].file, dir().join(name));
    db.close().unwrap();
}

/// Once a table has gone, nothing more is read of it or waited for: not even a moment for each of its many blocks,
/// which together would be longer than [`eventually`] waits.
#[test]
fn a_slow_scrub_ends_with_the_database_and_leaves_tables_that_go() {
    let memory = MemoryFileSystem::new();
    let faults = FaultFileSystem::new(Arc::new(memory.clone()));
    let slow = ScrubOptions::new().bytes_per_second(SLOW);
    let db = options(Arc::new(faults.clone()))
        .memtable_bytes(64 << 20)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(64 << 20))
        .open(dir())
        .unwrap();
    let fill = || {
        for number in 0..BLOCKS {
            db.put(format!("key {number:05}"), vec![1; 3500]).unwrap();
        }
        db.flush().unwrap();
        assert_eq!(names(&memory, ".sst").len(), 1);
    };
    // Footer and metadata are behind it, page by page, and some of the data.
    let reads_data = |before: u64| {
        let len = memory.file_bytes(&dir().join(&names(&memory, ".sst")[0])).unwrap().len() as u64;
        let first = 1 + (len - u64::from(BLOCKS) * 4096).div_ceil(4096);
        eventually("the scrub reads data", || faults.calls(Operation::Read) > before + first);
    };
    fill();
    let report = std::thread::scope(|scope| {
        let before = faults.calls(Operation::Read);
        let scrub = scope.spawn(|| db.scrub(&slow).unwrap());
        reads_data(before);
        db.clear().unwrap();
        db.settle().unwrap();
        assert!(names(&memory, ".sst").is_empty(), "its file is gone");
        eventually("the scrub lets go of the table", || scrub.is_finished());
        scrub.join().unwrap()
    });
    assert_eq!((report.tables, report.tables_skipped, report.findings.len()), (0, 1, 0));
    fill();
    let outcome = std::thread::scope(|scope| {
        let before = faults.calls(Operation::Read);
        let scrub = scope.spawn(|| db.scrub(&slow));
        reads_data(before);
        db.close().unwrap();
        scrub.join().unwrap()
    });
    assert!(matches!(outcome, Err(Error::Closed)), "{outcome:?}");
}

/// On a real disk: a byte that is changed past the page cache, where the file system has direct writes.
#[test]
#[cfg(target_os = "linux")]
fn a_scrub_reads_past_a_real_page_cache() {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let home = tempfile::Builder::new().prefix("scrub").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let db = Options::new().open(home.path().join("db")).unwrap();
    for number in 0..2000 {
        db.put_with(format!("key {number:05}"), vec![b'v'; 100], Durability::Buffered).unwrap();
    }
    db.settle().unwrap();
    // Now all of it is in the page cache, and every block was checked.
    assert_eq!(db.iter().unwrap().map(Result::unwrap).count(), 2000);
    assert!(db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap().is_ok());
    let entries = std::fs::read_dir(db.path()).unwrap().map(|entry| entry.unwrap().path());
    let table = entries.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "sst")).unwrap();
    let flag = rustix::fs::OFlags::DIRECT.bits() as i32;
    let direct = match std::fs::OpenOptions::new().read(true).write(true).custom_flags(flag).open(&table) {
        Ok(direct) => direct,
        Err(error) => return skipped("a_scrub_reads_past_a_real_page_cache", error),
    };
    let mut memory = vec![0; 8192];
    let skip = memory.as_ptr().align_offset(4096);
    let page = &mut memory[skip..skip + 4096];
    if let Err(error) = direct.read_at(page, 8192) {
        return skipped("a_scrub_reads_past_a_real_page_cache", error);
    }
    page[2000] ^= 1;
    direct.write_at(page, 8192).unwrap();
    let report = db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!((&report.findings[0].file, report.findings[0].offset), (&table, Some(8192)));
    db.close().unwrap();
}

/// A page cache that never learns what happens on the device: what it holds of some files.
#[derive(Debug, Clone, Default)]
struct Stale(Arc<Mutex<BTreeMap<PathBuf, Vec<u8>>>>);

impl Twist for Stale {
    fn read_at(&self, file: &dyn File, buf: &mut [u8], offset: u64) -> terrace::Result<usize> {
        let cached = self.0.lock().unwrap();
        let Some(cached) = cached.get(file.path()) else { return file.read_at(buf, offset) };
        let rest = cached.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn map(&self, file: &dyn File, len: usize) -> terrace::Result<Region> {
        match self.0.lock().unwrap().get(file.path()) {
            Some(cached) => Ok(Region::from_vec(cached[..len].to_vec())),
            None => file.map(len),
        }
    }
}

#[test]
fn a_scrub_does_not_believe_the_page_cache_and_reads_do_not_believe_it_wrongly() {
    let (memory, stale) = (MemoryFileSystem::new(), Stale::default());
    let options = || options(Arc::new(Twisted::new(memory.clone(), stale.clone())));
    let db = options().open(dir()).unwrap();
    for number in 0..2000 {
        db.put(format!("key {number:05}"), [b'v'; 100]).unwrap();
    }
    db.settle().unwrap();
    db.close().unwrap();
    let table = dir().join(names(&memory, ".sst").remove(0));
    let good = memory.file_bytes(&table).unwrap();
    let mut wrong = good.clone();
    wrong[5000] ^= 1;

    // The device rots under a right page cache: only the scrub can see it.
    stale.0.lock().unwrap().insert(table.clone(), good.clone());
    memory.replace_bytes(&table, wrong.clone()).unwrap();
    let db = options().open(dir()).unwrap();
    assert_eq!(db.iter().unwrap().map(Result::unwrap).count(), 2000);
    let report = db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!((&report.findings[0].file, report.findings[0].offset), (&table, Some(4096)));
    db.close().unwrap();

    // The page cache rots over a right device: reads are right all the same, and it is counted.
    stale.0.lock().unwrap().insert(table.clone(), wrong);
    memory.replace_bytes(&table, good).unwrap();
    let db = options().open(dir()).unwrap();
    for entry in db.iter().unwrap() {
        let (key, value) = entry.unwrap();
        assert_eq!((&*value, db.get(&key).unwrap().as_deref()), (&[b'v'; 100][..], Some(&[b'v'; 100][..])));
    }
    let metrics = db.metrics();
    assert!(metrics.page_cache_disagreements > 0 && metrics.checksum_failures == 0);
    assert!(db.scrub(&ScrubOptions::new().bytes_per_second(0)).unwrap().is_ok());
    db.close().unwrap();
}
