//! Opening a settled database that was closed: alone, and with the first get, which opens a table; that also with
//! nothing of it in the system's page cache.

use std::time::{Duration, Instant};

use criterion::Criterion;
use terrace::{Db, Options};
use terrace_benches::{Records, Settled, criterion, forget_pages, measure, record_count, touch};

fn open(criterion: &mut Criterion) {
    let settled = Settled::new(Records::new(record_count()));
    settled.db.close().expect("the database can be closed");
    let path = settled.path();
    let mut group = criterion.benchmark_group("open");
    let time = |iterations: u64, first: &dyn Fn(&Db)| {
        let mut total = Duration::ZERO;
        for _ in 0..iterations {
            let started = Instant::now();
            let db = Options::new().open(&path).expect("it opens");
            first(&db);
            total += started.elapsed();
            db.close().expect("it closes");
        }
        total
    };
    measure(&mut group, "settled", |bencher| {
        bencher.iter_custom(|iterations| time(iterations, &|_| {}));
    });
    let key = settled.records.key(7);
    let get = |db: &Db| {
        let found = db.get_with(key, touch).expect("the database can be read");
        assert!(found.is_some());
    };
    measure(&mut group, "settled_and_get", |bencher| {
        bencher.iter_custom(|iterations| time(iterations, &get));
    });
    measure(&mut group, "settled_and_get_cold", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                forget_pages(&path).expect("the files can be synced");
                total += time(1, &get);
            }
            total
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = criterion();
    open(&mut criterion);
    criterion.final_summary();
}
