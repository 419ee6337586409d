//! The asynchronous API. Goal: it does what the blocking one does, and whoever polls it never waits for a disk. Method:
//! random operations on a runtime of one thread, compared with a map, over a file system that notes every read, write
//! and sync of that thread; files that hold up whoever reads or syncs them, with a look at what goes on meanwhile; cold
//! tables on a real disk, with the system's count of what the thread has read; and a heartbeat beside thousands of slow
//! reads, compared with one beside nothing.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{Thread, ThreadId};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus as Random;
use terrace::{
    AsyncDb, AsyncIter, AsyncKeyspace, Db, Durability, Error, IfResident, KeyspaceOptions, Options,
    PointReads, Slice, WriteBatch,
};
use terrace_io::{Advice, File, FileSystem, MemoryFileSystem, OpenMode, OsFileSystem, ThreadUsage};
use terrace_tests::faulty::watched as patiently;
use terrace_tests::twisted::{Twist, Twisted};
use terrace_tests::{Trace, covered, eventually, seeds, skipped};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, yield_now};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// A runtime of one thread, without timers or I/O.
fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

/// Files that note who waits for them, and hold up whoever does while they are shut.
#[derive(Debug, Clone, Default)]
struct Watched(Arc<Watch>);

#[derive(Debug, Default)]
struct Watch {
    /// The thread that must not read, write or sync.
    reactor: Mutex<Option<ThreadId>>,
    /// What it has done nevertheless.
    trespasses: Mutex<Vec<String>>,
    are_reads_shut: Mutex<bool>,
    are_syncs_shut: Mutex<bool>,
    opened: Condvar,
    reads: AtomicUsize,
    held_up: AtomicUsize,
    read_time: Mutex<Duration>,
    syncs: AtomicUsize,
}

impl Watch {
    fn note(&self, what: &str, path: &Path) {
        if *self.reactor.lock().unwrap() == Some(std::thread::current().id()) {
            self.trespasses.lock().unwrap().push(format!("{what} {}", path.display()));
        }
    }

    fn pass(&self, gate: &Mutex<bool>) {
        let mut is_shut = gate.lock().unwrap();
        self.held_up.fetch_add(1, Ordering::SeqCst);
        while *is_shut {
            is_shut = self.opened.wait(is_shut).unwrap();
        }
        self.held_up.fetch_sub(1, Ordering::SeqCst);
    }

    fn set(&self, gate: &Mutex<bool>, is_shut: bool) {
        *gate.lock().unwrap() = is_shut;
        self.opened.notify_all();
    }

    /// From here on, this thread must not wait for files.
    fn is_reactor(&self) {
        *self.reactor.lock().unwrap() = Some(std::thread::current().id());
    }

    #[track_caller]
    fn assert_no_trespass(&self) {
        let trespasses = self.trespasses.lock().unwrap();
        assert!(trespasses.is_empty(), "the thread that polls has waited for files: {trespasses:?}");
    }
}

impl Twist for Watched {
    fn open(&self, fs: &dyn FileSystem, path: &Path, mode: OpenMode) -> terrace::Result<Arc<dyn File>> {
        self.0.note("open", path);
        fs.open(path, mode)
    }

    fn read_at(&self, file: &dyn File, buf: &mut [u8], offset: u64) -> terrace::Result<usize> {
        self.0.note("read", file.path());
        if file.path().extension().is_some_and(|extension| extension == "sst") {
            self.0.reads.fetch_add(1, Ordering::SeqCst);
            self.0.pass(&self.0.are_reads_shut);
            let read_time = *self.0.read_time.lock().unwrap();
            if !read_time.is_zero() {
                std::thread::sleep(read_time);
            }
        }
        file.read_at(buf, offset)
    }

    fn write_at(&self, file: &dyn File, buf: &[u8], offset: u64) -> terrace::Result<usize> {
        self.0.note("write", file.path());
        file.write_at(buf, offset)
    }

