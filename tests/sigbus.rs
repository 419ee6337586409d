//! Goal: with the guard on, a page under a mapping that cannot be read is an error of the one read, never the end of the
//! process, and never a wrong answer; and what can still be read is read.
//!
//! Method: another thread cuts tables, against the contract, at any moment of reads of every kind, sometimes in the
//! middle of a page and sometimes making them longer again; a database whose table is cut and put right again; and one on
//! a device that ends in the middle of a table, which needs root and loop devices. What the signal handler owes to other
//! mappings and other handlers is tested beside it, in `io/src/sigbus/tests.rs`.

#![cfg(target_os = "linux")]

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use terrace::{Db, Durability, Error, IfResident, Options, PointReads, sigbus};
use terrace_io::OsFileSystem;
use terrace_sstable::{
    BlockCache, Cause, Compression, Cursor, Kind, ReadPath, SEQUENCE_MAX, ScanMode, Table, TableContext,
    TableIdentity, TableMeta, TableOptions, TableWriter, table_file_name,
};
use terrace_tests::loop_mount::LoopMount;
use terrace_tests::tally::Tally;
use terrace_tests::workload::noise;
use terrace_tests::{covered, seeds, skipped};

/// A table, and how gets of it go.
struct Sample {
    meta: TableMeta,
    bytes: Vec<u8>,
    keys: u64,
    value_len: usize,
    uses_locators: bool,
    /// What is read of it without a mapping.
    offsets: Vec<u64>,
    dividing_keys: Vec<Vec<u8>>,
}

const DIVIDING: usize = 5;

fn key(index: u64) -> Vec<u8> {
    format!("{:08}", 2 * index).into_bytes()
}

/// Between two keys that are there.
fn absent(index: u64) -> Vec<u8> {
    format!("{:08}", 2 * index + 1).into_bytes()
}

fn value(index: u64, len: usize) -> Vec<u8> {
    // Never zeros, which is what is seen of pages that are gone. Snappy makes less of them.
    noise(index, 20).into_iter().map(|byte| byte | 1).cycle().take(len).collect()
}

impl Sample {
    fn new(
        number: u64,
        keys: u64,
        value_len: usize,
        compression: Compression,
        uses_locators: bool,
    ) -> Sample {
        let home = tempfile::tempdir().unwrap();
        let fs: Arc<dyn terrace_io::FileSystem> = Arc::new(OsFileSystem);
        let identity = TableIdentity {
            database_id: [7; 16],
            keyspace_id: 0,
            keyspace_name: "default".into(),
            number,
            level: 0,
            cause: Cause::Flush,
        };
        let options = TableOptions { compression, ..TableOptions::default() };
        let mut writer = TableWriter::create(&fs, home.path(), identity, &options).unwrap();
        for index in 0..keys {
            writer.add(&key(index), index + 1, Kind::Put, &value(index, value_len)).unwrap();
        }
        let meta = writer.finish().unwrap();
        let bytes = fs::read(home.path().join(table_file_name(number))).unwrap();
        let context = TableContext { heap_table_bytes: u64::MAX, ..TableContext::new(fs, home.path()) };
        let table = Table::new(Arc::new(context), meta.clone());
        let offsets = (0..keys).map(|index| table.approximate_offset(&key(index)).unwrap()).collect();
        let dividing_keys = table.dividing_keys(DIVIDING).unwrap();
        assert_eq!(table.read_path(), Some(ReadPath::Heap));
        Sample { meta, bytes, keys, value_len, uses_locators, offsets, dividing_keys }
    }

    fn open(&self, dir: &Path) -> (Arc<Table>, Arc<TableContext>) {
        let context = TableContext::new(Arc::new(OsFileSystem), dir);
        context.point_reads.set(PointReads::Mmap);
        context.uses_locators.store(self.uses_locators, Ordering::Relaxed);
        // With a cache: what was lost must not stay in it.
        let cache = Some(Arc::new(BlockCache::new(1 << 20)));
        let context = Arc::new(TableContext { heap_table_bytes: 0, cache, ..context });
        (Table::new(Arc::clone(&context), self.meta.clone()), context)
    }

