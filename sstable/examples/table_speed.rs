//! How fast one table is: writes a table of 16-byte keys and 100-byte values to a temporary directory, then times
//! gets and scans of it, warm, on one thread.
//!
//! `cargo run --release -p terrace-sstable --example table_speed [MiB [guarded]]`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use terrace_io::{CacheUse, FileSystem, OsFileSystem, Result};
use terrace_sstable::*;

/// Gets in a round.
const GETS: usize = 4000;

fn main() -> Result<()> {
    let mib: usize = std::env::args().nth(1).map_or(64, |arg| arg.parse().expect("a number of MiB"));
    if std::env::args().nth(2).is_some_and(|arg| arg == "guarded") {
        terrace_io::sigbus::install().expect("the guard");
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let fs: Arc<dyn FileSystem> = Arc::new(OsFileSystem);
    let mut keys: Vec<[u8; 16]> = (1..=mib * (1 << 20) / 127).map(|i| key(i as u64)).collect();
    keys.sort_unstable();

    for (number, compression) in [Compression::None, Compression::Snappy].into_iter().enumerate() {
        let options = TableOptions { compression, ..TableOptions::default() };
        let identity = TableIdentity {
            database_id: [0; 16],
            keyspace_id: 0,
            keyspace_name: "default".into(),
            number: number as u64,
            level: 6,
            cause: Cause::Compaction,
        };
        let start = Instant::now();
        let mut writer = TableWriter::create(&fs, dir.path(), identity, &options)?;
        for key in &keys {
            writer.add(key, 0, Kind::Put, &value(key))?;
        }
        let meta = writer.finish()?;
        let per_entry = meta.file_len as f64 / meta.entries as f64;
        println!("{compression:?}: {} entries, {} bytes, {per_entry:.2} each", meta.entries, meta.file_len);
        println!("  {:16} {:9.1} ns", "write", start.elapsed().as_nanos() as f64 / keys.len() as f64);

        let cache = (compression == Compression::Snappy).then(|| Arc::new(BlockCache::new(1 << 30)));
        let context = TableContext { cache, ..TableContext::new(fs.clone(), dir.path()) };
        let table = Table::new(Arc::new(context), meta);
        let stream = ScanMode::Stream(CacheUse::Keep);
        let scans = [
            ("scan, first", 1, ScanMode::Mapping),
            ("scan, mapping", 10, ScanMode::Mapping),
            ("scan, auto", 10, ScanMode::Auto),
            ("scan, stream", 10, stream),
        ];
        for (name, rounds, mode) in scans {
            best_of(name, rounds, || {
                let mut cursor = table.cursor(mode);
                cursor.seek_to_first()?;
                scan(&mut cursor, true)
            })?;
        }
        best_of("scan, back", 10, || {
            let mut cursor = table.cursor(ScanMode::Mapping);
            cursor.seek_to_last()?;
            scan(&mut cursor, false)
        })?;
        best_of("scan, 4 merged", 3, || {
            let mut cursor = MergeCursor::new((0..4).map(|_| table.cursor(ScanMode::Mapping)).collect());
            cursor.seek_to_first()?;
            scan(&mut cursor, true)
        })?;
        let mut numbers = 0..u64::MAX;
        let mut any_key = || key(1 + random(numbers.next().unwrap_or(0)) % keys.len() as u64);
        best_of("get", 300, || {
            let mut sum = 0_u64;
            for _ in 0..GETS {
                let found = table.get(&any_key(), SEQUENCE_MAX)?.expect("every key is there");
                sum += found.value().chunks(64).map(|line| u64::from(line[0])).sum::<u64>();
            }
            black_box(sum);
            Ok(GETS)
        })?;
        best_of("get, absent", 30, || {
            for i in 0..GETS as u64 {
                black_box(table.get(&key(i + (1 << 40)), SEQUENCE_MAX)?);
            }
            Ok(GETS)
        })?;
        let mut cursor = table.cursor(ScanMode::Auto);
        best_of("seek", 100, || {
            for _ in 0..GETS {
                cursor.seek(&any_key(), SEQUENCE_MAX)?;
                black_box(cursor.value());
            }
            Ok(GETS)
        })?;
    }
    Ok(())
}

/// Goes to the end and looks at every key and value.
fn scan(cursor: &mut impl Cursor, forward: bool) -> Result<usize> {
    let (mut count, mut sum) = (0, 0);
    while cursor.valid() {
        count += 1;
        sum += usize::from(cursor.key()[15]) + cursor.value().len();
        if forward { cursor.next()? } else { cursor.prev()? }
    }
    black_box(sum);
    Ok(count)
}

/// Times something that says how often it did what is timed. The best of many rounds counts: whatever else the
/// machine does only makes one slower.
fn best_of(name: &str, rounds: usize, mut round: impl FnMut() -> Result<usize>) -> Result<()> {
    let mut best = f64::MAX;
    for _ in 0..rounds {
        let start = Instant::now();
        let count = round()?;
        best = best.min(start.elapsed().as_nanos() as f64 / count as f64);
    }
    println!("  {name:16} {best:9.1} ns");
    Ok(())
}

/// Numbers that look random and are all different (the finaliser of SplitMix64).
fn random(i: u64) -> u64 {
    let mut x = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn key(i: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&random(i).to_be_bytes());
    key[8..].copy_from_slice(&i.to_be_bytes());
    key
}

fn value(key: &[u8; 16]) -> [u8; 100] {
    let mut value = [0; 100];
    for (i, byte) in value.iter_mut().enumerate() {
        *byte = key[i % 8].wrapping_add((i / 30) as u8);
    }
    value
}
