//! Point reads against the entries that were written, in every way of reading; what a table owes its manifest and its
//! reclaimer.

use std::path::PathBuf;
use std::sync::Mutex;

use proptest::prelude::*;
use terrace_io::{Advice, FaultFileSystem, FileSystem, OpenMode, OsFileSystem, PAGE_BYTES};

use super::*;
use crate::footer::{KIND_FENCES, KIND_LOCATOR};
use crate::testing::*;
use crate::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn gets_find_what_was_written(
        entries in entries(40),
        bits in prop_oneof![Just(0_u8), Just(10), Just(40)],
        filter in prop::sample::select(vec![FilterKind::Blocked, FilterKind::Bloom]),
        locator in any::<bool>(),
    ) {
        let tables = Tables::new();
        for (number, compression) in COMPRESSIONS.into_iter().enumerate() {
            let options = TableOptions { filter, filter_bits_per_key: bits, locator, ..options(compression) };
            let meta = tables.write(number as u64, &options, &entries);
            let report = tables.verify(number as u64);
            prop_assert!(report.is_ok(), "{:?}", report.damages);
            prop_assert_eq!(report.entries, entries.len() as u64);
            for context in tables.contexts() {
                let table = Table::new(context.clone(), meta.clone());
                check_gets(&table, &entries);
                let reopened = Table::open_file(context, &tables.path(number as u64)).unwrap();
                prop_assert_eq!(reopened.meta(), &meta);
            }
        }
    }
}

#[test]
fn versions_over_many_blocks_are_found_with_few_reads() {
    let mut entries: Vec<Entry> =
        (0..100).map(|i| put("hot", 1000 - 10 * i, vec![i as u8; 30_000])).collect();
    entries.push(put("cold", 5, "x"));
    entries.push(put("z", 5, "x"));
    let entries = in_order(entries);
    let tables = Tables::new();
    let meta = tables.write(1, &options(Compression::None), &entries);
    check_gets(&tables.table(&meta), &entries);

    let context = Arc::new(tables.context());
    let table = Table::new(context.clone(), meta);
    assert_eq!(table.get(b"hot", 505).unwrap().unwrap().sequence(), 500);
    assert!(context.counters.totals().blocks_verified < 12, "{:?}", context.counters.totals());
    assert!(table.get(b"hot", 9).unwrap().is_none());
}

#[test]
fn a_filter_saves_reads_and_is_counted() {
    let entries: Vec<Entry> = (0..10_000).map(|i| put(format!("{:08}", 2 * i), 1, "v")).collect();
    let tables = Tables::new();
    let options = TableOptions { locator: false, ..options(Compression::None) };
    let meta = tables.write(1, &options, &entries);
    let context = Arc::new(tables.context());
    let table = Table::new(context.clone(), meta);
    for i in 0..10_000 {
        let found = table.get(format!("{i:08}").as_bytes(), 1).unwrap();
        assert_eq!(found.is_some(), i % 2 == 0);
    }
    let totals = context.counters.totals();
    assert_eq!(totals.filter_checks, 10_000);
    assert_eq!(totals.filter_negatives + totals.filter_false_positives, 5000);
    assert!(totals.filter_false_positives < 150, "{totals:?}");
    assert_eq!(totals.locator_checks, 0);
}

#[test]
fn the_cache_keeps_what_cannot_be_read_in_place() {
    let entries: Vec<Entry> = (0..1000).map(|i| put(format!("{i:08}"), 1, [7; 100])).collect();
    let tables = Tables::new();
    let meta = tables.write(1, &options(Compression::Snappy), &entries);
    let cache = Arc::new(BlockCache::new(10 << 20));
    let context = Arc::new(TableContext { cache: Some(cache.clone()), ..tables.context() });
    let table = Table::new(context.clone(), meta);
    for _ in 0..2 {
        check_gets(&table, &entries);
    }
    let totals = context.counters.totals();
    let blocks = table.properties().unwrap().data_blocks;
    assert_eq!(totals.cache_misses, blocks);
    assert!(totals.cache_hits > 1000 && cache.used_bytes() > 4000 * blocks);
}

#[test]
fn values_outlive_the_table_handle() {
    let entries: Vec<Entry> = (0..100).map(|i| put(format!("{i:03}"), 1, [i; 300])).collect();
    let tables = Tables::new();
    for (number, compression) in COMPRESSIONS.into_iter().enumerate() {
        let meta = tables.write(number as u64, &options(compression), &entries);
        for context in tables.contexts() {
            let table = Table::new(context, meta.clone());
            let slice = table.get(b"042", 1).unwrap().unwrap().into_slice(&table);
            drop(table);
            assert_eq!(slice, [42; 300]);
        }
    }
}

