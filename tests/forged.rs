//! Forged bytes. Goal: a file whose checksums are right and whose fields are anything at all never makes a reader
//! panic, loop, or take memory that the length of the file does not justify; what it reads is a value or an error that
//! says where.
//!
//! Method: the forger of `src/forge` changes lengths, counts, offsets, flags, slots, fences, properties, edits and
//! operations of small files that the engine wrote, and puts every checksum right again. Tables and logs are read by
//! themselves in every way there is; batches and edits with a database around them, which is also written to, flushed,
//! compacted, closed and opened again. An allocator that counts measures each case, so cases come one at a time.
//!
//! `TERRACE_TEST_SECONDS` gives each kind of file so many seconds; see `docs/testing.md`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;
use terrace::{Compression, FilterKind};
use terrace_tests::exercise;
use terrace_tests::forge::{log, manifest, table};
use terrace_tests::samples::{self, Files, files, random};
use terrace_tests::sweep::Sweep;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The allocator counts for the whole program, so only one test measures at a time.
static MEASURING: Mutex<()> = Mutex::new(());

/// The most memory that some cases took, beyond what the program had.
#[derive(Default)]
struct Most(AtomicUsize);

impl Most {
    /// Runs a case that may take so many bytes.
    fn measure<R>(&self, bytes_max: usize, case: impl FnOnce() -> R) -> R {
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let outcome = case();
        let peak = MEMORY.peak_usage().saturating_sub(before);
        assert!(peak <= bytes_max, "{peak} bytes of memory were taken, where {bytes_max} should do");
        self.0.fetch_max(peak, Ordering::Relaxed);
        outcome
    }

    fn print(&self, what: &str) {
        println!("{what}: at most {} KiB of memory for a case", self.0.load(Ordering::Relaxed) >> 10);
    }
}

/// What a reader of a file may take: a window or two, and blocks, which Snappy makes up to 22 times as long.
fn justified(len: usize) -> usize {
    (512 << 10) + 50 * len
}

/// What a database of a few small files takes: memtables, log segments, and files in memory, which are kept twice.
const DATABASE_BYTES_MAX: usize = 4 << 20;

#[test]
fn forged_tables_are_read_or_refused() {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    for (compression, usual) in [(Compression::None, 80_000), (Compression::Snappy, 50_000)] {
        let sounds: Vec<_> = [(1, 600), (2, 3000), (3, 9000), (4, 20_000)]
            .into_iter()
            .map(|(seed, bytes)| {
                // Every other one has no locator, so that its filter is asked, one of each kind.
                let locator = seed % 2 == 1;
                let kind = if seed > 2 { FilterKind::Bloom } else { FilterKind::Blocked };
                let filter = (kind, if seed == 1 { 0 } else { 10 });
                let sample = samples::table(seed, bytes, compression, filter, locator);
                let step = sample.entries.len() / 5 + 1;
                let keys: Vec<_> =
                    sample.entries.iter().step_by(step).map(|entry| entry.key.clone()).collect();
                let outcome = exercise::table(&sample.bytes, &keys);
                assert!(outcome.opened && outcome.scanned && outcome.sound);
                (table::Parts::read(&sample.bytes), keys)
            })
            .collect();
        let most = Most::default();
        let counts: [AtomicUsize; 3] = Default::default();
        let what = format!("forged tables ({compression:?})");
        let done = Sweep::endless(&*what, usual).alone().run(
            || (),
            |(), case| {
                let random = &mut random(case);
                let (sound, keys) = &sounds[(case % sounds.len() as u64) as usize];
                let forged = table::forge(random, sound);
                let outcome = most.measure(justified(forged.len()), || exercise::table(&forged, keys));
                for (count, is) in counts.iter().zip([outcome.opened, outcome.scanned, outcome.sound]) {
                    count.fetch_add(is.into(), Ordering::Relaxed);
                }
            },
        );
        most.print(&what);
        let [opened, scanned, sound] = counts.map(AtomicUsize::into_inner);
        println!("{what}: {opened} opened, {scanned} could be scanned, {sound} were sound");
        // A forger whose files are refused at the door, or are as good as new, attacks nothing.
        assert!(done < 1000 || opened as u64 * 4 > done && sound as u64 * 2 < done);
    }
}

