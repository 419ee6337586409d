//! Point reads of a settled, warm database by one thread: keys that are there, keys that are not, and a few keys far
//! more often than the others. Every cache line of a value is looked at.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use terrace_benches::{Key, Records, Settled, criterion, measure, next_key, record_count, touch};

/// Keys of a `multi_get`.
const BATCH: usize = 32;
/// Draws that are made before the measurement, more than the processor's caches remember.
const DRAWS: usize = 1 << 20;

fn get(criterion: &mut Criterion) {
    let settled = Settled::new(Records::new(record_count()));
    let db = &settled.db;
    let mut group = criterion.benchmark_group("get");
    let draws: [(&str, Vec<Key>); 3] = [
        ("hit", settled.records.hits(DRAWS)),
        ("miss", settled.records.misses(DRAWS)),
        ("zipf", settled.records.zipf(DRAWS)),
    ];
    for (name, keys) in &draws {
        let mut keys = keys.iter().cycle();
        measure(&mut group, name, |bencher| {
            bencher.iter(|| {
                let value = db.get(next_key(&mut keys)).expect("the database can be read");
                assert_eq!(value.is_some(), *name != "miss");
                value.as_deref().map(touch)
            });
        });
    }
    let mut keys = draws[0].1.iter().cycle();
    measure(&mut group, "hit_with", |bencher| {
        bencher
            .iter(|| black_box(db.get_with(next_key(&mut keys), touch)).expect("the database can be read"));
    });
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut batches = draws[0].1.chunks_exact(BATCH).cycle();
    measure(&mut group, "multi_get", |bencher| {
        bencher.iter(|| {
            let keys = batches.next().expect("a cycle has no end");
            let values = db.multi_get(keys).expect("the database can be read");
            values
                .iter()
                .map(|value| touch(value.as_deref().expect("a record is there")))
                .fold(0, u8::wrapping_add)
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = criterion();
    get(&mut criterion);
    criterion.final_summary();
}
