//! What users may rely on. Goal: the public API does what its documentation says, in the corners too. Method: one small
//! test for each promise, over memory where no real file system is needed, each looked at in the memtable, in level 0
//! and settled, where that could matter.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use terrace::{
    Advice, Compression, Cursor, Db, Durability, Error, Health, Iter, Keyspace, KeyspaceOptions, Metrics,
    Options, PointReads, ReadPath, ReadStep, Slice, Snapshot, WriteBatch,
};
use terrace_io::{CrashPolicy, File, FileSystem, Medium, MemoryFileSystem, Region};
use terrace_tests::eventually;
use terrace_tests::twisted::{Twist, Twisted};

fn small(fs: &MemoryFileSystem) -> Options {
    Options::new()
        .memtable_bytes(64 << 10)
        .segment_bytes_max(64 << 10)
        .level_base_bytes(64 << 10)
        .compaction_threads(1)
        .durability(Durability::Buffered)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(64 << 10))
        .file_system(Arc::new(fs.clone()))
}

fn memory_db() -> Db {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let path = format!("/api-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    small(&MemoryFileSystem::new()).open(path).unwrap()
}

/// Runs a check on the same contents in the memtable, flushed, and settled.
fn in_every_place(db: &Db, check: impl Fn(&str)) {
    check("in the memtable");
    db.flush().unwrap();
    check("flushed");
    db.compact_range::<&str>(..).unwrap();
    check("compacted");
}

fn key(entry: Option<terrace::Result<(Slice, Slice)>>) -> Option<String> {
    entry.map(|entry| String::from_utf8(entry.unwrap().0.to_vec()).unwrap())
}

fn keys(iter: impl Iterator<Item = terrace::Result<(Slice, Slice)>>) -> Vec<String> {
    iter.map(|entry| key(Some(entry)).unwrap()).collect()
}

#[test]
fn level_0_is_compacted_when_times_are_quiet() {
    let db = small(&MemoryFileSystem::new()).open("/quiet").unwrap();
    for round in 0..4 {
        (0..100).for_each(|index| db.put(format!("{index:03}"), format!("{round}")).unwrap());
        db.flush().unwrap();
    }
    let level0 = || db.metrics().levels.iter().find(|level| level.level == 0).map_or(0, |level| level.tables);
    assert_eq!(level0(), 4, "while tables come in, more of them are waited for");
    eventually("nobody does anything, and level 0 is compacted", || level0() == 0);
    assert_eq!(db.get("042").unwrap().as_deref(), Some(&b"3"[..]));
}

#[test]
fn handles_can_be_shared_as_promised() {
    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    fn cloned<T: Clone + Send + Sync + 'static>() {}
    cloned::<Db>();
    cloned::<Keyspace>();
    cloned::<Snapshot>();
    cloned::<Slice>();
    cloned::<WriteBatch>();
    cloned::<Options>();
    cloned::<KeyspaceOptions>();
    cloned::<Error>();
    cloned::<Metrics>();
    cloned::<Health>();
    shared::<Slice>();
    sent::<Iter>();
    sent::<Cursor>();
}

#[test]
fn iterators_meet_in_the_middle() {
    let db = memory_db();
    for index in 0..9 {
        db.put(format!("{index}"), "").unwrap();
    }
    db.delete("4").unwrap();
    in_every_place(&db, |place| {
        // Every way of taking turns gives each entry once.
        for turns in 0..256_u32 {
            let mut iter = db.iter().unwrap();
            let (mut front, mut back) = (Vec::new(), Vec::new());
            for turn in 0..8 {
                if turns >> turn & 1 == 0 {
                    front.extend(key(iter.next()));
                } else {
                    back.extend(key(iter.next_back()));
                }
            }
            assert!(iter.next().is_none() && iter.next_back().is_none(), "{place}: {turns:b}");
            assert!(iter.next().is_none(), "it stays at its end");
            back.reverse();
            front.extend(back);
            assert_eq!(front, ["0", "1", "2", "3", "5", "6", "7", "8"], "{place}: {turns:b}");
        }
        assert_eq!(keys(db.range("2".."6").unwrap().rev()), ["5", "3", "2"], "{place}");
        assert_eq!(keys(db.range("2"..="6").unwrap()), ["2", "3", "5", "6"], "{place}");
        let excluded = (Bound::Excluded("2"), Bound::Included("4"));
        assert_eq!(keys(db.range::<&str>(excluded).unwrap()), ["3"], "{place}");
        assert_eq!(keys(db.range::<&str>(excluded).unwrap().rev()), ["3"], "{place}");
        assert_eq!(keys(db.range(.."2").unwrap().rev()), ["1", "0"], "{place}");
        assert_eq!(keys(db.range("77"..).unwrap()), ["8"], "{place}");
        assert_eq!(keys(db.range("4".."5").unwrap()), [""; 0], "{place}: only a deleted key");
    });
}

#[test]
fn prefixes_end_where_they_should() {
    let db = memory_db();
    let contents: [&[u8]; 9] =
        [b"", b"a", b"a\xff", b"a\xff\xff", b"a\xff\xff\x01", b"b", b"\xff", b"\xff\xff", b"\xff\xff\xff"];
    for key in contents {
        db.put(key, "x").unwrap();
    }
    in_every_place(&db, |place| {
        for prefix in
            [&b""[..], b"a", b"a\xff", b"a\xff\xff", b"b", b"c", b"\xff", b"\xff\xff", b"\xff\xff\xff\xff"]
        {
            let mut wanted: Vec<&[u8]> = contents.into_iter().filter(|key| key.starts_with(prefix)).collect();
            let found: Vec<Slice> = db.prefix(prefix).unwrap().map(|entry| entry.unwrap().0).collect();
            assert_eq!(found.iter().map(|key| &**key).collect::<Vec<_>>(), wanted, "{place}: {prefix:?}");
            wanted.reverse();
            let found: Vec<Slice> = db.prefix(prefix).unwrap().rev().map(|entry| entry.unwrap().0).collect();
            assert_eq!(
                found.iter().map(|key| &**key).collect::<Vec<_>>(),
                wanted,
                "{place}: {prefix:?} backward"
            );
        }
    });
}

#[test]
fn cursors_go_anywhere() {
    let db = memory_db();
    for index in (0..100).step_by(2) {
        db.put(format!("{index:02}"), format!("v{index}")).unwrap();
    }
    in_every_place(&db, |place| {
        let mut cursor = db.cursor().unwrap();
        assert!(
            !cursor.valid() && !cursor.next().unwrap() && !cursor.prev().unwrap(),
            "{place}: nowhere yet"
        );
        assert!(cursor.seek_to_first().unwrap() && cursor.key() == b"00", "{place}");
        assert!(!cursor.prev().unwrap() && !cursor.valid(), "{place}: nothing before the first");
        assert!(
            cursor.seek_to_last().unwrap() && cursor.key() == b"98" && cursor.value() == b"v98",
            "{place}"
        );
        assert!(!cursor.next().unwrap(), "{place}: nothing after the last");
        assert!(cursor.seek("51").unwrap() && cursor.key() == b"52", "{place}");
        assert!(cursor.prev().unwrap() && cursor.key() == b"50", "{place}: it turns");
        assert!(cursor.next().unwrap() && cursor.key() == b"52", "{place}: and turns back");
        assert!(cursor.next().unwrap() && cursor.key() == b"54", "{place}");
        assert!(cursor.seek_for_prev("51").unwrap() && cursor.key() == b"50", "{place}");
        assert!(cursor.seek_for_prev("50").unwrap() && cursor.key() == b"50", "{place}");
        assert!(cursor.prev().unwrap() && cursor.key() == b"48", "{place}");
        assert!(!cursor.seek("99").unwrap() && !cursor.valid(), "{place}");
        assert!(!cursor.seek_for_prev("").unwrap(), "{place}");
        assert!(cursor.seek("").unwrap() && cursor.key() == b"00", "{place}");
    });
}

#[test]
fn gets_agree_with_each_other() {
    let db = memory_db();
    let snappy = KeyspaceOptions::new().compression(Compression::Snappy);
    let packed = db.keyspace_with("packed", snappy).unwrap();
    for keyspace in [&*db, &packed] {
        for index in 0..200 {
            keyspace.put(format!("{index:03}"), format!("value {index}").repeat(index)).unwrap();
        }
        keyspace.delete("007").unwrap();
    }
    in_every_place(&db, |place| {
        for keyspace in [&*db, &packed] {
            let asked = ["150", "007", "003", "nothing", "150", "000", ""];
            let many = keyspace.multi_get(asked).unwrap();
            assert_eq!(many.len(), asked.len());
            for (key, found) in asked.iter().zip(&many) {
                assert_eq!(keyspace.get(key).unwrap().as_deref(), found.as_deref(), "{place}: {key}");
                assert_eq!(keyspace.contains_key(key).unwrap(), found.is_some(), "{place}: {key}");
                let with = keyspace.get_with(key, |value| value.to_vec()).unwrap();
                assert_eq!(with.as_deref(), found.as_deref(), "{place}: {key}");
            }
            assert_eq!(many[0].as_deref(), Some("value 150".repeat(150).as_bytes()), "{place}");
            assert_eq!(many[5].as_deref(), Some(&b""[..]), "{place}: an empty value is a value");
            assert!(many[1].is_none() && many[3].is_none(), "{place}");
        }
        assert!(db.multi_get::<&str>([]).unwrap().is_empty());
    });
}

#[test]
fn many_keys_are_got_at_once_from_wherever_they_are() {
    let db = memory_db();
    let key = |index: usize| format!("{index:04}");
    // A third is in the bottom level, a third has newer versions in level 0, a third in the memtable; of those some are
    // gone.
    (0..900).for_each(|index| db.put(key(index), "old").unwrap());
    db.settle().unwrap();
    (0..600).for_each(|index| db.put(key(index), "newer").unwrap());
    (0..600).step_by(7).for_each(|index| db.delete(key(index)).unwrap());
    db.flush().unwrap();
    (0..300).for_each(|index| db.put(key(index), "newest").unwrap());
    (0..300).step_by(5).for_each(|index| db.delete(key(index)).unwrap());
    let expected = |index: usize| match index {
        0..300 => (!index.is_multiple_of(5)).then_some("newest"),
        300..600 => (!index.is_multiple_of(7)).then_some("newer"),
        600..900 => Some("old"),
        _ => None,
    };
    // In no order, and of no round number.
    let indices: Vec<usize> = (0..1001).map(|index| index * 379 % 1001).collect();
    let snapshot = db.snapshot().unwrap();
    for count in [1, 31, 32, 33, 64, 65, 1001] {
        let asked: Vec<String> = indices[..count].iter().map(|&index| key(index)).collect();
        for found in [db.multi_get(&asked).unwrap(), snapshot.multi_get(&db, &asked).unwrap()] {
            assert_eq!(found.len(), count);
            for (&index, found) in indices.iter().zip(&found) {
                assert_eq!(found.as_deref(), expected(index).map(str::as_bytes), "{index} of {count}");
            }
        }
    }
}

#[test]
fn what_was_read_outlives_everything() {
    let home = tempfile::tempdir().unwrap();
    let db = Options::new().open(home.path().join("db")).unwrap();
    let keyspace = db.keyspace("short-lived").unwrap();
    for index in 0..1000 {
        keyspace.put_with(format!("{index:04}"), [index as u8; 100], Durability::Buffered).unwrap();
    }
    db.settle().unwrap();
    keyspace.put("in the memtable", "x").unwrap();
    let value = keyspace.get("0007").unwrap().unwrap();
    let memory = keyspace.get("in the memtable").unwrap().unwrap();
    let mut iter = keyspace.iter().unwrap();
    let backward = keyspace.iter().unwrap().rev();
    let mut cursor = keyspace.cursor().unwrap();
    let first = iter.next().unwrap().unwrap();
    drop(keyspace);
    db.drop_keyspace("short-lived").unwrap();
    assert!(db.metrics().pinned_tables > 0 && db.metrics().pinned_bytes > 100_000, "pins show");
    db.close().unwrap();
    drop(db);
    assert_eq!(
        std::thread::spawn(move || iter.count()).join().unwrap(),
        1000,
        "iterators go on, elsewhere too"
    );
    assert_eq!(backward.count(), 1001);
    assert!(cursor.seek("0500").unwrap() && cursor.value() == [500_usize as u8; 100]);
    drop(cursor);
    assert_eq!((&*value, &*memory, &*first.0), (&[7; 100][..], &b"x"[..], &b"0000"[..]));
    // The files go with their last reader.
    drop((value, memory, first));
    let db = Options::new().open(home.path().join("db")).unwrap();
    let tables = std::fs::read_dir(home.path().join("db")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(tables.filter(|name| name.to_string_lossy().ends_with(".sst")).count(), 0);
    assert_eq!(db.keyspace_names().unwrap(), ["default"]);
}

#[test]
fn snapshots_stand_still() {
    let db = memory_db();
    let other = db.keyspace("other").unwrap();
    let fill = |round: &str| {
        for index in 0..500 {
            db.put(format!("{index:03}"), round).unwrap();
            other.put(format!("{index:03}"), round).unwrap();
        }
    };
    let is_all = |snapshot: &Snapshot, keyspace: &Keyspace, round: &str, what: &str| {
        let entries: Vec<_> = snapshot.iter(keyspace).unwrap().map(Result::unwrap).collect();
        assert_eq!(entries.len(), 500, "{what}");
        assert!(entries.iter().all(|(_, value)| **value == *round.as_bytes()), "{what}");
        assert_eq!(snapshot.get(keyspace, "123").unwrap().as_deref(), Some(round.as_bytes()), "{what}");
        assert_eq!(snapshot.multi_get(keyspace, ["001", "x"]).unwrap().iter().flatten().count(), 1, "{what}");
        assert_eq!(snapshot.range(keyspace, "100".."200").unwrap().rev().count(), 100, "{what}");
        assert_eq!(snapshot.prefix(keyspace, "49").unwrap().count(), 10, "{what}");
        assert!(snapshot.contains_key(keyspace, "499").unwrap(), "{what}");
        assert!(snapshot.cursor(keyspace).unwrap().seek("250").unwrap(), "{what}");
    };
    let empty = db.snapshot().unwrap();
    fill("one");
    let one = db.snapshot().unwrap();
    fill("two");
    db.settle().unwrap();
    let two = db.snapshot().unwrap();
    let copy = two.clone();
    for index in 0..500 {
        db.delete(format!("{index:03}")).unwrap();
    }
    other.clear().unwrap();
    let cleared = db.snapshot().unwrap();
    fill("three");
    db.compact_range::<&str>(..).unwrap();
    other.compact_range::<&str>(..).unwrap();
    let three = db.snapshot().unwrap();
    other.clear().unwrap();
    other.put("after", "x").unwrap();
    db.drop_keyspace("other").unwrap();
    db.settle().unwrap();

    for keyspace in [&*db, &other] {
        let what = keyspace.name();
        is_all(&one, keyspace, "one", what);
        is_all(&two, keyspace, "two", what);
        is_all(&three, keyspace, "three", what);
        assert_eq!(empty.iter(keyspace).unwrap().count(), 0, "{what}");
        assert_eq!(cleared.iter(keyspace).unwrap().count(), 0, "{what}");
    }
    assert!(empty.sequence() < one.sequence() && one.sequence() < two.sequence());
    assert_eq!(db.metrics().snapshots, 5);
    drop((empty, one, two, cleared, three));
    assert_eq!(db.metrics().snapshots, 1, "a clone is the same snapshot");
    is_all(&copy, &db, "two", "the clone");
    drop(copy);
    assert_eq!(db.metrics().snapshots, 0);
    // What only they needed can go now.
    db.compact_range::<&str>(..).unwrap();
    assert_eq!(db.metrics().keyspaces[0].table_entries, 500);
}

#[test]
fn later_operations_of_a_batch_win() {
    let db = memory_db();
    let other = db.keyspace("other").unwrap();
    let mut batch = WriteBatch::new();
    assert!(batch.is_empty());
    batch.put(&db, "key", "first");
    batch.delete(&db, "key");
    batch.put(&db, "key", "last");
    batch.put(&other, "key", "other");
    batch.delete(&other, "key");
    assert_eq!((batch.len(), batch.is_empty()), (5, false));
    assert!(batch.byte_len() > 40);
    db.write(batch.clone()).unwrap();
    db.write(WriteBatch::new()).unwrap();
    in_every_place(&db, |place| {
        assert_eq!(db.get("key").unwrap().as_deref(), Some(&b"last"[..]), "{place}");
        assert!(!other.contains_key("key").unwrap(), "{place}");
    });
    // Batches larger than a memtable and than a segment.
    let mut large = WriteBatch::new();
    for index in 0..3000 {
        large.put(&db, format!("{index:04}"), [b'x'; 100]);
    }
    let bytes = large.byte_len();
    assert!(bytes > 300_000);
    db.write(large).unwrap();
    assert_eq!(db.prefix("2").unwrap().count(), 1000);
}

#[test]
fn keyspaces_are_worlds_of_their_own() {
    let fs = MemoryFileSystem::new();
    let open = || small(&fs).open("/keyspaces").unwrap();
    let db = open();
    let names = ["default", "b", "a", "ünïcode / with spaces\n", "0"];
    for name in &names[1..] {
        db.keyspace(name).unwrap().put("key", name).unwrap();
    }
    db.put("key", "default").unwrap();
    let check = |db: &Db| {
        assert_eq!(db.keyspace_names().unwrap(), names);
        for name in names {
            let keyspace = db.keyspace(name).unwrap();
            assert_eq!(keyspace.name(), name);
            assert_eq!(keyspace.get("key").unwrap().as_deref(), Some(name.as_bytes()), "{name}");
        }
    };
    check(&db);
    drop(db);
    let db = open();
    check(&db);
    db.close().unwrap();
    let db = open();
    check(&db);
    // Dropped and made again: nothing comes back, whatever is in the log.
    let before = db.keyspace("a").unwrap();
    before.put("unflushed", "x").unwrap();
    db.drop_keyspace("a").unwrap();
    db.keyspace("a").unwrap().put("new", "x").unwrap();
    drop((db, before));
    let db = open();
    assert_eq!(keys(db.keyspace("a").unwrap().iter().unwrap()), ["new"]);
    assert_eq!(db.keyspace_names().unwrap().last().unwrap(), "a");
}

#[test]
fn cleared_is_cleared() {
    let fs = MemoryFileSystem::new();
    let open = || small(&fs).open("/clear").unwrap();
    let db = open();
    for round in 0..3 {
        for index in 0..500 {
            db.put(format!("{index:03}"), [b'x'; 100]).unwrap();
        }
        if round > 0 {
            db.settle().unwrap();
        }
        db.clear().unwrap();
        assert_eq!(db.iter().unwrap().count(), 0);
        db.put("after", "x").unwrap();
    }
    drop(db);
    assert_eq!(keys(open().iter().unwrap()), ["after"]);
    let crashed = fs.crash_clone(CrashPolicy::DropUnsynced);
    let db = small(&crashed).open("/clear").unwrap();
    assert!(db.iter().unwrap().count() <= 1, "a clear is durable");
}

#[test]
fn the_interval_makes_buffered_writes_durable() {
    let fs = MemoryFileSystem::new();
    let db = small(&fs).sync_interval(Some(Duration::from_millis(20))).open("/interval").unwrap();
    db.put("key", "value").unwrap();
    let started = Instant::now();
    loop {
        let crashed = fs.crash_clone(CrashPolicy::DropUnsynced);
        let found = small(&crashed).open("/interval").unwrap();
        if found.contains_key("key").unwrap() {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "the interval sync never came");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(db);
    // Without an interval it takes a sync.
    let fs = MemoryFileSystem::new();
    let db = small(&fs).open("/no interval").unwrap();
    let survives = |key: &str| {
        let crashed = fs.crash_clone(CrashPolicy::DropUnsynced);
        small(&crashed).open("/no interval").unwrap().contains_key(key).unwrap()
    };
    db.put("buffered", "").unwrap();
    assert!(!survives("buffered"));
    db.sync().unwrap();
    assert!(survives("buffered"));
    db.put("before", "").unwrap();
    db.put_with("synced", "", Durability::Sync).unwrap();
    assert!(survives("before") && survives("synced"), "a synced write takes those before it along");
}

#[test]
fn a_settled_database_is_small_and_its_sizes_are_known() {
    const RECORDS: u64 = 200_000;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("db");
    let db = Options::new().durability(Durability::Buffered).memtable_bytes(8 << 20).open(&path).unwrap();
    let mut state = 1_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for index in 0..RECORDS {
        // In no order: the number is spread by an odd factor.
        let key = format!("{:016x}", index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let value: Vec<u8> = (0..13).flat_map(|_| random().to_le_bytes()).take(100).collect();
        db.put(key, value).unwrap();
    }
    db.settle().unwrap();
    let on_disk = || {
        let entries: Vec<_> = std::fs::read_dir(&path).unwrap().map(Result::unwrap).collect();
        assert!(
            !entries.iter().any(|entry| entry.file_name().to_string_lossy().ends_with(".log")),
            "no log is left"
        );
        entries.iter().map(|entry| entry.metadata().unwrap().len()).sum::<u64>()
    };
    // Obsolete files go in the background.
    let started = Instant::now();
    while on_disk() > RECORDS * 133 && started.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let bytes = on_disk();
    assert!(bytes <= RECORDS * 133, "{} bytes for a record of 116", bytes as f64 / RECORDS as f64);

    let within = |found: u64, wanted: f64, what: &str| {
        assert!((found as f64 - wanted).abs() <= wanted / 10.0, "{what}: {found}, and should be {wanted}");
    };
    within(db.approximate_size::<&str>(..).unwrap(), bytes as f64, "everything");
    for (from, to) in [("0", "8"), ("4", "5"), ("c8", "c9"), ("f", "g")] {
        let count = db.range(from..to).unwrap().count() as f64;
        within(db.approximate_size(from..to).unwrap(), count * bytes as f64 / RECORDS as f64, from);
    }
    assert_eq!(db.approximate_size("x".."y").unwrap(), 0);

    // The figures add up.
    let metrics = db.metrics();
    assert_eq!(metrics.user_bytes_written, RECORDS * 116);
    assert_eq!((metrics.log_bytes, metrics.compaction_debt_bytes, metrics.memtable_bytes), (0, 0, 0));
    assert_eq!(metrics.keyspaces.iter().map(|keyspace| keyspace.table_entries).sum::<u64>(), RECORDS);
    let level_bytes: u64 = metrics.levels.iter().map(|level| level.bytes).sum();
    assert_eq!(level_bytes, metrics.disk_bytes);
    assert!(bytes - level_bytes < 64 << 10, "beside its tables it has {} bytes", bytes - level_bytes);
    assert!(metrics.flushes >= 2 && metrics.flush_bytes_written > RECORDS * 116);
    assert!(metrics.log_bytes_written > RECORDS * 116);
    assert!(metrics.write_amplification() >= 2.0, "{}", metrics.write_amplification());
    let checks = metrics.locator_checks;
    for index in 0..1000 {
        assert!(!db.contains_key(format!("{index:015}x")).unwrap());
    }
    let metrics = db.metrics();
    assert!(metrics.locator_checks > checks && metrics.locator_negatives > metrics.locator_false_positives);
    assert_eq!(metrics.filter_checks, 0, "a locator spares the filter");
    assert_eq!(metrics.checksum_failures, 0);
    db.close().unwrap();
    let started = Options::new().open(&path).unwrap();
    assert_eq!(started.metrics().user_bytes_written, 0, "totals are since the open");
    assert_eq!(started.iter().unwrap().count() as u64, RECORDS);
}

/// A file system that says where it lies, and counts its mappings.
#[derive(Debug, Clone)]
struct Located {
    medium: Medium,
    mapped: Arc<AtomicU64>,
}

impl Twist for Located {
    fn medium(&self, _: &dyn FileSystem, _: &Path) -> terrace::Result<Medium> {
        Ok(self.medium)
    }

    fn map(&self, file: &dyn File, len: usize) -> terrace::Result<Region> {
        self.mapped.fetch_add(1, Ordering::SeqCst);
        file.map(len)
    }
}

/// A page of a mapping that cannot be read is a signal: over a network that happens, and others who may write to a file
/// can bring it about.
#[test]
fn tables_are_mapped_where_that_is_wanted_and_sound() {
    for (medium, point_reads, is_mapped) in [
        (Medium::Local, PointReads::Auto, true),
        (Medium::Local, PointReads::Mmap, true),
        (Medium::Local, PointReads::Pread, false),
        (Medium::Shared, PointReads::Auto, false),
        (Medium::Shared, PointReads::Mmap, true),
        (Medium::Network, PointReads::Auto, false),
        (Medium::Network, PointReads::Mmap, true),
        (Medium::Network, PointReads::Pread, false),
    ] {
        let located = Located { medium, mapped: Arc::default() };
        let fs = Twisted::new(MemoryFileSystem::new(), located.clone());
        let db = Options::new().point_reads(point_reads).file_system(Arc::new(fs)).open("/located").unwrap();
        db.put("key", [b'x'; 100_000]).unwrap();
        db.flush().unwrap();
        assert_eq!(db.get("key").unwrap().as_deref(), Some(&[b'x'; 100_000][..]));
        assert_eq!(located.mapped.load(Ordering::SeqCst) > 0, is_mapped, "{medium:?}, {point_reads:?}");
    }
}

/// The real thing, with permissions that let anybody write.
#[test]
#[cfg(unix)]
fn tables_that_others_may_write_to_are_not_mapped() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let db = Db::open(&path).unwrap();
    db.put("key", [b'x'; 100_000]).unwrap();
    db.close().unwrap();
    let table = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let table = table.into_iter().find(|path| path.extension().is_some_and(|end| end == "sst")).unwrap();
    let allow = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let read_path = |point_reads| {
        let db = Options::new().point_reads(point_reads).open(&path).unwrap();
        let (value, stats) = db.get_with_stats("key").unwrap();
        assert_eq!(value.as_deref(), Some(&[b'x'; 100_000][..]));
        stats.tables[0].path.unwrap()
    };
    if read_path(PointReads::Auto) != ReadPath::Mapping {
        println!("skipped: the temporary directory is on a network file system, or others may write to it");
        return;
    }
    allow(&table, 0o666);
    assert_eq!(read_path(PointReads::Auto), ReadPath::Pread);
    assert_eq!(read_path(PointReads::Mmap), ReadPath::Mapping);
    allow(&table, 0o644);
    assert_eq!(read_path(PointReads::Auto), ReadPath::Mapping);
    allow(&path, 0o777);
    assert_eq!(read_path(PointReads::Auto), ReadPath::Pread);
}

#[test]
fn advice_without_a_mapping_is_refused() {
    let options = Options::new().point_reads(PointReads::Pread).advice(Advice::Normal);
    let directory = tempfile::tempdir().unwrap();
    let error = options.open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("point_reads") && error.contains("advice"), "{error}");
    let db = Options::new().advice(Advice::Normal).open(directory.path()).unwrap();
    db.put("key", "value").unwrap();
}

#[test]
fn a_get_says_what_it_did() {
    let directory = tempfile::tempdir().unwrap();
    let db = Db::open(directory.path()).unwrap();
    for i in 0..5000 {
        db.put_with(format!("key{i:06}"), [7; 100], Durability::Buffered).unwrap();
    }
    let (value, stats) = db.get_with_stats("key000001").unwrap();
    assert!(value.is_some() && stats.tables.is_empty(), "{stats:?}");
    db.settle().unwrap();
    db.put("key000002", "new").unwrap();
    db.flush().unwrap();
    db.put("key000003", "newer").unwrap();

    let (value, stats) = db.get_with_stats("key000001").unwrap();
    assert_eq!(value.as_deref(), Some(&[7; 100][..]));
    // Level 0 holds one key only, which is another.
    let [table] = &stats.tables[..] else { panic!("{stats:?}") };
    assert_eq!((table.level, table.blocks()), (6, 1));
    assert_eq!(
        table.steps.iter().map(|(step, _)| *step).collect::<Vec<_>>(),
        [ReadStep::Locator, ReadStep::Block]
    );
    assert_eq!(db.get_with_stats("key000002").unwrap().1.tables[0].level, 0);
    assert!(db.get_with_stats("key000003").unwrap().1.tables.is_empty());
    let (value, stats) = db.get_with_stats("no key").unwrap();
    assert!(value.is_none() && stats.tables.is_empty(), "{stats:?}");

    // What is read again costs nothing any more.
    let (_, stats) = db.get_with_stats("key000001").unwrap();
    assert_eq!((stats.data().device_bytes, stats.data().major_faults), (0, 0));
}

/// Locators of 100,000 keys take half a megabyte: an eighth of 4 MiB and more than one of 2.
#[test]
fn gets_go_without_locators_where_memory_is_short() {
    let fs = MemoryFileSystem::new();
    let open = |memory_bytes: Option<u64>| {
        let options = Options::new().durability(Durability::Buffered).file_system(Arc::new(fs.clone()));
        memory_bytes
            .into_iter()
            .fold(options, |options, bytes| options.memory_bytes(bytes))
            .open("/db")
            .unwrap()
    };
    let steps = |db: &Db, key: &str| {
        let (_, stats) = db.get_with_stats(key).unwrap();
        stats.tables.last().unwrap().steps.iter().map(|(step, _)| *step).collect::<Vec<_>>()
    };
    const BY_LOCATOR: [ReadStep; 2] = [ReadStep::Locator, ReadStep::Block];
    const BY_FENCES: [ReadStep; 3] = [ReadStep::Filter, ReadStep::Fences, ReadStep::Block];
    let db = open(Some(4 << 20));
    for i in 0..60_000 {
        db.put(format!("key{i:06}"), "value").unwrap();
    }
    db.settle().unwrap();
    assert_eq!(steps(&db, "key000007"), BY_LOCATOR);
    for i in 60_000..120_000 {
        db.put(format!("key{i:06}"), "value").unwrap();
    }
    // While it is open, with the table that makes it too much.
    db.settle().unwrap();
    assert_eq!(steps(&db, "key000007"), BY_FENCES);
    db.close().unwrap();
    for (memory_bytes, expected) in
        [(Some(2 << 20), &BY_FENCES[..]), (Some(8 << 20), &BY_LOCATOR), (None, &BY_LOCATOR)]
    {
        let db = open(memory_bytes);
        assert_eq!(steps(&db, "key000007"), expected, "{memory_bytes:?}");
        assert!((0..120_000).step_by(97).all(|i| db.contains_key(format!("key{i:06}")).unwrap()));
        assert!(!db.contains_key("key000007?").unwrap());
    }
}

#[test]
fn decompressed_blocks_are_kept_if_they_may_be() {
    for (bytes, hits) in [(0, 0), (1 << 20, 9)] {
        let snappy = KeyspaceOptions::new().compression(Compression::Snappy);
        let options = small(&MemoryFileSystem::new()).block_cache_bytes(bytes);
        let db = options.keyspace_defaults(snappy.table_bytes(64 << 10)).open("/cache").unwrap();
        for index in 0..100 {
            db.put(format!("{index:03}"), [b'x'; 200]).unwrap();
        }
        db.flush().unwrap();
        for _ in 0..10 {
            assert_eq!(db.get("050").unwrap().as_deref(), Some(&[b'x'; 200][..]));
        }
        assert_eq!(db.metrics().cache_hits, hits, "with {bytes} bytes");
    }
}

/// The log keeps what no table has yet: of a keyspace that is hardly ever written that would be for ever.
#[test]
fn a_keyspace_that_is_hardly_written_does_not_keep_the_log() {
    const LOG_BYTES_MAX: u64 = 256 << 10;
    let fs = MemoryFileSystem::new();
    let db = small(&fs).log_bytes_max(LOG_BYTES_MAX).open("/rare").unwrap();
    let rare = db.keyspace("rare").unwrap();
    rare.put("key", "value").unwrap();
    for index in 0..4000 {
        db.put(format!("{index:04}"), [b'x'; 1000]).unwrap();
    }
    eventually("the log is short", || db.metrics().log_bytes <= LOG_BYTES_MAX + (64 << 10));
    // Of 64 segments some are live, and four may be kept to be used again.
    let segments = || fs.read_dir(db.path()).unwrap().iter().filter(|name| name.ends_with(".log")).count();
    eventually("the files of the others go", || segments() < 12);
    assert_eq!(rare.get("key").unwrap().as_deref(), Some(&b"value"[..]));
    let killed = small(&fs.process_kill_clone()).open("/rare").unwrap();
    assert_eq!(killed.keyspace("rare").unwrap().get("key").unwrap().as_deref(), Some(&b"value"[..]));
}

/// Segments are made before a writer needs them, but not for a database that hardly writes.
#[test]
fn log_segments_are_made_ahead_of_need() {
    let fs = MemoryFileSystem::new();
    let db = small(&fs).memtable_bytes(1 << 20).open("/ahead").unwrap();
    let segments = || fs.read_dir(db.path()).unwrap().iter().filter(|name| name.ends_with(".log")).count();
    db.put("few", [b'x'; 1000]).unwrap();
    assert_eq!(segments(), 1);
    for _ in 0..20 {
        db.put("more", [b'x'; 1000]).unwrap();
    }
    eventually("there is the next segment", || segments() == 2);
    assert!(db.metrics().log_bytes_written < 32 << 10, "half of the first one is free");
    // It is not begun before the first one is full.
    while db.metrics().log_bytes_written < 63 << 10 {
        db.put("more", [b'x'; 1000]).unwrap();
    }
    let second = fs.file_bytes(&db.path().join("000002.log")).unwrap();
    assert!(second[64..].iter().all(|byte| *byte == 0), "nothing but its header");
}

#[test]
fn every_read_path_reads_the_same() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("db");
    let open = |reads: PointReads, cache: u64| {
        Options::new().point_reads(reads).block_cache_bytes(cache).open(&path).unwrap()
    };
    let db = open(PointReads::Mmap, 1 << 20);
    let packed = db.keyspace_with("packed", KeyspaceOptions::new().compression(Compression::Snappy)).unwrap();
    for index in 0..5000_u64 {
        for keyspace in [&*db, &packed] {
            keyspace
                .put_with(format!("{index:05}"), format!("{index} ").repeat(20), Durability::Buffered)
                .unwrap();
        }
    }
    db.close().unwrap();
    for reads in [PointReads::Mmap, PointReads::Pread] {
        for cache in [0, 1 << 20] {
            let db = open(reads, cache);
            for name in ["default", "packed"] {
                let keyspace = db.keyspace(name).unwrap();
                for index in (0..5000_u64).step_by(7) {
                    let value = keyspace.get(format!("{index:05}")).unwrap();
                    assert_eq!(
                        value.as_deref(),
                        Some(format!("{index} ").repeat(20).as_bytes()),
                        "{reads:?} {name}"
                    );
                }
                assert_eq!(keyspace.iter().unwrap().count(), 5000);
                assert_eq!(keyspace.iter().unwrap().rev().count(), 5000);
            }
            db.close().unwrap();
        }
    }
}

#[test]
fn large_values_work_everywhere() {
    let fs = MemoryFileSystem::new();
    let open = || small(&fs).open("/large").unwrap();
    let db = open();
    let packed = db.keyspace_with("packed", KeyspaceOptions::new().compression(Compression::Snappy)).unwrap();
    let lengths = [0, 1, 4000, 4079, 4080, 4096, 65_535, 65_536, 70_000, 1 << 20, 5 << 20];
    let value = |len: usize| -> Vec<u8> { (0..len).map(|index| (index % 251) as u8).collect() };
    for keyspace in [&*db, &packed] {
        for len in lengths {
            keyspace.put(format!("{len:08}"), value(len)).unwrap();
        }
        keyspace.put(vec![b'z'; 65_536], value(100)).unwrap();
    }
    let check = |db: &Db, what: &str| {
        for name in ["default", "packed"] {
            let keyspace = db.keyspace(name).unwrap();
            for len in lengths {
                let found = keyspace.get(format!("{len:08}")).unwrap().unwrap();
                assert!(*found == value(len)[..], "{what}: {name}: {len}");
            }
            assert_eq!(keyspace.get(vec![b'z'; 65_536]).unwrap().as_deref(), Some(&value(100)[..]), "{what}");
            let forward: Vec<usize> = keyspace.iter().unwrap().map(|entry| entry.unwrap().1.len()).collect();
            let backward: Vec<usize> =
                keyspace.iter().unwrap().rev().map(|entry| entry.unwrap().1.len()).collect();
            assert_eq!(forward, lengths.into_iter().chain([100]).collect::<Vec<_>>(), "{what}");
            assert!(forward.iter().eq(backward.iter().rev()), "{what}");
        }
    };
    check(&db, "in memory");
    drop((db, packed));
    let db = open();
    check(&db, "recovered");
    db.compact_range::<&str>(..).unwrap();
    db.keyspace("packed").unwrap().compact_range::<&str>(..).unwrap();
    check(&db, "compacted");
}
