//! A page cache that is wrong about a file: whatever byte of a table it gets wrong, every read gives what the device
//! has, and what is wrong on the device too is an error.

use terrace_io::{CacheUse, PAGE_BYTES};

use super::*;
use crate::flawed::Flaws;
use crate::testing::*;
use crate::*;

/// Contexts over the wrong cache: mapped, on the heap, by `pread`.
fn contexts(tables: &Tables, flaws: &Arc<Flaws>) -> Vec<Arc<TableContext>> {
    let fs = tables.flawed(flaws);
    let context = || TableContext { heap_table_bytes: 0, ..TableContext::new(Arc::clone(&fs), &tables.dir) };
    vec![
        Arc::new(context()),
        Arc::new(TableContext { heap_table_bytes: u64::MAX, ..context() }),
        Arc::new(TableContext { point_reads: PointReads::Pread.into(), ..context() }),
    ]
}

#[test]
fn what_only_memory_has_wrong_is_served_right() {
    for compression in COMPRESSIONS {
        let mut entries: Vec<Entry> =
            (0..400).map(|i| put(format!("key{i:04}"), 7 + i, vec![(i % 251) as u8; 60])).collect();
        entries.push(put("large", 4, vec![0x5a; 9600]));
        let entries = in_order(entries);
        let (tables, meta, _) = Tables::with(compression, &entries);
        let flaws = Arc::<Flaws>::default();
        let len = meta.file_len as usize;
        // All of the end, and some of the blocks.
        for spoiled in (0..len).filter(|at| at + 200 > len || at % 89 == 0) {
            flaws.spoiled.set(spoiled as u64);
            for context in contexts(&tables, &flaws) {
                let table = Table::new(Arc::clone(&context), meta.clone());
                for entry in entries.iter().step_by(5) {
                    let found = table.get(&entry.0, entry.1).unwrap().unwrap();
                    assert_eq!((found.sequence(), found.value()), (entry.1, &entry.3[..]));
                    assert_eq!(found.into_slice(&table), entry.3);
                }
                for mode in MODES {
                    let mut cursor = table.cursor(mode);
                    cursor.seek_to_first().unwrap();
                    for entry in &entries {
                        assert_eq!(current(&cursor).as_ref(), Some(entry), "byte {spoiled}");
                        cursor.next().unwrap();
                    }
                    assert!(!cursor.valid());
                }
                assert_eq!(context.counters.totals().checksum_failures, 0);
                let report = verify(&*context.fs, &tables.path(1));
                assert!(report.damages.iter().all(|damage| !damage.loses_entries), "{report:?}");
                assert_eq!(report.entries, entries.len() as u64);
            }
        }
        flaws.spoiled.set(100);
        for context in contexts(&tables, &flaws) {
            let table = Table::new(Arc::clone(&context), meta.clone());
            table.get(&entries[0].0, entries[0].1).unwrap();
            assert_eq!(context.counters.totals().disagreements, 1);
        }
    }
}

#[test]
fn what_the_device_has_wrong_is_an_error() {
    let entries: Vec<Entry> = (0..400).map(|i| put(format!("key{i:04}"), 7, vec![3; 60])).collect();
    let (tables, meta, mut bytes) = Tables::with(Compression::None, &entries);
    bytes[5000] ^= 1;
    tables.replace(bytes);
    for context in contexts(&tables, &Arc::default()) {
        let table = Table::new(Arc::clone(&context), meta.clone());
        let mut cursor = table.cursor(ScanMode::Stream(CacheUse::Keep));
        let mut step = cursor.seek_to_first();
        while step.is_ok() && cursor.valid() {
            step = cursor.next();
        }
        let error = step.unwrap_err();
        assert!(matches!(error, Error::Corruption { offset: 4096, .. }), "{error}");
        let totals = context.counters.totals();
        assert_eq!((totals.checksum_failures, totals.disagreements), (1, 0));
    }
}

/// A table with chunks of metadata that hold nothing but buckets of its locator, and so are not read when it is opened.
fn large_table() -> (Tables, TableMeta, Vec<u8>, u64) {
    let entries: Vec<Entry> = (0..20_000).map(|i| put(format!("key{i:05}"), 7, "")).collect();
    let (tables, meta, bytes) = Tables::with(Compression::None, &entries);
    let start = Parts::of(&tables, &meta).footer.meta_offset();
    (tables, meta, bytes, start)
}

/// Where chunk `number` of metadata is in the metadata region.
fn chunk(number: usize) -> Range<usize> {
    number * PAGE_BYTES..(number + 1) * PAGE_BYTES
}

#[test]
fn metadata_that_only_memory_has_wrong_counts_once_whatever_was_found_before() {
    let (tables, meta, good, start) = large_table();
    let mut bytes = good.clone();
    bytes[start as usize + chunk(2).start + 100] ^= 1;
    tables.replace(bytes);
    let flaws = Arc::<Flaws>::default();
    flaws.spoiled.set(start + chunk(3).start as u64 + 100);
    for context in contexts(&tables, &flaws) {
        let table = Table::new(Arc::clone(&context), meta.clone());
        let metadata = &table.storage().unwrap().metadata;
        let before = table.heap_bytes();
        // First what is wrong on the device too: it is read once more, and is no better.
        assert!(metadata.bytes(chunk(2)).is_err());
        assert_eq!(context.counters.totals().disagreements, 0);
        let read = table.heap_bytes() - before;
        assert!(read > 100_000, "what was read of the device is on the heap: {read}");
        for _ in 0..3 {
            assert_eq!(metadata.bytes(chunk(3)).unwrap(), &good[start as usize..][chunk(3)]);
        }
        assert_eq!(context.counters.totals().disagreements, 1);
        assert!(metadata.bytes(chunk(2)).is_err());
    }
}

#[test]
fn a_second_look_at_metadata_that_fails_says_why_and_is_tried_again() {
    let (tables, meta, good, start) = large_table();
    let flaws = Arc::<Flaws>::default();
    for context in contexts(&tables, &flaws) {
        flaws.spoiled.set(start + chunk(3).start as u64 + 100);
        flaws.unreadable.set(u64::MAX);
        let table = Table::new(Arc::clone(&context), meta.clone());
        let metadata = &table.storage().unwrap().metadata;
        flaws.unreadable.set(start + chunk(1).start as u64);
        let error = metadata.bytes(chunk(3)).unwrap_err();
        let offset = start + chunk(3).start as u64;
        assert!(matches!(error, Error::Corruption { offset: at, .. } if at == offset), "{error}");
        assert!(error.to_string().contains("could not be read once more: cannot read"), "{error}");
        flaws.unreadable.set(u64::MAX);
        assert_eq!(metadata.bytes(chunk(3)).unwrap(), &good[start as usize..][chunk(3)]);
    }
}
