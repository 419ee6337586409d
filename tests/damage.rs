//! Damaged bytes. Goal: whatever happens to the bytes of a file, an answer is right or an error that names the file and
//! the offset; no key is silently missing or wrong, nothing panics, and an open that is refused changes nothing. The
//! one exception is what no format can tell: damage in the last record of a log, of which nothing says that it was ever
//! synced, may read as its end.
//!
//! Method: files that the engine wrote (a table of 64 KiB with and without compression, a log of 64 KiB and the segment
//! behind it, a manifest of one page) are damaged in every way of a kind: each bit flipped, each length cut, each page
//! or record zeroed, swapped, doubled, taken from elsewhere. Tables are read by themselves, by every path; logs and
//! manifests with the database around them, on a file system in memory.
//!
//! The usual run takes a sample. `TERRACE_TEST_SECONDS=3600 cargo test --release -p terrace-tests --test damage --
//! --nocapture` goes on for at most an hour with each kind of damage, and says how many of its cases it has run.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use terrace::{Compression, Error, FilterKind};
use terrace_io::{CacheUse, FileSystem, MemoryFileSystem};
use terrace_sstable::{BlockCache, Cursor, PointReads, SEQUENCE_MAX, ScanMode, Table, TableContext, verify};
use terrace_tests::covered;
use terrace_tests::exercise::{assert_says_where, damaged_file};
use terrace_tests::forge::table::Parts;
use terrace_tests::model::Model;
use terrace_tests::samples::{self, Entry, Sample, TableSample, dir, path, put_file, used};
use terrace_tests::sweep::Sweep;

/// The seed of the samples: their bytes differ in ids and times, their contents do not.
const SEED: u64 = 2024;

/// A kind of table.
#[derive(Debug)]
struct Shape {
    what: &'static str,
    compression: Compression,
    filter: FilterKind,
    /// Without a locator, gets ask filter and fences.
    locator: bool,
}

const SHAPES: [Shape; 4] = [
    Shape { what: "plain", compression: Compression::None, filter: FilterKind::Blocked, locator: true },
    Shape { what: "Snappy", compression: Compression::Snappy, filter: FilterKind::Bloom, locator: true },
    Shape {
        what: "without a locator",
        compression: Compression::None,
        filter: FilterKind::Blocked,
        locator: false,
    },
    Shape {
        what: "with a Bloom filter",
        compression: Compression::None,
        filter: FilterKind::Bloom,
        locator: false,
    },
];

impl Shape {
    fn make(&self, bytes: usize) -> TableSample {
        samples::table(SEED, bytes, self.compression, (self.filter, 10), self.locator)
    }
}

/// A table of each shape, of at least 64 KiB.
fn tables() -> impl Iterator<Item = (&'static Shape, &'static TableSample)> {
    static TABLES: OnceLock<Vec<TableSample>> = OnceLock::new();
    let make = |shape: &Shape| {
        let mut tables = (30_000..).step_by(2000).map(|bytes| shape.make(bytes));
        tables.find(|table| table.bytes.len() >= 64 << 10).unwrap()
    };
    SHAPES.iter().zip(TABLES.get_or_init(|| SHAPES.iter().map(make).collect()))
}

/// A directory with one table, which is damaged again and again, and every way to read it.
struct TableBench {
    fs: MemoryFileSystem,
    contexts: Vec<Arc<TableContext>>,
}

const MODES: [ScanMode; 3] = [ScanMode::Mapping, ScanMode::Auto, ScanMode::Stream(CacheUse::DropBehind)];

impl TableBench {
    fn new() -> TableBench {
        let fs = MemoryFileSystem::new();
        fs.create_dir_all(dir()).unwrap();
        put_file(&fs, "000001.sst", Vec::new());
        let context = |point_reads: PointReads| {
            let fs: Arc<dyn FileSystem> = Arc::new(fs.clone());
            Arc::new(TableContext {
                point_reads: point_reads.into(),
                heap_table_bytes: 0,
                ..TableContext::new(fs, dir())
            })
        };
        let contexts = vec![context(PointReads::Mmap), context(PointReads::Pread)];
        TableBench { fs, contexts }
    }