    fn sync(&self, file: &dyn File) -> terrace::Result<()> {
        self.0.note("sync", file.path());
        self.0.syncs.fetch_add(1, Ordering::SeqCst);
        self.0.pass(&self.0.are_syncs_shut);
        file.sync()
    }
}

/// A file system in memory whose files are watched, and options for small tables there that are read by `pread`, block
/// by block, with no cache.
fn watched() -> (Arc<Watch>, Options) {
    let watched = Watched::default();
    let fs = Twisted::new(MemoryFileSystem::new(), watched.clone());
    let options = Options::new()
        .file_system(Arc::new(fs))
        .point_reads(PointReads::Pread)
        .block_cache_bytes(0)
        .segment_bytes_max(64 << 10)
        .memtable_bytes(64 << 10)
        .l0_trigger(2)
        .keyspace_defaults(KeyspaceOptions::new().table_bytes(64 << 10));
    (watched.0, options)
}

fn key(number: u64) -> Vec<u8> {
    format!("key {number:06}").into_bytes()
}

fn value(number: u64) -> Vec<u8> {
    format!("{number:06} {}", "x".repeat(100)).into_bytes()
}

/// Fills tables with this many records.
async fn fill(db: &AsyncDb, count: u64) {
    let mut batch = WriteBatch::new();
    (0..count).for_each(|number| batch.put(db.blocking(), key(number), value(number)));
    db.write_with(batch, Durability::Buffered).await.unwrap();
    db.settle().await.unwrap();
}

/// Polls a future once.
async fn poll_once<T>(mut future: impl Future<Output = T> + Unpin) -> Option<T> {
    poll_fn(|context| match std::pin::Pin::new(&mut future).poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

async fn collect(mut entries: AsyncIter) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(entry) = entries.next().await {
        let (key, value) = entry.unwrap();
        all.push((key.to_vec(), value.to_vec()));
    }
    all
}

fn entries<'m>(map: impl Iterator<Item = (&'m Vec<u8>, &'m Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    map.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Takes entries of a stream from both ends, in turns that are drawn, as they would be taken of the list of them.
async fn check_both_ends(random: &mut Random, mut stream: AsyncIter, expected: Vec<(Vec<u8>, Vec<u8>)>) {
    let mut expected = expected.into_iter();
    let (steps, mut from_back) = (random.random_range(0..2 * expected.len() + 3), false);
    for _ in 0..steps {
        if random.random_range(0..20) == 0 {
            from_back = !from_back;
        }
        let (found, wanted) = match from_back {
            false => (stream.next().await, expected.next()),
            true => (stream.next_back().await, expected.next_back()),
        };
        let found = found.map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap());
        assert_eq!(found, wanted, "from the back: {from_back}");
    }
}