    /// Reads in one of the ways that there are. What is not an error is right.
    fn read(&self, table: &Arc<Table>, random: &mut Xoshiro256PlusPlus, tally: &Tally) {
        let index = random.random_range(0..self.keys);
        let right = |index| value(index, self.value_len);
        let (what, error) = match random.random_range(0..11) {
            0..4 => {
                let found = table.get(&key(index), SEQUENCE_MAX);
                if let Ok(found) = &found {
                    let found =
                        found.as_ref().expect("a key that is there is found, or an error says why not");
                    assert!(found.value() == right(index), "the value of {index}");
                    assert_eq!((found.kind(), found.sequence()), (Kind::Put, index + 1));
                }
                ("get", found.err())
            }
            4 => {
                let found = table.get(&absent(index), SEQUENCE_MAX);
                assert!(matches!(found, Ok(None) | Err(_)), "a key that is not there");
                ("get of nothing", found.err())
            }
            5 => {
                let offset = table.approximate_offset(&key(index));
                if let Ok(offset) = offset {
                    assert_eq!(offset, self.offsets[index as usize], "the offset of {index}");
                }
                ("approximate_offset", offset.err())
            }
            6 => {
                let keys = table.dividing_keys(DIVIDING);
                if let Ok(keys) = &keys {
                    assert_eq!(*keys, self.dividing_keys);
                }
                ("dividing_keys", keys.err())
            }
            7 => {
                table.prefetch_location(&key(index));
                table.prefetch_entry(&key(index));
                ("prefetch", None)
            }
            8 => {
                let found = table.get_resident(&key(index), SEQUENCE_MAX);
                if let Ok(found) = &found {
                    let found = found.as_ref().expect("a key that is there is found");
                    assert!(found.value() == right(index), "the value of {index}");
                }
                ("get that does not wait", found.err())
            }
            way => {
                let mode = [ScanMode::Auto, ScanMode::Mapping][way as usize - 9];
                ("scan", self.scan(table, mode, index, random.random_range(1..40), random.random()).err())
            }
        };
        tally.add(&format!("{what}{}", if error.is_some() { " refused" } else { "" }), 1);
    }

    /// Goes some steps from a key on. What it was given stays right after it has moved on.
    fn scan(
        &self,
        table: &Arc<Table>,
        mode: ScanMode,
        index: u64,
        steps: u64,
        is_forward: bool,
    ) -> terrace::Result<()> {
        let mut cursor = table.cursor(mode);
        cursor.seek(&key(index), SEQUENCE_MAX)?;
        let mut kept = Vec::new();
        let mut at = index;
        for _ in 0..steps {
            let expected = value(at, self.value_len);
            assert!(cursor.valid() && cursor.key() == key(at), "the cursor stands on {at}");
            assert!(cursor.value() == expected, "the value of {at}");
            kept.push((cursor.value_slice(), expected));
            if at == if is_forward { self.keys - 1 } else { 0 } {
                break;
            }
            if is_forward {
                cursor.next()?
            } else {
                cursor.prev()?
            };
            at = if is_forward { at + 1 } else { at - 1 };
        }
        assert!(kept.iter().all(|(slice, expected)| slice[..] == expected[..]), "what was given stays");
        Ok(())
    }
}

/// What is done to a file, against the contract.
#[derive(Debug, Clone, Copy)]
enum Blow {
    /// Cut at a page, or anywhere.
    Cut(u64),
    /// Cut, and made as long again.
    CutAndExtended(u64),
}

impl Blow {
    fn draw(len: u64, random: &mut Xoshiro256PlusPlus) -> Blow {
        let at = match random.random_range(0..4) {
            0 => 0,
            1 => len - random.random_range(1..=100),
            _ => random.random_range(0..len),
        };
        let at = if random.random() { at / 4096 * 4096 } else { at };
        if random.random_range(0..3) == 0 { Blow::CutAndExtended(at) } else { Blow::Cut(at) }
    }

    fn strike(self, file: &File, len: u64) {
        match self {
            Blow::Cut(at) => file.set_len(at).unwrap(),
            Blow::CutAndExtended(at) => {
                file.set_len(at).unwrap();
                file.set_len(len).unwrap();
            }
        }
    }
}

