//! Writes of new records in random order: buffered, synced, and a thousand at a time by one thread, and buffered by two.
//! Flushes and compactions that they cause run beside them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use criterion::{Criterion, Throughput};
use tempfile::TempDir;
use terrace::{Db, Durability, Options, WriteBatch};
use terrace_benches::{Records, criterion, measure, record_count, scratch_directory};

/// Operations of a batch.
const BATCH: u64 = 1000;

fn put(criterion: &mut Criterion) {
    let records = Records::new(record_count());
    let value = records.value(0);
    let mut group = criterion.benchmark_group("put");

    group.throughput(Throughput::Elements(1));
    for (name, durability) in [("buffered", Durability::Buffered), ("sync", Durability::Sync)] {
        let (db, _directory) = empty();
        let mut numbers = 0..;
        measure(&mut group, name, |bencher| {
            bencher.iter(|| {
                let number = numbers.next().expect("the numbers last");
                db.put_with(records.key(number), value, durability).expect("the database can be written");
            });
        });
        db.close().expect("the database can be closed");
    }

    let (db, _directory) = empty();
    let next = AtomicU64::new(0);
    measure(&mut group, "buffered_by_two_threads", |bencher| {
        bencher.iter_custom(|iterations| {
            let numbers = next.fetch_add(iterations, Ordering::Relaxed)..;
            let start = Instant::now();
            std::thread::scope(|scope| {
                for first in [0, 1] {
                    let numbers =
                        numbers.clone().skip(first).step_by(2).take((iterations as usize + 1 - first) / 2);
                    let (db, records) = (&db, &records);
                    scope.spawn(move || {
                        for number in numbers {
                            db.put_with(records.key(number), value, Durability::Buffered)
                                .expect("the database can be written");
                        }
                    });
                }
            });
            start.elapsed()
        });
    });
    db.close().expect("the database can be closed");

    group.throughput(Throughput::Elements(BATCH));
    let (db, _directory) = empty();
    let mut numbers = 0..;
    measure(&mut group, "batch_of_1000", |bencher| {
        bencher.iter(|| {
            let mut batch = WriteBatch::new();
            for number in numbers.by_ref().take(BATCH as usize) {
                batch.put(&db, records.key(number), value);
            }
            db.write_with(batch, Durability::Buffered).expect("the database can be written");
        });
    });
    db.close().expect("the database can be closed");
    group.finish();
}

fn empty() -> (Db, TempDir) {
    let directory = scratch_directory().expect("a directory to work in can be made");
    let db = Options::new().open(directory.path().join("db")).expect("the database can be created");
    (db, directory)
}

fn main() {
    let mut criterion = criterion();
    put(&mut criterion);
    criterion.final_summary();
}