/// One random operation, on the database and on the map.
async fn step(random: &mut Random, db: &AsyncDb, keyspace: &AsyncKeyspace, map: &mut Map, trace: &mut Trace) {
    let number = random.random_range(0..800);
    let what = random.random_range(0..16);
    trace.step(format!("{what}, {number}"));
    match what {
        0..=3 => {
            let (key, value) = (key(number), value(random.random_range(0..1_000_000)));
            let durability =
                if random.random_range(0..4) == 0 { Durability::Sync } else { Durability::Buffered };
            keyspace.put_with(&key, &value, durability).await.unwrap();
            map.insert(key, value);
        }
        4 => {
            keyspace.delete_with(key(number), Durability::Buffered).await.unwrap();
            map.remove(&key(number));
        }
        5 => {
            let mut batch = WriteBatch::new();
            for number in number..number + random.random_range(0..200) {
                batch.put(keyspace.blocking(), key(number), value(number));
                map.insert(key(number), value(number));
            }
            db.write_with(batch, Durability::Buffered).await.unwrap();
        }
        6..=8 => {
            let found = keyspace.get(key(number)).await.unwrap();
            assert_eq!(found.as_deref(), map.get(&key(number)).map(Vec::as_slice));
            assert_eq!(keyspace.contains_key(key(number)).await.unwrap(), map.contains_key(&key(number)));
        }
        9 => {
            let keys: Vec<_> = (number..number + random.random_range(0..60)).map(key).collect();
            let found = keyspace.multi_get(&keys).await.unwrap();
            let found: Vec<Option<Vec<u8>>> =
                found.into_iter().map(|value| value.map(|value| value.to_vec())).collect();
            assert_eq!(found, keys.iter().map(|key| map.get(key).cloned()).collect::<Vec<_>>());
        }
        10 => assert_eq!(collect(keyspace.iter().unwrap()).await, entries(map.iter())),
        11 => {
            let (from, to) = (key(number), key(number + random.random_range(0..300)));
            let stream = keyspace.range(from.clone()..to.clone()).unwrap();
            check_both_ends(random, stream, entries(map.range(from..to))).await;
        }
        12 => {
            let prefix = &key(number)[..8];
            let expected = entries(map.iter().filter(|(key, _)| key.starts_with(prefix)));
            let mut rev = keyspace.prefix(prefix).unwrap().rev();
            for (wanted, _) in expected.iter().rev() {
                assert_eq!(rev.next().await.unwrap().unwrap().0, *wanted);
            }
            assert!(rev.next().await.is_none());
        }
        13 => {
            let (snapshot, before) = (db.snapshot().unwrap(), map.get(&key(number)).cloned());
            keyspace.put_with(key(number), "new", Durability::Buffered).await.unwrap();
            map.insert(key(number), b"new".to_vec());
            assert_eq!(snapshot.get(keyspace, key(number)).await.unwrap().as_deref(), before.as_deref());
            assert_eq!(snapshot.contains_key(keyspace, key(number)).await.unwrap(), before.is_some());
        }
        14 => db.flush().await.unwrap(),
        _ => keyspace.compact_range(key(number)..).await.unwrap(),
    }
}

/// The same answers as a map has, on a runtime of one thread which never touches a file, from open to close and drop.
#[test]
fn it_answers_as_a_map_does_and_the_polling_thread_touches_no_file() {
    for seed in seeds(8) {
        let mut trace = Trace::new("asynchronous", seed);
        let random = &mut Random::seed_from_u64(seed);
        let (watch, options) = watched();
        watch.is_reactor();
        runtime().block_on(async {
            let db = AsyncDb::open_with(options.clone(), "/db").await.unwrap();
            let other = db.keyspace("other").await.unwrap();
            let (mut map, mut other_map) = (Map::new(), Map::new());
            for _ in 0..250 {
                if random.random_range(0..3) == 0 {
                    step(random, &db, &other, &mut other_map, &mut trace).await;
                } else {
                    step(random, &db, &db, &mut map, &mut trace).await;
                }
            }
            db.sync().await.unwrap();
            if random.random_range(0..2) == 0 {
                db.close().await.unwrap();
                assert!(matches!(db.get("key").await, Err(Error::Closed)));
                assert!(matches!(db.put("key", "").await, Err(Error::Closed)));
            }
            drop((db, other));
            let db = AsyncDb::open_with(options.clone(), "/db").await.unwrap();
            let other = db.find_keyspace("other").unwrap().unwrap();
            assert_eq!(collect(db.iter().unwrap()).await, entries(map.iter()));
            assert_eq!(collect(other.iter().unwrap()).await, entries(other_map.iter()));
            assert!(db.metrics().await.unwrap().keyspaces.len() == 2 && db.health().poisoned.is_none());
            db.drop_keyspace("other").await.unwrap();
            assert!(matches!(other.get("key").await, Err(Error::KeyspaceDropped { .. })));
            assert!(matches!(other.put("key", "").await, Err(Error::KeyspaceDropped { .. })));
        });
        watch.assert_no_trespass();
        covered("asynchronous", format!("seed {seed}, {} table reads", watch.reads.load(Ordering::SeqCst)));
    }
}

