//! Writing a table from entries that are sorted already, down to the sync of its file: what flush and compaction do at
//! best.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use terrace_benches::{
    KEY_BYTES, Key, Records, VALUE_BYTES, criterion, measure, record_count, scratch_directory,
};
use terrace_io::{FileSystem, OsFileSystem};
use terrace_sstable::{Cause, Compression, Kind, TableIdentity, TableOptions, TableWriter, table_file_name};

fn table_build(criterion: &mut Criterion) {
    let records = Records::new(record_count() / 4);
    let mut keys: Vec<Key> = (0..records.count).map(|number| records.key(number)).collect();
    keys.sort_unstable();
    let value = records.value(0);
    let directory = scratch_directory().expect("a directory to work in can be made");
    let fs: Arc<dyn FileSystem> = Arc::new(OsFileSystem);

    let mut group = criterion.benchmark_group("table_build");
    group.throughput(Throughput::ElementsAndBytes {
        elements: records.count,
        bytes: records.count * (KEY_BYTES + VALUE_BYTES) as u64,
    });
    group.sample_size(10);
    for (name, compression) in [("uncompressed", Compression::None), ("snappy", Compression::Snappy)] {
        let options = TableOptions { compression, ..TableOptions::default() };
        let mut number = 0;
        measure(&mut group, name, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut total = Duration::ZERO;
                for _ in 0..iterations {
                    number += 1;
                    let started = Instant::now();
                    let mut writer = writer(&fs, directory.path(), number, &options);
                    for key in &keys {
                        writer.add(key, 0, Kind::Put, &value).expect("keys ascend");
                    }
                    writer.finish().expect("the table can be written");
                    total += started.elapsed();
                    let path = directory.path().join(table_file_name(number));
                    std::fs::remove_file(path).expect("the table is there");
                }
                total
            });
        });
    }
    group.finish();
}

fn writer(fs: &Arc<dyn FileSystem>, dir: &Path, number: u64, options: &TableOptions) -> TableWriter {
    let identity = TableIdentity {
        database_id: [7; 16],
        keyspace_id: 0,
        keyspace_name: "default".to_owned(),
        number,
        level: 6,
        cause: Cause::Compaction,
    };
    TableWriter::create(fs, dir, identity, options).expect("the table can be created")
}

fn main() {
    let mut criterion = criterion();
    table_build(&mut criterion);
    criterion.final_summary();
}
