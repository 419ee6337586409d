//! Tables by themselves. Writing one from entries that are sorted already, down to the sync of its file: what flush and
//! compaction do at best. And the ways to a key: the locator, or either filter and the fences.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use tempfile::TempDir;
use terrace_benches::{
    KEY_BYTES, Key, Records, VALUE_BYTES, criterion, measure, record_count, scratch_directory, touch,
};
use terrace_io::{FileSystem, OsFileSystem};
use terrace_sstable::{
    Cause, Compression, FilterKind, Kind, SEQUENCE_MAX, Table, TableContext, TableIdentity, TableMeta,
    TableOptions, TableWriter, table_file_name,
};

/// How tables are written that are measured.
fn kinds() -> [(&'static str, TableOptions); 4] {
    let usual = TableOptions::default;
    [
        ("uncompressed", usual()),
        ("snappy", TableOptions { compression: Compression::Snappy, ..usual() }),
        ("blocked_filter", TableOptions { locator: false, ..usual() }),
        ("bloom_filter", TableOptions { locator: false, filter: FilterKind::Bloom, ..usual() }),
    ]
}

fn build(criterion: &mut Criterion) {
    let tables = Tables::new();
    let count = tables.keys.len() as u64;
    let mut group = criterion.benchmark_group("table_build");
    let bytes = count * (KEY_BYTES + VALUE_BYTES) as u64;
    group.throughput(Throughput::ElementsAndBytes { elements: count, bytes });
    group.sample_size(10);
    for (name, options) in kinds() {
        measure(&mut group, name, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut total = Duration::ZERO;
                for _ in 0..iterations {
                    let started = Instant::now();
                    tables.write(&options);
                    total += started.elapsed();
                    std::fs::remove_file(tables.path()).expect("the table is there");
                }
                total
            });
        });
    }
    group.finish();
}

fn get(criterion: &mut Criterion) {
    let tables = Tables::new();
    let (records, draws) = (tables.records, tables.keys.len());
    let mut group = criterion.benchmark_group("table_get");
    for (name, options) in kinds() {
        let meta = tables.write(&options);
        let table = Table::new(Arc::new(TableContext::new(tables.fs.clone(), tables.directory.path())), meta);
        for key in &tables.keys {
            assert!(table.get(key, SEQUENCE_MAX).expect("the table can be read").is_some());
        }
        for (what, keys) in [("hit", records.hits(draws)), ("miss", records.misses(draws))] {
            let mut keys = keys.iter().cycle();
            measure(&mut group, &format!("{name}_{what}"), |bencher| {
                bencher.iter(|| {
                    let key = keys.next().expect("a cycle has no end");
                    let found = table.get(key, SEQUENCE_MAX).expect("the table can be read");
                    found.map(|found| touch(found.value()))
                });
            });
        }
        drop(table);
        std::fs::remove_file(tables.path()).expect("the table is there");
    }
    group.finish();
}

/// Sorted keys, and where a table of them is written.
struct Tables {
    records: Records,
    keys: Vec<Key>,
    directory: TempDir,
    fs: Arc<dyn FileSystem>,
}

impl Tables {
    fn new() -> Tables {
        let records = Records::new(record_count() / 4);
        let mut keys: Vec<Key> = (0..records.count).map(|number| records.key(number)).collect();
        keys.sort_unstable();
        let directory = scratch_directory().expect("a directory to work in can be made");
        Tables { records, keys, directory, fs: Arc::new(OsFileSystem) }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(table_file_name(1))
    }

    fn write(&self, options: &TableOptions) -> TableMeta {
        let value = self.records.value(0);
        let identity = TableIdentity {
            database_id: [7; 16],
            keyspace_id: 0,
            keyspace_name: "default".to_owned(),
            number: 1,
            level: 6,
            cause: Cause::Compaction,
        };
        let mut writer = TableWriter::create(&self.fs, self.directory.path(), identity, options)
            .expect("the table can be created");
        for key in &self.keys {
            writer.add(key, 0, Kind::Put, &value).expect("keys ascend");
        }
        writer.finish().expect("the table can be written")
    }
}

fn main() {
    let mut criterion = criterion();
    build(&mut criterion);
    get(&mut criterion);
    criterion.final_summary();
}