/// While every read of a table is held up, whatever needs none goes on, on the only thread there is; and no more threads
/// wait than may.
#[test]
fn reads_that_wait_hold_up_nobody_else() {
    patiently("reads that wait hold up nobody else", || {
        let (watch, options) = watched();
        runtime().block_on(async {
            let db = AsyncDb::open_with(options, "/db").await.unwrap();
            fill(&db, 2_000).await;
            let db = AsyncDb::with_cold_reads(db.blocking().clone(), 3);
            db.get(key(0)).await.unwrap();
            watch.is_reactor();
            watch.set(&watch.are_reads_shut, true);
            let mut gets = JoinSet::new();
            for number in 0..1_000 {
                let db = db.clone();
                gets.spawn(async move { (number, db.get(key(number)).await.unwrap()) });
            }
            for number in 1_000..1_010 {
                let db = db.clone();
                gets.spawn(async move {
                    let found = db.multi_get([key(number)]).await.unwrap().pop().unwrap();
                    assert!(db.contains_key(key(number)).await.unwrap());
                    (number, found)
                });
            }
            yield_now().await;
            eventually("three threads wait", || watch.held_up.load(Ordering::SeqCst) == 3);
            assert!(poll_once(pin!(gets.join_next())).await.is_none(), "no get can be done");
            // What is in memory, and all kinds of writes.
            db.put("new", "value").await.unwrap();
            assert_eq!(db.get("new").await.unwrap().as_deref(), Some(&b"value"[..]));
            assert_eq!(db.blocking().get_if_resident(key(0)).unwrap(), IfResident::WouldWait);
            let snapshot = db.snapshot().unwrap();
            assert_eq!(
                snapshot.blocking().get_if_resident(db.blocking(), key(0)).unwrap(),
                IfResident::WouldWait
            );
            assert!(snapshot.get(&db, "new").await.unwrap().is_some());
            assert_eq!(watch.held_up.load(Ordering::SeqCst), 3);
            watch.set(&watch.are_reads_shut, false);
            let mut done = 0;
            while let Some(got) = gets.join_next().await {
                let (number, found) = got.unwrap();
                assert_eq!(found.as_deref(), Some(&*value(number)));
                done += 1;
            }
            assert_eq!(done, 1_010);
        });
        watch.assert_no_trespass();
    });
}

/// While every sync is held up: buffered writes and reads go on, synced ones wait; then they share few syncs.
#[test]
fn writes_join_groups_and_wait_for_no_sync_but_their_own() {
    patiently("writes join groups and wait for no sync but their own", || {
        let (watch, options) = watched();
        runtime().block_on(async {
            let db = AsyncDb::open_with(options.segment_bytes_max(8 << 20).memtable_bytes(8 << 20), "/db")
                .await
                .unwrap();
            // A segment of the log is synced when it is made, and nobody writes meanwhile.
            db.put("first", "").await.unwrap();
            watch.is_reactor();
            watch.set(&watch.are_syncs_shut, true);
            let mut puts = JoinSet::new();
            let begun = Arc::new(AtomicUsize::new(0));
            for number in 0..1_000 {
                let (db, begun) = (db.clone(), begun.clone());
                puts.spawn(async move {
                    begun.fetch_add(1, Ordering::SeqCst);
                    db.put(key(number), value(number)).await
                });
            }
            while begun.load(Ordering::SeqCst) < 1_000 {
                yield_now().await;
            }
            eventually("a sync is held up", || watch.held_up.load(Ordering::SeqCst) > 0);
            assert!(poll_once(pin!(puts.join_next())).await.is_none(), "no synced put can be done");
            db.put_with("buffered", "put", Durability::Buffered).await.unwrap();
            db.delete_with("buffered", Durability::Buffered).await.unwrap();
            assert!(!db.contains_key("buffered").await.unwrap());
            let before = watch.syncs.load(Ordering::SeqCst);
            watch.set(&watch.are_syncs_shut, false);
            while let Some(put) = puts.join_next().await {
                put.unwrap().unwrap();
            }
            let syncs = watch.syncs.load(Ordering::SeqCst) - before;
            assert!(syncs <= 20, "{syncs} syncs for 1,000 puts");
            covered("asynchronous writes", format!("1,000 puts, {syncs} more syncs"));
            assert_eq!(collect(db.iter().unwrap()).await.len(), 1_001);
        });
        watch.assert_no_trespass();
    });
}

