//! What goes on behind writes, to its end: flushing memtables to tables, and merging tables, once those whose keys lie
//! among each other and once those that follow each other.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use tempfile::TempDir;
use terrace::{Db, Durability, Options};
use terrace_benches::{KEY_BYTES, Records, VALUE_BYTES, criterion, measure, record_count, scratch_directory};

/// Tables that are merged.
const TABLES: u64 = 4;

fn compaction(criterion: &mut Criterion) {
    let records = Records::new(record_count() / 2);
    let mut group = criterion.benchmark_group("compaction");
    group.throughput(Throughput::ElementsAndBytes {
        elements: records.count,
        bytes: records.count * (KEY_BYTES + VALUE_BYTES) as u64,
    });
    group.sample_size(10);
    let random: Vec<u64> = (0..records.count).collect();
    let mut ordered = random.clone();
    ordered.sort_unstable_by_key(|&number| records.key(number));

    measure(&mut group, "flush", |bencher| {
        bencher.iter_custom(|iterations| {
            total(iterations, || {
                let (db, directory) = empty();
                write(&db, records, &random);
                let started = Instant::now();
                db.flush().expect("memtables can be written");
                finish(db, directory, started.elapsed())
            })
        });
    });
    for (name, numbers) in [("merge_interleaved", &random), ("merge_disjoint", &ordered)] {
        measure(&mut group, name, |bencher| {
            bencher.iter_custom(|iterations| {
                total(iterations, || {
                    let (db, directory) = empty();
                    for part in numbers.chunks(records.count.div_ceil(TABLES) as usize) {
                        write(&db, records, part);
                        db.flush().expect("memtables can be written");
                    }
                    let started = Instant::now();
                    db.compact_range::<&[u8]>(..).expect("tables can be merged");
                    finish(db, directory, started.elapsed())
                })
            });
        });
    }
    group.finish();
}

fn total(iterations: u64, mut run: impl FnMut() -> Duration) -> Duration {
    (0..iterations).map(|_| run()).sum()
}

/// A database that flushes and compacts only when it is told to.
fn empty() -> (Db, TempDir) {
    let directory = scratch_directory().expect("a directory to work in can be made");
    let db = Options::new().memtable_bytes(1 << 30).open(directory.path().join("db"));
    (db.expect("the database can be created"), directory)
}

fn write(db: &Db, records: Records, numbers: &[u64]) {
    for &number in numbers {
        let (key, value) = (records.key(number), records.value(number));
        db.put_with(key, value, Durability::Buffered).expect("the database can be written");
    }
}

/// Clears up outside of the time that was taken.
fn finish(db: Db, directory: TempDir, took: Duration) -> Duration {
    db.close().expect("the database can be closed");
    drop(directory);
    took
}

fn main() {
    let mut criterion = criterion();
    compaction(&mut criterion);
    criterion.final_summary();
}
