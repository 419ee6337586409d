//! Reads while recent writes sit in memtables, by one thread: a quarter of the records were overwritten, and none of
//! that is in a table yet. Every cache line of a value is looked at.

use criterion::{Criterion, Throughput};
use terrace::{Cursor, Durability, Options};
use terrace_benches::{Key, Records, Settled, criterion, measure, next_key, record_count, touch, walk};

/// Draws that are made before the measurement.
const DRAWS: usize = 1 << 20;
/// Entries of a short scan.
const SHORT: usize = 100;
/// More than the overwrites take.
const MEMTABLE_BYTES: u64 = 256 << 20;

fn unflushed(criterion: &mut Criterion) {
    let settled = Settled::new(Records::new(record_count()));
    let records = settled.records;
    settled.db.close().expect("the database can be closed");
    let db = Options::new().memtable_bytes(MEMTABLE_BYTES).open(settled.path()).expect("it opens");
    let overwritten = Records::new(records.count / 4);
    for number in 0..overwritten.count {
        db.put_with(records.key(number), records.value(number), Durability::Buffered).expect("it is written");
    }
    assert_eq!(
        db.metrics().keyspaces[0].table_entries,
        records.count,
        "what was overwritten is in memtables only"
    );

    let mut group = criterion.benchmark_group("unflushed");
    let draws: [(&str, Vec<Key>); 3] = [
        ("get_overwritten", overwritten.hits(DRAWS)),
        ("get_any", records.hits(DRAWS)),
        ("get_missing", records.misses(DRAWS)),
    ];
    for (name, keys) in &draws {
        let mut keys = keys.iter().cycle();
        measure(&mut group, name, |bencher| {
            bencher.iter(|| db.get_with(next_key(&mut keys), touch).expect("the database can be read"));
        });
    }

    let mut cursor = db.cursor().expect("the database is open");
    group.throughput(Throughput::Elements(SHORT as u64));
    let mut starts = draws[1].1.iter().cycle();
    measure(&mut group, "scan_short", |bencher| {
        bencher.iter(|| {
            let more = cursor.seek(next_key(&mut starts)).expect("the database can be read");
            walk(&mut cursor, more, SHORT, Cursor::next)
        });
    });
    group.throughput(Throughput::Elements(records.count));
    group.sample_size(10);
    measure(&mut group, "scan_full", |bencher| {
        bencher.iter(|| {
            let more = cursor.seek_to_first().expect("the database can be read");
            let walked = walk(&mut cursor, more, usize::MAX, Cursor::next);
            assert_eq!(walked.0, records.count as usize);
            walked
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = criterion();
    unflushed(&mut criterion);
    criterion.final_summary();
}