/// A write that was never polled has not happened; one that was polled happens, and completely. Reads leave nothing.
#[test]
fn a_dropped_future_has_done_nothing_or_everything() {
    patiently("a dropped future has done nothing or everything", || {
        let (watch, options) = watched();
        runtime().block_on(async {
            let db = AsyncDb::open_with(options.clone(), "/db").await.unwrap();
            fill(&db, 2_000).await;
            let batch = |first: u64| {
                let mut batch = WriteBatch::new();
                (first..first + 100).for_each(|number| batch.put(db.blocking(), key(number), "batch"));
                batch
            };
            watch.set(&watch.are_syncs_shut, true);
            drop(db.write(batch(10_000)));
            assert!(poll_once(Box::pin(db.write(batch(20_000)))).await.is_none());
            assert!(poll_once(Box::pin(db.put(key(30_000), "put"))).await.is_none());
            watch.set(&watch.are_syncs_shut, false);
            // Behind them in the same lane.
            db.put("last", "").await.unwrap();
            assert_eq!(collect(db.range(key(10_000)..key(20_000)).unwrap()).await.len(), 0);
            assert_eq!(collect(db.range(key(20_000)..key(30_000)).unwrap()).await.len(), 100);
            assert!(db.contains_key(key(30_000)).await.unwrap());

            // Reads that wait for a thread are not done at all once nobody wants them.
            let db = AsyncDb::with_cold_reads(db.blocking().clone(), 1);
            db.settle().await.unwrap();
            db.get(key(0)).await.unwrap();
            watch.set(&watch.are_reads_shut, true);
            for number in 0..100 {
                assert!(poll_once(Box::pin(db.get(key(number)))).await.is_none());
            }
            let mut stream = db.iter().unwrap();
            assert!(poll_once(Box::pin(stream.next())).await.is_none());
            eventually("one is held up", || watch.held_up.load(Ordering::SeqCst) == 1);
            let before = watch.reads.load(Ordering::SeqCst);
            watch.set(&watch.are_reads_shut, false);
            // The stream's future was dropped too, but the stream goes on where it was.
            assert_eq!(stream.next().await.unwrap().unwrap().0, key(0));
            assert_eq!(stream.next().await.unwrap().unwrap().0, key(1));
            let reads = watch.reads.load(Ordering::SeqCst) - before;
            assert!(reads < 10, "{reads} reads for a chunk of 16 entries, and gets that nobody wants");
            drop(stream);
            let before = watch.reads.load(Ordering::SeqCst);
            db.run(|_| Ok(())).await.unwrap();
            assert_eq!(watch.reads.load(Ordering::SeqCst), before, "a stream that is gone reads nothing");
        });
    });
}

/// The last handle goes on the thread that polls, with reads and writes under way.
#[test]
fn dropping_everything_waits_for_nothing_and_loses_nothing() {
    patiently("dropping everything waits for nothing and loses nothing", || {
        let (watch, options) = watched();
        runtime().block_on(async {
            let db = AsyncDb::open_with(options.clone(), "/db").await.unwrap();
            fill(&db, 1_000).await;
            db.get(key(0)).await.unwrap();
            watch.is_reactor();
            watch.set(&watch.are_reads_shut, true);
            watch.set(&watch.are_syncs_shut, true);
            let mut tasks = JoinSet::new();
            for number in 0..50 {
                let (reader, writer) = (db.clone(), db.clone());
                tasks.spawn(async move { drop(reader.get(key(number)).await) });
                tasks.spawn(async move { drop(writer.put(key(2_000 + number), "").await) });
            }
            // Some dozens of tasks are polled before this one is again.
            for _ in 0..10 {
                yield_now().await;
            }
            tasks.shutdown().await;
            drop((db, tasks));
            watch.assert_no_trespass();
            watch.set(&watch.are_reads_shut, false);
            watch.set(&watch.are_syncs_shut, false);
            // What is under way has a handle still.
            let db = loop {
                match AsyncDb::open_with(options.clone(), "/db").await {
                    Err(Error::Locked { .. }) => yield_now().await,
                    opened => break opened.unwrap(),
                }
            };
            assert_eq!(collect(db.iter().unwrap()).await.len(), 1_050, "all were polled once");
            watch.assert_no_trespass();
        });
    });
}