#[test]
fn offsets_grow_with_keys() {
    let entries: Vec<Entry> = (0..1000).map(|i| put(format!("{i:04}"), 1, [0; 100])).collect();
    let tables = Tables::new();
    let table = tables.table(&tables.write(1, &options(Compression::None), &entries));
    let offsets: Vec<u64> =
        (0..1000).map(|i| table.approximate_offset(format!("{i:04}").as_bytes()).unwrap()).collect();
    assert!(offsets.is_sorted());
    assert_eq!((offsets[0], table.approximate_offset(b"").unwrap()), (0, 0));
    let data_len = layout(&table).unwrap().footer.data_len;
    assert!(offsets[999] >= data_len - 4096 && offsets[500].abs_diff(data_len / 2) < 8192);
    assert_eq!(table.approximate_offset(b"x").unwrap(), data_len);

    // What stands behind the only entry of a long block has all of that before it.
    let entries = [put("long", 1, vec![7; 100_000]), put("z", 1, "v")];
    let table = tables.table(&tables.write(9, &options(Compression::None), &entries));
    let end = layout(&table).unwrap().blocks[1].offset;
    let places = [("a", 0), ("long", 0), ("long ago", end), ("m", end), ("z", end)];
    for (key, place) in places {
        assert_eq!(table.approximate_offset(key.as_bytes()).unwrap(), place, "{key}");
    }
}

#[derive(Debug, Default)]
struct Remember(Mutex<Vec<Option<PathBuf>>>);

impl Reclaim for Remember {
    fn reclaim(&self, remains: TableRemains) {
        self.0.lock().unwrap().push(remains.dispose());
    }
}

#[test]
fn the_last_reference_hands_the_remains_over() {
    let tables = Tables::new();
    let meta = tables.write(1, &options(Compression::None), &[put("a", 1, "b")]);
    let remember = Arc::new(Remember::default());
    let context = Arc::new(TableContext { reclaim: Some(remember.clone()), ..tables.context() });

    drop(Table::new(context.clone(), meta.clone()));
    assert_eq!(remember.0.lock().unwrap().pop(), Some(None));

    let table = Table::new(context, meta);
    let cursor = {
        table.mark_obsolete();
        let mut cursor = table.cursor(ScanMode::Auto);
        cursor.seek_to_first().unwrap();
        cursor
    };
    let slice = cursor.value_slice();
    drop((table, cursor));
    assert!(remember.0.lock().unwrap().is_empty());
    drop(slice);
    assert_eq!(remember.0.lock().unwrap().pop(), Some(Some(tables.path(1))));
}

#[test]
fn a_file_goes_with_the_last_table_that_has_it() {
    let tables = Tables::new();
    let meta = tables.write(1, &options(Compression::None), &[put("a", 1, "b")]);
    let remember = Arc::new(Remember::default());
    let context = Arc::new(TableContext {
        reclaim: Some(remember.clone()),
        point_reads: PointReads::Mmap.into(),
        heap_table_bytes: 0,
        ..tables.context()
    });
    let first = Table::new(context.clone(), meta);
    assert_eq!(first.get(b"a", 1).unwrap().unwrap().value(), b"b");
    let path = first.read_path();
    context.point_reads.set(PointReads::Pread);
    let second = first.again();
    assert_eq!(second.get(b"a", 1).unwrap().unwrap().value(), b"b");
    assert_eq!((first.read_path(), second.read_path()), (path, Some(ReadPath::Pread)));
    // Whichever of them is said to be obsolete, the file is.
    first.mark_obsolete();
    drop(second);
    assert_eq!(remember.0.lock().unwrap().pop(), Some(None));
    assert_eq!(first.get(b"a", 1).unwrap().unwrap().value(), b"b");
    drop(first);
    assert_eq!(remember.0.lock().unwrap().pop(), Some(Some(tables.path(1))));
}