/// One thread reads, the other cuts the file that it reads. No answer is wrong, before or after, and nobody dies.
#[test]
fn a_file_that_is_cut_while_it_is_read_gives_errors_and_no_wrong_answers() {
    const TEST: &str = "a_file_that_is_cut_while_it_is_read_gives_errors_and_no_wrong_answers";
    sigbus::install().unwrap();
    let samples = [
        Sample::new(1, 600, 100, Compression::None, true),
        Sample::new(2, 600, 100, Compression::None, false),
        Sample::new(3, 600, 100, Compression::Snappy, true),
        Sample::new(4, 12, 9000, Compression::None, true),
    ];
    let home = tempfile::tempdir().unwrap();
    let tally = Tally::default();
    let mut raced = 0;
    let barrier = Barrier::new(2);
    let (turn, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let next = std::sync::Mutex::new(None::<(PathBuf, Blow, u64, u32)>);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                barrier.wait();
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let (path, blow, len, delay) = next.lock().unwrap().take().unwrap();
                let file = OpenOptions::new().write(true).open(path).unwrap();
                for _ in 0..delay {
                    std::hint::spin_loop();
                }
                blow.strike(&file, len);
                turn.fetch_add(1, Ordering::SeqCst);
            }
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for seed in seeds(20_000) {
                let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
                let sample = &samples[random.random_range(0..samples.len())];
                let path = home.path().join(table_file_name(sample.meta.number));
                // A new file each time: the old one may still be mapped.
                let _ = fs::remove_file(&path);
                fs::write(&path, &sample.bytes).unwrap();
                let (table, context) = sample.open(home.path());
                if random.random() {
                    context.pins.set_limit(1 << 20);
                    table.pin_metadata().unwrap();
                }
                // Opening it races too, sometimes, and its first touches.
                for _ in 0..[0, 1, 20][random.random_range(0..3)] {
                    sample.read(&table, &mut random, &Tally::default());
                }
                let len = sample.meta.file_len;
                let blow = Blow::draw(len, &mut random);
                let before = turn.load(Ordering::SeqCst);
                *next.lock().unwrap() = Some((path, blow, len, random.random_range(0..3000)));
                barrier.wait();
                let mut reads = 0;
                while turn.load(Ordering::SeqCst) == before {
                    sample.read(&table, &mut random, &tally);
                    reads += 1;
                }
                raced += reads;
                for _ in 0..5 {
                    sample.read(&table, &mut random, &tally);
                }
                let error = table.get(&key(3), SEQUENCE_MAX).err();
                assert!(error.is_some(), "seed {seed}: {blow:?} of {len} is seen");
                let totals = context.counters.totals();
                assert_eq!(totals.disagreements, 0, "seed {seed}: the page cache is not to blame");
            }
        }));
        stop.store(true, Ordering::SeqCst);
        barrier.wait();
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    let kinds =
        ["get", "get of nothing", "get that does not wait", "approximate_offset", "dividing_keys", "scan"];
    let refused = kinds.map(|kind| format!("{kind} refused"));
    let expected: Vec<&str> = kinds.into_iter().chain(refused.iter().map(String::as_str)).collect();
    if turn.load(Ordering::SeqCst) >= 1000 {
        assert_eq!(tally.missing(&expected), Vec::<&str>::new(), "all of it happens: {tally}");
    }
    covered(TEST, format_args!("{} cuts, {raced} reads under way: {tally}", turn.into_inner()));
}

/// The only table of a database.
fn table_of(dir: &Path) -> PathBuf {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let tables: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect();
    assert_eq!(tables.len(), 1, "{tables:?}");
    tables.into_iter().next().unwrap()
}

const KEYS: u64 = 4000;
const VALUE_BYTES: usize = 1000;

/// A database of one table.
fn filled(dir: &Path) {
    let db = Db::open(dir).unwrap();
    for index in 0..KEYS {
        db.put_with(key(index), noise(index, VALUE_BYTES), Durability::Buffered).unwrap();
    }
    db.flush().unwrap();
    db.settle().unwrap();
    db.close().unwrap();
}

fn assert_right(found: terrace::Result<Option<terrace::Slice>>, index: u64) {
    assert!(found.unwrap().as_deref() == Some(&noise(index, VALUE_BYTES)[..]), "{index}");
}

#[test]
fn a_table_that_was_hit_is_read_by_pread_from_then_on() {
    sigbus::install().unwrap();
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("db");
    filled(&dir);
    let db = Options::new().point_reads(PointReads::Mmap).open(&dir).unwrap();
    let (path, kept) = (table_of(&dir), db.get(key(7)).unwrap());
    let kept_resident = db.get_if_resident(key(7)).unwrap().resident().expect("it was just read");
    let mut entries = db.iter().unwrap();
    let first = entries.next().unwrap().unwrap();
    assert_eq!((db.metrics().read_paths.mapped, db.metrics().lost_mappings), (1, 0));
    assert!(db.health().is_ok() && db.metrics().mapped_bytes > 0);

    let bytes = fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 / 2).unwrap();
    assert_eq!(db.get_if_resident(key(7)).unwrap(), IfResident::WouldWait, "the end of the file is gone");
    let error = db.get(key(7)).unwrap_err();
    assert_eq!(db.get_if_resident(key(7)).unwrap(), IfResident::WouldWait, "the mapping is lost");
    assert!(matches!(&error, Error::Corruption { path: of, .. } if *of == path), "{error}");
    let reads =
        [db.get_with(key(8), |_| ()).err(), db.multi_get([key(9)]).err(), db.get_with_stats(key(10)).err()];
    assert!(reads.iter().all(Option::is_some), "{reads:?}");
    assert!(entries.find_map(Result::err).is_some(), "an iterator that has begun");
    let (metrics, health) = (db.metrics(), db.health());
    assert_eq!((metrics.lost_mappings, metrics.read_paths.pread, metrics.mapped_bytes), (1, 1, 0));
    assert_eq!((metrics.page_cache_disagreements, metrics.checksum_failures), (0, 0));
    assert!(!health.is_ok() && health.lost_mappings == [path.clone()], "{health:?}");
    db.put("later", "x").unwrap();
    assert!(db.contains_key("later").unwrap(), "all else goes on");

    // Whoever cut it puts it right again.
    file.write_all_at(&bytes, 0).unwrap();
    for index in 0..KEYS {
        assert_right(db.get(key(index)), index);
        if let IfResident::Resident(found) = db.get_if_resident(key(index)).unwrap() {
            assert_right(Ok(found), index);
        }
    }
    for (index, entry) in (0..KEYS).zip(db.iter().unwrap()) {
        let (found, content) = entry.unwrap();
        assert!(*found == key(index)[..] && *content == noise(index, VALUE_BYTES)[..], "{index}");
    }
    let (_, stats) = db.get_with_stats(key(7)).unwrap();
    assert_eq!(stats.tables[0].path, Some(ReadPath::Pread), "its mapping is not used again");
    assert_eq!(db.metrics().lost_mappings, 1, "it is counted once");
    assert_right(Ok(kept), 7);
    assert_right(Ok(kept_resident), 7);
    assert_eq!(*first.0, key(0)[..]);
    db.close().unwrap();
}