#[test]
fn forged_logs_are_read_or_refused() {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let sample = samples::small_log(5);
    let grown = log::Parts::read(&sample.bytes("MANIFEST"));
    let mut segment = log::Parts::read(&sample.bytes(&sample.names(".log")[0]));
    // 64 KiB of zeros would only be slow.
    segment.len = 8 << 10;
    segment.header[32..40].copy_from_slice(&(8_u64 << 10).to_le_bytes());
    let mut second = segment.clone();
    second.header[12..16].copy_from_slice(&2_u32.to_le_bytes());
    for record in &mut second.records {
        record.head[4..8].copy_from_slice(&1_u32.to_le_bytes());
    }
    assert!(exercise::log(&[&segment.write(), &second.write()]) > segment.records.len());
    let (most, good) = (Most::default(), AtomicUsize::new(0));
    Sweep::endless("forged logs", 60_000).alone().run(
        || (),
        |(), case| {
            let random = &mut random(case);
            let forged = match case % 3 {
                0 => vec![log::forge(random, &grown, manifest::change_edit)],
                1 => vec![log::forge(random, &segment, log::change_batch), second.write()],
                _ => vec![segment.write(), log::forge(random, &second, log::change_batch)],
            };
            let forged: Vec<&[u8]> = forged.iter().map(|bytes| &bytes[..]).collect();
            let len = forged.iter().map(|bytes| bytes.len()).sum();
            good.fetch_add(most.measure(justified(len), || exercise::log(&forged)), Ordering::Relaxed);
        },
    );
    most.print("forged logs");
    assert!(good.into_inner() > 0);
}

/// Forges a file of each database in turn. The caller holds [`MEASURING`], under which it has made the databases too.
fn forged_databases(
    what: &str,
    usual: u64,
    sounds: &[Files],
    forge: impl Fn(&mut samples::Random, &mut Files) + Sync,
) {
    assert!(sounds.iter().all(exercise::database), "sound ones open");
    let (most, opened) = (Most::default(), AtomicUsize::new(0));
    let done = Sweep::endless(what, usual).alone().run(
        || (),
        |(), case| {
            let random = &mut random(case);
            let mut forged = sounds[(case % sounds.len() as u64) as usize].clone();
            forge(random, &mut forged);
            let is_open = most.measure(DATABASE_BYTES_MAX, || exercise::database(&forged));
            opened.fetch_add(is_open.into(), Ordering::Relaxed);
        },
    );
    most.print(what);
    let opened = opened.into_inner() as u64;
    println!("{what}: {opened} opened");
    assert!(done < 1000 || opened * 20 > done && opened < done, "{opened} of {done} opened");
}

#[test]
fn forged_batches_are_replayed_or_refused() {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let sounds: Vec<Files> = (0..3).map(|seed| files(&samples::small_log(seed).fs)).collect();
    forged_databases("forged batches", 8_000, &sounds, |random, forged| {
        let name = forged.keys().find(|name| name.ends_with(".log")).expect("there is a log").clone();
        let sound = log::Parts::read(&forged[&name]);
        let mut bytes = log::forge(random, &sound, log::change_batch);
        // A file that is shorter than its header says is refused before anything is read.
        bytes.resize(bytes.len().max(sound.len), 0);
        forged.insert(name, bytes);
    });
}

#[test]
fn forged_manifests_are_read_or_refused() {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut sounds: Vec<Files> = [true, false].map(|closed| files(&samples::manifest(3, closed).fs)).into();
    sounds.push(files(&samples::small_log(7).fs));
    forged_databases("forged manifests", 12_000, &sounds, |random, forged| {
        let sound = log::Parts::read(&forged["MANIFEST"]);
        let bytes = log::forge(random, &sound, manifest::change_edit);
        forged.insert("MANIFEST".to_owned(), bytes);
    });
}