    /// Reads a damaged copy of the table in the way that `case` chooses: every version of every key, and two scans.
    /// The errors by which the damage was noticed.
    fn read(&self, sample: &TableSample, bytes: Vec<u8>, case: u64) -> Vec<Error> {
        let len = bytes.len().max(sample.bytes.len());
        self.fs.replace_bytes(&path("000001.sst"), bytes).unwrap();
        let mut context = self.contexts[(case % 2) as usize].clone();
        // Where every get decompresses a block, most have a cache, as the engine has.
        let is_packed = sample.compression == Compression::Snappy;
        if case % 8 == 7 || is_packed && case % 8 > 1 {
            // A new one each time: it knows blocks by the id of their table, which is the same in all copies.
            let cache = Some(Arc::new(BlockCache::new(1 << 20)));
            context = Arc::new(TableContext {
                cache,
                point_reads: context.point_reads.get().into(),
                heap_table_bytes: 0,
                ..TableContext::new(Arc::new(self.fs.clone()), dir())
            });
        }
        let table = Table::new(context, sample.meta.clone());
        let mut noticed = Vec::new();
        let mut notice = |error: Error| {
            assert_says_where(&error, len);
            noticed.push(error);
        };
        let mut newest_of: Option<&Entry> = None;
        for entry in &sample.entries {
            let is_newest = newest_of.is_none_or(|newest| newest.key != entry.key);
            newest_of = Some(entry);
            let snapshot = if is_newest { SEQUENCE_MAX } else { entry.sequence };
            match table.get(&entry.key, snapshot) {
                Ok(Some(found)) => assert!(
                    (found.kind(), found.sequence(), found.value())
                        == (entry.kind, entry.sequence, &entry.value[..]),
                    "a wrong version of {}",
                    entry.key.escape_ascii()
                ),
                Ok(None) => panic!("{} is silently missing", entry.key.escape_ascii()),
                Err(error) => notice(error),
            }
        }
        for absent in [&b"user000000000000x"[..], b"\0", b"zzz"] {
            match table.get(absent, SEQUENCE_MAX) {
                Ok(found) => assert!(found.is_none(), "a key that was never written"),
                Err(error) => notice(error),
            }
        }
        let mode = MODES[(case / 2 % 3) as usize];
        for forward in [true, false] {
            if let Err(error) = scan(&table, mode, forward, &sample.entries) {
                notice(error);
            }
        }
        noticed
    }
}

/// A whole scan: the right entries, up to an error.
fn scan(table: &Arc<Table>, mode: ScanMode, forward: bool, entries: &[Entry]) -> terrace::Result<()> {
    let mut cursor = table.cursor(mode);
    let mut wanted = entries.iter();
    if forward {
        cursor.seek_to_first()?
    } else {
        cursor.seek_to_last()?
    }
    while cursor.valid() {
        let entry = if forward { wanted.next() } else { wanted.next_back() };
        let entry = entry.expect("a scan gives no entry more than there are");
        assert!(
            (cursor.key(), cursor.sequence(), cursor.kind(), cursor.value())
                == (&entry.key[..], entry.sequence, entry.kind, &entry.value[..]),
            "a scan gives a wrong entry at {}",
            entry.key.escape_ascii()
        );
        if forward { cursor.next()? } else { cursor.prev()? }
    }
    assert!(wanted.next().is_none(), "a scan ends too early, without an error");
    Ok(())
}

/// Reads a damaged copy. What no reader comes by (zeros between the regions, metadata of kinds that it has no use for),
/// [`verify`] reports. The errors of the readers.
fn read_or_verify(bench: &TableBench, sample: &TableSample, bytes: Vec<u8>, case: u64) -> Vec<Error> {
    let noticed = bench.read(sample, bytes, case);
    if noticed.is_empty() {
        let report = verify(&bench.fs, &path("000001.sst"));
        assert!(!report.is_ok(), "nobody notices the damage");
    }
    noticed
}