/// The least size of the file system's blocks: a file's bytes lie together so far.
const PIECE_BYTES: usize = 1024;

/// Where a piece of a file begins in an image.
fn find_piece(image: &Path, wanted: &[u8]) -> Option<u64> {
    let mut image = BufReader::with_capacity(1 << 20, File::open(image).unwrap());
    let mut piece = vec![0; wanted.len()];
    let mut at = 0;
    while image.read_exact(&mut piece).is_ok() {
        if piece == wanted {
            return Some(at);
        }
        at += wanted.len() as u64;
    }
    None
}

/// A device that has an end where a table still goes on: a page that was read before is right, one that was not is an
/// error with the system's own number, and the process lives.
#[test]
fn an_error_of_the_device_under_a_mapping_is_an_error() {
    const TEST: &str = "an_error_of_the_device_under_a_mapping_is_an_error";
    sigbus::install().unwrap();
    let home = tempfile::tempdir().unwrap();
    let mount = match LoopMount::new(home.path(), "ext4") {
        Ok(mount) => mount,
        Err(why) => return skipped(TEST, format_args!("a file system on a loop device: {why}")),
    };
    let dir = mount.point.join("db");
    filled(&dir);
    let path = table_of(&dir);
    let bytes = fs::read(&path).unwrap();
    mount.unmount().unwrap();

    // A place in the middle of the data, and where it is on the device.
    let middle = bytes.len() / 2 / PIECE_BYTES * PIECE_BYTES;
    let place = find_piece(&mount.image, &bytes[middle..middle + PIECE_BYTES]).expect("it is in the image");
    mount.mount().unwrap();
    let db = Options::new().point_reads(PointReads::Mmap).open_read_only(&dir).unwrap();
    // The metadata is read before, by whoever: it is behind the data.
    let footer = &bytes[bytes.len() - 64..];
    let data_len = u64::from_le_bytes(footer[8..16].try_into().unwrap());
    let mut metadata = vec![0; bytes.len() - data_len as usize];
    File::open(&path).unwrap().read_exact_at(&mut metadata, data_len).unwrap();
    assert_right(db.get(key(0)), 0);
    assert_eq!((db.metrics().read_paths.mapped, db.metrics().lost_mappings), (1, 0));

    let image = OpenOptions::new().write(true).open(&mount.image).unwrap();
    let image_len = image.metadata().unwrap().len();
    image.set_len(place).unwrap();
    let (mut right, mut refused) = (0, 0);
    for index in 0..KEYS {
        match db.get(key(index)) {
            Ok(found) => {
                assert_right(Ok(found), index);
                right += 1;
            }
            Err(Error::Io { path: of, source, .. }) => {
                assert_eq!((of, source.raw_os_error()), (path.clone(), Some(5)), "{source}");
                refused += 1;
            }
            Err(error) => panic!("{index}: {error}"),
        }
    }
    assert!(right >= KEYS / 4 && refused >= KEYS / 4, "{right} right, {refused} refused");
    assert_eq!((db.metrics().lost_mappings, db.metrics().read_paths.pread), (1, 1));
    assert_eq!(db.health().lost_mappings, [path]);
    drop(db);
    image.set_len(image_len).unwrap();
    covered(TEST, format_args!("{right} gets right, {refused} refused with EIO"));
}