#[test]
fn a_get_tells_its_steps() {
    #[derive(Default)]
    struct Steps(Vec<(ReadStep, Range<u64>)>);
    impl Observer for Steps {
        fn before(&mut self, step: ReadStep, place: impl FnOnce() -> Range<u64>) {
            self.0.push((step, place()));
        }
    }
    let tables = Tables::new();
    let entries: Vec<_> = (0..2000).map(|i| put(format!("key{i:06}"), 1, vec![7; 100])).collect();
    for (has_locator, number) in [(true, 1), (false, 2)] {
        let options = TableOptions { locator: has_locator, ..options(Compression::None) };
        let table = tables.table(&tables.write(number, &options, &entries));
        let layout = layout(&table).unwrap();
        let metadata_kind = |kind| {
            let block = layout.metadata.iter().find(|block| block.kind == kind).unwrap();
            let start = layout.footer.meta_offset() + block.offset;
            start..start + block.len
        };
        let steps_of = |key: &str| {
            let mut steps = Steps::default();
            let found = table.get_within(key.as_bytes(), 1, &mut steps).unwrap().is_some();
            (found, steps.0)
        };
        let (found, steps) = steps_of("key001000");
        assert!(found);
        let kinds: Vec<ReadStep> = steps.iter().map(|(step, _)| *step).collect();
        let block = steps.last().unwrap().1.clone();
        let in_layout =
            layout.blocks.iter().rfind(|info| info.first_key.as_slice() <= b"key001000".as_slice()).unwrap();
        assert_eq!(block, in_layout.offset..in_layout.offset + in_layout.len);
        if has_locator {
            assert_eq!(kinds, [ReadStep::Locator, ReadStep::Block]);
            let (locator, bucket) = (metadata_kind(KIND_LOCATOR), &steps[0].1);
            assert!(
                locator.start < bucket.start && bucket.end <= locator.end && bucket.end - bucket.start == 64
            );
        } else {
            assert_eq!(kinds, [ReadStep::Filter, ReadStep::Fences, ReadStep::Block]);
            assert_eq!(steps[1].1, metadata_kind(KIND_FENCES));
        }
        let missing = (0..50).map(|i| steps_of(&format!("key{i:06}?"))).min_by_key(|(_, steps)| steps.len());
        let (found, steps) = missing.unwrap();
        assert!(!found && steps.len() == 1, "{steps:?}");
    }
}

#[test]
fn a_table_that_cannot_be_opened_is_tried_again() {
    let tables = Tables::new();
    let meta = tables.write(1, &options(Compression::None), &[put("a", 1, "b")]);
    let bytes = tables.bytes(&tables.path(1));
    let table = tables.table(&meta);
    tables.fs.remove_file(&tables.path(1)).unwrap();
    assert!(table.get(b"a", 1).unwrap_err().is_not_found());
    assert!(table.check().unwrap_err().is_not_found());
    tables.memory.open(&tables.path(1), terrace_io::OpenMode::CreateNew).unwrap();
    tables.memory.replace_bytes(&tables.path(1), bytes).unwrap();
    assert_eq!(table.get(b"a", 1).unwrap().unwrap().value(), b"b");
}

#[test]
fn another_table_under_the_name_is_noticed() {
    let tables = Tables::new();
    let meta = tables.write(1, &options(Compression::None), &[put("a", 1, "b")]);
    for wrong in [
        TableMeta { table_id: meta.table_id ^ 1, ..meta.clone() },
        TableMeta { file_len: meta.file_len + 1, ..meta.clone() },
        TableMeta { entries: 2, ..meta.clone() },
        TableMeta { largest_key: Box::from(&b"b"[..]), ..meta.clone() },
    ] {
        assert!(tables.table(&wrong).check().unwrap_err().is_corruption());
    }
    tables.table(&meta).check().unwrap();
}

#[test]
fn what_cannot_be_mapped_is_read_by_pread() {
    use terrace_io::{FaultRule, Operation};
    let tables = Tables::new();
    let entries: Vec<Entry> = (0..1000).map(|i| put(format!("{i:08}"), 1, [7; 100])).collect();
    let meta = tables.write(1, &options(Compression::None), &entries);
    let faults = FaultFileSystem::new(tables.fs.clone());
    faults.add(FaultRule::on(Operation::Map));
    let fs: Arc<dyn FileSystem> = Arc::new(faults.clone());
    let context = Arc::new(TableContext { fs, ..tables.context() });
    let table = Table::new(context, meta);
    check_gets(&table, &entries);
    assert!(faults.injected() > 0);

    // A device error is an error of the get, and passes with it.
    let mut mapped = true;
    faults.add(FaultRule::on(Operation::Read));
    for entry in &entries {
        mapped &= table.get(&entry.0, 1).is_ok();
    }
    assert!(!mapped);
    faults.clear();
    check_gets(&table, &entries);
}