/// Nothing of it needs a runtime: whoever polls will do.
#[test]
fn any_executor_will_do() {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let (_, options) = watched();
    let all = async {
        let db = AsyncDb::open_with(options, "/db").await.unwrap();
        fill(&db, 500).await;
        for number in 0..500 {
            assert_eq!(db.get(key(number)).await.unwrap().as_deref(), Some(&*value(number)));
        }
        assert_eq!(collect(db.iter().unwrap()).await.len(), 500);
        db.close().await.unwrap();
    };
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut all = pin!(all);
    while all.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        std::thread::park();
    }
}

#[test]
fn a_reader_beside_a_writer_follows_it() {
    let (_, options) = watched();
    runtime().block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let db = AsyncDb::open(directory.path()).await.unwrap();
        db.put("a", "1").await.unwrap();
        let reader = AsyncDb::open_read_only(directory.path()).await.unwrap();
        db.put("a", "2").await.unwrap();
        assert_eq!(reader.get("a").await.unwrap().as_deref(), Some(&b"1"[..]));
        assert!(reader.refresh().await.unwrap());
        assert_eq!(reader.get("a").await.unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(collect(reader.iter().unwrap()).await.len(), 1);
        // The errors of the blocking API.
        assert!(matches!(AsyncDb::open(directory.path()).await, Err(Error::Locked { .. })));
        assert!(matches!(db.put(vec![0; 70_000], "").await, Err(Error::InvalidArgument(_))));
        assert!(matches!(db.range("b".."a"), Err(Error::InvalidArgument(_))));
        let other = AsyncDb::open_with(options, "/db").await.unwrap();
        let mut batch = WriteBatch::new();
        batch.put(db.blocking(), "a", "3");
        assert!(matches!(other.write(batch).await, Err(Error::InvalidArgument(_))));
        assert!(matches!(db.snapshot().unwrap().get(&other, "a").await, Err(Error::InvalidArgument(_))));
    });
}

/// A closed database on a real disk, of which nothing is in memory; `None` if the system does not forget it.
fn cold(directory: &Path, count: u64) -> Option<()> {
    let db = Db::open(directory).unwrap();
    for number in 0..count {
        db.put_with(key(number), value(number), Durability::Buffered).unwrap();
    }
    db.settle().unwrap();
    db.close().unwrap();
    let mut has_forgotten = true;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let synced = std::fs::File::open(&path).unwrap();
        synced.sync_all().unwrap();
        let len = synced.metadata().unwrap().len();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let file = OsFileSystem.open(&path, OpenMode::Read).unwrap();
            file.advise(Advice::DontNeed, 0, len);
            has_forgotten &= file.map(len as usize).unwrap().resident_bytes() == Some(0);
        }
    }
    has_forgotten.then_some(())
}

