//! Range reads of a settled, warm database by one thread: short ones (a seek and 100 entries), and all of it, by the
//! lending cursor and by the owned iterator, forward and backward. Key and value of every entry are looked at.

use criterion::{Criterion, Throughput};
use terrace::{Cursor, Iter};
use terrace_benches::{Records, Settled, criterion, measure, next_key, record_count, touch, walk};

/// Entries of a short scan.
const SHORT: usize = 100;

fn scan(criterion: &mut Criterion) {
    let settled = Settled::new(Records::new(record_count()));
    let (db, records) = (&settled.db, settled.records);
    let mut group = criterion.benchmark_group("scan");

    group.throughput(Throughput::Elements(SHORT as u64));
    let keys = records.hits(1 << 16);
    let mut starts = keys.iter().cycle();
    let mut cursor = db.cursor().expect("the database is open");
    measure(&mut group, "short_cursor", |bencher| {
        bencher.iter(|| {
            let start = next_key(&mut starts);
            let more = cursor.seek(start).expect("the database can be read");
            walk(&mut cursor, more, SHORT, Cursor::next)
        });
    });
    let mut starts = keys.iter().cycle();
    measure(&mut group, "short_iterator", |bencher| {
        bencher.iter(|| {
            let start = next_key(&mut starts);
            drain(db.range(*start..).expect("the database is open").take(SHORT))
        });
    });

    group.throughput(Throughput::Elements(records.count));
    group.sample_size(10);
    let all = records.count as usize;
    measure(&mut group, "full_cursor", |bencher| {
        bencher.iter(|| {
            let mut cursor = db.cursor().expect("the database is open");
            let more = cursor.seek_to_first().expect("the database can be read");
            let walked = walk(&mut cursor, more, usize::MAX, Cursor::next);
            assert_eq!(walked.0, all);
            walked
        });
    });
    measure(&mut group, "full_iterator", |bencher| {
        bencher.iter(|| {
            let drained = drain(iter(db));
            assert_eq!(drained.0, all);
            drained
        });
    });
    measure(&mut group, "full_reverse_cursor", |bencher| {
        bencher.iter(|| {
            let mut cursor = db.cursor().expect("the database is open");
            let more = cursor.seek_to_last().expect("the database can be read");
            let walked = walk(&mut cursor, more, usize::MAX, Cursor::prev);
            assert_eq!(walked.0, all);
            walked
        });
    });
    measure(&mut group, "full_reverse_iterator", |bencher| {
        bencher.iter(|| {
            let drained = drain(iter(db).rev());
            assert_eq!(drained.0, all);
            drained
        });
    });
    group.finish();
}

fn iter(db: &terrace::Db) -> Iter {
    db.iter().expect("the database is open")
}

fn drain(entries: impl Iterator<Item = terrace::Result<(terrace::Slice, terrace::Slice)>>) -> (usize, u8) {
    entries.fold((0, 0), |(count, seen), entry| {
        let (key, value) = entry.expect("the database can be read");
        (count + 1, seen ^ touch(&key) ^ touch(&value))
    })
}

fn main() {
    let mut criterion = criterion();
    scan(&mut criterion);
    criterion.final_summary();
}