/// A table on a real disk.
fn real_table(dir: &Path, entries: &[Entry]) -> (Arc<dyn FileSystem>, TableMeta) {
    let fs: Arc<dyn FileSystem> = Arc::new(OsFileSystem);
    let mut writer = TableWriter::create(&fs, dir, identity(4), &options(Compression::None)).unwrap();
    for entry in entries {
        writer.add(&entry.0, entry.1, entry.2, &entry.3).unwrap();
    }
    (fs, writer.finish().unwrap())
}

#[test]
fn an_open_and_a_get_read_little_of_the_metadata_and_many_gets_have_all_of_it_read() {
    let dir = tempfile::tempdir().unwrap();
    let entries: Vec<Entry> = (0..200_000).map(|i| put(format!("{i:08}"), 1, [7; 10])).collect();
    let (fs, meta) = real_table(dir.path(), &entries);
    let context = Arc::new(TableContext::new(fs.clone(), dir.path()));
    let path = dir.path().join("000004.sst");
    let resident = |table: &Table| {
        table.check().unwrap();
        table.resident_bytes()
    };
    fs.open(&path, OpenMode::Read).unwrap().advise(Advice::DontNeed, 0, meta.file_len);
    let table = Table::new(context.clone(), meta.clone());
    let metadata = meta.file_len - table.properties().unwrap().data_blocks * PAGE_BYTES as u64;
    match resident(&table) {
        Some(bytes) if bytes < meta.file_len / 2 => {}
        resident => {
            return eprintln!(
                "skipped: {resident:?} bytes of a file stay in memory that should be forgotten"
            );
        }
    }
    table.get(&entries[7].0, 9).unwrap().unwrap();
    let before = resident(&table).unwrap();
    assert!(before < metadata / 4, "{before} bytes are in memory, and {metadata} are metadata");

    let gets = 100;
    for entry in entries.iter().step_by(entries.len() / gets) {
        assert_eq!(table.get(&entry.0, 9).unwrap().unwrap().value(), entry.3);
    }
    // Nobody waits for it.
    let (began, least) = (Instant::now(), metadata + (gets * PAGE_BYTES / 2) as u64);
    while resident(&table).unwrap() < least && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let after = resident(&table).unwrap();
    assert!(
        after >= least,
        "{after} bytes are in memory, {metadata} of metadata and {gets} blocks should be"
    );
}

#[test]
fn a_real_file_is_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let entries: Vec<Entry> = (0..5000).map(|i| put(format!("{i:08}"), 1, [7; 100])).collect();
    let (fs, meta) = real_table(dir.path(), &entries);
    let table = Table::new(Arc::new(TableContext::new(fs.clone(), dir.path())), meta.clone());
    check_gets(&table, &entries);
    assert_eq!(table.mapped_bytes(), meta.file_len);
    assert!(table.heap_bytes() < 20_000);
    assert!(verify(&*fs, table.path()).is_ok());
    for mode in MODES {
        let mut cursor = table.cursor(mode);
        cursor.seek_to_first().unwrap();
        assert_eq!(collect(&mut cursor, true).unwrap(), entries);
        cursor.seek_to_last().unwrap();
        assert!(collect(&mut cursor, false).unwrap().iter().eq(entries.iter().rev()));
    }
}

#[test]
fn tables_and_cursors_may_go_anywhere() {
    fn anywhere<T: Send + 'static>() {}
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Arc<Table>>();
    anywhere::<TableCursor>();
    anywhere::<RunCursor>();
    anywhere::<MergeCursor<Box<dyn Cursor + Send>>>();
}

#[test]
fn many_threads_read_one_table() {
    let entries: Vec<Entry> = (0..5000).map(|i| put(format!("{i:08}"), 1, [i as u8; 100])).collect();
    let tables = Tables::new();
    for (number, compression) in COMPRESSIONS.into_iter().enumerate() {
        let meta = tables.write(number as u64, &options(compression), &entries);
        for context in tables.contexts() {
            let table = Table::new(context, meta.clone());
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (table, entries) = (&table, &entries);
                    scope.spawn(move || {
                        let mut random = Random(thread + 1);
                        for _ in 0..2000 {
                            let entry = &entries[random.below(entries.len())];
                            assert_eq!(table.get(&entry.0, 1).unwrap().unwrap().value(), entry.3);
                        }
                        let mut cursor = table.cursor(MODES[thread as usize]);
                        cursor.seek_to_first().unwrap();
                        assert_eq!(collect(&mut cursor, true).unwrap().len(), entries.len());
                    });
                }
            });
        }
    }
}