/// Mapped tables on a real disk: gets of the thread that polls read nothing from the device, by the system's count, while
/// the same gets of the blocking API do.
#[test]
#[cfg(target_os = "linux")]
fn gets_of_cold_tables_read_nothing_on_the_polling_thread() {
    const RECORDS: u64 = 40_000;
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let numbers = || (0..RECORDS).step_by(37);
    for point_reads in [PointReads::Mmap, PointReads::Pread] {
        let _ = std::fs::remove_dir_all(directory.path());
        if cold(directory.path(), RECORDS).is_none() {
            skipped("cold gets", "this file system keeps its pages in memory");
            return;
        }
        let options = || Options::new().point_reads(point_reads).block_cache_bytes(0);
        let (unknown, read_bytes, faults) = runtime().block_on(async {
            let db = AsyncDb::open_with(options(), directory.path()).await.unwrap();
            // The table is opened, and nothing else.
            db.get(key(0)).await.unwrap();
            let before = ThreadUsage::now();
            let unknown = numbers()
                .filter(|number| {
                    db.blocking().get_if_resident(key(*number)).unwrap() == IfResident::WouldWait
                })
                .count();
            let mut gets = JoinSet::new();
            for number in numbers() {
                let db = db.clone();
                gets.spawn(async move {
                    assert_eq!(db.get(key(number)).await.unwrap().as_deref(), Some(&*value(number)));
                });
            }
            while let Some(got) = gets.join_next().await {
                got.unwrap();
            }
            let used = ThreadUsage::now().since(before);
            // Once read, all of them are there, and are seen to be there.
            let known = |number: u64| db.blocking().get_if_resident(key(number)).unwrap().resident();
            let missing: Vec<u64> = numbers()
                .filter(|&number| known(number).is_none_or(|found| found.as_deref() != Some(&*value(number))))
                .collect();
            if point_reads == PointReads::Mmap || reads_without_waiting(directory.path()) {
                assert!(missing.len() < 20, "{} of {} are not known", missing.len(), numbers().count());
            }
            db.close().await.unwrap();
            (unknown, used.device_bytes, used.major_faults)
        });
        let gets = numbers().count();
        covered(
            "cold gets",
            format!("{point_reads:?}: {unknown} of {gets} unknown, {read_bytes} B, {faults} faults"),
        );
        assert!(unknown > gets / 2, "{unknown} of {gets} were not in memory");
        // Code of the test itself may have to be read. To ask by `RWF_NOWAIT` for what is not there starts reading it.
        assert!(faults < 10, "{faults} faults");
        assert!(point_reads != PointReads::Mmap || read_bytes < 2 << 20, "{read_bytes} B");
        if point_reads == PointReads::Mmap {
            cold(directory.path(), RECORDS);
            let db = options().open(directory.path()).unwrap();
            let before = ThreadUsage::now();
            numbers().for_each(|number| drop(db.get(key(number)).unwrap()));
            let used = ThreadUsage::now().since(before);
            assert!(used.major_faults > 100, "blocking gets wait: {used:?}");
        }
    }
}

#[cfg(target_os = "linux")]
fn reads_without_waiting(directory: &Path) -> bool {
    terrace_io::FileSystemCapabilities::of_dir(directory).is_ok_and(|able| able.nowait_reads.is_yes())
}

/// What is not to be known inline is not: tables that were not opened, and large values.
#[test]
fn what_is_resident_is_said_to_be() {
    let directory = tempfile::tempdir().unwrap();
    let db = Db::open(directory.path()).unwrap();
    let (small, large) = (vec![1; 1_000], vec![2; 1 << 20]);
    db.put("small", &small).unwrap();
    db.put("large", &large).unwrap();
    db.put("deleted", "").unwrap();
    db.delete("deleted").unwrap();
    let known = |db: &Db, key: &str| db.get_if_resident(key).unwrap();
    let value = |bytes: &[u8]| IfResident::Resident(Some(Slice::from(bytes)));
    // Of memtables everything is.
    assert_eq!(known(&db, "large"), value(&large));
    for key in ["deleted", "none"] {
        assert_eq!(known(&db, key), IfResident::Resident(None));
    }
    db.put("small", "new").unwrap();
    db.close().unwrap();
    drop(db);

    let db = Db::open(directory.path()).unwrap();
    for key in ["small", "large", "medium"] {
        assert_eq!(known(&db, key), IfResident::WouldWait, "the table is not open");
    }
    assert_eq!(known(&db, "zebra"), IfResident::Resident(None), "that is not in the range of any table");
    assert_eq!(db.get("large").unwrap().as_deref(), Some(&*large));
    assert_eq!(known(&db, "small"), value(b"new"));
    assert_eq!(known(&db, "medium"), IfResident::Resident(None));
    assert_eq!(known(&db, "large"), IfResident::WouldWait, "it is large");
    assert_eq!(known(&db, "small").resident().flatten().as_deref(), Some(&b"new"[..]));
    assert_eq!(known(&db, "large").resident(), None);
}