#[test]
fn every_flipped_bit_of_a_table_is_noticed() {
    for (shape, sample) in tables() {
        let bits = 8 * sample.bytes.len() as u64;
        let what = format!("flipped bits of a table ({})", shape.what);
        let extents = Parts::read(&sample.bytes).extents();
        let placed = AtomicU64::new(0);
        let done = Sweep::new(&*what, bits, 14_000).run(TableBench::new, |bench, bit| {
            let mut bytes = sample.bytes.clone();
            let byte = (bit / 8) as usize;
            bytes[byte] ^= 1 << (bit % 8);
            // Which path reads it does not depend on the bit alone.
            let errors = read_or_verify(bench, sample, bytes, bit / 8 + bit % 8);
            // Damage in a block is told with the block's offset; no damage is taken for a newer format.
            let extent = extents.iter().find(|extent| extent.contains(&byte));
            assert!(extent.is_none() || !errors.is_empty(), "no reader comes by a block");
            for error in errors {
                let Error::Corruption { offset, .. } = error else { panic!("a flip at {byte}: {error:?}") };
                if let Some(extent) = extent {
                    assert_eq!(offset, extent.start as u64, "a flip at {byte}, in the block {extent:?}");
                    placed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let placed = placed.into_inner();
        covered(&what, format_args!("{placed} errors named the offset of the block"));
        assert!(done < 100 || placed > done, "{placed} errors of {done} flips named the block");
    }
}

#[test]
fn every_cut_of_a_table_is_noticed() {
    for (shape, sample) in tables() {
        let lens = sample.bytes.len() as u64;
        let what = format!("cut tables ({})", shape.what);
        Sweep::new(what, lens, 7_000).run(TableBench::new, |bench, len| {
            let bytes = sample.bytes[..len as usize].to_vec();
            assert!(!bench.read(sample, bytes, len).is_empty(), "a table of {len} bytes");
            let error = Table::open_file(bench.contexts[(len % 2) as usize].clone(), &path("000001.sst"));
            assert_says_where(&error.expect_err("a cut table opens"), len as usize);
        });
    }
}

/// What can happen to pieces of a file.
#[derive(Debug, Clone)]
enum Damage {
    Zeroed(Range<usize>),
    /// The second is what the first is.
    Doubled(Range<usize>, Range<usize>),
    Swapped(Range<usize>, Range<usize>),
    /// Taken from another file, whose number is first.
    Foreign(usize, Range<usize>),
}

impl Damage {
    /// All that can happen to some pieces of a file, where there are so many others to take pieces from.
    fn all(pieces: &[Range<usize>], others: usize) -> Vec<Damage> {
        let mut all: Vec<Damage> = pieces.iter().cloned().map(Damage::Zeroed).collect();
        for other in 0..others {
            all.extend(pieces.iter().map(|piece| Damage::Foreign(other, piece.clone())));
        }
        for (index, one) in pieces.iter().enumerate() {
            for two in &pieces[index + 1..] {
                all.push(Damage::Doubled(one.clone(), two.clone()));
                all.push(Damage::Doubled(two.clone(), one.clone()));
                all.push(Damage::Swapped(one.clone(), two.clone()));
            }
        }
        all
    }

    fn apply(&self, bytes: &mut [u8], others: &[Vec<u8>]) {
        match self.clone() {
            Damage::Zeroed(piece) => bytes[piece].fill(0),
            Damage::Doubled(from, to) => {
                let len = from.len().min(to.len());
                bytes.copy_within(from.start..from.start + len, to.start);
            }
            Damage::Swapped(one, two) => {
                let (a, b) = (bytes[one.clone()].to_vec(), bytes[two.clone()].to_vec());
                let len = a.len().min(b.len());
                bytes[one.start..one.start + len].copy_from_slice(&b[..len]);
                bytes[two.start..two.start + len].copy_from_slice(&a[..len]);
            }
            Damage::Foreign(other, piece) => {
                let other = &others[other];
                let end = piece.end.min(other.len());
                if piece.start < end {
                    bytes[piece.start..end].copy_from_slice(&other[piece.start..end]);
                }
            }
        }
    }
}

/// Pages and sectors of a file.
fn pieces(len: usize) -> Vec<Range<usize>> {
    let of = |bytes: usize| (0..len).step_by(bytes).map(move |start| start..len.min(start + bytes));
    of(4096).chain(of(512)).collect()
}

#[test]
fn pieces_of_a_table_in_the_wrong_place_are_noticed() {
    for (shape, sample) in tables() {
        // Much the same entries, in a table of another id: an older file of this name, as far as a disk knows.
        let twin = shape.make(sample.bytes.len() / 2).bytes;
        let mut pieces = pieces(sample.bytes.len());
        pieces.extend(Parts::read(&sample.bytes).extents());
        let damages = Damage::all(&pieces, 1);
        let what = format!("pieces of a table in the wrong place ({})", shape.what);
        Sweep::new(what, damages.len() as u64, 6_000).run(TableBench::new, |bench, case| {
            let damage = &damages[case as usize];
            let mut bytes = sample.bytes.clone();
            damage.apply(&mut bytes, std::slice::from_ref(&twin));
            if bytes != sample.bytes {
                read_or_verify(bench, sample, bytes, case);
            }
        });
    }
}

/// The tables of a database of several levels.
#[test]
fn flipped_bits_in_tables_of_a_database_are_errors_of_their_keys() {
    let sample = samples::tables(SEED);
    let names = sample.names(".sst");
    let lens: Vec<u64> = names.iter().map(|name| 8 * sample.bytes(name).len() as u64).collect();
    let noticed = AtomicU64::new(0);
    let done = Sweep::new("flipped bits in the tables of a database", lens.iter().sum(), 300).run(
        || (),
        |(), case| {
            let mut bit = case;
            let index = lens.iter().position(|len| {
                let here = bit < *len;
                bit -= if here { 0 } else { *len };
                here
            });
            let name = &names[index.unwrap()];
            let outcome = damaged_file(&sample.copy(), name, &[sample.newest()], |bytes| {
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            });
            assert!(
                outcome.refused.is_none(),
                "{name}: tables do not keep a database from opening: {outcome:?}"
            );
            if !outcome.is_whole() {
                noticed.fetch_add(1, Ordering::Relaxed);
                let is_other = |error: &Error| error.path() != Some(&*path(name));
                assert!(!outcome.errors.iter().any(is_other), "{name}: {outcome:?}");
            }
        },
    );
    // Filters of tables that nobody asks, and zeros between the regions, go unnoticed.
    let noticed = noticed.into_inner();
    assert!(done < 100 || noticed * 10 > done * 8, "{noticed} of {done} flips were noticed");
}

/// A log, and where its records stand in each segment.
struct LogBench {
    sample: Sample,
    segments: Vec<Segment>,
}

struct Segment {
    name: String,
    bytes: Vec<u8>,
    records: Vec<Range<usize>>,
    /// How many records there are in the segments before it.
    before: usize,
}

impl LogBench {
    fn new() -> LogBench {
        let sample = samples::log(SEED);
        let mut before = 0;
        let mut segments = Vec::new();
        for name in sample.names(".log") {
            let bytes = sample.bytes(&name);
            let records = samples::records(&bytes, &name);
            let count = records.len();
            segments.push(Segment { name, bytes, records, before });
            before += count;
        }
        assert_eq!(before + 1, sample.history.len(), "a record for each change");
        assert_eq!(segments[0].bytes.len(), 64 << 10);
        assert!(
            segments[0].records.len() > 100 && segments[1].records.len() >= 6,
            "two segments have records"
        );
        LogBench { sample, segments }
    }

    /// The states in which a database may be whose segment was damaged so: the newest; or the one that ends before a
    /// damaged record, if the headers of all behind it are damaged too, so that none is left to say that the record was
    /// synced. (Each header says so of the record before.)
    fn states(&self, segment: usize, touches: impl Fn(&Range<usize>) -> bool) -> Vec<&Model> {
        let mut states = vec![self.sample.newest()];
        for (index, Segment { records, before, .. }) in self.segments.iter().enumerate().rev() {
            for (number, record) in records.iter().enumerate().rev() {
                if index == segment && touches(record) {
                    states.push(&self.sample.history[before + number]);
                }
                if index != segment || !touches(&(record.start..record.start + 24)) {
                    return states;
                }
            }
        }
        states
    }

    /// Puts a damaged segment in its place and opens the database. The error by which that was refused.
    fn damage(&self, segment: usize, damaged: Vec<u8>) -> Option<Error> {
        let Segment { name, bytes, records, .. } = &self.segments[segment];
        // Of a file that is cut the length tells; its records need not.
        let touches = |range: &Range<usize>| {
            damaged.len() == bytes.len() && damaged[range.clone()] != bytes[range.clone()]
        };
        let states = self.states(segment, touches);
        let is_first = records.first().is_some_and(touches);
        let outcome = damaged_file(&self.sample.copy(), name, &states, |bytes| bytes.clone_from(&damaged));
        assert!(outcome.errors.is_empty(), "{name}: {outcome:?}");
        // If it is the first record of a segment, the log ends in the one before.
        let before = segment.checked_sub(1).filter(|_| is_first).map(|before| &self.segments[before].name);
        let is_blamed = outcome.blames(name) || before.is_some_and(|before| outcome.blames(before));
        assert!(outcome.is_whole() || is_blamed, "{name}: {outcome:?}");
        outcome.refused
    }

    /// File and offset of the place where a log ends whose record is damaged: where the record before it ends.
    fn end_before(&self, segment: usize, record: usize) -> (&str, usize) {
        let Segment { name, records, .. } = &self.segments[segment];
        match segment.checked_sub(1).filter(|_| record == 0) {
            Some(before) => {
                let Segment { name, records, .. } = &self.segments[before];
                (name, records.last().expect("every segment has records").end)
            }
            None => (name, records[record].start),
        }
    }

    /// A segment and a place in what is used of it.
    fn place(&self, mut at: u64, unit: u64) -> (usize, u64) {
        for (index, Segment { bytes, .. }) in self.segments.iter().enumerate() {
            let here = unit * used_pages(bytes) as u64;
            if at < here {
                return (index, at);
            }
            at -= here;
        }
        unreachable!("the number of places was taken from the segments")
    }

    fn places(&self, unit: u64) -> u64 {
        self.segments.iter().map(|segment| unit * used_pages(&segment.bytes) as u64).sum()
    }
}

/// What is used of a file, in whole pages.
fn used_pages(bytes: &[u8]) -> usize {
    used(bytes).next_multiple_of(4096).min(bytes.len())
}

#[test]
fn every_flipped_bit_of_a_log_is_right_or_an_error() {
    let bench = LogBench::new();
    let refused = AtomicU64::new(0);
    let sweep = Sweep::new("flipped bits of a log", bench.places(8), 5_000);
    let done = sweep.run(
        || (),
        |(), case| {
            let (segment, bit) = bench.place(case, 8);
            let byte = (bit / 8) as usize;
            let mut damaged = bench.segments[segment].bytes.clone();
            damaged[byte] ^= 1 << (bit % 8);
            let error = bench.damage(segment, damaged);
            let is_refused = error.is_some();
            refused.fetch_add(is_refused.into(), Ordering::Relaxed);
            // Before the last record every flip in a header or a payload is damage; padding is not read.
            let Segment { bytes, records, before, .. } = &bench.segments[segment];
            let at = records.iter().position(|record| record.contains(&byte));
            let is_last = at.is_some_and(|at| before + at + 2 == bench.sample.history.len());
            let is_read = at.is_some_and(|at| {
                let start = records[at].start;
                let payload_len = u32::from_le_bytes(bytes[start + 8..start + 12].try_into().unwrap());
                byte < start + 24 + payload_len as usize
            });
            assert_eq!(is_refused, byte < 64 || is_read && !is_last, "byte {byte} of segment {segment}");
            if let (Some(error), Some(at)) = (error, at) {
                let (name, end) = bench.end_before(segment, at);
                let is_there = matches!(&error, Error::Corruption { path: file, offset, .. }
                    if *file == path(name) && *offset == end as u64);
                assert!(
                    is_there,
                    "byte {byte} of segment {segment} is no damage at {end} of {name}: {error:?}"
                );
            }
        },
    );
    let refused = refused.into_inner();
    assert!(done < 100 || refused * 10 > done * 7, "{refused} of {done} flips were noticed");
}

#[test]
fn every_cut_of_a_log_is_an_error() {
    let bench = LogBench::new();
    Sweep::new("cut logs", bench.places(1), 3_000).run(
        || (),
        |(), case| {
            let (segment, len) = bench.place(case, 1);
            let cut = bench.segments[segment].bytes[..len as usize].to_vec();
            assert!(bench.damage(segment, cut).is_some(), "segment {segment} of {len} bytes");
        },
    );
}

#[test]
fn pieces_of_a_log_in_the_wrong_place_are_right_or_an_error() {
    let bench = LogBench::new();
    // A log of another database, and the log as it was some time ago: half of its records are not there.
    let stranger = LogBench::new();
    let cases: Vec<_> = (0..bench.segments.len())
        .flat_map(|segment| {
            let Segment { bytes, records, .. } = &bench.segments[segment];
            let mut pieces = pieces(used_pages(bytes));
            pieces.extend(records.iter().step_by(7).cloned());
            Damage::all(&pieces, 2).into_iter().map(move |damage| (segment, damage))
        })
        .collect();
    let others: Vec<[Vec<u8>; 2]> = bench
        .segments
        .iter()
        // One log may be spread over more segments than the other.
        .zip(stranger.segments.iter().cycle())
        .map(|(segment, strange)| {
            let mut old = segment.bytes.clone();
            if let Some(half) = segment.records.get(segment.records.len() / 2) {
                old[half.start..].fill(0);
            }
            [strange.bytes.clone(), old]
        })
        .collect();
    Sweep::new("pieces of a log in the wrong place", cases.len() as u64, 3_000).run(
        || (),
        |(), case| {
            let (segment, damage) = &cases[case as usize];
            let mut damaged = bench.segments[*segment].bytes.clone();
            damage.apply(&mut damaged, &others[*segment]);
            bench.damage(*segment, damaged);
        },
    );
}

/// Databases whose manifest has many edits, and one whose has one.
fn manifests() -> [(&'static str, Sample); 2] {
    let open = samples::manifest(SEED, false);
    let records = samples::records(&open.bytes("MANIFEST"), "MANIFEST");
    assert!(records.len() > 10, "the manifest has {} edits", records.len());
    [("of many edits", open), ("of one edit", samples::manifest(SEED, true))]
}

/// Damages the manifest and reads everything. Whether that was noticed.
fn damage_manifest(sample: &Sample, change: impl FnOnce(&mut Vec<u8>)) -> bool {
    !damaged_file(&sample.copy(), "MANIFEST", &[sample.newest()], change).is_whole()
}

#[test]
fn every_flipped_bit_of_a_manifest_is_right_or_an_error() {
    for (what, sample) in manifests() {
        let bits = 8 * used_pages(&sample.bytes("MANIFEST")) as u64;
        let noticed = AtomicU64::new(0);
        let done = Sweep::new(format!("flipped bits of a manifest {what}"), bits, 3_000).run(
            || (),
            |(), bit| {
                let is_noticed =
                    damage_manifest(&sample, |bytes| bytes[(bit / 8) as usize] ^= 1 << (bit % 8));
                noticed.fetch_add(is_noticed.into(), Ordering::Relaxed);
            },
        );
        let noticed = noticed.into_inner();
        let used = 8 * used(&sample.bytes("MANIFEST")) as u64;
        assert!(
            done < 100 || noticed * bits * 10 > done * used * 8,
            "{noticed} of {done} flips were noticed"
        );
    }
}

#[test]
fn every_cut_of_a_manifest_is_right_or_an_error() {
    for (what, sample) in manifests() {
        let lens = sample.bytes("MANIFEST").len() as u64;
        Sweep::new(format!("cut manifests {what}"), lens, 1_500).run(
            || (),
            |(), len| {
                damage_manifest(&sample, |bytes| bytes.truncate(len as usize));
            },
        );
    }
}

#[test]
fn pieces_of_a_manifest_in_the_wrong_place_are_right_or_an_error() {
    for (what, sample) in manifests() {
        let bytes = sample.bytes("MANIFEST");
        let stranger = samples::manifest(SEED, what == "of one edit").bytes("MANIFEST");
        let records = samples::records(&bytes, "MANIFEST");
        let mut pieces = pieces(used_pages(&bytes));
        pieces.extend(records.iter().cloned());
        let damages = Damage::all(&pieces, 1);
        let what = format!("pieces of a manifest {what} in the wrong place");
        Sweep::new(what, damages.len() as u64, 1_500).run(
            || (),
            |(), case| {
                damage_manifest(&sample, |bytes| {
                    damages[case as usize].apply(bytes, std::slice::from_ref(&stranger))
                });
            },
        );
    }
}
