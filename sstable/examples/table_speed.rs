//! How fast one table is: writes a table of 16-byte keys and 100-byte values to a temporary directory, then times
//! gets and scans of it, warm, on one thread.
//!
//! `cargo run --release -p terrace-sstable --example table_speed [MiB]`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use terrace_io::{FileSystem, OsFileSystem, Result};
use terrace_sstable::*;

const GETS: usize = 50_000;
const ROUNDS: usize = 30;

fn main() -> Result<()> {
    let mib: usize = std::env::args().nth(1).map_or(64, |arg| arg.parse().expect("a number of MiB"));
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
        report("write", keys.len(), start);

        let cache = (compression == Compression::Snappy).then(|| Arc::new(BlockCache::new(1 << 30)));
        let context = TableContext { cache, ..TableContext::new(fs.clone(), dir.path()) };
        let table = Table::new(Arc::new(context), meta);
        for (name, mode) in [
            ("scan, first", ScanMode::Mapping),
            ("scan, mapping", ScanMode::Mapping),
            ("scan, auto", ScanMode::Auto),
            ("scan, stream", ScanMode::Stream { drop_behind: false }),
        ] {
            let start = Instant::now();
            let mut cursor = table.cursor(mode);
            cursor.seek_to_first()?;
            report(name, scan(&mut cursor, true)?, start);
        }
        let start = Instant::now();
        let mut cursor = table.cursor(ScanMode::Mapping);
        cursor.seek_to_last()?;
        report("scan, back", scan(&mut cursor, false)?, start);
        let start = Instant::now();
        let mut cursor = MergeCursor::new((0..4).map(|_| table.cursor(ScanMode::Mapping)).collect());
        cursor.seek_to_first()?;
        report("scan, 4 merged", scan(&mut cursor, true)?, start);

        // The best of many rounds: what the rest of the machine does only ever makes one slower.
        let mut best = f64::MAX;
        for round in 0..ROUNDS {
            let start = Instant::now();
            let mut sum = 0_u64;
            for i in round * GETS..(round + 1) * GETS {
                let key = &keys[(random(i as u64) % keys.len() as u64) as usize];
                let found = table.get(key, SEQUENCE_MAX)?.expect("every key is there");
                sum += found.value().chunks(64).map(|line| u64::from(line[0])).sum::<u64>();
            }
            black_box(sum);
            best = best.min(start.elapsed().as_nanos() as f64 / GETS as f64);
        }
        println!("  {:16} {best:9.1} ns", "get");
        let start = Instant::now();
        let absent = (0..GETS as u64).filter(|i| {
            let key = key(i + (1 << 40));
            matches!(table.get(&key, SEQUENCE_MAX), Ok(None))
        });
        let absent = absent.count();
        report("get, absent", absent, start);
        let start = Instant::now();
        let mut cursor = table.cursor(ScanMode::Auto);
        for i in 0..GETS as u64 {
            cursor.seek(&keys[(random(i) % keys.len() as u64) as usize], SEQUENCE_MAX)?;
        }
        report("seek", GETS, start);
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

fn report(name: &str, count: usize, start: Instant) {
    println!("  {name:16} {:9.1} ns", start.elapsed().as_nanos() as f64 / count as f64);
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