/// How late each beat of a heart was that should beat every millisecond, until `is_over`.
async fn heartbeat(is_over: Arc<AtomicBool>) -> Vec<Duration> {
    let mut late = Vec::new();
    let mut due = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        due += Duration::from_millis(1);
        tokio::time::sleep_until(due.into()).await;
        late.push(due.elapsed());
    }
    late
}

/// That of the beat which one in a thousand is later than.
fn p999(late: &mut [Duration]) -> Duration {
    late.sort_unstable();
    late[late.len() - 1 - late.len() / 1000]
}

/// Runs something on a runtime of one thread with a heart, and beside it a runtime with nothing but a heart. The lateness
/// of both.
fn lateness<F: Future<Output = ()> + 'static>(work: impl FnOnce() -> F) -> (Duration, Duration) {
    let timed = || Builder::new_current_thread().enable_time().build().unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let beside = {
        let is_over = is_over.clone();
        std::thread::spawn(move || timed().block_on(heartbeat(is_over)))
    };
    let mut late = timed().block_on(async {
        let heart = tokio::spawn(heartbeat(is_over.clone()));
        yield_now().await;
        work().await;
        is_over.store(true, Ordering::Relaxed);
        heart.await.unwrap()
    });
    (p999(&mut late), p999(&mut beside.join().unwrap()))
}

/// One thread, thousands of gets at once of tables whose every read takes milliseconds: a task that wakes each
/// millisecond is as late as one beside which nothing happens. Gets that block make it late by all of them.
#[test]
fn a_heart_beats_on_beside_thousands_of_slow_gets() {
    const READ_TIME: Duration = Duration::from_millis(2);
    const GETS: u64 = 8_000;
    let (watch, options) = watched();
    let db = options.open("/db").unwrap();
    for number in 0..GETS {
        db.put_with(key(number), value(number), Durability::Buffered).unwrap();
    }
    db.settle().unwrap();
    db.get(key(0)).unwrap();
    *watch.read_time.lock().unwrap() = READ_TIME;

    let blocking = db.clone();
    let (late, _) = lateness(|| async move {
        for number in 0..50 {
            assert!(blocking.get(key(number)).unwrap().is_some());
        }
        yield_now().await;
    });
    assert!(late >= 50 * READ_TIME / 2, "blocking gets make a heart late: {late:?}");

    // A machine that is busy may make one of the two hearts late and not the other: not each time.
    let mut attempts = Vec::new();
    for _ in 0..10 {
        let (db, before) = (AsyncDb::from(db.clone()), watch.reads.load(Ordering::SeqCst));
        let (late, beside) = lateness(|| async move {
            let mut gets = JoinSet::new();
            for number in 0..GETS {
                let db = db.clone();
                gets.spawn(async move { assert!(db.get(key(number)).await.unwrap().is_some()) });
                // To make thousands of tasks takes milliseconds too.
                if number % 64 == 0 {
                    yield_now().await;
                }
            }
            while let Some(got) = gets.join_next().await {
                got.unwrap();
            }
        });
        let reads = watch.reads.load(Ordering::SeqCst) - before;
        assert!(reads >= GETS as usize / 10 * 9, "all but those of small tables have read: {reads}");
        attempts.push((late, beside));
        if late <= beside + Duration::from_millis(2) {
            covered("heartbeat", format!("{GETS} gets, p99.9 {late:?}, beside them {beside:?}"));
            return;
        }
    }
    panic!("late, and beside: {attempts:?}");
}
